//! Every example does what it says when it is run as a user would: on files, standard input, nothing,
//! and with a peer that fails or lies.

#[path = "support/runs.rs"]
mod runs;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use runs::in_full;
use rustix::pipe::pipe;
use rustix::process::{Pid, Signal, kill_process};
use sealed_mmap::latest::Publisher;
use sealed_mmap::socket::send_fds;
use sealed_mmap::{Producer, SealedFile};

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

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
#[track_caller]
fn run(command: &mut Command, input: &[u8]) -> Output {
    let stdio = || Stdio::piped();
    let mut child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
    // One that does not read it may have ended by now.
    let _ = child.stdin.take().unwrap().write_all(input);
    end_of(child)
}

/// What it has said when it ends, which it must.
#[track_caller]
fn end_of(child: Child) -> Output {
    let process = Pid::from_child(&child);
    let (sender, output) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    output.recv_timeout(LONG).unwrap_or_else(|_| {
        kill_process(process, Signal::KILL).unwrap();
        panic!("it does not end");
    })
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
    /// There is nothing yet.
    fn named(name: &str) -> Self {
        Self(env::temp_dir().join(format!("sealed-mmap-{name}-{}", std::process::id())))
    }

    fn new(name: &str, contents: &[u8]) -> Self {
        let file = Self::named(name);
        fs::write(&file.0, contents).unwrap();
        file
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

#[test]
fn quickstart_says_how_it_is_used() {
    for arguments in [&["--help"][..], &["one", "two"]] {
        let Some(mut quickstart) = example("quickstart") else { return };
        fails(quickstart.args(arguments), b"", "usage: quickstart [FILE]");
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
        (&["--size=1073741825"], "at most 1 GiB"),
        (&["--frames=many"], "many"),
        (&["--frames=0"], "cannot parse"),
        (&["--unknown"], "--unknown"),
        (&["one", "two"], "two"),
        (&["--help"], "usage: frames"),
    ] {
        let Some(mut frames) = example("frames") else { return };
        fails(frames.args(arguments), b"", complaint);
    }
}

#[test]
fn frames_takes_no_endless_input() {
    if !in_full() {
        eprintln!("not run: it takes 1 GiB of memory; SEALED_MMAP_FULL=1 runs it");
        return;
    }
    let Some(mut frames) = example("frames") else { return };
    fails(frames.arg("/dev/zero"), b"", "/dev/zero: more than 1 GiB");
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
            assert!(start.elapsed() < LONG, "there is no consumer");
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
    let sealed = |bytes: &[u8]| OwnedFd::from(SealedFile::from_bytes("frame", bytes).unwrap());
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
        socket.shutdown(Shutdown::Write).unwrap();
        let output = child.wait_with_output().unwrap();
        let complaints = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.status.signal()), (Some(1), None), "{complaints}");
        assert!(complaints.contains(complaint), "{complaints}");
    }
}

/// A running example, which is killed in the end, and the lines that it prints.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || output.lines().try_for_each(|line| sender.send(line.unwrap())));
        Self { child, lines }
    }

    /// The next line that has this in it.
    #[track_caller]
    fn says(&self, what: &str) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(what) => return line,
                Ok(_) => {}
                Err(error) => panic!("it does not say \"{what}\": {error}"),
            }
        }
    }

    fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, but not forever.
    #[track_caller]
    fn status(mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None => thread::sleep(Duration::from_millis(10)),
            }
            assert!(Instant::now() < deadline, "it does not end");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `None` where nothing can be published: then that is what is checked.
fn dashboard(command: &str, path: &Path) -> Option<Command> {
    let mut dashboard = example("dashboard")?;
    if fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|setting| setting == b"2\n") {
        fails(dashboard.arg("publish").arg(path), b"", "vm.memfd_noexec");
        eprintln!("vm.memfd_noexec=2: there is nothing to watch");
        return None;
    }
    dashboard.arg(command).arg(path);
    Some(dashboard)
}

/// A dashboard that publishes at this path.
fn publisher(path: &Path) -> Option<Running> {
    let publisher = Running::start(&mut dashboard("publish", path)?);
    publisher.says("publishing at");
    Some(publisher)
}

fn watcher(path: &Path) -> Running {
    Running::start(&mut dashboard("watch", path).unwrap())
}

/// The number in a line like "reading 1200, 190 a second", and how many a second.
fn number_and_rate(line: &str) -> (u64, u64) {
    let numbers: Vec<_> = line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    let [number, rate] = numbers[..] else { panic!("{line}") };
    (number, rate)
}

#[test]
fn every_watcher_shows_the_newest_reading_and_how_many_there_are_a_second() {
    let socket = TempFile::named("dashboard-watch");
    let Some(_publisher) = publisher(&socket.0) else { return };
    for watcher in [watcher(&socket.0), watcher(&socket.0)] {
        watcher.says("load");
        watcher.says("available memory");
        watcher.says("context switches");
        let (first, _) = number_and_rate(&watcher.says("a second"));
        let (second, rate) = number_and_rate(&watcher.says("a second"));
        assert!(first > 0 && second > first && rate > 0, "{first}, {second}, {rate} a second");
    }
}

#[test]
fn a_publisher_that_is_told_to_end_tells_its_watchers_and_removes_its_socket() {
    let socket = TempFile::named("dashboard-end");
    for signal in [Signal::INT, Signal::TERM] {
        let Some(mut publisher) = publisher(&socket.0) else { return };
        let watcher = watcher(&socket.0);
        watcher.says("reading");
        publisher.signal(signal);
        publisher.says("published");
        assert!(publisher.status().success());
        assert!(!socket.0.exists());
        watcher.says("the publisher has ended");
        assert!(watcher.status().success());
    }
}

#[test]
fn a_publisher_that_is_killed_falls_silent_and_another_takes_its_place() {
    let socket = TempFile::named("dashboard-kill");
    let Some(mut first) = publisher(&socket.0) else { return };
    let its_watcher = watcher(&socket.0);
    its_watcher.says("reading");
    first.signal(Signal::KILL);
    its_watcher.says("nothing new for");
    its_watcher.says("nothing new for");
    assert!(socket.0.exists());

    first.status();
    let Some(_second) = publisher(&socket.0) else { return };
    watcher(&socket.0).says("reading");
}

#[test]
fn no_publisher_takes_the_place_of_one_that_lives() {
    let socket = TempFile::named("dashboard-second");
    let Some(_first) = publisher(&socket.0) else { return };
    let Some(mut second) = dashboard("publish", &socket.0) else { return };
    fails(&mut second, b"", &format!("{}: ", socket.0.display()));
    watcher(&socket.0).says("reading");
}

#[test]
fn no_publisher_takes_the_place_of_a_file() {
    let file = TempFile::new("dashboard-file", b"precious");
    let link = TempFile::named("dashboard-link");
    symlink(&file.0, &link.0).unwrap();
    for path in [&file.0, &link.0] {
        let Some(mut dashboard) = dashboard("publish", path) else { return };
        fails(&mut dashboard, b"", &format!("{}: there is something else", path.display()));
        assert_eq!(fs::read(path).unwrap(), b"precious");
    }
}

#[test]
fn a_watcher_says_what_it_did_not_get() {
    let socket = TempFile::named("dashboard-nothing");
    let Some(mut alone) = dashboard("watch", &socket.0) else { return };
    fails(&mut alone, b"", "is there a `dashboard publish`?");

    let listener = UnixListener::bind(&socket.0).unwrap();
    let immutable = SealedFile::from_bytes("immutable", b"not live").unwrap();
    let other = Producer::create("other", 4096).unwrap();
    for (fds, complaint) in [
        (None, "nothing comes from"),
        (Some(&[][..]), "no descriptor came"),
        (Some(&[immutable.as_fd()]), "lacks the seals"),
        (Some(&[other.file().as_fd()]), "not made by a publisher"),
    ] {
        let watcher = thread::spawn({
            let mut watch = dashboard("watch", &socket.0).unwrap();
            move || fails(&mut watch, b"", complaint)
        });
        let (connection, _) = listener.accept().unwrap();
        if let Some(fds) = fds {
            send_fds(&connection, b"dashboard", fds).unwrap();
        }
        watcher.join().unwrap();
    }
}

/// How often a process has gone to sleep.
fn sleeps(process: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn a_watcher_sleeps_between_attempts_to_read_a_value_that_is_never_whole() {
    let socket = TempFile::named("dashboard-hostile");
    let Some(_) = dashboard("watch", &socket.0) else { return };
    // Bytes 128 to 136 have the number of the newest value, which no slot has here.
    let honest = Publisher::create("honest", 8).unwrap();
    let mut bytes = honest.file().map_live().unwrap().to_vec(..).unwrap();
    bytes[128..136].fill(2);
    let hostile = Producer::build("hostile", bytes.len() as u64, |file| {
        file.copy_from_slice(&bytes);
        Ok(())
    });
    let hostile = hostile.unwrap();

    let listener = UnixListener::bind(&socket.0).unwrap();
    let watcher = watcher(&socket.0);
    let (connection, _) = listener.accept().unwrap();
    send_fds(&connection, b"dashboard", &[hostile.file().as_fd()]).unwrap();
    // One that never sleeps does so a few times until it has the file, and not again.
    let (deadline, enough) = (Instant::now() + LONG, sleeps(&watcher.child) + 10);
    while sleeps(&watcher.child) < enough {
        assert!(Instant::now() < deadline, "it slept {} times", sleeps(&watcher.child));
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn dashboard_says_how_it_is_used() {
    for arguments in [&[][..], &["--help"], &["peek"], &["watch", "one", "two"]] {
        let Some(mut dashboard) = example("dashboard") else { return };
        fails(dashboard.args(arguments), b"", "usage: dashboard publish|watch [SOCKET]");
    }
}

/// Runs an example whose output nobody reads: its exit status, and what it complains about.
#[track_caller]
fn unread(command: &mut Command) -> (Option<i32>, String) {
    let (reader, output) = UnixStream::pair().unwrap();
    reader.shutdown(Shutdown::Both).unwrap();
    let child = command.stdout(OwnedFd::from(output)).stderr(Stdio::piped()).spawn().unwrap();
    let output = end_of(child);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn an_output_that_is_closed_is_no_reason_to_complain() {
    let quietly = |status| (Some(status), String::new());
    let Some(mut quickstart) = example("quickstart") else { return };
    assert_eq!(unread(quickstart.arg(env::current_exe().unwrap())), quietly(1));
    // They arrive all the same.
    let Some(mut frames) = example("frames") else { return };
    assert_eq!(unread(frames.arg("--frames=3")), quietly(0));

    let socket = TempFile::named("dashboard-closed");
    let Some(mut publish) = dashboard("publish", &socket.0) else { return };
    assert_eq!(unread(&mut publish), quietly(1));
    assert!(!socket.0.exists());
    let Some(_publisher) = publisher(&socket.0) else { return };
    let Some(mut watch) = dashboard("watch", &socket.0) else { return };
    assert_eq!(unread(&mut watch), quietly(1));
}
