//! Mappings, and the unsafe code that makes and views them. Its obligations are argued at length in
//! [`soundness`](crate::soundness).
#![allow(unsafe_code, reason = "mmap(2) and madvise(2) are unsafe; the seals discharge them")]

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::AsFd;

use memmap2::{Mmap, MmapMut, MmapOptions};
use rustix::mm::Advice;

use crate::state::{Extent, ReadOnlySealed, Unsealed};
use crate::sys::{self, advice};
use crate::{OutOfBounds, SealedFile};

/// The whole of an unsealed file as `&mut [u8]`, from [`SealedFile::map_mut`].
///
/// It borrows the file, so that nothing else can touch the file through this crate until it is
/// dropped, and sealing has to wait for that. A child of `fork(2)` does not inherit it.
///
/// # Examples
///
/// ```
/// let mut draft = sealed_mmap::SealedFile::create("draft")?;
/// draft.set_len(5)?;
/// draft.map_mut()?.copy_from_slice(b"hello");
/// let file = draft.seal_read_only()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UnsealedMap<'a> {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<MmapMut>,
    file: PhantomData<&'a mut SealedFile<Unsealed>>,
}

impl<'a> UnsealedMap<'a> {
    /// Maps the first `len` bytes, which the file is extended to hold if it is shorter, and
    /// reserves memory for all of them.
    pub(crate) fn new(file: &'a mut SealedFile<Unsealed>, len: u64) -> io::Result<Self> {
        let map_len = address_space(len)?;
        if map_len == 0 {
            return Ok(Self { map: None, file: PhantomData });
        }
        let file: &SealedFile<Unsealed> = file;
        let fd = file.as_file();
        let reserve =
            || sys::reserve(fd.as_fd(), len).map_err(|error| file.explain_lack_of_memory(error));
        // Memory that is there already stays in small pages, whatever is advised later.
        let huge_pages_first = file.wants_transparent_huge_pages();
        if huge_pages_first {
            sys::fits_memory(len)?;
        } else {
            reserve()?;
        }
        // SAFETY: `MmapOptions::map_mut` requires that the file is not modified behind the slice's
        // back, in or out of process. This process: `SealedFile<Unsealed>` hands out no descriptor
        // and cannot be cloned, and `file` is borrowed exclusively for as long as this value lives.
        // Other processes: the descriptor was never sent and is close-on-exec; a forked child does
        // not get the mapping (below). The length stays, for only `set_len(&mut self)` changes it.
        // Whoever may trace this process is out of scope, as for any other memory of it.
        let map = unsafe { MmapOptions::new().len(map_len).map_mut(fd) }?;
        advice::DONT_FORK.map_or(Ok(()), |dont_fork| advise(&map, dont_fork))?;
        if huge_pages_first {
            // Both only make huge pages more likely; what counts is the reservation.
            for preference in [advice::HUGE_PAGE, advice::POPULATE_WRITE].into_iter().flatten() {
                let _ = advise(&map, preference);
            }
            reserve()?;
        }
        Ok(Self { map: Some(map), file: PhantomData })
    }
}

impl Deref for UnsealedMap<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl DerefMut for UnsealedMap<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}

impl AsRef<[u8]> for UnsealedMap<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for UnsealedMap<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for UnsealedMap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnsealedMap").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Bytes of an immutable file, from [`SealedFile::map_read_only`] or [`SealedFile::map_range`].
///
/// It owns its mapping: the file may be dropped, and the map moved to other threads or kept
/// forever. The slice is page-aligned if the range begins at a page boundary of the file and is not
/// empty.
///
/// Touching a page that the sender never wrote takes memory, and if there is none the kernel ends
/// the process with `SIGBUS`: [`SealedFile::reserve`] turns that into an error beforehand. What
/// remains is a page that broke in hardware and a failed read from swap.
///
/// # Examples
///
/// ```
/// let map = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?.map_read_only()?;
/// let length = std::thread::spawn(move || map.len()).join().unwrap();
/// assert_eq!(length, 5);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct ReadOnlyMap {
    /// `None` for an empty range, which cannot be mapped.
    map: Option<Mmap>,
    /// What was asked for, within `map`.
    range: Range<usize>,
}

impl ReadOnlyMap {
    /// `extent` is the file's own.
    pub(crate) fn new(
        file: &SealedFile<ReadOnlySealed>,
        extent: Extent,
        offset: u64,
        len: u64,
    ) -> io::Result<Self> {
        let out_of_bounds = OutOfBounds { offset, len, size: extent.len };
        let end = offset.checked_add(len).filter(|end| *end <= extent.len).ok_or(out_of_bounds)?;
        if len == 0 {
            return Ok(Self { map: None, range: 0..0 });
        }
        // Mappings begin at a page, and those of hugetlbfs end at one too. How large a page is is not
        // asked: on old kernels that takes a descriptor, and panics where there is none.
        const LARGEST_PAGE: u64 = 64 << 10;
        let map_offset = offset - offset % extent.huge_page.unwrap_or(LARGEST_PAGE);
        let map_end = end.next_multiple_of(extent.huge_page.unwrap_or(1));
        let map_len = address_space(map_end - map_offset)?;
        let start = (offset - map_offset) as usize;

        let mut options = MmapOptions::new();
        options.offset(map_offset).len(map_len);
        // SAFETY: `MmapOptions::map` requires that the file is not modified or truncated while the
        // map lives, in or out of process. `SealedFile<ReadOnlySealed>` exists only for files whose
        // F_SEAL_WRITE and F_SEAL_SHRINK the kernel has confirmed and enforces. fcntl(2) on the
        // former: "you cannot modify the contents of the file", and on the latter: "the file in
        // question cannot be reduced in size"; "once set, seals cannot be removed". `extent` was
        // observed after that, or is what this crate wrote while it alone had the file (draft to
        // sealed, `seal_with_len`), and the range lies within it.
        let shared = unsafe { options.map(file.as_file()) };
        let map = match shared {
            // Kernels before 6.7 (some before a backport) refuse every shared mapping of a writable
            // descriptor of a file with F_SEAL_WRITE.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                if extent.huge_page.is_some() {
                    // A private mapping would take its pages from the pool a second time.
                    let read_only = file.reopen()?;
                    // SAFETY: as above, for `reopen` returns the same type.
                    unsafe { options.map(read_only.as_file()) }?
                } else {
                    // SAFETY: as above; a private mapping that is not written shows the file's pages.
                    unsafe { options.map_copy_read_only(file.as_file()) }?
                }
            }
            done => done?,
        };
        Ok(Self { map: Some(map), range: start..start + len as usize })
    }

    /// Takes the page faults now rather than on first access, for speed.
    ///
    /// This does not make access safe from running out of memory: pages that nobody wrote can be
    /// dropped again. Only [`SealedFile::reserve`] lasts.
    ///
    /// # Errors
    ///
    /// * `Unsupported`: before Linux 5.14, and on FreeBSD.
    /// * `EFAULT`, `ENOMEM`: no memory, where access would have been a `SIGBUS`.
    ///
    /// # Examples
    ///
    /// ```
    /// let map = sealed_mmap::SealedFile::from_bytes("frame", &[1; 65536])?.map_read_only()?;
    /// if let Err(error) = map.populate() {
    ///     assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "MADV_POPULATE_READ")]
    pub fn populate(&self) -> io::Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        let unsupported = || {
            let message = "taking page faults in advance needs Linux 5.14";
            io::Error::new(io::ErrorKind::Unsupported, message)
        };
        let advice = advice::POPULATE_READ.ok_or_else(unsupported)?;
        advise(map, advice).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => unsupported(),
            _ => error,
        })
    }
}

impl Deref for ReadOnlyMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.map {
            Some(map) => &map[self.range.clone()],
            None => &[],
        }
    }
}

impl AsRef<[u8]> for ReadOnlyMap {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for ReadOnlyMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyMap").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A slice cannot be longer than `isize::MAX` bytes, and so no mapping is.
pub(crate) fn address_space(len: u64) -> io::Result<usize> {
    usize::try_from(len).ok().filter(|len| isize::try_from(*len).is_ok()).ok_or_else(|| {
        let message = "the length does not fit into the address space";
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    })
}

/// Advises the kernel on a whole mapping, which begins at a page.
fn advise(map: &[u8], advice: Advice) -> io::Result<()> {
    // SAFETY: the range is one live mapping of ours, and none of the advice in `sys::advice` changes
    // or takes away what it shows. madvise(2) on MADV_DONTFORK: "Do not make the pages in this range
    // available to the child after a fork(2)"; MADV_HUGEPAGE: "Enable Transparent Huge Pages (THP)";
    // MADV_POPULATE_READ and _WRITE: "Populate (prefault) page tables".
    unsafe { rustix::mm::madvise(map.as_ptr().cast_mut().cast(), map.len(), advice) }
        .map_err(Into::into)
}
