//! What does sealing cost? The pages were written by the CPU that seals, or by another one.

use std::io::Write;

use criterion::{Criterion, criterion_group, criterion_main};
use sealed_mmap::SealedFile;
use sealed_mmap_benches::hand;
use sealed_mmap_benches::{
    Case, KIB, MIB, NAME, page_aligned, sizes_with_one_gib, stay_on_cpu, timed,
};

fn seal(criterion: &mut Criterion) {
    for size in sizes_with_one_gib() {
        let bytes = page_aligned(size);
        for (question, writer) in [("seal", 0), ("seal pages of another CPU", 1)] {
            if !stay_on_cpu(writer) {
                eprintln!("{question}: left out, there is no other CPU to write on");
                continue;
            }
            let written = |write: &mut dyn FnMut()| {
                stay_on_cpu(writer);
                write();
                stay_on_cpu(0);
            };
            let target = match size {
                _ if writer != 0 => None,
                ..KIB_64 => Some(1.30),
                MIB.. => Some(1.05),
                _ => None,
            };
            let case = Case { question, baseline: "by hand", size, target };
            case.compare(
                criterion,
                || {
                    let mut draft = SealedFile::create(NAME).expect("a file");
                    written(&mut || draft.write_all(&bytes).expect("written"));
                    timed(|| draft.seal_read_only().expect("sealed"))
                },
                || {
                    let draft = hand::memfd().expect("a file");
                    written(&mut || hand::write_all(&draft, &bytes).expect("written"));
                    timed(|| hand::seal(&draft).expect("sealed"))
                },
            );
        }
    }
}

const KIB_64: u64 = 64 * KIB;

criterion_group!(benches, seal);
criterion_main!(benches);
