//! What the attacking tests share: other processes, mappings that the crate would not make, sizes.
#![allow(dead_code, reason = "every test binary compiles this, and none uses all of it")]
#![allow(unsafe_code, reason = "the attacks go through mmap(2) by hand")]

pub(crate) mod mapping;
pub(crate) mod runs;

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::XattrFlags;
use rustix::net::RecvFlags;
use rustix::process::{Signal, set_parent_process_death_signal};

/// Lines between two processes. A panic in the other one arrives as a line, too.
pub(crate) struct Channel(BufReader<UnixStream>);

impl Channel {
    pub(crate) fn tell(&mut self, line: impl Display) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line, or nothing if the other side is gone.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
            _ => line.trim_end().to_owned(),
        }
    }

    /// Says that nothing more will be told.
    pub(crate) fn hang_up(&mut self) {
        self.0.get_mut().shutdown(Shutdown::Write).unwrap();
    }

    /// Whether the other side still listens.
    pub(crate) fn is_open(&self) -> bool {
        let mut byte = [0];
        let peeked =
            rustix::net::recv(self.0.get_ref(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(peeked, Ok((0, _)))
    }

    /// Tells a line and hears the answer.
    pub(crate) fn ask(&mut self, line: impl Display) -> String {
        self.tell(line);
        self.hear()
    }
}

/// Another process, which has a descriptor of ours. It ends with this value.
pub(crate) struct Peer {
    child: Child,
    pub(crate) channel: Channel,
}

impl Peer {
    /// Starts this test binary once more, to play `role` with `fd`. Nothing is forked: a child that
    /// had the other tests' mappings would keep their files from being sealed.
    pub(crate) fn start(role: &str, fd: impl AsFd) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "role_of_another_process", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(fd.as_fd().try_clone_to_owned().unwrap())
            .stdout(Stdio::piped())
            .stderr(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        Self { child, channel: Channel(BufReader::new(ours)) }
    }

    /// How the process ended, if it did.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Hangs up and waits for the process to end by itself.
    pub(crate) fn dismiss(mut self) -> ExitStatus {
        self.channel.hang_up();
        self.child.wait().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

const ROLE: &str = "SEALED_MMAP_ROLE";

/// In a process started by [`Peer::start`]: its role, the descriptor, and the way back.
pub(crate) fn role() -> Option<(String, OwnedFd, Channel)> {
    let role = std::env::var(ROLE).ok()?;
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let fd = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let channel = UnixStream::from(io::stderr().as_fd().try_clone_to_owned().unwrap());
    Some((role, fd, Channel(BufReader::new(channel))))
}

pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Sets all executable bits the way that the seal against it does not cover.
pub(crate) fn make_executable_by_acl(file: &File) -> rustix::io::Result<()> {
    const VERSION: u32 = 2;
    const OWNER_GROUP_OTHERS: [u16; 3] = [0x01, 0x04, 0x20];
    const ALL: u16 = 7;
    const NOBODY_IN_PARTICULAR: u32 = u32::MAX;

    let mut acl = VERSION.to_le_bytes().to_vec();
    for tag in OWNER_GROUP_OTHERS {
        acl.extend(tag.to_le_bytes());
        acl.extend(ALL.to_le_bytes());
        acl.extend(NOBODY_IN_PARTICULAR.to_le_bytes());
    }
    rustix::fs::fsetxattr(file, c"system.posix_acl_access", &acl, XattrFlags::empty())
}
