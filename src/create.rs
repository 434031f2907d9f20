//! Creating files: the options, and the one-call writers.
#![allow(unsafe_code, reason = "a draft is made of a file that has just been created")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::failure::{explained, while_doing};
use crate::file::sealed::SealedFile;
use crate::huge_pages::HugePages;
use crate::seals::Seals;
use crate::state::{ReadOnlySealed, Unsealed};
use crate::sys;

/// How a file is created. The defaults suit most callers: sealable, not executable, plain pages.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{CreateOptions, HugePages};
///
/// let file = CreateOptions::new()
///     .huge_pages(HugePages::Transparent)
///     .from_bytes("model weights", &[0; 1 << 20])?;
/// assert_eq!(file.len()?, 1 << 20);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct CreateOptions {
    executable: bool,
    mode: Option<u32>,
    exec_seal: bool,
    allow_sealing: bool,
    final_seals: bool,
    huge_pages: HugePages,
}

impl CreateOptions {
    /// The defaults: sealable, not executable, plain pages.
    ///
    /// # Examples
    ///
    /// ```
    /// let draft = sealed_mmap::CreateOptions::new().create("draft")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub const fn new() -> Self {
        Self {
            executable: false,
            mode: None,
            exec_seal: true,
            allow_sealing: true,
            final_seals: false,
            huge_pages: HugePages::None,
        }
    }

    /// Whether the file may be executed, with [`command`](SealedFile::command), as `/proc/self/fd/N`, or
    /// with `fexecve(3)`. Default: no.
    ///
    /// An executable file does not carry [`Seals::EXEC`], so every kernel's receivers accept it once it
    /// is immutable: beside that seal some would not trust the write seal
    /// ([`UntrustedWriteSeal`](crate::Refusal::UntrustedWriteSeal)).
    ///
    /// # Platform-specific
    ///
    /// On Linux 6.3 and later a file that is not executable carries [`Seals::EXEC`] and cannot be made
    /// executable (`MFD_NOEXEC_SEAL`). On older kernels, and in sandboxes that deny the flag, only the
    /// mode bits say so. Under `vm.memfd_noexec=2`, creating an executable file fails with `EACCES`. On
    /// FreeBSD this option has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::fs::PermissionsExt;
    ///
    /// let options = sealed_mmap::CreateOptions::new();
    /// let mode = options.create("data")?.metadata()?.permissions().mode();
    /// assert_eq!(mode & 0o111, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "MFD_EXEC")]
    #[doc(alias = "MFD_NOEXEC_SEAL")]
    pub const fn executable(mut self, executable: bool) -> Self {
        self.executable = executable;
        self
    }

    /// The permission bits of the file's mode, whatever the umask is. Default: `0o777` for executable
    /// files, and `0o666` for others.
    ///
    /// The mode says who may open the file again through `/proc` and who may execute it. Whoever has the
    /// descriptor needs neither to read the file. Without write bits nobody but root and the owner, who
    /// can change the mode, gets a writable descriptor from a read-only one.
    ///
    /// Creating a file fails with `InvalidInput` if there are other bits than `0o777` (such as
    /// set-user-ID), if somebody may execute a file that is not [executable](Self::executable), or nobody
    /// one that is. The file of a [`Producer`](crate::Producer) has no write bits, and `0o444` by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::CreateOptions;
    /// use std::os::unix::fs::PermissionsExt;
    ///
    /// let file = CreateOptions::new().mode(0o600).from_bytes("secret", b"for one user")?;
    /// assert_eq!(file.metadata()?.permissions().mode() & 0o777, 0o600);
    ///
    /// let error = CreateOptions::new().mode(0o700).create("program").unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "fchmod")]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Whether a file that is not executable carries [`Seals::EXEC`], where the kernel has that seal.
    /// Default: yes.
    ///
    /// With `false` only the mode bits say that the file is not executable. That is for peers that compare
    /// the seals of a file with a fixed set: unpatched versions of `systemd-journald` before 254 require
    /// exactly `shrink|grow|write|seal`, and take every other file for one that is not sealed.
    ///
    /// An [executable](Self::executable) file and the file of a [`Producer`](crate::Producer) never carry
    /// the seal, whatever this says.
    ///
    /// # Platform-specific
    ///
    /// Under `vm.memfd_noexec=2` the kernel puts the seal on every file, and creating one without it fails
    /// with `Unsupported`.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{CreateOptions, Seals};
    ///
    /// let record = CreateOptions::new().exec_seal(false).from_bytes("record", b"MESSAGE=hello\n");
    /// # let Ok(record) = record else { return Ok(()) }; // vm.memfd_noexec=2
    /// let expected = Seals::SHRINK | Seals::GROW | Seals::WRITE | Seals::SEAL;
    /// assert_eq!(record.get_seals()?, expected);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "MFD_NOEXEC_SEAL")]
    pub const fn exec_seal(mut self, exec_seal: bool) -> Self {
        self.exec_seal = exec_seal;
        self
    }

    /// Whether seals can be added to the file. Default: yes.
    ///
    /// With `false`, the file carries [`Seals::SEAL`] from the start and can never leave the state
    /// [`Unsealed`]. The one-call writers then fail, because they seal.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{CreateOptions, Seals, get_seals};
    ///
    /// let scratch = CreateOptions::new().allow_sealing(false).create("scratch")?.into_file();
    /// assert!(get_seals(&scratch)?.contains(Seals::SEAL));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "MFD_ALLOW_SEALING")]
    pub const fn allow_sealing(mut self, allow_sealing: bool) -> Self {
        self.allow_sealing = allow_sealing;
        self
    }

    /// Whether the file of a [`Producer`](crate::Producer) carries [`Seals::SEAL`] from the start.
    /// Default: no.
    ///
    /// With `true` nobody can add a seal, and so the file can never be
    /// [finished](crate::Producer::finish). That is for readers that require `SEAL` beside
    /// [`Seals::FUTURE_WRITE`], and it keeps every other process from adding seals to the file. Files that
    /// are sealed from drafts always carry the seal.
    ///
    /// # Examples
    ///
    /// ```
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// use sealed_mmap::{CreateOptions, SealFailure, Seals};
    ///
    /// let counters = CreateOptions::new().final_seals(true).create_producer("counters", 4096)?;
    /// assert!(counters.file().get_seals()?.contains(Seals::FUTURE_WRITE | Seals::SEAL));
    ///
    /// let error = counters.finish().unwrap_err();
    /// assert_eq!(error.reason(), SealFailure::NotAllowed);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub const fn final_seals(mut self, final_seals: bool) -> Self {
        self.final_seals = final_seals;
        self
    }

    /// The size of the pages that the file is made of. Default: [`HugePages::None`].
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::{CreateOptions, HugePages};
    ///
    /// let options = CreateOptions::new().huge_pages(HugePages::Transparent);
    /// let file = options.from_bytes("frame", &[7; 8192])?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "MFD_HUGETLB")]
    pub const fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// Creates an empty file, close-on-exec.
    ///
    /// The name is for debugging only (`/proc/self/fd/N` shows it). Files of the same name have nothing
    /// in common.
    ///
    /// The descriptor is never 0, 1 or 2, even if the process was started with those closed. Code that
    /// prints would otherwise write into the file.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: the name has a NUL byte or is longer than 249 bytes, or the
    ///   [mode](Self::mode) is none for such a file.
    /// * `Unsupported`: the kernel has no hugetlb pages of the requested size; or a file without
    ///   [`Seals::EXEC`] under `vm.memfd_noexec=2`.
    /// * `EACCES`: an executable file under `vm.memfd_noexec=2`.
    /// * `EMFILE`, `ENFILE`, `ENOMEM`: no descriptor or memory left.
    ///
    /// The limit `RLIMIT_FSIZE` applies to these files as to any other: exceeding it raises `SIGXFSZ`,
    /// and fails with `EFBIG` where that signal is ignored.
    ///
    /// [Errors](crate#errors) says how a call that a sandbox denies is reported, here and everywhere else.
    ///
    /// See [memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html).
    ///
    /// # Examples
    ///
    /// ```
    /// let draft = sealed_mmap::CreateOptions::new().create("draft")?;
    /// assert!(draft.is_empty()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "memfd_create")]
    pub fn create(&self, name: &str) -> io::Result<SealedFile<Unsealed>> {
        self.create_named(name.as_bytes())
    }

    /// As [`create`](Self::create), with a name that need not be UTF-8.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    ///
    /// # Examples
    ///
    /// ```
    /// let draft = sealed_mmap::CreateOptions::new().create_cstr(c"draft \xff")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn create_cstr(&self, name: &CStr) -> io::Result<SealedFile<Unsealed>> {
        self.create_named(name.to_bytes())
    }

    pub(crate) fn is_executable(&self) -> bool {
        self.executable
    }

    /// The mode that was asked for, if such a file can have it.
    pub(crate) fn checked_mode(&self) -> io::Result<Option<u16>> {
        let Some(mode) = self.mode else { return Ok(None) };
        let problem = if mode & !0o777 != 0 {
            "has more than the permission bits 0o777"
        } else if mode & 0o111 != 0 && !self.executable {
            "makes the file executable, which takes CreateOptions::executable"
        } else if mode & 0o111 == 0 && self.executable {
            "lets nobody execute the file, for which CreateOptions::executable asks"
        } else {
            return Ok(Some(mode as u16));
        };
        let message = format!("the mode {mode:#o} {problem}");
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }

    pub(crate) fn has_final_seals(&self) -> bool {
        self.final_seals
    }

    fn create_named(&self, name: &[u8]) -> io::Result<SealedFile<Unsealed>> {
        const LONGEST_NAME: usize = 249;

        let invalid = |message: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        if name.contains(&0) {
            return invalid("the name of a memfd cannot contain a NUL byte");
        }
        if name.len() > LONGEST_NAME {
            return invalid("the name of a memfd cannot be longer than 249 bytes");
        }
        let mode = self.checked_mode()?;
        let with_exec_seal = self.exec_seal && !self.executable;
        let memfd = sys::Memfd {
            executable: !with_exec_seal,
            allow_sealing: self.allow_sealing,
            huge_pages: self.huge_pages,
        };
        let (file, default_mode) = if with_exec_seal || self.executable {
            (memfd.create(name)?, None)
        } else {
            (create_without_exec_seal(&memfd, name)?, Some(0o666))
        };
        if let Some(mode) = mode.or(default_mode) {
            sys::set_mode(file.as_fd(), mode)?;
        }
        // A file that is created not executable is sealable whatever the flags say.
        if !self.allow_sealing && !sys::get_seals(file.as_fd())?.contains(Seals::SEAL) {
            sys::add_seals(file.as_fd(), Seals::SEAL)
                .map_err(while_doing("add F_SEAL_SEAL (F_ADD_SEALS)"))?;
        }
        // SAFETY: memfd_create(2) has just returned this descriptor, close-on-exec, and nobody has seen
        // it: its number is none that code writes to without having been given it (0 to 2).
        Ok(unsafe { SealedFile::draft(file, self.huge_pages) })
    }

    /// Whether filling through a mapping is required, or faster. Plain pages are filled fastest with
    /// `write(2)`, which never uses huge pages on advice and does not work on hugetlbfs.
    pub(crate) fn fills_through_a_mapping(&self, len: u64) -> bool {
        /// No huge page of any processor is smaller.
        const SMALLEST: u64 = 1 << 20;

        match self.huge_pages {
            HugePages::None => false,
            HugePages::Transparent => len >= SMALLEST && sys::huge_pages_on_advice(),
            HugePages::HugeTlb(_) => true,
        }
    }

    /// Creates an immutable file that holds `bytes`. Its offset is 0, as with the other one-call writers.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and:
    ///
    /// * `ENOSPC`, `ENOMEM`: no memory for the contents.
    /// * For hugetlb pages, `InvalidInput`: the length is not a multiple of the page size;
    ///   `StorageFull`, `OutOfMemory`: too few pages are free in the pool (the errno is the `source`).
    /// * `EPERM`: the options do not allow sealing.
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::CreateOptions::new().from_bytes("greeting", b"hello")?;
    /// assert_eq!(&file.map_read_only()?[..], b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_bytes(
        &self,
        name: &str,
        bytes: impl AsRef<[u8]>,
    ) -> io::Result<SealedFile<ReadOnlySealed>> {
        let bytes = bytes.as_ref();
        let len = bytes.len() as u64;
        let mut file = self.create(name)?;
        if self.fills_through_a_mapping(len) {
            file.map_mut_with_len(len)?.copy_from_slice(bytes);
        } else {
            sys::write_all_at(file.file(), bytes, 0)?;
        }
        Ok(file.seal_with_len(len)?)
    }

    /// Creates an immutable file of `len` bytes, which `fill` writes to a zeroed slice. The slice begins
    /// at a multiple of 4096.
    ///
    /// Plain pages up to 1 MiB are filled from a buffer, in about half the time if the allocator has
    /// the buffer at hand: the page faults of a new mapping cost more than a copy. A lack of memory then
    /// shows only after `fill` has run. For longer files, and for huge pages that have to be filled in
    /// place, the slice is the file's own memory, which is reserved. If the contents must not stay behind
    /// in freed memory, or the slice must be the file's own, use [`map_mut`](SealedFile::map_mut).
    ///
    /// # Errors
    ///
    /// As [`from_bytes`](Self::from_bytes) and [`map_mut`](SealedFile::map_mut), and whatever `fill`
    /// returns. The file is gone then. `ENOMEM` if `len` is more than the machine's memory and swap.
    ///
    /// # Examples
    ///
    /// ```
    /// let squares = sealed_mmap::CreateOptions::new().build("squares", 16, |bytes| {
    ///     for (n, byte) in bytes.iter_mut().enumerate() {
    ///         *byte = (n * n) as u8;
    ///     }
    ///     Ok(())
    /// })?;
    /// assert_eq!(squares.map_read_only()?[9], 81);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn build(
        &self,
        name: &str,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<SealedFile<ReadOnlySealed>> {
        const LARGEST_BUFFER: u64 = 1 << 20;

        let mut file = self.create(name)?;
        if len > LARGEST_BUFFER || self.fills_through_a_mapping(len) {
            fill(&mut file.map_mut_with_len(len)?)?;
        } else {
            // Not asked for: on old kernels that takes a descriptor, and panics where there is none.
            const PAGE: usize = 4096;
            let len = len as usize;
            let mut buffer = Vec::new();
            buffer.try_reserve_exact(len + PAGE).map_err(|_| Errno::NOMEM)?;
            buffer.resize(len + PAGE, 0);
            let start = buffer.as_ptr().addr().wrapping_neg() % PAGE;
            let bytes = &mut buffer[start..][..len];
            fill(bytes)?;
            sys::write_all_at(file.file(), bytes, 0)?;
        }
        Ok(file.seal_with_len(len)?)
    }
}

/// Creates a file that only its mode, which is up to the caller, will keep from being executed.
fn create_without_exec_seal(memfd: &sys::Memfd, name: &[u8]) -> io::Result<File> {
    let always_exec_sealed = || {
        let message = "a file without F_SEAL_EXEC cannot be created: the sysctl vm.memfd_noexec=2 \
                       puts that seal on every file";
        io::Error::new(io::ErrorKind::Unsupported, message)
    };
    let file = match memfd.create(name) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::ACCESS) => {
            return Err(always_exec_sealed());
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let message = "a file without F_SEAL_EXEC has to be created with MFD_EXEC; a sandbox that \
                           allows only MFD_NOEXEC_SEAL denies that";
            return Err(explained(error.kind(), message, error));
        }
        done => done?,
    };
    if sys::get_seals(file.as_fd())?.contains(Seals::EXEC) {
        return Err(always_exec_sealed());
    }
    Ok(file)
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A draft: the only handle to a file that is being filled.
impl SealedFile<Unsealed> {
    /// Creates an empty draft with the default [`CreateOptions`].
    ///
    /// # Errors
    ///
    /// As [`CreateOptions::create`].
    ///
    /// # Examples
    ///
    /// ```
    /// let draft = sealed_mmap::SealedFile::create("draft")?;
    /// assert_eq!(draft.len()?, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "memfd_create")]
    pub fn create(name: &str) -> io::Result<Self> {
        CreateOptions::new().create(name)
    }
}

/// Immutable files in one call.
impl SealedFile<ReadOnlySealed> {
    /// Creates an immutable file that holds `bytes`, with the default [`CreateOptions`].
    ///
    /// # Errors
    ///
    /// As [`CreateOptions::from_bytes`].
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::from_bytes("greeting", b"hello")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_bytes(name: &str, bytes: impl AsRef<[u8]>) -> io::Result<Self> {
        CreateOptions::new().from_bytes(name, bytes)
    }

    /// Creates an immutable file of `len` bytes, which `fill` writes to a zeroed slice, with the default
    /// [`CreateOptions`]. See [`CreateOptions::build`].
    ///
    /// # Errors
    ///
    /// As [`CreateOptions::build`].
    ///
    /// # Examples
    ///
    /// ```
    /// let file = sealed_mmap::SealedFile::build("greeting", 5, |bytes| {
    ///     bytes.copy_from_slice(b"hello");
    ///     Ok(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn build(
        name: &str,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Self> {
        CreateOptions::new().build(name, len, fill)
    }
}
