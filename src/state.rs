//! The states of a [`SealedFile`](crate::SealedFile).

use crate::seals::Seals;

/// What the kernel has promised about a [`SealedFile`](crate::SealedFile): see [States](crate#states).
///
/// The four states below implement this trait. No other type can.
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
    /// The seals that every file in this state carries. A file may carry more.
    const REQUIRED: Seals;

    /// The state's name, for messages.
    const NAME: &'static str;

    /// Of a type that no other crate can name, so that no other crate can implement the trait.
    #[doc(hidden)]
    const ONLY_HERE: private::OnlyHere;
}

/// A state whose files may be shared with other processes.
///
/// [`ReadOnlySealed`], [`FutureWriteSealed`] and [`SizeSealed`] implement this trait. No other type can.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{SealedFile, Sealed};
///
/// /// Works for every file that is no draft.
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
    note = "make the file immutable with `seal_read_only()`, or share it with others who write by \
            `seal_size()`; or leave the typestate with \
            `into_file()`, and come back with `SealedFile::adopt_read_only`"
)]
pub trait Sealed: State {}

/// A state whose files may be shared, and whose bytes somebody may still change.
///
/// [`FutureWriteSealed`] and [`SizeSealed`] implement this trait. No other type can.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{Changing, SealPolicy, SealedFile, Seals};
///
/// /// Works for live and for shared files.
/// fn first_byte<S: Changing>(file: &SealedFile<S>) -> std::io::Result<u8> {
///     Ok(file.map_live()?.to_vec(..1)?[0])
/// }
///
/// let mut draft = SealedFile::create("pool")?;
/// draft.set_len(4096)?;
/// assert_eq!(first_byte(&draft.seal_size(Seals::empty())?)?, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "a file in the state `{Self}` is neither live nor shared",
    label = "no other process may change its bytes",
    note = "a draft is mapped with `map_mut()`, an immutable file with `map_read_only()`"
)]
pub trait Changing: Sealed {}

/// A *draft*: the kernel has promised nothing, and this value is the only handle to the file.
///
/// # Guarantees
///
/// * Through this crate, no other [`SealedFile`](crate::SealedFile) and no descriptor of the file was
///   made, and no other mapping of it is in use, so a `&mut [u8]` over the file is exclusive.
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

/// An *immutable* file: no byte changes any more and the file cannot shrink, in any process, forever.
///
/// # Guarantees
///
/// * The seals [`WRITE`](Seals::WRITE) and [`SHRINK`](Seals::SHRINK) were confirmed by
///   `F_GET_SEALS`, in a combination that the running kernel enforces.
/// * Seals are never removed ([fcntl(2)], "File Sealing"), so the promise holds whoever has the file.
///
/// # Not guaranteed
///
/// * That the file cannot grow, unless it carries [`GROW`](Seals::GROW). Bytes that are added later are
///   not part of the value.
/// * That every page is in memory: see [`SealedFile::reserve`](crate::SealedFile::reserve).
/// * Anything but the bytes and the length: whoever has the descriptor can move its offset, change
///   mode bits and times, and allocate memory for holes. For an offset of one's own there is
///   [`SealedFile::reopen`](crate::SealedFile::reopen).
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

/// A *live* file: the file cannot shrink, and only mappings made before the seal can still write.
///
/// # Guarantees
///
/// * The seals [`FUTURE_WRITE`](Seals::FUTURE_WRITE) and [`SHRINK`](Seals::SHRINK) were confirmed
///   by `F_GET_SEALS`.
///
/// # Not guaranteed
///
/// * That the bytes stay as they are: the producer goes on writing. There is never a `&[u8]` over a
///   live file.
///
/// # Platform-specific
///
/// Linux and Android, from Linux 5.1 (5.4.4 is the oldest kernel for which the guarantee is claimed).
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

/// A *shared* file: the file cannot shrink, and whoever has it may write.
///
/// # Guarantees
///
/// * The seal [`SHRINK`](Seals::SHRINK) was confirmed by `F_GET_SEALS`. So the length never falls, and a
///   map of the file stays valid, whatever the other holders do.
///
/// # Not guaranteed
///
/// * That the bytes stay as they are: anybody with a descriptor writes them at any time, and
///   [can punch holes](crate::SharedMap#holes) into the file. There is never a `&[u8]` over a shared file.
/// * That the file cannot grow, unless it carries [`GROW`](Seals::GROW):
///   [`refresh_len`](crate::SealedFile::refresh_len) takes the new length.
/// * That nobody adds seals, unless the file carries [`SEAL`](Seals::SEAL): anybody with a writable
///   descriptor can seal the file against new writable maps.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{SealedFile, Seals, SizeSealed, State};
///
/// assert_eq!(SizeSealed::REQUIRED, Seals::SHRINK);
///
/// let mut draft = SealedFile::create("counters")?;
/// draft.set_len(4096)?;
/// let file: SealedFile<SizeSealed> = draft.seal_size(Seals::GROW)?;
/// file.map_shared()?.fetch_add(0, 1)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub enum SizeSealed {}

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
impl State for SizeSealed {
    const REQUIRED: Seals = Seals::SHRINK;
    const NAME: &'static str = "SizeSealed";
    const ONLY_HERE: OnlyHere = OnlyHere;
}
impl State for ReadOnlySealed {
    const REQUIRED: Seals = Seals::WRITE.union(Seals::SHRINK);
    const NAME: &'static str = "ReadOnlySealed";
    const ONLY_HERE: OnlyHere = OnlyHere;
}

impl Sealed for FutureWriteSealed {}
impl Sealed for SizeSealed {}
impl Sealed for ReadOnlySealed {}

impl Changing for FutureWriteSealed {}
impl Changing for SizeSealed {}
