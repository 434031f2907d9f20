//! System calls, and every difference between operating systems. No policy.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
// Elsewhere these are left out whole, and rustc is silent about what a module with a
// `compile_error!` lacks: its sentence is then the only error.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(crate) use rustix::{
    fs::{FallocateFlags, FileType, MemfdFlags, Mode, OFlags, SealFlags},
    mm::Advice,
    net,
};

use crate::state::Extent;
use crate::{HugePages, Seals};

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
compile_error!("sealed-mmap needs file seals, which only Linux, Android and FreeBSD have");

/// How a memfd is to be made.
pub(crate) struct Memfd {
    pub(crate) executable: bool,
    pub(crate) allow_sealing: bool,
    pub(crate) huge_pages: HugePages,
}

impl Memfd {
    pub(crate) fn create(&self, name: &[u8]) -> io::Result<File> {
        let mut flags = MemfdFlags::CLOEXEC;
        flags.set(MemfdFlags::ALLOW_SEALING, self.allow_sealing);
        if let HugePages::HugeTlb(size) = self.huge_pages {
            let size = size.map_or(0, |size| size.log2() << MFD_HUGE_SHIFT);
            flags |= MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(size);
        }
        let mut created = rustix::fs::memfd_create(name, flags | exec_flag(self.executable));
        if let Err(Errno::INVAL) = created {
            // Linux before 6.3 does not know the exec flags. Every other flag has to stay: without
            // ALLOW_SEALING the file could never be sealed.
            created = rustix::fs::memfd_create(name, flags);
            if let (Ok(fd), false) = (&created, self.executable) {
                rustix::fs::fchmod(fd, Mode::from_raw_mode(0o666))?;
            }
        }
        match created {
            Err(Errno::NODEV) => {
                let message = "the kernel has no huge pages of this size";
                Err(io::Error::new(io::ErrorKind::Unsupported, message))
            }
            done => Ok(done?.into()),
        }
    }
}

/// `<linux/memfd.h>`; FreeBSD's `<sys/mman.h>` has the same value.
const MFD_HUGE_SHIFT: u32 = 26;

#[cfg(not(target_os = "freebsd"))]
fn exec_flag(executable: bool) -> MemfdFlags {
    if executable { MemfdFlags::EXEC } else { MemfdFlags::NOEXEC_SEAL }
}

#[cfg(target_os = "freebsd")]
fn exec_flag(_executable: bool) -> MemfdFlags {
    MemfdFlags::empty()
}

/// The seals that mean something. FreeBSD stores and reports others too, and enforces none of them.
const ENFORCED: u32 = if cfg!(target_os = "freebsd") { 0x0f } else { !0 };

pub(crate) fn get_seals(fd: BorrowedFd<'_>) -> io::Result<Seals> {
    let seals = rustix::fs::fcntl_get_seals(fd)?;
    Ok(Seals::from_bits_retain(seals.bits() & ENFORCED))
}

pub(crate) fn add_seals(fd: BorrowedFd<'_>, seals: Seals) -> io::Result<()> {
    if seals.bits() & ENFORCED != seals.bits() {
        return Err(Errno::INVAL.into());
    }
    Ok(rustix::fs::fcntl_add_seals(fd, SealFlags::from_bits_retain(seals.bits()))?)
}

/// Whether the descriptor's access mode allows reading, and so mapping.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    let access = flags & OFlags::RWMODE;
    Ok(!flags.contains(OFlags::PATH) && (access == OFlags::RDONLY || access == OFlags::RDWR))
}

/// Whether the descriptor's access mode allows writing.
pub(crate) fn is_writable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let access = rustix::fs::fcntl_getfl(fd)? & OFlags::RWMODE;
    Ok(access == OFlags::WRONLY || access == OFlags::RDWR)
}

pub(crate) fn set_mode(fd: BorrowedFd<'_>, mode: u16) -> io::Result<()> {
    Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(mode.into()))?)
}

/// What `fstat(2)` tells, in types that are the same on every target.
#[derive(Clone, Copy)]
pub(crate) struct Stat {
    /// Bytes.
    pub(crate) len: u64,
    /// Bytes per block.
    block: u64,
    pub(crate) owner: u32,
    pub(crate) is_regular: bool,
    /// For anybody.
    pub(crate) is_executable: bool,
    /// Device and inode number.
    #[cfg_attr(target_os = "freebsd", expect(dead_code, reason = "nothing is opened anew there"))]
    id: (u64, u64),
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, u64),
}

#[allow(clippy::unnecessary_cast, reason = "the types differ by target")]
pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(Stat {
        len: stat.st_size as u64,
        block: stat.st_blksize as u64,
        owner: stat.st_uid,
        is_executable: stat.st_mode & 0o111 != 0,
        is_regular: FileType::from_raw_mode(stat.st_mode as _) == FileType::RegularFile,
        id: (stat.st_dev as u64, stat.st_ino as u64),
        modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
    })
}

/// The extent of a file that can carry seals. hugetlbfs reports its page size as block size, which
/// is never 4096; a plain memfd does so only with larger base pages or under transparent huge
/// pages, and otherwise needs no further call.
#[cfg(not(target_os = "freebsd"))]
#[allow(clippy::unnecessary_cast, reason = "the types differ by target")]
pub(crate) fn extent(fd: BorrowedFd<'_>, stat: &Stat) -> io::Result<Extent> {
    const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;
    let mut huge_page = None;
    if stat.block != 4096 {
        let file_system = rustix::fs::fstatfs(fd)?;
        if file_system.f_type as u32 == HUGETLBFS_MAGIC {
            huge_page = Some(file_system.f_bsize as u64);
        }
    }
    Ok(Extent { len: stat.len, huge_page })
}

/// Plain shared memory reports the page size as block size, and a large page object its own.
#[cfg(target_os = "freebsd")]
pub(crate) fn extent(_fd: BorrowedFd<'_>, stat: &Stat) -> io::Result<Extent> {
    let is_huge = stat.block > rustix::param::page_size() as u64;
    Ok(Extent { len: stat.len, huge_page: is_huge.then_some(stat.block) })
}

/// Takes memory for the first `len` bytes, all or an error, growing the file where it is shorter.
pub(crate) fn reserve(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    // A signal makes the kernel undo the whole call. Without smaller steps a timer that keeps
    // firing would keep it from ever ending.
    const SMALLEST_STEP: u64 = 1 << 20;

    fits_memory(len)?;
    let mut done = 0;
    let mut step = len;
    while done < len {
        let next = step.min(len - done);
        match rustix::fs::fallocate(fd, FallocateFlags::empty(), done, next) {
            Ok(()) => done += next,
            Err(Errno::INTR) => step = (step / 2).max(SMALLEST_STEP),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// `ENOMEM` for more bytes than the machine has memory and swap. Neither `fallocate(2)` nor
/// `madvise(2)` knows this limit: they would go on until the OOM killer steps in.
#[cfg(not(target_os = "freebsd"))]
pub(crate) fn fits_memory(len: u64) -> io::Result<()> {
    // Where there is less, nothing runs, and asking would be a tenth of receiving a small file.
    const ALWAYS_THERE: u64 = 1 << 20;

    if len <= ALWAYS_THERE {
        return Ok(());
    }
    let info = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "the type differs by target")]
    let units = u64::from(info.totalram).saturating_add(info.totalswap.into());
    if len > units.saturating_mul(info.mem_unit.into()) {
        return Err(Errno::NOMEM.into());
    }
    Ok(())
}

#[cfg(target_os = "freebsd")]
pub(crate) fn fits_memory(_len: u64) -> io::Result<()> {
    Ok(())
}

/// A new open file description of the same file.
#[cfg(not(target_os = "freebsd"))]
pub(crate) fn reopen(fd: BorrowedFd<'_>, writable: bool) -> io::Result<OwnedFd> {
    use std::os::fd::{AsFd, AsRawFd};

    let astray = || {
        let message = "opening the file anew needs a /proc/self/fd that leads back to it";
        io::Error::new(io::ErrorKind::Unsupported, message)
    };
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    // Whoever else has the file can hold a lease on it, for which opening would wait.
    let at_once = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let again = match rustix::fs::open(path, access | at_once, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(astray()),
        done => done?,
    };
    // In a sandbox /proc can be anything. Seals only become more, so the older ones are read first.
    let seals = get_seals(fd)?;
    let same_file = stat(fd)?.id == stat(again.as_fd())?.id
        && get_seals(again.as_fd()).is_ok_and(|now| now.contains(seals));
    if same_file { Ok(again) } else { Err(astray()) }
}

#[cfg(target_os = "freebsd")]
pub(crate) fn reopen(_fd: BorrowedFd<'_>, _writable: bool) -> io::Result<OwnedFd> {
    let message = "FreeBSD cannot open an anonymous file anew";
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

/// Copies up to `count` bytes from `offset` of one file to where the other one's offset is, inside
/// the kernel. Not every file system and not every sandbox allows that.
#[cfg(not(target_os = "freebsd"))]
pub(crate) fn send_file(
    to: &File,
    from: BorrowedFd<'_>,
    mut offset: u64,
    count: u64,
) -> rustix::io::Result<usize> {
    // More than fits into a file offset would be EINVAL; one call never copies more than this.
    const MOST: u64 = 0x7fff_f000;
    rustix::fs::sendfile(to, from, Some(&mut offset), count.min(MOST) as usize)
}

#[cfg(target_os = "freebsd")]
pub(crate) fn send_file(_: &File, _: BorrowedFd<'_>, _: u64, _: u64) -> rustix::io::Result<usize> {
    Err(Errno::INVAL)
}

/// What one `read(2)` after the other gets from something that is not a regular file.
pub(crate) enum Readings {
    /// All bytes in order. A socket may have a read timeout (`SO_RCVTIMEO`).
    Stream { timeout: Option<Duration> },
    /// Records. The rest of one that a read has no room for may be lost, and most have no last one.
    Records { of: &'static str },
}

pub(crate) fn readings(fd: BorrowedFd<'_>) -> rustix::io::Result<Readings> {
    let stat = rustix::fs::fstat(fd)?;
    let of = match FileType::from_raw_mode(stat.st_mode as _) {
        FileType::Socket => match net::sockopt::socket_type(fd)? {
            net::SocketType::STREAM => {
                let timeout = net::sockopt::socket_timeout(fd, net::sockopt::Timeout::Recv)?;
                return Ok(Readings::Stream { timeout });
            }
            net::SocketType::DGRAM => "a datagram socket",
            net::SocketType::SEQPACKET => "a seqpacket socket",
            net::SocketType::RAW => "a raw socket",
            _ => "a socket that is not a stream",
        },
        FileType::CharacterDevice if is_kernel_log(&stat) => "the kernel log",
        // Files with an inode of their own have a type.
        FileType::Unknown => {
            "an anonymous inode (such as an eventfd, timerfd, signalfd or inotify instance)"
        }
        _ => return Ok(Readings::Stream { timeout: None }),
    };
    Ok(Readings::Records { of })
}

/// The device number of `/dev/kmsg`: Documentation/admin-guide/devices.txt.
#[cfg(not(target_os = "freebsd"))]
#[allow(clippy::unnecessary_cast, reason = "the types differ by target")]
fn is_kernel_log(stat: &rustix::fs::Stat) -> bool {
    stat.st_rdev as u64 == rustix::fs::makedev(1, 11) as u64
}

#[cfg(target_os = "freebsd")]
fn is_kernel_log(_stat: &rustix::fs::Stat) -> bool {
    false
}

/// Blocks until reading the descriptor would not block, or until the deadline, which is `false`.
pub(crate) fn wait_readable(
    fd: BorrowedFd<'_>,
    deadline: Option<Instant>,
) -> rustix::io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, poll};

    // Signals can interrupt each call, however many there are. What answers so faster than signals
    // come, such as a system call filter, would do it for ever.
    const AT_ONCE: Duration = Duration::from_micros(100);
    const MOST_AT_ONCE: u32 = 1000;

    let start = Instant::now();
    let mut interrupted = 0_u32;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // A time that cannot be expressed is longer than any machine runs.
        let left = left.and_then(|left| left.try_into().ok());
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => interrupted = interrupted.saturating_add(1),
            done => return Ok(done? > 0),
        }
        if interrupted > MOST_AT_ONCE && start.elapsed() < AT_ONCE * interrupted {
            return Err(Errno::INTR);
        }
    }
}

/// Whether shared memory gets transparent huge pages where `MADV_HUGEPAGE` asks for them, and only
/// there: under other settings `write(2)` gets as many, or nobody does.
pub(crate) fn huge_pages_on_advice() -> bool {
    static ON_ADVICE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ON_ADVICE.get_or_init(|| {
        std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
            .is_ok_and(|setting| setting.contains("[advise]"))
    })
}

/// What `madvise(2)` is asked for, where the operating system knows it.
pub(crate) mod advice {
    use super::Advice;

    #[cfg(not(target_os = "freebsd"))]
    mod known {
        use super::*;
        pub(crate) const DONT_FORK: Option<Advice> = Some(Advice::LinuxDontFork);
        pub(crate) const HUGE_PAGE: Option<Advice> = Some(Advice::LinuxHugepage);
        pub(crate) const POPULATE_READ: Option<Advice> = Some(Advice::LinuxPopulateRead);
        pub(crate) const POPULATE_WRITE: Option<Advice> = Some(Advice::LinuxPopulateWrite);
    }

    #[cfg(target_os = "freebsd")]
    mod known {
        use super::*;
        pub(crate) const DONT_FORK: Option<Advice> = None;
        pub(crate) const HUGE_PAGE: Option<Advice> = None;
        pub(crate) const POPULATE_READ: Option<Advice> = None;
        pub(crate) const POPULATE_WRITE: Option<Advice> = None;
    }

    pub(crate) use known::*;
}

/// Words in shared memory to sleep on, across processes.
pub(crate) mod futex {
    use std::io;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    #[cfg(any(target_os = "linux", target_os = "android"))]
    use rustix::{io::Errno, thread::futex};

    /// Sleeps until somebody wakes those who sleep on the word, unless it differs from `expected`.
    /// May end early.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn wait(
        word: &AtomicU32,
        expected: u32,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        // One that cannot be expressed is none.
        let timeout = timeout.and_then(|timeout| futex::Timespec::try_from(timeout).ok());
        match futex::wait(word, futex::Flags::empty(), expected, timeout.as_ref()) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Wakes all.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn wake(word: &AtomicU32) {
        // Fails only for an address that cannot be a futex.
        let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(crate) fn wait(_: &AtomicU32, _: u32, _: Option<Duration>) -> io::Result<()> {
        let message = "sleeping until a publisher wakes needs Linux or Android";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(crate) fn wake(_: &AtomicU32) {}
}
