//! A test that changes a setting of the machine is alone with it, and the setting is put back whatever
//! becomes of the test. A file takes the setting's place.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use support::machine::Machine;
use support::process::{self, Peer, Role};

/// A file that is gone in the end.
struct Setting(PathBuf);

impl Setting {
    fn new(name: &str, value: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sealed-mmap-{name}-{}", std::process::id()));
        fs::write(&path, value).unwrap();
        Self(path)
    }

    fn value(&self) -> String {
        fs::read_to_string(&self.0).unwrap()
    }

    fn given_to(&self, role: &str) -> Peer {
        Peer::start(process::ENTRY, role, fs::File::open(&self.0).unwrap())
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

const ROUNDS: u32 = 20;

#[test]
fn role_of_another_process() {
    let Some(Role { name, fd, mut parent }) = process::role() else { return };
    let path = fs::read_link(support::files::proc_path(&fd)).unwrap();
    match name.as_str() {
        "holder" => {
            let mut machine = Machine::alone().unwrap();
            machine.change(&path, "changed").unwrap();
            parent.tell("ready");
            parent.hear();
        }
        "counter" => (0..ROUNDS).for_each(|_| count(&path)),
        other => panic!("{other}"),
    }
}

/// Adds one to a file, slowly.
fn count(path: &Path) {
    let _machine = Machine::alone().unwrap();
    let number: u32 = fs::read_to_string(path).unwrap().parse().unwrap();
    thread::sleep(Duration::from_millis(2));
    fs::write(path, (number + 1).to_string()).unwrap();
}

#[test]
fn a_test_that_is_killed_puts_its_setting_back() {
    let setting = Setting::new("killed", "before\n");
    let mut holder = setting.given_to("holder");
    assert_eq!(holder.channel.hear(), "ready");
    assert_eq!(setting.value(), "changed");
    drop(holder); // by SIGKILL
    // Whose turn it is next finds the setting as it was.
    let _machine = Machine::alone().unwrap();
    assert_eq!(setting.value(), "before");
}

#[test]
fn a_test_that_panics_puts_its_setting_back() {
    let setting = Setting::new("panics", "before");
    let path = setting.0.clone();
    let panics = move || {
        let mut machine = Machine::alone().unwrap();
        machine.change(&path, "changed").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "before", "a panic on purpose");
    };
    thread::spawn(panics).join().unwrap_err();
    assert_eq!(setting.value(), "before");
}

#[test]
fn several_changes_are_taken_back_in_turn() {
    let setting = Setting::new("several", "before");
    let mut machine = Machine::alone().unwrap();
    for value in ["first", "second"] {
        machine.change(&setting.0, value).unwrap();
        assert_eq!(setting.value(), value);
    }
    drop(machine);
    assert_eq!(setting.value(), "before");
}

#[test]
fn processes_take_turns() {
    let setting = Setting::new("turns", "0");
    let mut counters = [setting.given_to("counter"), setting.given_to("counter")];
    (0..ROUNDS).for_each(|_| count(&setting.0));
    for counter in &mut counters {
        assert!(counter.wait().success());
    }
    assert_eq!(setting.value(), (3 * ROUNDS).to_string());
}

#[test]
fn who_keeps_the_settings_is_not_waited_for_forever() {
    let setting = Setting::new("kept", "before");
    let mut holder = setting.given_to("holder");
    assert_eq!(holder.channel.hear(), "ready");
    assert!(Machine::alone_within(Duration::from_millis(20)).is_none());
    holder.channel.hang_up();
    assert!(holder.wait().success());
    Machine::alone().unwrap();
    assert_eq!(setting.value(), "before");
}
