//! What a piece of code costs: its allocations, and its system calls, counted by strace.
#![allow(unsafe_code, reason = "a counting allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;

use super::process;

/// To be the global allocator of a test that counts [`allocations`].
pub(crate) struct Counting;

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

/// How many this makes.
pub(crate) fn allocations(measured: &mut dyn FnMut()) -> usize {
    let before = ALLOCATIONS.get();
    measured();
    ALLOCATIONS.get() - before
}

/// Runs this between two calls that it does not make itself, so that [`calls`] finds its own.
pub(crate) fn between_marks(measured: &mut dyn FnMut()) {
    let _ = std::os::unix::process::parent_id();
    measured();
    let _ = std::os::unix::process::parent_id();
}

/// What this role called between the marks, in order.
pub(crate) fn calls(name: &str) -> io::Result<Vec<String>> {
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
