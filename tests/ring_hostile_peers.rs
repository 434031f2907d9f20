//! What `ring` promises of any peer: a peer may write what it likes into its file, ring, send or close as it
//! likes, and this end neither panics, hangs, reads beyond the area nor allocates for more than one
//! record. `SEALED_MMAP_FULL=1` for long runs.
#![cfg(target_os = "linux")]

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, send};
use sealed_mmap::latest::Publisher;
use sealed_mmap::ring::{Received, Receiver, SendError, Sender};
use sealed_mmap::socket::send_fds;
use sealed_mmap::{SealPolicy, Seals};
use support::files::{LIVE, filled, sealed};
use support::process::{is_alone, open_descriptors};
use support::runs::in_full;
use support::signals::{cpu_time, timed};
use support::streams::{
    ACCEPTED, ASLEEP, CURSOR, Hostile, LONG, NOW, OFFER, RECEIVER, RECORDS, REQUEST, Random,
    SENDER, WORD, assert_invalid, assert_send, forged, header, next, policy, ring,
};

const CAPACITY: u64 = 4096;
const SHORT: Duration = Duration::from_millis(100);
/// Far from a timeout, for a busy machine.
const LATEST: Duration = Duration::from_secs(5);

/// Nothing helps a receiver whose sender broke the rules.
fn is_poisoned(receiver: &mut Receiver) {
    for timeout in [NOW, LONG] {
        assert_invalid(receiver.recv(&mut Vec::new(), timeout));
        assert_invalid(receiver.recv_into(&mut [0; 64], timeout));
        assert_invalid(receiver.read_with(timeout, |_| ()));
        assert!(receiver.arm().unwrap(), "there is an error to be had");
    }
}

fn is_poisoned_too(sender: &mut Sender) {
    assert_send(sender.try_send(b"x"), ErrorKind::InvalidData);
    assert_send(sender.send(b"x", LONG), ErrorKind::InvalidData);
    assert_send(sender.push(b"x"), ErrorKind::InvalidData);
    assert_send(sender.flush(), ErrorKind::InvalidData);
    assert_send(sender.drain(LONG), ErrorKind::InvalidData);
    assert_send(sender.arm(1), ErrorKind::InvalidData);
}

/// A sender that has sent a record of eight bytes, which was received, and another.
fn after_one_record() -> Option<(Hostile, Receiver)> {
    let (mut hostile, mut receiver) = Hostile::sender(CAPACITY)?;
    for offset in [0, WORD as u64 + 8] {
        hostile.store(RECORDS + offset, 8);
    }
    hostile.store(CURSOR, WORD + 8);
    assert_eq!(next(&mut receiver), [0; 8]);
    hostile.store(CURSOR, 2 * (WORD + 8));
    Some((hostile, receiver))
}

#[test]
fn a_head_that_cannot_be_poisons_the_receiver() {
    let Some((_, mut receiver)) = after_one_record() else { return };
    assert_eq!(next(&mut receiver), [0; 8], "the control");
    let received = WORD + 8;
    let beyond = received + CAPACITY as usize;
    for head in [
        0,
        received - WORD,
        received + 2,
        received + WORD / 2,
        beyond + WORD,
        beyond + (1 << 20),
        usize::MAX & !1,
        (usize::MAX / 2) & !1,
    ] {
        for ended in [0, 1] {
            let (mut hostile, mut receiver) = after_one_record().unwrap();
            hostile.store(CURSOR, head | ended);
            assert_invalid(receiver.recv(&mut Vec::new(), LONG));
            hostile.store(CURSOR, 2 * received);
            is_poisoned(&mut receiver);
        }
    }
}

#[test]
fn a_length_beyond_the_head_poisons_the_receiver() {
    let Some(_) = ring(1) else { return };
    for len in [
        9,
        16,
        CAPACITY as usize - 128,
        CAPACITY as usize,
        usize::MAX / 2,
        usize::MAX - 7,
        usize::MAX,
    ] {
        let (mut hostile, mut receiver) = after_one_record().unwrap();
        hostile.store(RECORDS + WORD as u64 + 8, len);
        let mut record = Vec::new();
        assert_invalid(receiver.recv(&mut record, LONG));
        assert_eq!(record.capacity(), 0, "{len}");
        hostile.store(RECORDS + WORD as u64 + 8, 8);
        is_poisoned(&mut receiver);
    }
    // Control: as much as there is.
    let (mut hostile, mut receiver) = after_one_record().unwrap();
    hostile.store(CURSOR, WORD + 8 + CAPACITY as usize);
    hostile.store(RECORDS + WORD as u64 + 8, CAPACITY as usize - 128);
    assert_eq!(next(&mut receiver).len(), CAPACITY as usize - 128);
}

#[test]
fn a_tail_that_cannot_be_poisons_the_sender() {
    let Some(_) = ring(1) else { return };
    let size = WORD + 104;
    let sent = || {
        let (mut hostile, mut sender) = Hostile::receiver(CAPACITY as usize).unwrap();
        sender.try_send(&[1; 104]).unwrap();
        sender.try_send(&[2; 104]).unwrap();
        hostile.store(CURSOR, size);
        assert!(!sender.drain(NOW).unwrap());
        (hostile, sender)
    };
    for tail in [0, size - WORD, size + 2, 2 * size + WORD, usize::MAX & !1, (usize::MAX / 2) & !1]
    {
        for ended in [0, 1] {
            let (mut hostile, mut sender) = sent();
            hostile.store(CURSOR, tail | ended);
            assert_send(sender.drain(LONG), ErrorKind::InvalidData);
            hostile.store(CURSOR, 2 * size);
            is_poisoned_too(&mut sender);
        }
    }
    // What has been pushed has not been sent.
    let (mut hostile, mut sender) = sent();
    sender.push(&[3; 104]).unwrap();
    hostile.store(CURSOR, 3 * size);
    while let Ok(()) = sender.push(&[4; 104]) {}
    is_poisoned_too(&mut sender);
    // Controls.
    let (mut hostile, mut sender) = sent();
    hostile.store(CURSOR, 2 * size);
    assert!(sender.drain(LONG).unwrap());
    while sender.try_send(&[5; 104]).is_ok() {}
    hostile.store(CURSOR, (2 * size) | 1);
    assert_send(sender.arm(104), ErrorKind::BrokenPipe);
}

#[test]
fn every_field_of_a_header_is_checked() {
    let Some(_) = ring(1) else { return };
    let capacity = |capacity: u64| header(SENDER, capacity);
    let changed = |at: usize| {
        let mut header = capacity(CAPACITY);
        header[at] ^= 0x40;
        header
    };
    let accept = |len: u64, header| {
        let file = forged(len, header).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        send_fds(&theirs, &OFFER, &[file.file().as_fd()]).unwrap();
        Receiver::accept(ours, &policy(), LONG)
    };
    for at in 0..16 {
        assert_invalid(accept(RECORDS + CAPACITY, changed(at)));
    }
    for wrong in
        [0, 1, 127, 129, CAPACITY + 128, 1 << 31, 1 << 32, 1 << 62, u64::MAX, u64::MAX - 127]
    {
        assert_invalid(accept(RECORDS + CAPACITY, capacity(wrong)));
    }
    for len in [0, 1, 31, 32, 128, 383, 384, RECORDS + CAPACITY - 1] {
        assert_invalid(accept(len, capacity(CAPACITY)));
    }
    for other in [RECEIVER, *b"latest!\n", *b"broad!!\n", *b"asleep?\n"] {
        assert_invalid(accept(RECORDS + CAPACITY, header(other, CAPACITY)));
    }
    let receiver = accept(RECORDS + CAPACITY, capacity(CAPACITY)).unwrap();
    assert_eq!(receiver.capacity() as u64, CAPACITY);
    let receiver = accept(RECORDS + CAPACITY + 5, capacity(128)).unwrap();
    assert_eq!(receiver.capacity(), 128);

    let accepted = |len: u64, header| {
        let file = forged(len, header).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let offer = Sender::offer(ours, "ring", 1).unwrap();
        send_fds(&theirs, &ACCEPTED, &[file.file().as_fd()]).unwrap();
        offer.accept(&policy(), LONG)
    };
    for at in 0..16 {
        let mut header = header(RECEIVER, 0);
        header[at] ^= 0x40;
        assert_invalid(accepted(RECORDS, header));
    }
    for len in [0, 32, 256, RECORDS - 1] {
        assert_invalid(accepted(len, header(RECEIVER, 0)));
    }
    accepted(RECORDS, header(RECEIVER, 0)).unwrap();
}

#[test]
fn a_capacity_that_changes_later_changes_nothing() {
    let Some((mut hostile, mut receiver)) = after_one_record() else { return };
    hostile.file.write_at(16, &u64::MAX.to_ne_bytes()).unwrap();
    assert_eq!(next(&mut receiver), [0; 8]);
    assert_eq!(receiver.capacity() as u64, CAPACITY);
}

/// Sends these pieces, and what this end makes of them.
fn offered(pieces: &[(&[u8], &[BorrowedFd<'_>])], policy: &SealPolicy) -> io::Result<Receiver> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    for (bytes, fds) in pieces {
        send_fds(&theirs, bytes, fds).unwrap();
    }
    let (result, took) = timed(|| Receiver::accept(ours, policy, SHORT));
    assert!(took < LATEST, "{took:?}");
    result
}

#[test]
fn whatever_else_a_peer_sends_is_an_error_that_says_so() {
    let Some(honest) = forged(RECORDS + CAPACITY, header(SENDER, CAPACITY)) else { return };
    let file = honest.file().as_fd();
    let kind =
        |pieces: &[(&[u8], &[BorrowedFd<'_>])]| offered(pieces, &policy()).unwrap_err().kind();

    // Controls: in one piece, and in eight.
    offered(&[(&OFFER, &[file])], &policy()).unwrap();
    let bytes: Vec<_> = OFFER.chunks(1).map(|byte| (byte, &[][..])).collect();
    for with_file in 0..8 {
        let mut pieces = bytes.clone();
        let fds = [file];
        pieces[with_file].1 = &fds;
        offered(&pieces, &policy()).unwrap();
    }

    assert_eq!(kind(&[(&OFFER, &[])]), ErrorKind::InvalidData);
    assert_eq!(kind(&[(&OFFER, &[file, file])]), ErrorKind::InvalidData);
    assert_eq!(kind(&[(&OFFER[..4], &[file]), (&OFFER[4..], &[file])]), ErrorKind::InvalidData);
    for greeting in [ACCEPTED, REQUEST, [0; 8]] {
        assert_eq!(kind(&[(&greeting, &[file])]), ErrorKind::InvalidData);
    }
    assert_eq!(kind(&[]), ErrorKind::TimedOut);
    assert_eq!(kind(&[(&OFFER[..7], &[file])]), ErrorKind::TimedOut);

    let latest = Publisher::create("another kind", 4096).unwrap();
    assert_eq!(kind(&[(&OFFER, &[latest.file().as_fd()])]), ErrorKind::InvalidData);

    for sent in [0, 4] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&theirs).write_all(&OFFER[..sent]).unwrap();
        drop(theirs);
        let error = Receiver::accept(ours, &policy(), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
    // The kernel has another error for an end that was closed with something unread.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let offer = Sender::offer(ours, "ring", 1).unwrap();
    drop(theirs);
    let error = offer.accept(&policy(), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn descriptors_that_the_policy_refuses_are_refused() {
    let Some(honest) = forged(RECORDS + CAPACITY, header(SENDER, CAPACITY)) else { return };
    let file = honest.file().as_fd();
    let kind = |fd: BorrowedFd<'_>, policy: &SealPolicy| {
        let error = offered(&[(&OFFER, &[fd])], policy).unwrap_err();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let offer = Sender::offer(ours, "ring", 1).unwrap();
        send_fds(&theirs, &ACCEPTED, &[fd]).unwrap();
        assert_eq!(offer.accept(policy, LONG).unwrap_err().kind(), error.kind());
        error.kind()
    };
    let bytes = header(SENDER, CAPACITY);
    for foreign in [
        filled(&bytes),
        sealed(&bytes, Seals::SHRINK),
        sealed(&bytes, Seals::WRITE | Seals::SHRINK),
        sealed(&bytes, Seals::FUTURE_WRITE),
    ] {
        assert_eq!(kind(foreign.as_fd(), &policy()), ErrorKind::InvalidData);
    }
    let short = sealed(&bytes, LIVE);
    assert_eq!(kind(short.as_fd(), &policy()), ErrorKind::InvalidData);
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    assert_ne!(kind(pipe.as_fd(), &policy()), ErrorKind::TimedOut);
    let write_only: OwnedFd =
        std::fs::File::options().write(true).open("/dev/null").unwrap().into();
    assert_eq!(kind(write_only.as_fd(), &policy()), ErrorKind::PermissionDenied);

    assert_eq!(kind(file, &SealPolicy::untrusted_live(1)), ErrorKind::InvalidData);
    assert_eq!(kind(file, &policy().require(Seals::SEAL)), ErrorKind::InvalidData);
    assert_eq!(kind(file, &policy().forbid(Seals::GROW)), ErrorKind::InvalidData);
    assert_eq!(kind(file, &policy().owner(u32::MAX - 1)), ErrorKind::PermissionDenied);
}

/// Fills a socket with bytes, some with descriptors attached, and returns how many of these.
fn flood(bell: &UnixStream) -> usize {
    let file = filled(b"attached");
    bell.set_nonblocking(true).unwrap();
    let mut attached = 0;
    while send_fds(bell, &[7], &[file.as_fd(), file.as_fd()]).is_ok() {
        attached += 2;
    }
    while send(bell, &[7; 4096], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok() {}
    bell.set_nonblocking(false).unwrap();
    attached
}

#[test]
fn a_flooded_bell_holds_nobody_up_and_leaves_no_descriptor() {
    if !is_alone("a_flooded_bell_holds_nobody_up_and_leaves_no_descriptor") {
        return;
    }
    let Some((mut hostile, mut receiver)) = after_one_record() else { return };
    assert_eq!(next(&mut receiver), [0; 8]);
    let before = open_descriptors();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let bell = hostile.bell.try_clone().unwrap();
        let flooding = scope.spawn({
            let stop = &stop;
            move || {
                let mut attached = 0;
                while !stop.load(Relaxed) {
                    attached += flood(&bell);
                }
                attached
            }
        });
        thread::sleep(Duration::from_millis(10));
        let timeout = Duration::from_millis(500);
        let busy = cpu_time();
        let (received, took) = timed(|| receiver.recv(&mut Vec::new(), timeout).unwrap());
        let busy = cpu_time() - busy;
        assert_eq!(received, Received::TimedOut);
        assert!((timeout..LATEST).contains(&took), "{took:?}");
        assert!(busy < timeout / 2, "{busy:?} of {took:?}");
        for _ in 0..100 {
            assert!(!receiver.arm().unwrap());
        }
        stop.store(true, Relaxed);
        assert!(flooding.join().unwrap() > 0);
    });
    // What comes is received all the same, and the end is told.
    hostile.store(RECORDS + 2 * (WORD as u64 + 8), 8);
    hostile.store(CURSOR, 3 * (WORD + 8));
    assert_eq!(next(&mut receiver), [0; 8]);
    drop(hostile.bell);
    assert_eq!(receiver.recv(&mut Vec::new(), LONG).unwrap(), Received::Ended);
    assert_eq!(open_descriptors(), before - 1, "but for the bell's other end");

    // A receiver that takes nothing it is sent, and sleeps as often as it can, and one that floods.
    let (mut hostile, mut sender) = Hostile::receiver(1 << 20).unwrap();
    flood(&hostile.bell);
    for ticket in 1..20_000 {
        hostile.store(ASLEEP, ticket);
        let ((), took) = timed(|| sender.try_send(b"x").unwrap());
        assert!(took < LATEST);
    }
    let (drained, took) = timed(|| sender.drain(SHORT).unwrap());
    assert!(!drained && (SHORT..LATEST).contains(&took), "{took:?}");
}

#[test]
fn a_bell_that_never_rings_is_a_timeout() {
    let Some((hostile, mut receiver)) = Hostile::sender(CAPACITY) else { return };
    let (received, took) = timed(|| receiver.recv(&mut Vec::new(), SHORT).unwrap());
    assert_eq!(received, Received::TimedOut);
    assert!((SHORT..LATEST).contains(&took), "{took:?}");
    // What was written without a ring is found when the timeout is over.
    thread::scope(|scope| {
        let mut hostile = hostile;
        scope.spawn(move || {
            thread::sleep(SHORT);
            hostile.store(RECORDS, 8);
            hostile.store(CURSOR, WORD + 8);
            thread::sleep(5 * SHORT);
        });
        assert_eq!(receiver.recv(&mut Vec::new(), 3 * SHORT).unwrap(), Received::Record(8));
    });

    let (_hostile, mut sender) = Hostile::receiver(CAPACITY as usize).unwrap();
    while sender.try_send(&[0; 100]).is_ok() {}
    let (sent, took) = timed(|| sender.send(&[0; 100], SHORT));
    assert_send(sent, ErrorKind::WouldBlock);
    assert!((SHORT..LATEST).contains(&took), "{took:?}");
}

#[test]
fn a_bell_that_is_closed_in_part_or_whole_is_the_end() {
    let Some(_) = ring(1) else { return };
    let close: [fn(&UnixStream); 3] = [
        |bell| bell.shutdown(Shutdown::Write).unwrap(),
        |bell| bell.shutdown(Shutdown::Both).unwrap(),
        |bell| {
            flood(bell);
            bell.shutdown(Shutdown::Write).unwrap();
        },
    ];
    for close in close {
        let (hostile, mut receiver) = after_one_record().unwrap();
        close(&hostile.bell);
        assert_eq!(next(&mut receiver), [0; 8], "what was sent before");
        assert_eq!(receiver.recv(&mut Vec::new(), LONG).unwrap(), Received::Ended);
        let (hostile, mut sender) = Hostile::receiver(CAPACITY as usize).unwrap();
        while sender.try_send(&[0; 100]).is_ok() {}
        close(&hostile.bell);
        assert_send(sender.send(&[0; 100], LONG), ErrorKind::BrokenPipe);
    }
    // A receiver that takes no more rings is gone as soon as one is due.
    let (mut hostile, mut sender) = Hostile::receiver(CAPACITY as usize).unwrap();
    hostile.bell.shutdown(Shutdown::Read).unwrap();
    hostile.store(ASLEEP, 1);
    assert_send(sender.try_send(b"x"), ErrorKind::BrokenPipe);
}

/// Bytes that are urgent, which a socket keeps apart, wake nobody for good.
#[test]
fn urgent_bytes_are_no_more_than_rings() {
    let Some((hostile, mut receiver)) = Hostile::sender(CAPACITY) else { return };
    let urgent = send(&hostile.bell, &[7], SendFlags::OOB | SendFlags::NOSIGNAL);
    if let Err(errno) = urgent {
        return eprintln!("not tested, Unix sockets have no urgent bytes here: {errno}");
    }
    let timeout = Duration::from_millis(500);
    let busy = cpu_time();
    let (received, took) = timed(|| receiver.recv(&mut Vec::new(), timeout).unwrap());
    let busy = cpu_time() - busy;
    if received == Received::TimedOut {
        assert!((timeout..LATEST).contains(&took), "{took:?}");
        assert!(busy < timeout / 2, "{busy:?}");
    }
    drop(hostile);
    assert_eq!(receiver.recv(&mut Vec::new(), Duration::MAX).unwrap(), Received::Ended);
}

/// A ticket is rung once, however often is flushed, and a new one costs one ring.
#[test]
fn tickets_cost_one_ring_each_at_most() {
    let Some((mut hostile, mut sender)) = Hostile::receiver(1 << 20) else { return };
    let rings = |bell: &mut UnixStream| {
        bell.set_nonblocking(true).unwrap();
        let mut bytes = [0; 64];
        bell.read(&mut bytes).unwrap_or(0)
    };
    sender.try_send(b"x").unwrap();
    assert_eq!(rings(&mut hostile.bell), 0, "it is awake");
    hostile.store(ASLEEP, 5);
    for _ in 0..10 {
        sender.try_send(b"x").unwrap();
    }
    assert_eq!(rings(&mut hostile.bell), 1);
    for ticket in 6..16 {
        hostile.store(ASLEEP, ticket);
        sender.push(b"x").unwrap();
        sender.push(b"x").unwrap();
        sender.flush().unwrap();
        sender.flush().unwrap();
    }
    assert_eq!(rings(&mut hostile.bell), 10);
}

#[test]
fn words_that_change_during_the_copy_are_wrong_bytes_and_no_more() {
    const LEN: usize = 3000;
    let Some((mut hostile, mut receiver)) = Hostile::sender(CAPACITY) else { return };
    let size = WORD + LEN + 64;
    let (stop, lens) = (AtomicBool::new(false), [LEN, 8, 200, usize::MAX, 0]);
    thread::scope(|scope| {
        // Lengths, bytes and HEAD at once, so that each copy meets some of them.
        scope.spawn(|| {
            let mut random = Random::new();
            while !stop.load(Relaxed) {
                hostile.store(RECORDS, lens[random.below(5) as usize]);
                let at = RECORDS + random.below(CAPACITY / WORD as u64) * WORD as u64;
                hostile.store(at, random.below(4096) as usize);
                hostile.store(CURSOR, size.next_multiple_of(WORD));
            }
        });
        let started = Instant::now();
        let (mut record, mut received) = (Vec::new(), 0);
        while started.elapsed() < SHORT {
            let read = receiver.recv(&mut record, NOW);
            assert!(record.capacity() <= CAPACITY as usize);
            match read {
                Ok(Received::Record(len)) => {
                    assert_eq!(record.len(), len);
                    received += 1;
                }
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidData);
                    break;
                }
            }
        }
        println!("{received} records before the end");
        stop.store(true, Relaxed);
    });
}

/// A file with words that are likely to be nearly right.
fn random_word(random: &mut Random, about: u64) -> usize {
    let near = about.wrapping_add(random.below(64) * 8).wrapping_sub(256);
    (match random.below(8) {
        0 => random.next(),
        1 => u64::MAX - random.below(600),
        2 => (usize::MAX as u64 / 2).wrapping_sub(random.below(64)),
        3 => random.below(5000),
        4 => near | random.below(2),
        _ => near & !7,
    }) as usize
}

/// Random words in the peer's file, before, between and during calls: an error, a record, or a timeout.
#[test]
fn random_words_do_no_more_than_poison() {
    let Some(_) = ring(1) else { return };
    let time = Duration::from_secs(if in_full() { 300 } else { 1 });
    let (started, mut random) = (Instant::now(), Random::new());
    let (mut records, mut poisoned, mut sent) = (0_u64, 0_u64, 0_u64);
    while started.elapsed() < time || records == 0 || poisoned == 0 || sent == 0 {
        assert!(started.elapsed() < time + LONG, "{records}, {poisoned}, {sent}");
        let capacity = 128 * (1 + random.below(32));
        let (mut hostile, mut receiver) = Hostile::sender(capacity).unwrap();
        let mut head = 0;
        for _ in 0..64 {
            let step = random.below(capacity / 64 + 1) * 64;
            head += step;
            let at = RECORDS + random.below(capacity / WORD as u64) * WORD as u64;
            hostile.store(at, random_word(&mut random, step));
            let value =
                if random.below(6) == 0 { random_word(&mut random, head) } else { head as usize };
            hostile.store(CURSOR, value);
            let mut record = Vec::new();
            let timeout = if random.below(8) == 0 { Duration::from_micros(50) } else { NOW };
            let (read, took) = timed(|| match random.below(3) {
                0 => receiver.recv(&mut record, timeout),
                1 => {
                    record.resize(capacity as usize, 0);
                    receiver.recv_into(&mut record, timeout)
                }
                _ => receiver.read_with(timeout, |mut seen| seen.read_to_end(&mut record).unwrap()),
            });
            assert!(took < LATEST, "{took:?}");
            assert!(record.len() <= capacity as usize);
            match read {
                Ok(Received::Record(len)) => {
                    assert!(len <= capacity as usize);
                    records += 1;
                }
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
                    is_poisoned(&mut receiver);
                    poisoned += 1;
                    break;
                }
            }
        }

        let (mut hostile, mut sender) = Hostile::receiver(1).unwrap();
        for _ in 0..64 {
            let head = hostile.theirs.load(CURSOR).unwrap() as u64 & !1;
            let tail =
                if random.below(4) == 0 { random_word(&mut random, head) } else { head as usize };
            hostile.store(CURSOR, tail);
            hostile.store(ASLEEP, random.next() as usize);
            let len = random.below(sender.longest() as u64 + 2) as usize;
            let done = match random.below(4) {
                0 => sender.drain(NOW).map(drop),
                1 => sender.arm(len).map(drop),
                2 => sender.push(&vec![1; len]),
                _ => sender.send(&vec![1; len], Duration::from_micros(50)),
            };
            match done {
                Ok(()) => sent += 1,
                Err(SendError::Full | SendError::TooLong(_)) => {}
                Err(SendError::Ended) => break,
                Err(SendError::Io(error)) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
                    is_poisoned_too(&mut sender);
                    poisoned += 1;
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    println!("{records} records, {sent} sent, {poisoned} ends poisoned");
}
