//! Taking files from elsewhere: observe the facts, judge them by a policy.

use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::seals::{self, write_seal_is_enforced};
use crate::state::{Extent, ReadOnlySealed, Sealed, State};
use crate::sys;
use crate::{ReceiveError, Refusal, SealFailure, SealedFile, Seals};

/// What is asked of a file from elsewhere, beyond what its state needs.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{SealPolicy, Seals};
///
/// let policy = SealPolicy::new()
///     .len(1..=64 << 20)
///     .require(Seals::GROW | Seals::SEAL)
///     .owner(1000);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SealPolicy {
    required: Seals,
    forbidden: Seals,
    only: Option<Seals>,
    len: (Bound<u64>, Bound<u64>),
    owner: Option<u32>,
    reserve: bool,
    allow_hugetlb: bool,
}

impl SealPolicy {
    /// Only what the state needs; no hugetlb pages.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, SealedFile};
    ///
    /// let sent = SealedFile::from_bytes("greeting", b"hello")?;
    /// let received = SealedFile::receive_read_only(sent, &SealPolicy::new())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub const fn new() -> Self {
        Self {
            required: Seals::empty(),
            forbidden: Seals::empty(),
            only: None,
            len: (Bound::Unbounded, Bound::Unbounded),
            owner: None,
            reserve: false,
            allow_hugetlb: false,
        }
    }

    /// For a hostile peer: at most `max_len` bytes, which cannot grow, with memory reserved for
    /// all of them.
    ///
    /// Reserving needs a descriptor that can write, as files are sent by default, or a file that may
    /// be opened for writing. What a [`Producer`](crate::Producer) shares is neither, except for root:
    /// add `.reserve(false)` for that, and see [`reserve`](Self::reserve) for what it leaves open.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{Refusal, SealPolicy, SealedFile};
    ///
    /// let sent = SealedFile::from_bytes("greeting", b"hello")?;
    /// let policy = SealPolicy::untrusted(4);
    /// let error = SealedFile::receive_read_only(sent, &policy).unwrap_err();
    /// assert!(matches!(error.reason(), Refusal::Length { len: 5, .. }));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub const fn untrusted(max_len: u64) -> Self {
        let mut policy = Self::new().require(Seals::GROW).reserve(true);
        policy.len = (Bound::Unbounded, Bound::Included(max_len));
        policy
    }

    /// Requires these seals as well.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, Seals};
    ///
    /// let cannot_grow = SealPolicy::new().require(Seals::GROW);
    /// ```
    pub const fn require(mut self, seals: Seals) -> Self {
        self.required = self.required.union(seals);
        self
    }

    /// Refuses files that carry any of these seals.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, Seals};
    ///
    /// let executable_or_old_kernel = SealPolicy::new().forbid(Seals::EXEC);
    /// ```
    pub const fn forbid(mut self, seals: Seals) -> Self {
        self.forbidden = self.forbidden.union(seals);
        self
    }

    /// Requires these seals beside the state's own, and refuses every other, unknown ones
    /// included. A later call replaces an earlier one. Kernels add seals on their own, so this
    /// breaks on some: prefer [`require`](Self::require).
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{SealPolicy, Seals};
    ///
    /// let exactly = SealPolicy::new().exactly(Seals::GROW | Seals::SEAL | Seals::EXEC);
    /// ```
    pub const fn exactly(mut self, seals: Seals) -> Self {
        self.only = Some(seals);
        self
    }

    /// Bounds the length, in bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::SealPolicy;
    ///
    /// let header_and_at_most_a_mebibyte = SealPolicy::new().len(64..=1 << 20);
    /// ```
    pub fn len(mut self, bytes: impl RangeBounds<u64>) -> Self {
        self.len = (bytes.start_bound().cloned(), bytes.end_bound().cloned());
        self
    }

    /// Requires that the file belongs to this user id: whoever created it, unless it was given away
    /// with `fchown(2)`. That need not be who sent it.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::SealPolicy;
    ///
    /// let from_root = SealPolicy::new().owner(0);
    /// ```
    pub const fn owner(mut self, uid: u32) -> Self {
        self.owner = Some(uid);
        self
    }

    /// Whether to [reserve](SealedFile::reserve) memory for the whole file. Without that, reading a
    /// hole that there is no memory for ends the process (`SIGBUS`). Bound the length as well: it is
    /// the receiver's memory that is taken.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::SealPolicy;
    ///
    /// let never_sigbus = SealPolicy::new().len(..=1 << 20).reserve(true);
    /// ```
    pub const fn reserve(mut self, reserve: bool) -> Self {
        self.reserve = reserve;
        self
    }

    /// Whether to take files made of hugetlb pages. Their holes come from a pool that may be empty,
    /// so reserve them too.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::SealPolicy;
    ///
    /// let policy = SealPolicy::untrusted(1 << 30).allow_hugetlb(true);
    /// ```
    pub const fn allow_hugetlb(mut self, allow: bool) -> Self {
        self.allow_hugetlb = allow;
        self
    }

    fn required(&self, state: Seals) -> Seals {
        state | self.required | self.only.unwrap_or_default()
    }

    fn forbidden(&self, state: Seals) -> Seals {
        // Not `!`, which forgets the bits that have no name.
        let others = |only: Seals| Seals::from_bits_retain(!(only | state).bits());
        self.forbidden | self.only.map_or(Seals::empty(), others)
    }

    fn judge_length(&self, len: u64) -> Result<(), Refusal> {
        if self.len.contains(&len) {
            Ok(())
        } else {
            Err(Refusal::Length { len, bounds: self.len })
        }
    }

    fn judge_owner(&self, found: u32) -> Result<(), Refusal> {
        match self.owner {
            Some(expected) if expected != found => Err(Refusal::Owner { expected, found }),
            _ => Ok(()),
        }
    }
}

impl Default for SealPolicy {
    fn default() -> Self {
        Self::new()
    }
}

/// What is known about a file whose access mode and seals could be read.
#[derive(Clone, Copy, Debug)]
struct Facts {
    seals: Seals,
    extent: Extent,
    owner: u32,
}

/// The order matters: the seals first, for only `SHRINK` makes the length that is read after it a
/// lower bound forever, whatever a hostile holder of the same file does meanwhile.
fn observe(fd: BorrowedFd<'_>) -> Result<Facts, Refusal> {
    if !sys::is_readable(fd).map_err(Refusal::Io)? {
        return Err(Refusal::NotReadable);
    }
    let seals = sys::get_seals(fd).map_err(Refusal::NotSealable)?;
    let stat = sys::stat(fd).map_err(Refusal::Io)?;
    let extent = sys::extent(fd, &stat).map_err(Refusal::Io)?;
    Ok(Facts { seals, extent, owner: stat.owner })
}

/// Whether a file with these facts may be taken. `state` is what its state requires.
fn judge(
    facts: &Facts,
    state: Seals,
    policy: &SealPolicy,
    write_seal_is_enforced: impl FnOnce(Seals) -> bool,
) -> Result<(), Refusal> {
    let present = facts.seals;
    let missing = policy.required(state).difference(present);
    if !missing.is_empty() {
        return Err(Refusal::MissingSeals { missing, present });
    }
    let forbidden = policy.forbidden(state).intersection(present);
    if !forbidden.is_empty() {
        return Err(Refusal::ForbiddenSeals { forbidden, present });
    }
    if state.contains(Seals::WRITE) && !write_seal_is_enforced(present) {
        return Err(Refusal::UntrustedWriteSeal);
    }
    if let Some(huge_page) = facts.extent.huge_page {
        // What lies in a last page that is not whole counts as beyond the end of the file when it is
        // touched (SIGBUS). `ftruncate` makes no such length, but `fallocate` does.
        if !policy.allow_hugetlb || facts.extent.len % huge_page != 0 {
            return Err(Refusal::HugeTlb);
        }
    }
    policy.judge_length(facts.extent.len)?;
    policy.judge_owner(facts.owner)
}

/// Observes, judges and, where the policy asks for it, reserves.
pub(crate) fn verify<S: State>(fd: BorrowedFd<'_>, policy: &SealPolicy) -> Result<Extent, Refusal> {
    let facts = observe(fd)?;
    judge(&facts, S::REQUIRED, policy, write_seal_is_enforced)?;
    if policy.reserve {
        reserve(fd, facts.extent.len).map_err(Refusal::CannotReserve)?;
    }
    Ok(facts.extent)
}

pub(crate) fn receive<S: Sealed>(
    fd: OwnedFd,
    policy: &SealPolicy,
) -> Result<SealedFile<S>, ReceiveError> {
    match verify::<S>(fd.as_fd(), policy) {
        Ok(extent) => Ok(SealedFile::confirmed(fd.into(), Some(extent))),
        Err(refusal) => Err(ReceiveError::new(refusal, fd)),
    }
}

pub(crate) fn adopt(
    fd: OwnedFd,
    policy: &SealPolicy,
) -> Result<SealedFile<ReadOnlySealed>, ReceiveError> {
    match add_missing(fd.as_fd(), policy) {
        Ok(()) => receive(fd, policy),
        Err(refusal) => Err(ReceiveError::new(refusal, fd)),
    }
}

/// Adds what adopting the file needs, unless it would be refused all the same.
fn add_missing(fd: BorrowedFd<'_>, policy: &SealPolicy) -> Result<(), Refusal> {
    let facts = observe(fd)?;
    let present = facts.seals;
    let missing = policy.required(ReadOnlySealed::REQUIRED).difference(present);
    if missing.is_empty() {
        return Ok(());
    }
    // Without SEAL a third party could add EXEC to the file later, and make it look untrustworthy.
    let wanted = missing | Seals::SEAL.difference(policy.forbidden(ReadOnlySealed::REQUIRED));
    let sealed = Facts { seals: present | wanted | implied(fd, wanted)?, ..facts };
    judge(&sealed, ReadOnlySealed::REQUIRED, policy, write_seal_is_enforced)?;
    seals::add_patiently(fd, wanted).map_err(|(reason, error)| match reason {
        SealFailure::NotAllowed => Refusal::MissingSeals { missing, present },
        reason => Refusal::CannotSeal { reason, error },
    })
}

/// What the kernel adds by itself to `EXEC` on an executable file.
fn implied(fd: BorrowedFd<'_>, wanted: Seals) -> Result<Seals, Refusal> {
    let is_executable = sys::stat(fd).map_err(Refusal::Io)?.is_executable;
    Ok(if wanted.contains(Seals::EXEC) && is_executable {
        Seals::SHRINK | Seals::GROW | Seals::WRITE | Seals::FUTURE_WRITE
    } else {
        Seals::empty()
    })
}

pub(crate) fn receive_or_copy(
    fd: OwnedFd,
    policy: &SealPolicy,
    copy_limit: u64,
) -> Result<SealedFile<ReadOnlySealed>, ReceiveError> {
    let refused = match receive(fd, policy) {
        Ok(file) => return Ok(file),
        Err(refused) => refused,
    };
    match refused.reason() {
        Refusal::NotSealable(_) | Refusal::MissingSeals { .. } | Refusal::UntrustedWriteSeal => {}
        _ => return Err(refused),
    }
    let (refusal, fd) = refused.into_parts();
    copy(fd.as_fd(), policy, copy_limit, refusal).map_err(|refusal| ReceiveError::new(refusal, fd))
}

/// Copies a regular file. Of anything else, which might never end, `refusal` stands.
fn copy(
    fd: BorrowedFd<'_>,
    policy: &SealPolicy,
    limit: u64,
    refusal: Refusal,
) -> Result<SealedFile<ReadOnlySealed>, Refusal> {
    let stat = sys::stat(fd).map_err(Refusal::Io)?;
    if !stat.is_regular {
        return Err(refusal);
    }
    // Files of procfs only claim a length of 0.
    if stat.len > 0 {
        policy.judge_length(stat.len)?;
    }
    policy.judge_owner(stat.owner)?;
    let copy = SealedFile::copy_of("sealed-mmap-copy", fd, limit).map_err(Refusal::Io)?;
    policy.judge_length(copy.len().map_err(Refusal::Io)?)?;
    Ok(copy)
}

/// Takes memory for every hole, through a writable description of the file.
pub(crate) fn reserve(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    const EBADF: i32 = rustix::io::Errno::BADF.raw_os_error();
    match sys::reserve(fd, len) {
        Err(error) if error.raw_os_error() == Some(EBADF) => {
            sys::reserve(sys::reopen(fd, true)?.as_fd(), len)
        }
        done => done,
    }
}

#[cfg(test)]
mod tests;
