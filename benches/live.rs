//! How far behind `copy_from_slice` are `LiveMap::read_at` and `Producer::write_at`, and are they
//! ahead of a plain loop over atomic words? How far behind is `SharedMap` with a frame?
//!
//! Where a buffer lies matters: some processors copy many times slower if the destination lies just
//! behind the source within a page, so every other buffer begins in the middle of one.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use criterion::{Criterion, criterion_group, criterion_main};
use sealed_mmap::{Producer, SealedFile, Seals};
use sealed_mmap_benches::{Case, KIB, MIB, stay_on_cpu, timed_each};

const WORD: usize = size_of::<usize>();
const PAGE: usize = 4096;
const MIDDLE: usize = PAGE / 2;

const SIZES: [u64; 4] = [4 * KIB, 64 * KIB, MIB, 16 * MIB];

/// Where the range begins in the file, and the buffer in its page.
const PLACES: [(&str, usize, usize); 4] = [
    ("", 0, MIDDLE),
    (", offset + 3", 3, MIDDLE),
    (", buffer + 5", 0, MIDDLE + 5),
    (", offset + 3, buffer + 5", 3, MIDDLE + 5),
];

/// Ordinary memory from a page boundary on.
struct Pages {
    bytes: Vec<u8>,
    first: usize,
}

impl Pages {
    fn new(len: usize) -> Self {
        let bytes = vec![1; len + 3 * PAGE];
        let first = bytes.as_ptr().addr().wrapping_neg() % PAGE;
        Self { bytes, first }
    }

    fn at(&mut self, offset: usize, len: usize) -> &mut [u8] {
        &mut self.bytes[self.first + offset..][..len]
    }
}

fn live(criterion: &mut Criterion) {
    stay_on_cpu(0);
    for size in SIZES {
        let len = size as usize;
        let count = (MIB / size).max(1) as u32;
        let mut producer = Producer::create("bench", size + PAGE as u64).unwrap();
        let map = producer.file().map_live().unwrap();
        let (mut near, mut far, mut other) = (Pages::new(len), Pages::new(len), Pages::new(len));
        let words: Vec<_> = (0..len / WORD).map(AtomicUsize::new).collect();

        for (place, offset, start) in PLACES {
            let (near, far, other) =
                (near.at(start, len), far.at(offset, len), other.at(start, len));
            let target = Some(if size < 16 * MIB { 1.0 / 0.6 } else { 1.0 / 0.9 });
            let question = format!("read_at{place}");
            Case { question: &question, baseline: "copy_from_slice", size, target }.compare(
                criterion,
                || timed_each(count, || map.read_at(offset as u64, black_box(near)).unwrap()),
                || timed_each(count, || black_box(&mut *other).copy_from_slice(black_box(far))),
            );
            let question = format!("write_at{place}");
            Case { question: &question, baseline: "copy_from_slice", size, target }.compare(
                criterion,
                || timed_each(count, || producer.write_at(offset as u64, black_box(near)).unwrap()),
                || timed_each(count, || black_box(&mut *far).copy_from_slice(black_box(other))),
            );
        }

        let (near, other) = (near.at(MIDDLE, len), other.at(MIDDLE, len));
        let target = [(4 * KIB, 1.2), (MIB, 1.1)].into_iter().find(|(at, _)| *at == size);
        let case = |question| {
            let (baseline, target) = ("loop over words", target.map(|(_, target)| target));
            Case { question, baseline, size, target }
        };
        case("read_at").compare(
            criterion,
            || timed_each(count, || map.read_at(0, black_box(near)).unwrap()),
            || {
                timed_each(count, || {
                    for (bytes, word) in black_box(&mut *other).chunks_exact_mut(WORD).zip(&words) {
                        bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
                    }
                })
            },
        );
        case("write_at").compare(
            criterion,
            || timed_each(count, || producer.write_at(0, black_box(near)).unwrap()),
            || {
                timed_each(count, || {
                    for (bytes, word) in black_box(&*other).chunks_exact(WORD).zip(&words) {
                        word.store(usize::from_ne_bytes(bytes.try_into().unwrap()), Relaxed);
                    }
                })
            },
        );
    }
}

/// What a compositor does with a frame of its client's.
fn shared(criterion: &mut Criterion) {
    stay_on_cpu(0);
    let size = 8 * MIB;
    let mut draft = SealedFile::create("bench").unwrap();
    draft.set_len(size).unwrap();
    let map = draft.seal_size(Seals::GROW).unwrap().map_shared().unwrap();
    let [mut near, mut far, mut other] = [(); 3].map(|()| Pages::new(size as usize));
    let [near, far, other] =
        [&mut near, &mut far, &mut other].map(|pages| pages.at(MIDDLE, size as usize));
    map.write_at(0, far).unwrap();
    for (question, writes) in [("SharedMap::read_at", false), ("SharedMap::write_at", true)] {
        Case { question, baseline: "copy_from_slice", size, target: Some(1.0 / 0.9) }.compare(
            criterion,
            || {
                timed_each(1, || match writes {
                    false => map.read_at(0, black_box(&mut *near)).unwrap(),
                    true => map.write_at(0, black_box(&*near)).unwrap(),
                })
            },
            || timed_each(1, || black_box(&mut *other).copy_from_slice(black_box(&*far))),
        );
    }
}

criterion_group!(benches, live, shared);
criterion_main!(benches);
