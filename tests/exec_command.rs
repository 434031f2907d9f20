//! An immutable file is executed as it was sealed, by whom it was meant for, and neither its descriptor
//! nor its bytes get anywhere else.
#![cfg(any(target_os = "linux", target_os = "android"))]
#![allow(unsafe_code, reason = "pre_exec, and programs that are started the wrong way")]

mod support;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::{env, thread};

use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::UnshareFlags;
use sealed_mmap::{CreateOptions, SealPolicy, SealedFile, Seals};
use support::files::{
    IMMUTABLE, is_root, is_too_old_for, proc_path, read_only, reopen, seal, seals_of,
};
use support::process::{ENTRY, Forked, cast, is_alone, role};
use support::runs::traces;

const LIMIT: u64 = 1 << 30;

/// `None`, after saying so, where the machine forbids executable memory files.
fn executable(file: io::Result<SealedFile>) -> Option<SealedFile> {
    let setting = fs::read_to_string("/proc/sys/vm/memfd_noexec").unwrap_or_default();
    if setting.trim() != "2" {
        return Some(file.unwrap());
    }
    assert_eq!(support::errno_of(&file.unwrap_err()), Errno::ACCESS);
    eprintln!("not tested: vm.memfd_noexec=2 forbids executable files, as it should");
    None
}

fn program(name: &str, bytes: impl AsRef<[u8]>) -> Option<SealedFile> {
    executable(CreateOptions::new().executable(true).from_bytes(name, bytes))
}

fn elf(name: &str) -> Option<SealedFile> {
    let this = File::open(env::current_exe().unwrap()).unwrap();
    executable(CreateOptions::new().executable(true).copy_of(name, this, LIMIT))
}

#[track_caller]
fn said(output: io::Result<Output>) -> String {
    let output = output.unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {complaints}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A command that says which descriptors it has.
fn descriptors() -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "for link in /proc/$$/fd/*; do readlink $link || :; done"]);
    command
}

fn lose_close_on_exec(fd: impl AsFd) {
    fcntl_setfd(fd, FdFlags::empty()).unwrap();
}

/// Not a promise: an ELF program, whose first argument is its own.
#[test]
fn role_of_another_process() {
    let Some(role) = role() else { return };
    assert_eq!(role.name, "elf");
    println!();
    println!("arg0 {}", env::args().next().unwrap());
    println!("PLANET {}", env::var("PLANET").unwrap_or_default());
    println!("in {}", env::current_dir().unwrap().display());
    println!("exe {}", fs::read_link("/proc/self/exe").unwrap().display());
    println!("stdin {}", io::read_to_string(File::from(role.fd)).unwrap());
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        if let Ok(link) = fs::read_link(entry.unwrap().path()) {
            println!("has {}", link.display());
        }
    }
}

#[test]
fn an_elf_program_gets_what_every_command_gives() {
    const NAME: &str = "exec-elf";
    let Some(file) = elf(NAME) else { return };
    let mut input = SealedFile::create("input").unwrap();
    input.write_all(b"from the file").unwrap();
    let mut command = file.command().unwrap();
    drop(file);
    let text = said(
        cast(&mut command, ENTRY, "elf")
            .arg0("renamed")
            .env("PLANET", "Earth")
            .current_dir("/")
            .stdin(input.seal_read_only().unwrap())
            .output(),
    );
    for line in ["arg0 renamed", "PLANET Earth", "in /", "stdin from the file"] {
        assert!(text.lines().any(|seen| seen == line), "{line}: {text}");
    }
    assert!(text.contains("exe /memfd:exec-elf"), "it runs from memory: {text}");
    assert!(text.contains("has /memfd:input") && !text.contains("has /memfd:exec-elf"), "{text}");

    // The same command starts a second time, and takes its descriptor with it.
    assert!(said(command.env_remove("PLANET").stdin(Stdio::null()).output()).contains("PLANET \n"));
    assert_eq!(traces(NAME).0, 1);
    drop(command);
    assert_eq!(traces(NAME).0, 0);
}

#[test]
fn a_script_gets_what_every_command_gives() {
    let script = "#!/bin/sh\necho \"$# $1 $2 $PLANET\"\npwd\ncat\n";
    let Some(file) = program("exec-script", script) else { return };
    let mut command = file.command().unwrap();
    command.args(["to", "$HOME"]).env("PLANET", "Earth").current_dir("/");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"input").unwrap();
    assert_eq!(said(child.wait_with_output()), "2 to $HOME Earth\n/\ninput");

    // Its interpreter has to open it, by the path that it is given.
    let Some(file) = program("exec-own", "#!/bin/sh\nreadlink $0\n") else { return };
    assert!(said(file.command().unwrap().output()).contains("/memfd:exec-own"));
}

#[test]
fn a_program_executes_through_a_read_only_descriptor() {
    let Some(file) = program("exec-read-only", "#!/bin/sh\necho done\n") else { return };
    let file = SealedFile::try_from(read_only(&file.into())).unwrap();
    assert_eq!(said(file.command().unwrap().output()), "done\n");
    assert_eq!(said(file.reopen().unwrap().command().unwrap().output()), "done\n");
}

/// Without EXEC the write seal needs no trust in the kernel.
#[test]
fn an_executable_file_is_accepted_by_every_kernel() {
    let Some(file) = program("exec-sent", "#!/bin/sh\necho done\n") else { return };
    let seals = file.get_seals().unwrap();
    assert!(seals.contains(IMMUTABLE | Seals::GROW | Seals::SEAL), "{seals}");
    assert!(!seals.intersects(Seals::EXEC | Seals::FUTURE_WRITE), "{seals}");
    let file = SealedFile::receive_read_only(file, &SealPolicy::untrusted(1 << 10)).unwrap();
    assert_eq!(said(file.command().unwrap().output()), "done\n");
    assert_eq!(seals_of(&file), seals, "executing changes no seal");

    // Attack: EXEC, added later by whoever has the file, would make it look untrustworthy.
    let errno = seal(&file, Seals::EXEC).unwrap_err();
    assert!(errno == Errno::PERM || is_too_old_for(Seals::EXEC, errno), "{errno}");
}

/// Runs `meanwhile` after the child was forked, and before it executes its program.
fn while_starting(mut command: Command, meanwhile: impl FnOnce()) -> Output {
    let pipe =
        || pipe_with(PipeFlags::CLOEXEC).map(|(end, start)| (File::from(end), File::from(start)));
    let (mut in_child, mut to_child) = pipe().unwrap();
    let (mut from_child, mut out_of_child) = pipe().unwrap();
    let wait = move || {
        out_of_child.write_all(b"forked")?;
        in_child.read_exact(&mut [0; 2])
    };
    // SAFETY: a write and a read, which signal-safety(7) lists.
    unsafe { command.pre_exec(wait) };
    let child = thread::spawn(move || command.output().unwrap());
    from_child.read_exact(&mut [0; 6]).unwrap();
    meanwhile();
    to_child.write_all(b"go").unwrap();
    child.join().unwrap()
}

#[test]
fn programs_started_meanwhile_do_not_inherit_the_file() {
    const NAME: &str = "exec-meanwhile";
    let Some(file) = program(NAME, "#!/bin/sh\nreadlink $0\n") else { return };
    let has_it = || said(descriptors().output()).contains(NAME);

    // Attack: programs are started before, during and after the start of the script.
    let command = file.command().unwrap();
    assert!(!has_it());
    let output = while_starting(command, || assert!(!has_it()));
    assert!(said(Ok(output)).contains(NAME), "the script itself has it");
    assert!(!has_it());

    // Control: a descriptor that is made inheritable for the child, as is often done, is everybody's.
    let fd = file.as_fd().try_clone_to_owned().unwrap();
    lose_close_on_exec(&fd);
    let output = while_starting(Command::new(proc_path(&fd)), || assert!(has_it()));
    assert!(said(Ok(output)).contains(NAME));
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    const NAME: &str = "exec-failing";
    let Some(file) = program(NAME, "#!/no/such/interpreter\n") else { return };
    let mut command = file.command().unwrap();
    for _ in 0..3 {
        assert_eq!(command.spawn().unwrap_err().kind(), ErrorKind::NotFound);
    }
    let number = command.get_program().to_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let number: i32 = number.parse().unwrap();
    // SAFETY: the command holds it open.
    let duplicate = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    assert_eq!(fcntl_getfd(duplicate).unwrap(), FdFlags::CLOEXEC);
    assert!(number > 2 && number != file.as_raw_fd());
    assert_eq!(traces(NAME), (2, 0));
    drop(command);
    assert_eq!(traces(NAME), (1, 0));

    // What is refused before there is a command leaves nothing either.
    let no_program = program(NAME, "").unwrap();
    no_program.command().unwrap_err();
    drop(no_program);
    assert_eq!(traces(NAME), (1, 0));
}

#[test]
fn a_file_that_is_not_executable_is_refused_by_name() {
    let script = "#!/bin/sh\necho done\n";
    let file = SealedFile::from_bytes("exec-data", script).unwrap();
    let error = file.command().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("CreateOptions::executable"), "{error}");
    // Control: so does the kernel.
    let fd = file.try_clone().unwrap();
    assert_eq!(
        Command::new(proc_path(&fd)).spawn().unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
}

/// Runs it as a `Command` with any function before the exec does: with `execvp(3)`.
fn by_execvp(file: &SealedFile) -> io::Result<Output> {
    let fd = file.as_fd().try_clone_to_owned().unwrap();
    let mut command = Command::new(proc_path(&fd));
    // SAFETY: it is one system call, which signal-safety(7) lists.
    unsafe { command.pre_exec(move || Ok(fcntl_setfd(&fd, FdFlags::empty())?)) };
    command.output()
}

#[test]
fn no_shell_runs_what_is_no_program() {
    let texts: [&[u8]; 6] =
        [b"", b"\n", b"echo owned\n", b"#", b" #!/bin/sh\necho owned\n", b"\x7fEL\necho owned\n"];
    for text in texts {
        let Some(file) = program("exec-text", text) else { return };
        let error = file.command().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{}", text.escape_ascii());
        assert!(error.to_string().contains("neither ELF nor a script"), "{error}");
    }
    // Attack: it begins like an ELF program and goes on as commands of a shell.
    let Some(file) = program("exec-text", b"\x7fELF\necho owned\n") else { return };
    match file.command().unwrap().output() {
        // Where the C library does not call the shell.
        Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::NOEXEC.raw_os_error())),
        Ok(output) => {
            assert!(!output.status.success());
            assert_eq!(output.stdout, b"", "the shell could read it");
        }
    }
    // Control: with a descriptor that every program gets, the shell runs both.
    for text in [&b"echo owned\n"[..], b"\x7fELF\necho owned\n"] {
        let file = program("exec-text", text).unwrap();
        match by_execvp(&file) {
            Ok(output) => assert_eq!(output.stdout, b"owned\n", "{}", text.escape_ascii()),
            Err(error) if cfg!(target_env = "gnu") => panic!("{error}"),
            Err(_) => eprintln!("control not run: this C library calls no shell"),
        }
    }
}

#[test]
fn a_script_names_its_interpreter_or_is_refused() {
    let too_long = format!("#!/{}\n", "x".repeat(253));
    let cut_off = format!("#!{}/bin/sh\n", " ".repeat(247));
    for text in ["#!", "#!\n/bin/sh\n", "#! \t \n", "#!\0/bin/sh\n", &too_long, &cut_off] {
        let Some(file) = program("exec-unnamed", text) else { return };
        let error = file.command().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{text:?}");
        assert!(error.to_string().contains("do not name an interpreter"), "{error}");
    }
    // Control: whatever is accepted runs.
    let padded = format!("#!{}/bin/sh\necho \"$1\"\n", " ".repeat(246));
    for text in ["#!/bin/sh\necho \"$1\"\n", "#! \t/bin/sh -e\necho \"$1\"\n", &padded] {
        let file = program("exec-named", text).unwrap();
        assert_eq!(said(file.command().unwrap().arg("done").output()), "done\n", "{text:?}");
    }
    let file = program("exec-named", "#!/bin/sh").unwrap();
    assert_eq!(said(file.command().unwrap().output()), "");
}

#[test]
fn a_missing_interpreter_is_not_found() {
    let Some(file) = program("exec-missing", "#!/no/such/interpreter -x\n") else { return };
    let error = file.command().unwrap().spawn().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NOENT.raw_os_error()));
}

#[test]
fn a_description_opened_for_writing_is_text_file_busy() {
    // A child that another test has just forked has what is open here, until it executes its program.
    if !is_alone("a_description_opened_for_writing_is_text_file_busy") {
        return;
    }
    let Some(file) = program("exec-busy", "#!/bin/sh\necho done\n") else { return };
    let mut command = file.command().unwrap();
    // Attack: a peer opens the file, and can do no more than that.
    let opened = File::from(reopen(&file, OFlags::RDWR));
    assert_eq!(opened.write_at(b"x", 0).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(command.output().unwrap_err().kind(), ErrorKind::ExecutableFileBusy);
    let copy = CreateOptions::new().executable(true).copy_of("exec-copy", &file, 1 << 10).unwrap();
    assert_eq!(said(copy.command().unwrap().output()), "done\n", "a copy helps");
    // Control: the descriptors that have only been duplicated are writable, too.
    drop(opened);
    assert_eq!(said(command.output()), "done\n");
}

/// The mode is the kernel's to judge, and says for whom.
#[test]
fn the_mode_says_who_may_execute_the_file() {
    const SOMEBODY: u32 = 12_345;
    if !is_root() {
        return eprintln!("not tested: only root can become somebody else");
    }
    let script = "#!/bin/sh\necho done\n";
    let run = |mode, uid: Option<u32>| {
        let options = CreateOptions::new().executable(true).mode(mode);
        let file = executable(options.from_bytes("exec-mode", script))?;
        let mut command = file.command().unwrap();
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        Some(command.output())
    };
    let Some(as_owner) = run(0o500, None) else { return };
    assert_eq!(said(as_owner), "done\n");
    assert_eq!(said(run(0o555, Some(SOMEBODY)).unwrap()), "done\n");
    let error = run(0o500, Some(SOMEBODY)).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    // It starts, and its interpreter cannot read it.
    assert!(!run(0o511, Some(SOMEBODY)).unwrap().unwrap().status.success());
}

#[test]
fn a_command_without_proc_is_unsupported() {
    if !is_alone("a_command_without_proc_is_unsupported") {
        return;
    }
    let Some(file) = program("exec-no-proc", "#!/bin/sh\necho done\n") else { return };
    let child = Forked::that(|_| {
        // SAFETY: nothing in this process relies on what it shares with others.
        if let Err(errno) = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) } {
            return eprintln!("not tested: unshare(CLONE_NEWNS) is refused here: {errno}");
        }
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        // Control.
        file.command().unwrap();
        mount("none", "/proc", "tmpfs", MountFlags::empty(), None).unwrap();
        let error = file.command().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("executing the file requires /proc"), "{error}");
        assert!(error.get_ref().unwrap().source().is_some());

        // Another file is there instead.
        fs::create_dir_all("/proc/thread-self/fd").unwrap();
        for number in 3..64 {
            let path = format!("/proc/thread-self/fd/{number}");
            std::os::unix::fs::symlink("/dev/null", Path::new(&path)).unwrap();
        }
        assert_eq!(file.command().unwrap_err().kind(), ErrorKind::Unsupported);
    });
    assert_eq!(child.finish().exit_status(), Some(0));
}

#[test]
fn without_a_descriptor_there_is_no_command() {
    if !is_alone("without_a_descriptor_there_is_no_command") {
        return;
    }
    let Some(file) = program("exec-no-descriptor", "#!/bin/sh\n") else { return };
    let mut all = Vec::<OwnedFd>::new();
    while let Ok(fd) = file.as_fd().try_clone_to_owned() {
        all.push(fd);
    }
    let error = file.command().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::MFILE.raw_os_error()));
    drop(all);
    file.command().unwrap();
}
