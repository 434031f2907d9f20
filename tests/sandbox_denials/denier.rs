//! Makes chosen system calls of this thread fail, and counts which calls were made.
//!
//! A filter of `seccomp(2)` traps them all. The handler of `SIGSYS` then answers with an errno, or
//! makes the call itself, with a mark in a part of its arguments that the kernel does not read: calls
//! with the mark pass the filter. So a call can be denied by what its arguments point to, and the
//! second of two calls while the first succeeds.
#![allow(unsafe_code, reason = "a signal handler, and system calls by number")]

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Qword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Every call that can be denied, its number, and the argument that has room for the mark. The last
/// is free in a call of fewer than six; of an `int` the kernel reads 32 bits.
#[rustfmt::skip]
const CALLS: &[(&str, c_long, u8)] = &[
    ("clock_gettime", libc::SYS_clock_gettime, 5),
    ("clock_nanosleep", libc::SYS_clock_nanosleep, 5),
    ("copy_file_range", libc::SYS_copy_file_range, 0),
    ("dup", libc::SYS_dup, 5),
    ("dup3", libc::SYS_dup3, 5),
    ("eventfd2", libc::SYS_eventfd2, 5),
    ("fadvise64", libc::SYS_fadvise64, 5),
    ("fallocate", libc::SYS_fallocate, 5),
    ("fchmod", libc::SYS_fchmod, 5),
    ("fcntl", libc::SYS_fcntl, 5),
    ("fgetxattr", libc::SYS_fgetxattr, 5),
    ("flock", libc::SYS_flock, 5),
    ("fstat", libc::SYS_fstat, 5),
    ("fstatfs", libc::SYS_fstatfs, 5),
    ("ftruncate", libc::SYS_ftruncate, 5),
    ("futex", libc::SYS_futex, 1),
    ("geteuid", libc::SYS_geteuid, 5),
    ("getpeername", libc::SYS_getpeername, 5),
    ("getpid", libc::SYS_getpid, 5),
    ("getrandom", libc::SYS_getrandom, 5),
    ("getsockname", libc::SYS_getsockname, 5),
    ("getsockopt", libc::SYS_getsockopt, 5),
    ("gettid", libc::SYS_gettid, 5),
    ("getuid", libc::SYS_getuid, 5),
    ("ioctl", libc::SYS_ioctl, 5),
    ("lseek", libc::SYS_lseek, 5),
    ("madvise", libc::SYS_madvise, 5),
    ("memfd_create", libc::SYS_memfd_create, 5),
    ("mincore", libc::SYS_mincore, 5),
    ("mlock", libc::SYS_mlock, 5),
    ("mlock2", libc::SYS_mlock2, 5),
    ("mmap", libc::SYS_mmap, 4),
    ("nanosleep", libc::SYS_nanosleep, 5),
    ("newfstatat", libc::SYS_newfstatat, 5),
    #[cfg(target_arch = "x86_64")]
    ("open", libc::SYS_open, 5),
    ("openat", libc::SYS_openat, 5),
    ("openat2", libc::SYS_openat2, 5),
    ("pipe2", libc::SYS_pipe2, 5),
    #[cfg(target_arch = "x86_64")]
    ("poll", libc::SYS_poll, 5),
    ("ppoll", libc::SYS_ppoll, 5),
    ("pread64", libc::SYS_pread64, 5),
    ("preadv", libc::SYS_preadv, 5),
    ("prlimit64", libc::SYS_prlimit64, 5),
    ("pselect6", libc::SYS_pselect6, 0),
    ("pwrite64", libc::SYS_pwrite64, 5),
    ("pwritev", libc::SYS_pwritev, 5),
    ("read", libc::SYS_read, 5),
    ("readlinkat", libc::SYS_readlinkat, 5),
    ("readv", libc::SYS_readv, 5),
    ("recvfrom", libc::SYS_recvfrom, 0),
    ("recvmsg", libc::SYS_recvmsg, 5),
    ("sched_getaffinity", libc::SYS_sched_getaffinity, 5),
    ("sched_yield", libc::SYS_sched_yield, 5),
    ("sendfile", libc::SYS_sendfile, 5),
    ("sendmsg", libc::SYS_sendmsg, 5),
    ("sendto", libc::SYS_sendto, 0),
    ("setsockopt", libc::SYS_setsockopt, 5),
    ("splice", libc::SYS_splice, 0),
    ("statx", libc::SYS_statx, 5),
    ("sysinfo", libc::SYS_sysinfo, 5),
    ("uname", libc::SYS_uname, 5),
    ("write", libc::SYS_write, 5),
    ("writev", libc::SYS_writev, 5),
];

/// No call has this in a register by chance.
const MARK: u64 = 0x5ea1_ed3a << 32;

/// A kind of call: its number, and what else tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call(pub(crate) u64);

const PROC: u32 = 1;
const SYS: u32 = 2;

impl Call {
    fn new(number: c_long, detail: u32) -> Self {
        Self((number as u64) << 32 | u64::from(detail))
    }

    /// `None` is a call that the allocator or the runtime may make for itself.
    fn of(number: c_long, args: &[u64; 6]) -> Option<Self> {
        let detail = match number {
            libc::SYS_mmap if args[4] as i32 == -1 => return None,
            libc::SYS_madvise => match args[2] as c_int {
                libc::MADV_DONTNEED | libc::MADV_FREE => return None,
                advice => advice as u32,
            },
            libc::SYS_futex => match args[1] as c_int {
                private if private & libc::FUTEX_PRIVATE_FLAG != 0 => return None,
                operation => operation as u32,
            },
            libc::SYS_fcntl => args[1] as u32,
            libc::SYS_openat | libc::SYS_openat2 => {
                // SAFETY: the caller is about to give it to the kernel as a path.
                let path = unsafe { CStr::from_ptr(args[1] as *const c_char) }.to_bytes();
                match path {
                    _ if path.starts_with(b"/proc/") => PROC,
                    _ if path.starts_with(b"/sys/") => SYS,
                    _ => 0,
                }
            }
            _ => 0,
        };
        Some(Self::new(number, detail))
    }

    fn number(self) -> c_long {
        (self.0 >> 32) as c_long
    }

    /// Whether it may do less than it is asked to do.
    pub(crate) fn can_be_short(self) -> bool {
        count_argument(self.number()).is_some()
    }

    fn detail(self) -> u32 {
        self.0 as u32
    }

    /// As `strace` would write it.
    pub(crate) fn name(self) -> String {
        let (name, ..) = CALLS.iter().find(|(_, number, _)| *number == self.number()).unwrap();
        let detail = match (*name, self.detail() as c_int) {
            ("fcntl", libc::F_DUPFD_CLOEXEC) => "F_DUPFD_CLOEXEC",
            ("fcntl", libc::F_GETFD) => "F_GETFD",
            ("fcntl", libc::F_SETFD) => "F_SETFD",
            ("fcntl", libc::F_GETFL) => "F_GETFL",
            ("fcntl", libc::F_SETFL) => "F_SETFL",
            ("fcntl", libc::F_GET_SEALS) => "F_GET_SEALS",
            ("fcntl", libc::F_ADD_SEALS) => "F_ADD_SEALS",
            ("madvise", libc::MADV_DONTFORK) => "MADV_DONTFORK",
            ("madvise", libc::MADV_DONTDUMP) => "MADV_DONTDUMP",
            ("madvise", libc::MADV_HUGEPAGE) => "MADV_HUGEPAGE",
            ("madvise", libc::MADV_POPULATE_READ) => "MADV_POPULATE_READ",
            ("madvise", libc::MADV_POPULATE_WRITE) => "MADV_POPULATE_WRITE",
            ("futex", libc::FUTEX_WAIT) => "FUTEX_WAIT",
            ("futex", libc::FUTEX_WAKE) => "FUTEX_WAKE",
            ("futex", libc::FUTEX_WAIT_BITSET) => "FUTEX_WAIT_BITSET",
            ("openat" | "openat2", detail) if detail as u32 == PROC => "/proc",
            ("openat" | "openat2", detail) if detail as u32 == SYS => "/sys",
            (_, 0) => return (*name).to_owned(),
            (_, other) => return format!("{name}({other:#x})"),
        };
        format!("{name}({detail})")
    }
}

/// What is to fail, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denial {
    pub(crate) call: Call,
    pub(crate) errno: Errno,
    /// Which of these calls, counted from 1; all of them if there is no number.
    pub(crate) only: Option<u32>,
}

/// What is to be transferred in part, as a slow peer or a signal has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortage {
    pub(crate) call: Call,
    /// Bytes, of each of these calls.
    pub(crate) most: u32,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static OVER: AtomicBool = AtomicBool::new(false);
/// At first a call that does not exist.
static DENIED: AtomicU64 = AtomicU64::new(u64::MAX);
static ERRNO: AtomicI32 = AtomicI32::new(0);
static ONLY: AtomicU32 = AtomicU32::new(0);
static SHORTENED: AtomicU64 = AtomicU64::new(u64::MAX);
static MOST: AtomicU32 = AtomicU32::new(0);
static BEGUN: OnceLock<Instant> = OnceLock::new();
static DENIALS: AtomicU32 = AtomicU32::new(0);
static SEALS_ADDED: AtomicBool = AtomicBool::new(false);
static MADE: [(AtomicU64, AtomicU32); 64] = [const { (AtomicU64::new(0), AtomicU32::new(0)) }; 64];

/// What happened while calls were denied.
pub(crate) struct Trace {
    /// In the order of their first, with how often each was made.
    pub(crate) calls: Vec<(Call, u32)>,
    pub(crate) denials: u32,
    /// Whether an `F_ADD_SEALS` succeeded.
    pub(crate) seals_added: bool,
}

/// Runs it while the call is denied. Only once in a process.
pub(crate) fn deny<T>(denial: Option<Denial>, operation: impl FnOnce() -> T) -> (T, Trace) {
    if let Some(Denial { call, errno, only }) = denial {
        DENIED.store(call.0, Relaxed);
        ERRNO.store(errno.raw_os_error(), Relaxed);
        ONLY.store(only.unwrap_or(0), Relaxed);
    }
    trap(operation)
}

/// Runs it while the call transfers no more than that. Only once in a process.
pub(crate) fn shorten<T>(shortage: Shortage, operation: impl FnOnce() -> T) -> (T, Trace) {
    SHORTENED.store(shortage.call.0, Relaxed);
    MOST.store(shortage.most, Relaxed);
    trap(operation)
}

fn trap<T>(operation: impl FnOnce() -> T) -> (T, Trace) {
    ARMED.store(true, Relaxed);
    let done = operation();
    ARMED.store(false, Relaxed);
    OVER.store(true, Relaxed);
    let made = MADE.iter().map(|(call, times)| (Call(call.load(Relaxed)), times.load(Relaxed)));
    let trace = Trace {
        calls: made.take_while(|(_, times)| *times > 0).collect(),
        denials: DENIALS.load(Relaxed),
        seals_added: SEALS_ADDED.load(Relaxed),
    };
    (done, trace)
}

/// Runs it between two calls that strace will see, and that no operation makes. Only once in a process.
pub(crate) fn mark<T>(operation: impl FnOnce() -> T) -> T {
    BEGUN.set(Instant::now()).unwrap();
    let _ = std::os::unix::process::parent_id();
    let done = operation();
    let _ = std::os::unix::process::parent_id();
    OVER.store(true, Relaxed);
    done
}

/// Whether the operation has ended.
pub(crate) fn is_over() -> bool {
    OVER.load(Relaxed)
}

/// Whether the operation has begun to wait for a descriptor, as far as that can be told.
pub(crate) fn has_polled() -> bool {
    const LONG: Duration = Duration::from_millis(20);

    if BEGUN.get().is_some_and(|begun| begun.elapsed() > LONG) {
        return true;
    }
    let polls = [
        #[cfg(target_arch = "x86_64")]
        Call::new(libc::SYS_poll, 0),
        Call::new(libc::SYS_ppoll, 0),
        Call::new(libc::SYS_pselect6, 0),
    ];
    let made = |(call, times): &(AtomicU64, AtomicU32)| {
        times.load(Relaxed) > 0 && polls.contains(&Call(call.load(Relaxed)))
    };
    MADE.iter().any(made)
}

/// Counts the call, and returns how many of its kind there were.
fn count(call: Call) -> u32 {
    for (made, times) in &MADE {
        if times.load(Relaxed) == 0 {
            made.store(call.0, Relaxed);
        }
        if made.load(Relaxed) == call.0 {
            return times.fetch_add(1, Relaxed) + 1;
        }
    }
    0
}

/// Traps every call that does not bear the mark.
pub(crate) fn filter() -> Result<BpfProgram, Box<dyn Error>> {
    let argument = |index, operator, value| {
        SeccompRule::new(vec![SeccompCondition::new(index, Qword, operator, value)?])
    };
    let mut rules = BTreeMap::new();
    for (_, number, marked) in CALLS {
        let unmarked = match marked {
            5 => vec![argument(5, SeccompCmpOp::Ne, MARK)?],
            &index => vec![
                argument(index, SeccompCmpOp::Lt, MARK)?,
                argument(index, SeccompCmpOp::Gt, MARK | u64::from(u32::MAX))?,
            ],
        };
        rules.insert(*number, unmarked);
    }
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trap, architecture)?;
    Ok(filter.try_into()?)
}

/// From here on the calls of this thread, and of those that it starts, are trapped.
pub(crate) fn install(filter: &BpfProgram) -> Result<(), Box<dyn Error>> {
    // SAFETY: all-zero bytes are a `sigaction` without flags and with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO;
    action.sa_sigaction = on_trap as *const () as usize;
    // SAFETY: `on_trap` has the signature that SA_SIGINFO asks for and does nothing but atomic
    // operations and system calls.
    let done = unsafe { libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
    Ok(seccompiler::apply_filter(filter)?)
}

extern "C" fn on_trap(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: sigaction(2) on SA_SIGINFO: "a pointer to a ucontext_t structure, cast to void *", which
    // is the handler's until it returns.
    let registers = Registers(unsafe { &mut *context.cast::<libc::ucontext_t>() });
    let (number, args) = registers.call();
    let result = answer(number, args).unwrap_or_else(|| pass(number, args));
    registers.set_result(result);
}

/// The errno, negative, if this call is to fail.
fn answer(number: c_long, args: [u64; 6]) -> Option<c_long> {
    if !ARMED.load(Relaxed) {
        return None;
    }
    let call = Call::of(number, &args)?;
    let nth = count(call);
    let is_this_one = matches!(ONLY.load(Relaxed), 0) || ONLY.load(Relaxed) == nth;
    if DENIED.load(Relaxed) != call.0 || !is_this_one {
        return None;
    }
    DENIALS.fetch_add(1, Relaxed);
    Some(-c_long::from(ERRNO.load(Relaxed)))
}

/// Makes the call, past the filter, and returns what the kernel did.
fn pass(number: c_long, mut args: [u64; 6]) -> c_long {
    let is_shortened = ARMED.load(Relaxed)
        && Call::of(number, &args).is_some_and(|call| call.0 == SHORTENED.load(Relaxed));
    let most = u64::from(MOST.load(Relaxed));
    if let Some(index) = count_argument(number).filter(|index| is_shortened && args[*index] > most)
    {
        args[index] = most;
        DENIALS.fetch_add(1, Relaxed);
    }
    let marked = CALLS.iter().find(|call| call.1 == number).map_or(5, |call| call.2);
    args[usize::from(marked)] = match marked {
        5 => MARK,
        _ => MARK | args[usize::from(marked)] & u64::from(u32::MAX),
    };
    let [a, b, c, d, e, f] = args;
    // SAFETY: it is the call that the thread was about to make, and the mark means nothing to the
    // kernel: the sixth argument of a call that has five at most, or the upper half of an `int`.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        let errno = io::Error::last_os_error().raw_os_error();
        return -c_long::from(errno.unwrap_or(libc::EIO));
    }
    if (number, b as c_int) == (libc::SYS_fcntl, libc::F_ADD_SEALS) && ARMED.load(Relaxed) {
        SEALS_ADDED.store(true, Relaxed);
    }
    result
}

/// Which argument says how many bytes a call may transfer.
fn count_argument(number: c_long) -> Option<usize> {
    match number {
        libc::SYS_read | libc::SYS_pread64 | libc::SYS_write | libc::SYS_pwrite64 => Some(2),
        libc::SYS_sendfile => Some(3),
        libc::SYS_copy_file_range | libc::SYS_splice => Some(4),
        _ => None,
    }
}

/// Of a thread that a filter has stopped, as they were before the system call.
struct Registers<'a>(&'a mut libc::ucontext_t);

#[cfg(target_arch = "x86_64")]
impl Registers<'_> {
    fn call(&self) -> (c_long, [u64; 6]) {
        use libc::{REG_R8, REG_R9, REG_R10, REG_RAX, REG_RDI, REG_RDX, REG_RSI};
        let register = |name: c_int| self.0.uc_mcontext.gregs[name as usize];
        let args = [REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9];
        (register(REG_RAX), args.map(|name| register(name) as u64))
    }

    fn set_result(self, result: c_long) {
        self.0.uc_mcontext.gregs[libc::REG_RAX as usize] = result;
    }
}

#[cfg(target_arch = "aarch64")]
impl Registers<'_> {
    fn call(&self) -> (c_long, [u64; 6]) {
        let registers = &self.0.uc_mcontext.regs;
        (registers[8] as c_long, std::array::from_fn(|index| registers[index] as u64))
    }

    fn set_result(self, result: c_long) {
        self.0.uc_mcontext.regs[0] = result as _;
    }
}

#[cfg(target_arch = "riscv64")]
impl Registers<'_> {
    fn call(&self) -> (c_long, [u64; 6]) {
        const A0: usize = 10;
        const A7: usize = 17;
        let registers = &self.0.uc_mcontext.__gregs;
        (registers[A7] as c_long, std::array::from_fn(|index| registers[A0 + index] as u64))
    }

    fn set_result(self, result: c_long) {
        const A0: usize = 10;
        self.0.uc_mcontext.__gregs[A0] = result as _;
    }
}
