//! `frames` sends every frame both ways, and each of its two processes notices what the other does.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use sealed_mmap::SealedFile;
use sealed_mmap::socket::send_fds;

use crate::support::runs::in_full;
use crate::{
    Temp, end_of, eventually, example, failed, fails, pipe, reads_everything, start, succeeds,
    terminal,
};

/// What `frames` says of each way, and of both processes.
fn ways(text: &str) -> (usize, usize, usize, usize) {
    let count = |what| text.matches(what).count();
    (count("sealed: "), count("copied: "), count("producer: "), count("consumer: "))
}

#[test]
fn frames_go_both_ways() {
    let Some(mut frames) = example("frames") else { return };
    let text = succeeds(frames.args(["--frames", "200"]), b"");
    assert_eq!(ways(&text), (1, 1, 2, 2), "{text}");
    assert_eq!(text.matches("200 of 200 frames in").count(), 2, "{text}");
    assert!(text.contains("times as long as"), "{text}");
}

#[test]
fn frames_are_only_copied_on_request() {
    let Some(mut frames) = example("frames") else { return };
    let text = succeeds(frames.args(["--frames", "200", "--copy"]), b"");
    assert_eq!(ways(&text), (0, 1, 1, 1), "{text}");
}

#[test]
fn frames_are_cut_from_a_file_or_standard_input() {
    let contents = vec![7; 10_500];
    let file = Temp::file("frames", &contents);
    for (path, input) in [(&*file.0, &[][..]), (Path::new("-"), &contents)] {
        let Some(mut frames) = example("frames") else { return };
        let text = succeeds(frames.args(["--size", "1000"]).arg(path), input);
        assert_eq!(text.matches("11 of 11 frames in").count(), 2, "{text}");
    }
    // More than there are begin anew.
    let Some(mut frames) = example("frames") else { return };
    let text = succeeds(frames.args(["--size=1000", "--frames=100"]).arg(&file.0), b"");
    assert_eq!(text.matches("100 of 100 frames in").count(), 2, "{text}");
}

#[test]
fn frames_of_every_size_pass() {
    for (size, count) in [(1, 10), (4095, 10), (4097, 10), (4 << 20, 3)] {
        let Some(mut frames) = example("frames") else { return };
        succeeds(frames.args([format!("--size={size}"), format!("--frames={count}")]), b"");
    }
}

#[test]
fn frames_says_what_it_cannot_send() {
    let empty = Temp::file("frames-empty", b"");
    let Some(mut frames) = example("frames") else { return };
    fails(frames.arg(&empty.0), b"", &empty.0.display().to_string());
    for (arguments, complaint) in [
        (&["-"][..], "standard input: there is nothing"),
        (&["--size=0"], "at least 1 byte"),
        (&["--size=1073741825"], "at most 1 GiB"),
        (&["--frames=many"], "many"),
        (&["--frames=0"], "cannot parse"),
        (&["--unknown"], "--unknown"),
        (&["one", "two"], "two"),
        (&["--frames"], "usage: frames"),
    ] {
        let Some(mut frames) = example("frames") else { return };
        fails(frames.args(arguments), b"", complaint);
    }
}

#[test]
fn frames_refuses_endless_input() {
    if !in_full() {
        eprintln!("not run: it takes 1 GiB of memory; SEALED_MMAP_FULL=1 runs it");
        return;
    }
    let Some(mut frames) = example("frames") else { return };
    fails(frames.arg("/dev/zero"), b"", "/dev/zero: more than 1 GiB");
}

#[test]
fn frames_are_cut_from_the_rest_of_what_is_partly_read() {
    let frames = |path: &Path| {
        let mut frames = example("frames")?;
        frames.arg("--size=1").arg(path);
        Some(frames)
    };
    reads_everything(frames, "frames-input", |text| {
        assert_eq!(text.matches("11 of 11 frames in").count(), 2, "{text}");
    });
}

#[test]
fn frames_shows_its_progress_on_a_terminal() {
    let Some(mut command) = example("frames") else { return };
    let (mut user, tty) = terminal();
    fcntl_setfl(&user, OFlags::NONBLOCK).unwrap();
    command.arg("--frames=1000000000").stdout(Stdio::null()).stderr(tty);
    let child = command.spawn().unwrap();
    // The command has the terminal, too.
    drop(command);
    let (mut seen, mut buffer) = (Vec::new(), [0; 1000]);
    let mut shows = |what: &str| {
        eventually(what, || {
            // Nothing new is an error, and so is a terminal that no program has any longer.
            let count = user.read(&mut buffer).unwrap_or(0);
            seen.extend_from_slice(&buffer[..count]);
            String::from_utf8_lossy(&seen).contains(what).then_some(())
        });
    };
    shows(" of 1000000000 frames in");
    kill_process(the_consumer(&child), Signal::KILL).unwrap();
    // The complaint does not stand in what is left of the progress.
    shows("\x1b[Kframes: the consumer left after");
    assert_eq!(end_of(child).status.code(), Some(1));
}

fn the_consumer(producer: &Child) -> Pid {
    let producer = producer.id().to_string();
    eventually("the consumer", || {
        let mut processes = fs::read_dir("/proc").unwrap();
        processes.find_map(|entry| {
            let entry = entry.unwrap();
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name, which may contain anything, come the state and the parent.
            let is_child = stat.rsplit_once(") ")?.1.split(' ').nth(1)? == producer;
            let number = entry.file_name().to_str()?.parse().ok()?;
            is_child.then_some(Pid::from_raw(number)?)
        })
    })
}

/// Kills one of the two in the midst of it, and says how the producer ended and of what is complained.
fn killed(way: &str, victim: impl Fn(&Child) -> Pid) -> Option<(ExitStatus, String)> {
    let mut frames = example("frames")?;
    let producer = start(frames.args(["--frames=1000000000", way]), Stdio::null());
    the_consumer(&producer);
    // So that neither is about to start.
    thread::sleep(Duration::from_millis(300));
    kill_process(victim(&producer), Signal::KILL).unwrap();
    // The other one has the standard error, too.
    let output = end_of(producer);
    let text = String::from_utf8(output.stderr).unwrap();
    // A slow machine has time for a line of progress.
    let complaints: Vec<_> = text.lines().filter(|line| line.starts_with("frames: ")).collect();
    let [complaint] = complaints[..] else { panic!("{text}") };
    Some((output.status, complaint.to_owned()))
}

#[test]
fn a_producer_says_that_its_consumer_has_died() {
    for way in ["--size=65536", "--copy"] {
        let Some((status, line)) = killed(way, the_consumer) else { return };
        assert_eq!(status.code(), Some(1), "{line}");
        assert!(line.starts_with("frames: the consumer left after "), "{line}");
        assert!(
            line.contains(" of 1000000000 frames; the consumer ended with signal: 9"),
            "{line}"
        );
    }
}

#[test]
fn a_consumer_says_that_its_producer_has_died() {
    for way in ["--size=65536", "--copy"] {
        let Some((status, line)) = killed(way, Pid::from_child) else { return };
        assert_eq!(status.signal(), Some(9), "{line}");
        assert!(line.starts_with("frames: consumer: the producer left after "), "{line}");
    }
}

#[test]
fn a_consumer_says_that_it_has_no_socket() {
    let Some(mut frames) = example("frames") else { return };
    let output = end_of(start(frames.arg("--consumer").arg("--frames=1"), Stdio::null()));
    failed(output, "consumer: standard input is not a socket");
}

/// Starts a consumer of sealed frames and gives the producer's end of its socket.
fn consumer(frames: u64) -> Option<(UnixStream, Child)> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = example("frames")?
        .args(["--consumer", "--size=10", &format!("--frames={frames}")])
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Some((ours, child))
}

fn header(frame: &[u8]) -> [u8; 12] {
    let mut header = [0; 12];
    header[..8].copy_from_slice(&(frame.len() as u64).to_le_bytes());
    header[8..].copy_from_slice(&crc32fast::hash(frame).to_le_bytes());
    header
}

#[test]
fn the_consumer_answers_honest_frames() {
    let Some((mut socket, child)) = consumer(2) else { return };
    for frame in [b"one", b"two"] {
        let file = SealedFile::from_bytes("frame", frame).unwrap();
        send_fds(&socket, &header(frame), &[file.as_fd()]).unwrap();
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(u32::from_le_bytes(answer), crc32fast::hash(frame));
    }
    drop(socket);
    assert!(child.wait_with_output().unwrap().status.success());
}

#[test]
fn the_consumer_refuses_a_lie_and_says_which() {
    let sealed = |bytes: &[u8]| OwnedFd::from(SealedFile::from_bytes("frame", bytes).unwrap());
    let mut unsealed = SealedFile::create("frame").unwrap();
    unsealed.write_all(b"one").unwrap();
    let reader = OwnedFd::from(pipe().0);
    let short = &header(b"one")[..5];
    for (header, fd, complaint) in [
        (&header(b"one")[..], Some(sealed(b"two")), "frame 1: it is not as it was sent"),
        (&header(b"one"), Some(sealed(b"eleven byte")), "the file has 11 bytes"),
        (&header(b"eleven byte"), Some(sealed(b"eleven byte")), "announced with 11 bytes"),
        (&header(b"one"), Some(OwnedFd::from(unsealed.into_file())), "lacks the seals"),
        (&header(b"one"), Some(reader), "cannot carry seals"),
        (&header(b"one"), None, "frame 1: it came without its file"),
        (short, Some(sealed(b"one")), "the producer left after 0 of 2 frames"),
        (&header(b"one"), Some(sealed(b"one")), "the producer left after 1 of 2 frames"),
    ] {
        let Some((socket, child)) = consumer(2) else { return };
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        send_fds(&socket, header, &fds).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let output = child.wait_with_output().unwrap();
        let complaints = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.status.signal()), (Some(1), None), "{complaints}");
        assert!(complaints.contains(complaint), "{complaints}");
    }
}
