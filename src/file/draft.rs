//! Drafts: filling a file, and sealing it.
#![allow(unsafe_code, reason = "a draft proves that nobody else has the file")]

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;

use crate::failure::{self, Name, explained, while_doing};
use crate::file::sealed::SealedFile;
use crate::huge_pages::HugePages;
use crate::map::{self, UnsealedMap};
use crate::sealing::{self, Failure, SealFailure};
use crate::seals::Seals;
use crate::state::{ReadOnlySealed, Sealed, SizeSealed, State, Unsealed};
use crate::sys::{self, Extent};

/// What an immutable file gets beside the seals of its state.
const WHOLE: Seals = Seals::GROW.union(Seals::SEAL);

/// A draft: the only handle to a file that is being filled.
impl SealedFile<Unsealed> {
    /// Returns the length in bytes.
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

    /// Returns whether the file has no bytes.
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

    /// Truncates the file, or extends it by a hole, for which no memory is allocated yet.
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
            let message = format!("a file cannot be longer than {} bytes", i64::MAX);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        sys::set_len(self.file(), len).map_err(|error| {
            explain(
                self.pages(),
                error,
                "the length of a hugetlb file must be a multiple of its page size",
            )
        })
    }

    /// Maps the whole file as `&mut [u8]`. Memory for all of it is reserved first, so writing never runs
    /// out of memory.
    ///
    /// # Errors
    ///
    /// * `ENOSPC`, `ENOMEM`: not enough memory. A length beyond the machine's memory and swap is
    ///   refused before it is tried. Below that, a machine without strict overcommit or a memory
    ///   cgroup may invoke its OOM killer instead.
    /// * `StorageFull`, `OutOfMemory`: not enough pages in the hugetlb pool; the errno is the `source`.
    /// * `OutOfMemory`: too much locked memory, as for [`map_read_only`](SealedFile::map_read_only).
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

    /// [`map_mut`](Self::map_mut) of the first `len` bytes. A shorter file is extended to that length.
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
        unsafe {
            UnsealedMap::new(self.file(), len, prefer_huge_pages, |error| {
                explain_lack(self.pages(), error)
            })
        }
    }

    /// Makes the file immutable, in every process and forever: adds [`Seals::WRITE`],
    /// [`SHRINK`](Seals::SHRINK), [`GROW`](Seals::GROW) and [`SEAL`](Seals::SEAL) in one call and
    /// confirms them. The offset is 0 afterwards.
    ///
    /// The kernel examines every page. That takes a microsecond for a small file and 2 to 15 µs more for
    /// each MiB, or next to nothing if the pages are [huge](crate::HugePages). If another CPU wrote the
    /// pages last, it takes tens of microseconds more, and milliseconds at worst. So seal on the thread
    /// that wrote.
    ///
    /// Seal before sharing, because a reader can pin pages and so delay the seal.
    ///
    /// # Errors
    ///
    /// The draft comes back for another attempt: unchanged, unless the reason is
    /// [`Unconfirmed`](crate::SealFailure::Unconfirmed). [`SealFailure`](crate::SealFailure) lists what can
    /// prevent sealing.
    ///
    /// The most likely reason is [`WritableMapping`](crate::SealFailure::WritableMapping) (`EBUSY`): a
    /// map was leaked, or a child was forked while a map was being made and has not executed another
    /// program since. Transient `EBUSY` is retried: for some milliseconds if the file is mapped, and for
    /// about a second if its pages are pinned.
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
        // The extent is asked for when it is needed: many a sender never does.
        self.seal_and_rewind(WHOLE, None)
    }

    /// Shares the file with others who write it as well: adds [`Seals::SHRINK`] and those of
    /// [`GROW`](Seals::GROW) and [`SEAL`](Seals::SEAL) that are named, and confirms them. The offset is 0
    /// afterwards.
    ///
    /// Everybody who gets the file can write it. Without `GROW` they can also make it longer, and without
    /// `SEAL` they can add seals: one that forbids new writable maps to all. With `SEAL`, the file can
    /// never be [finished](SealedFile::finish).
    ///
    /// No memory is reserved. A page is allocated when somebody writes it first; see
    /// [Holes](crate::SharedMap#holes).
    ///
    /// # Errors
    ///
    /// The draft comes back, as from [`seal_read_only`](Self::seal_read_only).
    ///
    /// * `InvalidInput`: another seal is named. ([`WRITE`](Seals::WRITE) is what
    ///   [`seal_read_only`](Self::seal_read_only) adds, and [`FUTURE_WRITE`](Seals::FUTURE_WRITE) what a
    ///   [`Producer`](crate::Producer) does.)
    /// * [`NotAllowed`](crate::SealFailure::NotAllowed) (`EPERM`): the draft was made with
    ///   [`allow_sealing(false)`](crate::CreateOptions::allow_sealing).
    ///
    /// # Examples
    ///
    /// A pool of buffers that may be resized, and counters that never are:
    ///
    /// ```
    /// use sealed_mmap::{SealedFile, Seals};
    ///
    /// let mut pool = SealedFile::create("pool")?;
    /// pool.set_len(64 << 10)?;
    /// let pool = pool.seal_size(Seals::empty())?;
    /// pool.map_shared()?.write_at(0, b"pixels")?;
    ///
    /// let mut counters = SealedFile::create("counters")?;
    /// counters.set_len(4096)?;
    /// let counters = counters.seal_size(Seals::GROW)?;
    /// assert_eq!(counters.map_shared()?.fetch_add(0, 1)?, 0);
    ///
    /// let error = SealedFile::create("draft")?.seal_size(Seals::WRITE).unwrap_err();
    /// assert_eq!(error.error().kind(), std::io::ErrorKind::InvalidInput);
    /// let draft = error.into_file();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "F_ADD_SEALS")]
    pub fn seal_size(self, seals: Seals) -> Result<SealedFile<SizeSealed>, SealError> {
        const POSSIBLE: Seals = Seals::SHRINK.union(Seals::GROW).union(Seals::SEAL);

        // Not `&!`, which forgets the bits that have no name.
        let others = seals.difference(POSSIBLE);
        if !others.is_empty() {
            let message = format!("seal_size adds {POSSIBLE} and no other seal, not {others}");
            let error = io::Error::new(io::ErrorKind::InvalidInput, message);
            return Err(SealError::new((SealFailure::Other, error), self));
        }
        let fd = self.file().as_fd();
        match sys::stat(fd).and_then(|stat| sys::extent(fd, &stat)) {
            Ok(extent) => self.seal_and_rewind(seals, Some(extent)),
            Err(error) => Err(SealError::new((SealFailure::Other, error), self)),
        }
    }

    /// [`seal`](Self::seal), with the offset at 0 afterwards.
    fn seal_and_rewind<S: Sealed>(
        self,
        more: Seals,
        extent: Option<Extent>,
    ) -> Result<SealedFile<S>, SealError> {
        // Asked first, so that an error leaves the draft a draft.
        let offset = match self.file().stream_position() {
            Ok(offset) => offset,
            Err(error) => {
                let error = while_doing("read the offset of the file (lseek)")(error);
                return Err(SealError::new((SealFailure::Other, error), self));
            }
        };
        let file = self.seal(more, extent)?;
        if offset != 0 {
            // The kernel has just answered lseek(2) on this very file, so that this cannot fail.
            let _ = file.file().rewind();
        }
        Ok(file)
    }

    /// [`seal_read_only`](Self::seal_read_only) of a file whose length is known, and whose offset is 0.
    pub(crate) fn seal_with_len(self, len: u64) -> Result<SealedFile<ReadOnlySealed>, SealError> {
        let is_plain = !matches!(self.pages(), HugePages::HugeTlb(_));
        self.seal(WHOLE, is_plain.then_some(Extent { len, huge_page: None }))
    }

    /// Adds the seals of the state, and `more`. The extent is that of this draft; whoever leaves it out adds
    /// `GROW`.
    fn seal<S: Sealed>(
        self,
        more: Seals,
        extent: Option<Extent>,
    ) -> Result<SealedFile<S>, SealError> {
        match sealing::add_and_confirm(self.file().as_fd(), S::REQUIRED | more) {
            // SAFETY: `F_GET_SEALS` has reported the state's seals, and `add_and_confirm` has found that
            // the kernel enforces what it reported. The extent is that of this draft, which nobody else
            // had; it is left out only with `WHOLE`, and so GROW was reported, too.
            Ok(()) => Ok(unsafe { SealedFile::sealed(self.into_inner(), extent) }),
            Err(failure) => Err(SealError::new(failure, self)),
        }
    }

    /// Leaves the typestate with a plain file, which can be shared while it is still being written.
    /// [`SealedFile::adopt_read_only`] is the way back: it fails for as long as somebody maps the file for
    /// writing.
    ///
    /// # Examples
    ///
    /// A child, a C library or a GPU fills the file, which is sealed when that is done. Here a child prints
    /// into it:
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, SealedFile};
    /// use std::process::Command;
    ///
    /// let shared = SealedFile::create("listing")?.into_file();
    /// let status = Command::new("echo").arg("hello").stdout(shared.try_clone()?).status()?;
    /// assert!(status.success());
    ///
    /// // Whatever the child, or one of its own, still has of the file, it writes no more.
    /// let listing = SealedFile::adopt_read_only(shared, &SealPolicy::new().len(..=1 << 20))?;
    /// assert_eq!(&listing.map_read_only()?[..], b"hello\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// Just a memfd, of which nobody is promised anything:
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// let mut scratch = sealed_mmap::SealedFile::create("scratch")?.into_file(); // std::fs::File
    /// scratch.write_all(b"only for a while")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_file(self) -> File {
        self.into_inner()
    }
}

/// Writes at the file's offset. A hugetlb file cannot be written, only mapped (`InvalidInput`).
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

/// hugetlbfs returns a bare `EINVAL` for what it cannot do.
fn explain(pages: HugePages, error: io::Error, what: &'static str) -> io::Error {
    match (pages, error.kind()) {
        (HugePages::HugeTlb(_), kind @ io::ErrorKind::InvalidInput) => explained(kind, what, error),
        _ => error,
    }
}

/// hugetlbfs says "no space left on device" or "out of memory" when its pool is empty.
pub(super) fn explain_lack(pages: HugePages, error: io::Error) -> io::Error {
    use io::ErrorKind::{OutOfMemory, StorageFull};
    match (pages, error.kind()) {
        // Of a limit on locked memory, for one, the error says so itself.
        _ if error.raw_os_error().is_none() => error,
        (HugePages::HugeTlb(_), kind @ (StorageFull | OutOfMemory)) => {
            let message = "too few hugetlb pages are free; more of the default size are added in \
                           /proc/sys/vm/nr_hugepages, of any size under /sys/kernel/mm/hugepages";
            explained(kind, message, error)
        }
        _ => error,
    }
}

/// A transition that failed, and the file as it was before: contents and offset intact. Only after
/// [`SealFailure::Unconfirmed`] does it carry more seals.
///
/// [Errors](crate#errors) says what `?` makes of it.
///
/// # Examples
///
/// Retry, and look at the error that remains:
///
/// ```
/// use sealed_mmap::{CreateOptions, ReadOnlySealed, SealError, SealFailure, SealedFile, Unsealed};
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
///
/// let draft = CreateOptions::new().allow_sealing(false).create("never sealed")?;
/// let error = seal(draft).unwrap_err();
/// assert_eq!(error.reason(), SealFailure::NotAllowed);
/// assert_eq!(error.error().kind(), std::io::ErrorKind::PermissionDenied);
///
/// let (errno, mut draft) = error.into_parts();
/// assert!(errno.raw_os_error().is_some());
/// draft.set_len(10)?; // it is still a draft
///
/// let error = std::io::Error::from(draft.seal_read_only().unwrap_err()); // as `?` does
/// assert!(error.get_ref().unwrap().is::<SealError<()>>());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct SealError<F = SealedFile<Unsealed>> {
    reason: SealFailure,
    error: io::Error,
    /// The file's name, where the kernel reports it.
    name: Name<F>,
    file: F,
}

impl<S: State> SealError<SealedFile<S>> {
    pub(super) fn new((reason, error): Failure, file: SealedFile<S>) -> Self {
        Self { reason, error, name: Name::Of(|file| sys::name(file.file().as_fd())), file }
    }
}

impl<F> SealError<F> {
    /// Returns the kernel's error, with its errno. For [`SealFailure::Other`] and
    /// [`UntrustedWriteSeal`](SealFailure::UntrustedWriteSeal) it can be an error of this crate, without
    /// an errno.
    ///
    /// See the [example](Self#examples).
    pub fn error(&self) -> &io::Error {
        &self.error
    }

    /// Returns what prevented sealing.
    ///
    /// See the [example](Self#examples).
    pub fn reason(&self) -> SealFailure {
        self.reason
    }

    /// Gives the file back.
    ///
    /// See the [example](Self#examples).
    pub fn into_file(self) -> F {
        self.file
    }

    /// Drops the file and returns the [`error`](Self::error).
    pub fn into_error(self) -> io::Error {
        self.error
    }

    /// Returns the [`error`](Self::error), and the file.
    ///
    /// See the [example](Self#examples).
    pub fn into_parts(self) -> (io::Error, F) {
        (self.error, self.file)
    }
}

/// Prints the message and its sources, as `fn main() -> std::io::Result<()>` shows them.
impl<F> fmt::Debug for SealError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        failure::with_sources(self, f)
    }
}

impl<F> fmt::Display for SealError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.get(&self.file) {
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

/// Drops the file and keeps the explanation: see [Errors](crate#errors). The kind is that of the
/// [`error`](SealError::error), which is the source.
impl<F> From<SealError<F>> for io::Error {
    fn from(error: SealError<F>) -> Self {
        let SealError { reason, error, name, file } = error;
        let name = Name::Was(name.get(&file));
        Self::new(error.kind(), SealError { reason, error, name, file: () })
    }
}
