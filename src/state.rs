//! The states of a [`SealedFile`](crate::SealedFile): each is one sentence of guarantee.

use crate::seals::Seals;

/// What the kernel has promised about a [`SealedFile`](crate::SealedFile).
///
/// This trait is implemented by the three states below and cannot be implemented elsewhere.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{ReadOnlySealed, Seals, State, Unsealed};
///
/// assert_eq!(ReadOnlySealed::REQUIRED, Seals::WRITE | Seals::SHRINK);
/// assert_eq!(Unsealed::REQUIRED, Seals::empty());
/// assert_eq!(Unsealed::NAME, "Unsealed");
/// ```
pub trait State {
    /// The seals without which a file is not in this state. More may be present.
    const REQUIRED: Seals;

    /// The state's name, for messages.
    const NAME: &'static str;

    /// Of a type that no other crate can name, so that none can implement the trait.
    #[doc(hidden)]
    const ONLY_HERE: private::OnlyHere;
}

/// A state whose files may be shared with other processes.
///
/// This trait is implemented by [`ReadOnlySealed`] and [`FutureWriteSealed`] and cannot be
/// implemented elsewhere.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{SealedFile, Sealed};
///
/// /// Works for immutable and for live files.
/// fn describe<S: Sealed>(file: &SealedFile<S>) -> std::io::Result<String> {
///     Ok(format!("{} bytes, sealed against {}", file.len()?, file.get_seals()?))
/// }
///
/// let file = SealedFile::from_bytes("greeting", b"hello")?;
/// assert!(describe(&file)?.starts_with("5 bytes, sealed against "));
/// # Ok::<(), std::io::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "a file in the state `{Self}` is not shared",
    label = "a draft has no descriptor, and no second handle, to give away",
    note = "make the file immutable with `seal_read_only()`; or leave the typestate with \
            `into_file()`, and come back with `SealedFile::adopt_read_only`"
)]
pub trait Sealed: State {}

/// Nothing is promised: this value is the only handle to the file, and may fill it.
///
/// # Guarantees
///
/// * No other [`SealedFile`](crate::SealedFile), descriptor or mapping of this file was made
///   through this crate, so a `&mut [u8]` over it is exclusive.
///
/// # Not guaranteed
///
/// * That the kernel keeps anybody out: whoever may trace this process may open its descriptors
///   (see [`soundness`](crate::soundness)).
///
/// # Examples
///
/// ```
/// use std::io::Write;
///
/// let mut draft = sealed_mmap::SealedFile::create("draft")?;
/// draft.write_all(b"still open to changes")?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub enum Unsealed {}

/// No byte changes any more and the length cannot fall, in any process, forever.
///
/// # Guarantees
///
/// * The seals [`WRITE`](Seals::WRITE) and [`SHRINK`](Seals::SHRINK) were confirmed by
///   `F_GET_SEALS`, in a combination that the running kernel enforces.
/// * Seals are never removed ([fcntl(2)], "File Sealing"), so this stays true whoever holds the file.
///
/// # Not guaranteed
///
/// * That the length cannot grow, unless [`GROW`](Seals::GROW) is present: what is added later is
///   not part of the value.
/// * That every page is in memory: see [`SealedFile::reserve`](crate::SealedFile::reserve).
/// * Anything but the bytes and the length: whoever has the descriptor can move its offset, change
///   mode bits and times, and take memory for holes. Readers who want an offset of their own open
///   the file anew, with [`SealedFile::reopen`](crate::SealedFile::reopen).
///
/// # Examples
///
/// ```
/// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
/// assert_eq!(&file.map_read_only()?[..], b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// [fcntl(2)]: https://man7.org/linux/man-pages/man2/fcntl.2.html
#[derive(Debug)]
pub enum ReadOnlySealed {}

/// The length cannot fall, and only a mapping made before the seal can still write.
///
/// # Guarantees
///
/// * The seals [`FUTURE_WRITE`](Seals::FUTURE_WRITE) and [`SHRINK`](Seals::SHRINK) were confirmed
///   by `F_GET_SEALS`.
///
/// # Not guaranteed
///
/// * That the bytes stay as they are: the producer goes on writing. There is never a `&[u8]` over
///   such a file.
///
/// # Platform-specific
///
/// Linux and Android, from Linux 5.1 (5.4.4 is the oldest kernel the guarantee is claimed for).
/// Elsewhere no file is ever in this state.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{FutureWriteSealed, Seals, State};
///
/// assert_eq!(FutureWriteSealed::REQUIRED, Seals::FUTURE_WRITE | Seals::SHRINK);
/// ```
#[derive(Debug)]
pub enum FutureWriteSealed {}

mod private {
    #[derive(Debug)]
    pub struct OnlyHere;
}
use private::OnlyHere;

impl State for Unsealed {
    const REQUIRED: Seals = Seals::empty();
    const NAME: &'static str = "Unsealed";
    const ONLY_HERE: OnlyHere = OnlyHere;
}
impl State for FutureWriteSealed {
    const REQUIRED: Seals = Seals::FUTURE_WRITE.union(Seals::SHRINK);
    const NAME: &'static str = "FutureWriteSealed";
    const ONLY_HERE: OnlyHere = OnlyHere;
}
impl State for ReadOnlySealed {
    const REQUIRED: Seals = Seals::WRITE.union(Seals::SHRINK);
    const NAME: &'static str = "ReadOnlySealed";
    const ONLY_HERE: OnlyHere = OnlyHere;
}

impl Sealed for FutureWriteSealed {}
impl Sealed for ReadOnlySealed {}
