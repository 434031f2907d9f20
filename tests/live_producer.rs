//! What `Producer` promises: nobody else writes, it writes what it is told and no more, finishing
//! ends it, and what it needs and does not get is an error. Needs `/proc`; runs as any user.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    reason = "pinning pages is one of the attacks, and a kernel is made to look old"
)]

mod support;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use memmap2::{Mmap, MmapOptions};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::pipe::{IoSliceRaw, SpliceFlags, pipe, splice, vmsplice};
use rustix::process::{Resource, Rlimit, Uid, chroot, fchdir, geteuid, getrlimit, setrlimit};
use rustix::thread::{set_no_new_privs, set_thread_res_uid};
use sealed_mmap::{
    CreateOptions, FutureWriteSealed, HugePages, OutOfBounds, Producer, Refusal, SealFailure,
    SealPolicy, SealedFile, Seals, add_seals, get_seals,
};
use support::files::{contents, read_write};
use support::kernel::*;
use support::machine::HugePool;
use support::process::is_alone;
use support::runs::{is_emulated, live, rounds, traces};
use support::salted_pattern;

const PAGE: u64 = 64 << 10; // a multiple of every page size in use

/// `None` where the system has no producers: then that is what is checked.
fn build_producer(len: u64, fill: impl FnOnce(&mut [u8])) -> Option<Producer> {
    let built = Producer::build("producer", len, |bytes| {
        fill(bytes);
        Ok(())
    });
    live(built)
}

/// As the attempts want it.
fn full_of_a() -> Option<Producer> {
    build_producer(LEN, |bytes| bytes.fill(b'a'))
}

fn shared_file(producer: &Producer) -> File {
    producer.file().try_clone().unwrap().into()
}

/// What its owner can get at in spite of the mode.
fn writable_file(producer: &Producer) -> File {
    let file = shared_file(producer);
    chmod(&file, 0o666).unwrap();
    read_write(&file)
}

/// Runs as another user, or says that it cannot.
fn as_stranger<T: Send>(body: impl FnOnce() -> T + Send) -> Option<T> {
    let nobody = Uid::from_raw(65534);
    thread::scope(|scope| {
        let stranger = scope.spawn(|| match set_thread_res_uid(nobody, nobody, nobody) {
            Ok(()) => Some(body()),
            Err(error) => {
                // EINVAL: root of a user namespace that has no other users.
                assert!(error == Errno::INVAL || error == Errno::PERM && !geteuid().is_root());
                eprintln!("only root can become another user ({error})");
                None
            }
        });
        stranger.join().unwrap()
    })
}

fn open_for_writing(file: &File) -> io::Result<File> {
    File::options().write(true).open(format!("/proc/thread-self/fd/{}", file.as_raw_fd()))
}

#[test]
fn nobody_else_can_write_or_resize() {
    let Some(producer) = full_of_a() else { return };
    let file = writable_file(&producer);
    for attempts in [&WRITES[..], &SHRINKS, &GROWTHS, &APPENDS] {
        all_refused(&file, attempts);
        all_allowed(draft, attempts);
    }
}

#[test]
fn the_seals_are_the_promised_ones_and_leave_room_for_finishing() {
    let Some(producer) = full_of_a() else { return };
    let expected = Seals::FUTURE_WRITE | Seals::SHRINK | Seals::GROW;
    assert_eq!(producer.file().get_seals().unwrap(), expected);
}

#[test]
fn what_is_shared_can_only_read() {
    let Some(producer) = full_of_a() else { return };
    let file = shared_file(&producer);
    let flags = fcntl_getfl(&file).unwrap();
    assert_eq!(flags & OFlags::RWMODE, OFlags::RDONLY);
    assert!(!flags.contains(OFlags::NONBLOCK), "{flags:?}");
    assert_eq!(mode(&file), 0o444);
    fails_with("write(2)", file.write_at(b"!", 0), Errno::BADF);
    fails_with("a writable mapping", map_shared(&file), Errno::ACCESS);
    for seals in [Seals::SEAL, Seals::WRITE, Seals::empty()] {
        fails_with("a seal", add_seals(&file, seals), Errno::PERM);
    }
    let error = producer.file().try_clone().unwrap().finish().unwrap_err();
    assert_eq!(error.reason(), SealFailure::NotAllowed);
    add_seals(writable_file(&producer), Seals::empty()).unwrap();
}

#[test]
fn another_user_cannot_open_it_for_writing() {
    let Some(producer) = full_of_a() else { return };
    let (file, draft) = (shared_file(&producer), draft());
    let attempts = || (open_for_writing(&file), open_for_writing(&draft));
    let (live, control) = match as_stranger(attempts) {
        Some(outcomes) => outcomes,
        // Then not even the owner can, without changing the mode first.
        None => attempts(),
    };
    fails_with("open", live, Errno::ACCESS);
    control.unwrap();
}

#[test]
fn another_user_can_receive_it_without_reserving() {
    let Some(producer) = full_of_a() else { return };
    let received = as_stranger(|| {
        let fd = || OwnedFd::from(shared_file(&producer));
        let policy = SealPolicy::untrusted(LEN);
        let refused = SealedFile::receive_future_write(fd(), &policy).unwrap_err();
        let Refusal::CannotReserve(error) = refused.reason() else { panic!("{refused}") };
        assert_eq!(Errno::from_io_error(error), Some(Errno::ACCESS));
        let policy = SealPolicy::untrusted_live(LEN);
        let live = SealedFile::receive_future_write(fd(), &policy).unwrap();
        live.map_live().unwrap().to_vec(..2).unwrap()
    });
    assert!(received.is_none_or(|bytes| bytes == b"aa"));
}

#[test]
fn another_user_can_receive_the_finished_file_as_untrusted() {
    let Some(producer) = full_of_a() else { return };
    let finished = producer.finish().unwrap();
    let read_only = finished.reopen().unwrap();
    let received = as_stranger(|| {
        let policy = SealPolicy::untrusted(LEN);
        let receive = |file: SealedFile| SealedFile::receive_read_only(file, &policy);
        // Why it is not sent as a live file is.
        let refused = receive(read_only).unwrap_err();
        let Refusal::CannotReserve(error) = refused.reason() else { panic!("{refused}") };
        assert_eq!(Errno::from_io_error(error), Some(Errno::ACCESS));
        receive(finished.try_clone().unwrap()).unwrap().map_read_only().unwrap()
    });
    assert!(received.is_none_or(|map| map[..] == [b'a'; LEN as usize]));
}

/// The limit of the promise, as documented.
#[test]
fn its_owner_can_prevent_finishing_but_not_write() {
    let Some(producer) = full_of_a() else { return };
    let file = writable_file(&producer);
    add_seals(&file, Seals::SEAL).unwrap();
    all_refused(&file, &WRITES);
    let error = producer.finish().unwrap_err();
    assert_eq!(error.reason(), SealFailure::NotAllowed);
    assert_eq!(Errno::from_io_error(error.error()), Some(Errno::PERM));
}

#[test]
fn its_owners_exec_seal_prevents_finishing_on_unfixed_kernels() {
    let Some(executable) = exec_draft() else { return };
    let (executable, _writable) = shared(executable);
    let kernel_looks_for_writers = add_seals(&executable, Seals::EXEC).is_err();

    let Some(producer) = full_of_a() else { return };
    let file = writable_file(&producer);
    add_seals(&file, Seals::EXEC).unwrap();
    let before = get_seals(&file).unwrap();
    let mut finished = producer.finish();
    if kernel_looks_for_writers {
        assert!(finished.unwrap().map_read_only().unwrap().iter().all(|byte| *byte == b'a'));
        return;
    }
    for _ in 0..2 {
        let error = finished.unwrap_err();
        assert_eq!(error.reason(), SealFailure::UntrustedWriteSeal);
        assert_eq!(error.error().raw_os_error(), None);
        finished = error.into_file().finish();
    }
    assert_eq!(get_seals(&file).unwrap(), before, "no seal is added in vain");
}

#[test]
fn every_range_is_written_and_nothing_beside_it() {
    let len = 43; // no multiple of a word
    let (old, new) = (salted_pattern(len, 1), salted_pattern(len, 2));
    let Some(mut producer) = build_producer(len as u64, |bytes| bytes.copy_from_slice(&old)) else {
        return;
    };
    for start in 0..=len {
        for end in start..=len {
            producer.write_at(start as u64, &new[start..end]).unwrap();
            let expected = [&old[..start], &new[start..end], &old[end..]].concat();
            assert_eq!(contents(&shared_file(&producer)), expected, "{start}..{end}");
            producer.write_at(0, &old).unwrap();
        }
    }
}

#[test]
fn ranges_across_lines_and_pages_are_written_and_read_back() {
    let len = 2 * PAGE as usize + 21;
    let Some(mut producer) = build_producer(len as u64, |_| ()) else { return };
    let mut model = vec![0; len];
    let edges =
        [0, 1, 7, 8, 63, 64, 65, 4095, 4096, 65_535, 65_536, 131_071, 131_072, len - 1, len];
    for (salt, start) in edges.into_iter().enumerate() {
        for end in edges.into_iter().filter(|end| *end >= start) {
            let bytes = salted_pattern(end - start, salt);
            producer.write_at(start as u64, &bytes).unwrap();
            model[start..end].copy_from_slice(&bytes);
            let mut back = vec![0; bytes.len()];
            producer.read_at(start as u64, &mut back).unwrap();
            assert!(back == bytes, "{start}..{end} read back");
            assert!(contents(&shared_file(&producer)) == model, "{start}..{end}");
        }
    }
}

#[test]
fn nothing_is_written_behind_the_end() {
    let Some(mut producer) = build_producer(11, |bytes| bytes.fill(0xff)) else { return };
    producer.write_at(0, &[0xff; 11]).unwrap();
    producer.write_at(10, &[0xff]).unwrap();
    let file = shared_file(&producer);
    let finished = producer.finish().unwrap();
    // SAFETY: the file is finished, so nobody writes; the last page is there to its end.
    let page = unsafe { MmapOptions::new().len(4096).map(&file) }.unwrap();
    assert_eq!(page[..11], [0xff; 11]);
    assert!(page[11..].iter().all(|byte| *byte == 0));
    drop(finished);
}

#[test]
fn out_of_bounds_says_what_and_changes_nothing() {
    let Some(mut producer) = build_producer(10, |_| ()) else { return };
    for (offset, len) in [(0, 11), (8, 3), (10, 1), (11, 0), (11, 1), (u64::MAX, 1), (u64::MAX, 0)]
    {
        let mut bytes = vec![0xff; len];
        let expected = OutOfBounds { offset, len: len as u64, size: 10 };
        assert_eq!(producer.write_at(offset, &bytes), Err(expected));
        assert_eq!(producer.read_at(offset, &mut bytes), Err(expected));
        assert_eq!(bytes, vec![0xff; len]);
    }
    assert_eq!(contents(&shared_file(&producer)), [0; 10]);
    producer.write_at(10, b"").unwrap();
}

#[test]
fn an_empty_file_works() {
    let Some(mut producer) = build_producer(0, |bytes| assert!(bytes.is_empty())) else { return };
    assert!(producer.is_empty());
    producer.write_at(0, b"").unwrap();
    producer.read_at(0, &mut []).unwrap();
    let expected = OutOfBounds { offset: 0, len: 1, size: 0 };
    assert_eq!(producer.write_at(0, b"!"), Err(expected));
    assert!(producer.finish().unwrap().map_read_only().unwrap().is_empty());
}

#[test]
fn memory_is_there_from_the_start() {
    let options = CreateOptions::new();
    for options in [options, options.huge_pages(HugePages::Transparent)] {
        let Some(_) = build_producer(1, |_| ()) else { return };
        let producer = options.create_producer("producer", 1 << 20).unwrap();
        assert!(producer.file().metadata().unwrap().blocks() * 512 >= 1 << 20);
    }
    let error = options.create_producer("producer", 1 << 62).unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::FileTooLarge));
}

/// A live file of huge pages, how large one is, and the pool, to be dropped last; `None` says what the
/// system lacks for it.
fn huge(pages: u64) -> Option<(Option<HugePool>, Producer, u64)> {
    build_producer(1, |_| ())?;
    // Without one there are huge pages all the same, or the right error.
    let pool = if pages > 0 { HugePool::with_free_pages(pages) } else { None };
    let options = CreateOptions::new().huge_pages(HugePages::HugeTlb(None));
    let made = options.create("page size").and_then(|file| {
        let page = file.metadata()?.blksize();
        Ok((pool, options.create_producer("producer", pages * page)?, page))
    });
    if let Err(error) = &made {
        use io::ErrorKind::{OutOfMemory, StorageFull, Unsupported};
        assert!([OutOfMemory, StorageFull, Unsupported].contains(&error.kind()), "{error}");
        assert!(pages > 0 || error.kind() == Unsupported, "{error}");
        eprintln!("a live file of {pages} huge pages is not to be had: {error}");
    }
    made.ok()
}

#[test]
fn huge_pages_work_or_are_refused_for_want_of_a_pool() {
    let Some((_pool, mut producer, page)) = huge(1) else { return };
    let map = producer.file().map_live().unwrap();
    producer.write_at(page - 3, b"end").unwrap();
    assert_eq!(map.to_vec(page - 3..).unwrap(), b"end");
    let finished = producer.finish().unwrap();
    assert_eq!(finished.map_range(page - 3..page).unwrap()[..], *b"end");
}

#[test]
fn live_huge_pages_are_refused_unless_the_policy_allows_them() {
    // An empty file takes no pool.
    for pages in [0, 1] {
        let Some((_pool, mut producer, page)) = huge(pages) else { continue };
        let fd = OwnedFd::from(shared_file(&producer));
        let policy = SealPolicy::new().len(pages * page..=pages * page);
        let refused = SealedFile::receive_future_write(fd, &policy).unwrap_err();
        assert!(matches!(refused.reason(), Refusal::HugeTlb), "{refused}");

        let policy = policy.allow_hugetlb(true);
        let received = SealedFile::receive_future_write(refused.into_fd(), &policy).unwrap();
        let last = (pages * page).saturating_sub(1);
        let written = &b"!"[..pages as usize];
        producer.write_at(last, written).unwrap();
        assert_eq!(received.map_live().unwrap().to_vec(last..).unwrap(), written);
    }
}

#[test]
fn options_that_contradict_a_live_file_are_refused() {
    let Some(_) = build_producer(1, |_| ()) else { return };
    let executable = CreateOptions::new().executable(true).create_producer("producer", 1);
    assert_eq!(executable.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let unsealable = CreateOptions::new().allow_sealing(false).create_producer("producer", 1);
    fails_with("a producer without sealing", unsealable, Errno::PERM);
}

#[test]
fn what_fill_writes_is_there_and_what_it_returns_comes_back() {
    let Some(producer) = build_producer(5, |bytes| bytes.copy_from_slice(b"hello")) else { return };
    assert_eq!(contents(&shared_file(&producer)), b"hello");
    let refusal = Producer::build("producer", 5, |_| Err(io::Error::other("no")));
    assert_eq!(refusal.unwrap_err().to_string(), "no");
}

#[test]
fn finishing_makes_the_last_bytes_final() {
    let Some(mut producer) = full_of_a() else { return };
    let (file, map) = (writable_file(&producer), producer.file().map_live().unwrap());
    producer.write_at(3, b"the end").unwrap();
    let mut last = vec![0; LEN as usize];
    producer.read_at(0, &mut last).unwrap();

    let finished = producer.finish().unwrap();
    let promised = WRITE | FIXED_SIZE | SEAL;
    assert!(finished.get_seals().unwrap().contains(promised));
    assert!(finished.map_read_only().unwrap()[..] == last);
    assert!(map.to_vec(..).unwrap() == last);
    all_refused(&file, &WRITES);
    all_refused(&file, &SHRINKS);
    let fd = OwnedFd::from(finished.try_clone().unwrap());
    let policy = SealPolicy::untrusted(LEN);
    assert!(
        SealedFile::receive_read_only(fd, &policy).unwrap().map_read_only().unwrap()[..] == last
    );
}

#[test]
fn finishing_succeeds_while_readers_map_and_read() {
    let (mut meetings, mut again, rounds) = (0, 0, rounds(300, 10_000));
    for round in 0..rounds {
        // The fewer pages there are, the likelier it is that one is in use.
        let len = [8, PAGE as usize, LEN as usize][round % 3];
        let Some(mut producer) = build_producer(len as u64, |bytes| bytes.fill(b'a')) else {
            return;
        };
        let (reading, reads, done) =
            (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let expected = salted_pattern(len, round);
        thread::scope(|scope| {
            let readers = [(); 2].map(|()| {
                let file = producer.file().try_clone().unwrap();
                let (reading, reads, done) = (&reading, &reads, &done);
                scope.spawn(move || {
                    loop {
                        let is_last = done.load(SeqCst);
                        reading.fetch_add(1, SeqCst);
                        let bytes = file.map_live().unwrap().to_vec(..).unwrap();
                        reading.fetch_sub(1, SeqCst);
                        reads.fetch_add(1, SeqCst);
                        if is_last {
                            return bytes;
                        }
                    }
                })
            });
            while reads.load(SeqCst) < 2 && !readers.iter().any(|reader| reader.is_finished()) {
                thread::yield_now();
            }
            producer.write_at(0, &expected).unwrap();
            meetings += usize::from(reading.load(SeqCst) > 0);
            let mut finished = producer.finish();
            // On a slow machine pages may be in use for too long.
            while let Err(error) = finished {
                assert_eq!(error.reason(), SealFailure::PinnedPages, "round {round}: {error:?}");
                again += 1;
                finished = error.into_file().finish();
            }
            done.store(true, SeqCst);
            let finished = finished.unwrap();
            assert!(finished.map_read_only().unwrap()[..] == expected);
            for reader in readers {
                assert!(reader.join().unwrap() == expected, "round {round}");
            }
        });
    }
    assert!(meetings > rounds / 2, "readers were at it in {meetings} of {rounds} rounds");
    println!("{rounds} rounds, {again} of them finished at a later attempt");
    assert!(again <= rounds / 10 || is_emulated(), "{again} of {rounds} rounds needed another");
}

#[test]
fn a_reader_that_pins_pages_only_delays_finishing() {
    type Pin = fn(&File, &OwnedFd);
    let pins: [(&str, Pin); 2] = [
        ("splice(2)", |file, to| {
            splice(file, Some(&mut 0), to, None, 4096, SpliceFlags::empty()).unwrap();
        }),
        ("vmsplice(2)", |file, to| {
            // SAFETY: nobody writes while this slice is there.
            let map = unsafe { Mmap::map(file) }.unwrap();
            let slices = [IoSliceRaw::from_slice(&map[..4096])];
            // SAFETY: the kernel takes its own reference to the pages.
            unsafe { vmsplice(to, &slices, SpliceFlags::empty()) }.unwrap();
        }),
    ];
    for (what, pin) in pins {
        let Some(producer) = full_of_a() else { return };
        let (from, to) = pipe().unwrap();
        pin(&shared_file(&producer), &to);
        let seals = get_seals(producer.file()).unwrap();

        let error = producer.finish().err().unwrap_or_else(|| panic!("{what} pins nothing"));
        assert_eq!(error.reason(), SealFailure::PinnedPages, "{what}");
        assert_eq!(Errno::from_io_error(error.error()), Some(Errno::BUSY));
        let live: SealedFile<FutureWriteSealed> = error.into_file();
        assert_eq!(live.get_seals().unwrap(), seals, "{what}");

        drop((from, to));
        let finished = live.finish().unwrap();
        assert!(finished.map_read_only().unwrap().iter().all(|byte| *byte == b'a'));
    }
}

#[test]
fn readers_keep_reading_when_the_producer_is_gone() {
    let Some(mut producer) = full_of_a() else { return };
    let (file, map) = (producer.file().try_clone().unwrap(), producer.file().map_live().unwrap());
    producer.write_at(0, b"last words").unwrap();
    drop(producer);
    assert_eq!(map.to_vec(..10).unwrap(), b"last words");
    assert_eq!(file.map_live().unwrap().to_vec(..10).unwrap(), b"last words");
}

#[test]
fn a_producer_can_move_and_be_read_across_threads() {
    fn assert<T: Send + Sync + std::fmt::Debug + 'static>() {}
    assert::<Producer>();
    let Some(mut producer) = full_of_a() else { return };
    let producer = thread::spawn(move || {
        producer.write_at(0, b"there").unwrap();
        producer
    });
    let producer = producer.join().unwrap();
    let mut bytes = [0; 5];
    producer.read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"there");
}

/// Checks that creating fails, here by `create`, and leaves neither a descriptor nor a mapping of
/// `name`; and the control, that without hindrance there are some.
fn fails_without_a_trace(name: &str, create: impl FnOnce() -> io::Result<Producer>) -> io::Error {
    let error = create().unwrap_err();
    assert_eq!(traces(name), (0, 0));
    let _control = Producer::create(name, 1).unwrap();
    assert_eq!(traces(name), (2, 1));
    error
}

#[test]
fn without_proc_creating_is_unsupported_and_leaves_nothing() {
    if !is_alone("without_proc_creating_is_unsupported_and_leaves_nothing") {
        return;
    }
    let Some(_) = build_producer(1, |_| ()) else { return };
    let root = File::open("/").unwrap();
    if let Err(error) = chroot(std::env::temp_dir()) {
        assert_eq!(error, Errno::PERM);
        return eprintln!("not run, only root can do without /proc: {error}");
    }
    let error = fails_without_a_trace("no proc", || {
        let created = Producer::create("no proc", 1);
        fchdir(&root).unwrap();
        chroot(".").unwrap();
        created
    });
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("/proc/thread-self/fd"), "{error}");
}

#[test]
fn creating_takes_two_descriptors_and_with_fewer_leaves_nothing() {
    if !is_alone("creating_takes_two_descriptors_and_with_fewer_leaves_nothing") {
        return;
    }
    let Some(_) = build_producer(1, |_| ()) else { return };
    let limit = getrlimit(Resource::Nofile);
    let with_room = |room: usize| {
        // The limit is on numbers.
        let free = [(); 3].map(|()| File::open("/").unwrap());
        let limited = Rlimit { current: Some(free[room].as_raw_fd() as u64), ..limit };
        drop(free);
        setrlimit(Resource::Nofile, limited).unwrap();
        let created = Producer::create("no room", 1);
        setrlimit(Resource::Nofile, limit).unwrap();
        created
    };
    for room in [0, 1] {
        let error = fails_without_a_trace("no room", || with_room(room));
        assert_eq!(Errno::from_io_error(&error), Some(Errno::MFILE), "{room}");
    }
    with_room(2).unwrap();
}

/// Makes the kernel refuse the seal as it did before it had it, to this thread and for good.
fn forget_future_write() -> io::Result<()> {
    #[cfg(target_pointer_width = "64")]
    const FCNTL: libc::c_long = libc::SYS_fcntl;
    #[cfg(target_pointer_width = "32")]
    const FCNTL: libc::c_long = libc::SYS_fcntl64;
    const NUMBER: u32 = 0;
    const INVALID: u32 = libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32;

    let argument = |index: u32| 16 + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 };
    let step = |code: u32, k: u32, jf: u8| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let load = |what| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, what, 0);
    let unless = |test, value, skip| step(libc::BPF_JMP | test | libc::BPF_K, value, skip);
    let answer = |answer| step(libc::BPF_RET | libc::BPF_K, answer, 0);
    let mut filter = [
        load(NUMBER),
        unless(libc::BPF_JEQ, FCNTL as u32, 5),
        load(argument(1)),
        unless(libc::BPF_JEQ, libc::F_ADD_SEALS as u32, 3),
        load(argument(2)),
        unless(libc::BPF_JSET, FUTURE_WRITE.bits(), 1),
        answer(INVALID),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    set_no_new_privs(true)?;
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let mode = libc::SECCOMP_MODE_FILTER as libc::c_ulong;
    // SAFETY: the kernel copies the program, which lives until then.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[test]
fn without_the_seal_creating_is_unsupported_and_leaves_nothing() {
    let Some(_) = build_producer(1, |_| ()) else { return };
    let create = || -> io::Result<_> {
        forget_future_write()?;
        fails_with("the seal", add_seals(draft(), FUTURE_WRITE), Errno::INVAL);
        add_seals(draft(), FIXED_SIZE | WRITE).unwrap();
        Ok(Producer::create("old kernel", 1))
    };
    let error = match thread::spawn(create).join().unwrap() {
        Ok(created) => fails_without_a_trace("old kernel", || created),
        Err(error) => {
            assert!(matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::NOSYS)));
            return eprintln!("not run, there are no filters of system calls: {error}");
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("F_SEAL_FUTURE_WRITE"), "{error}");
}
