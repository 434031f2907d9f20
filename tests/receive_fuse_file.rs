//! A file that its sender makes up: another process serves it through FUSE, with other bytes at every
//! read, and claims that fs-verity protects it. It is refused, or copied once and for all.
#![cfg(all(target_os = "linux", target_endian = "little"))]
#![allow(unsafe_code, reason = "one ioctl, one namespace, and the mapping that is deceived")]

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::thread;

use memmap2::MmapOptions;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{Refusal, SealPolicy, SealedFile};
use support::files::read_only;
use support::fuse;
use support::process::{self, ENTRY, Peer, Role};

const LEN: usize = 4096;
const FS_IOC_MEASURE_VERITY: u32 = 0xc004_6686;

/// Not a promise: the other process, which gets the socket to send the file to.
#[test]
fn role_of_another_process() {
    let Some(Role { fd: socket, mut parent, .. }) = process::role() else { return };
    let at = std::env::temp_dir().join(format!("sealed-mmap-fuse-{}", std::process::id()));
    let device = match fuse::mounted(&at) {
        Ok(device) => device,
        Err(error) => return parent.tell(error.raw_os_error().unwrap()),
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::open(&at).unwrap();
            unmount(&at, UnmountFlags::DETACH).unwrap();
            fs::remove_file(&at).unwrap();
            send_fds(&socket, b"file", &[file.as_fd()]).unwrap();
            parent.tell("serving");
        });
        let mut reads = 0;
        let read = |_, count| {
            reads += 1;
            Ok(vec![reads; count])
        };
        let ioctl = |request| match request {
            FS_IOC_MEASURE_VERITY => Ok(fuse::with(16 + 4, &[(16, 1)])),
            _ => Err(Errno::NOSYS),
        };
        fuse::serve(&device, LEN as u32, 0, read, ioctl).unwrap();
    });
}

/// The file and its server; `None`, with a word on it, where there is no FUSE for this user.
fn impostor() -> Option<(File, Peer)> {
    let (socket, theirs) = UnixDatagram::pair().unwrap();
    let mut peer = Peer::start(ENTRY, "impostor", theirs);
    match peer.channel.hear().as_str() {
        "serving" => {
            let file = recv_fd(&socket, &mut [0; 4]).unwrap().1.unwrap();
            Some((file.into(), peer))
        }
        answer => {
            let errno = Errno::from_raw_os_error(answer.parse().expect(answer));
            let known = [Errno::ACCESS, Errno::PERM, Errno::NOENT, Errno::NODEV, Errno::NXIO];
            assert!(known.contains(&errno), "{errno}");
            eprintln!("not tested, there is no FUSE for this user here: {errno}");
            None
        }
    }
}

fn first_byte(mut file: File) -> u8 {
    let mut byte = [0];
    file.read_exact(&mut byte).unwrap();
    byte[0]
}

fn claims_to_be_protected(file: &File) -> bool {
    let mut digest = [0_u32; 1];
    let request = FS_IOC_MEASURE_VERITY as _;
    // SAFETY: the kernel writes the four bytes of a digest that has no length.
    unsafe { libc::ioctl(file.as_raw_fd(), request, digest.as_mut_ptr()) == 0 }
}

#[test]
fn a_file_that_differs_at_every_read_is_refused() {
    let Some((file, _server)) = impostor() else { return };
    assert!(claims_to_be_protected(&file));
    assert_eq!(file.metadata().unwrap().len(), LEN as u64);

    let mut fd = OwnedFd::from(file.try_clone().unwrap());
    for take in [SealedFile::receive_read_only, SealedFile::adopt_read_only] {
        let (refusal, same) = take(fd, &SealPolicy::new()).unwrap_err().into_parts();
        let Refusal::NotSealable(error) = refusal else { panic!("{refusal:?}") };
        assert_eq!(Errno::from_io_error(&error), Some(Errno::INVAL));
        fd = same;
    }

    // Control: nobody has read it before. Now both its bytes and its mapped memory change, whenever
    // it is opened anew and the kernel forgets what it remembers of the contents.
    assert_eq!(first_byte(read_only(&file)), 1);
    assert_eq!(first_byte(read_only(&file)), 2);
    let map = MmapOptions::new().len(LEN).map_raw_read_only(&file).unwrap();
    // SAFETY: the mapping is readable, and its file as long; what it shows may change.
    let mapped = || unsafe { map.as_ptr().read_volatile() };
    let before = mapped();
    drop(read_only(&file));
    assert_ne!(mapped(), before);
}

#[test]
fn a_copy_of_a_file_that_differs_at_every_read_stays_the_same() {
    let Some((file, _server)) = impostor() else { return };
    let fd = read_only(&file);
    let policy = SealPolicy::untrusted(LEN as u64);
    let copy = SealedFile::receive_or_copy(fd, &policy, LEN as u64).unwrap();
    let map = copy.map_read_only().unwrap();
    let before = map.to_vec();
    assert_eq!(before.len(), LEN);

    // Control: the file itself is another one, whenever it is opened anew.
    for _ in 0..10 {
        assert_ne!(first_byte(read_only(&file)), first_byte(read_only(&file)));
        assert_eq!(map[..], before);
    }
}
