//! The two ends of a ring or a bell, and ends that keep to no protocol.

use std::fmt::Debug;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sealed_mmap::ring::{Received, Receiver, SendError, Sender};
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{LiveMap, Producer, SealPolicy, SealedFile};

use super::runs::live;

pub(crate) const WORD: usize = size_of::<usize>();
/// Longer than anything takes that is not to time out.
pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const NOW: Duration = Duration::ZERO;

// The layout of the files that the protocols' sources describe, in bytes.
pub(crate) const CURSOR: u64 = 128;
pub(crate) const ASLEEP: u64 = 256;
pub(crate) const RECORDS: u64 = 384;

pub(crate) const OFFER: [u8; 8] = *b"ring, ?\n";
pub(crate) const ACCEPTED: [u8; 8] = *b"ring, !\n";
pub(crate) const SENDER: [u8; 8] = *b"ring->!\n";
pub(crate) const RECEIVER: [u8; 8] = *b"ring<-!\n";
pub(crate) const REQUEST: [u8; 8] = *b"bell, ?\n";
pub(crate) const ADMITTED: [u8; 8] = *b"bell, !\n";
pub(crate) const SUBSCRIBER: [u8; 8] = *b"asleep?\n";

pub(crate) fn policy() -> SealPolicy {
    SealPolicy::untrusted_live(1 << 30)
}

/// Both ends of a ring; `None` where there are no live files.
pub(crate) fn ring(capacity: usize) -> Option<(Sender, Receiver)> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ring_between(ours, theirs, capacity)
}

pub(crate) fn ring_between(
    ours: impl Into<OwnedFd>,
    theirs: impl Into<OwnedFd>,
    capacity: usize,
) -> Option<(Sender, Receiver)> {
    let offer = live(Sender::offer(ours, "ring", capacity))?;
    let receiver = Receiver::accept(theirs, &policy(), LONG).unwrap();
    Some((offer.accept(&policy(), LONG).unwrap(), receiver))
}

/// The header of a file of this kind.
pub(crate) fn header(magic: [u8; 8], capacity: u64) -> [u8; 32] {
    let mut header = [0; 32];
    header[..8].copy_from_slice(&magic);
    header[8..12].copy_from_slice(&1_u32.to_ne_bytes());
    header[12..16].copy_from_slice(&(WORD as u32).to_ne_bytes());
    header[16..24].copy_from_slice(&capacity.to_ne_bytes());
    header
}

/// A live file with a header, and else zeros, whose writer keeps to no protocol.
pub(crate) fn forged(len: u64, header: [u8; 32]) -> Option<Producer> {
    live(Producer::build("forged", len, |bytes| {
        let len = bytes.len().min(header.len());
        bytes[..len].copy_from_slice(&header[..len]);
        Ok(())
    }))
}

/// A peer that keeps to no protocol: what it can write, and its end of the bell.
pub(crate) struct Hostile {
    pub(crate) file: Producer,
    pub(crate) bell: UnixStream,
    /// The other side's file.
    pub(crate) theirs: LiveMap,
}

impl Hostile {
    fn new(file: Producer, mut bell: UnixStream, greeting: [u8; 8]) -> Self {
        let mut received = [0; 8];
        let (len, fd) = recv_fd(&bell, &mut received).unwrap();
        bell.read_exact(&mut received[len..]).unwrap();
        assert_eq!(received, greeting);
        let theirs = SealedFile::receive_future_write(fd.unwrap(), &policy()).unwrap();
        Self { file, bell, theirs: theirs.map_live().unwrap() }
    }

    /// A sender, and the honest receiver of what it writes.
    pub(crate) fn sender(capacity: u64) -> Option<(Self, Receiver)> {
        let file = forged(RECORDS + capacity, header(SENDER, capacity))?;
        let (ours, theirs) = UnixStream::pair().unwrap();
        send_fds(&theirs, &OFFER, &[file.file().as_fd()]).unwrap();
        let receiver = Receiver::accept(ours, &policy(), LONG).unwrap();
        Some((Self::new(file, theirs, ACCEPTED), receiver))
    }

    /// A receiver, and the honest sender of what it ought to read.
    pub(crate) fn receiver(capacity: usize) -> Option<(Self, Sender)> {
        let file = forged(RECORDS, header(RECEIVER, 0))?;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let offer = Sender::offer(ours, "ring", capacity).unwrap();
        send_fds(&theirs, &ACCEPTED, &[file.file().as_fd()]).unwrap();
        Some((Self::new(file, theirs, OFFER), offer.accept(&policy(), LONG).unwrap()))
    }

    pub(crate) fn store(&mut self, offset: u64, value: usize) {
        self.file.store(offset, value).unwrap();
    }
}

#[track_caller]
pub(crate) fn assert_invalid<T: Debug>(result: io::Result<T>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidData);
}

/// What sending returned, of which [`SendError`] has no comparison.
#[track_caller]
pub(crate) fn assert_send<T: Debug>(result: Result<T, SendError>, expected: ErrorKind) {
    assert_eq!(io::Error::from(result.unwrap_err()).kind(), expected);
}

/// The next record, which is there or comes.
#[track_caller]
pub(crate) fn next(receiver: &mut Receiver) -> Vec<u8> {
    let mut record = Vec::new();
    let len = receiver.recv(&mut record, LONG).unwrap();
    assert_eq!(len, Received::Record(record.len()));
    record
}

/// A xorshift generator.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
