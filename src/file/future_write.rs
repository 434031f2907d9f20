//! Files that a producer goes on writing.

use std::os::fd::{AsFd, OwnedFd};

use crate::receive;
use crate::seals;
use crate::state::{FutureWriteSealed, ReadOnlySealed};
use crate::{ReceiveError, SealError, SealPolicy, SealedFile, Seals};

/// A live file: one producer's mapping still writes, nobody else can.
impl SealedFile<FutureWriteSealed> {
    /// Takes a live file from a peer, if it carries [`Seals::FUTURE_WRITE`] and
    /// [`Seals::SHRINK`] and the policy allows it. Changes nothing about the file.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](crate::Refusal), with the descriptor.
    ///
    /// # Platform-specific
    ///
    /// Linux 5.1 and later (the guarantee is claimed from 5.4.4); elsewhere no file has the seal.
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
    /// let refused = SealedFile::receive_future_write(file.into(), &policy).unwrap_err();
    /// assert!(matches!(refused.reason(), Refusal::MissingSeals { .. }));
    ///
    /// let fd = refused.into_fd();
    /// add_seals(&fd, Seals::FUTURE_WRITE | Seals::SHRINK)?;
    /// let live = SealedFile::receive_future_write(fd, &policy)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn receive_future_write(fd: OwnedFd, policy: &SealPolicy) -> Result<Self, ReceiveError> {
        receive::receive(fd, policy)
    }

    /// Makes the live file immutable: adds [`Seals::WRITE`] and [`Seals::SEAL`] and confirms them.
    /// The producer's mapping has to be gone.
    ///
    /// # Errors
    ///
    /// The file comes back as it was. [`WritableMapping`](crate::SealFailure::WritableMapping)
    /// (`EBUSY`): the producer still has it mapped, or, before Linux 5.10.262 and 6.1, a reader maps
    /// it shared from a writable descriptor. [`NotAllowed`](crate::SealFailure::NotAllowed)
    /// (`EPERM`): the descriptor is read-only, or the file carries [`Seals::SEAL`].
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
    /// let live = SealedFile::receive_future_write(file.into(), &SealPolicy::new())?;
    /// assert_eq!(live.finish()?.map_read_only()?.len(), 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn finish(self) -> Result<SealedFile<ReadOnlySealed>, SealError<Self>> {
        match seals::add_and_confirm(self.as_fd(), Seals::WRITE | Seals::SEAL) {
            Ok(()) => Ok(SealedFile::confirmed(self.file, self.known)),
            Err(failure) => Err(SealError::new(failure, self)),
        }
    }
}
