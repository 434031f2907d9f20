//! The tool as users start it, and files to look at.
#![allow(dead_code, reason = "every test binary compiles all of this, and none uses all of it")]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use sealed_mmap::{Seals, add_seals};
use serde_json::Value;

pub(crate) fn sealed(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealed"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What a command wrote, and its exit status.
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) status: Option<i32>,
}

pub(crate) fn ran(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let [out, err] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(!err.contains("panicked"), "{err}");
    Ran { out, err, status: status.code() }
}

pub(crate) fn run(arguments: &[&str]) -> Ran {
    ran(&mut sealed(arguments))
}

#[track_caller]
pub(crate) fn json(arguments: &[&str]) -> Value {
    let Ran { out, err, .. } = run(arguments);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}

/// A file in memory of so many bytes with these seals; its name has the process in it, so that nobody else's does.
pub(crate) fn memfd(name: &str, len: u64, seals: Seals) -> File {
    let fd =
        rustix::fs::memfd_create(name, MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(fd);
    file.set_len(len).unwrap();
    add_seals(&file, seals).unwrap();
    file
}

pub(crate) fn unique(name: &str) -> String {
    format!("{name} {}", std::process::id())
}

pub(crate) const IMMUTABLE: Seals = Seals::SHRINK.union(Seals::GROW).union(Seals::WRITE);

pub(crate) fn reopen(file: &File, flags: OFlags) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// The path of a descriptor of this process, for others.
pub(crate) fn proc_path(fd: &impl AsRawFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// The tool as another user, who may look at none of root's processes.
pub(crate) struct AsNobody {
    pub(crate) command: Command,
    /// Where nobody may execute it.
    copy: PathBuf,
}

impl Drop for AsNobody {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.copy);
    }
}

/// `None` where this user cannot become another one, and says so.
pub(crate) fn sealed_as_nobody(arguments: &[&str]) -> Option<AsNobody> {
    const NOBODY: u32 = 65534;
    static COPIES: AtomicU32 = AtomicU32::new(0);

    if !rustix::process::geteuid().is_root() {
        eprintln!("not tested as another user: this takes root");
        return None;
    }
    let name = unique(&format!("sealed {}", COPIES.fetch_add(1, Ordering::Relaxed)));
    let copy = std::env::temp_dir().join(name);
    // In another process: a child that is forked meanwhile would have the copy open for writing (ETXTBSY).
    let done = Command::new("cp").arg(env!("CARGO_BIN_EXE_sealed")).arg(&copy).status().unwrap();
    assert!(done.success());
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(&copy);
    command.args(arguments).stdin(Stdio::null()).uid(NOBODY).gid(NOBODY).current_dir("/");
    Some(AsNobody { command, copy })
}

/// What a command writes to a terminal of so many columns, standard error included.
pub(crate) fn in_terminal(command: &mut Command, columns: u16) -> (String, Option<i32>) {
    let terminal = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&terminal).unwrap();
    rustix::pty::unlockpt(&terminal).unwrap();
    let size = Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&terminal, size).unwrap();
    let name = rustix::pty::ptsname(&terminal, Vec::new()).unwrap();
    let other_end = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    command.stdout(other_end.try_clone().unwrap()).stderr(other_end);
    command.env_remove("NO_COLOR");
    let mut child = command.spawn().unwrap();
    // The command has copies of the terminal's descriptors, which would keep reading from ending.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        // EIO is the end: nobody has the other side any more.
        let _ = File::from(terminal).read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let status = child.wait().unwrap();
    (reader.join().unwrap(), status.code())
}
