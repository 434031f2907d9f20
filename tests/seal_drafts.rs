//! Sealing adds the seals it names and changes nothing else; where the kernel refuses, the draft
//! comes back as it was, with the reason, and can be sealed later.
#![allow(unsafe_code, reason = "obstacles are mappings and pins that this crate does not make")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memmap2::{Mmap, MmapMut, MmapOptions};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::pipe::{IoSliceRaw, PipeFlags, SpliceFlags, pipe_with, vmsplice};
use sealed_mmap::{
    CreateOptions, ReadOnlySealed, SealError, SealFailure, SealedFile, Seals, Unsealed, add_seals,
    get_seals,
};

/// A draft, and the descriptor that nobody should have: it is found in /proc by the draft's name.
fn pried_open() -> (SealedFile<Unsealed>, File) {
    static COUNT: AtomicU32 = AtomicU32::new(0);

    let name = format!("pried open {}", COUNT.fetch_add(1, Ordering::Relaxed));
    let link = format!("/memfd:{name} (deleted)");
    let mut draft = SealedFile::create(&name).unwrap();
    draft.write_all(&[7; 10_000]).unwrap();
    draft.seek(SeekFrom::Start(4321)).unwrap();
    let mut fds = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let path = fds.find(|path| fs::read_link(path).is_ok_and(|to| to.as_os_str() == &*link));
    let file = File::options().read(true).write(true).open(path.unwrap()).unwrap();
    assert_eq!(file.metadata().unwrap().ino(), draft.metadata().unwrap().ino());
    (draft, file)
}

/// Checks that `error` names `reason` and hands back the draft that [`pried_open`] made, which it
/// returns.
fn handed_back(error: SealError, reason: SealFailure, same_file: &File) -> SealedFile<Unsealed> {
    assert_eq!(error.reason(), reason);
    let errno = if reason == SealFailure::NotAllowed { Errno::PERM } else { Errno::BUSY };
    assert_eq!(error.error().raw_os_error(), Some(errno.raw_os_error()));
    assert!(!get_seals(same_file).unwrap().contains(Seals::WRITE));

    let mut draft = error.into_file();
    let (before, after) = (same_file.metadata().unwrap(), draft.metadata().unwrap());
    assert_eq!((after.dev(), after.ino(), after.len()), (before.dev(), before.ino(), 10_000));
    assert_eq!(draft.stream_position().unwrap(), 4321);
    let mut bytes = vec![0; 10_000];
    draft.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7));
    draft
}

/// Checks that a draft that came back can still be written, resized, mapped and then sealed.
fn can_be_sealed(mut draft: SealedFile<Unsealed>) {
    draft.write_all_at(b"later", 0).unwrap();
    draft.set_len(5000).unwrap();
    draft.map_mut().unwrap()[4999] = b'!';
    let sealed = draft.seal_read_only().unwrap();
    let map = sealed.map_read_only().unwrap();
    assert_eq!((&map[..5], map[4999], map.len()), (&b"later"[..], b'!', 5000));
}

#[test]
fn sealing_adds_write_shrink_grow_and_seal_and_no_other() {
    let ours = Seals::WRITE | Seals::SHRINK | Seals::GROW | Seals::SEAL;
    let kernel_seals_exec = memfd_create("probe", MemfdFlags::NOEXEC_SEAL).is_ok();
    let from_the_start = if kernel_seals_exec { Seals::EXEC } else { Seals::empty() };

    let sealed = SealedFile::create("sealed").unwrap().seal_read_only().unwrap();
    assert_eq!(sealed.get_seals().unwrap(), ours | from_the_start);
    let by_one_call = SealedFile::from_bytes("sealed", b"bytes").unwrap();
    assert_eq!(by_one_call.get_seals().unwrap(), ours | from_the_start);

    match CreateOptions::new().executable(true).create("executable") {
        Ok(draft) => assert_eq!(draft.seal_read_only().unwrap().get_seals().unwrap(), ours),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
            eprintln!("vm.memfd_noexec=2 forbids executable files, as it should");
        }
    }
    let control = SealedFile::create("control").unwrap().into_file();
    assert_eq!(get_seals(&control).unwrap(), from_the_start);
}

#[test]
fn sealing_keeps_the_file_and_goes_back_to_its_beginning() {
    for len in [0, 1, 4095, 4096, 4097, 65_536 + 3] {
        let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let mut draft = SealedFile::create("kept").unwrap();
        draft.write_all(&bytes).unwrap();
        draft.seek(SeekFrom::Start(len / 3)).unwrap();
        let inode = draft.metadata().unwrap().ino();

        let mut sealed = draft.seal_read_only().unwrap();
        assert_eq!(sealed.metadata().unwrap().ino(), inode);
        assert_eq!(sealed.len().unwrap(), len);
        assert_eq!(sealed.stream_position().unwrap(), 0);
        assert_eq!(&sealed.map_read_only().unwrap()[..], &bytes);
        let mut read = Vec::new();
        sealed.read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes);
    }
}

/// What else may map a draft. Who can write through it, or could ask to, is in the way of sealing.
enum Obstacle {
    Writable(MmapMut),
    Shared(Mmap),
}

#[test]
fn a_mapping_that_could_write_is_in_the_way_until_it_is_gone() {
    let whole: fn(&File) -> Obstacle = |file| {
        // SAFETY: nobody accesses the file while this map lives, and nobody this map.
        Obstacle::Writable(unsafe { MmapMut::map_mut(file) }.unwrap())
    };
    let one_page: fn(&File) -> Obstacle = |file| {
        // SAFETY: as above.
        Obstacle::Writable(unsafe { MmapOptions::new().offset(8192).len(1).map_mut(file) }.unwrap())
    };
    let readable: fn(&File) -> Obstacle = |file| {
        // SAFETY: as above.
        Obstacle::Shared(unsafe { Mmap::map(file) }.unwrap())
    };
    for map in [whole, one_page, readable] {
        let (draft, same_file) = pried_open();
        let obstacle = map(&same_file);
        let mut draft = draft;
        for _ in 0..3 {
            let error = draft.seal_read_only().unwrap_err();
            draft = handed_back(error, SealFailure::WritableMapping, &same_file);
        }
        match obstacle {
            Obstacle::Writable(map) => drop(map),
            Obstacle::Shared(map) => drop(map),
        }
        can_be_sealed(draft);
    }
}

#[test]
fn a_mapping_that_cannot_write_is_not_in_the_way() {
    let (draft, same_file) = pried_open();
    let read_only = File::open(format!("/proc/self/fd/{}", same_file.as_raw_fd())).unwrap();
    // SAFETY: the file is not written any more.
    let shared = unsafe { Mmap::map(&read_only) }.unwrap();
    // SAFETY: the same.
    let private = unsafe { MmapOptions::new().map_copy(&same_file) }.unwrap();
    draft.seal_read_only().unwrap();
    assert!(shared.iter().chain(&private[..]).all(|byte| *byte == 7));
}

#[test]
fn a_map_that_was_leaked_keeps_the_file_a_draft() {
    let (mut draft, same_file) = pried_open();
    std::mem::forget(draft.map_mut().unwrap());
    let error = draft.seal_read_only().unwrap_err();
    let mut draft = handed_back(error, SealFailure::WritableMapping, &same_file);
    draft.map_mut().unwrap().fill(7);
    let error = draft.seal_read_only().unwrap_err();
    handed_back(error, SealFailure::WritableMapping, &same_file);
}

#[test]
fn a_writable_mapping_is_reported_without_waiting() {
    let (mut draft, _same_file) = pried_open();
    std::mem::forget(draft.map_mut().unwrap());
    let mut attempt = || {
        let start = Instant::now();
        let error = std::mem::replace(&mut draft, SealedFile::create("placeholder").unwrap())
            .seal_read_only()
            .unwrap_err();
        let took = start.elapsed();
        draft = error.into_file();
        took
    };
    // The quickest of several, for a busy machine can hold up one of them.
    let quickest = (0..5).map(|_| attempt()).min().unwrap();
    assert!(quickest < Duration::from_millis(100), "{quickest:?}");
}

/// Pins the first page of the draft by putting it into a pipe by reference.
fn pin_by_vmsplice(draft: &mut SealedFile<Unsealed>) -> (File, File) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let map = draft.map_mut().unwrap();
    let slices = [IoSliceRaw::from_slice(&map[..4096])];
    // SAFETY: the slice is valid during the call, and the page in the pipe is only read.
    let count = unsafe { vmsplice(&writer, &slices, SpliceFlags::empty()) }.unwrap();
    assert_eq!(count, 4096);
    (reader.into(), writer.into())
}

#[test]
fn pages_that_are_pinned_for_a_moment_are_waited_for() {
    const MOMENT: Duration = Duration::from_millis(500);

    let (mut draft, _same_file) = pried_open();
    let (mut reader, _writer) = pin_by_vmsplice(&mut draft);
    let start = Instant::now();
    let drain = thread::spawn(move || {
        thread::sleep(MOMENT);
        let mut page = [0; 4096];
        reader.read_exact(&mut page).unwrap();
        page
    });
    let sealed = draft.seal_read_only().unwrap();
    assert!(start.elapsed() >= MOMENT);
    assert_eq!(drain.join().unwrap(), [7; 4096]);
    assert!(sealed.map_read_only().unwrap().iter().all(|byte| *byte == 7));

    let control = pried_open().0;
    let start = Instant::now();
    control.seal_read_only().unwrap();
    assert!(start.elapsed() < MOMENT);
}

#[test]
fn pages_that_stay_pinned_are_reported_after_a_bounded_wait() {
    let (mut draft, same_file) = pried_open();
    let (mut reader, _writer) = pin_by_vmsplice(&mut draft);
    let start = Instant::now();
    let error = draft.seal_read_only().unwrap_err();
    let took = start.elapsed();
    let draft = handed_back(error, SealFailure::PinnedPages, &same_file);
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&took), "{took:?}");

    reader.read_exact(&mut [0; 4096]).unwrap();
    can_be_sealed(draft);
}

#[test]
fn a_draft_whose_seals_somebody_made_final_comes_back() {
    let (draft, same_file) = pried_open();
    add_seals(&same_file, Seals::SEAL).unwrap();
    let mut draft = draft;
    for _ in 0..3 {
        let error = draft.seal_read_only().unwrap_err();
        draft = handed_back(error, SealFailure::NotAllowed, &same_file);
    }
}

#[test]
fn sealing_works_on_what_is_partly_sealed_already() {
    for earlier in [Seals::SHRINK, Seals::GROW | Seals::SHRINK, Seals::WRITE] {
        let (draft, same_file) = pried_open();
        add_seals(&same_file, earlier).unwrap();
        let sealed = draft.seal_read_only().unwrap();
        let all = Seals::WRITE | Seals::SHRINK | Seals::GROW | Seals::SEAL;
        assert!(sealed.get_seals().unwrap().contains(all));
    }
}

fn not_sealable() -> SealError {
    let mut draft = CreateOptions::new().allow_sealing(false).create("refused").unwrap();
    draft.write_all(b"bytes").unwrap();
    draft.seal_read_only().unwrap_err()
}

#[test]
fn the_error_says_what_failed_and_its_source_says_why() {
    let error = not_sealable();
    let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.raw_os_error(), Some(Errno::PERM.raw_os_error()));
    let message = error.to_string();
    assert!(message.starts_with("cannot seal \"refused\": "), "{message}");
    assert!(message.contains(&error.reason().to_string()), "{message}");
    assert!(!message.contains(&source.to_string()), "{message} repeats {source}");
    // As `main` prints it.
    assert_eq!(format!("{error:?}"), format!("{message}: {source}"));
}

#[test]
fn the_error_gives_back_the_file_or_the_kernel_s_error_or_both() {
    fn with_question_mark() -> io::Result<SealedFile<ReadOnlySealed>> {
        Err(not_sealable())?
    }
    fn with_any_error() -> Result<(), Box<dyn Error + Send + Sync>> {
        Err(not_sealable())?
    }
    let (error, file) = not_sealable().into_parts();
    assert_eq!(file.len().unwrap(), 5);
    assert_eq!(not_sealable().into_file().len().unwrap(), 5);
    for error in [error, not_sealable().into_error()] {
        assert_eq!(error.raw_os_error(), Some(Errno::PERM.raw_os_error()));
    }
    for error in [io::Error::from(not_sealable()), with_question_mark().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(error.to_string(), not_sealable().to_string());
        assert!(error.get_ref().unwrap().is::<SealError<()>>());
        let source = error.get_ref().unwrap().source().unwrap();
        let source = source.downcast_ref::<io::Error>().unwrap();
        assert_eq!(source.raw_os_error(), Some(Errno::PERM.raw_os_error()));
    }
    assert!(with_any_error().unwrap_err().downcast_ref::<SealError>().is_some());
}
