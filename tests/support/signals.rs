//! Time: signals that interrupt a thread, and how long something took.
#![allow(unsafe_code, reason = "timers that signal one thread are made with raw calls")]

use std::io;
use std::ptr;
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

/// Signals that interrupt this thread, one after `first` and then one every `period`.
pub(crate) struct Signals(libc::timer_t);

impl Signals {
    pub(crate) fn every(period: Duration) -> Self {
        Self::start(period, period)
    }

    pub(crate) fn once_after(first: Duration) -> Self {
        Self::start(first, Duration::ZERO)
    }

    fn start(first: Duration, period: Duration) -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            extern "C" fn ignore(_: libc::c_int) {}
            // Without SA_RESTART, so that calls without a timeout are interrupted, too.
            // SAFETY: every field is a number or a pointer, for which zero is a value.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
            // SAFETY: the handler does nothing, and so may run at any time.
            let result =
                unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut()) };
            assert_eq!(result, 0);
            // A call that would never end fails instead: nothing interrupts it any more.
            thread::spawn(|| {
                thread::sleep(Duration::from_secs(60));
                // SAFETY: ignoring a signal runs no code.
                unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
            });
        });
        // SAFETY: every field is a number or a pointer, for which zero is a value.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGUSR1;
        // SAFETY: it only asks.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer = ptr::null_mut();
        // SAFETY: both point to what they should, and the thread lives as long as this value, which
        // is neither sent nor leaked.
        let result =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        let [it_value, it_interval] = [first, period].map(|duration| libc::timespec {
            tv_sec: duration.as_secs() as _,
            tv_nsec: duration.subsec_nanos() as _,
        });
        let times = libc::itimerspec { it_interval, it_value };
        // SAFETY: the timer has just been made.
        let result = unsafe { libc::timer_settime(timer, 0, &raw const times, ptr::null_mut()) };
        assert_eq!(result, 0);
        Self(timer)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's.
        assert_eq!(unsafe { libc::timer_delete(self.0) }, 0);
    }
}

pub(crate) fn timed<T>(call: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (call(), start.elapsed())
}

/// How long this thread has run.
pub(crate) fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes the time.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec as _, time.tv_nsec as _)
}
