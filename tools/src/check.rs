//! `sealed check`: whether one descriptor is accepted, and why not.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use rustix::fs::OFlags;
use sealed_mmap::get_seals;
use serde::Serialize;

use crate::Outcome;
use crate::judge::State;
use crate::policy::Policy;
use crate::proc::Process;
use crate::text;

const MORE_HELP: &str = "\
Exit status:
  0  the descriptor is accepted
  1  it is refused
  2  it cannot be looked at

Examples:
  sealed check 3 3< /dev/shm/buffer
  sealed check /proc/1234/fd/7 --max-len 64M --require grow";

/// Say whether a receiver would accept a descriptor, and if not, what the sender has to change.
///
/// Adds no seal and changes no byte.
#[derive(Args)]
#[command(after_long_help = MORE_HELP)]
pub(crate) struct Arguments {
    /// A descriptor of this process by its number, or one of another process as /proc/PID/fd/N.
    descriptor: PathBuf,
    /// What the receiver wants to have.
    #[arg(long = "as", value_name = "STATE", value_enum, default_value = "immutable")]
    state: State,
    #[command(flatten)]
    policy: Policy,
    /// Reserve memory for the whole file, as for a hostile sender. This allocates what is missing.
    #[arg(long, help_heading = "Policy")]
    reserve: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    descriptor: &'a Path,
    state: State,
    accepted: bool,
    /// `None` if the file cannot carry seals.
    seals: Option<Vec<String>>,
    refusal: Option<String>,
}

pub(crate) fn main(arguments: &Arguments) -> Result<Outcome> {
    let Arguments { descriptor, state, policy, reserve, json } = arguments;
    let policy = policy.to_seal_policy().reserve(*reserve);
    let shown = text::printable(&descriptor.to_string_lossy());

    let fd =
        open(descriptor).with_context(|| format!("cannot look at {}", descriptor.display()))?;
    let seals = get_seals(&fd).ok();
    let refusal = state.accepts(fd, &policy).err();
    if *json {
        let refusal = refusal.as_ref().map(|refused| refused.reason().to_string());
        let seals = seals.map(names);
        let accepted = refusal.is_none();
        let report = Report { descriptor, state: *state, accepted, seals, refusal };
        text::print(&text::json(&report)?)?;
    } else if let Some(refused) = &refusal {
        // Escaped again: the name in the message is quoted, and can be invisible all the same.
        text::print(&format!("{shown}: {}", escaped_once(&format!("{refused:?}"))))?;
    } else {
        let seals = seals.unwrap_or_default();
        let state = match state {
            State::Immutable => "immutable: safe to map, and to read in place",
            State::Live => "live: safe to map, and to copy out",
            State::Shared => "shared: safe to map, and to copy out and in",
        };
        text::print(&format!("{shown}: accepted as {state} (seals: {seals})"))?;
    }
    Ok(if refusal.is_none() { Outcome::Good } else { Outcome::Bad })
}

pub(crate) fn names(seals: sealed_mmap::Seals) -> Vec<String> {
    let known = seals.iter_names().map(|(name, _)| name.to_ascii_lowercase());
    let unknown = seals.bits() & !sealed_mmap::Seals::all().bits();
    known.chain((unknown != 0).then(|| format!("{unknown:#x}"))).collect()
}

/// The library has escaped the name, backslashes included.
fn escaped_once(message: &str) -> String {
    text::printable(message).replace(r"\\", r"\")
}

fn open(descriptor: &Path) -> io::Result<OwnedFd> {
    let path = descriptor.to_string_lossy();
    let parts: Vec<&str> = path.split('/').collect();
    let (pid, number) = match parts[..] {
        [number] if number.parse::<u32>().is_ok() => ("self", number),
        ["", "dev", "fd", number] => ("self", number),
        ["", "proc", pid, "fd", number] => (pid, number),
        // Also the tasks of a process, and files with a name.
        _ => {
            let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
            let mut options = File::options();
            options.read(true).custom_flags(flags.bits() as i32);
            return options.open(descriptor).map(OwnedFd::from);
        }
    };
    // A descriptor is never negative.
    let number: Option<i32> = number.parse().ok().filter(|number| *number >= 0);
    Process::open(pid)?.take(number.ok_or(io::ErrorKind::NotFound)?)
}
