//! What `ring` promises of an honest peer: every record, whole, in order, with back-pressure, and the end.
//! `SEALED_MMAP_FULL=1` for a hundred million records.
#![cfg(target_os = "linux")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sealed_mmap::ring::{Received, Receiver, SendError, Sender};
use support::runs::{live, rounds};
use support::signals::{Signals, timed};
use support::streams::{LONG, NOW, Random, WORD, assert_send, next, policy, ring, ring_between};
use support::{meminfo, salted_pattern};

/// What every part of a layout could mistake: words, lines, pages, and the longest.
fn lens(longest: usize) -> Vec<usize> {
    let mut lens: Vec<_> = (0..=2 * WORD + 1).collect();
    for edge in [64, 128, 256, 512, 4096] {
        lens.extend([edge - WORD - 1, edge - WORD, edge - 1, edge, edge + 1]);
    }
    lens.retain(|len| *len < longest);
    lens.extend([longest - WORD, longest - 1, longest]);
    lens
}

#[test]
fn records_of_every_length_arrive_whole_and_in_order_around_the_end() {
    for capacity in [1, 4096, 5000, 3 * 4096, (64 << 10) + 1] {
        let Some((mut sender, mut receiver)) = ring(capacity) else { return };
        assert_eq!(sender.capacity(), capacity.next_multiple_of(4096));
        assert_eq!(receiver.capacity(), sender.capacity());
        let lens = lens(sender.longest());
        let (mut random, mut salt) = (Random::new(), 0);
        for round in 0..20 {
            for &len in &lens {
                salt += 1;
                let record = salted_pattern(len, salt);
                match salt % 4 {
                    0 => sender.try_send(&record).unwrap(),
                    1 => sender.send(&record, LONG).unwrap(),
                    2 => {
                        sender.push(&record).unwrap();
                        sender.flush().unwrap();
                    }
                    _ => sender
                        .send_with(len, NOW, |slot| {
                            assert_eq!((slot.len(), slot.is_empty()), (len, len == 0));
                            let (head, tail) = record.split_at(len / 3);
                            slot.write_at(head.len() as u64, tail).unwrap();
                            slot.write_at(len as u64, &[1]).unwrap_err();
                            slot.write_all(head).unwrap();
                        })
                        .unwrap(),
                }
                let mut target = vec![0xee; len + salt % 2];
                let read = match salt % 3 {
                    0 => receiver.recv(&mut target, NOW),
                    1 => receiver.recv_into(&mut target, NOW),
                    _ => receiver.read_with(NOW, |mut seen| {
                        assert_eq!((seen.len(), seen.is_empty()), (len, len == 0));
                        assert!(seen.to_vec(..).unwrap() == record);
                        seen.read_at(len as u64, &mut [0]).unwrap_err();
                        target.clear();
                        seen.read_to_end(&mut target).unwrap()
                    }),
                };
                assert_eq!(read.unwrap(), Received::Record(len), "{len} in round {round}");
                assert!(target[..len] == record, "{len} in round {round}");
            }
            // The next round begins elsewhere.
            for _ in 0..random.below(20) {
                sender.try_send(b"").unwrap();
                assert_eq!(next(&mut receiver), b"");
            }
        }
        assert_eq!(receiver.recv(&mut Vec::new(), NOW).unwrap(), Received::TimedOut);
    }
}

#[test]
fn part_of_a_record_is_read_where_it_is() {
    let Some((mut sender, mut receiver)) = ring(4096) else { return };
    let record = salted_pattern(3000, 1);
    for _ in 0..10 {
        sender.try_send(&record).unwrap();
        let mut part = [0; 7];
        let read = receiver.read_with(NOW, |seen| seen.read_at(2990, &mut part)).unwrap();
        assert_eq!(read, Received::Record(Ok(())));
        assert_eq!(part, record[2990..2997]);
    }
}

#[test]
fn capacities_that_cannot_be_are_refused() {
    let offer = |capacity| {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        Sender::offer(ours, "ring", capacity).map(drop).unwrap_err().kind()
    };
    for capacity in [0, usize::MAX, usize::MAX / 2] {
        assert_eq!(offer(capacity), ErrorKind::InvalidInput, "{capacity}");
    }
    let Some(_) = ring(1) else { return };
    let memory = 2 * (meminfo("MemTotal") + meminfo("SwapTotal"));
    match usize::try_from(memory).ok().filter(|capacity| *capacity < usize::MAX / 2) {
        Some(capacity) => assert_eq!(offer(capacity), ErrorKind::OutOfMemory),
        None => eprintln!("not tested, memory is as large as what can be counted"),
    }
}

#[test]
fn only_connected_sockets_that_tell_the_end_are_taken() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let Some(_) = ring(1) else { return };
    assert_eq!(Sender::offer(ours, "ring", 1).unwrap_err().kind(), ErrorKind::InvalidInput);
    let accepted = Receiver::accept(theirs, &policy(), LONG);
    assert_eq!(accepted.unwrap_err().kind(), ErrorKind::InvalidInput);

    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let (mut sender, mut receiver) = ring_between(ours, theirs, 4096).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..1000_u32 {
                sender.send(&[number as u8; 300], LONG).unwrap();
            }
            drop(sender);
        });
        for number in 0..1000_u32 {
            assert_eq!(next(&mut receiver), [number as u8; 300]);
        }
        assert_eq!(receiver.recv(&mut Vec::new(), LONG).unwrap(), Received::Ended);
    });
}

#[test]
fn a_record_longer_than_the_longest_sends_nothing() {
    let Some((mut sender, mut receiver)) = ring(4096) else { return };
    let longest = sender.longest();
    for len in [longest + 1, 4096, usize::MAX - 8, usize::MAX] {
        let refused = sender.send_with(len, LONG, |_| panic!("there is no slot of {len} bytes"));
        let Err(SendError::TooLong(out_of_bounds)) = refused else { panic!("{refused:?}") };
        assert_eq!((out_of_bounds.len, out_of_bounds.size), (len as u64, longest as u64));
        assert_send(sender.push_with(len, |_| ()), ErrorKind::InvalidInput);
        assert_send(sender.arm(len), ErrorKind::InvalidInput);
    }
    assert_eq!(receiver.recv(&mut Vec::new(), NOW).unwrap(), Received::TimedOut);
    for salt in 0..20 {
        let record = salted_pattern(longest, salt);
        sender.try_send(&record).unwrap();
        assert!(next(&mut receiver) == record);
    }
}

#[test]
fn a_full_ring_refuses_until_the_receiver_has_read() {
    let Some((mut sender, mut receiver)) = ring(4096) else { return };
    let mut sent = 0;
    for _ in 0..100 {
        let before = sent;
        while sender.try_send(&salted_pattern(sent % 300, sent)).is_ok() {
            sent += 1;
        }
        assert_send(sender.try_send(&[0; 300]), ErrorKind::WouldBlock);
        assert_send(sender.push(&[0; 300]), ErrorKind::WouldBlock);
        assert!(sent > before, "there was room");
        for number in before..sent {
            assert!(next(&mut receiver) == salted_pattern(number % 300, number));
        }
        assert_eq!(receiver.recv(&mut Vec::new(), NOW).unwrap(), Received::TimedOut);
    }
}

#[test]
fn what_is_pushed_arrives_with_the_flush_and_not_before() {
    let Some((mut sender, mut receiver)) = ring(4096) else { return };
    let nothing = |receiver: &mut Receiver| {
        assert_eq!(receiver.recv(&mut Vec::new(), NOW).unwrap(), Received::TimedOut);
    };
    sender.push(b"one").unwrap();
    sender.push(b"two").unwrap();
    nothing(&mut receiver);
    sender.flush().unwrap();
    assert_eq!([next(&mut receiver), next(&mut receiver)], [b"one", b"two"]);

    sender.push(b"three").unwrap();
    sender.try_send(b"four").unwrap();
    assert_eq!([next(&mut receiver), next(&mut receiver)], [&b"three"[..], b"four"]);

    sender.push(b"before a sleep").unwrap();
    nothing(&mut receiver);
    assert!(!sender.drain(NOW).unwrap());
    assert_eq!(next(&mut receiver), b"before a sleep");

    sender.push(b"before arming").unwrap();
    assert!(sender.arm(1).unwrap(), "there is room");
    assert_eq!(next(&mut receiver), b"before arming");

    sender.push(b"before the end").unwrap();
    drop(sender);
    assert_eq!(next(&mut receiver), b"before the end");
    assert_eq!(receiver.recv(&mut Vec::new(), NOW).unwrap(), Received::Ended);
}

#[test]
fn a_record_that_does_not_fit_the_target_stays() {
    let Some((mut sender, mut receiver)) = ring(4096) else { return };
    sender.try_send(b"twelve bytes").unwrap();
    for len in [0, 1, 11] {
        let mut target = vec![7; len];
        let error = receiver.recv_into(&mut target, LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(target, vec![7; len]);
    }
    let mut target = [7; 14];
    assert_eq!(receiver.recv_into(&mut target, NOW).unwrap(), Received::Record(12));
    assert_eq!(&target, b"twelve bytes\x07\x07");
}

#[test]
fn draining_tells_whether_everything_was_received() {
    let Some((mut sender, mut receiver)) = ring(4096) else { return };
    assert!(sender.drain(NOW).unwrap(), "of nothing");
    sender.try_send(b"one").unwrap();
    sender.push(b"two").unwrap();
    assert!(!sender.drain(Duration::from_millis(20)).unwrap());
    next(&mut receiver);
    assert!(!sender.drain(NOW).unwrap());
    thread::scope(|scope| {
        let drained = scope.spawn(|| sender.drain(LONG).unwrap());
        thread::sleep(Duration::from_millis(20));
        next(&mut receiver);
        assert!(drained.join().unwrap());
    });

    sender.try_send(b"three").unwrap();
    next(&mut receiver);
    drop(receiver);
    assert!(sender.drain(LONG).unwrap(), "it had all of them when it left");

    let (mut sender, receiver) = ring(4096).unwrap();
    sender.try_send(b"unread").unwrap();
    drop(receiver);
    assert_send(sender.drain(LONG), ErrorKind::BrokenPipe);
}

#[test]
fn the_end_is_told_to_either_side_awake_or_asleep() {
    let Some((mut sender, mut receiver)) = ring(4096) else { return };
    sender.try_send(b"last").unwrap();
    drop(sender);
    assert_eq!(next(&mut receiver), b"last");
    for timeout in [NOW, LONG, Duration::MAX] {
        assert_eq!(receiver.recv(&mut Vec::new(), timeout).unwrap(), Received::Ended);
    }
    assert!(receiver.arm().unwrap());

    let (mut sender, receiver) = ring(4096).unwrap();
    drop(receiver);
    let mut sent = 0;
    while sender.try_send(&[0; 100]).is_ok() {
        sent += 1;
        assert!(sent < 100, "nobody reads it");
    }
    assert_send(sender.try_send(b"more"), ErrorKind::BrokenPipe);
    assert_send(sender.send(b"more", Duration::MAX), ErrorKind::BrokenPipe);
    assert_send(sender.push(b"more"), ErrorKind::BrokenPipe);
    assert_send(sender.arm(1), ErrorKind::BrokenPipe);

    thread::scope(|scope| {
        let (sender, mut receiver) = ring(4096).unwrap();
        let sleeping = scope.spawn(move || receiver.recv(&mut Vec::new(), Duration::MAX).unwrap());
        thread::sleep(Duration::from_millis(50));
        drop(sender);
        assert_eq!(sleeping.join().unwrap(), Received::Ended);

        let (mut sender, receiver) = ring(4096).unwrap();
        while sender.try_send(&[0; 100]).is_ok() {}
        let sleeping = scope.spawn(move || sender.send(&[0; 100], Duration::MAX));
        thread::sleep(Duration::from_millis(50));
        drop(receiver);
        assert_send(sleeping.join().unwrap(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn timeouts_hold_also_under_signals() {
    const TIMEOUT: Duration = Duration::from_millis(400);
    let Some(_) = ring(1) else { return };
    let calls: [(&str, fn()); 5] = [
        ("recv", || {
            let (_sender, mut receiver) = ring(4096).unwrap();
            let received = receiver.recv(&mut Vec::new(), TIMEOUT).unwrap();
            assert_eq!(received, Received::TimedOut);
        }),
        ("send", || {
            let (mut sender, _receiver) = ring(4096).unwrap();
            while sender.try_send(&[0; 100]).is_ok() {}
            assert_send(sender.send(&[0; 100], TIMEOUT), ErrorKind::WouldBlock);
        }),
        ("drain", || {
            let (mut sender, _receiver) = ring(4096).unwrap();
            sender.try_send(b"unread").unwrap();
            assert!(!sender.drain(TIMEOUT).unwrap());
        }),
        ("Receiver::accept", || {
            let (_ours, theirs) = UnixStream::pair().unwrap();
            let accepted = Receiver::accept(theirs, &policy(), TIMEOUT);
            assert_eq!(accepted.unwrap_err().kind(), ErrorKind::TimedOut);
        }),
        ("Offer::accept", || {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let offer = Sender::offer(ours, "ring", 4096).unwrap();
            let accepted = offer.accept(&policy(), TIMEOUT);
            assert_eq!(accepted.unwrap_err().kind(), ErrorKind::TimedOut);
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
fn signals_lose_no_record() {
    let Some((mut sender, mut receiver)) = ring(4096) else { return };
    thread::scope(|scope| {
        scope.spawn(move || {
            let _signals = Signals::every(Duration::from_millis(1));
            for number in 0..20_000_u32 {
                sender.send(&number.to_ne_bytes(), LONG).unwrap();
            }
        });
        let _signals = Signals::every(Duration::from_millis(1));
        for number in 0..20_000_u32 {
            assert_eq!(next(&mut receiver), number.to_ne_bytes());
            if number % 5000 == 0 {
                thread::sleep(Duration::from_millis(5));
            }
        }
    });
}

#[test]
fn a_closure_that_panics_leaves_the_ring_as_it_was() {
    let Some((mut sender, mut receiver)) = ring(4096) else { return };
    sender.push(b"one").unwrap();
    let sent = catch_unwind(AssertUnwindSafe(|| {
        let _ = sender.send_with(100, LONG, |slot| {
            slot.write_all(b"half of it").unwrap();
            resume_unwind(Box::new("in the middle"));
        });
    }));
    sent.unwrap_err();
    sender.try_send(b"two").unwrap();
    let read = catch_unwind(AssertUnwindSafe(|| {
        let _ = receiver.read_with(LONG, |_| resume_unwind(Box::new("in the middle")));
    }));
    read.unwrap_err();
    assert_eq!([next(&mut receiver), next(&mut receiver)], [b"one", b"two"]);
    assert_eq!(receiver.recv(&mut Vec::new(), NOW).unwrap(), Received::TimedOut);
    assert!(sender.drain(NOW).unwrap());
}

#[test]
fn two_rings_make_a_connection() {
    let Some((mut there, mut requests)) = ring(4096) else { return };
    let (mut back, mut answers) = ring(100 << 10).unwrap();
    let server = thread::spawn(move || {
        let mut request = Vec::new();
        while let Received::Record(_) = requests.recv(&mut request, LONG).unwrap() {
            back.send(&request.repeat(2), LONG).unwrap();
        }
    });
    for salt in 0..3000 {
        let request = salted_pattern(salt % 3000, salt);
        there.send(&request, LONG).unwrap();
        assert!(next(&mut answers) == request.repeat(2));
    }
    drop(there);
    assert_eq!(answers.recv(&mut Vec::new(), LONG).unwrap(), Received::Ended);
    server.join().unwrap();
}

/// Everything at once: both sides sleep, the ring is full and empty in turn, records go around the end.
#[test]
fn many_records_arrive_whole_and_in_order() {
    for (capacity, share) in [(4096, 5), (1 << 20, 1)] {
        let Some((mut sender, mut receiver)) = ring(capacity) else { return };
        let records = rounds(100_000, 100_000_000) / share;
        let record_len = |number: u64| {
            let mut random = Random(number.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
            let most = if random.below(64) == 0 { 3000 } else { 60 };
            8 + random.below(most) as usize
        };
        let sender = thread::spawn(move || {
            for number in 0..records as u64 {
                let len = record_len(number);
                let send = |slot: &mut sealed_mmap::ring::Slot<'_>| {
                    slot.write_all(&number.to_ne_bytes()).unwrap();
                    slot.write_at(8, &[number as u8; 3056][..len - 8]).unwrap();
                };
                match number % 7 {
                    0 => sender.send_with(len, LONG, send).unwrap(),
                    _ => match sender.push_with(len, send) {
                        Err(SendError::Full) => sender.send_with(len, LONG, send).unwrap(),
                        pushed => pushed.unwrap(),
                    },
                }
            }
            assert!(sender.drain(LONG).unwrap());
        });
        let (mut record, started) = (Vec::new(), Instant::now());
        for number in 0..records as u64 {
            let received = receiver.recv(&mut record, LONG).unwrap();
            assert_eq!(received, Received::Record(record_len(number)), "{number}");
            let (head, rest) = record.split_at(8);
            assert_eq!(head, number.to_ne_bytes());
            assert!(rest.iter().all(|byte| *byte == number as u8), "{number} is torn");
        }
        assert_eq!(receiver.recv(&mut record, LONG).unwrap(), Received::Ended);
        sender.join().unwrap();
        println!("{records} records in {:?}", started.elapsed());
    }
}

#[test]
fn an_offer_becomes_readable_when_it_was_accepted() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let Some(offer) = live(Sender::offer(ours, "ring", 4096)) else { return };
    let is_readable = || {
        let mut fds = [rustix::event::PollFd::new(&offer, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
    };
    assert!(!is_readable());
    let _receiver = Receiver::accept(theirs, &policy(), LONG).unwrap();
    assert!(is_readable());
    let mut sender = offer.accept(&policy(), NOW).unwrap();
    sender.try_send(b"works").unwrap();
    assert_eq!(sender.as_fd().try_clone_to_owned().map(drop).ok(), Some(()));
}
