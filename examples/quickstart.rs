//! Shares a file with a second process, which reads it in place, and shows that neither can change it.
//!
//! ```sh
//! cargo run --release --example quickstart -- FILE    # default: README.md; - reads standard input
//! ```
//!
//! The exit status is 0 only if everything was as promised.

use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use memmap2::MmapRaw;
use sealed_mmap::{SealPolicy, SealedFile};

/// More than this is not copied, and not taken from a peer.
const LIMIT: u64 = 4 << 30;

/// Tells the second process what it is.
const READER: &str = "QUICKSTART_READER";

fn main() -> ExitCode {
    let done = if env::var_os(READER).is_some() { reader() } else { writer() };
    let is_closed_pipe = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads the output any longer: `| head`.
        Err(error) if error.downcast_ref().is_some_and(is_closed_pipe) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes an immutable copy of the input and hands it to a second process.
fn writer() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let path = arguments.next().map_or_else(|| "README.md".into(), PathBuf::from);
    if path.as_os_str() == "--help" || arguments.next().is_some() {
        return Err("usage: quickstart [FILE]".into());
    }
    let sealed = if path.as_os_str() == "-" {
        SealedFile::copy_of("quickstart", io::stdin(), LIMIT)
    } else {
        File::open(&path).and_then(|file| SealedFile::copy_of("quickstart", file, LIMIT))
    };
    let path = path.display();
    let sealed = sealed.map_err(|error| format!("{path}: {error}"))?;
    writeln!(
        io::stdout(),
        "writer: sealed {} bytes of {path} ({})",
        sealed.len()?,
        sealed.get_seals()?
    )?;

    let reader = Command::new(env::current_exe()?)
        .env(READER, "")
        .stdin(sealed.try_clone()?)
        .stdout(Stdio::piped())
        .spawn()?
        .wait_with_output()?;
    io::stdout().write_all(&reader.stdout)?;
    if !reader.status.success() {
        return Err(format!("the reader failed: {}", reader.status).into());
    }
    let seen = describe(&sealed)?;
    if !String::from_utf8_lossy(&reader.stdout).contains(&seen) {
        return Err(format!("the reader saw other bytes than the writer: {seen}").into());
    }
    expect_refusals("writer", sealed)
}

/// Takes the descriptor from a peer that it does not trust, and reads the bytes in place.
fn reader() -> Result<(), Box<dyn Error>> {
    let received = io::stdin().as_fd().try_clone_to_owned()?;
    let sealed = SealedFile::receive_read_only(received, &SealPolicy::untrusted(LIMIT))?;
    writeln!(io::stdout(), "reader: {}", describe(&sealed)?)?;

    let map = sealed.map_read_only()?;
    let first_line = map.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let beginning = String::from_utf8_lossy(&first_line[..first_line.len().min(100)]);
    writeln!(io::stdout(), "reader: first line: {}", beginning.escape_debug())?;
    expect_refusals("reader", sealed)
}

fn describe(sealed: &SealedFile) -> io::Result<String> {
    let map = sealed.map_read_only()?;
    Ok(format!("{} bytes, CRC-32 {:08x}", map.len(), crc32fast::hash(&map)))
}

/// Tries to change the file in every way that an ordinary file would allow.
fn expect_refusals(who: &str, sealed: SealedFile) -> Result<(), Box<dyn Error>> {
    let before = crc32fast::hash(&sealed.map_read_only()?);
    let file = &File::from(sealed.try_clone()?);
    let len = sealed.len()?;
    let mut attempts: Vec<(&str, io::Result<()>)> = vec![
        ("write to it", (&mut &*file).write_all(b"changed")),
        ("make it longer", file.set_len(len + 1)),
        ("map it for writing", MmapRaw::map_raw(file).map(drop)),
    ];
    // There is nothing to take from an empty file, and so nothing to refuse.
    if len > 0 {
        attempts.push(("truncate it", file.set_len(len - 1)));
    }
    for (what, outcome) in attempts {
        match outcome {
            Ok(()) => return Err(format!("{who}: the kernel let me {what}").into()),
            Err(refusal) => writeln!(io::stdout(), "{who}: trying to {what}: {refusal}")?,
        }
    }
    if crc32fast::hash(&sealed.map_read_only()?) != before {
        return Err(format!("{who}: the bytes have changed").into());
    }
    Ok(())
}
