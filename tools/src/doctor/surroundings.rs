//! Settings of the kernel, limits of this user, and devices that get around seals.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, getrlimit};

use super::{Finding, Level};
use crate::{proc, text};

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![shmem_huge_pages()];
    findings.extend(hugetlb_pools());
    findings.extend([overcommit(), memfd_noexec()]);
    findings.extend([open_files(), address_space(), locked_memory(), mappings()]);
    findings.extend([udmabuf(), iommu(), vfio(), af_alg()]);
    findings
}

fn finding(id: &str, level: Level, found: impl Into<String>, meaning: &str) -> Finding {
    let (id, found, meaning) = (id.to_owned(), found.into(), meaning.to_owned());
    Finding { id, level, found, meaning, change: None }
}

impl Finding {
    fn change(self, change: &str) -> Self {
        Self { change: Some(change.to_owned()), ..self }
    }
}

/// A setting, without the line break at its end.
fn setting(path: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

/// Of a setting that cannot be read.
fn unread(id: &str, error: &io::Error, meaning: &str) -> Finding {
    match error.kind() {
        io::ErrorKind::NotFound => {
            finding(id, Level::Note, "this kernel does not have it", meaning)
        }
        _ => finding(id, Level::Unknown, format!("cannot be read: {error}"), meaning),
    }
}

fn shmem_huge_pages() -> Finding {
    const ID: &str = "shmem_huge_pages";
    let setting = match setting("/sys/kernel/mm/transparent_hugepage/shmem_enabled") {
        Ok(setting) => setting,
        Err(error) => return unread(ID, &error, "HugePages::Transparent makes plain pages"),
    };
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or(&setting).to_owned();
    let meaning = match chosen.as_str() {
        "advise" => {
            return finding(ID, Level::Ok, chosen, "HugePages::Transparent makes huge pages");
        }
        "always" | "force" | "within_size" => {
            return finding(ID, Level::Ok, chosen, "files get huge pages without being asked for");
        }
        _ => "HugePages::Transparent makes plain pages: large files take longer to fill and to map",
    };
    finding(ID, Level::Note, chosen, meaning).change(
        "for large files, write `advise` into /sys/kernel/mm/transparent_hugepage/shmem_enabled",
    )
}

fn hugetlb_pools() -> Vec<Finding> {
    const ID: &str = "hugetlb_pool";
    let sizes = proc::huge_page_kibibytes();
    if sizes.is_empty() {
        return vec![finding(
            ID,
            Level::Note,
            "no sizes are listed in /sys/kernel/mm/hugepages",
            "HugePages::HugeTlb fails",
        )];
    }
    let pool = |kib: u64| {
        let count = |what: &str| -> io::Result<u64> {
            let text = setting(&format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/{what}"))?;
            text.parse().map_err(io::Error::other)
        };
        let id = format!("{ID}_{}", text::size(kib << 10).replace(".0", ""));
        match (count("free_hugepages"), count("nr_hugepages"), count("nr_overcommit_hugepages")) {
            (Ok(free), Ok(all), Ok(more)) => {
                let found = format!("{free} of {all} pages are free, {more} more on demand");
                let finding =
                    finding(&id, Level::Ok, found, "HugePages::HugeTlb takes pages from it");
                if free + more > 0 {
                    return finding;
                }
                let meaning = "HugePages::HugeTlb of this size fails (ENOMEM)".to_owned();
                Finding { level: Level::Note, meaning, ..finding }
                    .change("if programs need them, set nr_hugepages in /sys/kernel/mm/hugepages")
            }
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                unread(&id, &error, "HugePages::HugeTlb may fail")
            }
        }
    };
    sizes.into_iter().map(pool).collect()
}

fn overcommit() -> Finding {
    const ID: &str = "overcommit";
    match setting("/proc/sys/vm/overcommit_memory").as_deref() {
        Ok("2") => finding(
            ID,
            Level::Warning,
            "2 (strict)",
            "reading a hole of a file ends the process with SIGBUS if there is no memory for it",
        )
        .change("reserve memory for what peers send (SealPolicy::untrusted, SealPolicy::reserve)"),
        Ok(mode) => finding(
            ID,
            Level::Ok,
            mode,
            "where memory runs out, the kernel ends a process; SealPolicy::len bounds what peers can take",
        ),
        Err(error) => unread(ID, error, "it is not known what happens when memory runs out"),
    }
}

fn memfd_noexec() -> Finding {
    const ID: &str = "memfd_noexec";
    match setting("/proc/sys/vm/memfd_noexec").as_deref() {
        Ok("2") => finding(
            ID,
            Level::Warning,
            "2",
            "no executable file and no live file can be created: every memfd carries the exec seal",
        )
        .change("set vm.memfd_noexec to 0 or 1 if programs need either"),
        Ok(mode) => finding(ID, Level::Ok, mode, "every kind of file can be created"),
        Err(error) => {
            unread(ID, error, "the sysctl exists since Linux 6.3; nothing is missing without")
        }
    }
}

/// `None` is no limit.
fn limit(value: Option<u64>, show: fn(u64) -> String) -> String {
    value.map_or_else(|| "unlimited".to_owned(), show)
}

fn open_files() -> Finding {
    const FEW: u64 = 1024;

    let of = getrlimit(Resource::Nofile);
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
    let found = format!(
        "{open} open here, at most {} (ulimit -n), hard limit {}",
        limit(of.current, |count| count.to_string()),
        limit(of.maximum, |count| count.to_string()),
    );
    let meaning = "each file that is held takes a descriptor, a Producer takes two; maps take none";
    let level = if of.current.is_some_and(|count| count < FEW) { Level::Note } else { Level::Ok };
    let finding = finding("open_files", level, found, meaning);
    match level {
        Level::Ok => finding,
        _ => finding.change("raise the soft limit, or drop files once they are mapped"),
    }
}

fn address_space() -> Finding {
    let of = getrlimit(Resource::As).current;
    let meaning = "a map takes as much address space as it is long (ulimit -v)";
    let level = if of.is_some() { Level::Warning } else { Level::Ok };
    let finding = finding("address_space", level, limit(of, text::size), meaning);
    match level {
        Level::Ok => finding,
        _ => finding.change("remove the limit; bound memory with a cgroup instead"),
    }
}

fn locked_memory() -> Finding {
    let of = getrlimit(Resource::Memlock).current;
    let meaning = "counts where mlockall(2) is in force, as every map is locked then, and for io_uring and udmabuf \
                   (ulimit -l)";
    finding("locked_memory", Level::Ok, limit(of, text::size), meaning)
}

fn mappings() -> Finding {
    const ID: &str = "max_map_count";
    match setting("/proc/sys/vm/max_map_count") {
        Ok(count) => {
            let here = fs::read("/proc/self/maps").unwrap_or_default();
            let here = here.iter().filter(|byte| **byte == b'\n').count();
            let found = format!("{count} in each process, {here} here");
            finding(
                ID,
                Level::Ok,
                found,
                "each map is one mapping; programs with many small ones come near it",
            )
        }
        Err(error) => unread(ID, &error, "it is not known how many maps a process can have"),
    }
}

/// Who gets at a device.
enum Reach {
    Absent,
    /// It is there, and this user may not open it.
    Denied,
    /// This user may open it.
    Open,
    /// root may open everything; the mode bits do not let others.
    RootOnly,
}

/// Asked, not tried: opening a device can have effects.
fn reach(device: &Path) -> io::Result<Reach> {
    let metadata = match fs::metadata(device) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reach::Absent),
        Err(error) => return Err(error),
    };
    match accessat(CWD, device, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS) {
        Ok(()) => {}
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => return Ok(Reach::Denied),
        Err(errno) => return Err(errno.into()),
    }
    // With an ACL, the bits of the group are its mask.
    let mode = metadata.permissions().mode();
    let others = [0o060, 0o006].iter().any(|both| mode & both == *both) || metadata.uid() != 0;
    let is_root = rustix::process::geteuid().is_root();
    Ok(if is_root && !others { Reach::RootOnly } else { Reach::Open })
}

fn device(id: &str, paths: &[PathBuf], meaning: &str, change: &str) -> Finding {
    let reached: Vec<_> = paths.iter().map(|path| (path, reach(path))).collect();
    let list = |wanted: fn(&Reach) -> bool| {
        let found = reached.iter().filter(|(_, reach)| reach.as_ref().is_ok_and(wanted));
        found.map(|(path, _)| path.display().to_string()).collect::<Vec<_>>().join(", ")
    };
    let open = list(|reach| matches!(reach, Reach::Open));
    if !open.is_empty() {
        let found = format!("{open} can be opened by this user, or by a group");
        return finding(id, Level::Warning, found, meaning).change(change);
    }
    if let Some((path, Err(error))) = reached.iter().find(|(_, reach)| reach.is_err()) {
        let found = format!("{}: {error}", path.display());
        return finding(id, Level::Unknown, found, meaning).change(change);
    }
    let denied = list(|reach| matches!(reach, Reach::Denied));
    let roots = list(|reach| matches!(reach, Reach::RootOnly));
    let found = match (denied.as_str(), roots.as_str()) {
        ("", "") => "not there".to_owned(),
        ("", roots) => format!("{roots}: for root alone"),
        (denied, _) => format!("{denied}: this user may not open it"),
    };
    finding(id, Level::Ok, found, meaning)
}

fn udmabuf() -> Finding {
    device(
        "udmabuf",
        &["/dev/udmabuf".into()],
        "whoever opens it can pin the pages of a file that is shared before it is sealed (EBUSY), and on kernels before \
         6.13, some with a fix aside, write to it afterwards",
        "seal before sharing; give /dev/udmabuf to trusted users alone",
    )
}

fn iommu() -> Finding {
    device(
        "iommu",
        &["/dev/iommu".into()],
        "with a vfio device, whoever opens it can have that device write into sealed files (since Linux 6.13)",
        "give /dev/iommu to trusted users alone; blacklist iommufd if nobody needs it",
    )
}

fn vfio() -> Finding {
    let below = |directory: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| !path.is_dir()).collect()
    };
    // The container alone gives no device.
    let groups = below("/dev/vfio").into_iter().filter(|path| !path.ends_with("vfio"));
    let devices: Vec<_> = groups.chain(below("/dev/vfio/devices")).collect();
    device(
        "vfio",
        &devices,
        "a device that is delegated to a user reads and writes memory for that user; with /dev/iommu, sealed files, too",
        "delegate devices to trusted users alone",
    )
}

fn af_alg() -> Finding {
    const ID: &str = "af_alg";
    /// `<linux/socket.h>`
    const AF_ALG: u16 = 38;
    let meaning = "on kernels without the fix of CVE-2026-31431 (6.12.85, 6.18.22, 7.0), whoever has a file can write to it \
                   through such a socket, whatever its seals";
    match rustix::net::socket(AddressFamily::from_raw(AF_ALG), SocketType::SEQPACKET, None) {
        Ok(_) => finding(ID, Level::Note, "sockets of the kernel's crypto API can be opened", meaning).change(
            "upgrade; or blacklist algif_aead; or deny socket(AF_ALG) to what handles foreign files, by seccomp",
        ),
        Err(Errno::AFNOSUPPORT | Errno::PERM | Errno::ACCESS) => {
            finding(ID, Level::Ok, "no such sockets can be opened", meaning)
        }
        Err(errno) => {
            finding(ID, Level::Unknown, format!("cannot be tried: {}", io::Error::from(errno)), meaning)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_apart_by_who_may_open_them() {
        let told = |path: &Path| reach(path).unwrap();
        assert!(matches!(told(Path::new("/dev/null")), Reach::Open));
        assert!(matches!(told(Path::new("/dev/no-such-device")), Reach::Absent));
        let root = rustix::process::geteuid().is_root();
        // root's alone.
        match told(Path::new("/etc/shadow")) {
            Reach::RootOnly => assert!(root),
            Reach::Denied => assert!(!root),
            Reach::Absent => eprintln!("not tested: there is no /etc/shadow"),
            Reach::Open => panic!("everybody may open /etc/shadow"),
        }
        let open = device("id", &["/dev/null".into()], "meaning", "change");
        assert!(open.level == Level::Warning && open.found.contains("/dev/null"), "{open:?}");
        let none = device("id", &[], "meaning", "change");
        assert!(none.level == Level::Ok && none.found == "not there", "{none:?}");
    }
}
