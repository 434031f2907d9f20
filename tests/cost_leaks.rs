//! Nothing is left behind: no descriptor, no mapping, no memory, whether a call succeeds or fails.
//! One test only, for it counts what the whole process has.
#![cfg(target_os = "linux")]

mod support;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use sealed_mmap::{CreateOptions, Refusal, SealFailure, SealPolicy, SealedFile, Seals, add_seals};
use support::mapping::{Mapping, READ_WRITE};
use support::process::open_descriptors;
use support::runs::{is_emulated, rounds};

/// What a process can leak.
#[derive(Debug)]
struct Possessions {
    descriptors: usize,
    mappings: usize,
    /// KiB.
    address_space: usize,
}

fn possessions() -> Possessions {
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let status = read("/proc/self/status");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    Possessions {
        descriptors: open_descriptors(),
        mappings: read("/proc/self/maps").lines().count(),
        address_space: size.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

impl Possessions {
    /// By more than what the allocator may keep.
    fn have_grown_since(&self, before: &Self) -> bool {
        self.descriptors != before.descriptors
            || self.mappings > before.mappings + 10
            || self.address_space > before.address_space + 1024
    }
}

/// All that can be done with a file, and much that cannot.
fn cycle(bytes: &[u8]) -> io::Result<()> {
    let any = SealPolicy::new();

    let sealed = SealedFile::from_bytes("leaks", bytes)?;
    let map = sealed.map_read_only()?;
    let range = sealed.map_range(4000..4100)?;
    let out_of_bounds = sealed.map_range(4000..=u64::MAX);
    out_of_bounds.expect_err("a range beyond the end");
    let read_only = sealed.reopen()?;
    let received = SealedFile::receive_read_only(sealed.try_clone()?, &any)?;
    drop((read_only, received));

    let refused = SealedFile::receive_read_only(sealed, &SealPolicy::untrusted(1));
    let refused = refused.expect_err("more than the policy allows");
    assert!(matches!(refused.reason(), Refusal::Length { .. }));
    let received = SealedFile::receive_read_only(refused.into_fd(), &any)?;
    assert_eq!(received.map_read_only()?[..], map[..]);
    assert_eq!(range[..], map[4000..4100]);
    let (missing, _fd) =
        SealedFile::receive_future_write(received, &any).expect_err("not a live file").into_parts();
    assert!(matches!(missing, Refusal::MissingSeals { .. }));

    let built = SealedFile::build("leaks", 2 * 4096, |target| {
        target[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    })?;
    SealedFile::build("leaks", 4096, |_| Err(io::ErrorKind::Other.into())).expect_err("its error");
    SealedFile::build("leaks", u64::MAX, |_| Ok(())).expect_err("more than there is");

    SealedFile::copy_of("leaks", &built, 1 << 20)?;
    SealedFile::copy_of("leaks", &built, 1).expect_err("more than the limit");
    let (reader, writer) = rustix::pipe::pipe()?;
    SealedFile::copy_of("leaks", &writer, 1).expect_err("nothing to read from");
    SealedFile::receive_or_copy(reader, &any, 1).expect_err("a pipe");

    // The value comes back, and then succeeds, or is dropped.
    let unsealable = CreateOptions::new().allow_sealing(false).create("leaks")?;
    let failed = unsealable.seal_read_only().expect_err("it allows no seal");
    assert_eq!(failed.reason(), SealFailure::NotAllowed);
    drop(failed.into_file().seal_read_only());
    let mut draft = SealedFile::create("leaks")?;
    draft.set_len(4096)?;
    draft.map_mut()?.fill(1);
    drop(draft.seal_read_only()?);

    let final_one = SealedFile::create("leaks")?.into_file();
    add_seals(&final_one, Seals::SEAL)?;
    let refused = SealedFile::adopt_read_only(OwnedFd::from(final_one), &any);
    let copy = SealedFile::receive_or_copy(refused.expect_err("no seal left").into_fd(), &any, 1)?;
    drop(File::from(copy));
    Ok(())
}

/// Adopting fails while somebody has a mapping, which it waits for, and not any more afterwards.
fn slow_cycle(bytes: &[u8]) -> io::Result<()> {
    let any = SealPolicy::new();
    let draft = SealedFile::create("leaks")?.into_file();
    draft.write_all_at(bytes, 0)?;
    let mapping = Mapping::shared(&draft, READ_WRITE)?;
    let refused = SealedFile::adopt_read_only(draft, &any).expect_err("a writable mapping");
    drop(mapping);
    drop(SealedFile::adopt_read_only(refused.into_fd(), &any)?);
    Ok(())
}

#[test]
fn nothing_is_leaked_whether_calls_succeed_or_fail() {
    let bytes = [7; 4100];
    for _ in 0..100 {
        cycle(&bytes).unwrap();
    }
    slow_cycle(&bytes).unwrap();
    let before = possessions();
    let cycles = if is_emulated() { 1000 } else { rounds(100_000, 1_000_000) };
    for n in 0..cycles {
        cycle(&bytes).unwrap();
        if n % 1000 == 0 {
            slow_cycle(&bytes).unwrap();
        }
    }
    let after = possessions();
    println!("{cycles} cycles: {before:?}, then {after:?}");
    assert!(!after.have_grown_since(&before), "{before:?} became {after:?}");

    // The control: what would be seen of a leak in a few cycles.
    let file = SealedFile::from_bytes("leaked", bytes).unwrap();
    assert!(possessions().have_grown_since(&before), "a descriptor is not seen");
    let maps: Vec<_> = (0..20).map(|_| file.map_read_only().unwrap()).collect();
    drop(file);
    assert!(possessions().have_grown_since(&before), "mappings are not seen");
    drop(maps);
    assert!(!possessions().have_grown_since(&before));
}
