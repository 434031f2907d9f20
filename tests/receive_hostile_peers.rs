//! What readers get from hostile processes: bytes that never change, or a refusal, and never a
//! signal. The reader is a process of its own, so that its death would be seen; beside it stands one
//! that maps the file without this crate, and pays for it where the attack works.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "the attacks are system calls on raw memory")]

mod support;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::mm::Advice;
use rustix::pipe::{IoSliceRaw, SpliceFlags, pipe, vmsplice};
use sealed_mmap::{
    CreateOptions, Refusal, SealFailure, SealPolicy, SealedFile, Seals, add_seals, get_seals,
};
use support::checksum;
use support::files::{make_executable_by_acl, proc_path, punch_hole, read_only};
use support::mapping::{Mapping, READ, READ_WRITE};
use support::process::{self, Channel, ENTRY, Forked, Peer};

const LEN: usize = 1 << 18;
const IMMUTABLE: Seals = Seals::WRITE.union(Seals::SHRINK).union(Seals::GROW);

type Role = fn(File, &mut Channel);
type Blow = fn(&File) -> io::Result<()>;

/// Readers first, then their peers. Each answers one line when it is in place.
const ROLES: &[(&str, Role)] = &[
    ("receives", |file, parent| {
        reader(SealedFile::receive_read_only(file, &SealPolicy::untrusted(1 << 20)), parent);
    }),
    ("receives what can grow", |file, parent| {
        reader(SealedFile::receive_read_only(file, &SealPolicy::new()), parent);
    }),
    ("adopts", |file, parent| {
        reader(SealedFile::adopt_read_only(file, &SealPolicy::untrusted(1 << 20)), parent);
    }),
    ("receives or copies", |file, parent| {
        let policy = SealPolicy::untrusted(1 << 20);
        reader(SealedFile::receive_or_copy(file, &policy, 1 << 20), parent);
    }),
    ("maps without asking", |file, parent| {
        // With a writable descriptor the mapping itself would keep the file from being sealed.
        let map = Mapping::shared(&read_only(&file), READ).unwrap();
        show(|| map.checksum(), parent);
    }),
    ("stores through a mapping", |file, parent| {
        store_for_ever(&Mapping::shared(&file, READ_WRITE).unwrap(), parent);
    }),
    ("calls write", |file, parent| {
        let mut writes = 0;
        parent.tell("ready");
        let refused = loop {
            match file.write_all_at(&vec![writes as u8; LEN], 0) {
                Ok(()) => writes += 1,
                Err(error) => break error,
            }
        };
        parent.tell(format!("{writes} {:?}", refused.kind()));
    }),
    ("pins pages with vmsplice", |file, parent| {
        let map = Mapping::shared(&read_only(&file), READ).unwrap();
        // SAFETY: the memory is mapped for longer than the slice of it is used, which is not to
        // read or write it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(map.start(), 4096) };
        let (_from, to) = pipe().unwrap();
        // SAFETY: this is the end to write to, so that the memory is only read.
        unsafe { vmsplice(to, &[IoSliceRaw::from_slice_mut(bytes)], SpliceFlags::empty()) }
            .unwrap();
        drop(map);
        parent.ask("ready");
    }),
    ("pins pages with io_uring", |file, parent| {
        const REGISTER_BUFFERS: libc::c_uint = 0;
        let unavailable = || format!("unavailable: {}", io::Error::last_os_error());

        let mut parameters = [0_u32; 30];
        // SAFETY: the kernel's structure of parameters is as large as this.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
        if ring < 0 {
            return parent.tell(unavailable());
        }
        let map = Mapping::shared(&file, READ_WRITE).unwrap();
        let buffer = libc::iovec { iov_base: map.start().cast(), iov_len: map.len() };
        // SAFETY: no operation is ever submitted, so the buffer is only kept from moving.
        let done = unsafe {
            libc::syscall(libc::SYS_io_uring_register, ring, REGISTER_BUFFERS, &raw const buffer, 1)
        };
        if done < 0 {
            return parent.tell(unavailable());
        }
        drop(map);
        parent.ask("ready");
    }),
    ("leaves a child with a mapping", |file, parent| {
        let map = Mapping::shared(&file, READ_WRITE).unwrap();
        // This process has no other thread that could hold a lock.
        std::mem::forget(Forked::that(|_| store_for_ever(&map, parent)));
    }),
    ("seals against execution", |file, parent| {
        let map = Mapping::shared(&file, READ_WRITE).unwrap();
        parent.tell(match add_seals(&file, Seals::EXEC) {
            Ok(()) => "sealed".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        });
        store_for_ever(&map, parent);
    }),
];

fn reader(outcome: Result<SealedFile, sealed_mmap::ReceiveError>, parent: &mut Channel) {
    match outcome {
        Ok(file) => {
            let map = file.map_read_only().unwrap();
            drop(file);
            show(|| checksum(&map), parent);
        }
        Err(refused) => parent.tell(format!("{:?}", refused.reason())),
    }
}

/// Answers every line with a checksum.
fn show(checksum: impl Fn() -> u32, parent: &mut Channel) {
    parent.tell("took it");
    while !parent.hear().is_empty() {
        parent.tell(checksum());
    }
}

/// Until it is killed, or nobody listens any more.
fn store_for_ever(map: &Mapping, parent: &mut Channel) {
    parent.tell("ready");
    let mut byte = 0_u8;
    while parent.is_open() {
        byte = byte.wrapping_add(1);
        map.stamp(byte);
    }
}

/// What a peer does to a file once, and what it does to those who map that without its being sealed.
const BLOWS: &[(&str, Blow, Harm)] = &[
    ("truncates", |file| file.set_len(0), Harm::Deadly),
    ("reopens and truncates", reopen_truncating, Harm::Deadly),
    ("writes", |file| file.write_all_at(b"evil", 0), Harm::Changes),
    ("punches holes", |file| punch_hole(file, 0, LEN as u64), Harm::Changes),
    ("maps and stores", map_and_store, Harm::Changes),
    ("grows", |file| file.set_len(2 * LEN as u64), Harm::None),
];

#[derive(Debug, PartialEq)]
enum Harm {
    Deadly,
    Changes,
    None,
}

fn reopen_truncating(file: &File) -> io::Result<()> {
    let flags = OFlags::TRUNC.bits() as i32;
    OpenOptions::new().write(true).custom_flags(flags).open(proc_path(file)).map(drop)
}

fn map_and_store(file: &File) -> io::Result<()> {
    Mapping::shared(file, READ_WRITE)?.stamp(0);
    Ok(())
}

/// Not a promise: the other process.
#[test]
fn role_of_another_process() {
    let Some(process::Role { name: role, fd, mut parent }) = process::role() else { return };
    let file = File::from(fd);
    if let Some((_, blow, _)) = BLOWS.iter().find(|(name, ..)| *name == role) {
        return parent
            .tell(blow(&file).map_or_else(|e| format!("{:?}", e.kind()), |()| "ok".into()));
    }
    let (_, play) = ROLES.iter().find(|(name, _)| *name == role).unwrap();
    play(file, &mut parent);
}

fn start(role: &str, fd: impl AsFd, expected: &str) -> Peer {
    let mut peer = Peer::start(ENTRY, role, fd);
    assert_eq!(peer.channel.hear(), expected, "who {role}");
    peer
}

fn victim() -> File {
    let file = SealedFile::create("victim").unwrap().into_file();
    file.write_all_at(&vec![0x5a; LEN], 0).unwrap();
    file
}

fn sealed_victim(seals: Seals) -> File {
    let file = victim();
    add_seals(&file, seals).unwrap();
    file
}

/// Asks a reader often enough for a busy writer to come in between, if it runs.
fn changes(reader: &mut Peer) -> bool {
    let first = reader.channel.ask("look");
    assert!(first.parse::<u32>().is_ok(), "{first}");
    (0..50).any(|_| reader.channel.ask("look") != first)
}

/// Where a writer is at work, which others may keep from running for a while.
fn comes_to_change(reader: &mut Peer) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        if changes(reader) {
            return true;
        }
    }
    false
}

/// Ends a reader's part, which has to end well.
fn dismiss(reader: Peer) {
    assert!(reader.dismiss().success());
}

fn refusal(role: &str, fd: impl AsFd) -> String {
    let mut reader = Peer::start(ENTRY, role, fd);
    let refusal = reader.channel.hear();
    dismiss(reader);
    refusal
}

#[test]
fn a_peer_that_keeps_a_writable_mapping_is_refused() {
    let file = victim();
    let _peer = start("stores through a mapping", &file, "ready");

    let refused = refusal("receives", &file);
    assert!(refused.starts_with("MissingSeals"), "{refused}");
    let refused = refusal("adopts", &file);
    assert!(refused.starts_with("CannotSeal { reason: WritableMapping"), "{refused}");
    // The peer may hide that it writes, so there may be a copy. It does not change then.
    let mut copier = Peer::start(ENTRY, "receives or copies", &file);
    if copier.channel.hear() == "took it" {
        assert!(!changes(&mut copier));
    }
    dismiss(copier);

    let mut control = start("maps without asking", &file, "took it");
    assert!(comes_to_change(&mut control));
}

#[test]
fn no_peer_reaches_the_bytes_of_a_file_that_was_taken() {
    for (blow, _, harm) in BLOWS {
        let file = sealed_victim(IMMUTABLE);
        let mut reader = start("receives", &file, "took it");
        let before = reader.channel.ask("look");
        start(blow, &file, "PermissionDenied");
        assert_eq!(reader.channel.ask("look"), before, "a peer {blow}");
        dismiss(reader);

        let file = victim();
        let mut control = start("maps without asking", &file, "took it");
        assert_eq!(control.channel.ask("look"), before);
        start(blow, &file, "ok");
        let after = control.channel.ask("look");
        let found = match control.dismiss().signal() {
            Some(libc::SIGBUS) => Harm::Deadly,
            None if after != before => Harm::Changes,
            None => Harm::None,
            other => panic!("{other:?}"),
        };
        assert_eq!(found, *harm, "a peer {blow}");
    }
}

#[test]
fn a_file_that_grows_afterwards_stays_as_long_as_it_was_taken() {
    let file = sealed_victim(Seals::WRITE | Seals::SHRINK);
    let refused = refusal("receives", &file);
    assert!(refused.starts_with("MissingSeals"), "{refused}");

    let mut reader = start("receives what can grow", &file, "took it");
    let before = reader.channel.ask("look");
    start("grows", &file, "ok");
    assert_eq!(file.metadata().unwrap().len(), 2 * LEN as u64);
    assert_eq!(reader.channel.ask("look"), before);
    dismiss(reader);
}

#[test]
fn a_file_that_is_written_while_it_is_adopted_changes_no_more() {
    let file = victim();
    let mut writer = start("calls write", &file, "ready");
    let mut control = start("maps without asking", &file, "took it");
    assert!(comes_to_change(&mut control));

    let mut reader = start("adopts", &file, "took it");
    assert!(!changes(&mut reader));
    let refused = writer.channel.hear();
    assert!(refused.ends_with(" PermissionDenied"), "{refused}");
    assert!(!changes(&mut reader));
    assert!(!changes(&mut control));
    dismiss(reader);
}

/// Pages that were only read look as if they had memory of their own, until the kernel wants it back.
#[test]
fn holes_that_were_read_are_filled_for_good() {
    let has_no_hole = |file: &File| {
        rustix::fs::seek(file, SeekFrom::Hole(0)).unwrap() == LEN as u64
            && file.metadata().unwrap().blocks() * 512 >= LEN as u64
    };
    let reclaim = |file: &File| {
        let map = Mapping::shared(file, READ).unwrap();
        map.checksum();
        map.advise(Advice::LinuxPageOut)
    };
    let holes = || {
        let file = SealedFile::create("holes").unwrap().into_file();
        file.set_len(LEN as u64).unwrap();
        add_seals(&file, IMMUTABLE).unwrap();
        // A descriptor for reading is one that every kernel maps shared.
        let read_only = read_only(&file);
        Mapping::shared(&read_only, READ).unwrap().checksum();
        (file, read_only)
    };

    let (file, read_only) = holes();
    let policy = SealPolicy::untrusted(LEN as u64);
    let taken = SealedFile::receive_read_only(file, &policy).unwrap();
    let _ = reclaim(&read_only);
    assert!(has_no_hole(&read_only), "what was reserved is gone");
    assert!(taken.map_read_only().unwrap().iter().all(|byte| *byte == 0));

    let (_file, read_only) = holes();
    match reclaim(&read_only) {
        Ok(()) if !has_no_hole(&read_only) => {}
        outcome => eprintln!("no control: the kernel kept what it could drop ({outcome:?})"),
    }
}

#[test]
fn pinned_pages_prevent_adopting_only_while_they_last() {
    for role in ["pins pages with vmsplice", "pins pages with io_uring"] {
        let file = victim();
        let mut peer = Peer::start(ENTRY, role, &file);
        let answer = peer.channel.hear();
        if answer.starts_with("unavailable") {
            eprintln!("not tested, who {role} is {answer}");
            continue;
        }
        assert_eq!(answer, "ready");
        let begin = Instant::now();
        let refused = SealedFile::adopt_read_only(file, &SealPolicy::new()).expect_err(role);
        assert!(begin.elapsed() < Duration::from_secs(10), "{role}");
        let pinned = SealFailure::PinnedPages;
        let reason = refused.reason();
        assert!(
            matches!(reason, Refusal::CannotSeal { reason, .. } if *reason == pinned),
            "{role}: {reason:?}"
        );
        assert!(!get_seals(refused.fd()).unwrap().intersects(IMMUTABLE), "{role}");

        drop(peer);
        SealedFile::adopt_read_only(refused.into_fd(), &SealPolicy::new()).expect(role);
    }
}

#[test]
fn a_mapping_that_lives_on_in_a_child_of_the_peer_is_noticed() {
    let file = victim();
    let mut peer = start("leaves a child with a mapping", &file, "ready");
    let refused = refusal("adopts", &file);
    assert!(refused.starts_with("CannotSeal { reason: WritableMapping"), "{refused}");
    let mut control = start("maps without asking", &file, "took it");
    assert!(comes_to_change(&mut control));

    peer.channel.hang_up();
    // The end of the line comes when the child is gone, and its memory with it.
    assert_eq!(peer.channel.hear(), "");
    let mut reader = start("adopts", &file, "took it");
    assert!(!changes(&mut reader));
    assert!(!changes(&mut control));
    dismiss(reader);
}

/// Some kernels add the write seal together with the one against execution without looking for
/// writable mappings. The others refuse.
#[test]
fn a_write_seal_that_exec_brought_unenforced_is_not_believed() {
    let flipped = || {
        let file = victim();
        make_executable_by_acl(&file).map(|()| file)
    };
    let made = || {
        let draft = CreateOptions::new().executable(true).create("executable");
        draft.map(|draft| {
            let file = draft.into_file();
            file.write_all_at(&vec![0x5a; LEN], 0).unwrap();
            file
        })
    };
    for file in [made(), flipped().map_err(io::Error::from)] {
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                let known = [Errno::ACCESS, Errno::OPNOTSUPP].map(|known| known.raw_os_error());
                assert!(error.raw_os_error().is_some_and(|errno| known.contains(&errno)));
                eprintln!("not tested, the file cannot be made executable here: {error}");
                continue;
            }
        };
        let mut peer = Peer::start(ENTRY, "seals against execution", &file);
        let sealed = peer.channel.hear();
        assert_eq!(peer.channel.hear(), "ready");
        let refused = refusal("receives", &file);
        match sealed.as_str() {
            "sealed" => {
                let present = get_seals(&file).unwrap();
                assert!(present.contains(IMMUTABLE), "{present}");
                assert_eq!(refused, "UntrustedWriteSeal");
                eprintln!("this kernel reports seals that it does not enforce ({present})");
            }
            // Fixed, or too old to know the seal.
            "ResourceBusy" | "InvalidInput" => {
                assert!(refused.starts_with("MissingSeals"), "{refused}");
            }
            other => panic!("{other}"),
        }
        let mut control = start("maps without asking", &file, "took it");
        assert!(comes_to_change(&mut control), "the mapping does not write");
    }
}
