//! Which errnos a call can fail with, and what an error may then say.

use std::fs;
use std::io::{self, ErrorKind};

use rustix::io::Errno;

/// What sandboxes answer with.
pub(crate) const OF_SANDBOXES: [Errno; 3] = [Errno::PERM, Errno::NOSYS, Errno::ACCESS];

/// What the call's man page lists, of what can happen to a caller that makes no mistake.
pub(crate) fn of_the_man_page(call: &str) -> &'static [Errno] {
    use Errno as E;
    match call {
        "memfd_create" => &[E::INVAL, E::MFILE, E::NFILE, E::NOMEM],
        "fcntl(F_GET_SEALS)" => &[E::INVAL],
        "fcntl(F_ADD_SEALS)" => &[E::INVAL, E::BUSY],
        "fcntl(F_DUPFD_CLOEXEC)" => &[E::MFILE, E::INVAL],
        "fstat" | "newfstatat" | "statx" => &[E::NOMEM, E::OVERFLOW],
        "fstatfs" => &[E::INTR, E::IO, E::NOMEM, E::OVERFLOW],
        "ftruncate" => &[E::FBIG, E::INTR, E::IO, E::INVAL, E::TXTBSY],
        "fallocate" => &[
            E::BADF,
            E::FBIG,
            E::INTR,
            E::INVAL,
            E::IO,
            E::NODEV,
            E::NOSPC,
            E::OPNOTSUPP,
            E::TXTBSY,
        ],
        "mmap" => &[E::AGAIN, E::INVAL, E::NFILE, E::NODEV, E::NOMEM, E::OVERFLOW, E::TXTBSY],
        _ if call.starts_with("madvise(") => {
            &[E::AGAIN, E::FAULT, E::INVAL, E::IO, E::NOMEM, E::HWPOISON]
        }
        "sendfile" => &[E::AGAIN, E::INTR, E::INVAL, E::IO, E::NOMEM, E::OVERFLOW, E::SPIPE],
        "copy_file_range" => &[E::INVAL, E::IO, E::NOMEM, E::OPNOTSUPP, E::TXTBSY, E::XDEV],
        "splice" => &[E::AGAIN, E::INVAL, E::NOMEM, E::SPIPE],
        "read" | "pread64" | "readv" | "preadv" => &[E::AGAIN, E::INTR, E::INVAL, E::IO, E::ISDIR],
        "write" | "pwrite64" | "writev" | "pwritev" => {
            &[E::AGAIN, E::DQUOT, E::FBIG, E::INTR, E::INVAL, E::IO, E::NOSPC]
        }
        _ if call.starts_with("openat") => &[
            E::AGAIN,
            E::INTR,
            E::LOOP,
            E::MFILE,
            E::NFILE,
            E::NODEV,
            E::NOENT,
            E::NOMEM,
            E::NOTDIR,
            E::NXIO,
            E::OPNOTSUPP,
            E::OVERFLOW,
            E::ROFS,
            E::TXTBSY,
        ],
        "readlinkat" => &[E::INVAL, E::IO, E::LOOP, E::NOENT, E::NOMEM, E::NOTDIR],
        "poll" | "ppoll" => &[E::INTR, E::INVAL, E::NOMEM],
        "fchmod" => &[E::IO, E::ROFS],
        "lseek" => &[E::INVAL, E::OVERFLOW, E::SPIPE],
        _ if call.starts_with("futex(") => &[E::AGAIN, E::FAULT, E::INTR, E::INVAL, E::TIMEDOUT],
        "sendmsg" | "sendto" => &[
            E::AGAIN,
            E::CONNRESET,
            E::INTR,
            E::MSGSIZE,
            E::NOBUFS,
            E::NOMEM,
            E::NOTCONN,
            E::PIPE,
            E::TOOMANYREFS,
        ],
        "recvmsg" | "recvfrom" => {
            &[E::AGAIN, E::CONNREFUSED, E::CONNRESET, E::INTR, E::NOMEM, E::NOTCONN]
        }
        "getsockopt" | "setsockopt" => &[E::INVAL, E::NOMEM, E::NOPROTOOPT, E::NOTSOCK],
        "clock_nanosleep" | "nanosleep" => &[E::INTR],
        _ => &[],
    }
}

macro_rules! names {
    ($($name:ident)*) => {
        &[(Errno::ACCESS, "EACCES"), $((Errno::$name, concat!("E", stringify!($name)))),*]
    };
}

/// As the man pages call it.
pub(crate) fn name(errno: Errno) -> &'static str {
    let names: &[(Errno, &str)] = names![
        AGAIN BADF BUSY CONNREFUSED CONNRESET DQUOT FAULT FBIG HWPOISON INTR INVAL IO ISDIR
        LOOP MFILE MSGSIZE NFILE NOBUFS NODEV NOENT NOMEM NOPROTOOPT NOSPC NOSYS NOTCONN NOTDIR
        NOTSOCK NXIO OPNOTSUPP OVERFLOW PERM PIPE ROFS SPIPE TIMEDOUT TOOMANYREFS TXTBSY XDEV
    ];
    names.iter().find(|(known, _)| *known == errno).map_or("?", |(_, name)| *name)
}

/// Whether the errno passes by itself: as an answer to every call it would be a lie of the kernel's,
/// and whoever tries again is right.
pub(crate) fn is_passing(call: &str, errno: Errno) -> bool {
    let reads = ["read", "readv", "pread64", "preadv", "recvmsg", "recvfrom", "splice", "sendfile"];
    errno == Errno::INTR || errno == Errno::AGAIN && reads.contains(&call)
}

/// Whether the call does what it does whatever the kernel answers. Where it only seems to fail, what it would have
/// closed or unmapped stays.
pub(crate) fn is_faked(call: &str) -> bool {
    ["close", "munmap"].contains(&call)
}

/// Whether the operation has to succeed without the call, because the call only makes it faster, or
/// refuses early what would fail anyway. An errno that concerns the data may be passed on.
pub(crate) fn is_dispensable(call: &str, errno: Errno) -> bool {
    let always = [
        "madvise(MADV_DONTDUMP)",
        "madvise(MADV_HUGEPAGE)",
        "madvise(MADV_POPULATE_WRITE)",
        "openat(/sys)",
        "sysinfo",
    ];
    always.contains(&call) || COPIES_IN_THE_KERNEL.contains(&call) && !may_come_late(call, errno)
}

const COPIES_IN_THE_KERNEL: [&str; 3] = ["copy_file_range", "sendfile", "splice"];

/// Whether the errno can come after the same call has succeeded. Of what copies, other errnos than
/// these say that it does not work with these files at all.
pub(crate) fn may_come_late(call: &str, errno: Errno) -> bool {
    use Errno as E;
    let copies = ["read", "write", "pread64", "pwrite64", "readv", "writev"];
    let about_data =
        [E::AGAIN, E::DQUOT, E::FBIG, E::INTR, E::IO, E::NOMEM, E::NOSPC, E::OVERFLOW, E::TXTBSY];
    about_data.contains(&errno) || !copies.contains(&call) && !COPIES_IN_THE_KERNEL.contains(&call)
}

/// Whether the man page gives an errno of sandboxes a meaning of its own, so that it says enough.
fn is_meant(call: &str, errno: Errno) -> bool {
    errno == Errno::ACCESS && (call == "mmap" || call.starts_with("openat"))
}

/// The least of the faults: the errnos of sandboxes say nothing about the call.
pub(crate) const BARE: &str = "the bare errno, without what was being done";

/// What is wrong with an error, if the cause was this denial. `chain` is the error and its sources.
pub(crate) fn faults(
    call: &str,
    errno: Errno,
    chain: &[String],
    kind: Option<ErrorKind>,
    is_bare: bool,
) -> Vec<String> {
    let words = io::Error::from(errno).to_string();
    let told = chain.join(": ");
    let mut faults = Vec::new();

    if !told.contains(&words) && !is_translated(call, errno, &told) {
        faults.push(format!("does not tell the errno: {told:?}"));
    }
    if *told == *words && !is_bare && OF_SANDBOXES.contains(&errno) && !is_meant(call, errno) {
        faults.push(BARE.into());
    }
    if let Some((phrase, _)) =
        CAUSES.iter().find(|(phrase, is_meant)| told.contains(phrase) && !is_meant(call, errno))
    {
        faults.push(format!("blames {phrase:?}: {told:?}"));
    }
    let expected = io::Error::from(errno).kind();
    let is_named = |kind: &ErrorKind| *kind == expected || has_kind(call, errno, *kind);
    if let Some(kind) = kind.filter(|kind| !is_named(kind)) {
        faults.push(format!("has the kind {kind:?}, not {expected:?}: {told:?}"));
    }
    if call == "mmap" && kind == Some(ErrorKind::WouldBlock) {
        faults.push("has the kind WouldBlock, which invites to wait".into());
    }
    faults
}

/// Causes that messages name, and the failures in which each is true. None of the files here has
/// final seals, is mapped elsewhere or closed for writing, and no memory is short.
#[rustfmt::skip]
const CAUSES: &[(&str, IsMeant)] = &[
    ("cannot carry seals", |call, errno| call == "fcntl(F_GET_SEALS)" && errno == Errno::INVAL),
    ("no more seals can be added", |_, _| false),
    // The descriptor is read-only in the cases where the file is opened again for writing.
    ("not open for writing", |call, _| call == "openat(/proc)"),
    ("not open for reading", |_, _| false),
    ("lacks the seals", |_, _| false),
    ("did not add the seals", |_, _| false),
    ("does not enforce", |call, _| call == "memfd_create"),
    ("while somebody still writes", is_part_of_the_self_test),
    ("could not be confirmed", |call, _| {
        ["fcntl(F_GETFL)", "fcntl(F_GET_SEALS)", "fstat", "fstatfs"].contains(&call)
    }),
    ("changed while it was copied", |_, _| false),
    ("descriptors were lost", |_, _| false),
    ("a writable mapping of it exists", |call, errno| call == "munmap" || call == "fcntl(F_ADD_SEALS)" && errno == Errno::BUSY),
    ("are pinned for I/O", |call, errno| call == "fcntl(F_ADD_SEALS)" && errno == Errno::BUSY),
    ("vm.memfd_noexec", |call, errno| {
        let forbids = || !fs::read("/proc/sys/vm/memfd_noexec").is_ok_and(|set| set != b"2\n");
        call == "memfd_create" && errno == Errno::ACCESS && forbids()
    }),
    ("/proc/thread-self", |call, _| call.starts_with("openat") || ["newfstatat", "readlinkat"].contains(&call)),
    ("free memory", |call, errno| {
        is_lack_of_memory(call, errno) || call == "fallocate" && errno == Errno::BADF
    }),
    ("out of memory", is_lack_of_memory),
    ("hugetlb pages are free", is_lack_of_memory),
    ("huge pages of this size", |call, errno| {
        call == "memfd_create" && matches!(errno, Errno::NODEV | Errno::INVAL)
    }),
    ("kernel does not know", is_unknown_to_the_kernel),
    ("the kernel has no", is_unknown_to_the_kernel),
    ("requires Linux", is_unknown_to_the_kernel),
];

type IsMeant = fn(&str, Errno) -> bool;

fn is_lack_of_memory(call: &str, errno: Errno) -> bool {
    matches!(errno, Errno::NOMEM | Errno::NOSPC) || call == "mmap" && errno == Errno::AGAIN
}

fn is_unknown_to_the_kernel(_: &str, errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// A kernel that could not be tried counts as one that does not check.
fn is_part_of_the_self_test(call: &str, _: Errno) -> bool {
    ["memfd_create", "ftruncate", "fallocate", "mmap", "madvise(MADV_DONTFORK)"].contains(&call)
        || ["fcntl(F_ADD_SEALS)", "fcntl(F_DUPFD_CLOEXEC)", "fstat"].contains(&call)
}

/// The documentation says in words what this errno of this call means.
fn is_translated(call: &str, errno: Errno, told: &str) -> bool {
    let phrase = match (call, errno) {
        ("memfd_create", Errno::NODEV) => "huge pages of this size",
        // The mapping that could not be taken away is still there.
        ("munmap", _) => "a writable mapping of it exists",
        ("madvise(MADV_POPULATE_READ)", Errno::INVAL) => "requires Linux 5.14",
        ("fcntl(F_ADD_SEALS)", Errno::INVAL) if told.contains("F_SEAL_FUTURE_WRITE") => {
            return true;
        }
        ("openat(/proc)", Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => "/proc",
        _ if is_part_of_the_self_test(call, errno) => "while somebody still writes",
        _ => return false,
    };
    told.contains(phrase)
}

/// The documentation names this kind for the errno.
fn has_kind(call: &str, errno: Errno, kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Unsupported => {
            is_unknown_to_the_kernel(call, errno)
                || call == "openat(/proc)"
                    && matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                || call == "memfd_create" && errno == Errno::NODEV
        }
        ErrorKind::OutOfMemory => is_lack_of_memory(call, errno),
        ErrorKind::ResourceBusy => call == "munmap",
        // A reason that was judged, not an errno that was passed on.
        ErrorKind::InvalidData => is_part_of_the_self_test(call, errno),
        _ => false,
    }
}
