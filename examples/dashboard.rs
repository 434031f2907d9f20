//! A dashboard: one program publishes readings of this machine, and any number of others show the
//! newest. Run the first command in one terminal, and the second in as many others as you like:
//!
//! ```sh
//! cargo run --release --example dashboard -- publish
//! cargo run --release --example dashboard -- watch
//! ```
//!
//! The publisher listens on a Unix socket and sends every watcher that connects the descriptor of its
//! file. It does nothing else for a watcher: stop one with Ctrl-Z, and the publisher does not notice.
//! Ctrl-C ends the publisher and tells the watchers so. `kill -9` cannot tell them: they report that
//! nothing new arrives, and go on waiting.

mod common;

use std::env;
use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{SealPolicy, SealedFile};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use common::{connect_to, listen, remove};

const USAGE: &str = "usage: dashboard publish|watch [SOCKET]";

const HELP: &str = "\
publish   publishes the load and the memory of this machine, 200 times a second, until Ctrl-C
watch     shows the newest reading, 10 times a second, until the publisher ends

SOCKET is where the two meet. The default is dashboard.sock in $XDG_RUNTIME_DIR, or else in $TMPDIR,
or else in /tmp. A variable that is empty or not an absolute path counts as unset.";

const BETWEEN_READINGS: Duration = Duration::from_millis(5);
const BETWEEN_PICTURES: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let done = match parse_arguments() {
        Ok(Some((command, path))) => command(&path),
        Ok(None) => say(format_args!("{HELP}\n\n{USAGE}")),
        Err(error) => Err(anyhow!("{error}\n{USAGE}")),
    };
    let is_closed_pipe = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads the output any longer: `| head`.
        Err(error) if error.downcast_ref().is_some_and(is_closed_pipe) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "dashboard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(line: impl Display) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("standard output")
}

type Command = fn(&Path) -> Result<()>;

/// What to do and where, or `None` if the user asks for help.
fn parse_arguments() -> Result<Option<(Command, PathBuf)>> {
    use lexopt::prelude::*;

    let (mut command, mut path) = (None, None);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Value(name) if name == "publish" && command.is_none() => {
                command = Some(publish as Command)
            }
            Value(name) if name == "watch" && command.is_none() => command = Some(watch as Command),
            Value(socket) if command.is_some() && path.is_none() && !socket.is_empty() => {
                path = Some(socket.into());
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    let command = command.context("there is no command")?;
    Ok(Some((command, path.unwrap_or_else(default_path))))
}

fn default_path() -> PathBuf {
    let directories =
        ["XDG_RUNTIME_DIR", "TMPDIR"].map(|name| env::var_os(name).map(PathBuf::from));
    // An empty variable would lead to the current directory.
    let directory = directories.into_iter().flatten().find(|directory| directory.is_absolute());
    directory.unwrap_or_else(|| "/tmp".into()).join("dashboard.sock")
}

fn publish(path: &Path) -> Result<()> {
    let over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // While the output is blocked, nobody looks at the flag: a second signal kills.
        flag::register_conditional_default(signal, Arc::clone(&over))?;
        flag::register(signal, Arc::clone(&over))?;
    }
    let publisher =
        Publisher::create("dashboard", 4096).context("cannot create the file to share")?;
    let file = publisher.file().try_clone().context("cannot duplicate the descriptor to share")?;
    let (listener, own) = listen(path).with_context(|| path.display().to_string())?;
    thread::spawn(move || {
        for watcher in listener.incoming() {
            match watcher {
                // A watcher that has left does not matter.
                Ok(watcher) => drop(send_fds(&watcher, b"dashboard", &[file.as_fd()])),
                // Usually too many open files. The watcher stays in the queue.
                Err(_) => thread::sleep(BETWEEN_PICTURES),
            }
        }
    });
    let published = publish_until(&over, publisher, path);
    let removed = remove(path, &own).with_context(|| path.display().to_string());
    published.and(removed)
}

fn publish_until(over: &AtomicBool, mut publisher: Publisher, path: &Path) -> Result<()> {
    say(format_args!("publishing at {}; Ctrl-C ends it", path.display()))?;
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        number = publisher.publish(readings()?.as_bytes())?;
        thread::sleep(BETWEEN_READINGS);
    }
    say(format_args!("published {number} readings"))
}

fn readings() -> Result<String> {
    let read = |path| fs::read_to_string(path).context(path);
    let (load, memory, counters) =
        (read("/proc/loadavg")?, read("/proc/meminfo")?, read("/proc/stat")?);
    Ok(format!(
        "load              {}\navailable memory  {} MiB\ncontext switches  {}\n",
        load.split(' ').next().unwrap_or("?"),
        field(&memory, "MemAvailable:") / 1024,
        field(&counters, "ctxt"),
    ))
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn watch(path: &Path) -> Result<()> {
    show(subscribe(path).with_context(|| path.display().to_string())?)
}

fn subscribe(path: &Path) -> Result<Subscriber> {
    let socket =
        connect_to(path).map_err(|error| anyhow!("{error} (is there a `dashboard publish`?)"))?;
    socket.set_read_timeout(Some(3 * PATIENCE))?;
    let fd = match recv_fd(&socket, &mut [0; 16]) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            bail!("it sends nothing")
        }
        received => received?.1.context("it sends no descriptor")?,
    };
    // The publisher need not be trusted: at worst it shows nonsense, or nothing. It can leave holes in
    // its file, 1 MiB at most. A machine without memory for those ends this process with SIGBUS.
    let policy = SealPolicy::untrusted_live(1 << 20);
    Ok(Subscriber::open(&SealedFile::receive_future_write(fd, &policy)?)?)
}

/// Shows the newest value until the publisher ends.
fn show(mut subscriber: Subscriber) -> Result<()> {
    let (mut value, mut seen, mut since) = (Vec::new(), 0, Instant::now());
    loop {
        match subscriber.wait(seen, PATIENCE).context("cannot wait for a reading")? {
            WaitOutcome::Newer => {}
            WaitOutcome::TimedOut => {
                // A terminal goes on showing the picture.
                let picture = if io::stdout().is_terminal() { &value[..] } else { &[] };
                draw(
                    picture,
                    format_args!("nothing new for {:.0} s", since.elapsed().as_secs_f64()),
                )?;
                continue;
            }
            WaitOutcome::Ended => return say("the publisher has ended"),
        }
        match subscriber.latest(&mut value) {
            Ok(number) => {
                let number = number.unwrap_or(0);
                let new = if seen == 0 { 0 } else { number.saturating_sub(seen) };
                let rate = new as f64 / since.elapsed().as_secs_f64();
                draw(&value, format_args!("reading {number}, {rate:.0} a second"))?;
                (seen, since) = (number, Instant::now());
            }
            // The publisher overtook every attempt to copy a value. The next call may succeed.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot read what is published"),
        }
        thread::sleep(BETWEEN_PICTURES);
    }
}

fn draw(value: &[u8], status: impl Display) -> Result<()> {
    // From the top, on an empty screen.
    let mut picture = String::from(if io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" });
    for line in String::from_utf8_lossy(value).lines() {
        picture.extend(line.escape_debug()); // a stranger's text does not control the terminal
        picture.push('\n');
    }
    say(picture + &status.to_string())
}
