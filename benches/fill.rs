//! What is the fastest way to fill a file, and does the crate take it?

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use criterion::{Criterion, criterion_group, criterion_main};
use sealed_mmap::{CreateOptions, HugePages, SealPolicy, SealedFile};
use sealed_mmap_benches::hand;
use sealed_mmap_benches::{
    Case, MIB, NAME, Sample, page_aligned, read, sizes_with_one_gib, stay_on_cpu, timed,
};

fn from_bytes(criterion: &mut Criterion) {
    stay_on_cpu(0);
    for size in sizes_with_one_gib() {
        let bytes = page_aligned(size);
        let subject = || timed(|| SealedFile::from_bytes(NAME, &bytes).expect("a file"));
        let case = |baseline| Case { question: "from_bytes", baseline, size, target: None };
        case("write by hand").compare(criterion, subject, || written(&bytes));
        case("mapping by hand").compare(criterion, subject, || filled_mapped(&bytes));
    }
}

/// In place, or up to 1 MiB through a buffer that the allocator has at hand.
fn build(criterion: &mut Criterion) {
    for size in sizes_with_one_gib() {
        let bytes = page_aligned(size);
        let subject = || {
            timed(|| {
                let fill = |target: &mut [u8]| -> io::Result<()> {
                    target.copy_from_slice(&bytes);
                    Ok(())
                };
                SealedFile::build(NAME, size, fill).expect("a file")
            })
        };
        let case = |baseline| Case { question: "build", baseline, size, target: None };
        case("mapping by hand").compare(criterion, subject, || filled_mapped(&bytes));
        case("private buffer by hand").compare(criterion, subject, || {
            timed(|| {
                let mut buffer = vec![0; bytes.len() + 4096];
                let aligned = buffer.as_ptr().align_offset(4096);
                let buffer = &mut buffer[aligned..][..bytes.len()];
                buffer.copy_from_slice(&bytes);
                sealed_with(|file| hand::write_all(file, buffer))
            })
        });
    }
}

fn written(bytes: &[u8]) -> Sample {
    timed(|| sealed_with(|file| hand::write_all(file, bytes)))
}

fn filled_mapped(bytes: &[u8]) -> Sample {
    timed(|| sealed_with(|file| hand::fill_mapped(file, bytes)))
}

fn sealed_with(fill: impl FnOnce(&OwnedFd) -> rustix::io::Result<()>) -> OwnedFd {
    let file = hand::memfd().expect("a file");
    fill(&file).expect("filled");
    hand::seal(&file).expect("sealed");
    file
}

fn copy_of(criterion: &mut Criterion) {
    let directory = std::env::temp_dir();
    let path = directory.join(format!("sealed-mmap-bench-{}", std::process::id()));
    for size in sizes_with_one_gib() {
        std::fs::write(&path, page_aligned(size)).expect("room for a file");
        let source = File::open(&path).expect("it was just written");
        let subject = || timed(|| SealedFile::copy_of(NAME, &source, u64::MAX).expect("a copy"));
        let targets = if size == 64 * MIB { [Some(1.00), Some(1.15)] } else { [None; 2] };

        let question = "copy_of";
        Case { question, baseline: "read into a Vec", size, target: targets[0] }.compare(
            criterion,
            subject,
            || timed(|| std::fs::read(&path).expect("read")),
        );
        Case { question, baseline: "bare sendfile", size, target: targets[1] }.compare(
            criterion,
            subject,
            || {
                timed(|| {
                    let copy = hand::memfd().expect("a file");
                    let mut done = 0;
                    while done < size {
                        let rest = (size - done) as usize;
                        rustix::fs::sendfile(&copy, &source, Some(&mut done), rest).expect("sent");
                    }
                    copy
                })
            },
        );
    }
    std::fs::remove_file(path).expect("it is there");
}

/// The whole way to the last byte read, for what huge pages save is saved at every step of it.
fn huge_pages(criterion: &mut Criterion) {
    let setting = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let settings = std::fs::read_to_string(setting).unwrap_or_default();
    let policy = settings.split(['[', ']']).nth(1).unwrap_or("unknown");
    let size = 64 * MIB;
    let bytes = page_aligned(size);
    let handoff = |huge_pages| {
        let options = CreateOptions::new().huge_pages(huge_pages);
        let policy = SealPolicy::new().allow_hugetlb(true);
        timed(|| {
            let file = options.from_bytes(NAME, &bytes)?;
            let received = SealedFile::receive_read_only(file, &policy)?;
            Ok::<_, io::Error>(read(&received.map_read_only()?))
        })
    };
    let target = Some(if policy == "advise" { 0.4 } else { 1.05 });
    let question = format!("transparent huge pages under {policy}");
    Case { question: &question, baseline: "plain pages", size, target }.compare(
        criterion,
        || handoff(HugePages::Transparent),
        || handoff(HugePages::None),
    );
    if let Err(error) =
        CreateOptions::new().huge_pages(HugePages::HugeTlb(None)).from_bytes(NAME, &bytes)
    {
        eprintln!("hugetlb: left out, {error} (see /proc/sys/vm/nr_hugepages)");
        return;
    }
    Case { question: "hugetlb pages", baseline: "plain pages", size, target: None }.compare(
        criterion,
        || handoff(HugePages::HugeTlb(None)),
        || handoff(HugePages::None),
    );
}

criterion_group!(benches, from_bytes, build, copy_of, huge_pages);
criterion_main!(benches);
