//! Live files, which a producer goes on writing.
#![allow(unsafe_code, reason = "what the type promises is proved here")]

use std::os::fd::{AsFd, OwnedFd};

use crate::file::receive::{ReceiveError, accept};
use crate::file::sealed::SealedFile;
use crate::policy::SealPolicy;
use crate::state::FutureWriteSealed;

/// A live file: one producer's mapping still writes, and nobody else can.
impl SealedFile<FutureWriteSealed> {
    /// Receives a live file from a peer that need not be trusted.
    ///
    /// The file is accepted if it carries [`FUTURE_WRITE`](crate::Seals::FUTURE_WRITE) and
    /// [`SHRINK`](crate::Seals::SHRINK), and the policy accepts the file. No seal is added and no byte
    /// changes. For a hostile peer use [`SealPolicy::untrusted_live`].
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
    /// let policy = SealPolicy::untrusted_live(1 << 20);
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
}
