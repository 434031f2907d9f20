//! Adding seals, and when the seals of a file can be trusted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use thiserror::Error;

use crate::failure::failed;
use crate::huge_pages::HugePages;
use crate::seals::Seals;
use crate::sys;

/// Returns the seals of the file behind any descriptor, for code outside the typestate.
///
/// The answer alone proves nothing: `WRITE` beside `EXEC` and `FUTURE_WRITE` is not always enforced (see
/// [`soundness`](crate::soundness)). [`SealedFile::receive_read_only`] knows when it is.
///
/// # Errors
///
/// * `EINVAL`: the file cannot carry seals (it is not in memory: not a memfd, tmpfs or hugetlbfs file).
/// * `EBADF`: the descriptor was opened with `O_PATH`.
///
/// # Platform-specific
///
/// On Linux a plain tmpfs file has [`Seals::SEAL`], and so does an object of `shm_open(3)`.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{SealedFile, Seals, get_seals};
///
/// let file = SealedFile::from_bytes("greeting", b"hello")?;
/// assert!(get_seals(&file)?.contains(Seals::WRITE | Seals::SHRINK));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// [`SealedFile::receive_read_only`]: crate::SealedFile::receive_read_only
#[doc(alias = "F_GET_SEALS")]
pub fn get_seals(fd: impl AsFd) -> io::Result<Seals> {
    sys::get_seals(fd.as_fd())
}

/// Adds seals to the file behind any descriptor, for code outside the typestate. Seals cannot be removed.
///
/// # Errors
///
/// * `EPERM`: the file carries [`Seals::SEAL`] (even if every named seal is present already), or
///   the descriptor is not open for writing.
/// * `EBUSY`: [`Seals::WRITE`] was requested, and a writable mapping exists or pages are pinned for
///   I/O (the kernel waits for pinned pages, for up to 205 ms measured). No seal was added.
/// * `EINVAL`: the file cannot carry seals, or the kernel does not know one of the seals:
///   [`Seals::FUTURE_WRITE`] before Linux 5.1, [`Seals::EXEC`] before Linux 6.3.
///
/// # Platform-specific
///
/// On FreeBSD [`Seals::FUTURE_WRITE`] and [`Seals::EXEC`] do not exist (`EINVAL`).
///
/// # Examples
///
/// ```
/// use sealed_mmap::{SealedFile, Seals, add_seals, get_seals};
///
/// let file = SealedFile::create("log")?.into_file();
/// add_seals(&file, Seals::GROW)?;
/// assert!(get_seals(&file)?.contains(Seals::GROW));
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "F_ADD_SEALS")]
pub fn add_seals(fd: impl AsFd, seals: Seals) -> io::Result<()> {
    sys::add_seals(fd.as_fd(), seals)
}

/// What prevented a file from being sealed.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{CreateOptions, SealFailure};
///
/// let file = CreateOptions::new().allow_sealing(false).create("open forever")?;
/// let error = file.seal_read_only().unwrap_err();
/// assert_eq!(error.reason(), SealFailure::NotAllowed);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum SealFailure {
    /// The file is mapped shared through a writable descriptor (`EBUSY` at once): in this process, in
    /// another one, or in a child that was forked while it was mapped. Unmap it there and retry.
    #[error("a writable mapping of it exists; unmap it and retry")]
    WritableMapping,
    /// Pages of the file are pinned for I/O (`EBUSY` after several retries, each of which waited):
    /// io_uring buffers, `vmsplice(2)`, udmabuf. Retry when that I/O has ended.
    #[error("its pages are pinned for I/O; retry when that I/O has finished")]
    PinnedPages,
    /// The file carries [`Seals::SEAL`], or its descriptor is not open for writing (`EPERM`).
    #[error(
        "no more seals can be added to it (F_SEAL_SEAL), or the descriptor is not open for writing"
    )]
    NotAllowed,
    /// The file or the kernel does not know one of the seals (`EINVAL`).
    #[error("the kernel does not know these seals")]
    Unsupported,
    /// The file carries [`Seals::EXEC`] and [`Seals::FUTURE_WRITE`], and this kernel does not enforce a
    /// write seal beside them (see [`Refusal::UntrustedWriteSeal`](crate::Refusal::UntrustedWriteSeal)).
    /// No retry helps: copy the file.
    #[error("this kernel does not enforce the write seal of a file that carries {}; copy the file",
        Seals::FUTURE_WRITE | Seals::EXEC)]
    UntrustedWriteSeal,
    /// The seals were added, but could not be read back to confirm that. The file that comes back carries
    /// them. Retry, which succeeds as soon as the kernel reports the seals.
    #[error("the seals were added, but could not be confirmed; retry")]
    Unconfirmed,
    /// Anything else, such as [a call that a sandbox denies](crate#errors), or a seal that
    /// [`seal_size`](crate::SealedFile::seal_size) does not add. The [error](crate::SealError::error) says
    /// what happened.
    #[error("the source of this error says why")]
    Other,
}

/// What prevented sealing, and the error that says more.
pub(crate) type Failure = (SealFailure, io::Error);

/// Adds `seals`, retrying transient `EBUSY`, and says why they cannot be added.
pub(crate) fn add_patiently(fd: BorrowedFd<'_>, seals: Seals) -> Result<(), Failure> {
    // For pinned pages the kernel itself waits 150 ms before it gives up (`memfd_wait_for_pins`); a
    // writable mapping is refused at once. How long a refusal took tells the two apart.
    const KERNEL_WAITED: Duration = Duration::from_millis(100);
    const TIMES_PINNED: u32 = 4;
    // A child that is forked while a mapping is made has it until it executes another program.
    const TIMES_MAPPED: u32 = 5;
    const OLDEST: Seals = Seals::SEAL.union(Seals::SHRINK).union(Seals::GROW).union(Seals::WRITE);

    let Err(mut error) = sys::add_seals(fd, seals) else {
        return Ok(());
    };
    let (mut pinned, mut mapped) = (0, 0);
    while error.kind() == io::ErrorKind::ResourceBusy
        && pinned < TIMES_PINNED
        && mapped < TIMES_MAPPED
    {
        sys::sleep(Duration::from_millis((1 << mapped) - 1));
        let start = Instant::now();
        match sys::add_seals(fd, seals) {
            Ok(()) => return Ok(()),
            Err(again) => error = again,
        }
        if start.elapsed() < KERNEL_WAITED {
            mapped += 1;
        } else {
            pinned += 1;
        }
    }
    Err(match Errno::from_io_error(&error) {
        Some(Errno::BUSY) if mapped == TIMES_MAPPED => (SealFailure::WritableMapping, error),
        Some(Errno::BUSY) => (SealFailure::PinnedPages, error),
        // An earlier attempt has added them, and could not confirm it.
        Some(Errno::PERM) if sys::get_seals(fd).is_ok_and(|present| present.contains(seals)) => {
            return Ok(());
        }
        Some(Errno::PERM) if is_refused_by_the_kernel(fd) => (SealFailure::NotAllowed, error),
        // Every kernel that reports seals knows the others.
        Some(Errno::INVAL) if !seals.difference(OLDEST).is_empty() => {
            (SealFailure::Unsupported, error)
        }
        _ => (SealFailure::Other, failed("add the seals (F_ADD_SEALS)")(error)),
    })
}

/// Whether it has been seen why the kernel would answer `EPERM`. If not, a sandbox may have answered.
fn is_refused_by_the_kernel(fd: BorrowedFd<'_>) -> bool {
    sys::get_seals(fd).is_ok_and(|seals| seals.contains(Seals::SEAL))
        || sys::access(fd).is_ok_and(|access| !access.write)
}

/// Adds `seals`, and confirms that `F_GET_SEALS` reports them, in a combination that the kernel enforces.
pub(crate) fn add_and_confirm(fd: BorrowedFd<'_>, seals: Seals) -> Result<(), Failure> {
    add_patiently(fd, seals)?;
    let unconfirmed =
        |error| (SealFailure::Unconfirmed, failed("confirm the seals (F_GET_SEALS)")(error));
    let present = sys::get_seals(fd).map_err(unconfirmed)?;
    if !present.contains(seals) {
        let message = format!("the kernel did not add the seals {seals} (present: {present})");
        return Err((SealFailure::Other, io::Error::other(message)));
    }
    expect_enforced(present)
}

/// The failure of a file that would carry `present`, if its write seal could not be trusted.
pub(crate) fn expect_enforced(present: Seals) -> Result<(), Failure> {
    if write_seal_is_enforced(present) {
        return Ok(());
    }
    let message = format!("the file carries the seals {present}");
    Err((SealFailure::UntrustedWriteSeal, io::Error::other(message)))
}

/// Whether `WRITE`, if it is among `present`, can be trusted: that nobody can write.
///
/// Linux 6.3 to mid-2026 adds `WRITE` and `FUTURE_WRITE` together with `EXEC` to an executable
/// memfd without looking for writable mappings (introduced by c4f75bc8bd6b, fixed by 3b041514cb6e).
/// Seals are never removed and that path sets all of them at once, so where one of the two is
/// absent `WRITE` came through the path that does look.
pub(crate) fn write_seal_is_enforced(present: Seals) -> bool {
    let unchecked_path = Seals::WRITE | Seals::EXEC | Seals::FUTURE_WRITE;
    !present.contains(unchecked_path) || kernel_checks_exec_seal()
}

/// Whether this kernel refuses `EXEC` on an executable file that has a writable mapping.
///
/// The attempt is not conclusive where the file cannot be created (`EACCES` under `vm.memfd_noexec=2`,
/// or no descriptors left). The kernel then counts as one that does not check, this time.
fn kernel_checks_exec_seal() -> bool {
    try_exec_seal().unwrap_or(false)
}

/// Tries it on a file of our own, and remembers the answer as soon as the attempt was conclusive. Only live
/// patching changes the answer while the kernel runs.
pub(crate) fn try_exec_seal() -> io::Result<bool> {
    static CHECKED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();

    if let Some(checked) = CHECKED.get() {
        return Ok(*checked);
    }
    let memfd = sys::Memfd { executable: true, allow_sealing: true, huge_pages: HugePages::None };
    let file = memfd.create(b"sealed-mmap-exec-seal-test")?;
    sys::set_len(&file, 1)?;
    let _writable = memmap2::MmapOptions::new().len(1).map_raw(&file)?;
    let refused = match sys::add_seals(file.as_fd(), Seals::EXEC) {
        Ok(()) if sys::get_seals(file.as_fd())?.contains(Seals::EXEC) => false,
        // A sandbox that ignores the call says nothing about the kernel.
        Ok(()) => return Err(io::Error::other("the seal exec was added, and is not reported")),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => true,
        Err(error) => return Err(error),
    };
    Ok(*CHECKED.get_or_init(|| refused))
}
