//! A reader of a newest value can move the others, who sleep, to a futex that nobody wakes:
//! `FUTEX_REQUEUE` works through a read-only mapping. They look again.
#![cfg(target_os = "linux")]

mod support;

use std::thread;
use std::time::Duration;

use sealed_mmap::Producer;
use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
use support::requeue::{ReadOnlyPage, move_one};

/// Of the word that subscribers sleep on, in bytes (`src/latest/protocol.rs`).
const BELL: usize = 136;

#[test]
fn a_subscriber_moved_by_another_reader_still_learns_of_news() {
    if !Producer::is_supported() {
        return eprintln!("not tested: no live files here");
    }
    let mut publisher = Publisher::create("requeued", 8).unwrap();
    let attacker = ReadOnlyPage::of(publisher.file(), BELL);
    let subscriber = Subscriber::open(publisher.file()).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| subscriber.wait(0, Duration::MAX).unwrap());
        move_one(&attacker);
        publisher.publish(b"news").unwrap();
        assert_eq!(waiting.join().unwrap(), WaitOutcome::Newer);
    });
    thread::scope(|scope| {
        let waiting = scope.spawn(|| subscriber.wait(1, Duration::MAX).unwrap());
        move_one(&attacker);
        drop(publisher);
        assert_eq!(waiting.join().unwrap(), WaitOutcome::Ended);
    });
}

#[test]
fn control_a_plain_sleeper_that_was_moved_is_not_woken() {
    if !Producer::is_supported() {
        return eprintln!("not tested: no live files here");
    }
    let mut publisher = Publisher::create("requeued", 8).unwrap();
    let attacker = ReadOnlyPage::of(publisher.file(), BELL);
    thread::scope(|scope| {
        let sleeping = scope.spawn(|| attacker.sleep(Duration::from_secs(2)));
        move_one(&attacker);
        publisher.publish(b"news").unwrap();
        assert!(!sleeping.join().unwrap(), "the publisher woke it");
    });
}
