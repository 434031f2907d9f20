//! What a new file is: private to its process, not executable, sealable, and named for debugging only.

mod support;

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sealed_mmap::{
    CreateOptions, ReadOnlySealed, SealFailure, SealedFile, Seals, State, Unsealed, add_seals,
    get_seals,
};
use support::errno_of;
use support::files::proc_path;
use support::process::{is_alone, open_descriptors, run_alone, runs_alone};

/// `None`, after saying so, where the machine forbids executable memory files.
fn executable_draft(name: &str) -> Option<SealedFile<Unsealed>> {
    let forbidden =
        fs::read_to_string("/proc/sys/vm/memfd_noexec").is_ok_and(|text| text.trim() == "2");
    match CreateOptions::new().executable(true).create(name) {
        Ok(file) => {
            assert!(!forbidden, "vm.memfd_noexec=2, yet {name} is executable");
            Some(file)
        }
        Err(error) => {
            assert!(forbidden, "{error}");
            assert_eq!(error.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
            eprintln!("{name}: vm.memfd_noexec=2 forbids executable files, as it should");
            None
        }
    }
}

/// The program that these tests are, in a memory file, asked for its list of tests.
fn execute(options: CreateOptions) -> io::Result<Output> {
    let program = File::open(std::env::current_exe()?)?;
    let file = options.copy_of("program", &program, u64::MAX)?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    Command::new(path).arg("--list").output()
}

#[test]
fn a_file_cannot_be_executed_unless_asked_for() {
    let error = execute(CreateOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);

    if executable_draft("control").is_some() {
        let output = execute(CreateOptions::new().executable(true)).unwrap();
        let tests = String::from_utf8(output.stdout).unwrap();
        assert!(tests.contains("a_file_cannot_be_executed_unless_asked_for: test"), "{tests}");
    }
}

#[test]
fn a_file_cannot_become_executable_where_the_kernel_can_seal_it() {
    let file = SealedFile::create("data").unwrap().into_file();
    assert_eq!(file.metadata().unwrap().mode() & 0o7111, 0);

    let turned = file.set_permissions(Permissions::from_mode(0o777));
    match memfd_create("probe", MemfdFlags::NOEXEC_SEAL) {
        Ok(_) => {
            assert!(get_seals(&file).unwrap().contains(Seals::EXEC));
            assert_eq!(turned.unwrap_err().raw_os_error(), Some(Errno::PERM.raw_os_error()));
        }
        Err(errno) => {
            assert_eq!(errno, Errno::INVAL);
            turned.unwrap();
            eprintln!("this kernel (before 6.3) cannot seal the executable bits");
        }
    }

    let Some(control) = executable_draft("control") else { return };
    let control = control.into_file();
    assert_eq!(control.metadata().unwrap().mode() & 0o111, 0o111);
    assert!(!get_seals(&control).unwrap().contains(Seals::EXEC));
    for mode in [0o666, 0o777] {
        control.set_permissions(Permissions::from_mode(mode)).unwrap();
        assert_eq!(control.metadata().unwrap().mode() & 0o777, mode);
    }
}

#[test]
fn a_file_that_disallows_sealing_can_never_be_sealed() {
    let options = CreateOptions::new().allow_sealing(false);
    let mut files = vec![options.create("never sealed").unwrap()];
    if executable_draft("control").is_some() {
        files.push(options.executable(true).create("never sealed, executable").unwrap());
    }
    for mut file in files {
        file.write_all(b"kept").unwrap();
        let id = (file.metadata().unwrap().dev(), file.metadata().unwrap().ino());

        let error = file.seal_read_only().unwrap_err();
        assert_eq!(error.reason(), SealFailure::NotAllowed);
        assert_eq!(error.error().raw_os_error(), Some(Errno::PERM.raw_os_error()));

        let mut file = error.into_file();
        assert_eq!((file.metadata().unwrap().dev(), file.metadata().unwrap().ino()), id);
        assert_eq!(file.stream_position().unwrap(), 4);
        file.write_all(b" writable").unwrap();
        assert_eq!(&file.map_mut().unwrap()[..], b"kept writable");

        let file = file.into_file();
        assert!(get_seals(&file).unwrap().contains(Seals::SEAL));
        for seal in Seals::all().iter() {
            let error = add_seals(&file, seal).unwrap_err();
            let beyond_this_kernel = [Seals::FUTURE_WRITE, Seals::EXEC].contains(&seal);
            match error.kind() {
                ErrorKind::InvalidInput if beyond_this_kernel => {}
                kind => assert_eq!(kind, ErrorKind::PermissionDenied, "{seal}"),
            }
        }
    }

    let source = SealedFile::from_bytes("source", b"bytes").unwrap();
    for refused in [
        options.from_bytes("never sealed", b"bytes"),
        options.build("never sealed", 5, |_| Ok(())),
        options.copy_of("never sealed", &source, 5),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(errno_of(&error), Errno::PERM);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("no more seals can be added"), "{error}");
    }

    let control = SealedFile::create("control").unwrap().seal_read_only().unwrap();
    assert!(control.get_seals().unwrap().contains(ReadOnlySealed::REQUIRED));
}

#[test]
fn the_name_is_taken_as_it_is_and_shown_in_proc() {
    let longest = "x".repeat(249);
    let longest_in_two_byte_letters = format!("{}x", "é".repeat(124));
    for name in ["", "/", "../a/b", "line\nbreak", &longest, &longest_in_two_byte_letters] {
        let file = SealedFile::create(name).unwrap().into_file();
        let link = fs::read_link(proc_path(&file)).unwrap();
        assert_eq!(link.as_os_str().as_bytes(), format!("/memfd:{name} (deleted)").as_bytes());
    }
    for name in [c"", c"caf\xe9", c"\xff\xfe/"] {
        let file = CreateOptions::new().create_cstr(name).unwrap().into_file();
        let link = fs::read_link(proc_path(&file)).unwrap();
        let expected = [b"/memfd:", name.to_bytes(), b" (deleted)"].concat();
        assert_eq!(link.as_os_str().as_bytes(), expected);
    }
}

#[test]
fn a_name_that_the_kernel_refuses_is_an_error_that_says_why() {
    let too_long = ["x".repeat(250), "é".repeat(125), "x".repeat(1 << 20)];
    let source = SealedFile::from_bytes("source", b"").unwrap();
    let options = CreateOptions::new();
    let mut refusals = Vec::new();
    for name in &too_long {
        let c_name = CString::new(name.as_str()).unwrap();
        refusals.push((options.create_cstr(&c_name).map(drop), "249 bytes"));
        refusals.push((SealedFile::create(name).map(drop), "249 bytes"));
        refusals.push((SealedFile::from_bytes(name, b"").map(drop), "249 bytes"));
        refusals.push((SealedFile::build(name, 0, |_| Ok(())).map(drop), "249 bytes"));
        refusals.push((SealedFile::copy_of(name, &source, 0).map(drop), "249 bytes"));
    }
    for name in ["\0", "a\0b", "end\0"] {
        refusals.push((SealedFile::create(name).map(drop), "NUL"));
    }
    for (refused, reason) in refusals {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn files_of_the_same_name_have_nothing_in_common() {
    let mut one = SealedFile::create("twin").unwrap();
    let mut other = SealedFile::create("twin").unwrap();
    assert_ne!(one.metadata().unwrap().ino(), other.metadata().unwrap().ino());

    one.write_all(b"one").unwrap();
    assert!(other.is_empty().unwrap());
    let one = one.seal_read_only().unwrap();
    other.write_all(b"other").unwrap();
    assert_eq!(&one.map_read_only().unwrap()[..], b"one");
}

#[test]
fn a_new_file_is_empty_and_at_its_beginning() {
    for (options, what) in [
        (CreateOptions::new(), "new"),
        (CreateOptions::default(), "default"),
        (CreateOptions::new().allow_sealing(false), "not sealable"),
    ] {
        let mut file = options.create("new").unwrap();
        assert!(file.is_empty().unwrap(), "{what}");
        assert_eq!(file.stream_position().unwrap(), 0, "{what}");
        assert_eq!(file.read(&mut [0]).unwrap(), 0, "{what}");
    }
}

#[test]
fn every_descriptor_is_close_on_exec() {
    let sealed = || SealedFile::from_bytes("sealed", b"bytes").unwrap();
    let draft = SealedFile::create("draft").unwrap();
    let never_sealed = CreateOptions::new().allow_sealing(false).create("never sealed").unwrap();
    let files = [
        File::from(draft),
        File::from(never_sealed),
        File::from(sealed()),
        File::from(SealedFile::build("built", 5, |_| Ok(())).unwrap()),
        File::from(SealedFile::copy_of("copy", sealed(), 5).unwrap()),
        File::from(sealed().try_clone().unwrap()),
        File::from(sealed().reopen().unwrap()),
    ];
    for file in files {
        assert!(fcntl_getfd(&file).unwrap().contains(FdFlags::CLOEXEC), "{file:?}");
    }
}

#[test]
fn a_program_that_is_started_does_not_get_the_file() {
    const TEST: &str = "a_program_that_is_started_does_not_get_the_file";
    const NAME: &str = "not for children";

    let holds_the_file = || {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .any(|link| link.to_string_lossy().contains(NAME))
    };
    if runs_alone() {
        assert!(!holds_the_file());
        return;
    }
    let file = SealedFile::create(NAME).unwrap().into_file();
    assert!(holds_the_file());
    assert!(run_alone(TEST, Stdio::null()).status.success());

    fcntl_setfd(file.as_fd(), FdFlags::empty()).unwrap();
    assert!(!run_alone(TEST, Stdio::null()).status.success());
}

#[test]
fn running_out_of_descriptors_is_an_error_that_leaks_none() {
    if !is_alone("running_out_of_descriptors_is_an_error_that_leaks_none") {
        return;
    }
    let source = SealedFile::from_bytes("source", b"bytes").unwrap();
    let unlimited = getrlimit(Resource::Nofile);
    let attempt = |room: u64, make: &dyn Fn() -> io::Result<()>| {
        // The limit is on numbers, which need not be contiguous, and not on how many are open.
        let free: Vec<_> = (0..=room).map(|_| source.try_clone().unwrap()).collect();
        let beyond = free.last().map(|file| file.as_raw_fd() as u64);
        let limit = Rlimit { current: beyond, ..unlimited };
        drop(free);
        let before = open_descriptors();
        setrlimit(Resource::Nofile, limit).unwrap();
        let result = make();
        setrlimit(Resource::Nofile, unlimited).unwrap();
        assert_eq!(open_descriptors(), before);
        result.map_err(|error| error.raw_os_error())
    };

    let create = || SealedFile::create("no room").map(drop);
    let from_bytes = || SealedFile::from_bytes("no room", b"bytes").map(drop);
    let build = || SealedFile::build("no room", 5, |_| Ok(())).map(drop);
    let copy_of = || SealedFile::copy_of("no room", &source, 5).map(drop);
    let (pipe, _) = rustix::pipe::pipe().unwrap();
    let copy_of_a_stream = || SealedFile::copy_of("no room", &pipe, 5).map(drop);
    let try_clone = || source.try_clone().map(drop);
    let reopen = || source.reopen().map(drop);
    let map_range = || source.map_range(1..3).map(drop);
    let makers: [(&dyn Fn() -> io::Result<()>, u64); 8] = [
        (&create, 1),
        (&from_bytes, 1),
        (&build, 1),
        (&copy_of, 1),
        (&copy_of_a_stream, 1),
        (&try_clone, 1),
        (&reopen, 1),
        (&map_range, 0),
    ];
    for (index, (make, needs)) in makers.into_iter().enumerate() {
        for room in 0..needs {
            let refused = attempt(room, make);
            assert_eq!(refused, Err(Some(Errno::MFILE.raw_os_error())), "{index}, {room}");
        }
        assert_eq!(attempt(needs, make), Ok(()), "{index}");
    }
}
