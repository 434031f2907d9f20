//! Copying files, pipes and sockets into memory.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::SealedFile;
use crate::state::Unsealed;
use crate::sys;

/// Appends all of `source` to `target` and returns how much that was.
pub(crate) fn append(
    source: BorrowedFd<'_>,
    target: &mut SealedFile<Unsealed>,
    limit: u64,
) -> io::Result<u64> {
    let too_large = || io::Error::from(Errno::FBIG);
    let before = sys::stat(source)?;
    if before.is_regular && before.len > limit {
        return Err(too_large());
    }
    let reach = limit.saturating_add(1);
    let copied = if before.is_regular {
        copy_regular(source, target, reach)?
    } else {
        copy_stream(source, target, reach)?
    };
    if copied > limit {
        return Err(too_large());
    }
    let after = sys::stat(source)?;
    // What was copied need not be as long: files of procfs and sysfs only claim some length.
    if before.is_regular && (before.len, before.modified) != (after.len, after.modified) {
        let message = "the source changed while it was copied";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    Ok(copied)
}

/// Copies at most `reach` bytes from the beginning, inside the kernel where the file allows that.
fn copy_regular(
    source: BorrowedFd<'_>,
    target: &mut SealedFile<Unsealed>,
    reach: u64,
) -> io::Result<u64> {
    struct FromStart<'a>(BorrowedFd<'a>, u64);
    impl Read for FromStart<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = rustix::io::pread(self.0, buffer, self.1)?;
            self.1 += count as u64;
            Ok(count)
        }
    }

    let mut copied = 0;
    while copied < reach {
        match sys::send_file(target.as_file(), source, copied, reach - copied) {
            Ok(0) => break,
            Ok(count) => copied += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Not every file system can do this.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && copied == 0 => {
                return io::copy(&mut FromStart(source, 0).take(reach), target);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(copied)
}

/// Copies at most `reach` bytes, to the end of the stream.
fn copy_stream(
    source: BorrowedFd<'_>,
    target: &mut SealedFile<Unsealed>,
    reach: u64,
) -> io::Result<u64> {
    let file = File::from(source.try_clone_to_owned()?);
    loop {
        let copied = target.stream_position()?;
        match io::copy(&mut (&file).take(reach - copied), &mut target.as_file()) {
            Ok(count) => return Ok(copied + count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sys::wait_readable(source)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
