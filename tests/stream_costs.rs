//! What ring, broadcast and latest cost while both sides are awake: no system call and no allocation per
//! record; and what they leave behind: nothing.
#![cfg(target_os = "linux")]

mod support;

use std::os::unix::net::UnixStream;
use std::time::Duration;

use sealed_mmap::bell::Request;
use sealed_mmap::broadcast::{self, Next, StartAt};
use sealed_mmap::latest;
use sealed_mmap::ring::{Received, Receiver, Sender};
use support::counting::{Counting, allocations, between_marks, calls};
use support::process::{self, is_alone, open_descriptors};
use support::runs::{live, rounds};
use support::streams::{NOW, policy, ring};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LEN: usize = 1000;
const RECORDS: usize = 1000;

/// Runs a path, with `measured` around the part that counts.
type Path = fn(measured: &dyn Fn(&mut dyn FnMut()));

const PATHS: [(&str, Path); 4] = [
    ("ring", through_a_ring),
    ("ring in batches", through_a_ring_in_batches),
    ("broadcast", through_a_broadcast),
    ("latest", through_latest),
];

fn through_a_ring(measured: &dyn Fn(&mut dyn FnMut())) {
    let (mut sender, mut receiver) = ring(16 << 10).unwrap();
    let (mut record, mut target) = (Vec::with_capacity(LEN), [0; LEN]);
    measured(&mut || {
        for number in 0..RECORDS {
            let bytes = [number as u8; LEN];
            sender.send(&bytes, Duration::MAX).unwrap();
            sender.send_with(LEN, NOW, |slot| slot.write_at(0, &bytes)).unwrap().unwrap();
            sender.try_send(&bytes[..9]).unwrap();
            assert_eq!(receiver.recv(&mut record, Duration::MAX).unwrap(), Received::Record(LEN));
            assert_eq!(receiver.recv_into(&mut target, NOW).unwrap(), Received::Record(LEN));
            let part = receiver.read_with(NOW, |seen| seen.read_at(3, &mut target[..5]));
            assert_eq!(part.unwrap(), Received::Record(Ok(())));
            assert_eq!(receiver.recv(&mut record, NOW).unwrap(), Received::TimedOut);
        }
        assert!(sender.drain(NOW).unwrap());
    });
}

fn through_a_ring_in_batches(measured: &dyn Fn(&mut dyn FnMut())) {
    let (mut sender, mut receiver) = ring(16 << 10).unwrap();
    let mut record = Vec::with_capacity(LEN);
    measured(&mut || {
        for _ in 0..RECORDS / 10 {
            while sender.push(&[7; LEN]).is_ok() {}
            sender.flush().unwrap();
            while let Received::Record(_) = receiver.recv(&mut record, NOW).unwrap() {}
        }
    });
}

fn through_a_broadcast(measured: &dyn Fn(&mut dyn FnMut())) {
    let mut publisher = broadcast::Publisher::create("costs", 16 << 10).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let request = Request::send(ours).unwrap();
    publisher.admit(theirs, &policy(), Duration::MAX).unwrap();
    let mut registered =
        broadcast::Subscriber::join(request, StartAt::Now, &policy(), Duration::MAX).unwrap();
    let mut anonymous = broadcast::Subscriber::open(publisher.file(), StartAt::Now).unwrap();
    publisher.wake_anonymous(false);
    let mut record = Vec::with_capacity(LEN);
    measured(&mut || {
        for number in 1..=RECORDS as u64 {
            publisher.publish(&[number as u8; LEN]).unwrap();
            let next = anonymous.next(&mut record, Duration::MAX).unwrap();
            assert_eq!(next, Next::Record(number));
            let next = registered.read_with(Duration::MAX, |seen| seen.len()).unwrap();
            assert_eq!(next, Next::Record((number, LEN)));
            assert_eq!(registered.next(&mut record, NOW).unwrap(), Next::TimedOut);
        }
        // Being overtaken costs none, either.
        for _ in 0..RECORDS {
            publisher.publish_with(LEN, |slot| slot.write_at(0, &[7])).unwrap().1.unwrap();
        }
        let next = anonymous.next(&mut record, NOW).unwrap();
        assert!(matches!(next, Next::Lagged { .. }));
    });
}

fn through_latest(measured: &dyn Fn(&mut dyn FnMut())) {
    let mut publisher = latest::Publisher::create("costs", LEN).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let request = Request::send(ours).unwrap();
    publisher.admit(theirs, &policy(), Duration::MAX).unwrap();
    let mut registered = latest::Subscriber::join(request, &policy(), Duration::MAX).unwrap();
    publisher.wake_anonymous(false);
    let mut value = Vec::with_capacity(LEN);
    measured(&mut || {
        for number in 1..=RECORDS as u64 {
            publisher.publish(&[number as u8; LEN]).unwrap();
            let newer = registered.wait(number - 1, Duration::MAX).unwrap();
            assert_eq!(newer, latest::WaitOutcome::Newer);
            assert_eq!(registered.latest(&mut value).unwrap(), Some(number));
            let len = registered.read_with(|seen| seen.len()).unwrap();
            assert_eq!(len, Some((number, LEN)));
        }
    });
}

#[test]
fn no_record_takes_an_allocation() {
    let Some(_) = ring(1) else { return };
    for (name, path) in PATHS {
        path(&|measured| assert_eq!(allocations(measured), 0, "{name}"));
    }
    // The control: a target that is too short has to grow.
    let (mut sender, mut receiver) = ring(4096).unwrap();
    sender.try_send(&[7; LEN]).unwrap();
    let mut record = Vec::new();
    let grown = allocations(&mut || {
        assert_eq!(receiver.recv(&mut record, NOW).unwrap(), Received::Record(LEN));
    });
    assert_eq!(grown, 1);
}

/// A record that somebody sleeps for takes calls: the control.
fn with_a_sleep(measured: &dyn Fn(&mut dyn FnMut())) {
    let (mut sender, mut receiver) = ring(4096).unwrap();
    measured(&mut || {
        let timeout = Duration::from_millis(1);
        let received = receiver.recv(&mut Vec::new(), timeout).unwrap();
        assert_eq!(received, Received::TimedOut);
        assert!(!receiver.arm().unwrap());
        sender.try_send(b"x").unwrap();
    });
}

/// Not a promise: what strace runs.
#[test]
fn role_of_another_process() {
    let Some(role) = process::role() else { return };
    let path = PATHS.iter().find(|(name, _)| *name == role.name);
    path.map_or(with_a_sleep as Path, |(_, path)| *path)(&between_marks);
}

#[test]
fn no_record_takes_a_system_call_while_both_are_awake() {
    let Some(_) = ring(1) else { return };
    for name in PATHS.map(|(name, _)| name).into_iter().chain(["sleep"]) {
        let calls = match calls(name) {
            Ok(calls) => calls,
            Err(error) => {
                assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{error}");
                return eprintln!("not tested, strace does not work here: {error}");
            }
        };
        println!("{name}: {calls:?}");
        if name == "sleep" {
            assert_eq!(calls.iter().filter(|call| call.contains("send")).count(), 1, "{calls:?}");
            assert!(calls.iter().any(|call| call.contains("poll")), "{calls:?}");
        } else {
            assert!(calls.is_empty(), "{name}: {calls:?}");
        }
    }
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

#[test]
fn nothing_is_left_of_many_rings_and_subscribers() {
    if !is_alone("nothing_is_left_of_many_rings_and_subscribers") {
        return;
    }
    let Some(_) = ring(1) else { return };
    let mut publisher = live(latest::Publisher::create("costs", LEN)).unwrap();
    let mut cycle = || {
        let (mut sender, mut receiver) = ring(4096).unwrap();
        sender.try_send(b"x").unwrap();
        assert_eq!(receiver.recv(&mut Vec::new(), NOW).unwrap(), Received::Record(1));
        // Neither an offer nor a request that nobody answers leaves anything.
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(Sender::offer(ours, "ring", 1).unwrap());
        let _ = Receiver::accept(theirs, &policy(), NOW);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        drop(Request::send(ours).unwrap());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let request = Request::send(ours).unwrap();
        publisher.admit(theirs, &policy(), NOW).unwrap();
        let joined = latest::Subscriber::join(request, &policy(), NOW).unwrap();
        assert_eq!(publisher.admitted(), 1);
        drop(joined);
        assert_eq!(publisher.admitted(), 0);
    };
    cycle();
    let before = (open_descriptors(), mappings());
    for _ in 0..rounds(1000, 100_000) {
        cycle();
    }
    let after = (open_descriptors(), mappings());
    assert_eq!(after.0, before.0);
    assert!(after.1 <= before.1 + 10, "{before:?}, {after:?}");
    // The control.
    let _kept: Vec<_> = (0..10).map(|_| ring(1).unwrap()).collect();
    assert!(open_descriptors() > before.0 && mappings() > before.1 + 10);
}
