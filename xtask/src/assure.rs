//! What tools find that cargo installs. They take long to install, and so are no part of `.ci/run`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::{FAILED, NOT_RUN, cache, exclusive, wrong_usage};

/// The last commit of 0.1.0.
const BASELINE: &str = "19579c6";
const LISTING: &str = "target/public-api.txt";

const USAGE: &str = "\
usage: cargo xtask assure [CHECK…]

  licenses     licenses, bans and sources of all dependencies, by deny.toml (cargo-deny)
  advisories   known vulnerabilities of dependencies (cargo-deny, which fetches a database)
  public-api   lists the public API into target/public-api.txt (cargo-public-api, needs a nightly compiler)
  semver       what changed in the public API since 0.1.0 (cargo-semver-checks)
  mutants      changes to the judgement of descriptors that no unit test notices (cargo-mutants)

Without a CHECK all of them run, which takes about half an hour. Tools are installed once, into a cache.

Exit status: 0 all passed, 1 something failed, 77 nothing failed but something could not be had, 64 wrong usage.";

enum Outcome {
    Passed,
    Failed,
    NotRun(&'static str),
}

use Outcome::{Failed, NotRun, Passed};

/// Name, the tool's package, and what runs it.
type Check = (&'static str, &'static str, fn(&Shell) -> Result<Outcome>);

const CHECKS: &[Check] = &[
    ("licenses", "cargo-deny", |sh| passes(sh, "cargo deny --locked check licenses bans sources")),
    ("advisories", "cargo-deny", advisories),
    ("public-api", "cargo-public-api", public_api),
    ("semver", "cargo-semver-checks", |sh| {
        passes(sh, &format!("cargo semver-checks --package sealed-mmap --baseline-rev {BASELINE}"))
    }),
    ("mutants", "cargo-mutants", |sh| {
        let files =
            "--file src/policy.rs --file src/sealing.rs --file src/seals.rs --file src/state.rs";
        passes(
            sh,
            &format!(
                "cargo mutants --package sealed-mmap {files} --output target --timeout 120 -- --lib"
            ),
        )
    }),
];

pub(crate) fn main(arguments: &[String]) -> Result<u8> {
    let known = |name: &String| CHECKS.iter().any(|(known, ..)| known == name);
    if !arguments.iter().all(known) {
        return Ok(wrong_usage(USAGE));
    }
    let tools = cache("sealed-mmap-tools")?;
    let _lock = exclusive(&tools)?;
    let sh = Shell::new()?;
    sh.set_var("PATH", format!("{}/bin:{}", tools.display(), std::env::var("PATH")?));

    let mut summary = Vec::new();
    let mut status = 0;
    for (name, package, run) in CHECKS {
        if !arguments.is_empty() && !arguments.iter().any(|argument| argument == name) {
            continue;
        }
        println!("\n== {name}");
        let outcome = if install(&sh, &tools, package)? {
            run(&sh)?
        } else {
            NotRun("it cannot be installed")
        };
        summary.push(match outcome {
            Passed => format!("{name} passed"),
            Failed => {
                status = FAILED;
                format!("{name} FAILED")
            }
            NotRun(reason) => {
                status = if status == 0 { NOT_RUN } else { status };
                format!("{name} NOT RUN ({package}: {reason})")
            }
        });
    }
    println!("\nassure: {}", summary.join(", "));
    Ok(status)
}

/// Returns whether it is there afterwards.
fn install(sh: &Shell, tools: &Path, package: &str) -> Result<bool> {
    let there = || tools.join("bin").join(package).exists();
    if !there() {
        let build = tools.join("build");
        let install = cmd!(sh, "cargo install --quiet --locked --root {tools} {package}");
        Command::from(install.env("CARGO_TARGET_DIR", build)).status().context("cargo install")?;
    }
    Ok(there())
}

fn passes(sh: &Shell, command: &str) -> Result<Outcome> {
    let mut words = command.split(' ');
    let program = words.next().context("no command")?;
    let status = Command::from(sh.cmd(program).args(words)).status()?;
    Ok(if status.success() { Passed } else { Failed })
}

fn advisories(sh: &Shell) -> Result<Outcome> {
    let output = cmd!(sh, "cargo deny --locked check advisories").ignore_status().output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    eprint!("{said}");
    Ok(match output.status.success() {
        true => Passed,
        false if said.contains("failed to fetch advisory database") => {
            NotRun("its database cannot be reached")
        }
        false => Failed,
    })
}

fn public_api(sh: &Shell) -> Result<Outcome> {
    let toolchains =
        cmd!(sh, "rustup toolchain list").quiet().ignore_stderr().read().unwrap_or_default();
    if !toolchains.lines().any(|name| name.starts_with("nightly")) {
        return Ok(NotRun("no nightly compiler"));
    }
    let output = cmd!(sh, "cargo +nightly public-api --package sealed-mmap --simplified")
        .ignore_status()
        .output()?;
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Ok(Failed);
    }
    sh.write_file(LISTING, &output.stdout)?;
    println!("{} items, see {LISTING}", output.stdout.split(|&byte| byte == b'\n').count() - 1);
    Ok(Passed)
}
