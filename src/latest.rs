//! The newest value: one process publishes, any number of processes read, and the publisher waits for nobody.
//!
//! A [`Publisher`] makes a live file that holds the last few values. A [`Subscriber`] on that file
//! copies the newest one out: always a whole value, and never one older than it returned before. A
//! subscriber can sleep until there is a newer value. No subscriber can block or disturb the publisher, or
//! change a byte.
//!
//! Each value has a slot with a sequence number, checked after the copy: a *seqlock* with several
//! slots. A reader retries only if the publisher has come around to the slot that it is copying.
//!
//! ```
//! # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
//! use std::time::Duration;
//!
//! use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
//! use sealed_mmap::{SealPolicy, SealedFile};
//!
//! let mut publisher = Publisher::create("weather", 4096)?; // values of up to 4096 bytes
//! let descriptor = publisher.file().try_clone()?; // to be sent to another process …
//!
//! // … which need not trust the sender.
//! let policy = SealPolicy::untrusted_live(1 << 20); // does not promise memory for holes
//! let file = SealedFile::receive_future_write(descriptor, &policy)?;
//! let mut weather = Subscriber::open(&file)?;
//!
//! publisher.publish(b"sunny")?;
//! publisher.publish(b"cloudy")?;
//!
//! let mut value = Vec::new();
//! assert_eq!(weather.latest(&mut value)?, Some(2)); // its sequence number
//! assert_eq!(value, b"cloudy");
//! assert_eq!(weather.wait(2, Duration::from_millis(1))?, WaitOutcome::TimedOut);
//! drop(publisher);
//! assert_eq!(weather.wait(2, Duration::MAX)?, WaitOutcome::Ended);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`choosing`](crate::choosing) compares this with everything else here.
//!
//! # Guarantees
//!
//! To readers of an honest publisher:
//!
//! * A value is whole: all of its bytes come from one call of [`Publisher::publish`], the one with
//!   that sequence number. Sequence numbers count from 1.
//! * A [`Subscriber`] never goes back to an older value.
//! * A publisher that is killed, even in the middle of a call, leaves the last value that was
//!   published whole.
//!
//! To readers of any publisher, hostile ones included:
//!
//! * Only the value can be wrong. Every read is within the file, the value is no longer than the
//!   capacity, and the sequence numbers that [`Subscriber::latest`] returns never decrease. The
//!   geometry of the file is checked and copied when the file is opened, and never read again.
//! * Every call ends: [`latest`](Subscriber::latest) makes a fixed number of attempts, and
//!   [`wait`](Subscriber::wait) returns when its timeout expires.
//!
//! To the publisher, of any readers: they cannot write, and the publisher never waits for them.
//! [`publish_without_wake`](Publisher::publish_without_wake) is wait-free.
//!
//! # How subscribers are woken
//!
//! A subscriber that is [`Anonymous`] has the file and sleeps at the shared bell; the publisher does not
//! know it, and makes a system call for each value in case somebody sleeps. A [`Registered`] one was
//! [admitted](Publisher::admit) over a connection and has a private bell; it costs a system call only if
//! it sleeps. [`bell`](crate::bell) tells what each can rely on, and how one reader could silence the
//! other anonymous ones for a second.
//!
//! # Not guaranteed
//!
//! * That a hostile publisher's values mean anything, or are whole. It can change the bytes during
//!   the copy, and choose the sequence numbers. Treat a value like a message from a stranger.
//! * That every value is seen: values that were overwritten in between are gone.
//! * That reading succeeds while the publisher overwrites values faster than they can be copied. A
//!   reader that the publisher laps starts over, with the newest value at that time. After a hundred
//!   attempts [`latest`](Subscriber::latest) fails with `WouldBlock`.
//! * That anonymous subscribers learn of the end of a publisher that is killed: it falls silent. One that
//!   waits without a timeout then waits forever. A registered subscriber is told.
//! * On 32-bit targets, that a killed publisher leaves its last value. If it is killed while both
//!   halves of the sequence number change, once in 2³¹ values, nothing can be read afterwards:
//!   [`latest`](Subscriber::latest) fails with `WouldBlock`, or reports no value.
//! * Whatever is not guaranteed of a [`LiveMap`] and a [`Producer`]. Above all, a foreign publisher may
//!   leave holes in its file.

mod protocol;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

pub use crate::bell::{Anonymous, Registered};

use crate::bell::connection::{Waited, check_header};
use crate::bell::{Audience, Request, wait_at_shared_bell};
use crate::file::sealed::SealedFile;
use crate::live::LiveMap;
use crate::map::OutOfBounds;
use crate::memory::{HEADER, Span};
use crate::policy::SealPolicy;
use crate::producer::Producer;
pub use crate::record::{Record, Slot};
use crate::state::FutureWriteSealed;
use crate::sys;
use crate::word::Word;

use protocol::{BELL, Geometry, News, Reader, Writer};

/// With four slots, a reader starts over only if the publisher overtakes it three times during one copy.
const SLOTS: usize = 4;

/// The writer that publishes values.
///
/// Dropping the publisher tells its subscribers that nothing newer will come. They keep the last value. A
/// child of `fork(2)` does not inherit the memory, and so must neither use nor drop the publisher.
///
/// # Examples
///
/// ```
/// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
/// use sealed_mmap::latest::Publisher;
///
/// let mut state = Publisher::create("state", 5)?;
/// assert_eq!(state.capacity(), 5);
/// assert_eq!(state.publish(b"on")?, 1); // its sequence number
/// assert_eq!(state.publish(b"off")?, 2);
/// assert!(state.publish(b"something else").is_err());
/// assert_eq!(state.publish(b"")?, 3);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Publisher {
    producer: Producer,
    writer: Writer,
    audience: Audience,
    wakes_anonymous: bool,
}

impl Publisher {
    /// Creates the file for values of up to `capacity` bytes, with four slots, and reserves its memory.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: the slots do not fit into the address space.
    /// * Otherwise as [`Producer::create`].
    pub fn create(name: &str, capacity: usize) -> io::Result<Self> {
        Self::create_with_slots(name, capacity, SLOTS)
    }

    /// As [`create`](Self::create), with a number of slots: a power of two, at least 2.
    ///
    /// More slots give a reader more time to copy a value before the publisher overwrites it, which large
    /// values published at a high rate may need. Each slot requires memory for one value.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create). `InvalidInput` also if the number of slots is not a power of two, or
    /// is 1.
    pub fn create_with_slots(name: &str, capacity: usize, slots: usize) -> io::Result<Self> {
        let geometry = Geometry::new(slots as u64, capacity as u64)
            .map_err(|message| io::Error::new(io::ErrorKind::InvalidInput, message))?;
        let producer = Producer::build(name, geometry.len() as u64, |bytes| {
            bytes[..HEADER].copy_from_slice(&geometry.to_header());
            Ok(())
        })?;
        let (writer, audience) = (Writer::new(geometry), Audience::default());
        Ok(Self { producer, writer, audience, wakes_anonymous: true })
    }

    /// Returns the live file, to share with subscribers. Its description is open for reading only.
    ///
    /// [`socket::send_fds`](crate::socket::send_fds) sends it to another process.
    pub fn file(&self) -> &SealedFile<FutureWriteSealed> {
        self.producer.file()
    }

    /// Returns the capacity: the length of the longest value, in bytes.
    pub fn capacity(&self) -> usize {
        self.writer.geometry().capacity
    }

    /// Admits a subscriber that sends a [`Request`] over a connected stream or seqpacket socket: sends it
    /// the file, and wakes it from now on by its [private bell](crate::bell).
    ///
    /// Waits for the request no longer than `timeout`. If the socket is readable already, an honest
    /// subscriber's request is there. `policy` judges the subscriber's file, of a few hundred bytes.
    ///
    /// Each subscriber takes a descriptor and two mappings, until it has left and another one is admitted.
    ///
    /// # Errors
    ///
    /// The connection is closed then.
    ///
    /// * `TimedOut`: the peer has not sent a request.
    /// * `UnexpectedEof`: the peer has closed the connection.
    /// * `InvalidData`: the peer did not keep to the protocol, or the policy refuses its file, as in
    ///   [`SealedFile::receive_future_write`].
    /// * `InvalidInput`: a datagram socket.
    /// * As [`socket::recv_fds`](crate::socket::recv_fds), [`socket::send_fds`](crate::socket::send_fds)
    ///   and [`SealedFile::map_live`].
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

    /// Whether [`publish`](Self::publish) wakes [anonymous](Anonymous) subscribers, too. It does at first.
    ///
    /// That takes a system call each time, whether anybody sleeps or not. Without it, an anonymous
    /// subscriber that waits looks every second. Turn it off where all subscribers are registered.
    pub fn wake_anonymous(&mut self, wake: bool) {
        self.wakes_anonymous = wake;
    }

    /// Publishes a value, wakes waiting subscribers, and returns the value's sequence number: one more
    /// than the last, from 1 on.
    ///
    /// This is [`publish_without_wake`](Self::publish_without_wake) and [`wake`](Self::wake).
    /// [`Publisher`] has an example.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]: the value is longer than the capacity. Nothing is published then.
    #[inline]
    pub fn publish(&mut self, value: &[u8]) -> Result<u64, OutOfBounds> {
        let number = self.publish_without_wake(value)?;
        self.wake();
        Ok(number)
    }

    /// Publishes a value of `len` bytes that `write` builds in place, wakes waiting subscribers, and returns
    /// the value's sequence number and what `write` returned. [`Slot`] has an example.
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
        let published = self.write_slot(len, write)?;
        self.wake();
        Ok(published)
    }

    /// Publishes a value without a system call, and so without waking waiting subscribers.
    ///
    /// This suits subscribers that look when they need a value, and bursts of values of which only the
    /// last few are worth a wake-up. A waiting subscriber sees the value at the next
    /// [`wake`](Self::wake); an [anonymous](Anonymous) one within a second, too.
    ///
    /// Wait-free: one copy and a few stores.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    ///
    /// # Examples
    ///
    /// ```
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// use sealed_mmap::latest::{Publisher, Subscriber};
    ///
    /// let mut publisher = Publisher::create("position", 16)?;
    /// let mut position = Subscriber::open(publisher.file())?;
    /// for x in 0..1000_u64 {
    ///     publisher.publish_without_wake(&x.to_ne_bytes())?;
    /// }
    /// let mut value = Vec::new(); // for the next picture
    /// assert_eq!(position.latest(&mut value)?, Some(1000));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn publish_without_wake(&mut self, value: &[u8]) -> Result<u64, OutOfBounds> {
        Ok(self.write_slot(value.len(), |slot| slot.fill(value))?.0)
    }

    #[inline]
    fn write_slot<T>(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut Slot<'_>) -> T,
    ) -> Result<(u64, T), OutOfBounds> {
        OutOfBounds::locate(0, len as u64, self.capacity() as u64)?;
        let mut words = self.producer.words_mut();
        Ok(self.writer.publish(&mut words, len, |words, span| write(&mut Slot::new(words, span))))
    }

    /// Wakes waiting subscribers: the registered ones that sleep, each with a system call, and the
    /// anonymous ones with one for all, unless that is [turned off](Self::wake_anonymous). None of these calls blocks.
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

/// A reader of the newest value.
///
/// A subscriber is `Send` and `Sync`, owns its mapping, and outlives the publisher. For a second
/// subscriber, open the file again.
///
/// # Examples
///
/// ```
/// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
/// use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
/// use std::time::Duration;
///
/// let mut publisher = Publisher::create("ticks", 8)?;
/// let mut ticks = Subscriber::open(publisher.file())?;
/// let reader = std::thread::spawn(move || {
///     let (mut tick, mut seen) = (Vec::new(), 0);
///     while ticks.wait(seen, Duration::from_secs(10))? == WaitOutcome::Newer {
///         seen = ticks.latest(&mut tick)?.unwrap_or(0);
///     }
///     Ok::<_, std::io::Error>(tick)
/// });
/// for tick in 0..1000_u64 {
///     publisher.publish(&tick.to_ne_bytes())?;
/// }
/// drop(publisher);
/// assert_eq!(reader.join().unwrap()?, 999_u64.to_ne_bytes());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Subscriber<B = Anonymous> {
    map: LiveMap,
    reader: Reader,
    bell: B,
}

impl Subscriber {
    /// Maps a publisher's file, and checks its layout, once and for all.
    ///
    /// # Errors
    ///
    /// * `InvalidData`: the file was not made by a [`Publisher`], or by one of another version or word
    ///   size, or the file is too short for its slots.
    /// * Otherwise as [`SealedFile::map_live`].
    pub fn open(file: &SealedFile<FutureWriteSealed>) -> io::Result<Self> {
        Self::new(file, Anonymous::NEW)
    }

    /// Sleeps until there is a value whose sequence number is greater than `seen`.
    ///
    /// `seen` is what [`latest`](Self::latest) returned, or 0 to wait for the first value. Do not pass a
    /// sequence number of another publisher: it may be greater than all of this publisher's, and the wait
    /// is then in vain.
    ///
    /// With a timeout of zero this only looks, without a system call. [`Duration::MAX`] means no timeout.
    /// Each sleep is capped at one second; then the subscriber looks again. So a new value, or the end of
    /// the publisher, is noticed within a second, even if [another reader](crate::bell) has moved the
    /// sleepers to another futex.
    ///
    /// An event loop cannot wait like this, because there is no descriptor to poll: a
    /// [`Registered`] subscriber has one.
    ///
    /// # Errors
    ///
    /// Those of `futex(2)`, which does not fail unless a sandbox denies it: see [Errors](crate#errors).
    /// `Unsupported` on FreeBSD.
    ///
    /// # Examples
    ///
    /// ```
    /// # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
    /// use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
    /// use std::time::Duration;
    ///
    /// let mut publisher = Publisher::create("state", 5)?;
    /// let mut state = Subscriber::open(publisher.file())?;
    /// let mut value = Vec::new();
    /// assert_eq!(state.latest(&mut value)?, None);
    /// assert_eq!(state.wait(0, Duration::from_millis(5))?, WaitOutcome::TimedOut);
    ///
    /// publisher.publish(b"on")?;
    /// assert_eq!(state.wait(0, Duration::from_secs(5))?, WaitOutcome::Newer);
    /// assert_eq!(state.latest(&mut value)?, Some(1));
    /// assert_eq!(value, b"on");
    ///
    /// drop(publisher);
    /// assert_eq!(state.wait(0, Duration::from_secs(5))?, WaitOutcome::Newer);
    /// assert_eq!(state.wait(1, Duration::from_secs(5))?, WaitOutcome::Ended);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "futex")]
    pub fn wait(&self, seen: u64, timeout: Duration) -> io::Result<WaitOutcome> {
        let words = self.map.words();
        let look = || outcome(Reader::news(&words, seen));
        let found = wait_at_shared_bell(words.futex(BELL), timeout, look)?;
        Ok(found.unwrap_or(WaitOutcome::TimedOut))
    }
}

impl Subscriber<Registered> {
    /// Waits until a publisher has admitted this subscriber, for no longer than `timeout`, and opens the
    /// file that it has sent. [`Request`] has an example.
    ///
    /// # Errors
    ///
    /// The connection is closed then.
    ///
    /// * `TimedOut`: the publisher has not answered.
    /// * `UnexpectedEof`: the publisher has closed the connection.
    /// * `InvalidData`: the peer did not keep to the protocol, or the policy refuses its file, as in
    ///   [`SealedFile::receive_future_write`].
    /// * As [`open`](Subscriber::open) and [`socket::recv_fds`](crate::socket::recv_fds).
    pub fn join(request: Request, policy: &SealPolicy, timeout: Duration) -> io::Result<Self> {
        let (file, bell) = request.answered(policy, timeout)?;
        Self::new(&file, bell)
    }

    /// Sleeps until there is a value whose sequence number is greater than `seen`, as
    /// [the anonymous subscriber's](Subscriber::wait) does, but until the private bell rings. No other
    /// subscriber can hold it up, and the end of a publisher that was killed is noticed, too.
    ///
    /// # Errors
    ///
    /// Those of `poll(2)` and `recv(2)`, which do not fail unless a sandbox denies them: see
    /// [Errors](crate#errors).
    pub fn wait(&mut self, seen: u64, timeout: Duration) -> io::Result<WaitOutcome> {
        let words = self.map.words();
        let look = || outcome(Reader::news(&words, seen)).ok();
        if let Some(found) = look() {
            return Ok(found);
        }
        let waiter = &mut self.bell.0;
        if timeout.is_zero() {
            let ended = waiter.peer_has_gone();
            return Ok(if ended { WaitOutcome::Ended } else { WaitOutcome::TimedOut });
        }
        Ok(match waiter.wait(timeout, look)? {
            Waited::Found(found) => found,
            Waited::PeerGone => WaitOutcome::Ended,
            Waited::TimedOut => WaitOutcome::TimedOut,
        })
    }

    /// For an [event loop](crate::bell#in-an-event-loop): says that this side sleeps until there is a value
    /// whose sequence number is greater than `seen`. Returns whether it should not: there is one, or the end.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn arm(&mut self, seen: u64) -> io::Result<bool> {
        let words = self.map.words();
        self.bell.0.arm(|| outcome(Reader::news(&words, seen)).is_ok())
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
    fn new(file: &SealedFile<FutureWriteSealed>, bell: B) -> io::Result<Self> {
        let map = file.map_live()?;
        let geometry = check_header(&map, Geometry::from_header)?;
        Ok(Self { map, reader: Reader::new(geometry), bell })
    }

    /// Returns the capacity: the length of the longest value, in bytes.
    pub fn capacity(&self) -> usize {
        self.reader.geometry().capacity
    }

    /// Replaces `value` by the newest value, and returns its sequence number. Before the first value,
    /// returns `None` and leaves `value` empty.
    ///
    /// If there is nothing newer, this returns the same value and sequence number as the last call.
    /// Sequence numbers never decrease. An error leaves `value` empty, and the next call may succeed.
    ///
    /// # Errors
    ///
    /// * `WouldBlock`: the publisher overtook each of a hundred attempts, or is hostile. Let some time
    ///   pass before the next call, because a hostile publisher goes on. [`wait`](Self::wait) does not do
    ///   that: it returns at once while there is something newer.
    /// * `InvalidData`: the value is longer than the capacity; the publisher is hostile.
    /// * `OutOfMemory`: no memory for the value.
    pub fn latest(&mut self, value: &mut Vec<u8>) -> io::Result<Option<u64>> {
        let copy = |words: &_, span: Span| span.copy_to(words, value);
        let outcome = self.reader.latest(&self.map.words(), copy);
        if !matches!(outcome, Ok(Some(_))) {
            value.clear();
        }
        Ok(outcome?.map(|(number, ())| number))
    }

    /// Has `read` look at the newest value where it is, and returns the value's sequence number and what
    /// `read` returned. Only what `read` asks for is copied. Before the first value, returns `None`.
    ///
    /// What `read` sees need not belong to one value: the publisher may overwrite it meanwhile. Then it does
    /// not count, and `read` is called again, with the newest value at that time. What is returned here is
    /// from one value. [`Record`] has an example.
    ///
    /// # Errors
    ///
    /// As [`latest`](Self::latest).
    pub fn read_with<T>(
        &mut self,
        mut read: impl FnMut(Record<'_>) -> T,
    ) -> io::Result<Option<(u64, T)>> {
        self.reader.latest(&self.map.words(), |words, span| Ok(read(Record::new(*words, span))))
    }
}

/// For logs: the capacity, the newest sequence number, and the file.
impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("capacity", &self.capacity())
            .field("newest", &self.writer.newest())
            .field("file", self.file())
            .finish_non_exhaustive()
    }
}

/// For logs: the capacity, and the sequence number of the value that was read last.
impl<B> fmt::Debug for Subscriber<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("capacity", &self.capacity())
            .field("seen", &self.reader.seen())
            .finish_non_exhaustive()
    }
}

/// What ended [`Subscriber::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WaitOutcome {
    /// There is a value with a greater sequence number.
    Newer,
    /// There is none, and the publisher has said that none will come.
    Ended,
    /// The timeout expired, and there is no such value yet. The end of a publisher that was killed is
    /// never announced, so a wait for its next value ends like this.
    TimedOut,
}

/// What a wait ends with. What the bell was before there was nothing, if it does not.
fn outcome(news: News) -> Result<WaitOutcome, Word> {
    match news {
        News::Newer => Ok(WaitOutcome::Newer),
        News::Ended => Ok(WaitOutcome::Ended),
        News::Nothing { bell } => Err(bell),
    }
}
