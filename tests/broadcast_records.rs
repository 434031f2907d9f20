//! What `broadcast` promises of an honest publisher: every record, whole, in order, or counted as missed,
//! to any number of readers. `SEALED_MMAP_FULL=1` for long runs.
#![cfg(target_os = "linux")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::Duration;

use sealed_mmap::SealedFile;
use sealed_mmap::bell::{Registered, Request};
use sealed_mmap::broadcast::{Next, Publisher, StartAt, Subscriber};
use sealed_mmap::socket::{recv_fd, send_fds};
use support::process::{self, Peer};
use support::runs::{in_full, live, rounds};
use support::signals::{Signals, timed};
use support::streams::{LONG, NOW, WORD, policy};
use support::{meminfo, salted_pattern};

fn create(capacity: usize) -> Option<Publisher> {
    live(Publisher::create("broadcast", capacity))
}

fn open(publisher: &Publisher, start: StartAt) -> Subscriber {
    Subscriber::open(publisher.file(), start).unwrap()
}

fn join(publisher: &mut Publisher, start: StartAt) -> Subscriber<Registered> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let request = Request::send(ours).unwrap();
    publisher.admit(theirs, &policy(), LONG).unwrap();
    Subscriber::join(request, start, &policy(), LONG).unwrap()
}

#[track_caller]
fn next(subscriber: &mut Subscriber) -> (u64, Vec<u8>) {
    let mut record = Vec::new();
    match subscriber.next(&mut record, LONG).unwrap() {
        Next::Record(number) => (number, record),
        other => panic!("{other:?}"),
    }
}

fn lens(longest: usize) -> Vec<usize> {
    let mut lens: Vec<_> = (0..=2 * WORD + 1).collect();
    for edge in [64, 128, 256, 512, 4096] {
        lens.extend([edge - 2 * WORD, edge - WORD, edge - 1, edge, edge + 1]);
    }
    lens.retain(|len| *len < longest);
    lens.extend([longest - WORD, longest - 1, longest]);
    lens
}

#[test]
fn records_of_every_length_arrive_whole_and_in_order_around_the_end() {
    for capacity in [1, 4096, 5000, 3 * 4096, (64 << 10) + 1] {
        let Some(mut publisher) = create(capacity) else { return };
        assert_eq!(publisher.capacity(), capacity.next_multiple_of(4096));
        let mut subscribers = [open(&publisher, StartAt::Now), open(&publisher, StartAt::Oldest)];
        let mut registered = join(&mut publisher, StartAt::Middle);
        assert_eq!(registered.capacity(), publisher.capacity());
        let mut expected = 0;
        for round in 0..10 {
            for len in lens(publisher.longest()) {
                expected += 1;
                let record = salted_pattern(len, expected as usize);
                let number = match expected % 3 {
                    0 => publisher.publish(&record).unwrap(),
                    1 => publisher.publish_without_wake(&record).unwrap(),
                    _ => {
                        let write = |slot: &mut sealed_mmap::broadcast::Slot<'_>| {
                            let (head, tail) = record.split_at(len / 3);
                            slot.write_at(head.len() as u64, tail).unwrap();
                            slot.write_all(head).unwrap();
                            slot.len()
                        };
                        let (number, written) = publisher.publish_with(len, write).unwrap();
                        assert_eq!(written, len);
                        number
                    }
                };
                assert_eq!(number, expected);
                for subscriber in &mut subscribers {
                    let (number, seen) = next(subscriber);
                    assert_eq!((number, seen.len()), (expected, len), "round {round}");
                    assert!(seen == record);
                }
                let read = registered.read_with(NOW, |mut seen| {
                    let mut bytes = Vec::new();
                    seen.read_to_end(&mut bytes).unwrap();
                    assert_eq!(seen.to_vec(..).unwrap(), bytes);
                    bytes
                });
                assert!(read.unwrap() == Next::Record((expected, record)));
            }
        }
        for mut subscriber in subscribers {
            assert_eq!(subscriber.next(&mut Vec::new(), NOW).unwrap(), Next::TimedOut);
        }
    }
}

#[test]
fn capacities_that_cannot_be_are_refused() {
    let kind = |capacity| Publisher::create("broadcast", capacity).map(drop).unwrap_err().kind();
    for capacity in [0, usize::MAX, usize::MAX / 2] {
        assert_eq!(kind(capacity), ErrorKind::InvalidInput, "{capacity}");
    }
    let Some(_) = create(1) else { return };
    let memory = 2 * (meminfo("MemTotal") + meminfo("SwapTotal"));
    match usize::try_from(memory).ok().filter(|capacity| *capacity < usize::MAX / 2) {
        Some(capacity) => assert_eq!(kind(capacity), ErrorKind::OutOfMemory),
        None => eprintln!("not tested, memory is as large as what can be counted"),
    }
}

#[test]
fn a_record_longer_than_the_longest_publishes_nothing() {
    let Some(mut publisher) = create(4096) else { return };
    let mut subscriber = open(&publisher, StartAt::Now);
    let longest = publisher.longest();
    for len in [longest + 1, 4096, usize::MAX - 8, usize::MAX] {
        let error = publisher.publish_with(len, |_| panic!("there is no slot")).unwrap_err();
        assert_eq!((error.len, error.size), (len as u64, longest as u64));
    }
    publisher.publish(&vec![0; longest + 1]).unwrap_err();
    assert_eq!(subscriber.next(&mut Vec::new(), NOW).unwrap(), Next::TimedOut);
    assert_eq!(publisher.publish(&vec![7; longest]).unwrap(), 1);
    assert_eq!(next(&mut subscriber), (1, vec![7; longest]));
}

#[test]
fn what_was_missed_is_told_exactly_wherever_reading_goes_on() {
    let Some(_) = create(1) else { return };
    for len in [0, 8, 100, 300, 1300, 1900] {
        for place in [StartAt::Oldest, StartAt::Middle, StartAt::Now] {
            let mut publisher = create(4096).unwrap();
            let mut subscriber = open(&publisher, StartAt::Oldest);
            subscriber.after_lag(place);
            let record = |number: u64| salted_pattern(len, number as usize);
            let (mut published, mut accounted, mut lags) = (0, 0, 0);
            for burst in [1, 300, 2, 1000, 5, 400, 0, 3000] {
                for _ in 0..burst {
                    published += 1;
                    publisher.publish_without_wake(&record(published)).unwrap();
                }
                let before = accounted;
                loop {
                    let mut bytes = Vec::new();
                    match subscriber.next(&mut bytes, NOW).unwrap() {
                        Next::Record(number) => {
                            accounted += 1;
                            assert_eq!(number, accounted);
                            assert!(bytes == record(number), "{number}");
                        }
                        Next::Lagged { missed } => {
                            assert!(missed > 0);
                            assert_eq!(accounted, before, "nothing is overtaken meanwhile");
                            accounted += missed;
                            lags += 1;
                        }
                        Next::TimedOut => break,
                        Next::Ended => panic!("the publisher is there"),
                    }
                }
                assert_eq!(accounted, published);
            }
            assert!(lags > 0, "{len}, {place:?}");
        }
    }
}

#[test]
fn a_reader_starts_where_it_says() {
    let Some(mut publisher) = create(4096) else { return };
    for start in [StartAt::Oldest, StartAt::Middle, StartAt::Now] {
        let mut subscriber = open(&publisher, start);
        assert_eq!(subscriber.next(&mut Vec::new(), NOW).unwrap(), Next::TimedOut);
    }
    let publish = |publisher: &mut Publisher, records: u64| {
        for _ in 0..records {
            publisher.publish(&[7; 104]).unwrap();
        }
    };
    // So many fit.
    let fit = 4096 / (104 + if WORD == 8 { 16 } else { 12 });
    publish(&mut publisher, 10);
    assert_eq!(next(&mut open(&publisher, StartAt::Oldest)).0, 1);
    let mut now = open(&publisher, StartAt::Now);
    publish(&mut publisher, 990);
    assert!(matches!(now.next(&mut Vec::new(), NOW).unwrap(), Next::Lagged { .. }));
    let first = |start| next(&mut open(&publisher, start)).0;
    let oldest = first(StartAt::Oldest);
    assert!((1000 - fit + 1..=1000 - fit + 3).contains(&oldest), "{oldest}");
    let middle = first(StartAt::Middle);
    assert!((1000 - fit / 2 - 2..=1000 - fit / 2 + 3).contains(&middle), "{middle}");
    let mut now = open(&publisher, StartAt::Now);
    assert_eq!(now.next(&mut Vec::new(), NOW).unwrap(), Next::TimedOut);
    publish(&mut publisher, 1);
    assert_eq!(next(&mut now).0, 1001);
    drop(publisher);
    assert_eq!(now.next(&mut Vec::new(), LONG).unwrap(), Next::Ended);
}

#[test]
fn the_end_comes_after_the_last_record_awake_or_asleep() {
    let Some(mut publisher) = create(4096) else { return };
    let mut anonymous = open(&publisher, StartAt::Now);
    let mut registered = join(&mut publisher, StartAt::Now);
    publisher.publish(b"last").unwrap();
    thread::scope(|scope| {
        let asleep = open(&publisher, StartAt::Now);
        let asleep_too = join(&mut publisher, StartAt::Now);
        let sleep = |mut subscriber: Subscriber| {
            scope.spawn(move || subscriber.next(&mut Vec::new(), Duration::MAX).unwrap())
        };
        let first = sleep(asleep);
        let mut subscriber = asleep_too;
        let second = scope.spawn(move || subscriber.next(&mut Vec::new(), Duration::MAX).unwrap());
        thread::sleep(Duration::from_millis(50));
        drop(publisher);
        assert_eq!([first.join().unwrap(), second.join().unwrap()], [Next::Ended; 2]);
    });
    let mut record = Vec::new();
    assert_eq!(next(&mut anonymous), (1, b"last".to_vec()));
    assert_eq!(registered.next(&mut record, NOW).unwrap(), Next::Record(1));
    for timeout in [NOW, LONG, Duration::MAX] {
        assert_eq!(anonymous.next(&mut record, timeout).unwrap(), Next::Ended);
        assert_eq!(registered.next(&mut record, timeout).unwrap(), Next::Ended);
    }
    assert!(registered.arm().unwrap());
}

#[test]
fn timeouts_hold_also_under_signals() {
    const TIMEOUT: Duration = Duration::from_millis(400);
    let Some(_) = create(1) else { return };
    let calls: [(&str, fn()); 4] = [
        ("anonymous", || {
            let publisher = create(1).unwrap();
            let mut subscriber = open(&publisher, StartAt::Now);
            assert_eq!(subscriber.next(&mut Vec::new(), TIMEOUT).unwrap(), Next::TimedOut);
        }),
        ("registered", || {
            let mut publisher = create(1).unwrap();
            let mut subscriber = join(&mut publisher, StartAt::Now);
            assert_eq!(subscriber.next(&mut Vec::new(), TIMEOUT).unwrap(), Next::TimedOut);
        }),
        ("admit", || {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let admitted = create(1).unwrap().admit(ours, &policy(), TIMEOUT);
            assert_eq!(admitted.unwrap_err().kind(), ErrorKind::TimedOut);
        }),
        ("join", || {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let request = Request::send(ours).unwrap();
            let joined = Subscriber::join(request, StartAt::Now, &policy(), TIMEOUT);
            assert_eq!(joined.unwrap_err().kind(), ErrorKind::TimedOut);
        }),
    ];
    thread::scope(|scope| {
        for (name, call) in calls {
            for interrupted in [false, true] {
                scope.spawn(move || {
                    let _signals = interrupted.then(|| Signals::every(Duration::from_millis(10)));
                    let ((), took) = timed(call);
                    assert!((TIMEOUT..TIMEOUT * 4).contains(&took), "{name} took {took:?}");
                });
            }
        }
    });
}

#[test]
fn a_closure_that_panics_publishes_nothing_and_skips_nothing() {
    let Some(mut publisher) = create(4096) else { return };
    let mut subscriber = open(&publisher, StartAt::Now);
    for number in 1..=100 {
        let published = catch_unwind(AssertUnwindSafe(|| {
            let _ = publisher.publish_with(1000, |slot| {
                slot.write_all(b"half of it").unwrap();
                resume_unwind(Box::new("in the middle"));
            });
        }));
        published.unwrap_err();
        assert_eq!(publisher.publish(&[number as u8; 900]).unwrap(), number);
        let read = catch_unwind(AssertUnwindSafe(|| {
            let _ = subscriber.read_with(LONG, |_| resume_unwind(Box::new("in the middle")));
        }));
        read.unwrap_err();
        assert_eq!(next(&mut subscriber), (number, vec![number as u8; 900]));
        let mut oldest = open(&publisher, StartAt::Oldest);
        assert!(next(&mut oldest).0 <= number);
    }
}

// ---- In other processes ----------------------------------------

const RECORDS_LEN: usize = 64;

/// What was published as `number`: a length and bytes that follow from it.
fn numbered(number: u64) -> Vec<u8> {
    let mut record = number.to_ne_bytes().to_vec();
    record.resize(8 + number as usize % RECORDS_LEN, number as u8);
    record
}

/// Not a promise: a reader in another process, which counts until the end.
#[test]
fn role_of_another_process() {
    let Some(mut role) = process::role() else { return };
    let start = if role.name.contains("oldest") { StartAt::Oldest } else { StartAt::Now };
    let (mut got, mut missed, mut record) = (0, 0, Vec::new());
    let mut count = |next: std::io::Result<Next>, record: &[u8]| match next {
        Ok(Next::Record(number)) => {
            got += 1;
            assert!(record == numbered(number), "{number} is torn");
            true
        }
        Ok(Next::Lagged { missed: more }) => {
            missed += more;
            true
        }
        Ok(Next::Ended) => false,
        Ok(Next::TimedOut) => panic!("nothing came"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            true
        }
    };
    if role.name.starts_with("anonymous") {
        let (_, fd) = recv_fd(&role.fd, &mut [0]).unwrap();
        let file = SealedFile::receive_future_write(fd.unwrap(), &policy()).unwrap();
        let mut subscriber = Subscriber::open(&file, start).unwrap();
        subscriber.after_lag(StartAt::Oldest);
        role.parent.ask("ready");
        while count(subscriber.next(&mut record, LONG), &record) {}
    } else {
        let request = Request::send(role.fd).unwrap();
        let mut subscriber = Subscriber::join(request, start, &policy(), LONG).unwrap();
        role.parent.ask("ready");
        while count(subscriber.next(&mut record, LONG), &record) {}
    }
    role.parent.tell(got);
    role.parent.tell(missed);
}

#[test]
fn at_full_speed_got_and_missed_add_up_to_published_for_every_reader() {
    let Some(mut publisher) = create(16 << 10) else { return };
    let mut readers: Vec<_> = ["anonymous oldest", "anonymous", "registered oldest", "registered"]
        .map(|role| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut peer = Peer::start(process::ENTRY, role, theirs);
            if role.starts_with("anonymous") {
                send_fds(&ours, &[0], &[publisher.file().as_fd()]).unwrap();
            } else {
                publisher.admit(ours, &policy(), LONG).unwrap();
            }
            assert_eq!(peer.channel.hear(), "ready");
            peer
        })
        .into();
    for reader in &mut readers {
        reader.channel.tell("go");
    }
    let records = rounds(150_000, 30_000_000) as u64;
    for number in 1..=records {
        publisher.publish(&numbered(number)).unwrap();
        if number % 10_000 == 0 && !in_full() {
            thread::sleep(Duration::from_micros(200));
        }
    }
    assert_eq!(publisher.admitted(), 2);
    drop(publisher);
    for reader in &mut readers {
        let [got, missed] =
            [(); 2].map(|()| reader.channel.hear().parse::<u64>().expect("a count"));
        println!("{got} records got, {missed} missed");
        assert_eq!(got + missed, records);
    }
}

/// Records of which none other begins in half of the capacity: there, only the entry of the record that is
/// being written could tell a reader where to go on.
#[test]
fn long_records_at_full_speed_poison_no_reader() {
    let Some(mut publisher) = create(4096) else { return };
    let readers: Vec<_> = [StartAt::Middle, StartAt::Oldest, StartAt::Now]
        .map(|place| {
            let mut subscriber = open(&publisher, StartAt::Now);
            subscriber.after_lag(place);
            thread::spawn(move || {
                let (mut accounted, mut record) = (0, Vec::new());
                loop {
                    match subscriber.next(&mut record, LONG) {
                        Ok(Next::Record(number)) => {
                            assert_eq!(number, accounted + 1);
                            let expected = salted_pattern(1300, number as usize % 8);
                            assert!(record == expected, "{number} is torn");
                            accounted = number;
                        }
                        Ok(Next::Lagged { missed }) => accounted += missed,
                        Ok(Next::Ended) => return accounted,
                        Ok(Next::TimedOut) => panic!("nothing came"),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                    }
                }
            })
        })
        .into();
    let values: [_; 8] = std::array::from_fn(|salt| salted_pattern(1300, salt));
    let records = rounds(100_000, 50_000_000);
    for number in 1..=records {
        publisher.publish_without_wake(&values[number % 8]).unwrap();
    }
    drop(publisher);
    for reader in readers {
        assert_eq!(reader.join().unwrap(), records as u64);
    }
}
