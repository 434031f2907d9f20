//! What a hostile process at the other end of a Unix socket achieves: nothing. Every peer is a real
//! process, this test started again; whatever it sends, the receiver lives on, its bytes stay as they
//! are, and no descriptor is left behind.
#![allow(unsafe_code, reason = "peers write through mappings, and one reads what is not sealed")]

mod support;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, exit};
use std::thread;
use std::time::{Duration, Instant};

use memmap2::{Mmap, MmapMut, MmapRaw};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use rustix::pipe::pipe;
use rustix::process::{Signal, getpid, kill_process};
use sealed_mmap::socket::{recv_fd, recv_fds, send_fds};
use sealed_mmap::{
    CreateOptions, ReceiveError, Refusal, SealFailure, SealPolicy, SealedFile, Seals, add_seals,
};
use support::files::{proc_path, punch_hole, reopen, tmpfs_file};
use support::process::{self, Peer, may_open_many, open_descriptors, turn};
use support::runs::rounds;

const STREAM: SocketType = SocketType::STREAM;
const DATAGRAM: SocketType = SocketType::DGRAM;
const RECORDS: SocketType = SocketType::SEQPACKET;
const KINDS: [SocketType; 3] = [STREAM, DATAGRAM, RECORDS];

const LIMIT: u64 = 1 << 20;
const A_MINUTE: Duration = Duration::from_secs(60);

/// The other end of a socket, and the process that has it.
struct OtherEnd {
    socket: OwnedFd,
    process: Peer,
}

impl OtherEnd {
    fn receive(&self) -> OwnedFd {
        recv_fd(self, &mut [0; 64]).unwrap().1.expect("a descriptor")
    }

    fn wait_for_its_end(&mut self) -> ExitStatus {
        self.process.wait()
    }
}

impl AsFd for OtherEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Runs `attack` in another process and `receive` in this one, and sees that no descriptor is left.
///
/// The other process runs `test`, the calling one, and there this function does not return.
fn under_attack(
    test: &str,
    kind: SocketType,
    attack: impl FnOnce(OwnedFd),
    receive: impl FnOnce(&mut OtherEnd),
) {
    let name = format!("attacks over {kind:?}");
    if let Some(role) = process::role() {
        if role.name == name {
            // Whoever waits for this process in vain is let go.
            thread::spawn(|| {
                thread::sleep(5 * A_MINUTE);
                exit(1);
            });
            attack(role.fd);
            exit(0);
        }
        return;
    }
    let _turn = turn();
    let before = open_descriptors();
    let (socket, theirs) =
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    set_socket_timeout(&socket, Timeout::Recv, Some(A_MINUTE)).unwrap();
    let mut peer = OtherEnd { socket, process: Peer::start(test, &name, theirs) };
    receive(&mut peer);
    drop(peer);
    assert_eq!(open_descriptors(), before);
}

fn send(socket: &OwnedFd, fd: impl AsFd) {
    assert_eq!(send_fds(socket, b"frame", &[fd.as_fd()]).unwrap(), 5);
}

fn immutable(bytes: &[u8]) -> SealedFile {
    SealedFile::from_bytes("sealed", bytes).unwrap()
}

fn unsealed(bytes: &[u8]) -> File {
    let mut file = SealedFile::create("unsealed").unwrap();
    file.write_all(bytes).unwrap();
    file.into_file()
}

fn untrusted() -> SealPolicy {
    SealPolicy::untrusted(LIMIT)
}

fn take_or_copy(fd: OwnedFd) -> Result<SealedFile, ReceiveError> {
    SealedFile::receive_or_copy(fd, &untrusted(), LIMIT)
}

/// Neither is it taken, nor sealed, nor copied.
fn is_refused(mut fd: OwnedFd, because: impl Fn(&Refusal) -> bool) {
    let number = fd.as_raw_fd();
    let ways: [fn(OwnedFd) -> Result<SealedFile, ReceiveError>; 3] = [
        |fd| SealedFile::receive_read_only(fd, &untrusted()),
        |fd| SealedFile::adopt_read_only(fd, &untrusted()),
        take_or_copy,
    ];
    for way in ways {
        let error = way(fd).unwrap_err();
        assert!(because(error.reason()), "{:?}", error.reason());
        fd = error.into_fd();
        assert_eq!(fd.as_raw_fd(), number, "the very descriptor comes back");
    }
}

// Files that change.

/// Tries to change a file in every way, and names those that worked.
fn change(file: &File) -> Vec<&'static str> {
    [
        ("write", file.write_all_at(b"changed", 0).is_ok()),
        ("map", MmapRaw::map_raw(file).is_ok()),
        ("punch", punch_hole(file, 0, 4096).is_ok()),
        ("grow", file.set_len(LIMIT).is_ok()),
        ("shrink", file.set_len(1).is_ok()),
        ("open anew", OpenOptions::new().write(true).truncate(true).open(proc_path(file)).is_ok()),
    ]
    .into_iter()
    .filter_map(|(way, worked)| worked.then_some(way))
    .collect()
}

#[test]
fn a_received_file_stays_the_same_whatever_its_sender_tries() {
    under_attack(
        "a_received_file_stays_the_same_whatever_its_sender_tries",
        RECORDS,
        |socket| {
            let file = immutable(&[7; 10_000]);
            send(&socket, &file);
            let file = File::from(file);
            let worked: HashSet<_> = (0..100).flat_map(|_| change(&file)).collect();
            send_fds(&socket, format!("{worked:?}").as_bytes(), &[]).unwrap();
            // Control: every one of these changes a file that is not sealed.
            let file = unsealed(&[7; 10_000]);
            send(&socket, &file);
            let worked = change(&file).len();
            send_fds(&socket, format!("{worked} of 6").as_bytes(), &[]).unwrap();
        },
        |peer| {
            let file = SealedFile::receive_read_only(peer.receive(), &untrusted()).unwrap();
            let map = file.map_read_only().unwrap();
            let mut told = [0; 64];
            let len = recv_fd(&*peer, &mut told).unwrap().0;
            assert_eq!(&told[..len], b"{}");
            assert_eq!(map[..], [7; 10_000]);

            let control = File::from(peer.receive());
            let len = recv_fd(&*peer, &mut told).unwrap().0;
            assert_eq!(&told[..len], b"6 of 6");
            assert_eq!(control.metadata().unwrap().len(), 0);
        },
    );
}

/// Writes and truncates without end, with pauses in which a copy can succeed. Once the file is
/// sealed all of it fails.
fn go_on_changing(file: &File) {
    const LEN: usize = 64 << 10;

    thread::scope(|scope| {
        scope.spawn(|| {
            for byte in (0..=255).cycle() {
                let _ = file.write_all_at(&[byte; LEN], 0);
                if byte % 64 == 0 {
                    thread::sleep(Duration::from_millis(10));
                }
            }
        });
        for step in 0_usize.. {
            let _ = file.set_len((step * 1000 % LEN) as u64);
            let _ = file.set_len(LEN as u64);
            if step % 64 == 0 {
                thread::sleep(Duration::from_millis(10));
            }
        }
    });
}

fn checksum_of_file(file: &File) -> u32 {
    let mut bytes = vec![0; LIMIT as usize];
    let len = file.read_at(&mut bytes, 0).unwrap();
    crc32fast::hash(&bytes[..len])
}

/// The control of every test in which something must not change.
fn wait_until_it_changes(file: &File) {
    let (start, before) = (Instant::now(), checksum_of_file(file));
    while checksum_of_file(file) == before {
        assert!(start.elapsed() < A_MINUTE, "nobody changes the file");
    }
}

#[test]
fn a_file_that_its_sender_goes_on_changing_is_copied_or_refused() {
    under_attack(
        "a_file_that_its_sender_goes_on_changing_is_copied_or_refused",
        RECORDS,
        |socket| {
            let file = unsealed(&[7; 64 << 10]);
            send(&socket, &file);
            go_on_changing(&file);
        },
        |peer| {
            let file = File::from(peer.receive());
            let again = || OwnedFd::from(file.try_clone().unwrap());
            wait_until_it_changes(&file);

            let (mut copies, mut refused, start) = (Vec::new(), 0, Instant::now());
            let rounds = rounds(100, 10_000);
            for round in 0.. {
                if round >= rounds {
                    if refused > 0 && !copies.is_empty() {
                        break;
                    }
                    let found = (copies.len(), refused);
                    assert!(start.elapsed() < A_MINUTE, "(copied, refused): {found:?}");
                }
                let error = SealedFile::receive_read_only(again(), &untrusted()).unwrap_err();
                assert!(matches!(error.reason(), Refusal::MissingSeals { .. }), "{error}");

                match take_or_copy(again()) {
                    Ok(copy) => {
                        let map = copy.map_read_only().unwrap();
                        copies.push((crc32fast::hash(&map), map));
                        copies.truncate(100);
                    }
                    Err(error) => match error.reason() {
                        Refusal::Io(error) if error.kind() == ErrorKind::ResourceBusy => {
                            refused += 1
                        }
                        other => panic!("{other:?}"),
                    },
                }
            }
            wait_until_it_changes(&file);
            for (checksum, map) in copies {
                assert_eq!(crc32fast::hash(&map), checksum);
            }
        },
    );
}

#[test]
fn an_adopted_file_no_longer_changes_under_its_senders_hands() {
    under_attack(
        "an_adopted_file_no_longer_changes_under_its_senders_hands",
        RECORDS,
        |socket| {
            let file = unsealed(&[7; 64 << 10]);
            send(&socket, &file);
            go_on_changing(&file);
        },
        |peer| {
            let file = File::from(peer.receive());
            wait_until_it_changes(&file);

            let adopted = SealedFile::adopt_read_only(file, &untrusted()).unwrap();
            let map = adopted.map_read_only().unwrap();
            let before = (crc32fast::hash(&map), map.len());
            for _ in 0..100 {
                thread::sleep(Duration::from_millis(1));
                assert_eq!((crc32fast::hash(&map), map.len()), before);
            }
        },
    );
}

#[test]
fn a_file_with_a_writer_who_stays_is_refused() {
    under_attack(
        "a_file_with_a_writer_who_stays_is_refused",
        RECORDS,
        |socket| {
            let file = unsealed(&[0; 4096]);
            // SAFETY: the bytes are only written, through this mapping.
            let mut map = unsafe { MmapMut::map_mut(&file) }.unwrap();
            add_seals(&file, Seals::FUTURE_WRITE | Seals::SHRINK | Seals::GROW).unwrap();
            send(&socket, &file);
            for byte in (0..=255).cycle() {
                map.fill(std::hint::black_box(byte));
            }
        },
        |peer| {
            let fd = peer.receive();
            wait_until_it_changes(&File::from(fd.try_clone().unwrap()));
            let error = SealedFile::receive_read_only(fd, &untrusted()).unwrap_err();
            let Refusal::MissingSeals { missing, .. } = error.reason() else { panic!("{error}") };
            assert_eq!(*missing, Seals::WRITE);

            let error = SealedFile::adopt_read_only(error.into_fd(), &untrusted()).unwrap_err();
            match error.reason() {
                Refusal::CannotSeal { reason, .. } => {
                    assert_eq!(*reason, SealFailure::WritableMapping);
                }
                // On kernels where a write seal beside FUTURE_WRITE and EXEC proves nothing.
                Refusal::UntrustedWriteSeal => {}
                other => panic!("{other:?}"),
            }
        },
    );
}

#[test]
fn a_receiver_that_asks_for_no_seals_can_be_killed() {
    under_attack(
        "a_receiver_that_asks_for_no_seals_can_be_killed",
        RECORDS,
        |socket| {
            let file = File::from(recv_fd(&socket, &mut [0; 64]).unwrap().1.unwrap());
            // SAFETY: it is not safe, and that is what kills this process.
            let map = unsafe { Mmap::map(&file) }.unwrap();
            send_fds(&socket, &map[..1], &[]).unwrap();
            recv_fd(&socket, &mut [0; 64]).unwrap();
            std::hint::black_box(map[map.len() - 1]);
        },
        |victim| {
            let file = unsealed(&[7; 10_000]);
            send(&victim.socket, &file);
            recv_fd(&*victim, &mut [0; 64]).unwrap();
            file.set_len(1).unwrap();
            send_fds(&*victim, b"look", &[]).unwrap();
            let signal = victim.wait_for_its_end().signal();
            assert_eq!(signal, Some(Signal::BUS.as_raw()));
        },
    );
}

// Files that are something else.

#[test]
fn a_descriptor_that_cannot_be_read_is_refused() {
    under_attack(
        "a_descriptor_that_cannot_be_read_is_refused",
        RECORDS,
        |socket| {
            let file = immutable(b"hello");
            let (_reader, writer) = pipe().unwrap();
            send(&socket, reopen(&file, OFlags::PATH));
            send(&socket, reopen(&file, OFlags::WRONLY));
            send(&socket, writer);
            send(&socket, reopen(&file, OFlags::RDONLY));
        },
        |peer| {
            for _ in 0..3 {
                is_refused(peer.receive(), |reason| matches!(reason, Refusal::NotReadable));
            }
            // Control: the same file through a descriptor that can be read.
            let file = SealedFile::receive_read_only(peer.receive(), &untrusted()).unwrap();
            assert_eq!(file.map_read_only().unwrap()[..], *b"hello");
        },
    );
}

#[test]
fn what_is_not_a_file_is_refused_and_never_waited_for() {
    under_attack(
        "what_is_not_a_file_is_refused_and_never_waited_for",
        RECORDS,
        |socket| {
            let (silent, _writer) = pipe().unwrap();
            let (stream, _other) = UnixStream::pair().unwrap();
            send(&socket, silent);
            send(&socket, stream);
            send(&socket, UnixDatagram::unbound().unwrap());
            send(&socket, File::open("/").unwrap());
            let (endless, writer) = pipe().unwrap();
            let mut writer = File::from(writer);
            send(&socket, endless);
            while writer.write_all(&[7; 4096]).is_ok() {}
        },
        |peer| {
            for _ in 0..4 {
                is_refused(peer.receive(), |reason| matches!(reason, Refusal::NotSealable(_)));
            }
            let endless = peer.receive();
            // Control: whoever copies this one gets more than enough.
            let error = SealedFile::copy_of("endless", &endless, LIMIT).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FileTooLarge);
            is_refused(endless, |reason| matches!(reason, Refusal::NotSealable(_)));
        },
    );
}

#[test]
fn the_peers_own_end_is_refused_and_does_not_hide_its_hang_up() {
    for kind in [STREAM, RECORDS] {
        under_attack(
            "the_peers_own_end_is_refused_and_does_not_hide_its_hang_up",
            kind,
            |socket| send(&socket, &socket),
            |peer| {
                let its_end = peer.receive();
                peer.wait_for_its_end();
                is_refused(its_end.try_clone().unwrap(), |reason| {
                    matches!(reason, Refusal::NotSealable(_))
                });
                // Control: whoever keeps it keeps the connection open.
                let nothing = recv(&peer.socket, &mut [0; 64], RecvFlags::DONTWAIT).err();
                assert_eq!(nothing, Some(Errno::AGAIN));
                drop(its_end);
                assert!(matches!(recv_fd(&*peer, &mut [0; 64]), Ok((0, None))));
            },
        );
    }
}

#[test]
fn a_socket_that_holds_itself_is_refused() {
    under_attack(
        "a_socket_that_holds_itself_is_refused",
        RECORDS,
        |socket| {
            let (one, other) = UnixStream::pair().unwrap();
            send_fds(&one, b"itself", &[other.as_fd(), one.as_fd()]).unwrap();
            send(&socket, other);
        },
        |peer| {
            let fd = peer.receive();
            is_refused(fd, |reason| matches!(reason, Refusal::NotSealable(_)));
        },
    );
}

/// What stands for a file on a tmpfs where there is none: in shared memory, and it cannot be sealed.
fn never_sealable() -> File {
    let mut file = CreateOptions::new().allow_sealing(false).create("not a tmpfs").unwrap();
    file.write_all(b"hello").unwrap();
    file.into_file()
}

#[test]
fn a_file_on_a_tmpfs_is_refused_or_copied() {
    under_attack(
        "a_file_on_a_tmpfs_is_refused_or_copied",
        RECORDS,
        |socket| {
            let file = tmpfs_file(b"hello").unwrap_or_else(never_sealable);
            send(&socket, &file);
            recv_fd(&socket, &mut [0; 64]).unwrap();
            file.write_all_at(b"HELLO", 0).unwrap();
            file.set_len(1).unwrap();
            send_fds(&socket, b"done", &[]).unwrap();
        },
        |peer| {
            let mut fd = peer.receive();
            for take in [SealedFile::receive_read_only, SealedFile::adopt_read_only] {
                let error = take(fd, &untrusted()).unwrap_err();
                assert!(
                    matches!(error.reason(), Refusal::MissingSeals { present, .. }
                        if present.contains(Seals::SEAL)),
                    "{error}",
                );
                fd = error.into_fd();
            }
            let original = File::from(fd.try_clone().unwrap());
            let map = take_or_copy(fd).unwrap().map_read_only().unwrap();
            send_fds(&*peer, b"copied", &[]).unwrap();
            recv_fd(&*peer, &mut [0; 64]).unwrap();
            assert_eq!(map[..], *b"hello");
            // Control: the sender's file has changed.
            let mut bytes = [0; 64];
            assert_eq!((original.read_at(&mut bytes, 0).unwrap(), bytes[0]), (1, b'H'));
        },
    );
}

#[test]
fn a_file_longer_than_any_memory_costs_none() {
    const TOO_LONG: u64 = 32 << 40;

    under_attack(
        "a_file_longer_than_any_memory_costs_none",
        RECORDS,
        |socket| {
            let hole = |len| {
                let mut file = SealedFile::create("hole").unwrap();
                file.set_len(len).unwrap();
                file
            };
            send(&socket, hole(TOO_LONG).seal_read_only().unwrap());
            send(&socket, hole(TOO_LONG).into_file());
            send(&socket, hole(LIMIT).seal_read_only().unwrap());
        },
        |peer| {
            let blocks =
                |fd: &OwnedFd| File::from(fd.try_clone().unwrap()).metadata().unwrap().blocks();
            let fd = peer.receive();
            let error = SealedFile::receive_read_only(fd, &untrusted()).unwrap_err();
            assert!(matches!(error.reason(), Refusal::Length { len: TOO_LONG, .. }), "{error}");

            let whole = SealPolicy::new().reserve(true);
            let error = SealedFile::receive_read_only(error.into_fd(), &whole).unwrap_err();
            assert!(
                matches!(error.reason(), Refusal::CannotReserve(error)
                    if error.kind() == ErrorKind::OutOfMemory),
                "{:?}",
                error.reason(),
            );
            let fd = error.into_fd();
            assert_eq!(blocks(&fd), 0);
            let file = SealedFile::receive_read_only(fd, &SealPolicy::new()).unwrap();
            let map = file.map_read_only();
            if cfg!(target_pointer_width = "64") {
                assert_eq!(map.unwrap().last(), Some(&0));
            } else {
                assert_eq!(map.unwrap_err().kind(), ErrorKind::FileTooLarge);
            }

            let error = take_or_copy(peer.receive()).unwrap_err();
            assert!(matches!(error.reason(), Refusal::Length { len: TOO_LONG, .. }), "{error}");
            assert_eq!(blocks(&error.into_fd()), 0);

            // Control: a hole that is short enough is taken, and has its memory from then on.
            let fd = peer.receive();
            assert_eq!(blocks(&fd), 0);
            let file = SealedFile::receive_read_only(fd, &untrusted()).unwrap();
            assert!(file.map_read_only().unwrap().iter().all(|byte| *byte == 0));
            assert_eq!(file.metadata().unwrap().blocks() * 512, LIMIT);
        },
    );
}

// Messages of another shape.

#[test]
fn three_hundred_descriptors_are_an_error_and_closed() {
    if !may_open_many() {
        return;
    }
    for kind in KINDS {
        under_attack(
            "three_hundred_descriptors_are_an_error_and_closed",
            kind,
            |socket| {
                let file = immutable(b"hello");
                for _ in 0..4 {
                    send_fds(&socket, b"many", &[file.as_fd(); 150]).unwrap();
                }
                send(&socket, &file);
                recv_fd(&socket, &mut [0; 64]).unwrap();
            },
            |peer| {
                let before = open_descriptors();
                for _ in 0..2 {
                    let error = recv_fd(&*peer, &mut [0; 4]).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidData);
                    assert_eq!(open_descriptors(), before);
                }
                // Control: they do arrive.
                let mut fds = Vec::new();
                for _ in 0..2 {
                    assert_eq!(recv_fds(&*peer, &mut [0; 4], &mut fds).unwrap(), 4);
                }
                assert_eq!(fds.len(), 300);
                assert_eq!(open_descriptors(), before + 300);
                SealedFile::receive_read_only(peer.receive(), &untrusted()).unwrap();
            },
        );
    }
}

#[test]
fn two_descriptors_where_one_is_expected_are_closed() {
    for kind in KINDS {
        under_attack(
            "two_descriptors_where_one_is_expected_are_closed",
            kind,
            |socket| {
                let file = immutable(b"hello");
                send_fds(&socket, b"two", &[file.as_fd(), file.as_fd()]).unwrap();
                send(&socket, &file);
                recv_fd(&socket, &mut [0; 64]).unwrap();
            },
            |peer| {
                let before = open_descriptors();
                let error = recv_fd(&*peer, &mut [0; 3]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidData);
                assert_eq!(open_descriptors(), before);
                // Control: the next message has one.
                SealedFile::receive_read_only(peer.receive(), &untrusted()).unwrap();
            },
        );
    }
}

#[test]
fn no_descriptor_is_none() {
    for kind in KINDS {
        under_attack(
            "no_descriptor_is_none",
            kind,
            |socket| {
                send_fds(&socket, b"frame", &[]).unwrap();
                recv_fd(&socket, &mut [0; 64]).unwrap();
            },
            |peer| {
                let mut bytes = [0; 64];
                assert!(matches!(recv_fd(&*peer, &mut bytes), Ok((5, None))));
                assert_eq!(&bytes[..5], b"frame");
            },
        );
    }
}

#[test]
fn a_message_longer_than_agreed_is_an_error_and_leaks_no_fd() {
    for kind in [DATAGRAM, RECORDS] {
        under_attack(
            "a_message_longer_than_agreed_is_an_error_and_leaks_no_fd",
            kind,
            |socket| {
                let file = immutable(b"hello");
                for _ in 0..2 {
                    send_fds(&socket, b"longer than agreed", &[file.as_fd()]).unwrap();
                }
                recv_fd(&socket, &mut [0; 64]).unwrap();
            },
            |peer| {
                let before = open_descriptors();
                let error = recv_fd(&*peer, &mut [0; 8]).unwrap_err();
                assert_eq!(Errno::from_io_error(&error), Some(Errno::MSGSIZE));
                assert_eq!(open_descriptors(), before);
                // Control: there is a descriptor, for those who have room for the bytes.
                SealedFile::receive_read_only(peer.receive(), &untrusted()).unwrap();
            },
        );
    }
}

#[test]
fn a_peer_that_leaves_at_once_is_the_end() {
    for kind in [STREAM, RECORDS] {
        under_attack("a_peer_that_leaves_at_once_is_the_end", kind, drop, |peer| {
            assert!(matches!(recv_fd(&*peer, &mut [0; 64]), Ok((0, None))));
            let error = send_fds(&*peer, b"hello?", &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        });
    }
}

#[test]
fn what_a_peer_sent_before_it_was_killed_still_arrives() {
    for kind in KINDS {
        under_attack(
            "what_a_peer_sent_before_it_was_killed_still_arrives",
            kind,
            |socket| {
                send(&socket, immutable(b"hello"));
                kill_process(getpid(), Signal::KILL).unwrap();
            },
            |peer| {
                assert_eq!(peer.wait_for_its_end().signal(), Some(Signal::KILL.as_raw()));
                let file = SealedFile::receive_read_only(peer.receive(), &untrusted()).unwrap();
                assert_eq!(file.map_read_only().unwrap()[..], *b"hello");
                if kind == DATAGRAM {
                    // These have no end, so nothing tells that it has come.
                    let nothing = recv(&peer.socket, &mut [0; 64], RecvFlags::DONTWAIT).err();
                    assert_eq!(nothing, Some(Errno::AGAIN));
                } else {
                    assert!(matches!(recv_fd(&*peer, &mut [0; 64]), Ok((0, None))));
                }
            },
        );
    }
}

// All of it at once.

#[test]
fn a_storm_of_hostile_messages_leaves_nothing_behind() {
    let messages = rounds(2_000, 100_000);
    under_attack(
        "a_storm_of_hostile_messages_leaves_nothing_behind",
        RECORDS,
        |socket| {
            let file = immutable(b"hello");
            let plain = unsealed(b"plain");
            let (pipe, _writer) = pipe().unwrap();
            let (path, wronly) = (reopen(&file, OFlags::PATH), reopen(&file, OFlags::WRONLY));
            let single = [
                file.as_fd(),
                plain.as_fd(),
                pipe.as_fd(),
                path.as_fd(),
                wronly.as_fd(),
                socket.as_fd(),
            ];
            let mut random = 1_u32;
            for _ in 0..messages {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (choice, shape) = ((random >> 16) as usize, random >> 28);
                let fd = single[choice % single.len()];
                let (bytes, fds): (&[u8], &[_]) = match shape {
                    0 => (b"frame", &[]),
                    1 => (b"frame", &single),
                    2 => (b"longer than agreed", &[fd]),
                    _ => (b"frame", &[fd]),
                };
                send_fds(&socket, bytes, fds).unwrap();
            }
        },
        |peer| {
            let before = open_descriptors();
            let (mut taken, mut copied, mut refused, mut broken) = (0, 0, 0, 0);
            for _ in 0..messages {
                match recv_fd(&*peer, &mut [0; 8]) {
                    Ok((_, Some(fd))) => match take_or_copy(fd) {
                        Ok(file) => match &file.map_read_only().unwrap()[..] {
                            b"hello" => taken += 1,
                            b"plain" => copied += 1,
                            other => panic!("{other:?}"),
                        },
                        Err(_) => refused += 1,
                    },
                    Ok(_) | Err(_) => broken += 1,
                }
                assert_eq!(open_descriptors(), before);
            }
            assert!(matches!(recv_fd(&*peer, &mut [0; 8]), Ok((0, None))));
            for count in [taken, copied, refused, broken] {
                assert!(count > messages / 50, "{taken} {copied} {refused} {broken}");
            }
        },
    );
}
