//! `journal` sends a record that a real journal takes, and serves as strictly as an older one.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::Signal;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use sealed_mmap::socket::{recv_fd, send_fds_to};
use sealed_mmap::{CreateOptions, SealPolicy, SealedFile, get_seals};

use crate::{Running, Temp, eventually, example, fails, pipe, start, succeeds};

/// `None` where every file carries EXEC: then that is what is checked.
fn journal(command: &str, path: &Path) -> Option<Command> {
    let mut journal = example("journal")?;
    if fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|setting| setting == b"2\n") {
        fails(journal.arg("send").arg(path), b"", "vm.memfd_noexec");
        eprintln!("vm.memfd_noexec=2: no file is sealed as older journals want it");
        return None;
    }
    journal.arg(command).arg(path);
    Some(journal)
}

fn server(path: &Path) -> Option<Running> {
    let server = Running::start(&mut journal("serve", path)?);
    server.says("serving at");
    Some(server)
}

/// The attachment that the example makes.
fn attachment(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n % 251) as u8).collect()
}

#[test]
fn a_strict_server_takes_the_record_as_it_was_sent() {
    let socket = Temp::named("journal-taken");
    let Some(server) = server(&socket.0) else { return };
    let me = rustix::process::getuid().as_raw();
    for size in [300, 1 << 20, 5 << 20] {
        let mut send = journal("send", &socket.0).unwrap();
        let sent = succeeds(send.arg(format!("--size={size}")), b"");
        let checksum = format!("{size} bytes (CRC {:08x})", crc32fast::hash(&attachment(size)));
        assert!(sent.contains(&checksum) && !sent.contains("exec"), "{sent}");
        let line = server.says("accepted from process");
        assert!(line.contains(&format!(" of user {me}: MESSAGE=a record with")), "{line}");
        assert!(line.contains(&format!("ATTACHMENT of {checksum}")), "{line}");
    }
    // A line break in the message does not make another field of the rest.
    let mut send = journal("send", &socket.0).unwrap();
    succeeds(send.args(["--size=1", "--message=one\nPRIORITY=0"]), b"");
    let line = server.says("accepted");
    assert!(line.contains("MESSAGE=one PRIORITY=0, PRIORITY=6, "), "{line}");
}

#[test]
fn a_strict_server_refuses_the_exec_seal_by_name() {
    let socket = Temp::named("journal-exec");
    let Some(server) = server(&socket.0) else { return };
    let mut send = journal("send", &socket.0).unwrap();
    let sent = succeeds(send.arg("--exec-seal"), b"");
    if !sent.contains("|exec") {
        return eprintln!("not tested: this kernel (before 6.3) has no such seal");
    }
    let line = server.says("refused from process");
    assert!(line.contains("the file carries the seals exec"), "{line}");
}

#[test]
fn a_strict_server_goes_on_after_whatever_it_is_sent() {
    let socket = Temp::named("journal-hostile");
    let Some(server) = server(&socket.0) else { return };
    let address = SocketAddr::from_pathname(&socket.0).unwrap();
    let send = |bytes: &[u8], fds: &[BorrowedFd<'_>]| {
        send_fds_to(UnixDatagram::unbound().unwrap(), &address, bytes, fds).unwrap();
    };
    let sealed = |bytes: &[u8]| -> OwnedFd {
        CreateOptions::new().exec_seal(false).from_bytes("record", bytes).unwrap().into()
    };
    let mut unsealed = SealedFile::create("record").unwrap();
    unsealed.write_all(b"MESSAGE=later another\n").unwrap();
    let too_long = {
        let mut draft = CreateOptions::new().exec_seal(false).create("record").unwrap();
        draft.set_len(1 << 40).unwrap(); // one hole
        OwnedFd::from(draft.seal_read_only().unwrap())
    };
    let claims = |len: u64| [b"MESSAGE\n", &len.to_le_bytes()[..], b"hi\n"].concat();
    let good = sealed(b"MESSAGE=good\n");
    let record = b"MESSAGE=hi\n";

    for (bytes, fd, complaint) in [
        (&b""[..], Some(unsealed.into_file().into()), "lacks the seals"),
        (b"", Some(pipe().0.into()), "cannot carry seals"),
        (b"", Some(too_long), "the file has 1099511627776 bytes"),
        (b"", Some(sealed(b"")), "it is empty"),
        (b"", None, "it is empty"),
        (b"", Some(sealed(b"no record at all")), "it is no record"),
        (b"", Some(sealed(b"lower=case\n")), "it is no record"),
        (b"", Some(sealed(b"=nameless\n")), "it is no record"),
        (b"", Some(sealed(&claims(3))), "it is no record"),
        (b"", Some(sealed(&claims(u64::MAX))), "it is no record"),
        (b"", Some(sealed(&claims(2)[..12])), "it is no record"),
        (record, Some(good.try_clone().unwrap()), "either bytes or one file"),
        (&[b'x'; 100_000], None, "essage too long"),
    ] {
        send(bytes, &fd.iter().map(AsFd::as_fd).collect::<Vec<_>>());
        let line = server.says("refused from ");
        assert!(line.contains(complaint), "not {complaint}: {line}");
    }
    send(b"", &[good.as_fd(); 2]);
    server.says("either bytes or one file");

    // Control: what is right is taken, and does nothing to a terminal.
    send(b"", &[good.as_fd()]);
    server.says(": MESSAGE=good");
    send(&claims(2), &[]);
    server.says(": MESSAGE=hi");
    send(b"MESSAGE=\x1b[2J\n", &[]);
    server.says(r": MESSAGE=\u{1b}[2J");
}

#[test]
fn a_server_tidies_up_and_replaces_only_a_dead_one() {
    let socket = Temp::named("journal-tidy");
    for signal in [Signal::INT, Signal::TERM] {
        let Some(server) = server(&socket.0) else { return };
        let mut second = journal("serve", &socket.0).unwrap();
        fails(&mut second, b"", "Address already in use");
        server.signal(signal);
        assert!(server.status().success());
        assert!(!socket.0.exists());
    }
    let killed = server(&socket.0).unwrap();
    killed.signal(Signal::KILL);
    killed.status();
    assert!(socket.0.exists());
    server(&socket.0).unwrap();

    let file = Temp::file("journal-file", b"precious");
    fails(&mut journal("serve", &file.0).unwrap(), b"", "Address already in use");
    assert_eq!(fs::read(&file.0).unwrap(), b"precious");
}

#[test]
fn a_journal_that_is_not_there_or_does_not_take_it_is_named() {
    let socket = Temp::named("journal-nobody");
    let Some(mut send) = journal("send", &socket.0) else { return };
    fails(&mut send, b"", &format!("journal: {}: No such file", socket.0.display()));
    let long_name = PathBuf::from("/long".repeat(30));
    fails(&mut journal("send", &long_name).unwrap(), b"", "/long/long");

    // A journal that is stopped: its queue is full, and it is not waited for forever.
    let stopped = UnixDatagram::bind(&socket.0).unwrap();
    let address = stopped.local_addr().unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while send_fds_to(&sender, &address, b"x", &[]).is_ok() {}
    fails(&mut journal("send", &socket.0).unwrap(), b"", "Resource temporarily unavailable");
}

#[test]
fn a_sender_says_that_its_output_is_full() {
    let socket = Temp::named("journal-full");
    let Some(mut send) = journal("send", &socket.0) else { return };
    let receiver = UnixDatagram::bind(&socket.0).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = send.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    crate::failed(crate::end_of(child), "journal: standard output: No space left on device");
    // The record has arrived all the same.
    let (len, fd) = recv_fd(&receiver, &mut [0; 10]).unwrap();
    assert_eq!(len, 0);
    let record = SealedFile::receive_read_only(fd.unwrap(), &SealPolicy::untrusted(2 << 20));
    assert_eq!(get_seals(record.unwrap()).unwrap().to_string(), "seal|shrink|grow|write");
}

#[test]
fn wrong_arguments_are_named() {
    for (arguments, complaint) in [
        (&[][..], "there is no command"),
        (&["serve"], "there is no socket to serve at"),
        (&["send", "--size=many"], "many"),
        (&["send", "--unknown"], "--unknown"),
        (&["send", "one", "two"], "two"),
    ] {
        let Some(mut journal) = example("journal") else { return };
        fails(journal.args(arguments), b"", complaint);
    }
}

const JOURNALD: &str = "/lib/systemd/systemd-journald";

/// The value of a field in the export format, which is that of records.
fn exported<'a>(record: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let find = |what: &[u8]| record.windows(what.len()).position(|window| window == what);
    let as_text = format!("\n{name}=");
    if let Some(at) = find(as_text.as_bytes()) {
        let value = &record[at + as_text.len()..];
        return value.split(|byte| *byte == b'\n').next();
    }
    let as_bytes = format!("\n{name}\n");
    let (len, rest) = record[find(as_bytes.as_bytes())? + as_bytes.len()..].split_first_chunk()?;
    rest.get(..u64::from_le_bytes(*len) as usize)
}

/// A journal of its own, which leaves nothing behind: everything that it writes is in the mount
/// namespace of this thread.
fn start_journald(name: &str) -> Result<(Running, PathBuf), String> {
    if !Path::new(JOURNALD).exists() {
        return Err(format!("there is no {JOURNALD} (Debian's package systemd)"));
    }
    if !fs::read_to_string("/etc/machine-id").is_ok_and(|id| id.trim().len() == 32) {
        return Err("journald needs an /etc/machine-id".into());
    }
    let hide = || {
        // SAFETY: a mount namespace of its own gives the thread no other memory or descriptors.
        #[allow(unsafe_code, reason = "unshare(2)")]
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        for directory in ["/run", "/var/log"] {
            mount("tmpfs", directory, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)?;
        }
        Ok::<_, rustix::io::Errno>(())
    };
    hide().map_err(|errno| format!("no mount namespace can be made here: {errno}"))?;
    let directory = PathBuf::from(format!("/run/systemd/journal.{name}"));
    fs::create_dir_all(&directory).unwrap();
    let journald = Running::start(Command::new(JOURNALD).arg(name).stderr(Stdio::null()));
    let socket = directory.join("socket");
    eventually("journald's socket", || socket.exists().then_some(()));
    Ok((journald, socket))
}

#[test]
fn a_real_journald_gives_the_record_back() {
    const SIZE: usize = 1 << 20;

    if example("journal").is_none() {
        return;
    }
    let tried = thread::spawn(|| {
        let name = format!("sealed-mmap-{}", std::process::id());
        let (_journald, socket) = start_journald(&name)?;
        let Some(mut send) = journal("send", &socket) else { return Ok(()) };
        let message = format!("from process {}", std::process::id());
        let sent = succeeds(send.arg(format!("--message={message}")), b"");
        assert!(sent.contains("sealed seal|shrink|grow|write, "), "{sent}");

        let record = eventually("the record", || {
            let mut journalctl = Command::new("journalctl");
            journalctl.arg(format!("--namespace={name}")).args(["--output=export", "--all"]);
            let journalctl = journalctl.arg("SYSLOG_IDENTIFIER=sealed-mmap");
            let output = start(journalctl, Stdio::null()).wait_with_output().unwrap();
            (!output.stdout.is_empty()).then_some(output.stdout)
        });
        assert_eq!(exported(&record, "MESSAGE"), Some(message.as_bytes()));
        assert_eq!(exported(&record, "PRIORITY"), Some(&b"6"[..]));
        assert!(exported(&record, "ATTACHMENT") == Some(&attachment(SIZE)), "other bytes");
        // Who has sent it, as the kernel told the journal.
        let uid = rustix::process::getuid().as_raw().to_string();
        assert_eq!(exported(&record, "_UID"), Some(uid.as_bytes()));
        Ok::<_, String>(())
    });
    if let Err(why) = tried.join().unwrap() {
        eprintln!("not tested with a real journal: {why}");
    }
}
