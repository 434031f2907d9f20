//! Shared files, which everybody who has one may write.
#![allow(unsafe_code, reason = "what the type promises is proved here, and relied on")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use crate::failure::explained;
use crate::file::receive::{ReceiveError, accept};
use crate::file::sealed::SealedFile;
use crate::live::SharedMap;
use crate::policy::SealPolicy;
use crate::seals::Seals;
use crate::state::SizeSealed;
use crate::sys;

/// A shared file: the file cannot shrink, and everybody who has the file may write.
impl SealedFile<SizeSealed> {
    /// Receives a shared file from a peer that need not be trusted.
    ///
    /// The file is accepted if it carries [`Seals::SHRINK`], and the policy accepts the file. No seal is
    /// added and no byte changes. For a hostile peer use [`SealPolicy::untrusted_live`].
    ///
    /// Live and immutable files are accepted, too, because they carry the seal. They can be mapped to
    /// [read](Self::map_live), and not to [write](Self::map_shared).
    ///
    /// # Errors
    ///
    /// A [`Refusal`](crate::Refusal), with the descriptor. Peers that do not seal their memory at all are
    /// refused with [`MissingSeals`](crate::Refusal::MissingSeals): such a file can be
    /// [copied](SealedFile::receive_or_copy).
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{Refusal, SealPolicy, SealedFile, Seals, add_seals};
    /// use std::fs::File;
    ///
    /// // A client without this crate makes a pool of buffers.
    /// let client = SealedFile::create("pool")?.into_file();
    /// client.set_len(4096)?;
    /// let sent = client.try_clone()?;
    ///
    /// let policy = SealPolicy::untrusted_live(64 << 20);
    /// let refused = SealedFile::receive_size_sealed(sent, &policy).unwrap_err();
    /// assert!(matches!(refused.reason(), Refusal::MissingSeals { missing: Seals::SHRINK, .. }));
    ///
    /// add_seals(&client, Seals::SHRINK)?;
    /// let mut pool = SealedFile::receive_size_sealed(refused.into_fd(), &policy)?;
    /// let before = pool.map_shared()?;
    ///
    /// client.set_len(8192)?; // resizes it, and says so
    /// assert_eq!(pool.refresh_len(64 << 20)?, 8192);
    /// let after = pool.map_shared()?;
    /// assert_eq!((before.len(), after.len()), (4096, 8192)); // both are valid
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn receive_size_sealed(
        fd: impl Into<OwnedFd>,
        policy: &SealPolicy,
    ) -> Result<Self, ReceiveError> {
        let fd = fd.into();
        match accept::<SizeSealed>(fd.as_fd(), policy) {
            // SAFETY: `accept` has seen the state's seal, and then the extent.
            Ok(extent) => Ok(unsafe { Self::sealed(fd.into(), Some(extent)) }),
            Err(refusal) => Err(ReceiveError::new(refusal, fd)),
        }
    }

    /// Maps the whole file, for reading and writing. [`SharedMap`] has an example.
    ///
    /// # Errors
    ///
    /// * `PermissionDenied`, with `EPERM` as its source: the file carries [`Seals::WRITE`] or
    ///   [`Seals::FUTURE_WRITE`], with which nobody can map it for writing any more.
    ///   [`map_live`](Self::map_live) can read it.
    /// * `PermissionDenied`, with `EACCES` as its source: the descriptor is open for reading only, as that
    ///   of [`reopen`](Self::reopen) is.
    /// * `FileTooLarge`: the length does not fit into the address space.
    /// * `ENOMEM`: no address space or no mapping left, or not enough pages in the hugetlb pool.
    /// * `OutOfMemory`: too much locked memory, as for [`map_read_only`](SealedFile::map_read_only).
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, SealedFile};
    ///
    /// let immutable = SealedFile::from_bytes("greeting", b"hello")?;
    /// let shared = SealedFile::receive_size_sealed(immutable, &SealPolicy::new())?;
    /// let error = shared.map_shared().unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    /// println!("{error}"); // names the seals, and what can be done instead
    /// assert_eq!(shared.map_live()?.to_vec(..)?, b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "mmap")]
    pub fn map_shared(&self) -> io::Result<SharedMap> {
        // By hand, because an empty file is not mapped.
        self.expect_writable()?;
        // SAFETY: this is what the type says of the file.
        let map = unsafe { SharedMap::new(self.file(), self.extent()?) };
        // Somebody may have added a seal in between.
        map.map_err(|error| self.expect_writable().err().unwrap_or(error))
    }

    fn expect_writable(&self) -> io::Result<()> {
        let denied = |why: &str, errno: Errno| {
            let message = format!("cannot map the file for writing: {why}");
            Err(explained(io::ErrorKind::PermissionDenied, message, io::Error::from(errno)))
        };
        if !sys::access(self.as_fd())?.write {
            let why = "its descriptor is open for reading only; the sender must send one that is open \
                       for both (O_RDWR), or map it to read (map_live)";
            return denied(why, Errno::ACCESS);
        }
        let present = self.get_seals()?;
        let carries = |seal| format!("it carries the seal {seal} (present: {present})");
        if present.contains(Seals::WRITE) {
            let way_on =
                "it is immutable: receive it with receive_read_only, or map it to read (map_live)";
            return denied(&format!("{}; {way_on}", carries(Seals::WRITE)), Errno::PERM);
        }
        if present.contains(Seals::FUTURE_WRITE) {
            let way_on = "so that only earlier maps can write; map it to read (map_live)";
            return denied(&format!("{}, {way_on}", carries(Seals::FUTURE_WRITE)), Errno::PERM);
        }
        Ok(())
    }
}
