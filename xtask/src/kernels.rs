//! Runs the test suite on other Linux kernels: boots Debian's own kernels under qemu, with neither
//! KVM nor root.

mod report;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::Message;
use comfy_table::{Table, presets};
use glob::Pattern;
use xshell::{Shell, cmd};

use self::report::{Counts, Report};
use crate::{FAILED, NOT_RUN, cache, exclusive, root, wrong_usage};

/// Name, and patterns of the version in Debian's package names. The first pattern that leads to a
/// kernel wins, and the newest package that it matches: the later patterns are for the day when a
/// package leaves the archive.
const KERNELS: &[(&str, &[&str])] = &[
    // Refuses to map sealed files shared through O_RDWR.
    ("5.10.223", &[r"5\.10\.0-32", r"5\.10\.0-[0-9]+"]),
    // The last without F_SEAL_EXEC.
    ("6.1", &[r"6\.1\.0-[0-9]+"]),
    // F_SEAL_EXEC adds F_SEAL_WRITE unchecked …
    ("6.12.43", &[r"6\.12\.43\+deb12", r"6\.12\.([4-8][0-9]|90)(\+[^-]*)?"]),
    // … which is fixed here.
    ("6.12.117", &[r"6\.12\.117\+deb12", r"6\.12\.(9[4-9]|[0-9]{3})(\+[^-]*)?"]),
    // The newest that sid or a backport has.
    ("sid", &[r"[0-9.]+\+deb[0-9.]+"]),
];

/// A setting that only a machine of its own can be given, and the tests that it concerns (patterns
/// of their names).
struct Configuration {
    name: &'static str,
    tests: &'static [&'static str],
    setting: Option<&'static str>,
}

/// `memfd_noexec` is 0 in all others, and comes last because some kernels only let it be raised; it
/// decides how files are created and what seals they carry. Tests see the name in
/// `SEALED_MMAP_CONFIG`.
const CONFIGURATIONS: &[Configuration] = &[
    Configuration { name: "default", tests: &["*"], setting: None },
    Configuration {
        name: "overcommit2",
        tests: &["memory_limits"],
        setting: Some("/proc/sys/vm/overcommit_memory=2"),
    },
    Configuration {
        name: "shmem-always",
        tests: &["create_huge_pages"],
        setting: Some("/sys/kernel/mm/transparent_hugepage/shmem_enabled=always"),
    },
    Configuration {
        name: "shmem-advise",
        tests: &["create_huge_pages"],
        setting: Some("/sys/kernel/mm/transparent_hugepage/shmem_enabled=advise"),
    },
    Configuration {
        name: "shmem-never",
        tests: &["create_huge_pages"],
        setting: Some("/sys/kernel/mm/transparent_hugepage/shmem_enabled=never"),
    },
    Configuration {
        name: "noexec1",
        tests: &[
            "unit",
            "create_new_file",
            "create_strict_peers",
            "seal_drafts",
            "adopt_missing_seals",
            "receive_policy",
            "receive_descriptor_limits",
            "receive_or_copy",
            "kernel_contract",
            "support_probe",
            "live_producer",
            "exec_*",
            "example:quickstart",
            "example:self-copy",
        ],
        setting: Some("/proc/sys/vm/memfd_noexec=1"),
    },
    Configuration {
        name: "noexec2",
        tests: &[
            "unit",
            "create_new_file",
            "create_strict_peers",
            "seal_drafts",
            "seal_guarantees",
            "adopt_missing_seals",
            "receive_policy",
            "receive_descriptor_limits",
            "receive_hostile_peers",
            "receive_or_copy",
            "kernel_contract",
            "support_probe",
            "live_*",
            "latest_*",
            "exec_*",
            "example:quickstart",
        ],
        setting: Some("/proc/sys/vm/memfd_noexec=2"),
    },
];

/// Test binaries for which the kernel makes no difference, or the machine is too slow.
const LEFT_OUT: &[&str] = &[
    "copy_waiting",
    "examples",
    "*_model",
    "sandbox_denials",
    "sandbox_injection",
    "socket_deadlines",
    "stream_stops",
    "types_*",
];

/// Examples that run where all tests run, with their arguments.
const EXAMPLES: &[(&str, &str)] =
    &[("quickstart", "/init"), ("frames", "--frames 200"), ("self-copy", "true")];

const DOCS: &str = "docs/kernels.md";
const USAGE: &str = "\
usage: cargo xtask kernels [--write-docs] [VERSION…]

VERSION is the name of a kernel in docs/kernels.md or the beginning of one (6.12 is both of them), or any other version
that Debian has (6.16.3). Without one all of them run. --write-docs puts the table into docs/kernels.md.

KERNELS_BOOT_TIMEOUT=900  seconds for a whole machine
KERNELS_TEST_TIMEOUT=120  seconds for one test binary
KERNELS_AT_ONCE=2         machines at the same time

Exit status: 0 all passed, 1 something failed, 77 nothing failed but a kernel was not run, 64 wrong usage.";

pub(crate) fn main(arguments: &[String]) -> Result<u8> {
    let (mut write_docs, mut versions) = (false, Vec::new());
    for argument in arguments {
        match argument.as_str() {
            "--write-docs" => write_docs = true,
            version if version == "sid" || version.starts_with(|c: char| c.is_ascii_digit()) => {
                versions.push(version)
            }
            "--help" => {
                println!("{USAGE}");
                return Ok(0);
            }
            _ => return Ok(wrong_usage(USAGE)),
        }
    }
    if write_docs && !versions.is_empty() {
        return Ok(wrong_usage("kernels: --write-docs needs all kernels"));
    }

    let sh = Shell::new()?;
    let cache = cache("sealed-mmap-kernels")?;
    let build = root().join("target/kernels");
    let logs = build.join("logs");
    let _lock = exclusive(&cache)?;
    sh.remove_path(&logs)?;
    sh.create_dir(&logs)?;
    let qemu = cmd!(sh, "qemu-system-x86_64 --version").quiet().ignore_stdout().run();
    qemu.context("qemu is missing: .ci/install installs it")?;

    let fetch = |what: &[&str]| cmd!(sh, ".ci/kernels-fetch {cache} {what...}").quiet().read();
    fetch(&["update"])?;
    let busybox = fetch(&["busybox"]).context("no busybox-static")?;
    let initramfs = build_initramfs(&sh, &build, &busybox)?;

    let chosen = choose(&versions);
    let names: Vec<_> = chosen.iter().map(|(name, _)| name.clone()).collect();
    let found = chosen.into_iter().map(|(name, patterns)| {
        let patterns: Vec<_> =
            std::iter::once("kernel").chain(patterns.iter().map(String::as_str)).collect();
        (name, fetch(&patterns).ok())
    });
    let queue = Mutex::new(found.collect::<VecDeque<_>>());
    let reports = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..number("KERNELS_AT_ONCE", 2)?)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some((name, kernel)) = take(&queue) {
                        let report = match kernel {
                            Some(kernel) => boot(&name, &kernel, &initramfs, &logs)?,
                            None => Report::not_run("there is no such kernel to be had"),
                        };
                        println!("{}", report.shown(&name));
                        reports.lock().expect("no holder panics").insert(name, report);
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker reports errors"))
    })?;

    let reports = reports.into_inner()?;
    let reports: Vec<_> = names.iter().map(|name| (name.as_str(), &reports[name])).collect();
    let table = table(&reports);
    println!("{table}");
    if write_docs {
        let docs = sh.read_file(DOCS)?;
        sh.write_file(DOCS, with_table(&docs, &table)?)?;
    }
    Ok(conclude(&reports))
}

fn take<T>(queue: &Mutex<VecDeque<T>>) -> Option<T> {
    queue.lock().expect("no holder panics").pop_front()
}

fn number(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(default),
    }
}

/// The kernels that the arguments mean, each with its patterns.
fn choose(versions: &[&str]) -> Vec<(String, Vec<String>)> {
    let known = |(name, patterns): &(&str, &[&str])| {
        ((*name).to_owned(), patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>())
    };
    if versions.is_empty() {
        return KERNELS.iter().map(known).collect();
    }
    let mut chosen: Vec<(String, Vec<String>)> = Vec::new();
    for version in versions {
        let meant = |name: &str| {
            name.strip_prefix(version).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let mut found: Vec<_> = KERNELS.iter().filter(|(name, _)| meant(name)).map(known).collect();
        if found.is_empty() {
            let pattern = format!(r"{}([.+][^-]*)?", version.replace('.', r"\."));
            found.push(((*version).to_owned(), vec![pattern]));
        }
        found.retain(|(name, _)| chosen.iter().all(|(other, _)| other != name));
        chosen.extend(found);
    }
    chosen
}

// ---- Test suite ----------------------------------------

/// In the machine: /init, /bin/busybox, /tests/NAME, /examples/NAME, and /plan.
fn build_initramfs(sh: &Shell, build: &Path, busybox: &str) -> Result<PathBuf> {
    let root = build.join("root");
    sh.remove_path(&root)?;
    for folder in ["bin", "tests", "examples"] {
        sh.create_dir(root.join(folder))?;
    }
    sh.copy_file(busybox, root.join("bin/busybox"))?;
    sh.copy_file(".ci/kernels-init", root.join("init"))?;

    let mut commands = Vec::new();
    let tests = executables(sh, build, &["test", "--no-run", "--tests"])?;
    ensure!(!tests.is_empty(), "there is no test to run");
    let left_out = matching(LEFT_OUT, tests.keys())?;
    for (name, path) in tests.iter().filter(|(name, _)| !left_out.contains(name)) {
        sh.copy_file(path, root.join("tests").join(name))?;
        commands.push((name.clone(), format!("/tests/{name}")));
    }
    let examples: Vec<_> = EXAMPLES.iter().flat_map(|(name, _)| ["--example", name]).collect();
    let examples = executables(sh, build, &[&["build"], &*examples].concat())?;
    for (name, arguments) in EXAMPLES {
        sh.copy_file(&examples[*name], root.join("examples").join(name))?;
        commands.push((format!("example:{name}"), format!("/examples/{name} {arguments}")));
    }
    sh.write_file(root.join("plan"), plan(&commands)?)?;

    let initramfs = build.join("initramfs");
    let pack = r#"cd "$1" && find . | "$2" cpio -o -H newc --quiet >"$3""#;
    cmd!(sh, "sh -c {pack} sh {root} {busybox} {initramfs}").quiet().run()?;
    Ok(initramfs)
}

/// Static, so that the machine needs no libraries; without debug information, so that it boots
/// quickly. The library's own unit tests are called "unit".
fn executables(sh: &Shell, build: &Path, arguments: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let messages = cmd!(
        sh,
        "cargo {arguments...} --locked --package sealed-mmap --target x86_64-unknown-linux-gnu"
    )
    .arg("--message-format=json-render-diagnostics")
    .env("RUSTFLAGS", "-C target-feature=+crt-static")
    .env("CARGO_TARGET_DIR", build)
    .env("CARGO_PROFILE_DEV_DEBUG", "0")
    .env("CARGO_PROFILE_DEV_STRIP", "debuginfo")
    .quiet()
    .read()?;
    let mut found = BTreeMap::new();
    for message in Message::parse_stream(messages.as_bytes()) {
        if let Message::CompilerArtifact(artifact) = message?
            && let Some(executable) = artifact.executable
        {
            let name = if artifact.target.is_lib() { "unit" } else { &artifact.target.name };
            found.insert(name.to_owned(), executable.into());
        }
    }
    Ok(found)
}

/// What the first process is to do, see `.ci/kernels-init`.
fn plan(commands: &[(String, String)]) -> Result<String> {
    let mut plan = String::new();
    for Configuration { name, tests, setting } in CONFIGURATIONS {
        writeln!(plan, "configuration {name} {}", setting.unwrap_or("-"))?;
        let chosen = matching(tests, commands.iter().map(|(name, _)| name))?;
        for (name, command) in commands.iter().filter(|(name, _)| chosen.contains(&name)) {
            writeln!(plan, "test {name} {command}")?;
        }
    }
    Ok(plan)
}

/// The names that a pattern matches. A pattern that matches none is an error, lest a renamed test
/// be left out in silence.
fn matching<'a>(
    patterns: &[&str],
    names: impl Iterator<Item = &'a String> + Clone,
) -> Result<Vec<&'a String>> {
    let mut found = Vec::new();
    for text in patterns {
        let pattern = Pattern::new(text)?;
        let before = found.len();
        found.extend(names.clone().filter(|name| pattern.matches(name)));
        ensure!(found.len() > before, "{text}: there is no such test");
    }
    Ok(found)
}

// ---- Machines ----------------------------------------

/// Leaves NAME.log, what the console said, and of a first try that stopped early NAME.first.log.
fn boot(name: &str, kernel: &str, initramfs: &Path, logs: &Path) -> Result<Report> {
    let log = logs.join(format!("{name}.log"));
    let began = Instant::now();
    let mut report = Report::default();
    // Multi-threaded emulation has crashed kernels, if rarely.
    for accelerator in ["tcg,thread=multi", "tcg,thread=single"] {
        let retried = log.exists();
        if retried {
            fs::rename(&log, logs.join(format!("{name}.first.log")))?;
        }
        // With setpriv no machine outlives this program. The root is a ramfs, because files on a
        // tmpfs answer F_GET_SEALS.
        let status = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "timeout", "-k", "10"])
            .arg(number("KERNELS_BOOT_TIMEOUT", 900)?.to_string())
            .args(["qemu-system-x86_64", "-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", "1024"])
            .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial"])
            .arg(format!("file:{}", log.display()))
            .args(["-kernel", kernel, "-initrd"])
            .arg(initramfs)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 rootfstype=ramfs panic=-1 quiet loglevel=1 mitigations=off test_timeout={}",
                number("KERNELS_TEST_TIMEOUT", 120)?
            ))
            .stdin(Stdio::null())
            .stdout(File::create(logs.join(format!("{name}.qemu")))?)
            .stderr(File::create(logs.join(format!("{name}.qemu")))?)
            .status()
            .context("setpriv")?;
        let console = fs::read(&log).unwrap_or_default();
        report = Report::of(&String::from_utf8_lossy(&console));
        report.retried = retried;
        if report.complete || status.code() == Some(124) {
            break;
        }
    }
    if report.version.is_none() {
        report.not_run = Some("it does not boot");
    }
    report.seconds = began.elapsed().as_secs();
    Ok(report)
}

// ---- Results ----------------------------------------

fn table(reports: &[(&str, &Report)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(std::iter::once("kernel").chain(CONFIGURATIONS.iter().map(|it| it.name)));
    for (name, report) in reports {
        let version = report.version.as_ref().map_or(*name, |(_, version)| version).to_owned();
        table.add_row(
            std::iter::once(version).chain(CONFIGURATIONS.iter().map(|it| report.cell(it.name))),
        );
    }
    table.to_string()
}

fn with_table(docs: &str, table: &str) -> Result<String> {
    let (begin, end) = ("<!-- kernels: begin -->\n", "<!-- kernels: end -->\n");
    let Some((before, rest)) = docs.split_once(begin) else { bail!("{DOCS} has no line {begin}") };
    let Some((_, after)) = rest.split_once(end) else { bail!("{DOCS} has no line {end}") };
    Ok(format!("{before}{begin}{table}\n{end}{after}"))
}

/// Prints the closing lines.
fn conclude(reports: &[(&str, &Report)]) -> u8 {
    let not_run: Vec<_> =
        reports.iter().filter(|(_, it)| it.not_run.is_some()).map(|(name, _)| *name).collect();
    let failed = reports.iter().filter(|(_, it)| it.failed()).count();
    let run = reports.len() - not_run.len();
    let counts =
        reports.iter().filter_map(|(_, it)| it.counts(None)).fold(Counts::default(), Counts::add);
    let cut_short = reports.iter().filter(|(_, it)| it.not_run.is_none() && !it.complete).count();
    let named = if not_run.is_empty() {
        String::new()
    } else {
        format!(" (NOT RUN: {})", not_run.join(" "))
    };
    println!("\nkernels: {run} run, {failed} failed, {} not run{named}", not_run.len());
    println!("{} passed, {} failed", counts.passed, counts.failed + cut_short as u64);
    // With nothing run at all, nothing is known.
    if failed > 0 || run == 0 {
        FAILED
    } else if not_run.is_empty() {
        0
    } else {
        NOT_RUN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_a_test_is_an_error() {
        let names = ["seal_drafts".to_owned(), "seal_sets".to_owned()];
        assert_eq!(matching(&["seal_*"], names.iter()).unwrap().len(), 2);
        assert!(matching(&["seal_*", "sealing"], names.iter()).is_err());
    }

    #[test]
    fn a_version_means_its_kernels_or_any_other() {
        let names = |versions: &[&str]| {
            choose(versions).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(&["6.12", "6.1", "6.12.43"]), ["6.12.43", "6.12.117", "6.1"]);
        assert_eq!(names(&["6.16.3"]), ["6.16.3"]);
        assert_eq!(names(&[]).len(), KERNELS.len());
    }

    #[test]
    fn the_table_replaces_the_old_one() {
        let docs = "a\n<!-- kernels: begin -->\nold\n<!-- kernels: end -->\nb\n";
        let new = "a\n<!-- kernels: begin -->\nnew\n<!-- kernels: end -->\nb\n";
        assert_eq!(with_table(docs, "new").unwrap(), new);
        assert!(with_table("a", "new").is_err());
    }
}
