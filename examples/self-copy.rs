//! Runs a command that must not get at this program: from a sealed copy of the program.
//!
//! A process can open the program that another one of the same user executes, as `/proc/PID/exe`. While
//! that program runs, the kernel refuses to open it for writing, but not afterwards. So a container that
//! runs as root could overwrite the container runtime on the host, which root there starts again
//! (CVE-2019-5736). Since then runtimes execute themselves from a copy in memory that nobody can change,
//! and do so before they start anything else.
//!
//! ```sh
//! cargo build --release --example self-copy
//! cp target/release/examples/self-copy runtime
//! ./runtime sh -c 'readlink /proc/$PPID/exe'    # /memfd:self-copy (deleted)
//!
//! # The attack: it waits until the runtime has ended, and writes to what that was.
//! attack='exec 3</proc/$PPID/exe; (sleep 1; echo overwritten >/proc/self/fd/3) &'
//! ./runtime sh -c "$attack"                     # Operation not permitted
//! ./runtime --unprotected sh -c "$attack"       # the file "runtime" is overwritten
//! ```

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use sealed_mmap::{CreateOptions, SealPolicy, SealedFile};

const USAGE: &str = "usage: self-copy [--unprotected] COMMAND [ARGUMENT]...";

const HELP: &str = "\
Starts COMMAND as a container runtime starts what it does not trust: after it has executed itself from a
sealed copy in memory, so that COMMAND cannot overwrite the runtime's file through /proc/PID/exe.

  --unprotected  start COMMAND without that, to see the attack succeed (use a copy of this program)

The exit status is that of COMMAND, or 1 if COMMAND cannot be started or is ended by a signal.";

/// This program, as the kernel executes it: whatever has become of its path.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The longest program that is copied.
const LIMIT: u64 = 1 << 30;

fn main() -> ExitCode {
    let is_closed_pipe = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    match run() {
        Ok(status) => status,
        // Nobody reads the output any longer: `| head`.
        Err(error) if error.downcast_ref().is_some_and(is_closed_pipe) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "self-copy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let options = match Options::parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            writeln!(io::stdout(), "{HELP}\n\n{USAGE}").context("standard output")?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => bail!("{error}\n{USAGE}"),
    };
    if !options.unprotected {
        ensure_sealed().context(THIS_PROGRAM)?;
    }
    // From here on somebody else may look at this process.
    let name = Path::new(&options.command).display();
    let status = Command::new(&options.command)
        .args(&options.arguments)
        .status()
        .with_context(|| name.to_string())?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(code as u8)),
        None => bail!("{name}: {status}"),
    }
}

/// Returns if this process executes a file that nobody can change. Otherwise executes such a copy of
/// itself, with the same arguments and environment, and returns only if that fails.
fn ensure_sealed() -> Result<()> {
    let program = File::open(THIS_PROGRAM)?;
    // Whoever has sealed it: an immutable file can be executed by anybody and changed by nobody.
    let unsealed = match SealedFile::receive_read_only(program, &SealPolicy::new()) {
        Ok(_) => return Ok(()),
        Err(refused) => refused.into_fd(),
    };
    let copy = CreateOptions::new()
        .executable(true)
        .copy_of("self-copy", unsealed, LIMIT)
        .context("cannot copy it into memory")?;
    let mut arguments = env::args_os();
    let error = copy.command()?.arg0(arguments.next().unwrap_or_default()).args(arguments).exec();
    Err(error).context("cannot execute its copy")
}

struct Options {
    unprotected: bool,
    command: OsString,
    arguments: Vec<OsString>,
}

impl Options {
    /// `None` if the user asks for help.
    fn parse() -> Result<Option<Self>> {
        use lexopt::prelude::*;

        let mut unprotected = false;
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Short('h') | Long("help") => return Ok(None),
                Long("unprotected") => unprotected = true,
                Value(command) if !command.is_empty() => {
                    let arguments = arguments.raw_args()?.collect();
                    return Ok(Some(Self { unprotected, command, arguments }));
                }
                _ => return Err(argument.unexpected().into()),
            }
        }
        bail!("there is no command to start")
    }
}
