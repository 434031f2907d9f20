//! The mode of a new file is the one that was asked for, and fits what the file is for.

mod support;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::Mode;
use rustix::process::umask;
use sealed_mmap::{CreateOptions, HugePages, Producer, SealedFile};
use support::errno_of;
use support::files::{is_root, read_only};
use support::process::is_alone;
use support::runs::live;

fn mode_of(file: &File) -> u32 {
    file.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_mode_is_the_one_asked_for_whatever_the_umask() {
    if !is_alone("the_mode_is_the_one_asked_for_whatever_the_umask") {
        return;
    }
    umask(Mode::from_raw_mode(0o077));
    for mode in [0o000, 0o400, 0o444, 0o600, 0o606, 0o640, 0o666] {
        let options = CreateOptions::new().mode(mode);
        let fill = |_: &mut [u8]| Ok(());
        let file = |file: io::Result<SealedFile>| File::from(file.unwrap());
        for file in [
            options.create("mode").unwrap().into_file(),
            options.create_cstr(c"mode").unwrap().into_file(),
            options.allow_sealing(false).create("mode").unwrap().into_file(),
            file(options.from_bytes("mode", b"bytes")),
            file(options.build("mode", 5, fill)),
            file(options.huge_pages(HugePages::Transparent).build("mode", 2 << 20, fill)),
            file(options.copy_of("mode", File::open("/proc/version").unwrap(), 1 << 12)),
        ] {
            assert_eq!(mode_of(&file), mode, "{mode:#o}");
        }
    }
    for mode in [0o100, 0o500, 0o511, 0o755, 0o777] {
        match CreateOptions::new().executable(true).mode(mode).create("mode") {
            Ok(file) => assert_eq!(mode_of(&file.into_file()), mode, "{mode:#o}"),
            Err(error) => {
                assert_eq!(errno_of(&error), rustix::io::Errno::ACCESS);
                eprintln!("not tested: vm.memfd_noexec=2 forbids executable files, as it should");
            }
        }
    }
    // Control: without one it is that of every memfd, which no umask changes either.
    assert_eq!(mode_of(&SealedFile::create("mode").unwrap().into_file()), 0o666);
}

#[track_caller]
fn refused<T>(outcome: io::Result<T>, because: &str) {
    let error = outcome.err().expect("it is refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(because), "{error}");
}

#[test]
fn other_bits_than_permissions_are_refused() {
    for mode in [0o1666, 0o2666, 0o4755, 0o7777, 0o100_644, u32::MAX] {
        for executable in [false, true] {
            let options = CreateOptions::new().executable(executable).mode(mode);
            refused(
                options.create("bits"),
                &format!("{mode:#o} has more than the permission bits"),
            );
            refused(options.from_bytes("bits", b"bytes"), "permission bits");
        }
    }
}

#[test]
fn a_mode_that_contradicts_the_other_options_is_refused() {
    for mode in [0o001, 0o010, 0o100, 0o755] {
        refused(CreateOptions::new().mode(mode).create("data"), "takes CreateOptions::executable");
    }
    for mode in [0o000, 0o666] {
        let options = CreateOptions::new().executable(true).mode(mode);
        refused(options.create("program"), "lets nobody execute the file");
    }
}

#[test]
fn a_live_file_has_no_write_bits() {
    let default = live(Producer::create("live", 8));
    let Some(producer) = default else { return };
    assert_eq!(mode_of(&producer.file().try_clone().unwrap().into()), 0o444);
    for mode in [0o400, 0o440] {
        let producer = CreateOptions::new().mode(mode).create_producer("live", 8).unwrap();
        assert_eq!(mode_of(&producer.file().try_clone().unwrap().into()), mode);
        producer.finish().unwrap();
    }
    for mode in [0o600, 0o422, 0o666] {
        refused(CreateOptions::new().mode(mode).create_producer("live", 8), "has write bits");
    }
    refused(CreateOptions::new().mode(0o555).create_producer("live", 8), "executable");
    refused(CreateOptions::new().mode(0o4444).create_producer("live", 8), "permission bits");
}

#[test]
fn another_user_opens_what_the_mode_lets_it() {
    if !is_root() {
        return eprintln!("not tested: only root can become somebody else");
    }
    let opens_for_writing = |mode| {
        let file = CreateOptions::new().mode(mode).from_bytes("mode", b"bytes").unwrap();
        let mut somebody = Command::new("/bin/sh");
        somebody.args(["-c", ": >>/proc/self/fd/0"]).uid(12_345).gid(12_345).current_dir("/");
        let output = somebody.stdin(read_only(&file.into())).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (opens, complaint) = opens_for_writing(0o444);
    assert!(!opens && complaint.contains("ermission denied"), "{complaint}");
    assert!(!opens_for_writing(0o600).0);
    // Control: with the default mode it does, and can reserve memory.
    assert_eq!(opens_for_writing(0o666), (true, String::new()));
}
