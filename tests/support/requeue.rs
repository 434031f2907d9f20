//! A reader that moves the others, who sleep, to a futex that nobody wakes.
#![allow(unsafe_code, reason = "the attack is a system call on raw memory")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::{Duration, Instant};

use sealed_mmap::{FutureWriteSealed, SealedFile};

/// The half of the word that counts.
const LOWER_HALF: usize =
    if cfg!(all(target_endian = "big", target_pointer_width = "64")) { 4 } else { 0 };

/// What a reader has: the first page of the file, read-only.
pub(crate) struct ReadOnlyPage {
    start: *const u8,
    bell: usize,
}

// SAFETY: it is memory of the process, which only the kernel looks at.
unsafe impl Send for ReadOnlyPage {}
// SAFETY: as above.
unsafe impl Sync for ReadOnlyPage {}

impl ReadOnlyPage {
    /// `bell` is the offset of the word that subscribers sleep on.
    pub(crate) fn of(file: &SealedFile<FutureWriteSealed>, bell: usize) -> Self {
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: the address is the kernel's choice. The mapping stays for as long as the process.
        let page =
            unsafe { libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        Self { start: page.cast(), bell }
    }

    fn bell(&self) -> *const u32 {
        self.start.wrapping_add(self.bell + LOWER_HALF).cast()
    }

    /// Moves everybody who sleeps on the bell, and returns how many that were.
    pub(crate) fn move_sleepers(&self, to: &AtomicU32) -> libc::c_long {
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
    pub(crate) fn sleep(&self, timeout: Duration) -> bool {
        let timeout = libc::timespec { tv_sec: timeout.as_secs() as _, tv_nsec: 0 };
        // SAFETY: an aligned word of live memory, and a timeout that outlives the call.
        let outcome = unsafe {
            libc::syscall(libc::SYS_futex, self.bell(), libc::FUTEX_WAIT, 0, &raw const timeout)
        };
        outcome == 0
    }
}

/// A futex that nobody wakes, in memory that other processes could have.
pub(crate) static NOWHERE: AtomicU32 = AtomicU32::new(0);

pub(crate) fn move_one(reader: &ReadOnlyPage) {
    let start = Instant::now();
    while reader.move_sleepers(&NOWHERE) == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "nobody sleeps");
        thread::sleep(Duration::from_millis(1));
    }
}
