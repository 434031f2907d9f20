//! Every example does what it says when it is run as a user would: on files, standard input, nothing,
//! and with a peer that fails or lies.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::pipe::pipe;
use rustix::process::{Pid, Signal, kill_process};
use sealed_mmap::SealedFile;
use sealed_mmap::socket::send_fds;

/// The example, which `cargo test` puts beside the directory of this program.
fn example(name: &str) -> Option<Command> {
    let tests = env::current_exe().unwrap();
    let program = tests.parent().unwrap().with_file_name("examples").join(name);
    if program.exists() {
        return Some(Command::new(program));
    }
    // Neither `cargo test --test NAME` nor a machine that was sent the tests alone has it.
    eprintln!("not run: there is no {}; cargo build --examples makes it", program.display());
    None
}

/// Runs an example to its end with this on its standard input.
fn run(command: &mut Command, input: &[u8]) -> Output {
    let stdio = || Stdio::piped();
    let mut child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
    // One that does not read it may have ended by now.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn succeeds(command: &mut Command, input: &[u8]) -> String {
    let output = run(command, input);
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{:?}: {complaints}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(command: &mut Command, input: &[u8], because: &str) {
    let output = run(command, input);
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaints}");
    assert!(complaints.contains(because), "{complaints}");
}

struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, contents: &[u8]) -> Self {
        let path = env::temp_dir().join(format!("sealed-mmap-{name}-{}", std::process::id()));
        fs::write(&path, contents).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn missing_file() -> &'static Path {
    Path::new("/proc/self/there is no such file")
}

#[test]
fn quickstart_shares_a_file_in_place() {
    let Some(mut quickstart) = example("quickstart") else { return };
    let file = TempFile::new("quickstart", b"a first line\nand a second");
    let text = succeeds(quickstart.arg(&file.0), b"");
    assert!(text.contains("a first line") && !text.contains("and a second"), "{text}");
    let checksum =
        format!("25 bytes, CRC-32 {:08x}", crc32fast::hash(b"a first line\nand a second"));
    assert!(text.contains(&checksum), "{text}");
}

#[test]
fn quickstart_reads_standard_input() {
    let Some(mut quickstart) = example("quickstart") else { return };
    let input = vec![b'x'; 300_000];
    let text = succeeds(quickstart.arg("-"), &input);
    let checksum = format!("300000 bytes, CRC-32 {:08x}", crc32fast::hash(&input));
    assert!(text.contains(&checksum), "{text}");
}

#[test]
fn quickstart_shares_nothing_too() {
    let Some(mut quickstart) = example("quickstart") else { return };
    let file = TempFile::new("quickstart-empty", b"");
    assert!(succeeds(quickstart.arg(&file.0), b"").contains("0 bytes"));
    let Some(mut quickstart) = example("quickstart") else { return };
    assert!(succeeds(quickstart.arg("-"), b"").contains("0 bytes"));
}

#[test]
fn quickstart_names_the_file_that_it_cannot_read() {
    for path in [missing_file(), &env::temp_dir()] {
        let Some(mut quickstart) = example("quickstart") else { return };
        fails(quickstart.arg(path), b"", path.to_str().unwrap());
    }
}

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
fn frames_are_only_copied_where_that_is_asked() {
    let Some(mut frames) = example("frames") else { return };
    let text = succeeds(frames.args(["--frames", "200", "--copy"]), b"");
    assert_eq!(ways(&text), (0, 1, 1, 1), "{text}");
}

#[test]
fn frames_are_cut_from_a_file_or_standard_input() {
    let contents = vec![7; 10_500];
    let file = TempFile::new("frames", &contents);
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
    let empty = TempFile::new("frames-empty", b"");
    let empty = empty.0.to_str().unwrap();
    let missing = missing_file().to_str().unwrap();
    for (arguments, complaint) in [
        (&[missing][..], missing),
        (&[empty], empty),
        (&["-"], "-: there is nothing"),
        (&["--size=0"], "at least 1 byte"),
        (&["--size=18446744073709551615"], "at most 1 GiB"),
        (&["--frames=many"], "many"),
        (&["--unknown"], "--unknown"),
        (&["one", "two"], "two"),
    ] {
        let Some(mut frames) = example("frames") else { return };
        fails(frames.args(arguments), b"", complaint);
    }
}

fn children_of(parent: &Child) -> Vec<Pid> {
    let parent = parent.id().to_string();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name, which may contain anything, come the state and the parent.
        let is_child = stat.rsplit_once(") ")?.1.split(' ').nth(1)? == parent;
        let number = entry.file_name().to_str()?.parse().ok()?;
        is_child.then_some(Pid::from_raw(number)?)
    });
    processes.collect()
}

#[test]
fn the_producer_says_that_its_consumer_has_died() {
    for way in [&["--frames=1000000000"][..], &["--frames=1000000000", "--copy"]] {
        let Some(mut frames) = example("frames") else { return };
        let producer =
            frames.args(way).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        let consumer = loop {
            if let [consumer] = children_of(&producer)[..] {
                break consumer;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "there is no consumer");
            thread::sleep(Duration::from_millis(10));
        };
        kill_process(consumer, Signal::KILL).unwrap();
        let output = producer.wait_with_output().unwrap();
        let complaints = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{complaints}");
        assert!(complaints.contains("the consumer ended with signal: 9"), "{complaints}");
    }
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
    let sealed = |bytes| OwnedFd::from(SealedFile::from_bytes("frame", bytes).unwrap());
    let mut unsealed = SealedFile::create("frame").unwrap();
    unsealed.write_all(b"one").unwrap();
    let reader = pipe().unwrap().0;
    let short = &header(b"one")[..5];
    for (header, fd, complaint) in [
        (&header(b"one")[..], Some(sealed(b"two")), "frame 1 is not as it was sent"),
        (&header(b"one"), Some(sealed(b"eleven byte")), "the file has 11 bytes"),
        (&header(b"eleven byte"), Some(sealed(b"eleven byte")), "announced with 11 bytes"),
        (&header(b"one"), Some(OwnedFd::from(unsealed.into_file())), "lacks the seals"),
        (&header(b"one"), Some(reader), "cannot carry seals"),
        (&header(b"one"), None, "without its file"),
        (short, Some(sealed(b"one")), "fill whole buffer"),
        (&header(b"one"), Some(sealed(b"one")), "the producer left after 1 of 2"),
    ] {
        let Some((socket, child)) = consumer(2) else { return };
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        send_fds(&socket, header, &fds).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let output = child.wait_with_output().unwrap();
        let complaints = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.status.signal()), (Some(1), None), "{complaints}");
        assert!(complaints.contains(complaint), "{complaints}");
    }
}
