//! The value that stands for what the kernel has promised, and the only two ways to construct one. This
//! module has no children, because children could see the value's fields.
#![allow(unsafe_code, reason = "the promise is the caller's to prove")]

use std::fs::File;
use std::marker::PhantomData;

use crate::huge_pages::HugePages;
use crate::state::{ReadOnlySealed, Sealed, State, Unsealed};
use crate::sys::Extent;

/// A file in memory, whose type says what the kernel has promised about it.
///
/// The type is a *draft* in the state [`Unsealed`], *immutable* in [`ReadOnlySealed`], and *live* in
/// [`FutureWriteSealed`](crate::FutureWriteSealed) and *shared* in [`SizeSealed`](crate::SizeSealed).
/// [States](crate#states) compares the four.
///
/// The state rarely needs to be named: the constructors determine it, and the default, `SealedFile`
/// alone, is the immutable file.
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
    /// Of a draft: the pages that it was created with.
    pages: HugePages,
    /// Of a sealed file: its size at a time after the seals were seen. `None` if nobody has asked yet.
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
    /// * The file had this `extent` then or later, or, sealed from a draft, before the seals, when nobody
    ///   else had the file. `None` is allowed only if the file cannot grow either: then it does not matter
    ///   when the extent is read.
    pub(crate) unsafe fn sealed(file: File, extent: Option<Extent>) -> Self {
        Self { file, pages: HugePages::None, extent, state: PhantomData }
    }

    /// # Safety
    ///
    /// The file has had this extent, at some time since its seals were seen.
    pub(crate) unsafe fn set_extent(&mut self, extent: Extent) {
        self.extent = Some(extent);
    }

    pub(crate) fn known_extent(&self) -> Option<Extent> {
        self.extent
    }
}

impl<S: State> SealedFile<S> {
    pub(crate) fn pages(&self) -> HugePages {
        self.pages
    }

    /// For system calls. The reference never leaves the crate.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Leaves the typestate.
    pub(crate) fn into_inner(self) -> File {
        self.file
    }
}
