//! Values of `latest` that are built and read where they stand.
#![cfg(target_os = "linux")]

mod support;

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use sealed_mmap::latest::{Publisher, Subscriber};
use support::runs::{live, rounds};
use support::salted_pattern;

fn create(capacity: usize) -> Option<(Publisher, Subscriber)> {
    let publisher = live(Publisher::create("in place", capacity))?;
    let subscriber = Subscriber::open(publisher.file()).unwrap();
    Some((publisher, subscriber))
}

#[test]
fn a_value_is_built_and_read_in_parts() {
    let Some((mut publisher, mut subscriber)) = create(1000) else { return };
    assert_eq!(subscriber.read_with(|_| panic!("there is no value")).unwrap(), None);
    for (number, len) in [0, 1, 7, 8, 63, 64, 65, 255, 256, 999, 1000].into_iter().enumerate() {
        let value = salted_pattern(len, number);
        let write = |slot: &mut sealed_mmap::latest::Slot<'_>| {
            assert_eq!((slot.len(), slot.is_empty()), (len, len == 0));
            let (head, tail) = value.split_at(len / 3);
            slot.write_at(head.len() as u64, tail).unwrap();
            slot.write_at(len as u64, &[1]).unwrap_err();
            slot.write_all(head).unwrap();
            slot.write_at(0, &value[..1.min(len)]).unwrap();
            slot.write(tail).unwrap()
        };
        let (published, written) = publisher.publish_with(len, write).unwrap();
        assert_eq!((published, written), (number as u64 + 1, len - len / 3));
        let read = subscriber.read_with(|mut seen| {
            assert_eq!((seen.len(), seen.is_empty()), (len, len == 0));
            seen.read_at(1, &mut vec![0; len]).unwrap_err();
            let middle = seen.to_vec(len as u64 / 2..).unwrap();
            let mut all = Vec::new();
            seen.read_to_end(&mut all).unwrap();
            (all, middle)
        });
        let (seen, (all, middle)) = read.unwrap().unwrap();
        assert_eq!(seen, published);
        assert!(all == value && middle == value[len / 2..]);
    }
    let error = publisher.publish_with(1001, |_| panic!("there is no slot")).unwrap_err();
    assert_eq!((error.len, error.size), (1001, 1000));
}

#[test]
fn a_closure_that_panics_leaves_the_newest_value() {
    let Some((mut publisher, mut subscriber)) = create(64) else { return };
    for number in 1..=20 {
        publisher.publish(&[number; 64]).unwrap();
        for _ in 0..5 {
            let published = catch_unwind(AssertUnwindSafe(|| {
                let _ = publisher.publish_with(64, |slot| {
                    slot.write_all(b"half of it").unwrap();
                    resume_unwind(Box::new("in the middle"));
                });
            }));
            published.unwrap_err();
        }
        let read = catch_unwind(AssertUnwindSafe(|| {
            let _ = subscriber.read_with(|_| resume_unwind(Box::new("in the middle")));
        }));
        read.unwrap_err();
        let read = subscriber.read_with(|seen| seen.to_vec(..).unwrap()).unwrap();
        assert_eq!(read, Some((number.into(), vec![number; 64])));
    }
}

/// What is returned is of one value, though `read` may have seen several.
#[test]
fn parts_that_are_read_while_values_change_belong_together() {
    let Some((mut publisher, mut subscriber)) = create(4096) else { return };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=rounds(50_000, 5_000_000) as u64 {
                let write = |slot: &mut sealed_mmap::latest::Slot<'_>| {
                    slot.write_at(4088, &number.to_ne_bytes()).unwrap();
                    slot.write_at(0, &number.to_ne_bytes()).unwrap();
                };
                assert_eq!(publisher.publish_with(4096, write).unwrap(), (number, ()));
            }
            done.store(true, Relaxed);
        });
        let mut seen = 0;
        while !done.load(Relaxed) {
            let read = subscriber.read_with(|value| {
                let number = |at| {
                    let mut number = [0; 8];
                    value.read_at(at, &mut number).unwrap();
                    u64::from_ne_bytes(number)
                };
                (number(0), number(4088))
            });
            if let Ok(Some((number, parts))) = read {
                assert_eq!(parts, (number, number));
                assert!(number >= seen);
                seen = number;
            }
        }
        assert!(seen > 0);
    });
}
