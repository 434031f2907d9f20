//! Shares a file with a second process, which reads it in place, and shows that neither can change it.
//!
//! ```sh
//! cargo run --release --example quickstart -- FILE    # default: README.md; - is standard input
//! ```
//!
//! The exit status is 0 only if both processes saw the same bytes and every change was refused.

use std::env;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use memmap2::MmapRaw;
use sealed_mmap::{SealPolicy, SealedFile};

const USAGE: &str = "usage: quickstart [FILE]";

const HELP: &str = "\
Shares a file with a second process, which reads it in place. Then both processes try to change it,
and the kernel refuses every attempt.

FILE is copied into sealed memory, up to 4 GiB. The default is README.md. A FILE of \"-\" is standard
input, from its current offset to its end.

The exit status is 0 only if both processes saw the same bytes and every change was refused.";

/// The longest file that the writer copies and the reader accepts.
const LIMIT: u64 = 4 << 30;

/// The environment variable that turns this program into the second process.
const READER: &str = "QUICKSTART_READER";

fn main() -> ExitCode {
    let done = if env::var_os(READER).is_some() { reader().context("reader") } else { writer() };
    let is_closed_pipe = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads the output any longer: `| head`.
        Err(error) if error.downcast_ref().is_some_and(is_closed_pipe) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(line: impl Display) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("standard output")
}

/// The file to share, or `None` if the user asks for help.
fn parse_arguments() -> Result<Option<PathBuf>> {
    use lexopt::prelude::*;

    let mut file = None;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Value(path) if file.is_none() && !path.is_empty() => file = Some(path.into()),
            _ => return Err(argument.unexpected().into()),
        }
    }
    Ok(Some(file.unwrap_or_else(|| "README.md".into())))
}

/// Makes an immutable copy of the file and hands it to a second process.
fn writer() -> Result<()> {
    let path = match parse_arguments() {
        Ok(Some(path)) => path,
        Ok(None) => return say(format_args!("{HELP}\n\n{USAGE}")),
        Err(error) => bail!("{error}\n{USAGE}"),
    };
    let (name, sealed) = if path.as_os_str() == "-" {
        ("standard input".to_owned(), seal_standard_input())
    } else {
        (path.display().to_string(), seal_file(&path))
    };
    let sealed = sealed.with_context(|| name.clone())?;
    let (len, seals) = (sealed.len()?, sealed.get_seals()?);
    say(format_args!("writer: sealed {len} bytes of {name} ({seals})"))?;

    let program = env::current_exe().context("cannot find the program to start as the reader")?;
    let reader = Command::new(&program)
        .env(READER, "")
        .stdin(sealed.try_clone().context("cannot duplicate the descriptor for the reader")?)
        .stdout(Stdio::piped())
        .spawn()
        .and_then(|reader| reader.wait_with_output())
        .with_context(|| format!("cannot run {} as the reader", program.display()))?;
    let mut out = io::stdout();
    out.write_all(&reader.stdout).and_then(|()| out.flush()).context("standard output")?;
    ensure!(reader.status.success(), "the reader failed: {}", reader.status);
    let seen = describe(&sealed)?;
    ensure!(
        String::from_utf8_lossy(&reader.stdout).contains(&seen),
        "the reader saw other bytes than the writer: {seen}"
    );
    expect_refusals("writer", sealed)?;
    say("both processes saw the same bytes, and the kernel refused every change")
}

fn seal_file(path: &Path) -> Result<SealedFile> {
    Ok(SealedFile::copy_of("quickstart", File::open(path)?, LIMIT)?)
}

fn seal_standard_input() -> Result<SealedFile> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    if input.stream_position().is_err() {
        return Ok(SealedFile::copy_of("quickstart", input, LIMIT)?); // a pipe, socket or terminal
    }
    // `copy_of` would copy a file from its beginning, and some of this one may have been read.
    let mut draft = SealedFile::create("quickstart")?;
    let copied = io::copy(&mut input.take(LIMIT + 1), &mut draft)?;
    ensure!(copied <= LIMIT, "more than 4 GiB");
    Ok(draft.seal_read_only()?)
}

/// Accepts the descriptor from a peer that it does not trust, and reads the bytes in place.
fn reader() -> Result<()> {
    let received = io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    let sealed = SealedFile::receive_read_only(received, &SealPolicy::untrusted(LIMIT))
        .context("standard input")?;
    say(format_args!("reader: {}", describe(&sealed)?))?;

    let map = sealed.map_read_only()?;
    let first_line = map.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let beginning = String::from_utf8_lossy(&first_line[..first_line.len().min(100)]);
    say(format_args!("reader: first line: {}", beginning.escape_debug()))?;
    expect_refusals("reader", sealed)
}

fn describe(sealed: &SealedFile) -> Result<String> {
    let map = sealed.map_read_only().context("cannot map the sealed file")?;
    Ok(format!("{} bytes, CRC-32 {:08x}", map.len(), crc32fast::hash(&map)))
}

/// Tries every change that an ordinary file would allow.
fn expect_refusals(who: &str, sealed: SealedFile) -> Result<()> {
    let (before, len) = (describe(&sealed)?, sealed.len()?);
    let file = &File::from(sealed.try_clone().context("cannot duplicate the descriptor")?);
    let mut attempts: Vec<(&str, io::Result<()>)> = vec![
        ("write to it", (&mut &*file).write_all(b"changed")),
        ("make it longer", file.set_len(len + 1)),
        ("map it for writing", MmapRaw::map_raw(file).map(drop)),
    ];
    // An empty file cannot be truncated, so there is nothing to refuse.
    if len > 0 {
        attempts.push(("truncate it", file.set_len(len - 1)));
    }
    for (what, outcome) in attempts {
        let Err(refusal) = outcome else { bail!("the kernel let the {who} {what}") };
        say(format_args!("{who}: trying to {what}: {refusal}"))?;
    }
    let after = describe(&sealed)?;
    ensure!(after == before, "the file has changed: {before} became {after}");
    Ok(())
}
