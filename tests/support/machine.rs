//! What the whole machine has once: changed and used up by one test at a time, whichever process and
//! user that test runs in, and put back whatever becomes of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::meminfo;

/// Where all tests find each other: every Linux has this file, every user can open it, and
/// flock(2) asks for no more. What it says does not matter.
const LOCK: &str = "/proc/sys/vm/overcommit_memory";

/// The settings of this machine, for one test.
pub(crate) struct Machine {
    changed: Vec<Guardian>,
    /// It keeps other threads out, too: they open the file anew.
    lock: File,
}

impl Machine {
    /// Waits for other tests. `None`, after saying so, where that is in vain.
    pub(crate) fn alone() -> Option<Self> {
        // Anybody can take the lock and keep it. All tests of several suites together need less.
        Self::alone_within(Duration::from_secs(300))
    }

    pub(crate) fn alone_within(patience: Duration) -> Option<Self> {
        let lock = match File::open(LOCK) {
            Ok(lock) => lock,
            Err(error) => {
                eprintln!("not run, settings of the machine cannot be guarded: {LOCK}: {error}");
                return None;
            }
        };
        let start = Instant::now();
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if start.elapsed() > patience {
                eprintln!("not run: another process has {LOCK} locked, see /proc/locks");
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
        Some(Self { changed: Vec::new(), lock })
    }

    /// Changes a setting that reads as it is written.
    pub(crate) fn change(&mut self, path: impl AsRef<Path>, value: &str) -> io::Result<()> {
        let path = path.as_ref();
        let before = fs::read_to_string(path)?;
        // Whoever may not write it needs no guardian.
        OpenOptions::new().write(true).open(path)?;
        self.changed.push(Guardian::of(path, before.trim_end(), &self.lock)?);
        fs::write(path, value)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        while self.changed.pop().is_some() {}
    }
}

/// A process that puts a setting back: when it is told to, or when this process is gone.
struct Guardian(Child);

impl Guardian {
    /// It has the lock, too, so that nobody takes its turn before the setting is back.
    fn of(path: &Path, before: &str, lock: &File) -> io::Result<Self> {
        const SCRIPT: &str = r#"trap "" HUP INT TERM; read -r line; printf %s "$1" >"$2""#;

        let mut guardian = Command::new("sh");
        guardian.args(["-c", SCRIPT, "guardian", before]).arg(path);
        // What ends this process's group does not end it.
        guardian.stdin(Stdio::piped()).stdout(lock.try_clone()?).process_group(0);
        Ok(Self(guardian.spawn()?))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // Closing the line is not enough: a child of this process may have it, too.
        let told = self.0.stdin.take().unwrap().write_all(b"\n");
        let ended = self.0.wait();
        if !thread::panicking() {
            told.unwrap();
            assert!(ended.unwrap().success(), "a setting of the machine is not put back");
        }
    }
}

/// The pool of hugetlb pages of the default size.
pub(crate) struct HugePool {
    /// Bytes per page.
    pub(crate) page: u64,
    _machine: Machine,
}

impl HugePool {
    /// With so many pages that nobody has taken, for which the pool grows if this user may do that.
    /// `None`, after saying so, where they are not to be had.
    pub(crate) fn with_free_pages(count: u64) -> Option<Self> {
        const SETTING: &str = "/proc/sys/vm/nr_hugepages";

        let mut machine = Machine::alone()?;
        let page = meminfo("Hugepagesize");
        let free = || meminfo("HugePages_Free") - meminfo("HugePages_Rsvd");
        if page > 0 && free() < count {
            let enough = meminfo("HugePages_Total") + count;
            let _ = machine.change(SETTING, &enough.to_string());
        }
        if page == 0 || free() < count {
            eprintln!("not run: there are no {count} free hugetlb pages here");
            return None;
        }
        Some(Self { page, _machine: machine })
    }
}
