//! What does it cost to publish a value of 4 KiB and to read it? mmap-sync (an unsafe crate for the
//! same purpose), a mutex and a pipe do the same work: each copies the value in, and out again into
//! a vector.
//!
//! `publish_without_wake` is for readers that look for themselves, as mmap-sync and a mutex are. `publish`
//! and `wait` let a reader sleep, as a pipe does, and a mutex with a condition variable, which works
//! within one process alone and so costs the kernel less.
//!
//! * "in turn": one thread publishes and reads. Nobody ever waits, the best case of a mutex: two
//!   copies, and two locks that are free.
//! * "between threads": two threads answer each other, for which they have two channels.
//! * "to a sleeping reader": from just before publishing to when it has the value.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use mmap_sync::synchronizer::Synchronizer;
use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
use sealed_mmap_benches::{Case, Sample, timed_each};

const LEN: usize = 4096;
const TIMES: u32 = 100;

/// Publishes a value, which begins with a number greater than that of any before.
type Publish = Box<dyn FnMut(&Vec<u8>) + Send>;
/// Gets a newer value than the last, waiting for one if need be.
type Next = Box<dyn FnMut(&mut Vec<u8>) + Send>;
type Channel = (Publish, Next);
type Contender = (&'static str, fn() -> Channel);

fn number(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |number| u64::from_ne_bytes(*number))
}

fn pair() -> (Publisher, Subscriber) {
    let publisher = Publisher::create("bench", LEN).unwrap();
    let subscriber = Subscriber::open(publisher.file()).unwrap();
    (publisher, subscriber)
}

fn latest() -> Channel {
    let (mut publisher, mut subscriber) = pair();
    let mut seen = 0;
    let next = move |value: &mut Vec<u8>| {
        assert_eq!(subscriber.wait(seen, Duration::MAX).unwrap(), WaitOutcome::Newer);
        seen = subscriber.latest(value).unwrap().unwrap();
    };
    (Box::new(move |value| _ = publisher.publish(value).unwrap()), Box::new(next))
}

fn latest_quietly() -> Channel {
    let (mut publisher, mut subscriber) = pair();
    let mut seen = None;
    let next = move |value: &mut Vec<u8>| {
        loop {
            let number = subscriber.latest(value).unwrap();
            if number > seen {
                return seen = number;
            }
        }
    };
    (Box::new(move |value| _ = publisher.publish_without_wake(value).unwrap()), Box::new(next))
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))] // where it is a dependency
fn mmap_sync() -> Channel {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static CREATED: AtomicU32 = AtomicU32::new(0);

    let path = format!("{}-{}", mmap_sync_path(), CREATED.fetch_add(1, Relaxed));
    let (mut writer, mut reader) =
        (Synchronizer::new(path.as_ref()), Synchronizer::new(path.as_ref()));
    let grace = Duration::from_secs(1);
    let publish = move |value: &Vec<u8>| {
        writer.write(value, grace).unwrap();
    };
    let next = move |value: &mut Vec<u8>| {
        loop {
            #[allow(unsafe_code, reason = "its files are trusted here, which is what it asks for")]
            // SAFETY: only the writer above changes the files.
            let read = unsafe { reader.read::<Vec<u8>>(false) };
            // Before the first value there is nothing to read.
            if let Some(read) = read.ok().filter(|read| number(read) > number(value)) {
                value.clear();
                return value.extend_from_slice(&read);
            }
        }
    };
    (Box::new(publish), Box::new(next))
}

fn mmap_sync_path() -> String {
    format!("/dev/shm/sealed-mmap-bench-{}", std::process::id())
}

fn mutex() -> Channel {
    let writer = Arc::new(Mutex::new(vec![0; LEN]));
    let reader = Arc::clone(&writer);
    let next = move |value: &mut Vec<u8>| {
        loop {
            let shared = reader.lock().unwrap();
            if number(&shared) > number(value) {
                value.clear();
                return value.extend_from_slice(&shared);
            }
        }
    };
    (Box::new(move |value| writer.lock().unwrap().copy_from_slice(value)), Box::new(next))
}

fn mutex_and_condvar() -> Channel {
    let writer = Arc::new((Mutex::new(vec![0; LEN]), Condvar::new()));
    let reader = Arc::clone(&writer);
    let publish = move |value: &Vec<u8>| {
        writer.0.lock().unwrap().copy_from_slice(value);
        writer.1.notify_all();
    };
    let next = move |value: &mut Vec<u8>| {
        let (shared, newer) = &*reader;
        let is_old = |shared: &mut Vec<u8>| number(shared) <= number(value);
        let shared = newer.wait_while(shared.lock().unwrap(), is_old).unwrap();
        value.clear();
        value.extend_from_slice(&shared);
    };
    (Box::new(publish), Box::new(next))
}

fn pipe() -> Channel {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (mut reader, mut writer) = (File::from(reader), File::from(writer));
    let next = move |value: &mut Vec<u8>| {
        value.resize(LEN, 0);
        reader.read_exact(value).unwrap();
    };
    (Box::new(move |value| writer.write_all(value).unwrap()), Box::new(next))
}

const SLEEPING: &[Contender] = &[("mutex and condvar", mutex_and_condvar), ("pipe", pipe)];
const LOOKING: &[Contender] = &[
    ("mutex", mutex),
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    ("mmap-sync", mmap_sync),
    ("pipe", pipe),
];

/// Somebody with a channel, and a value to publish that has a new number every time.
struct Side {
    publish: Publish,
    next: Next,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Side {
    fn new(publish: Publish, next: Next) -> Self {
        Self { publish, next, sent: vec![0; LEN], received: Vec::new() }
    }

    fn publish(&mut self) {
        let next = number(&self.sent) + 1;
        self.sent[..8].copy_from_slice(&next.to_ne_bytes());
        (self.publish)(black_box(&self.sent));
    }

    fn receive(&mut self) {
        (self.next)(black_box(&mut self.received));
    }
}

fn in_turn(channel: fn() -> Channel) -> impl FnMut() -> Sample {
    let (publish, next) = channel();
    let mut side = Side::new(publish, next);
    move || {
        let sample = timed_each(TIMES, || {
            side.publish();
            side.receive();
        });
        assert_eq!(side.received, side.sent);
        sample
    }
}

/// The way there or back, of a value and its answer.
fn between_threads(channel: fn() -> Channel) -> impl FnMut() -> Sample {
    let ((there, arriving), (back, returning)) = (channel(), channel());
    let (mut here, mut away) = (Side::new(there, returning), Side::new(back, arriving));
    move || {
        let sample = thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..=TIMES {
                    away.receive();
                    away.publish();
                }
            });
            let mut there_and_back = || {
                here.publish();
                here.receive();
            };
            there_and_back(); // until the thread runs
            timed_each(TIMES, there_and_back).each_of(2)
        });
        assert_eq!(here.received, here.sent);
        sample
    }
}

/// Publishes to a thread that sleeps until there is a value, and then tells when that was.
struct Waking {
    here: Side,
    awake: Option<mpsc::Receiver<Instant>>,
}

impl Drop for Waking {
    fn drop(&mut self) {
        // With nobody to tell, the thread ends after one more.
        self.awake = None;
        self.here.publish();
    }
}

fn to_a_sleeping_reader(channel: fn() -> Channel) -> impl FnMut() -> Sample {
    let ((publish, arriving), (back, returning)) = (channel(), channel());
    let (tell, awake) = mpsc::channel();
    let mut waking = Waking { here: Side::new(publish, returning), awake: Some(awake) };
    let mut away = Side::new(back, arriving);
    thread::spawn(move || {
        loop {
            away.receive();
            if tell.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    move || {
        thread::sleep(Duration::from_micros(200)); // until it sleeps, too
        let published = Instant::now();
        waking.here.publish();
        let awake = waking.awake.as_ref().and_then(|awake| awake.recv().ok()).unwrap();
        Sample::of_wall_clock(awake - published)
    }
}

fn published_and_read(criterion: &mut Criterion) {
    let groups = [
        ("publish_without_wake and read", latest_quietly as fn() -> Channel, LOOKING, Some(1.0)),
        ("publish, wait and read", latest, SLEEPING, None),
    ];
    for (what, subject, contenders, target) in groups {
        for &(baseline, channel) in contenders {
            let size = LEN as u64;
            let question = format!("{what}, in turn");
            let case = Case { question: &question, baseline, size, target: None };
            case.compare(criterion, in_turn(subject), in_turn(channel));
            let question = format!("{what}, between threads");
            let case = Case { question: &question, baseline, size, target };
            case.compare(criterion, between_threads(subject), between_threads(channel));
            if target.is_none() {
                let question = "publish to a sleeping reader";
                let case = Case { question, baseline, size, target };
                case.compare(
                    criterion,
                    to_a_sleeping_reader(subject),
                    to_a_sleeping_reader(channel),
                );
            }
        }
    }
    for file in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        if file.path().to_string_lossy().starts_with(&format!("{}-", mmap_sync_path())) {
            let _ = fs::remove_file(file.path()); // nobody else's
        }
    }
}

criterion_group!(benches, published_and_read);
criterion_main!(benches);
