//! Where the processes of an example meet: a socket that one listens at, and others connect to.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

const PATIENCE: Duration = Duration::from_secs(1);
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Replaces the socket of a program that is gone, but never that of a living one, nor another file.
pub(crate) fn listen(path: &Path) -> Result<(UnixListener, Metadata)> {
    // With the dot, nothing but a directory can be opened: a FIFO would wait for a writer.
    let directory = File::open(path.parent().unwrap_or(path).join("."));
    let deadline = Instant::now() + PATIENCE;
    // Without the lock, two programs that start at once could both find a dead socket, and one
    // could remove the new socket of the other. Anybody may lock a directory, so the wait is bounded.
    while let Ok(directory) = &directory {
        match flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(BETWEEN_LOOKS),
            _ => break,
        }
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("it exists and is not a socket")
        }
        Ok(_) => match connect_to(path) {
            Ok(_) => bail!("another program listens there already"),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) => return Err(error.into()),
        },
        Err(_) => {} // `bind` reports the error if it matters
    }
    let listener = UnixListener::bind(path)?;
    Ok((listener, fs::symlink_metadata(path)?))
}

/// Removes the socket, unless it is gone or another has taken its place.
pub(crate) fn remove(path: &Path, own: &Metadata) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        // The listener is still open, so no other file can have been given this inode number.
        Ok(found) if (found.dev(), found.ino()) == (own.dev(), own.ino()) => fs::remove_file(path),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Connects; a listener that is stopped, and whose queue is full, is waited for a second at most.
pub(crate) fn connect_to(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(Errno::AGAIN) => Err(io::Error::new(ErrorKind::TimedOut, "it accepts no connection")),
        connected => Ok(connected.map(|()| socket.into())?),
    }
}
