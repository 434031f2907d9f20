//! Carries sealed frames to another host, where they become sealed files again and go on as descriptors:
//! through zenoh, and, to compare, through a plain TCP stream.
//!
//! ```sh
//! cargo run --release -p sealed-mmap-interop --features relay --bin relay
//! ```

mod order;
mod tcp;
mod through_zenoh;

use std::env;
use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{SealPolicy, SealedFile};

use crate::order::{Expected, Header};

const USAGE: &str = "\
usage: relay [OPTIONS]                     both hosts on this machine: TCP and zenoh, measured in turn
       relay send tcp|zenoh ADDRESS [OPTIONS]
       relay receive tcp|zenoh ADDRESS [OPTIONS]";

const HELP: &str = "\
Carries sealed frames to another host, where they become sealed files again and go on as descriptors.

The sender maps each frame and gives the map itself to the engine. The receiver copies each frame once,
into a new file, seals it, and hands the descriptor to a third process, which need not trust it. A frame
that is lost, repeated, out of order or too long is an error, and so is a sender that falls silent.

ADDRESS is HOST:PORT, where the receiver listens. Neither engine encrypts here or asks who sends: use an
address that only the two hosts reach, or configure TLS and access control of zenoh.

  --frames N        how many frames are sent (default 64)
  --size BYTES      how long each of them is (default 8388608)
  --limit BYTES     the longest frame that the receiver accepts (default 67108864)
  --timeout SECONDS how long each side waits for the other (default 10)
  --help            this text

The exit status is 0 only if every frame arrived, whole and in order, at the third process.";

/// The environment variable that turns this program into the third process.
const CONSUMER: &str = "RELAY_CONSUMER";

struct Options {
    frames: u64,
    size: u64,
    limit: u64,
    timeout: Duration,
}

#[derive(Clone, Copy)]
enum Engine {
    Tcp,
    Zenoh,
}

enum Role {
    Both,
    Send(Engine, String),
    Receive(Engine, String),
}

/// What carries frames to the other host.
trait Outgoing {
    /// The frame may still be read after this returns: it is immutable.
    fn send(&mut self, header: Header, frame: Bytes) -> Result<()>;

    /// What the other host says when it has everything.
    fn answer(&mut self) -> Result<String>;
}

/// What frames arrive through.
trait Incoming {
    fn next(&mut self) -> Result<Header>;

    /// Copies the bytes of the frame whose header was the last.
    fn read(&mut self, frame: &mut [u8]) -> io::Result<()>;

    fn answer(&mut self, text: &str) -> Result<()>;
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    if env::var_os(CONSUMER).is_some() {
        return consume().context("consumer");
    }
    let (role, options) = match parse_arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return say(format_args!("{HELP}\n\n{USAGE}")),
        Err(error) => bail!("{error}\n{USAGE}"),
    };
    match role {
        Role::Both => both(&options),
        Role::Send(engine, address) => {
            let (seconds, answer) = send(engine, &address, &options).context("sender")?;
            say(format_args!("sender: {seconds:.3} s; the receiver has {answer}"))
        }
        Role::Receive(engine, address) => receive(engine, &address, &options).context("receiver"),
    }
}

fn say(line: impl Display) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("standard output")
}

fn parse_arguments() -> Result<Option<(Role, Options)>> {
    use lexopt::prelude::*;

    let mut options =
        Options { frames: 64, size: 8 << 20, limit: 64 << 20, timeout: Duration::from_secs(10) };
    let mut words = Vec::new();
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("frames") => options.frames = arguments.value()?.parse()?,
            Long("size") => options.size = arguments.value()?.parse()?,
            Long("limit") => options.limit = arguments.value()?.parse()?,
            Long("timeout") => options.timeout = Duration::from_secs(arguments.value()?.parse()?),
            Value(word) => words.push(word.string()?),
            _ => return Err(argument.unexpected().into()),
        }
    }
    ensure!(options.timeout >= Duration::from_secs(1), "--timeout is at least 1");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let role = match words[..] {
        [] => Role::Both,
        ["send", engine, address] => Role::Send(parse_engine(engine)?, address.to_owned()),
        ["receive", engine, address] => Role::Receive(parse_engine(engine)?, address.to_owned()),
        _ => bail!("these words mean nothing here: {}", words.join(" ")),
    };
    Ok(Some((role, options)))
}

fn parse_engine(name: &str) -> Result<Engine> {
    match name {
        "tcp" => Ok(Engine::Tcp),
        "zenoh" => Ok(Engine::Zenoh),
        _ => bail!("{name} is neither tcp nor zenoh"),
    }
}

/// Starts a receiver for each engine, as if on another host, and sends it the same frames.
fn both(options: &Options) -> Result<()> {
    let mut times = Vec::new();
    for (name, engine) in [("tcp", Engine::Tcp), ("zenoh", Engine::Zenoh)] {
        let address = free_address()?;
        let mut command = Command::new(env::current_exe()?);
        command.args(["receive", name, &address]);
        command.args(["--limit", &options.limit.to_string()]);
        command.args(["--timeout", &options.timeout.as_secs().to_string()]);
        let mut receiver = Running(command.stdout(Stdio::piped()).spawn()?);
        let mut lines = BufReader::new(receiver.0.stdout.take().context("no output")?).lines();
        let mut hear = || lines.next().context("the receiver says nothing more")?.context("read");
        say(hear()?)?;

        let (seconds, answer) = send(engine, &address, options).context("sender")?;
        say(hear()?)?;
        let status = receiver.0.wait()?;
        ensure!(status.success(), "the receiver failed: {status}");
        let bytes = options.frames as f64 * options.size as f64;
        say(format_args!(
            "{name}: {answer}, in {seconds:.3} s: {:.0} MB/s",
            bytes / seconds / 1e6
        ))?;
        times.push(seconds);
    }
    say(format_args!("zenoh takes {:.2} times as long as tcp", times[1] / times[0]))
}

/// Somebody else can take the port before the receiver does, which then says so.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many seconds it took from the first frame to the answer, and the answer.
fn send(engine: Engine, address: &str, options: &Options) -> Result<(f64, String)> {
    let len = usize::try_from(options.size)?;
    // A few, in turn: to make a frame is not what is measured.
    let frames = (0..options.frames.min(4))
        .map(|salt| SealedFile::from_bytes("frame", pattern(len, salt)))
        .collect::<io::Result<Vec<_>>>()?;
    let mut outgoing: Box<dyn Outgoing> = match engine {
        Engine::Tcp => Box::new(tcp::Sender::connect(address, options.timeout)?),
        Engine::Zenoh => Box::new(through_zenoh::Sender::connect(address, options.timeout)?),
    };

    let began = Instant::now();
    for number in 0..options.frames {
        let frame = &frames[(number % frames.len() as u64) as usize];
        let bytes = Bytes::from_owner(frame.map_read_only()?);
        let header = Header { number, len: bytes.len() as u64 };
        outgoing.send(header, bytes).with_context(|| format!("frame {number}"))?;
    }
    outgoing.send(Header::end(options.frames), Bytes::new())?;
    let answer = outgoing.answer()?;
    let seconds = began.elapsed().as_secs_f64();

    let mut sent = Summary::default();
    for number in 0..options.frames {
        sent.add(&frames[(number % frames.len() as u64) as usize].map_read_only()?);
    }
    ensure!(answer == sent.to_string(), "sent {sent}, but the receiver has {answer}");
    Ok((seconds, answer))
}

fn pattern(len: usize, salt: u64) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251 + salt as usize) as u8).collect()
}

/// Makes sealed files of what arrives, and hands them on.
fn receive(engine: Engine, address: &str, options: &Options) -> Result<()> {
    let (socket, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut consumer = Running(
        Command::new(env::current_exe()?)
            .env(CONSUMER, options.limit.to_string())
            .stdin(theirs)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut incoming: Box<dyn Incoming> = match engine {
        Engine::Tcp => Box::new(tcp::Receiver::listen(address, options.timeout)?),
        Engine::Zenoh => Box::new(through_zenoh::Receiver::listen(address, options)?),
    };
    let mut expected = Expected::new(options.limit);
    loop {
        let header = incoming.next()?;
        if !expected.admit(header)? {
            break;
        }
        let frame = SealedFile::build("frame", header.len, |frame| incoming.read(frame))?;
        let record = header.number.to_le_bytes();
        send_fds(&socket, &record, &[frame.as_fd()]).context("the consumer is gone")?;
    }
    drop(socket);
    let mut summary = String::new();
    consumer.0.stdout.take().context("no output")?.read_to_string(&mut summary)?;
    let status = consumer.0.wait()?;
    ensure!(status.success(), "the consumer failed: {status}");
    say(format_args!("consumer: {summary}"))?;
    incoming.answer(&summary)
}

/// The third process: it maps what it is sent.
fn consume() -> Result<()> {
    let limit = env::var(CONSUMER)?.parse()?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let mut summary = Summary::default();
    let mut number = [0; 8];
    while let (1.., fd) = recv_fd(&socket, &mut number)? {
        let fd = fd.context("no descriptor")?;
        let frame = SealedFile::receive_read_only(fd, &SealPolicy::untrusted(limit))?;
        summary.add(&frame.map_read_only()?);
    }
    write!(io::stdout(), "{summary}").context("standard output")
}

#[derive(Default)]
struct Summary {
    frames: u64,
    checksum: crc32fast::Hasher,
    bytes: u64,
}

impl Summary {
    fn add(&mut self, frame: &[u8]) {
        self.frames += 1;
        self.bytes += frame.len() as u64;
        self.checksum.update(frame);
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let checksum = self.checksum.clone().finalize();
        write!(f, "{} frames, {} bytes, CRC-32 {checksum:08x}", self.frames, self.bytes)
    }
}
