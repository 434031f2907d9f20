//! The state of shared files: how a file gets there, what is received and mapped, how its length is followed,
//! and how it becomes immutable. Runs as any user.
#![cfg(target_os = "linux")]

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use rustix::io::Errno;
use sealed_mmap::{
    CreateOptions, Producer, Refusal, SealFailure, SealPolicy, SealedFile, Seals, SizeSealed,
    add_seals,
};
use support::files::{self, IMMUTABLE, contents, read_only, refused, seals_of};
use support::kernel::*;
use support::machine::HugePool;
use support::runs::live;
use support::{errno_in, pattern};

fn receive(file: impl Into<OwnedFd>) -> SealedFile<SizeSealed> {
    SealedFile::receive_size_sealed(file, &SealPolicy::new()).unwrap()
}

fn shared(bytes: &[u8]) -> SealedFile<SizeSealed> {
    let mut draft = SealedFile::create("shared").unwrap();
    draft.write_all(bytes).unwrap();
    draft.seal_size(Seals::empty()).unwrap()
}

#[test]
fn a_draft_gets_the_seals_that_are_named_and_its_bytes_stay() {
    for named in [NONE, SHRINK, GROW, SEAL, FIXED_SIZE | SEAL] {
        let mut draft = SealedFile::create("shared").unwrap();
        draft.write_all(b"hello").unwrap();
        let mut file = draft.seal_size(named).unwrap();
        assert_eq!(seals_of(&file) - EXEC, SHRINK | named);
        assert_eq!(file.len().unwrap(), 5);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello", "the offset is at the start");
        assert_eq!(file.map_shared().unwrap().to_vec(..).unwrap(), b"hello");
    }
}

#[test]
fn other_seals_are_refused_and_the_draft_comes_back() {
    let unknown = Seals::from_bits_retain(1 << 20);
    for other in [WRITE, FUTURE_WRITE, EXEC, unknown, WRITE | SHRINK | GROW] {
        let mut draft = SealedFile::create("shared").unwrap();
        draft.write_all(b"hello").unwrap();
        draft.seek(SeekFrom::Start(2)).unwrap();
        let before = draft.get_seals().unwrap();
        let error = draft.seal_size(other).unwrap_err();
        assert_eq!(error.reason(), SealFailure::Other);
        assert_eq!(error.error().kind(), ErrorKind::InvalidInput);
        let named = (other - FIXED_SIZE).to_string();
        assert!(error.error().to_string().contains(&named), "{}", error.error());

        let mut draft = error.into_file();
        assert_eq!(draft.get_seals().unwrap(), before);
        assert_eq!(draft.stream_position().unwrap(), 2);
        draft.write_all(b"y").unwrap();
        assert_eq!(&draft.seal_read_only().unwrap().map_read_only().unwrap()[..], b"heylo");
    }
}

#[test]
fn a_draft_that_cannot_be_sealed_comes_back() {
    let mut draft = CreateOptions::new().allow_sealing(false).create("never").unwrap();
    draft.write_all(b"hello").unwrap();
    let error = draft.seal_size(NONE).unwrap_err();
    assert_eq!(error.reason(), SealFailure::NotAllowed);
    let (error, mut draft) = error.into_parts();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::PERM));
    assert_eq!(draft.stream_position().unwrap(), 5);
    assert_eq!(&draft.map_mut().unwrap()[..], b"hello");
}

#[test]
fn the_length_cannot_fall_and_without_the_seal_it_can() {
    let file = fill(SealedFile::create("shared").unwrap().into_file());
    add_seals(&file, SHRINK).unwrap();
    let received = receive(file.try_clone().unwrap());
    let map = received.map_shared().unwrap();
    all_refused(&file, &SHRINKS);
    assert_eq!(map.to_vec(LEN - 1..).unwrap(), b"a");
    // Control.
    all_allowed(draft, &SHRINKS);
}

#[test]
fn what_cannot_shrink_is_received_and_nothing_else() {
    for seals in files::every_set() {
        let file = files::filled(&pattern(100));
        if let Err(errno) = files::seal(&file, seals) {
            assert!(files::is_too_old_for(seals, errno), "{seals}: {errno}");
            continue;
        }
        let present = seals_of(&file);
        if present.contains(SHRINK) {
            let file = receive(file);
            assert_eq!(file.len().unwrap(), 100);
            assert!(file.map_live().unwrap().to_vec(..).unwrap() == pattern(100), "{present}");
            assert_eq!(seals_of(&file), present, "no seal is added");
        } else {
            let (refusal, _) =
                refused(file, |fd| SealedFile::receive_size_sealed(fd, &SealPolicy::new()));
            let Refusal::MissingSeals { missing, .. } = refusal else { panic!("{refusal}") };
            assert_eq!(missing, SHRINK);
        }
    }
}

#[test]
fn a_stranger_is_held_to_a_length_and_to_nothing_more() {
    let policy = SealPolicy::untrusted_live(100);
    let take = |fd| SealedFile::receive_size_sealed(fd, &policy);
    for seals in [SHRINK, SHRINK | SEAL, FIXED_SIZE, FIXED_SIZE | SEAL] {
        let file = take(files::sealed(&pattern(100), seals).into()).unwrap();
        assert_eq!(file.map_shared().unwrap().len(), 100);
    }
    let (refusal, _) = refused(files::sealed(&pattern(101), SHRINK), take);
    assert!(matches!(refusal, Refusal::Length { len: 101, .. }), "{refusal}");
    let (refusal, fd) = refused(files::filled(&pattern(100)), take);
    assert!(matches!(refusal, Refusal::MissingSeals { missing: SHRINK, .. }), "{refusal}");
    // A pool of somebody who does not seal is copied.
    let copy = SealedFile::receive_or_copy(fd, &SealPolicy::untrusted(100), 100).unwrap();
    assert!(copy.map_read_only().unwrap() == pattern(100));

    // A hole takes no memory, and can be read.
    let sparse = files::memfd();
    sparse.set_len(100).unwrap();
    add_seals(&sparse, SHRINK).unwrap();
    let file = take(sparse.into()).unwrap();
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_blocks, 0);
    assert_eq!(file.map_live().unwrap().to_vec(..).unwrap(), [0; 100]);
}

/// The kernel says nothing about an empty file, for there is nothing to map.
#[test]
fn what_nobody_can_write_is_not_mapped_for_writing() {
    for len in [0, 100] {
        let bytes = pattern(len);
        for (seals, way_on) in [(WRITE, "receive_read_only"), (FUTURE_WRITE, "map_live")] {
            let received = receive(files::sealed(&bytes, SHRINK | seals));
            let error = received.map_shared().unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert_eq!(errno_in(&error), Some(Errno::PERM));
            assert!(
                text.contains(&format!("the seal {seals} ")) && text.contains(way_on),
                "{text}"
            );
            assert!(received.map_live().unwrap().to_vec(..).unwrap() == bytes);
        }
        let writable = files::sealed(&bytes, SHRINK);
        for received in [
            receive(read_only(&writable)),
            receive(writable.try_clone().unwrap()).reopen().unwrap(),
        ] {
            let error = received.map_shared().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert_eq!(errno_in(&error), Some(Errno::ACCESS));
            assert!(error.to_string().contains("open for reading only"), "{error}");
            assert!(received.map_live().unwrap().to_vec(..).unwrap() == bytes);
        }
        // Control: it was the descriptor.
        receive(writable).map_shared().unwrap();
    }
}

#[test]
fn a_shared_file_is_written_by_descriptor_too() {
    let file = shared(b"hello");
    let map = file.map_shared().unwrap();
    assert_eq!(file.write_at(b"J", 0).unwrap(), 1);
    assert_eq!(map.to_vec(..).unwrap(), b"Jello");
    let error = file.reopen().unwrap().write_at(b"h", 0).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::BADF));
}

#[test]
fn a_longer_length_is_taken_over_within_the_bound() {
    let client = files::sealed(&pattern(100), SHRINK);
    let mut pool = receive(client.try_clone().unwrap());
    let clone = pool.try_clone().unwrap();
    let before = pool.map_shared().unwrap();
    assert_eq!(pool.refresh_len(100).unwrap(), 100);

    client.set_len(5000).unwrap();
    assert_eq!((pool.len().unwrap(), pool.map_shared().unwrap().len()), (100, 100));
    let error = pool.refresh_len(4999).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    assert!(error.to_string().contains("5000") && error.to_string().contains("4999"), "{error}");
    assert_eq!((pool.len().unwrap(), pool.map_live().unwrap().len()), (100, 100));

    assert_eq!(pool.refresh_len(5000).unwrap(), 5000);
    let after = pool.map_shared().unwrap();
    assert_eq!((before.len(), after.len(), clone.len().unwrap()), (100, 5000, 100));
    after.write_at(50, b"seen in both").unwrap();
    assert_eq!(before.to_vec(50..62).unwrap(), b"seen in both");
    after.write_at(4990, b"at the end").unwrap();
    assert_eq!(&contents(&client)[4990..], b"at the end");

    // The bound holds for what is known, too.
    let error = pool.refresh_len(1).unwrap_err();
    assert_eq!((error.kind(), pool.len().unwrap()), (ErrorKind::FileTooLarge, 5000));
}

#[test]
fn the_length_of_every_sealed_file_can_be_refreshed() {
    // Immutable, and free to grow.
    let file = files::sealed(b"hello", IMMUTABLE);
    let mut immutable = SealedFile::try_from(file.try_clone().unwrap()).unwrap();
    file.set_len(7).unwrap();
    assert_eq!(&immutable.map_read_only().unwrap()[..], b"hello");
    assert_eq!(immutable.refresh_len(10).unwrap(), 7);
    assert_eq!(&immutable.map_read_only().unwrap()[..], b"hello\0\0");
    assert!(immutable.map_range(6..8).is_err());

    // One whose length nobody has asked for yet.
    let mut sealed = SealedFile::create("sealed").unwrap();
    sealed.write_all(b"hello").unwrap();
    assert_eq!(sealed.seal_read_only().unwrap().refresh_len(5).unwrap(), 5);

    let Some(producer) = live(Producer::create("live", 100)) else { return };
    let mut file = producer.file().try_clone().unwrap();
    assert_eq!(file.refresh_len(100).unwrap(), 100);
    assert_eq!(file.refresh_len(99).unwrap_err().kind(), ErrorKind::FileTooLarge);
}

#[test]
fn a_hugetlb_file_that_ends_within_a_page_keeps_its_old_length() {
    let pool = HugePool::with_free_pages(2);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let Ok(file) = memfd_create("huge", flags) else {
        return eprintln!("not tested, this kernel has no huge pages");
    };
    let file = File::from(file);
    let page = rustix::fs::fstatfs(&file).unwrap().f_bsize as u64;
    add_seals(&file, SHRINK).unwrap();
    let policy = SealPolicy::untrusted_live(4 * page).allow_hugetlb(true);
    let mut received = SealedFile::receive_size_sealed(file.try_clone().unwrap(), &policy).unwrap();
    file.set_len(page).unwrap();
    assert_eq!(received.refresh_len(4 * page).unwrap(), page);
    if pool.is_none() {
        return eprintln!("not tested in full");
    }
    fallocate(&file, FallocateFlags::empty(), 0, page + 1).unwrap();
    let error = received.refresh_len(4 * page).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert_eq!(received.len().unwrap(), page);
    file.set_len(2 * page).unwrap();
    assert_eq!(received.refresh_len(4 * page).unwrap(), 2 * page);
}

#[test]
fn a_shared_file_becomes_immutable_when_its_writers_are_gone() {
    let file = shared(b"hello");
    let (ours, theirs) = (file.map_shared().unwrap(), file.map_shared().unwrap());
    let reader = file.map_live().unwrap();
    drop(ours);
    let error = file.finish().unwrap_err();
    assert_eq!(error.reason(), SealFailure::WritableMapping);
    assert_eq!(Errno::from_io_error(error.error()), Some(Errno::BUSY));
    let file = error.into_file();
    assert_eq!(seals_of(&file) - EXEC, SHRINK, "it is as it was");
    theirs.write_at(0, b"J").unwrap();
    drop(theirs);

    let finished = file.finish().unwrap();
    assert_eq!(seals_of(&finished) - EXEC, SHRINK | GROW | WRITE | SEAL);
    assert_eq!(&finished.map_read_only().unwrap()[..], b"Jello");
    assert_eq!(reader.to_vec(..).unwrap(), b"Jello");
    all_refused(&finished.into(), &[("write(2)", |file| file.write_all_at(b"!", 0))]);
}

#[test]
fn a_shared_file_can_be_adopted_as_immutable() {
    let file = shared(b"hello");
    let map = file.map_shared().unwrap();
    let (refusal, fd) = refused(file, |fd| SealedFile::adopt_read_only(fd, &SealPolicy::new()));
    let Refusal::CannotSeal { reason, .. } = refusal else { panic!("{refusal}") };
    assert_eq!(reason, SealFailure::WritableMapping);
    drop(map);
    let adopted = SealedFile::adopt_read_only(fd, &SealPolicy::untrusted(100)).unwrap();
    assert_eq!(&adopted.map_read_only().unwrap()[..], b"hello");
}

#[test]
fn finishing_keeps_the_length_that_is_known() {
    let client = files::sealed(b"hello", SHRINK);
    let [early, mut late] = [(); 2].map(|()| receive(client.try_clone().unwrap()));
    client.set_len(10).unwrap();
    late.refresh_len(10).unwrap();
    assert_eq!(&early.finish().unwrap().map_read_only().unwrap()[..], b"hello");
    // Finished by somebody else meanwhile.
    assert_eq!(&late.finish().unwrap().map_read_only().unwrap()[..], b"hello\0\0\0\0\0");
}

#[test]
fn the_seal_against_growing_never_prevents_finishing() {
    // Somebody has made the seals final without it.
    let file = receive(files::sealed(b"hello", SHRINK | WRITE | SEAL));
    assert_eq!(&file.finish().unwrap().map_read_only().unwrap()[..], b"hello");
    let file = receive(files::sealed(b"hello", SHRINK | WRITE));
    assert_eq!(seals_of(file.finish().unwrap()) - EXEC, SHRINK | GROW | WRITE | SEAL);

    // Control: final seals without WRITE do.
    let file = receive(files::sealed(b"hello", SHRINK | SEAL));
    let error = file.finish().unwrap_err();
    assert_eq!(error.reason(), SealFailure::NotAllowed);
    let error = receive(read_only(&files::sealed(b"hello", SHRINK))).finish().unwrap_err();
    assert_eq!(error.reason(), SealFailure::NotAllowed);

    // A live file of a stranger, which may grow.
    let file = files::sealed(b"hello", LIVE_WITHOUT_GROWTH);
    if seals_of(&file).contains(EXEC) {
        return eprintln!("not tested in full: vm.memfd_noexec=2");
    }
    let live = SealedFile::receive_future_write(file, &SealPolicy::untrusted_live(5)).unwrap();
    assert!(seals_of(live.finish().unwrap()).contains(IMMUTABLE | GROW | SEAL));
}

const LIVE_WITHOUT_GROWTH: Seals = FUTURE_WRITE.union(SHRINK);

#[test]
fn a_shared_file_of_every_kind_of_option_can_be_made() {
    for options in [
        CreateOptions::new(),
        CreateOptions::new().huge_pages(sealed_mmap::HugePages::Transparent),
        CreateOptions::new().executable(memfd_noexec() != Some(2)),
    ] {
        let mut draft = options.create("shared").unwrap();
        draft.map_mut().unwrap();
        draft.set_len(LEN).unwrap();
        draft.map_mut().unwrap().fill(7);
        let file = draft.seal_size(GROW).unwrap();
        let map = file.map_shared().unwrap();
        assert!(map.to_vec(..).unwrap().iter().all(|byte| *byte == 7));
        assert!(format!("{file:?}").contains("SizeSealed"));
        let number = file.as_fd().try_clone_to_owned().unwrap();
        assert_eq!(receive(number).len().unwrap(), LEN);
    }
}
