//! Live files, which a producer goes on writing.
#![allow(unsafe_code, reason = "what the type promises is proved here, and relied on")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::file::draft::SealError;
use crate::file::receive::{ReceiveError, accept};
use crate::file::sealed::SealedFile;
use crate::live::LiveMap;
use crate::policy::SealPolicy;
use crate::sealing::{self, SealFailure};
use crate::seals::Seals;
use crate::state::{FutureWriteSealed, ReadOnlySealed};
use crate::sys;

/// A live file: one producer's mapping still writes, and nobody else can.
impl SealedFile<FutureWriteSealed> {
    /// Receives a live file from a peer that need not be trusted.
    ///
    /// The file is accepted if it carries [`Seals::FUTURE_WRITE`] and [`Seals::SHRINK`], and the policy
    /// accepts the file. No seal is added and no byte changes.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](crate::Refusal), with the descriptor.
    ///
    /// A policy that [reserves](SealPolicy::reserve) memory, as [`untrusted`](SealPolicy::untrusted)
    /// does, requires a writable descriptor, or a file that may be opened for writing. The files that a
    /// [`Producer`](crate::Producer) shares offer neither, except to root, and are refused as
    /// [`CannotReserve`](crate::Refusal::CannotReserve) (`EACCES`).
    ///
    /// # Platform-specific
    ///
    /// Linux 5.1 and later (the guarantee is claimed from 5.4.4). Elsewhere no file has the seal:
    /// [`MissingSeals`](crate::Refusal::MissingSeals).
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{CreateOptions, Refusal, SealPolicy, SealedFile, Seals, add_seals};
    ///
    /// let file = CreateOptions::new().executable(true).create("live");
    /// # let Ok(file) = file else { return Ok(()) }; // vm.memfd_noexec=2
    /// let file = file.into_file();
    /// let policy = SealPolicy::new();
    /// let refused = SealedFile::receive_future_write(file, &policy).unwrap_err();
    /// assert!(matches!(refused.reason(), Refusal::MissingSeals { .. }));
    ///
    /// let fd = refused.into_fd();
    /// add_seals(&fd, Seals::FUTURE_WRITE | Seals::SHRINK)?;
    /// let live = SealedFile::receive_future_write(fd, &policy)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn receive_future_write(
        fd: impl Into<OwnedFd>,
        policy: &SealPolicy,
    ) -> Result<Self, ReceiveError> {
        let fd = fd.into();
        match accept::<FutureWriteSealed>(fd.as_fd(), policy) {
            // SAFETY: `accept` has seen the state's seals, and then the extent.
            Ok(extent) => Ok(unsafe { Self::sealed(fd.into(), Some(extent)) }),
            Err(refusal) => Err(ReceiveError::new(refusal, fd)),
        }
    }

    /// Maps the whole file, to be read while it is being written. [`LiveMap`] has an example.
    ///
    /// If the descriptor is writable, the file is reopened for this, read-only: on old kernels a
    /// mapping through a writable descriptor, even one that only reads, keeps the producer from
    /// [finishing](crate::Producer::finish) the file. If the file cannot be reopened (no `/proc`, or
    /// the mode does not let this user read it), the descriptor is mapped as it is.
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
        // and the producer could not finish.
        let read_only = if sys::access(self.as_fd())?.write { self.reopen().ok() } else { None };
        let file = read_only.as_ref().unwrap_or(self).file();
        // SAFETY: this is what the type says of the file.
        unsafe { LiveMap::new(file, self.extent()?) }
    }

    /// Makes the live file immutable: adds [`Seals::WRITE`] and [`Seals::SEAL`] and confirms them.
    ///
    /// The producer's mapping has to be gone, and the descriptor has to be writable. So this is for the
    /// file that [`Producer::finish`](crate::Producer::finish) gives back when it fails, and for live
    /// files of programs without this crate.
    ///
    /// # Errors
    ///
    /// The live file comes back unchanged, for another attempt.
    ///
    /// * [`WritableMapping`](crate::SealFailure::WritableMapping) (`EBUSY`): the producer still maps the
    ///   file, or, on kernels before 6.7 and its backports, a reader maps it shared through a writable
    ///   descriptor.
    /// * [`PinnedPages`](crate::SealFailure::PinnedPages) (`EBUSY`, after about a second): a reader
    ///   pins pages for I/O, or many readers read the same pages without pause.
    /// * [`NotAllowed`](crate::SealFailure::NotAllowed) (`EPERM`): the descriptor is read-only, as
    ///   that of [`Producer::file`](crate::Producer::file) is, or the file carries [`Seals::SEAL`].
    /// * [`UntrustedWriteSeal`](crate::SealFailure::UntrustedWriteSeal): the file carries
    ///   [`Seals::EXEC`], and this kernel does not enforce a write seal beside it. No seal is added then.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{CreateOptions, SealPolicy, SealedFile, Seals, add_seals};
    ///
    /// let file = CreateOptions::new().executable(true).create("live");
    /// # let Ok(file) = file else { return Ok(()) }; // vm.memfd_noexec=2
    /// let file = file.into_file();
    /// file.set_len(3)?;
    /// add_seals(&file, Seals::FUTURE_WRITE | Seals::SHRINK)?;
    /// let live = SealedFile::receive_future_write(file, &SealPolicy::new())?;
    /// assert_eq!(live.finish()?.map_read_only()?.len(), 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn finish(self) -> Result<SealedFile<ReadOnlySealed>, SealError<Self>> {
        let seals = Seals::WRITE | Seals::SEAL;
        let done = self.get_seals().map_err(|error| (SealFailure::Other, error));
        // Seals that would not be trusted are better not added, for they cannot be taken back.
        let done = done.and_then(|present| sealing::expect_enforced(present | seals));
        match done.and_then(|()| sealing::add_and_confirm(self.as_fd(), seals)) {
            Ok(()) => {
                let extent = self.known_extent();
                // SAFETY: `F_GET_SEALS` has reported WRITE, now, and SHRINK, when the live file was made,
                // and the kernel enforces what it reported. The extent was true of the live file, and
                // so is still: it was seen after SHRINK.
                Ok(unsafe { SealedFile::sealed(self.into_inner(), extent) })
            }
            Err(failure) => Err(SealError::new(failure, self)),
        }
    }
}
