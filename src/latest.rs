//! The newest value: one process publishes, any number of processes read, and the publisher waits for nobody.
//!
//! A [`Publisher`] makes a live file that holds the last few values. A [`Subscriber`] on that file
//! copies the newest one out: always a whole value, and never one older than it returned before. A
//! subscriber can sleep until there is a newer value. The publisher does not know its subscribers. No
//! subscriber can block or disturb the publisher, or change a byte.
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
//! # Which to use
//!
//! | | immutable files | live file | newest value |
//! |---|---|---|---|
//! | types | [`SealedFile`] | [`Producer`], [`LiveMap`] | [`Publisher`], [`Subscriber`] |
//! | for | frames, messages, anything large, anything of which every piece must arrive | counters, tables, a layout of your own | state of which only the newest matters |
//! | a reader gets | `&[u8]` in place | a copy | a copy |
//! | what a reader gets whole | the file | a word | a value |
//! | a value can be missed | no | yes | yes, all but the newest |
//! | a new value costs | a file, and sending its descriptor | stores | a copy, and a system call to wake waiting subscribers |
//! | a reader learns of it | with the descriptor | by looking | by looking or sleeping |
//! | length of a value | any | fixed | up to a fixed capacity |
//! | who can write | nobody, ever again | the one [`Producer`] | the one [`Publisher`] |
//! | seals | `WRITE`, `SHRINK`; on files made here also `GROW` and `SEAL` | `FUTURE_WRITE`, `SHRINK`; on files made here also `GROW` | as a live file |
//! | can become immutable | is | by [`Producer::finish`] | no |
//! | order between calls | nothing changes | a reader that has seen something new sees nothing older afterwards | sequence numbers never decrease |
//! | reading allocates | nothing | the copy | the copy; no memory is an error |
//! | reading can raise `SIGBUS` | in holes\* | in holes\* | in holes\* |
//! | a hostile writer can | stop sending, leave holes\* | write any bytes at any time, leave holes\* | publish any bytes, keep readers from reading (`WouldBlock`), from sleeping and from waking, make them allocate up to the capacity, leave holes\* |
//! | a hostile reader can, to other readers | move the offset of a description that they share | the same, and keep the file from being finished | the same, and [delay their wake-ups](#one-reader-against-another) by up to a second |
//! | a writer that is killed leaves | the files that it sent | the words that it stored | its last value |
//!
//! \* A hole is memory that was never written; reading it allocates memory, and fails if there is none.
//! A [`Producer`] and a [`Publisher`] leave no holes; against those of others there is
//! [`SealPolicy::reserve`](crate::SealPolicy::reserve).
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
//! [`publish`](Publisher::publish) adds a system call that wakes waiting subscribers. The call does
//! not block, but takes longer the more subscribers there are to wake. It is made even if there are
//! none: subscribers can only read, and so cannot tell the publisher that they sleep.
//!
//! # One reader against another
//!
//! All subscribers sleep on the same word of the file (`futex(2)`), and the kernel lets anybody who
//! can read the word wake its sleepers, or move them to a word of their own choice (`FUTEX_REQUEUE`),
//! where [`publish`](Publisher::publish) does not wake them. So one reader can silence the others.
//!
//! Therefore [`wait`](Subscriber::wait) sleeps for at most one second at a time, and then looks
//! again. A silenced subscriber learns of a value, or of the end of the publisher, at most one second
//! late. The same holds for values published
//! [without a wake-up](Publisher::publish_without_wake). `Duration::MAX` is no exception: such a wait
//! ends when the publisher ends, whatever other readers do.
//!
//! # Not guaranteed
//!
//! * That a hostile publisher's values mean anything, or are whole. It can change the bytes during
//!   the copy, and choose the sequence numbers. Treat a value like a message from a stranger.
//! * That every value is seen: values that were overwritten in between are gone.
//! * That reading succeeds while the publisher overwrites values faster than they can be copied. A
//!   reader that the publisher laps starts over, with the newest value at that time. After a hundred
//!   attempts [`latest`](Subscriber::latest) fails with `WouldBlock`.
//! * That the end of a publisher is announced: a publisher that is killed, or never dropped, falls
//!   silent. A subscriber that waits without a timeout then waits forever.
//! * On 32-bit targets, that a killed publisher leaves its last value. If it is killed while both
//!   halves of the sequence number change, once in 2³¹ values, nothing can be read afterwards:
//!   [`latest`](Subscriber::latest) fails with `WouldBlock`, or reports no value.
//! * Whatever is not guaranteed of a [`LiveMap`] and a [`Producer`]. Above all, a foreign publisher may
//!   leave holes in its file.

mod protocol;
mod word;

use std::fmt;
use std::io;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crate::file::sealed::SealedFile;
use crate::live::{LiveMap, WORD, Words, WordsMut};
use crate::map::OutOfBounds;
use crate::producer::Producer;
use crate::state::FutureWriteSealed;
use crate::sys;

use protocol::{BELL, Geometry, HEADER, News, Reader, Sink, Source, Writer};
use word::Word;

/// The cap on one sleep. Any reader can move the others to another futex (`FUTEX_REQUEUE` works through a
/// read-only mapping), where nobody wakes them. So a sleeper looks again from time to time.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

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
        Ok(Self { producer, writer: Writer::new(geometry) })
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

    /// Publishes a value, wakes waiting subscribers, and returns the value's sequence number: one more
    /// than the last, from 1 on.
    ///
    /// This is [`publish_without_wake`](Self::publish_without_wake) and a system call that does not
    /// block. [`Publisher`] has an example.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]: the value is longer than the capacity. Nothing is published then.
    pub fn publish(&mut self, value: &[u8]) -> Result<u64, OutOfBounds> {
        let number = self.publish_without_wake(value)?;
        self.wake();
        Ok(number)
    }

    /// Publishes a value without a system call, and so without waking waiting subscribers.
    ///
    /// This suits subscribers that look when they need a value, and bursts of values of which only the
    /// last few are worth a wake-up. A waiting subscriber sees the value at the next
    /// [`publish`](Self::publish), or within a second.
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
    pub fn publish_without_wake(&mut self, value: &[u8]) -> Result<u64, OutOfBounds> {
        let capacity = self.capacity();
        if value.len() > capacity {
            return Err(OutOfBounds { offset: 0, len: value.len() as u64, size: capacity as u64 });
        }
        Ok(self.writer.publish(&mut self.producer.words_mut(), value))
    }

    fn wake(&self) {
        sys::futex::wake(self.producer.words().futex(BELL));
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.writer.end(&mut self.producer.words_mut());
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
pub struct Subscriber {
    map: LiveMap,
    reader: Reader,
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
        let map = file.map_live()?;
        let mut header = [0; HEADER];
        let geometry = match map.read_at(0, &mut header) {
            Ok(()) => Geometry::from_header(&header, map.len()),
            Err(_) => Err(format!("a file of {} bytes is too short for a publisher's", map.len())),
        }
        .map_err(|message| io::Error::new(io::ErrorKind::InvalidData, message))?;
        Ok(Self { map, reader: Reader::new(geometry) })
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
        let outcome = self.reader.latest(&self.map.words(), value);
        if !matches!(outcome, Ok(Some(_))) {
            value.clear();
        }
        outcome
    }

    /// Sleeps until there is a value whose sequence number is greater than `seen`.
    ///
    /// `seen` is what [`latest`](Self::latest) returned, or 0 to wait for the first value. Do not pass a
    /// sequence number of another publisher: it may be greater than all of this publisher's, and the wait
    /// is then in vain.
    ///
    /// With a timeout of zero this only looks, without a system call. [`Duration::MAX`] means no timeout.
    /// Each sleep is capped at one second; then the subscriber looks again. So a new value, or the end of
    /// the publisher, is noticed within a second, even if [another
    /// reader](crate::latest#one-reader-against-another) has moved the sleepers to another futex.
    ///
    /// An event loop cannot wait for values, because there is no descriptor to poll. Wait in a thread
    /// that writes to a pipe or eventfd of the loop. Or have the publisher send a byte after each value,
    /// on the socket that carried its file.
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
        let deadline = Instant::now().checked_add(timeout);
        let words = self.map.words();
        loop {
            let bell = match Reader::news(&words, seen) {
                News::Newer => return Ok(WaitOutcome::Newer),
                News::Ended => return Ok(WaitOutcome::Ended),
                News::Nothing { bell } => bell,
            };
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(WaitOutcome::TimedOut);
            }
            // A value that has come since keeps this from falling asleep, unless it is exactly 2³¹.
            let sleep = left.map_or(LONGEST_SLEEP, |left| left.min(LONGEST_SLEEP));
            sys::futex::wait(words.futex(BELL), bell as u32, sleep)?;
        }
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
impl fmt::Debug for Subscriber {
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

impl Source for Words<'_> {
    fn load(&self, word: usize) -> Word {
        Words::load(*self, word)
    }

    fn read(&self, word: usize, bytes: &mut [u8]) {
        Words::read(*self, word * WORD, bytes);
    }

    fn acquire_fence(&self) {
        fence(Ordering::Acquire);
    }
}

impl Sink for WordsMut<'_> {
    fn store(&mut self, word: usize, value: Word) {
        WordsMut::store(self, word, value);
    }

    fn write(&mut self, word: usize, bytes: &[u8]) {
        WordsMut::write(self, word * WORD, bytes);
    }

    fn release_fence(&mut self) {
        fence(Ordering::Release);
    }
}
