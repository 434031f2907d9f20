//! Copying files, pipes and sockets into memory.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use thiserror::Error;

use crate::SealedFile;
use crate::state::Unsealed;
use crate::sys::{self, Readings};

/// Whole records of a pipe in packet mode, which are never longer than a page, and as fast as
/// splicing.
const BUFFER: usize = 64 << 10;

/// How often in a row a call is repeated that has done nothing. Signals do not come that fast, and
/// a file system in user space may answer every call as if they did.
const PATIENCE: u32 = 1000;

/// Copies all of `source` to the empty `target`, and returns how much that was.
pub(crate) fn append(
    source: BorrowedFd<'_>,
    target: &mut SealedFile<Unsealed>,
    limit: u64,
) -> io::Result<u64> {
    let before = sys::stat(source)?;
    if !before.is_regular {
        return copy_stream(source, target.as_file(), limit);
    }
    if before.len > limit {
        return Err(Errno::FBIG.into());
    }
    let copied = copy_regular(source, target.as_file(), before.len, limit)?;
    let after = sys::stat(source)?;
    // What was copied need not be as long: files of procfs and sysfs only claim some length.
    if (before.len, before.modified) != (after.len, after.modified) {
        let message = "the source changed while it was copied";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    Ok(copied)
}

/// Copies a file that claims `len` bytes from its beginning, inside the kernel as far as that goes.
fn copy_regular(source: BorrowedFd<'_>, target: &File, len: u64, limit: u64) -> io::Result<u64> {
    let mut copied = 0;
    while copied < len {
        match uninterrupted(|| sys::send_file(target, source, copied, len - copied)) {
            Ok(0) => break,
            Ok(count) => copied += count as u64,
            // Of the data, or of the memory that it goes to.
            Err(error @ (Errno::IO | Errno::NOSPC | Errno::NOMEM | Errno::FBIG | Errno::DQUOT)) => {
                return Err(error.into());
            }
            // Of the way, and there is another one.
            Err(_) => break,
        }
    }
    // The end of a file is where reading finds it.
    pump(target, copied, limit, |buffer, offset| {
        uninterrupted(|| rustix::io::pread(source, spare_capacity(buffer), offset))?;
        Ok(())
    })
}

/// Copies what can be read until the end.
fn copy_stream(source: BorrowedFd<'_>, target: &File, limit: u64) -> io::Result<u64> {
    let asking = |error| during("asking for the type and the read timeout of the source", error);
    match sys::readings(source).map_err(asking)? {
        Readings::Stream { timeout } => {
            pump(target, 0, limit, |buffer, _| read_patiently(source, buffer, timeout))
        }
        Readings::Records { of } => {
            let message = format!(
                "the source is {of}, which hands out records: a copy would join them or cut them \
                 off; receive one (with recv_fds, from a socket) and share it with from_bytes"
            );
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
    }
}

/// Appends what `read` puts into an empty buffer until that is nothing. `read` is told the offset.
fn pump(
    target: &File,
    mut copied: u64,
    limit: u64,
    mut read: impl FnMut(&mut Vec<u8>, u64) -> io::Result<()>,
) -> io::Result<u64> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(BUFFER).map_err(|_| Errno::NOMEM)?;
    loop {
        buffer.clear();
        read(&mut buffer, copied)?;
        if buffer.is_empty() {
            return Ok(copied);
        }
        if buffer.len() as u64 > limit - copied {
            return Err(Errno::FBIG.into());
        }
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let count = uninterrupted(|| rustix::io::pwrite(target, rest, copied))?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = &rest[count..];
            copied += count as u64;
        }
    }
}

/// Reads once, as soon as there is something to be read. `timeout` is how long that may take.
fn read_patiently(
    source: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut last = Errno::INTR;
    for _ in 0..PATIENCE {
        match rustix::io::read(source, spare_capacity(buffer)) {
            // The source is non-blocking, its timeout is over, or a signal came. Reading again
            // would start the timeout anew.
            Err(error @ (Errno::AGAIN | Errno::INTR)) => last = error,
            done => return Ok(done.map(drop)?),
        }
        let waiting = |error| during("waiting for the source with poll(2)", error);
        if !sys::wait_readable(source, deadline).map_err(waiting)? {
            let timeout = timeout.unwrap_or_default();
            let message = format!("nothing came from the source for {timeout:?}, its read timeout");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
    }
    if last == Errno::INTR {
        return Err(last.into());
    }
    let message = "poll(2) says over and over that the source can be read, and reading it would \
                   block; if it is a socket, its error queue may have to be emptied";
    Err(io::Error::other(message))
}

/// Repeats what a signal interrupted.
fn uninterrupted<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..PATIENCE {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
    Err(Errno::INTR)
}

/// An error that a call need not have explained.
#[derive(Debug, Error)]
#[error("{doing} failed")]
struct Failed {
    doing: &'static str,
    source: io::Error,
}

fn during(doing: &'static str, errno: Errno) -> io::Error {
    let source = io::Error::from(errno);
    io::Error::new(source.kind(), Failed { doing, source })
}
