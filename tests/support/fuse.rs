//! A file system in user space (FUSE) that has one file, served by this process.
#![allow(unsafe_code, reason = "a mount namespace")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// What the kernel is told when the file is opened: each read is asked for as it is made, and nothing in
/// advance.
pub(crate) const DIRECT_IO: u32 = 1;

/// Answers what is asked about the file, until everybody has closed it. `read` is told the offset and how
/// many bytes are wanted; `ioctl` the request.
pub(crate) fn serve(
    mut device: &File,
    len: u32,
    open_flags: u32,
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, Errno>,
    ioctl: impl Fn(u32) -> Result<Vec<u8>, Errno>,
) -> io::Result<()> {
    const GETATTR: u32 = 3;
    const OPEN: u32 = 14;
    const READ: u32 = 15;
    const INIT: u32 = 26;
    const IOCTL: u32 = 39;

    let mut request = vec![0; 1 << 16];
    loop {
        let _ = device.read(&mut request)?;
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let answer = match word(4) {
            // Version 7.31, and writes of a page, of which none comes.
            INIT => Ok(with(64, &[(0, 7), (4, 31), (20, 4096)])),
            // The length at 8 and the mode at 60 of the attributes, which are not to be kept.
            GETATTR => Ok(with(16 + 88, &[(16 + 8, len), (16 + 60, 0o100_444), (16 + 64, 1)])),
            OPEN => Ok(with(16, &[(8, open_flags)])),
            READ => {
                let start = word(48);
                read(start.into(), word(56).min(len.saturating_sub(start)) as usize)
            }
            IOCTL => ioctl(word(52)),
            _ => Err(Errno::NOSYS),
        };
        let errno = answer.as_ref().err().map_or(0, |errno| -errno.raw_os_error());
        let answer = answer.unwrap_or_default();
        let len = 16 + answer.len() as u32;
        let head = [&len.to_ne_bytes(), &errno.to_ne_bytes(), &request[8..16]].concat();
        // Some requests want no answer, and some are interrupted.
        let _ = device.write(&[head, answer].concat());
    }
}

/// A structure of this length that is zero but for some words.
pub(crate) fn with(len: usize, words: &[(usize, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, word) in words {
        bytes[*at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// Mounts the file where nobody else sees it.
pub(crate) fn mounted(at: &Path) -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    // SAFETY: nobody in this process relies on seeing the mounts of others.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    File::create(at)?;
    let number = device.as_raw_fd();
    let options = format!("fd={number},rootmode=100444,user_id=0,group_id=0");
    let options = CString::new(options).unwrap();
    let done = mount("sealed-mmap-test", at, "fuse", MountFlags::empty(), options.as_c_str());
    if done.is_err() {
        fs::remove_file(at)?;
    }
    done?;
    Ok(device)
}
