//! Huge pages change how fast a file is, not what it holds; what the kernel cannot do with them is an
//! error that says what to do instead.

mod support;

use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind, IoSlice, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, fstat, memfd_create};
use rustix::io::Errno;
use sealed_mmap::{
    CreateOptions, HugePageSize, HugePages, OutOfBounds, Refusal, SealPolicy, SealedFile,
};
use support::machine::HugePool;
use support::{errno_of, meminfo, pattern};

fn hugetlb() -> CreateOptions {
    CreateOptions::new().huge_pages(HugePages::HugeTlb(None))
}

/// The pool, or that the lack of it is an error.
fn pool_with(free_pages: u64) -> Option<HugePool> {
    let pool = HugePool::with_free_pages(free_pages);
    if pool.is_none() {
        let all = free_pages * meminfo("Hugepagesize").max(4096);
        let Err(error) = hugetlb().build("no pool", all, |_| Ok(())) else { return None };
        eprintln!("no {free_pages} hugetlb pages to be had here, and that is an error: {error}");
        if error.kind() != ErrorKind::Unsupported {
            assert_lack_of_pages(&error);
        }
    }
    pool
}

/// Of a draft: the error says where pages come from.
fn assert_lack_of_pages(error: &io::Error) {
    assert!(error.to_string().contains("/proc/sys/vm/nr_hugepages"), "{error}");
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>()).unwrap();
    assert!([Errno::NOSPC, Errno::NOMEM].contains(&errno_of(source)), "{source}");
    assert_eq!(error.kind(), source.kind());
}

#[test]
fn transparent_huge_pages_hold_what_plain_ones_hold() {
    let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let setting = fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let options = CreateOptions::new().huge_pages(HugePages::Transparent);
    let mut huge_kib = 0;
    for len in [0, 1, 4095, 4097, (1 << 21) - 1, 1 << 21, (1 << 21) + 1, (5 << 20) + 77] {
        let bytes = pattern(len);
        let fill = |target: &mut [u8]| {
            target.copy_from_slice(&bytes);
            Ok(())
        };
        let filled_by_mapping = || {
            let mut draft = options.create("mapped")?;
            draft.set_len(len as u64)?;
            fill(&mut draft.map_mut()?)?;
            Ok::<_, io::Error>(draft.seal_read_only()?)
        };
        let filled_by_writing = || {
            let mut draft = options.create("written")?;
            draft.write_all(&bytes)?;
            Ok::<_, io::Error>(draft.seal_read_only()?)
        };
        let source = SealedFile::from_bytes("source", &bytes).unwrap();
        for file in [
            filled_by_mapping(),
            filled_by_writing(),
            options.from_bytes("from bytes", &bytes),
            options.build("built", len as u64, fill),
            options.copy_of("copy", &source, len as u64),
        ] {
            let mut file = SealedFile::try_from(std::fs::File::from(file.unwrap())).unwrap();
            let map = file.map_read_only().unwrap();
            assert!(map[..] == bytes, "{len} bytes");
            huge_kib += mapped_huge_kib();
            for (offset, part) in [(0, 1), (4095, 2), (5000, 10_000), ((1 << 21) - 1, 2)] {
                if offset + part <= len {
                    let range = file.map_range(offset as u64..(offset + part) as u64).unwrap();
                    assert!(range[..] == bytes[offset..offset + part]);
                }
            }
            let mut read = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut read).unwrap();
            assert!(read == bytes);
        }
    }
    eprintln!("shmem_enabled: {}; {huge_kib} KiB were mapped huge", setting.trim());
}

/// KiB of shared memory that this process maps with huge pages now.
fn mapped_huge_kib() -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let huge = maps.lines().filter_map(|line| line.strip_prefix("ShmemPmdMapped:"));
    huge.map(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap()).sum()
}

#[test]
fn every_size_is_asked_for_as_the_kernel_encodes_it() {
    use HugePageSize as Size;
    let table = [
        (Size::Huge16KB, 16 << 10, MemfdFlags::from_bits_retain(14 << 26)),
        (Size::Huge64KB, 64 << 10, MemfdFlags::HUGE_64KB),
        (Size::Huge512KB, 512 << 10, MemfdFlags::HUGE_512KB),
        (Size::Huge1MB, 1 << 20, MemfdFlags::HUGE_1MB),
        (Size::Huge2MB, 2 << 20, MemfdFlags::HUGE_2MB),
        (Size::Huge8MB, 8 << 20, MemfdFlags::HUGE_8MB),
        (Size::Huge16MB, 16 << 20, MemfdFlags::HUGE_16MB),
        (Size::Huge32MB, 32 << 20, MemfdFlags::HUGE_32MB),
        (Size::Huge256MB, 256 << 20, MemfdFlags::HUGE_256MB),
        (Size::Huge512MB, 512 << 20, MemfdFlags::HUGE_512MB),
        (Size::Huge1GB, 1 << 30, MemfdFlags::HUGE_1GB),
        (Size::Huge2GB, 2 << 30, MemfdFlags::HUGE_2GB),
        (Size::Huge16GB, 16 << 30, MemfdFlags::HUGE_16GB),
    ];
    for (size, bytes, flag) in table {
        assert_eq!(size.bytes(), bytes);
        let raw = memfd_create("raw", MemfdFlags::HUGETLB | MemfdFlags::ALLOW_SEALING | flag);
        let ours = CreateOptions::new().huge_pages(HugePages::HugeTlb(Some(size))).create("ours");
        match (raw, ours) {
            (Ok(raw), Ok(ours)) => {
                assert_eq!(fstat(raw).unwrap().st_blksize as u64, bytes);
                assert_eq!(ours.metadata().unwrap().blksize(), bytes);
                eprintln!("{size:?} is to be had here");
            }
            (Err(Errno::NODEV), Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains("no huge pages of this size"), "{error}");
            }
            // A kernel without hugetlb pages at all.
            (Err(raw), Err(ours)) => assert_eq!(errno_of(&ours), raw),
            (raw, ours) => panic!("{size:?}: {raw:?}, {ours:?}"),
        }
    }
    if let Ok(file) = hugetlb().create("default size") {
        assert_eq!(file.metadata().unwrap().blksize(), meminfo("Hugepagesize"));
    }
}

#[test]
fn a_hugetlb_file_holds_what_a_plain_one_holds() {
    let Some(pool) = pool_with(2) else { return };
    let page = pool.page as usize;
    let bytes = pattern(2 * page);

    let mut draft = hugetlb().create("mapped").unwrap();
    draft.set_len(2 * pool.page).unwrap();
    draft.map_mut().unwrap().copy_from_slice(&bytes);
    let mapped = draft.seal_read_only().unwrap();

    let refused = SealedFile::receive_read_only(mapped, &SealPolicy::new()).unwrap_err();
    assert!(matches!(refused.reason(), Refusal::HugeTlb), "{refused}");
    let allowed = SealPolicy::untrusted(2 * pool.page).allow_hugetlb(true);
    let mut file = SealedFile::receive_read_only(refused.into_fd(), &allowed).unwrap();

    let whole = file.map_read_only().unwrap();
    assert!(whole[..] == bytes);
    assert_eq!(whole.as_ptr().addr() % page, 0);
    if let Err(error) = whole.populate() {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    let edges = [0, 1, 4095, 4097, page - 1, page, page + 1, 2 * page - 1, 2 * page];
    for offset in edges {
        for end in edges {
            if offset <= end {
                let part = file.map_range(offset as u64..end as u64).unwrap();
                assert!(part[..] == bytes[offset..end], "{offset}..{end}");
            } else {
                let error = file.map_range(offset as u64..(offset + 2 * page) as u64).unwrap_err();
                assert!(error.get_ref().unwrap().is::<OutOfBounds>());
            }
        }
    }
    file.map_range(2 * pool.page..2 * pool.page + 1).unwrap_err();
    file.map_range(..=2 * page as u64).unwrap_err();

    file.rewind().unwrap();
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    let again = file.reopen().unwrap();
    assert!(again.try_clone().unwrap().map_range(4097..4106).unwrap()[..] == bytes[4097..4106]);
    drop(file);
    assert!(whole[..] == bytes);
}

#[test]
fn one_call_writers_make_hugetlb_files_of_whole_pages_alone() {
    let Some(pool) = pool_with(1) else { return };
    let bytes = pattern(pool.page as usize);
    let fill = |target: &mut [u8]| {
        target.copy_from_slice(&bytes);
        Ok(())
    };
    let source = SealedFile::from_bytes("source", &bytes).unwrap();
    let makers: [&dyn Fn() -> io::Result<SealedFile>; 3] = [
        &|| hugetlb().from_bytes("made", &bytes),
        &|| hugetlb().build("made", pool.page, fill),
        &|| hugetlb().copy_of("made", &source, pool.page),
    ];
    for make in makers {
        let file = make().unwrap();
        assert_eq!(file.metadata().unwrap().blksize(), pool.page);
        assert!(file.map_read_only().unwrap()[..] == bytes);
    }

    let odd = SealedFile::from_bytes("odd", &bytes[..4096]).unwrap();
    for refused in [
        hugetlb().from_bytes("odd", &bytes[1..]),
        hugetlb().build("odd", pool.page - 1, |_| panic!("filled")),
        hugetlb().copy_of("odd", &odd, pool.page),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("multiple of its page size"), "{error}");
    }
    assert!(hugetlb().from_bytes("empty", b"").unwrap().map_read_only().unwrap().is_empty());
}

#[test]
fn what_hugetlb_files_cannot_do_is_an_error_that_helps() {
    let Some(pool) = pool_with(1) else { return };
    let mut draft = hugetlb().create("limited").unwrap();
    for refused in [draft.write(b"x"), draft.write_vectored(&[IoSlice::new(b"x")])] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("use map_mut"), "{error}");
    }
    for len in [1, 4096, pool.page - 1, pool.page + 4096] {
        let error = draft.set_len(len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("multiple of its page size"), "{error}");
    }
    draft.set_len(pool.page).unwrap();
    draft.map_mut().unwrap()[0] = 1;
    assert_eq!(draft.seal_read_only().unwrap().map_range(0..1).unwrap()[..], [1]);
}

#[test]
fn more_pages_than_the_pool_has_is_an_error_and_not_a_signal() {
    let Some(pool) = pool_with(1) else { return };
    let surplus = fs::read_to_string("/proc/sys/vm/nr_overcommit_hugepages").unwrap();
    let surplus: u64 = surplus.trim().parse().unwrap();
    let beyond = (meminfo("HugePages_Total") + surplus + 1) * pool.page;

    let mut draft = hugetlb().create("too long").unwrap();
    draft.set_len(beyond).unwrap();
    assert_lack_of_pages(&draft.map_mut().unwrap_err());
    draft.set_len(pool.page).unwrap();
    draft.map_mut().unwrap().fill(1);
    drop(draft);

    let mut draft = hugetlb().create("full of holes").unwrap();
    draft.set_len(beyond).unwrap();
    let sealed = draft.seal_read_only().unwrap();
    let lack = errno_of(&sealed.reserve().unwrap_err());
    assert!([Errno::NOSPC, Errno::NOMEM].contains(&lack), "{lack}");
    let policy = SealPolicy::new().allow_hugetlb(true).reserve(true);
    let refused = SealedFile::receive_read_only(sealed, &policy).unwrap_err();
    assert!(matches!(refused.reason(), Refusal::CannotReserve(_)), "{refused}");
}

#[test]
fn maps_of_hugetlb_files_leave_nothing_behind() {
    const NAME: &str = "huge maps that come and go";

    let Some(pool) = pool_with(2) else { return };
    let page = pool.page as usize;
    let free = || meminfo("HugePages_Free");
    let maps = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains(NAME)).count()
    };
    let before = free();
    for _ in 0..5 {
        let mut draft = hugetlb().create(NAME).unwrap();
        draft.set_len(2 * pool.page).unwrap();
        let map = draft.map_mut().unwrap();
        assert_eq!(maps(), 1);
        drop(map);
        assert_eq!(maps(), 0);

        let file = draft.seal_read_only().unwrap();
        for (offset, len) in [(0, 1), (4095, 2), (page - 1, 2), (page + 5, 7), (0, 2 * page)] {
            let map = file.map_range(offset as u64..(offset + len) as u64).unwrap();
            assert_eq!(map.iter().map(|byte| usize::from(*byte)).sum::<usize>(), 0);
            assert_eq!(maps(), 1);
            drop(map);
            assert_eq!(maps(), 0, "{offset}, {len}");
        }
    }
    // Somebody else may use the pool for a moment.
    let patience = Instant::now() + Duration::from_secs(10);
    while free() < before && Instant::now() < patience {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(free() >= before, "{} pages are free, not {before}", free());
}

#[test]
fn a_private_map_takes_huge_pages_of_its_own() {
    let Some(pool) = pool_with(2) else { return };
    let file = hugetlb().from_bytes("snapshot", pattern(pool.page as usize)).unwrap();
    let mut map = file.map_private().unwrap();
    map.fill(1);
    assert!(file.map_read_only().unwrap() == pattern(pool.page as usize));
    assert!(map.iter().all(|byte| *byte == 1));
    drop(map);

    // With no page left but those of the file there is no second copy, and an error before any access.
    let rest = meminfo("HugePages_Free") - meminfo("HugePages_Rsvd");
    let all = hugetlb().build("all", rest * pool.page, |_| Ok(())).unwrap();
    assert_lack_of_pages(&file.map_private().unwrap_err());
    // Control: a map for reading needs none.
    assert!(file.map_read_only().unwrap() == pattern(pool.page as usize));
    drop(all);
    file.map_private().unwrap();
}

#[test]
fn only_scripts_are_executed_from_huge_pages() {
    let Some(pool) = pool_with(1) else { return };
    let run = |program: &[u8]| {
        let fill = |target: &mut [u8]| {
            target[..program.len()].copy_from_slice(program);
            Ok(())
        };
        hugetlb().executable(true).build("program", pool.page, fill)?.command()?.output()
    };
    match run(b"\x7fELF") {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            assert!(error.to_string().contains("hugetlb"), "{error}");
            assert_eq!(run(b"#!/bin/sh\necho done\nexit\n").unwrap().stdout, b"done\n");
        }
        outcome => {
            assert_eq!(errno_of(&outcome.unwrap_err()), Errno::ACCESS);
            eprintln!("not tested: vm.memfd_noexec=2 forbids executable files, as it should");
        }
    }
}
