//! What the main paths cost: their system calls, counted by strace, and their allocations.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "a counting allocator is an unsafe trait")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use sealed_mmap::{SealPolicy, SealedFile};
use support::process;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call goes to the system's allocator with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LEN: usize = 64 << 10;
static BYTES: [u8; LEN] = [7; LEN];

/// Runs a path once, with `measured` around the part that counts.
type Path = fn(measured: &dyn Fn(&mut dyn FnMut()));

/// The measured paths, each with the allocations that it makes, the most system calls that it may
/// make, and what these are where the kernel has everything (Linux 6.7).
const PATHS: &[(&str, Path, usize, usize, &[&str])] = &[
    ("from_bytes", from_bytes, 0, 4, &["memfd_create", "pwrite64", "F_ADD_SEALS", "F_GET_SEALS"]),
    ("build", build, 1, 4, &["memfd_create", "pwrite64", "F_ADD_SEALS", "F_GET_SEALS"]),
    (
        "build above 1 MiB",
        build_large,
        0,
        8,
        &[
            "memfd_create",
            "sysinfo",
            "fallocate",
            "mmap",
            "madvise",
            "munmap",
            "F_ADD_SEALS",
            "F_GET_SEALS",
        ],
    ),
    ("seal", seal_draft, 0, 4, &["lseek", "F_ADD_SEALS", "F_GET_SEALS", "lseek"]),
    ("receive and map", receive_and_map, 0, 5, &["F_GETFL", "F_GET_SEALS", "fstat", "mmap"]),
];

fn from_bytes(measured: &dyn Fn(&mut dyn FnMut())) {
    let mut file = None;
    measured(&mut || file = SealedFile::from_bytes("costs", BYTES).ok());
    assert!(file.is_some());
}

fn build(measured: &dyn Fn(&mut dyn FnMut())) {
    build_with_len(measured, LEN as u64);
}

fn build_large(measured: &dyn Fn(&mut dyn FnMut())) {
    build_with_len(measured, (1 << 20) + 1);
}

fn build_with_len(measured: &dyn Fn(&mut dyn FnMut()), len: u64) {
    let fill = |bytes: &mut [u8]| -> io::Result<()> {
        bytes[..LEN].copy_from_slice(&BYTES);
        Ok(())
    };
    let mut file = None;
    measured(&mut || file = SealedFile::build("costs", len, fill).ok());
    assert!(file.is_some());
}

fn seal_draft(measured: &dyn Fn(&mut dyn FnMut())) {
    let mut draft = SealedFile::create("costs").unwrap();
    draft.write_all(&BYTES).unwrap();
    let (mut draft, mut file) = (Some(draft), None);
    measured(&mut || file = draft.take().and_then(|draft| draft.seal_read_only().ok()));
    assert_eq!(file.unwrap().len().unwrap(), LEN as u64);
}

fn receive_and_map(measured: &dyn Fn(&mut dyn FnMut())) {
    let mut fd = Some(OwnedFd::from(SealedFile::from_bytes("costs", BYTES).unwrap()));
    let policy = SealPolicy::new();
    let mut received = None;
    measured(&mut || {
        let file = fd.take().and_then(|fd| SealedFile::receive_read_only(fd, &policy).ok());
        received = file.and_then(|file| Some((file.map_read_only().ok()?, file)));
    });
    assert!(received.is_some_and(|(map, _file)| *map == BYTES));
}

#[test]
fn the_main_paths_allocate_only_the_buffer_of_a_small_build() {
    let allocations = |measured: &mut dyn FnMut()| {
        let before = ALLOCATIONS.get();
        measured();
        ALLOCATIONS.get() - before
    };
    for (name, path, expected, ..) in PATHS {
        // Before Linux 6.4 finding out the page size, once, takes memory.
        path(&|measured| measured());
        path(&|measured| assert_eq!(allocations(measured), *expected, "{name}"));
    }
    let control = allocations(&mut || drop(std::hint::black_box(Box::new(1))));
    assert_eq!(control, 1);
    let refused = allocations(&mut || drop(SealedFile::create("\0")));
    assert_ne!(refused, 0, "an error with a message");
}

/// Between two calls that the paths themselves never make.
fn between_marks(measured: &mut dyn FnMut()) {
    let _ = std::os::unix::process::parent_id();
    measured();
    let _ = std::os::unix::process::parent_id();
}

/// Not a promise: what strace runs.
#[test]
fn role_of_another_process() {
    let Some(role) = process::role() else { return };
    let (_, path, ..) = PATHS.iter().find(|(name, ..)| *name == role.name).unwrap();
    // What is found out once per process is not the path's.
    path(&|measured| measured());
    path(&between_marks);
}

/// What was called between the marks, in order.
fn calls(name: &str) -> io::Result<Vec<String>> {
    let log = std::env::temp_dir().join(format!("sealed-mmap-{}-{name}", std::process::id()));
    let traced = process::run_traced(process::ENTRY, name, &log)?;
    let lines = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    if !traced.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&traced.stderr).into_owned()));
    }

    // Every line begins with the number of the thread.
    let mark = lines.lines().find(|line| line.contains("getppid()"));
    let thread = mark.and_then(|line| line.split_whitespace().next()).unwrap();
    let of_thread = lines.lines().filter_map(|line| line.strip_prefix(thread)).map(str::trim_start);
    let marked = of_thread.skip_while(|line| !line.starts_with("getppid"));
    let between = marked.skip(1).take_while(|line| !line.starts_with("getppid"));
    Ok(between.map(name_of_call).collect())
}

/// `fcntl(3, F_GETFL) = …` is `F_GETFL`, and `mmap(NULL, … = -1 EPERM …` is `refused mmap`.
fn name_of_call(line: &str) -> String {
    let (name, arguments) = line.split_once('(').unwrap();
    let name = match name {
        "fcntl" | "fcntl64" => arguments.split([',', ')']).nth(1).unwrap().trim(),
        "mmap2" => "mmap",
        "fstat64" | "newfstatat" | "statx" => "fstat",
        name => name,
    };
    if line.contains(" = -1 E") { format!("refused {name}") } else { name.to_owned() }
}

#[test]
fn the_main_paths_make_these_system_calls_and_no_other() {
    for (name, _, _, most, expected) in PATHS {
        let mut calls = match calls(name) {
            Ok(calls) => calls,
            Err(error) => {
                assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{error}");
                return eprintln!("not tested, strace does not work here: {error}");
            }
        };
        println!("{name}: {calls:?}");
        let is_refused = |call: &String| call.starts_with("refused ");
        assert!(calls.iter().any(is_refused) || calls.len() <= *most, "{name}: {calls:?}");
        // What older kernels refuse is done in another way, and large pages call for a closer look.
        calls.retain(|call| !is_refused(call) && !["fchmod", "fstatfs"].contains(&call.as_str()));
        assert_eq!(calls, *expected, "{name}");
    }
}
