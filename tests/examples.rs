//! Every example does what it says when it is run as a user would run it: on files, pipes and
//! terminals, on nothing, with descriptors that are closed or full, and with a peer that fails or lies.

#[path = "examples/dashboard.rs"]
mod dashboard;
#[path = "examples/duplex.rs"]
mod duplex;
#[path = "examples/frames.rs"]
mod frames;
#[path = "examples/journal.rs"]
mod journal;
#[path = "examples/logtail.rs"]
mod logtail;
#[path = "examples/quickstart.rs"]
mod quickstart;
#[path = "examples/self_copy.rs"]
mod self_copy;
mod support;
#[path = "examples/wlshm.rs"]
mod wlshm;

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, fcntl_setfl, mkfifoat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// The examples that read a file.
const READERS: [&str; 2] = ["quickstart", "frames"];

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

/// The same from a shell, which can do to a process what `Command` cannot. `"$@"` is the example.
fn in_shell(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    shell
}

/// Runs an example to its end with these bytes on its standard input.
#[track_caller]
fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = start(command, Stdio::piped());
    // An example that does not read it may have ended by now.
    let _ = child.stdin.take().unwrap().write_all(input);
    end_of(child)
}

fn start(command: &mut Command, stdin: impl Into<Stdio>) -> Child {
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    loop {
        match command.spawn() {
            // A child that another thread has forked still has the file in which a test wrote it.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => thread::yield_now(),
            started => return started.unwrap(),
        }
    }
}

/// What an example has said when it ends, which it must.
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
fn succeeded(output: Output) -> String {
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{:?}: {complaints}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn failed(output: Output, because: &str) {
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaints}");
    assert!(complaints.contains(because), "not {because}: {complaints}");
}

#[track_caller]
fn succeeds(command: &mut Command, input: &[u8]) -> String {
    succeeded(run(command, input))
}

#[track_caller]
fn fails(command: &mut Command, input: &[u8], because: &str) {
    failed(run(command, input), because);
}

/// A file or a directory of this test alone.
struct Temp(PathBuf);

impl Temp {
    /// There is nothing yet.
    fn named(name: &str) -> Self {
        Self(env::temp_dir().join(format!("sealed-mmap-{name}-{}", std::process::id())))
    }

    fn file(name: &str, contents: &[u8]) -> Self {
        let file = Self::named(name);
        fs::write(&file.0, contents).unwrap();
        file
    }

    fn directory(name: &str) -> Self {
        let directory = Self::named(name);
        fs::create_dir(&directory.0).unwrap();
        directory
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(&self.0);
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
        let output = child.stdout.take().unwrap();
        Self::printing_to(output, child)
    }

    fn on_a_terminal(mut command: Command) -> Self {
        let (user, tty) = terminal();
        let child = command.stdout(tty).spawn().unwrap();
        Self::printing_to(user, child)
    }

    fn printing_to(output: impl Read + Send + 'static, child: Child) -> Self {
        let (sender, lines) = mpsc::channel();
        // A terminal that no program has any longer is an error.
        let mut output = BufReader::new(output).lines().map_while(Result::ok);
        thread::spawn(move || output.try_for_each(|line| sender.send(line)));
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

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, but not forever.
    #[track_caller]
    fn status(mut self) -> ExitStatus {
        eventually("its end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what} does not come");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Both sides of a terminal: what the user has, and what a program has.
fn terminal() -> (File, File) {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap();
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOCTTY);
    (user.into(), options.open(name.to_str().unwrap()).unwrap())
}

fn pipe() -> (File, File) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

/// A pipe with nothing in it that does not wait, until these bytes come in two parts.
fn non_blocking_pipe(bytes: &[u8]) -> File {
    let (reader, mut writer) = pipe();
    fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
    let parts = bytes.split_at(bytes.len() / 2);
    let parts = [parts.0, parts.1].map(<[u8]>::to_vec);
    thread::spawn(move || {
        for part in parts {
            thread::sleep(Duration::from_millis(200));
            writer.write_all(&part).unwrap();
        }
    });
    reader
}

/// A pipe that these bytes are left in when others have been read.
fn partly_read_pipe(bytes: &[u8]) -> File {
    let (mut reader, mut writer) = pipe();
    writer.write_all(&[b"a line\n", bytes].concat()).unwrap();
    reader.read_exact(&mut [0; 7]).unwrap();
    reader
}

/// A file that these bytes are left in when others have been read.
fn partly_read_file(name: &str, bytes: &[u8]) -> File {
    let path = Temp::file(name, &[b"a line\n", bytes].concat());
    let mut file = File::open(&path.0).unwrap();
    file.read_exact(&mut [0; 7]).unwrap();
    file
}

/// Checks what an example makes of input that comes in every way there is.
fn reads_everything(example: impl Fn(&Path) -> Option<Command>, name: &str, seen: impl Fn(&str)) {
    let bytes = b"eleven byte";
    let stdin = Path::new("-");
    let inputs: [Stdio; 3] = [
        non_blocking_pipe(bytes).into(),
        partly_read_pipe(bytes).into(),
        partly_read_file(name, bytes).into(),
    ];
    for input in inputs {
        let Some(mut example) = example(stdin) else { return };
        seen(&succeeded(end_of(start(&mut example, input))));
    }

    let fifo = Temp::named(&format!("{name}-fifo"));
    mkfifoat(CWD, &fifo.0, Mode::RWXU).unwrap();
    let child = start(&mut example(&fifo.0).unwrap(), Stdio::null());
    fs::write(&fifo.0, bytes).unwrap();
    seen(&succeeded(end_of(child)));

    let (mut user, tty) = terminal();
    let child = start(&mut example(stdin).unwrap(), tty);
    user.write_all(b"ten bytes\n\x04").unwrap();
    let output = end_of(child);
    assert!(succeeded(output).contains("10 "), "a terminal");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let socket = Temp::named("socket");
    let _listener = UnixListener::bind(&socket.0).unwrap();
    let long_name = PathBuf::from(format!("/{}", "long".repeat(1100)));
    let below_a_file = env::current_exe().unwrap().join("below");
    let missing = PathBuf::from("/proc/self/there is no such file");
    for path in [missing, env::temp_dir(), socket.0.clone(), long_name, below_a_file] {
        for name in READERS {
            let Some(mut example) = example(name) else { return };
            fails(example.arg(&path), b"", &format!("{name}: {}: ", path.display()));
        }
    }
}

#[test]
fn standard_input_that_cannot_be_read_is_named() {
    for name in READERS {
        let unreadable = [
            File::open(env::temp_dir()).unwrap(),
            OpenOptions::new().write(true).open("/dev/null").unwrap(),
        ];
        for input in unreadable {
            let Some(mut example) = example(name) else { return };
            let output = end_of(start(example.arg("-"), input));
            failed(output, &format!("{name}: standard input: "));
        }
    }
}

#[test]
fn an_empty_argument_is_no_file() {
    for (name, arguments) in [
        ("quickstart", &[""][..]),
        ("frames", &[""]),
        ("dashboard", &["publish", ""]),
        ("self-copy", &[""]),
        ("journal", &["send", ""]),
        ("wlshm", &["client", ""]),
        ("logtail", &["follow", ""]),
        ("duplex", &[""]),
    ] {
        let Some(mut example) = example(name) else { return };
        fails(example.args(arguments), b"", "unexpected argument \"\"");
    }
}

#[test]
fn help_is_not_an_error() {
    for name in
        ["quickstart", "frames", "dashboard", "self-copy", "journal", "wlshm", "logtail", "duplex"]
    {
        for flag in ["--help", "-h"] {
            let Some(mut example) = example(name) else { return };
            let usage = format!("usage: {name} ");
            assert!(succeeds(example.arg(flag), b"").contains(&usage));
        }
    }
}

/// Every example, with arguments that make it print, and a publisher to watch.
fn all_that_print(socket: &Path) -> Option<(Vec<Command>, Running)> {
    let mut quickstart = example("quickstart")?;
    quickstart.arg(env::current_exe().unwrap());
    let mut frames = example("frames")?;
    frames.arg("--frames=3");
    let publish = dashboard::dashboard("publish", &socket.with_extension("other"))?;
    let publisher = dashboard::publisher(socket)?;
    let watch = dashboard::dashboard("watch", socket)?;
    let mut help = example("self-copy")?;
    help.arg("--help");
    let mut compositor = example("wlshm")?;
    compositor.arg("compositor").arg(socket.with_extension("wlshm"));
    let mut serve = example("logtail")?;
    serve.arg("serve").arg(socket.with_extension("logtail"));
    let mut duplex = example("duplex")?;
    duplex.arg("--requests=10");
    Some((vec![quickstart, frames, publish, watch, help, compositor, serve, duplex], publisher))
}

#[test]
fn a_full_standard_output_is_named() {
    let socket = Temp::named("full");
    let Some((examples, _publisher)) = all_that_print(&socket.0) else { return };
    for mut example in examples {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let child = example.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        failed(end_of(child), ": standard output: No space left on device");
    }
    assert!(!socket.0.with_extension("other").exists());
    assert!(!socket.0.with_extension("wlshm").exists());
    assert!(!socket.0.with_extension("logtail").exists());
}

#[test]
fn a_closed_output_is_no_reason_to_complain() {
    let socket = Temp::named("closed");
    let Some((examples, _publisher)) = all_that_print(&socket.0) else { return };
    // The frames arrive all the same.
    for (mut example, status) in examples.into_iter().zip([1, 0, 1, 1, 1, 1, 1, 1]) {
        let (reader, output) = pipe();
        drop(reader);
        let output = end_of(example.stdout(output).stderr(Stdio::piped()).spawn().unwrap());
        let complaints = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*complaints), (Some(status), ""), "{example:?}");
    }
    assert!(!socket.0.with_extension("other").exists());
    assert!(!socket.0.with_extension("wlshm").exists());
    assert!(!socket.0.with_extension("logtail").exists());
}

/// The runtime of Rust opens `/dev/null` in their place.
#[test]
fn closed_standard_descriptors_do_no_harm() {
    let script = "exec \"$@\" <&- >&- 2>&-";
    let closed = |command: &Command| in_shell(script, command).spawn().unwrap();
    let file = Temp::file("closed-descriptors", b"precious");
    for (name, path, status) in [
        ("quickstart", &*file.0, 0),
        ("quickstart", Path::new("-"), 0),
        ("frames", &*file.0, 0),
        ("frames", Path::new("-"), 1), // there is nothing to send
        ("frames", Path::new("--consumer"), 1),
        ("frames", Path::new("--unknown"), 1),
    ] {
        let Some(mut example) = example(name) else { return };
        let output = end_of(closed(example.arg(path)));
        assert_eq!(output.status.code(), Some(status), "{name} {}", path.display());
    }
    assert_eq!(fs::read(&file.0).unwrap(), b"precious");

    let socket = Temp::named("closed-dashboard");
    let Some(publish) = dashboard::dashboard("publish", &socket.0) else { return };
    let publisher = Running::printing_to(io::empty(), closed(&publish));
    eventually("the socket", || socket.0.exists().then_some(()));
    let blind = dashboard::dashboard("watch", &socket.0).unwrap();
    let blind = Running::printing_to(io::empty(), closed(&blind));
    dashboard::watcher(&socket.0).says("reading");
    publisher.signal(Signal::INT);
    assert!(publisher.status().success());
    assert!(blind.status().success());
}

#[test]
fn what_lacks_descriptors_says_for_what() {
    let mut refusals = 0;
    for limit in 4..16 {
        let script = format!("ulimit -n {limit}; exec \"$@\"");
        for (name, argument) in [
            ("quickstart", "/proc/self/status"),
            ("frames", "--frames=3"),
            ("duplex", "--requests=3"),
            ("self-copy", "true"),
        ] {
            let Some(mut example) = example(name) else { return };
            let output = run(&mut in_shell(&script, example.arg(argument)), b"");
            let complaints = String::from_utf8(output.stderr).unwrap();
            match output.status.code() {
                Some(0) => {}
                Some(1) => {
                    refusals += 1;
                    for line in complaints.lines() {
                        let unnamed = format!("{name}: Too many open files");
                        assert!(line.starts_with(&format!("{name}: ")), "{complaints}");
                        assert!(!line.starts_with(&unnamed), "{complaints}");
                    }
                }
                other => panic!("{other:?}: {complaints}"),
            }
        }
    }
    assert!(refusals > 2, "{refusals} refusals");
}
