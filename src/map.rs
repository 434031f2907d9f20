//! Mappings, and the unsafe code that makes and views them. [`soundness`](crate::soundness) argues its
//! obligations at length.
#![allow(
    unsafe_code,
    reason = "mmap(2) and madvise(2) are unsafe; the callers' files discharge them"
)]

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, Deref, DerefMut, Range, RangeBounds};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::slice;

use memmap2::{Mmap, MmapMut, MmapOptions};
use rustix::io::Errno;
use rustix::mm::Advice;
#[cfg(feature = "stable_deref_trait")]
use stable_deref_trait::StableDeref;
use thiserror::Error;

use crate::failure::{explained, while_doing};
use crate::sys::{self, Extent, advice};

/// The whole of a draft as `&mut [u8]`, from [`SealedFile::map_mut`](crate::SealedFile::map_mut).
///
/// The map borrows the draft. Until the map is dropped, nothing else can touch the file through this
/// crate, and the draft cannot be sealed. A child of `fork(2)` does not inherit the map.
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
    file: PhantomData<&'a mut [u8]>,
}

impl<'a> UnsealedMap<'a> {
    /// Maps the first `len` bytes, and reserves memory for all of them. A shorter file is extended.
    ///
    /// # Safety
    ///
    /// For as long as `'a`, nothing else in this process reads, writes, maps or resizes the file, and
    /// no other process has it.
    pub(crate) unsafe fn new(
        file: &'a File,
        len: u64,
        prefer_huge_pages: bool,
        explain_lack: impl Fn(io::Error) -> io::Error,
    ) -> io::Result<Self> {
        let map_len = address_space(len)?;
        if map_len == 0 {
            return Ok(Self { map: None, file: PhantomData });
        }
        let reserve = || sys::reserve(file.as_fd(), len).map_err(&explain_lack);
        // Memory that is there already stays in small pages, whatever is advised later.
        if prefer_huge_pages {
            sys::fits_memory(len)?;
        } else {
            reserve()?;
        }
        // SAFETY: `MmapOptions::map_mut` requires that the file is not modified behind the slice's
        // back, in or out of process: this function's obligation. A forked child does not get the
        // mapping (below). Nobody makes the file shorter, so no access lies beyond its end.
        let map = unsafe { MmapOptions::new().len(map_len).map_mut(file) }.map_err(explain)?;
        // SAFETY: it is one live mapping, whole.
        unsafe { keep_from_children(map.as_ptr(), map.len()) }?;
        if prefer_huge_pages {
            // Both only make huge pages more likely; what counts is the reservation.
            for preference in [advice::HUGE_PAGE, advice::POPULATE_WRITE].into_iter().flatten() {
                // SAFETY: as above.
                let _ = unsafe { advise(map.as_ptr(), map.len(), preference) };
            }
            reserve()?;
        }
        Ok(Self { map: Some(map), file: PhantomData })
    }
}

impl Deref for UnsealedMap<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(empty())
    }
}

impl DerefMut for UnsealedMap<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or(empty_mut())
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
/// The map owns its mapping: the file may be dropped, and the map may move to other threads or live
/// forever. It compares, sorts and hashes by its bytes.
///
/// # Alignment
///
/// A slice of the whole file, or of a range that begins at a page boundary, begins at a page boundary. A
/// slice of another range begins as many bytes behind a page boundary as the range does. An empty slice
/// begins at a page boundary, too, at a multiple of 64 KiB. So whether a cast to an aligned type succeeds
/// (`bytemuck`, `zerocopy`, Arrow) depends on the offset alone, and not on the length.
///
/// # Memory
///
/// Touching a hole allocates memory. If there is none, the kernel ends the process with `SIGBUS`;
/// [`SealedFile::reserve`] turns that into an error beforehand. What remains is a page that broke in
/// hardware, and a failed read from swap.
///
/// A core dump contains the map, and reads all of it: see [core dumps](crate::soundness#core-dumps).
///
/// # Examples
///
/// ```
/// let map = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?.map_read_only()?;
/// let length = std::thread::spawn(move || map.len()).join().unwrap();
/// assert_eq!(length, 5);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// [`SealedFile::map_read_only`]: crate::SealedFile::map_read_only
/// [`SealedFile::map_range`]: crate::SealedFile::map_range
/// [`SealedFile::reserve`]: crate::SealedFile::reserve
pub struct ReadOnlyMap {
    /// `None` for an empty range, which cannot be mapped.
    map: Option<Mmap>,
    /// The requested range, within `map`.
    range: Range<usize>,
}

impl ReadOnlyMap {
    /// Maps a range that lies within the file.
    ///
    /// # Safety
    ///
    /// The file carries F_SEAL_WRITE and F_SEAL_SHRINK, the kernel enforces them, and the file has been
    /// as long as `extent` says at some time since.
    pub(crate) unsafe fn new(file: &File, extent: Extent, range: Range<u64>) -> io::Result<Self> {
        if range.is_empty() {
            return Ok(Self { map: None, range: 0..0 });
        }
        // Mappings begin at a page, and those of hugetlbfs end at one too. How large a page is is not
        // asked: on old kernels that takes a descriptor, and panics where there is none.
        let map_offset =
            range.start - range.start % extent.huge_page.unwrap_or(LARGEST_PAGE as u64);
        let map_end = range.end.next_multiple_of(extent.huge_page.unwrap_or(1));
        let map_len = address_space(map_end - map_offset)?;
        let start = (range.start - map_offset) as usize;
        let end = (range.end - map_offset) as usize;

        let mut options = MmapOptions::new();
        options.offset(map_offset).len(map_len);
        // SAFETY: `MmapOptions::map` requires that the file is not modified or truncated while the
        // map lives, in or out of process. By this function's obligation it carries two seals, of which
        // fcntl(2) says: F_SEAL_WRITE, "you cannot modify the contents of the file"; F_SEAL_SHRINK,
        // "the file in question cannot be reduced in size"; "once set, seals cannot be removed". The
        // length was seen after that or is that of a file which nobody else had, and the range lies
        // within it.
        let shared = unsafe { options.map(file) };
        let map = match shared {
            // Kernels before 6.7 (some before a backport) refuse every shared mapping of a writable
            // descriptor of a file with F_SEAL_WRITE.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                if extent.huge_page.is_some() {
                    // A private mapping would take its pages from the pool a second time.
                    let read_only = sys::reopen(file.as_fd(), false).map(File::from).map_err(|why| {
                        let message = format!(
                            "cannot map the file (mmap), nor reopen it to map it read-only ({why})"
                        );
                        explained(error.kind(), message, error)
                    })?;
                    // SAFETY: as above, for `sys::reopen` opens the same file (device and inode).
                    unsafe { options.map(&read_only) }
                } else {
                    // SAFETY: as above; a private mapping that is not written shows the file's pages.
                    unsafe { options.map_copy_read_only(file) }
                }
            }
            done => done,
        };
        Ok(Self { map: Some(map.map_err(explain)?), range: start..end })
    }

    /// Populates the page tables now, for speed, so that the first access to a page causes no page fault.
    ///
    /// This does not keep access from running out of memory: pages that nobody wrote can be dropped
    /// again. Only [`SealedFile::reserve`](crate::SealedFile::reserve) lasts.
    ///
    /// # Errors
    ///
    /// * `Unsupported`: before Linux 5.14, and on FreeBSD.
    /// * `EFAULT`, `ENOMEM`: no memory, where access would have raised `SIGBUS`.
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
            let message = "populating a map requires Linux 5.14";
            io::Error::new(io::ErrorKind::Unsupported, message)
        };
        let advice = advice::POPULATE_READ.ok_or_else(unsupported)?;
        // SAFETY: it is one live mapping, whole.
        unsafe { advise(map.as_ptr(), map.len(), advice) }.map_err(|error| match error.kind() {
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
            None => empty(),
        }
    }
}

// SAFETY: `StableDeref` requires that what `deref` returned stays valid, and the same, for as long as the
// map lives, wherever the map moves and whatever methods are called on `&self`. `Mmap` promises that of
// the mapping (`is_stable`), and the range within it is set once. The slice of an empty map is a constant.
#[cfg(feature = "stable_deref_trait")]
unsafe impl StableDeref for ReadOnlyMap {}

impl AsRef<[u8]> for ReadOnlyMap {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for ReadOnlyMap {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl<'a> IntoIterator for &'a ReadOnlyMap {
    type Item = &'a u8;
    type IntoIter = slice::Iter<'a, u8>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

// By their bytes, as `Borrow` requires.

impl PartialEq for ReadOnlyMap {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for ReadOnlyMap {}

impl PartialOrd for ReadOnlyMap {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ReadOnlyMap {
    fn cmp(&self, other: &Self) -> Ordering {
        self[..].cmp(&other[..])
    }
}

impl Hash for ReadOnlyMap {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self[..].hash(state);
    }
}

impl PartialEq<[u8]> for ReadOnlyMap {
    fn eq(&self, other: &[u8]) -> bool {
        self[..] == *other
    }
}

impl PartialEq<&[u8]> for ReadOnlyMap {
    fn eq(&self, other: &&[u8]) -> bool {
        self[..] == **other
    }
}

impl<const N: usize> PartialEq<[u8; N]> for ReadOnlyMap {
    fn eq(&self, other: &[u8; N]) -> bool {
        self[..] == *other
    }
}

impl<const N: usize> PartialEq<&[u8; N]> for ReadOnlyMap {
    fn eq(&self, other: &&[u8; N]) -> bool {
        self[..] == **other
    }
}

impl PartialEq<Vec<u8>> for ReadOnlyMap {
    fn eq(&self, other: &Vec<u8>) -> bool {
        self[..] == other[..]
    }
}

impl PartialEq<ReadOnlyMap> for [u8] {
    fn eq(&self, other: &ReadOnlyMap) -> bool {
        *self == other[..]
    }
}

impl PartialEq<ReadOnlyMap> for &[u8] {
    fn eq(&self, other: &ReadOnlyMap) -> bool {
        **self == other[..]
    }
}

impl<const N: usize> PartialEq<ReadOnlyMap> for [u8; N] {
    fn eq(&self, other: &ReadOnlyMap) -> bool {
        self[..] == other[..]
    }
}

impl<const N: usize> PartialEq<ReadOnlyMap> for &[u8; N] {
    fn eq(&self, other: &ReadOnlyMap) -> bool {
        self[..] == other[..]
    }
}

impl PartialEq<ReadOnlyMap> for Vec<u8> {
    fn eq(&self, other: &ReadOnlyMap) -> bool {
        self[..] == other[..]
    }
}

impl PartialOrd<[u8]> for ReadOnlyMap {
    fn partial_cmp(&self, other: &[u8]) -> Option<Ordering> {
        self[..].partial_cmp(other)
    }
}

impl fmt::Debug for ReadOnlyMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyMap").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A copy of an immutable file that is made page by page, as it is written to, from
/// [`SealedFile::map_private`](crate::SealedFile::map_private).
///
/// The map begins with the contents of the file. What is written stays in the map: the file never
/// changes, and neither do other maps of it, private ones included. The map owns its mapping: the file may
/// be dropped, and the map may move to other threads or live forever.
///
/// Use it where much is copied and little is changed: snapshots of a machine's memory, images of a program
/// that is started often, a message that is decoded in place. A copy of 64 MiB of which two pages are
/// written takes microseconds; [`to_vec`](slice::to_vec) takes some tens of milliseconds.
///
/// # Memory
///
/// * A page that is only read is the file's own, which all its maps share. A page that is written, even in
///   a single byte, is copied, and takes a page until the map is dropped. Writing does not give the file's
///   page back. A page of hugetlb is a huge one.
/// * *Accounting.* Every page may be copied, so the kernel accounts for all of them when the map is made.
///   Under strict overcommit (`vm.overcommit_memory=2`) a map that exceeds what may be committed is
///   `ENOMEM` at once, and writing never lacks memory. Otherwise only a map of more than the machine's
///   memory and swap is refused; when memory runs out, writing invokes the OOM killer, as with any other
///   memory of this process.
/// * *hugetlb.* The pool reserves every page of the map, beside those of the file, until the map is dropped.
/// * *Holes.* Touching a hole of the file allocates a page of the file first, even to write to it. If there
///   is no memory for that page, the kernel ends the process with `SIGBUS`, as for a [`ReadOnlyMap`].
///   [`SealedFile::reserve`](crate::SealedFile::reserve) turns that into an error beforehand.
/// * `mlockall(MCL_FUTURE)` copies every page at once.
///
/// # Fork
///
/// A child of `fork(2)` has the map as it is at that moment. From then on the two are as independent as two
/// maps: what one writes, the other does not see. (On hugetlb pages the reserve stays with the parent.
/// The kernel ends a child that touches a page for which there is none.)
///
/// # Debuggers
///
/// The map is ordinary memory of this process. `/proc/self/mem`, `ptrace(2)` and `userfaultfd(2)` can
/// change it, as they can change the heap. They do not reach the file through it.
///
/// # Alignment
///
/// The slice begins at a page boundary, an empty one too.
///
/// # Examples
///
/// ```
/// let snapshot = sealed_mmap::SealedFile::from_bytes("snapshot", vec![0; 1 << 20])?;
/// let mut machine = snapshot.map_private()?;
/// machine[5000] = 7; // copies one page
///
/// assert_eq!(machine[5000], 7);
/// assert_eq!(snapshot.map_read_only()?[5000], 0);
/// assert_eq!(snapshot.map_private()?[5000], 0); // the next one starts over
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "MAP_PRIVATE")]
pub struct PrivateMap {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<MmapMut>,
}

impl PrivateMap {
    /// Maps the whole file.
    ///
    /// # Safety
    ///
    /// As [`ReadOnlyMap::new`].
    pub(crate) unsafe fn new(file: &File, extent: Extent) -> io::Result<Self> {
        let map = match address_space(extent.len)? {
            0 => None,
            // SAFETY: `MmapOptions::map_copy` requires that the file is not modified or truncated while
            // the map lives, which `ReadOnlyMap::new` shows from the same obligation. mmap(2) on
            // MAP_PRIVATE: "a private copy-on-write mapping. Updates to the mapping are not visible to
            // other processes mapping the same file, and are not carried through to the underlying file."
            // So nobody else changes what this process has written, a child of fork(2) included.
            len => Some(unsafe { MmapOptions::new().len(len).map_copy(file) }.map_err(explain)?),
        };
        Ok(Self { map })
    }
}

impl Deref for PrivateMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(empty())
    }
}

impl DerefMut for PrivateMap {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or(empty_mut())
    }
}

// SAFETY: as for `ReadOnlyMap`. `StableDeref` requires the same of `deref_mut`, also after writing to what
// it returned, which makes the kernel replace pages and leaves the addresses as they are. A `PrivateMap` is
// no `Clone`, so a mapping has one owner, whose `&mut` excludes every other access.
#[cfg(feature = "stable_deref_trait")]
unsafe impl StableDeref for PrivateMap {}

impl AsRef<[u8]> for PrivateMap {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for PrivateMap {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for PrivateMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateMap").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(feature = "stable_deref_trait")]
const _: () = {
    const fn is_stable<M: StableDeref>() {}
    is_stable::<Mmap>();
    is_stable::<MmapMut>();
};

/// A slice cannot be longer than `isize::MAX` bytes, and so no mapping is.
pub(crate) fn address_space(len: u64) -> io::Result<usize> {
    usize::try_from(len).ok().filter(|len| isize::try_from(*len).is_ok()).ok_or_else(|| {
        let message = "the length does not fit into the address space";
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    })
}

/// A multiple of every page size of the targets that Rust supports.
const LARGEST_PAGE: usize = 64 << 10;

/// An empty file cannot be mapped. A slice of it is aligned like any other map.
#[repr(align(65536))]
struct Page;
const _: () = assert!(align_of::<Page>() == LARGEST_PAGE);

pub(crate) fn empty<'a>() -> &'a [u8] {
    empty_mut()
}

fn empty_mut<'a>() -> &'a mut [u8] {
    // SAFETY: `slice::from_raw_parts_mut`: "You can obtain a pointer that is usable as `data` for
    // zero-length slices using `NonNull::dangling()`."
    unsafe { slice::from_raw_parts_mut(NonNull::<Page>::dangling().as_ptr().cast(), 0) }
}

/// Explains why a mapping failed, where the errno is misleading.
pub(crate) fn explain(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        // mmap(2): "The file has been locked, or too much memory has been locked". To async code this
        // kind, `WouldBlock`, is an invitation to wait.
        Some(Errno::AGAIN) => explained(
            io::ErrorKind::OutOfMemory,
            "the mapping exceeds the limit on locked memory (RLIMIT_MEMLOCK), which holds for every \
             mapping after mlockall(MCL_FUTURE)",
            error,
        ),
        // mmap(2) has EACCES for a descriptor that is not open for reading.
        Some(Errno::ACCESS) => error,
        _ => while_doing("map the file (mmap)")(error),
    }
}

/// A child of `fork(2)` would be a second writer.
///
/// # Safety
///
/// As [`advise`].
pub(crate) unsafe fn keep_from_children(start: *const u8, len: usize) -> io::Result<()> {
    let Some(dont_fork) = advice::DONT_FORK else { return Ok(()) };
    // SAFETY: this function's obligation.
    unsafe { advise(start, len, dont_fork) }
}

/// # Safety
///
/// The range is one live mapping of the caller's, whole.
unsafe fn advise(start: *const u8, len: usize, advice: Advice) -> io::Result<()> {
    // SAFETY: the kernel does not touch other memory of this process, by this function's obligation,
    // and none of the advice in `sys::advice` changes or takes away what the mapping shows. madvise(2)
    // on MADV_DONTFORK: "Do not make the pages in this range available to the child after a fork(2)";
    // MADV_HUGEPAGE: "Enable Transparent Huge Pages (THP)"; MADV_POPULATE_READ and _WRITE: "Populate
    // (prefault) page tables".
    unsafe { rustix::mm::madvise(start.cast_mut().cast(), len, advice) }
        .map_err(while_doing("advise the kernel on a mapping (madvise)"))
}

/// A range that exceeds the file or the map, a value that exceeds a capacity, or a word whose offset is
/// not a multiple of its length.
///
/// # Examples
///
/// ```
/// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
/// let error = file.map_range(3..7).unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
/// assert_eq!(error.to_string(), "4 bytes from offset 3 on do not fit into 5 bytes");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{}", describe(*offset, *len, *size))]
pub struct OutOfBounds {
    /// Where the range begins, in bytes.
    pub offset: u64,
    /// How long the range is, in bytes.
    pub len: u64,
    /// How long the file or the map is, or how large the capacity, in bytes.
    pub size: u64,
}

fn describe(offset: u64, len: u64, size: u64) -> String {
    // What lies within was refused for where it begins.
    if OutOfBounds::locate(offset, len, size).is_ok() {
        return format!("offset {offset} is not a multiple of {len}");
    }
    if len == 0 {
        return format!("offset {offset} is beyond the {size} bytes there are");
    }
    // No buffer is so long: the length is what `resolve` makes of such a range.
    if len > i64::MAX as u64 && offset.checked_add(len).is_none() {
        return format!("the range that begins at offset {offset} ends before it begins");
    }
    // Nothing for offset 0: the range may be a whole value, and the memory the room for it.
    let from = if offset == 0 { String::new() } else { format!(" from offset {offset} on") };
    format!("{len} bytes{from} do not fit into {size} bytes")
}

impl OutOfBounds {
    /// The range of `len` bytes from `offset` on, if all of it lies within `size` bytes.
    #[inline]
    pub(crate) fn locate(offset: u64, len: u64, size: u64) -> Result<Range<u64>, Self> {
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(offset..end),
            _ => Err(Self { offset, len, size }),
        }
    }

    /// A range as offsets, if it lies within `size` bytes. Reads each bound once.
    pub(crate) fn resolve(range: impl RangeBounds<u64>, size: u64) -> Result<Range<u64>, Self> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => size.max(start),
        };
        Self::locate(start, end.wrapping_sub(start), size)
    }
}

impl From<OutOfBounds> for io::Error {
    fn from(error: OutOfBounds) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}
