//! What the kernel promises about seals and mappings, checked on the kernel that runs the tests.
//!
//! Every guarantee of this crate rests on one of these. Each refusal stands beside a control: the
//! same attempt succeeds without the seal. What older kernels lack, or do differently, is recognised
//! by its errno, checked, and printed (`--nocapture` shows it). Needs `/proc`; runs as any user.
#![cfg(target_os = "linux")]

mod support;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::mm::MapFlags;
use sealed_mmap::{CreateOptions, Seals, add_seals, get_seals};
use support::files::{contents, punch_hole, read_only, read_write};
use support::kernel::*;
use support::mapping::READ_WRITE;

#[test]
fn seals_accumulate_until_seal_ends_it() {
    let file = draft();
    assert_seals(&file, NONE);
    for seals in [SHRINK | WRITE, SHRINK | WRITE, NONE] {
        add_seals(&file, seals).unwrap();
        assert_seals(&file, SHRINK | WRITE);
    }
    add_seals(&file, GROW | SEAL).unwrap();
    for seals in [FUTURE_WRITE, GROW, SEAL, NONE] {
        fails_with("a seal after SEAL", add_seals(&file, seals), Errno::PERM);
    }
    assert_seals(&file, FIXED_SIZE | WRITE | SEAL);
}

#[test]
fn a_file_created_without_sealing_takes_no_seal() {
    for (allowed, expected) in [(true, WRITE), (false, SEAL)] {
        let options = CreateOptions::new().allow_sealing(allowed);
        let file = options.create("kernel-contract").unwrap().into_file();
        assert_eq!(add_seals(&file, WRITE).is_ok(), allowed);
        assert_seals(&file, expected);
    }
}

#[test]
fn an_unknown_seal_is_invalid_and_sets_nothing() {
    let file = draft();
    let seals = WRITE | Seals::from_bits_retain(1 << 30);
    fails_with("an unknown seal", add_seals(&file, seals), Errno::INVAL);
    assert_seals(&file, NONE);
}

#[test]
fn write_refuses_every_way_to_change_a_byte() {
    all_refused(&sealed_draft(WRITE), &WRITES);
    all_allowed(draft, &WRITES);
}

#[test]
fn write_alone_leaves_the_length_free() {
    all_allowed(|| sealed_draft(WRITE), &SHRINKS);
    all_allowed(|| sealed_draft(WRITE), &GROWTHS);
    all_refused(&sealed_draft(WRITE | FIXED_SIZE), &SHRINKS);
    all_refused(&sealed_draft(WRITE | FIXED_SIZE), &GROWTHS);
    all_refused(&sealed_draft(WRITE), &APPENDS);
}

#[test]
fn shrink_keeps_the_length_from_falling_and_no_more() {
    all_refused(&sealed_draft(SHRINK), &SHRINKS);
    all_allowed(draft, &SHRINKS);
    for others in [&WRITES[..], &GROWTHS, &APPENDS] {
        all_allowed(|| sealed_draft(SHRINK), others);
    }
}

#[test]
fn grow_keeps_the_length_from_rising_and_no_more() {
    for growths in [&GROWTHS[..], &APPENDS] {
        all_refused(&sealed_draft(GROW), growths);
        all_allowed(draft, growths);
    }
    all_allowed(|| sealed_draft(GROW), &WRITES);
    all_allowed(|| sealed_draft(GROW), &SHRINKS);
    all_allowed(|| sealed_draft(FIXED_SIZE), &WRITES);
}

#[test]
fn grow_cuts_a_write_that_crosses_the_end() {
    for (file, expected) in [(draft(), LEN + 1), (sealed_draft(GROW), LEN)] {
        let written = file.write_at(b"!!", LEN - 1);
        assert_eq!(written.is_ok_and(|count| count == 2), expected > LEN);
        assert_eq!(contents(&file).len() as u64, expected);
    }
}

#[test]
fn memory_can_be_reserved_for_a_fully_sealed_file() {
    let file = sealed_draft(WRITE | FIXED_SIZE | SEAL);
    allocate(&file, LEN).unwrap();
    fails_with("read-only", allocate(&read_only(&file), LEN), Errno::BADF);
    assert_eq!(contents(&file), contents(&draft()));
}

#[test]
fn a_write_sealed_file_can_be_mapped_for_reading() {
    let file = sealed_draft(WRITE | SHRINK);
    assert_eq!(map_private_read_only(&file).unwrap().get(0), b'a');
    let view = map_read_only(&read_only(&file)).unwrap();
    assert_eq!(view.get(0), b'a');
    match map_read_only(&file) {
        Ok(mapping) => assert_eq!(mapping.get(0), b'a'),
        outcome => {
            fails_with("a shared read-only mapping", outcome, Errno::PERM);
            eprintln!("older kernel: EPERM for a shared mapping of a writable descriptor");
        }
    }
}

#[test]
fn a_private_writable_mapping_never_reaches_the_file() {
    for file in [sealed_draft(WRITE), sealed_draft(FUTURE_WRITE)] {
        let copy = map_private(&file).unwrap();
        copy.set(0, b'!');
        assert_eq!((copy.get(0), contents(&file)[0]), (b'!', b'a'));
    }
    let (file, control) = shared(draft());
    control.set(0, b'!');
    assert_eq!(contents(&file)[0], b'!');
}

#[test]
fn write_is_busy_while_a_writable_descriptor_is_mapped_shared() {
    for map in [map_shared, map_read_only] {
        let file = draft();
        let mapping = map(&file).unwrap();
        fails_with("WRITE", add_seals(&file, WRITE | GROW), Errno::BUSY);
        assert_seals(&file, NONE); // all seals of one call, or none
        add_seals(&file, FIXED_SIZE).unwrap();
        drop(mapping);
        add_seals(&file, WRITE).unwrap();
    }
}

#[test]
fn write_is_not_hindered_by_private_or_read_only_mappings() {
    let file = draft();
    let _private = map_private(&file).unwrap();
    let _read_only = map_read_only(&read_only(&file)).unwrap();
    add_seals(&file, WRITE).unwrap();
}

#[test]
fn future_write_leaves_the_older_mapping_as_the_only_writer() {
    let (file, writer) = shared(draft());
    add_seals(&file, FUTURE_WRITE | SHRINK).unwrap();
    let reader = read_write(&file);
    for (descriptor, attempts) in [(&file, &WRITES[..]), (&reader, &WRITES), (&reader, &SHRINKS)] {
        all_refused(descriptor, attempts);
    }
    let views = [map_read_only, map_private_read_only].map(|map| map(&reader).unwrap());
    writer.set(7, b'!');
    assert_eq!(views.each_ref().map(|view| view.get(7)), [b'!'; 2]);
    assert_eq!(contents(&reader)[7], b'!');
}

#[test]
fn a_future_write_file_can_be_finished_once_its_writer_is_gone() {
    let (file, writer) = shared(draft());
    add_seals(&file, FUTURE_WRITE | SHRINK).unwrap();
    writer.set(7, b'!');
    fails_with("WRITE", add_seals(&file, WRITE), Errno::BUSY);
    let _view = map_read_only(&read_only(&file)).unwrap();
    drop(writer);
    add_seals(&file, WRITE).unwrap();
    assert_eq!(contents(&file)[7], b'!');
}

#[test]
fn seals_belong_to_the_file_not_to_the_descriptor() {
    let file = draft();
    let (duplicate, writable) = (file.try_clone().unwrap(), read_write(&file));
    add_seals(&file, WRITE).unwrap();
    add_seals(&duplicate, SHRINK).unwrap();
    add_seals(&writable, GROW).unwrap();
    drop(file);
    for descriptor in [&duplicate, &writable, &read_only(&writable)] {
        assert_seals(descriptor, WRITE | FIXED_SIZE);
    }
}

#[test]
fn only_a_writable_descriptor_adds_seals() {
    let file = draft();
    let view = read_only(&file);
    fails_with("a seal, read-only", add_seals(&view, SEAL), Errno::PERM);
    add_seals(read_write(&view), SEAL).unwrap();
    assert_seals(&view, SEAL);
}

#[test]
fn seals_added_by_another_process_hold_here() {
    let (file, theirs) = (draft(), draft());
    let (first, second) = (file.try_clone().unwrap(), theirs.try_clone().unwrap());
    let in_child = move || add_seals(&first, SEAL).and_then(|()| add_seals(&second, WRITE));
    while_forked(None, in_child, || {
        fails_with("a seal", add_seals(&file, WRITE), Errno::PERM);
        fails_with("write(2)", theirs.write_at(b"!", 0), Errno::PERM);
    });
    assert_seals(&file, SEAL);
    assert_seals(&theirs, WRITE);
}

#[test]
fn write_is_busy_while_a_forked_child_keeps_the_mapping() {
    let (file, mapping) = shared(draft());
    let outcome = while_forked(Some(mapping), || Ok(()), || add_seals(&file, WRITE));
    fails_with("WRITE", outcome, Errno::BUSY);
    add_seals(&file, WRITE).unwrap();
}

#[test]
fn a_mapping_kept_from_children_does_not_hinder_write() {
    let (file, mapping) = shared(draft());
    while_forked(
        None,
        || Ok(()),
        || {
            drop(mapping);
            add_seals(&file, WRITE).unwrap();
        },
    );
}

#[test]
fn exec_on_a_plain_mode_freezes_the_executable_bits_alone() {
    let Some(file) = exec_draft() else { return };
    chmod(&file, 0o644).unwrap();
    add_seals(&file, EXEC).unwrap();
    assert_eq!(get_seals(&file).unwrap(), EXEC);
    for mode in [0o777, 0o670, 0o605, 0o700, 0o100] {
        fails_with("chmod +x", chmod(&file, mode), Errno::PERM);
    }
    chmod(&file, 0o600).unwrap();
    file.write_all_at(b"!", 0).unwrap();
}

#[test]
fn exec_on_an_executable_mode_implies_four_more_seals() {
    let Some(file) = exec_draft() else { return };
    chmod(&file, 0o700).unwrap();
    add_seals(&file, EXEC).unwrap();
    assert_eq!(get_seals(&file).unwrap(), IMPLIED_BY_EXEC);
    for mode in [0o711, 0o600] {
        fails_with("chmod of x bits", chmod(&file, mode), Errno::PERM);
    }
    for attempts in [&WRITES[..], &SHRINKS, &GROWTHS] {
        all_refused(&file, attempts);
        all_allowed(|| exec_draft().unwrap(), attempts);
    }
}

#[test]
fn the_write_seal_that_exec_implies_is_checked_or_hollow() {
    let Some(file) = exec_draft() else { return };
    let (file, writer) = shared(file);
    let reader = map_read_only(&read_only(&file)).unwrap();
    if add_seals(&file, EXEC).is_ok() {
        eprintln!("unfixed kernel: EXEC adds WRITE beside a live writable mapping");
        assert_eq!(get_seals(&file).unwrap(), IMPLIED_BY_EXEC);
        writer.set(0, b'!');
        assert_eq!(reader.get(0), b'!'); // WRITE is reported, and yet a byte changes
    } else {
        eprintln!("fixed kernel: EXEC is busy beside a live writable mapping");
        fails_with("EXEC", add_seals(&file, EXEC), Errno::BUSY);
        assert_eq!(get_seals(&file).unwrap(), NONE);
        drop(writer);
        add_seals(&file, EXEC).unwrap();
    }
}

#[test]
fn a_draft_stays_not_executable_where_the_kernel_knows_how() {
    let file = draft();
    assert_eq!(mode(&file) & 0o111, 0);
    if exec_seal_exists() {
        assert_eq!(get_seals(&file).unwrap(), EXEC);
        fails_with("chmod +x", chmod(&file, 0o777), Errno::PERM);
    } else {
        chmod(&file, 0o777).unwrap();
    }
}

#[test]
fn the_flags_for_executability_mean_what_the_crate_assumes() {
    let create = |flags| {
        let file = File::from(memfd_create("kernel-contract", flags)?);
        Ok((get_seals(&file).unwrap(), mode(&file)))
    };
    let (sysctl, known) = (memfd_noexec(), exec_seal_exists());
    eprintln!("vm.memfd_noexec = {sysctl:?}");
    let both = create(MemfdFlags::EXEC | MemfdFlags::NOEXEC_SEAL);
    assert_eq!(both, Err(Errno::INVAL));
    let no_exec = known.then_some((EXEC, 0o666)).ok_or(Errno::INVAL);
    assert_eq!(create(MemfdFlags::NOEXEC_SEAL), no_exec);
    let exec = match (known, sysctl) {
        (false, _) => Err(Errno::INVAL),
        (true, Some(2)) => Err(Errno::ACCESS),
        (true, _) => Ok((SEAL, 0o777)), // not sealable, as without any flag
    };
    assert_eq!(create(MemfdFlags::EXEC), exec);
    match (create(MemfdFlags::ALLOW_SEALING), sysctl) {
        (made, None | Some(0)) => assert_eq!(made, Ok((NONE, 0o777))),
        (Err(Errno::INVAL), Some(2)) => eprintln!("early kernel: a flag is needed"),
        (made, _) => assert_eq!(made, Ok((EXEC, 0o666))),
    }
}

#[test]
fn seals_hold_on_huge_pages_too() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let file = match memfd_create("kernel-contract", flags) {
        Ok(fd) => File::from(fd),
        Err(errno) => {
            assert!([Errno::INVAL, Errno::NODEV, Errno::NOENT, Errno::NOSYS].contains(&errno));
            return eprintln!("no huge pages of the default size here: {errno}");
        }
    };
    let page = file.metadata().unwrap().blksize();
    file.set_len(page).unwrap();
    file.set_len(page * 2).unwrap();
    let map = || map(&file, READ_WRITE, MapFlags::SHARED | MapFlags::NORESERVE); // works with an empty pool
    let punch = || punch_hole(&file, 0, page);
    punch().unwrap();
    let mapping = map().unwrap();
    fails_with("WRITE", add_seals(&file, WRITE), Errno::BUSY);
    drop(mapping);
    fails_with("write(2)", file.write_at(b"!", 0), Errno::INVAL); // sealed or not
    add_seals(&file, WRITE | FIXED_SIZE).unwrap();
    fails_with("a shared writable mapping", map(), Errno::PERM);
    fails_with("punching a hole", punch(), Errno::PERM);
    fails_with("ftruncate downwards", file.set_len(page), Errno::PERM);
    fails_with("ftruncate upwards", file.set_len(page * 3), Errno::PERM);
}
