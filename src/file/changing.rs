//! Live and shared files: mapping one to read it, and making it immutable when its writers are gone.
#![allow(unsafe_code, reason = "what the types promise is proved here, and relied on")]

use std::io;
use std::os::fd::AsFd;

use crate::file::draft::SealError;
use crate::file::sealed::SealedFile;
use crate::live::LiveMap;
use crate::sealing::{self, SealFailure};
use crate::seals::Seals;
use crate::state::{Changing, ReadOnlySealed};
use crate::sys;

/// A live or a shared file, whose bytes may change.
impl<S: Changing> SealedFile<S> {
    /// Maps the whole file, to be read while it is being written. [`LiveMap`] has an example.
    ///
    /// If the descriptor is writable, the file is reopened for this, read-only: on old kernels a
    /// mapping through a writable descriptor, even one that only reads, keeps the file from being
    /// [finished](Self::finish). If the file cannot be reopened (no `/proc`, or the mode does not let this
    /// user read it), the descriptor is mapped as it is.
    ///
    /// # Errors
    ///
    /// * `FileTooLarge`: the length does not fit into the address space.
    /// * `ENOMEM`: no address space or no mapping left, or not enough pages in the hugetlb pool.
    /// * `OutOfMemory`: too much locked memory, as for [`map_read_only`](SealedFile::map_read_only).
    /// * `EPERM`: the file has been finished, and the kernel (before 6.7 and its backports) maps such
    ///   a file only through a read-only descriptor, which could not be opened. Receive the file as
    ///   [immutable](SealedFile::receive_read_only).
    #[doc(alias = "mmap")]
    pub fn map_live(&self) -> io::Result<LiveMap> {
        // Old kernels count every shared mapping of a writable descriptor as one that can write,
        // and the file could not be finished.
        let read_only = if sys::access(self.as_fd())?.write { self.reopen().ok() } else { None };
        let file = read_only.as_ref().unwrap_or(self).file();
        // SAFETY: every sealed state has SHRINK, and this is what the type says of the extent.
        unsafe { LiveMap::new(file, self.extent()?) }
    }

    /// Makes the file immutable when its writers are gone: adds [`Seals::WRITE`], [`GROW`](Seals::GROW) and
    /// [`SEAL`](Seals::SEAL) and confirms them.
    ///
    /// Every writable mapping has to be gone, that of the producer or every
    /// [`SharedMap`](crate::SharedMap), and the descriptor has to be writable. So for live files this is
    /// for the file that [`Producer::finish`](crate::Producer::finish) gives back when it fails, and for
    /// those of programs without this crate. A shared file is finished by whoever has it.
    ///
    /// The [length](Self::len) stays the one that is known. Whoever wants what the file has gained since calls
    /// [`refresh_len`](Self::refresh_len) first, or afterwards.
    ///
    /// # Errors
    ///
    /// The file comes back for another attempt: unchanged, unless the reason is
    /// [`Unconfirmed`](crate::SealFailure::Unconfirmed).
    ///
    /// * [`WritableMapping`](crate::SealFailure::WritableMapping) (`EBUSY`): somebody still maps the file
    ///   for writing, or, on kernels before 6.7 and its backports, a reader maps it shared through a
    ///   writable descriptor.
    /// * [`PinnedPages`](crate::SealFailure::PinnedPages) (`EBUSY`, after about a second): a reader
    ///   pins pages for I/O, or many readers read the same pages without pause.
    /// * [`NotAllowed`](crate::SealFailure::NotAllowed) (`EPERM`): the descriptor is read-only, as
    ///   that of [`Producer::file`](crate::Producer::file) is, or the file carries [`Seals::SEAL`].
    /// * [`UntrustedWriteSeal`](crate::SealFailure::UntrustedWriteSeal): the file carries
    ///   [`Seals::EXEC`] and [`Seals::FUTURE_WRITE`], and this kernel does not enforce a write seal beside
    ///   them. No seal is added then.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealFailure, SealedFile, Seals};
    ///
    /// let mut draft = SealedFile::create("result")?;
    /// draft.set_len(4096)?;
    /// let file = draft.seal_size(Seals::empty())?;
    /// let map = file.map_shared()?; // and so do others
    /// map.write_at(0, b"done")?;
    ///
    /// let error = file.finish().unwrap_err();
    /// assert_eq!(error.reason(), SealFailure::WritableMapping);
    /// drop(map); // the last one that can write
    /// let result = error.into_file().finish()?;
    /// assert_eq!(&result.map_read_only()?[..4], b"done");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "F_SEAL_WRITE")]
    pub fn finish(self) -> Result<SealedFile<ReadOnlySealed>, SealError<Self>> {
        match add_seals(&self) {
            Ok(()) => {
                let extent = self.known_extent();
                // SAFETY: `F_GET_SEALS` has reported WRITE, now, and SHRINK, when the file was made, and
                // the kernel enforces what it reported. The extent was true of the file before, and so is
                // still: it was seen after SHRINK.
                Ok(unsafe { SealedFile::sealed(self.into_inner(), extent) })
            }
            Err(failure) => Err(SealError::new(failure, self)),
        }
    }
}

fn add_seals<S: Changing>(file: &SealedFile<S>) -> Result<(), sealing::Failure> {
    const NEEDED: Seals = Seals::WRITE.union(Seals::SEAL);

    let fd = file.as_fd();
    let present = sys::get_seals(fd).map_err(|error| (SealFailure::Other, error))?;
    // Seals that would not be trusted are better not added, for they cannot be taken back.
    sealing::expect_enforced(present | NEEDED)?;
    match sealing::add_and_confirm(fd, NEEDED | Seals::GROW) {
        // Somebody else may have finished the file without GROW, which is then as good.
        Err((SealFailure::NotAllowed, _)) => sealing::add_and_confirm(fd, NEEDED),
        done => done,
    }
}
