//! Every operation of the crate that makes system calls.
#![allow(unsafe_code, reason = "unshare(2)")]

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{MemfdFlags, OFlags, fcntl_getfl, fcntl_setfl, memfd_create};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::net::RecvFlags;
use rustix::net::sockopt::socket_passcred;
use rustix::pipe::PipeFlags;
use rustix::thread::UnshareFlags;
use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
use sealed_mmap::socket::{
    pass_credentials, recv_fd, recv_fds, recv_fds_with_credentials, send_fds, send_fds_to,
};
use sealed_mmap::{
    CreateOptions, FutureWriteSealed, HugePageSize, HugePages, Producer, ReceiveError, Refusal,
    SealError, SealFailure, SealPolicy, SealedFile, Seals, SizeSealed, Unsealed, add_seals,
    get_seals,
};

use crate::denier;
use crate::support::errno_in;
use crate::support::files::{self, IMMUTABLE, LIVE, filled, reopen, sealed};
use crate::trial::{Failure, Operation, Plan};

type Draft = SealedFile<Unsealed>;
type Live = SealedFile<FutureWriteSealed>;

const SMALL: &[u8] = b"what is to be shared";
const LARGE: &[u8] = &[7; 2 << 20];
/// What a regular file or a stream has: more than one buffer, and less than a pipe holds.
const MIDDLE: &[u8] = &[7; 50_000];
const LIMIT: u64 = 2 << 20;

pub(crate) fn all() -> Vec<Operation> {
    [
        creating(),
        copying(),
        drafts(),
        receiving(),
        reading(),
        live(),
        latest(),
        sockets(),
        seals(),
        shared(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn creating() -> Vec<Operation> {
    let transparent = CreateOptions::new().huge_pages(HugePages::Transparent);
    let hugetlb = CreateOptions::new().huge_pages(HugePages::HugeTlb(Some(HugePageSize::Huge2MB)));
    vec![
        made(always, || SealedFile::create("denied"), drop).named("create"),
        made(always, || CreateOptions::new().executable(true).create("denied"), drop)
            .named("create executable"),
        made(
            always,
            || CreateOptions::new().allow_sealing(false).create("denied"),
            |draft| assert!(draft.get_seals().unwrap().contains(Seals::SEAL)),
        )
        .named("create allow_sealing(false)"),
        made(
            always,
            || CreateOptions::new().mode(0o600).create("denied"),
            |draft| assert_eq!(draft.metadata().unwrap().mode() & 0o777, 0o600),
        )
        .named("create mode"),
        made(
            exec_can_be_left_out,
            || CreateOptions::new().exec_seal(false).create("denied"),
            |draft| assert!(!draft.get_seals().unwrap().contains(Seals::EXEC)),
        )
        .named("create exec_seal(false)"),
        made(hugetlb_exists, move || hugetlb.create("denied"), drop).named("create hugetlb"),
        made(hugetlb_is_free, move || hugetlb.build("denied", LIMIT, fill), holds(LARGE))
            .named("build hugetlb")
            .on_huge_pages(),
        made(always, || SealedFile::from_bytes("denied", SMALL), holds(SMALL))
            .named("from_bytes small"),
        made(always, || SealedFile::from_bytes("denied", LARGE), holds(LARGE))
            .named("from_bytes 2 MiB"),
        made(huge_pages_on_advice, move || transparent.from_bytes("denied", LARGE), holds(LARGE))
            .named("from_bytes 2 MiB transparent"),
        made(always, || SealedFile::build("denied", 4, fill), holds(&[7; 4])).named("build small"),
        made(always, || SealedFile::build("denied", LIMIT, fill), holds(LARGE))
            .named("build 2 MiB"),
        made(huge_pages_on_advice, move || transparent.build("denied", LIMIT, fill), holds(LARGE))
            .named("build 2 MiB transparent"),
    ]
}

fn copying() -> Vec<Operation> {
    let receive_or_copy = |fd: OwnedFd| SealedFile::receive_or_copy(fd, &SealPolicy::new(), LIMIT);
    vec![
        copied(|| files::ordinary_file(MIDDLE), MIDDLE).leaving(look).named("copy_of a file"),
        copied(|| filled(LARGE), LARGE).named("copy_of a file of 2 MiB"),
        Plan::new(
            || Ok(File::open("/proc/version").unwrap()),
            |source| with(source, |source| SealedFile::copy_of("denied", source, LIMIT)),
            |(file, _)| holds(&fs::read("/proc/version").unwrap())(file),
        )
        .named("copy_of a file of procfs"),
        copied(full_pipe, MIDDLE).once().named("copy_of a pipe"),
        copied(full_socket, MIDDLE).once().named("copy_of a stream socket"),
        Plan::new(
            || Ok(LatePipe::new()),
            |late| with(late, |late| SealedFile::copy_of("denied", &late.source, LIMIT)),
            |(file, _)| holds(MIDDLE)(file),
        )
        .once()
        .named("copy_of a non-blocking pipe"),
        taken(|| sealed(SMALL, IMMUTABLE), receive_or_copy).named("receive_or_copy, sealed"),
        taken(|| files::ordinary_file(SMALL), receive_or_copy)
            .named("receive_or_copy, a file of a disk"),
        taken(|| filled(SMALL), receive_or_copy).named("receive_or_copy, not sealed"),
    ]
}

fn drafts() -> Vec<Operation> {
    vec![
        on_draft(|draft| draft.set_len(LIMIT)).named("set_len"),
        on_draft(|draft| draft.map_mut().map(|mut map| map.fill(1))).named("map_mut"),
        on_draft(|draft| draft.write_all(b"more")).bare().named("write"),
        on_draft(|draft| draft.write_at(b"more", 2).map(drop)).bare().named("write_at"),
        on_draft(|draft| draft.read_at(&mut [0; 4], 2).map(drop)).bare().named("read_at"),
        on_draft(|draft| draft.seek(SeekFrom::End(0)).map(drop)).bare().named("seek"),
        on_draft(|draft| draft.len().map(drop)).bare().named("len of a draft"),
        on_draft(|draft| draft.metadata().map(drop)).bare().named("metadata of a draft"),
        on_draft(|draft| draft.get_seals().map(drop)).bare().named("get_seals of a draft"),
        Plan::new(|| Ok(draft()), |draft| draft.seal_read_only().map_err(not_sealed), holds(SMALL))
            .leaving(look_at_draft)
            .named("seal_read_only"),
        converted(draft, |draft| Ok(draft.seal_read_only()?))
            .named("seal_read_only, into io::Error"),
        Plan::new(
            || Ok(CreateOptions::new().allow_sealing(false).create("denied").unwrap()),
            |draft| match draft.seal_read_only() {
                Err(error) if error.reason() == SealFailure::NotAllowed => Ok(()),
                // Why the kernel refuses could not be asked; that it does is the truth.
                Err(error) if errno_in(&error) == Some(Errno::PERM) => Ok(()),
                Err(error) => Err(not_sealed(error)),
                Ok(_) => panic!("its seals are final"),
            },
            drop,
        )
        .leaving(look_at_draft)
        .named("seal_read_only, refused"),
    ]
}

fn receiving() -> Vec<Operation> {
    fn receive(policy: SealPolicy) -> impl Fn(OwnedFd) -> Result<SealedFile, ReceiveError> {
        move |fd| SealedFile::receive_read_only(fd, &policy)
    }
    fn adopt(policy: SealPolicy) -> impl Fn(OwnedFd) -> Result<SealedFile, ReceiveError> {
        move |fd| SealedFile::adopt_read_only(fd, &policy)
    }
    let immutable = || sealed(SMALL, IMMUTABLE);
    let without_growth = || sealed(SMALL, IMMUTABLE | Seals::GROW);
    let reserving = SealPolicy::new().reserve(true);
    let own = SealPolicy::new().owner(rustix::process::geteuid().as_raw());
    vec![
        taken(immutable, receive(SealPolicy::new())).named("receive_read_only"),
        taken(immutable, receive(reserving.clone())).named("receive_read_only, reserve"),
        taken(immutable, receive(own)).named("receive_read_only, owner"),
        taken(without_growth, receive(SealPolicy::untrusted(LIMIT)))
            .named("receive_read_only, untrusted"),
        taken(move || read_only(immutable()), receive(reserving.clone()))
            .named("receive_read_only, reserve through O_RDONLY"),
        Plan::new(
            || sealed_by_exec().map(OwnedFd::from),
            |fd| SealedFile::receive_read_only(fd, &SealPolicy::new()).map_err(refused),
            holds(SMALL),
        )
        .leaving(look)
        .named("receive_read_only, self-test"),
        Plan::new(
            || Ok(OwnedFd::from(filled(SMALL))),
            |fd| match SealedFile::receive_read_only(fd, &SealPolicy::new()) {
                Err(error) if matches!(error.reason(), Refusal::MissingSeals { .. }) => Ok(()),
                Err(error) => Err(refused(error)),
                Ok(_) => panic!("it is not sealed"),
            },
            drop,
        )
        .leaving(look)
        .named("receive_read_only, refused"),
        converted(immutable, move |file| Ok(receive(reserving.clone())(file.into())?))
            .named("receive_read_only, into io::Error"),
        taken(|| filled(SMALL), adopt(SealPolicy::new())).named("adopt_read_only"),
        taken(|| filled(SMALL), adopt(SealPolicy::untrusted(LIMIT)))
            .named("adopt_read_only, untrusted"),
        taken(immutable, adopt(SealPolicy::new())).named("adopt_read_only, sealed already"),
        converted(|| filled(SMALL), |file| Ok(adopt(SealPolicy::new())(file.into())?))
            .named("adopt_read_only, into io::Error"),
        Plan::new(
            || {
                let file = filled(SMALL);
                let map = files::map_writable(&file);
                Ok((OwnedFd::from(file), map))
            },
            |(fd, map)| match SealedFile::adopt_read_only(fd, &SealPolicy::new()) {
                Err(error) if is_mapped(&error) => Ok(()),
                Err(error) => Err(refused(error).with(|fd| (fd, map))),
                Ok(_) => panic!("it is mapped"),
            },
            drop,
        )
        .leaving(|(fd, _)| look(fd))
        .named("adopt_read_only, mapped"),
    ]
}

fn reading() -> Vec<Operation> {
    vec![
        on_file(|file| is_small(&file.map_read_only()?)).named("map_read_only"),
        on_file(|file| {
            assert_eq!(&file.map_range(5..8)?[..], &SMALL[5..8]);
            Ok(())
        })
        .named("map_range"),
        on_file(|file| {
            let mut map = file.map_private()?;
            map[0] ^= 1;
            map[0] ^= 1;
            is_small(&map)
        })
        .named("map_private"),
        Plan::new(
            || {
                let options = CreateOptions::new().executable(true);
                let script = options.from_bytes("denied", "#!/bin/sh\necho done\n");
                script.map_err(|error| format!("no executable file: {error}"))
            },
            |file| with(file, |file| file.command()),
            |(command, _)| assert!(command.get_program().to_str().unwrap().starts_with("/proc/")),
        )
        .leaving(look)
        .named("command"),
        on_file(|file| file.reserve()).named("reserve"),
        Plan::new(
            || Ok(SealedFile::try_from(read_only(sealed(SMALL, IMMUTABLE))).unwrap()),
            |file| with(file, |file| file.reserve()),
            drop,
        )
        .leaving(look)
        .named("reserve through O_RDONLY"),
        on_file(|file| is_small(&file.reopen()?.map_read_only()?)).named("reopen"),
        on_file(|file| is_small(&file.try_clone()?.map_read_only()?)).named("try_clone"),
        on_file(|file| file.metadata().map(drop)).bare().named("metadata"),
        on_file(|file| file.get_seals().map(drop)).bare().named("get_seals"),
        Plan::new(
            || Ok(SealedFile::from_bytes("denied", SMALL).unwrap()),
            |file| with(file, |file| file.read_to_end(&mut Vec::new())),
            |(len, _)| assert_eq!(len, SMALL.len()),
        )
        .once()
        .bare()
        .named("read"),
        Plan::new(
            || Ok(draft().seal_read_only().unwrap()),
            |file| with(file, |file| file.len()),
            |(len, _)| assert_eq!(len, SMALL.len() as u64),
        )
        .bare()
        .named("len"),
        Plan::new(
            || Ok(SealedFile::from_bytes("denied", SMALL).unwrap().map_read_only().unwrap()),
            |map| with(map, |map| map.populate()),
            drop,
        )
        .named("populate"),
    ]
}

fn live() -> Vec<Operation> {
    fn receive(policy: SealPolicy) -> impl Fn(OwnedFd) -> Result<Live, ReceiveError> {
        move |fd| SealedFile::receive_future_write(fd, &policy)
    }
    fn received(fd: impl Into<OwnedFd>) -> Live {
        receive(SealPolicy::new())(fd.into()).unwrap()
    }
    fn map(live: &mut Live) -> io::Result<()> {
        is_small(&live.map_live()?.to_vec(..).unwrap())
    }
    vec![
        made(live_exist, || Producer::create("denied", 4096), drop).named("Producer::create"),
        made(
            live_exist,
            || Producer::build("denied", 4, fill),
            |producer| assert_eq!(producer.file().map_live().unwrap().to_vec(..).unwrap(), [7; 4]),
        )
        .named("Producer::build"),
        made(
            live_exist,
            || CreateOptions::new().final_seals(true).create_producer("denied", 4096),
            |producer| assert!(producer.file().get_seals().unwrap().contains(Seals::SEAL)),
        )
        .named("create_producer final_seals(true)"),
        Plan::new(
            || live_exist().map(|()| Ok(producer())),
            // What comes back has no mapping any more, and is finished as a file.
            |input: Result<Producer, Live>| {
                input.map_or_else(Live::finish, Producer::finish).map_err(|error| {
                    let failure = Failure::new(&error);
                    failure.and(Err(error.into_file()))
                })
            },
            holds(SMALL),
        )
        .leaving(|input| match input {
            Ok(producer) => look_at_contents(producer.file()),
            Err(file) => look_at_contents(file),
        })
        .named("Producer::finish"),
        Plan::new(
            || live_exist().map(|()| received(sealed(SMALL, LIVE))),
            |file| {
                file.finish().map_err(|error| {
                    let failure = Failure::new(&error);
                    failure.and(error.into_file())
                })
            },
            holds(SMALL),
        )
        .leaving(look)
        .named("finish"),
        Plan::new(
            || live_exist().map(|()| OwnedFd::from(sealed(SMALL, LIVE))),
            |fd| receive(SealPolicy::new())(fd).map_err(refused),
            drop,
        )
        .leaving(look)
        .named("receive_future_write"),
        Plan::new(
            || live_exist().map(|()| OwnedFd::from(sealed(SMALL, LIVE))),
            |fd| receive(SealPolicy::new().reserve(true))(fd).map_err(refused),
            drop,
        )
        .leaving(look)
        .named("receive_future_write, reserve"),
        Plan::new(
            || live_exist().map(|()| received(sealed(SMALL, LIVE))),
            |file| with(file, map),
            drop,
        )
        .leaving(look)
        .named("map_live through O_RDWR"),
        Plan::new(
            || live_exist().map(|()| received(read_only(sealed(SMALL, LIVE)))),
            |file| with(file, map),
            drop,
        )
        .leaving(look)
        .named("map_live through O_RDONLY"),
    ]
}

fn latest() -> Vec<Operation> {
    fn publisher() -> Result<Publisher, String> {
        live_exist()?;
        let mut publisher = Publisher::create("denied", 64).unwrap();
        publisher.publish(SMALL).unwrap();
        Ok(publisher)
    }
    fn subscriber() -> Result<(Subscriber, Publisher), String> {
        let publisher = publisher()?;
        Ok((Subscriber::open(publisher.file()).unwrap(), publisher))
    }
    fn is_published(subscriber: &mut Subscriber) -> io::Result<()> {
        let mut value = Vec::new();
        assert_eq!(subscriber.latest(&mut value)?, Some(1));
        is_small(&value)
    }
    vec![
        made(live_exist, || Publisher::create("denied", 64), drop).named("Publisher::create"),
        Plan::new(
            publisher,
            |publisher| with(publisher, |publisher| Ok(publisher.publish(SMALL)?)),
            |(number, _)| assert_eq!(number, 2),
        )
        .named("publish"),
        Plan::new(
            subscriber,
            |(subscriber, publisher)| {
                drop(publisher);
                Ok(subscriber)
            },
            |subscriber| {
                assert_eq!(subscriber.wait(1, Duration::ZERO).unwrap(), WaitOutcome::Ended);
            },
        )
        .named("drop of a Publisher"),
        Plan::new(
            publisher,
            |publisher| with(publisher, |publisher| Subscriber::open(publisher.file())),
            |(mut subscriber, _)| is_published(&mut subscriber).unwrap(),
        )
        .named("Subscriber::open"),
        Plan::new(subscriber, |both| with(both, |(subscriber, _)| is_published(subscriber)), drop)
            .named("latest"),
        Plan::new(
            subscriber,
            |both| with(both, |(subscriber, _)| subscriber.wait(1, Duration::from_millis(20))),
            |(outcome, _)| assert_eq!(outcome, WaitOutcome::TimedOut),
        )
        .named("wait"),
    ]
}

fn shared() -> Vec<Operation> {
    fn received(fd: impl Into<OwnedFd>) -> SealedFile<SizeSealed> {
        SealedFile::receive_size_sealed(fd, &SealPolicy::untrusted_live(LIMIT)).unwrap()
    }
    let shared = || received(sealed(SMALL, Seals::SHRINK));
    vec![
        Plan::new(
            || Ok(draft()),
            |draft| draft.seal_size(Seals::GROW).map_err(not_sealed),
            |file| is_small(&file.map_shared().unwrap().to_vec(..).unwrap()).unwrap(),
        )
        .leaving(look_at_draft)
        .named("seal_size"),
        Plan::new(
            || Ok(OwnedFd::from(sealed(SMALL, Seals::SHRINK))),
            |fd| {
                SealedFile::receive_size_sealed(fd, &SealPolicy::untrusted_live(LIMIT))
                    .map_err(refused)
            },
            drop,
        )
        .leaving(look)
        .named("receive_size_sealed"),
        Plan::new(
            move || Ok(shared()),
            |file| with(file, |file| is_small(&file.map_shared()?.to_vec(..).unwrap())),
            drop,
        )
        .leaving(look)
        .named("map_shared"),
        Plan::new(
            || Ok(received(read_only(sealed(SMALL, Seals::SHRINK)))),
            |file| {
                with(file, |file| match file.map_shared() {
                    Err(error) if error.to_string().contains("open for reading only") => Ok(()),
                    Err(error) => Err(error),
                    Ok(_) => panic!("it is open for reading only"),
                })
            },
            drop,
        )
        .leaving(look)
        .named("map_shared through O_RDONLY"),
        Plan::new(
            move || Ok(shared()),
            |file| with(file, |file| is_small(&file.map_live()?.to_vec(..).unwrap())),
            drop,
        )
        .leaving(look)
        .named("map_live of a shared file"),
        Plan::new(
            move || Ok(shared()),
            |file| with(file, |file| file.refresh_len(LIMIT)),
            |(len, _)| assert_eq!(len, SMALL.len() as u64),
        )
        .leaving(look)
        .named("refresh_len"),
        Plan::new(
            move || Ok(shared()),
            |file| {
                file.finish().map_err(|error| {
                    let failure = Failure::new(&error);
                    failure.and(error.into_file())
                })
            },
            holds(SMALL),
        )
        .leaving(look)
        .named("finish of a shared file"),
    ]
}

fn sockets() -> Vec<Operation> {
    type Pair = (UnixDatagram, UnixDatagram);
    fn pair() -> Pair {
        UnixDatagram::pair().unwrap()
    }
    /// They have an address in place of a connection.
    fn strangers() -> (UnixDatagram, UnixDatagram, SocketAddr) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("sealed-mmap-denied-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        receiver.set_nonblocking(true).unwrap();
        (UnixDatagram::unbound().unwrap(), receiver, address)
    }
    fn sent() -> Result<(Pair, Vec<OwnedFd>), String> {
        let pair = pair();
        send_fds(&pair.0, SMALL, &[pair.1.as_fd()]).unwrap();
        Ok((pair, Vec::new()))
    }
    vec![
        Plan::new(
            || Ok(pair()),
            |pair| with(pair, |(ours, theirs)| send_fds(ours, SMALL, &[theirs.as_fd()])),
            |(_, (_, theirs))| {
                let (len, fd) = recv_fd(&theirs, &mut [0; 64]).unwrap();
                assert_eq!((len, fd.is_some()), (SMALL.len(), true));
            },
        )
        .leaving(|(_, theirs)| {
            vec![format!("{:?}", rustix::net::recv(theirs, &mut [0], RecvFlags::DONTWAIT))]
        })
        .bare()
        .named("send_fds"),
        Plan::new(
            sent,
            |all| with(all, |((_, theirs), fds)| recv_fds(theirs, &mut [0; 64], fds)),
            |(len, (_, fds))| assert_eq!((len, fds.len()), (SMALL.len(), 1)),
        )
        .leaving(|(_, fds)| vec![format!("{fds:?}")])
        .bare()
        .named("recv_fds"),
        Plan::new(
            sent,
            |all| with(all, |((_, theirs), _)| recv_fd(theirs, &mut [0; 64])),
            |((len, fd), _)| assert_eq!((len, fd.is_some()), (SMALL.len(), true)),
        )
        .bare()
        .named("recv_fd"),
        Plan::new(
            || Ok(pair()),
            |pair| with(pair, |(ours, theirs)| send_fds(ours, b"", &[theirs.as_fd()])),
            |(_, (_, theirs))| {
                let (len, fd) = recv_fd(&theirs, &mut [0; 64]).unwrap();
                assert_eq!((len, fd.is_some()), (0, true));
            },
        )
        .bare()
        .named("send_fds, empty"),
        Plan::new(
            || Ok(strangers()),
            |all| {
                with(all, |(sender, _, address)| {
                    send_fds_to(&*sender, address, SMALL, &[sender.as_fd()])
                })
            },
            |(_, (_, receiver, _))| {
                let (len, fd) = recv_fd(&receiver, &mut [0; 64]).unwrap();
                assert_eq!((len, fd.is_some()), (SMALL.len(), true));
            },
        )
        .bare()
        .named("send_fds_to"),
        Plan::new(
            || Ok(pair()),
            |pair| with(pair, |(_, theirs)| pass_credentials(theirs, true)),
            |((), (_, theirs))| assert!(socket_passcred(theirs).unwrap()),
        )
        .leaving(|(_, theirs)| vec![format!("{:?}", socket_passcred(theirs))])
        .named("pass_credentials"),
        Plan::new(
            || {
                let pair = pair();
                pass_credentials(&pair.1, true).unwrap();
                send_fds(&pair.0, SMALL, &[pair.1.as_fd()]).unwrap();
                Ok((pair, Vec::new()))
            },
            |all| {
                with(all, |((_, theirs), fds)| recv_fds_with_credentials(theirs, &mut [0; 64], fds))
            },
            |((len, sender), (_, fds))| {
                assert_eq!((len, fds.len()), (SMALL.len(), 1));
                assert_eq!(sender.unwrap().pid, Some(std::process::id()));
            },
        )
        .leaving(|(_, fds)| vec![format!("{fds:?}")])
        .bare()
        .named("recv_fds_with_credentials"),
    ]
}

fn seals() -> Vec<Operation> {
    vec![
        Plan::new(|| Ok(filled(SMALL)), |file| with(file, |file| get_seals(file)), drop)
            .leaving(look)
            .bare()
            .named("get_seals of any file"),
        Plan::new(
            || Ok(filled(SMALL)),
            |file| with(file, |file| add_seals(file, IMMUTABLE)),
            |(_, file)| assert!(files::seals_of(&file).contains(IMMUTABLE)),
        )
        .leaving(look)
        .bare()
        .named("add_seals to any file"),
    ]
}

/// What is applied to a value that stays with the caller.
pub(crate) fn with<I, T>(
    mut input: I,
    operation: impl FnOnce(&mut I) -> io::Result<T>,
) -> Result<(T, I), Failure<I>> {
    match operation(&mut input) {
        Ok(done) => Ok((done, input)),
        Err(error) => Err(Failure::io(&error).and(input)),
    }
}

/// A value that comes from nothing.
fn made<T: 'static>(
    is_possible: fn() -> Result<(), String>,
    make: impl Fn() -> io::Result<T> + 'static,
    check: impl Fn(T) + 'static,
) -> Plan<(), T> {
    Plan::new(is_possible, move |()| make().map_err(|error| Failure::io(&error)), check)
}

/// A transition whose failure leaves nothing but the `io::Error`.
fn converted<I: 'static>(
    prepare: impl Fn() -> I + 'static,
    take: impl Fn(I) -> io::Result<SealedFile> + 'static,
) -> Plan<Option<I>, SealedFile> {
    Plan::new(
        move || Ok(Some(prepare())),
        move |input| take(input.unwrap()).map_err(|error| Failure::io(&error).and(None)),
        holds(SMALL),
    )
    .once()
}

fn copied<I: AsFd + 'static>(
    source: impl Fn() -> I + 'static,
    expected: &'static [u8],
) -> Plan<I, (SealedFile, I)> {
    Plan::new(
        move || Ok(source()),
        |source| with(source, |source| SealedFile::copy_of("denied", source, LIMIT)),
        move |(file, _)| holds(expected)(file),
    )
}

fn on_draft(
    operation: impl Fn(&mut Draft) -> io::Result<()> + 'static,
) -> Plan<Draft, ((), Draft)> {
    Plan::new(|| Ok(draft()), move |draft| with(draft, &operation), drop).leaving(look_at_draft)
}

fn on_file(
    operation: impl Fn(&mut SealedFile) -> io::Result<()> + 'static,
) -> Plan<SealedFile, ((), SealedFile)> {
    Plan::new(
        || Ok(SealedFile::try_from(sealed(SMALL, IMMUTABLE)).unwrap()),
        move |file| with(file, &operation),
        drop,
    )
    .leaving(look)
}

fn taken(
    file: impl Fn() -> File + 'static,
    take: impl Fn(OwnedFd) -> Result<SealedFile, ReceiveError> + 'static,
) -> Plan<OwnedFd, SealedFile> {
    Plan::new(move || Ok(file().into()), move |fd| take(fd).map_err(refused), holds(SMALL))
        .leaving(look)
}

fn refused(error: ReceiveError) -> Failure<OwnedFd> {
    let failure = Failure::new(&error);
    failure.and(error.into_fd())
}

fn not_sealed(error: SealError) -> Failure<Draft> {
    let failure = Failure::new(&error);
    failure.and(error.into_file())
}

fn is_mapped(error: &ReceiveError) -> bool {
    matches!(error.reason(), Refusal::CannotSeal { reason: SealFailure::WritableMapping, .. })
}

/// Everything about a file and its description that a failure has to leave alone.
pub(crate) fn look<I: AsFd>(file: &mut I) -> Vec<String> {
    let mut seen = vec![
        format!("offset {:?}", rustix::fs::tell(&*file)),
        format!("flags {:?}", fcntl_getfl(&*file).unwrap()),
    ];
    seen.extend(look_at_contents(file));
    seen
}

fn look_at_contents(file: &impl AsFd) -> Vec<String> {
    let file = File::from(file.as_fd().try_clone_to_owned().unwrap());
    let metadata = file.metadata().unwrap();
    let mut bytes = vec![0; metadata.len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let checksum = crc32fast::hash(&bytes);
    vec![
        format!("inode {} length {} mode {:o}", metadata.ino(), bytes.len(), metadata.mode()),
        format!("contents {checksum:x}"),
        format!("seals {:?}", rustix::fs::fcntl_get_seals(&file)),
    ]
}

fn look_at_draft(draft: &mut Draft) -> Vec<String> {
    let metadata = draft.metadata().unwrap();
    let mut bytes = vec![0; metadata.len() as usize];
    draft.read_exact_at(&mut bytes, 0).unwrap();
    let checksum = crc32fast::hash(&bytes);
    vec![
        format!("inode {} length {} mode {:o}", metadata.ino(), bytes.len(), metadata.mode()),
        format!("contents {checksum:x}"),
        format!("offset {}", draft.stream_position().unwrap()),
        format!("seals {}", draft.get_seals().unwrap()),
    ]
}

/// Checks the bytes, and that nobody can change them.
fn holds(expected: &[u8]) -> impl Fn(SealedFile) + use<'_> {
    move |file| {
        assert!(file.map_read_only().unwrap()[..] == *expected, "other bytes than expected");
        assert!(files::seals_of(&file).contains(IMMUTABLE));
    }
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    bytes.fill(7);
    Ok(())
}

fn is_small(bytes: &[u8]) -> io::Result<()> {
    assert_eq!(bytes, SMALL);
    Ok(())
}

fn draft() -> Draft {
    let mut draft = SealedFile::create("denied").unwrap();
    draft.write_all(SMALL).unwrap();
    draft
}

/// With WRITE beside EXEC and FUTURE_WRITE, which is believed once the kernel has been tried.
fn sealed_by_exec() -> Result<File, String> {
    if files::exec_seal_is_checked() != Some(true) {
        return Err("this kernel does not check the seal against execution".into());
    }
    let mut file = files::executable().unwrap();
    file.write_all(SMALL).unwrap();
    files::seal(&file, Seals::EXEC).unwrap();
    Ok(file)
}

fn producer() -> Producer {
    Producer::build("denied", SMALL.len() as u64, |bytes| {
        bytes.copy_from_slice(SMALL);
        Ok(())
    })
    .unwrap()
}

fn read_only(file: File) -> File {
    reopen(&file, OFlags::RDONLY).into()
}

fn pipe() -> (File, File) {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

fn full_pipe() -> File {
    let (reader, mut writer) = pipe();
    writer.write_all(MIDDLE).unwrap();
    reader
}

fn full_socket() -> UnixStream {
    let (reader, mut writer) = UnixStream::pair().unwrap();
    writer.write_all(MIDDLE).unwrap();
    reader
}

/// A non-blocking pipe that is filled once somebody waits for it.
struct LatePipe {
    // Closed first, so that the writer ends.
    source: File,
    _writer: Joined,
}

impl LatePipe {
    fn new() -> Self {
        let (source, mut writer) = pipe();
        fcntl_setfl(&source, OFlags::NONBLOCK).unwrap();
        let writer = thread::spawn(move || {
            while !denier::is_over() && !denier::has_polled() {
                thread::sleep(Duration::from_millis(1));
            }
            // Whoever fails to read it closes it.
            let _ = writer.write_all(MIDDLE);
        });
        Self { source, _writer: Joined(Some(writer)) }
    }
}

struct Joined(Option<JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.take().unwrap().join().unwrap();
    }
}

fn always() -> Result<(), String> {
    Ok(())
}

fn live_exist() -> Result<(), String> {
    if Producer::create("denied", 1).is_ok() {
        return Ok(());
    }
    match fs::read_to_string("/proc/sys/vm/memfd_noexec") {
        Ok(setting) if setting.trim() == "2" => Err("vm.memfd_noexec=2 forbids live files".into()),
        _ => panic!("a live file cannot be made"),
    }
}

fn exec_can_be_left_out() -> Result<(), String> {
    match fs::read_to_string("/proc/sys/vm/memfd_noexec") {
        Ok(setting) if setting.trim() == "2" => Err("vm.memfd_noexec=2 puts EXEC on all".into()),
        _ => Ok(()),
    }
}

fn hugetlb_exists() -> Result<(), String> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    memfd_create("denied", flags).map(drop).map_err(|errno| format!("no pages of 2 MiB: {errno}"))
}

fn hugetlb_is_free() -> Result<(), String> {
    const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    match fs::read_to_string(FREE) {
        Ok(free) if free.trim() != "0" => Ok(()),
        _ => Err("no hugetlb page of 2 MiB is free".into()),
    }
}

/// Makes the setting `advise`, as this process sees it.
fn huge_pages_on_advice() -> Result<(), String> {
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let path = std::env::temp_dir().join(format!("sealed-mmap {}", std::process::id()));
    fs::write(&path, "always within_size [advise] never deny force\n").unwrap();
    let replace = || {
        // SAFETY: a mount namespace of its own gives the thread no other memory or descriptors.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount_bind(&path, SETTING)
    };
    let replaced = replace();
    fs::remove_file(&path).unwrap();
    replaced.map_err(|errno| format!("the setting cannot be replaced here: {errno}"))
}
