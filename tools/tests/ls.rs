//! `sealed ls` finds the memfds of processes, and shows what the library says of them.

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{MemfdFlags, OFlags};
use sealed_mmap::{Producer, SealPolicy, SealedFile, Seals, add_seals};
use serde_json::Value;
use support::{
    IMMUTABLE, Ran, in_terminal, json, memfd, ran, reopen, run, sealed, sealed_as_nobody, unique,
};

fn own_pid() -> String {
    std::process::id().to_string()
}

/// The rows of this process whose name contains this, by descriptor.
#[track_caller]
fn rows_named(name: &str, more: &[&str]) -> Vec<Value> {
    let pid = own_pid();
    let listing = json(&[&["ls", "--json", "--pid", &pid, "--name", name], more].concat());
    assert_eq!(listing["unreadable"], Value::Array(vec![]));
    listing["memfds"].as_array().unwrap().clone()
}

#[track_caller]
fn row_named(name: &str, more: &[&str]) -> Value {
    let mut rows = rows_named(name, more);
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

#[test]
fn each_state_is_judged_as_the_library_judges_it() {
    let name = unique("immutable");
    let file = memfd(&name, 5000, IMMUTABLE);
    let row = row_named(&name, &[]);
    assert_eq!(row["fd"], file.as_raw_fd());
    assert_eq!((&row["state"], &row["refusal"]), (&"immutable".into(), &Value::Null));
    assert_eq!((&row["size"], &row["access"]), (&5000.into(), &"read-write".into()));
    let seals: Vec<_> = row["seals"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for seal in ["shrink", "grow", "write"] {
        assert!(seals.contains(&seal), "{seals:?}");
    }

    let name = unique("shared");
    let _shared = memfd(&name, 4096, Seals::SHRINK);
    let row = row_named(&name, &[]);
    assert_eq!(row["state"], "shared");
    assert!(row["refusal"].as_str().unwrap().contains("lacks the seals write"), "{row}");

    let name = unique("unsealed");
    let unsealed = memfd(&name, 4096, Seals::empty());
    let row = row_named(&name, &[]);
    let error = SealedFile::receive_read_only(unsealed, &SealPolicy::new()).unwrap_err();
    assert_eq!(
        (&row["state"], &row["refusal"]),
        (&Value::Null, &error.reason().to_string().into())
    );

    let name = unique("live");
    if Producer::is_supported() {
        let _producer = Producer::create(&name, 4096).unwrap();
        // The producer's own descriptor can still add seals.
        let rows = rows_named(&name, &[]);
        let access: Vec<_> = rows.iter().map(|row| row["access"].as_str().unwrap()).collect();
        assert!(access.contains(&"read") && access.contains(&"read-write"), "{access:?}");
        for row in rows {
            assert_eq!(
                (&row["state"], &row["mapped_writable"]),
                (&"live".into(), &1.into()),
                "{row}"
            );
        }
    } else {
        eprintln!("no live files on this kernel");
    }
}

#[test]
fn hugetlb_files_are_refused_unless_allowed() {
    let name = unique("huge");
    let flags = MemfdFlags::HUGETLB | MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
    let file = match rustix::fs::memfd_create(&name, flags) {
        Ok(fd) => File::from(fd),
        Err(errno) => return eprintln!("no hugetlb files here: {errno}"),
    };
    add_seals(&file, IMMUTABLE).unwrap();
    let row = row_named(&name, &[]);
    assert_eq!(row["state"], Value::Null);
    assert!(row["refusal"].as_str().unwrap().contains("hugetlb"), "{row}");
    assert_eq!(row_named(&name, &["--allow-hugetlb"])["state"], "immutable");
}

#[test]
fn the_policy_is_that_of_the_options() {
    let name = unique("policy");
    let _file = memfd(&name, 5000, IMMUTABLE);
    for (option, words) in [
        (&["--max-len", "4K"][..], "5000 bytes"),
        (&["--require", "seal"], "lacks the seals seal"),
        (&["--forbid", "grow,seal"], "carries the seals grow"),
        (&["--owner", "4000000"], "uid 4000000"),
    ] {
        let row = row_named(&name, option);
        assert!(row["refusal"].as_str().unwrap().contains(words), "{option:?}: {row}");
    }
    assert_eq!(row_named(&name, &["--max-len", "5000"])["state"], "immutable");
}

#[test]
fn descriptors_are_judged_by_how_they_were_opened() {
    let name = unique("access");
    let file = memfd(&name, 4096, IMMUTABLE - Seals::WRITE);
    let fds = [OFlags::RDONLY, OFlags::WRONLY, OFlags::PATH].map(|flags| reopen(&file, flags));
    add_seals(&file, Seals::WRITE).unwrap();
    let rows = rows_named(&name, &[]);
    let by_fd: BTreeMap<_, _> = rows.iter().map(|row| (row["fd"].as_i64().unwrap(), row)).collect();
    let [read, write, path] = fds.each_ref().map(|fd| by_fd[&fd.as_raw_fd().into()]);

    assert_eq!((&read["access"], &read["state"]), (&"read".into(), &"immutable".into()));
    for (row, access) in [(write, "write"), (path, "path")] {
        assert_eq!((&row["access"], &row["state"]), (&access.into(), &Value::Null));
        assert!(row["refusal"].as_str().unwrap().contains("not open for reading"), "{row}");
        assert!(row["seals"].as_array().is_some_and(|seals| seals.len() >= 3), "{row}");
    }
}

#[test]
fn a_file_that_is_only_mapped_is_found() {
    let name = unique("only mapped");
    let map = SealedFile::from_bytes(&name, [1; 4096]).unwrap().map_read_only().unwrap();
    let row = row_named(&name, &[]);
    assert_eq!(
        (&row["fd"], &row["mapped"], &row["mapped_writable"]),
        (&Value::Null, &1.into(), &0.into())
    );
    if row["error"].is_null() {
        assert_eq!((&row["state"], &row["size"]), (&"immutable".into(), &4096.into()), "{row}");
    } else {
        assert!(!rustix::process::geteuid().is_root(), "{row}");
        eprintln!("it could not be opened: {row}");
    }
    drop(map);
    assert!(rows_named(&name, &[]).is_empty());
}

#[test]
fn names_cannot_garble_a_terminal_and_scripts_get_them_exactly() {
    let unique = unique("hostile");
    let name = format!("{unique} \x1b[2J\x1b]0;title\x07\r\n\u{9b}31m\u{202e}\u{200b}\\\"é");
    let _file = memfd(&name, 1, Seals::empty());
    assert_eq!(row_named(&unique, &[])["name"], name.as_str());

    let pid = own_pid();
    for (out, _) in [
        in_terminal(&mut sealed(&["ls", "--pid", &pid]), 300),
        (run(&["ls", "--pid", &pid]).out, None),
        (run(&["ls", "--json", "--pid", &pid]).out, None),
    ] {
        assert!(out.contains(&unique), "{out:?}");
        for hostile in ["\x1b[2J", "\x1b]", "\x07", "\u{9b}", "\u{202e}", "\u{200b}"] {
            assert!(!out.contains(hostile), "{hostile:?} in {out:?}");
        }
    }
    let table = run(&["ls", "--pid", &pid]).out;
    assert!(
        table.contains(r#"\u{1b}[2J\u{1b}]0;title\u{7}\r\n\u{9b}31m\u{202e}\u{200b}\\"é"#),
        "{table}"
    );
}

#[test]
fn a_table_fits_the_terminal_and_is_whole_without_one() {
    let name = unique(&"long ".repeat(40));
    let _file = memfd(&name, 1 << 20, Seals::SHRINK);
    let pid = own_pid();
    // Without the rows of other tests, which could be wider.
    let arguments = ["ls", "--pid", &pid, "--name", &name];
    for (columns, has_all) in [(40, false), (60, false), (120, true), (200, true)] {
        let (out, status) = in_terminal(&mut sealed(&arguments), columns);
        assert_eq!(status, Some(0));
        for line in out.lines() {
            let line = without_colors(line);
            assert!(line.chars().count() <= columns.into(), "{columns}: {line:?}");
        }
        let title = without_colors(out.lines().next().unwrap());
        assert!(title.contains("PID") && title.contains("NAME") && title.contains("SAFE TO MAP"));
        assert_eq!(title.contains("MEMORY"), has_all, "{columns}: {title}");
        assert!(out.contains('…') && out.contains("copy: shared"), "{out}");
    }
    let Ran { out, err, .. } = run(&arguments);
    assert!(out.contains(&name) && !out.contains('…') && !out.contains('\x1b'), "{out}");
    assert!(err.contains("of memory") && !err.contains("could not be read"), "{err}");
}

fn without_colors(line: &str) -> String {
    let mut parts = line.trim_end().split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[test]
fn rows_are_filtered_and_sorted() {
    let common = unique("sorted");
    let _small = memfd(&format!("b {common}"), 1, IMMUTABLE);
    let _large = memfd(&format!("a {common}"), 1 << 30, Seals::SHRINK);
    let _open = memfd(&format!("c {common}"), 4096, Seals::empty());
    let firsts = |more: &[&str]| -> String {
        let rows = rows_named(&common, more);
        rows.iter().map(|row| row["name"].as_str().unwrap().chars().next().unwrap()).collect()
    };
    assert_eq!(firsts(&[]), "bac");
    assert_eq!(firsts(&["--reverse"]), "cab");
    assert_eq!(firsts(&["--sort", "name"]), "abc");
    assert_eq!(firsts(&["--sort", "size"]), "acb");
    assert_eq!(firsts(&["--sort", "safe"]), "cab");
    assert_eq!(firsts(&["--unsafe"]), "c");
    assert_eq!(firsts(&["--command", "no such command"]), "");
}

#[test]
fn processes_of_others_are_counted() {
    let name = unique("not for nobody");
    let _file = memfd(&name, 1, Seals::empty());
    let pid = own_pid();
    let Some(mut tool) = sealed_as_nobody(&["ls", "--pid", &pid]) else { return };
    let Ran { out, err, status } = ran(&mut tool.command);
    assert_eq!(status, Some(0));
    assert!(err.contains("1 process could not be read (root can)"), "{err}");
    assert!(!out.contains(&name), "{out}");

    let mut tool = sealed_as_nobody(&["ls", "--json"]).unwrap();
    let listing: Value = serde_json::from_str(&ran(&mut tool.command).out).unwrap();
    let unreadable = listing["unreadable"].as_array().unwrap();
    let own = unreadable.iter().find(|process| process["pid"] == std::process::id());
    assert!(own.unwrap()["error"].as_str().unwrap().contains("denied"), "{listing}");
}

#[test]
fn processes_that_end_meanwhile_are_no_trouble() {
    static DONE: AtomicBool = AtomicBool::new(false);

    let name = unique("short-lived");
    let file = memfd(&name, 4096, IMMUTABLE);
    let busy: Vec<_> = (0..2)
        .map(|_| {
            let file = file.try_clone().unwrap();
            thread::spawn(move || {
                let mut pids = Vec::new();
                while !DONE.load(Ordering::Relaxed) {
                    let mut child = Command::new("true");
                    let mut child = child.stdin(file.try_clone().unwrap()).spawn().unwrap();
                    pids.push(u64::from(child.id()));
                    child.wait().unwrap();
                }
                pids
            })
        })
        .collect();
    let mut unreadable = Vec::new();
    for _ in 0..20 {
        let Ran { out, err, status } = run(&["ls", "--json", "--name", &name]);
        assert_eq!(status, Some(0), "{err}");
        let listing: Value = serde_json::from_str(&out).unwrap();
        for row in listing["memfds"].as_array().unwrap() {
            assert_eq!(
                (&row["state"], &row["error"]),
                (&"immutable".into(), &Value::Null),
                "{row}"
            );
        }
        let pids = listing["unreadable"].as_array().unwrap().iter();
        unreadable.extend(pids.map(|process| process["pid"].as_u64().unwrap()));
    }
    DONE.store(true, Ordering::Relaxed);
    let ended: Vec<_> = busy.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert!(ended.len() > 20);
    // Those of another user excepted, which this test does not start.
    assert!(!ended.iter().any(|pid| unreadable.contains(pid)), "{unreadable:?}");
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    let Ran { out, err, status } = run(&["ls", "--pid", "4194304"]);
    assert_eq!((status, out.as_str()), (Some(2), ""));
    assert!(err.contains("no process 4194304"), "{err}");
}

#[test]
fn a_file_on_disk_with_the_name_of_a_memfd_is_none() {
    let name = unique("imitation");
    let path = format!("/memfd:{name} (deleted)");
    let file = match File::create_new(&path) {
        Ok(file) => file,
        Err(error) => return eprintln!("not tested, {path}: {error}"),
    };
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let rows = rows_named(&name, &[]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(link.to_str(), Some(path.as_str()));
    assert!(rows.is_empty(), "{rows:?}");
}

#[test]
fn watching_repeats_the_table() {
    let name = unique("watched");
    let _file = memfd(&name, 1, Seals::empty());
    let mut tool = sealed(&["ls", "--watch", "0.1", "--json", "--name", &name]);
    let mut child = tool.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(3);
    for line in lines.map(Result::unwrap) {
        assert!(line.contains(&name), "{line}");
    }
    // Nobody reads any more, and so it ends.
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
