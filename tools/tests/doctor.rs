//! `sealed doctor` says what there is, what it means, and what to change.

mod support;

use std::collections::HashSet;
use std::process::Command;
use std::thread;

use sealed_mmap::{Support, Supported};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter,
};
use serde_json::Value;
use support::{Ran, in_terminal, json, ran, run, sealed, sealed_as_nobody};

fn findings(report: &Value) -> &[Value] {
    report["findings"].as_array().unwrap()
}

fn finding<'a>(report: &'a Value, id: &str) -> &'a Value {
    let found = findings(report).iter().find(|finding| finding["id"] == id);
    found.unwrap_or_else(|| panic!("no finding {id}: {report}"))
}

#[test]
fn every_finding_is_explained_and_stands_once() {
    let report = json(&["doctor", "--json"]);
    let mut ids = HashSet::new();
    for finding in findings(&report) {
        assert!(ids.insert(finding["id"].as_str().unwrap()), "{finding}");
        for key in ["found", "meaning"] {
            assert!(!finding[key].as_str().unwrap().is_empty(), "{finding}");
        }
        let level = finding["level"].as_str().unwrap();
        assert!(["ok", "unknown", "note", "warning", "problem"].contains(&level), "{finding}");
        if level == "warning" || level == "problem" {
            assert!(finding["change"].is_string(), "{finding}");
        }
    }
    for id in [
        "shmem_huge_pages",
        "overcommit",
        "memfd_noexec",
        "open_files",
        "address_space",
        "locked_memory",
        "max_map_count",
        "udmabuf",
        "iommu",
        "vfio",
        "af_alg",
        "live_files",
    ] {
        assert!(ids.contains(id), "{id}");
    }
}

#[test]
fn the_probes_answers_are_the_librarys() {
    let report = json(&["doctor", "--json"]);
    for (name, answer) in Support::probe().answers() {
        let finding = finding(&report, name);
        assert_eq!(finding["found"], answer.to_string());
        assert_eq!(finding["level"] == "ok", matches!(answer, Supported::Yes), "{finding}");
    }
}

#[test]
fn the_exit_status_tells_problems_and_if_asked_for_warnings() {
    let report = json(&["doctor", "--json"]);
    let has = |level: &str| findings(&report).iter().any(|finding| finding["level"] == level);
    assert!(!has("problem"), "{report}");
    assert_eq!(run(&["doctor"]).status, Some(0));
    assert_eq!(run(&["doctor", "--strict"]).status, Some(i32::from(has("warning"))));
}

#[test]
fn limits_are_those_of_the_process() {
    let limited = |limits: &str| {
        let script = format!("{limits}; exec {} doctor --json", env!("CARGO_BIN_EXE_sealed"));
        let Ran { out, err, status } = ran(Command::new("sh").args(["-c", &script]));
        assert_eq!(status, Some(0), "{err}");
        serde_json::from_str::<Value>(&out).unwrap()
    };
    let report = limited("ulimit -n 64; ulimit -v 4000000");
    assert_eq!(finding(&report, "open_files")["level"], "note");
    assert_eq!(finding(&report, "address_space")["level"], "warning");
}

/// Runs the tool where a call, if the rules hold, does nothing and answers this; 0 is success.
fn where_answered(
    call: i64,
    rules: Vec<SeccompRule>,
    errno: u32,
    mut tool: Command,
) -> Option<Ran> {
    let filter: BpfProgram = SeccompFilter::new(
        [(call, rules)].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        std::env::consts::ARCH.try_into().unwrap(),
    )
    .unwrap()
    .try_into()
    .unwrap();
    // A child inherits the filter of the thread that starts it.
    let thread = thread::spawn(move || match apply_filter(&filter) {
        Ok(()) => Some(ran(&mut tool)),
        Err(error) => {
            eprintln!("not tested, system calls cannot be filtered here: {error}");
            None
        }
    });
    thread.join().unwrap()
}

fn where_seals_are_ignored(tool: Command) -> Option<Ran> {
    const F_ADD_SEALS: u64 = 1033;

    let adds = SeccompCondition::new(1, Dword, SeccompCmpOp::Eq, F_ADD_SEALS).unwrap();
    where_answered(libc::SYS_fcntl, vec![SeccompRule::new(vec![adds]).unwrap()], 0, tool)
}

#[test]
fn what_cannot_be_tried_is_no_problem_of_the_kernels() {
    let errno = libc::EMFILE as u32;
    let tool = sealed(&["doctor", "--json"]);
    let Some(done) = where_answered(libc::SYS_memfd_create, vec![], errno, tool) else { return };
    assert_eq!(done.status, Some(0), "{}", done.err);
    let report: Value = serde_json::from_str(&done.out).unwrap();
    for id in ["memfd_create", "write_seal", "reopen"] {
        assert_eq!(finding(&report, id)["level"], "unknown", "{report}");
    }
}

#[test]
fn a_sandbox_that_ignores_seals_is_a_problem() {
    let Some(Ran { out, status, .. }) = where_seals_are_ignored(sealed(&["doctor", "--json"]))
    else {
        return;
    };
    assert_eq!(status, Some(1));
    let report: Value = serde_json::from_str(&out).unwrap();
    for id in ["write_seal", "shrink_seal"] {
        let finding = finding(&report, id);
        assert_eq!(finding["level"], "problem");
        assert!(finding["meaning"].as_str().unwrap().contains("no file can be mapped safely"));
    }
    let Ran { out, .. } = where_seals_are_ignored(sealed(&["doctor"])).unwrap();
    assert!(out.contains("problem write_seal: no: ") && out.contains("change: "), "{out}");
}

#[test]
fn any_user_can_ask() {
    let Some(mut tool) = sealed_as_nobody(&["doctor", "--json"]) else { return };
    let Ran { out, err, status } = ran(&mut tool.command);
    assert_eq!(status, Some(0), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["uid"], 65534);
    assert_eq!(finding(&report, "write_seal")["level"], "ok");
}

#[test]
fn the_text_fits_the_terminal() {
    for columns in [60, 200] {
        let (text, _) = in_terminal(&mut sealed(&["doctor", "--verbose"]), columns);
        assert!(text.contains("\x1b[32mok"), "{text}");
        for line in text.replace("\x1b[m", "").lines() {
            let line = line.split_once('m').filter(|(start, _)| start.starts_with('\x1b'));
            let width = line.map_or(0, |(_, rest)| rest.trim_end().chars().count());
            assert!(width <= columns.into(), "{columns}: {line:?}");
        }
    }
    assert!(!run(&["doctor"]).out.contains('\x1b'));
}
