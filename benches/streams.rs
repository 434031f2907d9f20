//! How long does it take to get a stream of records to another process, all of them, in order?
//!
//! The readers are processes of their own, which copy each record into a buffer of their own (a sealed
//! file they read in place). A sample is the time from the first record of a burst to when every reader has
//! said that it has the last one, divided by the records. All channels are kept from one sample to
//! the next.
//!
//! * `ring` and a pipe or a Unix stream make no difference between readers that are trusted and others.
//!   `shmem-ipc` is a ring buffer that trusts its peer, with eventfds; it has no records, so the length is
//!   known to both sides.
//! * Sender and reader stay on a CPU each: where the scheduler puts them would matter more than anything
//!   else. Four readers run where they can.
//! * "one way": two processes answer each other; half of the time there and back. On one CPU the kernel
//!   switches from one to the other; from one CPU to another it sends an interrupt.
//! * "to 4 readers": `broadcast` against a pipe for each. No record is missed: a burst fits in.
//! * "in one thread": one thread publishes and reads, nobody sleeps, which is all that tokio's broadcast does.
//! * "publish to awake readers": what the bells of registered subscribers cost `latest` while nobody sleeps.

use std::env;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use sealed_mmap::bell::Request;
use sealed_mmap::ring::{Received, Receiver, Sender};
use sealed_mmap::socket::{recv_fd, recv_fds, send_fds};
use sealed_mmap::{SealPolicy, SealedFile, broadcast, latest};
use sealed_mmap_benches::{
    Case, KIB, MIB, NAME, Sample, cpu, page_aligned, read, stay_anywhere, stay_on, stay_on_cpu,
    timed_each,
};

/// What a reader does, and on which CPU.
const READER: &str = "SEALED_MMAP_BENCH_READER";
const CPU: &str = "SEALED_MMAP_BENCH_CPU";
const SECOND: Duration = Duration::from_secs(1);
const EVER: Duration = Duration::MAX;

fn policy() -> SealPolicy {
    SealPolicy::untrusted_live(1 << 30)
}

/// How many records there are in a burst: some milliseconds of them.
fn burst(size: u64) -> u64 {
    (128 * MIB / (size + 256)).clamp(4, 100_000)
}

/// What a ring buffer of this crate's or another's holds: as much as the pipe, many records where they fit
/// into the caches, and a few where they do not.
fn capacity(size: u64) -> usize {
    (size * 32).clamp(MIB, 8 * MIB).max(size * 4) as usize
}

type Send = Box<dyn FnMut(&[u8])>;
type Next = Box<dyn FnMut()>;

/// A channel from this process to another: how each side sets up its own over a socket.
struct Channel {
    name: &'static str,
    sender: fn(UnixStream, u64) -> Send,
    receiver: fn(UnixStream, u64) -> Next,
}

const CHANNELS: [Channel; 5] = [
    Channel { name: "ring", sender: ring_sender, receiver: ring_receiver },
    Channel { name: "pipe", sender: pipe_sender, receiver: pipe_receiver },
    Channel { name: "Unix stream", sender: stream_sender, receiver: stream_receiver },
    Channel { name: "shmem-ipc", sender: shmem_ipc_sender, receiver: shmem_ipc_receiver },
    Channel { name: "sealed file each", sender: file_sender, receiver: file_receiver },
];

fn ring_sender(socket: UnixStream, size: u64) -> Send {
    let offer = Sender::offer(socket, NAME, capacity(size)).unwrap();
    let mut ring = offer.accept(&policy(), SECOND * 10).unwrap();
    Box::new(move |record| ring.send(record, EVER).unwrap())
}

fn ring_receiver(socket: UnixStream, _: u64) -> Next {
    let mut ring = Receiver::accept(socket, &policy(), SECOND * 10).unwrap();
    let mut record = Vec::new();
    Box::new(move || {
        assert!(matches!(ring.recv(&mut record, EVER).unwrap(), Received::Record(_)));
        black_box(&record);
    })
}

fn pipe_sender(socket: UnixStream, _: u64) -> Send {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, MIB as usize).unwrap();
    send_fds(&socket, b"p", &[reader.as_fd()]).unwrap();
    let mut writer = File::from(writer);
    Box::new(move |record| writer.write_all(record).unwrap())
}

fn pipe_receiver(socket: UnixStream, size: u64) -> Next {
    let (_, reader) = recv_fd(&socket, &mut [0]).unwrap();
    let (mut reader, mut record) = (File::from(reader.unwrap()), vec![0; size as usize]);
    Box::new(move || {
        reader.read_exact(&mut record).unwrap();
        black_box(&record);
    })
}

fn stream_sender(mut socket: UnixStream, _: u64) -> Send {
    Box::new(move |record| socket.write_all(record).unwrap())
}

fn stream_receiver(mut socket: UnixStream, size: u64) -> Next {
    let mut record = vec![0; size as usize];
    Box::new(move || {
        socket.read_exact(&mut record).unwrap();
        black_box(&record);
    })
}

fn shmem_ipc_sender(socket: UnixStream, size: u64) -> Send {
    let mut ring = shmem_ipc::sharedring::Sender::<u8>::new(capacity(size)).unwrap();
    let fds =
        [ring.memfd().as_file().as_fd(), ring.empty_signal().as_fd(), ring.full_signal().as_fd()];
    send_fds(&socket, b"s", &fds).unwrap();
    Box::new(move |mut record| {
        while !record.is_empty() {
            ring.block_until_writable().unwrap();
            #[allow(unsafe_code, reason = "the peer is trusted here, which is what it asks for")]
            // SAFETY: the one receiver is another process.
            unsafe {
                ring.send_trusted(|room| {
                    let count = room.len().min(record.len());
                    room[..count].copy_from_slice(&record[..count]);
                    record = &record[count..];
                    count
                })
            }
            .unwrap();
        }
    })
}

fn shmem_ipc_receiver(socket: UnixStream, size: u64) -> Next {
    let mut fds = Vec::new();
    recv_fds(&socket, &mut [0], &mut fds).unwrap();
    let [memfd, empty, full] = fds.try_into().unwrap();
    let capacity = capacity(size);
    let open = shmem_ipc::sharedring::Receiver::<u8>::open;
    let mut ring = open(capacity, File::from(memfd), File::from(empty), File::from(full)).unwrap();
    let mut record = vec![0; size as usize];
    Box::new(move || {
        let mut left = &mut record[..];
        while !left.is_empty() {
            ring.block_until_readable().unwrap();
            #[allow(unsafe_code, reason = "as above")]
            // SAFETY: the one sender is another process.
            unsafe {
                ring.receive_trusted(|there| {
                    let count = there.len().min(left.len());
                    let (now, later) = std::mem::take(&mut left).split_at_mut(count);
                    now.copy_from_slice(&there[..count]);
                    left = later;
                    count
                })
            }
            .unwrap();
        }
        black_box(&record);
    })
}

fn file_sender(socket: UnixStream, _: u64) -> Send {
    Box::new(move |record| {
        let file = SealedFile::from_bytes(NAME, record).unwrap();
        send_fds(&socket, b"f", &[file.as_fd()]).unwrap();
    })
}

fn file_receiver(socket: UnixStream, _: u64) -> Next {
    Box::new(move || {
        let (_, file) = recv_fd(&socket, &mut [0]).unwrap();
        let file = SealedFile::receive_read_only(file.unwrap(), &SealPolicy::new()).unwrap();
        black_box(read(&file.map_read_only().unwrap()));
    })
}

/// A process that reads from one of the channels.
struct Reader {
    process: Child,
    control: UnixStream,
}

impl Reader {
    /// Starts it, with the socket over which the channel is set up as its standard output.
    fn start(role: &str, size: u64, channel: UnixStream, cpu: Option<usize>) -> Self {
        let (control, theirs) = UnixStream::pair().unwrap();
        let process = Command::new(env::current_exe().unwrap())
            .env(READER, format!("{role}/{size}"))
            .envs(cpu.map(|cpu| (CPU, cpu.to_string())))
            .stdin(OwnedFd::from(theirs))
            .stdout(OwnedFd::from(channel))
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { process, control }
    }

    fn expect(&mut self, count: u64) {
        self.control.write_all(&count.to_ne_bytes()).unwrap();
    }

    fn has_all(&mut self) {
        self.control.read_exact(&mut [0]).unwrap();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What such a process does.
fn be_reader(role: &str) {
    if let Ok(cpu) = env::var(CPU) {
        stay_on([cpu.parse().unwrap()]);
    }
    let (name, size) = role.rsplit_once('/').unwrap();
    let size = size.parse().unwrap();
    let [mut control, channel] = [io::stdin().as_fd(), io::stdout().as_fd()]
        .map(|fd| UnixStream::from(fd.try_clone_to_owned().unwrap()));
    let mut next = match name {
        "broadcast" => broadcast_receiver(channel),
        "answer" => return answer(channel),
        "answer on a pipe" => return answer_on_a_pipe(channel),
        _ => (CHANNELS.iter().find(|known| known.name == name).unwrap().receiver)(channel, size),
    };
    let mut count = [0; 8];
    while control.read_exact(&mut count).is_ok() {
        (0..u64::from_ne_bytes(count)).for_each(|_| next());
        control.write_all(b"!").unwrap();
    }
}

/// Bursts through one channel to one reader.
fn bursts(channel: &Channel, size: u64) -> impl FnMut() -> Sample + use<> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut reader = Reader::start(channel.name, size, theirs, cpu(1));
    let mut send = (channel.sender)(ours, size);
    let (record, count) = (page_aligned(size), burst(size));
    move || {
        reader.expect(count);
        let start = Instant::now();
        (0..count).for_each(|_| send(black_box(&record)));
        reader.has_all();
        Sample::of_wall_clock(start.elapsed()).each_of(count)
    }
}

fn ring(criterion: &mut Criterion) {
    /// For each baseline the most that the ring may take of it, at 64 B, 1 KiB, 64 KiB, 1 MiB, 16 MiB.
    const TARGETS: [[Option<f64>; 5]; 4] = [
        [Some(0.06), Some(0.14), Some(0.65), Some(0.40), Some(0.70)],
        [Some(0.03), Some(0.06), Some(0.85), Some(0.60), None],
        [Some(1.3), Some(1.5), Some(1.0), Some(1.0), Some(0.8)],
        [None, None, Some(0.2), Some(0.2), Some(0.4)],
    ];
    let [subject, baselines @ ..] = &CHANNELS;
    stay_on_cpu(0);
    for (at, size) in [64, KIB, 64 * KIB, MIB, 16 * MIB].into_iter().enumerate() {
        for (baseline, targets) in baselines.iter().zip(TARGETS) {
            let question = "a stream of records";
            let case = Case { question, baseline: baseline.name, size, target: targets[at] };
            case.compare(criterion, bursts(subject, size), bursts(baseline, size));
        }
    }
    stay_anywhere();
}

fn broadcast_receiver(socket: UnixStream) -> Next {
    let request = Request::send(socket).unwrap();
    let start = broadcast::StartAt::Oldest;
    let mut subscriber =
        broadcast::Subscriber::join(request, start, &policy(), SECOND * 10).unwrap();
    let mut record = Vec::new();
    Box::new(move || {
        let next = subscriber.next(&mut record, EVER).unwrap();
        assert!(matches!(next, broadcast::Next::Record(_)), "{next:?}");
        black_box(&record);
    })
}

fn broadcast_bursts(size: u64, readers: u64) -> impl FnMut() -> Sample {
    let (record, count) = (page_aligned(size), burst(size) / 2);
    let needed = count * (size + 128) * 5 / 2;
    let mut publisher = broadcast::Publisher::create(NAME, needed as usize).unwrap();
    publisher.wake_anonymous(false);
    let mut readers: Vec<_> = (0..readers)
        .map(|_| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let reader = Reader::start("broadcast", size, theirs, None);
            publisher.admit(ours, &policy(), SECOND * 10).unwrap();
            reader
        })
        .collect();
    move || {
        readers.iter_mut().for_each(|reader| reader.expect(count));
        let start = Instant::now();
        (0..count).for_each(|_| _ = publisher.publish(black_box(&record)).unwrap());
        readers.iter_mut().for_each(Reader::has_all);
        Sample::of_wall_clock(start.elapsed()).each_of(count)
    }
}

fn pipe_bursts(size: u64, readers: u64) -> impl FnMut() -> Sample {
    let (record, count) = (page_aligned(size), burst(size) / 2);
    let (mut readers, mut sends): (Vec<_>, Vec<_>) = (0..readers)
        .map(|_| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (Reader::start("pipe", size, theirs, None), pipe_sender(ours, size))
        })
        .unzip();
    move || {
        readers.iter_mut().for_each(|reader| reader.expect(count));
        let start = Instant::now();
        for _ in 0..count {
            sends.iter_mut().for_each(|send| send(black_box(&record)));
        }
        readers.iter_mut().for_each(Reader::has_all);
        Sample::of_wall_clock(start.elapsed()).each_of(count)
    }
}

fn broadcast(criterion: &mut Criterion) {
    let targets = [(64, 0.05), (KIB, 0.05), (64 * KIB, 0.30), (MIB, 0.35)];
    for (size, target) in targets {
        let question = "records to 4 readers";
        let case = Case { question, baseline: "a pipe for each", size, target: Some(target) };
        case.compare(criterion, broadcast_bursts(size, 4), pipe_bursts(size, 4));
    }
}

const TIMES: u32 = 200;

fn broadcast_in_one_thread(size: u64) -> impl FnMut() -> Sample {
    let mut publisher = broadcast::Publisher::create(NAME, 256 * KIB as usize).unwrap();
    let mut subscriber =
        broadcast::Subscriber::open(publisher.file(), broadcast::StartAt::Now).unwrap();
    let (value, mut record) = (page_aligned(size), Vec::new());
    move || {
        timed_each(TIMES, || {
            publisher.publish_without_wake(black_box(&value)).unwrap();
            let next = subscriber.next(&mut record, Duration::ZERO).unwrap();
            assert!(matches!(next, broadcast::Next::Record(_)));
        })
    }
}

fn tokio_in_one_thread<const LEN: usize>() -> impl FnMut() -> Sample {
    let (sender, mut receiver) = tokio::sync::broadcast::channel::<[u8; LEN]>(128);
    let value = [7; LEN];
    move || {
        timed_each(TIMES, || {
            sender.send(black_box(value)).unwrap();
            black_box(receiver.try_recv().unwrap());
        })
    }
}

fn broadcast_in_a_thread(criterion: &mut Criterion) {
    let (question, baseline) = ("broadcast in one thread", "tokio broadcast");
    let case = Case { question, baseline, size: 64, target: Some(0.9) };
    case.compare(criterion, broadcast_in_one_thread(64), tokio_in_one_thread::<64>());
    let case = Case { question, baseline, size: KIB, target: Some(1.0) };
    case.compare(criterion, broadcast_in_one_thread(KIB), tokio_in_one_thread::<1024>());
}

/// Publishes to registered subscribers that never sleep.
fn publish(readers: usize, wake: bool) -> impl FnMut() -> Sample {
    let mut publisher = latest::Publisher::create(NAME, 64).unwrap();
    publisher.wake_anonymous(false);
    let subscribers: Vec<_> = (0..readers)
        .map(|_| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let request = Request::send(theirs).unwrap();
            publisher.admit(ours, &policy(), SECOND).unwrap();
            latest::Subscriber::join(request, &policy(), SECOND).unwrap()
        })
        .collect();
    let value = [7; 64];
    move || {
        assert_eq!(subscribers.len(), readers); // They live as long as the publisher.
        timed_each(TIMES, || {
            if wake {
                publisher.publish(black_box(&value)).unwrap()
            } else {
                publisher.publish_without_wake(black_box(&value)).unwrap()
            }
        })
    }
}

fn publish_to_awake_readers(criterion: &mut Criterion) {
    for (readers, target) in [(1, 1.2), (4, 1.5), (16, 3.5)] {
        let question = format!("publish to {readers} awake readers");
        let baseline = "publish_without_wake";
        let case = Case { question: &question, baseline, size: 64, target: Some(target) };
        case.compare(criterion, publish(readers, true), publish(readers, false));
    }
}

/// Sends back what comes, through a ring in each direction.
fn answer(channel: UnixStream) {
    let (_, other) = recv_fd(&channel, &mut [0]).unwrap();
    let mut there = Receiver::accept(channel, &policy(), SECOND * 10).unwrap();
    let offer = Sender::offer(other.unwrap(), NAME, 4096).unwrap();
    let (mut back, mut record) = (offer.accept(&policy(), SECOND * 10).unwrap(), Vec::new());
    while let Received::Record(_) = there.recv(&mut record, EVER).unwrap() {
        back.send(&record, EVER).unwrap();
    }
}

fn answer_on_a_pipe(channel: UnixStream) {
    let mut fds = Vec::new();
    recv_fds(&channel, &mut [0], &mut fds).unwrap();
    let [there, back] = fds.try_into().unwrap();
    let (mut there, mut back, mut record) = (File::from(there), File::from(back), [0; 64]);
    while there.read_exact(&mut record).is_ok() {
        back.write_all(&record).unwrap();
    }
}

fn there_and_back_in_rings(cpu: Option<usize>) -> impl FnMut() -> Sample {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (ours_back, theirs_back) = UnixStream::pair().unwrap();
    let reader = Reader::start("answer", 0, theirs, cpu);
    send_fds(&ours, b"a", &[theirs_back.as_fd()]).unwrap();
    let offer = Sender::offer(ours, NAME, 4096).unwrap();
    let mut there = offer.accept(&policy(), SECOND * 10).unwrap();
    let mut back = Receiver::accept(ours_back, &policy(), SECOND * 10).unwrap();
    let (value, mut record) = ([7; 64], Vec::new());
    move || {
        let _alive = &reader;
        timed_each(TIMES, || {
            there.send(&value, EVER).unwrap();
            let received = back.recv(&mut record, EVER).unwrap();
            assert!(matches!(received, Received::Record(_)));
        })
        .each_of(2)
    }
}

fn there_and_back_in_pipes(cpu: Option<usize>) -> impl FnMut() -> Sample {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let reader = Reader::start("answer on a pipe", 0, theirs, cpu);
    let (there_out, there) = rustix::pipe::pipe().unwrap();
    let (back, back_in) = rustix::pipe::pipe().unwrap();
    send_fds(&ours, b"a", &[there_out.as_fd(), back_in.as_fd()]).unwrap();
    let (mut there, mut back, mut record) = (File::from(there), File::from(back), [7; 64]);
    move || {
        let _alive = &reader;
        timed_each(TIMES, || {
            there.write_all(&record).unwrap();
            back.read_exact(&mut record).unwrap();
        })
        .each_of(2)
    }
}

fn one_way(criterion: &mut Criterion) {
    let questions = [("one way, on one CPU", cpu(0)), ("one way, from one CPU to another", cpu(1))];
    stay_on_cpu(0);
    for (question, cpu) in questions {
        let case = Case { question, baseline: "pipe", size: 64, target: Some(1.4) };
        case.compare(criterion, there_and_back_in_rings(cpu), there_and_back_in_pipes(cpu));
    }
    stay_anywhere();
}

criterion_group!(
    benches,
    ring,
    broadcast,
    broadcast_in_a_thread,
    publish_to_awake_readers,
    one_way
);

fn main() {
    if let Ok(role) = env::var(READER) {
        return be_reader(&role);
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
