//! `sealed run` gives a command snapshots that never change, and takes nothing from the command.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use support::{Ran, in_terminal, ran, run, sealed, unique};

const TOOL: &str = env!("CARGO_BIN_EXE_sealed");

/// A file on disk, gone at the end of the test.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn with(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(unique(name));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn one_file_becomes_standard_input() {
    let file = TemporaryFile::with("one", b"some\nlines\n");
    let Ran { out, err, status } = run(&["run", file.path(), "--", "cat"]);
    assert_eq!((out.as_str(), err.as_str(), status), ("some\nlines\n", "", Some(0)));
    let empty = TemporaryFile::with("empty", b"");
    assert_eq!(run(&["run", empty.path(), "--", "cat"]).out, "");
}

#[test]
fn what_the_command_gets_is_sealed() {
    let file = TemporaryFile::with("checked", b"bytes");
    let check = [TOOL, "check", "0", "--require", "grow,seal", "--max-len", "5", "--reserve"];
    let Ran { out, err, status } = run(&[&["run", file.path(), "--"], &check[..]].concat());
    assert_eq!(status, Some(0), "{out}{err}");
    // The control: a disk file is refused.
    let stdin = fs::File::open(&file.0).unwrap();
    assert_eq!(ran(sealed(&["check", "0"]).stdin(stdin)).status, Some(1));
    // And nobody writes to it.
    let script = "printf x | dd of=/proc/$$/fd/0 conv=notrunc";
    let write = ["sh", "-c", script];
    let Ran { err, status, .. } = run(&[&["run", file.path(), "--"], &write[..]].concat());
    assert!(status != Some(0) && err.contains("not permitted"), "{err}");
    // The control.
    let mut shell = Command::new("sh");
    let stdin = fs::File::open(&file.0).unwrap();
    let Ran { err, status, .. } = ran(shell.args(&write[1..]).stdin(stdin));
    assert_eq!(status, Some(0), "{err}");
}

#[test]
fn a_later_change_of_the_file_is_not_seen() {
    let file = TemporaryFile::with("changing", b"before");
    let script = "printf after > \"$1\"; cat";
    let Ran { out, .. } = run(&["run", file.path(), "--", "sh", "-c", script, "sh", file.path()]);
    assert_eq!(out, "before");
    assert_eq!(fs::read(&file.0).unwrap(), b"after");
}

#[test]
fn several_files_are_descriptors_in_their_order() {
    let [first, second] = [("first", b"1\n"), ("second", b"2\n")]
        .map(|(name, bytes)| TemporaryFile::with(name, bytes));
    let script = "IFS=,; set -- $SEALED_FDS; echo $#; cat /dev/fd/$1 /dev/fd/$2";
    let command = ["--", "sh", "-c", script];
    let Ran { out, err, .. } = run(&[&["run", first.path(), second.path()], &command[..]].concat());
    assert_eq!(out, "2\n1\n2\n", "{err}");

    let mut tool =
        sealed(&["run", "-d", first.path(), "--", "sh", "-c", "cat; cat /dev/fd/$SEALED_FDS"]);
    let stdin = fs::File::open(&second.0).unwrap();
    assert_eq!(ran(tool.stdin(stdin)).out, "2\n1\n");
    // Not one of an outer `sealed run`.
    let mut tool = sealed(&["run", first.path(), "--", "sh", "-c", "echo ${SEALED_FDS-none}"]);
    assert_eq!(ran(tool.env("SEALED_FDS", "77")).out, "none\n");
}

#[test]
fn a_dash_is_standard_input_from_where_it_stands() {
    let mut child = sealed(&["run", "-", "--", TOOL, "check", "0"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&[1; 300_000]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());

    let file = TemporaryFile::with("dash", b"first\nrest");
    let script = format!("read line; exec {TOOL} run - -- cat");
    let mut shell = Command::new("sh");
    let stdin = fs::File::open(&file.0).unwrap();
    assert_eq!(ran(shell.args(["-c", &script]).stdin(stdin)).out, "rest");
}

#[test]
fn the_exit_status_is_the_commands() {
    let file = TemporaryFile::with("status", b"");
    for status in [0, 1, 7, 255] {
        let script = format!("exit {status}");
        assert_eq!(run(&["run", file.path(), "--", "sh", "-c", &script]).status, Some(status));
    }
    let killed = sealed(&["run", file.path(), "--", "sh", "-c", "kill -9 $$"]).status().unwrap();
    assert_eq!(killed.signal(), Some(9));
}

#[test]
fn what_fails_before_the_command_has_a_status_of_its_own_and_a_name() {
    let file = TemporaryFile::with("fails", b"five!");
    for (arguments, expected, words) in [
        (&["run", file.path(), "--", "/no/such/program"][..], 127, "/no/such/program"),
        (&["run", file.path(), "--", "/etc/passwd"], 126, "/etc/passwd"),
        (&["run", "/no/such/file", "--", "true"], 125, "/no/such/file"),
        (&["run", "/", "--", "true"], 125, "/: "),
        (&["run", "--limit", "4", file.path(), "--", "true"], 125, file.path()),
        (&["run", "--limit", "1M", "/dev/zero", "--", "true"], 125, "/dev/zero"),
        (&["run", file.path()], 2, "COMMAND"),
        (&["run", "--", "true"], 2, "FILES"),
    ] {
        let Ran { out, err, status } = run(arguments);
        assert_eq!((status, out.as_str()), (Some(expected), ""), "{arguments:?}: {err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
    }
    let stdin = fs::File::open("/dev/zero").unwrap();
    let Ran { err, status, .. } = ran(sealed(&["run", "-l", "9M", "-", "--", "true"]).stdin(stdin));
    assert!(status == Some(125) && err.contains("9437184 bytes"), "{err}");
    let exact = run(&["run", "--limit", "5", file.path(), "--", "cat"]);
    assert_eq!(exact.out, "five!");
}

#[test]
fn progress_is_shown_on_a_terminal_and_nowhere_else() {
    let slow = "for n in 1 2 3 4 5; do echo $n; sleep 0.1; done";
    let bytes = || {
        let mut shell = Command::new("sh");
        shell.args(["-c", slow]).stdout(Stdio::piped()).spawn().unwrap().stdout.unwrap()
    };
    let (text, status) = in_terminal(sealed(&["run", "-", "--", "cat"]).stdin(bytes()), 80);
    assert!(status == Some(0) && text.contains("stdin"), "{text:?}");
    assert!(text.ends_with("1\r\n2\r\n3\r\n4\r\n5\r\n"), "{text:?}");
    let Ran { out, err, .. } = ran(sealed(&["run", "-", "--", "cat"]).stdin(bytes()));
    assert_eq!((out.as_str(), err.as_str()), ("1\n2\n3\n4\n5\n", ""));
}
