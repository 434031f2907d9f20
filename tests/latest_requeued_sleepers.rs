//! A reader of a newest value can move the others, who sleep, to a futex that nobody wakes:
//! `FUTEX_REQUEUE` works through a read-only mapping. They look again.
#![allow(unsafe_code, reason = "the attack is a system call on raw memory")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::{Duration, Instant};

use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
use sealed_mmap::{FutureWriteSealed, Producer, SealedFile};

/// Of the word that subscribers sleep on, in bytes (`src/latest/protocol.rs`), and of the half of it
/// that counts.
const BELL: usize = 136;
const LOWER_HALF: usize =
    if cfg!(all(target_endian = "big", target_pointer_width = "64")) { 4 } else { 0 };

/// What a reader has: the first page of the file, read-only.
struct ReadOnlyPage(*const u8);

// SAFETY: it is memory of the process, which only the kernel looks at.
unsafe impl Send for ReadOnlyPage {}
// SAFETY: as above.
unsafe impl Sync for ReadOnlyPage {}

impl ReadOnlyPage {
    fn of(file: &SealedFile<FutureWriteSealed>) -> Self {
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: the address is the kernel's choice. The mapping stays for as long as the process.
        let page =
            unsafe { libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        Self(page.cast())
    }

    fn bell(&self) -> *const u32 {
        self.0.wrapping_add(BELL + LOWER_HALF).cast()
    }

    /// Moves everybody who sleeps on the bell, and returns how many that were.
    fn move_sleepers(&self, to: &AtomicU32) -> libc::c_long {
        let nobody_is_woken = 0_usize;
        let all = i32::MAX as usize;
        // SAFETY: both are aligned words of live memory, and the kernel reads them at most.
        let moved = unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.bell(),
                libc::FUTEX_REQUEUE,
                nobody_is_woken,
                all,
                to.as_ptr(),
            )
        };
        assert!(moved >= 0, "{}", io::Error::last_os_error());
        moved
    }

    /// A plain sleep, until woken or `timeout` is over. Whether it was woken.
    fn sleep(&self, timeout: Duration) -> bool {
        let timeout = libc::timespec { tv_sec: timeout.as_secs() as _, tv_nsec: 0 };
        // SAFETY: an aligned word of live memory, and a timeout that outlives the call.
        let outcome = unsafe {
            libc::syscall(libc::SYS_futex, self.bell(), libc::FUTEX_WAIT, 0, &raw const timeout)
        };
        outcome == 0
    }
}

/// A futex that nobody wakes, in memory that other processes could have.
static NOWHERE: AtomicU32 = AtomicU32::new(0);

fn move_one(reader: &ReadOnlyPage) {
    let start = Instant::now();
    while reader.move_sleepers(&NOWHERE) == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "nobody sleeps");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_subscriber_moved_by_another_reader_still_learns_of_news() {
    if !Producer::is_supported() {
        return eprintln!("not tested: no live files here");
    }
    let mut publisher = Publisher::create("requeued", 8).unwrap();
    let attacker = ReadOnlyPage::of(publisher.file());
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
    let attacker = ReadOnlyPage::of(publisher.file());
    thread::scope(|scope| {
        let sleeping = scope.spawn(|| attacker.sleep(Duration::from_secs(2)));
        move_one(&attacker);
        publisher.publish(b"news").unwrap();
        assert!(!sleeping.join().unwrap(), "the publisher woke it");
    });
}
