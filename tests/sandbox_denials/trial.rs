//! One operation in a process of its own, while one call is denied.
#![allow(unsafe_code, reason = "fork(2): a process for every denial, which starts in no time")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, OnceLock};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use seccompiler::BpfProgram;

use crate::denier::{self, Call, Denial, Shortage, Trace};
use crate::support::machine::HugePool;
use crate::truth;

/// After so many seconds an operation hangs. The longest honest wait, for pinned pages, is one.
const PATIENCE: u32 = 10;

/// What an error says after which the file has more seals than before.
const MORE_SEALS: [&str; 2] = ["could not be confirmed", "cannot reserve memory"];

/// An error, and what the caller still has.
pub(crate) struct Failure<I> {
    chain: Vec<String>,
    kind: Option<ErrorKind>,
    input: I,
}

impl Failure<()> {
    pub(crate) fn new(error: &(dyn Error + 'static)) -> Self {
        let chain = std::iter::successors(Some(error), |&error| error.source());
        Self { chain: chain.map(ToString::to_string).collect(), kind: None, input: () }
    }

    pub(crate) fn io(error: &io::Error) -> Self {
        Self { kind: Some(error.kind()), ..Self::new(error) }
    }
}

impl<I> Failure<I> {
    pub(crate) fn and<J>(self, input: J) -> Failure<J> {
        self.with(|_| input)
    }

    pub(crate) fn with<J>(self, wrap: impl FnOnce(I) -> J) -> Failure<J> {
        Failure { chain: self.chain, kind: self.kind, input: wrap(self.input) }
    }
}

/// How an operation is tried.
pub(crate) struct Plan<I, T> {
    prepare: Box<dyn Fn() -> Result<I, String>>,
    attempt: Box<dyn Fn(I) -> Result<T, Failure<I>>>,
    check: Box<dyn Fn(T)>,
    look: fn(&mut I) -> Vec<String>,
    can_repeat: bool,
    is_bare: bool,
}

impl<I: 'static, T: 'static> Plan<I, T> {
    /// `prepare` makes what the operation is applied to, or says why that cannot be had on this
    /// machine. `check` panics unless the result is as good as without a denial.
    pub(crate) fn new(
        prepare: impl Fn() -> Result<I, String> + 'static,
        attempt: impl Fn(I) -> Result<T, Failure<I>> + 'static,
        check: impl Fn(T) + 'static,
    ) -> Self {
        Self {
            prepare: Box::new(prepare),
            attempt: Box::new(attempt),
            check: Box::new(check),
            look: |_| Vec::new(),
            can_repeat: true,
            is_bare: false,
        }
    }

    /// What a failure has to leave as it was.
    pub(crate) fn leaving(self, look: fn(&mut I) -> Vec<String>) -> Self {
        Self { look, ..self }
    }

    /// The first attempt uses up what the second one would need.
    pub(crate) fn once(self) -> Self {
        Self { can_repeat: false, ..self }
    }

    /// It is one system call, so that its errno says it all.
    pub(crate) fn bare(self) -> Self {
        Self { is_bare: true, ..self }
    }

    pub(crate) fn named(self, name: &'static str) -> Operation {
        Operation { name, takes_huge_pages: false, run: Box::new(move |means| self.run(means)) }
    }
}

/// How calls are made to fail.
pub(crate) enum Means<'a> {
    /// By the process itself, or not at all.
    Filter(Option<Denial>),
    /// The same, but that they do less than they were asked to do.
    Shortage(Shortage),
    /// By strace, which watches the process. It is told which call, by name, and the errno.
    Strace(Option<(&'a str, Errno)>),
}

type Run = dyn Fn(&Means) -> Report;

pub(crate) struct Operation {
    pub(crate) name: &'static str,
    takes_huge_pages: bool,
    run: Box<Run>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    /// With the chain of errors.
    Failed(String),
    /// It cannot be tried on this machine.
    NotHere(String),
    /// It did not come to an end.
    Lost,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) calls: Vec<(Call, u32)>,
    pub(crate) denials: u32,
    pub(crate) faults: Vec<String>,
}

impl Report {
    pub(crate) fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    fn new(outcome: Outcome) -> Self {
        Self { outcome, calls: Vec::new(), denials: 0, faults: Vec::new() }
    }

    pub(crate) fn lost(fault: String) -> Self {
        Self { faults: vec![fault], ..Self::new(Outcome::Lost) }
    }

    /// One fact a line.
    pub(crate) fn to_lines(&self) -> String {
        let one_line = |text: &str| text.replace('\n', " / ");
        let outcome = match &self.outcome {
            Outcome::Succeeded => "succeeded ".to_owned(),
            Outcome::Failed(chain) => format!("failed {}", one_line(chain)),
            Outcome::NotHere(reason) => format!("nothere {}", one_line(reason)),
            Outcome::Lost => "lost ".to_owned(),
        };
        let calls = self.calls.iter().map(|(Call(call), times)| format!("call {call} {times}\n"));
        let faults = self.faults.iter().map(|fault| format!("fault {}\n", one_line(fault)));
        let facts: String = calls.chain(faults).collect();
        format!("{facts}denials {}\n{outcome}\n", self.denials)
    }

    pub(crate) fn from_lines(lines: &str) -> Self {
        let mut report = Self::new(Outcome::Lost);
        for line in lines.lines() {
            let (word, rest) = line.split_once(' ').unwrap();
            match word {
                "call" => {
                    let (call, times) = rest.split_once(' ').unwrap();
                    report.calls.push((Call(call.parse().unwrap()), times.parse().unwrap()));
                }
                "fault" => report.faults.push(rest.to_owned()),
                "denials" => report.denials = rest.parse().unwrap(),
                "succeeded" => report.outcome = Outcome::Succeeded,
                "failed" => report.outcome = Outcome::Failed(rest.to_owned()),
                "nothere" => report.outcome = Outcome::NotHere(rest.to_owned()),
                _ => {}
            }
        }
        report
    }
}

/// Why no call can be denied on this machine.
pub(crate) fn is_impossible() -> Option<String> {
    let filter = filter();
    let tried = in_a_process(|| match denier::install(filter) {
        Ok(()) => Report::new(Outcome::Succeeded),
        Err(error) => Report::new(Outcome::NotHere(error.to_string())),
    });
    match tried.outcome {
        Outcome::Succeeded => None,
        Outcome::NotHere(reason) => Some(reason),
        _ => Some(tried.faults.concat()),
    }
}

/// Made once, before the processes that install it.
fn filter() -> &'static BpfProgram {
    static FILTER: OnceLock<BpfProgram> = OnceLock::new();
    FILTER.get_or_init(|| denier::filter().unwrap())
}

impl Operation {
    pub(crate) fn on_huge_pages(self) -> Self {
        Self { takes_huge_pages: true, ..self }
    }

    /// What nobody else may use while the operation is tried.
    pub(crate) fn pool(&self) -> Option<HugePool> {
        if self.takes_huge_pages { HugePool::with_free_pages(1) } else { None }
    }

    pub(crate) fn try_with(&self, denial: Option<Denial>) -> Report {
        in_a_process(|| (self.run)(&Means::Filter(denial)))
    }

    pub(crate) fn try_short(&self, shortage: Shortage) -> Report {
        in_a_process(|| (self.run)(&Means::Shortage(shortage)))
    }

    /// In this process.
    pub(crate) fn run_under_strace(&self, injected: Option<(&str, Errno)>) -> Report {
        caught(|| (self.run)(&Means::Strace(injected)))
            .unwrap_or_else(|panic| Report::lost(format!("the test: {panic}")))
    }
}

impl<I, T> Plan<I, T> {
    fn run(&self, means: &Means) -> Report {
        let before = Holdings::now();
        let mut input = match (self.prepare)() {
            Ok(input) => input,
            Err(reason) => return Report::new(Outcome::NotHere(reason)),
        };
        let looked = (self.look)(&mut input);
        let attempt = || caught(|| (self.attempt)(input));
        let (done, trace) = match *means {
            Means::Filter(denial) => {
                denier::install(filter()).unwrap();
                denier::deny(denial, attempt)
            }
            Means::Shortage(shortage) => {
                denier::install(filter()).unwrap();
                denier::shorten(shortage, attempt)
            }
            // What happened is in its log.
            Means::Strace(_) => {
                (denier::mark(attempt), Trace { calls: Vec::new(), denials: 1, seals_added: true })
            }
        };
        let name;
        let denied = match *means {
            Means::Filter(Some(Denial { call, errno, .. })) => {
                name = call.name();
                Some((name.as_str(), errno))
            }
            Means::Strace(injected) => injected,
            _ => None,
        };
        let mut report = Report {
            calls: trace.calls,
            denials: trace.denials,
            ..Report::new(Outcome::Succeeded)
        };
        match done {
            Err(panic) => return Report { outcome: Outcome::Lost, faults: vec![panic], ..report },
            Ok(Ok(value)) => {
                if denied.is_some() && trace.denials == 0 {
                    report.faults.push("does not make the call this time".into());
                }
                let checked = caught(|| (self.check)(value));
                report.faults.extend(checked.err().map(|panic| format!("succeeded, but {panic}")));
            }
            Ok(Err(failure)) => {
                report.outcome = Outcome::Failed(failure.chain.join(": "));
                match denied {
                    Some(denied) => {
                        self.judge(denied, failure, &looked, trace.seals_added, &mut report)
                    }
                    None => report.faults.push("fails without a denial".into()),
                }
            }
        }
        let left = Holdings::now();
        if left != before && !denied.is_some_and(|(call, _)| truth::is_faked(call)) {
            report.faults.push(format!("leaves {left:?}, before {before:?}"));
        }
        report
    }

    fn judge(
        &self,
        (call, errno): (&str, Errno),
        failure: Failure<I>,
        looked: &[String],
        seals_added: bool,
        report: &mut Report,
    ) {
        let Failure { chain, kind, mut input } = failure;
        if report.denials == 0 {
            report.faults.push("fails although nothing was denied".into());
            return;
        }
        if truth::is_dispensable(call, errno) {
            report.faults.push("fails without a call that it can do without".into());
        }
        report.faults.extend(truth::faults(call, errno, &chain, kind, self.is_bare));
        for (before, after) in looked.iter().zip((self.look)(&mut input)) {
            // What the kernel has added it does not take back; but who gets the file is told.
            let is_told =
                || chain.iter().any(|error| MORE_SEALS.iter().any(|said| error.contains(said)));
            if *before != after && !(seals_added && before.starts_with("seals ") && is_told()) {
                report.faults.push(format!("changes {before:?} into {after:?}"));
            }
        }
        if self.can_repeat && !truth::is_faked(call) {
            let again = caught(|| match (self.attempt)(input) {
                Ok(value) => (self.check)(value),
                Err(failure) => panic!("{}", failure.chain.join(": ")),
            });
            report.faults.extend(again.err().map(|error| format!("cannot be repeated: {error}")));
        }
    }
}

/// What it returns, or the message and the place of its panic.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static MESSAGE: Mutex<String> = Mutex::new(String::new());
    panic::set_hook(Box::new(|info| *MESSAGE.lock().unwrap() = info.to_string()));
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|_| MESSAGE.lock().unwrap().clone())
}

/// Runs it in a child, and tells of one that does not come back.
fn in_a_process(run: impl FnOnce() -> Report) -> Report {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (mut ours, mut theirs) = (File::from(ours), File::from(theirs));
    // SAFETY: the child may take no lock that another thread holds now. fork(2) of the C library sees
    // to those of the allocator, and the threads of this test use no other that the child needs.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(ours);
        // SAFETY: it takes a number. The signal ends the process.
        unsafe { libc::alarm(PATIENCE) };
        let report = caught(run).unwrap_or_else(|panic| Report::lost(format!("the test: {panic}")));
        let _ = theirs.write_all(report.to_lines().as_bytes());
        // SAFETY: it ends the process at once, so that nothing of the parent's is cleaned up here.
        unsafe { libc::_exit(0) };
    }
    drop(theirs);
    let child = Pid::from_raw(child).expect("fork(2)");
    let mut lines = String::new();
    ours.read_to_string(&mut lines).unwrap();
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    match status.terminating_signal() {
        None => Report::from_lines(&lines),
        Some(signal) if signal == Signal::ALARM.as_raw() => {
            Report::lost(format!("hangs for {PATIENCE} s"))
        }
        Some(signal) => Report::lost(format!("ends the process with the signal {signal}")),
    }
}

/// What a leak would add to.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: Vec<String>,
    mappings: Vec<String>,
}

impl Holdings {
    fn now() -> Self {
        let links = fs::read_dir("/proc/self/fd").unwrap();
        // The directory itself is gone when its link is read.
        let links = links.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let mut descriptors: Vec<_> = links.map(|link| link.display().to_string()).collect();
        descriptors.retain(|link| !link.starts_with("/proc/"));
        descriptors.sort();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mappings = maps.lines().filter_map(|line| line.split_once("/memfd:"));
        Self { descriptors, mappings: mappings.map(|(_, name)| name.to_owned()).collect() }
    }
}
