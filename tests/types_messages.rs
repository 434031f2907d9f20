//! Every message, as people read it: what happened, to which file, and what to do. The expected ones
//! stand in `messages.txt` beside this file; `SEALED_MMAP_MESSAGES=1` writes them anew, to be read.
#![cfg(target_os = "linux")]

mod support;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;
use std::{env, fs, mem};

use rustix::fs::{MemfdFlags, OFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sealed_mmap::latest::{Publisher, Subscriber};
use sealed_mmap::socket::{recv_fd, send_fds, send_fds_to};
use sealed_mmap::{
    CreateOptions, HugePages, Producer, Refusal, SealFailure, SealPolicy, SealedFile, Seals,
    add_seals,
};
use support::files::{IMMUTABLE, LIVE, filled, memfd, reopen, sealed};

const EXPECTED: &str = "tests/messages.txt";

/// As `fn main() -> io::Result<()>` prints it.
struct Messages(String);

impl Messages {
    fn of<T>(&mut self, what: &str, outcome: Result<T, impl Into<io::Error>>) {
        let error = outcome.err().unwrap_or_else(|| panic!("{what} succeeds")).into();
        let sources =
            std::iter::successors(error.get_ref().and_then(|e| e.source()), |e| e.source());
        let mut message = error.to_string();
        sources.for_each(|source| write!(message, ": {source}").unwrap());
        let message = message.replace(env!("CARGO_MANIFEST_DIR"), "…");
        // How much memory there is depends on the machine.
        let message = message.split(" of this machine").next().unwrap();
        writeln!(self.0, "{what}\n    {message}").unwrap();
    }

    fn said(&mut self, what: &str, message: impl ToString) {
        writeln!(self.0, "{what}\n    {}", message.to_string()).unwrap();
    }
}

#[test]
fn every_message_is_the_one_that_was_read() {
    let mut m = Messages(String::new());
    drafts(&mut m);
    refusals(&mut m);
    copies(&mut m);
    live(&mut m);
    sockets(&mut m);
    if env::var_os("SEALED_MMAP_MESSAGES").is_some() {
        return fs::write(EXPECTED, &m.0).unwrap();
    }
    let expected = fs::read_to_string(EXPECTED).unwrap();
    for (got, expected) in m.0.lines().zip(expected.lines()) {
        assert_eq!(got, expected);
    }
    assert_eq!(m.0.lines().count(), expected.lines().count());
}

fn draft() -> SealedFile<sealed_mmap::Unsealed> {
    SealedFile::create("frame").unwrap()
}

fn drafts(m: &mut Messages) {
    m.of("a NUL byte in the name", SealedFile::create("a\0b"));
    m.of("a name of 250 bytes", SealedFile::create(&"n".repeat(250)));
    m.of("a length of u64::MAX", draft().set_len(u64::MAX));
    m.of("a slice longer than the address space", SealedFile::build("frame", u64::MAX, |_| Ok(())));
    m.of("a slice longer than memory", SealedFile::build("frame", 1 << 50, |_| Ok(())));
    m.of(
        "a range that ends behind the file",
        SealedFile::from_bytes("frame", b"12345").unwrap().map_range(3..7),
    );
    m.of(
        "a range from the beginning",
        SealedFile::from_bytes("frame", b"12345").unwrap().map_range(..7),
    );

    let unsealable = CreateOptions::new().allow_sealing(false);
    m.of("sealing what allows no seals", unsealable.create("frame").unwrap().seal_read_only());
    let mut mapped = draft();
    mapped.write_all(b"bytes").unwrap();
    mem::forget(mapped.map_mut().unwrap());
    m.of("sealing what a leaked map still maps", mapped.seal_read_only());
    for reason in [
        SealFailure::WritableMapping,
        SealFailure::PinnedPages,
        SealFailure::NotAllowed,
        SealFailure::Unsupported,
        SealFailure::UntrustedWriteSeal,
        SealFailure::Unconfirmed,
        SealFailure::Other,
    ] {
        m.said(&format!("SealFailure::{reason:?}"), reason);
    }

    let huge = CreateOptions::new().huge_pages(HugePages::HugeTlb(None));
    if let Ok(mut huge) = huge.create("frame") {
        m.of("write(2) to a hugetlb file", huge.write(b"bytes"));
        m.of("a hugetlb file of one byte", huge.set_len(1));
    }
}

fn refusals(m: &mut Messages) {
    let receive = |fd, policy: &SealPolicy| SealedFile::receive_read_only(fd, policy);
    let any = SealPolicy::new();
    m.of(
        "a descriptor that is not open for reading",
        receive(reopen(memfd(), OFlags::WRONLY), &any),
    );
    m.of("an ordinary file", SealedFile::try_from(fs::File::open("Cargo.toml").unwrap()));
    m.of("a file without seals", SealedFile::try_from(filled(b"bytes")));
    m.of("a file whose seals are final", SealedFile::try_from(sealed(b"bytes", Seals::SEAL)));
    m.of("a live file as an immutable one", SealedFile::try_from(sealed(b"bytes", LIVE)));
    m.of(
        "an immutable file as a live one",
        SealedFile::receive_future_write(sealed(b"bytes", IMMUTABLE), &any),
    );
    let bytes = || sealed(b"bytes", IMMUTABLE).into();
    m.of("a seal that the policy forbids", receive(bytes(), &any.clone().forbid(Seals::WRITE)));
    for (bounds, policy) in [
        ("..=4", any.clone().len(..=4)),
        ("6..", any.clone().len(6..)),
        ("6..9", any.clone().len(6..9)),
        ("..0", any.clone().len(..0)),
        ("the excluded 5 to 9", any.clone().len((Bound::Excluded(5), Bound::Included(9)))),
    ] {
        m.of(&format!("5 bytes where {bounds} are accepted"), receive(bytes(), &policy));
    }
    for refusal in [
        Refusal::UntrustedWriteSeal,
        Refusal::HugeTlb,
        Refusal::Owner { expected: 1000, found: 1001 },
        Refusal::Owner { expected: 65534, found: 65534 },
        Refusal::CannotReserve(Errno::NOSPC.into()),
        Refusal::CannotReserve(Errno::ACCESS.into()),
        Refusal::CannotReserve(Errno::IO.into()),
        Refusal::CannotSeal { reason: SealFailure::PinnedPages, error: Errno::BUSY.into() },
        Refusal::Io(Errno::MFILE.into()),
    ] {
        let name = format!("Refusal::{refusal:?}");
        m.of(&name, Err::<(), _>(refusal));
    }
}

fn copies(m: &mut Messages) {
    let source = SealedFile::from_bytes("source", b"bytes").unwrap();
    m.of("a copy of more than the limit", SealedFile::copy_of("copy", &source, 4));
    let ordinary = || fs::File::open("Cargo.toml").unwrap();
    m.of(
        "an ordinary file longer than the copy limit",
        SealedFile::receive_or_copy(ordinary(), &SealPolicy::new(), 4),
    );
    let (datagrams, _peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
    m.of("a copy of a datagram socket", SealedFile::copy_of("copy", &datagrams, 4));
    m.of("writing a sealed file", source.write_at(b"!", 0));
}

fn live(m: &mut Messages) {
    let policy = CreateOptions::new().executable(true);
    m.of("an executable live file", policy.create_producer("live", 8));
    m.of("slots that are no power of two", Publisher::create_with_slots("live", 8, 3));
    m.of("more slots than memory", Publisher::create("live", usize::MAX));
    if !Producer::is_supported() {
        return;
    }
    let mut producer = Producer::create("live", 8).unwrap();
    m.of("a write behind the end of a live file", producer.write_at(6, b"1234"));
    m.of("a live file that no publisher made", Subscriber::open(producer.file()));
    let mut publisher = Publisher::create("live", 8).unwrap();
    m.of("a value longer than the capacity", publisher.publish(b"123456789"));
    let copy = producer.file().try_clone().unwrap();
    m.of("finishing through a read-only descriptor", copy.finish());
}

fn sockets(m: &mut Messages) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    m.of("a message without bytes on a stream", send_fds(&ours, b"", &[]));
    let (records, _peer) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    m.of("a message without bytes on a seqpacket socket", send_fds(&records, b"", &[]));
    let nobody = UnixDatagram::unbound().unwrap();
    let unnamed = nobody.local_addr().unwrap();
    m.of("a message to an unnamed address", send_fds_to(&nobody, &unnamed, b"", &[]));
    m.of("a message on a stream to an address", send_fds_to(&ours, &unnamed, b"", &[]));
    m.of("a receive without room", recv_fd(&theirs, &mut []));
    theirs.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    m.of("a receive in vain", recv_fd(&theirs, &mut [0]));
    let plain = memfd_create("plain", MemfdFlags::CLOEXEC).unwrap();
    m.of("add_seals on what is sealed against it", add_seals(plain, Seals::GROW));
}
