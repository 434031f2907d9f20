//! Accepting a descriptor from elsewhere: what is observed of its file, whether the file is accepted, and
//! the error that gives the descriptor back.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::failure::{self, Name};
use crate::policy::{Facts, Kernel, Refusal, SealPolicy};
use crate::sealing;
use crate::seals::Seals;
use crate::state::State;
use crate::sys::{self, Extent};

/// The order matters: the seals first. Only `SHRINK` makes the length that is read afterwards a lower
/// bound forever, whatever a hostile holder of the same file does meanwhile.
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

/// Observes, judges, and reserves. On success, `F_GET_SEALS` has reported `S::REQUIRED`, in a combination
/// that the kernel enforces, and the file had the returned extent after that.
pub(super) fn accept<S: State>(fd: BorrowedFd<'_>, policy: &SealPolicy) -> Result<Extent, Refusal> {
    judge_and_reserve::<S>(fd, &observe(fd)?, policy)
}

/// The rest of [`accept`], for `facts` that [`observe`] returned.
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

/// The kernel that runs.
pub(crate) struct ThisKernel;

impl Kernel for ThisKernel {
    fn enforces_write_seal(&self, present: Seals) -> bool {
        sealing::write_seal_is_enforced(present)
    }

    fn is_one_user(&self, uid: u32) -> bool {
        sys::is_one_user(uid)
    }
}

/// Why a descriptor was refused, and the descriptor.
///
/// [Errors](crate#errors) says what `?` makes of it.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{Refusal, SealedFile, get_seals};
/// use std::fs::File;
///
/// let error = SealedFile::try_from(File::open("/")?).unwrap_err();
/// eprintln!("{error}");
/// assert!(matches!(error.reason(), Refusal::NotSealable(_)));
/// assert!(get_seals(error.fd()).is_err());
///
/// let directory = File::from(error.into_fd()); // nothing is lost
/// assert!(directory.metadata()?.is_dir());
///
/// let (refusal, descriptor) = SealedFile::try_from(directory).unwrap_err().into_parts();
/// eprintln!("{descriptor:?}: {refusal}");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct ReceiveError<F = OwnedFd> {
    reason: Refusal,
    /// The file's name, where the kernel reports it.
    name: Name<F>,
    fd: F,
}

impl<F> ReceiveError<F> {
    /// Returns why the descriptor was refused.
    ///
    /// See the [example](Self#examples).
    pub fn reason(&self) -> &Refusal {
        &self.reason
    }
}

impl ReceiveError {
    pub(crate) fn new(reason: Refusal, fd: OwnedFd) -> Self {
        Self { reason, name: Name::Of(|fd| sys::name(fd.as_fd())), fd }
    }

    /// Borrows the descriptor that was refused.
    ///
    /// See the [example](Self#examples).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Gives the descriptor back.
    ///
    /// See the [example](Self#examples).
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Returns the reason, and the descriptor.
    ///
    /// See the [example](Self#examples).
    pub fn into_parts(self) -> (Refusal, OwnedFd) {
        (self.reason, self.fd)
    }
}

/// Prints the message and its sources, as `fn main() -> std::io::Result<()>` shows them.
impl<F> fmt::Debug for ReceiveError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        failure::with_sources(self, f)
    }
}

impl<F> fmt::Display for ReceiveError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.get(&self.fd) {
            Some(name) => write!(f, "refused {name:?}: {}", self.reason),
            None => write!(f, "refused the descriptor: {}", self.reason),
        }
    }
}

impl<F> std::error::Error for ReceiveError<F> {
    /// Returns the errno behind the reason. The reason itself is part of the message.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

/// Drops the descriptor and keeps the explanation: see [Errors](crate#errors).
///
/// The kind is that of the errno behind the [`reason`](ReceiveError::reason), which is the source.
/// Without an errno, the kind is `PermissionDenied` for [`NotReadable`](Refusal::NotReadable) and
/// [`Owner`](Refusal::Owner), and `InvalidData` otherwise.
impl<F> From<ReceiveError<F>> for io::Error {
    fn from(error: ReceiveError<F>) -> Self {
        let ReceiveError { reason, name, fd } = error;
        let name = Name::Was(name.get(&fd));
        Self::new(reason.kind(), ReceiveError { reason, name, fd: () })
    }
}

/// As for [`ReceiveError`], without the file's name.
impl From<Refusal> for io::Error {
    fn from(reason: Refusal) -> Self {
        ReceiveError { reason, name: Name::Was(None), fd: () }.into()
    }
}
