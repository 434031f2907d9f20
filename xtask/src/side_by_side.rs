//! Several copies of the test suite at once, as several people on one machine run it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::Message;
use xshell::{Shell, cmd};

use crate::{FAILED, wrong_usage};

const USAGE: &str = "\
usage: cargo xtask side-by-side [COPIES] [ROUNDS] [TEST…]

Runs all tests, or these, in COPIES working copies at once (4), ROUNDS times (1). Each copy has its own binaries and its own
TMPDIR, whose name has spaces and is not UTF-8, and no standard input. Tests run in 16 threads, or one by one in every other
copy. Every other pair of copies runs as nobody, if root starts them. Afterwards the machine has to be set as before.

The quick form is `cargo xtask side-by-side 4 1 machine_settings create_huge_pages memory_limits`: half a minute. Four whole
suites take as long as four suites one after the other.";

const NOBODY: u32 = 65534;
/// Seconds. No test takes as long, however many copies there are.
const PATIENCE: &str = "1800";

/// What the tests may change for a while.
const SETTINGS: &[&str] = &[
    "/proc/sys/vm/nr_hugepages",
    "/proc/sys/vm/nr_overcommit_hugepages",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/memfd_noexec",
    "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
];

pub(crate) fn main(arguments: &[String]) -> Result<u8> {
    let number = |index: usize, default| match arguments.get(index) {
        None => Some(default),
        Some(argument) => argument.parse().ok().filter(|number| *number > 0),
    };
    let (Some(copies), Some(rounds)) = (number(0, 4), number(1, 1)) else {
        return Ok(wrong_usage(USAGE));
    };
    let sh = Shell::new()?;
    let mut programs = Programs::build(&sh)?;
    let names = arguments.get(2..).unwrap_or_default();
    if let Some(unknown) = names.iter().find(|name| !programs.tests.contains_key(*name)) {
        bail!("no test is called {unknown}");
    }
    programs.tests.retain(|name, _| names.is_empty() || names.contains(name));

    let before = settings();
    let folder = sh.create_temp_dir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let copies: Vec<_> = (0..copies)
        .map(|number| WorkingCopy::new(folder.path(), number, &programs))
        .collect::<Result<_>>()?;
    let mut failures = 0;
    for round in 1..=rounds {
        let start = Instant::now();
        failures += thread::scope(|scope| {
            let running: Vec<_> = copies.iter().map(|copy| scope.spawn(|| copy.run())).collect();
            running.into_iter().map(|copy| copy.join().expect("no panic")).sum::<Result<usize>>()
        })?;
        println!("round {round} of {rounds}: {} s", start.elapsed().as_secs());
    }
    let after = settings();
    if after != before {
        println!("settings of the machine are not as before: {before:?}, now {after:?}");
        failures += 1;
    }
    let (tests, copies) = (programs.tests.len(), copies.len());
    println!(
        "side-by-side: {tests} test programs in {copies} copies, {rounds} times: {failures} failures"
    );
    Ok(if failures > 0 { FAILED } else { 0 })
}

fn settings() -> Vec<(&'static str, Option<String>)> {
    SETTINGS.iter().map(|path| (*path, fs::read_to_string(path).ok())).collect()
}

/// The examples, which tests start, and the tests.
#[derive(Default)]
struct Programs {
    examples: BTreeMap<String, PathBuf>,
    tests: BTreeMap<String, PathBuf>,
}

impl Programs {
    fn build(sh: &Shell) -> Result<Self> {
        let messages = cmd!(sh, "cargo test --no-run --locked --package sealed-mmap")
            .arg("--message-format=json-render-diagnostics")
            .quiet()
            .read()?;
        let mut programs = Self::default();
        for message in Message::parse_stream(messages.as_bytes()) {
            if let Message::CompilerArtifact(artifact) = message?
                && let Some(executable) = artifact.executable
            {
                let kind = if artifact.profile.test {
                    &mut programs.tests
                } else {
                    &mut programs.examples
                };
                let name = if artifact.target.is_lib() { "unit" } else { &artifact.target.name };
                kind.insert(name.to_owned(), executable.into());
            }
        }
        ensure!(!programs.tests.is_empty(), "there is no test to run");
        Ok(programs)
    }
}

/// Binaries that no other copy has, and how they run.
struct WorkingCopy {
    name: String,
    tests: Vec<PathBuf>,
    temporary: PathBuf,
    threads: &'static str,
    user: Option<u32>,
}

impl WorkingCopy {
    fn new(folder: &Path, number: usize, programs: &Programs) -> Result<Self> {
        let threads = if number.is_multiple_of(2) { "16" } else { "1" };
        let user = (number / 2 % 2 == 1 && is_root()).then_some(NOBODY);
        let who = if user.is_some() { "nobody" } else { "this user" };
        let name = format!("copy {number} ({who}, threads: {threads})");
        let folder = folder.join(number.to_string());

        let copy = |programs: &BTreeMap<String, PathBuf>, kind: &str| -> Result<Vec<PathBuf>> {
            let kind = folder.join(kind);
            fs::create_dir_all(&kind)?;
            let copied = programs.iter().map(|(name, from)| {
                let to = kind.join(name);
                fs::copy(from, &to).with_context(|| format!("cannot copy {name}"))?;
                Ok(to)
            });
            copied.collect()
        };
        copy(&programs.examples, "examples")?;
        let tests = copy(&programs.tests, "deps")?;
        let temporary = folder.join(OsStr::from_bytes(b"not UTF-8: \xff, and spaces"));
        fs::create_dir(&temporary)?;
        // Tests make things beside their programs.
        let programs = [&folder.join("examples"), &folder.join("deps")];
        let files = fs::read_dir(programs[0])?.chain(fs::read_dir(programs[1])?);
        let files = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
        for path in files.iter().chain(programs).chain([&folder, &temporary]) {
            chown(path, user, user)?;
        }
        Ok(Self { name, tests, temporary, threads, user })
    }

    /// One test after the other. Returns how many fail, and shows what those print.
    fn run(&self) -> Result<usize> {
        let mut failed = 0;
        for test in &self.tests {
            let mut command = Command::new("timeout");
            command.args(["--kill-after=10", PATIENCE, "sh", "-c", r#"exec "$0" <&-"#]).arg(test);
            command.env("TMPDIR", &self.temporary).env("RUST_TEST_THREADS", self.threads);
            if let Some(user) = self.user {
                command.uid(user).gid(user);
            }
            let Output { status, stdout, stderr } = command.output()?;
            if !status.success() {
                failed += 1;
                println!("\n== {} of {}: {status}", test.display(), self.name);
                let [stdout, stderr] = [&stdout, &stderr].map(|text| String::from_utf8_lossy(text));
                println!("{stdout}\n{stderr}");
            }
        }
        Ok(failed)
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
