//! A structured record for `systemd-journald`, too long for a datagram: it goes as a sealed memfd.
//!
//! ```sh
//! cargo run --release --example journal -- send                  # to the journal of this machine …
//! journalctl -n 1 -o verbose SYSLOG_IDENTIFIER=sealed-mmap       # … which shows it
//!
//! cargo run --release --example journal -- serve /tmp/strict     # a server that checks as older ones do
//! cargo run --release --example journal -- send /tmp/strict
//! cargo run --release --example journal -- send --exec-seal /tmp/strict
//! ```
//!
//! The record is made in place, sealed, and sent as an empty datagram with one descriptor, from a
//! socket that is not connected. journald maps the file. Before version 254, where it has not been
//! patched, it compares the seals with `shrink|grow|write|seal`, and takes a file that carries another
//! one, such as `F_SEAL_EXEC`, for one that is not sealed. `serve` does the same check, and refuses such
//! a file by name, also if root sends it.

use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::io::Errno;
use sealed_mmap::socket::{Credentials, pass_credentials, recv_fds_with_credentials, send_fds_to};
use sealed_mmap::{CreateOptions, SealPolicy, SealedFile, Seals};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

const USAGE: &str = "usage: journal send [--size BYTES] [--message TEXT] [--exec-seal] [SOCKET]
       journal serve SOCKET";

const HELP: &str = "\
send    sends one record with an attachment to a journal
serve   takes records at SOCKET, and shows them, until Ctrl-C. It wants exactly the seals that
        unpatched versions of systemd-journald before 254 want

SOCKET is a datagram socket. send has /run/systemd/journal/socket by default.

  --size BYTES     the size of the attachment, 1048576 by default
  --message TEXT   the line that the journal shows
  --exec-seal      leaves F_SEAL_EXEC on the file, which older journals refuse";

const JOURNALD: &str = "/run/systemd/journal/socket";

/// The longest record that `serve` takes.
const LIMIT: u64 = 64 << 20;

const PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let done = match parse_arguments() {
        Ok(Some(Command::Send(record, path))) => send(&record, &path),
        Ok(Some(Command::Serve(path))) => serve(&path),
        Ok(None) => say(format_args!("{HELP}\n\n{USAGE}")),
        Err(error) => Err(anyhow!("{error}\n{USAGE}")),
    };
    let is_closed_pipe = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads the output any longer: `| head`.
        Err(error) if error.downcast_ref().is_some_and(is_closed_pipe) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "journal: {error:#}");
            ExitCode::FAILURE
        }
    }
}

// The heart of it: a record that is sent, and one that is received.

fn send(record: &Record, path: &Path) -> Result<()> {
    let text = record.text();
    let len = text.len() + 8 + record.size + 1;
    let options = CreateOptions::new().exec_seal(record.exec_seal);
    let mut checksum = 0;
    let file = options
        .build("journal record", len as u64, |bytes| {
            let (head, rest) = bytes.split_at_mut(text.len());
            let (size, rest) = rest.split_at_mut(8);
            let (attachment, end) = rest.split_at_mut(record.size);
            head.copy_from_slice(text.as_bytes());
            size.copy_from_slice(&(record.size as u64).to_le_bytes());
            for (n, byte) in attachment.iter_mut().enumerate() {
                *byte = (n % 251) as u8;
            }
            end[0] = b'\n';
            checksum = crc32fast::hash(attachment);
            Ok(())
        })
        .context("cannot create the record")?;

    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    SocketAddr::from_pathname(path)
        .and_then(|journal| send_fds_to(&socket, &journal, b"", &[file.as_fd()]))
        .with_context(|| path.display().to_string())?;
    say(format_args!(
        "sent {len} bytes sealed {}, with an attachment of {} bytes (CRC {checksum:08x})",
        file.get_seals()?,
        record.size
    ))
}

fn receive(fd: OwnedFd) -> Result<String> {
    // What older journals want, and nothing else. Otherwise forbid nothing: other kernels add seals.
    let policy = SealPolicy::untrusted(LIMIT).exactly(Seals::GROW | Seals::SEAL);
    let file = SealedFile::receive_read_only(fd, &policy)?;
    let record = file.map_read_only()?; // no copy, and the sender cannot change it any more
    describe(&record)
}

// The format of records: https://systemd.io/JOURNAL_NATIVE_PROTOCOL

struct Record {
    message: String,
    size: usize,
    exec_seal: bool,
}

impl Record {
    /// What stands before the length and the bytes of the attachment.
    fn text(&self) -> String {
        // A line break would end the field.
        let message: String = self.message.lines().collect::<Vec<_>>().join(" ");
        format!("MESSAGE={message}\nPRIORITY=6\nSYSLOG_IDENTIFIER=sealed-mmap\nATTACHMENT\n")
    }
}

/// The next field: `NAME=value`, or the name, the length and the bytes of the value.
fn next_field<'a>(record: &mut &'a [u8]) -> Option<(&'a str, &'a [u8])> {
    let end = record.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = (&record[..end], &record[end + 1..]);
    let (name, value, rest) = match line.iter().position(|byte| *byte == b'=') {
        Some(equals) => (&line[..equals], &line[equals + 1..], rest),
        None => {
            let (len, rest) = rest.split_first_chunk()?;
            let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
            let (value, rest) = rest.split_at_checked(len)?;
            (line, value, rest.strip_prefix(b"\n")?)
        }
    };
    *record = rest;
    let is_in_names = |byte: &u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_');
    let name = (!name.is_empty() && name.iter().all(is_in_names)).then_some(name)?;
    Some((str::from_utf8(name).ok()?, value))
}

fn describe(mut record: &[u8]) -> Result<String> {
    let mut fields = Vec::new();
    while !record.is_empty() {
        let (name, value) = next_field(&mut record).context("it is no record")?;
        let short = str::from_utf8(value).ok().filter(|value| value.len() <= 200);
        fields.push(match short {
            // A stranger's text does not control the terminal.
            Some(text) => format!("{name}={}", text.escape_debug()),
            None => {
                let checksum = crc32fast::hash(value);
                format!("{name} of {} bytes (CRC {checksum:08x})", value.len())
            }
        });
    }
    ensure!(!fields.is_empty(), "it is empty");
    Ok(fields.join(", "))
}

fn serve(path: &Path) -> Result<()> {
    let over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // While the output is blocked, nobody looks at the flag: a second signal kills.
        flag::register_conditional_default(signal, Arc::clone(&over))?;
        flag::register(signal, Arc::clone(&over))?;
    }
    let socket = bind(path).with_context(|| path.display().to_string())?;
    let served = serve_until(&over, &socket, path);
    let removed = fs::remove_file(path).with_context(|| path.display().to_string());
    served.and(removed)
}

/// Replaces the socket of a server that is gone, and nothing else.
fn bind(path: &Path) -> io::Result<UnixDatagram> {
    // Any other file refuses connections, too.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = UnixDatagram::unbound()?.connect(path).err();
    if is_socket && refused.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
        fs::remove_file(path)?;
    }
    let socket = UnixDatagram::bind(path)?;
    pass_credentials(&socket, true)?;
    socket.set_read_timeout(Some(BETWEEN_LOOKS))?;
    Ok(socket)
}

fn serve_until(over: &AtomicBool, socket: &UnixDatagram, path: &Path) -> Result<()> {
    say(format_args!("serving at {}; Ctrl-C ends it", path.display()))?;
    let (mut bytes, mut fds) = (vec![0; 64 << 10], Vec::new());
    while !over.load(Ordering::Relaxed) {
        fds.clear();
        let (sender, record) = match recv_fds_with_credentials(socket, &mut bytes, &mut fds) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) if is_about_one_message(&error) => (None, Err(error.into())),
            Err(error) => return Err(error).context("cannot receive"),
            Ok((len, sender)) => (sender, take(&bytes[..len], &mut fds)),
        };
        let sender = name(sender);
        match record {
            Ok(record) => say(format_args!("accepted from {sender}: {record}"))?,
            Err(error) => say(format_args!("refused from {sender}: {error:#}"))?,
        }
    }
    Ok(())
}

/// The message is lost, and with it who has sent it. The next one may be better.
fn is_about_one_message(error: &io::Error) -> bool {
    let is_too_long = Errno::from_io_error(error) == Some(Errno::MSGSIZE);
    is_too_long || error.kind() == ErrorKind::QuotaExceeded
}

/// A short record comes as bytes, and a long one as a file.
fn take(bytes: &[u8], fds: &mut Vec<OwnedFd>) -> Result<String> {
    match (bytes, fds.pop()) {
        (bytes, None) => describe(bytes),
        (b"", Some(fd)) if fds.is_empty() => receive(fd),
        _ => bail!("a record is either bytes or one file"),
    }
}

fn name(sender: Option<Credentials>) -> String {
    let Some(Credentials { pid, uid, .. }) = sender else { return "nobody known".into() };
    match pid {
        Some(pid) => format!("process {pid} of user {uid}"),
        None => format!("a process elsewhere of user {uid}"),
    }
}

fn say(line: impl Display) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("standard output")
}

enum Command {
    Send(Record, PathBuf),
    Serve(PathBuf),
}

/// What to do, or `None` if the user asks for help.
fn parse_arguments() -> Result<Option<Command>> {
    use lexopt::prelude::*;

    let (mut command, mut path) = (None, None);
    let mut record =
        Record { message: "a record with an attachment".into(), size: 1 << 20, exec_seal: false };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("size") => record.size = arguments.value()?.parse()?,
            Long("message") => record.message = arguments.value()?.string()?,
            Long("exec-seal") => record.exec_seal = true,
            Value(name) if command.is_none() && (name == "send" || name == "serve") => {
                command = Some(name == "send");
            }
            Value(socket) if command.is_some() && path.is_none() && !socket.is_empty() => {
                path = Some(PathBuf::from(socket));
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    Ok(Some(match command.context("there is no command")? {
        true => Command::Send(record, path.unwrap_or_else(|| JOURNALD.into())),
        false => Command::Serve(path.context("there is no socket to serve at")?),
    }))
}
