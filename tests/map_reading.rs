//! Whatever way an immutable file is read, it is the same bytes; maps are owned, exact and bounded.
#![allow(unsafe_code, reason = "unshare(2) can take much away, and so is unsafe")]

mod support;

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::sync::OnceLock;
use std::thread;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno, FdFlags, fcntl_getfd};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use sealed_mmap::{OutOfBounds, ReadOnlyMap, SealedFile};
use support::process::is_alone;
use support::{errno, pattern};

fn file_of(bytes: &[u8]) -> SealedFile {
    SealedFile::from_bytes("read", bytes).unwrap()
}

/// Checks one range against what a slice of the same bytes would give.
fn agrees(file: &SealedFile, bytes: &[u8], offset: u64, len: usize) {
    let end = offset.saturating_add(len as u64);
    let expected = usize::try_from(offset)
        .ok()
        .and_then(|start| bytes.get(start..start.checked_add(len)?))
        .ok_or(OutOfBounds { offset, len: end - offset, size: bytes.len() as u64 });
    match (file.map_range(offset..end), expected) {
        (Ok(map), Ok(expected)) => {
            assert!(map[..] == *expected, "{len} bytes from {offset}");
            if len > 0 {
                let page = rustix::param::page_size();
                assert_eq!(map.as_ptr().addr() % page, offset as usize % page);
            }
        }
        (Err(error), Err(expected)) => {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let inner = error.get_ref().unwrap().downcast_ref::<OutOfBounds>();
            assert_eq!(inner, Some(&expected));
        }
        (map, expected) => panic!("{offset}, {len}: {map:?}, not {expected:?}"),
    }
}

#[test]
fn every_range_of_a_small_file_is_that_part_or_out_of_bounds() {
    for size in 0..8 {
        let bytes = pattern(size);
        let file = file_of(&bytes);
        assert_eq!(file.map_read_only().unwrap()[..], bytes);
        for offset in 0..size as u64 + 3 {
            for len in 0..size + 3 {
                agrees(&file, &bytes, offset, len);
            }
        }
    }
}

#[test]
fn ranges_across_pages_are_that_part_or_out_of_bounds() {
    let page = rustix::param::page_size();
    for size in [page - 1, page, page + 1, 3 * page + 5] {
        let bytes = pattern(size);
        let file = file_of(&bytes);
        let edges = [0, page, 2 * page, 3 * page, size];
        let near = |edge: usize| [edge.saturating_sub(1), edge, edge + 1];
        let places: Vec<usize> = edges.into_iter().flat_map(near).collect();
        for offset in &places {
            for len in places.iter().chain([&7, &(usize::MAX >> 1), &usize::MAX]) {
                agrees(&file, &bytes, *offset as u64, *len);
            }
        }
        for offset in [u64::MAX, u64::MAX - 1, u64::MAX - page as u64, 1 << 63, 1 << 32] {
            for len in [0, 1, 2, page, usize::MAX] {
                agrees(&file, &bytes, offset, len);
            }
        }
    }
}

#[test]
fn a_range_out_of_bounds_says_which_and_of_what() {
    let error = file_of(b"hello").map_range(3..7).unwrap_err();
    assert_eq!(error.to_string(), "4 bytes from offset 3 on do not fit into 5 bytes");
    assert!(error.source().is_none());
}

#[test]
fn a_map_outlives_its_file_and_goes_anywhere() {
    static KEPT: OnceLock<ReadOnlyMap> = OnceLock::new();

    /// What is asked of the owner of a reference-counted buffer.
    fn owner<T: AsRef<[u8]> + Send + 'static>(bytes: T) -> Box<dyn AsRef<[u8]> + Send> {
        Box::new(bytes)
    }
    let bytes = pattern(10_000);
    let file = file_of(&bytes);
    let (whole, part) = (file.map_read_only().unwrap(), file.map_range(4000..4200).unwrap());
    let owned = owner(file.map_range(1..10).unwrap());
    drop(file);
    assert_eq!(whole[..], bytes);
    let address = whole.as_ptr().addr();
    let whole = thread::spawn(move || KEPT.get_or_init(|| whole)).join().unwrap();
    assert_eq!((whole.as_ptr().addr(), &whole[..]), (address, &*bytes));
    assert_eq!(&thread::spawn(move || part.to_vec()).join().unwrap(), &bytes[4000..4200]);
    assert_eq!((*owned).as_ref(), &bytes[1..10]);
}

#[test]
fn maps_are_gone_when_dropped_and_empty_ones_take_nothing() {
    let maps = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("read maps that come and go")).count()
    };
    let bytes = pattern(10_000);
    let file = SealedFile::from_bytes("read maps that come and go", &bytes).unwrap();
    let empty = [file.map_range(0..0).unwrap(), file.map_range(10000..10000).unwrap()];
    assert_eq!((maps(), empty.map(|map| map.len())), (0, [0, 0]));
    for (offset, len) in [(0, 10_000), (1, 1), (4095, 2), (4096, 4096), (9_999, 1)] {
        for _ in 0..10 {
            let map = file.map_range(offset..offset + len).unwrap();
            assert_eq!(maps(), 1);
            drop(map);
            assert_eq!(maps(), 0);
        }
    }
}

#[test]
fn an_empty_file_is_an_empty_slice() {
    let mut file = file_of(b"");
    let map = file.map_read_only().unwrap();
    assert!(file.is_empty().unwrap() && map.is_empty());
    map.populate().unwrap();
    file.reserve().unwrap();
    assert_eq!(file.read(&mut [0]).unwrap(), 0);
    assert_eq!(file.reopen().unwrap().map_read_only().unwrap()[..], []);
}

#[test]
fn populate_takes_the_page_faults_of_any_range() {
    const NAME: &str = "populated";

    /// KiB in memory of the only mapping of the file.
    fn resident() -> u64 {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let of_file = maps.split_once("/memfd:populated (deleted)").unwrap().1;
        let rss = of_file.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split(['.', '-']).flat_map(str::parse).take(2).collect();
    let page = rustix::param::page_size();
    let kib = page as u64 / 1024;
    let bytes = pattern(100 * page);
    let file = SealedFile::from_bytes(NAME, &bytes).unwrap();

    for (offset, len, pages) in [
        (0, 100 * page, 100),
        (0, 1, 1),
        (page, page, 1),
        (page - 1, 2, 2),
        (7, 50 * page, 51),
        (99 * page + 5, page - 5, 1),
    ] {
        let map = file.map_range(offset as u64..(offset + len) as u64).unwrap();
        assert_eq!(resident(), 0);
        match map.populate() {
            // Huge pages, where the machine uses them always, can show more.
            Ok(()) => assert!(resident() >= pages * kib, "{offset}, {len}: {}", resident()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(numbers < vec![5, 14], "{release}");
                eprintln!("{release} is before 5.14, where populate is unsupported");
            }
        }
        assert_eq!(map[..], bytes[offset..offset + len]);
    }
}

#[test]
fn read_seek_and_read_at_behave_as_on_any_file() {
    let bytes = pattern(10_000);
    let mut file = file_of(&bytes);

    assert_eq!(file.seek(SeekFrom::End(-10)).unwrap(), 9_990);
    let mut rest = Vec::new();
    assert_eq!(file.read_to_end(&mut rest).unwrap(), 10);
    assert_eq!(rest, bytes[9_990..]);
    assert_eq!(file.seek(SeekFrom::Current(100)).unwrap(), 10_100);
    assert_eq!(file.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(file.seek(SeekFrom::End(-20_000)).unwrap_err().kind(), ErrorKind::InvalidInput);

    file.seek(SeekFrom::Start(4_090)).unwrap();
    let (mut one, mut two) = ([0; 10], [0; 20]);
    let mut slices = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
    assert_eq!(file.read_vectored(&mut slices).unwrap(), 30);
    assert_eq!([&one[..], &two].concat(), bytes[4_090..4_120]);
    assert_eq!(file.stream_position().unwrap(), 4_120);

    let mut buffer = [0; 100];
    file.read_exact_at(&mut buffer, 9_900).unwrap();
    assert_eq!(buffer, bytes[9_900..]);
    assert_eq!(file.read_at(&mut buffer, 9_950).unwrap(), 50);
    assert_eq!(file.read_at(&mut buffer, 10_000).unwrap(), 0);
    let error = file.read_exact_at(&mut buffer, 9_901).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(file.stream_position().unwrap(), 4_120);

    file.rewind().unwrap();
    let mut copied = Vec::new();
    io::copy(&mut file, &mut copied).unwrap();
    assert_eq!(copied, bytes);
    let mut text = file_of("größe".as_bytes());
    text.rewind().unwrap();
    assert_eq!(io::read_to_string(text).unwrap(), "größe");
}

#[test]
fn a_clone_is_the_same_file_and_shares_the_offset() {
    let mut file = file_of(&pattern(100));
    let mut clone = file.try_clone().unwrap();
    assert_eq!(clone.metadata().unwrap().ino(), file.metadata().unwrap().ino());
    assert_ne!(clone.as_raw_fd(), file.as_raw_fd());
    file.seek(SeekFrom::Start(42)).unwrap();
    assert_eq!(clone.stream_position().unwrap(), 42);
    clone.read_exact(&mut [0; 8]).unwrap();
    assert_eq!(file.stream_position().unwrap(), 50);
    drop(file);
    assert_eq!(clone.map_read_only().unwrap()[..], pattern(100));
}

#[test]
fn reopen_gives_the_same_file_an_offset_and_no_way_to_write() {
    let mut file = file_of(&pattern(100));
    file.seek(SeekFrom::Start(42)).unwrap();
    let mut again = file.reopen().unwrap();
    assert_eq!(again.metadata().unwrap().ino(), file.metadata().unwrap().ino());
    assert_eq!((again.stream_position().unwrap(), again.len().unwrap()), (0, 100));
    again.read_exact(&mut [0; 8]).unwrap();
    assert_eq!(file.stream_position().unwrap(), 42);
    assert_eq!(again.map_read_only().unwrap()[..], pattern(100));
    assert_eq!(again.get_seals().unwrap(), file.get_seals().unwrap());

    let flags = fcntl_getfl(&again).unwrap();
    assert_eq!(flags & OFlags::RWMODE, OFlags::RDONLY);
    assert!(!flags.contains(OFlags::NONBLOCK), "{flags:?}");
    assert_eq!(fcntl_getfl(&file).unwrap() & OFlags::RWMODE, OFlags::RDWR);
    assert!(fcntl_getfd(&again).unwrap().contains(FdFlags::CLOEXEC));
    assert_eq!(errno(again.write_at(b"x", 0)), Err(Errno::BADF));
    assert_eq!(errno(file.write_at(b"x", 0)), Err(Errno::PERM));
    let third = again.reopen().unwrap().try_clone().unwrap();
    assert_eq!(third.map_range(99..100).unwrap()[..], pattern(100)[99..]);
}

#[test]
fn reopen_does_not_believe_a_proc_that_leads_elsewhere() {
    if !is_alone("reopen_does_not_believe_a_proc_that_leads_elsewhere") {
        return;
    }
    // SAFETY: nobody in this process relies on seeing the mounts of others.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        assert_eq!(io::Error::last_os_error().kind(), ErrorKind::PermissionDenied);
        eprintln!("only root can give itself another /proc");
        return;
    }
    let file = file_of(b"hello");
    let other = file_of(b"other");
    let real = std::env::temp_dir().join(format!("sealed-mmap-proc-{}", std::process::id()));
    fs::create_dir_all(&real).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount_bind("/proc", &real).unwrap();
    mount("tmpfs", "/proc", "tmpfs", MountFlags::empty(), None).unwrap();

    let unsupported = |file: &SealedFile| {
        let error = file.reopen().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("/proc/thread-self/fd"), "{error}");
    };
    unsupported(&file);

    fs::create_dir_all("/proc/thread-self/fd").unwrap();
    let entry = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
    fs::write(&entry, b"hello").unwrap();
    unsupported(&file);

    let lead_to = |target: &SealedFile| {
        fs::remove_file(&entry).unwrap();
        symlink(real.join(format!("self/fd/{}", target.as_raw_fd())), &entry).unwrap();
    };
    lead_to(&other);
    unsupported(&file);
    lead_to(&file);
    let control = file.reopen().unwrap();
    assert_eq!(control.map_read_only().unwrap()[..], *b"hello");

    unmount(&real, UnmountFlags::DETACH).unwrap();
    fs::remove_dir(real).unwrap();
}

#[test]
fn a_file_that_left_the_typestate_is_still_sealed() {
    let mut draft = SealedFile::create("control").unwrap();
    draft.write_all(b"hello").unwrap();
    draft.write_all_at(b"H", 0).unwrap();
    let mut control = draft.into_file();

    let sealed = file_of(b"hello");
    let mut file = File::from(sealed);
    for attack in [
        |file: &mut File| file.write(b"x").map(drop),
        |file: &mut File| file.write_at(b"x", 0).map(drop),
        |file: &mut File| file.set_len(4),
        |file: &mut File| file.set_len(6),
    ] {
        assert_eq!(errno(attack(&mut file)), Err(Errno::PERM));
        assert_eq!(errno(attack(&mut control)), Ok(()));
    }
    let back = SealedFile::try_from(file).unwrap();
    assert_eq!(back.map_read_only().unwrap()[..], *b"hello");
    let back = SealedFile::try_from(OwnedFd::from(back)).unwrap();
    assert_eq!(back.map_read_only().unwrap()[..], *b"hello");
}

#[test]
fn reserve_fills_every_hole_even_through_a_read_only_fd() {
    let sparse = || {
        let mut draft = SealedFile::create("sparse").unwrap();
        draft.set_len(1 << 20).unwrap();
        draft.seal_read_only().unwrap()
    };
    let control = sparse();
    assert_eq!(control.metadata().unwrap().blocks(), 0);
    let file = sparse();
    file.reserve().unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 >= 1 << 20);
    let file = sparse().reopen().unwrap();
    file.reserve().unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 >= 1 << 20);
    assert!(file.map_read_only().unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn reserving_more_than_there_is_is_an_error() {
    let mut draft = SealedFile::create("enormous").unwrap();
    draft.set_len(1 << 43).unwrap();
    let file = draft.seal_read_only().unwrap();
    assert_eq!(errno(file.reserve()), Err(Errno::NOMEM));
    assert_eq!(file.metadata().unwrap().blocks(), 0);
    assert_eq!(file.map_range((1 << 43) - 3..1 << 43).unwrap()[..], [0; 3]);
}
