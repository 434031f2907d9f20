//! What `latest` promises of an honest publisher: whole values, never an older one, across processes
//! and through the publisher's death. `SEALED_MMAP_FULL=1` for the full numbers. Needs `/proc`.
#![cfg(target_os = "linux")]

mod support;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{OutOfBounds, Producer, SealPolicy, SealedFile, Seals};
use support::process::{self, Peer};
use support::runs::{in_full, is_emulated, live};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

fn create(capacity: usize, slots: usize) -> Option<Publisher> {
    live(Publisher::create_with_slots("latest", capacity, slots))
}

fn subscribe(publisher: &Publisher) -> Subscriber {
    Subscriber::open(publisher.file()).unwrap()
}

fn receive_subscriber(fd: OwnedFd) -> Subscriber {
    let policy = SealPolicy::new().require(Seals::GROW).len(..=1 << 30);
    Subscriber::open(&SealedFile::receive_future_write(fd, &policy).unwrap()).unwrap()
}

/// Values of many lengths that tell their number and whether they are whole.
struct Values(Vec<Vec<u8>>);

impl Values {
    const HEAD: usize = 8;

    fn new(capacity: usize) -> Self {
        let value = |n: usize| {
            let len = Self::HEAD + (capacity - Self::HEAD) * (n + 1) / 64;
            let mut value = vec![n as u8; len];
            value[4] = !n as u8; // no value is a repetition of one byte
            let check = crc32fast::hash(&value[4..]);
            value[..4].copy_from_slice(&check.to_ne_bytes());
            value
        };
        Self((0..64).map(value).collect())
    }

    /// The one to publish as `number`.
    fn get(&self, number: u64) -> &[u8] {
        &self.0[number as usize % 64]
    }

    fn publish_next(&self, publisher: &mut Publisher, number: &mut u64) {
        *number += 1;
        assert_eq!(publisher.publish(self.get(*number)).unwrap(), *number);
    }
}

fn is_whole(value: &[u8]) -> bool {
    value.len() > 4 && crc32fast::hash(&value[4..]).to_ne_bytes() == value[..4]
}

#[test]
fn every_length_up_to_the_capacity_is_read_as_published() {
    let Some(mut publisher) = create(200, 2) else { return };
    let mut subscriber = subscribe(&publisher);
    assert_eq!((publisher.capacity(), subscriber.capacity()), (200, 200));
    let bytes: Vec<u8> = (0..200).collect();
    let mut read = vec![0xff; 300];
    for (len, number) in (0..=200).chain((0..=200).rev()).zip(1..) {
        assert_eq!(publisher.publish(&bytes[..len]).unwrap(), number);
        assert_eq!(subscriber.latest(&mut read).unwrap(), Some(number));
        assert_eq!(read, bytes[..len]);
    }
}

#[test]
fn a_capacity_of_zero_still_counts() {
    let Some(mut publisher) = create(0, 2) else { return };
    let mut subscriber = subscribe(&publisher);
    publisher.publish(&[]).unwrap();
    assert_eq!(subscriber.latest(&mut vec![1]).unwrap(), Some(1));
    assert!(publisher.publish(&[0]).is_err());
}

#[test]
fn a_value_that_is_too_long_is_refused_and_changes_nothing() {
    let Some(mut publisher) = create(10, 2) else { return };
    let mut subscriber = subscribe(&publisher);
    publisher.publish(b"the newest").unwrap();
    let file = publisher.file().map_live().unwrap();
    let before = file.to_vec(..).unwrap();
    let refusal = publisher.publish(b"much too long").unwrap_err();
    assert_eq!(refusal, OutOfBounds { offset: 0, len: 13, size: 10 });
    assert_eq!(file.to_vec(..).unwrap(), before);
    let mut value = Vec::new();
    assert_eq!(subscriber.latest(&mut value).unwrap(), Some(1));
    assert_eq!(value, b"the newest");
    assert_eq!(publisher.publish(b"another").unwrap(), 2);
}

#[test]
fn slot_counts_that_are_invalid_or_too_large_are_refused() {
    for (capacity, slots) in
        [(1, 0), (1, 1), (1, 3), (1, 12), (1, usize::MAX), (usize::MAX, 2), (usize::MAX / 2, 4)]
    {
        let error = Publisher::create_with_slots("latest", capacity, slots).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{capacity}, {slots}");
        let message = error.to_string();
        assert!(message.contains("slots") && message.contains(&slots.to_string()), "{message}");
    }
    for slots in [2, 4, 64] {
        let Some(mut publisher) = create(1, slots) else { return };
        publisher.publish(b"x").unwrap();
    }
}

#[test]
fn nothing_is_read_before_the_first_value() {
    let Some(mut publisher) = create(10, 2) else { return };
    let mut subscriber = subscribe(&publisher);
    let mut value = b"from before".to_vec();
    assert_eq!(subscriber.latest(&mut value).unwrap(), None);
    assert_eq!(value, b"");
    publisher.publish(b"first").unwrap();
    assert_eq!(subscriber.latest(&mut value).unwrap(), Some(1));
}

#[test]
fn subscribers_see_the_newest_value_whenever_they_come() {
    let Some(mut publisher) = create(10, 2) else { return };
    for n in 1..=9 {
        publisher.publish(&[n]).unwrap();
        let mut late = subscribe(&publisher);
        for _ in 0..2 {
            let mut value = Vec::new();
            assert_eq!(late.latest(&mut value).unwrap(), Some(n.into()));
            assert_eq!(value, [n]);
        }
    }
}

#[test]
fn a_publisher_that_ends_says_so_and_leaves_its_last_value() {
    let Some(mut publisher) = create(10, 2) else { return };
    let mut subscriber = subscribe(&publisher);
    let file = publisher.file().try_clone().unwrap();
    publisher.publish(b"last").unwrap();
    assert_eq!(subscriber.wait(1, Duration::ZERO).unwrap(), WaitOutcome::TimedOut);
    drop(publisher);
    let mut late = Subscriber::open(&file).unwrap();
    for subscriber in [&mut subscriber, &mut late] {
        assert_eq!(subscriber.wait(0, LONG).unwrap(), WaitOutcome::Newer);
        let mut value = Vec::new();
        assert_eq!(subscriber.latest(&mut value).unwrap(), Some(1));
        assert_eq!(value, b"last");
        assert_eq!(subscriber.wait(1, LONG).unwrap(), WaitOutcome::Ended);
    }
}

#[test]
fn a_timeout_is_a_timeout() {
    let Some(publisher) = create(10, 2) else { return };
    let subscriber = subscribe(&publisher);
    for timeout in [Duration::ZERO, Duration::from_nanos(1), SHORT] {
        let started = Instant::now();
        assert_eq!(subscriber.wait(0, timeout).unwrap(), WaitOutcome::TimedOut);
        assert!((timeout..LONG).contains(&started.elapsed()));
    }
}

#[test]
fn a_quiet_value_is_read_at_once_but_wakes_nobody() {
    let Some(mut publisher) = create(10, 2) else { return };
    let (mut subscriber, mut value) = (subscribe(&publisher), Vec::new());
    assert_eq!(publisher.publish_without_wake(b"one").unwrap(), 1);
    assert_eq!(subscriber.latest(&mut value).unwrap(), Some(1));
    assert_eq!(value, b"one");
    assert!(publisher.publish_without_wake(&[0; 11]).is_err());

    // Less than the second after which a sleeper looks again.
    let asleep = Duration::from_millis(if is_emulated() { 800 } else { 200 });
    let quietly = time_asleep(&mut publisher, asleep, |publisher| {
        publisher.publish_without_wake(b"two").unwrap();
    });
    assert!(quietly >= asleep);
    let control = time_asleep(&mut publisher, LONG, |publisher| {
        publisher.publish(b"three").unwrap();
    });
    assert!(control < LONG);
}

/// How long a reader sleeps that is woken up by the publisher, or by the timeout.
fn time_asleep(
    publisher: &mut Publisher,
    timeout: Duration,
    publish: impl FnOnce(&mut Publisher),
) -> Duration {
    let mut subscriber = subscribe(publisher);
    let (tell, sleeper) = mpsc::channel();
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let seen = subscriber.latest(&mut Vec::new()).unwrap().unwrap();
            tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
            let started = Instant::now();
            assert_eq!(subscriber.wait(seen, timeout).unwrap(), WaitOutcome::Newer);
            started.elapsed()
        });
        let status = format!("/proc/self/task/{}/stat", sleeper.recv().unwrap());
        thread::sleep(SHORT);
        while !fs::read_to_string(&status).unwrap().contains(") S ") {
            thread::yield_now();
        }
        publish(publisher);
        reader.join().unwrap()
    })
}

#[test]
fn a_sleeping_reader_is_woken_by_a_value_and_by_the_end() {
    const NAME: &str = "a_sleeping_reader_is_woken_by_a_value_and_by_the_end";
    if let Some(mut role) = process::role() {
        let subscriber = receive_subscriber(role.fd);
        role.parent.tell("sleeps");
        let outcomes = [subscriber.wait(0, LONG).unwrap(), subscriber.wait(1, LONG).unwrap()];
        assert_eq!(outcomes, [WaitOutcome::Newer, WaitOutcome::Ended]);
        return role.parent.tell("woken");
    }
    let Some(mut publisher) = create(10, 2) else { return };
    let started = Instant::now();
    let readers = [(); 2].map(|()| {
        let mut reader = Peer::start(NAME, "reader", publisher.file());
        assert_eq!(reader.channel.hear(), "sleeps");
        reader
    });
    thread::sleep(SHORT);
    publisher.publish(b"morning").unwrap();
    thread::sleep(SHORT);
    drop(publisher);
    for mut reader in readers {
        assert_eq!(reader.channel.hear(), "woken");
        assert!(reader.wait().success());
    }
    assert!(started.elapsed() < LONG);
}

#[test]
fn a_reader_that_stands_still_does_not_hold_the_publisher_up() {
    const NAME: &str = "a_reader_that_stands_still_does_not_hold_the_publisher_up";
    if let Some(mut role) = process::role() {
        let mut subscriber = receive_subscriber(role.fd);
        role.parent.tell("reads");
        loop {
            let _ = subscriber.latest(&mut Vec::new());
        }
    }
    let Some(mut publisher) = create(1 << 16, 2) else { return };
    publisher.publish(&[1; 1 << 16]).unwrap();
    let mut reader = Peer::start(NAME, "reader", publisher.file());
    assert_eq!(reader.channel.hear(), "reads");
    rustix::process::kill_process(reader.pid(), rustix::process::Signal::STOP).unwrap();
    for n in 2..1000 {
        assert_eq!(publisher.publish(&[n as u8; 1 << 16]).unwrap(), n);
    }
}

#[test]
fn values_read_in_other_processes_are_whole_and_never_go_back() {
    const NAME: &str = "values_read_in_other_processes_are_whole_and_never_go_back";
    const READERS: u64 = 2;
    let reads = if in_full() { 10_000_000 } else { 100_000 } / READERS;
    if let Some(mut role) = process::role() {
        let (mut subscriber, values) = (receive_subscriber(role.fd), Values::new(4096));
        assert_eq!(subscriber.wait(0, LONG).unwrap(), WaitOutcome::Newer);
        let (mut value, mut seen, mut distinct) = (Vec::new(), 0, 0_u64);
        let (mut read, mut overtaken) = (0, 0_u64);
        while read < reads {
            if distinct < 100 {
                assert_eq!(subscriber.wait(seen, LONG).unwrap(), WaitOutcome::Newer);
            }
            match subscriber.latest(&mut value) {
                Ok(number) => {
                    let number = number.unwrap();
                    assert!(number >= seen, "{number} after {seen}");
                    assert!(is_whole(&value) && value == values.get(number), "{number}: torn");
                    distinct += u64::from(number > seen);
                    seen = number;
                    read += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    overtaken += 1;
                    assert!(overtaken < reads / 100, "after {read} values");
                }
            }
        }
        role.parent.tell(distinct);
        return role.parent.tell(format_args!("{read} reads among {seen}; {overtaken} given up"));
    }
    let Some(mut publisher) = create(4096, 4) else { return };
    let values = Values::new(4096);
    let readers = [(); READERS as usize].map(|()| Peer::start(NAME, "reader", publisher.file()));
    let readers = thread::spawn(|| {
        readers.map(|mut reader| {
            let status = reader.wait();
            let distinct = reader.channel.hear();
            assert!(status.success(), "{status}: {distinct}");
            eprintln!("{distinct} distinct values, {}", reader.channel.hear());
            distinct.parse::<u64>().unwrap()
        })
    });
    let mut number = 0;
    while !readers.is_finished() {
        values.publish_next(&mut publisher, &mut number);
    }
    let distinct = readers.join().unwrap();
    assert!(distinct.iter().all(|distinct| *distinct >= 100), "{distinct:?}");
}

/// The control of the test above.
#[test]
fn values_that_are_simply_copied_are_torn() {
    if create(1, 2).is_none() {
        return;
    }
    let values = Values::new(4096);
    let whole = values.get(63); // 4096 bytes
    let other: Vec<u8> = whole.iter().map(|byte| !byte).collect();
    let mut producer = Producer::create("control", 4096).unwrap();
    let map = producer.file().map_live().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                producer.write_at(0, whole).unwrap();
                producer.write_at(0, &other).unwrap();
            }
        });
        let (started, mut torn) = (Instant::now(), false);
        while !torn && started.elapsed() < LONG {
            let value = map.to_vec(..).unwrap();
            torn = value != whole && value != other;
        }
        over.store(true, Relaxed);
        assert!(torn);
    });
}

#[test]
fn a_killed_publisher_leaves_a_whole_value_and_is_a_timeout() {
    const NAME: &str = "a_killed_publisher_leaves_a_whole_value_and_is_a_timeout";
    const CAPACITY: usize = 1 << 16; // so long that the kill mostly comes while it is copied
    if let Some(role) = process::role() {
        let mut publisher = create(CAPACITY, 2).unwrap();
        send_fds(&role.fd, b"!", &[publisher.file().as_fd()]).unwrap();
        let (values, mut number) = (Values::new(CAPACITY), 0);
        loop {
            values.publish_next(&mut publisher, &mut number);
        }
    }
    if create(1, 2).is_none() {
        return;
    }
    let kills = if in_full() { 1000 } else { 40 };
    let (values, mut value) = (Values::new(CAPACITY), Vec::new());
    let mut halfway = 0;
    for kill in 0..kills {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Peer::start(NAME, "publisher", theirs);
        let (_, fd) = recv_fd(&ours, &mut [0]).unwrap();
        let fd = fd.unwrap();
        let file = SealedFile::receive_future_write(fd, &SealPolicy::new()).unwrap();
        let mut subscriber = Subscriber::open(&file).unwrap();
        assert_eq!(subscriber.wait(0, LONG).unwrap(), WaitOutcome::Newer);
        thread::sleep(Duration::from_nanos(kill * 7919 % 400_000));

        let mut seen = subscriber.latest(&mut value).unwrap_or_default().unwrap_or(0);
        drop(child);
        for _ in 0..2 {
            let number = subscriber.latest(&mut value).unwrap().unwrap();
            assert!(number >= seen);
            assert!(is_whole(&value) && value == values.get(number));
            seen = number;
        }
        assert_eq!(subscriber.wait(seen, Duration::from_micros(1)).unwrap(), WaitOutcome::TimedOut);

        // The next value goes to the other slot, and its number comes first.
        let map = file.map_live().unwrap();
        let slot = 256 + (map.len() - 256) / 2 * ((seen as usize + 1) % 2);
        let begun = map.to_vec(slot as u64..slot as u64 + 8).unwrap();
        halfway += u32::from(begun == ((seen + 1) << 1).to_ne_bytes());
    }
    eprintln!("{kills} publishers killed, {halfway} in the middle of a value");
    assert!(halfway > 0);
}

#[test]
fn both_sides_can_move_to_other_threads_and_live_for_ever() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Publisher>();
    check::<Subscriber>();
}
