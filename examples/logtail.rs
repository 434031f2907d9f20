//! A log that any number of terminals follow: one program publishes lines, and others show them. Run the
//! first command in one terminal, and the others in as many as you like:
//!
//! ```sh
//! cargo run --release --example logtail -- serve --demo /tmp/log
//! cargo run --release --example logtail -- follow /tmp/log
//! cargo run --release --example logtail -- follow --slow 100 /tmp/log    # is told what it misses
//! journalctl -f | cargo run --release --example logtail -- serve /tmp/log
//! ```
//!
//! The server waits for nobody. A follower that is too slow is overtaken, learns exactly how many lines it
//! has missed, and goes on. Neither trusts the other: a follower can hold up neither the server nor other
//! followers, and a server can do no more to a follower than send nonsense.
//!
//! Ctrl-C ends either side, with a summary. A server that is killed (`kill -9`) is an end to its followers,
//! too, which they learn from their private bell. A follower that is killed is noticed by nobody.

mod common;

use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sealed_mmap::SealPolicy;
use sealed_mmap::bell::{Registered, Request};
use sealed_mmap::broadcast::{Next, Publisher, StartAt, Subscriber};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use common::{connect_to, listen, remove};

const USAGE: &str = "usage: logtail serve [--demo] [--wait N] [--capacity BYTES] SOCKET
       logtail follow [--slow MS] [--from oldest|middle|now] SOCKET";

const HELP: &str = "\
serve    publishes the lines of standard input at SOCKET, until their end or
         Ctrl-C
follow   shows the lines that are published there, until the server ends or
         Ctrl-C, and says how many it has missed where it was too slow

  --demo             makes lines, 100 a second, instead of reading them
  --wait N           begins when N followers have come
  --capacity BYTES   how much of the log is kept for followers, 16384 by default.
                     A line of more than about half of that is cut
  --slow MS          sleeps for so many milliseconds after each line
  --from WHERE       with which line to begin, also after some were missed: the
                     oldest that is kept, one in the middle, or the next one
                     (now). The default is middle

Example, each command in a terminal of its own:

  logtail serve --demo /tmp/log
  logtail follow /tmp/log
  logtail follow --slow 100 /tmp/log";

/// The most that a follower maps: enough for any log, and not all memory.
const LIMIT: u64 = 1 << 30;

/// How many followers there can be, those included that have not asked for anything yet.
const MOST_FOLLOWERS: usize = 200;

const BETWEEN_LINES: Duration = Duration::from_millis(10);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let done = match parse_arguments() {
        Ok(Some((Command::Serve(serving), path))) => serve(&serving, &path),
        Ok(Some((Command::Follow(following), path))) => follow(&following, &path),
        Ok(None) => say(format_args!("{HELP}\n\n{USAGE}")),
        Err(error) => Err(anyhow!("{error}\n{USAGE}")),
    };
    let is_closed_pipe = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads the output any longer: `| head`.
        Err(error) if error.downcast_ref().is_some_and(is_closed_pipe) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "logtail: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(line: impl Display) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("standard output")
}

enum Command {
    Serve(Serving),
    Follow(Following),
}

struct Serving {
    demo: bool,
    wait: usize,
    capacity: usize,
}

struct Following {
    pause: Duration,
    from: StartAt,
}

/// What to do and where, or `None` if the user asks for help.
fn parse_arguments() -> Result<Option<(Command, PathBuf)>> {
    use lexopt::prelude::*;

    let (mut command, mut path) = (None, None);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match (argument, &mut command) {
            (Short('h') | Long("help"), _) => return Ok(None),
            (Value(name), None) if name == "serve" => {
                let serving = Serving { demo: false, wait: 0, capacity: 16 << 10 };
                command = Some(Command::Serve(serving));
            }
            (Value(name), None) if name == "follow" => {
                let following = Following { pause: Duration::ZERO, from: StartAt::Middle };
                command = Some(Command::Follow(following));
            }
            (Long("demo"), Some(Command::Serve(serving))) => serving.demo = true,
            (Long("wait"), Some(Command::Serve(serving))) => {
                serving.wait = arguments.value()?.parse()?;
            }
            (Long("capacity"), Some(Command::Serve(serving))) => {
                serving.capacity = arguments.value()?.parse()?;
            }
            (Long("slow"), Some(Command::Follow(following))) => {
                following.pause = Duration::from_millis(arguments.value()?.parse()?);
            }
            (Long("from"), Some(Command::Follow(following))) => {
                following.from = match arguments.value()?.string()?.as_str() {
                    "oldest" => StartAt::Oldest,
                    "middle" => StartAt::Middle,
                    "now" => StartAt::Now,
                    other => bail!("\"{other}\" is not oldest, middle or now"),
                }
            }
            (Value(socket), Some(_)) if path.is_none() && !socket.is_empty() => {
                path = Some(socket.into());
            }
            (argument, _) => return Err(argument.unexpected().into()),
        }
    }
    let command = command.context("there is no command")?;
    Ok(Some((command, path.context("there is no socket")?)))
}

/// Becomes true at Ctrl-C.
fn until_ctrl_c() -> io::Result<Arc<AtomicBool>> {
    let over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // While the output is blocked, nobody looks at the flag: a second signal kills.
        flag::register_conditional_default(signal, Arc::clone(&over))?;
        flag::register(signal, Arc::clone(&over))?;
    }
    Ok(over)
}

// The server.

fn serve(serving: &Serving, path: &Path) -> Result<()> {
    let over = until_ctrl_c()?;
    // It becomes readable at Ctrl-C, which ends a sleep.
    let (signals, waker) = UnixStream::pair().context("cannot create a pair of sockets")?;
    for signal in [SIGINT, SIGTERM] {
        low_level::pipe::register(signal, waker.try_clone()?)?;
    }
    let mut publisher = Publisher::create("logtail", serving.capacity)
        .context("cannot create the memory to share")?;
    publisher.wake_anonymous(false); // every follower has a private bell
    let input = if serving.demo {
        Input::Demo(Instant::now())
    } else {
        let stdin = io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
        Input::File(stdin.into())
    };
    let (listener, own) = listen(path).with_context(|| path.display().to_string())?;
    listener.set_nonblocking(true)?;
    let mut server = Server {
        publisher,
        listener,
        asking: Vec::new(),
        input,
        line: Vec::new(),
        lines: 0,
        shown: Instant::now(),
    };
    let served = server.run(serving, &over, &signals, path);
    let removed = remove(path, &own).with_context(|| path.display().to_string());
    served.and(removed)
}

enum Input {
    /// When the next line is due.
    Demo(Instant),
    File(File),
}

struct Server {
    publisher: Publisher,
    listener: UnixListener,
    /// Who has connected, and has to ask until then.
    asking: Vec<(UnixStream, Instant)>,
    input: Input,
    /// The beginning of a line whose end has not been read yet.
    line: Vec<u8>,
    lines: u64,
    shown: Instant,
}

impl Server {
    fn run(
        &mut self,
        serving: &Serving,
        over: &AtomicBool,
        signals: &UnixStream,
        path: &Path,
    ) -> Result<()> {
        say(format_args!("serving at {}; Ctrl-C ends it", path.display()))?;
        let mut waits = serving.wait > 0;
        while !over.load(Ordering::Relaxed) {
            waits &= self.publisher.admitted() < serving.wait;
            let [has_input, has_follower] = self.wait(signals, !waits)?;
            if has_follower {
                self.accept();
            }
            self.admit_who_asks();
            if has_input && !self.publish_some()? {
                break;
            }
            self.show();
        }
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\x1b[K");
        }
        let followers = self.publisher.admitted();
        say(format_args!("published {} lines; {followers} follow to the end", self.lines))
    }

    /// Sleeps until there is input, which may not be wanted, or who wants to follow.
    fn wait(&self, signals: &UnixStream, wants_input: bool) -> Result<[bool; 2]> {
        let mut timeout = BETWEEN_LOOKS;
        let mut awaited: Vec<BorrowedFd<'_>> = vec![signals.as_fd(), self.listener.as_fd()];
        match &self.input {
            Input::Demo(due) if wants_input => {
                timeout = timeout.min(due.saturating_duration_since(Instant::now()));
            }
            Input::File(file) if wants_input => awaited.push(file.as_fd()),
            _ => {}
        }
        awaited.extend(self.asking.iter().map(|(follower, _)| follower.as_fd()));
        let mut fds: Vec<_> =
            awaited.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&Timespec::try_from(timeout)?)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait (poll)"),
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let has_input = wants_input
            && match &self.input {
                Input::Demo(due) => *due <= Instant::now(),
                Input::File(_) => is_ready(&fds[2]),
            };
        Ok([has_input, is_ready(&fds[1])])
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            // It is turned away.
            Ok(_) if self.asking.len() + self.publisher.admitted() >= MOST_FOLLOWERS => {}
            Ok((follower, _)) => self.asking.push((follower, Instant::now() + PATIENCE)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Usually too many open files. The follower stays in the queue.
            Err(_) => thread::sleep(BETWEEN_LINES),
        }
    }

    /// Admits whoever has sent a request, and forgets who has sent something else, or nothing in time.
    fn admit_who_asks(&mut self) {
        let policy = SealPolicy::untrusted_live(1 << 16); // for a file of a few hundred bytes
        for (follower, deadline) in std::mem::take(&mut self.asking) {
            if is_readable(&follower) {
                // Whatever is wrong with a stranger's request is not for this terminal.
                let _ = self.publisher.admit(follower, &policy, Duration::ZERO);
            } else if Instant::now() < deadline {
                self.asking.push((follower, deadline));
            }
        }
    }

    /// Publishes the lines that are there. Returns whether more can come.
    fn publish_some(&mut self) -> Result<bool> {
        let mut bytes = [0; 16 << 10];
        let count = match &mut self.input {
            Input::Demo(due) => {
                *due += BETWEEN_LINES;
                let number = self.lines + 1;
                self.line = format!("line {number} of a log that goes on and on").into();
                self.write_line()?;
                self.publisher.wake();
                return Ok(true);
            }
            Input::File(file) => match file.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                read => read.context("standard input")?,
            },
        };
        for part in bytes[..count].split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = self.publisher.longest() - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.write_line()?;
            }
        }
        if count == 0 && !self.line.is_empty() {
            self.write_line()?;
        }
        self.publisher.wake(); // once for all of them
        Ok(count > 0)
    }

    fn write_line(&mut self) -> Result<()> {
        self.lines = self.publisher.publish_without_wake(&self.line)?;
        self.line.clear();
        Ok(())
    }

    /// A line that is overwritten, on a terminal.
    fn show(&mut self) {
        if self.shown.elapsed() >= BETWEEN_LOOKS && io::stderr().is_terminal() {
            let (lines, followers) = (self.lines, self.publisher.admitted());
            let _ = write!(io::stderr(), "{lines} lines, {followers} followers\x1b[K\r");
            self.shown = Instant::now();
        }
    }
}

fn is_readable(socket: &UnixStream) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

// A follower.

fn follow(following: &Following, path: &Path) -> Result<()> {
    let over = until_ctrl_c()?;
    let mut log = subscribe(following, path).with_context(|| path.display().to_string())?;
    let (mut line, mut last) = (Vec::new(), None);
    let (mut got, mut missed) = (0_u64, 0_u64);
    let end = loop {
        if over.load(Ordering::Relaxed) {
            break "stopped";
        }
        match log.next(&mut line, BETWEEN_LOOKS) {
            Ok(Next::Record(number)) => {
                got += 1;
                last = Some(number);
                say(printable(&line))?;
                sleep(following.pause, &over);
            }
            Ok(Next::Lagged { missed: some }) => {
                missed += some;
                say(gap(some, last))?;
                last = last.map(|last| last + some);
            }
            Ok(Next::Ended) => break "the server has ended",
            Ok(Next::TimedOut) => {}
            // The server overtook every attempt to copy a line. The next call may succeed.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    };
    say(format_args!("-- {end}: {got} lines shown, {missed} missed --"))
}

fn subscribe(following: &Following, path: &Path) -> Result<Subscriber<Registered>> {
    let socket =
        connect_to(path).map_err(|error| anyhow!("{error} (is there a `logtail serve`?)"))?;
    let request = Request::send(OwnedFd::from(socket))?;
    // The server need not be trusted: at worst it shows nonsense, or nothing. It can leave holes in its
    // file; a machine without memory for those ends this process with SIGBUS.
    let policy = SealPolicy::untrusted_live(LIMIT);
    let mut log = Subscriber::join(request, following.from, &policy, 2 * PATIENCE)?;
    log.after_lag(following.from);
    Ok(log)
}

fn gap(missed: u64, last: Option<u64>) -> String {
    match last {
        _ if missed == 1 => "-- missed 1 line --".into(),
        Some(last) => format!("-- missed {missed} lines, {} to {} --", last + 1, last + missed),
        None => format!("-- missed {missed} lines --"),
    }
}

/// A stranger's text does not control the terminal.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.chars().fold(String::new(), |mut printable, char| {
        match char.is_control() && char != '\t' {
            true => printable.extend(char.escape_default()),
            false => printable.push(char),
        }
        printable
    })
}

/// In steps, so that Ctrl-C is heeded.
fn sleep(mut pause: Duration, over: &AtomicBool) {
    while !pause.is_zero() && !over.load(Ordering::Relaxed) {
        let step = pause.min(BETWEEN_LOOKS);
        thread::sleep(step);
        pause -= step;
    }
}
