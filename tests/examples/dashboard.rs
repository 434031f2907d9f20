//! `dashboard` publishes to any number of watchers, and tidies up what is its own and nothing else.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, fcntl_setfl, flock, mkfifoat};
use rustix::net::listen;
use rustix::process::Signal;
use sealed_mmap::latest::Publisher;
use sealed_mmap::socket::send_fds;
use sealed_mmap::{Producer, SealedFile};

use crate::support::files::is_root;
use crate::{LONG, Running, Temp, eventually, example, fails, pipe};

/// `None` where nothing can be published: then that is what is checked.
pub(crate) fn dashboard(command: &str, path: &Path) -> Option<Command> {
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
pub(crate) fn publisher(path: &Path) -> Option<Running> {
    let publisher = Running::start(&mut dashboard("publish", path)?);
    publisher.says("publishing at");
    Some(publisher)
}

pub(crate) fn watcher(path: &Path) -> Running {
    Running::start(&mut dashboard("watch", path).unwrap())
}

/// The number in a line like "reading 1200, 190 a second", and how many a second.
fn number_and_rate(line: &str) -> (u64, u64) {
    let numbers: Vec<_> = line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    let [number, rate] = numbers[..] else { panic!("{line}") };
    (number, rate)
}

#[test]
fn every_watcher_shows_the_newest_reading_and_the_rate() {
    let socket = Temp::named("dashboard-watch");
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
fn a_publisher_that_ends_tells_its_watchers_and_tidies_up() {
    let socket = Temp::named("dashboard-end");
    for signal in [Signal::INT, Signal::TERM] {
        let Some(publisher) = publisher(&socket.0) else { return };
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
fn a_killed_publisher_falls_silent_and_can_be_replaced() {
    let socket = Temp::named("dashboard-kill");
    let Some(first) = publisher(&socket.0) else { return };
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
    let socket = Temp::named("dashboard-second");
    let Some(_first) = publisher(&socket.0) else { return };
    let Some(mut second) = dashboard("publish", &socket.0) else { return };
    let complaint = format!("{}: another program listens there already", socket.0.display());
    fails(&mut second, b"", &complaint);
    watcher(&socket.0).says("reading");
}

#[test]
fn no_publisher_takes_the_place_of_a_file() {
    let file = Temp::file("dashboard-file", b"precious");
    let link = Temp::named("dashboard-link");
    symlink(&file.0, &link.0).unwrap();
    for path in [&file.0, &link.0] {
        let Some(mut dashboard) = dashboard("publish", path) else { return };
        fails(&mut dashboard, b"", &format!("{}: it exists and is not a socket", path.display()));
        assert_eq!(fs::read(path).unwrap(), b"precious");
    }
}

#[test]
fn a_publisher_leaves_the_socket_of_its_successor() {
    let socket = Temp::named("dashboard-successor");
    let Some(first) = publisher(&socket.0) else { return };
    fs::remove_file(&socket.0).unwrap();
    let Some(_second) = publisher(&socket.0) else { return };
    first.signal(Signal::INT);
    assert!(first.status().success());
    watcher(&socket.0).says("reading");
}

#[test]
fn a_publisher_whose_socket_is_gone_ends_well() {
    let socket = Temp::named("dashboard-gone");
    let Some(publisher) = publisher(&socket.0) else { return };
    fs::remove_file(&socket.0).unwrap();
    publisher.signal(Signal::INT);
    publisher.says("published");
    assert!(publisher.status().success());
}

/// A listener that lets the next one who connects wait.
fn full_queue(path: &Path) -> (UnixListener, UnixStream) {
    let listener = UnixListener::bind(path).unwrap();
    listen(&listener, 0).unwrap();
    (listener, UnixStream::connect(path).unwrap())
}

#[test]
fn of_publishers_that_start_at_once_one_remains() {
    let socket = Temp::named("dashboard-race");
    for _ in 0..5 {
        let Some(_) = dashboard("publish", &socket.0) else { return };
        let (listener, waiting) = full_queue(&socket.0);
        let start =
            || Running::start(dashboard("publish", &socket.0).unwrap().stderr(Stdio::piped()));
        let mut publishers: Vec<_> = (0..8).map(|_| start()).collect();
        // Whoever tries to connect by now learns at this moment that the socket is dead.
        thread::sleep(Duration::from_millis(100));
        drop((listener, waiting));
        while publishers.len() > 1 {
            let loser = eventually("the end of all but one", || {
                publishers.iter_mut().position(|one| one.child.try_wait().unwrap().is_some())
            });
            let mut loser = publishers.swap_remove(loser);
            let mut complaint = String::new();
            loser.child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
            assert!(complaint.contains("another program listens there already"), "{complaint}");
        }
        let winner = publishers.pop().unwrap();
        watcher(&socket.0).says("reading");
        winner.signal(Signal::INT);
        assert!(winner.status().success());
        assert!(!socket.0.exists());
    }
}

/// Whoever locks the directory for ever keeps nobody from publishing.
#[test]
fn a_locked_directory_delays_a_publisher_only() {
    let directory = Temp::directory("dashboard-locked");
    let lock = File::open(&directory.0).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let Some(_publisher) = publisher(&directory.0.join("socket")) else { return };
    drop(lock);
}

/// A command that finds out by itself where the socket is, in an empty directory.
fn dashboard_in(
    directory: &Path,
    command: &str,
    variables: [(&str, impl AsRef<OsStr>); 2],
) -> Option<Command> {
    dashboard(command, directory)?;
    let mut dashboard = example("dashboard")?;
    dashboard.arg(command).current_dir(directory).envs(variables);
    Some(dashboard)
}

#[test]
fn an_empty_or_relative_directory_is_no_place_for_a_socket() {
    let here = Temp::directory("dashboard-here");
    let there = Temp::directory("dashboard-there");
    let (there, shown) = (there.0.as_os_str(), there.0.display());
    let [empty, relative, proc] = ["", ".", "/proc"].map(OsStr::new);
    for (runtime, temporary) in [(empty, there), (relative, there), (there, empty), (there, proc)] {
        let variables = [("XDG_RUNTIME_DIR", runtime), ("TMPDIR", temporary)];
        let Some(mut dashboard) = dashboard_in(&here.0, "publish", variables) else { return };
        let publisher = Running::start(&mut dashboard);
        publisher.says(&format!("publishing at {shown}/dashboard.sock;"));
        publisher.signal(Signal::INT);
        assert!(publisher.status().success());
    }

    if Path::new("/tmp/dashboard.sock").exists() {
        eprintln!("not tested in full: there is a /tmp/dashboard.sock");
        return;
    }
    for nowhere in ["", "."] {
        let variables = [("XDG_RUNTIME_DIR", nowhere), ("TMPDIR", nowhere)];
        let Some(mut watch) = dashboard_in(&here.0, "watch", variables) else { return };
        fails(&mut watch, b"", "dashboard: /tmp/dashboard.sock: No such file or directory");
    }
}

#[test]
fn a_place_where_no_socket_can_be_is_named() {
    let long_name = format!("/tmp/{}", "long".repeat(60));
    let unconnected = if is_root() { "/: Connection refused" } else { "/: Permission denied" };
    for (runtime, arguments, place) in [
        // Not even root can create anything there.
        ("/proc", &["publish"][..], "/proc/dashboard.sock: "),
        ("/proc/no such directory", &["publish"], "/proc/no such directory/dashboard.sock: "),
        ("", &["publish", &long_name], &format!("{long_name}: ")),
        ("", &["watch", &long_name], &format!("{long_name}: ")),
        ("", &["publish", "/"], "/: it exists and is not a socket"),
        ("", &["watch", "/"], unconnected),
    ] {
        let Some(_) = dashboard("publish", Path::new("/proc/x")) else { return };
        let Some(mut dashboard) = example("dashboard") else { return };
        let complaint = format!("dashboard: {place}");
        fails(dashboard.args(arguments).env("XDG_RUNTIME_DIR", runtime), b"", &complaint);
    }

    let fifo = Temp::named("dashboard-fifo");
    mkfifoat(CWD, &fifo.0, Mode::RWXU).unwrap();
    let below_a_fifo = fifo.0.join("socket");
    let Some(mut dashboard) = example("dashboard") else { return };
    let complaint = format!("dashboard: {}: Not a directory", below_a_fifo.display());
    fails(dashboard.arg("publish").arg(&below_a_fifo), b"", &complaint);
}

#[test]
fn a_publisher_names_the_reading_that_it_cannot_take() {
    let socket = Temp::named("dashboard-reading");
    let Some(publish) = dashboard("publish", &socket.0) else { return };
    // What is not a file cannot be opened, not even by root.
    let other = Temp::named("dashboard-not-a-file");
    let _other = UnixListener::bind(&other.0).unwrap();
    for reading in ["/proc/loadavg", "/proc/meminfo", "/proc/stat"] {
        let cover = format!("mount --bind {} {reading}", other.0.display());
        let privately = |script| {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
            command.arg(publish.get_program()).args(publish.get_args());
            command
        };
        if !privately(&cover).output().is_ok_and(|output| output.status.success()) {
            eprintln!("not run: {cover} needs unshare and a user namespace");
            return;
        }
        let mut covered = privately(&format!("{cover} && exec \"$@\""));
        fails(&mut covered, b"", &format!("dashboard: {reading}: "));
        assert!(!socket.0.exists());
    }
}

#[test]
fn a_second_signal_ends_a_publisher_that_cannot_write() {
    let socket = Temp::named("dashboard-blocked");
    let Some(mut publish) = dashboard("publish", &socket.0) else { return };
    let (_unread, mut output) = pipe();
    fcntl_setfl(&output, OFlags::NONBLOCK).unwrap();
    while output.write(&[0; 4096]).is_ok() {}
    fcntl_setfl(&output, OFlags::empty()).unwrap();
    let publisher = Running::printing_to(io::empty(), publish.stdout(output).spawn().unwrap());
    eventually("the socket", || socket.0.exists().then_some(()));
    publisher.signal(Signal::INT);
    thread::sleep(Duration::from_millis(200));
    publisher.signal(Signal::INT);
    assert_eq!(publisher.status().signal(), Some(2));
}

#[test]
fn a_watcher_draws_one_picture_on_a_terminal() {
    let socket = Temp::named("dashboard-terminal");
    let Some(publisher) = publisher(&socket.0) else { return };
    let watcher = Running::on_a_terminal(dashboard("watch", &socket.0).unwrap());
    assert!(watcher.says("load").starts_with("\x1b[H\x1b[J"));
    watcher.says("reading");
    publisher.signal(Signal::STOP);
    watcher.says("nothing new for 1 s");
    // The picture stays, and what is new stands below it.
    assert!(watcher.says("load").starts_with("\x1b[H\x1b[J"));
    watcher.says("nothing new for 2 s");
    publisher.signal(Signal::CONT);
    watcher.says("reading");
    publisher.signal(Signal::TERM);
    watcher.says("the publisher has ended");
    assert!(watcher.status().success());
}

#[test]
fn a_watcher_says_what_it_did_not_get() {
    let socket = Temp::named("dashboard-nothing");
    let Some(mut alone) = dashboard("watch", &socket.0) else { return };
    fails(&mut alone, b"", "is there a `dashboard publish`?");

    let listener = UnixListener::bind(&socket.0).unwrap();
    let immutable = SealedFile::from_bytes("immutable", b"not live").unwrap();
    let other = Producer::create("other", 4096).unwrap();
    for (fds, complaint) in [
        (None, "it sends nothing"),
        (Some(&[][..]), "it sends no descriptor"),
        (
            Some(&[immutable.as_fd()]),
            "refused \"immutable\": the file lacks the seals future_write",
        ),
        (Some(&[other.file().as_fd()]), "the file was not made by a publisher"),
    ] {
        let complaint = format!("dashboard: {}: {complaint}", socket.0.display());
        let watcher = thread::spawn({
            let mut watch = dashboard("watch", &socket.0).unwrap();
            move || fails(&mut watch, b"", &complaint)
        });
        let (connection, _) = listener.accept().unwrap();
        if let Some(fds) = fds {
            send_fds(&connection, b"dashboard", fds).unwrap();
        }
        watcher.join().unwrap();
    }
}

#[test]
fn a_listener_that_accepts_nobody_keeps_nobody_waiting() {
    let socket = Temp::named("dashboard-full-queue");
    let Some(_) = dashboard("watch", &socket.0) else { return };
    let _full = full_queue(&socket.0);
    for command in ["watch", "publish"] {
        let complaint = format!("dashboard: {}: it accepts no connection", socket.0.display());
        fails(&mut dashboard(command, &socket.0).unwrap(), b"", &complaint);
    }
}

/// How often a process has gone to sleep.
fn sleeps(process: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn a_watcher_sleeps_between_attempts_to_read_a_torn_value() {
    let socket = Temp::named("dashboard-hostile");
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
    for arguments in [&[][..], &["--unknown"], &["peek"], &["watch", "one", "two"]] {
        let Some(mut dashboard) = example("dashboard") else { return };
        fails(dashboard.args(arguments), b"", "usage: dashboard publish|watch [SOCKET]");
    }
}
