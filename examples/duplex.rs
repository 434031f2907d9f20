//! Requests and replies between two processes, over two rings: one in each direction.
//!
//! ```sh
//! cargo run --release --example duplex
//! cargo run --release --example duplex -- --requests 1000000 --size 4096
//! ```
//!
//! The client starts a service, which is a process of its own and answers each request with its checksum.
//! First the client waits for each reply, then it has up to 64 requests under way. A ring has a socket of
//! its own, so there are two: the service has one as standard input, for requests, and the other as
//! standard output, for replies.
//!
//! Neither trusts the other. Two full rings could make both wait for each other; here they cannot, because
//! all requests and replies that are under way have room in their rings.

use std::env;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use sealed_mmap::SealPolicy;
use sealed_mmap::ring::{Received, Receiver, SendError, Sender};

const USAGE: &str = "usage: duplex [--requests N] [--size BYTES]";

const HELP: &str = "\
Sends requests to a second process, which answers each with its checksum, over
two rings in shared memory. First one request at a time, and then up to 64.

  --requests N   how many, 100000 by default
  --size BYTES   the size of a request, 100 by default and 1048576 at most

The exit status is 0 if every reply was right.";

/// How many requests are under way at most.
const MOST_UNDER_WAY: u64 = 64;

/// The longest request.
const LIMIT: usize = 1 << 20;

/// Of the longer ring: room for all requests that are under way, and a cache line for each.
const MOST_MEMORY: u64 = MOST_UNDER_WAY * (LIMIT as u64 + 128);

/// The environment variable that turns this program into the service, for so many requests.
const SERVICE: &str = "DUPLEX_SERVICE";

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let done = match env::var(SERVICE) {
        Ok(count) => serve(&count).context("service"),
        Err(_) => ask(),
    };
    let is_closed_pipe = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads the output any longer: `| head`.
        Err(error) if error.downcast_ref().is_some_and(is_closed_pipe) => ExitCode::FAILURE,
        Err(error) => {
            // In one piece, for several processes write there.
            let _ = io::stderr().write_all(format!("duplex: {error:#}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn say(line: impl Display) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("standard output")
}

/// How many requests of which size, or `None` if the user asks for help.
fn parse_arguments() -> Result<Option<(u64, usize)>> {
    use lexopt::prelude::*;

    let (mut requests, mut size) = (100_000, 100);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("requests") => requests = arguments.value()?.parse::<NonZero<u64>>()?.get(),
            Long("size") => size = arguments.value()?.parse()?,
            _ => return Err(argument.unexpected().into()),
        }
    }
    ensure!(size <= LIMIT, "a request has at most {LIMIT} bytes");
    Ok(Some((requests, size)))
}

// The service.

fn serve(count: &str) -> Result<()> {
    let count: u64 = count.parse().context(SERVICE)?;
    let requests = io::stdin().as_fd().try_clone_to_owned()?;
    let replies = io::stdout().as_fd().try_clone_to_owned()?;
    let policy = SealPolicy::untrusted_live(MOST_MEMORY + 8192);
    let mut requests = Receiver::accept(requests, &policy, PATIENCE).context("requests")?;
    let mut replies = Sender::offer(replies, "replies", MOST_UNDER_WAY as usize * 128)
        .and_then(|offer| offer.accept(&policy, PATIENCE))
        .context("replies")?;
    let (mut request, mut answered) = (Vec::new(), 0_u64);
    while let Received::Record(_) = requests.recv(&mut request, Duration::MAX)? {
        match replies.send(&crc32fast::hash(&request).to_le_bytes(), Duration::MAX) {
            Err(SendError::Ended) => break,
            sent => sent.map_err(io::Error::from)?,
        }
        answered += 1;
    }
    ensure!(answered >= count, "the client left after {answered} of {count} replies");
    Ok(())
}

// The client.

struct Client {
    /// Dropped first, so that a service that is killed does not say that the client has left.
    service: Service,
    requests: Sender,
    replies: Receiver,
}

/// A process that is killed if nobody waits for its end.
struct Service(Child);

impl Client {
    /// Starts the service, and makes a ring in each direction.
    fn start(size: usize, count: u64) -> Result<Self> {
        let program = env::current_exe().context("cannot find the program to start")?;
        let (ours, stdin) = UnixStream::pair().context("cannot create a pair of sockets")?;
        let (our_replies, stdout) =
            UnixStream::pair().context("cannot create a pair of sockets")?;
        // The `Command` is dropped at once: it holds the service's ends of the sockets, which would keep a
        // dead service from being noticed.
        let service = Command::new(&program)
            .env(SERVICE, count.to_string())
            .stdin(OwnedFd::from(stdin))
            .stdout(OwnedFd::from(stdout))
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let service = Service(service);
        let policy = SealPolicy::untrusted_live(1 << 20);
        let capacity = MOST_UNDER_WAY as usize * (size + 128);
        let requests = Sender::offer(ours, "requests", capacity)
            .and_then(|offer| offer.accept(&policy, PATIENCE))
            .context("requests")?;
        let replies = Receiver::accept(our_replies, &policy, PATIENCE).context("replies")?;
        Ok(Self { service, requests, replies })
    }

    /// Sends requests, up to `most` before their replies have come, and returns how many were answered.
    fn ask(&mut self, requests: &[Vec<u8>], count: u64, most: u64) -> (u64, Result<()>) {
        let checksums: Vec<_> = requests.iter().map(|request| crc32fast::hash(request)).collect();
        let nth = |number: u64| (number % requests.len() as u64) as usize;
        let (mut asked, mut answered, mut reply) = (0, 0, [0; 4]);
        while answered < count {
            if asked < count && asked - answered < most {
                if let Err(error) = self.requests.send(&requests[nth(asked)], Duration::MAX) {
                    return (answered, Err(io::Error::from(error).into()));
                }
                asked += 1;
                continue;
            }
            match self.replies.recv_into(&mut reply, Duration::MAX) {
                Ok(Received::Record(4))
                    if u32::from_le_bytes(reply) == checksums[nth(answered)] =>
                {
                    answered += 1;
                }
                Ok(Received::Record(_)) => return (answered, Err(anyhow!("a reply is wrong"))),
                Ok(_) => return (answered, Err(io::Error::from(ErrorKind::UnexpectedEof).into())),
                Err(error) => return (answered, Err(error.into())),
            }
        }
        (answered, Ok(()))
    }
}

impl Service {
    fn end(&mut self) -> Result<ExitStatus> {
        self.0.wait().context("cannot wait for the service")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask() -> Result<()> {
    let (count, size) = match parse_arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return say(format_args!("{HELP}\n\n{USAGE}")),
        Err(error) => bail!("{error}\n{USAGE}"),
    };
    // A few that differ.
    let requests: Vec<_> = (0..16_u8).map(|n| vec![n; size]).collect();
    let mut client = Client::start(size, count.saturating_mul(2))?;
    for most in [1, MOST_UNDER_WAY] {
        let start = Instant::now();
        let (answered, asked) = client.ask(&requests, count, most);
        if let Err(error) = asked {
            if !has_left(&error) {
                return Err(error);
            }
            let status = client.service.end()?;
            bail!("the service left after {answered} of {count} replies; it ended with {status}");
        }
        let micros = start.elapsed().as_secs_f64() / count as f64 * 1e6;
        say(format_args!("{count} requests, {most:>2} at a time: {micros:>6.2} µs each"))?;
    }
    let Client { requests, replies, mut service } = client;
    drop((requests, replies)); // which ends the service
    let status = service.end()?;
    ensure!(status.success(), "the service failed: {status}");
    Ok(())
}

fn has_left(error: &Error) -> bool {
    let gone = |error: &io::Error| {
        matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof)
    };
    error.downcast_ref().is_some_and(gone)
}
