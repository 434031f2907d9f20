//! Errors that carry a value to hand back, or a reason to branch on.

use std::fmt;
use std::io;
use std::ops::{Bound, Range as HalfOpen, RangeBounds};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use thiserror::Error;

use crate::state::Unsealed;
use crate::{SealedFile, Seals};

/// Why a file was not sealed.
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
    /// A writable descriptor of the file is mapped shared somewhere (`EBUSY` at once): in this
    /// process, or in a child that was forked while it was. Unmap it and try again.
    #[error("it is mapped from a writable descriptor somewhere; unmap it there and try again")]
    WritableMapping,
    /// Pages of the file are pinned for I/O (`EBUSY` after waiting, several times over): io_uring
    /// buffers, `vmsplice(2)`, udmabuf. Let that I/O end and try again.
    #[error("its pages stayed pinned for I/O; let that end and try again")]
    PinnedPages,
    /// The file carries [`Seals::SEAL`], or its descriptor is not open for writing (`EPERM`).
    #[error("its seals are final, or the descriptor is not open for writing")]
    NotAllowed,
    /// The file or the kernel does not know one of the seals (`EINVAL`).
    #[error("the kernel does not know these seals")]
    Unsupported,
    /// Anything else, such as that the seals would not be believed (see
    /// [`UntrustedWriteSeal`](Refusal::UntrustedWriteSeal)). The error tells.
    #[error("the source tells why")]
    Other,
}

/// A transition that failed, and the file as it was before: contents and offset intact.
///
/// # Examples
///
/// Trying again after whatever stood in the way has gone:
///
/// ```
/// use sealed_mmap::{ReadOnlySealed, SealError, SealFailure, SealedFile, Unsealed};
///
/// fn seal(mut draft: SealedFile<Unsealed>) -> Result<SealedFile<ReadOnlySealed>, SealError> {
///     for _ in 0..10 {
///         match draft.seal_read_only() {
///             Err(error) if error.reason() == SealFailure::PinnedPages => draft = error.into_file(),
///             done => return done,
///         }
///     }
///     draft.seal_read_only()
/// }
/// # seal(SealedFile::create("draft")?)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct SealError<F = SealedFile<Unsealed>> {
    reason: SealFailure,
    error: io::Error,
    file: F,
}

impl<F> SealError<F> {
    pub(crate) fn new((reason, error): (SealFailure, io::Error), file: F) -> Self {
        Self { reason, error, file }
    }

    /// The kernel's error, with its errno. Of [`SealFailure::Other`] it may be the crate's, without.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::CreateOptions;
    ///
    /// let never = CreateOptions::new().allow_sealing(false).create("never sealed")?;
    /// let error = never.seal_read_only().unwrap_err();
    /// assert_eq!(error.error().kind(), std::io::ErrorKind::PermissionDenied);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn error(&self) -> &io::Error {
        &self.error
    }

    /// What stood in the way.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::CreateOptions;
    ///
    /// let never = CreateOptions::new().allow_sealing(false).create("never sealed")?;
    /// let error = never.seal_read_only().unwrap_err();
    /// assert_eq!(error.reason(), sealed_mmap::SealFailure::NotAllowed);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn reason(&self) -> SealFailure {
        self.reason
    }

    /// Gives the file back, unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::CreateOptions;
    ///
    /// let never = CreateOptions::new().allow_sealing(false).create("never sealed")?;
    /// let mut again = never.seal_read_only().unwrap_err().into_file();
    /// again.set_len(10)?; // still unsealed
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_file(self) -> F {
        self.file
    }

    /// Drops the file and gives the [`error`](Self::error).
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::CreateOptions;
    ///
    /// let never = CreateOptions::new().allow_sealing(false).create("never sealed")?;
    /// let error: std::io::Error = never.seal_read_only().unwrap_err().into_error();
    /// assert!(error.raw_os_error().is_some());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_error(self) -> io::Error {
        self.error
    }

    /// Gives the [`error`](Self::error) and the file, unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::CreateOptions;
    ///
    /// let never = CreateOptions::new().allow_sealing(false).create("never sealed")?;
    /// let (error, file) = never.seal_read_only().unwrap_err().into_parts();
    /// assert!(file.is_empty()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_parts(self) -> (io::Error, F) {
        (self.error, self.file)
    }
}

impl<F> fmt::Debug for SealError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealError")
            .field("reason", &self.reason)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<F> fmt::Display for SealError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot seal the file: {}", self.reason)
    }
}

impl<F> std::error::Error for SealError<F> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<F> From<SealError<F>> for io::Error {
    fn from(error: SealError<F>) -> Self {
        error.error
    }
}

/// Why a descriptor was not taken. The first of these that applies is reported.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{Refusal, SealedFile};
/// use std::fs::File;
///
/// let error = SealedFile::try_from(File::open("Cargo.toml")?).unwrap_err();
/// let (refusal, descriptor) = error.into_parts();
/// match refusal {
///     Refusal::NotSealable(_) | Refusal::MissingSeals { .. } => {
///         println!("{refusal}");
///         let copy = SealedFile::copy_of("copy", &descriptor, 1 << 20)?;
/// #       assert!(copy.len()? > 0);
///     }
///     other => return Err(other.into()),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Opened with `O_WRONLY` or `O_PATH`: it can never be mapped.
    #[error("the descriptor is not open for reading; the sender must open it O_RDONLY or O_RDWR")]
    NotReadable,
    /// `F_GET_SEALS` failed (`EINVAL`): an ordinary file, a pipe, a socket, a directory.
    #[error("the file cannot carry seals; only memory from memfd_create can; or copy it")]
    NotSealable(#[source] io::Error),
    /// Seals that the state or the policy requires are not there.
    #[error(
        "the file lacks the seals {missing} (present: {present}); {}",
        how_to_add_seals(*present)
    )]
    MissingSeals {
        /// Required and absent.
        missing: Seals,
        /// All that the file carries.
        present: Seals,
    },
    /// Seals that the policy forbids are there.
    #[error(
        "the file carries the seals {forbidden} (present: {present}), which the policy forbids; \
         seals cannot be removed, so the sender must make another file"
    )]
    ForbiddenSeals {
        /// Forbidden and present.
        forbidden: Seals,
        /// All that the file carries.
        present: Seals,
    },
    /// `WRITE` stands beside `EXEC` and `FUTURE_WRITE`, on a kernel that adds those three together
    /// without looking for writers: a writable mapping may still exist.
    #[error(
        "this kernel may report the write seal while somebody still writes; \
         the sender must seal without exec (create with MFD_NOEXEC_SEAL), or copy the file"
    )]
    UntrustedWriteSeal,
    /// The file is made of hugetlb pages, which the policy does not allow, or the last of them is
    /// not whole, so that touching it could be `SIGBUS`.
    #[error(
        "the file is made of hugetlb pages; SealPolicy::allow_hugetlb takes such files, \
         if their length is a multiple of the page size"
    )]
    HugeTlb,
    /// The length is outside the policy's range.
    #[error("the file has {len} bytes, and SealPolicy::len accepts {}", Range(*bounds))]
    Length {
        /// Bytes.
        len: u64,
        /// What the policy accepts.
        bounds: (Bound<u64>, Bound<u64>),
    },
    /// The file belongs to another user than the policy names.
    #[error("the file belongs to uid {found}, and SealPolicy::owner takes only uid {expected}")]
    Owner {
        /// The user id that the policy names.
        expected: u32,
        /// The user id of the file.
        found: u32,
    },
    /// The missing seals could not be added, when adopting (`EBUSY`; `EINVAL` for one that the kernel
    /// does not know).
    #[error("cannot seal the file: {reason}")]
    CannotSeal {
        /// What stood in the way.
        reason: SealFailure,
        /// The kernel's error, or the crate's.
        #[source]
        error: io::Error,
    },
    /// No memory could be had for the file's holes (`ENOSPC`, `ENOMEM`), or the descriptor is
    /// read-only and the file cannot be opened for writing through `/proc/self/fd` (`EACCES`,
    /// `Unsupported`, `WouldBlock`).
    #[error(
        "cannot reserve memory for the whole file; \
         that takes free memory, and a descriptor that can write or leave to open one"
    )]
    CannotReserve(#[source] io::Error),
    /// Looking at the file failed, or copying it: more than the limit (`EFBIG`), changed meanwhile
    /// (`ResourceBusy`), no memory (`ENOSPC`, `ENOMEM`), no descriptor left (`EMFILE`).
    #[error("cannot examine or copy the file")]
    Io(#[source] io::Error),
}

/// Bounds of a length in words.
struct Range((Bound<u64>, Bound<u64>));

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = match self.0.0 {
            Bound::Included(first) => u128::from(first),
            Bound::Excluded(before) => u128::from(before) + 1,
            Bound::Unbounded => 0,
        };
        let last = match self.0.1 {
            Bound::Included(last) => Some(last),
            Bound::Excluded(0) => return f.write_str("none at all"),
            Bound::Excluded(end) => Some(end - 1),
            Bound::Unbounded => None,
        };
        match (first, last) {
            (0, None) => f.write_str("any length"),
            (first, None) => write!(f, "at least {first}"),
            (0, Some(last)) => write!(f, "at most {last}"),
            (first, Some(last)) if first <= last.into() => write!(f, "{first} to {last}"),
            _ => f.write_str("none at all"),
        }
    }
}

fn how_to_add_seals(present: Seals) -> &'static str {
    if present.contains(Seals::SEAL) {
        "none can be added to it any more; the sender must make another \
         (memfd_create with MFD_ALLOW_SEALING) and add them before F_SEAL_SEAL"
    } else {
        "the sender must add them with F_ADD_SEALS, through a descriptor that can write"
    }
}

impl From<Refusal> for io::Error {
    /// Keeps the errno where there is one, and with it drops the explanation: print the
    /// [`ReceiveError`], or use `Box<dyn Error>`, where people are to read it. Otherwise the kind is
    /// `PermissionDenied` for [`NotReadable`](Refusal::NotReadable) and [`Owner`](Refusal::Owner), or `InvalidData`.
    fn from(refusal: Refusal) -> Self {
        use Refusal as R;
        match refusal {
            R::NotSealable(error)
            | R::CannotSeal { error, .. }
            | R::CannotReserve(error)
            | R::Io(error) => error,
            R::NotReadable | R::Owner { .. } => {
                io::Error::new(io::ErrorKind::PermissionDenied, refusal)
            }
            R::MissingSeals { .. }
            | R::ForbiddenSeals { .. }
            | R::UntrustedWriteSeal
            | R::HugeTlb
            | R::Length { .. } => io::Error::new(io::ErrorKind::InvalidData, refusal),
        }
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
#[derive(Debug)]
pub struct ReceiveError {
    reason: Refusal,
    fd: OwnedFd,
}

impl ReceiveError {
    pub(crate) fn new(reason: Refusal, fd: OwnedFd) -> Self {
        Self { reason, fd }
    }

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

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the descriptor was refused: {}", self.reason)
    }
}

impl std::error::Error for ReceiveError {
    /// The errno behind the reason, which is itself part of the message.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

impl From<ReceiveError> for io::Error {
    fn from(error: ReceiveError) -> Self {
        error.reason.into()
    }
}

/// A range that does not lie within the memory it was asked of.
///
/// # Examples
///
/// ```
/// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
/// let error = file.map_range(3..7).unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
/// assert_eq!(error.to_string(), "4 bytes from offset 3 do not lie within 5 bytes");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{len} bytes from offset {offset} do not lie within {size} bytes")]
pub struct OutOfBounds {
    /// Where the range begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// How much there is, in bytes.
    pub size: u64,
}

impl OutOfBounds {
    /// `range` as offsets, if it lies within `size` bytes. Asks for each bound once.
    pub(crate) fn check(range: impl RangeBounds<u64>, size: u64) -> Result<HalfOpen<u64>, Self> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => size,
        };
        if start <= end && end <= size {
            Ok(start..end)
        } else {
            Err(Self { offset: start, len: end.wrapping_sub(start), size })
        }
    }
}

impl From<OutOfBounds> for io::Error {
    fn from(error: OutOfBounds) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[test]
    fn what_the_crate_refuses_is_not_blamed_on_the_kernel() {
        let failure =
            (SealFailure::Other, io::Error::other("this kernel's seals are not believed"));
        let error = SealError::new(failure, ());
        assert_eq!(error.to_string(), "cannot seal the file: the source tells why");
        assert_eq!(error.source().unwrap().to_string(), "this kernel's seals are not believed");
    }
}
