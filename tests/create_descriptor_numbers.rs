//! No file of this crate becomes standard input, output or error. Rust's runtime opens /dev/null for
//! those that are closed when a program starts, but a library in a C program, or a `no_main` program
//! like this one, does without it. What prints would then write into a draft, under a live `&[u8]`.
#![no_main]
#![allow(unsafe_code, reason = "a program without Rust's runtime, and descriptors that are closed")]

use std::ffi::{CStr, c_char, c_int};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use sealed_mmap::{CreateOptions, HugePages, Producer, SealedFile};

const TEST: &str = "what_prints_does_not_write_into_a_draft";
const CHILD: &str = "--child-with-closed-descriptors";

/// The part of a test harness that `cargo test` and `cargo nextest` rely on.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    let arguments: Vec<String> = (1..count as usize)
        .map(|index| {
            // SAFETY: C promises `count` pointers.
            let argument = unsafe { arguments.add(index) };
            // SAFETY: as above.
            let argument = unsafe { *argument };
            // SAFETY: C promises strings that end with a zero byte and live as long as the program.
            unsafe { CStr::from_ptr(argument) }.to_string_lossy().into_owned()
        })
        .collect();
    let has = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();

    if has(CHILD) {
        return child();
    }
    if has("--list") {
        if !has("--ignored") {
            println!("{TEST}: test");
        }
        return 0;
    }
    if has("--ignored") || filters.iter().any(|filter| !TEST.contains(filter.as_str())) {
        return 0;
    }
    let passed = parent();
    let (word, counts) =
        if passed { ("ok", "1 passed; 0 failed") } else { ("FAILED", "0 passed; 1 failed") };
    println!("\nrunning 1 test\ntest {TEST} ... {word}\n\ntest result: {word}. {counts}\n");
    c_int::from(!passed)
}

fn parent() -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(CHILD);
    let close_standard_descriptors = || {
        for fd in 0..3 {
            // SAFETY: nobody in the new process owns them.
            unsafe { libc::close(fd) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only.
    unsafe { command.pre_exec(close_standard_descriptors) };
    let status = command.status().unwrap();
    let failed = status.code().and_then(|code| CHECKS.get(code.checked_sub(1)? as usize));
    if !status.success() {
        println!("{status}: {}", failed.map_or("it did not end by itself", |(name, _)| name));
    }
    status.success()
}

type Check = fn() -> io::Result<bool>;

const CHECKS: [(&str, Check); 6] = [
    ("standard output is closed", || Ok(is_closed(1))),
    ("control: without the crate, what prints writes into the file", control),
    ("a draft is not written by what prints", attack),
    ("no descriptor of an immutable file is a standard one", immutable),
    ("no descriptor of a live file is a standard one", live),
    ("the standard descriptors are still closed", || Ok((0..3).all(is_closed))),
];

/// 0, or the number of the check that fails: there is nothing to print to.
fn child() -> c_int {
    let failed = CHECKS.iter().position(|(_, check)| !check().unwrap_or(false));
    failed.map_or(0, |index| index as c_int + 1)
}

fn is_closed(fd: RawFd) -> bool {
    // SAFETY: it only asks.
    (unsafe { libc::fcntl(fd, libc::F_GETFD) }) == -1
}

fn control() -> io::Result<bool> {
    let new = || {
        // SAFETY: the name ends with a zero byte.
        let fd = unsafe { libc::memfd_create(c"control".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned it.
        Ok(unsafe { File::from_raw_fd(fd) })
    };
    let (input, output) = (new()?, new()?);
    println!("printed");
    let mut bytes = [0; 8];
    output.read_exact_at(&mut bytes, 0)?;
    Ok(input.as_raw_fd() == 0 && output.as_raw_fd() == 1 && bytes == *b"printed\n")
}

fn attack() -> io::Result<bool> {
    let mut draft = SealedFile::create("draft")?;
    draft.write_all(b"as it was")?;
    let map = draft.map_mut()?;
    println!("printed");
    eprintln!("printed");
    let unchanged = *map == *b"as it was";
    drop(map);
    Ok(unchanged && draft.len()? == 9 && is_ours(draft.into_raw_fd()))
}

/// Closes the descriptor.
fn is_ours(fd: RawFd) -> bool {
    // SAFETY: the caller has given it up.
    drop(unsafe { File::from_raw_fd(fd) });
    fd > 2
}

fn immutable() -> io::Result<bool> {
    let transparent = CreateOptions::new().huge_pages(HugePages::Transparent);
    let file = SealedFile::from_bytes("file", b"bytes")?;
    let cloned = file.try_clone()?.into_raw_fd();
    let reopened = file.reopen()?.into_raw_fd();
    let built = transparent.build("file", 2 << 20, |_| Ok(()))?.into_raw_fd();
    let copied = SealedFile::copy_of("file", file.as_fd(), 5)?.into_raw_fd();
    Ok([file.into_raw_fd(), cloned, reopened, built, copied].map(is_ours) == [true; 5])
}

fn live() -> io::Result<bool> {
    if !Producer::is_supported() {
        return Ok(true);
    }
    let producer = Producer::create("live", 8)?;
    let finished = SealedFile::from_bytes("file", producer.file().as_raw_fd().to_ne_bytes())?;
    Ok(producer.file().as_raw_fd() > 2 && is_ours(finished.into_raw_fd()))
}
