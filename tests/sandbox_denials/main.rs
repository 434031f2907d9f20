//! Every operation of the crate, with every system call that it makes denied in turn, as a sandbox
//! does it (`EPERM`, `ENOSYS`, `EACCES`) and as the man pages have it. The outcome is success by
//! another way, or an error that tells the truth; and then the value is given back as it was, a
//! second attempt succeeds, and nothing is left behind.
//!
//! `SEALED_MMAP_DENIALS=1` writes what happened into `docs/denials.md`.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
#![allow(clippy::result_large_err, reason = "what a failure gives back is of any size")]

#[path = "../support/mod.rs"]
mod support;

mod controls;
#[allow(dead_code, reason = "some of it is for sandbox_injection")]
mod denier;
mod operations;
mod table;
#[allow(dead_code, reason = "some of it is for sandbox_injection")]
mod trial;
mod truth;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use denier::{Denial, Shortage};
use support::runs::is_emulated;
use table::Table;
use trial::{Operation, Outcome, Report};

#[test]
fn a_denied_system_call_ends_in_success_or_in_the_truth() {
    if let Some(reason) = trial::is_impossible() {
        eprintln!("not tested, no system call can be denied here: {reason}");
        return;
    }
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut table = thread::scope(|scope| {
        let try_operations = || {
            let operations = operations::all();
            let mut table = Table::default();
            while let Some(operation) = operations.get(next.fetch_add(1, Relaxed)) {
                try_denials(operation, &mut table);
            }
            table
        };
        let tables: Vec<_> = (0..workers).map(|_| scope.spawn(try_operations)).collect();
        tables.into_iter().map(|table| table.join().unwrap()).collect::<Table>()
    });
    table.sort_as(&operations::all());
    println!("{table}");
    eprintln!("{} denials in {:.1?}", table.len(), start.elapsed());
    if std::env::var_os("SEALED_MMAP_DENIALS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/denials.md");
        std::fs::write(path, INTRODUCTION.to_owned() + &table.to_markdown()).unwrap();
    }
    let faults = table.faults();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// A transfer may always be a part of what was asked for.
#[test]
fn short_transfers_are_continued() {
    if let Some(reason) = trial::is_impossible() {
        eprintln!("not tested, no system call can be trapped here: {reason}");
        return;
    }
    let mut shortened = 0;
    for operation in operations::all() {
        let _pool = operation.pool();
        let whole = operation.try_with(None);
        let calls = whole.calls.iter().map(|(call, _)| *call).filter(|call| call.can_be_short());
        for call in calls {
            // One byte at a time takes long, and pages that are not whole find other mistakes.
            for most in if is_emulated() { &[4095][..] } else { &[4095, 509][..] } {
                let report = operation.try_short(Shortage { call, most: *most });
                let told = format!("{} × {} of {most} bytes", operation.name, call.name());
                assert_eq!(report.outcome, Outcome::Succeeded, "{told}: {:?}", report.faults);
                assert!(report.is_sound(), "{told}: {:?}", report.faults);
                shortened += usize::from(report.denials > 0);
            }
        }
    }
    eprintln!("{shortened} operations had their transfers shortened");
    assert!(shortened > 10);
}

const INTRODUCTION: &str = "# Denied system calls\n\
\n\
What each operation does when a sandbox, or the kernel, denies one of its system calls. `#2` is the second call of that kind; without a number\n\
all of them are denied. Either the operation succeeds in another way, or its error tells the truth: its chain names the errno, the value\n\
comes back as it was, and nothing is left behind. `SEALED_MMAP_DENIALS=1 cargo test --test sandbox_denials` writes this page;\n\
`cargo test` checks all of it.\n\
\n\
";

fn try_denials(operation: &Operation, table: &mut Table) {
    let _pool = operation.pool();
    let undenied = operation.try_with(None);
    match &undenied.outcome {
        Outcome::NotHere(reason) => eprintln!("not tested, {}: {reason}", operation.name),
        Outcome::Succeeded if undenied.is_sound() => {
            for denial in denials(&undenied) {
                table.add(operation, Some(denial), operation.try_with(Some(denial)));
            }
        }
        _ => table.add(operation, None, undenied),
    }
}

/// Each call with each errno: always, and where it is made several times one of them alone.
fn denials(undenied: &Report) -> Vec<Denial> {
    const FIRST: u32 = 3;
    let mut denials = Vec::new();
    for &(call, times) in &undenied.calls {
        let name = call.name();
        let errnos = truth::OF_SANDBOXES.iter().chain(truth::of_the_man_page(&name));
        for &errno in errnos.take(if is_emulated() { 1 } else { usize::MAX }) {
            let passes = truth::is_passing(&name, errno);
            if !passes {
                denials.push(Denial { call, errno, only: None });
            }
            if passes || times > 1 && truth::may_come_late(&name, errno) {
                let each = (1..=times).filter(|&nth| nth <= FIRST || nth == times);
                denials.extend(each.map(|nth| Denial { call, errno, only: Some(nth) }));
            }
        }
    }
    denials
}
