//! What does it cost to take a file from a peer and map it? Nothing that grows with its size, unless
//! memory is reserved for every page.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use criterion::{Criterion, criterion_group, criterion_main};
use rustix::fs::FallocateFlags;
use sealed_mmap::{SealPolicy, SealedFile};
use sealed_mmap_benches::hand::{self, Map};
use sealed_mmap_benches::{
    Case, GIB, KIB, NAME, Sample, page_aligned, sizes_with_one_gib, stay_on_cpu, timed_each,
};

fn receive(criterion: &mut Criterion) {
    stay_on_cpu(0).expect("CPU 0 can be used");
    let file = |size| SealedFile::from_bytes(NAME, &page_aligned(size)).expect("a file");
    let small = file(4 * KIB);
    for size in sizes_with_one_gib() {
        let file = file(size);
        let untrusted = SealPolicy::untrusted(GIB);

        let target = Some(1.05);
        Case { question: "receive", baseline: "4 KiB", size, target }.compare(
            criterion,
            || received(&file, &SealPolicy::new()),
            || received(&small, &SealPolicy::new()),
        );
        Case { question: "receive", baseline: "by hand", size, target: None }.compare(
            criterion,
            || received(&file, &SealPolicy::new()),
            || received_by_hand(&file, |_, _| ()),
        );
        let target = Some(1.10);
        Case { question: "receive, untrusted", baseline: "by hand", size, target }.compare(
            criterion,
            || received(&file, &untrusted),
            || {
                received_by_hand(&file, |fd, len| {
                    rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, len as u64)
                        .expect("memory for every page");
                })
            },
        );
    }
}

/// Times 16 descriptors, for one takes little longer than looking at the clock.
const COUNT: u32 = 16;

fn duplicates(file: &SealedFile) -> Vec<OwnedFd> {
    (0..COUNT).map(|_| file.as_fd().try_clone_to_owned().expect("a descriptor")).collect()
}

fn received(file: &SealedFile, policy: &SealPolicy) -> Sample {
    let mut sent = duplicates(file);
    timed_each(COUNT, || {
        let fd = sent.pop().expect("COUNT of them");
        let file = SealedFile::receive_read_only(fd, policy).expect("received");
        (file.map_read_only().expect("mapped"), file)
    })
}

fn received_by_hand(file: &SealedFile, reserve: fn(&File, usize)) -> Sample {
    let mut sent = duplicates(file);
    timed_each(COUNT, || {
        let fd = File::from(sent.pop().expect("COUNT of them"));
        let len = hand::verify(&fd).expect("received");
        reserve(&fd, len);
        (Map::read_only(&fd, len).expect("mapped"), fd)
    })
}

criterion_group!(benches, receive);
criterion_main!(benches);
