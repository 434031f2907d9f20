//! Drafts: filling a file, and sealing it.
#![allow(unsafe_code, reason = "a draft proves that nobody else has the file")]

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;

use crate::failure::{self, while_doing};
use crate::file::sealed::SealedFile;
use crate::huge_pages::HugePages;
use crate::map::{self, UnsealedMap};
use crate::sealing::{self, Failure, SealFailure};
use crate::seals::Seals;
use crate::state::{ReadOnlySealed, State, Unsealed};
use crate::sys::{self, Extent};

/// The only handle to a file that is being filled.
impl SealedFile<Unsealed> {
    /// The length in bytes.
    ///
    /// # Errors
    ///
    /// Those of `fstat(2)`.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut draft = sealed_mmap::SealedFile::create("draft")?;
    /// draft.set_len(3)?;
    /// assert_eq!(draft.len()?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn len(&self) -> io::Result<u64> {
        Ok(sys::stat(self.file().as_fd())?.len)
    }

    /// Whether the file has no bytes.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(sealed_mmap::SealedFile::create("draft")?.is_empty()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file off, or extends it with zeros that take no memory yet.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: the length is more than `i64::MAX`, or, for hugetlb pages, not a multiple of
    ///   the page size.
    /// * `EFBIG`: the length is more than the kernel allows.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut draft = sealed_mmap::SealedFile::create("draft")?;
    /// draft.set_len(4096)?;
    /// assert!(draft.map_mut()?.iter().all(|byte| *byte == 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "ftruncate")]
    pub fn set_len(&mut self, len: u64) -> io::Result<()> {
        if i64::try_from(len).is_err() {
            let message = format!("no file can be {len} bytes long; the most is {}", i64::MAX);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.file().set_len(len).map_err(while_doing("resize the file (ftruncate)")).map_err(
            |error| {
                explain(
                    self.pages(),
                    error,
                    "the length of a hugetlb file is a multiple of its page size",
                )
            },
        )
    }

    /// Maps the whole file as `&mut [u8]`, with memory reserved for all of it, so that writing
    /// never runs out.
    ///
    /// # Errors
    ///
    /// * `ENOSPC`, `ENOMEM`: not enough memory. A length beyond the machine's memory and swap is
    ///   refused before it is tried. Below that, a machine without strict overcommit or a memory
    ///   cgroup may call its OOM killer instead.
    /// * `StorageFull`, `OutOfMemory`: not enough pages in the hugetlb pool; the errno is the `source`.
    /// * `FileTooLarge`: the length does not fit into the address space.
    /// * `ENOMEM` also: no address space, or no mapping left (`vm.max_map_count`).
    ///
    /// # Platform-specific
    ///
    /// On FreeBSD the kernel does not reserve memory, and a child of `fork(2)` inherits the mapping.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut draft = sealed_mmap::SealedFile::create("draft")?;
    /// draft.set_len(5)?;
    /// draft.map_mut()?.copy_from_slice(b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "mmap")]
    pub fn map_mut(&mut self) -> io::Result<UnsealedMap<'_>> {
        let len = self.len()?;
        self.map_mut_with_len(len)
    }

    /// [`map_mut`](Self::map_mut) of the first `len` bytes, which a file that is shorter gets.
    pub(crate) fn map_mut_with_len(&mut self, len: u64) -> io::Result<UnsealedMap<'_>> {
        // Reserving plain pages extends the file by itself.
        if self.pages() != HugePages::None {
            map::address_space(len)?;
            self.set_len(len)?;
        }
        let prefer_huge_pages =
            self.pages() == HugePages::Transparent && sys::huge_pages_on_advice();
        // SAFETY: no other handle or mapping of the file exists (`SealedFile::draft`), and none is made
        // while the map lives: it borrows `self` exclusively, and every method that reads, writes,
        // maps, resizes or gives away the file borrows or consumes it. A map that was leaked earlier
        // has no reference left (its lifetime has ended). Other processes do not have the descriptor:
        // it was never handed out, and is close-on-exec.
        unsafe { UnsealedMap::new(self.file(), len, prefer_huge_pages) }
            .map_err(|error| explain_lack(self.pages(), error))
    }

    /// Makes the file immutable, for every process and forever: adds [`Seals::WRITE`],
    /// [`SHRINK`](Seals::SHRINK), [`GROW`](Seals::GROW) and [`SEAL`](Seals::SEAL) in one call and
    /// confirms them.
    ///
    /// The kernel looks at every page: that takes a microsecond for a small file and 2 to 15 µs more
    /// for each MiB, or next to nothing if the pages are [huge](crate::HugePages). Where another
    /// CPU wrote them last it takes tens of microseconds more, and milliseconds at worst. So seal on
    /// the thread that wrote, and before sharing, for a reader can pin pages and make sealing wait.
    ///
    /// # Errors
    ///
    /// The file comes back as it was; see [`SealFailure`](crate::SealFailure) for what can stand in
    /// the way. Most likely is [`WritableMapping`](crate::SealFailure::WritableMapping) (`EBUSY`): a
    /// map that was leaked, or a child that was forked while a map was being made and has not executed
    /// another program since (that is waited for, for some milliseconds). Pinned pages are waited for,
    /// for about a second.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// let mut draft = sealed_mmap::SealedFile::create("greeting")?;
    /// draft.write_all(b"hello")?;
    /// let file = draft.seal_read_only()?;
    /// assert_eq!(&file.map_read_only()?[..], b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "F_ADD_SEALS")]
    pub fn seal_read_only(self) -> Result<SealedFile<ReadOnlySealed>, SealError> {
        // Asked first, so that an error leaves the draft a draft.
        let offset = match self.file().stream_position() {
            Ok(offset) => offset,
            Err(error) => {
                let error = while_doing("read the offset of the file (lseek)")(error);
                return Err(SealError::new((SealFailure::Other, error), self));
            }
        };
        // The extent is asked for when it is needed: many a sender never does.
        let file = self.seal(None)?;
        if offset != 0 {
            // The kernel has just answered lseek(2) on this very file, so that this cannot fail.
            let _ = file.file().rewind();
        }
        Ok(file)
    }

    /// [`seal_read_only`](Self::seal_read_only) of a file whose length is known, and whose offset is 0.
    pub(crate) fn seal_with_len(self, len: u64) -> Result<SealedFile<ReadOnlySealed>, SealError> {
        let is_plain = !matches!(self.pages(), HugePages::HugeTlb(_));
        self.seal(is_plain.then_some(Extent { len, huge_page: None }))
    }

    fn seal(self, extent: Option<Extent>) -> Result<SealedFile<ReadOnlySealed>, SealError> {
        let seals = Seals::WRITE | Seals::SHRINK | Seals::GROW | Seals::SEAL;
        match sealing::add_and_confirm(self.file().as_fd(), seals) {
            // SAFETY: `F_GET_SEALS` has reported WRITE and SHRINK, and `add_and_confirm` has found that
            // the kernel enforces what it reported. The extent is that of this draft, which nobody else
            // had; it may be left out, for GROW was reported, too.
            Ok(_) => Ok(unsafe { SealedFile::sealed(self.into_inner(), extent) }),
            Err(failure) => Err(SealError::new(failure, self)),
        }
    }

    /// Leaves the typestate with a plain file, which can be shared while it is still written.
    /// [`SealedFile::adopt_read_only`] leads back.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, SealedFile};
    /// use std::io::Write;
    ///
    /// let mut file = SealedFile::create("greeting")?.into_file();
    /// file.write_all(b"hello")?;
    /// let sealed = SealedFile::adopt_read_only(file, &SealPolicy::new())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_file(self) -> File {
        self.into_inner()
    }
}

/// Writes at the file's offset. A hugetlb file cannot be written, only mapped.
impl Write for SealedFile<Unsealed> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes).map_err(|error| explain_write(self.pages(), error))
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.file().write_vectored(slices).map_err(|error| explain_write(self.pages(), error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

pub(super) fn explain_write(pages: HugePages, error: io::Error) -> io::Error {
    explain(pages, error, "a hugetlb file cannot be written: use map_mut")
}

/// hugetlbfs answers a bare `EINVAL` to what it cannot do.
fn explain(pages: HugePages, error: io::Error, what: &'static str) -> io::Error {
    match (pages, error.kind()) {
        (HugePages::HugeTlb(_), kind @ io::ErrorKind::InvalidInput) => io::Error::new(kind, what),
        _ => error,
    }
}

/// hugetlbfs says "no space left on device" or "out of memory" when its pool is empty.
fn explain_lack(pages: HugePages, error: io::Error) -> io::Error {
    use io::ErrorKind::{OutOfMemory, StorageFull};
    match (pages, error.kind()) {
        (HugePages::HugeTlb(_), kind @ (StorageFull | OutOfMemory)) => {
            io::Error::new(kind, TooFewHugePages(error))
        }
        _ => error,
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "too few hugetlb pages are free; more of the default size are added in \
     /proc/sys/vm/nr_hugepages, of any size under /sys/kernel/mm/hugepages"
)]
struct TooFewHugePages(#[source] io::Error);

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
    /// Of the file, where the kernel tells it.
    name: Option<String>,
    file: F,
}

impl<S: State> SealError<SealedFile<S>> {
    pub(super) fn new((reason, error): Failure, file: SealedFile<S>) -> Self {
        Self { reason, error, name: sys::name(file.file().as_fd()), file }
    }
}

impl<F> SealError<F> {
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

/// The message and its sources, which is what `fn main() -> std::io::Result<()>` prints.
impl<F> fmt::Debug for SealError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        failure::with_sources(self, f)
    }
}

impl<F> fmt::Display for SealError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "cannot seal {name:?}: {}", self.reason),
            None => write!(f, "cannot seal the file: {}", self.reason),
        }
    }
}

impl<F> std::error::Error for SealError<F> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Drops the file, and keeps the explanation: what is boxed is a `SealError<()>`. The kind is that of
/// the [`error`](SealError::error), which is the source.
impl<F> From<SealError<F>> for io::Error {
    fn from(error: SealError<F>) -> Self {
        let SealError { reason, error, name, file: _ } = error;
        Self::new(error.kind(), SealError { reason, error, name, file: () })
    }
}
