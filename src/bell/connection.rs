//! Two processes with a connected Unix socket between them: one sleeps, the other wakes it.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::failure::{explained, while_doing};
use crate::file::sealed::SealedFile;
use crate::live::LiveMap;
use crate::memory::HEADER;
use crate::policy::SealPolicy;
use crate::producer::Producer;
use crate::socket;
use crate::state::FutureWriteSealed;
use crate::sys;
use crate::sys::net::SocketType;
use crate::sys::socket::{send_byte, take_bytes, wait_readable};

use super::protocol::{FILE_LEN, Ringer, Sleeper};

/// The end of a wait, `None` if the timeout cannot be reached.
pub(crate) fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

pub(crate) fn left(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

/// A connected Unix socket between the two.
pub(super) struct Connection(OwnedFd);

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        match socket::kind(socket.as_fd())? {
            SocketType::STREAM | SocketType::SEQPACKET => Ok(Self(socket)),
            _ => {
                let message =
                    "a datagram socket does not tell that its peer has gone; use a stream";
                Err(io::Error::new(io::ErrorKind::InvalidInput, message))
            }
        }
    }

    /// Wakes the peer, which [sleeps](Peer::sleeps). Returns whether there still is one.
    #[cold]
    pub(super) fn ring(&self, peer: &mut Peer) -> io::Result<bool> {
        match send_byte(self.0.as_fd()) {
            // The queue is full of what the peer has not taken: it has enough to wake up for.
            Ok(()) | Err(Errno::AGAIN) => Ok(true),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Ok(false),
            Err(error) => {
                peer.ringer.forget();
                Err(while_doing("wake the peer (send)")(error))
            }
        }
    }

    /// Whether the connection has ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.answer(false), Ok(Answer::Gone))
    }

    /// Takes the rings that are there, or waits for one.
    fn answer(&self, may_wait: bool) -> io::Result<Answer> {
        match take_bytes(self.0.as_fd(), may_wait) {
            Ok(0) | Err(Errno::CONNRESET | Errno::NOTCONN) => Ok(Answer::Gone),
            Ok(_) | Err(Errno::INTR) => Ok(Answer::Rung),
            Err(Errno::AGAIN) => Ok(Answer::Nothing),
            Err(error) => Err(while_doing("wait for the peer (recv)")(error)),
        }
    }

    /// Sleeps until the peer rings. May end early.
    fn wait(&self, left: Option<Duration>) -> io::Result<Answer> {
        if left.is_none() {
            // One call instead of two, where no timeout has to be kept and the socket lets calls wait.
            match self.answer(true)? {
                Answer::Nothing => {}
                answer => return Ok(answer),
            }
        }
        self.wait_readable(left)?;
        self.answer(false)
    }

    fn wait_readable(&self, left: Option<Duration>) -> io::Result<bool> {
        wait_readable(self.0.as_fd(), left).map_err(while_doing("wait for the peer (poll)"))
    }

    pub(super) fn send_file(
        &self,
        greeting: &Greeting,
        file: &SealedFile<FutureWriteSealed>,
    ) -> io::Result<()> {
        match socket::send_fds(&self.0, greeting, &[file.as_fd()])? {
            count if count == greeting.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Receives the peer's file, whatever pieces the greeting comes in.
    pub(super) fn receive_file(
        &self,
        greeting: &Greeting,
        policy: &SealPolicy,
        deadline: Option<Instant>,
    ) -> io::Result<SealedFile<FutureWriteSealed>> {
        let (mut received, mut count, mut file) = (Greeting::default(), 0, None);
        while count < greeting.len() {
            match socket::try_recv_fd(self.0.as_fd(), &mut received[count..]) {
                Ok((0, _)) => {
                    let message = "the peer closed the connection before it had sent its file";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
                Ok((more, descriptor)) => {
                    count += more;
                    if file.is_some() && descriptor.is_some() {
                        return Err(invalid("the peer sent more than one descriptor"));
                    }
                    file = file.or(descriptor);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = left(deadline);
                    if left == Some(Duration::ZERO) {
                        let message = "the peer has not sent its file in time";
                        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                    }
                    self.wait_readable(left)?;
                }
                Err(error) => return Err(error),
            }
        }
        if received != *greeting {
            return Err(invalid(
                "the peer does not say what this side expects: it is for another use",
            ));
        }
        let file = file.ok_or_else(|| invalid("the peer sent no descriptor"))?;
        Ok(SealedFile::receive_future_write(file, policy)?)
    }
}

/// What was there when a side looked at its bell.
enum Answer {
    Rung,
    Nothing,
    Gone,
}

/// What is sent with a file, so that peers that are for different uses notice.
pub(crate) type Greeting = [u8; 8];

/// An error of a peer that keeps to no protocol.
pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> io::Error {
    explained(io::ErrorKind::InvalidData, message, None)
}

/// The side that sleeps, with its file and its bell.
pub(crate) struct Waiter {
    file: Producer,
    sleeper: Sleeper,
    connection: Connection,
    peer_has_gone: bool,
}

/// How a wait ended.
pub(crate) enum Waited<T> {
    Found(T),
    PeerGone,
    TimedOut,
}

impl Waiter {
    /// `file` has zeros where the protocol says that this side is awake.
    pub(crate) fn new(socket: impl Into<OwnedFd>, file: Producer) -> io::Result<Self> {
        let connection = Connection::new(socket.into())?;
        Ok(Self { file, sleeper: Sleeper::default(), connection, peer_has_gone: false })
    }

    #[inline]
    pub(crate) fn file(&mut self) -> &mut Producer {
        &mut self.file
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.0.as_fd()
    }

    pub(crate) fn send_file(&self, greeting: &Greeting) -> io::Result<()> {
        self.connection.send_file(greeting, self.file.file())
    }

    pub(crate) fn receive_file(
        &self,
        greeting: &Greeting,
        policy: &SealPolicy,
        timeout: Duration,
    ) -> io::Result<SealedFile<FutureWriteSealed>> {
        self.connection.receive_file(greeting, policy, deadline(timeout))
    }

    /// Whether the connection has ended, as far as this side has looked.
    pub(crate) fn peer_has_gone(&self) -> bool {
        self.peer_has_gone
    }

    /// Wakes the peer if it sleeps. To be called after something has been published, and a full fence.
    #[inline]
    pub(crate) fn wake(&mut self, peer: &mut Peer) -> io::Result<()> {
        if peer.sleeps() {
            self.peer_has_gone |= !self.connection.ring(peer)?;
        }
        Ok(())
    }

    /// Sleeps until `look` finds something. It has looked once, in vain.
    pub(crate) fn wait<T>(
        &mut self,
        timeout: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> io::Result<Waited<T>> {
        // A peer that rings for nothing does not keep this side busy.
        const MOST_IN_VAIN: u32 = 16;
        const PAUSE: Duration = Duration::from_millis(1);

        let deadline = deadline(timeout);
        let mut in_vain = 0;
        loop {
            self.sleeper.lie_down(&mut self.file.words_mut());
            let found = look();
            let left = left(deadline);
            let waits = found.is_none() && !self.peer_has_gone && left != Some(Duration::ZERO);
            let answer = if waits { self.connection.wait(left) } else { Ok(Answer::Nothing) };
            self.sleeper.get_up(&mut self.file.words_mut());
            if let Some(found) = found.or_else(&mut look) {
                return Ok(Waited::Found(found));
            }
            if self.peer_has_gone {
                return Ok(Waited::PeerGone);
            }
            if !waits {
                return Ok(Waited::TimedOut);
            }
            match answer? {
                Answer::Gone => self.peer_has_gone = true,
                Answer::Rung | Answer::Nothing => in_vain += 1,
            }
            if in_vain > MOST_IN_VAIN {
                sys::sleep(left.map_or(PAUSE, |left| left.min(PAUSE)));
            }
        }
    }

    /// Says that this side sleeps, and returns whether it should not, because there is something.
    pub(crate) fn arm(&mut self, look: impl FnOnce() -> bool) -> io::Result<bool> {
        if matches!(self.connection.answer(false)?, Answer::Gone) {
            self.peer_has_gone = true;
        }
        self.sleeper.lie_down(&mut self.file.words_mut());
        let is_awake = look() || self.peer_has_gone;
        if is_awake {
            self.sleeper.get_up(&mut self.file.words_mut());
        }
        Ok(is_awake)
    }
}

/// The other side's file.
pub(crate) struct Peer {
    pub(crate) map: LiveMap,
    ringer: Ringer,
}

impl Peer {
    /// Maps the file, and checks its header, once and for all.
    pub(crate) fn open<T>(
        file: &SealedFile<FutureWriteSealed>,
        check: impl FnOnce(&[u8; HEADER], usize) -> Result<T, String>,
    ) -> io::Result<(Self, T)> {
        let map = file.map_live()?;
        let checked = check_header(&map, check)?;
        if map.len() < FILE_LEN {
            return Err(invalid(format!("a file of {} bytes is too short", map.len())));
        }
        Ok((Self { map, ringer: Ringer::default() }, checked))
    }

    /// Whether it sleeps and has not been rung for that yet; now it has to be.
    #[inline]
    pub(super) fn sleeps(&mut self) -> bool {
        self.ringer.is_due(&self.map.words())
    }
}

/// What the header of a file says, of which nothing is believed.
pub(crate) fn check_header<T>(
    map: &LiveMap,
    check: impl FnOnce(&[u8; HEADER], usize) -> Result<T, String>,
) -> io::Result<T> {
    let mut header = [0; HEADER];
    match map.read_at(0, &mut header) {
        Ok(()) => check(&header, map.len()),
        Err(_) => Err(format!("a file of {} bytes is too short", map.len())),
    }
    .map_err(invalid)
}
