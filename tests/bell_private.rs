//! A private bell: nobody but its two ends can hold a wake-up up, neither end can block the other, and each
//! learns that the other has left.
#![cfg(target_os = "linux")]

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Signal, kill_process};
use sealed_mmap::bell::{Registered, Request};
use sealed_mmap::broadcast::{self, Next, StartAt};
use sealed_mmap::latest::{self, WaitOutcome};
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{Producer, SealPolicy, Seals};
use support::files::filled;
use support::process::{self, Peer, is_alone, open_descriptors};
use support::requeue::{NOWHERE, ReadOnlyPage, move_one};
use support::runs::live;
use support::signals::timed;
use support::streams::{
    ADMITTED, ASLEEP, LONG, NOW, OFFER, RECORDS, REQUEST, SUBSCRIBER, assert_invalid, forged,
    header, policy,
};

/// Of the words that anonymous subscribers sleep on, in bytes (`src/broadcast/protocol.rs`).
const BROADCAST_BELL: usize = 152;
/// An anonymous subscriber looks again after a second.
const AT_ONCE: Duration = Duration::from_millis(700);

fn latest() -> Option<latest::Publisher> {
    live(latest::Publisher::create("latest", 64))
}

fn broadcast() -> Option<broadcast::Publisher> {
    live(broadcast::Publisher::create("broadcast", 4096))
}

fn join_latest(publisher: &mut latest::Publisher) -> latest::Subscriber<Registered> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let request = Request::send(ours).unwrap();
    publisher.admit(theirs, &policy(), LONG).unwrap();
    latest::Subscriber::join(request, &policy(), LONG).unwrap()
}

fn join_broadcast(publisher: &mut broadcast::Publisher) -> broadcast::Subscriber<Registered> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let request = Request::send(ours).unwrap();
    publisher.admit(theirs, &policy(), LONG).unwrap();
    broadcast::Subscriber::join(request, StartAt::Now, &policy(), LONG).unwrap()
}

/// Whether all that a subscriber does to others' sleeps keeps a registered one from waking at once.
#[test]
fn a_registered_subscriber_is_woken_at_once_whatever_another_reader_requeues() {
    let Some(mut latest) = latest() else { return };
    let mut broadcast = broadcast().unwrap();
    let attackers =
        [ReadOnlyPage::of(latest.file(), 136), ReadOnlyPage::of(broadcast.file(), BROADCAST_BELL)];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                for attacker in &attackers {
                    attacker.move_sleepers(&NOWHERE);
                }
                thread::sleep(Duration::from_micros(100));
            }
        });
        let mut newest = join_latest(&mut latest);
        let mut log = join_broadcast(&mut broadcast);
        for number in 1..=5 {
            thread::scope(|scope| {
                let first = scope.spawn(|| {
                    let outcome = newest.wait(number - 1, LONG).unwrap();
                    (outcome, Instant::now())
                });
                let second = scope.spawn(|| {
                    let next = log.next(&mut Vec::new(), LONG).unwrap();
                    (next, Instant::now())
                });
                thread::sleep(Duration::from_millis(20));
                let published = Instant::now();
                latest.publish(b"news").unwrap();
                broadcast.publish(b"news").unwrap();
                let (outcome, woken) = first.join().unwrap();
                assert_eq!(outcome, WaitOutcome::Newer);
                assert!(woken - published < AT_ONCE, "{:?}", woken - published);
                let (next, woken) = second.join().unwrap();
                assert_eq!(next, Next::Record(number));
                assert!(woken - published < AT_ONCE, "{:?}", woken - published);
            });
        }
        stop.store(true, Relaxed);
    });
}

/// The control, and what there is against it: an anonymous one is silenced, but for a second at most.
#[test]
fn an_anonymous_subscriber_of_a_broadcast_is_silenced_for_a_second_at_most() {
    let Some(mut publisher) = broadcast() else { return };
    let attacker = ReadOnlyPage::of(publisher.file(), BROADCAST_BELL);
    let mut subscriber = broadcast::Subscriber::open(publisher.file(), StartAt::Now).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| subscriber.next(&mut Vec::new(), Duration::MAX).unwrap());
        move_one(&attacker);
        let published = Instant::now();
        publisher.publish(b"news").unwrap();
        thread::sleep(Duration::from_millis(50));
        let is_silenced = !waiting.is_finished();
        assert_eq!(waiting.join().unwrap(), Next::Record(1));
        assert!(is_silenced, "the publisher woke it");
        assert!(published.elapsed() < Duration::from_secs(5));
    });

    // Control: a plain sleep is not ended.
    let mut publisher = broadcast().unwrap();
    let attacker = ReadOnlyPage::of(publisher.file(), BROADCAST_BELL);
    thread::scope(|scope| {
        let sleeping = scope.spawn(|| attacker.sleep(Duration::from_secs(1)));
        move_one(&attacker);
        publisher.publish(b"news").unwrap();
        assert!(!sleeping.join().unwrap(), "the publisher woke it");
    });
}

/// Why the bell is a socket: the control for the test after it.
#[test]
fn control_an_eventfd_that_a_peer_has_filled_blocks_its_writer() {
    let ours = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let theirs: OwnedFd = ours.try_clone().unwrap();
    let flags = fcntl_getfl(&theirs).unwrap();
    fcntl_setfl(&theirs, flags - OFlags::NONBLOCK).unwrap();
    rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    thread::scope(|scope| {
        let writing = scope.spawn(|| rustix::io::write(&ours, &1_u64.to_ne_bytes()));
        thread::sleep(Duration::from_millis(100));
        assert!(!writing.is_finished(), "it blocks");
        let _ = File::from(theirs).read(&mut [0; 8]).unwrap();
        assert_eq!(writing.join().unwrap(), Ok(8));
    });
}

/// A subscriber made by hand: its file, and its end of the connection.
fn hostile_subscriber(admit: impl FnOnce(UnixStream)) -> (Producer, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let file = forged(RECORDS, header(SUBSCRIBER, 0)).unwrap();
    send_fds(&theirs, &REQUEST, &[file.file().as_fd()]).unwrap();
    admit(ours);
    let mut reply = [0; 8];
    let (len, fd) = recv_fd(&theirs, &mut reply).unwrap();
    theirs.read_exact(&mut reply[len..]).unwrap();
    assert!(reply == ADMITTED && fd.is_some());
    (file, theirs)
}

fn rings(mut bell: &UnixStream) -> usize {
    bell.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    bell.read(&mut bytes).unwrap_or(0)
}

#[test]
fn a_subscriber_that_takes_no_ring_blocks_no_publisher() {
    let Some(mut latest) = latest() else { return };
    let mut broadcast = broadcast().unwrap();
    let (mut file, bell) =
        hostile_subscriber(|socket| latest.admit(socket, &policy(), LONG).unwrap());
    let (mut other, other_bell) =
        hostile_subscriber(|socket| broadcast.admit(socket, &policy(), LONG).unwrap());
    latest.wake_anonymous(false);
    broadcast.wake_anonymous(false);
    for flags in [&bell, &other_bell] {
        let set = fcntl_getfl(flags).unwrap();
        fcntl_setfl(flags, set - OFlags::NONBLOCK).unwrap();
    }
    let ((), took) = timed(|| {
        for ticket in 1..20_000 {
            file.store(ASLEEP, ticket).unwrap();
            other.store(ASLEEP, ticket).unwrap();
            latest.publish(b"x").unwrap();
            broadcast.publish(b"x").unwrap();
        }
    });
    assert!(took < LONG, "{took:?}");
    assert!(rings(&bell) > 0 && rings(&other_bell) > 0);
    assert_eq!((latest.admitted(), broadcast.admitted()), (1, 1));
}

#[test]
fn only_a_subscriber_that_sleeps_is_rung_and_once() {
    let Some(mut publisher) = latest() else { return };
    let (mut file, bell) =
        hostile_subscriber(|socket| publisher.admit(socket, &policy(), LONG).unwrap());
    for _ in 0..10 {
        publisher.publish(b"x").unwrap();
    }
    assert_eq!(rings(&bell), 0, "it is awake");
    file.store(ASLEEP, 7).unwrap();
    publisher.publish_without_wake(b"x").unwrap();
    assert_eq!(rings(&bell), 0);
    for _ in 0..10 {
        publisher.publish(b"x").unwrap();
    }
    assert_eq!(rings(&bell), 1);
    file.store(ASLEEP, 8).unwrap();
    publisher.wake();
    publisher.wake();
    assert_eq!(rings(&bell), 1);
    file.store(ASLEEP, 9).unwrap();
    drop(publisher);
    assert_eq!(rings(&bell), 1, "for the end");
}

#[test]
fn a_publisher_learns_of_subscribers_that_have_left() {
    let Some(mut publisher) = broadcast() else { return };
    let (first, second) = (join_broadcast(&mut publisher), join_broadcast(&mut publisher));
    let (_file, bell) =
        hostile_subscriber(|socket| publisher.admit(socket, &policy(), LONG).unwrap());
    assert_eq!(publisher.admitted(), 3);
    drop(first);
    publisher.publish(b"to nobody, too").unwrap();
    assert_eq!(publisher.admitted(), 2);
    bell.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(publisher.admitted(), 1);
    drop(second);
    let third = join_broadcast(&mut publisher);
    assert_eq!(publisher.admitted(), 1);
    drop(third);
    assert_eq!(publisher.admitted(), 0);
}

#[test]
fn whoever_does_not_ask_as_it_should_is_not_admitted_and_leaves_nothing() {
    if !is_alone("whoever_does_not_ask_as_it_should_is_not_admitted_and_leaves_nothing") {
        return;
    }
    let Some(mut publisher) = latest() else { return };
    let good = forged(RECORDS, header(SUBSCRIBER, 0)).unwrap();
    let good_fd = good.file().as_fd();
    let short = forged(RECORDS - 1, header(SUBSCRIBER, 0)).unwrap();
    let other = forged(RECORDS, header(*b"ring<-!\n", 0)).unwrap();
    let plain = filled(&header(SUBSCRIBER, 0));
    let before = open_descriptors();
    let mut refused = |pieces: &[(&[u8], &[std::os::fd::BorrowedFd<'_>])], policy: &SealPolicy| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for (bytes, fds) in pieces {
            send_fds(&theirs, bytes, fds).unwrap();
        }
        let error = publisher.admit(ours, policy, Duration::from_millis(20)).unwrap_err();
        theirs.set_nonblocking(true).unwrap();
        let end = theirs.read(&mut [0; 8]);
        assert!(!matches!(&end, Err(error) if error.kind() == ErrorKind::WouldBlock), "closed");
        assert_eq!(publisher.admitted(), 0);
        error.kind()
    };
    let invalid = ErrorKind::InvalidData;
    assert_eq!(refused(&[], &policy()), ErrorKind::TimedOut);
    assert_eq!(refused(&[(&REQUEST[..5], &[good_fd])], &policy()), ErrorKind::TimedOut);
    assert_eq!(refused(&[(&REQUEST, &[])], &policy()), invalid);
    assert_eq!(refused(&[(&REQUEST, &[good_fd, good_fd])], &policy()), invalid);
    assert_eq!(
        refused(&[(&REQUEST[..1], &[good_fd]), (&REQUEST[1..], &[good_fd])], &policy()),
        invalid
    );
    for greeting in [ADMITTED, OFFER, [0; 8]] {
        assert_eq!(refused(&[(&greeting, &[good_fd])], &policy()), invalid);
    }
    for file in [short.file().as_fd(), other.file().as_fd(), plain.as_fd()] {
        assert_eq!(refused(&[(&REQUEST, &[file])], &policy()), invalid);
    }
    assert_eq!(refused(&[(&REQUEST, &[good_fd])], &SealPolicy::untrusted_live(10)), invalid);
    assert_eq!(refused(&[(&REQUEST, &[good_fd])], &policy().require(Seals::SEAL)), invalid);
    assert_eq!(
        refused(&[(&REQUEST, &[good_fd])], &policy().owner(u32::MAX - 1)),
        ErrorKind::PermissionDenied
    );
    for at in 0..16 {
        let mut changed = header(SUBSCRIBER, 0);
        changed[at] ^= 0x40;
        let file = forged(RECORDS, changed).unwrap();
        assert_eq!(refused(&[(&REQUEST, &[file.file().as_fd()])], &policy()), invalid);
    }
    assert_eq!(open_descriptors(), before);

    let (ours, _theirs) = UnixDatagram::pair().unwrap();
    let error = publisher.admit(ours, &policy(), NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let error = publisher.admit(ours, &policy(), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);

    // Control: the same file and greeting, in pieces.
    let (ours, theirs) = UnixStream::pair().unwrap();
    (&theirs).write_all(&REQUEST[..3]).unwrap();
    send_fds(&theirs, &REQUEST[3..], &[good_fd]).unwrap();
    publisher.admit(ours, &policy(), LONG).unwrap();
    assert_eq!(publisher.admitted(), 1);
}

#[test]
fn a_publisher_of_another_kind_is_not_joined() {
    let Some(latest) = latest() else { return };
    let broadcast = broadcast().unwrap();
    let answered = |greeting: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let request = Request::send(ours).unwrap();
        send_fds(&theirs, greeting, fds).unwrap();
        (request, theirs)
    };
    let [newest, log] = [latest.file().as_fd(), broadcast.file().as_fd()];
    let (policy, short) = (policy(), Duration::from_millis(20));
    for (greeting, fds) in [
        (ADMITTED, &[log][..]),
        (ADMITTED, &[]),
        (ADMITTED, &[newest, newest]),
        (REQUEST, &[newest]),
    ] {
        let (request, _bell) = answered(&greeting, fds);
        assert_invalid(latest::Subscriber::join(request, &policy, short));
    }
    for (greeting, fds) in [(ADMITTED, &[newest][..]), (ADMITTED, &[]), (OFFER, &[log])] {
        let (request, _bell) = answered(&greeting, fds);
        assert_invalid(broadcast::Subscriber::join(request, StartAt::Now, &policy, short));
    }
    let (request, bell) = answered(&ADMITTED[..4], &[newest]);
    drop(bell);
    let joined = latest::Subscriber::join(request, &policy, LONG);
    assert_eq!(joined.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    // Controls.
    let (request, _bell) = answered(&ADMITTED, &[newest]);
    latest::Subscriber::join(request, &policy, short).unwrap();
    let (request, _bell) = answered(&ADMITTED, &[log]);
    broadcast::Subscriber::join(request, StartAt::Now, &policy, short).unwrap();
}

/// Not a promise: a publisher in another process, which is killed.
#[test]
fn role_of_another_process() {
    let Some(mut role) = process::role() else { return };
    let mut publisher = broadcast::Publisher::create("killed", 4096).unwrap();
    publisher.admit(role.fd, &policy(), LONG).unwrap();
    role.parent.ask("admitted");
    for number in 0.. {
        publisher.publish(&[number as u8; 200]).unwrap();
        if number % 16 == 15 {
            thread::sleep(Duration::from_micros(300));
        }
    }
}

#[test]
fn a_registered_subscriber_is_told_that_its_publisher_was_killed() {
    let Some(_) = latest() else { return };
    for round in 0..12 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let request = Request::send(ours).unwrap();
        let mut peer = Peer::start(process::ENTRY, "publishes", theirs);
        let mut log =
            broadcast::Subscriber::join(request, StartAt::Oldest, &policy(), LONG).unwrap();
        assert_eq!(peer.channel.hear(), "admitted");
        peer.channel.tell("go");
        let (mut accounted, mut record) = (0, Vec::new());
        let timeout = if round % 2 == 0 { LONG } else { Duration::MAX };
        loop {
            match log.next(&mut record, timeout).unwrap() {
                Next::Record(number) => {
                    assert_eq!(number, accounted + 1);
                    assert!(record == [accounted as u8; 200], "{number} is torn");
                    accounted = number;
                }
                Next::Lagged { missed } => accounted += missed,
                Next::Ended => break,
                Next::TimedOut => panic!("the end was not told"),
            }
            if accounted >= 20 + round {
                let _ = kill_process(peer.pid(), Signal::KILL);
            }
        }
        assert!(accounted >= 20);
        assert!(log.arm().unwrap());
        assert_eq!(log.next(&mut record, NOW).unwrap(), Next::Ended);
    }
}

/// As above, with the newest value: the connection closes, and nothing says so in the file.
#[test]
fn a_registered_subscriber_of_a_newest_value_is_told_of_the_end_of_the_connection() {
    let Some(mut publisher) = latest() else { return };
    publisher.publish(b"last").unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let request = Request::send(ours).unwrap();
    send_fds(&theirs, &ADMITTED, &[publisher.file().as_fd()]).unwrap();
    let mut subscriber = latest::Subscriber::join(request, &policy(), LONG).unwrap();
    assert_eq!(subscriber.wait(1, NOW).unwrap(), WaitOutcome::TimedOut);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let ended = subscriber.wait(1, Duration::MAX).unwrap();
            (ended, subscriber.wait(1, NOW).unwrap(), subscriber.wait(0, NOW).unwrap())
        });
        thread::sleep(Duration::from_millis(20));
        drop(theirs);
        let ended = (WaitOutcome::Ended, WaitOutcome::Ended, WaitOutcome::Newer);
        assert_eq!(waiting.join().unwrap(), ended);
    });
}
