//! How tests run: how often, on which machine, and what they leave behind.
#![allow(dead_code, reason = "every test binary compiles this, and none uses all of it")]

use std::fmt::Debug;
use std::{env, fs, io};

/// Whether everything is to be tried, however long it takes.
pub(crate) fn in_full() -> bool {
    env::var_os("SEALED_MMAP_FULL").is_some_and(|full| full == "1")
}

/// How often to repeat: `full` if all is to be tried, and a tenth of `quick` on a processor that is
/// emulated.
pub(crate) fn rounds(quick: usize, full: usize) -> usize {
    if in_full() {
        full
    } else if is_emulated() {
        quick / 10
    } else {
        quick
    }
}

/// What makes a live file made it, but for `vm.memfd_noexec=2`, which forbids all of them: then that
/// is what is checked.
pub(crate) fn live<T: Debug>(made: io::Result<T>) -> Option<T> {
    let forbidden = fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|setting| setting == b"2\n");
    if !forbidden {
        return Some(made.unwrap());
    }
    let error = made.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("vm.memfd_noexec"), "{error}");
    eprintln!("not tested, there are no live files here: {error}");
    None
}

/// A virtual machine without the help of a processor takes some thirty times as long.
pub(crate) fn is_emulated() -> bool {
    env::var_os("SEALED_MMAP_VM").is_some()
}

/// What the machine was set to, if it runs for the tests and is not as usual.
pub(crate) fn is_configured_as(configuration: &str) -> bool {
    env::var_os("SEALED_MMAP_CONFIG").is_some_and(|name| name == configuration)
}

/// How many descriptors and mappings of a file of this name there are.
pub(crate) fn traces(name: &str) -> (usize, usize) {
    let name = format!("/memfd:{name} (deleted)");
    let links = fs::read_dir("/proc/self/fd").unwrap();
    let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    (
        links.filter(|link| link.as_os_str() == &*name).count(),
        maps.lines().filter(|line| line.ends_with(&name)).count(),
    )
}
