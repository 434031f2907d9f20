//! What holds however sealing, receiving and attacking interleave, in processes of their own. Every
//! test prints what its rounds came to; `SEALED_MMAP_FULL=1` makes them many. A round that went
//! wrong in the worst way is a SIGBUS, which ends the whole test.
#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{CreateOptions, Refusal, SealPolicy, SealedFile, Seals, add_seals};
use support::checksum;
use support::mapping::{Mapping, READ, READ_WRITE};
use support::process::{self, Channel, ENTRY, Peer, Role, turn};
use support::runs::rounds;

const LEN: usize = 1 << 14;

fn zeros() -> File {
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
        // Seen whether or not the test passes, which what `eprintln` writes is not.
        let line = format!("{name}: {rounds} rounds, {:?}\n", self.0);
        io::stderr().write_all(line.as_bytes()).unwrap();
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

/// How a process attacks a file, in this round and turn.
type Attack = fn(&File, u64, u64);

const ATTACKS: [(&str, Attack); 3] = [("write", write), ("store", store), ("mixed", mixed)];

fn write(file: &File, _: u64, turn: u64) {
    let _ = file.write_all_at(&[turn as u8 | 1; LEN], 0);
}

fn store(file: &File, _: u64, turn: u64) {
    if let Ok(map) = Mapping::shared(file, READ_WRITE) {
        map.stamp(turn as u8 | 1);
    }
}

/// Everything, in some order or other, which is the same one in the same round.
fn mixed(file: &File, round: u64, turn: u64) {
    const TURNS: [fn(&File); 9] = [
        |file| drop(file.set_len(0)),
        |file| drop(file.set_len(2 * LEN as u64)),
        |file| write(file, 0, 7),
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
    let order = ((round << 32) + turn).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    TURNS[(order % TURNS.len() as u64) as usize](file);
}

/// A process that attacks one file after the other.
struct Attacker {
    process: Peer,
    files: UnixDatagram,
}

impl Attacker {
    fn start(attack: &str) -> Self {
        let (files, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        Self { process: Peer::start(ENTRY, attack, theirs), files }
    }

    /// Sees this attack begin, which goes on until the next one.
    fn attack(&mut self, file: &File, round: usize) {
        send_fds(&self.files, &(round as u64).to_ne_bytes(), &[file.as_fd()]).unwrap();
        assert_eq!(self.process.channel.hear(), "begun");
    }
}

/// In the process of an [`Attacker`], until it is killed.
fn attack_whatever_comes(attack: Attack, files: OwnedFd, parent: &mut Channel) -> ! {
    let (mut target, mut turn) = (None, 0);
    loop {
        turn += 1;
        let mut round = [0; 8];
        match recv_fd(&files, &mut round) {
            Ok((_, fd)) => {
                target = fd.map(|fd| (File::from(fd), u64::from_ne_bytes(round)));
                parent.tell("begun");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        if let Some((file, round)) = &target {
            attack(file, *round, turn);
        }
    }
}

fn wait_for_a_write(file: &File) {
    let (mut byte, begin) = ([0], Instant::now());
    while byte == [0] {
        assert!(begin.elapsed() < Duration::from_secs(60), "nobody writes");
        thread::yield_now();
        file.read_exact_at(&mut byte, 0).unwrap();
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
    let _turn = turn();
    for attack in ["write", "store"] {
        let mut outcomes = Outcomes::default();
        let mut attacker = Attacker::start(attack);
        for round in 0..rounds(500, 50_000) {
            let file = zeros();
            attacker.attack(&file, round);
            // Half of the files are sealed while one write follows the other.
            if round % 2 == 0 {
                wait_for_a_write(&file);
            }
            outcomes.add(match SealedFile::adopt_read_only(file, &SealPolicy::new()) {
                Ok(sealed) => {
                    let map = sealed.map_read_only().unwrap();
                    assert!(is_steady(|| checksum(&map)), "a {attack} after the seal");
                    if map[0] == 0 { "sealed at once" } else { "sealed after writes" }
                }
                Err(refused) => name_of(refused.reason()),
            });
        }
        outcomes.print(&format!("sealing against {attack}"));
        let [at_once, after_writes, mapped] =
            ["sealed at once", "sealed after writes", "cannot seal"]
                .map(|what| outcomes.count(what));
        assert_ne!(at_once + after_writes, 0, "nothing was sealed");
        assert_ne!(after_writes + mapped, 0, "no {attack} was met");
    }
}

/// The control of the test above.
#[test]
fn writes_do_land_without_the_seal() {
    let _turn = turn();
    for attack in ["write", "store"] {
        let mut outcomes = Outcomes::default();
        let mut attacker = Attacker::start(attack);
        for round in 0..rounds(200, 2_000) {
            let file = zeros();
            attacker.attack(&file, round);
            let map = Mapping::shared(&file, READ).unwrap();
            // More often than where nothing may change, for the writer has to be at work meanwhile.
            let steady = (0..50).all(|_| is_steady(|| map.checksum()));
            outcomes.add(if steady { "steady" } else { "changed" });
        }
        outcomes.print(&format!("no seal against {attack}"));
        assert_ne!(outcomes.count("changed"), 0);
    }
}

/// Seals in every order while the length changes: what is taken at last has been seen in full.
#[test]
fn what_is_received_is_whole_whatever_a_peer_does_meanwhile() {
    let _turn = turn();
    let mut outcomes = Outcomes::default();
    let mut attacker = Attacker::start("mixed");
    for round in 0..rounds(1_000, 100_000) {
        // Half of the files are executable, where the kernel lets them be.
        let draft = CreateOptions::new().executable(round % 2 == 0).create("race");
        let draft = draft.or_else(|_| SealedFile::create("race")).unwrap().into_file();
        attacker.attack(&draft, round);
        let mut fd = draft.into();
        let begin = Instant::now();
        outcomes.add(loop {
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
        });
    }
    outcomes.print("receiving");
    // Where the kernel lets the peer spoil its write seal, it may be quick enough every time.
    assert_ne!(outcomes.count("received") + outcomes.count("untrusted write seal"), 0);
}

/// Not a promise: the other process.
#[test]
fn role_of_another_process() {
    let Some(Role { name: role, fd, mut parent }) = process::role() else { return };
    if let Some((_, attack)) = ATTACKS.iter().find(|(name, _)| *name == role) {
        attack_whatever_comes(*attack, fd, &mut parent);
    }
    // The control: a reader who asks for the length and maps that.
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
    let _turn = turn();
    let file = zeros();
    let mut reader = Peer::start(ENTRY, "reader", &file);
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
    let _turn = turn();
    let mut outcomes = Outcomes::default();
    let mut longest = Duration::ZERO;
    let mut senders = [(); 2].map(|()| Attacker::start("store"));
    for round in 0..rounds(500, 20_000) {
        let file = zeros();
        senders.iter_mut().for_each(|sender| sender.attack(&file, round));
        let begin = Instant::now();
        let adopted = SealedFile::adopt_read_only(file, &SealPolicy::new());
        longest = longest.max(begin.elapsed());
        outcomes.add(match adopted {
            Ok(_) => "adopted",
            Err(refused) => name_of(refused.reason()),
        });
    }
    outcomes.print(&format!("adopting, at most {longest:?}"));
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert_ne!(outcomes.count("cannot seal"), 0, "no mapping was met");
}
