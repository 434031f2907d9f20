//! Files for peers that compare seals with a fixed set: without `EXEC`, as older versions of
//! systemd-journald want them, and live ones with `SEAL`, as MemField and teal-ipc want them.

mod support;

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, SealFlags, fcntl_get_seals};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use sealed_mmap::{
    CreateOptions, HugePages, Producer, SealFailure, SealPolicy, SealedFile, Seals, get_seals,
};
use support::files::{WHOLE, is_too_old_for, reopen, seal};
use support::kernel::memfd_noexec;
use support::process::{run_alone, runs_alone};
use support::{assert_errno, runs};

const PLAIN: CreateOptions = CreateOptions::new().exec_seal(false);

/// `memfd_get_sealed` of systemd before version 254, without its backport.
fn is_sealed_for_older_journald(fd: impl AsFd) -> bool {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_get_seals(fd).unwrap() == all
}

/// What MemField and teal-ipc compare with.
fn is_live_and_final(fd: impl AsFd) -> bool {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    fcntl_get_seals(fd).unwrap() == all
}

/// What is made without EXEC, but for `vm.memfd_noexec=2`, which puts it on every file: then that is
/// what is checked.
fn without_exec<T>(made: io::Result<T>) -> Option<T> {
    if memfd_noexec() != Some(2) {
        return Some(made.unwrap());
    }
    let error = made.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("vm.memfd_noexec=2"), "{error}");
    eprintln!("not tested, every file carries EXEC here: {error}");
    None
}

fn every_sealed_file(options: CreateOptions) -> impl Iterator<Item = io::Result<SealedFile>> {
    let source = SealedFile::from_bytes("source", b"bytes").unwrap();
    [
        options.from_bytes("record", b"bytes"),
        options.build("record", 5, |_| Ok(())),
        options.build("record", 2 << 20, |_| Ok(())),
        options.copy_of("record", &source, 5),
        options.huge_pages(HugePages::Transparent).from_bytes("record", vec![7; 2 << 20]),
        options.create("record").and_then(|draft| Ok(draft.seal_read_only()?)),
        options.create("record").map(|draft| {
            SealedFile::adopt_read_only(draft.into_file(), &SealPolicy::new()).unwrap()
        }),
    ]
    .into_iter()
}

#[test]
fn files_without_the_exec_seal_pass_the_older_check() {
    for file in every_sealed_file(PLAIN) {
        let Some(file) = without_exec(file) else { return };
        assert!(is_sealed_for_older_journald(&file), "{file:?}");
        let exactly = SealPolicy::new().exactly(Seals::GROW | Seals::SEAL);
        SealedFile::receive_read_only(file, &exactly).unwrap();
    }
    // Control: where the kernel has EXEC, the default does not pass.
    let exec_exists = seal(SealedFile::create("control").unwrap().into_file(), Seals::EXEC).is_ok();
    for file in every_sealed_file(CreateOptions::new()) {
        assert_eq!(is_sealed_for_older_journald(file.unwrap()), !exec_exists);
    }
}

#[test]
fn a_file_without_the_exec_seal_is_not_executable() {
    let Some(draft) = without_exec(PLAIN.create("data")) else { return };
    let file = draft.into_file();
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o666);
    assert_eq!(get_seals(&file).unwrap(), Seals::empty());

    let execute = |options: CreateOptions| {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        let file = options.copy_of("program", &program, u64::MAX).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Command::new(path).arg("--list").output()
    };
    assert_eq!(execute(PLAIN).unwrap_err().kind(), ErrorKind::PermissionDenied);
    // Control: the mode is all that keeps it from being executed, and it can be changed.
    assert!(execute(PLAIN.executable(true)).unwrap().status.success());
    file.set_permissions(Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn without_the_exec_seal_sealing_can_still_be_ruled_out() {
    let Some(draft) = without_exec(PLAIN.allow_sealing(false).create("scratch")) else { return };
    assert_eq!(draft.get_seals().unwrap(), Seals::SEAL);
    assert_eq!(draft.metadata().unwrap().mode() & 0o777, 0o666);
    assert_eq!(draft.seal_read_only().unwrap_err().reason(), SealFailure::NotAllowed);
}

#[test]
fn a_producer_never_carries_the_exec_seal() {
    for options in [CreateOptions::new(), PLAIN, CreateOptions::new().exec_seal(true)] {
        let Some(producer) = runs::live(options.create_producer("live", 8)) else { return };
        assert!(!producer.file().get_seals().unwrap().contains(Seals::EXEC));
        assert_eq!(producer.file().metadata().unwrap().mode() & 0o777, 0o444);
    }
    let error = PLAIN.executable(true).create_producer("live", 8).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_producer_with_final_seals_is_what_strict_readers_want() {
    let options = CreateOptions::new().final_seals(true);
    let Some(mut producer) = runs::live(options.create_producer("coverage", 64)) else { return };
    assert!(is_live_and_final(producer.file()));
    let exactly = SealPolicy::new().exactly(Seals::GROW | Seals::SEAL);
    let sent = producer.file().try_clone().unwrap();
    let reader = SealedFile::receive_future_write(sent, &exactly).unwrap().map_live().unwrap();
    producer.write_at(0, b"a hit").unwrap();
    assert_eq!(reader.to_vec(..5).unwrap(), b"a hit");

    // Control: without the option they refuse it.
    let plain = Producer::create("coverage", 64).unwrap();
    assert!(!is_live_and_final(plain.file()));
}

/// The same user can open the file for writing after all, and so add seals.
fn writable(producer: &Producer) -> OwnedFd {
    let file = File::from(producer.file().as_fd().try_clone_to_owned().unwrap());
    file.set_permissions(Permissions::from_mode(0o666)).unwrap();
    reopen(&file, OFlags::RDWR)
}

#[test]
fn nobody_adds_a_seal_to_final_ones() {
    let seals = [Seals::WRITE, Seals::SEAL, Seals::EXEC];
    for seal_of_a_peer in seals {
        let options = CreateOptions::new().final_seals(true);
        let Some(producer) = runs::live(options.create_producer("live", 8)) else { return };
        let before = producer.file().get_seals().unwrap();
        let refused = seal(writable(&producer), seal_of_a_peer).unwrap_err();
        assert!(refused == Errno::PERM || is_too_old_for(seal_of_a_peer, refused), "{refused}");
        assert_eq!(producer.file().get_seals().unwrap(), before);
    }
    // Control: to others they can be added.
    let plain = Producer::create("live", 8).unwrap();
    seal(writable(&plain), Seals::SEAL).unwrap();
}

#[test]
fn final_seals_refuse_to_be_finished_at_once() {
    for len in [0, 4096, 1 << 20] {
        let options = CreateOptions::new().final_seals(true);
        let fill = |bytes: &mut [u8]| {
            bytes.fill(7);
            Ok(())
        };
        let Some(producer) = runs::live(options.build_producer("live", len, fill)) else { return };
        let reader = producer.file().map_live().unwrap();

        let start = Instant::now();
        let error = producer.finish().unwrap_err();
        let took = start.elapsed();
        assert_eq!(error.reason(), SealFailure::NotAllowed);
        assert!(took < Duration::from_millis(500), "{took:?}");
        let (error, live) = error.into_parts();
        assert_errno(Err::<(), _>(error), Errno::PERM);

        // The file is as it was, and so it stays.
        assert!(is_live_and_final(&live));
        assert_eq!(reader.to_vec(..).unwrap(), vec![7; len as usize]);
        assert_eq!(live.map_live().unwrap().to_vec(..).unwrap(), vec![7; len as usize]);
        assert_eq!(live.finish().unwrap_err().reason(), SealFailure::NotAllowed);
    }
    // Control: others can be finished.
    Producer::create("live", 4096).unwrap().finish().unwrap();
}

#[test]
fn final_seals_change_nothing_about_files_from_drafts() {
    let options = CreateOptions::new().final_seals(true);
    for file in every_sealed_file(options) {
        assert!(file.unwrap().get_seals().unwrap().contains(WHOLE));
    }
    assert!(!options.create("draft").unwrap().get_seals().unwrap().contains(Seals::SEAL));
}

/// The setting is that of a PID namespace, so that a new one can have another.
#[test]
fn a_sysctl_that_puts_exec_on_every_file_is_named() {
    const TEST: &str = "a_sysctl_that_puts_exec_on_every_file_is_named";
    const SETTING: &str = "/proc/sys/vm/memfd_noexec";

    if runs_alone() {
        if std::process::id() != 1 {
            return eprintln!("not tested: no PID namespace can be made here");
        }
        if let Err(error) = fs::write(SETTING, "2") {
            return eprintln!("not tested, {SETTING} cannot be set here: {error}");
        }
        let unsupported = [
            PLAIN.create("plain").err(),
            PLAIN.from_bytes("plain", b"bytes").err(),
            PLAIN.allow_sealing(false).create("plain").err(),
            Producer::create("live", 8).err(),
        ];
        for error in unsupported {
            let error = error.unwrap();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("vm.memfd_noexec=2"), "{error}");
        }
        // Control: what may carry it can be made.
        let file = SealedFile::from_bytes("default", b"bytes").unwrap();
        assert!(file.get_seals().unwrap().contains(WHOLE | Seals::EXEC));
        return;
    }
    // Only children of this thread are in the new namespace.
    let child = thread::spawn(|| {
        // SAFETY: no descriptor is unshared.
        #[allow(unsafe_code, reason = "unshare(2)")]
        let _ = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) };
        run_alone(TEST, Stdio::null())
    });
    let output = child.join().unwrap();
    let [text, errors] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{text}{errors}");
    eprint!("{errors}");
}
