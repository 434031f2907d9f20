//! Frames of memory from one process to another: sealed and sent as files, or copied as bytes.
//!
//! A producer makes a memfd for each frame, seals it, and sends it over a Unix socket with a small
//! header. A consumer, a process of its own, takes it as from a peer that nobody trusts, reads it in
//! place, and answers with its checksum. Then the same frames go through the same kind of socket as
//! bytes, for comparison.
//!
//! ```text
//! cargo run --release --example frames -- [--frames N] [--size BYTES] [--copy] [FILE]
//! ```
//!
//! FILE, or standard input for `-`, of at most 1 GiB, is cut into frames of BYTES bytes, and begun
//! anew if N asks for more; without it the frames are made up. With `--copy` they go as bytes only.
//!
//! The exit status is 0 if every frame arrived as it was sent, and if neither process has more
//! descriptors, mappings or memory at the end than it had after 1 % of the frames.

use std::collections::VecDeque;
use std::env;
use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{SealPolicy, SealedFile};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// How many frames the producer is ahead of the answers, so that neither side waits for the other
/// at every frame. So few answers always fit into the socket: the consumer can send its own without
/// waiting, and goes on to receive what the producer may be waiting to send.
const WINDOW: usize = 16;

const USAGE: &str = "usage: frames [--frames N] [--size BYTES] [--copy] [FILE]";

/// The longest frame and the longest input.
const LIMIT: usize = 1 << 30;

fn main() -> ExitCode {
    let done = Options::parse()
        .map_err(|error| format!("{error}\n{USAGE}").into())
        .and_then(|options| if options.consumer { consume(&options) } else { produce(options) });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "frames: {error}");
            ExitCode::FAILURE
        }
    }
}

// The heart of it: a frame that is sent sealed.

fn send_sealed(socket: &mut UnixStream, header: Header, frame: &[u8]) -> io::Result<()> {
    let file = SealedFile::from_bytes("frame", frame)?;
    let header = header.to_bytes();
    let sent = send_fds(&*socket, &header, &[file.as_fd()])?;
    socket.write_all(&header[sent..])
}

fn checksum_in_place(header: Header, fd: Option<OwnedFd>) -> Result<u32> {
    let fd = fd.ok_or("a frame came without its file")?;
    let file = SealedFile::receive_read_only(fd, &SealPolicy::untrusted(header.len))?;
    let frame = file.map_read_only()?; // a `&[u8]` that nobody can change
    Ok(crc32fast::hash(&frame))
}

// The same with copies.

fn send_copied(socket: &mut UnixStream, header: Header, frame: &[u8]) -> io::Result<()> {
    socket.write_all(&header.to_bytes())?;
    socket.write_all(frame)
}

fn checksum_of_copy(header: Header, socket: &mut UnixStream, copy: &mut Vec<u8>) -> Result<u32> {
    copy.resize(header.len as usize, 0);
    socket.read_exact(copy)?;
    Ok(crc32fast::hash(copy))
}

// What both ways have in common.

/// That nobody reads the output any longer (`| head`) does no harm to the frames.
fn say(line: impl fmt::Display) -> io::Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        said => said,
    }
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

    /// The next header, and the descriptor that came with it; `None` at the end of the stream.
    fn receive(socket: &mut UnixStream) -> io::Result<Option<(Self, Option<OwnedFd>)>> {
        let mut bytes = [0; Self::SIZE];
        let (count, fd) = recv_fd(&*socket, &mut bytes)?;
        if count == 0 {
            return Ok(None);
        }
        socket.read_exact(&mut bytes[count..])?;
        let [len @ .., c0, c1, c2, c3] = bytes;
        let checksum = u32::from_le_bytes([c0, c1, c2, c3]);
        Ok(Some((Self { len: u64::from_le_bytes(len), checksum }, fd)))
    }
}

/// Receives, checks and answers frames on standard input, which is the socket.
fn consume(options: &Options) -> Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (mut copy, mut warm, mut received) = (Vec::new(), None, 0);
    while let Some((header, fd)) = Header::receive(&mut socket)? {
        received += 1;
        if header.len > options.size as u64 {
            return Err(format!("frame {received} is announced with {} bytes", header.len).into());
        }
        let checksum = if options.copy {
            checksum_of_copy(header, &mut socket, &mut copy)
        } else {
            checksum_in_place(header, fd)
        };
        let checksum = checksum.map_err(|error| format!("frame {received}: {error}"))?;
        if checksum != header.checksum {
            return Err(format!("frame {received} is not as it was sent").into());
        }
        if options.is_warm(received) {
            warm = Some(Usage::now()?);
        }
        socket.write_all(&checksum.to_le_bytes())?;
    }
    if received != options.frames {
        return Err(format!("the producer left after {received} of {}", options.frames).into());
    }
    Usage::expect_flat("consumer", warm)
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
    let (ours, theirs) = UnixStream::pair()?;
    // The `Command` keeps the consumer's end open, so it must not live on: a consumer that dies
    // would go unnoticed.
    let mut consumer = Command::new(env::current_exe()?)
        .arg("--consumer")
        .arg(format!("--frames={}", options.frames))
        .arg(format!("--size={}", options.size))
        .args(options.copy.then_some("--copy"))
        .stdin(OwnedFd::from(theirs))
        .spawn()?;
    let sent = send_all(options, input, ours);
    let status = consumer.wait()?;
    match sent {
        Ok(time) if status.success() => Ok(time),
        Ok(_) => Err(format!("the consumer failed: {status}").into()),
        Err(error) => Err(format!("{error}; the consumer ended with {status}").into()),
    }
}

/// Sends every frame and awaits every answer. The socket is closed at the end, whatever happened,
/// which ends the consumer.
fn send_all(options: &Options, input: &[u8], mut socket: UnixStream) -> Result<Duration> {
    let send = if options.copy { send_copied } else { send_sealed };
    let mut frames = (0..options.frames).zip(input.chunks(options.size).cycle());
    let (mut unanswered, mut warm) = (VecDeque::with_capacity(WINDOW), None);
    let mut progress = Progress::new(options);
    while progress.frames < options.frames {
        let next = if unanswered.len() < WINDOW { frames.next() } else { None };
        if let Some((_, frame)) = next {
            let header = Header { len: frame.len() as u64, checksum: crc32fast::hash(frame) };
            send(&mut socket, header, frame)?;
            unanswered.push_back(header);
        } else if let Some(header) = unanswered.pop_front() {
            let mut answer = [0; 4];
            socket.read_exact(&mut answer).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => "the consumer has gone".into(),
                _ => error.to_string(),
            })?;
            progress.frames += 1;
            progress.bytes += header.len;
            if u32::from_le_bytes(answer) != header.checksum {
                return Err(format!("frame {} arrived as another", progress.frames).into());
            }
            if options.is_warm(progress.frames) {
                warm = Some(Usage::now()?);
            }
            progress.show();
        }
    }
    let time = progress.start.elapsed();
    say(&progress)?;
    Usage::expect_flat("producer", warm)?;
    Ok(time)
}

/// What this process holds, as the kernel tells.
struct Usage {
    descriptors: usize,
    mappings: usize,
    resident_kib: u64,
}

impl Usage {
    fn now() -> Result<Self> {
        let memory = fs::read_to_string("/proc/self/smaps_rollup")?;
        let mut words = memory.split_whitespace().skip_while(|word| *word != "Rss:").skip(1);
        Ok(Self {
            descriptors: fs::read_dir("/proc/self/fd")?.count(),
            mappings: fs::read_to_string("/proc/self/maps")?.lines().count(),
            resident_kib: words.next().ok_or("/proc/self/smaps_rollup has no Rss")?.parse()?,
        })
    }

    /// Compares what was held when the process had become warm with what is held now.
    fn expect_flat(name: &str, warm: Option<Self>) -> Result<()> {
        // Code that runs for the first time, and the allocator, take a page now and then.
        const SLACK_KIB: u64 = 1024;

        let (warm, end) = (warm.ok_or("no frame was sent")?, Self::now()?);
        say(format_args!("  {name}: {warm} after 1 %; {end} at the end"))?;
        let flat = end.descriptors <= warm.descriptors
            && end.mappings <= warm.mappings
            && end.resident_kib <= warm.resident_kib + SLACK_KIB;
        if flat { Ok(()) } else { Err(format!("the {name} holds more and more").into()) }
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

    /// One line that is written over on a terminal, and elsewhere a new one now and then.
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
    /// 0 stands for all that the input has.
    frames: u64,
    size: usize,
    copy: bool,
    consumer: bool,
    input: Option<PathBuf>,
}

impl Options {
    fn parse() -> Result<Self> {
        use lexopt::prelude::*;

        let mut options =
            Self { frames: 0, size: 64 << 10, copy: false, consumer: false, input: None };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("frames") => {
                    options.frames = arguments.value()?.parse::<NonZero<u64>>()?.get()
                }
                Long("size") => options.size = arguments.value()?.parse()?,
                Long("copy") => options.copy = true,
                Long("consumer") => options.consumer = true,
                Value(path) if options.input.is_none() => options.input = Some(path.into()),
                _ => return Err(argument.unexpected().into()),
            }
        }
        if options.input.is_none() && options.frames == 0 {
            options.frames = 20_000;
        }
        if (1..=LIMIT).contains(&options.size) {
            Ok(options)
        } else {
            Err("a frame has at least 1 byte and at most 1 GiB".into())
        }
    }

    /// Whether 1 % of the frames have passed, just now.
    fn is_warm(&self, frames: u64) -> bool {
        frames == self.frames.div_ceil(100)
    }

    fn input(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let Some(path) = &self.input else {
            let mut state = 1_u32;
            bytes.resize_with(self.size * (1_usize << 20).div_ceil(self.size), || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            });
            return Ok(bytes);
        };
        let most = LIMIT as u64 + 1;
        let read = if path.as_os_str() == "-" {
            io::stdin().take(most).read_to_end(&mut bytes)
        } else {
            fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
        };
        match read {
            Ok(0) => Err(format!("{}: there is nothing in it to send", path.display()).into()),
            Ok(len) if len > LIMIT => Err(format!("{}: more than 1 GiB", path.display()).into()),
            Ok(_) => Ok(bytes),
            Err(error) => Err(format!("{}: {error}", path.display()).into()),
        }
    }
}
