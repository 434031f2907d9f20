//! What `judge` says over every set of seals, held against a second definition written bit by bit.

use std::cell::Cell;
use std::iter::once;
use std::ops::RangeInclusive;

use super::*;
use crate::sealing::write_seal_is_enforced;
use crate::state::{FutureWriteSealed, ReadOnlySealed, State};

const LIVE: Seals = FutureWriteSealed::REQUIRED;
const IMMUTABLE: Seals = ReadOnlySealed::REQUIRED;
/// The seals that the unchecked path of some kernels sets together.
const UNCHECKED: Seals = Seals::WRITE.union(Seals::EXEC).union(Seals::FUTURE_WRITE);
/// Bits that no kernel has given a name yet.
const UNKNOWN: [u32; 2] = [0, 1 << 31 | 1 << 6];

/// The numbers of the bits above.
const EVERY_BIT: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 31];

const LEN: u64 = 5;
const OWNER: u32 = 1000;
/// Stands for whom the user namespace does not map.
const OVERFLOW: u32 = 65534;

fn every_set() -> impl Iterator<Item = Seals> {
    (0..64).map(Seals::from_bits_retain)
}

/// None, every single one, and all: the sets that are combined with every other. The full test
/// takes all 64.
fn telling_sets() -> Vec<Seals> {
    if std::env::var_os("SEALED_MMAP_FULL").is_some_and(|full| full == "1") {
        return every_set().collect();
    }
    once(Seals::empty()).chain(Seals::all().iter()).chain(once(Seals::all())).collect()
}

/// A refusal that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    Missing(u32),
    Forbidden(u32),
    UntrustedWriteSeal,
    HugeTlb,
    Length(u64),
    Owner(u32, u32),
}

/// What is asked of a file: the same as a `SealPolicy`, in the test's own words.
#[derive(Clone, Debug)]
struct Asked {
    required: Seals,
    forbidden: Seals,
    exactly: Option<Seals>,
    len: RangeInclusive<u64>,
    owner: Option<u32>,
    allow_hugetlb: bool,
}

const NOTHING: Asked = Asked {
    required: Seals::empty(),
    forbidden: Seals::empty(),
    exactly: None,
    len: 0..=u64::MAX,
    owner: None,
    allow_hugetlb: false,
};

impl Asked {
    fn policy(&self) -> SealPolicy {
        let policy = SealPolicy::new()
            .require(self.required)
            .forbid(self.forbidden)
            .len(self.len.clone())
            .allow_hugetlb(self.allow_hugetlb);
        let policy = self.exactly.into_iter().fold(policy, SealPolicy::exactly);
        self.owner.into_iter().fold(policy, SealPolicy::owner)
    }

    /// The rules, in the order in which refusals are to be reported.
    fn expected(&self, facts: &Facts, state: Seals, kernel_checks: bool) -> Verdict {
        let (mut missing, mut forbidden) = (0, 0);
        for bit in EVERY_BIT.map(|n| Seals::from_bits_retain(1 << n)) {
            let named_by = |seals: Seals| seals.bits() & bit.bits() != 0;
            let of_state = named_by(state);
            let needed = of_state || named_by(self.required) || self.exactly.is_some_and(named_by);
            let unwanted = named_by(self.forbidden)
                || self.exactly.is_some_and(|only| !named_by(only) && !of_state);
            match named_by(facts.seals) {
                false if needed => missing |= bit.bits(),
                true if unwanted => forbidden |= bit.bits(),
                _ => {}
            }
        }
        let unchecked = [Seals::WRITE, Seals::EXEC, Seals::FUTURE_WRITE]
            .into_iter()
            .all(|seal| facts.seals.bits() & seal.bits() != 0);
        let relies_on_write = state.bits() & Seals::WRITE.bits() != 0;
        let len = facts.extent.len;
        if missing != 0 {
            Verdict::Missing(missing)
        } else if forbidden != 0 {
            Verdict::Forbidden(forbidden)
        } else if relies_on_write && unchecked && !kernel_checks {
            Verdict::UntrustedWriteSeal
        } else if facts
            .extent
            .huge_page
            .is_some_and(|page| !self.allow_hugetlb || len / page * page != len)
        {
            Verdict::HugeTlb
        } else if len < *self.len.start() || len > *self.len.end() {
            Verdict::Length(len)
        } else {
            match self.owner {
                Some(owner) if owner != facts.owner => Verdict::Owner(owner, facts.owner),
                _ => Verdict::Taken,
            }
        }
    }
}

fn plain(seals: Seals) -> Facts {
    Facts {
        seals,
        extent: Extent { len: LEN, huge_page: None },
        owner: OWNER,
        is_executable: false,
    }
}

fn verdict(facts: &Facts, state: Seals, policy: &SealPolicy, kernel_checks: bool) -> Verdict {
    struct This {
        checks: bool,
    }
    impl Kernel for This {
        fn enforces_write_seal(&self, present: Seals) -> bool {
            !present.contains(UNCHECKED) || self.checks
        }
        fn is_one_user(&self, uid: u32) -> bool {
            uid != OVERFLOW
        }
    }
    let present_is_all = |present: Seals| assert_eq!(present, facts.seals);
    match policy.judge(facts, state, &This { checks: kernel_checks }) {
        Ok(()) => Verdict::Taken,
        Err(Refusal::MissingSeals { missing, present }) => {
            present_is_all(present);
            Verdict::Missing(missing.bits())
        }
        Err(Refusal::ForbiddenSeals { forbidden, present }) => {
            present_is_all(present);
            Verdict::Forbidden(forbidden.bits())
        }
        Err(Refusal::UntrustedWriteSeal) => Verdict::UntrustedWriteSeal,
        Err(Refusal::HugeTlb) => Verdict::HugeTlb,
        Err(Refusal::Length { len, .. }) => Verdict::Length(len),
        Err(Refusal::Owner { expected, found }) => Verdict::Owner(expected, found),
        Err(other) => panic!("judging is pure, and cannot end in {other:?}"),
    }
}

/// Compares with the oracle over every set of seals, with unknown ones and without, for both
/// states and both kinds of kernel. Returns how often the file was taken, and refused.
fn compare(asked: &Asked, as_facts: impl Fn(Seals) -> Facts) -> [usize; 2] {
    let policy = asked.policy();
    let mut outcomes = [0; 2];
    for known in every_set() {
        for unknown in UNKNOWN {
            let facts = as_facts(known | Seals::from_bits_retain(unknown));
            for state in [LIVE, IMMUTABLE] {
                for kernel_checks in [false, true] {
                    let expected = asked.expected(&facts, state, kernel_checks);
                    let found = verdict(&facts, state, &policy, kernel_checks);
                    assert_eq!(found, expected, "{facts:?} {state} {asked:?} {kernel_checks}");
                    outcomes[usize::from(found != Verdict::Taken)] += 1;
                }
            }
        }
    }
    outcomes
}

#[test]
fn every_set_of_seals_is_judged_as_defined() {
    // 16 of 64 sets have both seals of a state, twice two times; 4 of those of an immutable file
    // carry the whole of the unchecked path, and are refused where the kernel does not check.
    let taken = (4 * 16 - 4) * UNKNOWN.len();
    assert_eq!(compare(&NOTHING, plain), [taken, 4 * 64 * UNKNOWN.len() - taken]);
}

#[test]
fn every_set_of_required_and_forbidden_seals_is_judged() {
    for seals in every_set() {
        compare(&Asked { required: seals, ..NOTHING }, plain);
        compare(&Asked { forbidden: seals, ..NOTHING }, plain);
    }
    let mut outcomes = [0; 2];
    for required in telling_sets() {
        for forbidden in telling_sets() {
            let [taken, refused] = compare(&Asked { required, forbidden, ..NOTHING }, plain);
            outcomes[0] += taken;
            outcomes[1] += refused;
            if required.intersects(forbidden) {
                assert_eq!(taken, 0, "what is required and forbidden at once can only be refused");
            }
        }
    }
    assert!(outcomes.into_iter().all(|count| count > 0), "{outcomes:?}");
}

#[test]
fn exactly_allows_these_seals_and_the_states_own() {
    for only in every_set() {
        compare(&Asked { exactly: Some(only), ..NOTHING }, plain);
        let policy = SealPolicy::new().exactly(only);
        for state in [LIVE, IMMUTABLE] {
            let taken: Vec<Seals> = every_set()
                .flat_map(|known| UNKNOWN.map(|unknown| known | Seals::from_bits_retain(unknown)))
                .filter(|seals| verdict(&plain(*seals), state, &policy, true) == Verdict::Taken)
                .collect();
            assert_eq!(taken, [only | state]);
        }
    }
}

#[test]
fn exactly_can_be_combined_with_the_other_rules() {
    for only in telling_sets() {
        for other in telling_sets() {
            for (required, forbidden) in [(other, Seals::empty()), (Seals::empty(), other)] {
                compare(&Asked { exactly: Some(only), required, forbidden, ..NOTHING }, plain);
            }
        }
    }
}

#[test]
fn unknown_seals_can_be_required_forbidden_and_named_exactly() {
    let unknown = Seals::from_bits_retain(1 << 31);
    for asked in [
        Asked { required: unknown, ..NOTHING },
        Asked { forbidden: unknown, ..NOTHING },
        Asked { exactly: Some(unknown | Seals::GROW), ..NOTHING },
    ] {
        compare(&asked, plain);
    }
    let with = plain(IMMUTABLE | unknown);
    let require = SealPolicy::new().require(unknown);
    let exactly = SealPolicy::new().exactly(unknown);
    let forbid = SealPolicy::new().forbid(unknown);
    let bit = unknown.bits();
    assert_eq!(verdict(&with, IMMUTABLE, &SealPolicy::new(), false), Verdict::Taken);
    assert_eq!(verdict(&with, IMMUTABLE, &require, false), Verdict::Taken);
    assert_eq!(verdict(&with, IMMUTABLE, &exactly, false), Verdict::Taken);
    assert_eq!(verdict(&with, IMMUTABLE, &forbid, false), Verdict::Forbidden(bit));
    assert_eq!(verdict(&plain(IMMUTABLE), IMMUTABLE, &require, false), Verdict::Missing(bit));
    let other = plain(IMMUTABLE | unknown | Seals::from_bits_retain(1 << 6));
    assert_eq!(verdict(&other, IMMUTABLE, &exactly, false), Verdict::Forbidden(1 << 6));
}

#[test]
fn an_untrusted_file_may_not_grow_and_has_its_length_bounded() {
    let asked = Asked { required: Seals::GROW, len: 0..=LEN, ..NOTHING };
    let policy = SealPolicy::untrusted(LEN);
    for seals in every_set() {
        for len in [0, LEN, LEN + 1, u64::MAX] {
            let facts = Facts { extent: Extent { len, huge_page: None }, ..plain(seals) };
            for state in [LIVE, IMMUTABLE] {
                let expected = asked.expected(&facts, state, false);
                assert_eq!(verdict(&facts, state, &policy, false), expected, "{facts:?}");
            }
        }
    }
    assert!(policy.reserve, "and memory is taken for it");
}

#[test]
fn length_owner_and_huge_pages_are_judged_as_defined() {
    for huge_page in [None, Some(LEN), Some(LEN + 1), Some(2 << 20)] {
        for allow_hugetlb in [false, true] {
            for len in [0..=u64::MAX, 0..=0, LEN..=LEN, LEN + 1..=u64::MAX, 0..=LEN - 1] {
                for owner in [None, Some(OWNER), Some(0)] {
                    let asked = Asked { len: len.clone(), owner, allow_hugetlb, ..NOTHING };
                    compare(&asked, |seals| Facts {
                        extent: Extent { len: LEN, huge_page },
                        ..plain(seals)
                    });
                }
            }
        }
    }
}

/// Over every combination of causes.
#[test]
fn the_first_refusal_in_the_documented_order_is_reported() {
    let seals = IMMUTABLE | UNCHECKED | Seals::SEAL;
    for causes in 0..1 << 6 {
        let cause = |n: usize| causes & (1 << n) != 0;
        let when = |n: usize, seals: Seals| if cause(n) { seals } else { Seals::empty() };
        let asked = Asked {
            required: when(0, Seals::GROW),
            forbidden: when(1, Seals::SEAL),
            len: if cause(4) { 0..=LEN - 1 } else { 0..=LEN },
            owner: Some(if cause(5) { OWNER + 1 } else { OWNER }),
            ..NOTHING
        };
        let huge_page = cause(3).then_some(2 << 20);
        let facts = Facts { extent: Extent { len: LEN, huge_page }, ..plain(seals) };
        let in_order = [
            Verdict::Missing(Seals::GROW.bits()),
            Verdict::Forbidden(Seals::SEAL.bits()),
            Verdict::UntrustedWriteSeal,
            Verdict::HugeTlb,
            Verdict::Length(LEN),
            Verdict::Owner(OWNER + 1, OWNER),
        ];
        let first = in_order.into_iter().enumerate().find(|(n, _)| cause(*n));
        let expected = first.map_or(Verdict::Taken, |(_, verdict)| verdict);
        let kernel_checks = !cause(2);
        assert_eq!(asked.expected(&facts, IMMUTABLE, kernel_checks), expected);
        assert_eq!(verdict(&facts, IMMUTABLE, &asked.policy(), kernel_checks), expected);
    }
}

#[test]
fn a_live_file_is_taken_whatever_its_write_seal_is_worth() {
    let facts = plain(Seals::all());
    assert_eq!(verdict(&facts, LIVE, &SealPolicy::new(), false), Verdict::Taken);
    // Control: the same seals do not make an immutable file.
    let refused = verdict(&facts, IMMUTABLE, &SealPolicy::new(), false);
    assert_eq!(refused, Verdict::UntrustedWriteSeal);
}

struct Asking {
    seals: Seals,
    questions: Cell<u32>,
}

impl Kernel for Asking {
    fn enforces_write_seal(&self, present: Seals) -> bool {
        assert_eq!(present, self.seals);
        self.questions.set(self.questions.get() + 1);
        true
    }

    fn is_one_user(&self, _: u32) -> bool {
        panic!("no owner is asked for")
    }
}

#[test]
fn a_uid_that_stands_for_many_users_is_no_owner() {
    let facts = Facts { owner: OVERFLOW, ..plain(IMMUTABLE) };
    let policy = SealPolicy::new().owner(OVERFLOW);
    let refused = Verdict::Owner(OVERFLOW, OVERFLOW);
    assert_eq!(verdict(&facts, IMMUTABLE, &policy, false), refused);
    // Control: where no owner is asked for, and where the uid is a user's.
    assert_eq!(verdict(&facts, IMMUTABLE, &SealPolicy::new(), false), Verdict::Taken);
    let one_user = Facts { owner: OWNER, ..facts };
    assert_eq!(verdict(&one_user, IMMUTABLE, &policy.owner(OWNER), false), Verdict::Taken);
}

#[test]
fn the_write_seal_is_tested_last_and_only_if_the_state_needs_it() {
    for policy in [SealPolicy::new(), SealPolicy::new().forbid(Seals::SEAL)] {
        for seals in every_set() {
            for state in [LIVE, IMMUTABLE] {
                let kernel = Asking { seals, questions: Cell::new(0) };
                let _ = policy.judge(&plain(seals), state, &kernel);
                let seals_suffice =
                    seals.contains(state) && !seals.intersects(policy.forbidden(state));
                let expected = seals_suffice && state.contains(Seals::WRITE);
                assert_eq!(kernel.questions.get(), u32::from(expected), "{seals} {state}");
            }
        }
    }
}

#[test]
fn only_write_beside_exec_and_future_write_needs_the_kernel() {
    let verdicts: Vec<bool> =
        every_set().filter(|seals| seals.contains(UNCHECKED)).map(write_seal_is_enforced).collect();
    assert_eq!(verdicts.len(), 8);
    assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "one kernel, one answer");
    for seals in every_set().filter(|seals| !seals.contains(UNCHECKED)) {
        assert!(write_seal_is_enforced(seals), "{seals}");
    }
}
