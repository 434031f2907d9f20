//! Frames of memory from one process to another: sealed and sent as files, or copied as bytes.
//!
//! A producer puts each frame into a memfd, seals the memfd, and sends it over a Unix socket with a
//! small header. A consumer, which is a process of its own, trusts nothing that it receives, reads the
//! frame in place, and answers with a checksum. Then the same frames go through the same kind of
//! socket as bytes, for comparison.
//!
//! ```text
//! cargo run --release --example frames -- [--frames N] [--size BYTES] [--copy] [FILE]
//! ```
//!
//! `--help` explains the options. The exit status is 0 if every frame arrived as it was sent, and if
//! neither process holds more descriptors, mappings or memory at the end than after 1 % of the frames.

use std::collections::VecDeque;
use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, IsTerminal, Read, Seek, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{SealPolicy, SealedFile};

/// How many frames the producer sends before it waits for an answer, so that neither side waits for
/// the other at every frame. So few answers always fit into the socket: the consumer never blocks on
/// an answer, and so goes on to receive what the producer is sending.
const WINDOW: usize = 16;

/// The longest frame and the longest input.
const LIMIT: usize = 1 << 30;

const USAGE: &str = "usage: frames [--frames N] [--size BYTES] [--copy] [FILE]";

const HELP: &str = "\
Sends frames of memory to a second process: first as sealed files, which it reads in place, and then
as bytes, which are copied through the socket.

FILE is cut into frames. It is 1 GiB at most; \"-\" is standard input, from its current offset to its
end. Without FILE, the frames are made up.

  --frames N     how many to send; FILE starts over if it is too short. The default is all of FILE,
                 or 20000 without FILE
  --size BYTES   the size of a frame, 65536 by default and 1 GiB at most
  --copy         only copy the frames

The exit status is 0 if every frame arrived as it was sent, and if neither process holds more
descriptors, mappings or memory at the end than after 1 % of the frames.";

fn main() -> ExitCode {
    let done = match Options::parse() {
        Ok(Some(options)) if options.consumer => consume(&options).context("consumer"),
        Ok(Some(options)) => produce(options),
        Ok(None) => say(format_args!("{HELP}\n\n{USAGE}")),
        Err(error) => Err(anyhow!("{error}\n{USAGE}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "frames: {error:#}");
            ExitCode::FAILURE
        }
    }
}

// The heart of it: a frame that is sent sealed.

fn send_sealed(socket: &mut UnixStream, header: Header, frame: &[u8]) -> Result<()> {
    let file = SealedFile::from_bytes("frame", frame).context("cannot create its file")?;
    let header = header.to_bytes();
    let sent = send_fds(&*socket, &header, &[file.as_fd()])?;
    Ok(socket.write_all(&header[sent..])?)
}

fn checksum_in_place(header: Header, fd: Option<OwnedFd>) -> Result<u32> {
    let fd = fd.context("it came without its file")?;
    let file = SealedFile::receive_read_only(fd, &SealPolicy::untrusted(header.len))?;
    let frame = file.map_read_only()?; // a `&[u8]` that nobody can change
    Ok(crc32fast::hash(&frame))
}

// The same with copies.

fn send_copied(socket: &mut UnixStream, header: Header, frame: &[u8]) -> Result<()> {
    socket.write_all(&header.to_bytes())?;
    Ok(socket.write_all(frame)?)
}

fn checksum_of_copy(header: Header, socket: &mut UnixStream, copy: &mut Vec<u8>) -> Result<u32> {
    copy.resize(header.len as usize, 0);
    socket.read_exact(copy)?;
    Ok(crc32fast::hash(copy))
}

// What both ways have in common.

fn say(line: impl fmt::Display) -> Result<()> {
    match writeln!(io::stdout(), "{line}") {
        // Nobody reads the output any longer (`| head`), which does the frames no harm.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        said => said.context("standard output"),
    }
}

/// Whether the peer has closed the socket, or has died.
fn has_left(error: &anyhow::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};

    let gone =
        |error: &io::Error| matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof);
    error.downcast_ref().is_some_and(gone)
}

#[derive(Clone, Copy)]
struct Header {
    len: u64,
    checksum: u32,
}

impl Header {
    const SIZE: usize = 12;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.len.to_le_bytes());
        bytes[8..].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// The next header, and the descriptor that came with it.
    fn receive(socket: &mut UnixStream) -> io::Result<(Self, Option<OwnedFd>)> {
        let mut bytes = [0; Self::SIZE];
        let (count, fd) = recv_fd(&*socket, &mut bytes)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        socket.read_exact(&mut bytes[count..])?;
        let [len @ .., c0, c1, c2, c3] = bytes;
        let checksum = u32::from_le_bytes([c0, c1, c2, c3]);
        Ok((Self { len: u64::from_le_bytes(len), checksum }, fd))
    }
}

/// Receives, checks and answers frames on standard input, which is the socket.
fn consume(options: &Options) -> Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.local_addr().context("standard input is not a socket")?;
    let (mut copy, mut warm) = (Vec::new(), None);
    for frame in 1..=options.frames {
        match answer(options, &mut socket, &mut copy) {
            Err(error) if has_left(&error) => {
                bail!("the producer left after {} of {} frames", frame - 1, options.frames)
            }
            answered => answered.with_context(|| format!("frame {frame}"))?,
        }
        if options.is_warm(frame) {
            warm = Some(Usage::now()?);
        }
    }
    Usage::expect_flat("consumer", warm)
}

fn answer(options: &Options, socket: &mut UnixStream, copy: &mut Vec<u8>) -> Result<()> {
    let (header, fd) = Header::receive(socket)?;
    ensure!(header.len <= options.size as u64, "it is announced with {} bytes", header.len);
    let checksum = if options.copy {
        checksum_of_copy(header, socket, copy)?
    } else {
        checksum_in_place(header, fd)?
    };
    ensure!(checksum == header.checksum, "it is not as it was sent");
    Ok(socket.write_all(&checksum.to_le_bytes())?)
}

fn produce(mut options: Options) -> Result<()> {
    let input = options.input()?;
    if options.frames == 0 {
        options.frames = input.chunks(options.size).len() as u64;
    }
    let sealed = if options.copy { None } else { Some(produce_one_way(&options, &input)?) };
    options.copy = true;
    let copied = produce_one_way(&options, &input)?;
    if let Some(sealed) = sealed {
        let ratio = sealed.as_secs_f64() / copied.as_secs_f64();
        say(format_args!("sealed frames took {ratio:.2} times as long as copied ones"))?;
    }
    Ok(())
}

fn produce_one_way(options: &Options, input: &[u8]) -> Result<Duration> {
    let (ours, theirs) = UnixStream::pair().context("cannot create a pair of sockets")?;
    let program = env::current_exe().context("cannot find the program to start as the consumer")?;
    // The `Command` is dropped at once: it holds the consumer's end of the socket, which would keep a
    // dead consumer from being noticed.
    let consumer = Command::new(&program)
        .arg("--consumer")
        .arg(format!("--frames={}", options.frames))
        .arg(format!("--size={}", options.size))
        .args(options.copy.then_some("--copy"))
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {} as the consumer", program.display()))?;
    let sent = send_all(options, input, ours);
    let consumer = consumer.wait_with_output().context("cannot wait for the consumer")?;
    let status = consumer.status;
    let time = match sent {
        Err(error) if !status.success() => bail!("{error:#}; the consumer ended with {status}"),
        sent => sent?,
    };
    say(String::from_utf8_lossy(&consumer.stdout).trim_end())?;
    ensure!(status.success(), "the consumer failed: {status}");
    Ok(time)
}

/// Sends every frame and awaits every answer. Drops the socket in any case, which ends the consumer.
fn send_all(options: &Options, input: &[u8], mut socket: UnixStream) -> Result<Duration> {
    let mut progress = Progress::new(options);
    let sent = send_frames(&mut progress, input, &mut socket);
    let time = progress.start.elapsed();
    progress.clear();
    let warm = match sent {
        Err(error) if has_left(&error) => {
            bail!("the consumer left after {} of {} frames", progress.frames, options.frames)
        }
        sent => sent?,
    };
    say(&progress)?;
    Usage::expect_flat("producer", warm)?;
    Ok(time)
}

/// Returns what the process held after 1 % of the frames.
fn send_frames(
    progress: &mut Progress<'_>,
    input: &[u8],
    socket: &mut UnixStream,
) -> Result<Option<Usage>> {
    let options = progress.options;
    let send = if options.copy { send_copied } else { send_sealed };
    let mut frames = (1..=options.frames).zip(input.chunks(options.size).cycle());
    let (mut unanswered, mut warm) = (VecDeque::with_capacity(WINDOW), None);
    while progress.frames < options.frames {
        let next = if unanswered.len() < WINDOW { frames.next() } else { None };
        if let Some((number, frame)) = next {
            let header = Header { len: frame.len() as u64, checksum: crc32fast::hash(frame) };
            send(socket, header, frame).with_context(|| format!("frame {number}"))?;
            unanswered.push_back(header);
        } else if let Some(header) = unanswered.pop_front() {
            let mut answer = [0; 4];
            socket.read_exact(&mut answer)?;
            progress.frames += 1;
            progress.bytes += header.len;
            let is_same = u32::from_le_bytes(answer) == header.checksum;
            ensure!(is_same, "frame {} arrived as another", progress.frames);
            if options.is_warm(progress.frames) {
                warm = Some(Usage::now()?);
            }
            progress.show();
        }
    }
    Ok(warm)
}

/// What this process holds, by the kernel's account.
struct Usage {
    descriptors: usize,
    mappings: usize,
    resident_kib: u64,
}

impl Usage {
    fn now() -> Result<Self> {
        const MEMORY: &str = "/proc/self/smaps_rollup";
        const MAPPINGS: &str = "/proc/self/maps";
        const DESCRIPTORS: &str = "/proc/self/fd";

        let memory = fs::read_to_string(MEMORY).context(MEMORY)?;
        let mut words = memory.split_whitespace().skip_while(|word| *word != "Rss:").skip(1);
        let resident = words.next().and_then(|kib| kib.parse().ok());
        Ok(Self {
            descriptors: fs::read_dir(DESCRIPTORS).context(DESCRIPTORS)?.count(),
            mappings: fs::read_to_string(MAPPINGS).context(MAPPINGS)?.lines().count(),
            resident_kib: resident.with_context(|| format!("{MEMORY}: there is no Rss"))?,
        })
    }

    /// Compares what this process holds now with what it held when it was warm.
    fn expect_flat(name: &str, warm: Option<Self>) -> Result<()> {
        // For the allocator, and for code that runs for the first time.
        const SLACK_KIB: u64 = 1024;

        let (warm, end) = (warm.context("no frame was sent")?, Self::now()?);
        say(format_args!("  {name}: {warm} after 1 %; {end} at the end"))?;
        let flat = end.descriptors <= warm.descriptors
            && end.mappings <= warm.mappings
            && end.resident_kib <= warm.resident_kib + SLACK_KIB;
        ensure!(flat, "the {name} holds more and more");
        Ok(())
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, mappings, resident_kib } = self;
        write!(f, "{descriptors} descriptors, {mappings} mappings, {resident_kib} KiB")
    }
}

struct Progress<'a> {
    options: &'a Options,
    frames: u64,
    bytes: u64,
    start: Instant,
    shown: Instant,
}

impl<'a> Progress<'a> {
    fn new(options: &'a Options) -> Self {
        let now = Instant::now();
        Self { options, frames: 0, bytes: 0, start: now, shown: now }
    }

    /// A line that is overwritten on a terminal, and a new one now and then elsewhere.
    fn show(&mut self) {
        const OFTEN: Duration = Duration::from_millis(100);
        const SELDOM: Duration = Duration::from_secs(5);

        let pause = self.shown.elapsed();
        if pause >= OFTEN && (pause >= SELDOM || io::stderr().is_terminal()) {
            let end = if io::stderr().is_terminal() { "\x1b[K\r" } else { "\n" };
            let _ = write!(io::stderr(), "{self}{end}");
            self.shown = Instant::now();
        }
    }

    fn clear(&self) {
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\x1b[K");
        }
    }
}

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.options.copy { "copied" } else { "sealed" };
        let (frames, all, seconds) =
            (self.frames, self.options.frames, self.start.elapsed().as_secs_f64());
        let (rate, mb) = (frames as f64 / seconds, self.bytes as f64 / seconds / 1e6);
        write!(
            f,
            "{way}: {frames} of {all} frames in {seconds:.2} s, {rate:>7.0} frames/s, {mb:>5.0} MB/s"
        )
    }
}

struct Options {
    /// 0 means all that the input has.
    frames: u64,
    size: usize,
    copy: bool,
    consumer: bool,
    input: Option<PathBuf>,
}

impl Options {
    /// `None` if the user asks for help.
    fn parse() -> Result<Option<Self>> {
        use lexopt::prelude::*;

        let mut options =
            Self { frames: 0, size: 64 << 10, copy: false, consumer: false, input: None };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Short('h') | Long("help") => return Ok(None),
                Long("frames") => {
                    options.frames = arguments.value()?.parse::<NonZero<u64>>()?.get()
                }
                Long("size") => options.size = arguments.value()?.parse()?,
                Long("copy") => options.copy = true,
                Long("consumer") => options.consumer = true,
                Value(path) if options.input.is_none() && !path.is_empty() => {
                    options.input = Some(path.into())
                }
                _ => return Err(argument.unexpected().into()),
            }
        }
        if options.input.is_none() && options.frames == 0 {
            options.frames = 20_000;
        }
        ensure!(
            (1..=LIMIT).contains(&options.size),
            "a frame has at least 1 byte and at most 1 GiB"
        );
        Ok(Some(options))
    }

    /// Whether 1 % of the frames have passed, just now.
    fn is_warm(&self, frames: u64) -> bool {
        frames == self.frames.div_ceil(100)
    }

    fn input(&self) -> Result<Vec<u8>> {
        let Some(path) = &self.input else {
            let (mut bytes, mut state) = (Vec::new(), 1_u32);
            bytes.resize_with(self.size * (1_usize << 20).div_ceil(self.size), || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            });
            return Ok(bytes);
        };
        let (name, file) = if path.as_os_str() == "-" {
            ("standard input".to_owned(), io::stdin().as_fd().try_clone_to_owned().map(File::from))
        } else {
            (path.display().to_string(), File::open(path))
        };
        let bytes = file.map_err(Into::into).and_then(read_all).with_context(|| name.clone())?;
        ensure!(!bytes.is_empty(), "{name}: there is nothing in it to send");
        Ok(bytes)
    }
}

/// Reads a file from its offset on, and whatever has no offset to its end.
fn read_all(mut file: File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file.stream_position().is_ok() {
        file.take(LIMIT as u64 + 1).read_to_end(&mut bytes)?;
        ensure!(bytes.len() <= LIMIT, "more than 1 GiB");
    } else {
        // It knows how to wait for a non-blocking pipe, and how to read a socket.
        let copy = SealedFile::copy_of("input", file, LIMIT as u64)?;
        bytes.extend_from_slice(&copy.map_read_only()?);
    }
    Ok(bytes)
}
