//! What `/proc` tells about processes, and the memfds that they have open or mapped.
//!
//! Processes come and go meanwhile. One directory descriptor stands for a process while it is looked at: when
//! the process is gone, reading through it fails, even if another one has the number by then.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Dir, MemfdFlags, Mode, OFlags, StatxFlags, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde::Serialize;

/// Opening never waits, and gives nobody a terminal.
const AT_ONCE: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Opened before `dir`, so that it never stands for a younger process. `None` before Linux 5.3, and where
    /// a sandbox denies it.
    pidfd: Option<OwnedFd>,
    dir: OwnedFd,
}

/// Numbers of all processes that this one may know of.
pub(crate) fn pids() -> io::Result<Vec<i32>> {
    let mut pids: Vec<i32> = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// Where a name in `/proc` leads is gone, along with its process, descriptor or mapping.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH | Errno::BADF))
}

/// How a descriptor was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Access {
    Read,
    Write,
    ReadWrite,
    /// `O_PATH`: neither reads nor writes.
    Path,
}

impl Access {
    fn of(flags: OFlags) -> Self {
        match flags & OFlags::RWMODE {
            _ if flags.contains(OFlags::PATH) => Self::Path,
            OFlags::RDONLY => Self::Read,
            OFlags::WRONLY => Self::Write,
            _ => Self::ReadWrite,
        }
    }

    pub(crate) fn in_short(self) -> &'static str {
        match self {
            Self::Read => "r-",
            Self::Write => "-w",
            Self::ReadWrite => "rw",
            Self::Path => "path",
        }
    }
}

/// A file, as long as it exists: device and inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId(u64, u64);

/// What is seen of a file without opening it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) id: FileId,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Bytes of memory that its pages take.
    pub(crate) memory: u64,
}

/// A descriptor of a memfd.
pub(crate) struct Descriptor {
    pub(crate) number: i32,
    /// As it was given to `memfd_create(2)`.
    pub(crate) name: Vec<u8>,
    pub(crate) access: Access,
    pub(crate) look: Look,
}

/// A part of an address space in which a memfd is mapped.
pub(crate) struct Mapping {
    pub(crate) id: FileId,
    pub(crate) inode: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) is_shared_and_writable: bool,
    /// Of its symbolic link below `map_files`.
    link: String,
}

/// What `/proc/PID/fdinfo` says of a descriptor.
struct FdInfo {
    access: Access,
    mount: Option<u64>,
}

/// The mounts that have nothing but memfds and other memory without a name. A file on disk can be called
/// `/memfd:x (deleted)`, too, and opening that could wait for whoever serves its file system.
pub(crate) struct Mounts {
    ids: HashSet<u64>,
    devices: HashSet<u64>,
}

impl Mounts {
    /// Those of files of our own. There is one for plain pages, and one for each size of huge pages.
    pub(crate) fn of_memfds() -> io::Result<Self> {
        let own = Process::open("self")?;
        let (mut ids, mut devices) = (HashSet::new(), HashSet::new());
        for size in [MemfdFlags::empty()].into_iter().chain(huge_page_sizes()) {
            let file = rustix::fs::memfd_create("sealed", size | MemfdFlags::CLOEXEC);
            // Without pages of a size there are no files of it.
            if let Ok(file) = file {
                ids.extend(own.fd_info(file.as_raw_fd())?.mount);
                devices.insert(look(&file, "")?.id.0);
            }
        }
        Ok(Self { ids, devices })
    }

    fn has(&self, mount: Option<u64>) -> bool {
        // Before Linux 3.15, and in sandboxes that emulate it, there is no such number.
        self.ids.is_empty() || mount.is_some_and(|mount| self.ids.contains(&mount))
    }
}

fn huge_page_sizes() -> impl Iterator<Item = MemfdFlags> {
    const MFD_HUGE_SHIFT: u32 = 26;

    huge_page_kibibytes().into_iter().map(|kib| {
        MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain((kib.ilog2() + 10) << MFD_HUGE_SHIFT)
    })
}

/// The sizes of hugetlb pages that this kernel has.
pub(crate) fn huge_page_kibibytes() -> Vec<u64> {
    let Ok(pools) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut sizes: Vec<u64> = pools
        .filter_map(|pool| {
            let name = pool.ok()?.file_name();
            name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

impl Process {
    /// A process by its number, or `self`.
    pub(crate) fn open(pid: &str) -> io::Result<Self> {
        let number = match pid {
            "self" => Some(rustix::process::getpid()),
            pid => pid.parse().ok().and_then(Pid::from_raw),
        };
        let number = number.ok_or(Errno::SRCH)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).ok();
        // Where `/proc` is that of another namespace, `self` leads to this process, and its number does not.
        let path = format!("/proc/{pid}");
        let dir =
            openat(CWD, path, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { pid: number.as_raw_nonzero().get(), pidfd, dir })
    }

    fn open_below(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(openat(&self.dir, path, flags | AT_ONCE, Mode::empty())?)
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::from(self.open_below(path, OFlags::RDONLY)?).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The name of its program, which it can change.
    pub(crate) fn command(&self) -> io::Result<Vec<u8>> {
        let mut name = self.read("comm")?;
        name.pop_if(|last| *last == b'\n');
        Ok(name)
    }

    pub(crate) fn memfds(&self, mounts: &Mounts) -> io::Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(self.open_below("fd", OFlags::RDONLY | OFlags::DIRECTORY)?)? {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok())
            else {
                continue;
            };
            match self.memfd(number, entry.file_name(), mounts) {
                Ok(descriptor) => found.extend(descriptor),
                // It was closed just now.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_unstable_by_key(|descriptor| descriptor.number);
        Ok(found)
    }

    fn memfd(&self, number: i32, entry: &CStr, mounts: &Mounts) -> io::Result<Option<Descriptor>> {
        let path = format!("fd/{}", entry.to_string_lossy());
        let link = readlinkat(&self.dir, &path, Vec::new())?;
        let Some(name) = memfd_name(link.as_bytes()) else { return Ok(None) };
        let info = self.fd_info(number)?;
        if !mounts.has(info.mount) {
            return Ok(None);
        }
        let look = look(&self.dir, &path)?;
        Ok(Some(Descriptor { number, name: name.to_owned(), access: info.access, look }))
    }

    fn fd_info(&self, number: i32) -> io::Result<FdInfo> {
        let text = self.read(&format!("fdinfo/{number}"))?;
        let text = String::from_utf8_lossy(&text);
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let flags = value("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok());
        let flags = flags.ok_or_else(|| io::Error::other("fdinfo has no flags"))?;
        Ok(FdInfo {
            access: Access::of(OFlags::from_bits_retain(flags)),
            mount: value("mnt_id:").and_then(|id| id.parse().ok()),
        })
    }

    /// The description that a descriptor of the process refers to. Where that may not be taken, another one of
    /// the same file, opened for what allows reading in the same way: that is all that judging asks of it.
    pub(crate) fn take(&self, number: i32) -> io::Result<OwnedFd> {
        if let Some(pidfd) = &self.pidfd {
            match pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()) {
                Err(Errno::PERM | Errno::NOSYS | Errno::ACCESS) => {}
                done => return Ok(done?),
            }
        }
        let flags = match self.fd_info(number)?.access {
            Access::Read | Access::ReadWrite => OFlags::RDONLY,
            Access::Write | Access::Path => OFlags::PATH,
        };
        self.open_below(&format!("fd/{number}"), flags)
    }

    /// A readable description of the same file, for its seals.
    pub(crate) fn reopen(&self, number: i32) -> io::Result<OwnedFd> {
        self.open_below(&format!("fd/{number}"), OFlags::RDONLY)
    }

    pub(crate) fn mappings(&self, mounts: &Mounts) -> io::Result<Vec<Mapping>> {
        let maps = self.read("maps")?;
        let found = maps.split(|byte| *byte == b'\n').filter_map(mapping);
        Ok(found.filter(|mapping| mounts.devices.contains(&mapping.id.0)).collect())
    }

    /// The file that is mapped there; requires `CAP_CHECKPOINT_RESTORE`.
    pub(crate) fn open_mapped(&self, mapping: &Mapping) -> io::Result<(Look, OwnedFd)> {
        let path = format!("map_files/{}", mapping.link);
        let fd = self.open_below(&path, OFlags::RDONLY)?;
        let look = look(&fd, "")?;
        if look.id != mapping.id {
            return Err(Errno::NOENT.into());
        }
        Ok((look, fd))
    }
}

fn memfd_name(link: &[u8]) -> Option<&[u8]> {
    let name = link.strip_prefix(b"/memfd:")?;
    Some(name.strip_suffix(b" (deleted)").unwrap_or(name))
}

fn look(dir: impl AsFd, path: &str) -> io::Result<Look> {
    let flags = if path.is_empty() {
        rustix::fs::AtFlags::EMPTY_PATH
    } else {
        rustix::fs::AtFlags::empty()
    };
    let stat = rustix::fs::statx(dir, path, flags, StatxFlags::BASIC_STATS)?;
    Ok(Look {
        id: FileId(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
        inode: stat.stx_ino,
        size: stat.stx_size,
        memory: stat.stx_blocks * 512,
    })
}

/// A line of `/proc/PID/maps`, if a memfd is mapped: address range, permissions, offset, device, inode, name.
fn mapping(line: &[u8]) -> Option<Mapping> {
    let name_at = line.windows(7).position(|window| window == b"/memfd:")?;
    let (fields, name) = line.split_at(name_at);
    let mut fields = str::from_utf8(fields).ok()?.split_ascii_whitespace();
    let (range, permissions, _offset) = (fields.next()?, fields.next()?, fields.next()?);
    let (device, inode) = (fields.next()?, fields.next()?.parse().ok()?);
    // A name that only contains the word has more before it.
    if fields.next().is_some() {
        return None;
    }
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = range.split_once('-')?;
    let (major, minor) = device.split_once(':')?;
    let device = rustix::fs::makedev(hex(major)? as u32, hex(minor)? as u32);
    Some(Mapping {
        id: FileId(device, inode),
        inode,
        name: memfd_name(name)?.to_owned(),
        is_shared_and_writable: permissions.contains('w') && permissions.ends_with('s'),
        link: format!("{:x}-{:x}", hex(start)?, hex(end)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_a_memfd_only_by_its_whole_name() {
        let line = b"00400000-00401000 rw-s 00000000 00:01 1234    /memfd:a b/memfd: (deleted)";
        let found = mapping(line).unwrap();
        assert_eq!(found.name, b"a b/memfd:");
        assert_eq!((found.link.as_str(), found.inode), ("400000-401000", 1234));
        assert!(found.is_shared_and_writable);
        let read_only = mapping(b"7f0-7f1 r--p 0 00:01 1 /memfd: (deleted)").unwrap();
        assert!(!read_only.is_shared_and_writable && read_only.name.is_empty());
        for other in [
            &b"7f0-7f1 r--p 0 08:01 1 /tmp/memfd:x"[..],
            b"7f0-7f1 r--p 0 08:01 1 /a /memfd:x",
            b"7f0-7f1 rw-p 0 00:00 0",
            b"",
        ] {
            assert!(mapping(other).is_none(), "{}", String::from_utf8_lossy(other));
        }
    }
}
