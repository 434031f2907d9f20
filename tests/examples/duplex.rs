//! `duplex` asks a second process, and each of the two notices what becomes of the other.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sealed_mmap::Producer;

use crate::frames::children;
use crate::support::runs::live;
use crate::{end_of, eventually, example, fails, start, succeeds};

/// `None` where there are no rings: then that is what is checked.
fn duplex() -> Option<Command> {
    let mut duplex = example("duplex")?;
    if live(Producer::create("supported", 1)).is_none() {
        fails(&mut duplex, b"", "vm.memfd_noexec");
        return None;
    }
    Some(duplex)
}

#[test]
fn every_request_is_answered_at_every_size() {
    for (size, requests) in [(0, 100), (100, 1000), (5000, 1000), (1 << 20, 70)] {
        let Some(mut duplex) = duplex() else { return };
        duplex.args([format!("--size={size}"), format!("--requests={requests}")]);
        let text = succeeds(&mut duplex, b"");
        for most in [" 1 at a time: ", "64 at a time: "] {
            assert!(text.contains(&format!("{requests} requests, {most}")), "{text}");
        }
    }
}

/// Kills the client or the service in the midst of it, and says how the client ended and what was said.
fn killed(is_client: bool) -> Option<(std::process::ExitStatus, String)> {
    let client = start(duplex()?.arg("--requests=1000000000"), Stdio::null());
    let service = eventually("the service", || children(&client).pop());
    // So that neither is about to start.
    thread::sleep(Duration::from_millis(500));
    let victim = if is_client { Pid::from_child(&client) } else { service };
    kill_process(victim, Signal::KILL).unwrap();
    let output = end_of(client);
    Some((output.status, String::from_utf8(output.stderr).unwrap()))
}

#[test]
fn a_client_says_that_its_service_has_died() {
    let Some((status, text)) = killed(false) else { return };
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.starts_with("duplex: the service left after "), "{text}");
    assert!(text.contains(" of 1000000000 replies; it ended with signal: 9"), "{text}");
}

#[test]
fn a_service_says_that_its_client_has_died() {
    let Some((status, text)) = killed(true) else { return };
    assert_eq!(status.signal(), Some(9), "{text}");
    assert!(text.starts_with("duplex: service: the client left after "), "{text}");
}

#[test]
fn a_service_that_is_given_no_ring_says_so() {
    let Some(mut duplex) = duplex() else { return };
    fails(duplex.env("DUPLEX_SERVICE", "1"), b"", "duplex: service: requests: ");
}

#[test]
fn duplex_says_how_it_is_used() {
    for (argument, complaint) in [
        ("--requests=0", "cannot parse"),
        ("--size=1048577", "a request has at most 1048576 bytes"),
        ("--unknown", "usage: duplex"),
    ] {
        let Some(mut duplex) = example("duplex") else { return };
        fails(duplex.arg(argument), b"", complaint);
    }
}
