//! What the main paths cost: their system calls, counted by strace, and their allocations.
#![cfg(target_os = "linux")]

mod support;

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use sealed_mmap::{SealPolicy, SealedFile};
use support::counting::{Counting, allocations, between_marks, calls};
use support::process;

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

/// Not a promise: what strace runs.
#[test]
fn role_of_another_process() {
    let Some(role) = process::role() else { return };
    let (_, path, ..) = PATHS.iter().find(|(name, ..)| *name == role.name).unwrap();
    // What is found out once per process is not the path's.
    path(&|measured| measured());
    path(&between_marks);
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
