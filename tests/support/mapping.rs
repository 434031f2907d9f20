//! Mappings that the crate would not make.
#![allow(unsafe_code, reason = "it goes through mmap(2) by hand")]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

/// A mapping that nobody vouches for.
pub(crate) struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: memory of the process belongs to no thread, and all access to it is volatile.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

pub(crate) const READ: ProtFlags = ProtFlags::READ;
pub(crate) const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl Mapping {
    pub(crate) fn new(
        fd: impl AsFd,
        len: usize,
        access: ProtFlags,
        flags: MapFlags,
    ) -> rustix::io::Result<Self> {
        // SAFETY: the address is the kernel's choice, so that no other mapping is replaced.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, flags, fd, 0) }?;
        Ok(Self { start: start.cast(), len })
    }

    /// Shared, with all of the file.
    pub(crate) fn shared(file: &File, access: ProtFlags) -> io::Result<Self> {
        Ok(Self::new(file, file.metadata()?.len() as usize, access, MapFlags::SHARED)?)
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes the mapping at this address, which the caller has just made.
    pub(crate) fn from_raw(start: *mut u8, len: usize) -> Self {
        Self { start, len }
    }

    pub(crate) fn advise(&self, advice: Advice) -> rustix::io::Result<()> {
        // SAFETY: it is a whole mapping of ours, and no advice in use changes what is shared.
        unsafe { rustix::mm::madvise(self.start.cast(), self.len, advice) }
    }

    pub(crate) fn make_writable(&self) -> rustix::io::Result<()> {
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: it is a whole mapping of ours, and no reference to it exists.
        unsafe { rustix::mm::mprotect(self.start.cast(), self.len, access) }
    }

    pub(crate) fn checksum(&self) -> u32 {
        let words = (0..self.len / 8).map(|index| {
            // SAFETY: the start is page-aligned and the word lies within the mapping.
            let word = unsafe { self.start.cast::<u64>().add(index) };
            // SAFETY: as above. Where the file behind it was cut off the kernel sends SIGBUS.
            unsafe { word.read_volatile() }
        });
        crc32fast::hash(&words.flat_map(u64::to_ne_bytes).collect::<Vec<_>>())
    }

    pub(crate) fn get(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: in bounds (above), mapped readable, and the file is as long as the mapping.
        unsafe { self.start.wrapping_add(at).read_volatile() }
    }

    pub(crate) fn set(&self, at: usize, byte: u8) {
        assert!(at < self.len);
        // SAFETY: in bounds (above), mapped writable, and the file is as long as the mapping.
        unsafe { self.start.wrapping_add(at).write_volatile(byte) }
    }

    /// Writes this byte at the start of every page.
    pub(crate) fn stamp(&self, byte: u8) {
        for offset in (0..self.len).step_by(rustix::param::page_size()) {
            // SAFETY: it lies within the mapping.
            let target = unsafe { self.start.add(offset) };
            // SAFETY: as above. On a mapping that is not writable the kernel sends SIGSEGV.
            unsafe { target.write_volatile(byte) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is a whole mapping of ours, and no reference to it exists.
        unsafe { rustix::mm::munmap(self.start.cast(), self.len) }.unwrap();
    }
}
