//! A dashboard: one program publishes readings of this machine, any number of others show the
//! newest. In one terminal, and then in as many others as you like:
//!
//! ```sh
//! cargo run --release --example dashboard -- publish
//! cargo run --release --example dashboard -- watch
//! ```
//!
//! The publisher listens on a Unix socket (`dashboard.sock` in `XDG_RUNTIME_DIR` or the temporary
//! directory, or the path given behind the command) and hands whoever connects the descriptor of its
//! file. That is all that it ever does for a watcher: stop one with Ctrl-Z and it does not notice.
//! Ctrl-C tells the watchers that it ends; `kill -9` leaves them waiting, and they say so.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{SealPolicy, SealedFile, Seals};

const BETWEEN_READINGS: Duration = Duration::from_millis(5);
const BETWEEN_PICTURES: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let path = arguments.next().map_or_else(default_path, PathBuf::from);
    let done = match (command.to_str(), arguments.next()) {
        (Some("publish"), None) => publish(&path),
        (Some("watch"), None) => watch(&path),
        _ => Err("usage: dashboard publish|watch [SOCKET]".into()),
    };
    let is_closed_pipe = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads the output any longer: `| head`.
        Err(error) if error.downcast_ref().is_some_and(is_closed_pipe) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "dashboard: {error}");
            ExitCode::FAILURE
        }
    }
}

fn default_path() -> PathBuf {
    let directory = env::var_os("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, PathBuf::from);
    directory.join("dashboard.sock")
}

fn publish(path: &Path) -> Result<(), Box<dyn Error>> {
    let over = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&over))?;
    }
    let publisher = Publisher::create("dashboard", 4096)?;
    let file = publisher.file().try_clone()?;
    let listener = listen(path).map_err(|error| format!("{}: {error}", path.display()))?;
    thread::spawn(move || {
        for watcher in listener.incoming() {
            match watcher {
                // One that has gone again is no concern of ours.
                Ok(watcher) => drop(send_fds(&watcher, b"dashboard", &[file.as_fd()])),
                // Too many open files, as a rule. The watcher waits.
                Err(_) => thread::sleep(BETWEEN_PICTURES),
            }
        }
    });
    let published = publish_until(&over, publisher, path);
    fs::remove_file(path)?;
    Ok(published?)
}

/// Takes the place of a publisher that is gone, but not of one that is there, nor of a file.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let is_gone = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
    match fs::symlink_metadata(path).map(|found| found.file_type().is_socket()) {
        Ok(false) => return Err(io::Error::other("there is something else than a socket")),
        Ok(true) if UnixStream::connect(path).is_err_and(is_gone) => fs::remove_file(path)?,
        _ => {}
    }
    UnixListener::bind(path)
}

fn publish_until(over: &AtomicBool, mut publisher: Publisher, path: &Path) -> io::Result<()> {
    writeln!(io::stdout(), "publishing at {}; Ctrl-C ends it", path.display())?;
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        number = publisher.publish(readings()?.as_bytes())?;
        thread::sleep(BETWEEN_READINGS);
    }
    writeln!(io::stdout(), "published {number} readings")
}

fn readings() -> io::Result<String> {
    let load = fs::read_to_string("/proc/loadavg")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let counters = fs::read_to_string("/proc/stat")?;
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

fn watch(path: &Path) -> Result<(), Box<dyn Error>> {
    let socket = UnixStream::connect(path).map_err(|error| {
        format!("{}: {error} (is there a `dashboard publish`?)", path.display())
    })?;
    socket.set_read_timeout(Some(3 * PATIENCE))?;
    let (_, fd) = recv_fd(&socket, &mut [0; 16])
        .map_err(|error| format!("nothing comes from {}: {error}", path.display()))?;
    // Whoever publishes need not be trusted: it can show nonsense, or nothing. What it cannot be kept
    // from is leaving holes, 1 MiB at most; a machine that has no memory for those ends us (SIGBUS).
    let policy = SealPolicy::new().require(Seals::GROW).len(..=1 << 20);
    let file = SealedFile::receive_future_write(fd.ok_or("no descriptor came")?, &policy)?;
    let mut subscriber = Subscriber::open(&file)?;

    let (mut value, mut seen, mut since) = (Vec::new(), 0, Instant::now());
    loop {
        match subscriber.wait(seen, PATIENCE)? {
            WaitOutcome::Newer => {}
            WaitOutcome::TimedOut => {
                let seconds = since.elapsed().as_secs_f64();
                writeln!(io::stdout(), "nothing new for {seconds:.0} s")?;
                continue;
            }
            WaitOutcome::Ended => {
                writeln!(io::stdout(), "the publisher has ended")?;
                return Ok(());
            }
        }
        match subscriber.latest(&mut value) {
            Ok(number) => {
                let number = number.unwrap_or(0);
                let new = if seen == 0 { 0 } else { number.saturating_sub(seen) };
                draw(&value, number, new as f64 / since.elapsed().as_secs_f64())?;
                (seen, since) = (number, Instant::now());
            }
            // It overtook every attempt to copy a value. The next may succeed.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        thread::sleep(BETWEEN_PICTURES);
    }
}

fn draw(value: &[u8], number: u64, rate: f64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        write!(out, "\x1b[H\x1b[J")?; // from the top, on an empty screen
    }
    for line in String::from_utf8_lossy(value).lines() {
        writeln!(out, "{}", line.escape_debug())?; // a stranger's text does not control the terminal
    }
    writeln!(out, "reading {number}, {rate:.0} a second")
}
