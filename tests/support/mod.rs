//! What the tests share: code in another process ([`process`]), files ([`files`]), mappings that the
//! crate would not make ([`mapping`]), attempts to break a seal ([`kernel`]), what the machine has once
//! ([`machine`]), denied system calls (`seccomp`), interruptions (`signals`), the two ends of a stream
//! (`streams`), and how often a test repeats itself ([`runs`]).
#![allow(dead_code, reason = "every test binary compiles all of this, and none uses all of it")]

pub(crate) mod counting;
pub(crate) mod files;
#[cfg(target_os = "linux")]
pub(crate) mod fuse;
pub(crate) mod kernel;
pub(crate) mod machine;
pub(crate) mod mapping;
pub(crate) mod process;
#[cfg(target_os = "linux")]
pub(crate) mod requeue;
pub(crate) mod runs;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
pub(crate) mod seccomp;
#[cfg(target_os = "linux")]
pub(crate) mod signals;
#[cfg(target_os = "linux")]
pub(crate) mod streams;

use std::error::Error;
use std::fs;
use std::io;

use rustix::io::Errno;

/// The errno of an error, or of the source that explains it.
pub(crate) fn errno_in(error: &(dyn Error + 'static)) -> Option<Errno> {
    let own = error.downcast_ref().and_then(Errno::from_io_error);
    own.or_else(|| errno_in(error.source()?))
}

pub(crate) fn errno_of(error: &io::Error) -> Errno {
    errno_in(error).unwrap_or_else(|| panic!("not of the kernel: {error}"))
}

pub(crate) fn errno<T>(result: io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| errno_of(&error))
}

#[track_caller]
pub(crate) fn assert_errno<T>(result: io::Result<T>, expected: Errno) {
    assert_eq!(errno(result).err(), Some(expected));
}

/// Bytes of which no page is like another.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// The same, and another pattern for each salt.
pub(crate) fn salted_pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251 + salt) as u8).collect()
}

pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// A line of `/proc/meminfo`: bytes, or a count of pages.
pub(crate) fn meminfo(name: &str) -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = line.unwrap_or("0").trim();
    let number = |text: &str| text.parse::<u64>().unwrap();
    value.strip_suffix(" kB").map_or_else(|| number(value), |kib| number(kib) << 10)
}
