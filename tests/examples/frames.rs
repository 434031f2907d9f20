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
use sealed_mmap::broadcast::Publisher;
use sealed_mmap::ring::Sender;
use sealed_mmap::socket::send_fds;
use sealed_mmap::{Producer, SealPolicy, SealedFile};

use crate::support::runs::{in_full, is_emulated, live};
use crate::{
    Temp, end_of, eventually, example, failed, fails, pipe, reads_everything, start, succeeds,
    terminal,
};

/// What a test expects where there are no live files, and so no ring.
fn every_way() -> &'static [&'static str] {
    let ways = &["socket", "pipe", "sealed", "ring"];
    if Producer::is_supported() { ways } else { &ways[..3] }
}

/// Checks that every frame went in these ways, and in no other.
#[track_caller]
fn went(text: &str, ways: &[&str], readers: usize, frames: u64, size: u64) {
    assert_eq!(text.matches("producer: ").count(), 1, "{text}");
    for way in ["socket", "pipe", "sealed", "ring", "broadcast"] {
        let expected = if ways.contains(&way) { readers } else { 0 };
        assert_eq!(text.matches(&format!("{way} consumer")).count(), expected, "{way}: {text}");
        let rows = text.lines().filter(|line| line.starts_with(&format!("  {way} "))).count();
        assert_eq!(rows, expected.min(1), "{way}: {text}");
    }
    assert!(text.contains(&format!("\n{frames} frames of {size} bytes to {readers} ")), "{text}");
}

#[test]
fn frames_go_every_way() {
    let Some(mut frames) = example("frames") else { return };
    let text = succeeds(frames.args(["--frames", "200"]), b"");
    went(&text, every_way(), 1, 200, 65536);
    assert!(text.contains("\nTo keep, pass on or read in part, sealed files: "), "{text}");
    let says_which =
        text.contains("\nFor a stream, a ring: it takes ") || text.contains(": a ring takes ");
    assert_eq!(says_which, Producer::is_supported(), "{text}");
    assert_eq!(text.contains("no live files can be made here"), !says_which, "{text}");
}

#[test]
fn frames_go_to_every_reader() {
    let Some(mut frames) = example("frames") else { return };
    let text = succeeds(frames.args(["--frames=200", "--size=5000", "--readers=3"]), b"");
    let all = ["socket", "pipe", "sealed", "ring", "broadcast"];
    let ways = if Producer::is_supported() { &all[..] } else { every_way() };
    went(&text, ways, 3, 200, 5000);
}

#[test]
fn frames_go_one_way_on_request() {
    let ways = [("--copy", "socket"), ("--way=pipe", "pipe"), ("--way=sealed", "sealed")];
    let live = [("--way=ring", "ring"), ("--way=broadcast", "broadcast")];
    for (argument, way) in ways.into_iter().chain(live) {
        let Some(mut frames) = example("frames") else { return };
        frames.args(["--frames", "200", argument]);
        if live.contains(&(argument, way)) && !Producer::is_supported() {
            fails(&mut frames, b"", "frames: cannot create ");
            continue;
        }
        went(&succeeds(&mut frames, b""), &[way], 1, 200, 65536);
    }
}

#[test]
fn a_ring_is_ahead_of_a_socket_and_a_pipe() {
    let arguments = ["--way=socket", "--way=pipe", "--way=ring", "--frames=100000", "--size=1000"];
    let Some(mut frames) = example("frames") else { return };
    if !Producer::is_supported() || is_emulated() {
        return eprintln!("not run: it needs live files and a processor that is not emulated");
    }
    if cfg!(debug_assertions) {
        return eprintln!(
            "not run: only an optimized library is fast; cargo test --release runs it"
        );
    }
    let text = succeeds(frames.args(arguments), b"");
    assert!(text.contains("For a stream, a ring: it takes "), "{text}");
}

#[test]
fn frames_are_cut_from_a_file_or_standard_input() {
    let contents = vec![7; 10_500];
    let file = Temp::file("frames", &contents);
    for (path, input) in [(&*file.0, &[][..]), (Path::new("-"), &contents)] {
        let Some(mut frames) = example("frames") else { return };
        let text = succeeds(frames.args(["--size", "1000"]).arg(path), input);
        went(&text, every_way(), 1, 11, 1000);
    }
    // More than there are begin anew.
    let Some(mut frames) = example("frames") else { return };
    let text = succeeds(frames.args(["--size=1000", "--frames=100"]).arg(&file.0), b"");
    went(&text, every_way(), 1, 100, 1000);
}

#[test]
fn frames_of_every_size_pass() {
    for (size, count) in [(1, 1000), (4095, 10), (4097, 10), (1 << 20, 10), (4 << 20, 3)] {
        let Some(mut frames) = example("frames") else { return };
        frames.args([format!("--size={size}"), format!("--frames={count}"), "--readers=2".into()]);
        succeeds(&mut frames, b"");
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
        (&["--readers=0"], "at least 1 reader"),
        (&["--readers=17"], "at most 16"),
        (&["--way=pigeon"], "the ways are socket, pipe, sealed, ring and broadcast"),
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
        went(text, every_way(), 1, 11, 1);
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
    shows(" of 1000000000 frames: socket ");
    kill_process(a_consumer(&child), Signal::KILL).unwrap();
    // The complaint does not stand in what is left of the progress.
    shows("\x1b[Kframes: the ");
    shows(" consumer left after ");
    assert_eq!(end_of(child).status.code(), Some(1));
}

pub(crate) fn children(parent: &Child) -> Vec<Pid> {
    let parent = parent.id().to_string();
    let processes = fs::read_dir("/proc").unwrap();
    let children = processes.filter_map(|entry| {
        let entry = entry.unwrap();
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name, which may contain anything, come the state and the parent.
        let is_child = stat.rsplit_once(") ")?.1.split(' ').nth(1)? == parent;
        let number = entry.file_name().to_str()?.parse().ok()?;
        is_child.then_some(Pid::from_raw(number)?)
    });
    children.collect()
}

fn a_consumer(producer: &Child) -> Pid {
    eventually("a consumer", || children(producer).pop())
}

/// Kills one of them in the midst of it, and says how the producer ended and of what is complained.
fn killed(
    way: &str,
    readers: usize,
    victim: impl Fn(&Child) -> Pid,
) -> Option<(ExitStatus, Vec<String>)> {
    let mut frames = example("frames")?;
    frames.args(["--frames=1000000000", &format!("--way={way}"), &format!("--readers={readers}")]);
    let producer = start(&mut frames, Stdio::null());
    eventually("all consumers", || (children(&producer).len() == readers).then_some(()));
    // So that none is about to start.
    thread::sleep(Duration::from_millis(300));
    kill_process(victim(&producer), Signal::KILL).unwrap();
    // The others have the standard error, too.
    let output = end_of(producer);
    let text = String::from_utf8(output.stderr).unwrap();
    // A slow machine has time for a line of progress.
    let complaints = text.lines().filter(|line| line.starts_with("frames: ")).map(str::to_owned);
    Some((output.status, complaints.collect()))
}

/// The ways, and to how many readers.
fn ways_to_readers() -> Vec<(&'static str, usize)> {
    let mut ways: Vec<_> = every_way().iter().map(|way| (*way, 1)).collect();
    ways.extend(
        Producer::is_supported().then_some([("ring", 3), ("broadcast", 3)]).into_iter().flatten(),
    );
    ways
}

#[test]
fn a_producer_says_that_a_consumer_has_died() {
    for (way, readers) in ways_to_readers() {
        let Some((status, complaints)) = killed(way, readers, a_consumer) else { return };
        assert_eq!(status.code(), Some(1), "{complaints:?}");
        // The other consumers end without a word.
        let [line] = &complaints[..] else { panic!("{complaints:?}") };
        assert!(line.starts_with(&format!("frames: the {way} consumer")), "{line}");
        assert!(line.contains(" left after "), "{line}");
        assert!(line.contains(" of 1000000000 frames; it ended with signal: 9"), "{line}");
    }
}

#[test]
fn each_consumer_says_that_its_producer_has_died() {
    for (way, readers) in ways_to_readers() {
        let Some((status, complaints)) = killed(way, readers, Pid::from_child) else { return };
        assert_eq!(status.signal(), Some(9), "{complaints:?}");
        assert_eq!(complaints.len(), readers, "{complaints:?}");
        for line in complaints {
            assert!(line.starts_with(&format!("frames: {way} consumer")), "{line}");
            assert!(line.contains(": the producer left after "), "{line}");
        }
    }
}

#[test]
fn a_consumer_says_that_it_has_no_socket() {
    let Some(mut frames) = example("frames") else { return };
    let output = end_of(start(frames.arg("--consumer").arg("--frames=1"), Stdio::null()));
    failed(output, "consumer: standard input is not a socket");
}

/// Starts a consumer and gives its control socket and the producer's end of its channel.
fn consumer(way: &str, frames: u64) -> Option<(UnixStream, UnixStream, Child)> {
    let (control, stdin) = UnixStream::pair().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = example("frames")?
        .args(["--consumer", "--size=10", &format!("--way={way}"), &format!("--frames={frames}")])
        .stdin(OwnedFd::from(stdin))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    send_fds(&control, b"!", &[theirs.as_fd()]).unwrap();
    Some((control, ours, child))
}

fn answer(control: &mut UnixStream) -> u64 {
    let mut answer = [0; 8];
    control.read_exact(&mut answer).unwrap();
    u64::from_le_bytes(answer)
}

fn header(frame: &[u8]) -> [u8; 12] {
    let mut header = [0; 12];
    header[..8].copy_from_slice(&(frame.len() as u64).to_le_bytes());
    header[8..].copy_from_slice(&crc32fast::hash(frame).to_le_bytes());
    header
}

#[test]
fn the_consumer_answers_honest_frames() {
    let Some((mut control, socket, child)) = consumer("sealed", 2) else { return };
    assert_eq!(answer(&mut control), 0);
    for (number, frame) in [(1, b"one"), (2, b"two")] {
        let file = SealedFile::from_bytes("frame", frame).unwrap();
        send_fds(&socket, &header(frame), &[file.as_fd()]).unwrap();
        assert_eq!(answer(&mut control), number);
    }
    drop(socket);
    assert!(child.wait_with_output().unwrap().status.success());
}

#[track_caller]
fn complains(child: Child, complaint: &str) {
    let output = end_of(child);
    assert_eq!(output.status.signal(), None);
    failed(output, complaint);
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
        let Some((_control, socket, child)) = consumer("sealed", 2) else { return };
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        send_fds(&socket, header, &fds).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        complains(child, complaint);
    }
    for way in ["socket", "pipe"] {
        for (bytes, complaint) in [
            ([&header(b"one")[..], b"two"].concat(), "frame 1: it is not as it was sent"),
            (header(b"eleven byte").to_vec(), "announced with 11 bytes"),
            (short.to_vec(), "the producer left after 0 of 2 frames"),
        ] {
            let Some((_control, mut socket, child)) = consumer(way, 2) else { return };
            socket.write_all(&bytes).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            complains(child, complaint);
        }
    }
}

#[test]
fn the_consumer_of_a_ring_refuses_a_lie_and_says_which() {
    let Some(_) = live(Producer::create("supported", 1)) else { return };
    let (policy, long) = (SealPolicy::untrusted_live(1 << 20), Duration::from_secs(60));
    let record = |frame: &[u8]| [frame, &crc32fast::hash(frame).to_le_bytes()].concat();
    for (record, complaint) in [
        (record(b"one"), "the producer left after 1 of 2 frames"),
        (b"one and no sum".to_vec(), "frame 1: it is not as it was sent"),
        (record(b"eleven byte"), "frame 1: it has 11 bytes"),
        (b"sum".to_vec(), "frame 1: it came without its checksum"),
    ] {
        let Some((_control, socket, child)) = consumer("ring", 2) else { return };
        let offer = Sender::offer(socket, "frames", 4096).unwrap();
        let mut ring = offer.accept(&policy, long).unwrap();
        ring.send(&record, long).unwrap();
        drop(ring);
        complains(child, complaint);
    }
    // And whoever offers no ring.
    let Some((_control, socket, child)) = consumer("ring", 2) else { return };
    send_fds(&socket, b"a string", &[socket.as_fd()]).unwrap();
    complains(child, "it is for another use");
}

#[test]
fn the_consumer_of_a_broadcast_says_that_it_was_overtaken() {
    let Some(mut publisher) = live(Publisher::create("frames", 4096)) else { return };
    let Some((mut control, socket, child)) = consumer("broadcast", 2) else { return };
    publisher.admit(socket, &SealPolicy::untrusted_live(1 << 20), Duration::from_secs(60)).unwrap();
    assert_eq!(answer(&mut control), 0);
    kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
    for _ in 0..1000 {
        publisher.publish(b"one").unwrap();
    }
    kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
    complains(child, " frames were overwritten before it");
}
