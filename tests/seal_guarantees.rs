//! What "no byte changes any more and the length cannot fall" withstands, and "nobody changes a byte
//! but its producer": every attack here changes a file without seals, and none changes an immutable
//! or a live one, from this process or from another.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "the attacks are system calls on raw memory")]

mod support;

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IoSlice, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};

use rustix::fs::{FallocateFlags, OFlags, XattrFlags, fallocate};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::mm::{Advice, MapFlags, MremapFlags};
use rustix::pipe::{IoSliceRaw, SpliceFlags, pipe, splice, vmsplice};
use sealed_mmap::{
    CreateOptions, Producer, SealPolicy, SealedFile, Seals, Unsealed, add_seals, get_seals,
};
use support::files::{contents, make_executable_by_acl, proc_path, punch_hole};
use support::mapping::{Mapping, READ, READ_WRITE};
use support::process::{self, Channel, ENTRY, Peer};
use support::runs::live;

type Attack = fn(&File) -> io::Result<()>;

const EVIL: &[u8] = b"evil";

/// Each with what the kernel answers on a sealed file. Before some 5.10 and 6.7 a sealed file cannot
/// even be mapped shared through a writable descriptor: that is the second errno of a few.
const ATTACKS: &[(&str, Attack, &[Errno])] = &[
    ("write", |mut file| file.write_all(EVIL), &[Errno::PERM]),
    ("write at the end", append, &[Errno::PERM]),
    ("pwrite", |file| file.write_all_at(EVIL, 1), &[Errno::PERM]),
    ("writev", |mut file| all(file.write_vectored(&[IoSlice::new(EVIL)])?), &[Errno::PERM]),
    ("pwritev2", pwritev2, &[Errno::PERM]),
    ("splice", splice_into, &[Errno::PERM]),
    ("splice of a page given away", splice_gift, &[Errno::PERM]),
    ("sendfile", |file| all(rustix::fs::sendfile(file, evil_file()?, None, 4)?), &[Errno::PERM]),
    (
        "copy_file_range",
        |file| all(rustix::fs::copy_file_range(evil_file()?, None, file, None, 4)?),
        &[Errno::PERM],
    ),
    ("ftruncate to less", |file| file.set_len(1), &[Errno::PERM]),
    ("ftruncate to more", |file| file.set_len(1 << 20), &[Errno::PERM]),
    ("open with O_TRUNC", open_truncating, &[Errno::PERM]),
    ("open anew for writing", |file| open_writable(file)?.write_all_at(EVIL, 0), &[Errno::PERM]),
    (
        "fallocate beyond the end",
        |file| Ok(fallocate(file, FallocateFlags::empty(), 0, 1 << 20)?),
        &[Errno::PERM],
    ),
    ("punch a hole", |file| punch_page(file, 0), &[Errno::PERM]),
    (
        "store through a new mapping",
        |file| {
            Mapping::shared(file, READ_WRITE)?.stamp(b'!');
            Ok(())
        },
        &[Errno::PERM],
    ),
    ("mprotect and store", mprotect_and_store, &[Errno::ACCESS, Errno::PERM]),
    ("mremap, mprotect and store", mremap_and_store, &[Errno::ACCESS, Errno::PERM]),
    ("MADV_REMOVE", madvise_remove, &[Errno::ACCESS, Errno::PERM]),
    ("read(2) into a mapping", read_into_mapping, &[Errno::FAULT, Errno::PERM]),
    ("process_vm_writev", process_vm_writev, &[Errno::FAULT, Errno::PERM]),
    ("/proc/self/mem", proc_self_mem, &[Errno::IO, Errno::PERM]),
];

fn all(count: usize) -> io::Result<()> {
    if count == EVIL.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn evil_file() -> io::Result<File> {
    let mut file = File::from(SealedFile::from_bytes("evil", EVIL)?);
    file.rewind()?;
    Ok(file)
}

fn open_writable(file: &File) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(proc_path(file))
}

fn append(file: &File) -> io::Result<()> {
    OpenOptions::new().append(true).open(proc_path(file))?.write_all(EVIL)
}

fn open_truncating(file: &File) -> io::Result<()> {
    let flags = OFlags::TRUNC.bits() as i32;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(proc_path(file)).map(drop)
}

fn pwritev2(file: &File) -> io::Result<()> {
    all(rustix::io::pwritev2(file, &[IoSlice::new(EVIL)], 0, ReadWriteFlags::HIPRI)?)
}

fn splice_into(file: &File) -> io::Result<()> {
    let (from, to) = pipe()?;
    rustix::io::write(to, EVIL)?;
    all(splice(from, None, file, Some(&mut 0), EVIL.len(), SpliceFlags::empty())?)
}

fn splice_gift(file: &File) -> io::Result<()> {
    let page = rustix::param::page_size();
    let gift = Mapping::shared(&unsealed_target()?, READ_WRITE)?;
    gift.stamp(b'!');
    // SAFETY: the memory is mapped for longer than the slice of it is used.
    let bytes = unsafe { std::slice::from_raw_parts_mut(gift.start(), page) };
    let (from, to) = pipe()?;
    // SAFETY: this is the end to write to, so that the memory is only read.
    unsafe { vmsplice(to, &[IoSliceRaw::from_slice_mut(bytes)], SpliceFlags::GIFT) }?;
    splice(from, None, file, Some(&mut 0), page, SpliceFlags::MOVE)?;
    Ok(())
}

fn punch_page(file: &File, page: u64) -> io::Result<()> {
    let len = rustix::param::page_size() as u64;
    punch_hole(file, page * len, len)
}

fn mprotect_and_store(file: &File) -> io::Result<()> {
    let map = Mapping::shared(file, READ)?;
    map.make_writable()?;
    map.stamp(b'!');
    Ok(())
}

fn mremap_and_store(file: &File) -> io::Result<()> {
    let map = Mapping::shared(file, READ)?;
    // SAFETY: an old length of 0 leaves the mapping alone and makes another one of the same pages.
    let twin =
        unsafe { rustix::mm::mremap(map.start().cast(), 0, map.len(), MremapFlags::MAYMOVE) }?;
    let twin = Mapping::from_raw(twin.cast(), map.len());
    twin.make_writable()?;
    twin.stamp(b'!');
    Ok(())
}

/// A shared mapping, writable unless the kernel is against that.
fn as_writable_as_can_be(file: &File) -> io::Result<Mapping> {
    let map = Mapping::shared(file, READ)?;
    let _ = map.make_writable();
    Ok(map)
}

fn madvise_remove(file: &File) -> io::Result<()> {
    let map = as_writable_as_can_be(file)?;
    // SAFETY: it is a whole mapping of ours, and no reference to it exists.
    Ok(unsafe { rustix::mm::madvise(map.start().cast(), map.len(), Advice::LinuxRemove) }?)
}

fn read_into_mapping(file: &File) -> io::Result<()> {
    let map = as_writable_as_can_be(file)?;
    let evil = evil_file()?;
    // SAFETY: the memory is mapped, and no reference to it exists. If it is not writable the kernel
    // notices.
    let count = unsafe { libc::read(evil.as_raw_fd(), map.start().cast(), EVIL.len()) };
    all(usize::try_from(count).map_err(|_| io::Error::last_os_error())?)
}

fn process_vm_writev(file: &File) -> io::Result<()> {
    let map = as_writable_as_can_be(file)?;
    let from = libc::iovec { iov_base: EVIL.as_ptr().cast_mut().cast(), iov_len: EVIL.len() };
    let to = libc::iovec { iov_base: map.start().cast(), iov_len: EVIL.len() };
    let this = std::process::id() as libc::pid_t;
    // SAFETY: both memories are mapped, and no reference to the target exists.
    let count = unsafe { libc::process_vm_writev(this, &from, 1, &to, 1, 0) };
    all(usize::try_from(count).map_err(|_| io::Error::last_os_error())?)
}

fn proc_self_mem(file: &File) -> io::Result<()> {
    let map = as_writable_as_can_be(file)?;
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    memory.write_all_at(EVIL, map.start().addr() as u64)
}

/// Four pages, of which the second and the last are holes.
fn target_draft() -> io::Result<SealedFile<Unsealed>> {
    let page = rustix::param::page_size();
    let mut draft = SealedFile::create("target")?;
    draft.set_len(4 * page as u64)?;
    draft.write_at(&vec![0x5a; page], 0)?;
    draft.write_at(&vec![0xa5; page], 2 * page as u64)?;
    Ok(draft)
}

fn unsealed_target() -> io::Result<File> {
    Ok(target_draft()?.into_file())
}

fn sealed_target() -> SealedFile {
    target_draft().unwrap().seal_read_only().unwrap()
}

/// Runs `attack` on a file without seals and panics if no mapping or reader can tell.
fn assert_harmful(name: &str, attack: impl FnOnce(&File) -> io::Result<()>) {
    let file = unsealed_target().unwrap();
    let map = Mapping::shared(&file, READ).unwrap();
    let (before, shown) = (contents(&file), map.checksum());
    attack(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
    let after = contents(&file);
    assert_ne!(after, before, "{name} changes nothing, so it is no attack");
    // A shorter file is a SIGBUS.
    if after.len() == before.len() {
        assert_ne!(map.checksum(), shown, "{name} does not reach a mapping");
    }
}

/// Runs `attack` on a file, panics if a map of it or the file itself changes, and returns the answer.
fn unchanged_by<T>(
    name: &str,
    file: &File,
    map: impl Fn() -> Vec<u8>,
    attack: impl FnOnce(&File) -> T,
) -> T {
    let (seals, before) = (get_seals(file).unwrap(), contents(file));
    assert!(map() == before);
    let answer = attack(file);
    assert!(map() == before, "{name} changed a map");
    assert!(contents(file) == before, "{name} changed the file");
    assert_eq!(get_seals(file).unwrap(), seals, "{name} changed the seals");
    answer
}

/// Runs `attack` on a sealed file, panics if anything about the file changes, and returns the answer.
fn assert_harmless<T>(name: &str, attack: impl FnOnce(&File) -> T) -> T {
    let sealed = sealed_target();
    let map = sealed.map_read_only().unwrap();
    let file = File::from(sealed.try_clone().unwrap());

    let answer = unchanged_by(name, &file, || map.to_vec(), attack);
    assert!(sealed.map_read_only().unwrap()[..] == map[..], "{name} changed a later map");
    if let Err(error) = SealedFile::receive_read_only(file, &SealPolicy::new()) {
        panic!("after {name} a receiver says: {error}");
    }
    answer
}

/// What an attacker has of a live file.
type Description = fn(&Producer) -> File;

const LIVE: [Description; 2] = [
    |producer| producer.file().try_clone().unwrap().into(),
    // Its owner can get at this one, in spite of the mode.
    |producer| {
        let file = File::from(producer.file().try_clone().unwrap());
        file.set_permissions(Permissions::from_mode(0o666)).unwrap();
        open_writable(&file).unwrap()
    },
];

/// Runs `attack` on a live file, and once more when it is finished; panics if anything about the
/// file changes but what its producer writes, and returns both answers. `None` where the system has
/// no producers: then that is what is checked.
fn assert_harmless_to_live<T>(
    name: &str,
    description: Description,
    mut attack: impl FnMut(&File) -> T,
) -> Option<[T; 2]> {
    let bytes = contents(&unsealed_target().unwrap());
    let built = Producer::build("live", bytes.len() as u64, |target| {
        target.copy_from_slice(&bytes);
        Ok(())
    });
    let mut producer = live(built)?;
    let file = description(&producer);
    let map = producer.file().map_live().unwrap();
    let shown = || map.to_vec(..).unwrap();
    let while_live = unchanged_by(name, &file, shown, &mut attack);

    let same_file = file.try_clone().unwrap();
    let received = SealedFile::receive_future_write(same_file, &SealPolicy::new())
        .unwrap_or_else(|error| panic!("after {name} a receiver says: {error}"));
    producer.write_at(5, b"news").unwrap();
    let expected = [&bytes[..5], b"news", &bytes[9..]].concat();
    assert!(shown() == expected, "after {name} the map is another file's");
    assert!(received.map_live().unwrap().to_vec(..).unwrap() == expected, "{name}: a later map");

    let finished = producer.finish().unwrap_or_else(|error| panic!("after {name}: {error}"));
    let finished = finished.map_read_only().unwrap();
    let when_finished = unchanged_by(name, &file, || finished.to_vec(), attack);
    assert!(finished[..] == expected && shown() == expected, "{name}: when finished");
    Some([while_live, when_finished])
}

fn assert_one_of(name: &str, errnos: &[Errno], error: Option<i32>) {
    let expected = errnos.iter().any(|errno| Some(errno.raw_os_error()) == error);
    assert!(expected, "{name}: errno {error:?} instead of {errnos:?}");
}

#[test]
fn every_attack_changes_a_file_without_seals() {
    for (name, attack, _) in ATTACKS {
        assert_harmful(name, attack);
    }
}

#[test]
fn no_attack_changes_a_sealed_file() {
    for (name, attack, errnos) in ATTACKS {
        let error = assert_harmless(name, attack).expect_err(name);
        assert_one_of(name, errnos, error.raw_os_error());
    }
}

#[test]
fn no_attack_changes_a_sealed_file_through_a_read_only_fd() {
    for (name, attack, _) in ATTACKS {
        assert_harmless(name, |file| {
            attack(&File::open(proc_path(file)).unwrap()).expect_err(name);
        });
    }
}

#[test]
fn no_attack_changes_a_live_file_through_any_description() {
    for (name, attack, errnos) in ATTACKS {
        let [shared, writable] = LIVE.map(|of| assert_harmless_to_live(name, of, attack));
        for answer in shared.into_iter().flatten() {
            answer.expect_err(name);
        }
        for answer in writable.into_iter().flatten() {
            assert_one_of(name, errnos, answer.expect_err(name).raw_os_error());
        }
    }
}

#[test]
fn every_attack_of_another_process_changes_an_unsealed_file() {
    for (name, ..) in ATTACKS {
        assert_harmful(name, |file| match Peer::start(ENTRY, name, file).channel.hear().as_str() {
            "0" => Ok(()),
            answer => Err(io::Error::other(answer)),
        });
    }
}

#[test]
fn no_attack_from_another_process_changes_a_sealed_file() {
    for (name, _, errnos) in ATTACKS {
        let answer = assert_harmless(name, |file| Peer::start(ENTRY, name, file).channel.hear());
        assert_one_of(name, errnos, answer.parse().ok());
    }
}

#[test]
fn no_attack_from_another_process_changes_a_live_file() {
    for (name, _, errnos) in ATTACKS {
        let attack = |file: &File| Peer::start(ENTRY, name, file).channel.hear().parse().ok();
        let [shared, writable] = LIVE.map(|of| assert_harmless_to_live(name, of, attack));
        for errno in shared.into_iter().flatten() {
            assert!(errno.is_some_and(|errno| errno > 0), "{name}: {errno:?}");
        }
        for errno in writable.into_iter().flatten() {
            assert_one_of(name, errnos, errno);
        }
    }
}

/// Not a promise: the other process.
#[test]
fn role_of_another_process() {
    let Some(mut role) = process::role() else { return };
    let (_, attack, _) = ATTACKS.iter().find(|(name, ..)| *name == role.name).unwrap();
    answer(&mut role.parent, attack(&role.fd.into()));
}

fn answer(channel: &mut Channel, done: io::Result<()>) {
    match done {
        Ok(()) => channel.tell(0),
        Err(error) => {
            channel.tell(error.raw_os_error().map_or(error.to_string(), |n| n.to_string()))
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
#[test]
fn io_uring_cannot_write_an_immutable_or_a_live_file() {
    eprintln!("not tested, the crate for it does not know this processor");
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
#[test]
fn io_uring_cannot_write_an_immutable_or_a_live_file() {
    use io_uring::{IoUring, opcode, types};

    let mut ring = match IoUring::new(1) {
        Err(error) => {
            let known = [Errno::NOSYS, Errno::PERM, Errno::ACCESS, Errno::NOMEM];
            assert_one_of("io_uring", &known, error.raw_os_error());
            return eprintln!("not tested, there is no io_uring here: {error}");
        }
        Ok(ring) => ring,
    };
    let mut write = |file: &File| -> io::Result<()> {
        let fd = types::Fd(file.as_raw_fd());
        let iovec = libc::iovec { iov_base: EVIL.as_ptr().cast_mut().cast(), iov_len: EVIL.len() };
        let entry = opcode::Writev::new(fd, &iovec, 1).build();
        // SAFETY: the bytes are static, and the vector and the file outlive the call below.
        unsafe { ring.submission().push(&entry) }.unwrap();
        ring.submit_and_wait(1)?;
        let result = ring.completion().next().unwrap().result();
        all(usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))?)
    };
    assert_harmful("io_uring", &mut write);
    let error = assert_harmless("io_uring", &mut write).unwrap_err();
    assert_one_of("io_uring", &[Errno::PERM], error.raw_os_error());
    for (of, errno) in LIVE.into_iter().zip([Errno::BADF, Errno::PERM]) {
        for answer in assert_harmless_to_live("io_uring", of, &mut write).into_iter().flatten() {
            assert_one_of("io_uring", &[errno], answer.unwrap_err().raw_os_error());
        }
    }
}

#[test]
fn userfaultfd_cannot_fill_pages_of_an_immutable_or_live_file() {
    const USER_MODE_ONLY: libc::c_int = 1;
    // Before Linux 5.11 there is no such flag, and none is needed.
    let fd = [USER_MODE_ONLY, 0].into_iter().find_map(|flag| {
        // SAFETY: the call takes a number and returns one.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | flag) };
        (fd >= 0).then_some(fd)
    });
    let Some(fd) = fd else {
        let error = io::Error::last_os_error();
        assert_one_of("userfaultfd", &[Errno::NOSYS, Errno::PERM], error.raw_os_error());
        return eprintln!("not tested, there is no userfaultfd here: {error}");
    };
    // SAFETY: the kernel has just returned it.
    let faults = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
    let control = |request: libc::c_ulong, mut argument: [u64; 5]| {
        // SAFETY: none of the requests below has an argument of more than 40 bytes, and the memory
        // that they name is mapped and has no reference to it.
        let done = unsafe { libc::ioctl(faults.as_raw_fd(), request as _, argument.as_mut_ptr()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    const API: libc::c_ulong = 0xc018_aa3f;
    const REGISTER: libc::c_ulong = 0xc020_aa00;
    const COPY: libc::c_ulong = 0xc028_aa03;
    control(API, [0xaa, 0, 0, 0, 0]).unwrap();

    let page = rustix::param::page_size();
    let evil = vec![b'!'; page];
    let fill = |file: &File| {
        let map = as_writable_as_can_be(file)?;
        let start = map.start().addr() as u64;
        const MISSING_PAGES: u64 = 1;
        // Whoever looked at the hole has filled it.
        let _ = punch_page(file, 1);
        control(REGISTER, [start, map.len() as u64, MISSING_PAGES, 0, 0])?;
        control(COPY, [start + page as u64, evil.as_ptr().addr() as u64, page as u64, 0, 0])
    };
    assert_harmful("userfaultfd", fill);
    let error = assert_harmless("userfaultfd", fill).unwrap_err();
    assert_one_of("userfaultfd", &[Errno::PERM], error.raw_os_error());
    for of in LIVE {
        for answer in assert_harmless_to_live("userfaultfd", of, fill).into_iter().flatten() {
            assert_one_of("userfaultfd", &[Errno::PERM], answer.unwrap_err().raw_os_error());
        }
    }
}

/// Linux before 6.3 does not know `EXEC`, and says so first.
fn assert_final(seals: Seals, error: &io::Error) {
    let unknown = seals.contains(Seals::EXEC).then_some(Errno::INVAL);
    let errnos: Vec<_> = unknown.into_iter().chain([Errno::PERM]).collect();
    assert_one_of("F_ADD_SEALS", &errnos, error.raw_os_error());
}

#[test]
fn seals_are_never_removed_and_none_is_added() {
    let every_set = (0..64).map(Seals::from_bits_retain);
    for seals in every_set.clone() {
        let error = assert_harmless("F_ADD_SEALS", |file| add_seals(file, seals)).unwrap_err();
        assert_final(seals, &error);
    }

    let file = unsealed_target().unwrap();
    for seals in every_set.filter(|seals| (*seals & (Seals::SEAL | Seals::EXEC)).is_empty()) {
        let before = get_seals(&file).unwrap();
        let _ = add_seals(&file, seals);
        assert!(get_seals(&file).unwrap().contains(before), "adding {seals} removed some");
    }
    assert!(get_seals(&file).unwrap().contains(Seals::GROW | Seals::SHRINK | Seals::WRITE));
}

/// With an executable mode, a file without the seal against it can be sealed in a way that some
/// kernels do not enforce.
#[test]
fn executable_bits_change_nothing_about_a_sealed_file() {
    let attempts: [(&str, Attack); 2] = [
        ("chmod", |file| file.set_permissions(Permissions::from_mode(0o777))),
        ("an access control list", |file| Ok(make_executable_by_acl(file)?)),
    ];
    for (name, make_executable) in attempts {
        assert_harmless(name, |file| {
            let _ = make_executable(file);
            let error = add_seals(file, Seals::EXEC).unwrap_err();
            assert_final(Seals::EXEC, &error);
            for (attack_name, attack, _) in ATTACKS {
                attack(file).expect_err(attack_name);
            }
        });
    }

    match CreateOptions::new().executable(true).create("executable") {
        Err(error) => {
            assert_one_of("executable", &[Errno::ACCESS], error.raw_os_error());
            eprintln!("no control: executable files are forbidden here (vm.memfd_noexec=2)");
        }
        Ok(executable) => {
            let file = executable.into_file();
            match add_seals(&file, Seals::EXEC) {
                Ok(()) => assert!(get_seals(&file).unwrap().contains(Seals::WRITE)),
                Err(error) => {
                    assert_one_of("executable", &[Errno::INVAL], error.raw_os_error());
                    eprintln!("no control: this kernel does not have the seal");
                }
            }
        }
    }
}

#[test]
fn what_stays_allowed_changes_nothing() {
    const ALLOWED: &[(&str, Attack)] = &[
        ("opening for writing", |file| open_writable(file).map(drop)),
        ("filling holes", |file| Ok(fallocate(file, FallocateFlags::empty(), 0, 4096)?)),
        ("chmod", |file| file.set_permissions(Permissions::from_mode(0o600))),
        ("a store into a private mapping", |file| {
            let len = file.metadata()?.len() as usize;
            Mapping::new(file, len, READ_WRITE, MapFlags::PRIVATE)?.stamp(b'!');
            Ok(())
        }),
        ("dropping the pages of a mapping", |file| {
            let len = file.metadata()?.len() as usize;
            let map = Mapping::new(file, len, READ, MapFlags::PRIVATE)?;
            let advice = Advice::LinuxDontNeed;
            // SAFETY: it is a whole mapping of ours, and no reference to it exists.
            Ok(unsafe { rustix::mm::madvise(map.start().cast(), map.len(), advice) }?)
        }),
        ("a lock", |file| Ok(rustix::fs::flock(file, rustix::fs::FlockOperation::LockExclusive)?)),
    ];
    for (name, allowed) in ALLOWED {
        assert_harmless(name, allowed).unwrap_or_else(|e| panic!("{name}: {e}"));
        // Some take a descriptor that can write.
        for of in LIVE {
            let _ = assert_harmless_to_live(name, of, allowed);
        }
    }
    // Whether these are allowed depends on the kernel.
    const PERHAPS: &[(&str, Attack)] = &[
        ("an attribute", |file| {
            Ok(rustix::fs::fsetxattr(file, c"user.name", EVIL, XattrFlags::empty())?)
        }),
        ("collapsing a range", |file| {
            Ok(fallocate(file, FallocateFlags::COLLAPSE_RANGE, 0, 4096)?)
        }),
        ("zeroing a range", |file| Ok(fallocate(file, FallocateFlags::ZERO_RANGE, 0, 4096)?)),
        ("reserving beyond the end", |file| {
            Ok(fallocate(file, FallocateFlags::KEEP_SIZE, 1 << 20, 4096)?)
        }),
    ];
    for (name, perhaps) in PERHAPS {
        let _ = assert_harmless(name, perhaps);
        for of in LIVE {
            let _ = assert_harmless_to_live(name, of, perhaps);
        }
    }
}
