//! Making files: the options, and the one-call writers.

use std::ffi::CStr;
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::copy;
use crate::state::{ReadOnlySealed, Unsealed};
use crate::sys;
use crate::{HugePages, Producer, SealedFile, Seals, get_seals};

/// How a file is made. The default is what most callers want: sealable, not executable, plain pages.
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
    allow_sealing: bool,
    huge_pages: HugePages,
}

impl CreateOptions {
    /// Sealable, not executable, plain pages.
    ///
    /// # Examples
    ///
    /// ```
    /// let draft = sealed_mmap::CreateOptions::new().create("draft")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub const fn new() -> Self {
        Self { executable: false, allow_sealing: true, huge_pages: HugePages::None }
    }

    /// Whether the file may be executed, as `/proc/self/fd/N` or with `fexecve(3)`. Default: no.
    ///
    /// # Platform-specific
    ///
    /// Linux 6.3 and later seals the answer (`MFD_EXEC`, `MFD_NOEXEC_SEAL`); on older ones only the
    /// mode bits say so. With `vm.memfd_noexec=2` creating an executable file is `EACCES`. On
    /// FreeBSD this has no effect.
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

    /// Whether seals can be added to the file. Default: yes. With `false` the file carries
    /// [`Seals::SEAL`] from the start and can never leave the state [`Unsealed`]; the one-call
    /// writers, which seal, then fail.
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

    /// The pages that the file is made of. Default: [`HugePages::None`].
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

    /// Creates an empty file, close-on-exec. The name is for debugging only
    /// (`/proc/self/fd/N` shows it); files of the same name have nothing in common.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: the name has a NUL byte or is longer than 249 bytes.
    /// * `Unsupported`: the kernel has no hugetlb pages of the size asked for.
    /// * `EACCES`: an executable file under `vm.memfd_noexec=2`.
    /// * `EMFILE`, `ENFILE`, `ENOMEM`: no descriptor or memory left.
    ///
    /// The limit `RLIMIT_FSIZE` holds for these files like for any other: exceeding it raises
    /// `SIGXFSZ`, and is `EFBIG` where that is ignored.
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

    /// The same as [`create`](Self::create), for a name that need not be UTF-8.
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

    fn create_named(&self, name: &[u8]) -> io::Result<SealedFile<Unsealed>> {
        const LONGEST_NAME: usize = 249;

        let invalid = |message: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        if name.contains(&0) {
            return invalid("the name of a memfd cannot contain a NUL byte");
        }
        if name.len() > LONGEST_NAME {
            return invalid("the name of a memfd cannot be longer than 249 bytes");
        }
        let memfd = sys::Memfd {
            executable: self.executable,
            allow_sealing: self.allow_sealing,
            huge_pages: self.huge_pages,
        };
        let file = memfd.create(name)?;
        // A file that is created not executable is sealable whatever the flags say.
        if !self.allow_sealing && !get_seals(&file)?.contains(Seals::SEAL) {
            sys::add_seals(file.as_fd(), Seals::SEAL)?;
        }
        Ok(SealedFile::unsealed(file, self.huge_pages))
    }

    /// Creates an immutable file that holds `bytes`. Its offset is 0, as with the other writers below.
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
        if self.huge_pages.are_filled_through_a_mapping(len) {
            file.map_mut_with_len(len)?.copy_from_slice(bytes);
        } else {
            write_whole(&file, bytes)?;
        }
        Ok(file.seal_with_len(len)?)
    }

    /// Creates an immutable file of `len` bytes, which are what `fill` makes of a zeroed slice that
    /// begins at a multiple of 4096.
    ///
    /// Plain pages up to 1 MiB are filled from a buffer, in about half the time if the allocator has
    /// it at hand: the page faults of a new mapping cost more than a copy. A lack of memory then shows
    /// only after `fill` has run. Above, and on huge pages that have to be filled in place, the slice
    /// is the file's own memory, which is reserved. If the contents must not stay behind in freed
    /// memory, or the slice must be the file's own, use [`map_mut`](SealedFile::map_mut).
    ///
    /// # Errors
    ///
    /// As [`from_bytes`](Self::from_bytes), and whatever `fill` returns. The file is gone then.
    /// `ENOMEM` if `len` is more than the machine's memory and swap.
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
        if len > LARGEST_BUFFER || self.huge_pages.are_filled_through_a_mapping(len) {
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
            write_whole(&file, bytes)?;
        }
        Ok(file.seal_with_len(len)?)
    }

    /// Creates an immutable copy of what `source` holds: all of a regular file, from its beginning and
    /// without moving its offset; of any other stream of bytes (a pipe, a stream socket, a terminal,
    /// a device) everything that can be read until its end.
    ///
    /// The copy cannot change any more, which is not the same as showing one moment: a regular file
    /// whose size or modification time changes meanwhile is an error, but a writer that hides its
    /// writes (through a mapping, within the clock's tick, or by setting the time back) can make a
    /// copy that mixes old and new.
    ///
    /// Sources of records are refused before anything is read: reading them like a stream would join
    /// records or cut them off, and most never report an end. These are datagram, seqpacket and raw
    /// sockets (netlink among them), `/dev/kmsg`, and anonymous inodes (eventfd, timerfd,
    /// signalfd, inotify, epoll, …). Receive one record, with
    /// [`recv_fds`](crate::socket::recv_fds) for example, and share it with
    /// [`from_bytes`](Self::from_bytes). A pipe in packet mode (`O_DIRECT`) is copied, without the
    /// boundaries of its packets.
    ///
    /// # Waiting
    ///
    /// The call blocks until the source ends, even if the source is non-blocking. Signals do not end
    /// it; their handlers run.
    ///
    /// The read timeout of a socket (`SO_RCVTIMEO`, such as
    /// [`UnixStream::set_read_timeout`](std::os::unix::net::UnixStream::set_read_timeout)) limits how
    /// long the source may stay silent. The time is counted from the last byte, so a peer that
    /// trickles bytes is stopped by `limit` alone. The timeout counts for a non-blocking socket, too,
    /// and no signal extends it. What was set when the copy began holds for all of it.
    ///
    /// Any other source that stays silent is waited for without limit, a regular file of a special
    /// file system included (`/proc/kmsg`, `trace_pipe`, a file in user space). One that never ends,
    /// such as `/dev/zero`, is read until `limit` is exceeded.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and:
    ///
    /// * `EFBIG`: the source has more than `limit` bytes, or is a regular file that claims to (those
    ///   of sysfs claim a page). Up to 64 KiB beyond the limit are consumed from a stream.
    /// * `ResourceBusy`: the source changed while it was copied.
    /// * `InvalidInput`, without an errno: the source is one of the sources of records listed above.
    ///   Nothing is consumed.
    /// * `TimedOut`: the source is a socket, and nothing came for as long as its read timeout. What
    ///   had come before is lost.
    /// * `EBADF`: the source is not open for reading. `EISDIR`: it is a directory.
    /// * `ENOTCONN`, or `EINVAL` for a Unix socket: the source is a socket that listens or is not
    ///   connected. `ECONNRESET`: its peer is gone and has left bytes unread.
    /// * `EIO`: reading failed. The master of a pseudoterminal ends so when all slaves are closed.
    /// * `EINTR`: reading was interrupted a thousand times in a row without a byte. File systems in user
    ///   space and system call filters answer like that; signals do it only to a regular file that
    ///   makes its readers wait, such as `trace_pipe`.
    /// * `EAGAIN`: a non-blocking regular file of a special file system has no data now.
    /// * `Other`: `poll(2)` reports again and again that the source can be read, and reading it would
    ///   block. A socket whose error queue is not empty is like that (`MSG_ERRQUEUE`).
    /// * `ENOSPC`, `ENOMEM`: no memory for the contents.
    /// * For hugetlb pages, `InvalidInput`: the length is not a multiple of the page size;
    ///   `StorageFull`, `OutOfMemory`: too few pages are free in the pool (the errno is the `source`).
    /// * Whatever reading the source returns. If a sandbox denies `poll(2)` or `getsockopt(2)` where
    ///   they are needed, the message says which, and the errno is the `source`.
    ///
    /// # Platform-specific
    ///
    /// On Linux a regular file is copied by `sendfile(2)`. Where a file system or a sandbox does not
    /// allow that, reading and writing takes its place.
    ///
    /// # Examples
    ///
    /// ```
    /// let source = std::fs::File::open("Cargo.toml")?;
    /// let copy = sealed_mmap::CreateOptions::new().copy_of("manifest", &source, 1 << 20)?;
    /// assert_eq!(&copy.map_read_only()?[..], std::fs::read("Cargo.toml")?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// A peer that stays silent is not waited for without end:
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Duration;
    ///
    /// let (ours, _silent) = UnixStream::pair()?;
    /// ours.set_read_timeout(Some(Duration::from_millis(20)))?;
    /// let error = sealed_mmap::CreateOptions::new().copy_of("request", &ours, 4096).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "sendfile")]
    pub fn copy_of(
        &self,
        name: &str,
        source: impl AsFd,
        limit: u64,
    ) -> io::Result<SealedFile<ReadOnlySealed>> {
        let mut file = self.huge_pages(HugePages::None).create(name)?;
        let len = copy::append(source.as_fd(), &mut file, limit)?;
        file.rewind()?;
        let plain = file.seal_with_len(len)?;
        if self.huge_pages.are_filled_through_a_mapping(len) {
            return self.from_bytes(name, plain.map_read_only()?);
        }
        Ok(plain)
    }

    /// Creates a live file of `len` zeros, and its only writer.
    ///
    /// # Errors
    ///
    /// As [`Producer::create`] and [`create`](Self::create), and:
    ///
    /// * `InvalidInput`: the options make the file executable, which a live file never is; or, for
    ///   hugetlb pages, the length is not a multiple of the page size.
    /// * `EPERM`: the options do not allow sealing.
    ///
    /// # Examples
    ///
    /// ```
    /// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
    /// use sealed_mmap::{CreateOptions, HugePages};
    ///
    /// let options = CreateOptions::new().huge_pages(HugePages::Transparent);
    /// let mut producer = options.create_producer("frames", 1 << 20)?;
    /// producer.write_at(0, b"the first of them")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn create_producer(&self, name: &str, len: u64) -> io::Result<Producer> {
        self.build_producer(name, len, |_| Ok(()))
    }

    /// Creates a live file of `len` bytes that `fill` writes in place, before anybody can see it,
    /// and its only writer from then on. The slice is zeroed and page-aligned.
    ///
    /// # Errors
    ///
    /// As [`create_producer`](Self::create_producer), and whatever `fill` returns. It has run already
    /// where the kernel has no live files.
    ///
    /// # Examples
    ///
    /// ```
    /// # if std::fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|two| two == b"2\n") { return Ok(()); }
    /// let producer = sealed_mmap::CreateOptions::new().build_producer("blank", 80, |bytes| {
    ///     bytes.fill(b' ');
    ///     Ok(())
    /// })?;
    /// assert_eq!(producer.file().map_live()?.to_vec(..2)?, b"  ");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn build_producer(
        &self,
        name: &str,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Producer> {
        let mut file = self.create_without_exec_seal(name)?;
        // A map of its own, so that no slice is left when the file is sealed and shared.
        fill(&mut file.map_mut_with_len(len)?)?;
        Producer::new(file)
    }

    /// A file that nobody can execute or open for writing, by its mode and not by a seal: `EXEC`
    /// beside `FUTURE_WRITE` would cast doubt on `WRITE` (see [`write_seal_is_enforced`]).
    ///
    /// [`write_seal_is_enforced`]: crate::seals::write_seal_is_enforced
    fn create_without_exec_seal(&self, name: &str) -> io::Result<SealedFile<Unsealed>> {
        if self.executable {
            let message = "a live file cannot be executable";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let unsupported = |message| Err(io::Error::new(io::ErrorKind::Unsupported, message));
        let always_exec_sealed = "a live file has to do without F_SEAL_EXEC, \
                                  which the sysctl vm.memfd_noexec=2 puts on every file";
        let file = match self.executable(true).create(name) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ACCESS) => {
                return unsupported(always_exec_sealed);
            }
            done => done?,
        };
        if get_seals(file.as_file())?.contains(Seals::EXEC) {
            return unsupported(always_exec_sealed);
        }
        sys::set_mode(file.as_file().as_fd(), 0o444)?;
        Ok(file)
    }
}

/// Leaves the offset at 0, so that whoever gets the file as standard input reads from its beginning.
fn write_whole(file: &SealedFile<Unsealed>, bytes: &[u8]) -> io::Result<()> {
    file.as_file().write_all_at(bytes, 0)
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self::new()
    }
}
