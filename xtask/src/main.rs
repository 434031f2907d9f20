//! Checks of this repository that are more than one command: `cargo xtask`.

mod assure;
mod inject;
mod kernels;
mod rings;
mod side_by_side;
mod targets;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

const FAILED: u8 = 1;
/// Nothing failed, but something could not be had.
const NOT_RUN: u8 = 77;
const WRONG_USAGE: u8 = 64;

const USAGE: &str = "\
usage: cargo xtask rings [SRC]          no two modules need each other
       cargo xtask targets [TARGET…]    other operating systems, C libraries, word sizes, the oldest compiler
       cargo xtask kernels [VERSION…]   the tests on other Linux kernels
       cargo xtask inject [quick]       every system call of every operation made to fail
       cargo xtask side-by-side [COPIES] [ROUNDS] [TEST…]
                                        the tests in several working copies at once
       cargo xtask assure [CHECK…]      what cargo's tools find: licenses, public API, versions, mutants";

fn main() -> Result<ExitCode> {
    std::env::set_current_dir(root())?;
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let arguments: Vec<_> = arguments.collect();
    let status = match command.as_str() {
        "rings" => rings::main(&arguments)?,
        "targets" => targets::main(&arguments)?,
        "kernels" => kernels::main(&arguments)?,
        "inject" => inject::main(&arguments)?,
        "side-by-side" => side_by_side::main(&arguments)?,
        "assure" => assure::main(&arguments)?,
        _ => wrong_usage(USAGE),
    };
    Ok(ExitCode::from(status))
}

fn wrong_usage(usage: &str) -> u8 {
    eprintln!("{usage}");
    WRONG_USAGE
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

/// A folder for what is downloaded once.
fn cache(name: &str) -> Result<PathBuf> {
    let base =
        std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = base
        .or_else(|| Some(std::env::home_dir()?.join(".cache")))
        .context("no home folder")?
        .join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The folder of another run of this program cannot be in use at the same time.
fn exclusive(folder: &Path) -> Result<std::fs::File> {
    let lock = std::fs::File::create(folder.join("lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("xtask: waiting for another run");
        lock.lock()?;
    }
    Ok(lock)
}
