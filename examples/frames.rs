//! Frames of memory from one process to others, in every way there is: as bytes through a socket and
//! through a pipe, as sealed files, through rings, and by broadcast.
//!
//! ```text
//! cargo run --release --example frames -- [--readers N] [--frames N] [--size BYTES] [--way WAY]... [FILE]
//! ```
//!
//! A producer sends the same frames in each way to consumers, which are processes of their own, trust
//! nothing that they receive, and check every frame. A table at the end compares the ways, and says which
//! to use when. `--help` explains the options.
//!
//! What differs between the ways is [`Outlet::send`] and [`Inlet::receive`]. All else is the same for each:
//! a frame arrives as bytes that its consumer has for itself (a copy, or a file that nobody can change), its
//! checksum is compared, and a consumer answers now and then, so that no more than a few frames are under
//! way. The exit status is 0 if every frame arrived as it was sent, and if no process holds more
//! descriptors, mappings or memory at the end than after 1 % of the frames.

use std::collections::VecDeque;
use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, IoSlice, IsTerminal, Read, Seek, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use sealed_mmap::bell::{Registered, Request};
use sealed_mmap::broadcast::{Next, Publisher, StartAt, Subscriber};
use sealed_mmap::ring::{Received, Receiver, Sender};
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{Producer, SealPolicy, SealedFile};

/// What a pipe and a ring hold, and about how much is under way before the producer waits for answers.
const ROOM: usize = 1 << 20;

/// The longest frame and the longest input.
const LIMIT: usize = 1 << 30;

const MOST_READERS: usize = 16;

/// From how many rounds the time is taken.
const MOST_TIMES: usize = 1000;

/// How long two processes of this program wait for each other before the first frame.
const PATIENCE: Duration = Duration::from_secs(30);

const USAGE: &str = "usage: frames [--readers N] [--frames N] [--size BYTES] [--way WAY]... [FILE]";

const HELP: &str = "\
Sends the same frames of memory to other processes in several ways, and says
which took how long:

  socket     as bytes, through a Unix stream socket
  pipe       as bytes, through a pipe of 1 MiB
  sealed     each as a sealed file, which the reader reads in place
  ring       as records, through a ring in shared memory
  broadcast  as records, written once for all readers

FILE is cut into frames. It is 1 GiB at most; \"-\" is standard input, from its
current offset to its end. Without FILE, the frames are made up.

  --readers N    to how many processes, 1 by default and 16 at most. Each has a
                 socket, a pipe or a ring of its own; sealed files and a
                 broadcast are for all of them
  --frames N     how many to send; FILE starts over if it is too short. The
                 default is all of FILE, or without FILE what makes 1.3 GB
  --size BYTES   the size of a frame, 65536 by default and 1 GiB at most
  --way WAY      only in this way; may be given several times. The default is
                 every way, but broadcast only to several readers
  --copy         the same as --way socket

The ways take turns, a few frames each. The time is what one turn in ten
reached: in the others, the machine may have been busy with other things.
The exit status is 0 if every frame arrived as it was sent, and if no process
holds more descriptors, mappings or memory at the end than after 1 % of them.";

fn main() -> ExitCode {
    let done = match Options::parse() {
        Ok(Some(options)) => match &options.consumer {
            Some(name) => consume(&options, name).with_context(|| name.clone()),
            None => produce(options),
        },
        Ok(None) => say(format_args!("{HELP}\n\n{USAGE}")),
        Err(error) => Err(anyhow!("{error}\n{USAGE}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In one piece, for several processes write there.
            let _ = io::stderr().write_all(format!("frames: {error:#}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

// The heart of it: a frame that is sent, and a frame that is received.

/// Where the producer puts frames, with a channel to each consumer.
enum Outlet {
    /// Sockets or pipes.
    Bytes(Vec<File>),
    Sealed(Vec<UnixStream>),
    Rings(Vec<Sender>),
    Broadcast(Publisher),
}

impl Outlet {
    fn send(&mut self, header: Header, frame: &[u8]) -> Result<()> {
        let head = header.to_bytes();
        let (len, checksum) = (frame.len(), header.checksum.to_le_bytes());
        match self {
            Self::Bytes(channels) => to_each(channels, |channel| {
                let sent = channel.write_vectored(&[IoSlice::new(&head), IoSlice::new(frame)])?;
                channel.write_all(&head[sent.min(head.len())..])?;
                Ok(channel.write_all(&frame[sent.saturating_sub(head.len())..])?)
            }),
            Self::Sealed(sockets) => {
                let file =
                    SealedFile::from_bytes("frame", frame).context("cannot create its file")?;
                to_each(sockets, |socket| {
                    let sent = send_fds(&*socket, &head, &[file.as_fd()])?;
                    Ok(socket.write_all(&head[sent..])?)
                })
            }
            Self::Rings(rings) => to_each(rings, |ring| {
                let sent = ring.send_with(len + checksum.len(), Duration::MAX, |slot| {
                    slot.write_at(0, frame)?;
                    slot.write_at(len as u64, &checksum)
                });
                Ok(sent.map_err(io::Error::from)??)
            }),
            Self::Broadcast(publisher) => {
                let (_number, written) = publisher.publish_with(len + checksum.len(), |slot| {
                    slot.write_at(0, frame)?;
                    slot.write_at(len as u64, &checksum)
                })?;
                Ok(written?)
            }
        }
    }
}

/// Where a consumer gets frames from.
enum Inlet {
    Bytes(BufReader<File>),
    Sealed(UnixStream),
    Ring(Receiver),
    Broadcast(Subscriber<Registered>),
}

impl Inlet {
    /// Receives a frame of up to `limit` bytes and checks it, if need be in `copy`.
    fn receive(&mut self, limit: usize, copy: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Bytes(channel) => {
                let mut head = [0; Header::SIZE];
                channel.read_exact(&mut head)?;
                let header = Header::from_bytes(head, limit)?;
                copy.resize(header.len as usize, 0);
                channel.read_exact(copy)?;
                header.check(copy)
            }
            Self::Sealed(socket) => {
                let mut head = [0; Header::SIZE];
                let (count, fd) = recv_fd(&*socket, &mut head)?;
                ensure!(count > 0, io::Error::from(ErrorKind::UnexpectedEof));
                socket.read_exact(&mut head[count..])?;
                let header = Header::from_bytes(head, limit)?;
                let fd = fd.context("it came without its file")?;
                let file = SealedFile::receive_read_only(fd, &SealPolicy::untrusted(header.len))?;
                header.check(&file.map_read_only()?) // a `&[u8]` that nobody can change
            }
            Self::Ring(ring) => match ring.recv(copy, Duration::MAX)? {
                Received::Record(_) => check_record(limit, copy),
                Received::Ended | Received::TimedOut => {
                    bail!(io::Error::from(ErrorKind::UnexpectedEof))
                }
            },
            Self::Broadcast(subscriber) => match subscriber.next(copy, Duration::MAX)? {
                Next::Record(_) => check_record(limit, copy),
                // The producer waits for answers before it would overtake anybody.
                Next::Lagged { missed } => bail!("{missed} frames were overwritten before it"),
                Next::Ended | Next::TimedOut => bail!(io::Error::from(ErrorKind::UnexpectedEof)),
            },
        }
    }
}

/// What stands before a frame that is sent as bytes, or goes with its file.
#[derive(Clone, Copy)]
struct Header {
    len: u64,
    checksum: u32,
}

impl Header {
    const SIZE: usize = 12;

    fn of(frame: &[u8]) -> Self {
        Self { len: frame.len() as u64, checksum: crc32fast::hash(frame) }
    }

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.len.to_le_bytes());
        bytes[8..].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Self::SIZE], limit: usize) -> Result<Self> {
        let [len @ .., c0, c1, c2, c3] = bytes;
        let header =
            Self { len: u64::from_le_bytes(len), checksum: u32::from_le_bytes([c0, c1, c2, c3]) };
        ensure!(header.len <= limit as u64, "it is announced with {} bytes", header.len);
        Ok(header)
    }

    fn check(self, frame: &[u8]) -> Result<()> {
        ensure!(crc32fast::hash(frame) == self.checksum, "it is not as it was sent");
        Ok(())
    }
}

/// Checks a frame with its checksum behind it.
fn check_record(limit: usize, record: &[u8]) -> Result<()> {
    let (frame, checksum) = record.split_last_chunk().context("it came without its checksum")?;
    ensure!(frame.len() <= limit, "it has {} bytes", frame.len());
    Header { len: frame.len() as u64, checksum: u32::from_le_bytes(*checksum) }.check(frame)
}

// How the two get there: every consumer is given the end of a channel over its control socket, which is its
// standard input, and on which it answers.

impl Outlet {
    fn connect(options: &Options, way: Way, consumers: &mut [Consumer]) -> Result<Self> {
        Ok(match way {
            Way::Socket | Way::Pipe => Self::Bytes(to_each_new(consumers, |consumer| {
                let (theirs, ours) = if let Way::Pipe = way { wide_pipe()? } else { sockets()? };
                consumer.give(theirs)?;
                Ok(ours.into())
            })?),
            Way::Sealed => Self::Sealed(to_each_new(consumers, |consumer| {
                let (theirs, ours) = sockets()?;
                consumer.give(theirs)?;
                Ok(ours.into())
            })?),
            Way::Ring => Self::Rings(to_each_new(consumers, |consumer| {
                let (theirs, ours) = sockets()?;
                let offer = Sender::offer(ours, "frames", options.shared_memory(way))
                    .context("cannot create a ring")?;
                consumer.give(theirs)?;
                // The consumer's file has a few hundred bytes.
                Ok(offer.accept(&SealPolicy::untrusted_live(1 << 16), PATIENCE)?)
            })?),
            Way::Broadcast => {
                let mut publisher = Publisher::create("frames", options.shared_memory(way))
                    .context("cannot create the memory to broadcast in")?;
                publisher.wake_anonymous(false); // there are none
                to_each(consumers, |consumer| {
                    let (theirs, ours) = sockets()?;
                    consumer.give(theirs)?;
                    Ok(publisher.admit(ours, &SealPolicy::untrusted_live(1 << 16), PATIENCE)?)
                })?;
                Self::Broadcast(publisher)
            }
        })
    }
}

impl Inlet {
    fn connect(options: &Options, way: Way, control: &UnixStream) -> Result<Self> {
        let (count, channel) = recv_fd(control, &mut [0])?;
        ensure!(count > 0, io::Error::from(ErrorKind::UnexpectedEof));
        let channel = channel.context("the producer gives no channel")?;
        let most = options.shared_memory(way) as u64 + (1 << 16);
        let policy = SealPolicy::untrusted_live(most);
        Ok(match way {
            Way::Socket | Way::Pipe => Self::Bytes(BufReader::new(channel.into())),
            Way::Sealed => Self::Sealed(channel.into()),
            Way::Ring => Self::Ring(Receiver::accept(channel, &policy, PATIENCE)?),
            Way::Broadcast => {
                let request = Request::send(channel)?;
                Self::Broadcast(Subscriber::join(request, StartAt::Oldest, &policy, PATIENCE)?)
            }
        })
    }
}

/// The ends for a consumer and for the producer.
fn sockets() -> Result<(OwnedFd, OwnedFd)> {
    let (theirs, ours) = UnixStream::pair().context("cannot create a pair of sockets")?;
    Ok((theirs.into(), ours.into()))
}

/// As [`sockets`].
fn wide_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).context("cannot create a pipe")?;
    if fcntl_setpipe_size(&ours, ROOM).is_err() {
        // Such as a user that has too many of them.
        let size = fcntl_getpipe_size(&ours).context("cannot ask for the size of a pipe")?;
        say(format_args!("a pipe has only {size} bytes here"))?;
    }
    Ok((theirs, ours))
}

/// A consumer has closed its sockets, or has died.
#[derive(Debug, thiserror::Error)]
#[error("consumer {} left", .0 + 1)]
struct Left(usize);

/// Does something for each consumer in turn.
fn to_each<T>(consumers: &mut [T], mut act: impl FnMut(&mut T) -> Result<()>) -> Result<()> {
    to_each_new(consumers, |consumer| act(consumer)).map(drop::<Vec<()>>)
}

/// As [`to_each`], with what comes of it.
fn to_each_new<T, U>(
    consumers: &mut [T],
    mut act: impl FnMut(&mut T) -> Result<U>,
) -> Result<Vec<U>> {
    let done = consumers.iter_mut().enumerate().map(|(number, consumer)| {
        act(consumer).map_err(|error| if has_left(&error) { Left(number).into() } else { error })
    });
    done.collect()
}

/// Whether the peer has closed the channel, or has died.
fn has_left(error: &Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};

    let gone =
        |error: &io::Error| matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof);
    error.downcast_ref().is_some_and(gone)
}

fn say(line: impl fmt::Display) -> Result<()> {
    match writeln!(io::stdout(), "{line}") {
        // Nobody reads the output any longer (`| head`), which does the frames no harm.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        said => said.context("standard output"),
    }
}

// A consumer.

/// Receives, checks and answers frames. Standard input is the control socket.
fn consume(options: &Options, name: &str) -> Result<()> {
    let mut control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    control.local_addr().context("standard input is not a socket")?;
    let way = *options.ways.first().context("there is no way")?;
    let mut frames = 0;
    match consume_all(options, way, &mut control, &mut frames) {
        Err(error) if has_left(&error) => {
            bail!("the producer left after {frames} of {} frames", options.frames)
        }
        usage => expect_flat(name, usage?, options.shared_memory(way)),
    }
}

/// Returns what the process held after 1 % of the frames and at the end.
fn consume_all(
    options: &Options,
    way: Way,
    control: &mut UnixStream,
    frames: &mut u64,
) -> Result<[Usage; 2]> {
    let (batch, mut copy, mut warm) = (options.window() / 2, Vec::new(), None);
    let mut inlet = Inlet::connect(options, way, control)?;
    control.write_all(&frames.to_le_bytes())?;
    while *frames < options.frames {
        inlet.receive(options.size, &mut copy).with_context(|| format!("frame {}", *frames + 1))?;
        *frames += 1;
        if *frames % batch == 0 || options.ends_round(*frames) {
            control.write_all(&frames.to_le_bytes())?;
        }
        if *frames == options.when_warm() {
            warm = Some(Usage::now()?);
        }
    }
    Ok([warm.context("no frame was sent")?, Usage::now()?])
}

// The producer.

/// A consumer, which is killed if nobody waits for its end.
struct Consumer {
    name: String,
    process: Child,
    control: UnixStream,
    /// How many frames it has received, as it says.
    answered: u64,
}

impl Consumer {
    fn start(options: &Options, way: Way, number: usize) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("cannot create a pair of sockets")?;
        let program =
            env::current_exe().context("cannot find the program to start as a consumer")?;
        let name = match options.readers {
            1 => format!("{way} consumer"),
            _ => format!("{way} consumer {number}"),
        };
        // The `Command` is dropped at once: it holds the consumer's end of the socket, which would keep a
        // dead consumer from being noticed.
        let process = Command::new(&program)
            .arg(format!("--consumer={name}"))
            .arg(format!("--way={way}"))
            .arg(format!("--frames={}", options.frames))
            .arg(format!("--size={}", options.size))
            .arg(format!("--readers={}", options.readers))
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {} as a consumer", program.display()))?;
        Ok(Self { name, process, control: ours, answered: 0 })
    }

    /// Gives it its end of a channel.
    fn give(&self, channel: OwnedFd) -> Result<()> {
        send_fds(&self.control, b"!", &[channel.as_fd()]).context("cannot give it a channel")?;
        Ok(())
    }

    fn read_answer(&mut self) -> Result<u64> {
        let mut answer = [0; 8];
        self.control.read_exact(&mut answer)?;
        Ok(u64::from_le_bytes(answer))
    }

    /// Waits until it has received so many of the frames that were sent.
    fn await_answer(&mut self, frames: u64, sent: u64) -> Result<()> {
        while self.answered < frames {
            let answer = self.read_answer()?;
            let is_new = self.answered < answer && answer <= sent;
            ensure!(is_new, "{} answers {answer} after {}", self.name, self.answered);
            self.answered = answer;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<ExitStatus> {
        self.process.wait().with_context(|| format!("cannot wait for the {}", self.name))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

type Frames<'a> = [(Header, &'a [u8])];

/// One way, with its consumers.
struct Run {
    way: Way,
    consumers: Vec<Consumer>,
    outlet: Outlet,
    sent: u64,
    /// How long a frame took in each of the last rounds, in seconds.
    times: VecDeque<f64>,
}

impl Run {
    fn start(options: &Options, way: Way) -> Result<Self> {
        let mut consumers = Vec::new();
        for number in 1..=options.readers {
            consumers.push(Consumer::start(options, way, number)?);
        }
        let connected = Outlet::connect(options, way, &mut consumers).and_then(|outlet| {
            to_each(&mut consumers, |consumer| consumer.read_answer().map(drop))?; // it is ready
            Ok(outlet)
        });
        let outlet = connected.map_err(|error| explain(error, &mut consumers, options))?;
        Ok(Self { way, consumers, outlet, sent: 0, times: VecDeque::new() })
    }

    /// Sends so many of the frames and awaits every answer.
    fn round(&mut self, options: &Options, frames: &Frames<'_>, end: u64) -> Result<()> {
        let (start, begin) = (Instant::now(), self.sent);
        let done = self.send_until(options, frames, end);
        done.map_err(|error| explain(error, &mut self.consumers, options))?;
        if self.times.len() == MOST_TIMES {
            self.times.pop_front();
        }
        self.times.push_back(start.elapsed().as_secs_f64() / (end - begin) as f64);
        Ok(())
    }

    fn send_until(&mut self, options: &Options, frames: &Frames<'_>, end: u64) -> Result<()> {
        while self.sent < end {
            self.await_answers((self.sent + 1).saturating_sub(options.window()))?;
            let (header, frame) = frames[(self.sent % frames.len() as u64) as usize];
            let sent = self.outlet.send(header, frame);
            self.sent += 1;
            sent.with_context(|| format!("frame {}", self.sent))?;
        }
        self.await_answers(end)
    }

    /// Waits until every consumer has received so many of the frames.
    fn await_answers(&mut self, frames: u64) -> Result<()> {
        to_each(&mut self.consumers, |consumer| consumer.await_answer(frames, self.sent))
    }

    /// In seconds a frame, what one round in ten reached: in the others, the machine may have done other
    /// things.
    fn time(&self) -> f64 {
        let mut times = Vec::from(self.times.clone());
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 10).copied().unwrap_or_default()
    }

    /// Shows what the consumers found.
    fn finish(mut self) -> Result<()> {
        for consumer in &mut self.consumers {
            let mut said = String::new();
            let output = consumer.process.stdout.as_mut().context("it has no output")?;
            output.read_to_string(&mut said).with_context(|| consumer.name.clone())?;
            say(said.trim_end())?;
            let status = consumer.end()?;
            ensure!(status.success(), "the {} failed: {status}", consumer.name);
        }
        Ok(())
    }
}

/// Says how a consumer ended that left early. The others are killed when they are dropped.
fn explain(error: Error, consumers: &mut [Consumer], options: &Options) -> Error {
    let Some(Left(number)) = error.downcast_ref() else { return error };
    let Consumer { name, answered, .. } = &consumers[*number];
    let left = format!("the {name} left after {answered} of {} frames; it ended", options.frames);
    match consumers[*number].end() {
        Ok(status) => anyhow!("{left} with {status}"),
        Err(error) => error,
    }
}

fn produce(mut options: Options) -> Result<()> {
    let input = options.input()?;
    if options.frames == 0 {
        options.frames = input.chunks(options.size).len() as u64;
    }
    options.choose_ways()?;
    let frames: Vec<_> =
        input.chunks(options.size).map(|frame| (Header::of(frame), frame)).collect();
    let mut progress = Progress::new(&options);
    let produced = produce_all(&mut progress, &frames);
    progress.clear();
    let usage = produced?;

    let shared = progress.runs.iter().map(|run| options.shared_memory(run.way)).sum::<usize>();
    expect_flat("producer", usage, options.readers * shared)?;
    let times = progress.runs.iter().map(|run| (run.way, run.time())).collect();
    for run in progress.runs {
        run.finish()?;
    }
    let checking = time_to_check(&frames);
    let len = input.len() as f64 / frames.len() as f64;
    say(Comparison { options: &options, len, times, checking })
}

/// Sends every frame in every way, and returns what the process held after 1 % of the frames and at the end.
///
/// The ways take turns, so that whatever else the machine does concerns all of them.
fn produce_all(progress: &mut Progress<'_>, frames: &Frames<'_>) -> Result<[Usage; 2]> {
    let options = progress.options;
    for way in &options.ways {
        progress.runs.push(Run::start(options, *way)?);
    }
    let (mut sent, mut warm) = (0, None);
    while sent < options.frames {
        sent = (sent + options.round()).min(options.frames);
        for way in 0..progress.runs.len() {
            progress.runs[way].round(options, frames, sent)?;
            progress.show();
        }
        if warm.is_none() && sent >= options.when_warm() {
            warm = Some(Usage::now()?);
        }
    }
    Ok([warm.context("no frame was sent")?, Usage::now()?])
}

/// What a consumer needs to check a frame, however it came.
fn time_to_check(frames: &Frames<'_>) -> Duration {
    let times = (0..3).map(|_| {
        let start = Instant::now();
        for (header, frame) in frames {
            let _ = header.check(frame);
        }
        start.elapsed()
    });
    times.min().unwrap_or_default() / frames.len() as u32
}

/// The table at the end, and what to make of it.
struct Comparison<'a> {
    options: &'a Options,
    /// Of a frame, on average.
    len: f64,
    /// In seconds a frame.
    times: Vec<(Way, f64)>,
    checking: Duration,
}

impl Comparison<'_> {
    fn time(&self, way: Way) -> Option<f64> {
        Some(self.times.iter().find(|(found, _)| *found == way)?.1)
    }

    fn ratio(&self, way: Way, to: Way) -> Option<f64> {
        Some(self.time(way)? / self.time(to)?)
    }

    fn fastest_of(&self, ways: &[Way]) -> Option<Way> {
        let times = ways.iter().filter_map(|way| Some((*way, self.time(*way)?)));
        times.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(way, _)| way)
    }

    /// Which way to use when, as far as they were tried.
    fn advice(&self) -> Vec<String> {
        use Way::*;

        let mut advice = Vec::new();
        let ratios = [Socket, Pipe].map(|way| Some((way, self.ratio(Ring, way)?)));
        let ratios: Vec<_> = ratios.into_iter().flatten().collect();
        if let Some((other, most)) = ratios.iter().max_by(|one, other| one.1.total_cmp(&other.1)) {
            advice.push(if *most < 1.0 {
                let ratios = ratios.iter().map(|(way, ratio)| format!("{ratio:.2} of a {way}'s"));
                let ratios = ratios.collect::<Vec<_>>().join(" and ");
                format!("For a stream, a ring: it takes {ratios} time.")
            } else {
                format!("For a stream, a {other}: a ring takes {most:.2} times as long.")
            });
        }
        let other = self.fastest_of(&[Socket, Pipe, Ring]);
        if let Some((other, ratio)) = other.and_then(|way| Some((way, self.ratio(Sealed, way)?))) {
            advice.push(match ratio > 1.0 {
                true => format!(
                    "To keep, pass on or read in part, sealed files: {ratio:.1} times a {other}'s time."
                ),
                false => format!(
                    "For frames like these, sealed files: they take {ratio:.2} of a {other}'s time."
                ),
            });
        }
        if let Some(ratio) = self.ratio(Broadcast, Ring) {
            advice.push(format!(
                "Where readers may miss some and hold up nobody, broadcast: {ratio:.2} of rings' time."
            ));
        }
        advice
    }
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { frames, size, readers, .. } = self.options;
        let readers = if *readers == 1 { "1 reader".into() } else { format!("{readers} readers") };
        writeln!(f, "\n{frames} frames of {size} bytes to {readers}:")?;
        writeln!(f, "             µs a frame     MB/s   time / socket's")?;
        for (way, time) in &self.times {
            let (micros, mb) = (time * 1e6, self.len / time / 1e6);
            let name = way.to_string();
            write!(f, "  {name:<10} {micros:>10.2} {mb:>8.0}")?;
            match self.ratio(*way, Way::Socket) {
                Some(ratio) => writeln!(f, "   {ratio:>15.2}")?,
                None => writeln!(f)?,
            }
        }
        let checking = self.checking.as_secs_f64() * 1e6;
        write!(f, "Of these, a reader needs {checking:.2} µs to check a frame, however it came.")?;
        self.advice().iter().try_for_each(|line| write!(f, "\n{line}"))
    }
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
}

/// Compares what this process held when it was warm and at the end.
fn expect_flat(name: &str, [warm, end]: [Usage; 2], shared_memory: usize) -> Result<()> {
    // For the allocator, for code that runs for the first time, and for the part of a ring that is reached
    // for the first time.
    let slack_kib = 1024 + shared_memory as u64 / 1024;

    say(format_args!("{name}: {end} (after 1 %: {warm:#})"))?;
    let flat = end.descriptors <= warm.descriptors
        && end.mappings <= warm.mappings
        && end.resident_kib <= warm.resident_kib + slack_kib;
    ensure!(flat, "the {name} holds more and more");
    Ok(())
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, mappings, resident_kib } = self;
        match f.alternate() {
            true => write!(f, "{descriptors}, {mappings}, {resident_kib}"),
            false => {
                write!(f, "{descriptors} descriptors, {mappings} mappings, {resident_kib} KiB")
            }
        }
    }
}

struct Progress<'a> {
    options: &'a Options,
    runs: Vec<Run>,
    shown: Instant,
}

impl<'a> Progress<'a> {
    fn new(options: &'a Options) -> Self {
        Self { options, runs: Vec::new(), shown: Instant::now() }
    }

    /// A line that is overwritten on a terminal, and a new one now and then elsewhere.
    fn show(&mut self) {
        const OFTEN: Duration = Duration::from_millis(100);
        const SELDOM: Duration = Duration::from_secs(5);

        let pause = self.shown.elapsed();
        if pause >= OFTEN && (pause >= SELDOM || io::stderr().is_terminal()) {
            // A terminal that is too narrow cuts the line, or the next one would not overwrite all of it.
            let (start, end) = match io::stderr().is_terminal() {
                true => ("\x1b[?7l", "\x1b[K\x1b[?7h\r"),
                false => ("", "\n"),
            };
            let _ = io::stderr().write_all(format!("{start}{self}{end}").as_bytes());
            self.shown = Instant::now();
        }
    }

    fn clear(&self) {
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\x1b[K");
        }
    }
}

/// How far each way is, and how long a frame takes.
impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frames = self.runs.iter().map(|run| run.sent).min().unwrap_or(0);
        write!(f, "{frames} of {} frames", self.options.frames)?;
        let times = self.runs.iter().filter(|run| !run.times.is_empty());
        times.enumerate().try_for_each(|(n, run)| {
            let mark = if n == 0 { ':' } else { ',' };
            write!(f, "{mark} {} {:.1}", run.way, run.time() * 1e6)
        })?;
        write!(f, " µs")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Socket,
    Pipe,
    Sealed,
    Ring,
    Broadcast,
}

impl Way {
    const ALL: [Self; 5] = [Self::Socket, Self::Pipe, Self::Sealed, Self::Ring, Self::Broadcast];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

impl FromStr for Way {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let way = Self::ALL.into_iter().find(|way| way.to_string() == name);
        way.context("the ways are socket, pipe, sealed, ring and broadcast")
    }
}

struct Options {
    ways: Vec<Way>,
    readers: usize,
    /// 0 means all that the input has.
    frames: u64,
    size: usize,
    /// The name, if this is a consumer.
    consumer: Option<String>,
    input: Option<PathBuf>,
}

impl Options {
    /// `None` if the user asks for help.
    fn parse() -> Result<Option<Self>> {
        use lexopt::prelude::*;

        let mut options = Self {
            ways: Vec::new(),
            readers: 1,
            frames: 0,
            size: 64 << 10,
            consumer: None,
            input: None,
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Short('h') | Long("help") => return Ok(None),
                Long("readers") => options.readers = arguments.value()?.parse()?,
                Long("frames") => {
                    options.frames = arguments.value()?.parse::<NonZero<u64>>()?.get()
                }
                Long("size") => options.size = arguments.value()?.parse()?,
                Long("way") => options.ways.push(arguments.value()?.parse()?),
                Long("copy") => options.ways.push(Way::Socket),
                Long("consumer") => {
                    let name = arguments.optional_value().unwrap_or_else(|| "consumer".into());
                    options.consumer = Some(name.string()?)
                }
                Value(path) if options.input.is_none() && !path.is_empty() => {
                    options.input = Some(path.into())
                }
                _ => return Err(argument.unexpected().into()),
            }
        }
        ensure!(
            (1..=LIMIT).contains(&options.size),
            "a frame has at least 1 byte and at most 1 GiB"
        );
        ensure!(
            (1..=MOST_READERS).contains(&options.readers),
            "there is at least 1 reader, and there are at most {MOST_READERS}"
        );
        if options.input.is_none() && options.frames == 0 {
            options.frames = (20_000 * (64 << 10) / options.size as u64).clamp(10, 200_000);
        }
        Ok(Some(options))
    }

    /// Chooses the ways if the user has not, and says which of them this kernel does not have.
    fn choose_ways(&mut self) -> Result<()> {
        if self.ways.is_empty() {
            self.ways = Way::ALL.into();
            self.ways.retain(|way| *way != Way::Broadcast || self.readers > 1);
            if !Producer::is_supported() {
                self.ways.retain(|way| !matches!(way, Way::Ring | Way::Broadcast));
                say("without rings and broadcast: no live files can be made here")?;
            }
        }
        Ok(())
    }

    /// How many frames the producer sends before it waits for answers, which come after half of them. So
    /// neither side waits for the other at every frame, and so few answers always fit into the socket: a
    /// consumer never blocks on one, and goes on to receive what the producer is sending.
    fn window(&self) -> u64 {
        // A user may have 1024 descriptors under way, as a rule.
        (ROOM / self.size).clamp(4, 512 / self.readers) as u64
    }

    /// How much memory a consumer shares with the producer.
    fn shared_memory(&self, way: Way) -> usize {
        let bytes = |frames| frames * (self.size as u64 + 256);
        let capacity = match way {
            Way::Socket | Way::Pipe | Way::Sealed => 0,
            Way::Ring => bytes(2).max(ROOM as u64),
            // Nobody is overtaken by so many frames, and by what the publisher claims beyond them.
            Way::Broadcast => bytes(self.window() + 2) / 8 * 9,
        };
        usize::try_from(capacity).unwrap_or(usize::MAX)
    }

    /// After how many frames 1 % of them have passed.
    fn when_warm(&self) -> u64 {
        (self.frames / 100).max(1)
    }

    /// How many frames go one way before the next one has its turn.
    fn round(&self) -> u64 {
        self.when_warm().min((16 * ROOM / self.size).max(1) as u64)
    }

    fn ends_round(&self, frames: u64) -> bool {
        frames % self.round() == 0 || frames == self.frames
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
