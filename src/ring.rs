//! Every record, in order, from one process to one other, without system calls while both are awake.
//!
//! A [`Sender`] writes records of any length into a ring buffer in shared memory, and a [`Receiver`] in
//! another process copies them out. A sender that gets ahead by the capacity waits: no record is lost.
//! Memory is used again and again, so a record costs two copies, and neither fresh pages nor a descriptor.
//!
//! Neither side trusts the other. There is no memory that both can write: the sender writes one file, the
//! receiver another. The Unix socket over which they exchanged the two files is their
//! [bell](crate::bell), and tells each that the other is gone.
//!
//! ```
//! # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
//! use std::os::unix::net::UnixStream;
//! use std::time::Duration;
//!
//! use sealed_mmap::SealPolicy;
//! use sealed_mmap::ring::{Received, Receiver, Sender};
//!
//! let (ours, theirs) = UnixStream::pair()?; // or a connection to a listening socket
//! let (policy, second) = (SealPolicy::untrusted_live(1 << 24), Duration::from_secs(1));
//!
//! let receiver = std::thread::spawn(move || { // as a rule, another process
//!     let mut receiver = Receiver::accept(theirs, &policy, second)?;
//!     let (mut record, mut records) = (Vec::new(), Vec::new());
//!     while let Received::Record(_) = receiver.recv(&mut record, Duration::MAX)? {
//!         records.push(record.clone());
//!     }
//!     Ok::<_, std::io::Error>(records)
//! });
//!
//! let policy = SealPolicy::untrusted_live(1 << 16);
//! let mut sender = Sender::offer(ours, "lines", 1 << 20)?.accept(&policy, second)?;
//! sender.send(b"first", second)?;
//! sender.send(b"", second)?;
//! sender.send_with(10, second, |slot| slot.write_at(4, b"in pla"))??;
//! assert!(sender.drain(second)?); // the other side has all of them
//! drop(sender);
//!
//! let records = receiver.join().unwrap()?;
//! assert_eq!(records.len(), 3);
//! assert_eq!((&records[0][..], &records[1][..]), (&b"first"[..], &b""[..]));
//! assert_eq!(&records[2][4..], b"in pla");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`choosing`](crate::choosing) compares the ring with everything else here. Two rings, one in each
//! direction, make a connection of records, each with a socket of its own: `examples/duplex.rs`.
//!
//! A sender that sleeps for room is woken when half of the capacity is free, or nothing is left to read. So
//! a receiver should go on receiving, rather than wait for something else from a sender that may be
//! asleep. Before a side sleeps, it looks again for some microseconds, as long as that helps.
//!
//! # Guarantees
//!
//! To both sides, if the other is honest:
//!
//! * Every record arrives once, whole, and in the order in which it was sent. A sender that is killed
//!   leaves the records that it had [flushed](Sender::flush), all of them whole.
//! * The end is told. A receiver gets every record, and then [`Received::Ended`]; a sender gets
//!   [`SendError::Ended`]. It does not matter whether the other side was dropped or killed.
//!
//! To each side, of any peer:
//!
//! * Only the bytes of records can be wrong. Every access lies within the two files, no record is longer
//!   than the capacity, and memory is allocated for one record at most.
//! * A peer that breaks the rules, as the words that it writes show, is an error of kind `InvalidData`.
//!   This end does not work any longer then, and says so each time.
//! * Every call ends: it does a bounded amount of work, and sleeps no longer than its timeout.
//! * The other side cannot change a byte of this side's file.
//!
//! # What a hostile peer can do
//!
//! | to | by | what comes of it |
//! |---|---|---|
//! | a receiver | any bytes in records, changed while they are copied | wrong bytes: treat a record like a message from a stranger |
//! | | `HEAD` taken back, too far ahead or not at a word; a length beyond it | `InvalidData`, for good |
//! | | leaving holes in its file | reading may raise `SIGBUS` where memory is short, unless the policy [reserves](crate::SealPolicy::reserve) it |
//! | a sender | `TAIL` taken back, or beyond what was sent | `InvalidData`, for good |
//! | | telling of room that it has not read | it loses records itself |
//! | | new tickets all the time | a system call for each flush |
//! | both | silence, or never ringing | the timeout |
//! | | ringing all the time | a sleep wakes early, after a while every millisecond at most; an event loop each time |
//! | | closing the socket | the end |
//! | | any other file, or none, when the connection is made | an error that says which, and the connection is closed |
//!
//! # What a killed peer leaves
//!
//! Nothing: files without names go when the last process closes them. The survivor reads or writes its
//! mappings as before, and learns of the end from the socket. A child of `fork(2)` has the socket, too:
//! the end is told when it has exited or executed a program.

pub(crate) mod protocol;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use thiserror::Error;

use crate::bell::connection::{Greeting, Peer, Waited, Waiter};
use crate::live::Words;
use crate::map::OutOfBounds;
use crate::memory::{Area, HEADER};
use crate::policy::SealPolicy;
use crate::producer::Producer;
pub use crate::record::{Record, Slot};

use protocol::{Broken, Found, RECORDS, Room};

const OFFER: &Greeting = b"ring, ?\n";
const REPLY: &Greeting = b"ring, !\n";

/// A ring that has been offered to a receiver, see [`Sender::offer`].
#[derive(Debug)]
#[must_use]
pub struct Offer(Waiting);

struct Waiting {
    waiter: Waiter,
    area: Area,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("capacity", &self.area.capacity).finish_non_exhaustive()
    }
}

impl Offer {
    /// Waits until the receiver has accepted the ring, for no longer than `timeout`.
    ///
    /// `policy` judges the receiver's file, of a few hundred bytes.
    /// [`SealPolicy::untrusted_live`] with any sensible length is for a receiver that is not trusted.
    ///
    /// # Errors
    ///
    /// The connection is closed then.
    ///
    /// * `TimedOut`: the receiver has not accepted yet.
    /// * `UnexpectedEof`: the receiver has closed the connection.
    /// * `InvalidData`: the peer did not keep to the protocol, or the policy refuses its file, as in
    ///   [`SealedFile::receive_future_write`](crate::SealedFile::receive_future_write).
    /// * As [`socket::recv_fds`](crate::socket::recv_fds) and
    ///   [`SealedFile::map_live`](crate::SealedFile::map_live).
    pub fn accept(self, policy: &SealPolicy, timeout: Duration) -> io::Result<Sender> {
        let Waiting { waiter, area } = self.0;
        let file = waiter.receive_file(REPLY, policy, timeout)?;
        let (peer, ()) = Peer::open(&file, |header, _| protocol::check_receiver(header))?;
        Ok(Sender { waiter, peer, ring: protocol::Sender::new(area), broken: None })
    }
}

/// The connection, which becomes readable when the receiver has answered.
impl AsFd for Offer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.waiter.as_fd()
    }
}

/// The side that sends records. [The module](self) has an example.
///
/// Dropping it flushes, and tells the receiver that nothing more will come. A child of `fork(2)` must
/// neither use nor drop it.
pub struct Sender {
    waiter: Waiter,
    peer: Peer,
    ring: protocol::Sender,
    broken: Option<Broken>,
}

impl Sender {
    /// Makes a ring for records, and offers it to the peer of a connected stream or seqpacket socket, on
    /// which nothing else is sent. Does not wait for the peer.
    ///
    /// `capacity` is in bytes, for records and a word or a cache line for each; it is rounded up to whole
    /// pages of 4096 bytes, and its memory is reserved. A ring is fastest if it fits into a processor's L2 cache and
    /// holds several records.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: a capacity of 0, or more than can be mapped; a datagram socket.
    /// * As [`Producer::create`] and [`socket::send_fds`](crate::socket::send_fds).
    pub fn offer(socket: impl Into<OwnedFd>, name: &str, capacity: usize) -> io::Result<Offer> {
        let area = Area::of_pages(RECORDS, capacity)?;
        let file = Producer::build(name, area.end() as u64, |bytes| {
            bytes[..HEADER].copy_from_slice(&protocol::sender_header(&area));
            Ok(())
        })?;
        let waiter = Waiter::new(socket, file)?;
        waiter.send_file(OFFER)?;
        Ok(Offer(Waiting { waiter, area }))
    }

    /// Returns the capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.ring.area().capacity
    }

    /// Returns the length of the longest record, in bytes.
    pub fn longest(&self) -> usize {
        protocol::longest(self.ring.area())
    }

    /// Sends a record. Sleeps while the ring is too full for it, for no longer than `timeout`;
    /// [`Duration::MAX`] means no timeout.
    ///
    /// This is [`push`](Self::push) and [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// See [`SendError`]. The record has not been sent then, unless it is [`Io`](SendError::Io) because
    /// a receiver that sleeps could not be woken: it gets the record with the next one.
    #[inline]
    pub fn send(&mut self, record: &[u8], timeout: Duration) -> Result<(), SendError> {
        self.send_with(record.len(), timeout, |slot| slot.fill(record))
    }

    /// As [`send`](Self::send), without waiting: [`SendError::Full`] while the ring is too full. Without a
    /// system call, it does not notice that a receiver was killed; [`arm`](Self::arm) and every sleep do.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    #[inline]
    pub fn try_send(&mut self, record: &[u8]) -> Result<(), SendError> {
        self.send(record, Duration::ZERO)
    }

    /// Sends a record of `len` bytes that `write` builds in place. Otherwise this is [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    #[inline]
    pub fn send_with<T>(
        &mut self,
        len: usize,
        timeout: Duration,
        write: impl FnOnce(&mut Slot<'_>) -> T,
    ) -> Result<T, SendError> {
        let room = match self.room(len)? {
            Some(room) => room,
            None => self.wait_for_room(len, timeout)?,
        };
        let done = self.fill(room, write);
        self.flush()?;
        Ok(done)
    }

    /// Adds a record that the receiver gets with the next [`flush`](Self::flush): many records, one
    /// wake-up. Does not wait.
    ///
    /// A [`send`](Self::send), a sleep and dropping the sender flush, too. Whoever gets
    /// [`SendError::Full`] should, for the receiver makes room only for what it has received.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    ///
    /// # Examples
    ///
    /// ```
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// # use std::os::unix::net::UnixStream;
    /// # use std::time::Duration;
    /// # use sealed_mmap::SealPolicy;
    /// # use sealed_mmap::ring::{Received, Receiver, Sender};
    /// # let (ours, theirs) = UnixStream::pair()?;
    /// # let (policy, second) = (SealPolicy::untrusted_live(1 << 20), Duration::from_secs(1));
    /// # let offer = Sender::offer(ours, "lines", 4096)?;
    /// # let mut receiver = Receiver::accept(theirs, &policy, second)?;
    /// # let mut sender = offer.accept(&policy, second)?;
    /// for line in ["one", "two", "three"] {
    ///     sender.push(line.as_bytes())?;
    /// }
    /// # let mut record = Vec::new();
    /// assert_eq!(receiver.recv(&mut record, Duration::ZERO)?, Received::TimedOut);
    /// sender.flush()?;
    /// assert_eq!(receiver.recv(&mut record, Duration::ZERO)?, Received::Record(3));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn push(&mut self, record: &[u8]) -> Result<(), SendError> {
        self.push_with(record.len(), |slot| slot.fill(record))
    }

    /// As [`push`](Self::push), of a record of `len` bytes that `write` builds in place.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    #[inline]
    pub fn push_with<T>(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut Slot<'_>) -> T,
    ) -> Result<T, SendError> {
        let room = self.room(len)?.ok_or(SendError::Full)?;
        Ok(self.fill(room, write))
    }

    /// Gives the receiver everything that has been pushed, and wakes it if it sleeps.
    ///
    /// # Errors
    ///
    /// [`SendError::Ended`], if the receiver sleeps no longer but is gone. As [`send`](Self::send).
    #[inline]
    pub fn flush(&mut self) -> Result<(), SendError> {
        if let Some(broken) = self.broken {
            return Err(SendError::Io(broken.into()));
        }
        if self.ring.publish(&mut self.waiter.file().words_mut()) {
            self.waiter.wake(&mut self.peer).map_err(SendError::Io)?;
            if self.waiter.peer_has_gone() {
                return Err(SendError::Ended);
            }
        }
        Ok(())
    }

    /// Flushes, and waits until the receiver has received every record, for no longer than `timeout`.
    /// Returns whether it has.
    ///
    /// # Errors
    ///
    /// [`SendError::Ended`]: the receiver is gone, and has not received all of them. As
    /// [`send`](Self::send).
    pub fn drain(&mut self, timeout: Duration) -> Result<bool, SendError> {
        match self.flush() {
            // It may have received everything before it left.
            Ok(()) | Err(SendError::Ended) => {}
            Err(error) => return Err(error),
        }
        let Self { waiter, peer, ring, .. } = self;
        let theirs = peer.map.words();
        let mut look = || match ring.is_drained(&theirs) {
            Ok(false) if !ring.receiver_has_ended() => None,
            done => Some(done),
        };
        let found = match look() {
            Some(found) => Waited::Found(found),
            None if timeout.is_zero() => Waited::TimedOut,
            None => waiter.wait(timeout, look).map_err(SendError::Io)?,
        };
        match found {
            Waited::Found(Ok(true)) => Ok(true),
            Waited::Found(Ok(false)) | Waited::PeerGone => Err(SendError::Ended),
            Waited::Found(Err(broken)) => Err(self.poison(broken)),
            Waited::TimedOut => Ok(false),
        }
    }

    /// For an [event loop](crate::bell#in-an-event-loop): says that this side sleeps until there may be
    /// room for a record of `len` bytes. Returns whether it should not: there is room, or sending is an error.
    ///
    /// What has been pushed is flushed.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn arm(&mut self, len: usize) -> Result<bool, SendError> {
        self.flush()?;
        if self.room(len)?.is_some() {
            return Ok(true);
        }
        let Self { waiter, peer, ring, .. } = self;
        let theirs = peer.map.words();
        let look = || !matches!(ring.room(&theirs, len), Ok(None)) || ring.receiver_has_ended();
        waiter.arm(look).map_err(SendError::Io)
    }

    /// Room for a record, if there is.
    #[inline]
    fn room(&mut self, len: usize) -> Result<Option<Room>, SendError> {
        self.check(len)?;
        match self.ring.room(&self.peer.map.words(), len) {
            Ok(Some(room)) => Ok(Some(room)),
            Ok(None) if self.has_ended() => Err(SendError::Ended),
            Ok(None) => Ok(None),
            Err(broken) => Err(self.poison(broken)),
        }
    }

    #[inline]
    fn check(&self, len: usize) -> Result<(), SendError> {
        if let Some(broken) = self.broken {
            return Err(SendError::Io(broken.into()));
        }
        let longest = self.longest();
        if len > longest {
            let error = OutOfBounds { offset: 0, len: len as u64, size: longest as u64 };
            return Err(SendError::TooLong(error));
        }
        if self.has_ended() { Err(SendError::Ended) } else { Ok(()) }
    }

    #[inline]
    fn has_ended(&self) -> bool {
        self.ring.receiver_has_ended() || self.waiter.peer_has_gone()
    }

    #[cold]
    fn wait_for_room(&mut self, len: usize, timeout: Duration) -> Result<Room, SendError> {
        self.flush()?;
        if timeout.is_zero() {
            return Err(SendError::Full);
        }
        let Self { waiter, peer, ring, .. } = self;
        let theirs = peer.map.words();
        let waited = waiter.wait(timeout, || match ring.room(&theirs, len) {
            Ok(None) if !ring.receiver_has_ended() => None,
            done => Some(done),
        });
        match waited.map_err(SendError::Io)? {
            Waited::Found(Ok(Some(room))) => Ok(room),
            Waited::Found(Ok(None)) | Waited::PeerGone => Err(SendError::Ended),
            Waited::Found(Err(broken)) => Err(self.poison(broken)),
            Waited::TimedOut => Err(SendError::Full),
        }
    }

    #[inline]
    fn fill<T>(&mut self, room: Room, write: impl FnOnce(&mut Slot<'_>) -> T) -> T {
        let mut words = self.waiter.file().words_mut();
        let done = write(&mut Slot::new(&mut words, room.payload));
        self.ring.complete(&mut words, room);
        done
    }

    #[cold]
    fn poison(&mut self, broken: Broken) -> SendError {
        self.broken = Some(broken);
        SendError::Io(broken.into())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.ring.end(&mut self.waiter.file().words_mut());
        // A child of fork(2) may hold the socket open, so that the receiver does not notice.
        let _ = self.waiter.wake(&mut self.peer);
    }
}

/// The socket, which becomes readable when the receiver rings, see [`arm`](Sender::arm).
impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiter.as_fd()
    }
}

impl AsRawFd for Sender {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// For logs: the capacity.
impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

/// Why a record was not sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The ring is too full for it, still when the timeout expired.
    #[error("the ring is full")]
    Full,
    /// It is longer than the [longest](Sender::longest) that ever fits.
    #[error("the record is longer than the ring allows")]
    TooLong(#[source] OutOfBounds),
    /// The receiver reads no more: it was dropped, or its process has ended. This is noticed when the ring is
    /// full, or the receiver has to be woken, or in a sleep; records that were sent before that are lost.
    #[error("the receiver is gone")]
    Ended,
    /// The receiver does not keep to the protocol (`InvalidData`), or a system call failed.
    #[error(transparent)]
    Io(io::Error),
}

/// `WouldBlock`, `InvalidInput`, `BrokenPipe`, and the kind of the error itself.
impl From<SendError> for io::Error {
    fn from(error: SendError) -> Self {
        let kind = match error {
            SendError::Full => io::ErrorKind::WouldBlock,
            SendError::TooLong(_) => io::ErrorKind::InvalidInput,
            SendError::Ended => io::ErrorKind::BrokenPipe,
            SendError::Io(error) => return error,
        };
        Self::new(kind, error)
    }
}

/// The side that receives records. [The module](self) has an example.
///
/// Dropping it tells the sender that nothing more will be read. A child of `fork(2)` must neither use nor
/// drop it.
pub struct Receiver {
    waiter: Waiter,
    peer: Peer,
    ring: protocol::Receiver,
    broken: Option<Broken>,
    /// What failed after a record had been received, for the next call to say.
    failed: Option<io::Error>,
}

/// What there was to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Received<T> {
    /// A record: its length in bytes, or what the caller made of it.
    Record(T),
    /// Everything has been received, and the sender was dropped or its process has ended.
    Ended,
    /// Nothing, still when the timeout expired.
    TimedOut,
}

impl Receiver {
    /// Waits until the peer of a connected socket has offered a ring, for no longer than `timeout`, and
    /// accepts it.
    ///
    /// `policy` judges the sender's file; its length is the ring's capacity and 384 bytes.
    /// [`SealPolicy::untrusted_live`] is for a sender that is not trusted.
    ///
    /// # Errors
    ///
    /// As [`Offer::accept`] and [`Producer::create`]. The connection is closed then.
    pub fn accept(
        socket: impl Into<OwnedFd>,
        policy: &SealPolicy,
        timeout: Duration,
    ) -> io::Result<Self> {
        let file = Producer::build("sealed-mmap-receiver", RECORDS as u64, |bytes| {
            bytes[..HEADER].copy_from_slice(&protocol::receiver_header());
            Ok(())
        })?;
        let waiter = Waiter::new(socket, file)?;
        let theirs = waiter.receive_file(OFFER, policy, timeout)?;
        let (peer, area) = Peer::open(&theirs, protocol::sender_area)?;
        waiter.send_file(REPLY)?;
        let ring = protocol::Receiver::new(area);
        Ok(Self { waiter, peer, ring, broken: None, failed: None })
    }

    /// Returns the capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.ring.area().capacity
    }

    /// Replaces `record` by the next record, and returns its length. Sleeps while there is none, for no
    /// longer than `timeout`; [`Duration::MAX`] means no timeout.
    ///
    /// With a timeout of zero this only looks, without a system call. It then notices that the sender was
    /// dropped, but not that it was killed: [`arm`](Self::arm) and every sleep do.
    ///
    /// # Errors
    ///
    /// * `InvalidData`: the sender does not keep to the protocol.
    /// * `OutOfMemory`: no memory for the record, which stays in the ring.
    /// * Those of `poll(2)`, `recv(2)` and `send(2)`, which do not fail unless a sandbox denies them or the
    ///   kernel is out of memory: see [Errors](crate#errors). No record is lost.
    #[inline]
    pub fn recv(&mut self, record: &mut Vec<u8>, timeout: Duration) -> io::Result<Received<usize>> {
        self.take(timeout, |found, words| {
            found.payload.copy_to(words, record)?;
            Ok(found.payload.len)
        })
    }

    /// Copies the next record to the beginning of `target`, and returns its length. Otherwise this is
    /// [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and `InvalidInput` ([`OutOfBounds`]): `target` is shorter than the record,
    /// which stays in the ring.
    #[inline]
    pub fn recv_into(
        &mut self,
        target: &mut [u8],
        timeout: Duration,
    ) -> io::Result<Received<usize>> {
        self.take(timeout, |found, words| {
            let (len, size) = (found.payload.len, target.len());
            let fits = target.get_mut(..len);
            let target =
                fits.ok_or(OutOfBounds { offset: 0, len: len as u64, size: size as u64 })?;
            found.payload.read(words, 0, target);
            Ok(len)
        })
    }

    /// Has `read` look at the next record where it is, and returns what `read` returned. Only what `read`
    /// asks for is copied. Otherwise this is [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    #[inline]
    pub fn read_with<T>(
        &mut self,
        timeout: Duration,
        read: impl FnOnce(Record<'_>) -> T,
    ) -> io::Result<Received<T>> {
        self.take(timeout, |found, words| Ok(read(Record::new(*words, found.payload))))
    }

    /// For an [event loop](crate::bell#in-an-event-loop): says that this side sleeps until there is
    /// something to receive. Returns whether it should not: there is something, or the end, or an error.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn arm(&mut self) -> io::Result<bool> {
        let Self { waiter, peer, ring, broken, failed } = self;
        let theirs = peer.map.words();
        let fails = broken.is_some() || failed.is_some();
        waiter.arm(|| fails || ring.has_ended() || !matches!(ring.next(&theirs), Ok(None)))
    }

    /// Gives the next record to `read`, and then its room back to the sender.
    #[inline]
    fn take<T>(
        &mut self,
        timeout: Duration,
        read: impl FnOnce(Found, &Words<'_>) -> io::Result<T>,
    ) -> io::Result<Received<T>> {
        let found = match self.next()? {
            Some(found) => found,
            None => match self.wait_for_record(timeout)? {
                Received::Record(found) => found,
                Received::Ended => return Ok(Received::Ended),
                Received::TimedOut => return Ok(Received::TimedOut),
            },
        };
        let theirs = self.peer.map.words();
        let done = read(found, &theirs)?;
        let is_told = self.ring.release(&mut self.waiter.file().words_mut(), &theirs, found);
        if is_told && self.ring.is_half_free() {
            self.failed = self.waiter.wake(&mut self.peer).err();
        }
        Ok(Received::Record(done))
    }

    #[inline]
    fn next(&mut self) -> io::Result<Option<Found>> {
        if let Some(broken) = self.broken {
            return Err(broken.into());
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.ring.next(&self.peer.map.words()).map_err(|broken| self.poison(broken))
    }

    #[cold]
    fn wait_for_record(&mut self, timeout: Duration) -> io::Result<Received<Found>> {
        if self.ring.has_ended() {
            return Ok(Received::Ended);
        }
        if timeout.is_zero() {
            let ended = self.waiter.peer_has_gone();
            return Ok(if ended { Received::Ended } else { Received::TimedOut });
        }
        let Self { waiter, peer, ring, .. } = self;
        let theirs = peer.map.words();
        let waited = waiter.wait(timeout, || match ring.next(&theirs) {
            Ok(None) if !ring.has_ended() => None,
            done => Some(done),
        })?;
        match waited {
            Waited::Found(Ok(Some(found))) => Ok(Received::Record(found)),
            Waited::Found(Ok(None)) | Waited::PeerGone => Ok(Received::Ended),
            Waited::Found(Err(broken)) => Err(self.poison(broken)),
            Waited::TimedOut => Ok(Received::TimedOut),
        }
    }

    #[cold]
    fn poison(&mut self, broken: Broken) -> io::Error {
        self.broken = Some(broken);
        broken.into()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.ring.end(&mut self.waiter.file().words_mut());
        // As for the sender.
        let _ = self.waiter.wake(&mut self.peer);
    }
}

/// The socket, which becomes readable when the sender rings, see [`arm`](Receiver::arm).
impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiter.as_fd()
    }
}

impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// For logs: the capacity.
impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}
