//! System calls, and every difference between operating systems. No policy.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
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

use crate::failure::{explained, while_doing};
use crate::huge_pages::HugePages;
use crate::seals::Seals;

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(crate) mod socket;

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
compile_error!("sealed-mmap needs file seals, which only Linux, Android and FreeBSD have");

/// How a memfd is to be made.
pub(crate) struct Memfd {
    pub(crate) executable: bool,
    pub(crate) allow_sealing: bool,
    pub(crate) huge_pages: HugePages,
}

impl Memfd {
    /// Its descriptor is never 0, 1 or 2: what prints would write into the file.
    pub(crate) fn create(&self, name: &[u8]) -> io::Result<File> {
        let file = self.create_anywhere(name)?;
        if file.as_raw_fd() >= FIRST_OF_OUR_DESCRIPTORS {
            return Ok(file);
        }
        // Moving the file to a higher number would come too late: another thread may already print
        // into it. So it only keeps its number from being used again, until there is a higher one.
        let mut printed_to = vec![file];
        loop {
            let file = self.create_anywhere(name)?;
            if file.as_raw_fd() >= FIRST_OF_OUR_DESCRIPTORS {
                return Ok(file);
            }
            printed_to.push(file);
        }
    }

    fn create_anywhere(&self, name: &[u8]) -> io::Result<File> {
        let mut flags = MemfdFlags::CLOEXEC;
        flags.set(MemfdFlags::ALLOW_SEALING, self.allow_sealing);
        if let HugePages::HugeTlb(size) = self.huge_pages {
            let size = size.map_or(0, |size| size.log2() << MFD_HUGE_SHIFT);
            flags |= MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(size);
        }
        match rustix::fs::memfd_create(name, flags | exec_flag(self.executable)) {
            Ok(fd) => Ok(fd.into()),
            // Linux before 6.3 does not know the exec flags, and sandboxes from its time deny them.
            Err(errno @ (Errno::INVAL | Errno::PERM | Errno::NOSYS)) => {
                self.create_by_mode(name, flags, errno)
            }
            // Of a file that is not executable the kernel never answers this.
            Err(errno @ Errno::ACCESS) if !self.executable => {
                self.create_by_mode(name, flags, errno)
            }
            Err(errno) => Err(self.explain(errno)),
        }
    }

    /// The mode bits say whether the file may be executed. Every flag but the exec flags has to stay:
    /// without `ALLOW_SEALING` the file could never be sealed.
    fn create_by_mode(&self, name: &[u8], flags: MemfdFlags, why: Errno) -> io::Result<File> {
        let fd = rustix::fs::memfd_create(name, flags).map_err(|errno| self.explain(errno))?;
        if !self.executable {
            set_mode(fd.as_fd(), 0o666)?;
        } else if get_seals(fd.as_fd())?.contains(Seals::EXEC) {
            // The sysctl vm.memfd_noexec has taken the executable bits away.
            return Err(self.explain(why));
        }
        Ok(fd.into())
    }

    fn explain(&self, errno: Errno) -> io::Error {
        match errno {
            Errno::NODEV => {
                let message = "the kernel has no huge pages of this size";
                io::Error::new(io::ErrorKind::Unsupported, message)
            }
            // What the sysctl vm.memfd_noexec=2 answers, and nothing else of the kernel.
            Errno::ACCESS if self.executable && memfd_noexec() != Some(false) => errno.into(),
            errno => while_doing("create a file in memory (memfd_create)")(errno),
        }
    }
}

/// Whether the sysctl `vm.memfd_noexec` is 2, if that can be told.
fn memfd_noexec() -> Option<bool> {
    let setting = std::fs::read_to_string("/proc/sys/vm/memfd_noexec").ok()?;
    Some(setting.trim() == "2")
}

/// 0 to 2 are standard input, output and error, whatever is open there.
const FIRST_OF_OUR_DESCRIPTORS: RawFd = 3;

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
    let seals = rustix::fs::fcntl_get_seals(fd)
        .map_err(while_doing("read the seals of the file (F_GET_SEALS)"))?;
    Ok(Seals::from_bits_retain(seals.bits() & ENFORCED))
}

pub(crate) fn add_seals(fd: BorrowedFd<'_>, seals: Seals) -> io::Result<()> {
    if seals.bits() & ENFORCED != seals.bits() {
        return Err(Errno::INVAL.into());
    }
    // EPERM has a meaning here, which `sealing` knows.
    Ok(rustix::fs::fcntl_add_seals(fd, SealFlags::from_bits_retain(seals.bits()))?)
}

/// How a descriptor was opened.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    /// Allows reading, and so mapping.
    pub(crate) read: bool,
    pub(crate) write: bool,
}

pub(crate) fn access(fd: BorrowedFd<'_>) -> io::Result<Access> {
    let flags = rustix::fs::fcntl_getfl(fd)
        .map_err(while_doing("read the access mode of the descriptor (F_GETFL)"))?;
    let mode = flags & OFlags::RWMODE;
    let is = |one| !flags.contains(OFlags::PATH) && (mode == one || mode == OFlags::RDWR);
    Ok(Access { read: is(OFlags::RDONLY), write: is(OFlags::WRONLY) })
}

pub(crate) fn set_mode(fd: BorrowedFd<'_>, mode: u16) -> io::Result<()> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode.into()))
        .map_err(while_doing("change the mode of the file (fchmod)"))
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
fn id(stat: &rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

#[allow(clippy::unnecessary_cast, reason = "the types differ by target")]
pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    let stat = rustix::fs::fstat(fd).map_err(while_doing("look at the file (fstat)"))?;
    Ok(Stat {
        len: stat.st_size as u64,
        block: stat.st_blksize as u64,
        owner: stat.st_uid,
        is_executable: stat.st_mode & 0o111 != 0,
        is_regular: FileType::from_raw_mode(stat.st_mode as _) == FileType::RegularFile,
        id: id(&stat),
        modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
    })
}

/// What is known of a file's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes. Once the file carries `SHRINK`, a lower bound forever.
    pub(crate) len: u64,
    /// Bytes per page, if the file lives on hugetlbfs.
    pub(crate) huge_page: Option<u64>,
}

impl Extent {
    /// Whether every byte can be touched. What lies in a last page of hugetlbfs that is not whole counts as
    /// beyond the end of the file (SIGBUS). `ftruncate` makes no such length, but `fallocate` does.
    pub(crate) fn ends_at_a_page(self) -> bool {
        self.huge_page.is_none_or(|page| self.len % page == 0)
    }
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
        let file_system = rustix::fs::fstatfs(fd)
            .map_err(while_doing("tell whether the file is made of huge pages (fstatfs)"))?;
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

/// Allocates memory for every hole in the first `len` bytes, all or an error, growing a file that is
/// shorter. Through a description of its own where `fd` is read-only.
pub(crate) fn reserve(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    fits_memory(len)?;
    let doing = while_doing("reserve memory for the file (fallocate)");
    match fill_holes(fd, len) {
        Err(Errno::BADF) => fill_holes(reopen(fd, true)?.as_fd(), len).map_err(doing),
        done => done.map_err(doing),
    }
}

fn fill_holes(fd: BorrowedFd<'_>, len: u64) -> rustix::io::Result<()> {
    // A signal makes the kernel undo the whole call. Without smaller steps a timer that keeps
    // firing would keep it from ever ending.
    const SMALLEST_STEP: u64 = 64 << 10;

    let (mut done, mut step, mut interruptions) = (0, len, Interruptions::new());
    while done < len {
        let next = step.min(len - done);
        match rustix::fs::fallocate(fd, FallocateFlags::empty(), done, next) {
            Ok(()) => done += next,
            Err(Errno::INTR) if interruptions.may_be_signals() => {
                step = (step / 2).max(SMALLEST_STEP);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// `ENOMEM` for more bytes than the machine has memory and swap. Neither `fallocate(2)` nor
/// `madvise(2)` knows this limit: they would go on until the OOM killer steps in. Where a sandbox
/// denies the question there is no limit.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn fits_memory(len: u64) -> io::Result<()> {
    // Where there is less, nothing runs, and asking would be a tenth of receiving a small file.
    const ALWAYS_THERE: u64 = 1 << 20;

    if len <= ALWAYS_THERE {
        return Ok(());
    }
    match memory_and_swap() {
        Some(there_is) if len > there_is => Err(Errno::NOMEM.into()),
        _ => Ok(()),
    }
}

/// Bytes, if `sysinfo(2)` may be called. rustix's own function assumes that it cannot fail, and
/// gives out what the kernel never wrote where it does.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code, reason = "the C library's function reports errors, which rustix's does not")]
fn memory_and_swap() -> Option<u64> {
    use rustix::system::Sysinfo;
    use std::ffi::{c_int, c_void};
    use std::mem::MaybeUninit;

    unsafe extern "C" {
        fn sysinfo(info: *mut c_void) -> c_int;
    }
    let mut info = MaybeUninit::<[Sysinfo; 8]>::zeroed();
    // SAFETY: sysinfo(2) writes one `struct sysinfo`, the kernel's, to where its argument points. There
    // is room for eight, because the struct of musl's <sys/sysinfo.h> is longer than the kernel's.
    if unsafe { sysinfo(info.as_mut_ptr().cast()) } != 0 {
        return None;
    }
    // SAFETY: every field is an integer, or an array of integers, and all of them have been zeroed.
    let [info, ..] = unsafe { info.assume_init() };
    #[allow(clippy::useless_conversion, reason = "the type differs by target")]
    let units = u64::from(info.totalram).saturating_add(info.totalswap.into());
    Some(units.saturating_mul(info.mem_unit.into()))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn fits_memory(_len: u64) -> io::Result<()> {
    Ok(())
}

/// Where the descriptors of this thread are found. `/proc/self/fd` has those of the thread group's
/// leader, who shares them with every thread but those that called `unshare(CLONE_FILES)`.
#[cfg(not(target_os = "freebsd"))]
fn path_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd())
}

/// Where a child that has a copy of this thread's descriptors finds the file, to execute it.
#[cfg(not(target_os = "freebsd"))]
pub(crate) fn program_path(fd: BorrowedFd<'_>) -> io::Result<String> {
    const DOING: &str = "executing the file";
    let found = match rustix::fs::stat(path_of(fd)) {
        Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
            return Err(astray(DOING, Some(errno.into())));
        }
        done => done.map_err(while_doing("find the file to execute (/proc/thread-self/fd)"))?,
    };
    if id(&found) != stat(fd)?.id {
        return Err(astray(DOING, None));
    }
    Ok(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(target_os = "freebsd")]
pub(crate) fn program_path(_fd: BorrowedFd<'_>) -> io::Result<String> {
    let message = "FreeBSD has no path that leads to an anonymous file";
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

/// The program that this process executes next has the descriptor too. A single system call.
pub(crate) fn keep_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
}

/// A new open file description of the same file, which carries [`Seals::SHRINK`].
#[cfg(not(target_os = "freebsd"))]
pub(crate) fn reopen(fd: BorrowedFd<'_>, writable: bool) -> io::Result<OwnedFd> {
    const DOING: &str = "reopening the file";
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    // Whoever else has the file can hold a lease on it, for which opening would wait.
    let at_once = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let again =
        match rustix::fs::openat(rustix::fs::CWD, path_of(fd), access | at_once, Mode::empty()) {
            Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                return Err(astray(DOING, Some(errno.into())));
            }
            // open(2): "The requested access to the file is not allowed".
            Err(Errno::ACCESS) => return Err(Errno::ACCESS.into()),
            done => done.map_err(while_doing("reopen the file (/proc/thread-self/fd)"))?,
        };
    let again = above_standard_descriptors(again.as_fd())?.unwrap_or(again);
    // In a sandbox /proc can be anything. Seals only become more and a file that has these only longer,
    // so what the caller has is looked at first.
    let (old, seals) = (stat(fd)?, get_seals(fd)?);
    let new = stat(again.as_fd())?;
    let is_same_file =
        old.id == new.id && old.len <= new.len && get_seals(again.as_fd())?.contains(seals);
    if is_same_file { Ok(again) } else { Err(astray(DOING, None)) }
}

#[cfg(not(target_os = "freebsd"))]
fn astray(doing: &'static str, source: Option<io::Error>) -> io::Error {
    let message = format!(
        "{doing} requires /proc/thread-self/fd, which is not mounted or leads to another file"
    );
    explained(io::ErrorKind::Unsupported, message, source)
}

/// For a descriptor that is 0, 1 or 2, one of the same description that is not.
pub(crate) fn above_standard_descriptors(
    fd: BorrowedFd<'_>,
) -> rustix::io::Result<Option<OwnedFd>> {
    if fd.as_raw_fd() >= FIRST_OF_OUR_DESCRIPTORS {
        return Ok(None);
    }
    rustix::io::fcntl_dupfd_cloexec(fd, FIRST_OF_OUR_DESCRIPTORS).map(Some)
}

#[cfg(target_os = "freebsd")]
pub(crate) fn reopen(_fd: BorrowedFd<'_>, _writable: bool) -> io::Result<OwnedFd> {
    let message = "FreeBSD cannot reopen an anonymous file";
    Err(explained(io::ErrorKind::Unsupported, message, None))
}

/// Lets the description wait again, which [`reopen`] has opened so that opening did not.
pub(crate) fn clear_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // Of what F_SETFL sets, it has nothing else.
    rustix::fs::fcntl_setfl(fd, OFlags::empty())
        .map_err(while_doing("clear O_NONBLOCK of the new description (F_SETFL)"))
}

/// The name of the file, or its path, for messages.
#[cfg(not(target_os = "freebsd"))]
pub(crate) fn name(fd: BorrowedFd<'_>) -> Option<String> {
    let link = std::fs::read_link(path_of(fd)).ok()?;
    let link = link.to_string_lossy();
    let name = link.strip_prefix("/memfd:").and_then(|name| name.strip_suffix(" (deleted)"));
    Some(name.unwrap_or(&link).to_owned())
}

#[cfg(target_os = "freebsd")]
pub(crate) fn name(_fd: BorrowedFd<'_>) -> Option<String> {
    None
}

/// Whether a user id stands for one user. In a user namespace the overflow uid stands for every user
/// that the namespace does not map. See user_namespaces(7), "Unmapped user and group IDs".
#[cfg(not(target_os = "freebsd"))]
pub(crate) fn is_one_user(uid: u32) -> bool {
    /// All but -1, which is no user.
    const ALL_USERS: u64 = u32::MAX as u64;

    if uid != overflow_id("/proc/sys/kernel/overflowuid") {
        return true;
    }
    // A line is an extent: first id here, first id outside, how many.
    let map = std::fs::read_to_string("/proc/thread-self/uid_map").unwrap_or_default();
    let counts = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    counts.sum::<u64>() >= ALL_USERS
}

#[cfg(target_os = "freebsd")]
pub(crate) fn is_one_user(_uid: u32) -> bool {
    true
}

/// Whether these are the ids with which the kernel says that it does not know who somebody is.
pub(crate) fn is_nobody(uid: u32, gid: u32) -> bool {
    uid == overflow_id("/proc/sys/kernel/overflowuid")
        && gid == overflow_id("/proc/sys/kernel/overflowgid")
}

/// The user or group id that stands for all that cannot be named, of which this is the setting.
fn overflow_id(setting: &str) -> u32 {
    const DEFAULT: u32 = 65534;

    let id = std::fs::read_to_string(setting).ok().and_then(|id| id.trim().parse().ok());
    id.unwrap_or(DEFAULT)
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

    let mut interruptions = Interruptions::new();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // A time that cannot be expressed is longer than any machine runs.
        let left = left.and_then(|left| left.try_into().ok());
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) if interruptions.may_be_signals() => {}
            done => return Ok(done? > 0),
        }
    }
}

/// How often and how fast a call has answered `EINTR`. Signals can interrupt it however many there are.
/// What answers faster than signals come, such as a system call filter, would do it for ever.
pub(crate) struct Interruptions {
    since: Instant,
    count: u32,
}

impl Interruptions {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), count: 0 }
    }

    /// Counts one more, and says whether to call again.
    pub(crate) fn may_be_signals(&mut self) -> bool {
        const AT_ONCE: Duration = Duration::from_micros(100);
        const MOST_AT_ONCE: u32 = 1000;

        self.count = self.count.saturating_add(1);
        self.count <= MOST_AT_ONCE || self.since.elapsed() >= AT_ONCE * self.count
    }
}

/// Lets this time pass, whatever signals come, or less where a sandbox denies the call. Not by
/// `nanosleep(2)`: std's function panics where it is denied, and rustix's reads a remaining time that
/// the kernel need not have written.
pub(crate) fn sleep(time: Duration) {
    let start = Instant::now();
    let mut interruptions = Interruptions::new();
    loop {
        let left = time.saturating_sub(start.elapsed());
        let Ok(left) = left.try_into() else { return };
        match rustix::event::poll(&mut [], Some(&left)) {
            Err(Errno::INTR) if interruptions.may_be_signals() => {}
            _ => return,
        }
    }
}

/// How often in a row a call is repeated that has done nothing. Signals do not come that fast, and a
/// file system in user space may answer every call as if they did.
pub(crate) const PATIENCE: u32 = 1000;

/// Repeats what a signal interrupted.
pub(crate) fn uninterrupted<T>(
    mut call: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    for _ in 0..PATIENCE {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
    Err(Errno::INTR)
}

/// Writes all of the bytes at an offset, and leaves the file's own offset alone.
pub(crate) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = uninterrupted(|| rustix::io::pwrite(file, bytes, offset))
            .map_err(while_doing("fill the file (pwrite)"))?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[count..];
        offset += count as u64;
    }
    Ok(())
}

/// `len` is no more than `i64::MAX`.
pub(crate) fn set_len(file: &File, len: u64) -> io::Result<()> {
    uninterrupted(|| rustix::fs::ftruncate(file, len))
        .map_err(while_doing("resize the file (ftruncate)"))
}

/// Whether shared memory gets transparent huge pages where `MADV_HUGEPAGE` asks for them, and only
/// there: under other settings `write(2)` gets as many, or nobody does. Read each time, because an
/// administrator may change it.
pub(crate) fn huge_pages_on_advice() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
        .is_ok_and(|setting| setting.contains("[advise]"))
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
    use {
        crate::failure::while_doing,
        rustix::{io::Errno, thread::futex},
    };

    /// Sleeps until somebody wakes those who sleep on the word, unless it differs from `expected`.
    /// May end early.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) -> io::Result<()> {
        // One that cannot be expressed is none.
        let timeout = futex::Timespec::try_from(timeout).ok();
        match futex::wait(word, futex::Flags::empty(), expected, timeout.as_ref()) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => Ok(()),
            Err(error) => Err(while_doing("sleep until there is a new value (futex)")(error)),
        }
    }

    /// Wakes all.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn wake(word: &AtomicU32) {
        // Fails only for an address that cannot be a futex.
        let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(crate) fn wait(_: &AtomicU32, _: u32, _: Duration) -> io::Result<()> {
        let message = "sleeping until a publisher wakes needs Linux or Android";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(crate) fn wake(_: &AtomicU32) {}
}
