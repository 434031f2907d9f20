//! `quickstart` shares what it is given, all of it and nothing else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Temp, end_of, example, failed, fails, reads_everything, start, succeeds};

fn described(bytes: &[u8]) -> String {
    format!("{} bytes, CRC-32 {:08x}", bytes.len(), crc32fast::hash(bytes))
}

#[test]
fn quickstart_shares_a_file_in_place() {
    let Some(mut quickstart) = example("quickstart") else { return };
    let contents = b"a first line\nand a second";
    let file = Temp::file("quickstart", contents);
    let text = succeeds(quickstart.arg(&file.0), b"");
    assert!(text.contains("a first line") && !text.contains("and a second"), "{text}");
    assert!(text.contains(&described(contents)), "{text}");
    assert_eq!(text.matches("Operation not permitted").count(), 8, "{text}");
}

#[test]
fn quickstart_reads_standard_input() {
    let Some(mut quickstart) = example("quickstart") else { return };
    let input = vec![b'x'; 300_000];
    let text = succeeds(quickstart.arg("-"), &input);
    assert!(text.contains(&described(&input)), "{text}");
}

#[test]
fn quickstart_shares_the_rest_of_what_is_partly_read() {
    let quickstart = |path: &Path| {
        let mut quickstart = example("quickstart")?;
        quickstart.arg(path);
        Some(quickstart)
    };
    reads_everything(quickstart, "quickstart-input", |text| {
        assert!(text.contains(&described(b"eleven byte")), "{text}");
    });
}

#[test]
fn quickstart_shares_nothing_too() {
    let Some(mut quickstart) = example("quickstart") else { return };
    let file = Temp::file("quickstart-empty", b"");
    assert!(succeeds(quickstart.arg(&file.0), b"").contains("0 bytes"));
    let Some(mut quickstart) = example("quickstart") else { return };
    assert!(succeeds(quickstart.arg("-"), b"").contains("0 bytes"));
}

#[test]
fn quickstart_says_how_it_is_used() {
    for arguments in [&["--unknown"][..], &["one", "two"]] {
        let Some(mut quickstart) = example("quickstart") else { return };
        fails(quickstart.args(arguments), b"", "usage: quickstart [FILE]");
    }
}

#[test]
fn the_reader_of_quickstart_refuses_an_ordinary_file() {
    let Some(mut quickstart) = example("quickstart") else { return };
    let output = end_of(start(quickstart.env("QUICKSTART_READER", ""), Stdio::null()));
    failed(
        output,
        "quickstart: reader: standard input: refused \"/dev/null\": the file cannot carry seals",
    );
}

/// A program that runs from a file that is gone starts "FILE (deleted)" for itself: here a shell, which
/// takes the shared bytes for its commands.
#[test]
fn quickstart_says_how_its_reader_failed() {
    let Some(quickstart) = example("quickstart") else { return };
    let directory = Path::new(quickstart.get_program()).with_file_name("quickstart-readers");
    let directory = Temp(directory.with_extension(std::process::id().to_string()));
    fs::create_dir(&directory.0).unwrap();
    let program = directory.0.join("quickstart");
    for (script, complaint) in [
        (None, "as the reader: No such file or directory"),
        (Some("kill -9 $$"), "the reader failed: signal: 9"),
        (Some("printf 'half a'; exit 3"), "the reader failed: exit status: 3"),
        (Some("echo 'reader: 1 bytes, CRC-32 0'"), "the reader saw other bytes"),
    ] {
        fs::hard_link(quickstart.get_program(), &program).unwrap();
        if script == Some("kill -9 $$") {
            symlink("/bin/sh", directory.0.join("quickstart (deleted)")).unwrap();
        }
        let mut child = start(Command::new(&program).arg("-"), Stdio::piped());
        fs::remove_file(&program).unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, script.unwrap_or("").as_bytes()).unwrap();
        drop(input);
        failed(end_of(child), complaint);
    }
}
