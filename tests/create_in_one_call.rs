//! The one-call writers: an immutable file from bytes, from a closure, and from another descriptor,
//! or an error that leaves nothing behind.
#![allow(unsafe_code, reason = "signal handlers are set with raw calls")]

mod support;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use sealed_mmap::{CreateOptions, HugePages, SealedFile, Seals};
use support::process::is_alone;
use support::runs::traces;
use support::{errno, pattern};

/// What `build` fills through a buffer and not in place.
const LARGEST_BUFFER: usize = 1 << 20;
const SIZES: [usize; 9] = [0, 1, 2, 4095, 4096, 4097, 65_536, 65_537, 300_001];

/// Checks that a file holds `bytes`, and that the kernel keeps it so.
fn is_sealed_with(file: &SealedFile, bytes: &[u8]) {
    assert_eq!(file.len().unwrap(), bytes.len() as u64);
    assert!(file.map_read_only().unwrap()[..] == *bytes, "{} bytes", bytes.len());
    let all = Seals::WRITE | Seals::SHRINK | Seals::GROW | Seals::SEAL;
    assert!(file.get_seals().unwrap().contains(all));
    for offset in [0, bytes.len() as u64] {
        assert_eq!(errno(file.write_at(b"x", offset)), Err(Errno::PERM));
    }
}

/// A file that has no name any more, so that nothing stays behind.
fn temporary(bytes: &[u8]) -> File {
    static COUNT: AtomicU32 = AtomicU32::new(0);

    let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(format!("sealed-mmap-copying-{unique}"));
    fs::create_dir_all(std::env::temp_dir()).unwrap();
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    fs::remove_file(path).unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn pipe() -> (File, File) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

/// Something that gives `bytes` and then ends, fed from another thread.
fn pipe_of(bytes: Vec<u8>) -> File {
    let (reader, mut writer) = pipe();
    // The reader may leave early: at the limit.
    thread::spawn(move || drop(writer.write_all(&bytes)));
    reader
}

fn socket_of(bytes: Vec<u8>) -> UnixStream {
    let (reader, mut writer) = UnixStream::pair().unwrap();
    thread::spawn(move || drop(writer.write_all(&bytes)));
    reader
}

#[test]
fn from_bytes_holds_the_bytes_for_good() {
    for len in SIZES.into_iter().chain([10 << 20]) {
        let bytes = pattern(len);
        is_sealed_with(&SealedFile::from_bytes("bytes", &bytes).unwrap(), &bytes);
    }
}

#[test]
fn build_fills_zeroed_memory_and_holds_it_for_good() {
    for len in SIZES.into_iter().chain([LARGEST_BUFFER, LARGEST_BUFFER + 1]) {
        let bytes = pattern(len);
        let file = SealedFile::build("built", len as u64, |target| {
            assert_eq!(target.len(), len);
            assert!(target.iter().all(|byte| *byte == 0));
            if len > 0 {
                assert_eq!(target.as_ptr().addr() % 4096, 0);
            }
            target.copy_from_slice(&bytes);
            Ok(())
        });
        is_sealed_with(&file.unwrap(), &bytes);
    }
}

#[test]
fn build_returns_the_error_of_fill_and_leaves_nothing() {
    const NAME: &str = "given up";

    for (len, mappings) in [(LARGEST_BUFFER, 0), (LARGEST_BUFFER + 1, 1)] {
        let error = SealedFile::build(NAME, len as u64, |target| {
            target.fill(1);
            assert_eq!(traces(NAME), (1, mappings));
            Err(io::Error::new(ErrorKind::UnexpectedEof, "half a message"))
        });
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(error.to_string(), "half a message");
        assert_eq!(traces(NAME), (0, 0));
    }
}

#[test]
fn a_panic_in_fill_leaves_nothing() {
    const NAME: &str = "panicked";

    for (len, mappings) in [(LARGEST_BUFFER, 0), (LARGEST_BUFFER + 1, 1)] {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            SealedFile::build(NAME, len as u64, |_| {
                assert_eq!(traces(NAME), (1, mappings));
                std::panic::resume_unwind(Box::new("on purpose"))
            })
        }));
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"on purpose"));
        assert_eq!(traces(NAME), (0, 0));
    }
}

#[test]
fn a_finished_file_has_one_descriptor_and_no_mapping() {
    const NAME: &str = "one descriptor";

    let source = temporary(&pattern(10_000));
    for make in [
        || SealedFile::from_bytes(NAME, pattern(10_000)),
        || SealedFile::build(NAME, 10_000, |_| Ok(())),
        || SealedFile::build(NAME, LARGEST_BUFFER as u64 + 1, |_| Ok(())),
        || SealedFile::copy_of(NAME, pipe_of(pattern(10_000)), 10_000),
    ] {
        let file = make().unwrap();
        assert_eq!(traces(NAME), (1, 0));
        drop(file);
        assert_eq!(traces(NAME), (0, 0));
    }
    let copy = SealedFile::copy_of(NAME, &source, 10_000).unwrap();
    assert_eq!(traces(NAME), (1, 0));
    drop(copy);
    SealedFile::copy_of(NAME, &source, 9_999).unwrap_err();
    assert_eq!(traces(NAME), (0, 0));
}

#[test]
fn a_copy_holds_the_whole_source_or_refuses_beyond_the_limit() {
    for len in SIZES {
        let bytes = pattern(len);
        let sealed = SealedFile::from_bytes("source", &bytes).unwrap();
        let mut draft = SealedFile::create("source").unwrap();
        draft.write_all(&bytes).unwrap();
        let (draft, disk) = (draft.into_file(), temporary(&bytes));

        let copy = |limit: u64| -> Vec<(&str, io::Result<SealedFile>)> {
            vec![
                ("sealed", SealedFile::copy_of("copy", &sealed, limit)),
                ("memfd", SealedFile::copy_of("copy", &draft, limit)),
                ("regular", SealedFile::copy_of("copy", &disk, limit)),
                ("pipe", SealedFile::copy_of("copy", pipe_of(bytes.clone()), limit)),
                ("socket", SealedFile::copy_of("copy", socket_of(bytes.clone()), limit)),
            ]
        };
        let exact = len as u64;
        for limit in [exact, exact + 1, u64::MAX] {
            for (kind, copied) in copy(limit) {
                is_sealed_with(&copied.unwrap_or_else(|error| panic!("{kind}: {error}")), &bytes);
            }
        }
        for limit in [exact.saturating_sub(1), exact / 2, 0] {
            if limit < exact {
                for (kind, refused) in copy(limit) {
                    assert_eq!(errno(refused).unwrap_err(), Errno::FBIG, "{kind} at {limit}");
                }
            }
        }
    }
}

#[test]
fn a_file_is_copied_from_its_beginning_and_its_offset_stays() {
    let bytes = pattern(10_000);
    for offset in [0, 3, 10_000, 20_000] {
        let mut source = temporary(&bytes);
        source.seek(SeekFrom::Start(offset)).unwrap();
        is_sealed_with(&SealedFile::copy_of("copy", &source, 10_000).unwrap(), &bytes);
        assert_eq!(source.stream_position().unwrap(), offset);
    }
}

#[test]
fn holes_are_copied_as_zeros() {
    let source = temporary(b"");
    source.set_len(1 << 20).unwrap();
    source.write_all_at(b"end", (1 << 20) - 3).unwrap();
    let mut bytes = vec![0; (1 << 20) - 3];
    bytes.extend(b"end");
    is_sealed_with(&SealedFile::copy_of("copy", &source, 1 << 20).unwrap(), &bytes);
}

#[test]
fn a_file_that_does_not_tell_its_size_is_copied_whole() {
    for path in ["/proc/version", "/proc/filesystems", "/proc/sys/kernel/osrelease"] {
        let bytes = fs::read(path).unwrap();
        let source = File::open(path).unwrap();
        assert_eq!(source.metadata().unwrap().len(), 0);
        let exact = bytes.len() as u64;
        is_sealed_with(&SealedFile::copy_of("copy", &source, exact).unwrap(), &bytes);
        let refused = SealedFile::copy_of("copy", &source, exact - 1);
        assert_eq!(errno(refused).unwrap_err(), Errno::FBIG, "{path}");
    }
}

#[test]
fn a_stream_that_is_slow_and_non_blocking_is_waited_for() {
    let bytes = pattern(100_000);
    let (near, far) = UnixStream::pair().unwrap();
    let socket = (File::from(OwnedFd::from(near)), File::from(OwnedFd::from(far)));
    for (mut source, mut writer) in [pipe(), socket] {
        fcntl_setfl(&source, OFlags::NONBLOCK).unwrap();
        assert_eq!(source.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        thread::scope(|scope| {
            scope.spawn(|| {
                for part in bytes.chunks(30_000) {
                    thread::sleep(Duration::from_millis(20));
                    writer.write_all(part).unwrap();
                }
                drop(writer);
            });
            is_sealed_with(&SealedFile::copy_of("copy", &source, 100_000).unwrap(), &bytes);
        });
    }
}

#[test]
fn a_stream_that_nobody_feeds_is_empty() {
    let (reader, writer) = pipe();
    drop(writer);
    is_sealed_with(&SealedFile::copy_of("copy", reader, 0).unwrap(), b"");
    let (near, far) = UnixStream::pair().unwrap();
    drop(far);
    is_sealed_with(&SealedFile::copy_of("copy", near, 0).unwrap(), b"");
}

#[test]
fn a_stream_that_never_ends_is_left_at_the_limit() {
    let (reader, mut writer) = pipe();
    let endless = thread::spawn(move || {
        let mut sent = 0_u64;
        while let Ok(count) = writer.write(&[1; 4096]) {
            sent += count as u64;
        }
        sent
    });
    let refused = SealedFile::copy_of("copy", reader, 1_000_000);
    assert_eq!(errno(refused).unwrap_err(), Errno::FBIG);
    // What is more than the limit had to be in the pipe.
    assert!(endless.join().unwrap() < 1_000_000 + (1 << 20));

    match File::open("/dev/zero") {
        Ok(zero) => {
            for limit in [0, 1, 4096, 1_000_000] {
                let refused = SealedFile::copy_of("copy", &zero, limit);
                assert_eq!(errno(refused).unwrap_err(), Errno::FBIG);
            }
        }
        Err(error) => eprintln!("/dev/zero cannot be tried here: {error}"),
    }
}

#[test]
fn what_cannot_be_read_is_the_kernel_s_error() {
    let path = std::env::temp_dir().join(format!("sealed-mmap-unreadable-{}", std::process::id()));
    fs::create_dir_all(std::env::temp_dir()).unwrap();
    fs::write(&path, b"bytes").unwrap();
    let write_only = File::options().write(true).open(&path).unwrap();
    let path_only =
        File::options().read(true).custom_flags(OFlags::PATH.bits() as i32).open(&path).unwrap();
    let control = File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let (_reader, writer) = pipe();
    let directory = File::open("/proc/self").unwrap();

    for (source, expected) in [
        (write_only.as_fd(), Errno::BADF),
        (path_only.as_fd(), Errno::BADF),
        (writer.as_fd(), Errno::BADF),
        (directory.as_fd(), Errno::ISDIR),
    ] {
        let refused = SealedFile::copy_of("copy", source, 100);
        assert_eq!(errno(refused).unwrap_err(), expected, "{source:?}");
    }
    is_sealed_with(&SealedFile::copy_of("copy", control, 100).unwrap(), b"bytes");
}

/// Copies a large file while another thread does the same thing to it over and over: the first error,
/// or success when many copies are done.
fn copy_while(disturb: fn(&File)) -> io::Result<()> {
    const LEN: u64 = 8 << 20;

    let source = SealedFile::create("source").unwrap().into_file();
    source.set_len(LEN).unwrap();
    let (started, done) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                disturb(&source);
                started.store(true, Ordering::Relaxed);
            }
        });
        while !started.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let mut copied = Ok(());
        // On a busy machine the other thread can sleep through a whole copy, which is then right.
        for _ in 0..20 {
            copied = SealedFile::copy_of("copy", &source, u64::MAX).map(drop);
            if copied.is_err() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        copied
    })
}

#[test]
fn a_file_that_changes_while_copied_is_an_error_that_says_so() {
    let longer = |file: &File| {
        file.write_all_at(b"more", file.metadata().unwrap().len()).unwrap();
    };
    let shorter = |file: &File| {
        file.set_len(file.metadata().unwrap().len().saturating_sub(1)).unwrap();
    };
    let other = |file: &File| file.write_all_at(b"other", 1 << 20).unwrap();
    for (what, copied) in [
        ("longer", copy_while(longer)),
        ("shorter", copy_while(shorter)),
        ("other", copy_while(other)),
    ] {
        let error = copied.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{what}: {error}");
        assert!(error.to_string().contains("changed while it was copied"), "{error}");
    }
    copy_while(|file| file.read_exact_at(&mut [0; 4096], 0).unwrap()).unwrap();
}

#[test]
fn options_hold_for_every_one_call_writer() {
    let bytes = pattern(10_000);
    let source = temporary(&bytes);
    let plain = CreateOptions::new();
    for options in [plain, plain.huge_pages(HugePages::Transparent), plain.executable(true)] {
        let made = [
            options.from_bytes("made", &bytes),
            options.build("made", 10_000, |target| {
                target.copy_from_slice(&bytes);
                Ok(())
            }),
            options.copy_of("made", &source, 10_000),
        ];
        let executable = format!("{options:?}").contains("executable: true");
        for file in made {
            match file {
                Ok(file) => {
                    is_sealed_with(&file, &bytes);
                    let mode = file.metadata().unwrap().mode();
                    assert_eq!(mode & 0o111, if executable { 0o111 } else { 0 });
                }
                Err(error) => {
                    assert!(executable, "{error}");
                    assert_eq!(error.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
                    eprintln!("vm.memfd_noexec=2 forbids executable files, as it should");
                }
            }
        }
    }
}

#[test]
fn signals_that_keep_coming_do_not_end_a_call() {
    static SIGNALS: AtomicU32 = AtomicU32::new(0);
    type Call<'a> = &'a dyn Fn() -> io::Result<SealedFile>;

    extern "C" fn count(_signal: libc::c_int) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
    }
    if !is_alone("signals_that_keep_coming_do_not_end_a_call") {
        return;
    }
    // SAFETY: all zeros are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // Without SA_RESTART every call that sleeps is interrupted.
    action.sa_sigaction = count as *const () as usize;
    // SAFETY: `action` is a valid handler, which does one atomic addition.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) }, 0);
    // SAFETY: has no precondition.
    let this_thread = unsafe { libc::pthread_self() } as usize;
    let done = AtomicBool::new(false);
    let bytes = vec![7; 40 << 20];
    let source = temporary(&bytes);
    let slowly = |mut writer: File| {
        thread::spawn(move || {
            for part in pattern(100_000).chunks(10_000) {
                thread::sleep(Duration::from_millis(30));
                if writer.write_all(part).is_err() {
                    break;
                }
            }
        });
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
                // SAFETY: the thread waits for this scope to end.
                unsafe { libc::pthread_kill(this_thread as libc::pthread_t, libc::SIGUSR1) };
            }
        });
        let calls: [(&str, usize, Call); 5] = [
            ("from_bytes", bytes.len(), &|| SealedFile::from_bytes("made", &bytes)),
            ("build", bytes.len(), &|| SealedFile::build("made", 40 << 20, |_| Ok(()))),
            ("copy of a file", bytes.len(), &|| SealedFile::copy_of("made", &source, u64::MAX)),
            ("copy of a socket", 100_000, &|| {
                let (near, far) = UnixStream::pair()?;
                slowly(OwnedFd::from(far).into());
                SealedFile::copy_of("made", near, u64::MAX)
            }),
            ("copy of a pipe", 100_000, &|| {
                let (reader, writer) = pipe();
                slowly(writer);
                SealedFile::copy_of("made", reader, u64::MAX)
            }),
        ];
        let failed: Vec<_> = calls
            .into_iter()
            .filter_map(|(what, len, call)| {
                let before = SIGNALS.load(Ordering::Relaxed);
                // Until a signal has come in the middle of it.
                while SIGNALS.load(Ordering::Relaxed) == before {
                    match call().and_then(|file| file.len()) {
                        Ok(made) if made == len as u64 => {}
                        other => return Some((what, other)),
                    }
                }
                None
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        assert!(failed.is_empty(), "{failed:?}");
    });
}

#[test]
fn a_file_that_has_less_than_its_size_says_is_copied_whole() {
    let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    match fs::read(path) {
        Ok(bytes) => {
            let source = File::open(path).unwrap();
            assert!(source.metadata().unwrap().len() > bytes.len() as u64);
            is_sealed_with(&SealedFile::copy_of("copy", &source, 4096).unwrap(), &bytes);
        }
        Err(error) => eprintln!("{path} cannot be tried here: {error}"),
    }
}
