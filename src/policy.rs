//! What is required of a file from elsewhere: facts, judgement, refusals. Pure: this module makes no system
//! call and sees no file.

use std::fmt;
use std::io;
use std::ops::{Bound, RangeBounds};

use rustix::io::Errno;
use thiserror::Error;

use crate::failure;
use crate::sealing::SealFailure;
use crate::seals::Seals;
use crate::sys::Extent;

/// What a receiver requires of a file from elsewhere, beyond what the file's state requires.
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
#[derive(Clone)]
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
    /// Requires only what the state requires, and refuses hugetlb pages.
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

    /// For a hostile peer: accepts at most `max_len` bytes, requires that the file cannot grow, and
    /// reserves memory for all of it.
    ///
    /// Reserving requires a writable descriptor, as files are sent by default, or a file that may be
    /// opened for writing. The files that a [`Producer`](crate::Producer) shares offer neither, except to
    /// root. For live and for shared files there is [`untrusted_live`](Self::untrusted_live).
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

    /// For a hostile peer that goes on writing: accepts at most `max_len` bytes of a
    /// [live](crate::FutureWriteSealed) or a [shared](crate::SizeSealed) file.
    ///
    /// Two things that [`untrusted`](Self::untrusted) requires are not asked for, because well-meaning
    /// peers cannot offer them:
    ///
    /// * That the file cannot grow. Buffers that are resized could not be received then. A map covers
    ///   the length that was received, and [`refresh_len`](crate::SealedFile::refresh_len) has a bound of
    ///   its own.
    /// * Reserved memory. The descriptor of a live file is read-only, and into a shared file a peer can
    ///   [punch holes again](crate::SharedMap#holes) after memory was reserved.
    ///
    /// So this does not promise that reading cannot run out of memory: where there is none for a hole,
    /// touching it raises `SIGBUS` (under `vm.overcommit_memory=2`, or with hugetlb pages) or invokes the
    /// OOM killer. For a live file, [`reserve(true)`](Self::reserve) changes that, if the descriptor is
    /// writable.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sealed_mmap::Producer;
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// use sealed_mmap::{Refusal, SealPolicy, SealedFile};
    ///
    /// let producer = Producer::create("ticks", 8)?;
    /// let sent = producer.file().try_clone()?;
    /// let live = SealedFile::receive_future_write(sent, &SealPolicy::untrusted_live(4096))?;
    /// assert_eq!(live.map_live()?.len(), 8);
    ///
    /// let sent = producer.file().try_clone()?;
    /// let error = SealedFile::receive_future_write(sent, &SealPolicy::untrusted_live(4)).unwrap_err();
    /// assert!(matches!(error.reason(), Refusal::Length { len: 8, .. }));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub const fn untrusted_live(max_len: u64) -> Self {
        let mut policy = Self::new();
        policy.len = (Bound::Unbounded, Bound::Included(max_len));
        policy
    }

    /// Requires these seals, in addition to those already required.
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

    /// Requires these seals beside the state's own, and refuses every other seal, unknown ones
    /// included. A later call replaces an earlier one.
    ///
    /// Prefer [`require`](Self::require): some kernels add seals on their own, and this refuses their
    /// files.
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

    /// Accepts only files whose length, in bytes, is in this range.
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

    /// Requires that the file belongs to this user id: to the user who created it, unless `fchown(2)`
    /// gave it away. That need not be the user who sent it.
    ///
    /// User ids are compared as this process's user namespace maps them. Where the namespace leaves users
    /// unmapped, the overflow uid (`/proc/sys/kernel/overflowuid`) stands for all of them, and a file that
    /// belongs to it is refused, even if the policy names that uid. The check costs a read of `/proc`.
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

    /// Whether to [reserve](crate::SealedFile::reserve) memory for the whole file.
    ///
    /// Without a reservation, reading a hole ends the process (`SIGBUS`) if there is no memory for it.
    /// Bound the length as well, because the memory is allocated by the receiver.
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

    /// Whether to accept files made of hugetlb pages. Memory for their holes comes from a pool that may
    /// be empty, so [reserve](Self::reserve) it as well.
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

    /// The seals without which a file is not accepted in a state.
    pub(crate) fn required(&self, state: Seals) -> Seals {
        state | self.required | self.only.unwrap_or_default()
    }

    pub(crate) fn forbidden(&self, state: Seals) -> Seals {
        // Not `!`, which forgets the bits that have no name.
        let others = |only: Seals| Seals::from_bits_retain(!(only | state).bits());
        self.forbidden | self.only.map_or(Seals::empty(), others)
    }

    pub(crate) fn reserves(&self) -> bool {
        self.reserve
    }

    /// Whether a file with these facts may be accepted. `state` is what its state requires.
    pub(crate) fn judge(
        &self,
        facts: &Facts,
        state: Seals,
        kernel: &impl Kernel,
    ) -> Result<(), Refusal> {
        let present = facts.seals;
        let missing = self.required(state).difference(present);
        if !missing.is_empty() {
            return Err(Refusal::MissingSeals { missing, present });
        }
        let forbidden = self.forbidden(state).intersection(present);
        if !forbidden.is_empty() {
            return Err(Refusal::ForbiddenSeals { forbidden, present });
        }
        if state.contains(Seals::WRITE) && !kernel.enforces_write_seal(present) {
            return Err(Refusal::UntrustedWriteSeal);
        }
        let is_hugetlb = facts.extent.huge_page.is_some();
        if is_hugetlb && !(self.allow_hugetlb && facts.extent.ends_at_a_page()) {
            return Err(Refusal::HugeTlb);
        }
        self.judge_length(facts.extent.len)?;
        self.judge_owner(facts.owner, kernel)
    }

    pub(crate) fn judge_length(&self, len: u64) -> Result<(), Refusal> {
        if self.len.contains(&len) {
            Ok(())
        } else {
            Err(Refusal::Length { len, bounds: self.len })
        }
    }

    pub(crate) fn judge_owner(&self, found: u32, kernel: &impl Kernel) -> Result<(), Refusal> {
        match self.owner {
            Some(expected) if expected != found || !kernel.is_one_user(found) => {
                Err(Refusal::Owner { expected, found })
            }
            _ => Ok(()),
        }
    }
}

/// For logs: what differs from [`SealPolicy::new`].
impl fmt::Debug for SealPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SealPolicy");
        if !self.required.is_empty() {
            debug.field("require", &format_args!("{}", self.required));
        }
        if !self.forbidden.is_empty() {
            debug.field("forbid", &format_args!("{}", self.forbidden));
        }
        if let Some(only) = self.only {
            debug.field("exactly", &format_args!("{only}"));
        }
        if self.len != (Bound::Unbounded, Bound::Unbounded) {
            debug.field("len", &format_args!("{}", Range(self.len)));
        }
        if let Some(uid) = self.owner {
            debug.field("owner", &uid);
        }
        if self.reserve {
            debug.field("reserve", &true);
        }
        if self.allow_hugetlb {
            debug.field("allow_hugetlb", &true);
        }
        debug.finish()
    }
}

impl Default for SealPolicy {
    fn default() -> Self {
        Self::new()
    }
}

/// What is known about a file whose access mode and seals could be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) seals: Seals,
    pub(crate) extent: Extent,
    pub(crate) owner: u32,
    /// For anybody.
    pub(crate) is_executable: bool,
}

/// Questions to the kernel that are asked only where the judgement depends on the answer.
pub(crate) trait Kernel {
    /// Whether `WRITE`, if it is among `present`, can be trusted: that nobody can write.
    fn enforces_write_seal(&self, present: Seals) -> bool;
    /// Whether this user id, of a file, stands for one user.
    fn is_one_user(&self, uid: u32) -> bool;
}

/// Why a descriptor was refused. The first of these reasons that applies is reported.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{Refusal, SealedFile};
/// use std::fs::File;
///
/// let error = SealedFile::try_from(File::open("Cargo.toml")?).unwrap_err();
/// let (refusal, descriptor) = error.into_parts();
/// match refusal {
///     Refusal::NotSealable(_) | Refusal::MissingSeals { .. } => {
///         println!("{refusal}");
///         let copy = SealedFile::copy_of("copy", &descriptor, 1 << 20)?;
/// #       assert!(copy.len()? > 0);
///     }
///     other => return Err(other.into()),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The descriptor was opened with `O_WRONLY` or `O_PATH`, so it can never be mapped.
    #[error("the descriptor is not open for reading; the sender must open it O_RDONLY or O_RDWR")]
    NotReadable,
    /// The file cannot carry seals (`F_GET_SEALS` is `EINVAL`): an ordinary file, a pipe, a socket, a
    /// directory.
    #[error(
        "the file cannot carry seals; the sender must use memfd_create, or the receiver copy it"
    )]
    NotSealable(#[source] io::Error),
    /// The file lacks seals that the state or the policy requires.
    #[error(
        "the file lacks the seals {missing} (present: {present}); {}",
        how_to_go_on(*missing, *present)
    )]
    MissingSeals {
        /// The required seals that the file lacks.
        missing: Seals,
        /// All seals that the file carries.
        present: Seals,
    },
    /// The file carries seals that the policy forbids.
    #[error(
        "the file carries the seals {forbidden} (present: {present}), which the policy forbids; \
         seals cannot be removed, so the sender must make another file"
    )]
    ForbiddenSeals {
        /// The forbidden seals that the file carries.
        forbidden: Seals,
        /// All seals that the file carries.
        present: Seals,
    },
    /// The file carries `WRITE` beside `EXEC` and `FUTURE_WRITE`, on a kernel that adds those three
    /// together without checking for writers. So `WRITE` cannot be trusted: a writable mapping may still
    /// exist.
    #[error(
        "this kernel may report the write seal while somebody still writes; the sender must create \
         the file with MFD_NOEXEC_SEAL, or the receiver copy it"
    )]
    UntrustedWriteSeal,
    /// The file is made of hugetlb pages, and the policy does not allow that, or the length is not a
    /// multiple of the page size, so that touching the last page could raise `SIGBUS`.
    #[error(
        "the file is made of hugetlb pages; SealPolicy::allow_hugetlb accepts such files, if their \
         length is a multiple of the page size"
    )]
    HugeTlb,
    /// The length is outside the policy's range.
    #[error("the file has {len} bytes, and SealPolicy::len accepts {}", Range(*bounds))]
    Length {
        /// The length of the file, in bytes.
        len: u64,
        /// The lengths that the policy accepts.
        bounds: (Bound<u64>, Bound<u64>),
    },
    /// The file belongs to another user than the policy names, or to the overflow uid, which stands for
    /// every user that this user namespace does not map: see [`SealPolicy::owner`].
    #[error("{}", whose_file(*expected, *found))]
    Owner {
        /// The user id that the policy names.
        expected: u32,
        /// The user id of the file.
        found: u32,
    },
    /// Adopting failed to add the missing seals (`EBUSY`, or `EINVAL` for a seal that the kernel does not
    /// know), or to confirm them.
    #[error("cannot seal the file: {reason}")]
    CannotSeal {
        /// What prevented sealing.
        reason: SealFailure,
        /// The kernel's error, or the crate's.
        #[source]
        error: io::Error,
    },
    /// Reserving failed: there is not enough memory for the file's holes (`ENOSPC`, `ENOMEM`), or the
    /// descriptor is read-only and the file cannot be opened for writing through `/proc/thread-self/fd`
    /// (`EACCES`, `Unsupported`, `WouldBlock`). See [`SealedFile::reserve`](crate::SealedFile::reserve).
    #[error("cannot reserve memory for the whole file{}", how_to_reserve(_0))]
    CannotReserve(#[source] io::Error),
    /// Examining or copying the file failed. The file has more bytes than the copy limit (`FileTooLarge`), or
    /// changed during the copy (`ResourceBusy`); there is no memory (`ENOSPC`, `ENOMEM`) or no descriptor
    /// left (`EMFILE`); or [a sandbox denied a call](crate#errors).
    #[error("cannot look at the file, or cannot copy it")]
    Io(#[source] io::Error),
}

/// The bounds of a length, in words.
struct Range((Bound<u64>, Bound<u64>));

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = match self.0.0 {
            Bound::Included(first) => u128::from(first),
            Bound::Excluded(before) => u128::from(before) + 1,
            Bound::Unbounded => 0,
        };
        let last = match self.0.1 {
            Bound::Included(last) => Some(last),
            Bound::Excluded(0) => return f.write_str("no length"),
            Bound::Excluded(end) => Some(end - 1),
            Bound::Unbounded => None,
        };
        match (first, last) {
            (first, None) if first > u64::MAX.into() => f.write_str("no length"),
            (0, None) => f.write_str("any length"),
            (first, None) => write!(f, "at least {first}"),
            (0, Some(last)) => write!(f, "at most {last}"),
            (first, Some(last)) if first <= last.into() => write!(f, "{first} to {last}"),
            _ => f.write_str("no length"),
        }
    }
}

/// What to do about seals that are missing.
fn how_to_go_on(missing: Seals, present: Seals) -> &'static str {
    const LIVE: Seals = Seals::FUTURE_WRITE.union(Seals::SHRINK);
    const IMMUTABLE: Seals = Seals::WRITE.union(Seals::SHRINK);

    if missing.contains(Seals::WRITE) && present.contains(LIVE) {
        "the file is live, its producer may still write: receive it with receive_future_write, or \
         have the sender finish it first (Producer::finish)"
    } else if missing.contains(Seals::FUTURE_WRITE) && present.contains(IMMUTABLE) {
        "the file is immutable: receive it with receive_read_only"
    } else if present.contains(Seals::SEAL) {
        "no more seals can be added to it, so the sender must make another file (memfd_create with \
         MFD_ALLOW_SEALING) and add them before F_SEAL_SEAL"
    } else if present.contains(Seals::SHRINK) && IMMUTABLE.union(LIVE).contains(missing) {
        "the sender must add them with F_ADD_SEALS, through a descriptor open for writing; to share \
         it with its writers, receive it with receive_size_sealed"
    } else {
        "they must be added with F_ADD_SEALS, through a descriptor open for writing"
    }
}

/// What reserving memory requires, where the error says that it is missing.
fn how_to_reserve(error: &io::Error) -> &'static str {
    use io::ErrorKind::{OutOfMemory, StorageFull, Unsupported};
    match (error.kind(), Errno::from_io_error(error)) {
        (OutOfMemory | StorageFull, _) => {
            "; there is too little: bound the length (SealPolicy::len)"
        }
        // The descriptor is read-only, and the file could not be opened for writing.
        (_, Some(Errno::ACCESS | Errno::AGAIN)) => NOT_WRITABLE,
        (Unsupported, None) if !failure::is_denied_call(error) => NOT_WRITABLE,
        _ => "",
    }
}

const NOT_WRITABLE: &str = "; the descriptor is not open for writing, and the file cannot be opened \
                            again: send a writable one, or do without (SealPolicy::reserve)";

/// Of two equal user ids one does not stand for one user.
fn whose_file(expected: u32, found: u32) -> String {
    if expected == found {
        format!(
            "the file belongs to uid {found}, which stands for every user that this user namespace \
             does not map; SealPolicy::owner cannot tell them apart"
        )
    } else {
        format!("the file belongs to uid {found}; SealPolicy::owner accepts only uid {expected}")
    }
}

impl Refusal {
    /// The errno's kind, where there is an errno.
    pub(crate) fn kind(&self) -> io::ErrorKind {
        match self {
            Self::NotSealable(error)
            | Self::CannotSeal { error, .. }
            | Self::CannotReserve(error)
            | Self::Io(error) => error.kind(),
            Self::NotReadable | Self::Owner { .. } => io::ErrorKind::PermissionDenied,
            Self::MissingSeals { .. }
            | Self::ForbiddenSeals { .. }
            | Self::UntrustedWriteSeal
            | Self::HugeTlb
            | Self::Length { .. } => io::ErrorKind::InvalidData,
        }
    }
}

#[cfg(test)]
mod tests;
