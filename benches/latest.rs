//! What does it cost to publish a value of 4 KiB and to read it, and how soon does a sleeping reader
//! have it? mmap-sync (an unsafe crate for the same purpose), a mutex and a pipe do the same work in
//! the same run: each copies the value in, and out again into a vector.
//!
//! Compare like with like: `latest` wakes sleeping readers, as a pipe and a mutex with a condition
//! variable do (which wakes only within one process, and so costs the kernel less); "quietly" does
//! not, like mmap-sync and a bare mutex.
//!
//! * "in turn": one thread publishes and reads, so nothing is ever contended, the best case of a
//!   mutex: two copies, and two locks that are free.
//! * "during": one side, while a thread does nothing but the other. What makes the other side wait
//!   looks good here; mmap-sync's publisher waits for readers, and a mutex makes each wait for the
//!   other. A value of a pipe is read once, the others as often as one likes.
//! * "woken": from just before publishing to when a sleeping reader in another thread has the value.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use mmap_sync::synchronizer::Synchronizer;
use sealed_mmap::latest::{Publisher, Subscriber, Waited};

const LEN: usize = 4096;

type Publish = Box<dyn FnMut(&[u8]) + Send>;
type Get = Box<dyn FnMut(&mut Vec<u8>) + Send>;
type Contender = fn() -> (Publish, Get);

fn latest() -> (Publish, Get) {
    let (mut publisher, get) = pair();
    (Box::new(move |value| _ = publisher.publish(value)), get)
}

fn latest_quietly() -> (Publish, Get) {
    let (mut publisher, get) = pair();
    (Box::new(move |value| _ = publisher.publish_quietly(value)), get)
}

fn pair() -> (Publisher, Get) {
    let publisher = Publisher::create("bench", LEN).unwrap();
    let mut subscriber = Subscriber::open(publisher.file()).unwrap();
    (publisher, Box::new(move |value| drop(subscriber.latest(value))))
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))] // where it is a dependency
fn mmap_sync() -> (Publish, Get) {
    let path = mmap_sync_path();
    let (mut writer, mut reader) =
        (Synchronizer::new(path.as_ref()), Synchronizer::new(path.as_ref()));
    let grace = Duration::from_secs(1);
    let publish = move |value: &[u8]| {
        writer.write(&value.to_vec(), grace).unwrap();
    };
    let get = move |value: &mut Vec<u8>| {
        #[allow(unsafe_code, reason = "its files are trusted here, which is what it asks for")]
        // SAFETY: only the writer above changes the files.
        let read = unsafe { reader.read::<Vec<u8>>(false) };
        if let Ok(read) = read {
            value.clear();
            value.extend_from_slice(&read);
        }
    };
    (Box::new(publish), Box::new(get))
}

fn mmap_sync_path() -> String {
    format!("/dev/shm/bench-{}", std::process::id())
}

fn mutex() -> (Publish, Get) {
    let writer = Arc::new(Mutex::new(vec![0; LEN]));
    let get = get_locked(Arc::clone(&writer));
    (Box::new(move |value| writer.lock().unwrap().copy_from_slice(value)), get)
}

fn mutex_and_condvar() -> (Publish, Get) {
    let writer = Arc::new(Mutex::new(vec![0; LEN]));
    let get = get_locked(Arc::clone(&writer));
    let condvar = Condvar::new();
    let publish = move |value: &[u8]| {
        writer.lock().unwrap().copy_from_slice(value);
        condvar.notify_all();
    };
    (Box::new(publish), get)
}

fn get_locked(shared: Arc<Mutex<Vec<u8>>>) -> Get {
    Box::new(move |value| {
        let shared = shared.lock().unwrap();
        value.clear();
        value.extend_from_slice(&shared);
    })
}

fn pipe() -> (Publish, Get) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (mut reader, mut writer) = (File::from(reader), File::from(writer));
    let publish = move |value: &[u8]| drop(writer.write_all(value)); // fails when the reader has gone
    let get = move |value: &mut Vec<u8>| {
        value.resize(LEN, 0);
        let _ = reader.read_exact(value); // fails when the writer has gone
    };
    (Box::new(publish), Box::new(get))
}

const CONTENDERS: &[(&str, Contender)] = &[
    ("latest", latest),
    ("latest, quietly", latest_quietly),
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    ("mmap-sync", mmap_sync),
    ("mutex and condvar", mutex_and_condvar),
    ("mutex", mutex),
    ("pipe", pipe),
];

/// Measures one side while a thread keeps the other one busy.
fn against(mut busy: impl FnMut() + Send, measure: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                busy();
            }
        });
        measure();
        over.store(true, Relaxed);
    });
}

fn in_turn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("4 KiB, published and read in turn");
    for &(name, contender) in CONTENDERS {
        let (mut publish, mut get) = contender();
        let (bytes, mut value) = (vec![1; LEN], Vec::new());
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                publish(black_box(&bytes));
                get(black_box(&mut value));
            });
        });
        assert_eq!(value, bytes);
    }
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("4 KiB, read during publishing");
    for &(name, contender) in CONTENDERS {
        let (mut publish, mut get) = contender();
        let (bytes, mut value) = (vec![1; LEN], Vec::new());
        publish(&bytes);
        against(
            move || publish(&bytes),
            || {
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    bencher.iter(|| get(black_box(&mut value)));
                });
                drop(get);
            },
        );
    }
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("4 KiB, published during reading");
    for &(name, contender) in CONTENDERS {
        let (mut publish, mut get) = contender();
        let (bytes, mut value) = (vec![1; LEN], Vec::new());
        publish(&bytes);
        against(
            move || get(&mut value),
            || {
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    bencher.iter(|| publish(black_box(&bytes)));
                });
                drop(publish);
            },
        );
    }
}

fn woken(criterion: &mut Criterion) {
    let mut publisher = Publisher::create("bench", LEN).unwrap();
    let mut subscriber = Subscriber::open(publisher.file()).unwrap();
    let (tell, awake) = mpsc::channel();
    let reader = thread::spawn(move || {
        let (mut value, mut seen) = (Vec::new(), 0);
        while subscriber.wait(seen, Duration::MAX).unwrap() == Waited::Newer {
            seen = subscriber.latest(&mut value).unwrap().unwrap();
            tell.send(Instant::now()).unwrap();
        }
    });
    let mut latencies = Vec::new();
    criterion.bench_function("4 KiB, woken", |bencher| {
        bencher.iter_custom(|times| {
            let before = latencies.len();
            for _ in 0..times {
                thread::sleep(Duration::from_micros(200)); // until it sleeps
                let published = Instant::now();
                publisher.publish(&[1; LEN]).unwrap();
                latencies.push(awake.recv().unwrap() - published);
            }
            latencies[before..].iter().sum()
        });
    });
    latencies.sort();
    if let Some(median) = latencies.get(latencies.len() / 2) {
        println!("median of {}: {median:?}", latencies.len());
    }
    drop(publisher);
    reader.join().unwrap();
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    in_turn(&mut criterion);
    read(&mut criterion);
    publish(&mut criterion);
    woken(&mut criterion);
    criterion.final_summary();
    for part in ["state", "data_0", "data_1"] {
        let _ = fs::remove_file(format!("{}_{part}", mmap_sync_path())); // none without mmap-sync
    }
}
