//! Help, manual pages and completion scripts stand alone.

mod support;

use std::fs;
use std::process::Stdio;

use support::{Ran, run, sealed, unique};

const SUBCOMMANDS: [&str; 4] = ["ls", "doctor", "run", "check"];

#[test]
fn help_explains_each_subcommand_and_its_exit_status() {
    let Ran { out, status, .. } = run(&["--help"]);
    assert_eq!(status, Some(0));
    assert!(SUBCOMMANDS.iter().all(|name| out.contains(&format!("  {name} "))), "{out}");
    for name in SUBCOMMANDS {
        let Ran { out, status, .. } = run(&[name, "--help"]);
        assert_eq!(status, Some(0));
        assert!(out.contains("Exit status:"), "{out}");
    }
}

#[test]
fn a_wrong_option_is_a_usage_error() {
    for arguments in [&["--no-such-option"][..], &["ls", "--sort", "colour"], &["check"], &[]] {
        let Ran { out, err, status } = run(arguments);
        assert!(status == Some(2) && out.is_empty(), "{arguments:?}: {out}{err}");
        assert!(err.contains("Usage") || err.contains("--help"), "{err}");
    }
}

#[test]
fn every_shell_gets_a_completion_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let Ran { out, status, .. } = run(&["completions", shell]);
        assert!(status == Some(0) && out.contains("doctor"), "{shell}: {out}");
    }
}

#[test]
fn manual_pages_are_printed_and_written() {
    let Ran { out, .. } = run(&["man"]);
    assert!(out.contains(".TH sealed 1"), "{out}");
    assert!(run(&["man", "ls"]).out.contains("\\-\\-watch"));
    let Ran { err, status, .. } = run(&["man", "rm"]);
    assert!(status == Some(2) && err.contains("rm"), "{err}");

    let directory = std::env::temp_dir().join(unique("man"));
    fs::create_dir(&directory).unwrap();
    let done = run(&["man", "--dir", directory.to_str().unwrap()]);
    let written = SUBCOMMANDS.map(|name| directory.join(format!("sealed-{name}.1")).is_file());
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!((done.status, written), (Some(0), [true; 4]), "{}", done.err);
    let Ran { err, status, .. } = run(&["man", "--dir", "/no/such/directory"]);
    assert!(status == Some(2) && err.contains("/no/such/directory"), "{err}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for arguments in [&["doctor"][..], &["ls"], &["completions", "bash"], &["man"]] {
        let mut child = sealed(arguments);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !errors.contains("panicked"), "{arguments:?}: {errors}");
    }
}
