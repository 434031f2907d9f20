//! Checks the crate for what this machine is not: other operating systems, C libraries, word sizes,
//! and the oldest compiler. What is missing is unpacked from Debian packages into a cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use cargo_metadata::diagnostic::DiagnosticLevel;
use cargo_metadata::{Message, MetadataCommand};
use xshell::{Cmd, Shell, cmd};

use crate::{FAILED, NOT_RUN, cache, exclusive, wrong_usage};

const DEFAULT: &[&str] = &[
    "x86_64-unknown-freebsd",
    "aarch64-linux-android",
    "x86_64-unknown-linux-musl",
    "x86_64-apple-darwin",
    "i686-unknown-linux-gnu",
    "msrv",
];

const USAGE: &str = "\
usage: cargo xtask targets [TARGET…]

TARGET is that of a compiler, or msrv for the oldest compiler. aarch64-unknown-linux-gnu runs only where it is named, for
it emulates. Needs no root.

SEALED_MMAP_TARGETS_CACHE     the cache's folder
SEALED_MMAP_TARGETS_DEBIAN=1  Debian's compilers even where rustup has what is needed

Exit status: 0 all passed, 1 something failed, 77 nothing failed but something could not be had, 64 wrong usage.";

/// What fails to compile where the kernel has neither flag. Where it has them, the same lines
/// compile: so it is for the flags that they fail, and a use without its `cfg` does not get past
/// the check.
const UNGUARDED: &str = "
fn _unguarded() -> (rustix::fs::MemfdFlags, rustix::fs::SealFlags) {
    (rustix::fs::MemfdFlags::NOEXEC_SEAL, rustix::fs::SealFlags::FUTURE_WRITE)
}
";

/// Tests that ask for what the emulator does not know (`MADV_DONTFORK`, `MSG_CTRUNC`, huge pages).
/// A test that runs its own binary again fails, too, where the kernel has no binfmt_misc entry for
/// it.
const BEYOND_EMULATION: &[&str] = &[
    "a_mapping_kept_from_children_does_not_hinder_write",
    "credentials_are_left_out_and_push_no_descriptor_out",
    "seals_hold_on_huge_pages_too",
];

/// The error of a check for which something could not be had.
#[derive(Debug)]
struct Missing(String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

fn missing(what: impl Into<String>) -> anyhow::Error {
    Missing(what.into()).into()
}

type Check = fn(&mut Job) -> Result<()>;

pub(crate) fn main(arguments: &[String]) -> Result<u8> {
    let targets: Vec<_> = arguments.iter().map(String::as_str).collect();
    if targets.contains(&"--help") {
        println!("{USAGE}");
        return Ok(0);
    }
    let targets = if targets.is_empty() { DEFAULT } else { &targets };
    let Some(checks) = targets.iter().map(|target| check_for(target)).collect::<Option<Vec<_>>>()
    else {
        return Ok(wrong_usage(USAGE));
    };

    let folder = match std::env::var_os("SEALED_MMAP_TARGETS_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => cache("sealed-mmap-targets")?,
    };
    std::fs::create_dir_all(&folder)?;
    let _lock = exclusive(&folder)?;
    let (mut failed, mut not_run) = (Vec::new(), Vec::new());
    for (&target, check) in targets.iter().zip(checks) {
        println!("\n== {target}");
        match Job::new(&folder, target).and_then(|mut job| check(&mut job)) {
            Ok(()) => {}
            Err(error) if error.is::<Missing>() => {
                println!("NOT RUN: {error}");
                not_run.push(target);
            }
            Err(error) => {
                println!("FAILED: {error:#}");
                failed.push(target);
            }
        }
    }

    let named = |title: &str, names: &[&str]| match names {
        [] => String::new(),
        _ => format!(" ({title}: {})", names.join(" ")),
    };
    println!(
        "\ntargets: {} checked, {} failed{}, {} not run{}",
        targets.len() - not_run.len(),
        failed.len(),
        named("FAILED", &failed),
        not_run.len(),
        named("NOT RUN", &not_run)
    );
    // With nothing checked at all, nothing is known.
    Ok(match (failed.is_empty(), not_run.len()) {
        (true, 0) => 0,
        (true, count) if count < targets.len() => NOT_RUN,
        _ => FAILED,
    })
}

fn check_for(target: &str) -> Option<Check> {
    Some(match target {
        "i686-unknown-linux-gnu" => run_on_i686,
        "aarch64-unknown-linux-gnu" => run_on_aarch64,
        "msrv" => on_oldest_compiler,
        "x86_64-unknown-freebsd" => without_some_flags,
        target if target.ends_with("-freebsd") => without_some_flags,
        target if target.ends_with("-android") || target.ends_with("-musl") => with_all_flags,
        target if target.ends_with("-darwin") || target.ends_with("-netbsd") => without_seals,
        _ => return None,
    })
}

/// Tests are not compiled for FreeBSD: they speak of Linux.
fn without_some_flags(job: &mut Job) -> Result<()> {
    job.use_std()?;
    job.check(&["--lib"]).run()?;
    let mut lost = job.errors_of_unguarded_flags()?;
    lost.sort();
    let named =
        |flag: &str| lost.iter().filter(|error| error.contains(&format!("`{flag}`"))).count();
    let as_expected = lost.len() == 2 && named("FUTURE_WRITE") == 1 && named("NOEXEC_SEAL") == 1;
    ensure!(as_expected, "the errors are not one for each flag that is missing here: {lost:#?}");
    Ok(())
}

fn with_all_flags(job: &mut Job) -> Result<()> {
    job.use_std()?;
    job.check(&["--all-targets"]).run()?;
    let errors = job.errors_of_unguarded_flags()?;
    ensure!(errors.is_empty(), "the flags are missing: {errors:#?}");
    Ok(())
}

/// One sentence, rather than a page about what is not there.
fn without_seals(job: &mut Job) -> Result<()> {
    job.use_std()?;
    let source = job.sh.read_file("src/sys.rs")?;
    let sentence =
        source.split_once("compile_error!(\"").and_then(|(_, rest)| rest.split_once("\")"));
    let (sentence, _) = sentence.context("src/sys.rs has no compile_error!")?;
    let errors = errors(job.check(&["--lib"]))?;
    ensure!(errors == [sentence], "the error is not the one sentence of src/sys.rs: {errors:#?}");
    Ok(())
}

/// Natively, by the host's compiler and a 32-bit C library.
fn run_on_i686(job: &mut Job) -> Result<()> {
    let sh = job.sh.clone();
    let gcc = cmd!(sh, "gcc -dumpversion").quiet().read().map_err(|_| missing("no gcc"))?;
    let gcc = gcc.split('.').next().unwrap_or(&gcc);
    let folder = job.unpack(
        &format!("i686-gcc-{gcc}"),
        "",
        &["libc6-dev-i386", &format!("lib32gcc-{gcc}-dev")],
    )?;
    let folders =
        [folder.join("usr/lib32"), folder.join(format!("usr/lib/gcc/x86_64-linux-gnu/{gcc}/32"))];
    let flags: Vec<_> = folders
        .iter()
        .flat_map(|it| [format!("-B{}", it.display()), format!("-L{}", it.display())])
        .collect();

    let link = &flags;
    let (source, probe) = (job.cache.join("probe.c"), job.cache.join("probe"));
    sh.write_file(&source, "int main(void) { return 0; }\n")?;
    cmd!(sh, "gcc -m32 -static {link...} {source} -o {probe}")
        .quiet()
        .run()
        .map_err(|_| missing("gcc links no 32-bit program"))?;
    cmd!(sh, "{probe}").quiet().run().map_err(|_| missing("the kernel runs no 32-bit program"))?;

    job.use_std()?;
    job.sh.set_var("CARGO_TARGET_I686_UNKNOWN_LINUX_GNU_LINKER", "gcc");
    let flags: Vec<_> = flags.iter().map(|flag| format!("-Clink-arg={flag}")).collect();
    job.run_tests(&flags.join(" "), &[])
}

fn run_on_aarch64(job: &mut Job) -> Result<()> {
    let sources = cmd!(job.sh, "grep -rhoE 'fn [a-z0-9_]+' src tests").quiet().read();
    let sources = sources.context("grep")?;
    for name in BEYOND_EMULATION {
        ensure!(
            sources.lines().any(|line| line == format!("fn {name}")),
            "{name}: there is no such test"
        );
    }
    println!("without {}", BEYOND_EMULATION.join(" "));
    let folder = job.unpack(
        "aarch64",
        "",
        &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user-static"],
    )?;
    job.use_std()?;
    let usr = folder.join("usr");
    let libraries = job.sh.var("LD_LIBRARY_PATH").unwrap_or_default();
    job.sh
        .set_var("LD_LIBRARY_PATH", format!("{libraries}:{}/lib/x86_64-linux-gnu", usr.display()));
    job.sh.set_var(
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
        usr.join("bin/aarch64-linux-gnu-gcc"),
    );
    job.sh.set_var(
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
        usr.join("bin/qemu-aarch64-static"),
    );
    let skipped: Vec<_> = BEYOND_EMULATION.iter().map(|name| format!("--skip={name}")).collect();
    job.run_tests("", &skipped)
}

fn on_oldest_compiler(job: &mut Job) -> Result<()> {
    let packages = MetadataCommand::new().no_deps().exec()?.packages;
    let library =
        packages.into_iter().find(|package| package.name == "sealed-mmap").context("no library")?;
    let version = library.rust_version.context("the library names no rust-version")?;
    let version = format!("{}.{}", version.major, version.minor);

    let toolchains =
        cmd!(job.sh, "rustup toolchain list").quiet().ignore_stderr().read().unwrap_or_default();
    let toolchain = toolchains.split_whitespace().find(|name| {
        name.strip_prefix(&version)
            .is_some_and(|rest| rest.starts_with('.') || rest.starts_with('-'))
    });
    if let Some(toolchain) = toolchain.filter(|_| !debian_only()) {
        job.sh.set_var("RUSTUP_TOOLCHAIN", toolchain);
    } else {
        let folder = job.unpack(
            &format!("rust-{version}"),
            &format!("{version}.*"),
            &["rustc-web", "cargo-web"],
        )?;
        job.use_compiler(&folder)?;
    }
    let found = cmd!(job.sh, "rustc --version").quiet().read()?;
    if !found.starts_with(&format!("rustc {version}.")) {
        return Err(missing(format!("the packages are not {version}: {found}")));
    }
    job.check(&["--all-targets"]).run()?;
    Ok(())
}

fn debian_only() -> bool {
    std::env::var_os("SEALED_MMAP_TARGETS_DEBIAN").is_some_and(|value| !value.is_empty())
}

/// A check of one target, with an environment of its own.
struct Job {
    sh: Shell,
    cache: PathBuf,
    target: String,
    build_std: &'static [&'static str],
}

impl Job {
    fn new(cache: &Path, target: &str) -> Result<Self> {
        let sh = Shell::new()?;
        sh.set_var("CARGO_TARGET_DIR", cache.join("build"));
        sh.set_var("RUSTFLAGS", "-D warnings");
        Ok(Self { sh, cache: cache.to_owned(), target: target.to_owned(), build_std: &[] })
    }

    /// Packages and what they depend on, in a folder of the cache. The version is that of the
    /// compiler packages, empty for the newest.
    fn unpack(&self, folder: &str, version: &str, packages: &[&str]) -> Result<PathBuf> {
        let cache = &self.cache;
        let mut fetch = Command::from(cmd!(
            self.sh,
            ".ci/targets-fetch {cache} {folder} {version} {packages...}"
        ));
        match fetch.status()?.code() {
            Some(0) => Ok(cache.join(folder)),
            Some(77) => Err(missing(format!("no packages {}", packages.join(" ")))),
            _ => bail!(".ci/targets-fetch failed"),
        }
    }

    fn use_compiler(&self, folder: &Path) -> Result<()> {
        let shown = folder.display();
        let path = std::env::var("PATH")?;
        self.sh.set_var("PATH", format!("{shown}/usr/bin:{path}"));
        self.sh.set_var("RUSTC", folder.join("usr/bin/rustc"));
        let libraries = "lib/x86_64-linux-gnu";
        self.sh.set_var(
            "LD_LIBRARY_PATH",
            format!("{shown}/usr/lib:{shown}/usr/{libraries}:{shown}/{libraries}"),
        );
        Ok(())
    }

    /// Settles which compiler serves the target: the one in use if it has the target's standard
    /// library, or else Debian's, which builds it.
    fn use_std(&mut self) -> Result<()> {
        let sysroot = cmd!(self.sh, "rustc --print sysroot").quiet().read().map(PathBuf::from);
        let has_std =
            |sysroot: PathBuf| sysroot.join("lib/rustlib").join(&self.target).join("lib").is_dir();
        if !debian_only() && sysroot.is_ok_and(has_std) {
            return Ok(());
        }
        let folder = self.unpack("rust", "", &["rustc-web", "cargo-web", "rust-web-src"])?;
        self.use_compiler(&folder)?;
        self.sh.set_var("RUSTC_BOOTSTRAP", "1");
        self.build_std = &["-Zbuild-std=std,panic_abort,test"];
        Ok(())
    }

    fn check(&self, arguments: &[&str]) -> Cmd<'_> {
        let build_std = self.build_std;
        let check = cmd!(
            self.sh,
            "cargo check --package sealed-mmap --quiet --locked {build_std...} {arguments...}"
        );
        if self.target == "msrv" {
            check.quiet()
        } else {
            check.args(["--target", &self.target]).quiet()
        }
    }

    fn errors_of_unguarded_flags(&self) -> Result<Vec<String>> {
        let copy = self.cache.join("unguarded");
        self.sh.remove_path(&copy)?;
        self.sh.create_dir(&copy)?;
        let pack = r#"tar -c --exclude=./target --exclude=./.git . | tar -x -C "$1""#;
        cmd!(self.sh, "sh -c {pack} sh {copy}").quiet().run()?;
        let sys = copy.join("src/sys.rs");
        self.sh.write_file(&sys, self.sh.read_file(&sys)? + UNGUARDED)?;
        let manifest = copy.join("Cargo.toml");
        errors(self.check(&["--lib"]).arg("--manifest-path").arg(manifest))
    }

    /// Linked statically, so that no C library is needed at run time.
    fn run_tests(&self, flags: &str, arguments: &[String]) -> Result<()> {
        let build_std = self.build_std;
        let target = &self.target;
        cmd!(self.sh, "cargo test --package sealed-mmap --quiet --locked {build_std...}")
            .args(["--no-fail-fast", "--lib", "--tests", "--target", target, "--"])
            .args(arguments)
            .env("RUSTFLAGS", format!("-D warnings -Ctarget-feature=+crt-static {flags}"))
            .quiet()
            .run()?;
        Ok(())
    }
}

/// The errors of a compilation, none if it succeeds.
fn errors(compilation: Cmd<'_>) -> Result<Vec<String>> {
    let output = compilation.arg("--message-format=json").ignore_status().output()?;
    let mut errors = Vec::new();
    for message in Message::parse_stream(output.stdout.as_slice()) {
        if let Message::CompilerMessage(found) = message?
            && found.message.level == DiagnosticLevel::Error
            && !found.message.message.starts_with("aborting due to")
        {
            errors.push(found.message.message);
        }
    }
    if errors.is_empty() && !output.status.success() {
        return Err(anyhow!("cargo failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(errors)
}
