//! What does it cost to take a file from a peer and map it? Nothing that grows with its size, unless
//! memory is reserved for every page.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use criterion::{Criterion, criterion_group, criterion_main};
use rustix::fs::FallocateFlags;
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{SealPolicy, SealedFile};
use sealed_mmap_benches::hand::{self, Map};
use sealed_mmap_benches::{
    Case, GIB, KIB, NAME, Sample, page_aligned, sizes_with_one_gib, stay_on_cpu, timed_each,
};

fn receive(criterion: &mut Criterion) {
    stay_on_cpu(0);
    let file = |size| SealedFile::from_bytes(NAME, page_aligned(size)).expect("a file");
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

/// What comes before: a descriptor passes through a socket that stands ready.
fn pass(criterion: &mut Criterion) {
    let file = SealedFile::from_bytes(NAME, page_aligned(4 * KIB)).expect("a file");
    let (here, there) = UnixStream::pair().expect("a socket");
    let question = "send and receive a descriptor";
    Case { question, baseline: "by hand", size: 4 * KIB, target: None }.compare(
        criterion,
        || {
            timed_each(COUNT, || {
                send_fds(&here, b"x", &[file.as_fd()]).expect("sent");
                recv_fd(&there, &mut [0]).expect("received")
            })
        },
        || {
            timed_each(COUNT, || {
                hand::send(&here, file.as_fd()).expect("sent");
                hand::receive(&there).expect("received").expect("a descriptor")
            })
        },
    );
}

criterion_group!(benches, receive, pass);
criterion_main!(benches);
