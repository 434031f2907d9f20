//! Either side of a ring is killed, or stopped, at any time: the records that arrived are whole and in
//! order, and the end is told. `SEALED_MMAP_FULL=1` for a thousand kills of each side.
#![cfg(target_os = "linux")]

mod support;

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use sealed_mmap::ring::{Received, Receiver, SendError, Sender};
use support::process::{self, Peer, Role};
use support::runs::{in_full, is_emulated, live};
use support::signals::timed;
use support::streams::{LONG, NOW, Random, policy};

const CAPACITY: usize = 8192;

/// What is sent as this number, from 0 on.
fn numbered(number: u64) -> Vec<u8> {
    let mut record = number.to_ne_bytes().to_vec();
    record.resize(8 + number as usize * 7 % 700, number as u8);
    record
}

fn kills() -> usize {
    if in_full() { 1000 } else { 24 }
}

/// Not a promise: the side that is killed.
#[test]
fn role_of_another_process() {
    let Some(Role { name, fd, mut parent }) = process::role() else { return };
    match &*name {
        "sends" => {
            let offer = Sender::offer(fd, "killed", CAPACITY).unwrap();
            let mut sender = offer.accept(&policy(), LONG).unwrap();
            for number in 0.. {
                let record = numbered(number);
                let sent = match number % 8 {
                    0 => sender.send(&record, LONG),
                    _ => match sender.push(&record) {
                        Err(SendError::Full) => sender.send(&record, LONG),
                        pushed => pushed,
                    },
                };
                match sent {
                    Ok(()) => {}
                    Err(SendError::Ended) => return,
                    Err(error) => panic!("{error}"),
                }
                // Now and then the other side has nothing, and sleeps.
                if number % 512 == 511 {
                    sender.drain(LONG).unwrap();
                    thread::sleep(Duration::from_micros(200));
                }
            }
        }
        "receives" => {
            let mut receiver = Receiver::accept(fd, &policy(), LONG).unwrap();
            let mut record = Vec::new();
            for number in 0_u64.. {
                match receiver.recv(&mut record, LONG).unwrap() {
                    Received::Record(_) => assert!(record == numbered(number), "{number}"),
                    _ => return,
                }
                if number % 512 == 511 {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        }
        "sends three and waits" => {
            let offer = Sender::offer(fd, "stopped", CAPACITY).unwrap();
            let mut sender = offer.accept(&policy(), LONG).unwrap();
            for number in 0..3 {
                sender.try_send(&numbered(number)).unwrap();
            }
            sender.push(b"never flushed").unwrap();
            parent.ask("sent");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_killed_sender_leaves_whole_records_and_the_receiver_is_told() {
    let mut random = Random::new();
    let mut received = 0;
    for kill in 0..kills() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = {
            let role = if kill == 0 { "sends three and waits" } else { "sends" };
            Peer::start(process::ENTRY, role, theirs)
        };
        let Some(mut receiver) = live(Receiver::accept(ours, &policy(), LONG)) else { return };
        let pid = peer.pid();
        let killer = thread::spawn({
            let longest = if is_emulated() { 500_000 } else { 15_000 };
            let after = Duration::from_micros(random.below(longest));
            move || {
                thread::sleep(after);
                kill_process(pid, Signal::KILL).unwrap();
            }
        });
        let timeout = if kill % 2 == 0 { Duration::MAX } else { LONG };
        let mut record = Vec::new();
        for number in 0.. {
            match receiver.recv(&mut record, timeout).unwrap() {
                Received::Record(_) => assert!(record == numbered(number), "{number} is torn"),
                Received::Ended => break,
                Received::TimedOut => panic!("the end was not told"),
            }
            received += 1;
        }
        killer.join().unwrap();
        assert_eq!(receiver.recv(&mut record, NOW).unwrap(), Received::Ended);
        assert!(receiver.arm().unwrap());
    }
    println!("{received} records of {} killed senders", kills());
    assert!(received > 100, "the senders were killed before they sent anything");
}

#[test]
fn a_killed_receiver_ends_whatever_the_sender_waits_for() {
    let mut random = Random::new();
    for kill in 0..kills() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let Some(offer) = live(Sender::offer(ours, "killed", CAPACITY)) else { return };
        let peer = Peer::start(process::ENTRY, "receives", theirs);
        let mut sender = offer.accept(&policy(), LONG).unwrap();
        let pid = peer.pid();
        let killer = thread::spawn({
            let longest = if is_emulated() { 500_000 } else { 15_000 };
            let after = Duration::from_micros(random.below(longest));
            move || {
                thread::sleep(after);
                kill_process(pid, Signal::KILL).unwrap();
            }
        });
        let timeout = if kill % 2 == 0 { Duration::MAX } else { LONG };
        let mut number = 0;
        let error = loop {
            let record = numbered(number);
            let drained = match number % 64 {
                63 if kill % 3 == 0 => sender.drain(timeout).map(drop),
                _ => Ok(()),
            };
            if let Err(error) = drained.and_then(|()| sender.send(&record, timeout)) {
                break error;
            }
            number += 1;
        };
        assert!(matches!(error, SendError::Ended), "{error:?}");
        killer.join().unwrap();
        for error in [
            sender.send(b"x", Duration::MAX).unwrap_err(),
            sender.try_send(b"x").unwrap_err(),
            sender.push(b"x").unwrap_err(),
        ] {
            assert!(matches!(error, SendError::Ended), "{error:?}");
        }
    }
}

#[test]
fn a_stopped_sender_is_a_timeout_and_goes_on_later() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut peer = Peer::start(process::ENTRY, "sends three and waits", theirs);
    let Some(mut receiver) = live(Receiver::accept(ours, &policy(), LONG)) else { return };
    assert_eq!(peer.channel.hear(), "sent");
    kill_process(peer.pid(), Signal::STOP).unwrap();
    let mut record = Vec::new();
    for number in 0..3 {
        assert!(matches!(receiver.recv(&mut record, NOW).unwrap(), Received::Record(_)));
        assert!(record == numbered(number));
    }
    let timeout = Duration::from_millis(100);
    let (next, took) = timed(|| receiver.recv(&mut record, timeout).unwrap());
    assert_eq!(next, Received::TimedOut);
    assert!((timeout..LONG).contains(&took));
    kill_process(peer.pid(), Signal::CONT).unwrap();
    peer.channel.tell("end");
    assert_eq!(receiver.recv(&mut record, LONG).unwrap(), Received::Record(13));
    assert_eq!(record, b"never flushed");
    assert_eq!(receiver.recv(&mut record, LONG).unwrap(), Received::Ended);
}

#[test]
fn a_stopped_receiver_is_a_timeout() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let Some(offer) = live(Sender::offer(ours, "stopped", CAPACITY)) else { return };
    let peer = Peer::start(process::ENTRY, "receives", theirs);
    let mut sender = offer.accept(&policy(), LONG).unwrap();
    kill_process(peer.pid(), Signal::STOP).unwrap();
    let mut number = 0;
    let timeout = Duration::from_millis(100);
    let (error, took) = loop {
        match timed(|| sender.send(&numbered(number), timeout)) {
            (Ok(()), _) => number += 1,
            (Err(error), took) => break (error, took),
        }
    };
    assert_eq!(std::io::Error::from(error).kind(), ErrorKind::WouldBlock);
    assert!((timeout..LONG).contains(&took));
    assert!(!sender.drain(timeout).unwrap());
    kill_process(peer.pid(), Signal::CONT).unwrap();
    for number in number..number + 1000 {
        sender.send(&numbered(number), LONG).unwrap();
    }
    assert!(sender.drain(LONG).unwrap());
}
