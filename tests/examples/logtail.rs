//! `logtail` publishes lines to any number of followers, who learn what they have missed.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sealed_mmap::bell::Request;
use sealed_mmap::socket::send_fds;
use sealed_mmap::{Producer, SealedFile};

use crate::support::runs::live;
use crate::{LONG, Running, Temp, end_of, example, failed, fails, pipe, start, succeeded};

/// `None` where nothing can be published: then that is what is checked.
fn logtail(command: &str, path: &Path) -> Option<Command> {
    let mut logtail = example("logtail")?;
    if live(Producer::create("supported", 1)).is_none() {
        fails(logtail.arg("serve").arg(path), b"", "vm.memfd_noexec");
        return None;
    }
    logtail.arg(command).arg(path);
    Some(logtail)
}

/// A server, with its standard input.
fn server(path: &Path, arguments: &[&str]) -> Option<(Running, ChildStdin)> {
    let mut serve = logtail("serve", path)?;
    let mut server = Running::start(serve.args(arguments).stdin(Stdio::piped()));
    server.says("serving at");
    let input = server.child.stdin.take().unwrap();
    Some((server, input))
}

fn follower(path: &Path, arguments: &[&str]) -> Running {
    Running::start(logtail("follow", path).unwrap().args(arguments))
}

/// The numbers in a line.
fn numbers(line: &str) -> Vec<u64> {
    line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect()
}

/// Follows from the second line to the end: how many lines were shown and missed, as was said at the end.
/// Every line is the one that has to come, and every gap is as long as is said.
#[track_caller]
fn follows_exactly(follower: &Running) -> (u64, u64) {
    let (mut next, mut shown, mut missed) = (2, 1, 0);
    loop {
        let line = follower.says("");
        match numbers(&line)[..] {
            [number] if line.starts_with("line ") => {
                assert_eq!(number, next, "{line}");
                (next, shown) = (next + 1, shown + 1);
            }
            [some, from, to] if line.starts_with("-- missed ") => {
                assert_eq!((from, to), (next, next + some - 1), "{line}");
                (next, missed) = (next + some, missed + some);
            }
            [some] if line.starts_with("-- missed ") => {
                (next, missed) = (next + some, missed + some)
            }
            [all_shown, all_missed] if line.starts_with("-- the server has ended: ") => {
                assert_eq!((all_shown, all_missed), (shown, missed), "{line}");
                return (shown, missed);
            }
            _ => panic!("{line}"),
        }
    }
}

#[test]
fn every_follower_gets_or_misses_exactly_every_line() {
    const LINES: u64 = 20_000;

    let socket = Temp::named("logtail-exact");
    let Some((server, mut input)) = server(&socket.0, &["--wait=3"]) else { return };
    let followers = [&["--from=oldest"][..], &["--slow=1"], &["--slow=20", "--from=oldest"]];
    let followers = followers.map(|arguments| follower(&socket.0, arguments));
    writeln!(input, "line 1").unwrap();
    for follower in &followers {
        assert_eq!(follower.says(""), "line 1");
    }
    for n in 2..=LINES {
        writeln!(input, "line {n}").unwrap();
    }
    drop(input);
    let published = server.says("published");
    assert!(published.contains("published 20000 lines; "), "{published}");
    assert!(server.status().success());
    let seen = followers.map(|follower| {
        let (shown, missed) = follows_exactly(&follower);
        assert!(follower.status().success());
        (shown, missed)
    });
    for (shown, missed) in &seen {
        assert_eq!(shown + missed, LINES);
    }
    assert!(seen[2].1 > 0, "the slow one missed nothing: {seen:?}");
}

#[test]
fn a_follower_begins_where_it_wants() {
    let socket = Temp::named("logtail-from");
    let Some((_server, mut input)) = server(&socket.0, &["--capacity=65536"]) else { return };
    // So that all of it has been published, if one of it has.
    input
        .write_all(&(1..=20).flat_map(|n| format!("line {n}\n").into_bytes()).collect::<Vec<_>>())
        .unwrap();
    let first = follower(&socket.0, &["--from=oldest"]);
    for n in 1..=20 {
        assert_eq!(first.says(""), format!("line {n}"));
    }
    let oldest = follower(&socket.0, &["--from=oldest"]);
    assert_eq!(oldest.says(""), "line 1");
    let now = follower(&socket.0, &["--from=now"]);
    thread::sleep(Duration::from_millis(500));
    input.write_all(b"line 21\n").unwrap();
    assert_eq!(now.says(""), "line 21");
    oldest.says("line 21");
}

#[test]
fn ctrl_c_ends_either_side_with_a_summary() {
    let socket = Temp::named("logtail-ctrl-c");
    for signal in [Signal::INT, Signal::TERM] {
        let Some((server, _input)) = server(&socket.0, &["--demo"]) else { return };
        let [leaves, asleep, stays] = [&[][..], &["--slow=3600000"], &[]]
            .map(|arguments: &[&str]| follower(&socket.0, arguments));
        for one in [leaves, asleep] {
            one.says("line ");
            one.signal(signal);
            one.says("-- stopped: ");
            assert!(one.status().success());
        }
        stays.says("line ");
        server.signal(signal);
        server.says("; 1 follow to the end");
        assert!(server.status().success());
        assert!(!socket.0.exists());
        stays.says("-- the server has ended: ");
        assert!(stays.status().success());
    }
}

#[test]
fn a_killed_server_is_an_end_and_can_be_replaced() {
    let socket = Temp::named("logtail-killed");
    let Some((first, _input)) = server(&socket.0, &["--demo"]) else { return };
    let one = follower(&socket.0, &[]);
    one.says("line ");
    first.signal(Signal::KILL);
    one.says("-- the server has ended: ");
    assert!(one.status().success());
    assert_eq!(first.status().signal(), Some(9));
    let Some((_second, _input)) = server(&socket.0, &["--demo"]) else { return };
    follower(&socket.0, &[]).says("line ");
}

#[test]
fn a_killed_or_stopped_follower_disturbs_nobody() {
    let socket = Temp::named("logtail-followers");
    let Some((server, _input)) = server(&socket.0, &["--demo"]) else { return };
    let [killed, stopped, other] = [0; 3].map(|_| follower(&socket.0, &[]));
    for (one, signal) in [(&killed, Signal::KILL), (&stopped, Signal::STOP)] {
        one.says("line ");
        one.signal(signal);
    }
    let [first] = numbers(&other.says("line "))[..] else { panic!() };
    for n in 1..=200 {
        assert_eq!(numbers(&other.says(""))[..], [first + n]);
    }
    stopped.signal(Signal::CONT);
    stopped.says("line ");
    server.signal(Signal::INT);
    server.says("; 2 follow to the end");
}

#[test]
fn a_closed_output_ends_a_follower_in_silence() {
    let socket = Temp::named("logtail-head");
    let Some((_server, _input)) = server(&socket.0, &["--demo"]) else { return };
    let (reader, output) = pipe();
    drop(reader);
    let mut follow = logtail("follow", &socket.0).unwrap();
    let child = follow.stdout(output).stderr(Stdio::piped()).spawn().unwrap();
    failed(end_of(child), "");

    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut follow = logtail("follow", &socket.0).unwrap();
    let child = follow.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    failed(end_of(child), "logtail: standard output: No space left on device");
}

#[test]
fn whoever_connects_cannot_hold_up_a_server() {
    let socket = Temp::named("logtail-hostile");
    let Some((server, _input)) = server(&socket.0, &["--demo"]) else { return };
    let connect = || UnixStream::connect(&socket.0).unwrap();
    let immutable = SealedFile::from_bytes("immutable", b"not live").unwrap();
    let strangers: Vec<_> = (0..300).map(|_| connect()).collect(); // more than are let in
    for (n, stranger) in strangers.iter().enumerate() {
        let bytes = [&b"bell, ?\n"[..], b"be", b"something else"][n % 3];
        let fds = [immutable.as_fd(), stranger.as_fd()];
        // Some say nothing, some are turned away by now, and some have left.
        if n % 4 != 0 {
            let _ = send_fds(stranger, bytes, &fds[..n % 3]);
        }
    }
    // Whoever asks, and then does not listen.
    let request = Request::send(OwnedFd::from(connect()));
    // A follower gets in as soon as those who say nothing have had their time.
    let deadline = Instant::now() + LONG;
    let honest = loop {
        let honest = follower(&socket.0, &[]);
        if honest.lines.recv_timeout(Duration::from_secs(1)).is_ok() {
            break honest;
        }
        assert!(Instant::now() < deadline, "nobody gets in");
    };
    honest.says("line ");
    drop((strangers, request));
    honest.says("line ");
    server.signal(Signal::INT);
    server.says("published");
    assert!(server.status().success());
}

#[test]
fn a_line_controls_no_terminal_and_a_long_one_is_cut() {
    let socket = Temp::named("logtail-lines");
    let Some((_server, mut input)) = server(&socket.0, &["--wait=1", "--capacity=4096"]) else {
        return;
    };
    let follower = follower(&socket.0, &["--from=oldest"]);
    input.write_all(b"\x1b[2J\tred\n").unwrap();
    assert_eq!(follower.says(""), "\\u{1b}[2J\tred");
    input.write_all(&[&[b'x'; 100_000][..], b"\n\nno end"].concat()).unwrap();
    let long = follower.says("");
    assert!((1024..2048).contains(&long.len()) && long.bytes().all(|byte| byte == b'x'));
    assert_eq!(follower.says(""), "");
    drop(input);
    assert_eq!(follower.says(""), "no end");
    follower.says("-- the server has ended: 4 lines shown, 0 missed --");
}

#[test]
fn a_server_takes_the_place_of_nobody() {
    let socket = Temp::named("logtail-second");
    let Some((_first, _input)) = server(&socket.0, &[]) else { return };
    let mut second = logtail("serve", &socket.0).unwrap();
    fails(&mut second, b"", "another program listens there already");
    let file = Temp::file("logtail-file", b"precious");
    fails(&mut logtail("serve", &file.0).unwrap(), b"", "it exists and is not a socket");
    assert_eq!(fs::read(&file.0).unwrap(), b"precious");
    fails(
        &mut logtail("follow", Path::new("/proc/x")).unwrap(),
        b"",
        "is there a `logtail serve`?",
    );
}

#[test]
fn a_server_of_nothing_ends_at_once() {
    let socket = Temp::named("logtail-nothing");
    let Some(mut serve) = logtail("serve", &socket.0) else { return };
    let text = succeeded(end_of(start(&mut serve, Stdio::null())));
    assert!(text.contains("published 0 lines"), "{text}");
}

#[test]
fn logtail_says_how_it_is_used() {
    for (arguments, complaint) in [
        (&[][..], "there is no command"),
        (&["serve"], "there is no socket"),
        (&["peek"], "usage: logtail serve"),
        (&["serve", "--slow=1", "x"], "--slow"),
        (&["follow", "--demo", "x"], "--demo"),
        (&["follow", "--from=yesterday", "x"], "\"yesterday\" is not oldest, middle or now"),
        (&["follow", "one", "two"], "two"),
    ] {
        let Some(mut logtail) = example("logtail") else { return };
        fails(logtail.args(arguments), b"", complaint);
    }
}
