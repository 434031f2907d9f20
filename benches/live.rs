//! How far behind `copy_from_slice` are `LiveMap::read_at` and `Producer::write_at`?
//!
//! Baselines in the same run: `copy_from_slice` between ordinary buffers in the same places within
//! a page, and a plain loop over atomic words. Where a buffer lies matters: some processors copy
//! many times slower if the destination lies just behind the source within a page, so every other
//! buffer begins in the middle of one.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use sealed_mmap::Producer;

const WORD: usize = size_of::<usize>();
const PAGE: usize = 4096;
const MIDDLE: usize = PAGE / 2;

const SIZES: [(&str, usize); 4] =
    [("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20), ("16 MiB", 16 << 20)];

/// Where the range begins in the file, and the buffer in its page.
const PLACES: [(&str, usize, usize); 4] = [
    ("aligned", 0, MIDDLE),
    ("offset + 3", 3, MIDDLE),
    ("buffer + 5", 0, MIDDLE + 5),
    ("offset + 3, buffer + 5", 3, MIDDLE + 5),
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
    for (size, len) in SIZES {
        let mut producer = Producer::create("bench", (len + PAGE) as u64).unwrap();
        let map = producer.file().map_live().unwrap();
        let (mut near, mut far) = (Pages::new(len), Pages::new(len));
        let words: Vec<_> = (0..len / WORD).map(AtomicUsize::new).collect();

        for (place, offset, start) in PLACES {
            let mut group = criterion.benchmark_group(format!("{size}, {place}"));
            group.throughput(Throughput::Bytes(len as u64));
            let buffer = near.at(start, len);
            group.bench_function(BenchmarkId::from_parameter("copy_from_slice"), |bencher| {
                let source = far.at(offset, len);
                bencher.iter(|| black_box(&mut *buffer).copy_from_slice(black_box(source)));
            });
            group.bench_function(BenchmarkId::from_parameter("read_at"), |bencher| {
                bencher.iter(|| map.read_at(offset as u64, black_box(&mut *buffer)).unwrap());
            });
            group.bench_function(BenchmarkId::from_parameter("loop that loads"), |bencher| {
                bencher.iter(|| {
                    for (bytes, word) in black_box(&mut *buffer).chunks_exact_mut(WORD).zip(&words)
                    {
                        bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
                    }
                });
            });
            group.bench_function(BenchmarkId::from_parameter("copy_from_slice back"), |bencher| {
                let target = far.at(offset, len);
                bencher.iter(|| black_box(&mut *target).copy_from_slice(black_box(buffer)));
            });
            group.bench_function(BenchmarkId::from_parameter("write_at"), |bencher| {
                bencher.iter(|| producer.write_at(offset as u64, black_box(buffer)).unwrap());
            });
            group.bench_function(BenchmarkId::from_parameter("loop that stores"), |bencher| {
                bencher.iter(|| {
                    for (bytes, word) in black_box(&*buffer).chunks_exact(WORD).zip(&words) {
                        word.store(usize::from_ne_bytes(bytes.try_into().unwrap()), Relaxed);
                    }
                });
            });
            group.finish();
        }
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    live(&mut criterion);
    criterion.final_summary();
}
