//! What `broadcast` promises of any publisher: it may write what it likes into its file, and no reader
//! panics, hangs, reads beyond the area, allocates for more than one record, or goes back.
//! `SEALED_MMAP_FULL=1` for long runs.
#![cfg(target_os = "linux")]

mod support;

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use sealed_mmap::Producer;
use sealed_mmap::broadcast::{Next, Publisher, StartAt, Subscriber};
use support::runs::{in_full, live};
use support::signals::timed;
use support::streams::{LONG, NOW, Random, WORD, assert_invalid, forged, header};

const CAPACITY: u64 = 4096;
const STEP: u64 = CAPACITY / STEPS;
const STEPS: u64 = 32;
/// Far from a timeout, for a busy machine.
const LATEST: Duration = Duration::from_secs(5);
const PLACES: [StartAt; 3] = [StartAt::Oldest, StartAt::Middle, StartAt::Now];

// The layout that the module's source describes, in bytes.
const NEXT: u64 = 128;
const TAIL: u64 = NEXT + 8;
const LAST: u64 = TAIL + 8;
const BELL: u64 = LAST + 8;
const CLAIMED: u64 = 256;
const INDEX: u64 = 384;
const RECORDS: u64 = INDEX + STEPS * 16;
/// Bytes before a payload.
const HEAD: u64 = WORD as u64 + 8;
const MAGIC: [u8; 8] = *b"broad!!\n";

/// Numbers as they stand in memory: the low word first.
fn number(number: u64) -> [u8; 8] {
    if cfg!(target_endian = "big") && WORD == 4 { number.rotate_left(32) } else { number }
        .to_ne_bytes()
}

/// A publisher's file after records of eight bytes, and a writer of it that keeps to no protocol.
fn hostile(records: u64) -> Option<Producer> {
    let mut honest = live(Publisher::create("honest", CAPACITY as usize))?;
    for number in 1..=records {
        assert_eq!(honest.publish(&number.to_ne_bytes()).unwrap(), number);
    }
    let bytes = honest.file().map_live().unwrap().to_vec(..).unwrap();
    assert_eq!(bytes.len() as u64, RECORDS + CAPACITY);
    let producer = Producer::build("hostile", bytes.len() as u64, |file| {
        file.copy_from_slice(&bytes);
        Ok(())
    });
    Some(producer.unwrap())
}

fn open(producer: &Producer, start: StartAt) -> Subscriber {
    Subscriber::open(producer.file(), start).unwrap()
}

fn put(producer: &mut Producer, offset: u64, value: u64) {
    producer.write_at(offset, &number(value)).unwrap();
}

/// Whoever has seen this record takes the next one for granted.
fn announce(producer: &mut Producer, last: u64, tail: u64) {
    put(producer, NEXT, last);
    put(producer, TAIL, tail);
    put(producer, LAST, last);
    put(producer, BELL, last << 1);
}

fn is_poisoned(subscriber: &mut Subscriber) {
    for timeout in [NOW, LONG] {
        assert_invalid(subscriber.next(&mut Vec::new(), timeout));
        assert_invalid(subscriber.read_with(timeout, |_| ()));
    }
}

#[track_caller]
fn next(subscriber: &mut Subscriber) -> u64 {
    match subscriber.next(&mut Vec::new(), LONG).unwrap() {
        Next::Record(number) => number,
        other => panic!("{other:?}"),
    }
}

#[test]
fn lengths_and_numbers_that_do_not_follow_poison_the_reader() {
    let Some(_) = hostile(0) else { return };
    let size = HEAD + 8;
    for (offset, value) in [
        (0, 2 * size),
        (0, CAPACITY - 128),
        (0, CAPACITY),
        (0, usize::MAX as u64),
        (0, usize::MAX as u64 / 2),
        (WORD as u64, 0),
        (WORD as u64, 1),
        (WORD as u64, 3),
        (WORD as u64, u64::MAX),
    ] {
        let mut producer = hostile(2).unwrap();
        let mut subscriber = open(&producer, StartAt::Oldest);
        assert_eq!(next(&mut subscriber), 1);
        if offset == 0 {
            producer.store(RECORDS + size, value as usize).unwrap();
        } else {
            put(&mut producer, RECORDS + size + offset, value);
        }
        let mut record = Vec::new();
        assert_invalid(subscriber.next(&mut record, LONG));
        assert_eq!(record.capacity(), 0, "{value}");
        producer.store(RECORDS + size, 8).unwrap();
        put(&mut producer, RECORDS + size + WORD as u64, 2);
        is_poisoned(&mut subscriber);
    }
    // The control.
    let producer = hostile(2).unwrap();
    let mut subscriber = open(&producer, StartAt::Oldest);
    assert_eq!([next(&mut subscriber), next(&mut subscriber)], [1, 2]);
}

#[test]
fn no_record_is_longer_than_half_of_the_capacity() {
    let longest = CAPACITY / 2 - 128;
    for (len, is_given) in [(longest, true), (longest + 1, false), (CAPACITY - 128, false)] {
        let Some(mut producer) = hostile(0) else { return };
        let mut subscriber = open(&producer, StartAt::Now);
        producer.store(RECORDS, len as usize).unwrap();
        put(&mut producer, RECORDS + WORD as u64, 1);
        put(&mut producer, CLAIMED, CAPACITY);
        announce(&mut producer, 1, CAPACITY);
        match subscriber.next(&mut Vec::new(), NOW) {
            Ok(next) => assert!(is_given && next == Next::Record(1), "{len} bytes"),
            refused => {
                assert!(!is_given, "{len} bytes");
                assert_invalid(refused);
            }
        }
    }
}

#[test]
fn numbers_do_not_come_round() {
    let Some(mut producer) = hostile(0) else { return };
    put(&mut producer, CLAIMED, CAPACITY);
    announce(&mut producer, u64::MAX - 2, 0);
    let mut subscriber = open(&producer, StartAt::Now);
    for (i, number) in [u64::MAX - 1, u64::MAX, 0].into_iter().enumerate() {
        let at = RECORDS + i as u64 * HEAD;
        producer.store(at, 0).unwrap();
        put(&mut producer, at + WORD as u64, number);
    }
    announce(&mut producer, 0, 3 * HEAD);
    assert_eq!(next(&mut subscriber), u64::MAX - 1);
    assert_invalid(subscriber.next(&mut Vec::new(), NOW));
    is_poisoned(&mut subscriber);
}

#[test]
fn a_tail_that_cannot_be_is_refused_or_nothing_new() {
    let Some(_) = hostile(0) else { return };
    let tail = 2 * (HEAD + 8);
    // Taken back: nothing new, whatever it tells of an end.
    for back in [0, 1, tail - 8, (tail - 8) | 1] {
        let mut producer = hostile(2).unwrap();
        let mut subscriber = open(&producer, StartAt::Now);
        put(&mut producer, TAIL, back);
        let (next, took) =
            timed(|| subscriber.next(&mut Vec::new(), Duration::from_millis(20)).unwrap());
        assert_eq!(next, Next::TimedOut);
        assert!(took < LATEST);
    }
    // Where there is no whole record.
    for ahead in [2, 4, 6, 8, HEAD - 2, 1 << 20, u64::MAX - 1 - tail] {
        let mut producer = hostile(2).unwrap();
        let mut subscriber = open(&producer, StartAt::Now);
        put(&mut producer, TAIL, tail + ahead);
        assert_invalid(subscriber.next(&mut Vec::new(), LONG));
        is_poisoned(&mut subscriber);
    }
}

#[test]
fn a_claim_that_is_taken_back_poisons_the_reader() {
    let Some(mut producer) = hostile(200) else { return };
    let mut subscriber = open(&producer, StartAt::Oldest);
    next(&mut subscriber);
    put(&mut producer, CLAIMED, 0);
    assert_invalid(subscriber.next(&mut Vec::new(), LONG));
    is_poisoned(&mut subscriber);
}

#[test]
fn claiming_ever_more_is_an_error_that_may_pass() {
    let Some(_) = hostile(0) else { return };
    for place in PLACES {
        let mut producer = hostile(3).unwrap();
        let mut subscriber = open(&producer, StartAt::Oldest);
        subscriber.after_lag(place);
        for claimed in [CAPACITY + STEP, 1 << 40, !7, u64::MAX] {
            put(&mut producer, CLAIMED, claimed);
            let (next, took) = timed(|| subscriber.next(&mut Vec::new(), NOW));
            assert!(took < LATEST, "{took:?}");
            match next {
                // Once it has missed all there is, there is nothing new.
                Ok(next) => {
                    let is_first = claimed == CAPACITY + STEP;
                    assert!(is_first == matches!(next, Next::Lagged { missed: 3 }), "{next:?}");
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    }
}

/// An entry of the index can send a reader anywhere in the area, and nowhere else.
#[test]
fn entries_of_the_index_lead_nowhere_else() {
    let Some(_) = hostile(0) else { return };
    let mut random = Random::new();
    for round in 0..3000 {
        let mut producer = hostile(3).unwrap();
        let mut subscriber = open(&producer, StartAt::Oldest);
        subscriber.after_lag(PLACES[round % 3]);
        let claimed = CAPACITY * (2 + random.below(1 << 30)) + random.below(CAPACITY);
        for step in 0..STEPS {
            let current = ((claimed / STEP) & !(STEPS - 1)) + step;
            let position = current * STEP + random.below(STEP + 8);
            put(&mut producer, INDEX + step * 16, position);
            put(&mut producer, INDEX + step * 16 + 8, random.next() >> random.below(64));
        }
        put(&mut producer, CLAIMED, claimed);
        announce(&mut producer, random.next(), claimed & !7);
        let mut seen = 0;
        for _ in 0..4 {
            match subscriber.next(&mut Vec::new(), NOW) {
                Ok(Next::Record(number)) => {
                    assert!(number > seen);
                    seen = number;
                }
                Ok(_) => {}
                Err(error) => {
                    let kinds = [ErrorKind::InvalidData, ErrorKind::WouldBlock];
                    assert!(kinds.contains(&error.kind()), "{error}");
                }
            }
        }
        match Subscriber::open(producer.file(), PLACES[round % 3]) {
            Ok(mut subscriber) => drop(subscriber.next(&mut Vec::new(), NOW)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
}

#[test]
fn every_field_of_a_header_is_checked() {
    let Some(producer) = hostile(1) else { return };
    assert_eq!(open(&producer, StartAt::Now).capacity() as u64, CAPACITY);
    let open = |len: u64, header: [u8; 32]| {
        Subscriber::open(forged(len, header).unwrap().file(), StartAt::Now)
    };
    for at in 0..16 {
        let mut header = header(MAGIC, CAPACITY);
        header[at] ^= 0x40;
        assert_invalid(open(RECORDS + CAPACITY, header));
    }
    for wrong in
        [0, 1, 127, 129, CAPACITY + 128, 1 << 31, 1 << 32, 1 << 62, u64::MAX, u64::MAX - 127]
    {
        assert_invalid(open(RECORDS + CAPACITY, header(MAGIC, wrong)));
    }
    for len in [0, 1, 31, 32, 128, 384, RECORDS, RECORDS + CAPACITY - 1] {
        assert_invalid(open(len, header(MAGIC, CAPACITY)));
    }
    for other in [*b"latest!\n", *b"ring->!\n", *b"asleep?\n"] {
        assert_invalid(open(RECORDS + CAPACITY, header(other, CAPACITY)));
    }
    // The smallest that can be, which no publisher makes.
    let mut smallest = open(RECORDS + CAPACITY, header(MAGIC, 256)).unwrap();
    assert_eq!(smallest.next(&mut Vec::new(), NOW).unwrap(), Next::TimedOut);
}

fn random_word(random: &mut Random, about: u64) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => u64::MAX - random.below(600),
        2 => (1 << 63) - random.below(64),
        3 => random.below(5000),
        4 => about.wrapping_add(random.below(64)).wrapping_sub(32),
        _ => about.wrapping_add(random.below(64) * 8).wrapping_sub(256) & !7,
    }
}

/// Random words anywhere in the file, while it is read: an error, a record, a count, or a timeout.
#[test]
fn random_words_confuse_no_reader() {
    let Some(_) = hostile(0) else { return };
    let time = Duration::from_secs(if in_full() { 300 } else { 1 });
    let (started, mut random) = (Instant::now(), Random::new());
    let (mut records, mut refused, mut lags) = (0_u64, 0_u64, 0_u64);
    while started.elapsed() < time || records == 0 || refused == 0 || lags == 0 {
        assert!(started.elapsed() < time + LONG, "{records}, {refused}, {lags}");
        let published = random.below(600);
        let mut producer = hostile(published).unwrap();
        let honest = producer.file().map_live().unwrap().to_vec(..).unwrap();
        let start = PLACES[random.below(3) as usize];
        let mut subscriber = open(&producer, start);
        subscriber.after_lag(PLACES[random.below(3) as usize]);
        let stop = AtomicBool::new(false);
        let seed = random.next();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random(seed | 1);
                let tail = published * (HEAD + 8);
                while !stop.load(Relaxed) {
                    for _ in 0..random.below(8) {
                        let at = match random.below(6) {
                            0 => NEXT,
                            1 => TAIL,
                            2 => LAST,
                            3 => CLAIMED,
                            4 => INDEX + random.below(STEPS * 2) * 8,
                            _ => RECORDS + random.below(CAPACITY / 8) * 8,
                        };
                        let about = [tail, published, 8][random.below(3) as usize];
                        put(&mut producer, at, random_word(&mut random, about));
                    }
                    if random.below(4) == 0 {
                        producer.write_at(0, &honest).unwrap(); // or nothing would ever be given out
                    }
                }
            });
            let (mut seen, mut record) = (0, Vec::new());
            for _ in 0..200 {
                let timeout = if random.below(8) == 0 { Duration::from_micros(50) } else { NOW };
                let (next, took) = timed(|| match random.below(2) {
                    0 => subscriber.next(&mut record, timeout),
                    _ => subscriber
                        .read_with(timeout, |mut seen| {
                            record.clear();
                            seen.read_to_end(&mut record).unwrap()
                        })
                        .map(|next| match next {
                            Next::Record((number, _)) => Next::Record(number),
                            Next::Lagged { missed } => Next::Lagged { missed },
                            Next::Ended => Next::Ended,
                            Next::TimedOut => Next::TimedOut,
                        }),
                });
                assert!(took < LATEST, "{took:?}");
                assert!(record.len() as u64 <= CAPACITY / 2);
                match next {
                    Ok(Next::Record(number)) => {
                        assert!(number > seen, "{number} after {seen}");
                        seen = number;
                        records += 1;
                    }
                    Ok(Next::Lagged { missed }) => {
                        assert!(missed > 0);
                        lags += 1;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        refused += 1;
                        if error.kind() == ErrorKind::InvalidData {
                            is_poisoned(&mut subscriber);
                            break;
                        }
                        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                    }
                }
            }
            stop.store(true, Relaxed);
        });
    }
    println!("{records} records, {lags} lags, {refused} refusals");
}
