//! A draft is one file however it is filled, its map is reserved memory of this process alone, and
//! it can be taken out of the typestate.
#![allow(unsafe_code, reason = "the control maps without this crate's care")]

mod support;

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sealed_mmap::{CreateOptions, HugePages, SealFailure, SealedFile, Unsealed};
use support::process::{Forked, is_alone, run_alone, runs_alone};
use support::runs::in_full;

/// SplitMix64: the same steps every time, from a seed that a failure names.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(3000)).map(|_| self.next() as u8).collect()
    }
}

/// What a draft has to be indistinguishable from.
struct Model {
    bytes: Vec<u8>,
    offset: u64,
}

impl Model {
    fn write_at(&mut self, bytes: &[u8], offset: u64) {
        let end = offset as usize + bytes.len();
        if !bytes.is_empty() {
            self.bytes.resize(self.bytes.len().max(end), 0);
            self.bytes[offset as usize..end].copy_from_slice(bytes);
        }
    }

    fn read_at(&self, len: usize, offset: u64) -> &[u8] {
        let start = self.bytes.len().min(offset as usize);
        &self.bytes[start..self.bytes.len().min(start + len)]
    }
}

fn agree(options: CreateOptions, seed: u64, steps: u64) -> io::Result<()> {
    const REACH: u64 = 3 * 4096 + 100;

    let mut random = Random(seed);
    let mut draft = options.create("modelled")?;
    let mut model = Model { bytes: Vec::new(), offset: 0 };
    for step in 0..steps {
        let place = random.below(REACH);
        let action = random.below(9);
        match action {
            0 => {
                let bytes = random.bytes();
                draft.write_all(&bytes)?;
                model.write_at(&bytes, model.offset);
                model.offset += bytes.len() as u64;
            }
            1 => {
                let (one, two) = (random.bytes(), random.bytes());
                let slices = [IoSlice::new(&one), IoSlice::new(&[]), IoSlice::new(&two)];
                let count = draft.write_vectored(&slices)?;
                assert_eq!(count, one.len() + two.len());
                model.write_at(&[one, two].concat(), model.offset);
                model.offset += count as u64;
            }
            2 => {
                let bytes = random.bytes();
                draft.write_all_at(&bytes, place)?;
                model.write_at(&bytes, place);
            }
            3 => {
                let mut buffer = vec![0; random.below(5000) as usize];
                let count = draft.read(&mut buffer)?;
                assert_eq!(&buffer[..count], model.read_at(buffer.len(), model.offset));
                model.offset += count as u64;
            }
            4 => {
                let (mut one, mut two) = ([0; 700], [0; 900]);
                let mut slices = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
                let count = draft.read_vectored(&mut slices)?;
                let read = [&one[..], &two].concat();
                assert_eq!(&read[..count], model.read_at(read.len(), model.offset));
                model.offset += count as u64;
            }
            5 => {
                let mut buffer = vec![0; random.below(5000) as usize];
                let count = draft.read_at(&mut buffer, place)?;
                assert_eq!(&buffer[..count], model.read_at(buffer.len(), place));
            }
            6 => {
                let (target, expected) = match random.below(3) {
                    0 => (SeekFrom::Start(place), Some(place)),
                    1 => {
                        let back = place as i64 - 5000;
                        let end = model.bytes.len() as u64;
                        (SeekFrom::End(back), end.checked_add_signed(back))
                    }
                    _ => {
                        let to = place as i64 - model.offset as i64;
                        (SeekFrom::Current(to), Some(place))
                    }
                };
                assert_eq!(draft.seek(target).ok(), expected);
                model.offset = expected.unwrap_or(model.offset);
            }
            7 => {
                draft.set_len(place)?;
                model.bytes.resize(place as usize, 0);
            }
            _ => {
                let mut map = draft.map_mut()?;
                assert_eq!(&map[..], &model.bytes, "seed {seed}, step {step}");
                let start = place.min(map.len() as u64) as usize;
                let end = map.len().min(start + random.below(2000) as usize);
                map[start..end].fill(step as u8);
                model.bytes[start..end].fill(step as u8);
            }
        }
        assert_eq!(draft.len()?, model.bytes.len() as u64, "seed {seed}, step {step}: {action}");
        assert_eq!(draft.stream_position()?, model.offset, "seed {seed}, step {step}: {action}");
    }
    let mut sealed = draft.seal_read_only()?;
    assert_eq!(sealed.stream_position()?, 0, "seed {seed}");
    assert_eq!(&sealed.map_read_only()?[..], &model.bytes, "seed {seed}");
    Ok(())
}

#[test]
fn every_way_of_filling_and_reading_shows_the_same_file() {
    let (seeds, steps) = if in_full() { (200, 2000) } else { (10, 200) };
    for seed in 0..seeds {
        agree(CreateOptions::new(), seed, steps).unwrap();
        agree(CreateOptions::new().huge_pages(HugePages::Transparent), seed, steps).unwrap();
    }
}

#[test]
fn an_empty_file_maps_to_an_empty_slice() {
    let mut draft = SealedFile::create("empty").unwrap();
    assert!(draft.map_mut().unwrap().is_empty());
    draft.map_mut().unwrap().fill(1);
    assert!(draft.seal_read_only().unwrap().is_empty().unwrap());
}

#[test]
fn a_map_is_page_aligned_and_of_the_file_s_length() {
    let page = rustix::param::page_size();
    for len in [1, page - 1, page, page + 1, 10 * page + 7] {
        let mut draft = SealedFile::create("aligned").unwrap();
        draft.set_len(len as u64).unwrap();
        let map = draft.map_mut().unwrap();
        assert_eq!((map.len(), map.as_ptr().addr() % page), (len, 0));
    }
}

#[test]
fn mapping_takes_memory_for_every_hole() {
    const LEN: u64 = 8 << 20;

    for huge_pages in [HugePages::None, HugePages::Transparent] {
        let mut draft = CreateOptions::new().huge_pages(huge_pages).create("sparse").unwrap();
        draft.set_len(LEN).unwrap();
        assert_eq!(draft.metadata().unwrap().blocks(), 0);

        drop(draft.map_mut().unwrap());
        assert!(draft.metadata().unwrap().blocks() * 512 >= LEN);
        let sealed = draft.seal_read_only().unwrap();
        assert!(sealed.metadata().unwrap().blocks() * 512 >= LEN);
    }
}

#[test]
fn maps_are_gone_when_dropped() {
    let maps = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("maps that come and go")).count()
    };
    let mut draft = SealedFile::create("maps that come and go").unwrap();
    for len in [1, 4096, 10_000] {
        draft.set_len(len).unwrap();
        for _ in 0..10 {
            let map = draft.map_mut().unwrap();
            assert_eq!(maps(), 1);
            drop(map);
            assert_eq!(maps(), 0);
        }
    }
}

#[test]
fn a_length_beyond_memory_is_refused_and_the_file_stays_usable() {
    let is_too_much = |error: &io::Error| match size_of::<usize>() {
        8 => error.raw_os_error() == Some(Errno::NOMEM.raw_os_error()),
        _ => error.kind() == ErrorKind::FileTooLarge,
    };
    for huge_pages in [HugePages::None, HugePages::Transparent] {
        let options = CreateOptions::new().huge_pages(huge_pages);
        let mut draft = options.create("too long").unwrap();
        draft.write_all(b"before").unwrap();
        let start = Instant::now();
        for len in [1 << 46, i64::MAX as u64] {
            draft.set_len(len).unwrap();
            let error = draft.map_mut().unwrap_err();
            assert!(is_too_much(&error), "{len}: {error}");
            assert!(draft.metadata().unwrap().blocks() * 512 < 4 << 20, "memory was taken");

            let error = options.build("too long", len, |_| panic!("filled")).unwrap_err();
            assert!(is_too_much(&error), "{len}: {error}");
        }
        assert!(start.elapsed() < Duration::from_secs(1));

        assert_eq!(draft.set_len(1 << 63).unwrap_err().kind(), ErrorKind::InvalidInput);
        for len in [1 << 63, u64::MAX] {
            options.build("too long", len, |_| panic!("filled")).unwrap_err();
        }

        draft.set_len(6).unwrap();
        draft.map_mut().unwrap()[..2].copy_from_slice(b"BE");
        let sealed = draft.seal_read_only().unwrap();
        assert_eq!(&sealed.map_read_only().unwrap()[..], b"BEfore");
    }
}

#[test]
fn without_address_space_mapping_fails_and_the_file_stays_good() {
    if !is_alone("without_address_space_mapping_fails_and_the_file_stays_good") {
        return;
    }
    const LEN: u64 = 64 << 20;
    let mut draft = SealedFile::create("large").unwrap();
    draft.set_len(LEN).unwrap();

    let unlimited = getrlimit(Resource::As);
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let now = pages * rustix::param::page_size() as u64;
    let limited = Rlimit { current: Some(now + LEN / 2), ..unlimited };

    setrlimit(Resource::As, limited).unwrap();
    let refused = draft.map_mut().map(drop);
    setrlimit(Resource::As, unlimited).unwrap();
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(Errno::NOMEM.raw_os_error()));
    draft.map_mut().unwrap()[0] = 1;
    let sealed = draft.seal_read_only().unwrap();

    setrlimit(Resource::As, limited).unwrap();
    let refused = sealed.map_read_only().map(drop);
    setrlimit(Resource::As, unlimited).unwrap();
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(Errno::NOMEM.raw_os_error()));
    assert_eq!(sealed.map_read_only().unwrap()[0], 1);
}

/// A copy of this process that lives, and does nothing, until this is dropped.
fn forked() -> Forked {
    Forked::that(|mut parent| drop(parent.read(&mut [0])))
}

#[test]
fn a_child_forked_while_the_map_lives_does_not_hinder_sealing() {
    if !is_alone("a_child_forked_while_the_map_lives_does_not_hinder_sealing") {
        return;
    }
    for huge_pages in [HugePages::None, HugePages::Transparent] {
        let mut draft = CreateOptions::new().huge_pages(huge_pages).create("forked").unwrap();
        draft.set_len(10_000).unwrap();
        let mut map = draft.map_mut().unwrap();
        map.fill(1);
        let child = forked();
        map.fill(2);
        drop(map);
        let sealed = draft.seal_read_only().unwrap();
        drop(child);
        assert!(sealed.map_read_only().unwrap().iter().all(|byte| *byte == 2));
    }

    let mut draft = SealedFile::create("control").unwrap();
    draft.set_len(10_000).unwrap();
    // A draft lends no descriptor, but its number is in /proc.
    let mut fds = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let is_control = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|link| link.as_os_str() == "/memfd:control (deleted)")
    };
    let path = fds.find(is_control).unwrap();
    let pried_open = File::options().read(true).write(true).open(path).unwrap();
    // SAFETY: nobody touches the file while this map lives.
    let map = unsafe { MmapMut::map_mut(&pried_open) }.unwrap();
    let child = forked();
    drop(map);
    let error = draft.seal_read_only().unwrap_err();
    assert_eq!(error.reason(), SealFailure::WritableMapping);
    drop(child);
    error.into_file().seal_read_only().unwrap();
}

#[test]
fn a_draft_becomes_a_plain_file_with_its_contents_and_offset() {
    fn draft() -> SealedFile<Unsealed> {
        let mut draft = SealedFile::create("leaving").unwrap();
        draft.write_all(b"contents").unwrap();
        draft.seek(SeekFrom::Start(3)).unwrap();
        draft
    }
    let conversions: [fn(SealedFile<Unsealed>) -> File; 3] =
        [SealedFile::into_file, File::from, |draft| OwnedFd::from(draft).into()];
    for convert in conversions {
        let draft = draft();
        let inode = draft.metadata().unwrap().ino();
        let mut file = convert(draft);
        assert_eq!(file.metadata().unwrap().ino(), inode);
        let mut rest = String::new();
        file.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "tents");
        file.write_all(b" and more").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 17);
    }
}

#[test]
fn a_child_reads_a_file_as_its_standard_input() {
    const TEST: &str = "a_child_reads_a_file_as_its_standard_input";

    if runs_alone() {
        let mut input = String::new();
        io::stdin().read_to_string(&mut input).unwrap();
        assert_eq!(input, "for the child");
        return;
    }
    let draft = |text: &str| {
        let mut draft = SealedFile::create("input").unwrap();
        draft.write_all(text.as_bytes()).unwrap();
        draft.rewind().unwrap();
        draft
    };
    assert!(run_alone(TEST, draft("for the child")).status.success());
    let sealed = draft("for the child").seal_read_only().unwrap();
    assert!(run_alone(TEST, sealed).status.success());
    assert!(!run_alone(TEST, draft("something else")).status.success());
}
