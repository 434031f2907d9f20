//! Code in another process: this test binary, started again to run one test, which then finds a
//! [`role`] to play; or a fork, where it matters what a child inherits.
#![allow(unsafe_code, reason = "a fork is unsafe")]

use std::env;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::net::RecvFlags;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getrlimit,
    set_parent_process_death_signal, setrlimit, waitpid,
};

/// The environment variable that gives a process its role.
const ROLE: &str = "SEALED_MMAP_ROLE";
const ALONE: &str = "alone";

/// The test that plays the roles which several tests of a binary need.
pub(crate) const ENTRY: &str = "role_of_another_process";

/// The part of a process that a test has started.
pub(crate) struct Role {
    pub(crate) name: String,
    /// What the process was given.
    pub(crate) fd: OwnedFd,
    /// The way back, if [`Peer::start`] started this process.
    pub(crate) parent: Channel,
}

/// The role of this process; `None` in the one that the test harness runs in.
pub(crate) fn role() -> Option<Role> {
    let name = env::var(ROLE).ok()?;
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let fd = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let parent = UnixStream::from(io::stderr().as_fd().try_clone_to_owned().unwrap());
    Some(Role { name, fd, parent: Channel(BufReader::new(parent)) })
}

/// Completes a command that starts this binary: it runs one test, which finds this role.
///
/// Nothing is forked: a child that had the other tests' mappings would keep their files from being
/// sealed.
pub(crate) fn cast<'a>(command: &'a mut Command, test: &str, role: &str) -> &'a mut Command {
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, role)
}

fn this_binary() -> Command {
    Command::new(env::current_exe().unwrap())
}

fn assert_ran(test: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test"), "no test is named {test}: {text}");
}

/// Runs one test alone in a new process, where [`runs_alone`] holds, with this as standard input.
pub(crate) fn run_alone(test: &str, stdin: impl Into<Stdio>) -> Output {
    let output = cast(&mut this_binary(), test, ALONE).stdin(stdin).output().unwrap();
    assert_ran(test, &output);
    output
}

/// Whether this is the process of [`run_alone`].
pub(crate) fn runs_alone() -> bool {
    role().is_some_and(|role| role.name == ALONE)
}

/// Whether this is the process where the test runs alone. If not, it has run there and passed.
pub(crate) fn is_alone(test: &str) -> bool {
    if !runs_alone() {
        let output = run_alone(test, Stdio::null());
        let [text, errors] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{text}{errors}");
        // Such as why a part was not tested.
        eprint!("{errors}");
    }
    runs_alone()
}

/// Runs one test in this role under `strace -f`, which writes to `log`.
pub(crate) fn run_traced(test: &str, role: &str, log: &Path) -> io::Result<Output> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(log).arg(env::current_exe()?);
    let output = cast(&mut strace, test, role).output()?;
    if output.status.success() {
        assert_ran(test, &output);
    }
    Ok(output)
}

/// A process with a role, a descriptor of ours, and lines between it and us. It ends with this value.
pub(crate) struct Peer {
    child: Child,
    pub(crate) channel: Channel,
}

impl Peer {
    /// Starts one test to play `role` with `fd`.
    pub(crate) fn start(test: &str, role: &str, fd: impl AsFd) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let child = cast(&mut this_binary(), test, role)
            .stdin(fd.as_fd().try_clone_to_owned().unwrap())
            .stdout(Stdio::null())
            .stderr(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        Self { child, channel: Channel(BufReader::new(ours)) }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// How the process ended, if it did.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Hangs up, and waits.
    pub(crate) fn dismiss(mut self) -> ExitStatus {
        self.channel.hang_up();
        self.wait()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        if thread::panicking() {
            // Such as the other process's own panic. A child of it may still hold the line.
            self.channel.0.get_ref().set_nonblocking(true).unwrap();
            let mut rest = Vec::new();
            let _ = self.channel.0.read_to_end(&mut rest);
            eprint!("{}", String::from_utf8_lossy(&rest));
        }
    }
}

/// Lines between two processes. A panic in the other one arrives as lines, too.
pub(crate) struct Channel(BufReader<UnixStream>);

impl Channel {
    pub(crate) fn tell(&mut self, line: impl Display) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line, or nothing if the other side is gone.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
            _ => line.trim_end().to_owned(),
        }
    }

    /// Says that nothing more will be told.
    pub(crate) fn hang_up(&mut self) {
        self.0.get_mut().shutdown(Shutdown::Write).unwrap();
    }

    /// Whether the other side still listens.
    pub(crate) fn is_open(&self) -> bool {
        let mut byte = [0];
        let peeked =
            rustix::net::recv(self.0.get_ref(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(peeked, Ok((0, _)))
    }

    /// Tells a line and hears the answer.
    pub(crate) fn ask(&mut self, line: impl Display) -> String {
        self.tell(line);
        self.hear()
    }
}

/// A copy of this process, with its mappings, and a line to it.
pub(crate) struct Forked {
    pid: Option<Pid>,
    pub(crate) line: UnixStream,
}

impl Forked {
    /// `act` must make system calls and touch memory alone: in a process of several threads another
    /// one may have held a lock, such as the allocator's. The child ends after it.
    pub(crate) fn that(act: impl FnOnce(&UnixStream)) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // SAFETY: the child makes system calls and does what the caller vouches for, and nothing else.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(ours);
            let done = catch_unwind(AssertUnwindSafe(|| act(&theirs)));
            // SAFETY: ends the child before it returns to code that belongs to its parent.
            unsafe { libc::_exit(done.is_err().into()) };
        }
        assert!(pid > 0, "{}", io::Error::last_os_error());
        Self { pid: Some(Pid::from_raw(pid).unwrap()), line: ours }
    }

    /// Says that nothing more will be told, and waits for the child's end.
    pub(crate) fn finish(mut self) -> WaitStatus {
        self.end().unwrap()
    }

    fn end(&mut self) -> Option<WaitStatus> {
        let pid = self.pid.take()?;
        self.line.shutdown(Shutdown::Write).unwrap();
        Some(waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap().1)
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        self.end();
    }
}

/// No other test of this binary that asks for a turn runs meanwhile, in whichever process.
pub(crate) struct Turn {
    _file: File,
    _in_this_process: MutexGuard<'static, ()>,
}

pub(crate) fn turn() -> Turn {
    static HERE: Mutex<()> = Mutex::new(());
    // Before the file, so that nobody's count of descriptors sees one that waits.
    let here = HERE.lock().unwrap_or_else(PoisonError::into_inner);
    let file = File::open(env::current_exe().unwrap()).unwrap();
    rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
    Turn { _file: file, _in_this_process: here }
}

/// Whether this process, and those that it starts, may have all the descriptors that one message can
/// carry, some times over. Raises the soft limit for that; where the hard one forbids it, that is said.
pub(crate) fn may_open_many() -> bool {
    const MANY: u64 = 1024;

    let limit = getrlimit(Resource::Nofile);
    let enough = limit.current.is_none_or(|limit| limit >= MANY)
        || setrlimit(Resource::Nofile, Rlimit { current: Some(MANY), ..limit }).is_ok();
    if !enough {
        eprintln!("not run: {:?} open files are allowed, and {MANY} are needed", limit.maximum);
    }
    enough
}

pub(crate) fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
