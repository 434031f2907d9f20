//! Immutable files: receiving one, adopting one, and reading it.
#![allow(unsafe_code, reason = "what the type promises is proved here, and relied on")]

use std::fs::File;
use std::io;
use std::ops::RangeBounds;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::file::draft::explain_lack;
use crate::file::receive::{ReceiveError, ThisKernel, accept, judge_and_reserve, observe};
use crate::file::sealed::SealedFile;
use crate::huge_pages::HugePages;
use crate::map::{OutOfBounds, PrivateMap, ReadOnlyMap};
use crate::policy::{Facts, Refusal, SealPolicy};
use crate::sealing::{self, SealFailure};
use crate::seals::Seals;
use crate::state::{ReadOnlySealed, State};
use crate::sys::{self, Extent};

/// An immutable file.
impl SealedFile<ReadOnlySealed> {
    /// Receives an immutable file from a peer that need not be trusted.
    ///
    /// The file is accepted if it carries [`Seals::WRITE`](crate::Seals::WRITE) and
    /// [`Seals::SHRINK`](crate::Seals::SHRINK), the kernel enforces them, and the policy accepts the
    /// file. No seal is added and no byte changes. For a hostile peer use [`SealPolicy::untrusted`].
    ///
    /// # Errors
    ///
    /// A [`Refusal`](crate::Refusal), with the descriptor.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, SealedFile};
    /// use std::os::fd::OwnedFd;
    ///
    /// fn parse(received: OwnedFd) -> std::io::Result<usize> {
    ///     let file = SealedFile::receive_read_only(received, &SealPolicy::untrusted(1 << 20))?;
    ///     let bytes = file.map_read_only()?; // no copy, and nobody can change it
    ///     Ok(bytes.iter().filter(|byte| **byte == b'\n').count())
    /// }
    /// # let sent = SealedFile::from_bytes("lines", b"one\ntwo\n")?;
    /// # assert_eq!(parse(sent.into())?, 2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn receive_read_only(
        fd: impl Into<OwnedFd>,
        policy: &SealPolicy,
    ) -> Result<Self, ReceiveError> {
        let fd = fd.into();
        match accept::<ReadOnlySealed>(fd.as_fd(), policy) {
            // SAFETY: `accept` has seen the state's seals in a combination that the kernel enforces, and
            // then the extent.
            Ok(extent) => Ok(unsafe { Self::sealed(fd.into(), Some(extent)) }),
            Err(refusal) => Err(ReceiveError::new(refusal, fd)),
        }
    }

    /// Receives a file and makes it immutable, if it is not.
    ///
    /// This adds the seals that the state or the policy requires and the file lacks, and with them
    /// [`Seals::GROW`](crate::Seals::GROW) and [`Seals::SEAL`](crate::Seals::SEAL), unless the policy
    /// [forbids](SealPolicy::forbid) these. Where `GROW` cannot be added, and nobody requires it, the file
    /// is adopted without it. A file that lacks no required seal is left as it is, and a file that the
    /// policy would refuse in any case is not sealed. A file that is refused only because memory cannot be
    /// [reserved](SealPolicy::reserve) comes back sealed.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](crate::Refusal), with the descriptor. Two refusals are about adding seals:
    ///
    /// * [`MissingSeals`](crate::Refusal::MissingSeals): no seal can be added (`EPERM`).
    /// * [`CannotSeal`](crate::Refusal::CannotSeal): with `EBUSY`, somebody maps the file for writing or
    ///   has pinned its pages. Transient `EBUSY` is retried, for some milliseconds if the file is mapped,
    ///   and for about a second if its pages are pinned. With
    ///   [`Unconfirmed`](crate::SealFailure::Unconfirmed), the file comes back sealed.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, SealedFile, Seals};
    ///
    /// let file = SealedFile::create("draft")?.into_file();
    /// let sealed = SealedFile::adopt_read_only(file, &SealPolicy::new())?;
    /// let expected = Seals::WRITE | Seals::SHRINK | Seals::GROW | Seals::SEAL;
    /// assert!(sealed.get_seals()?.contains(expected));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn adopt_read_only(
        fd: impl Into<OwnedFd>,
        policy: &SealPolicy,
    ) -> Result<Self, ReceiveError> {
        let fd = fd.into();
        match add_missing(fd.as_fd(), policy) {
            // SAFETY: as in `receive_read_only`: `add_missing` ends in `judge_and_reserve`, the second half of
            // `accept`, with the seals that it has just seen.
            Ok(extent) => Ok(unsafe { Self::sealed(fd.into(), Some(extent)) }),
            Err(refusal) => Err(ReceiveError::new(refusal, fd)),
        }
    }

    /// Maps the whole file.
    ///
    /// # Errors
    ///
    /// * `ENOMEM`: no address space or no mapping left.
    /// * `OutOfMemory`: the mapping exceeds the limit on locked memory (`RLIMIT_MEMLOCK`), which holds
    ///   for every mapping after `mlockall(MCL_FUTURE)`; mmap's `EAGAIN` is the `source`.
    /// * `FileTooLarge`: the length does not fit into the address space (32-bit); use
    ///   [`map_range`](Self::map_range).
    /// * `PermissionDenied`: kernels before 6.7 map a hugetlb file only through a read-only descriptor, and it
    ///   could not be [reopened](Self::reopen) as one. mmap's `EPERM` is the `source`.
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
    /// let map = file.map_read_only()?;
    /// assert_eq!(&map[..], b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "mmap")]
    pub fn map_read_only(&self) -> io::Result<ReadOnlyMap> {
        self.map_range(..)
    }

    /// Maps a range of bytes, which may begin and end anywhere.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`, with an [`OutOfBounds`](crate::OutOfBounds) inside: the range is not within
    ///   the file.
    /// * `EOVERFLOW`, `EINVAL`: the offset is beyond what the kernel can map (16 TiB on 32-bit).
    /// * Otherwise as [`map_read_only`](Self::map_read_only).
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello world")?;
    /// assert_eq!(&file.map_range(6..)?[..], b"world");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn map_range(&self, range: impl RangeBounds<u64>) -> io::Result<ReadOnlyMap> {
        let extent = self.extent()?;
        let range = OutOfBounds::resolve(range, extent.len)?;
        // SAFETY: this is what the type says of the file, and the range lies within its extent.
        unsafe { ReadOnlyMap::new(self.file(), extent, range) }
    }

    /// Maps the whole file as a copy of its own, `&mut [u8]`, of which pages are made as they are written to.
    /// The file does not change. [`PrivateMap`] says what that takes.
    ///
    /// # Errors
    ///
    /// * `ENOMEM`: no address space or no mapping left, or, under strict overcommit
    ///   (`vm.overcommit_memory=2`), not enough memory to copy all of the file.
    /// * `OutOfMemory`: not enough pages in the hugetlb pool for a second copy of the file, or too much
    ///   locked memory, as for [`map_read_only`](Self::map_read_only); mmap's errno is the `source`.
    /// * `FileTooLarge`: the length does not fit into the address space (32-bit).
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
    /// let mut copy = file.map_private()?;
    /// copy.make_ascii_uppercase();
    /// assert_eq!(&copy[..], b"HELLO");
    /// assert_eq!(&file.map_read_only()?[..], b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "MAP_PRIVATE")]
    pub fn map_private(&self) -> io::Result<PrivateMap> {
        let extent = self.extent()?;
        let pages = extent.huge_page.map_or(HugePages::None, |_| HugePages::HugeTlb(None));
        // SAFETY: this is what the type says of the file.
        unsafe { PrivateMap::new(self.file(), extent) }.map_err(|error| explain_lack(pages, error))
    }

    /// Allocates memory for every hole, now and for good, so that no access to a map of this file raises
    /// `SIGBUS` for lack of memory.
    ///
    /// A sender can leave holes, and can hide them from a check. A file made by this crate's one-call
    /// writers has none.
    ///
    /// # Errors
    ///
    /// * `ENOSPC`, `ENOMEM`: not enough memory. Memory allocated before the failure can stay with the
    ///   file (on hugetlb pages, and where signals forced the kernel to go in steps). A length beyond the
    ///   machine's memory and swap is refused before it is tried. Below that, a machine without strict
    ///   overcommit or a memory cgroup may invoke its OOM killer instead, so bound the length first.
    /// * `EACCES`, `Unsupported`, `WouldBlock`: the descriptor is read-only, and the file cannot be
    ///   opened for writing through `/proc/thread-self/fd` (Linux 3.17): its mode forbids that, there is
    ///   no `/proc`, or somebody holds a lease on the file (`F_SETLEASE`).
    ///
    /// # Platform-specific
    ///
    /// On FreeBSD the kernel does not reserve memory.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut draft = sealed_mmap::SealedFile::create("sparse")?;
    /// draft.set_len(1 << 20)?; // one hole
    /// let file = draft.seal_read_only()?;
    /// file.reserve()?;
    /// assert!(file.map_read_only()?.iter().all(|byte| *byte == 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "fallocate")]
    pub fn reserve(&self) -> io::Result<()> {
        sys::reserve(self.as_fd(), self.len()?)
    }
}

/// Adds the seals that adopting the file requires, unless the file would be refused in any case, and
/// accepts the file.
fn add_missing(fd: BorrowedFd<'_>, policy: &SealPolicy) -> Result<Extent, Refusal> {
    const STATE: Seals = ReadOnlySealed::REQUIRED;

    let facts = observe(fd)?;
    let present = facts.seals;
    let missing = policy.required(STATE).difference(present);
    if missing.is_empty() {
        return judge_and_reserve::<ReadOnlySealed>(fd, &facts, policy);
    }
    // Without SEAL a third party could add EXEC to the file later, and make it look untrustworthy.
    let seals = missing | Seals::SEAL.difference(policy.forbidden(STATE));
    let wanted = seals | Seals::GROW.difference(policy.forbidden(STATE) | present);
    let sealed = Facts { seals: present | wanted | implied(&facts, wanted), ..facts };
    policy.judge(&sealed, STATE, &ThisKernel)?;
    let added = match sealing::add_patiently(fd, wanted) {
        // A seal against growing that is not required is no reason to refuse. Whether the file is busy
        // does not depend on it.
        Err((SealFailure::NotAllowed | SealFailure::Unsupported | SealFailure::Other, _))
            if wanted != seals =>
        {
            sealing::add_patiently(fd, seals)
        }
        done => done,
    };
    added.map_err(|(reason, error)| match reason {
        SealFailure::NotAllowed => Refusal::MissingSeals { missing, present },
        reason => Refusal::CannotSeal { reason, error },
    })?;
    // What was observed before the seals is of no use after them: a writer may have cut the file off.
    let facts = observe(fd).map_err(|refusal| match refusal {
        Refusal::NotSealable(error) | Refusal::Io(error) => {
            Refusal::CannotSeal { reason: SealFailure::Unconfirmed, error }
        }
        refusal => refusal,
    })?;
    judge_and_reserve::<ReadOnlySealed>(fd, &facts, policy)
}

/// What the kernel adds by itself to `EXEC` on an executable file.
fn implied(facts: &Facts, wanted: Seals) -> Seals {
    if wanted.contains(Seals::EXEC) && facts.is_executable {
        Seals::SHRINK | Seals::GROW | Seals::WRITE | Seals::FUTURE_WRITE
    } else {
        Seals::empty()
    }
}

/// [`SealedFile::receive_read_only`] under the default policy.
impl TryFrom<OwnedFd> for SealedFile<ReadOnlySealed> {
    type Error = ReceiveError;

    fn try_from(fd: OwnedFd) -> Result<Self, ReceiveError> {
        Self::receive_read_only(fd, &SealPolicy::new())
    }
}

/// [`SealedFile::receive_read_only`] under the default policy.
impl TryFrom<File> for SealedFile<ReadOnlySealed> {
    type Error = ReceiveError;

    fn try_from(file: File) -> Result<Self, ReceiveError> {
        Self::try_from(OwnedFd::from(file))
    }
}
