//! Every record, in order, from one process to any number of others, which cannot disturb it.
//!
//! A [`Publisher`] writes records of any length into a ring buffer in shared memory, and waits for
//! nobody. Each [`Subscriber`] copies them out at its own pace. A subscriber that falls behind by more
//! than the capacity is overtaken: it learns exactly how many records it has missed, and goes on.
//!
//! ```
//! # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
//! use std::time::Duration;
//!
//! use sealed_mmap::broadcast::{Next, Publisher, StartAt, Subscriber};
//! use sealed_mmap::{SealPolicy, SealedFile};
//!
//! let mut publisher = Publisher::create("log", 4096)?;
//! let descriptor = publisher.file().try_clone()?; // to be sent to another process …
//!
//! // … which need not trust the sender.
//! let policy = SealPolicy::untrusted_live(1 << 20);
//! let file = SealedFile::receive_future_write(descriptor, &policy)?;
//! let mut log = Subscriber::open(&file, StartAt::Oldest)?;
//!
//! publisher.publish(b"ready")?;
//! let (mut line, second) = (Vec::new(), Duration::from_secs(1));
//! assert_eq!(log.next(&mut line, second)?, Next::Record(1)); // its sequence number
//! assert_eq!(line, b"ready");
//!
//! for n in 2..=1000 { // far more than there is room for
//!     publisher.publish(format!("line {n}").as_bytes())?;
//! }
//! let Next::Lagged { missed } = log.next(&mut line, second)? else { panic!() };
//! assert_eq!(log.next(&mut line, second)?, Next::Record(2 + missed));
//! assert_eq!(line, format!("line {}", 2 + missed).as_bytes());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`choosing`](crate::choosing) compares this with everything else here.
//!
//! # How subscribers are woken
//!
//! As those of [`latest`](crate::latest): a subscriber that is [`Anonymous`] has the file and sleeps at
//! the shared bell, a [`Registered`] one was [admitted](Publisher::admit) over a connection and has a
//! private bell. [`bell`](crate::bell) tells what each can rely on.
//!
//! # Guarantees
//!
//! To subscribers of an honest publisher:
//!
//! * A record is whole, and comes in order. Its sequence number is one more than that of the record
//!   before; the first has 1.
//! * Records that were overwritten before they were read are [counted](Next::Lagged): what a subscriber
//!   got and what it missed add up to what was published since it started.
//! * A publisher that is killed, even in the middle of a call, leaves whole records.
//!
//! To subscribers of any publisher, hostile ones included:
//!
//! * Only the bytes, and what is said to have been missed, can be wrong. Every read is within the file,
//!   no record is longer than half of the capacity, and sequence numbers never decrease.
//! * Words that break the rules are an error of kind `InvalidData`; the subscriber does not work any
//!   longer then, and says so each time.
//! * Every call ends: it does a bounded amount of work, and sleeps no longer than its timeout.
//!
//! To the publisher, of any subscribers: they cannot write, and it never waits for them.
//!
//! # What a hostile peer can do
//!
//! | to | by | what comes of it |
//! |---|---|---|
//! | a subscriber | any bytes in records, changed while they are copied | wrong bytes: treat a record like a message from a stranger |
//! | | lengths, numbers or positions that do not follow from those before | `InvalidData`, for good |
//! | | claiming ever more | records are missed, as many as it says; `WouldBlock` where it does not end |
//! | | leaving holes in its file | reading may raise `SIGBUS` where memory is short, unless the policy [reserves](crate::SealPolicy::reserve) it |
//! | | silence, never ringing, ringing all the time | the timeout; a sleep that wakes early, after a while every millisecond at most |
//! | the publisher | new tickets all the time | a system call for each record and such subscriber |
//! | | not taking what it is sent | nothing: the publisher never waits |
//! | another subscriber | moving the sleepers of the shared bell | an [anonymous](Anonymous) one looks a second later; nothing to a [registered](Registered) one |
//!
//! # What a killed peer leaves
//!
//! A publisher: the whole records that it published, for those who have the file open. A registered
//! subscriber is told the [end](Next::Ended), an anonymous one cannot know it. On 32-bit targets, a publisher
//! that is killed while both halves of a position change, once in 4 GiB of records, leaves nothing
//! behind them. A subscriber: nothing; the publisher closes its side when another one is
//! [admitted](Publisher::admit).

pub(crate) mod protocol;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

pub use crate::bell::{Anonymous, Registered};

use crate::bell::connection::{Waited, check_header, invalid};
use crate::bell::{Audience, Request, wait_at_shared_bell};
use crate::file::sealed::SealedFile;
use crate::live::{LiveMap, Words};
use crate::map::OutOfBounds;
use crate::memory::{Area, HEADER, Span};
use crate::policy::SealPolicy;
use crate::producer::Producer;
pub use crate::record::{Record, Slot};
use crate::state::FutureWriteSealed;
use crate::sys;

pub use protocol::StartAt;
use protocol::{BELL, Broken, Failure, News, RECORDS, Reader, Writer};

/// The writer that publishes records. [The module](self) has an example.
///
/// Dropping it tells its subscribers that nothing more will come. They can still read what is there. A
/// child of `fork(2)` must neither use nor drop it.
pub struct Publisher {
    producer: Producer,
    writer: Writer,
    audience: Audience,
    wakes_anonymous: bool,
}

impl Publisher {
    /// Creates the file, and reserves its memory.
    ///
    /// `capacity` is in bytes, for records and two words or a cache line for each; it is rounded up to whole pages of
    /// 4096 bytes. The more there is, the longer a subscriber can be busy with other things. Publishing is fastest
    /// if all of it fits into a processor's L2 cache.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: a capacity of 0, or more than can be mapped.
    /// * Otherwise as [`Producer::create`].
    pub fn create(name: &str, capacity: usize) -> io::Result<Self> {
        let area = Area::of_pages(RECORDS, capacity)?;
        let producer = Producer::build(name, area.end() as u64, |bytes| {
            bytes[..HEADER].copy_from_slice(&protocol::to_header(&area));
            Ok(())
        })?;
        let (writer, audience) = (Writer::new(area), Audience::default());
        Ok(Self { producer, writer, audience, wakes_anonymous: true })
    }

    /// Returns the live file, to share with subscribers. Its description is open for reading only.
    pub fn file(&self) -> &SealedFile<FutureWriteSealed> {
        self.producer.file()
    }

    /// Returns the capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.writer.area().capacity
    }

    /// Returns the length of the longest record, in bytes: about half of the capacity.
    pub fn longest(&self) -> usize {
        protocol::longest(self.writer.area())
    }

    /// Admits a subscriber that sends a [`Request`], as
    /// [`latest::Publisher::admit`](crate::latest::Publisher::admit) does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn admit(
        &mut self,
        socket: impl Into<OwnedFd>,
        policy: &SealPolicy,
        timeout: Duration,
    ) -> io::Result<()> {
        self.audience.admit(socket, policy, timeout, self.producer.file())
    }

    /// Returns how many subscribers have been admitted and have not left.
    pub fn admitted(&mut self) -> usize {
        self.audience.count()
    }

    /// Whether [`publish`](Self::publish) wakes [anonymous](Anonymous) subscribers, too, as
    /// [`latest::Publisher::wake_anonymous`](crate::latest::Publisher::wake_anonymous).
    pub fn wake_anonymous(&mut self, wake: bool) {
        self.wakes_anonymous = wake;
    }

    /// Publishes a record, wakes waiting subscribers, and returns the record's sequence number: one more
    /// than the last, from 1 on.
    ///
    /// This is [`publish_without_wake`](Self::publish_without_wake) and [`wake`](Self::wake).
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]: the record is longer than the [longest](Self::longest). Nothing is published then.
    #[inline]
    pub fn publish(&mut self, record: &[u8]) -> Result<u64, OutOfBounds> {
        let number = self.publish_without_wake(record)?;
        self.wake();
        Ok(number)
    }

    /// Publishes a record of `len` bytes that `write` builds in place, wakes waiting subscribers, and
    /// returns the record's sequence number and what `write` returned.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish); `write` has not been called then.
    #[inline]
    pub fn publish_with<T>(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut Slot<'_>) -> T,
    ) -> Result<(u64, T), OutOfBounds> {
        let published = self.write(len, write)?;
        self.wake();
        Ok(published)
    }

    /// Publishes a record without a system call, and so without waking waiting subscribers: for bursts
    /// of records. A waiting subscriber gets them at the next [`wake`](Self::wake); an
    /// [anonymous](Anonymous) one within a second, too.
    ///
    /// Wait-free: one copy and a few stores.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    #[inline]
    pub fn publish_without_wake(&mut self, record: &[u8]) -> Result<u64, OutOfBounds> {
        Ok(self.write(record.len(), |slot| slot.fill(record))?.0)
    }

    #[inline]
    fn write<T>(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut Slot<'_>) -> T,
    ) -> Result<(u64, T), OutOfBounds> {
        let room = self.writer.room(len);
        let size = self.longest() as u64;
        let room = room.ok_or(OutOfBounds { offset: 0, len: len as u64, size })?;
        let mut words = self.producer.words_mut();
        Ok(self.writer.publish(&mut words, room, |words, span| write(&mut Slot::new(words, span))))
    }

    /// Wakes waiting subscribers: the registered ones that sleep, each with a system call, and the
    /// anonymous ones with one for all, unless that is [turned off](Self::wake_anonymous). None of these
    /// calls blocks.
    #[inline]
    pub fn wake(&mut self) {
        self.audience.wake(&mut self.producer.words_mut());
        if self.wakes_anonymous {
            sys::futex::wake(self.producer.words().futex(BELL));
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.writer.end(&mut self.producer.words_mut());
        self.wakes_anonymous = true;
        self.wake();
    }
}

/// For logs: the capacity, the last sequence number, and the file.
impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("capacity", &self.capacity())
            .field("last", &self.writer.last())
            .field("file", self.file())
            .finish_non_exhaustive()
    }
}

/// A reader of all records. [The module](self) has an example.
///
/// A subscriber is `Send` and `Sync`, owns its mapping, and outlives the publisher.
pub struct Subscriber<B = Anonymous> {
    map: LiveMap,
    reader: Reader,
    bell: B,
    broken: Option<Broken>,
}

/// What came next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next<T = u64> {
    /// A record: its sequence number, and what the caller made of it.
    Record(T),
    /// The publisher has overwritten so many records before they were read. What comes next is the record
    /// after them.
    Lagged {
        /// How many.
        missed: u64,
    },
    /// Everything has been read, and nothing more will come.
    Ended,
    /// Nothing, still when the timeout expired. To an [`Anonymous`] subscriber, the end of a publisher that
    /// was killed is no more than that.
    TimedOut,
}

impl Subscriber {
    /// Maps a publisher's file, and checks its layout, once and for all.
    ///
    /// # Errors
    ///
    /// * `InvalidData`: the file was not made by a [`Publisher`], or by one of another version or word
    ///   size, or the file is too short for its capacity.
    /// * `WouldBlock`: the publisher overtook every attempt to find the place to start at, or is hostile.
    /// * Otherwise as [`SealedFile::map_live`].
    pub fn open(file: &SealedFile<FutureWriteSealed>, start: StartAt) -> io::Result<Self> {
        Self::new(file, start, Anonymous::NEW)
    }

    /// Replaces `record` by the next record, and returns its sequence number. Sleeps while there is none, for
    /// no longer than `timeout`; [`Duration::MAX`] means no timeout. With a timeout of zero this only looks,
    /// without a system call.
    ///
    /// Whatever is not a record leaves `record` with bytes that mean nothing.
    ///
    /// # Errors
    ///
    /// * `InvalidData`: the publisher does not keep to the protocol.
    /// * `WouldBlock`: the publisher overtook a hundred attempts, or is hostile. The next call may succeed.
    /// * `OutOfMemory`: no memory for the record, which can be read later.
    /// * Those of `futex(2)`, which does not fail unless a sandbox denies it: see [Errors](crate#errors).
    ///   `Unsupported` on FreeBSD.
    #[inline]
    pub fn next(&mut self, record: &mut Vec<u8>, timeout: Duration) -> io::Result<Next> {
        let copy = |words: &Words<'_>, span: Span| span.copy_to(words, record);
        Ok(self.take(timeout, Self::wait, copy)?.map(|(number, ())| number))
    }

    /// Has `read` look at the next record where it is, and returns the record's sequence number and what
    /// `read` returned. Only what `read` asks for is copied. Otherwise this is [`next`](Self::next).
    ///
    /// What `read` sees need not belong to the record: the publisher may overwrite it meanwhile. Then it does
    /// not count, and the record is among those that were missed.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    #[inline]
    pub fn read_with<T>(
        &mut self,
        timeout: Duration,
        mut read: impl FnMut(Record<'_>) -> T,
    ) -> io::Result<Next<(u64, T)>> {
        self.take(timeout, Self::wait, |words, span| Ok(read(Record::new(*words, span))))
    }

    /// Waits until there is something, if there is within the timeout.
    #[cold]
    fn wait(&mut self, timeout: Duration) -> io::Result<Option<bool>> {
        let (words, reader) = (self.map.words(), &mut self.reader);
        wait_at_shared_bell(words.futex(BELL), timeout, || reader.look(&words))
    }
}

impl Subscriber<Registered> {
    /// Waits until a publisher has admitted this subscriber, for no longer than `timeout`, and opens the
    /// file that it has sent.
    ///
    /// # Errors
    ///
    /// The connection is closed then. As [`open`](Subscriber::open) and
    /// [`latest::Subscriber::join`](crate::latest::Subscriber::join).
    ///
    /// # Examples
    ///
    /// ```
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Duration;
    ///
    /// use sealed_mmap::SealPolicy;
    /// use sealed_mmap::bell::Request;
    /// use sealed_mmap::broadcast::{Next, Publisher, StartAt, Subscriber};
    ///
    /// let (ours, theirs) = UnixStream::pair()?;
    /// let (policy, second) = (SealPolicy::untrusted_live(1 << 24), Duration::from_secs(1));
    ///
    /// let request = Request::send(ours)?;
    /// let mut publisher = Publisher::create("log", 1 << 16)?;
    /// publisher.admit(theirs, &policy, second)?;
    /// let mut log = Subscriber::join(request, StartAt::Now, &policy, second)?;
    ///
    /// publisher.wake_anonymous(false); // there are none
    /// publisher.publish(b"news")?;
    /// let mut record = Vec::new();
    /// assert_eq!(log.next(&mut record, second)?, Next::Record(1));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn join(
        request: Request,
        start: StartAt,
        policy: &SealPolicy,
        timeout: Duration,
    ) -> io::Result<Self> {
        let (file, bell) = request.answered(policy, timeout)?;
        Self::new(&file, start, bell)
    }

    /// As [the anonymous subscriber's](Subscriber::next), but sleeps until the private bell rings. No other
    /// subscriber can hold it up, and the end of a publisher that was killed is noticed, too, if the
    /// timeout is not zero.
    ///
    /// # Errors
    ///
    /// As there, with `poll(2)` and `recv(2)` in the place of `futex(2)`.
    #[inline]
    pub fn next(&mut self, record: &mut Vec<u8>, timeout: Duration) -> io::Result<Next> {
        let copy = |words: &Words<'_>, span: Span| span.copy_to(words, record);
        Ok(self.take(timeout, Self::wait, copy)?.map(|(number, ())| number))
    }

    /// As [the anonymous subscriber's](Subscriber::read_with), with the private bell.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    #[inline]
    pub fn read_with<T>(
        &mut self,
        timeout: Duration,
        mut read: impl FnMut(Record<'_>) -> T,
    ) -> io::Result<Next<(u64, T)>> {
        self.take(timeout, Self::wait, |words, span| Ok(read(Record::new(*words, span))))
    }

    /// For an [event loop](crate::bell#in-an-event-loop): says that this side sleeps until there is a record.
    /// Returns whether it should not: there is one, or the end, or an error.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn arm(&mut self) -> io::Result<bool> {
        let Self { map, reader, bell, broken } = self;
        let words = map.words();
        bell.0.arm(|| broken.is_some() || reader.look(&words).is_ok())
    }

    #[cold]
    fn wait(&mut self, timeout: Duration) -> io::Result<Option<bool>> {
        let (words, reader, waiter) = (self.map.words(), &mut self.reader, &mut self.bell.0);
        if timeout.is_zero() {
            return Ok(waiter.peer_has_gone().then_some(false));
        }
        Ok(match waiter.wait(timeout, || reader.look(&words).ok())? {
            Waited::Found(found) => Some(found),
            Waited::PeerGone => Some(false),
            Waited::TimedOut => None,
        })
    }
}

/// The connection, which becomes readable when the publisher rings, see [`arm`](Self::arm).
impl AsFd for Subscriber<Registered> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.0.as_fd()
    }
}

impl AsRawFd for Subscriber<Registered> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<B> Subscriber<B> {
    fn new(file: &SealedFile<FutureWriteSealed>, start: StartAt, bell: B) -> io::Result<Self> {
        let map = file.map_live()?;
        let area = check_header(&map, protocol::from_file)?;
        let reader = Reader::new(area, &map.words(), start).map_err(explain)?;
        Ok(Self { map, reader, bell, broken: None })
    }

    /// Returns the capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.reader.area().capacity
    }

    /// Chooses where this subscriber goes on after it was overtaken. It is [`StartAt::Middle`] at first.
    pub fn after_lag(&mut self, place: StartAt) {
        self.reader.set_after_lag(place);
    }

    /// The next record, if `wait` says that there is one. `wait` returns whether there is something or
    /// the end.
    #[inline]
    fn take<T>(
        &mut self,
        timeout: Duration,
        wait: impl FnOnce(&mut Self, Duration) -> io::Result<Option<bool>>,
        mut read: impl FnMut(&Words<'_>, Span) -> io::Result<T>,
    ) -> io::Result<Next<(u64, T)>> {
        if let Some(broken) = self.broken {
            return Err(explain(Failure::Broken(broken)));
        }
        let mut news = self.reader.next(&self.map.words(), &mut read);
        if let Ok(News::Nothing { .. }) = news {
            match wait(self, timeout)? {
                Some(true) => news = self.reader.next(&self.map.words(), &mut read),
                Some(false) => news = Ok(News::Ended),
                None => {}
            }
        }
        match news {
            Ok(News::Record(number, done)) => Ok(Next::Record((number, done))),
            Ok(News::Lagged(missed)) => Ok(Next::Lagged { missed }),
            Ok(News::Ended) => Ok(Next::Ended),
            Ok(News::Nothing { .. }) => Ok(Next::TimedOut),
            Err(failure) => {
                if let Failure::Broken(broken) = failure {
                    self.broken = Some(broken);
                }
                Err(explain(failure))
            }
        }
    }
}

/// For logs: the capacity, and the sequence number of the record that comes next.
impl<B> fmt::Debug for Subscriber<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("capacity", &self.capacity())
            .field("next", &self.reader.next_number())
            .finish_non_exhaustive()
    }
}

impl<T> Next<T> {
    fn map<U>(self, to: impl FnOnce(T) -> U) -> Next<U> {
        match self {
            Self::Record(record) => Next::Record(to(record)),
            Self::Lagged { missed } => Next::Lagged { missed },
            Self::Ended => Next::Ended,
            Self::TimedOut => Next::TimedOut,
        }
    }
}

#[cold]
fn explain(failure: Failure) -> io::Error {
    match failure {
        Failure::Broken(Broken(what)) => invalid(what),
        Failure::Overtaken => {
            let message = "the publisher overtook every attempt to read a record";
            io::Error::new(io::ErrorKind::WouldBlock, message)
        }
        Failure::Io(error) => error,
    }
}
