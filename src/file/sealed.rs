//! The value that stands for what the kernel has promised, and the only two ways to make one. It has
//! no children, because they could see its fields.
#![allow(unsafe_code, reason = "the promise is the caller's to prove")]

use std::fs::File;
use std::marker::PhantomData;

use crate::huge_pages::HugePages;
use crate::state::{ReadOnlySealed, Sealed, State, Unsealed};
use crate::sys::Extent;

/// A file in memory, and in its type what the kernel has promised about it.
///
/// | state | got by | promised | allowed |
/// |---|---|---|---|
/// | [`Unsealed`] | [`create`](Self::create) | nothing; this is the only handle | write, resize, [`map_mut`](SealedFile::map_mut) |
/// | [`ReadOnlySealed`] | [`seal_read_only`](SealedFile::seal_read_only), [`from_bytes`](SealedFile::from_bytes), [`receive_read_only`](SealedFile::receive_read_only), … | no byte changes, forever | share, clone, [`map_read_only`](SealedFile::map_read_only) → `&[u8]` |
/// | [`FutureWriteSealed`](crate::FutureWriteSealed) | [`Producer::file`](crate::Producer::file), [`receive_future_write`](SealedFile::receive_future_write) | nobody new writes | share, clone, [`map_live`](SealedFile::map_live) → copies |
///
/// The type parameter need not be written: the constructors fix it, and where a type has to be
/// named, `SealedFile` alone is the immutable file.
///
/// # Examples
///
/// ```
/// use sealed_mmap::SealedFile;
/// use std::io::Write;
///
/// let mut draft = SealedFile::create("greeting")?;
/// draft.write_all(b"hello")?;
/// let file: SealedFile = draft.seal_read_only()?;
/// assert_eq!(&file.map_read_only()?[..], b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A draft cannot be shared:
///
/// ```compile_fail,E0277
/// use std::os::fd::AsFd;
///
/// let draft = sealed_mmap::SealedFile::create("draft")?;
/// let descriptor = AsFd::as_fd(&draft);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct SealedFile<S: State = ReadOnlySealed> {
    file: File,
    /// Of a draft: what it was made of.
    pages: HugePages,
    /// Of a sealed file: its size, true after the seals were seen. `None` if nobody has asked yet.
    extent: Option<Extent>,
    state: PhantomData<fn() -> S>,
}

impl SealedFile<Unsealed> {
    /// # Safety
    ///
    /// `file` has just been created. No other descriptor or mapping of it exists in this process, and
    /// no other process has it.
    pub(crate) unsafe fn draft(file: File, pages: HugePages) -> Self {
        Self { file, pages, extent: None, state: PhantomData }
    }
}

impl<S: Sealed> SealedFile<S> {
    /// # Safety
    ///
    /// * `F_GET_SEALS` has reported [`S::REQUIRED`](State::REQUIRED) of this file, and the running
    ///   kernel enforces the combination that it reported.
    /// * The file had this `extent` then, or later; or in the end of a draft, when nobody else had it.
    ///   It is left out only if the file cannot grow either: then it does not matter when it is asked
    ///   for.
    pub(crate) unsafe fn sealed(file: File, extent: Option<Extent>) -> Self {
        Self { file, pages: HugePages::None, extent, state: PhantomData }
    }

    pub(crate) fn known_extent(&self) -> Option<Extent> {
        self.extent
    }
}

impl<S: State> SealedFile<S> {
    pub(crate) fn pages(&self) -> HugePages {
        self.pages
    }

    /// For system calls. Never handed out.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Leaves the typestate.
    pub(crate) fn into_inner(self) -> File {
        self.file
    }
}
