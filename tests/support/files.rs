//! Files as a peer could send them, made and observed without the crate, and what holds for every
//! refusal of one.

use std::error::Error;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use memmap2::MmapMut;
use rustix::fs::{
    FallocateFlags, FileType, MemfdFlags, Mode, OFlags, SealFlags, XattrFlags, fallocate,
    memfd_create,
};
use rustix::io::Errno;
use sealed_mmap::{ReceiveError, Refusal, SealPolicy, SealedFile, Seals};

use super::errno_in;

pub(crate) const IMMUTABLE: Seals = Seals::WRITE.union(Seals::SHRINK);
pub(crate) const LIVE: Seals = Seals::FUTURE_WRITE.union(Seals::SHRINK);
pub(crate) const WHOLE: Seals = IMMUTABLE.union(Seals::GROW).union(Seals::SEAL);
/// WRITE means little beside the other two, where the kernel does not check.
pub(crate) const UNCHECKED: Seals = Seals::WRITE.union(Seals::EXEC).union(Seals::FUTURE_WRITE);

/// An empty sealable memfd whose mode is not executable, so that EXEC brings no other seal. It
/// carries EXEC from the start only under `vm.memfd_noexec=2`.
pub(crate) fn memfd() -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create("from a peer", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3; under vm.memfd_noexec=2.
        Err(Errno::INVAL | Errno::ACCESS) => memfd_create("from a peer", flags).unwrap(),
        done => done.unwrap(),
    };
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o666)).unwrap();
    fd.into()
}

pub(crate) fn filled(bytes: &[u8]) -> File {
    let mut file = memfd();
    file.write_all(bytes).unwrap();
    file
}

pub(crate) fn sealed(bytes: &[u8], seals: Seals) -> File {
    let file = filled(bytes);
    seal(&file, seals).unwrap();
    file
}

/// A sealed file that is one hole.
pub(crate) fn hole(len: u64) -> SealedFile {
    let file = memfd();
    file.set_len(len).unwrap();
    seal(&file, WHOLE).unwrap();
    SealedFile::receive_read_only(file, &SealPolicy::new()).unwrap()
}

pub(crate) fn seal(fd: impl AsFd, seals: Seals) -> rustix::io::Result<()> {
    rustix::fs::fcntl_add_seals(fd, SealFlags::from_bits_retain(seals.bits()))
}

pub(crate) fn seals_of(fd: impl AsFd) -> Seals {
    Seals::from_bits_retain(rustix::fs::fcntl_get_seals(fd).unwrap().bits())
}

pub(crate) fn every_set() -> impl Iterator<Item = Seals> {
    (0..64).map(Seals::from_bits_retain)
}

/// Whether `errno` says that this kernel is too old for one of the seals.
pub(crate) fn is_too_old_for(seals: Seals, errno: Errno) -> bool {
    errno == Errno::INVAL && seals.intersects(Seals::FUTURE_WRITE | Seals::EXEC)
}

pub(crate) fn proc_path(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// A new description of the same file.
pub(crate) fn reopen(fd: impl AsFd, flags: OFlags) -> OwnedFd {
    rustix::fs::open(proc_path(&fd), flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

pub(crate) fn read_write(file: &File) -> File {
    reopen(file, OFlags::RDWR).into()
}

pub(crate) fn read_only(file: &File) -> File {
    reopen(file, OFlags::RDONLY).into()
}

pub(crate) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
}

pub(crate) fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[allow(unsafe_code, reason = "the writable mapping that a hostile peer keeps")]
pub(crate) fn map_writable(file: &File) -> MmapMut {
    // SAFETY: nothing in this process holds a reference into the file when it is written.
    unsafe { MmapMut::map_mut(file) }.unwrap()
}

/// Whether the kernel looks for writers before it adds WRITE with EXEC; `None` where it cannot be
/// tried: there is no EXEC before Linux 6.3, and no executable file under `vm.memfd_noexec=2`.
pub(crate) fn exec_seal_is_checked() -> Option<bool> {
    static CHECKED: OnceLock<Option<bool>> = OnceLock::new();
    *CHECKED.get_or_init(|| {
        let file = executable()?;
        file.set_len(1).unwrap();
        let _writable = map_writable(&file);
        match seal(&file, Seals::EXEC) {
            Ok(()) => Some(false),
            Err(errno) => {
                assert_eq!(errno, Errno::BUSY);
                Some(true)
            }
        }
    })
}

/// A sealable file to which the kernel adds other seals together with EXEC.
pub(crate) fn executable() -> Option<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::EXEC;
    match memfd_create("executable", flags) {
        Ok(fd) => Some(fd.into()),
        Err(errno) => {
            assert!(matches!(errno, Errno::INVAL | Errno::ACCESS), "{errno}");
            eprintln!("no executable memfd to be had: before Linux 6.3, or vm.memfd_noexec=2");
            None
        }
    }
}

/// Sets all executable bits the way that the seal against it does not cover.
pub(crate) fn make_executable_by_acl(file: &File) -> rustix::io::Result<()> {
    const VERSION: u32 = 2;
    const OWNER_GROUP_OTHERS: [u16; 3] = [0x01, 0x04, 0x20];
    const ALL: u16 = 7;
    const NOBODY_IN_PARTICULAR: u32 = u32::MAX;

    let mut acl = VERSION.to_le_bytes().to_vec();
    for tag in OWNER_GROUP_OTHERS {
        acl.extend(tag.to_le_bytes());
        acl.extend(ALL.to_le_bytes());
        acl.extend(NOBODY_IN_PARTICULAR.to_le_bytes());
    }
    rustix::fs::fsetxattr(file, c"system.posix_acl_access", &acl, XattrFlags::empty())
}

/// Whether WRITE among `present` can be relied on.
pub(crate) fn write_seal_counts(present: Seals) -> bool {
    !present.contains(UNCHECKED) || exec_seal_is_checked() == Some(true)
}

/// Directories where this process can make files, and whether each is on tmpfs.
fn directories() -> impl Iterator<Item = (PathBuf, bool)> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let beside_the_test = std::env::current_exe().unwrap();
    [
        std::env::temp_dir(),
        "/dev/shm".into(),
        "/dev".into(),
        "/var/tmp".into(),
        beside_the_test.parent().unwrap().into(),
    ]
    .into_iter()
    .filter_map(|directory| {
        drop(unlinked(&directory, b"")?);
        let on_tmpfs = rustix::fs::statfs(&directory).unwrap().f_type as i64 == TMPFS_MAGIC;
        Some((directory, on_tmpfs))
    })
}

/// The first of those on tmpfs.
pub(crate) fn tmpfs() -> Option<PathBuf> {
    let found = directories().find(|(_, on_tmpfs)| *on_tmpfs);
    if found.is_none() {
        eprintln!("no tmpfs here that this user can write to");
    }
    found.map(|(directory, _)| directory)
}

/// A file on tmpfs that nobody else can find.
pub(crate) fn tmpfs_file(bytes: &[u8]) -> Option<File> {
    Some(unlinked(&tmpfs()?, bytes).unwrap())
}

/// A file that is not on tmpfs.
pub(crate) fn ordinary_file(bytes: &[u8]) -> File {
    let (directory, _) = directories().find(|(_, on_tmpfs)| !on_tmpfs).expect("a disk, or ramfs");
    unlinked(&directory, bytes).unwrap()
}

fn unlinked(directory: &Path, bytes: &[u8]) -> Option<File> {
    let thread = std::thread::current().id();
    let path = directory.join(format!("sealed-mmap {} {thread:?}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).ok()?;
    std::fs::remove_file(path).unwrap();
    file.write_all(bytes).unwrap();
    Some(file)
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Everything about a file and its description that a receiver has to leave alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) inode: (u64, u64),
    mode: u32,
    owner: u32,
    len: i64,
    seals: Result<u32, Errno>,
    offset: Result<u64, Errno>,
    status: OFlags,
    start: Option<Vec<u8>>,
}

pub(crate) fn look(fd: BorrowedFd<'_>) -> Look {
    let stat = rustix::fs::fstat(fd).unwrap();
    let start = (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| {
        let mut bytes = vec![0; stat.st_size.clamp(0, 4096) as usize];
        let file = File::from(fd.try_clone_to_owned().unwrap());
        file.read_exact_at(&mut bytes, 0).map(|()| bytes).ok()
    });
    Look {
        inode: (stat.st_dev, stat.st_ino),
        mode: stat.st_mode,
        owner: stat.st_uid,
        len: stat.st_size,
        seals: rustix::fs::fcntl_get_seals(fd).map(|seals| seals.bits()),
        offset: rustix::fs::tell(fd),
        status: rustix::fs::fcntl_getfl(fd).unwrap(),
        start: start.flatten(),
    }
}

/// Why `take` refuses the descriptor, and that descriptor. Checks what every refusal promises: the
/// same descriptor comes back, nothing about its file has changed, the message is one line with the
/// cause and what helps, and the conversion into `io::Error` keeps the errno or has the documented kind.
pub(crate) fn refused<T: Debug>(
    fd: impl Into<OwnedFd>,
    take: impl Fn(OwnedFd) -> Result<T, ReceiveError>,
) -> (Refusal, OwnedFd) {
    let fd = fd.into();
    let number = fd.as_raw_fd();
    let before = look(fd.as_fd());

    let error = take(fd).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&error.reason().to_string()), "{message}");
    assert!(!message.contains('\n') && message.len() < 300, "{message}");
    for words in cause_and_remedy(error.reason()) {
        assert!(message.contains(&words), "{words:?} in {message:?}");
    }
    if let Some(source) = error.source() {
        assert!(!message.contains(&source.to_string()), "its source is not repeated: {message}");
    }
    assert_eq!(error.fd().as_raw_fd(), number);
    assert_eq!(look(error.fd()), before);

    // The descriptor is as good as before: it is refused again, in the same way.
    let same_file = error.fd().try_clone_to_owned().unwrap();
    let converted = io::Error::from(take(same_file).unwrap_err());
    let expected = match error.reason() {
        Refusal::NotSealable(kernels)
        | Refusal::CannotSeal { error: kernels, .. }
        | Refusal::CannotReserve(kernels)
        | Refusal::Io(kernels) => {
            assert!(errno_in(&converted).is_some(), "{kernels:?}");
            assert_eq!(errno_in(&converted), errno_in(kernels));
            kernels.kind()
        }
        Refusal::NotReadable | Refusal::Owner { .. } => ErrorKind::PermissionDenied,
        _ => ErrorKind::InvalidData,
    };
    assert_eq!((converted.kind(), converted.raw_os_error()), (expected, None));
    assert_eq!(converted.to_string(), message);
    assert!(converted.get_ref().unwrap().is::<ReceiveError<()>>());

    let (refusal, fd) = error.into_parts();
    assert_eq!(fd.as_raw_fd(), number);
    assert_eq!(look(fd.as_fd()), before);
    (refusal, fd)
}

fn cause_and_remedy(refusal: &Refusal) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
    match refusal {
        Refusal::NotReadable => words(&["not open for reading", "O_RDONLY or O_RDWR"]),
        Refusal::NotSealable(_) => words(&["cannot carry seals", "memfd_create", "copy it"]),
        Refusal::MissingSeals { missing, present } => {
            assert!(!missing.is_empty() && !missing.intersects(*present));
            let remedy = if missing.contains(Seals::WRITE) && present.contains(LIVE) {
                "receive_future_write"
            } else if missing.contains(Seals::FUTURE_WRITE) && present.contains(IMMUTABLE) {
                "receive_read_only"
            } else if present.contains(Seals::SEAL) {
                "MFD_ALLOW_SEALING"
            } else {
                "F_ADD_SEALS"
            };
            vec![format!("lacks the seals {missing} (present: {present})"), remedy.into()]
        }
        Refusal::ForbiddenSeals { forbidden, present } => {
            assert!(!forbidden.is_empty() && present.contains(*forbidden));
            let seals = format!("the seals {forbidden} (present: {present})");
            vec![seals, "policy forbids".into(), "make another file".into()]
        }
        Refusal::UntrustedWriteSeal => words(&["write seal", "MFD_NOEXEC_SEAL", "copy it"]),
        Refusal::HugeTlb => words(&["hugetlb", "SealPolicy::allow_hugetlb"]),
        Refusal::Length { len, .. } => vec![format!("{len} bytes"), "SealPolicy::len".into()],
        Refusal::Owner { expected, found } => {
            vec![format!("uid {expected}"), format!("uid {found}"), "SealPolicy::owner".into()]
        }
        Refusal::CannotSeal { reason, .. } => vec!["cannot seal".into(), reason.to_string()],
        Refusal::CannotReserve(error) => match error.kind() {
            ErrorKind::OutOfMemory | ErrorKind::StorageFull => {
                words(&["cannot reserve memory", "too little", "SealPolicy::len"])
            }
            _ => words(&["cannot reserve memory", "writable", "SealPolicy::reserve"]),
        },
        Refusal::Io(_) => words(&["cannot look at the file"]),
        other => panic!("a new refusal: {other:?}"),
    }
}
