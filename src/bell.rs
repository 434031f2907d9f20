//! How one process wakes another that waits for news.
//!
//! [`ring`](crate::ring), [`broadcast`](crate::broadcast) and [`latest`](crate::latest) move bytes through
//! memory, without system calls. A reader that finds nothing new sleeps, and has to be woken. Whom does
//! it trust with that?
//!
//! * **A private bell** is a connected Unix socket (stream or seqpacket) between the two: the one that
//!   carried the descriptors. A byte wakes, and the end of the connection tells that the peer has gone,
//!   killed or not. The side that sleeps says so in a small file of its own, so the other side makes a
//!   system call only for a peer that sleeps. No third party can ring the bell, take its rings away or
//!   hold them up. The two ends of a [`ring`](crate::ring) always have one. A subscriber of
//!   [`latest`](crate::latest) or [`broadcast`](crate::broadcast) has one if it is [`Registered`].
//! * **The shared bell** is a word of the publisher's file, on which every [`Anonymous`] subscriber sleeps
//!   (`futex(2)`). It needs no connection, and any number of subscribers can come and go unseen. But the
//!   publisher cannot know whether anybody sleeps, so it makes a system call each time. And the kernel
//!   lets any reader of the word wake its sleepers, or move them to a word of its own choice
//!   (`FUTEX_REQUEUE`), where the publisher does not wake them: one reader can silence the others.
//!   Therefore each such sleep ends after a second at most, and the subscriber looks again. Whoever was
//!   silenced learns of news up to a second late.
//!
//! # In an event loop
//!
//! A private bell is a descriptor that becomes readable: [`AsFd`] gives it to epoll, tokio, async-io. Never
//! read from it or write to it; the methods here do. A reader takes what is there. Only when nothing is
//! left it calls `arm`, which says that this side sleeps, and looks once more. If `arm` returns `false`,
//! the descriptor becomes readable as soon as there is news. With tokio, for example:
//!
//! ```
//! # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
//! use std::io;
//! use std::os::fd::AsFd;
//! use std::os::unix::net::UnixStream;
//! use std::time::Duration;
//!
//! # use sealed_mmap::SealPolicy;
//! use sealed_mmap::ring::{Received, Receiver, Sender};
//! use tokio::io::Interest;
//!
//! struct Records {
//!     ring: Receiver,
//!     bell: tokio::net::UnixStream,
//! }
//!
//! impl Records {
//!     fn new(ring: Receiver) -> io::Result<Self> {
//!         let bell = UnixStream::from(ring.as_fd().try_clone_to_owned()?);
//!         bell.set_nonblocking(true)?;
//!         Ok(Self { ring, bell: tokio::net::UnixStream::from_std(bell)? })
//!     }
//!
//!     async fn next(&mut self, record: &mut Vec<u8>) -> io::Result<bool> {
//!         loop {
//!             match self.ring.recv(record, Duration::ZERO)? {
//!                 Received::Record(_) => return Ok(true),
//!                 Received::Ended => return Ok(false),
//!                 Received::TimedOut => {}
//!             }
//!             if !self.ring.arm()? {
//!                 self.bell.readable().await?;
//!                 // Tokio is to wait for the next ring.
//!                 let again = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
//!                 let _ = self.bell.try_io(Interest::READABLE, again);
//!             }
//!         }
//!     }
//! }
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
//! # runtime.block_on(async {
//! # let (ours, theirs) = UnixStream::pair()?;
//! # let (policy, second) = (SealPolicy::untrusted_live(1 << 20), Duration::from_secs(1));
//! # let offer = Sender::offer(ours, "async", 4096)?;
//! # let mut records = Records::new(Receiver::accept(theirs, &policy, second)?)?;
//! # let mut sender = offer.accept(&policy, second)?;
//! # let mut record = Vec::new();
//! # let sender = std::thread::spawn(move || sender.try_send(b"news"));
//! # assert!(records.next(&mut record).await?);
//! # sender.join().unwrap()?;
//! # assert_eq!(record, b"news");
//! # Ok::<(), std::io::Error>(())
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```

pub(crate) mod connection;
pub(crate) mod protocol;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use crate::file::sealed::SealedFile;
use crate::memory::{HEADER, Sink, from_header, header};
use crate::policy::SealPolicy;
use crate::producer::Producer;
use crate::state::FutureWriteSealed;
use crate::sys;
use crate::word::Word;

use connection::{Connection, Greeting, Peer, Waiter, deadline, left};
use protocol::FILE_LEN;

/// The cap on one sleep at the shared bell, where nobody may be woken.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

const MAGIC: &[u8; 8] = b"asleep?\n";
const REQUEST: &Greeting = b"bell, ?\n";
const REPLY: &Greeting = b"bell, !\n";

/// A subscriber that nobody knows of, and that sleeps at the [shared bell](self).
#[derive(Debug)]
pub struct Anonymous(());

impl Anonymous {
    pub(crate) const NEW: Self = Self(());
}

/// Sleeps at the word until `look` finds something, `None` if it does not in time. What `look` returns
/// otherwise is what the word was before it looked.
pub(crate) fn wait_at_shared_bell<T>(
    word: &AtomicU32,
    timeout: Duration,
    mut look: impl FnMut() -> Result<T, Word>,
) -> io::Result<Option<T>> {
    let deadline = deadline(timeout);
    loop {
        let bell = match look() {
            Ok(found) => return Ok(Some(found)),
            Err(bell) => bell,
        };
        let left = left(deadline);
        if left == Some(Duration::ZERO) {
            return Ok(None);
        }
        // What has been published since keeps this from falling asleep, unless it is exactly 2³¹.
        let sleep = left.map_or(LONGEST_SLEEP, |left| left.min(LONGEST_SLEEP));
        sys::futex::wait(word, bell as u32, sleep)?;
    }
}

/// A subscriber that the publisher knows, with a [private bell](self).
///
/// [`Request`] is how a subscriber gets there.
pub struct Registered(pub(crate) Waiter);

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("socket", &self.0.as_fd()).finish_non_exhaustive()
    }
}

/// A request to a publisher: for its file, and to be woken when it publishes.
///
/// The subscriber sends a request over a connection, and the publisher admits it:
/// [`latest::Publisher::admit`](crate::latest::Publisher::admit),
/// [`broadcast::Publisher::admit`](crate::broadcast::Publisher::admit). Neither has to trust the other.
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
/// use sealed_mmap::latest::{Publisher, Subscriber, WaitOutcome};
///
/// let (ours, theirs) = UnixStream::pair()?; // or a connection to a listening socket
/// let second = Duration::from_secs(1);
///
/// // The subscriber.
/// let request = Request::send(ours)?;
///
/// // The publisher, as soon as its end of the connection is readable.
/// let mut publisher = Publisher::create("weather", 4096)?;
/// publisher.admit(theirs, &SealPolicy::untrusted_live(1 << 16), second)?;
///
/// // The subscriber again.
/// let mut weather = Subscriber::join(request, &SealPolicy::untrusted_live(1 << 20), second)?;
/// publisher.publish(b"sunny")?;
/// assert_eq!(weather.wait(0, second)?, WaitOutcome::Newer);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Request(Waiter);

impl Request {
    /// Sends a request over a connected stream or seqpacket socket, on which nothing else is sent.
    ///
    /// # Errors
    ///
    /// * `InvalidInput`: a datagram socket.
    /// * As [`Producer::create`], for a file of a few hundred bytes.
    /// * As [`socket::send_fds`](crate::socket::send_fds).
    pub fn send(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let file = Producer::build("sealed-mmap-bell", FILE_LEN as u64, |bytes| {
            bytes[..HEADER].copy_from_slice(&header(MAGIC, [0, 0]));
            Ok(())
        })?;
        let waiter = Waiter::new(socket, file)?;
        waiter.send_file(REQUEST)?;
        Ok(Self(waiter))
    }

    /// The publisher's file.
    pub(crate) fn answered(
        self,
        policy: &SealPolicy,
        timeout: Duration,
    ) -> io::Result<(SealedFile<FutureWriteSealed>, Registered)> {
        let file = self.0.receive_file(REPLY, policy, timeout)?;
        Ok((file, Registered(self.0)))
    }
}

/// The connection, which becomes readable when the publisher has answered.
impl AsFd for Request {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("socket", &self.as_fd()).finish_non_exhaustive()
    }
}

/// The subscribers that a publisher has admitted.
#[derive(Default)]
pub(crate) struct Audience {
    admitted: Vec<(Connection, Peer)>,
}

impl Audience {
    pub(crate) fn admit(
        &mut self,
        socket: impl Into<OwnedFd>,
        policy: &SealPolicy,
        timeout: Duration,
        file: &SealedFile<FutureWriteSealed>,
    ) -> io::Result<()> {
        self.forget_those_who_left();
        let connection = Connection::new(socket.into())?;
        let theirs = connection.receive_file(REQUEST, policy, deadline(timeout))?;
        let (peer, _) =
            Peer::open(&theirs, |header, _| from_header(header, MAGIC, "a subscriber"))?;
        connection.send_file(REPLY, file)?;
        self.admitted.push((connection, peer));
        Ok(())
    }

    /// How many are there.
    pub(crate) fn count(&mut self) -> usize {
        self.forget_those_who_left();
        self.admitted.len()
    }

    fn forget_those_who_left(&mut self) {
        self.admitted.retain(|(connection, _)| !connection.has_ended());
    }

    /// Wakes those who sleep. To be called after something has been published.
    #[inline]
    pub(crate) fn wake(&mut self, ours: &mut impl Sink) {
        if self.admitted.is_empty() {
            return;
        }
        ours.full_fence();
        for (connection, peer) in &mut self.admitted {
            if peer.sleeps() {
                // Who has left is forgotten later. What else can fail is tried again at the next call.
                let _ = connection.ring(peer);
            }
        }
    }
}
