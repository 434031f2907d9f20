//! A process runs one operation, and marks where it begins and ends. Its log says which calls there are,
//! and how many of their kind come before, so that strace can be told which one to fail.
#![allow(unsafe_code, reason = "alarm(2)")]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use rustix::io::Errno;

use crate::operations;
use crate::trial::{Operation, Outcome, Report};
use crate::truth;

const TEST: &str = "an_injected_errno_ends_in_success_or_in_the_truth";

/// Of how many injections one is made; 1 is all.
const EVERY: &str = "SEALED_MMAP_INJECT_EVERY";
const FEW: usize = 150;

/// What a process is told that strace runs.
const OPERATION: &str = "SEALED_MMAP_OPERATION";
const INJECTED: &str = "SEALED_MMAP_INJECTED";
const REPORT: &str = "SEALED_MMAP_REPORT";

/// Seconds.
const PATIENCE: u32 = 10;

/// The part of a test harness that `cargo test` and `cargo nextest` rely on.
pub(crate) fn main() {
    if let Ok(name) = env::var(OPERATION) {
        return one_operation(&name);
    }
    let arguments: Vec<_> = env::args().skip(1).collect();
    let has = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
    if has("--list") {
        if !has("--ignored") {
            println!("{TEST}: test");
        }
    } else if !has("--ignored")
        && (filters.peek().is_none() || filters.any(|filter| TEST.contains(&**filter)))
    {
        inject();
    }
}

/// What strace runs.
fn one_operation(name: &str) {
    // SAFETY: it takes a number. The signal ends the process.
    unsafe { libc::alarm(PATIENCE) };
    let operation = operations::all().into_iter().find(|one| one.name == name).unwrap();
    let injected = env::var(INJECTED).ok().map(|injected| {
        let (call, errno) = injected.split_once(' ').unwrap();
        (call.to_owned(), Errno::from_raw_os_error(errno.parse().unwrap()))
    });
    let report =
        operation.run_under_strace(injected.as_ref().map(|(call, errno)| (&**call, *errno)));
    fs::write(env::var_os(REPORT).unwrap(), report.to_lines()).unwrap();
}

/// A call that the operation makes.
struct Made {
    /// As strace knows it.
    number: String,
    /// With what else tells it from others.
    name: String,
    /// Which of its number it is, counted from the start of the process.
    nth: u32,
}

/// One call, by name, that fails.
struct Injection {
    call: String,
    number: String,
    nth: u32,
    errno: Errno,
}

#[derive(Default)]
struct Tally {
    succeeded: usize,
    failed: usize,
    aborted: usize,
    missed: usize,
    calls: BTreeMap<String, usize>,
    faults: Vec<String>,
}

impl Tally {
    fn injections(&self) -> usize {
        self.succeeded + self.failed + self.aborted
    }

    fn add(&mut self, other: Self) {
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.aborted += other.aborted;
        self.missed += other.missed;
        self.faults.extend(other.faults);
        for (call, times) in other.calls {
            *self.calls.entry(call).or_default() += times;
        }
    }
}

fn inject() {
    // Some machines have it and do not let it watch anybody.
    match Command::new("strace").args(["-o/dev/null", "true"]).output() {
        Ok(strace) if strace.status.success() => {}
        Ok(strace) => {
            return eprintln!("not tested: {}", String::from_utf8_lossy(&strace.stderr));
        }
        Err(error) => return eprintln!("not tested, strace cannot be run: {error}"),
    }
    let start = Instant::now();
    let every = env::var(EVERY).map_or(FEW, |every| every.parse().unwrap());
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let work = |worker: usize| {
            let operations = operations::all();
            let mut tally = Tally::default();
            while let Some(operation) = operations.get(next.fetch_add(1, Relaxed)) {
                inject_into(operation, worker, every, &mut tally);
            }
            tally
        };
        let workers: Vec<_> = (0..workers).map(|n| scope.spawn(move || work(n))).collect();
        workers.into_iter().for_each(|worker| tally.add(worker.join().unwrap()));
    });
    let operations = operations::all().len();
    println!("calls: {:?}", tally.calls);
    println!(
        "{} injections into {operations} operations and {} kinds of calls: {} succeeded, {} failed, \
         {} aborted for lack of memory; {} missed their call; {} faults; {} s",
        tally.injections(),
        tally.calls.len(),
        tally.succeeded,
        tally.failed,
        tally.aborted,
        tally.missed,
        tally.faults.len(),
        start.elapsed().as_secs()
    );
    assert!(tally.faults.is_empty(), "{}", tally.faults.join("\n"));
    assert!(tally.injections() > 0);
    assert!(tally.missed * 20 < tally.injections(), "more than one in twenty went elsewhere");
}

fn inject_into(operation: &Operation, worker: usize, every: usize, tally: &mut Tally) {
    let _pool = operation.pool();
    let (report, log) = run(operation, worker, None);
    let Some(made) = made_between_the_marks(&log) else {
        match report.outcome {
            Outcome::NotHere(reason) => eprintln!("not tested, {}: {reason}", operation.name),
            _ => tally.faults.push(format!("{}: {:?}: {log}", operation.name, report.faults)),
        }
        return;
    };
    if !report.is_sound() {
        return tally.faults.push(format!("{}: {:?}", operation.name, report.faults));
    }
    for call in &made {
        *tally.calls.entry(call.name.clone()).or_default() += 1;
    }
    // Not the same ones of every operation.
    let first = operation.name.len() % every;
    for injection in injections(&made).iter().skip(first).step_by(every) {
        let (report, log) = run(operation, worker, Some(injection));
        let hit = log.split(MARK).nth(1).is_some_and(|between| between.contains("(INJECTED)"));
        if !hit {
            tally.missed += 1;
            continue;
        }
        let is_of_the_allocator = ALLOCATOR.contains(&&*injection.call);
        match &report.outcome {
            // As Rust does where it has no memory for a value.
            Outcome::Lost if is_of_the_allocator && report.faults == [ABORTED] => {
                tally.aborted += 1;
                continue;
            }
            Outcome::Succeeded => tally.succeeded += 1,
            _ => tally.failed += 1,
        }
        let errno = truth::name(injection.errno);
        let Injection { call, nth, .. } = injection;
        tally.faults.extend(
            report.faults.iter().map(|fault| {
                format!("{} × {call} #{nth} × {errno}: {fault}", operation.name)
            }),
        );
    }
}

/// One run of its own process, and the log of its calls.
fn run(operation: &Operation, worker: usize, injection: Option<&Injection>) -> (Report, String) {
    let path = |kind: &str| -> PathBuf {
        let name = format!("sealed-mmap-injection-{}-{worker}.{kind}", std::process::id());
        env::temp_dir().join(name)
    };
    let (log, report) = (path("log"), path("report"));
    let mut strace = Command::new("strace");
    // Not the other threads, which do not count.
    strace.args(["-qq", "-o"]).arg(&log);
    if let Some(Injection { call, number, nth, errno }) = injection {
        strace.arg(format!("-etrace={number},getppid"));
        let errno = errno.raw_os_error();
        strace.arg(format!("-einject={number}:error={errno}:when={nth}"));
        strace.env(INJECTED, format!("{call} {errno}"));
    }
    strace.arg(env::current_exe().unwrap());
    strace.env(OPERATION, operation.name).env(REPORT, &report);
    let output = strace.stdin(Stdio::null()).output().unwrap();
    let lines = fs::read_to_string(&report).unwrap_or_default();
    let told = match output.status.signal() {
        Some(libc::SIGALRM) => Report::lost(format!("hangs for {PATIENCE} s")),
        Some(libc::SIGABRT) if lines.is_empty() => Report::lost(ABORTED.into()),
        Some(signal) => Report::lost(format!("ends the process with the signal {signal}")),
        None if lines.is_empty() => {
            Report::lost(format!("no report: {}", String::from_utf8_lossy(&output.stdout)))
        }
        None => Report::from_lines(&lines),
    };
    let logged = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    for file in [log, report] {
        let _ = fs::remove_file(file);
    }
    (told, logged)
}

const ABORTED: &str = "aborts";
const MARK: &str = "getppid()";

/// Calls by which memory is had that belongs to no file.
const ALLOCATOR: [&str; 7] = [
    "brk",
    "mmap(anonymous)",
    "mremap",
    "mprotect",
    "munmap",
    "madvise(MADV_DONTNEED)",
    "madvise(MADV_FREE)",
];

fn made_between_the_marks(log: &str) -> Option<Vec<Made>> {
    let (mut counts, mut made, mut marks) = (BTreeMap::<&str, u32>::new(), Vec::new(), 0);
    for line in log.lines() {
        let Some((number, arguments)) = line.split_once('(') else { continue };
        if number == "getppid" {
            marks += 1;
            continue;
        }
        let nth = counts.entry(number).or_default();
        *nth += 1;
        if marks == 1 {
            let name = name(number, arguments);
            made.push(Made { number: number.to_owned(), name, nth: *nth });
        }
    }
    (marks >= 2).then_some(made)
}

/// As [`Call::name`](crate::denier::Call::name) has it.
fn name(number: &str, arguments: &str) -> String {
    let argument = |index| arguments.split([',', ')']).nth(index).unwrap_or_default().trim();
    let detail = match number {
        "fcntl" | "futex" => argument(1),
        "madvise" => argument(2),
        "mmap" if arguments.contains("MAP_ANONYMOUS") => "anonymous",
        "openat" if arguments.contains("\"/proc/") => "/proc",
        "openat" if arguments.contains("\"/sys/") => "/sys",
        _ => return number.to_owned(),
    };
    format!("{number}({detail})")
}

fn injections(made: &[Made]) -> Vec<Injection> {
    let mut injections = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for Made { number, name, nth } in made {
        let is_first = !seen.contains(&&**name);
        seen.push(name);
        let errnos: Vec<Errno> = if ALLOCATOR.contains(&&**name) {
            vec![Errno::NOMEM]
        } else if name == "close" {
            // What the kernel answers has no effect on what it does: the descriptor is gone.
            vec![Errno::INTR, Errno::IO, Errno::NOSPC, Errno::DQUOT]
        } else {
            let of_the_man_page = truth::of_the_man_page(name);
            truth::OF_SANDBOXES.iter().chain(of_the_man_page).copied().collect()
        };
        for errno in errnos {
            // What says that the call does not work at all comes at once or never.
            if is_first || truth::may_come_late(name, errno) || truth::is_passing(name, errno) {
                let (call, number) = (name.clone(), number.clone());
                injections.push(Injection { call, number, nth: *nth, errno });
            }
        }
    }
    injections
}
