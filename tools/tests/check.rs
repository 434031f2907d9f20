//! `sealed check` gives the library's answer, in words and as an exit status.

mod support;

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::fs::OFlags;
use sealed_mmap::{SealPolicy, SealedFile, Seals, get_seals};
use serde_json::Value;
use support::{
    IMMUTABLE, Ran, json, memfd, proc_path, ran, reopen, run, sealed, sealed_as_nobody, unique,
};

#[test]
fn an_immutable_file_is_accepted() {
    let file = memfd("accepted", 10, IMMUTABLE);
    let before = get_seals(&file).unwrap();
    let path = proc_path(&file);
    let Ran { out, err, status } = run(&["check", &path]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(out.starts_with(&format!("{path}: accepted as immutable")), "{out}");
    assert!(out.contains("shrink|grow|write"), "{out}");

    // By its number, of the tool's own descriptors.
    let Ran { out, status, .. } = ran(sealed(&["check", "0"]).stdin(file.try_clone().unwrap()));
    assert!(status == Some(0) && out.starts_with("0: accepted"), "{out}");
    assert_eq!(get_seals(&file).unwrap(), before);
}

#[test]
fn a_refusal_is_the_librarys_and_has_a_status_of_its_own() {
    let file = memfd("refused", 10, Seals::empty());
    let path = proc_path(&file);
    let Ran { out, status, .. } = run(&["check", &path]);
    assert_eq!(status, Some(1));
    let error = SealedFile::receive_read_only(file.try_clone().unwrap(), &SealPolicy::new());
    assert_eq!(out, format!("{path}: {}\n", error.unwrap_err()));

    let report = json(&["check", "--json", &path]);
    assert_eq!((&report["accepted"], &report["state"]), (&false.into(), &"immutable".into()));
    assert!(report["refusal"].as_str().unwrap().contains("lacks the seals"), "{report}");
    assert_eq!(get_seals(&file).unwrap() - Seals::EXEC, Seals::empty());
}

#[test]
fn the_state_and_the_policy_are_those_of_the_options() {
    let shared = memfd("shared", 5000, Seals::SHRINK);
    let path = proc_path(&shared);
    assert_eq!(run(&["check", &path, "--as", "shared"]).status, Some(0));
    assert_eq!(run(&["check", &path, "--as", "live"]).status, Some(1));
    for option in [&["--max-len", "4999"][..], &["--require", "grow"], &["--forbid", "shrink"]] {
        let Ran { out, status, .. } = run(&[&["check", &path, "--as", "shared"], option].concat());
        assert_eq!(status, Some(1), "{option:?}: {out}");
    }
    let hole = memfd("hole", 1 << 16, IMMUTABLE);
    assert_eq!(run(&["check", &proc_path(&hole), "--reserve"]).status, Some(0));
}

#[test]
fn a_descriptor_is_judged_as_it_was_opened() {
    let file = memfd("write-only", 10, Seals::SHRINK);
    for flags in [OFlags::WRONLY, OFlags::PATH] {
        let fd = reopen(&file, flags);
        let Ran { out, status, .. } = run(&["check", &proc_path(&fd), "--as", "shared"]);
        assert_eq!(status, Some(1), "{out}");
        assert!(out.contains("not open for reading"), "{out}");
    }
    let read_only = reopen(&file, OFlags::RDONLY);
    assert_eq!(run(&["check", &proc_path(&read_only), "--as", "shared"]).status, Some(0));
}

#[test]
fn what_carries_no_seals_is_refused() {
    let disk = File::open("Cargo.toml").unwrap();
    for path in [proc_path(&disk), "Cargo.toml".to_owned(), "/dev/null".to_owned()] {
        let Ran { out, status, .. } = run(&["check", &path]);
        assert!(status == Some(1) && out.contains("cannot carry seals"), "{out}");
    }
    assert_eq!(json(&["check", "--json", "/dev/null"])["seals"], Value::Null);
}

#[test]
fn what_is_not_there_is_trouble_and_named() {
    let closed = format!("/proc/{}/fd/999999", std::process::id());
    for path in ["/no/such/file", "999999", "/proc/4194304/fd/0", "/proc/self/fd/-1", &closed] {
        let Ran { out, err, status } = run(&["check", path]);
        assert!(status == Some(2) && out.is_empty(), "{path}: {out}{err}");
        assert!(err.contains(&format!("cannot look at {path}: ")), "{err}");
    }
}

#[test]
fn other_users_descriptors_are_trouble() {
    let file = memfd("not for nobody", 1, IMMUTABLE);
    let path = proc_path(&file);
    let Some(mut tool) = sealed_as_nobody(&["check", &path]) else { return };
    let Ran { err, status, .. } = ran(&mut tool.command);
    assert!(status == Some(2) && err.contains("denied"), "{err}");
    // But what is inherited can be looked at.
    let mut tool = sealed_as_nobody(&["check", "0"]).unwrap();
    let Ran { err, status, .. } = ran(tool.command.stdin(file));
    assert_eq!(status, Some(0), "{err}");
}

#[test]
fn names_cannot_garble_a_terminal() {
    let name = unique("\x1b[2J\u{9b}\u{202e}");
    let file = memfd(&name, 1, Seals::empty());
    let Ran { out, .. } = run(&["check", &proc_path(&file)]);
    assert!(!out.trim_end().contains(|c: char| c.is_control() || c == '\u{202e}'), "{out:?}");
    assert!(out.contains(r"\u{1b}[2J") && file.as_raw_fd() > 2, "{out:?}");
}
