//! A descriptor from elsewhere: what is observed of its file, whether that is accepted, and the error
//! that gives it back.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::failure;
use crate::policy::{Facts, Kernel, Refusal, SealPolicy};
use crate::sealing;
use crate::seals::Seals;
use crate::state::State;
use crate::sys::{self, Extent};

/// The order matters: the seals first, for only `SHRINK` makes the length that is read after it a
/// lower bound forever, whatever a hostile holder of the same file does meanwhile.
pub(super) fn observe(fd: BorrowedFd<'_>) -> Result<Facts, Refusal> {
    if !sys::access(fd).map_err(Refusal::Io)?.read {
        return Err(Refusal::NotReadable);
    }
    let seals = sys::get_seals(fd).map_err(|error| match Errno::from_io_error(&error) {
        // fcntl(2): "fd does not support sealing".
        Some(Errno::INVAL) => Refusal::NotSealable(error),
        _ => Refusal::Io(error),
    })?;
    let stat = sys::stat(fd).map_err(Refusal::Io)?;
    let extent = sys::extent(fd, &stat).map_err(Refusal::Io)?;
    Ok(Facts { seals, extent, owner: stat.owner, is_executable: stat.is_executable })
}

/// Observes, judges, and reserves. On success `F_GET_SEALS` has reported `S::REQUIRED`, in a
/// combination that the kernel enforces, and then the file had the extent that is returned.
pub(super) fn accept<S: State>(fd: BorrowedFd<'_>, policy: &SealPolicy) -> Result<Extent, Refusal> {
    judge_and_reserve::<S>(fd, &observe(fd)?, policy)
}

/// The rest of [`accept`]: `facts` are what [`observe`] has found.
pub(super) fn judge_and_reserve<S: State>(
    fd: BorrowedFd<'_>,
    facts: &Facts,
    policy: &SealPolicy,
) -> Result<Extent, Refusal> {
    policy.judge(facts, S::REQUIRED, &ThisKernel)?;
    if policy.reserves() {
        sys::reserve(fd, facts.extent.len).map_err(Refusal::CannotReserve)?;
    }
    Ok(facts.extent)
}

/// The one that runs.
pub(crate) struct ThisKernel;

impl Kernel for ThisKernel {
    fn enforces_write_seal(&self, present: Seals) -> bool {
        sealing::write_seal_is_enforced(present)
    }

    fn is_one_user(&self, uid: u32) -> bool {
        sys::is_one_user(uid)
    }
}

/// A descriptor that was not taken, and why.
///
/// # Examples
///
/// ```
/// use sealed_mmap::SealedFile;
/// use std::fs::File;
///
/// let error = SealedFile::try_from(File::open("Cargo.toml")?).unwrap_err();
/// eprintln!("{error}");
/// let file = File::from(error.into_fd()); // nothing is lost
/// assert!(file.metadata()?.is_file());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct ReceiveError<F = OwnedFd> {
    reason: Refusal,
    /// Of the file, where the kernel tells it.
    name: Option<String>,
    fd: F,
}

impl<F> ReceiveError<F> {
    /// Why.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::SealedFile;
    /// use std::fs::File;
    ///
    /// let error = SealedFile::try_from(File::open("/")?).unwrap_err();
    /// assert!(matches!(error.reason(), sealed_mmap::Refusal::NotSealable(_)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn reason(&self) -> &Refusal {
        &self.reason
    }
}

impl ReceiveError {
    pub(crate) fn new(reason: Refusal, fd: OwnedFd) -> Self {
        Self { reason, name: sys::name(fd.as_fd()), fd }
    }

    /// The descriptor that was refused.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::SealedFile;
    /// use std::fs::File;
    ///
    /// let error = SealedFile::try_from(File::open("/")?).unwrap_err();
    /// assert!(sealed_mmap::get_seals(error.fd()).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Gives the descriptor back.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::SealedFile;
    /// use std::fs::File;
    ///
    /// let error = SealedFile::try_from(File::open("/")?).unwrap_err();
    /// assert!(File::from(error.into_fd()).metadata()?.is_dir());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Gives the reason and the descriptor.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::SealedFile;
    /// use std::fs::File;
    ///
    /// let error = SealedFile::try_from(File::open("/")?).unwrap_err();
    /// let (refusal, descriptor) = error.into_parts();
    /// eprintln!("{refusal}");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_parts(self) -> (Refusal, OwnedFd) {
        (self.reason, self.fd)
    }
}

/// The message and its sources, which is what `fn main() -> std::io::Result<()>` prints.
impl<F> fmt::Debug for ReceiveError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        failure::with_sources(self, f)
    }
}

impl<F> fmt::Display for ReceiveError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "refused {name:?}: {}", self.reason),
            None => write!(f, "refused the descriptor: {}", self.reason),
        }
    }
}

impl<F> std::error::Error for ReceiveError<F> {
    /// The errno behind the reason, which is itself part of the message.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

/// Drops the descriptor, and keeps the explanation: what is boxed is a `ReceiveError<()>`. The kind is
/// that of the errno behind the [`reason`](ReceiveError::reason), which is the source. Without an errno
/// it is `PermissionDenied` for [`NotReadable`](Refusal::NotReadable) and [`Owner`](Refusal::Owner), and
/// `InvalidData` otherwise.
impl<F> From<ReceiveError<F>> for io::Error {
    fn from(error: ReceiveError<F>) -> Self {
        let ReceiveError { reason, name, fd: _ } = error;
        Self::new(reason.kind(), ReceiveError { reason, name, fd: () })
    }
}

/// As [`ReceiveError`], of a descriptor that is not known.
impl From<Refusal> for io::Error {
    fn from(reason: Refusal) -> Self {
        ReceiveError { reason, name: None, fd: () }.into()
    }
}
