//! `sealed run`: a command gets sealed snapshots of files.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::io::{FdFlags, fcntl_setfd};
use sealed_mmap::SealedFile;

use crate::text;

/// Names the descriptors, in the order of the files, separated by commas.
const VARIABLE: &str = "SEALED_FDS";

const MORE_HELP: &str = "\
Exit status:
  that of the command, or
  125  a file cannot be copied
  126  the command cannot be executed
  127  the command is not found

Examples:
  sealed run weights.bin -- ./worker
  curl -s https://example.org/data.json | sealed run - -- jq .
  sealed run old new -- \\
      sh -c 'IFS=,; set -- $SEALED_FDS; diff /dev/fd/$1 /dev/fd/$2'";

/// Run a command on sealed snapshots of files.
///
/// Each file is copied into a memfd, which is then sealed: whatever happens to the file, the command reads the same
/// bytes and can map them safely. One file becomes the command's standard input. Several stay open as descriptors, whose
/// numbers are in the environment variable SEALED_FDS, in the order of the files and separated by commas; what takes a
/// path finds them as /dev/fd/N. The command takes the place of this tool.
#[derive(Args)]
#[command(after_long_help = MORE_HELP)]
pub(crate) struct Arguments {
    /// Files to copy: a disk file whole, a pipe to its end. `-` is standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
    /// Pass one file as a descriptor, too, and leave standard input as it is.
    #[arg(short, long)]
    descriptors: bool,
    /// Fail if a file is longer, such as 2G. [default: the memory that is available now]
    #[arg(short, long, value_name = "SIZE", value_parser = text::parse_size)]
    limit: Option<u64>,
}

/// Why the command does not run.
#[derive(Debug)]
struct NotRun(io::Error);

impl std::fmt::Display for NotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot run the command")
    }
}

impl std::error::Error for NotRun {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

pub(crate) fn status_of(error: &Error) -> u8 {
    match error.downcast_ref() {
        Some(NotRun(error)) if error.kind() == io::ErrorKind::NotFound => 127,
        Some(NotRun(_)) => 126,
        None => 125,
    }
}

/// Returns only if the command does not run.
pub(crate) fn main(arguments: Arguments) -> Error {
    match prepared(arguments) {
        Ok((mut command, snapshots)) => {
            let error = command.exec();
            drop(snapshots);
            let program = Path::new(command.get_program()).display().to_string();
            Error::new(NotRun(error)).context(program)
        }
        Err(error) => error,
    }
}

fn prepared(arguments: Arguments) -> Result<(Command, Vec<SealedFile>)> {
    let Arguments { files, command, descriptors, limit } = arguments;
    let limit = limit.or_else(available_memory).unwrap_or(u64::MAX);
    let copy = |file: &PathBuf| snapshot(file, limit).with_context(|| file.display().to_string());
    let mut snapshots = files.iter().map(copy).collect::<Result<Vec<_>>>()?;

    let mut words = command.into_iter();
    let program = words.next().context("there is no command")?;
    let mut command = Command::new(program);
    command.args(words).env_remove(VARIABLE);
    if snapshots.len() == 1 && !descriptors {
        command.stdin(snapshots.remove(0));
    } else {
        let mut numbers = Vec::new();
        for snapshot in &snapshots {
            fcntl_setfd(snapshot, FdFlags::empty())?;
            numbers.push(snapshot.as_raw_fd().to_string());
        }
        command.env(VARIABLE, numbers.join(","));
    }
    Ok((command, snapshots))
}

/// Bytes. More than that, and the kernel starts to end processes.
fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = info.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix("kB"));
    kib?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn snapshot(path: &Path, limit: u64) -> io::Result<SealedFile> {
    if path.as_os_str() == "-" {
        return read(io::stdin().lock(), "stdin", None, limit);
    }
    let source = File::open(path)?;
    let metadata = source.metadata()?;
    let name = memfd_name(path);
    // A copy inside the kernel is twice as fast, and shows nothing until it is done.
    const LONG: u64 = 256 << 20;
    if metadata.is_file() && metadata.len() >= LONG && io::stderr().is_terminal() {
        return read(source, &name, Some(metadata.len()), limit);
    }
    SealedFile::copy_of(&name, source.as_fd(), limit)
}

/// The last part of the path, as far as it is a name for memfd_create(2).
fn memfd_name(path: &Path) -> String {
    const LONGEST: usize = 249;

    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut name = name.into_owned();
    while name.len() > LONGEST {
        name.pop();
    }
    name
}

/// With a progress bar, where somebody can see it and is not typing what is read.
fn read(source: impl Read, name: &str, len: Option<u64>, limit: u64) -> io::Result<SealedFile> {
    const TEMPLATES: [&str; 2] = [
        "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta}",
        "{msg} {spinner} {binary_bytes}, {binary_bytes_per_sec}",
    ];

    if len.is_some_and(|len| len > limit) {
        return Err(too_long(limit));
    }
    let bar = if len.is_none() && io::stdin().is_terminal() {
        ProgressBar::hidden()
    } else {
        len.map_or_else(ProgressBar::no_length, ProgressBar::new)
    };
    let template = TEMPLATES[usize::from(len.is_none())];
    bar.set_style(ProgressStyle::with_template(template).map_err(io::Error::other)?);
    bar.set_message(text::printable(name));
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut draft = SealedFile::create(name)?;
    let source = bar.wrap_read(source.take(limit.saturating_add(1)));
    let copied = io::copy(&mut io::BufReader::with_capacity(1 << 20, source), &mut draft);
    bar.finish_and_clear();
    if copied? > limit {
        return Err(too_long(limit));
    }
    Ok(draft.seal_read_only()?)
}

fn too_long(limit: u64) -> io::Error {
    let message = format!("more than {limit} bytes, which is the limit (--limit)");
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}
