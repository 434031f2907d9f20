//! How long does it take to hand bytes to a reader who does not trust the writer?
//!
//! From a buffer to the last byte read: create, fill, seal, receive, map, read, drop. Writer and
//! reader are one thread, so that nothing is measured but the calls and the copying; a pipe or a
//! socket, which the two would fill and empty in turns, is thus spared every change of process.

use std::cell::Cell;
use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::os::fd::OwnedFd;

use criterion::{Criterion, criterion_group, criterion_main};
use memmap2::MmapOptions;
use rustix::fs::{MemfdFlags, Mode};
use rustix::shm;
use sealed_mmap::{SealPolicy, SealedFile};
use sealed_mmap_benches::hand::{self, Map};
use sealed_mmap_benches::{
    Case, NAME, SIZES, SUBJECT, Sample, page_aligned, read, sizes_with_one_gib, stay_on_cpu, timed,
};

type Done<T = u64> = Result<T, Box<dyn Error>>;
type Handoff = fn(&[u8]) -> Done;

fn sealed_mmap(bytes: &[u8]) -> Done {
    let file = SealedFile::from_bytes(NAME, bytes)?;
    let received = SealedFile::receive_read_only(file, &SealPolicy::new())?;
    Ok(read(&received.map_read_only()?))
}

fn by_hand(bytes: &[u8]) -> Done {
    let file = hand::memfd()?;
    hand::write_all(&file, bytes)?;
    hand::seal(&file)?;
    let len = hand::verify(&file)?;
    Ok(read(&Map::read_only(&file, len)?))
}

/// The reader opens the object by its name, and can only hope that nobody changes it.
fn shm_open(bytes: &[u8], fill: fn(&OwnedFd, &[u8]) -> Done<()>) -> Done {
    let name = format!("/sealed-mmap-bench-{}", std::process::id());
    let mode = Mode::RUSR | Mode::WUSR;
    let create = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
    let object = shm::open(&name, create, mode)?;
    fill(&object, bytes)?;
    drop(object);
    let object = shm::open(&name, shm::OFlags::RDONLY, mode)?;
    let len = rustix::fs::fstat(&object)?.st_size as usize;
    let sum = read(&Map::read_only(&object, len)?);
    shm::unlink(&name)?;
    Ok(sum)
}

fn shm_open_mmap(bytes: &[u8]) -> Done {
    shm_open(bytes, |object, bytes| {
        rustix::fs::ftruncate(object, bytes.len() as u64)?;
        let mut map = Map::writable(object, bytes.len())?;
        map.copy_from_slice(bytes);
        Ok(())
    })
}

fn shm_open_write(bytes: &[u8]) -> Done {
    shm_open(bytes, |object, bytes| Ok(hand::write_all(object, bytes)?))
}

fn memfile(bytes: &[u8]) -> Done {
    use memfile::{CreateOptions, MemFile, Seal};
    let mut file = MemFile::create(NAME, CreateOptions::new().allow_sealing(true))?;
    file.write_all(bytes)?;
    file.add_seals(Seal::Write | Seal::Shrink | Seal::Grow | Seal::Seal)?;
    let received = MemFile::from_fd(file.into_fd()).map_err(|_| "not a memfd")?;
    Ok(read(&MmapOptions::new().map_if_safe(&received)?))
}

fn memfd(bytes: &[u8]) -> Done {
    use memfd::{FileSeal, Memfd, MemfdOptions};
    let file = MemfdOptions::new().allow_sealing(true).create(NAME)?;
    file.as_file().write_all(bytes)?;
    file.add_seals(&[
        FileSeal::SealWrite,
        FileSeal::SealShrink,
        FileSeal::SealGrow,
        FileSeal::SealSeal,
    ])?;
    let received = Memfd::try_from_file(file.into_file()).map_err(|_| "not a memfd")?;
    Ok(read(&MmapOptions::new().map_if_safe(received.as_file())?))
}

/// Has no writer, so that part is by hand.
fn safe_mmap(bytes: &[u8]) -> Done {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(NAME, flags)?;
    hand::write_all(&file, bytes)?;
    rustix::fs::fcntl_add_seals(&file, hand::SEALS)?;
    let received = safe_mmap::ImmutableFd::from_sealed_memfd(file)?;
    Ok(read(received.mmap()?.as_bytes()))
}

fn shmem_ipc(bytes: &[u8]) -> Done {
    use shmem_ipc::mem::{read_memfd, write_once};
    let file = write_once(bytes.len() as u64, NAME, |target| target.copy_from_slice(bytes))?;
    Ok(read(&read_memfd(&file)?))
}

/// Through a channel that holds less than the whole, into a buffer of the reader's.
fn copied(bytes: &[u8], writer: &OwnedFd, reader: &OwnedFd, mut buffer: Vec<u8>) -> Done<Vec<u8>> {
    const HELD: usize = 64 << 10;
    const PAGE: usize = 4096;
    buffer.clear();
    buffer.reserve(bytes.len() + PAGE);
    let aligned = buffer.as_ptr().align_offset(PAGE);
    buffer.resize(aligned, 0);
    for chunk in bytes.chunks(HELD) {
        hand::write_all(writer, chunk)?;
        let end = buffer.len() + chunk.len();
        while buffer.len() < end {
            rustix::io::read(reader, rustix::buffer::spare_capacity(&mut buffer))?;
        }
    }
    black_box(read(&buffer[aligned..]));
    Ok(buffer)
}

fn pipe(bytes: &[u8]) -> Done {
    let (reader, writer) = rustix::pipe::pipe()?;
    Ok(copied(bytes, &writer, &reader, Vec::new())?.len() as u64)
}

/// The reader uses one buffer for whatever comes.
fn pipe_kept_buffer(bytes: &[u8]) -> Done {
    thread_local!(static KEPT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) });
    let (reader, writer) = rustix::pipe::pipe()?;
    KEPT.set(copied(bytes, &writer, &reader, KEPT.take())?);
    Ok(0)
}

fn unix_socket(bytes: &[u8]) -> Done {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let flags = SocketFlags::CLOEXEC;
    let (writer, reader) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(copied(bytes, &writer, &reader, Vec::new())?.len() as u64)
}

fn handoff(criterion: &mut Criterion) {
    stay_on_cpu(0);
    /// The baseline's name, what it does, and the most that the subject may take of it at each of
    /// `SIZES`.
    type Contestant = (&'static str, Handoff, [Option<f64>; 4]);
    let contestants: [Contestant; 11] = [
        (SUBJECT, sealed_mmap, [None; 4]),
        ("by hand", by_hand, [1.04, 1.03, 1.03, 1.04].map(Some)),
        ("shm_open + mmap", shm_open_mmap, [0.65, 0.65, 0.65, 0.75].map(Some)),
        ("shm_open + write", shm_open_write, [0.80, 0.95, 1.03, 1.05].map(Some)),
        ("memfile + memmap2", memfile, [1.02, 1.02, 1.03, 1.02].map(Some)),
        ("memfd + memmap2", memfd, [1.02, 1.02, 1.03, 1.02].map(Some)),
        ("safe-mmap", safe_mmap, [Some(1.08), Some(1.04), Some(1.03), None]),
        ("shmem-ipc", shmem_ipc, [Some(0.70); 4]),
        ("pipe", pipe, [None; 4]),
        ("pipe, buffer kept", pipe_kept_buffer, [None; 4]),
        ("Unix socket", unix_socket, [None; 4]),
    ];
    for size in sizes_with_one_gib() {
        let bytes = page_aligned(size);
        let measured =
            |contestant: Handoff| -> Sample { timed(|| contestant(&bytes).expect("a handoff")) };
        for (baseline, contestant, targets) in contestants {
            let target = SIZES.iter().position(|known| *known == size).and_then(|at| targets[at]);
            if let Err(error) = contestant(&bytes) {
                eprintln!("{baseline}: left out, for here it fails: {error}");
                continue;
            }
            let case = Case { question: "handoff", baseline, size, target };
            case.compare(criterion, || measured(sealed_mmap), || measured(contestant));
        }
    }
}

/// One file for all of them, against a copy for each.
fn handoff_to_8_readers(criterion: &mut Criterion) {
    const READERS: u64 = 8;

    let mapped = |bytes: &[u8]| -> Done {
        let file = SealedFile::from_bytes(NAME, bytes)?;
        (0..READERS).try_fold(0_u64, |sum, _| {
            let received = SealedFile::receive_read_only(file.try_clone()?, &SealPolicy::new())?;
            Ok(sum.wrapping_add(read(&received.map_read_only()?)))
        })
    };
    let copied = |bytes: &[u8], copy: Handoff| -> Done {
        (0..READERS).try_fold(0_u64, |sum, _| Ok(sum.wrapping_add(copy(bytes)?)))
    };
    for size in SIZES {
        let bytes = page_aligned(size);
        let contestants: [(_, Handoff); 3] =
            [("pipe", pipe), ("pipe, buffer kept", pipe_kept_buffer), ("Unix socket", unix_socket)];
        for (baseline, copy) in contestants {
            let case = Case { question: "handoff to 8 readers", baseline, size, target: None };
            case.compare(
                criterion,
                || timed(|| mapped(&bytes).expect("a handoff")),
                || timed(|| copied(&bytes, copy).expect("a handoff")),
            );
        }
    }
}

criterion_group!(benches, handoff, handoff_to_8_readers);
criterion_main!(benches);
