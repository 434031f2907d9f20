//! What the library's own probe says, with what it means.

use sealed_mmap::{Producer, Support, Supported};

use super::{Finding, Level};

/// What is said of an answer that is not `Yes`.
struct Lack {
    level: Level,
    meaning: &'static str,
    change: &'static str,
}

const NO_SAFE_MAP: &str = "no file can be mapped safely: the kernel or the sandbox does not enforce what the seals \
                           promise, so every `&[u8]` over shared memory could change";

fn lack(answer: &str) -> Lack {
    use Level::{Note, Problem, Warning};

    let (level, meaning, change) = match answer {
        "memfd_create" => (
            Problem,
            "no file can be created; those from elsewhere can still be received",
            "allow memfd_create(2) in the sandbox; it exists since Linux 3.17",
        ),
        "noexec_flag" => (
            Note,
            "files are made not executable by their mode instead, and carry no exec seal",
            "nothing has to be done; Linux 6.3 has the flag",
        ),
        "exec_flag" => (
            Note,
            "CreateOptions::executable fails where vm.memfd_noexec is 2; before Linux 6.3 it does without the flag",
            "set vm.memfd_noexec to 0 or 1 if programs are to be executed from memory",
        ),
        "shrink_seal" | "write_seal" => (
            Problem,
            NO_SAFE_MAP,
            "run on a kernel, or in a sandbox, that enforces seals; until then copy what is received",
        ),
        "grow_seal" => (
            Warning,
            "files can become longer although they are sealed; SealPolicy::untrusted relies on it that they do not",
            "run on a kernel, or in a sandbox, that enforces seals",
        ),
        "future_write_seal" => (
            Warning,
            "there are no live files: Producer, latest and receive_future_write fail, or cannot be relied on",
            "upgrade to Linux 5.4 or later",
        ),
        "exec_seal" => (
            Note,
            "executable bits of a file can be changed after it is sealed; no byte can",
            "nothing has to be done; Linux 6.3 has the seal",
        ),
        "exec_seal_is_checked" => (
            Warning,
            "this kernel can report the write seal of an executable file while somebody still writes; the library \
             refuses such files (UntrustedWriteSeal)",
            "upgrade to 6.12.94, 6.18.44, 7.0.13 or later; senders avoid it with MFD_NOEXEC_SEAL",
        ),
        "shared_map" => (
            Note,
            "sealed files are mapped private, with the same contents; a debugger can write to its own view",
            "nothing has to be done; Linux 6.7 maps them shared",
        ),
        "reopen" => (
            Warning,
            "SealedFile::reopen, Producer and command fail, and so does reserving through a read-only descriptor",
            "mount /proc, and let programs open /proc/thread-self/fd",
        ),
        "reserve" => (
            Warning,
            "memory for holes cannot be reserved: SealPolicy::untrusted refuses files, and drafts cannot be mapped",
            "allow fallocate(2) in the sandbox",
        ),
        "populate" => (
            Note,
            "ReadOnlyMap::populate fails; page faults come one by one instead",
            "nothing has to be done; Linux 5.14 has MADV_POPULATE_READ",
        ),
        "futex" => (
            Warning,
            "waiting for a new value fails; values can still be read without waiting",
            "allow futex(2) on shared memory in the sandbox",
        ),
        _ => (Note, "see the documentation of Support", "upgrade the kernel"),
    };
    Lack { level, meaning, change }
}

pub(super) fn findings(support: &Support) -> Vec<Finding> {
    let mut findings: Vec<_> = support
        .answers()
        .map(|(name, answer)| {
            let Lack { level, meaning, change } = lack(name);
            let level = match answer {
                Supported::Yes => Level::Ok,
                Supported::No(_) => level,
                Supported::Unknown(_) => Level::Unknown,
            };
            let meaning = match level {
                Level::Ok => "it was tried, and works".to_owned(),
                Level::Unknown => format!("if it is missing: {meaning}"),
                _ => meaning.to_owned(),
            };
            let change = (level != Level::Ok).then(|| change.to_owned());
            Finding { id: name.to_owned(), level, found: answer.to_string(), meaning, change }
        })
        .collect();
    if matches!(support.exec_seal, Supported::No(_)) {
        findings
            .iter_mut()
            .filter(|finding| finding.id == "exec_seal_is_checked")
            .for_each(nothing_to_check);
    }
    findings.push(live_files());
    findings
}

/// Where there is no exec seal.
fn nothing_to_check(finding: &mut Finding) {
    finding.level = Level::Note;
    finding.meaning =
        "no file carries an exec seal here, so that there is nothing to check".to_owned();
    finding.change = None;
}

/// All of what a producer needs, at once.
fn live_files() -> Finding {
    let (level, found) = match Producer::create("sealed-doctor", 8) {
        Ok(_) => (Level::Ok, "yes".to_owned()),
        Err(error) => (Level::Warning, format!("no: {error}")),
    };
    Finding {
        id: "live_files".to_owned(),
        level,
        found,
        meaning: "a Producer can be created, as latest and the other streams require".to_owned(),
        change: (level != Level::Ok)
            .then(|| "see the findings above; vm.memfd_noexec must not be 2".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_the_probe_is_explained() {
        for (name, _) in Support::probe().answers() {
            assert!(!lack(name).meaning.contains("documentation of Support"), "{name}");
        }
    }
}
