//! What `latest` promises of any publisher: it may write what it likes into its file, and no reader
//! crashes, hangs, reads beyond the value, or goes back. `SEALED_MMAP_FULL=1` for long runs.
#![cfg(target_os = "linux")]

mod support;

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
use sealed_mmap::{FutureWriteSealed, Producer, SealPolicy, SealedFile, Seals, add_seals};
use support::process::is_alone;
use support::runs::{in_full, live};

const CAPACITY: usize = 1000;
const SLOTS: usize = 4;
const WORD: usize = size_of::<usize>();
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

// The layout that the module's source describes.
const SLOTS_FIELD: u64 = 16;
const CAPACITY_FIELD: u64 = 24;
const NEWEST: u64 = 128;
const FIRST_SLOT: u64 = 256;
const STRIDE: u64 = (PAYLOAD + CAPACITY as u64).next_multiple_of(128);
// Within a slot.
const PAYLOAD: u64 = 64;
const LEN: u64 = 8;

/// A publisher's file after three values, and a writer of it that keeps to no protocol. `None` where
/// the system has no producers.
fn hostile() -> Option<Producer> {
    let mut honest = live(Publisher::create_with_slots("honest", CAPACITY, SLOTS))?;
    for value in [&b"one"[..], b"two", b"three"] {
        honest.publish(value).unwrap();
    }
    let bytes = honest.file().map_live().unwrap().to_vec(..).unwrap();
    assert_eq!(bytes.len() as u64, FIRST_SLOT + SLOTS as u64 * STRIDE);
    let producer = Producer::build("hostile", bytes.len() as u64, |file| {
        file.copy_from_slice(&bytes);
        Ok(())
    });
    Some(producer.unwrap())
}

fn open(producer: &Producer) -> Subscriber {
    Subscriber::open(producer.file()).unwrap()
}

fn slot(number: u64) -> u64 {
    FIRST_SLOT + number % SLOTS as u64 * STRIDE
}

/// As a slot and the header tell a number.
fn stamp(number: u64) -> [u8; 8] {
    ended(number, false)
}

/// As the header tells the newest number, and whether there will be another.
fn ended(number: u64, ended: bool) -> [u8; 8] {
    let stamp = number << 1 | u64::from(ended);
    if cfg!(target_endian = "big") && WORD == 4 { stamp.rotate_left(32) } else { stamp }
        .to_ne_bytes()
}

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Reads and waits while another thread attacks, and holds the reader to its promises. The attack is
/// one that lets some values through, and not all.
fn readers_stand(mut producer: Producer, mut attack: impl FnMut(&mut Producer, &mut Random)) {
    let mut subscriber = open(&producer);
    let time = Duration::from_millis(if in_full() { 10_000 } else { 200 });
    let reader = thread::spawn(move || {
        let (mut value, mut seen) = (Vec::new(), 0);
        let (mut given, mut refused) = (0_u64, 0_u64);
        let started = Instant::now();
        while started.elapsed() < time || (given == 0 || refused == 0) && started.elapsed() < LONG {
            match subscriber.latest(&mut value) {
                Ok(number) => {
                    assert!(number.unwrap_or(0) >= seen);
                    seen = number.unwrap_or(0);
                    given += 1;
                }
                Err(error) => {
                    let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::InvalidData];
                    assert!(kinds.contains(&error.kind()), "{error}");
                    assert!(value.is_empty());
                    refused += 1;
                }
            }
            assert!(value.len() <= CAPACITY);
            assert_eq!(subscriber.capacity(), CAPACITY);
            let begun = Instant::now();
            let _any = subscriber.wait(seen, Duration::from_micros(100)).unwrap();
            assert!(begun.elapsed() < LONG);
        }
        assert!(given > 0 && refused > 0, "{given} values, {refused} refusals");
    });
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    while !reader.is_finished() {
        attack(&mut producer, &mut random);
    }
    reader.join().unwrap();
}

/// What the refusal says.
fn refused_to_open(file: &SealedFile<FutureWriteSealed>, what: &str) -> String {
    let error = Subscriber::open(file).expect_err(what);
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
    error.to_string()
}

#[test]
fn random_bytes_everywhere_confuse_no_reader() {
    let Some(producer) = hostile() else { return };
    let honest = producer.file().map_live().unwrap().to_vec(..).unwrap();
    readers_stand(producer, |producer, random| {
        let at = random.next() % (honest.len() as u64 - 8);
        producer.write_at(at, &random.next().to_ne_bytes()).unwrap();
        if random.next() % 100 == 0 {
            producer.write_at(0, &honest).unwrap(); // or nothing would ever be given out
        }
    });
}

#[test]
fn random_lengths_and_rising_numbers_confuse_no_reader() {
    let Some(producer) = hostile() else { return };
    let mut number = 3;
    readers_stand(producer, |producer, random| {
        number += random.next() % 3;
        let len = random.next() as usize >> (random.next() % usize::BITS as u64);
        producer.write_at(slot(number), &stamp(number)).unwrap();
        producer.write_at(slot(number) + LEN, &len.to_ne_bytes()).unwrap();
        producer.write_at(NEWEST, &stamp(number)).unwrap();
    });
}

#[test]
fn numbers_that_fall_are_not_given_out() {
    let Some(mut producer) = hostile() else { return };
    let mut subscriber = open(&producer);
    let mut value = Vec::new();
    assert_eq!(subscriber.latest(&mut value).unwrap(), Some(3));
    for older in [2, 1, 0] {
        producer.write_at(NEWEST, &stamp(older)).unwrap();
        let error = subscriber.latest(&mut value).unwrap_err();
        assert_eq!((error.kind(), value.len()), (io::ErrorKind::WouldBlock, 0));
        // Control: whoever has not seen the newer one is told.
        assert_eq!(open(&producer).latest(&mut value).unwrap().unwrap_or(0), older);
    }
    producer.write_at(NEWEST, &stamp(3)).unwrap();
    assert_eq!(subscriber.latest(&mut value).unwrap(), Some(3));
}

#[test]
fn a_number_that_falls_is_nothing_to_be_woken_for() {
    let Some(mut producer) = hostile() else { return };
    let subscriber = open(&producer);
    for older in [2, 1, 0] {
        for end in [false, true] {
            producer.write_at(NEWEST, &ended(older, end)).unwrap();
            let started = Instant::now();
            assert_eq!(subscriber.wait(3, SHORT).unwrap(), WaitOutcome::TimedOut, "{older}, {end}");
            assert!(started.elapsed() >= SHORT, "{older}, {end}");
        }
    }
    // Control: whoever has seen less is told.
    producer.write_at(NEWEST, &stamp(2)).unwrap();
    assert_eq!(subscriber.wait(1, LONG).unwrap(), WaitOutcome::Newer);
}

#[test]
fn a_slot_that_is_always_being_written_is_given_up() {
    let Some(mut producer) = hostile() else { return };
    let mut subscriber = open(&producer);
    let mut value = b"from before".to_vec();
    producer.write_at(slot(3), &stamp(7)).unwrap();
    let error = subscriber.latest(&mut value).unwrap_err();
    assert_eq!((error.kind(), value.len()), (io::ErrorKind::WouldBlock, 0));
    assert_eq!(subscriber.wait(3, Duration::from_millis(1)).unwrap(), WaitOutcome::TimedOut);
    producer.write_at(slot(3), &stamp(3)).unwrap();
    assert_eq!(subscriber.latest(&mut value).unwrap(), Some(3));
    assert_eq!(value, b"three");
}

#[test]
fn a_length_beyond_the_capacity_is_refused_and_takes_no_memory() {
    let Some(mut producer) = hostile() else { return };
    let mut subscriber = open(&producer);
    let mut value = Vec::new();
    for len in [CAPACITY + 1, STRIDE as usize, usize::MAX / 2, usize::MAX] {
        producer.write_at(slot(3) + LEN, &len.to_ne_bytes()).unwrap();
        let error = subscriber.latest(&mut value).unwrap_err();
        assert_eq!((error.kind(), value.len()), (io::ErrorKind::InvalidData, 0), "{len}");
        let message = format!("a value of {len} bytes, where no more than {CAPACITY} fit");
        assert_eq!(error.to_string(), message);
        assert!(value.capacity() <= CAPACITY);
    }
    producer.write_at(slot(3) + LEN, &CAPACITY.to_ne_bytes()).unwrap();
    assert_eq!(subscriber.latest(&mut value).unwrap(), Some(3));
    assert_eq!((value.len(), &value[..6]), (CAPACITY, &b"three\0"[..]));
}

#[test]
fn a_value_that_there_is_no_memory_for_is_an_error() {
    const CAPACITY: u64 = 128 << 20; // more than an allocator keeps in store for a thread
    if !is_alone("a_value_that_there_is_no_memory_for_is_an_error") {
        return;
    }
    let Some(honest) = hostile() else { return };
    let mut header = honest.file().map_live().unwrap().to_vec(..32).unwrap();
    header[CAPACITY_FIELD as usize..].copy_from_slice(&CAPACITY.to_ne_bytes());
    // Of holes, which only somebody else's program leaves.
    let subscriber = |len: u64| {
        let stride = CAPACITY + 128;
        let mut draft = SealedFile::create("sparse").unwrap();
        draft.set_len(FIRST_SLOT + SLOTS as u64 * stride).unwrap();
        for (offset, bytes) in [
            (0, &header[..]),
            (NEWEST, &stamp(1)),
            (FIRST_SLOT + stride, &stamp(1)),
            (FIRST_SLOT + stride + LEN, &(len as usize).to_ne_bytes()),
        ] {
            draft.write_all_at(bytes, offset).unwrap();
        }
        let file = draft.into_file();
        add_seals(&file, Seals::FUTURE_WRITE | Seals::SHRINK).unwrap();
        let file = SealedFile::receive_future_write(file, &SealPolicy::new()).unwrap();
        Subscriber::open(&file).unwrap()
    };
    let (mut long, mut short, mut value) = (subscriber(CAPACITY), subscriber(5), Vec::new());
    let limit = getrlimit(Resource::As);
    let little_more = Some(address_space() + CAPACITY / 2);
    setrlimit(Resource::As, Rlimit { current: little_more, ..limit }).unwrap();
    let error = long.latest(&mut value).unwrap_err();
    assert_eq!((error.kind(), value.len()), (io::ErrorKind::OutOfMemory, 0));
    // Controls: a short value, and as long a one where there is memory.
    assert_eq!((short.latest(&mut value).unwrap(), value.len()), (Some(1), 5));
    setrlimit(Resource::As, limit).unwrap();
    value.try_reserve(CAPACITY as usize).unwrap();
}

/// What this process has of it, in bytes.
fn address_space() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    size.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_header_that_changes_after_opening_changes_nothing() {
    let Some(mut producer) = hostile() else { return };
    let mut subscriber = open(&producer);
    for (slots, capacity) in [(2, 1), (1 << 40, 1 << 50), (u64::MAX, u64::MAX)] {
        producer.write_at(SLOTS_FIELD, &slots.to_ne_bytes()).unwrap();
        producer.write_at(CAPACITY_FIELD, &capacity.to_ne_bytes()).unwrap();
        let mut value = Vec::new();
        assert_eq!(subscriber.latest(&mut value).unwrap(), Some(3));
        assert_eq!((&value[..], subscriber.capacity()), (&b"three"[..], CAPACITY));
        if slots > 2 {
            refused_to_open(producer.file(), "what the header says now");
        }
    }
}

#[test]
fn a_file_that_is_not_divided_as_it_says_is_not_opened() {
    let Some(mut producer) = hostile() else { return };
    let (slots, capacity) = (SLOTS as u64, CAPACITY as u64);
    let most = STRIDE - PAYLOAD;
    let mut messages = Vec::new();
    for (slots, capacity, fits) in [
        (slots, capacity, true),
        (slots, most, true),
        (slots, most + 1, false),
        (slots, u64::MAX, false),
        (slots, u64::MAX - PAYLOAD - 127, false),
        (slots, u64::MAX / slots, false),
        (slots / 2, most, true),
        (slots * 2, capacity, false),
        (u64::MAX, 0, false),
        (1 << 63, 0, false),
        (1 << 57, 0, false), // times 128 bytes: comes out as 0 if it overflows
        (1, capacity, false),
        (0, capacity, false),
        (3, capacity, false),
    ] {
        producer.write_at(SLOTS_FIELD, &slots.to_ne_bytes()).unwrap();
        producer.write_at(CAPACITY_FIELD, &capacity.to_ne_bytes()).unwrap();
        match fits {
            true => drop(open(&producer)),
            false => messages.push(refused_to_open(
                producer.file(),
                &format!("{slots} slots, {capacity} bytes"),
            )),
        }
    }
    let (longer, there) = (FIRST_SLOT + slots * (STRIDE + 128), producer.len());
    for expected in [
        format!(
            "4 slots for {} bytes each need {longer} bytes, and the file has {there}",
            most + 1
        ),
        format!("4 slots for {} bytes each are more than can be mapped", u64::MAX),
        "the number of slots must be a power of two, at least 2, and is 3".into(),
    ] {
        assert!(messages.contains(&expected), "{messages:?}");
    }
}

#[test]
fn a_file_of_something_else_is_not_opened() {
    let Some(mut producer) = hostile() else { return };
    for byte in 0..16 {
        let mut before = [0];
        producer.read_at(byte, &mut before).unwrap();
        producer.write_at(byte, &[before[0] ^ 1]).unwrap();
        refused_to_open(producer.file(), &format!("magic, version or word size at {byte}"));
        producer.write_at(byte, &before).unwrap();
    }
    drop(open(&producer));
    for (field, message) in [
        (8, "the layout is of version 7, not 1".to_string()),
        (12, format!("the peer's machine words have 7 bytes, not {WORD}")),
    ] {
        let mut before = [0; 4];
        producer.read_at(field, &mut before).unwrap();
        producer.write_at(field, &7_u32.to_ne_bytes()).unwrap();
        assert_eq!(refused_to_open(producer.file(), "7"), message);
        producer.write_at(field, &before).unwrap();
    }

    let bytes = producer.file().map_live().unwrap().to_vec(..).unwrap();
    for len in [0, 1, 31, 32, 255, 256, bytes.len() - 1] {
        let short = Producer::build("short", len as u64, |file| {
            file.copy_from_slice(&bytes[..len]);
            Ok(())
        });
        let message = refused_to_open(short.unwrap().file(), &format!("the first {len} bytes"));
        assert!(message.contains(&format!("{len}")), "{message}");
    }
}

#[test]
fn an_end_that_is_not_one_is_no_more_than_that() {
    let Some(mut producer) = hostile() else { return };
    let mut subscriber = open(&producer);
    producer.write_at(NEWEST, &ended(3, true)).unwrap();
    assert_eq!(subscriber.wait(3, LONG).unwrap(), WaitOutcome::Ended);
    producer.write_at(slot(4), &stamp(4)).unwrap();
    producer.write_at(NEWEST, &stamp(4)).unwrap();
    assert_eq!(subscriber.wait(3, LONG).unwrap(), WaitOutcome::Newer);
    assert_eq!(subscriber.latest(&mut Vec::new()).unwrap(), Some(4));
}
