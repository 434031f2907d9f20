//! `sealed ls`: the memfds of all processes that may be seen.

mod table;

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use comfy_table::Color;
use sealed_mmap::{SealPolicy, Seals, get_seals};
use serde::Serialize;

use crate::Outcome;
use crate::check::names;
use crate::judge::{State, Verdict, in_short, judge};
use crate::policy::Policy;
use crate::proc::{self, Access, FileId, Look, Mapping, Mounts, Process};
use crate::text;

const MORE_HELP: &str = "\
Columns:
  PID, COMMAND  the process
  FD            its descriptor; `map` for a file that is only mapped
  NAME          what the file was called when it was created
  SIZE, MEMORY  its length, and how much memory its pages take
  SEALS         what nobody can do to it any more
  MODE          how the descriptor was opened: r-, rw, -w, path (O_PATH)
  MAPPED        mappings in all processes, and how many of them can write
  SAFE TO MAP   yes: immutable, can be read in place
                copy: mapping is safe, but others write (live and shared
                files), so bytes must be copied out
                no: it can change or be cut off, and why

Exit status:
  0  the processes were listed
  2  /proc cannot be read, or there is no process with a PID that was named

Examples:
  sealed ls --unsafe --sort size
  sealed ls --command pipewire --watch
  sealed ls --json | jq '.memfds[] | select(.state == null) | .refusal'";

/// List the memfds that processes have open or mapped, and whether each is safe to map.
///
/// A narrow terminal shows fewer columns. Without a terminal all are written, in full. Processes of other users are
/// seen by root alone; those that could not be read are counted. A file that is only on its way in a socket, or open
/// in a thread with descriptors of its own, is not found.
#[derive(Args)]
#[command(visible_alias = "list", after_long_help = MORE_HELP)]
pub(crate) struct Arguments {
    /// Only these processes.
    #[arg(short, long, value_name = "PID", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(1..))]
    pid: Vec<i32>,
    /// Only files whose name contains this.
    #[arg(short, long, value_name = "TEXT")]
    name: Option<String>,
    /// Only processes whose command contains this.
    #[arg(short, long, value_name = "TEXT")]
    command: Option<String>,
    /// Only files that cannot be mapped safely, or of which that cannot be told.
    #[arg(short, long)]
    r#unsafe: bool,
    /// What to sort by.
    #[arg(short, long, value_enum, default_value = "pid")]
    sort: Key,
    /// Sort the other way round.
    #[arg(short, long)]
    reverse: bool,
    /// Print one JSON object, with sizes in bytes and reasons in full.
    #[arg(long)]
    json: bool,
    /// Repeat every so many seconds, until interrupted.
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = seconds)]
    watch: Option<Duration>,
    #[command(flatten)]
    policy: Policy,
}

#[derive(Clone, Copy, ValueEnum)]
enum Key {
    /// By process, then by descriptor.
    Pid,
    Command,
    Name,
    /// The largest first.
    Size,
    /// The largest first.
    Memory,
    /// Those with the most mappings first.
    Mapped,
    /// Those that cannot be mapped safely first.
    Safe,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let shortest = Duration::from_millis(100);
    let duration = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    Ok(duration.max(shortest))
}

/// A descriptor, or a file that a process has mapped and not open.
#[derive(Serialize)]
struct Row {
    pid: i32,
    command: String,
    fd: Option<i32>,
    name: String,
    inode: u64,
    size: Option<u64>,
    memory: Option<u64>,
    #[serde(serialize_with = "seal_names")]
    seals: Option<Seals>,
    access: Option<Access>,
    mapped: u32,
    mapped_writable: u32,
    /// `None` if the file is refused in every state.
    state: Option<State>,
    /// Why the file is not accepted as an immutable one.
    refusal: Option<String>,
    /// Why that cannot be told.
    error: Option<String>,
    #[serde(skip)]
    in_short: String,
    #[serde(skip)]
    id: FileId,
}

fn seal_names<S: serde::Serializer>(seals: &Option<Seals>, to: S) -> Result<S::Ok, S::Error> {
    seals.map(names).serialize(to)
}

#[derive(Serialize)]
struct Unreadable {
    pid: i32,
    error: String,
}

#[derive(Serialize)]
struct Listing {
    memfds: Vec<Row>,
    /// Processes of which descriptors or mappings could not be read.
    unreadable: Vec<Unreadable>,
}

pub(crate) fn main(arguments: &Arguments) -> Result<Outcome> {
    loop {
        let listing = list(arguments)?;
        let output = if arguments.json {
            text::json(&listing)?
        } else {
            let terminal = text::terminal();
            let clear =
                if arguments.watch.is_some() && terminal.is_some() { "\x1b[H\x1b[2J" } else { "" };
            let lines = terminal.filter(|_| arguments.watch.is_some()).map(|(_, lines)| lines);
            format!(
                "{clear}{}",
                table::table(&listing.memfds, terminal.map(|(columns, _)| columns), lines)
            )
        };
        text::print(&output)?;
        if !arguments.json {
            // Whoever does not want to know it may have closed it.
            let _ = writeln!(io::stderr(), "{}", summary(&listing));
        }
        match arguments.watch {
            Some(pause) => thread::sleep(pause),
            None => return Ok(Outcome::Good),
        }
    }
}

fn list(arguments: &Arguments) -> Result<Listing> {
    let policy = arguments.policy.to_seal_policy();
    let mounts = Mounts::of_memfds().context("cannot read /proc/self")?;
    let mut listing = Listing { memfds: Vec::new(), unreadable: Vec::new() };
    let mut mapped = HashMap::<FileId, (u32, u32)>::new();
    for pid in proc::pids().context("cannot list /proc")? {
        let seen = look_at(pid, &mounts, |mapping| {
            let (all, writable) = mapped.entry(mapping.id).or_default();
            *all += 1;
            *writable += u32::from(mapping.is_shared_and_writable);
        });
        let is_wanted = arguments.pid.is_empty() || arguments.pid.contains(&pid);
        match seen {
            Ok(seen) if is_wanted => {
                listing.memfds.extend(seen.rows(&policy, &arguments.command));
            }
            Ok(_) => {}
            Err(error) if proc::is_gone(&error) => {}
            Err(error) if is_wanted => {
                listing.unreadable.push(Unreadable { pid, error: error.to_string() });
            }
            Err(_) => {}
        }
    }
    for pid in &arguments.pid {
        // It may have ended meanwhile, but was there never one?
        if let Err(error) = Process::open(&pid.to_string()) {
            return Err(error).with_context(|| format!("there is no process {pid}"));
        }
    }
    for row in &mut listing.memfds {
        (row.mapped, row.mapped_writable) = mapped.get(&row.id).copied().unwrap_or_default();
    }
    let has_name = |row: &Row| arguments.name.as_ref().is_none_or(|name| row.name.contains(name));
    listing.memfds.retain(|row| has_name(row) && !(arguments.r#unsafe && row.state.is_some()));
    sort(&mut listing.memfds, arguments.sort, arguments.reverse);
    Ok(listing)
}

/// What a process was seen to have, in one go.
struct Seen {
    process: Process,
    command: String,
    descriptors: Vec<proc::Descriptor>,
    /// Files that are mapped and not open, once each.
    only_mapped: Vec<Mapping>,
}

fn look_at(pid: i32, mounts: &Mounts, mut count: impl FnMut(&Mapping)) -> io::Result<Seen> {
    let process = Process::open(&pid.to_string())?;
    let command = lossy(&process.command()?);
    let descriptors = process.memfds(mounts)?;
    let mappings = process.mappings(mounts)?;
    mappings.iter().for_each(&mut count);
    let mut known: HashSet<_> = descriptors.iter().map(|descriptor| descriptor.look.id).collect();
    let only_mapped = mappings.into_iter().filter(|mapping| known.insert(mapping.id)).collect();
    Ok(Seen { process, command, descriptors, only_mapped })
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap_or_else(|_| text::printable_bytes(bytes))
}

impl Seen {
    fn rows(self, policy: &SealPolicy, command: &Option<String>) -> Vec<Row> {
        let Self { process, command: name, descriptors, only_mapped } = self;
        if command.as_ref().is_some_and(|wanted| !name.contains(wanted)) {
            return Vec::new();
        }
        let row = |fd, file: &[u8], id, inode, look: Option<Look>, access| Row {
            pid: process.pid,
            command: name.clone(),
            fd,
            name: lossy(file),
            inode,
            size: look.map(|look| look.size),
            memory: look.map(|look| look.memory),
            seals: None,
            access,
            mapped: 0,
            mapped_writable: 0,
            state: None,
            refusal: None,
            error: None,
            in_short: String::new(),
            id,
        };
        let mut rows = Vec::new();
        for proc::Descriptor { number, name, access, look } in descriptors {
            let mut row = row(Some(number), &name, look.id, look.inode, Some(look), Some(access));
            match process.take(number) {
                Ok(fd) => {
                    // O_PATH does not show the seals.
                    let seals = get_seals(&fd).or_else(|_| get_seals(process.reopen(number)?));
                    row.judge(fd, seals.ok(), policy);
                }
                Err(error) if proc::is_gone(&error) => continue,
                Err(error) => row.cannot_tell(&error),
            }
            rows.push(row);
        }
        for mapping in only_mapped {
            match process.open_mapped(&mapping) {
                Ok((look, fd)) => {
                    let mut row =
                        row(None, &mapping.name, mapping.id, mapping.inode, Some(look), None);
                    let seals = get_seals(&fd).ok();
                    row.judge(fd, seals, policy);
                    rows.push(row);
                }
                Err(error) if proc::is_gone(&error) => {}
                Err(error) => {
                    let mut row = row(None, &mapping.name, mapping.id, mapping.inode, None, None);
                    row.cannot_tell(&error);
                    rows.push(row);
                }
            }
        }
        rows
    }
}

impl Row {
    fn judge(&mut self, fd: OwnedFd, seals: Option<Seals>, policy: &SealPolicy) {
        let Verdict { state, refusal } = judge(fd, policy);
        self.seals = seals;
        self.state = state;
        self.in_short = match (state, &refusal) {
            (Some(State::Immutable), _) => "yes".to_owned(),
            (Some(State::Live), _) => "copy: live".to_owned(),
            (Some(State::Shared), _) => "copy: shared".to_owned(),
            (None, Some(refusal)) => format!("no: {}", in_short(refusal)),
            (None, None) => "no".to_owned(),
        };
        self.refusal = refusal.map(|refusal| refusal.to_string());
    }

    fn cannot_tell(&mut self, error: &io::Error) {
        self.error = Some(error.to_string());
        self.in_short = format!("cannot tell: {}", error.kind());
    }

    fn color(&self) -> Option<Color> {
        match self.state {
            Some(State::Immutable) => Some(Color::Green),
            Some(State::Live | State::Shared) => Some(Color::Yellow),
            None if self.error.is_some() => None,
            None => Some(Color::Red),
        }
    }
}

fn sort(rows: &mut [Row], key: Key, reverse: bool) {
    use std::cmp::Reverse;

    // They come by pid and descriptor, and the order is stable.
    match key {
        Key::Pid => {}
        Key::Command => rows.sort_by(|a, b| a.command.cmp(&b.command)),
        Key::Name => rows.sort_by(|a, b| a.name.cmp(&b.name)),
        Key::Size => rows.sort_by_key(|row| Reverse(row.size)),
        Key::Memory => rows.sort_by_key(|row| Reverse(row.memory)),
        Key::Mapped => rows.sort_by_key(|row| Reverse(row.mapped)),
        Key::Safe => rows.sort_by_key(|row| Reverse(row.state.map_or(3, |state| state as u8))),
    }
    if reverse {
        rows.reverse();
    }
}

fn summary(listing: &Listing) -> String {
    let files: HashMap<_, _> = listing.memfds.iter().map(|row| (row.id, row.memory)).collect();
    let memory = text::size(files.values().flatten().sum());
    let mut text = match files.len() {
        1 => format!("1 file, {memory} of memory"),
        count => format!("{count} files, {memory} of memory"),
    };
    match listing.unreadable.len() {
        0 => return text,
        1 => text += "; 1 process could not be read",
        count => text += &format!("; {count} processes could not be read"),
    }
    if !rustix::process::geteuid().is_root() {
        text += " (root can)";
    }
    text
}
