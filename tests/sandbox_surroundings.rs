//! What a process has of its own and not for ever: descriptors of one thread, users of a namespace,
//! limits on locked memory, settings that an administrator changes.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "namespaces and limits are set with raw calls")]

mod support;

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Gid, Uid, fchown};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::UnshareFlags;
use sealed_mmap::{
    CreateOptions, HugePages, Producer, Refusal, SealFailure, SealPolicy, SealedFile,
};
use support::errno_in;
use support::files::{is_root, proc_path};
use support::process::{Forked, is_alone};
use support::runs::live;

/// What `unshare(2)` takes away, or `None` with the reason printed.
fn unshare(flags: UnshareFlags) -> Option<()> {
    // SAFETY: nothing in this thread relies on what it shares with others.
    match unsafe { rustix::thread::unshare_unsafe(flags) } {
        Ok(()) => Some(()),
        Err(errno) => {
            eprintln!("not tested, unshare of {flags:?} is refused here: {errno}");
            None
        }
    }
}

fn passed(child: Forked) {
    assert_eq!(child.finish().exit_status(), Some(0));
}

#[test]
fn a_thread_with_descriptors_of_its_own_reopens_them() {
    let in_thread = || -> Option<()> {
        unshare(UnshareFlags::FILES)?;
        let file = SealedFile::from_bytes("of this thread", b"bytes").unwrap();
        let reopened = file.reopen().unwrap();
        assert_eq!(reopened.map_read_only().unwrap(), b"bytes");
        let policy = SealPolicy::untrusted(5);
        let read_only = SealedFile::receive_read_only(reopened, &policy).unwrap();
        read_only.reserve().unwrap();
        live(Producer::create("of this thread", 8));

        // Control: the path of the thread group's leader does not know the descriptor.
        let leaders = fs::read_link(proc_path(&file));
        assert!(!leaders.is_ok_and(|name| name.to_string_lossy().contains("of this thread")));
        Some(())
    };
    thread::spawn(in_thread).join().unwrap();
}

/// Here the overflow uid is everybody's whom the user namespace does not map.
#[test]
fn the_overflow_uid_is_no_owner_where_users_are_unmapped() {
    if !is_alone("the_overflow_uid_is_no_owner_where_users_are_unmapped") {
        return;
    }
    let file = SealedFile::from_bytes("whose", b"bytes").unwrap();
    let accepted = |file: &SealedFile, uid| {
        let policy = SealPolicy::new().owner(uid);
        SealedFile::receive_read_only(file.try_clone().unwrap(), &policy)
    };
    let overflow_uid = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap();
    let overflow_uid = overflow_uid.trim().parse().unwrap();
    passed(Forked::that(|_| {
        if unshare(UnshareFlags::NEWUSER).is_none() {
            return;
        }
        // Nobody is mapped, not even who has made the file.
        let error = accepted(&file, overflow_uid).unwrap_err();
        let refused = Refusal::Owner { expected: overflow_uid, found: overflow_uid };
        assert_eq!(error.reason().to_string(), refused.to_string());
        assert!(error.to_string().contains("does not map"), "{error}");
        // Control: the file as such is accepted.
        SealedFile::receive_read_only(file.try_clone().unwrap(), &SealPolicy::new()).unwrap();
    }));

    // Control: where every user is mapped, that one is a user like others.
    if is_root() {
        let owner = Uid::from_raw(overflow_uid);
        fchown(file.as_fd(), Some(owner), None::<Gid>).unwrap();
        accepted(&file, overflow_uid).unwrap();
    } else {
        eprintln!("control not run: only root can give files away");
    }
}

#[test]
fn a_limit_on_locked_memory_is_a_lack_of_memory() {
    if !is_alone("a_limit_on_locked_memory_is_a_lack_of_memory") {
        return;
    }
    const LEN: u64 = 8 << 20;
    const LIMIT: u64 = 1 << 20;

    let file = SealedFile::build("locked", LEN, |_| Ok(())).unwrap();
    let lacking = |outcome: io::Result<()>| {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error:?}");
        assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
        assert_eq!(errno_in(&error), Some(Errno::AGAIN));
    };
    passed(Forked::that(|_| {
        let limit = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
        setrlimit(Resource::Memlock, limit).unwrap();
        if is_root() {
            // Whom the limit does not hold for.
            // SAFETY: the only thread of this process.
            assert_eq!(unsafe { libc::setresuid(65534, 65534, 65534) }, 0);
        }
        // SAFETY: it changes what future mappings do, and no memory.
        assert_eq!(unsafe { libc::mlockall(libc::MCL_FUTURE) }, 0);
        lacking(file.map_read_only().map(drop));
        lacking(file.map_range(1..LEN - 1).map(drop));
        lacking(file.map_private().map(drop));
        lacking(SealedFile::build("locked", LEN, |_| Ok(())).map(drop));
        let mut draft = SealedFile::create("locked").unwrap();
        draft.set_len(LEN).unwrap();
        lacking(draft.map_mut().map(drop));
        if let Some(producer) = live(Producer::create("locked", 8)) {
            lacking(Producer::create("locked", LEN).map(drop));
            drop(producer);
        }
        // Control: within the limit.
        file.map_range(..4096).unwrap();
    }));
}

/// Who has not ignored SIGXFSZ is ended by it, as with any file.
#[test]
fn a_limit_on_the_size_of_files_is_an_error() {
    const LIMIT: u64 = 1 << 16;

    if !is_alone("a_limit_on_the_size_of_files_is_an_error") {
        return;
    }
    passed(Forked::that(|_| {
        let source = SealedFile::from_bytes("source", vec![7; 2 * LIMIT as usize]).unwrap();
        // SAFETY: no handler is installed.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let limit = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
        setrlimit(Resource::Fsize, limit).unwrap();

        let too_large = |done: io::Result<()>| {
            assert_eq!(errno_in(&done.unwrap_err()), Some(Errno::FBIG));
        };
        too_large(SealedFile::from_bytes("larger", vec![7; 2 * LIMIT as usize]).map(drop));
        too_large(SealedFile::build("larger", 2 * LIMIT, |_| Ok(())).map(drop));
        too_large(SealedFile::copy_of("larger", &source, u64::MAX).map(drop));
        let mut draft = SealedFile::create("draft").unwrap();
        draft.set_len(LIMIT).unwrap();
        too_large(draft.set_len(LIMIT + 1));
        assert_eq!(draft.len().unwrap(), LIMIT);
        if let Some(producer) = live(Producer::create("live", 8)) {
            too_large(Producer::create("larger", 2 * LIMIT).map(drop));
            drop(producer);
        }
        // Control: what is there already is received and mapped, and what is small is made.
        let received = SealedFile::try_from(std::fs::File::from(source)).unwrap();
        assert_eq!(received.map_read_only().unwrap().len() as u64, 2 * LIMIT);
        SealedFile::copy_of("smaller", draft.seal_read_only().unwrap(), LIMIT).unwrap();
    }));
}

#[test]
fn a_read_only_proc_is_enough() {
    if !is_alone("a_read_only_proc_is_enough") {
        return;
    }
    passed(Forked::that(|_| {
        if !is_root() || unshare(UnshareFlags::NEWNS).is_none() {
            return eprintln!("not tested: only root can mount /proc read-only");
        }
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount_bind("/proc", "/proc").unwrap();
        mount_remount("/proc", MountFlags::RDONLY | MountFlags::BIND, "").unwrap();
        // Control.
        let denied = fs::write("/proc/self/comm", "renamed").unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::ReadOnlyFilesystem);

        let file = SealedFile::from_bytes("file", b"bytes").unwrap();
        assert_eq!(&file.reopen().unwrap().map_read_only().unwrap()[..], b"bytes");
        // Memory of a file that is open for reading is reserved through a description that can write.
        SealedFile::try_from(support::files::read_only(&file.into())).unwrap().reserve().unwrap();
        if let Some(producer) = live(Producer::create("live", 8)) {
            producer.file().map_live().unwrap();
        }
    }));
}

/// A timer that interrupts every call that waits.
fn signal_every(period_us: i64) {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing, and any code may be interrupted by it.
    unsafe { libc::signal(libc::SIGALRM, nothing as extern "C" fn(libc::c_int) as usize) };
    let interval = libc::timeval { tv_sec: 0, tv_usec: period_us as _ };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: the timer outlives the call, and nobody asks for the old one.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) }, 0);
}

#[test]
fn signals_do_not_shorten_the_patience_with_a_mapping() {
    if !is_alone("signals_do_not_shorten_the_patience_with_a_mapping") {
        return;
    }
    /// Less than the attempts take together.
    const MAPPED: Duration = Duration::from_millis(8);
    /// On a busy machine it is mapped for longer.
    const MOST: Duration = Duration::from_millis(16);

    signal_every(1000);
    let mut in_time = 0;
    for _ in 0..1000 {
        let file = support::files::filled(b"mapped for a while");
        let map = support::files::map_writable(&file);
        let started = std::sync::Barrier::new(2);
        let (mapped, adopted) = thread::scope(|scope| {
            let mapping = scope.spawn(|| {
                started.wait();
                let start = Instant::now();
                while start.elapsed() < MAPPED {
                    thread::yield_now();
                }
                drop(map);
                start.elapsed()
            });
            started.wait();
            let adopted = SealedFile::adopt_read_only(file, &SealPolicy::new());
            (mapping.join().unwrap(), adopted)
        });
        if mapped < MOST {
            adopted.unwrap();
            in_time += 1;
        }
        if in_time == 10 {
            return;
        }
    }
    eprintln!("not tested in full: this machine is too busy to count milliseconds");
}

/// A sandbox that denies all of a call may hide why the kernel would refuse, too.
#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn a_sandbox_that_denies_all_of_fcntl_is_not_a_final_seal() {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

    let draft = SealedFile::create("denied").unwrap();
    let in_thread = || {
        let rules = [(libc::SYS_fcntl, vec![])].into_iter().collect();
        let denied = SeccompAction::Errno(libc::EPERM as u32);
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch).unwrap();
        let filter: BpfProgram = filter.try_into().unwrap();
        if let Err(error) = apply_filter(&filter) {
            return eprintln!("not tested: no filter can be set here: {error}");
        }
        let error = draft.seal_read_only().unwrap_err();
        assert_eq!(error.reason(), SealFailure::Other);
        assert_eq!(errno_in(&error), Some(Errno::PERM));
        assert!(format!("{error:?}").contains("F_ADD_SEALS"), "{error:?}");
    };
    thread::spawn(in_thread).join().unwrap();
}

/// Kernels before 6.7 refuse to map a hugetlb file through a writable descriptor, and sandboxes any file.
#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn words_about_proc_do_not_replace_the_errno_of_mmap() {
    use rustix::fs::{MemfdFlags, memfd_create};
    use seccompiler::SeccompCmpArgLen::Dword;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        apply_filter,
    };

    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let file = match memfd_create("huge", flags) {
        Ok(fd) => std::fs::File::from(fd),
        Err(errno) => return eprintln!("not tested, there are no hugetlb pages here: {errno}"),
    };
    // No page is taken from the pool until one is mapped.
    file.set_len(support::meminfo("Hugepagesize")).unwrap();
    support::files::seal(&file, support::files::WHOLE).unwrap();
    let policy = SealPolicy::new().allow_hugetlb(true);
    let file = SealedFile::receive_read_only(file, &policy).unwrap();

    let in_thread = move || {
        let of_a_file = SeccompCondition::new(4, Dword, SeccompCmpOp::Ne, u32::MAX.into()).unwrap();
        let mapping = vec![SeccompRule::new(vec![of_a_file]).unwrap()];
        for (call, rules, errno) in
            [(libc::SYS_openat, vec![], libc::ENOENT), (libc::SYS_mmap, mapping, libc::EPERM)]
        {
            let denied = SeccompAction::Errno(errno as u32);
            let arch = std::env::consts::ARCH.try_into().unwrap();
            let rules = [(call, rules)].into_iter().collect();
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch).unwrap();
            let filter: BpfProgram = filter.try_into().unwrap();
            if let Err(error) = apply_filter(&filter) {
                return eprintln!("not tested: no filter can be set here: {error}");
            }
        }
        let error = file.map_read_only().unwrap_err();
        assert_eq!(errno_in(&error), Some(Errno::PERM), "{error:?}");
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("/proc"), "{error}");
    };
    thread::spawn(in_thread).join().unwrap();
}

#[test]
fn a_changed_setting_of_huge_pages_is_seen() {
    if !is_alone("a_changed_setting_of_huge_pages_is_seen") {
        return;
    }
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    /// So long that huge pages are worth it, and no longer than what is filled from a buffer.
    const LEN: u64 = 1 << 20;

    if !fs::exists(SETTING).unwrap() {
        return eprintln!("not tested: the kernel has no {SETTING}");
    }
    let fake = std::env::temp_dir().join(format!("shmem_enabled-{}", std::process::id()));
    fs::write(&fake, "always within_size advise [never] deny force\n").unwrap();
    let fills_in_place = || {
        let mut in_place = false;
        let options = CreateOptions::new().huge_pages(HugePages::Transparent);
        let fill = |bytes: &mut [u8]| {
            in_place = is_of_file(bytes, "filled in place");
            Ok(())
        };
        options.build("filled in place", LEN, fill).unwrap();
        in_place
    };
    passed(Forked::that(|_| {
        if !is_root() || unshare(UnshareFlags::NEWNS).is_none() {
            return eprintln!("not tested: only root can put a file over {SETTING}");
        }
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount_bind(&fake, SETTING).unwrap();
        assert!(!fills_in_place());
        fs::write(&fake, "always within_size [advise] never deny force\n").unwrap();
        assert!(fills_in_place(), "the setting of a moment ago was used");
        fs::write(&fake, "always within_size advise [never] deny force\n").unwrap();
        assert!(!fills_in_place(), "the setting of a moment ago was used");
    }));
    fs::remove_file(fake).unwrap();
}

/// Whether the bytes lie in a mapping of the memfd of this name.
fn is_of_file(bytes: &[u8], name: &str) -> bool {
    let address = bytes.as_ptr().addr();
    fs::read_to_string("/proc/self/maps").unwrap().lines().any(|line| {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|at| usize::from_str_radix(at, 16).unwrap());
        (start..end).contains(&address) && line.contains(name)
    })
}
