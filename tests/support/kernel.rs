//! Attempts to break a seal, files to try them on, and raw mappings.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::RwLock;

use rustix::fs::{FallocateFlags, fallocate, sendfile};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use sealed_mmap::{CreateOptions, Seals, add_seals, get_seals};

use super::files::{contents, proc_path, punch_hole};
use super::mapping::{Mapping, READ, READ_WRITE};
use super::process::Forked;

pub(crate) const LEN: u64 = 128 << 10; // whole pages, for every page size up to 64 KiB
pub(crate) const SEAL: Seals = Seals::SEAL;
pub(crate) const SHRINK: Seals = Seals::SHRINK;
pub(crate) const GROW: Seals = Seals::GROW;
pub(crate) const WRITE: Seals = Seals::WRITE;
pub(crate) const FUTURE_WRITE: Seals = Seals::FUTURE_WRITE;
pub(crate) const EXEC: Seals = Seals::EXEC;
pub(crate) const NONE: Seals = Seals::empty();
pub(crate) const FIXED_SIZE: Seals = SHRINK.union(GROW);
pub(crate) const IMPLIED_BY_EXEC: Seals = FIXED_SIZE.union(WRITE).union(FUTURE_WRITE).union(EXEC);

pub(crate) type Attempt = fn(&File) -> io::Result<()>;

pub(crate) const WRITES: [(&str, Attempt); 6] = [
    ("write(2)", |file| file.write_all_at(b"!", 0)),
    ("sendfile(2)", |file| Ok(sendfile(file, draft(), Some(&mut 0), 1).map(drop)?)),
    ("a shared writable mapping", |file| map_shared(file).map(drop)),
    ("a shared write-only mapping", |file| map(file, ProtFlags::WRITE, MapFlags::SHARED).map(drop)),
    ("mprotect of a shared read-only mapping", |file| Ok(map_read_only(file)?.make_writable()?)),
    ("punching a hole", |file| punch_hole(file, 0, LEN)),
];
pub(crate) const SHRINKS: [(&str, Attempt); 2] = [
    ("ftruncate downwards", |file| file.set_len(LEN / 2)),
    ("open with O_TRUNC", |file| {
        File::options().write(true).truncate(true).open(proc_path(file)).map(drop)
    }),
];
pub(crate) const GROWTHS: [(&str, Attempt); 2] = [
    ("ftruncate upwards", |file| file.set_len(LEN * 2)),
    ("fallocate past the end", |file| allocate(file, LEN * 2)),
];
pub(crate) const APPENDS: [(&str, Attempt); 1] =
    [("write(2) at the end", |file| file.write_all_at(b"!", LEN))];

pub(crate) fn draft() -> File {
    fill(CreateOptions::new().create("kernel-contract").unwrap().into_file())
}

/// A file with the mode 0777, and a kernel that can seal it. `None` says why, and checks the reason.
pub(crate) fn exec_draft() -> Option<File> {
    if !exec_seal_exists() {
        return None;
    }
    match CreateOptions::new().executable(true).create("kernel-contract") {
        Ok(file) => Some(fill(file.into_file())),
        Err(error) => {
            fails_with("an executable memfd", Err::<(), _>(error), Errno::ACCESS);
            assert_eq!(memfd_noexec(), Some(2));
            eprintln!("vm.memfd_noexec=2: executable memfds are refused (EACCES)");
            None
        }
    }
}

/// False before Linux 6.3, where the seal must be invalid.
pub(crate) fn exec_seal_exists() -> bool {
    let outcome = add_seals(draft(), EXEC);
    let exists = outcome.is_ok();
    if !exists {
        fails_with("EXEC", outcome, Errno::INVAL);
        eprintln!("this kernel does not know F_SEAL_EXEC (EINVAL)");
    }
    exists
}

pub(crate) fn fill(file: File) -> File {
    file.write_all_at(&b"a".repeat(LEN as usize), 0).unwrap();
    file
}

pub(crate) fn sealed_draft(seals: Seals) -> File {
    let file = draft();
    add_seals(&file, seals).unwrap();
    file
}

pub(crate) fn shared(file: File) -> (File, Mapping) {
    let mapping = map_shared(&file).unwrap();
    (file, mapping)
}

/// EXEC aside, which drafts carry where the kernel knows it.
#[track_caller]
pub(crate) fn assert_seals(file: &File, expected: Seals) {
    assert_eq!(get_seals(file).unwrap() - EXEC, expected);
}

pub(crate) fn allocate(file: &File, len: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::empty(), 0, len)?)
}

pub(crate) fn chmod(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode))
}

pub(crate) fn mode(file: &File) -> u32 {
    file.metadata().unwrap().mode() & 0o7777
}

pub(crate) fn memfd_noexec() -> Option<u8> {
    fs::read_to_string("/proc/sys/vm/memfd_noexec").ok()?.trim().parse().ok()
}

#[track_caller]
pub(crate) fn fails_with<T>(what: &str, outcome: io::Result<T>, expected: Errno) {
    let error = outcome.err().unwrap_or_else(|| panic!("{what} succeeded"));
    assert_eq!(Errno::from_io_error(&error), Some(expected), "{what}");
}

/// Refused with EPERM, or EACCES where `mprotect` is the first to object; the file stays as it was.
#[track_caller]
pub(crate) fn all_refused(file: &File, attempts: &[(&str, Attempt)]) {
    let before = contents(file);
    for (what, attempt) in attempts {
        let error = attempt(file).err().unwrap_or_else(|| panic!("{what} succeeded"));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{what}: {error}");
        assert!(contents(file) == before, "{what} changed the file");
    }
}

#[track_caller]
pub(crate) fn all_allowed(fresh: impl Fn() -> File, attempts: &[(&str, Attempt)]) {
    for (what, attempt) in attempts {
        attempt(&fresh()).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

/// Mappings are kept from children, but not in the instant before `madvise`: no fork may happen then.
static FORK: RwLock<()> = RwLock::new(());

/// All bytes of a file.
pub(crate) fn map(file: &File, access: ProtFlags, flags: MapFlags) -> io::Result<Mapping> {
    let len = file.metadata()?.len() as usize;
    let _no_fork = FORK.read().unwrap();
    let mapping = Mapping::new(file, len, access, flags)?;
    mapping.advise(Advice::LinuxDontFork)?;
    Ok(mapping)
}

pub(crate) fn map_shared(file: &File) -> io::Result<Mapping> {
    map(file, READ_WRITE, MapFlags::SHARED)
}

pub(crate) fn map_read_only(file: &File) -> io::Result<Mapping> {
    map(file, READ, MapFlags::SHARED)
}

pub(crate) fn map_private(file: &File) -> io::Result<Mapping> {
    map(file, READ_WRITE, MapFlags::PRIVATE)
}

pub(crate) fn map_private_read_only(file: &File) -> io::Result<Mapping> {
    map(file, READ, MapFlags::PRIVATE)
}

/// Forks a child that runs `in_child` and stays until `meanwhile` has run; `left` is unmapped here, not
/// there. The child makes system calls only: it must not allocate, nor take a lock.
pub(crate) fn while_forked<T>(
    left: Option<Mapping>,
    in_child: impl FnOnce() -> io::Result<()>,
    meanwhile: impl FnOnce() -> T,
) -> T {
    let _alone = FORK.write().unwrap();
    if let Some(mapping) = &left {
        mapping.advise(Advice::LinuxDoFork).unwrap();
    }
    let mut child = Forked::that(|mut parent| {
        let _ = parent.write_all(&[u8::from(in_child().is_ok())]);
        let _ = parent.read(&mut [0]);
    });
    let mut succeeded = [0];
    child.line.read_exact(&mut succeeded).unwrap();
    assert_eq!(succeeded, [1], "the child's part");
    drop(left);
    meanwhile()
}
