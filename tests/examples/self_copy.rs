//! `self-copy` starts a command that cannot overwrite it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::{Temp, example, fails, succeeds};

/// Opens the program that has started it, and overwrites it when that has ended. Until then it is busy.
/// What it says at last is left in the file that is its argument.
const ATTACK: &str = "
    exec 3</proc/$PPID/exe
    {
        while [ -e /proc/$PPID/exe ]; do sleep 0.05; done
        echo overwritten 2>\"$1.new\" >/proc/self/fd/3 || :
        mv \"$1.new\" \"$1\"
    } </dev/null >/dev/null 2>&1 &
";

/// The example under a path of its own, which it may lose.
fn runtime(directory: &Path) -> Option<Command> {
    let example = example("self-copy")?;
    let program = directory.join("runtime");
    fs::copy(example.get_program(), &program).unwrap();
    Some(Command::new(program))
}

/// What the runtime's file begins with after the attack, and what the attacker was told.
fn attacked(name: &str, arguments: &[&str]) -> Option<(Vec<u8>, String)> {
    let directory = Temp::directory(name);
    let mut runtime = runtime(&directory.0)?;
    let complaint = directory.0.join("complaint");
    runtime.args(arguments).args(["sh", "-c", ATTACK, "sh"]).arg(&complaint);
    succeeds(&mut runtime, b"");
    let complaint = crate::eventually("the attack", || fs::read_to_string(&complaint).ok());
    let mut program = fs::read(directory.0.join("runtime")).unwrap();
    program.truncate(16);
    Some((program, complaint))
}

#[test]
fn a_command_cannot_overwrite_what_started_it() {
    let Some((program, complaint)) = attacked("self-copy-sealed", &[]) else { return };
    assert!(program.starts_with(b"\x7fELF"));
    assert!(complaint.contains("ot permitted"), "{complaint}");
    // Control: the same attack on a program that runs from its file.
    let (program, complaint) = attacked("self-copy-unsealed", &["--unprotected"]).unwrap();
    assert_eq!((&*program, &*complaint), (&b"overwritten\n"[..], ""));
}

#[test]
fn self_copy_runs_from_sealed_memory() {
    let script = "readlink /proc/$PPID/exe; ls -l /proc/$$/fd";
    for (option, is_sealed) in [(None, true), (Some("--unprotected"), false)] {
        let Some(mut example) = example("self-copy") else { return };
        let text = succeeds(example.args(option).args(["sh", "-c", script]), b"");
        let (program, descriptors) = text.split_once('\n').unwrap();
        assert_eq!(program == "/memfd:self-copy (deleted)", is_sealed, "{program}");
        assert!(!descriptors.contains("memfd:"), "the command has no copy: {descriptors}");
    }
}

#[test]
fn self_copy_passes_on_what_it_is_given() {
    let script = "echo \"$0 $* $PLANET\"; cat; exit 7";
    let Some(mut example) = example("self-copy") else { return };
    example.args(["sh", "-c", script, "name", "--unprotected", "-h", "", "--"]);
    let output = crate::run(example.env("PLANET", "Earth"), b"input");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "name --unprotected -h  -- Earth\ninput");
}

/// It executes its copy once, whatever it was executed from.
#[test]
fn self_copy_of_a_sealed_copy_is_no_other() {
    let script = "exec \"$0\" sh -c 'readlink /proc/$PPID/exe'";
    let Some(mut outer) = example("self-copy") else { return };
    let inner = outer.get_program().to_owned();
    let text = succeeds(outer.args(["sh", "-c", script]).arg(inner), b"");
    assert_eq!(text, "/memfd:self-copy (deleted)\n");
}

#[test]
fn self_copy_says_what_cannot_be_started() {
    let Some(mut missing) = example("self-copy") else { return };
    fails(missing.arg("/no/such/command"), b"", "self-copy: /no/such/command: No such file");
    let Some(mut killed) = example("self-copy") else { return };
    fails(killed.args(["sh", "-c", "kill -9 $$"]), b"", "self-copy: sh: signal: 9");

    let directory = Temp::directory("self-copy-unreadable");
    let file = directory.0.join("data");
    fs::write(&file, "data").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let Some(mut data) = example("self-copy") else { return };
    let complaint = format!("self-copy: {}: Permission denied", file.display());
    fails(data.arg(&file), b"", &complaint);
}

#[test]
fn self_copy_says_how_it_is_used() {
    for arguments in [&[][..], &["--unknown"], &[""], &["--unprotected"]] {
        let Some(mut example) = example("self-copy") else { return };
        fails(example.args(arguments), b"", "usage: self-copy [--unprotected] COMMAND");
    }
}
