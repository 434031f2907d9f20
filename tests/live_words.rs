//! Words of live files: loaded and stored whole, in order, and only where the file has them.
#![allow(unsafe_code, reason = "words behind pointers")]

mod support;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sealed_mmap::{LiveMap, OutOfBounds, Producer};
use support::process::Forked;
use support::runs::{live, rounds};

const WORD: usize = size_of::<usize>();
/// Not made of whole words.
const LEN: usize = 10 * WORD + 3;

fn file() -> Option<(Producer, LiveMap)> {
    let producer = live(Producer::create("words", LEN as u64))?;
    let map = producer.file().map_live().unwrap();
    Some((producer, map))
}

fn at(word: usize) -> u64 {
    (word * WORD) as u64
}

#[test]
fn a_word_is_what_its_bytes_are() {
    let Some((mut producer, map)) = file() else { return };
    for word in 0..10 {
        let value = usize::MAX / 11 * (word + 1);
        producer.store(at(word), value).unwrap();
        assert_eq!(map.load(at(word)).unwrap(), value);
        let mut bytes = [0; WORD];
        map.read_at(at(word), &mut bytes).unwrap();
        assert_eq!(usize::from_ne_bytes(bytes), value);

        producer.write_at(at(word), &(!value).to_ne_bytes()).unwrap();
        assert_eq!(map.load(at(word)).unwrap(), !value);
    }
    assert_eq!(map.to_vec(at(10)..).unwrap(), [0; 3], "nothing beside it is written");
}

#[test]
fn add_returns_the_old_value_and_wraps_around() {
    let Some((mut producer, map)) = file() else { return };
    assert_eq!(producer.add(at(1), 5), Ok(0));
    assert_eq!(producer.add(at(1), usize::MAX), Ok(5));
    assert_eq!(map.load(at(1)), Ok(4));
    assert_eq!((map.load(at(0)), map.load(at(2))), (Ok(0), Ok(0)));
}

#[test]
fn a_word_that_is_not_in_the_file_is_refused() {
    let Some((mut producer, map)) = file() else { return };
    producer.write_at(0, &[7; LEN]).unwrap();
    let not_a_multiple = format!("offset 1 is not a multiple of {WORD}");
    let beyond =
        |offset| format!("{WORD} bytes from offset {offset} on do not fit into {LEN} bytes");
    for (offset, message) in [
        (1, not_a_multiple),
        (at(9) + 1, format!("offset {} is not a multiple of {WORD}", at(9) + 1)),
        // The last bytes of the file are in the mapping as a word, and in the file as three bytes.
        (at(10), beyond(at(10))),
        (at(11), beyond(at(11))),
        (1 << 40, beyond(1 << 40)),
        (u64::MAX, beyond(u64::MAX)),
        (u64::MAX - 7, beyond(u64::MAX - 7)),
    ] {
        let error = OutOfBounds { offset, len: WORD as u64, size: LEN as u64 };
        assert_eq!(map.load(offset), Err(error));
        assert_eq!(producer.store(offset, 1), Err(error));
        assert_eq!(producer.add(offset, 1), Err(error));
        assert_eq!(error.to_string(), message);
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(map.to_vec(..).unwrap(), [7; LEN], "nothing was written");
    // Control: the last word, and the bytes after it.
    assert!(map.load(at(9)).is_ok());
    map.read_at(at(10), &mut [0; 3]).unwrap();

    let Some(empty) = live(Producer::create("empty", 0)) else { return };
    assert!(empty.file().map_live().unwrap().load(0).is_err());
}

/// Of two values, each a word of equal bytes, no reader ever sees a mixture, and a count never falls.
#[test]
fn readers_see_whole_words_in_the_order_of_the_calls() {
    let Some((mut producer, map)) = file() else { return };
    let rounds = rounds(50_000, 2_000_000);
    let message = |round: usize| (round % 251) * (usize::MAX / 255);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut newest = 0;
            while newest < rounds {
                let count = map.load(at(4)).unwrap();
                assert!(count >= newest, "{count} after {newest}");
                newest = count;
                // What was stored before the count is there, or something newer.
                let after = map.load(at(9)).unwrap();
                assert!(after >= newest, "{after} before {newest}");
                let bytes = map.load(at(2)).unwrap().to_ne_bytes();
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{bytes:?}");
            }
        });
        for round in 1..=rounds {
            producer.store(at(9), round).unwrap();
            producer.store(at(2), message(round)).unwrap();
            producer.add(at(4), 1).unwrap();
        }
        reader.join().unwrap();
    });
}

#[test]
fn another_process_reads_the_words() {
    let Some((mut producer, map)) = file() else { return };
    const LAST: usize = 1000;
    let child = Forked::that(|_| {
        let mut newest = 0;
        while newest < LAST {
            let count = map.load(at(3)).unwrap();
            assert!(count >= newest);
            newest = count;
            std::hint::spin_loop();
        }
    });
    for _ in 0..LAST {
        producer.add(at(3), 1).unwrap();
    }
    assert_eq!(child.finish().exit_status(), Some(0));
}

#[test]
fn pointers_lead_to_the_words() {
    let Some((mut producer, map)) = file() else { return };
    let page = rustix::param::page_size();
    assert_eq!((map.as_ptr().addr() % page, producer.as_ptr().addr() % page), (0, 0));
    assert_ne!(map.as_ptr(), producer.as_ptr().cast_const());

    let word = map.as_ptr().cast::<AtomicUsize>().wrapping_add(5);
    // SAFETY: it lies within the mapping, which outlives it, and is aligned. The page is read-only, of
    // which `Relaxed` loads of a word are defined.
    let seen = unsafe { &*word };
    producer.store(at(5), 42).unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 42);

    let word = producer.as_ptr().cast::<usize>().wrapping_add(5);
    // SAFETY: it lies within the writable mapping, which outlives it, and is aligned.
    let stored = unsafe { AtomicUsize::from_ptr(word) };
    stored.store(43, Ordering::Relaxed);
    assert_eq!(map.load(at(5)).unwrap(), 43);

    let Some(empty) = live(Producer::create("empty", 0)) else { return };
    for address in [empty.as_ptr().addr(), empty.file().map_live().unwrap().as_ptr().addr()] {
        assert!(address != 0 && address % page == 0);
    }
}
