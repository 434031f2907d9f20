//! Every system call of every operation made to fail, by strace.

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::{FAILED, NOT_RUN, wrong_usage};

const USAGE: &str = "\
usage: cargo xtask inject [quick]

Runs every operation of the library under strace, once for each system call that it makes, each errno of that call's man page
and each time that it makes the call, and prints what was injected and what was found. Short transfers, which strace can
only pretend, are made by a filter in the process.

`quick` tries one injection in ten, and takes a minute.

Exit status: 0 nothing was found, 1 something was, 77 there is no strace that may watch a process, 64 wrong usage.";

pub(crate) fn main(arguments: &[String]) -> Result<u8> {
    let every = match arguments {
        [] => "1",
        [quick] if quick == "quick" => "10",
        _ => return Ok(wrong_usage(USAGE)),
    };
    let sh = Shell::new()?;
    if cmd!(sh, "strace -o /dev/null true").quiet().ignore_stderr().run().is_err() {
        eprintln!("inject: NOT RUN: there is no strace, or it may not watch a process");
        return Ok(NOT_RUN);
    }
    let test =
        |name: &str| cmd!(sh, "cargo test --quiet --locked --package sealed-mmap --test {name}");
    let injected = test("sandbox_injection").env("SEALED_MMAP_INJECT_EVERY", every).run();
    let shortened = test("sandbox_denials").args(["--", "--nocapture", "short_transfers"]).run();
    Ok(if injected.is_ok() && shortened.is_ok() { 0 } else { FAILED })
}
