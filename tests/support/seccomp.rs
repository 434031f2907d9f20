//! Threads in which system calls are denied.

use std::env::consts::ARCH;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use libc::c_long;
use rustix::io::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, apply_filter};

/// Runs this in a thread where each of these calls does nothing and returns this error.
#[track_caller]
pub(crate) fn with_answers<T: Send + 'static>(
    answers: &[(c_long, Errno)],
    run: impl FnOnce() -> T + Send + 'static,
) -> T {
    let filters = answers.iter().map(|(call, errno)| with_code(*call, errno.raw_os_error()));
    under(filters.collect(), run)
}

#[track_caller]
pub(crate) fn denied<T: Send + 'static>(
    calls: &[c_long],
    errno: Errno,
    run: impl FnOnce() -> T + Send + 'static,
) -> T {
    let answers: Vec<_> = calls.iter().map(|call| (*call, errno)).collect();
    with_answers(&answers, run)
}

/// 0 is success.
pub(crate) fn with_code(call: c_long, errno: i32) -> BpfProgram {
    where_any(call, vec![], errno)
}

/// Only where one of these rules holds, or always if there is none.
pub(crate) fn where_any(call: c_long, rules: Vec<SeccompRule>, errno: i32) -> BpfProgram {
    let filter = SeccompFilter::new(
        [(call, rules)].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        ARCH.try_into().unwrap(),
    );
    filter.unwrap().try_into().unwrap()
}

/// Whether this kernel, or the emulation of one, filters system calls.
pub(crate) fn can_filter() -> bool {
    let filter = with_code(libc::SYS_sendfile, 0);
    let tried = thread::spawn(move || apply_filter(&filter)).join().unwrap();
    if let Err(error) = &tried {
        eprintln!("not tested, system calls cannot be filtered here: {error}");
    }
    tried.is_ok()
}

#[track_caller]
pub(crate) fn under<T: Send + 'static>(
    filters: Vec<BpfProgram>,
    run: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        for filter in &filters {
            apply_filter(filter).unwrap();
        }
        // Nobody listens after a failure.
        let _ = done.send(run());
    });
    result.recv_timeout(Duration::from_secs(60)).expect("it never ends, or panicked")
}
