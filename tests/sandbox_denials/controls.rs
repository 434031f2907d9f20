//! What the trials look for, done on purpose: each fault is found, and honesty is none.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::mem;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use crate::denier::Denial;
use crate::operations::{look, with};
use crate::support::files;
use crate::trial;
use crate::trial::{Operation, Plan};

#[derive(Debug)]
struct Honest(io::Error);

impl fmt::Display for Honest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot cut the file off (ftruncate)")
    }
}

impl Error for Honest {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

fn explained(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Honest(error))
}

/// One call, and what is made of its failure.
fn set_len(on_error: fn(io::Error, &mut File) -> io::Result<()>) -> Operation {
    Plan::new(
        || Ok(files::filled(b"contents")),
        move |file| with(file, |file| file.set_len(5).or_else(|error| on_error(error, file))),
        |((), file)| assert_eq!(file.metadata().unwrap().len(), 5, "not done"),
    )
    .leaving(look)
    .named("a control")
}

#[test]
fn every_fault_is_found_and_honesty_is_none() {
    if let Some(reason) = trial::is_impossible() {
        eprintln!("not tested, no system call can be denied here: {reason}");
        return;
    }
    let faults = |on_error| {
        let operation = set_len(on_error);
        let undenied = operation.try_with(None);
        assert!(undenied.is_sound(), "{:?}", undenied.faults);
        let ftruncate = undenied.calls.iter().find(|(call, _)| call.name() == "ftruncate");
        let (call, _) = *ftruncate.expect("the call is seen");
        operation.try_with(Some(Denial { call, errno: Errno::PERM, only: None })).faults
    };
    let honest = faults(|error, _| Err(explained(error)));
    assert!(honest.is_empty(), "{honest:?}");

    let found = |on_error, expected: &str| {
        let faults = faults(on_error);
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
    };
    found(|error, _| Err(error), "the bare errno");
    found(|error, _| Err(io::Error::new(error.kind(), "no luck")), "does not tell the errno");
    found(
        |error, _| Err(io::Error::new(error.kind(), format!("out of memory: {error}"))),
        "blames",
    );
    found(|error, _| Err(io::Error::other(Honest(error))), "has the kind Other");
    found(|error, _| panic!("{error}"), "panicked at");
    found(|_, _| Ok(()), "succeeded, but");
    found(
        |error, file| {
            mem::forget(file.try_clone()?);
            Err(explained(error))
        },
        "leaves",
    );
    found(
        |error, file| {
            mem::forget(files::map_writable(file));
            Err(explained(error))
        },
        "leaves",
    );
    found(
        |error, file| {
            file.seek(SeekFrom::Start(1))?;
            Err(explained(error))
        },
        "changes \"offset",
    );
    found(
        |error, file| {
            files::seal(&*file, sealed_mmap::Seals::SHRINK)?;
            Err(explained(error))
        },
        "cannot be repeated",
    );
    found(
        |error, file| {
            files::seal(&*file, sealed_mmap::Seals::GROW)?;
            Err(explained(error))
        },
        "changes \"seals",
    );
    found(
        |error, _| {
            kill_process(getpid(), Signal::KILL)?;
            Err(error)
        },
        "ends the process with the signal 9",
    );
    found(
        |_, _| {
            thread::sleep(Duration::from_secs(60));
            Ok(())
        },
        "hangs",
    );
}
