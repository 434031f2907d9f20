//! `Support::probe` answers what the kernel does, and says `Yes` of nothing that it has not seen.

mod support;

use std::io;

use sealed_mmap::{Producer, SealedFile, Seals, Support, Supported, add_seals};
use support::files::{exec_seal_is_checked, memfd, sealed};
use support::kernel::{exec_seal_exists, map_read_only, memfd_noexec};

#[test]
fn the_answers_are_those_of_attempts_by_other_means() {
    let support = Support::probe();

    assert!(support.enforces_seals(), "{support}");
    assert!(support.memfd_create.is_yes() && support.grow_seal.is_yes(), "{support}");
    let future_write = add_seals(memfd(), Seals::FUTURE_WRITE);
    assert_eq!(support.future_write_seal.is_yes(), future_write.is_ok(), "{support}");
    let map = map_read_only(&sealed(b"bytes", Seals::WRITE | Seals::SHRINK));
    assert_eq!(support.shared_map.is_yes(), map.is_ok(), "{support}");
    let file = SealedFile::from_bytes("bytes", b"bytes").unwrap();
    assert_eq!(support.reopen.is_yes(), file.reopen().is_ok(), "{support}");
    assert_eq!(support.reserve.is_yes(), file.reserve().is_ok(), "{support}");
    let populated = file.map_read_only().unwrap().populate();
    assert_eq!(support.populate.is_yes(), populated.is_ok(), "{support}");
    if memfd_noexec() != Some(2) {
        let live = support.future_write_seal.is_yes() && support.reopen.is_yes();
        assert_eq!(live, Producer::is_supported(), "{support}");
    }
}

#[test]
fn executable_files_are_answered_as_the_kernel_and_its_setting_have_it() {
    let support = Support::probe();

    assert_eq!(support.noexec_flag.is_yes(), exec_seal_exists(), "{support}");
    match exec_seal_is_checked() {
        Some(checked) => {
            assert!(support.exec_flag.is_yes() && support.exec_seal.is_yes(), "{support}");
            assert_eq!(support.exec_seal_is_checked.is_yes(), checked, "{support}");
            assert!(checked || matches!(support.exec_seal_is_checked, Supported::No(_)));
        }
        None => {
            assert!(matches!(support.exec_flag, Supported::No(_)), "{support}");
            assert!(!support.exec_seal.is_yes(), "{support}");
            assert!(matches!(support.exec_seal_is_checked, Supported::Unknown(_)), "{support}");
        }
    }
}

#[test]
fn each_answer_is_printed_with_its_error() {
    let support = Support::probe();
    let text = support.to_string();

    assert_eq!(text.lines().count(), support.answers().count());
    for (line, (name, answer)) in text.lines().zip(support.answers()) {
        assert!(line.starts_with(name) && line.ends_with(&answer.to_string()), "{line}");
    }
    let denied = io::Error::from(rustix::io::Errno::PERM);
    let expected = format!("cannot tell: {denied}");
    assert_eq!(Supported::Unknown(denied).to_string(), expected);
}

/// Where calls are denied.
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
mod denied {
    use libc::c_long;
    use rustix::io::Errno;
    use sealed_mmap::{Support, Supported};
    use seccompiler::{SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompRule};

    use crate::support::seccomp::{can_filter, denied, under, where_any};

    /// Not those that allocators and threads need.
    const CALLS: [c_long; 11] = [
        libc::SYS_memfd_create,
        libc::SYS_ftruncate,
        libc::SYS_fcntl,
        libc::SYS_pwrite64,
        libc::SYS_fallocate,
        libc::SYS_madvise,
        libc::SYS_openat,
        libc::SYS_fchmod,
        libc::SYS_fstat,
        libc::SYS_statx,
        libc::SYS_newfstatat,
    ];
    const ERRNOS: [Errno; 8] = [
        Errno::PERM,
        Errno::ACCESS,
        Errno::NOSYS,
        Errno::INVAL,
        Errno::MFILE,
        Errno::NOMEM,
        Errno::INTR,
        Errno::BUSY,
    ];

    #[test]
    fn no_denial_makes_anything_look_better() {
        if !can_filter() {
            return;
        }
        let before = Support::probe();
        for call in CALLS {
            for errno in ERRNOS {
                let support = denied(&[call], errno, Support::probe);
                for ((name, answer), (_, truth)) in support.answers().zip(before.answers()) {
                    let as_true = !answer.is_yes() || truth.is_yes();
                    assert!(as_true, "{name} with {errno:?} for call {call}: {answer}");
                }
            }
        }
    }

    #[test]
    fn without_files_nothing_is_said_about_seals() {
        if !can_filter() {
            return;
        }
        let support = denied(&[libc::SYS_memfd_create], Errno::PERM, Support::probe);
        assert!(matches!(support.memfd_create, Supported::No(_)), "{support}");
        assert!(matches!(support.write_seal, Supported::Unknown(_)), "{support}");
        assert!(matches!(support.reopen, Supported::Unknown(_)), "{support}");
        assert!(support.futex.is_yes() && !support.enforces_seals(), "{support}");

        let support = denied(&[libc::SYS_memfd_create], Errno::MFILE, Support::probe);
        assert!(matches!(support.memfd_create, Supported::Unknown(_)), "{support}");
    }

    #[test]
    fn a_sandbox_that_denies_the_attack_does_not_look_like_a_seal() {
        if !can_filter() {
            return;
        }
        let support = denied(&[libc::SYS_pwrite64], Errno::PERM, Support::probe);
        assert!(matches!(support.write_seal, Supported::Unknown(_)), "{support}");
        assert!(matches!(support.future_write_seal, Supported::Unknown(_)), "{support}");
        assert!(support.memfd_create.is_yes(), "{support}");

        let of_files = vec![rule(4, SeccompCmpOp::Ne, u64::from(u32::MAX))];
        let filter = where_any(libc::SYS_mmap, of_files, Errno::PERM.raw_os_error());
        let support = under(vec![filter], Support::probe);
        assert!(matches!(support.write_seal, Supported::Unknown(_)), "{support}");
        assert!(matches!(support.shared_map, Supported::Unknown(_)), "{support}");
    }

    #[test]
    fn a_sandbox_that_ignores_seals_has_none() {
        const F_ADD_SEALS: u64 = 1033;

        if !can_filter() {
            return;
        }
        let adding = vec![rule(1, SeccompCmpOp::Eq, F_ADD_SEALS)];
        let ignored = where_any(libc::SYS_fcntl, adding, 0);
        let support = under(vec![ignored], Support::probe);
        for answer in [&support.write_seal, &support.shrink_seal, &support.future_write_seal] {
            assert!(matches!(answer, Supported::No(_)), "{support}");
        }
        assert!(!support.enforces_seals());
    }

    #[test]
    fn what_is_denied_by_name_is_missing() {
        if !can_filter() {
            return;
        }
        let support = denied(&[libc::SYS_fallocate], Errno::PERM, Support::probe);
        assert!(matches!(support.reserve, Supported::No(_)), "{support}");
        assert!(support.enforces_seals(), "{support}");
        let support = denied(&[libc::SYS_openat], Errno::NOENT, Support::probe);
        assert!(matches!(support.reopen, Supported::No(_)), "{support}");
        let shared = vec![rule(1, SeccompCmpOp::MaskedEq(libc::FUTEX_PRIVATE_FLAG as u64), 0)];
        let filter = where_any(libc::SYS_futex, shared, Errno::NOSYS.raw_os_error());
        let support = under(vec![filter], Support::probe);
        assert!(matches!(support.futex, Supported::No(_)), "{support}");
    }

    fn rule(argument: u8, compare: SeccompCmpOp, value: u64) -> SeccompRule {
        let condition = SeccompCondition::new(argument, Dword, compare, value).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    }
}
