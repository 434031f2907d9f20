//! `sealed`: looks at memfds and their seals, and at what this kernel enforces; hands sealed snapshots of files to
//! commands.

mod check;
mod doctor;
mod judge;
mod ls;
mod policy;
mod proc;
mod run;
mod text;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

/// Look at memfds and their seals, and hand sealed snapshots of files to commands.
///
/// A memfd is a file in memory without a name in any directory. Seals, once added, are never removed:
/// a file sealed with `write` and `shrink` never changes again, and can be mapped and read safely
/// whoever sent it. This tool shows which files are sealed so, which are not, and why.
#[derive(Parser)]
#[command(name = "sealed", version, propagate_version = true, infer_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ls(ls::Arguments),
    Doctor(doctor::Arguments),
    Run(run::Arguments),
    Check(check::Arguments),
    /// Print a completion script for a shell.
    ///
    /// For bash: `sealed completions bash > ~/.local/share/bash-completion/completions/sealed`.
    Completions {
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of this tool or of a subcommand.
    Man {
        /// A subcommand, such as `ls`.
        subcommand: Option<String>,
        /// Write all pages into this directory instead, for a package.
        #[arg(long, value_name = "DIRECTORY", conflicts_with = "subcommand")]
        dir: Option<PathBuf>,
    },
}

/// What scripts can tell apart, beside the exit status of a command that was run.
pub(crate) enum Outcome {
    Good,
    /// A descriptor was refused, or a check failed.
    Bad,
}

/// As for grep(1) and diff(1).
const TROUBLE: u8 = 2;

fn main() -> ExitCode {
    let (done, trouble) = match Arguments::parse().command {
        Command::Ls(arguments) => (ls::main(&arguments), TROUBLE),
        Command::Doctor(arguments) => (doctor::main(&arguments), TROUBLE),
        Command::Check(arguments) => (check::main(&arguments), TROUBLE),
        Command::Run(arguments) => {
            let error = run::main(arguments);
            let status = run::status_of(&error);
            (Err(error), status)
        }
        Command::Completions { shell } => (completions(shell), TROUBLE),
        Command::Man { subcommand, dir } => (man(subcommand, dir), TROUBLE),
    };
    match done {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::FAILURE,
        // Whoever read the output has seen enough of it.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let message = text::printable(&format!("{error:#}"));
            let _ = writeln!(io::stderr(), "sealed: {message}");
            trouble.into()
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "sealed", &mut script);
    text::print(&String::from_utf8(script)?)?;
    Ok(Outcome::Good)
}

fn man(subcommand: Option<String>, dir: Option<PathBuf>) -> anyhow::Result<Outcome> {
    let mut command = Arguments::command();
    if let Some(dir) = dir {
        let within = || format!("cannot write manual pages into {}", dir.display());
        clap_mangen::generate_to(command, &dir).with_context(within)?;
        return Ok(Outcome::Good);
    }
    command.build();
    let command = match &subcommand {
        None => &command,
        Some(name) => command
            .find_subcommand(name)
            .with_context(|| format!("there is no subcommand {name:?}"))?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    text::print(&String::from_utf8(page)?)?;
    Ok(Outcome::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
