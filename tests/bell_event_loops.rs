//! Private bells in event loops: no wake-up is lost, and nobody is woken for nothing again and again.
//! `SEALED_MMAP_FULL=1` for long runs.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "tokio wants to be promised that a descriptor stays open")]

mod support;

use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use sealed_mmap::bell::Request;
use sealed_mmap::ring::{Received, SendError};
use sealed_mmap::{broadcast, latest};
use smol::Async;
use support::runs::{live, rounds};
use support::signals::cpu_time;
use support::streams::{LONG, NOW, Random, policy, ring};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longer than a wake-up takes; what does not come by then was lost.
const LOST: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_millis(150);

const LOOPS: [&str; 4] = ["epoll", "edge-triggered epoll", "tokio", "smol"];

/// A descriptor in an event loop. smol's `Async` is that of async-io.
enum Readiness {
    Epoll(OwnedFd),
    Tokio(AsyncFd<OwnedFd>),
    Smol(Async<OwnedFd>),
}

struct Waiting {
    readiness: Readiness,
    wakeups: usize,
}

impl Waiting {
    fn new(name: &str, fd: BorrowedFd<'_>) -> Self {
        let same = || fd.try_clone_to_owned().unwrap();
        let readiness = match name {
            "tokio" => {
                // SAFETY: it is owned, so that nobody else closes it.
                let fd = unsafe { AsyncFd::register_with_interest(same(), Interest::READABLE) };
                Readiness::Tokio(fd.unwrap())
            }
            "smol" => Readiness::Smol(Async::new(same()).unwrap()),
            epoll => {
                let instance = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
                let mut flags = epoll::EventFlags::IN;
                flags.set(epoll::EventFlags::ET, epoll.starts_with("edge"));
                epoll::add(&instance, fd, epoll::EventData::new_u64(0), flags).unwrap();
                Readiness::Epoll(instance)
            }
        };
        Self { readiness, wakeups: 0 }
    }

    async fn readable(&mut self) {
        self.wakeups += 1;
        match &mut self.readiness {
            Readiness::Epoll(instance) => {
                let mut events = Vec::with_capacity(1);
                let timeout = Timespec::try_from(LOST).unwrap();
                let buffer = rustix::buffer::spare_capacity(&mut events);
                epoll::wait(instance, buffer, Some(&timeout)).unwrap();
                assert_eq!(events.len(), 1, "a wake-up was lost");
            }
            Readiness::Tokio(fd) => {
                let readable = tokio::time::timeout(LOST, fd.readable()).await;
                readable.expect("a wake-up was lost").unwrap().clear_ready();
            }
            Readiness::Smol(fd) => {
                let lost = async {
                    smol::Timer::after(LOST).await;
                    panic!("a wake-up was lost");
                };
                smol::future::or(async { fd.readable().await.unwrap() }, lost).await;
            }
        }
    }

    /// Whether waking up was worth it about every time.
    fn was_not_busy(&self, what: &str, worth: usize) {
        println!("{what}: {} wake-ups, {worth} of them worth it at most", self.wakeups);
        assert!(self.wakeups <= 3 * worth + 20, "{what}: {} wake-ups for {worth}", self.wakeups);
    }
}

fn run<T>(name: &str, future: impl Future<Output = T>) -> T {
    if name == "tokio" {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_io().enable_time().build().unwrap().block_on(future)
    } else {
        smol::block_on(future)
    }
}

/// Now and then the other side has to wait, for a time that may be too short or long enough to sleep.
fn pause(random: &mut Random) {
    match random.below(64) {
        0 => thread::sleep(Duration::from_micros(random.below(300))),
        1..8 => (0..random.below(2000)).for_each(|_| std::hint::spin_loop()),
        _ => {}
    }
}

fn records() -> u64 {
    rounds(5000, 500_000) as u64
}

/// What the loop's thread does while nothing happens.
async fn idles(what: &str, waiting: &mut Waiting) {
    let (busy, before) = (cpu_time(), waiting.wakeups);
    waiting.readable().await;
    let busy = cpu_time() - busy;
    assert!(busy < IDLE / 2, "{what} is busy: {busy:?}");
    assert_eq!(waiting.wakeups, before + 1);
}

#[test]
fn a_receiver_in_any_event_loop_gets_every_record() {
    for name in LOOPS {
        let Some((mut sender, mut receiver)) = ring(4096) else { return };
        let sender = thread::spawn(move || {
            let mut random = Random::new();
            for number in 0..records() {
                sender.send(&number.to_ne_bytes(), LONG).unwrap();
                pause(&mut random);
            }
            sender.drain(LONG).unwrap();
            thread::sleep(IDLE);
        });
        run(name, async {
            let mut waiting = Waiting::new(name, receiver.as_fd());
            let (mut record, mut number) = (Vec::new(), 0_u64);
            loop {
                match receiver.recv(&mut record, NOW).unwrap() {
                    Received::Record(_) => {
                        assert_eq!(record, number.to_ne_bytes());
                        number += 1;
                        continue;
                    }
                    Received::Ended => break,
                    Received::TimedOut => {}
                }
                if receiver.arm().unwrap() {
                    continue;
                }
                if number == records() {
                    idles(name, &mut waiting).await;
                } else {
                    waiting.readable().await;
                }
            }
            assert_eq!(number, records());
            waiting.was_not_busy(name, number as usize);
        });
        sender.join().unwrap();
    }
}

#[test]
fn a_sender_in_any_event_loop_finds_room_for_every_record() {
    for name in LOOPS {
        let Some((mut sender, mut receiver)) = ring(4096) else { return };
        let record = |number: u64| vec![number as u8; number as usize * 37 % 1500];
        let receiver = thread::spawn(move || {
            let (mut random, mut bytes) = (Random::new(), Vec::new());
            for number in 0..records() {
                let received = receiver.recv(&mut bytes, LONG).unwrap();
                assert!(matches!(received, Received::Record(_)));
                assert!(bytes == record(number), "{number}");
                pause(&mut random);
            }
            assert_eq!(receiver.recv(&mut bytes, LONG).unwrap(), Received::Ended);
        });
        run(name, async move {
            let mut waiting = Waiting::new(name, sender.as_fd());
            for number in 0..records() {
                let record = record(number);
                loop {
                    match sender.try_send(&record) {
                        Err(SendError::Full) => {}
                        sent => break sent.unwrap(),
                    }
                    if !sender.arm(record.len()).unwrap() {
                        waiting.readable().await;
                    }
                }
            }
            assert!(waiting.wakeups > 0, "the ring was never full");
            waiting.was_not_busy(name, records() as usize);
        });
        receiver.join().unwrap();
    }
}

#[test]
fn a_registered_subscriber_of_a_broadcast_in_any_event_loop_gets_every_record() {
    for name in LOOPS {
        let publisher = broadcast::Publisher::create("broadcast", 1 << 20);
        let Some(mut publisher) = live(publisher) else { return };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let request = Request::send(ours).unwrap();
        publisher.admit(theirs, &policy(), LONG).unwrap();
        let start = broadcast::StartAt::Now;
        let mut log = broadcast::Subscriber::join(request, start, &policy(), LONG).unwrap();
        publisher.wake_anonymous(false);
        let publisher = thread::spawn(move || {
            let mut random = Random::new();
            for number in 1..=records() {
                assert_eq!(publisher.publish(&number.to_ne_bytes()).unwrap(), number);
                pause(&mut random);
            }
            thread::sleep(IDLE);
        });
        run(name, async {
            let mut waiting = Waiting::new(name, log.as_fd());
            let (mut record, mut accounted, mut missed) = (Vec::new(), 0, 0);
            loop {
                match log.next(&mut record, NOW).unwrap() {
                    broadcast::Next::Record(number) => {
                        assert_eq!(number, accounted + 1);
                        assert_eq!(record, number.to_ne_bytes());
                        accounted = number;
                        continue;
                    }
                    broadcast::Next::Lagged { missed: more } => {
                        accounted += more;
                        missed += more;
                        continue;
                    }
                    broadcast::Next::Ended => break,
                    broadcast::Next::TimedOut => {}
                }
                if log.arm().unwrap() {
                    continue;
                }
                waiting.readable().await;
            }
            assert_eq!(accounted, records());
            println!("{missed} missed");
            waiting.was_not_busy(name, records() as usize);
        });
        publisher.join().unwrap();
    }
}

#[test]
fn a_registered_subscriber_of_a_newest_value_in_any_event_loop_sees_the_last() {
    for name in LOOPS {
        let Some(mut publisher) = live(latest::Publisher::create("latest", 8)) else { return };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let request = Request::send(ours).unwrap();
        publisher.admit(theirs, &policy(), LONG).unwrap();
        let mut newest = latest::Subscriber::join(request, &policy(), LONG).unwrap();
        let publisher = thread::spawn(move || {
            let mut random = Random::new();
            for number in 1..=records() {
                assert_eq!(publisher.publish(&number.to_ne_bytes()).unwrap(), number);
                pause(&mut random);
            }
            thread::sleep(IDLE);
        });
        run(name, async {
            let mut waiting = Waiting::new(name, newest.as_fd());
            let (mut value, mut seen) = (Vec::new(), 0);
            loop {
                match newest.wait(seen, NOW).unwrap() {
                    latest::WaitOutcome::Newer => {
                        seen = newest.latest(&mut value).unwrap().unwrap();
                        assert_eq!(value, seen.to_ne_bytes());
                        continue;
                    }
                    latest::WaitOutcome::Ended => break,
                    latest::WaitOutcome::TimedOut => {}
                }
                if newest.arm(seen).unwrap() {
                    continue;
                }
                if seen == records() {
                    idles(name, &mut waiting).await;
                } else {
                    waiting.readable().await;
                }
            }
            assert_eq!(seen, records());
            waiting.was_not_busy(name, records() as usize);
        });
        publisher.join().unwrap();
    }
}

/// A loop whose readiness is taken without looking whether there is still something: the control.
#[test]
fn control_without_arming_nobody_rings() {
    let Some((mut sender, receiver)) = ring(4096) else { return };
    let instance = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN;
    epoll::add(&instance, receiver.as_fd(), epoll::EventData::new_u64(0), flags).unwrap();
    sender.try_send(b"unheard").unwrap();
    let mut events = Vec::with_capacity(1);
    let timeout = Timespec::try_from(IDLE).unwrap();
    epoll::wait(&instance, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).unwrap();
    assert_eq!(events.len(), 0);
}
