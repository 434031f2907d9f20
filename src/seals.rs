//! The seal set, reading and adding seals, and when a set of seals can be believed.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::sys;
use crate::{CreateOptions, SealFailure};

bitflags::bitflags! {
    /// A set of file seals, as `F_GET_SEALS` reports and `F_ADD_SEALS` takes them.
    ///
    /// Bits without a name here, which a future kernel may define, come in through
    /// [`from_bits_retain`](Seals::from_bits_retain) and stay. Compare with
    /// [`contains`](Seals::contains), not `==`: kernels add seals of their own (`EXEC` on an
    /// executable file implies others). [`Display`](fmt::Display) names the seals in the order
    /// of the flags: `shrink|write`.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::Seals;
    ///
    /// let seals = Seals::WRITE | Seals::SHRINK;
    /// assert!(seals.contains(Seals::WRITE));
    /// assert_eq!(seals.to_string(), "shrink|write");
    /// assert_eq!(seals.iter().collect::<Vec<_>>(), [Seals::SHRINK, Seals::WRITE]);
    /// assert_eq!(Seals::all().iter().count(), 6);
    /// assert_eq!((!Seals::empty()).iter().count(), 6);
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Seals: u32 {
        /// No seal can be added any more.
        #[doc(alias = "F_SEAL_SEAL")]
        const SEAL = 0x01;
        /// The file cannot become shorter.
        #[doc(alias = "F_SEAL_SHRINK")]
        const SHRINK = 0x02;
        /// The file cannot become longer.
        #[doc(alias = "F_SEAL_GROW")]
        const GROW = 0x04;
        /// The contents cannot be changed, by anybody.
        #[doc(alias = "F_SEAL_WRITE")]
        const WRITE = 0x08;
        /// The contents can be changed only through writable mappings that exist already.
        /// Linux 5.1 and later.
        #[doc(alias = "F_SEAL_FUTURE_WRITE")]
        const FUTURE_WRITE = 0x10;
        /// The executable bits of the mode cannot be changed. Linux 6.3 and later.
        #[doc(alias = "F_SEAL_EXEC")]
        const EXEC = 0x20;
    }
}

impl fmt::Display for Seals {
    /// Writes the names joined by `|`, unknown bits in hexadecimal, or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut separator = "";
        let mut names = self.iter_names();
        for (name, _) in names.by_ref() {
            f.write_str(separator)?;
            name.chars().try_for_each(|letter| write!(f, "{}", letter.to_ascii_lowercase()))?;
            separator = "|";
        }
        match names.remaining().bits() {
            0 => Ok(()),
            unknown => write!(f, "{separator}{unknown:#x}"),
        }
    }
}

/// Returns the seals of the file behind any descriptor, for code outside the typestate.
///
/// On its own this proves nothing: `WRITE` beside `EXEC` and `FUTURE_WRITE` is not always
/// enforced (see [`soundness`](crate::soundness)). [`SealedFile::receive_read_only`] knows when.
///
/// # Errors
///
/// * `EINVAL`: the file cannot carry seals (it is not in memory: not a memfd, tmpfs or hugetlbfs file).
/// * `EBADF`: the descriptor was opened with `O_PATH`.
///
/// # Platform-specific
///
/// On Linux a plain tmpfs file answers [`Seals::SEAL`], and so does an object of `shm_open(3)`.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{SealedFile, Seals, get_seals};
///
/// let file = SealedFile::from_bytes("greeting", b"hello")?;
/// assert!(get_seals(&file)?.contains(Seals::WRITE | Seals::SHRINK));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// [`SealedFile::receive_read_only`]: crate::SealedFile::receive_read_only
#[doc(alias = "F_GET_SEALS")]
pub fn get_seals(fd: impl AsFd) -> io::Result<Seals> {
    sys::get_seals(fd.as_fd())
}

/// Adds seals to the file behind any descriptor, for code outside the typestate. It cannot be undone.
///
/// # Errors
///
/// * `EPERM`: the file carries [`Seals::SEAL`] (even if every named seal is present already), or
///   the descriptor is not open for writing.
/// * `EBUSY`: [`Seals::WRITE`] was asked for, and a writable mapping exists or pages are pinned for
///   I/O (the kernel waits for pinned pages, for up to 205 ms measured). No seal was added.
/// * `EINVAL`: the file cannot carry seals, or the kernel does not know one of them:
///   [`Seals::FUTURE_WRITE`] before Linux 5.1, [`Seals::EXEC`] before Linux 6.3.
///
/// # Platform-specific
///
/// On FreeBSD [`Seals::FUTURE_WRITE`] and [`Seals::EXEC`] do not exist (`EINVAL`).
///
/// # Examples
///
/// ```
/// use sealed_mmap::{SealedFile, Seals, add_seals, get_seals};
///
/// let file = SealedFile::create("log")?.into_file();
/// add_seals(&file, Seals::GROW)?;
/// assert!(get_seals(&file)?.contains(Seals::GROW));
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "F_ADD_SEALS")]
pub fn add_seals(fd: impl AsFd, seals: Seals) -> io::Result<()> {
    sys::add_seals(fd.as_fd(), seals)
}

/// Adds `seals`, waiting a while for what passes by itself, and says why it cannot be done.
pub(crate) fn add_patiently(fd: impl AsFd, seals: Seals) -> Result<(), (SealFailure, io::Error)> {
    // For pinned pages the kernel itself waits 150 ms before it gives up (`memfd_wait_for_pins`); a
    // writable mapping is refused at once. How long a refusal took tells the two apart.
    const KERNEL_WAITED: Duration = Duration::from_millis(100);
    const TIMES_PINNED: u32 = 4;
    // A child that is forked while a mapping is made has it until it executes another program.
    const TIMES_MAPPED: u32 = 5;

    let fd = fd.as_fd();
    let Err(mut error) = sys::add_seals(fd, seals) else {
        return Ok(());
    };
    let (mut pinned, mut mapped) = (0, 0);
    while error.kind() == io::ErrorKind::ResourceBusy
        && pinned < TIMES_PINNED
        && mapped < TIMES_MAPPED
    {
        std::thread::sleep(Duration::from_millis((1 << mapped) - 1));
        let start = Instant::now();
        match sys::add_seals(fd, seals) {
            Ok(()) => return Ok(()),
            Err(again) => error = again,
        }
        if start.elapsed() < KERNEL_WAITED {
            mapped += 1;
        } else {
            pinned += 1;
        }
    }
    let reason = match error.kind() {
        io::ErrorKind::ResourceBusy if mapped == TIMES_MAPPED => SealFailure::WritableMapping,
        io::ErrorKind::ResourceBusy => SealFailure::PinnedPages,
        io::ErrorKind::PermissionDenied => SealFailure::NotAllowed,
        io::ErrorKind::InvalidInput => SealFailure::Unsupported,
        _ => SealFailure::Other,
    };
    Err((reason, error))
}

/// Adds `seals` and confirms that the file carries them and that the kernel enforces them.
pub(crate) fn add_and_confirm(fd: impl AsFd, seals: Seals) -> Result<(), (SealFailure, io::Error)> {
    add_patiently(&fd, seals)?;
    match get_seals(&fd) {
        Ok(present) if present.contains(seals) => expect_enforced(present),
        Ok(present) => {
            let message = format!("the kernel did not add the seals {seals} (present: {present})");
            Err((SealFailure::Other, io::Error::other(message)))
        }
        Err(error) => Err((SealFailure::Other, error)),
    }
}

/// The failure of a file that would carry `present`, if its write seal could not be believed.
pub(crate) fn expect_enforced(present: Seals) -> Result<(), (SealFailure, io::Error)> {
    if write_seal_is_enforced(present) {
        return Ok(());
    }
    let message = format!(
        "this kernel does not enforce the write seal among {present}; copy the file instead"
    );
    Err((SealFailure::Other, io::Error::other(message)))
}

/// Whether `WRITE`, if it is among `present`, means that nobody can write.
///
/// Linux 6.3 to mid-2026 adds `WRITE` and `FUTURE_WRITE` together with `EXEC` to an executable
/// memfd without looking for writable mappings (introduced by c4f75bc8bd6b, fixed by 3b041514cb6e).
/// Seals are never removed and that path sets all of them at once, so where one of the two is
/// absent `WRITE` came through the path that does look.
pub(crate) fn write_seal_is_enforced(present: Seals) -> bool {
    let unchecked_path = Seals::WRITE | Seals::EXEC | Seals::FUTURE_WRITE;
    !present.contains(unchecked_path) || kernel_checks_exec_seal()
}

/// Whether this kernel refuses `EXEC` on an executable file that has a writable mapping: tried once
/// on a file of our own, and remembered as soon as the attempt was conclusive.
///
/// It is not conclusive where the file cannot be had (`EACCES` under `vm.memfd_noexec=2`, or no
/// descriptors left). That counts as a kernel that does not check, this time.
fn kernel_checks_exec_seal() -> bool {
    static CHECKED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();

    if let Some(checked) = CHECKED.get() {
        return *checked;
    }
    let refused = || -> io::Result<bool> {
        let mut file =
            CreateOptions::new().executable(true).create("sealed-mmap-exec-seal-test")?;
        file.set_len(1)?;
        let same_file = file.duplicate()?;
        let _writable = file.map_mut()?;
        match add_seals(&same_file, Seals::EXEC) {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(true),
            Err(error) => Err(error),
        }
    };
    refused().is_ok_and(|refused| *CHECKED.get_or_init(|| refused))
}
