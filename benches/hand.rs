//! The system calls as one would write them by hand, without looking at what can go wrong.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Result;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::NAME;

pub const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

pub fn memfd() -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Unknown before Linux 6.3.
    rustix::fs::memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(NAME, flags))
}

pub fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let count = rustix::io::write(&fd, bytes)?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Fills an empty file through a mapping that no child inherits and that cannot run out of memory.
pub fn fill_mapped(fd: impl AsFd, bytes: &[u8]) -> Result<()> {
    rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes.len() as u64)?;
    let mut map = Map::writable(fd, bytes.len())?;
    map.advise(Advice::LinuxDontFork)?;
    map.copy_from_slice(bytes);
    Ok(())
}

/// Adds the seals and confirms them.
pub fn seal(fd: impl AsFd) -> Result<()> {
    rustix::fs::fcntl_add_seals(&fd, SEALS)?;
    assert!(rustix::fs::fcntl_get_seals(&fd)?.contains(SEALS));
    Ok(())
}

/// The checks of a receiver, and the length.
pub fn verify(fd: impl AsFd) -> Result<usize> {
    assert!(rustix::fs::fcntl_getfl(&fd)?.contains(rustix::fs::OFlags::RDWR));
    assert!(rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::WRITE | SealFlags::SHRINK));
    Ok(rustix::fs::fstat(&fd)?.st_size as usize)
}

/// One descriptor, with one byte.
pub fn send(socket: impl AsFd, fd: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let byte = [IoSlice::new(b"x")];
    rustix::net::sendmsg(socket, &byte, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// What was sent with [`send`].
pub fn receive(socket: impl AsFd) -> Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(fds.and_then(|mut fds| fds.next()))
}

/// A mapping of the beginning of a file.
pub struct Map {
    start: NonNull<u8>,
    len: usize,
}

impl Map {
    fn new(fd: impl AsFd, len: usize, access: ProtFlags, flags: MapFlags) -> Result<Self> {
        let anywhere = std::ptr::null_mut();
        // SAFETY: the kernel chooses the address, so nothing else lies there.
        let start = unsafe { rustix::mm::mmap(anywhere, len, access, flags, fd, 0) }?;
        Ok(Self { start: NonNull::new(start.cast()).expect("not asked for address 0"), len })
    }

    pub fn read_only(fd: impl AsFd, len: usize) -> Result<Self> {
        // A shared one of a writable descriptor is refused before Linux 6.7.
        Self::new(&fd, len, ProtFlags::READ, MapFlags::SHARED)
            .or_else(|_| Self::new(&fd, len, ProtFlags::READ, MapFlags::PRIVATE))
    }

    pub fn writable(fd: impl AsFd, len: usize) -> Result<Self> {
        Self::new(fd, len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
    }

    pub fn advise(&self, advice: Advice) -> Result<()> {
        // SAFETY: the range is this mapping, and no advice that is given here changes its bytes.
        unsafe { rustix::mm::madvise(self.start.as_ptr().cast(), self.len, advice) }
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped readable for as long as this value lives; the benchmarks write through
        // `deref_mut` alone, and never make a file shorter.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Map {
    /// For [`writable`](Self::writable) ones; on others a store ends the process.
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and no two mappings of one file are alive while one is written.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: this mapping, which nothing refers to any more.
        unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) }
            .expect("unmapping one's own mapping");
    }
}
