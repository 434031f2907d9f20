//! Is a mapping read as fast as a `Vec`? After the first touch, and by it.

use criterion::{Criterion, criterion_group, criterion_main};
use sealed_mmap::SealedFile;
use sealed_mmap_benches::hand::Map;
use sealed_mmap_benches::{
    Case, MIB, NAME, page_aligned, read, sizes_with_one_gib, stay_on_cpu, timed, timed_each,
};

fn scan(criterion: &mut Criterion) {
    stay_on_cpu(0);
    for size in sizes_with_one_gib() {
        // The bytes of a `Vec`, but at the beginning of a page as the mapping is.
        let bytes = page_aligned(size);
        let vec: Vec<u8> = [vec![0; 4096], bytes.to_vec()].concat();
        let vec = &vec[vec.as_ptr().align_offset(4096)..][..size as usize];
        let map = SealedFile::from_bytes(NAME, &bytes).expect("a file").map_read_only();
        let map = map.expect("a map");
        read(&map);
        let count = (MIB / size).max(1) as u32;
        let target = match size {
            MIB => Some(1.02),
            ..MIB => Some(1.01),
            _ => None,
        };
        Case { question: "scan", baseline: "Vec", size, target }.compare(
            criterion,
            || timed_each(count, || read(&map)),
            || timed_each(count, || read(vec)),
        );
    }
}

fn first_touch(criterion: &mut Criterion) {
    for size in sizes_with_one_gib() {
        let file = SealedFile::from_bytes(NAME, page_aligned(size)).expect("a file");
        let mapped = || file.map_read_only().expect("a map");
        let mapped_by_hand = || Map::read_only(&file, size as usize).expect("a map");
        Case { question: "first read", baseline: "by hand", size, target: None }.compare(
            criterion,
            || timed(|| read(&mapped())),
            || timed(|| read(&mapped_by_hand())),
        );
        if mapped().populate().is_err() {
            eprintln!("populated: left out, the kernel cannot (Linux 5.14)");
            continue;
        }
        Case { question: "populated first read", baseline: "not populated", size, target: None }
            .compare(
                criterion,
                || {
                    timed(|| {
                        let map = mapped();
                        map.populate().expect("this worked above");
                        read(&map)
                    })
                },
                || timed(|| read(&mapped())),
            );
    }
}

criterion_group!(benches, scan, first_touch);
criterion_main!(benches);
