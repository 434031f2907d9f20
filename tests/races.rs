//! What holds however sealing, receiving and attacking interleave. Every test prints what its rounds
//! came to; `SEALED_MMAP_FULL=1` makes them many. A round that went wrong in the worst way is a
//! SIGBUS, which ends the whole test.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Mapping, Peer, READ, READ_WRITE, checksum, rounds};
use sealed_mmap::{CreateOptions, Refusal, SealPolicy, SealedFile, Seals, add_seals};

const LEN: usize = 1 << 14;

fn unsealed() -> File {
    let file = SealedFile::create("race").unwrap().into_file();
    file.set_len(LEN as u64).unwrap();
    file
}

/// How often each thing happened.
#[derive(Debug, Default)]
struct Outcomes(BTreeMap<&'static str, usize>);

impl Outcomes {
    fn add(&mut self, outcome: &'static str) {
        *self.0.entry(outcome).or_default() += 1;
    }

    fn count(&self, outcome: &str) -> usize {
        self.0.get(outcome).copied().unwrap_or_default()
    }

    fn print(&self, name: &str) {
        let rounds: usize = self.0.values().sum();
        println!("{name}: {rounds} rounds, {:?}", self.0);
    }
}

fn name_of(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::MissingSeals { .. } => "missing seals",
        Refusal::UntrustedWriteSeal => "untrusted write seal",
        Refusal::CannotSeal { .. } => "cannot seal",
        other => panic!("{other:?}"),
    }
}

/// Runs `attacker` with the file over and over, until `round` is over.
fn while_attacked<T>(
    file: &File,
    attackers: usize,
    attacker: impl Fn(&File, u64) + Sync,
    round: impl FnOnce() -> T,
) -> T {
    let over = AtomicBool::new(false);
    let begin = Barrier::new(attackers + 1);
    thread::scope(|scope| {
        for _ in 0..attackers {
            scope.spawn(|| {
                begin.wait();
                let turns = (0..).take_while(|_| !over.load(Ordering::Relaxed));
                turns.for_each(|turn| attacker(file, turn));
            });
        }
        begin.wait();
        let result = round();
        over.store(true, Ordering::Relaxed);
        result
    })
}

fn write(file: &File, turn: u64) {
    let _ = file.write_all_at(&[turn as u8; LEN], 0);
}

fn store(file: &File, turn: u64) {
    if let Ok(map) = Mapping::shared(file, READ_WRITE) {
        map.stamp(turn as u8);
    }
}

/// Whether the bytes stay the same while the attack goes on.
fn is_steady(checksum: impl Fn() -> u32) -> bool {
    let first = checksum();
    thread::yield_now();
    first == checksum()
}

#[test]
fn no_write_lands_after_the_seal() {
    for (name, attack) in [("write", write as fn(&File, u64)), ("store", store)] {
        let mut outcomes = Outcomes::default();
        for _ in 0..rounds(1_000, 50_000) {
            let file = unsealed();
            let attacked = file.try_clone().unwrap();
            outcomes.add(while_attacked(
                &attacked,
                1,
                attack,
                || match SealedFile::adopt_read_only(file.into(), &SealPolicy::new()) {
                    Ok(sealed) => {
                        let map = sealed.map_read_only().unwrap();
                        assert!(is_steady(|| checksum(&map)), "a {name} after the seal");
                        "sealed"
                    }
                    Err(refused) => name_of(refused.reason()),
                },
            ));
        }
        outcomes.print(name);
        assert_ne!(outcomes.count("sealed"), 0);
    }
}

/// The control of the test above.
#[test]
fn writes_do_land_without_the_seal() {
    for (name, attack) in [("write", write as fn(&File, u64)), ("store", store)] {
        let mut outcomes = Outcomes::default();
        for _ in 0..rounds(200, 2_000) {
            let file = unsealed();
            outcomes.add(while_attacked(&file, 1, attack, || {
                let map = Mapping::shared(&file, READ).unwrap();
                if is_steady(|| map.checksum()) { "steady" } else { "changed" }
            }));
        }
        outcomes.print(name);
        assert_ne!(outcomes.count("changed"), 0);
    }
}

/// Seals in every order while the length changes: what is taken at last has been seen in full.
#[test]
fn whatever_a_peer_does_meanwhile_what_is_received_is_whole_and_steady() {
    const TURNS: [fn(&File); 9] = [
        |file| drop(file.set_len(0)),
        |file| drop(file.set_len(2 * LEN as u64)),
        |file| write(file, 7),
        |file| drop(file.set_len(LEN as u64)),
        |file| drop(add_seals(file, Seals::SHRINK)),
        |file| drop(add_seals(file, Seals::FUTURE_WRITE)),
        |file| drop(add_seals(file, Seals::WRITE)),
        |file| drop(add_seals(file, Seals::GROW | Seals::WRITE)),
        |file| {
            // On some kernels this seals in spite of the mapping.
            let map = Mapping::shared(file, READ_WRITE);
            let _ = add_seals(file, Seals::EXEC);
            if let Ok(map) = map {
                map.stamp(9);
            }
        },
    ];
    let mut outcomes = Outcomes::default();
    for round in 0..rounds(2_000, 100_000) as u64 {
        // Half of the files are executable, where the kernel lets them be.
        let draft = CreateOptions::new().executable(round % 2 == 0).create("race");
        let draft = draft.or_else(|_| SealedFile::create("race")).unwrap().into_file();
        let attacked = draft.try_clone().unwrap();
        let mixed = |file: &File, turn: u64| {
            // Some order or other, and the same one in the same round.
            let order = ((round << 32) + turn).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            TURNS[(order % TURNS.len() as u64) as usize](file);
        };
        outcomes.add(while_attacked(&attacked, 1, mixed, || {
            let mut fd = draft.into();
            let begin = Instant::now();
            loop {
                let refused = match SealedFile::receive_read_only(fd, &SealPolicy::new()) {
                    Ok(file) => {
                        let map = file.map_read_only().unwrap();
                        assert_eq!(map.len() as u64, file.len().unwrap());
                        assert!(is_steady(|| checksum(&map)));
                        break "received";
                    }
                    Err(refused) => refused,
                };
                let final_seals = matches!(refused.reason(), Refusal::UntrustedWriteSeal);
                if final_seals || begin.elapsed() > Duration::from_millis(20) {
                    break name_of(refused.reason());
                }
                thread::yield_now();
                fd = refused.into_fd();
            }
        }));
    }
    outcomes.print("receive");
    assert_ne!(outcomes.count("received"), 0);
}

/// What [`Peer::start`] starts: the control, a reader who asks for the length and maps that.
#[test]
fn another_process() {
    let Some((_, fd, mut parent)) = common::role() else { return };
    let file = File::from(fd);
    parent.tell("ready");
    loop {
        if let Ok(map) = Mapping::shared(&file, READ) {
            map.checksum();
        }
    }
}

#[test]
fn a_reader_that_trusts_the_length_alone_dies() {
    let file = unsealed();
    let mut reader = Peer::start("reader", &file);
    assert_eq!(reader.channel.hear(), "ready");
    let begin = Instant::now();
    let status = loop {
        for len in [0, LEN as u64] {
            file.set_len(len).unwrap();
            thread::yield_now();
        }
        if let Some(status) = reader.status() {
            break status;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "the reader lives");
    };
    assert_eq!(status.signal(), Some(rustix::process::Signal::BUS.as_raw()));
}

#[test]
fn senders_that_keep_mapping_cannot_hold_adopting_up() {
    let mut outcomes = Outcomes::default();
    let mut longest = Duration::ZERO;
    for _ in 0..rounds(1_000, 20_000) {
        let file = unsealed();
        let attacked = file.try_clone().unwrap();
        outcomes.add(while_attacked(&attacked, 2, store, || {
            let begin = Instant::now();
            let adopted = SealedFile::adopt_read_only(file.into(), &SealPolicy::new());
            longest = longest.max(begin.elapsed());
            match adopted {
                Ok(_) => "adopted",
                Err(refused) => name_of(refused.reason()),
            }
        }));
    }
    outcomes.print(&format!("adopt, at most {longest:?}"));
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}
