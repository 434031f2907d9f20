//! Control messages that a peer can make the kernel send: credentials, also of a process that has no
//! number here, and process descriptors. Each control receives the same message with recvmsg(2)
//! itself, to show that the kernel sent it.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "controls call recvmsg(2), setsockopt(2) and unshare(2) by hand")]

mod support;

use std::ffi::c_int;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Resource, Rlimit, getgid, getrlimit, getuid, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use sealed_mmap::socket::{
    Credentials, MAX_FDS, pass_credentials, recv_fd, recv_fds, recv_fds_with_credentials, send_fds,
};
use support::process::may_open_many;

const KINDS: [SocketType; 3] = [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET];
/// `SCM_PIDFD` of `<linux/socket.h>`.
const SCM_PIDFD: c_int = 4;

/// The tests count descriptors, and change how many there may be.
fn alone() -> MutexGuard<'static, ()> {
    static PROCESS: Mutex<()> = Mutex::new(());
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A file that `number_of` recognizes in another descriptor.
fn numbered(number: u64) -> OwnedFd {
    let fd = memfd_create("numbered", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, number).unwrap();
    fd
}

fn number_of(fd: impl AsFd) -> i64 {
    fstat(fd).unwrap().st_size
}

/// What recvmsg(2) says of a message.
struct Raw {
    truncated: bool,
    credentials: Option<libc::ucred>,
    /// Process descriptors, and errnos in their place.
    pidfds: Vec<RawFd>,
    fds: Vec<OwnedFd>,
    /// The types of the control messages in their order.
    order: Vec<c_int>,
}

fn recv_raw(socket: impl AsFd) -> Raw {
    let (mut bytes, mut control) = ([0_u8; 64], [0_u64; 512]);
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: every field is a number or a pointer, for which zero is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the header points to buffers as long as it says.
    let len = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, 0) };
    assert!(len >= 0, "{}", io::Error::last_os_error());

    let mut raw = Raw {
        truncated: header.msg_flags & libc::MSG_CTRUNC != 0,
        credentials: None,
        pidfds: Vec::new(),
        fds: Vec::new(),
        order: Vec::new(),
    };
    // SAFETY: the kernel has filled the header in.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !next.is_null() {
        // SAFETY: it points to a message in the buffer, which is aligned for one.
        let message = unsafe { &*next };
        assert_eq!(message.cmsg_level, libc::SOL_SOCKET);
        raw.order.push(message.cmsg_type);
        // SAFETY: the message lies in the buffer.
        let data = unsafe { libc::CMSG_DATA(next) };
        // SAFETY: it calculates with its argument, and no more.
        let empty = unsafe { libc::CMSG_LEN(0) } as usize;
        #[allow(clippy::unnecessary_cast, reason = "the type differs by target")]
        let count = (message.cmsg_len as usize - empty) / size_of::<RawFd>();
        // SAFETY: the kernel has written that many integers.
        let numbers = unsafe { std::slice::from_raw_parts(data.cast::<RawFd>(), count) };
        match message.cmsg_type {
            libc::SCM_RIGHTS => raw.fds.extend(numbers.iter().map(|number| {
                // SAFETY: the kernel has just opened it for this call.
                unsafe { OwnedFd::from_raw_fd(*number) }
            })),
            libc::SCM_CREDENTIALS => {
                // SAFETY: the kernel has written credentials, whose fields are integers.
                raw.credentials = Some(unsafe { data.cast::<libc::ucred>().read_unaligned() });
            }
            SCM_PIDFD => raw.pidfds.extend(numbers),
            other => panic!("a control message of type {other}"),
        }
        // SAFETY: as with the first.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    raw
}

fn close_all(numbers: Vec<RawFd>) {
    for number in numbers {
        // SAFETY: the kernel has opened it for `recv_raw`, and nobody else has it.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

/// Turns process descriptors on, unless the kernel is older than 6.5.
fn pass_pidfds(socket: impl AsFd) -> bool {
    let (socket, on): (RawFd, c_int) = (socket.as_fd().as_raw_fd(), 1);
    let on = &raw const on;
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the value is an integer, and as long as is said.
    let result =
        unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_PASSPIDFD, on.cast(), len) };
    if result == 0 {
        return true;
    }
    let error = io::Error::last_os_error();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::NOPROTOOPT));
    eprintln!("not tested, this kernel has no SO_PASSPIDFD: {error}");
    false
}

#[test]
fn a_duplicate_that_asks_for_credentials_changes_nothing() {
    let _alone = alone();
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        let peers = theirs.try_clone().unwrap();
        set_socket_passcred(&peers, true).unwrap();
        let before = open_descriptors();
        for _ in 0..2 {
            send_fds(&ours, b"x", &[numbered(7).as_fd()]).unwrap();
        }
        let raw = recv_raw(&theirs);
        assert_eq!(raw.order, [libc::SCM_CREDENTIALS, libc::SCM_RIGHTS]);
        drop(raw);
        let (len, fd) = recv_fd(&theirs, &mut [0; 10]).unwrap();
        assert_eq!((len, fd.map(number_of)), (1, Some(7)));
        assert_eq!(open_descriptors(), before);
    }
}

#[test]
fn credentials_of_nobody_in_an_older_message_are_skipped() {
    let _alone = alone(); // with the limit on descriptors, too
    if !may_open_many() {
        return;
    }
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        for _ in 0..2 {
            send_fds(&ours, b"x", &[numbered(7).as_fd(); MAX_FDS]).unwrap();
        }
        set_socket_passcred(&theirs, true).unwrap();
        let raw = recv_raw(&theirs);
        assert_eq!(raw.credentials.unwrap().pid, 0);
        assert_eq!(raw.fds.len(), MAX_FDS);
        let mut fds = Vec::new();
        assert_eq!(recv_fds(&theirs, &mut [0; 10], &mut fds).unwrap(), 1);
        assert_eq!(fds.len(), MAX_FDS);
        assert!(fds.into_iter().all(|fd| number_of(fd) == 7));
    }
}

const RECEIVER: &str = "SEALED_MMAP_RECEIVER";

#[test]
fn credentials_from_another_pid_namespace_are_skipped() {
    const TEST: &str = "credentials_from_another_pid_namespace_are_skipped";

    if std::env::var_os(RECEIVER).is_some() {
        let socket = io::stdin().as_fd().try_clone_to_owned().unwrap();
        let raw = recv_raw(&socket);
        assert_eq!(raw.credentials.unwrap().pid, 0, "nobody here has the sender's number");
        let (len, fd) = recv_fd(&socket, &mut [0; 10]).unwrap();
        assert_eq!((len, fd.map(number_of)), (6, Some(7)));
        // Who it is, is known all the same.
        let (len, sender) = recv_from(&socket);
        let sender = sender.unwrap();
        assert_eq!((len, sender.pid, sender.uid), (5, None, getuid().as_raw()));
        return;
    }
    let _alone = alone();
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        set_socket_passcred(&theirs, true).unwrap();
        send_fds(&ours, b"raw", &[numbered(7).as_fd()]).unwrap();
        send_fds(&ours, b"cooked", &[numbered(7).as_fd()]).unwrap();
        send_fds(&ours, b"asked", &[numbered(7).as_fd()]).unwrap();
        // Only children of this thread are in the new namespace.
        let receiver = thread::spawn(move || {
            // SAFETY: no descriptor is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", TEST, "--nocapture", "--test-threads=1"]);
            command.env(RECEIVER, "").stdin(theirs).stdout(Stdio::piped());
            Ok::<_, Errno>(command.output().unwrap())
        });
        let output = match receiver.join().unwrap() {
            Err(error) => {
                eprintln!("not tested, no PID namespace may be made here: {error}");
                return;
            }
            Ok(output) => output,
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("running 1 test"), "{text}");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn process_descriptors_are_closed_and_not_given_out() {
    let _alone = alone(); // with the limit on descriptors, too
    if !may_open_many() {
        return;
    }
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        let peers = theirs.try_clone().unwrap();
        if !pass_pidfds(&peers) {
            return;
        }
        for count in [0, 1, MAX_FDS] {
            let file = numbered(7);
            let fds = vec![file.as_fd(); count];
            let before = open_descriptors();

            send_fds(&ours, b"x", &fds).unwrap();
            let raw = recv_raw(&theirs);
            assert_eq!(raw.fds.len(), count);
            assert_eq!(open_descriptors(), before + count + 1, "there is one that was not sent");
            assert_eq!(raw.pidfds.len(), 1);
            close_all(raw.pidfds);
            drop(raw.fds);
            assert_eq!(open_descriptors(), before);

            send_fds(&ours, b"x", &fds).unwrap();
            let mut received = Vec::new();
            assert_eq!(recv_fds(&theirs, &mut [0; 10], &mut received).unwrap(), 1);
            assert_eq!(received.len(), count);
            assert!(received.into_iter().all(|fd| number_of(fd) == 7));
            assert_eq!(open_descriptors(), before);
        }
    }
}

#[test]
fn a_refused_message_leaves_no_process_descriptor() {
    let _alone = alone();
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        if !pass_pidfds(&theirs) {
            return;
        }
        let file = numbered(7);
        let before = open_descriptors();

        send_fds(&ours, b"surplus", &[file.as_fd(); 2]).unwrap();
        let error = recv_fd(&theirs, &mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(open_descriptors(), before);

        if kind != SocketType::STREAM {
            send_fds(&ours, b"too long", &[file.as_fd(); 2]).unwrap();
            let error = recv_fds(&theirs, &mut [0; 3], &mut Vec::new()).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(Errno::MSGSIZE));
            assert_eq!(open_descriptors(), before);
        }
    }
}

/// Receives one file, which `numbered(7)` has made, and its sender.
#[track_caller]
fn recv_from(socket: impl AsFd) -> (usize, Option<Credentials>) {
    let mut fds = Vec::new();
    let (len, sender) = recv_fds_with_credentials(socket, &mut [0; 10], &mut fds).unwrap();
    assert_eq!(fds.into_iter().map(number_of).collect::<Vec<_>>(), [7]);
    (len, sender)
}

#[track_caller]
fn assert_is_us(sender: Option<Credentials>) {
    let sender = sender.unwrap();
    let us = (Some(std::process::id()), getuid().as_raw(), getgid().as_raw());
    assert_eq!((sender.pid, sender.uid, sender.gid), us);
}

#[test]
fn the_sender_is_named_where_the_receiver_asks_for_it() {
    let _alone = alone();
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        let send = || send_fds(&ours, b"x", &[numbered(7).as_fd()]).unwrap();
        let before = open_descriptors();
        send();
        assert_eq!(recv_from(&theirs), (1, None), "it was not asked for");
        pass_credentials(&theirs, true).unwrap();
        for _ in 0..3 {
            send();
            let (len, sender) = recv_from(&theirs);
            assert_eq!(len, 1);
            assert_is_us(sender);
        }
        pass_credentials(&theirs, false).unwrap();
        send();
        assert_eq!(recv_from(&theirs), (1, None), "it is not asked for any more");
        assert_eq!(open_descriptors(), before);
    }
}

#[test]
fn a_message_from_before_the_question_has_no_sender() {
    let _alone = alone();
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        for _ in 0..2 {
            send_fds(&ours, b"early", &[numbered(7).as_fd()]).unwrap();
        }
        pass_credentials(&theirs, true).unwrap();
        send_fds(&ours, b"late", &[numbered(7).as_fd()]).unwrap();
        // Control: the kernel names somebody who is nobody.
        let nobody = recv_raw(&theirs).credentials.unwrap();
        let overflow = |id| {
            let setting = fs::read_to_string(format!("/proc/sys/kernel/overflow{id}")).unwrap();
            setting.trim().parse::<u32>().unwrap()
        };
        assert_eq!((nobody.pid, nobody.uid, nobody.gid), (0, overflow("uid"), overflow("gid")));
        assert_eq!(recv_from(&theirs), (5, None));
        assert_is_us(recv_from(&theirs).1);
    }
}

#[test]
fn an_empty_datagram_has_a_sender_and_the_end_has_none() {
    let _alone = alone();
    let (ours, theirs) = pair(SocketType::DGRAM);
    pass_credentials(&theirs, true).unwrap();
    send_fds(&ours, b"", &[numbered(7).as_fd()]).unwrap();
    let (len, sender) = recv_from(&theirs);
    assert_eq!(len, 0);
    assert_is_us(sender);

    for kind in [SocketType::STREAM, SocketType::SEQPACKET] {
        let (ours, theirs) = pair(kind);
        pass_credentials(&theirs, true).unwrap();
        drop(ours);
        // Control: the kernel says that root has sent the end of a stream.
        match recv_raw(&theirs).credentials {
            Some(raw) => assert_eq!((raw.pid, raw.uid, raw.gid), (0, 0, 0)),
            None if kind == SocketType::SEQPACKET => {}
            None => eprintln!("this kernel names nobody at the end of a stream"),
        }
        let end = recv_fds_with_credentials(&theirs, &mut [0; 10], &mut Vec::new()).unwrap();
        assert_eq!(end, (0, None));
    }
}

#[test]
fn a_connection_asks_if_its_listener_does() {
    let _alone = alone();
    let name = format!("sealed-mmap-credentials-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    pass_credentials(&listener, true).unwrap();
    let client = UnixStream::connect_addr(&address).unwrap();
    send_fds(&client, b"before", &[numbered(7).as_fd()]).unwrap();
    let (server, _) = listener.accept().unwrap();
    assert_is_us(recv_from(&server).1);
}

/// A message with these credentials, sent by hand.
fn send_claiming(socket: impl AsFd, credentials: libc::ucred) -> io::Result<()> {
    let (mut bytes, mut control) = (*b"claim", [0_u64; 8]);
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: every field is a number or a pointer, for which zero is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    let len = size_of::<libc::ucred>() as u32;
    // SAFETY: it calculates with its argument, and no more.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(len) } as _;
    // SAFETY: the header has a buffer.
    let message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: the buffer is aligned, zeroed, and has room for more than one message.
    let message = unsafe { &mut *message };
    message.cmsg_level = libc::SOL_SOCKET;
    message.cmsg_type = libc::SCM_CREDENTIALS;
    // SAFETY: it calculates with its argument, and no more.
    message.cmsg_len = unsafe { libc::CMSG_LEN(len) } as _;
    // SAFETY: the message lies in the buffer.
    let data = unsafe { libc::CMSG_DATA(message) };
    // SAFETY: there is room for credentials.
    unsafe { data.cast::<libc::ucred>().write_unaligned(credentials) };
    // SAFETY: the header points to buffers as long as it says.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const header, 0) };
    if sent == 5 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs `f` on a thread that has become the user 65534 for good, unless this one may not.
fn as_nobody(f: impl FnOnce() + Send + 'static) -> bool {
    // Whoever is nobody already becomes nobody else.
    if !getuid().is_root() {
        return false;
    }
    let became = thread::spawn(|| {
        // By hand: libc's function would change every thread.
        // SAFETY: the calls take numbers.
        let group = unsafe { libc::syscall(libc::SYS_setresgid, 65534, 65534, 65534) };
        // SAFETY: as above.
        let user = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        if (group, user) != (0, 0) {
            return false;
        }
        f();
        true
    });
    became.join().unwrap()
}

#[test]
fn who_lies_about_itself_is_refused_by_the_kernel() {
    let _alone = alone();
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        pass_credentials(&theirs, true).unwrap();
        let as_root = ours.try_clone().unwrap();
        let done = as_nobody(move || {
            let pid = std::process::id() as libc::pid_t;
            let truth = libc::ucred { pid, uid: 65534, gid: 65534 };
            for lie in [
                libc::ucred { pid: 1, ..truth },
                libc::ucred { uid: 0, ..truth },
                libc::ucred { gid: 0, ..truth },
            ] {
                let error = send_claiming(&ours, lie).unwrap_err();
                assert_eq!(Errno::from_io_error(&error), Some(Errno::PERM));
            }
            send_claiming(&ours, truth).unwrap();
        });
        if !done {
            return eprintln!("not tested, only root can become somebody else");
        }
        // The user that stands for all who are not known, and yet a process that is.
        let (mut bytes, mut fds) = ([0; 10], Vec::new());
        let received = recv_fds_with_credentials(&theirs, &mut bytes, &mut fds).unwrap();
        let sender = received.1.unwrap();
        let expected = (Some(std::process::id()), 65534, 65534);
        assert_eq!((sender.pid, sender.uid, sender.gid), expected);

        // Control: root may lie, as the documentation says.
        send_claiming(&as_root, libc::ucred { pid: 1, uid: 1234, gid: 5678 }).unwrap();
        let received = recv_fds_with_credentials(&theirs, &mut bytes, &mut fds).unwrap();
        let sender = received.1.unwrap();
        assert_eq!((sender.pid, sender.uid, sender.gid), (Some(1), 1234, 5678));
    }
}

#[test]
fn a_stream_mixes_no_bytes_of_two_senders() {
    let _alone = alone();
    let (ours, theirs) = pair(SocketType::STREAM);
    pass_credentials(&theirs, true).unwrap();
    send_fds(&ours, b"root", &[]).unwrap();
    let others = ours.try_clone().unwrap();
    let done = as_nobody(move || {
        send_fds(&others, b"nobody", &[]).unwrap();
    });
    if !done {
        return eprintln!("not tested, only root can become somebody else");
    }
    for (expected, uid) in [(&b"root"[..], getuid().as_raw()), (b"nobody", 65534)] {
        let (mut bytes, mut fds) = ([0; 64], Vec::new());
        let (len, sender) = recv_fds_with_credentials(&theirs, &mut bytes, &mut fds).unwrap();
        assert_eq!((&bytes[..len], sender.unwrap().uid), (expected, uid));
    }
    // Control: without the question they come together.
    pass_credentials(&theirs, false).unwrap();
    let others = ours.try_clone().unwrap();
    send_fds(&ours, b"root", &[]).unwrap();
    as_nobody(move || {
        send_fds(&others, b"nobody", &[]).unwrap();
    });
    assert_eq!(recv_fd(&theirs, &mut [0; 64]).unwrap().0, 10);
}

#[test]
fn a_refused_message_with_credentials_leaves_nothing_behind() {
    let _alone = alone();
    for kind in [SocketType::DGRAM, SocketType::SEQPACKET] {
        let (ours, theirs) = pair(kind);
        pass_credentials(&theirs, true).unwrap();
        let file = numbered(7);
        let before = open_descriptors();
        send_fds(&ours, b"too long", &[file.as_fd(); 2]).unwrap();
        let mut fds = Vec::new();
        let error = recv_fds_with_credentials(&theirs, &mut [0; 3], &mut fds).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::MSGSIZE));
        let error = recv_fds_with_credentials(&theirs, &mut [], &mut fds).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(fds.is_empty());
        assert_eq!(open_descriptors(), before);
    }
}

#[test]
fn what_is_no_socket_cannot_be_asked() {
    let error = pass_credentials(numbered(1), true).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::NOTSOCK));
}

/// Process descriptors that are asked for as well are closed here, too.
#[test]
fn credentials_come_without_process_descriptors() {
    let _alone = alone();
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        if !pass_pidfds(&theirs) {
            return;
        }
        pass_credentials(&theirs, true).unwrap();
        let before = open_descriptors();
        send_fds(&ours, b"x", &[numbered(7).as_fd()]).unwrap();
        assert_is_us(recv_from(&theirs).1);
        assert_eq!(open_descriptors(), before);
    }
}

/// Runs `f` while the process can open just `room` more descriptors.
fn with_room_for<T>(room: usize, f: impl FnOnce() -> T) -> T {
    let free = |fd: &u64| fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err();
    let limit = (0..).filter(free).nth(room);
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit, ..before }).unwrap();
    let result = f();
    setrlimit(Resource::Nofile, before).unwrap();
    result
}

#[test]
fn lost_descriptors_take_the_process_descriptor_with_them() {
    let _alone = alone();
    for kind in KINDS {
        let (ours, theirs) = pair(kind);
        if !pass_pidfds(&theirs) {
            return;
        }
        let file = numbered(7);
        let before = open_descriptors();
        let mut outcomes = Vec::new();
        // From no room at all to room for everything.
        for room in 0..=4 {
            send_fds(&ours, b"x", &[file.as_fd(); 3]).unwrap();
            let raw = with_room_for(room, || recv_raw(&theirs));
            let opened = open_descriptors() - before;
            assert_eq!(opened, raw.fds.len() + raw.pidfds.iter().filter(|fd| **fd >= 0).count());
            close_all(raw.pidfds.iter().copied().filter(|fd| *fd >= 0).collect());
            outcomes.push((raw.truncated, raw.pidfds.iter().any(|fd| *fd < 0)));
            drop(raw.fds);
            assert_eq!(open_descriptors(), before);

            send_fds(&ours, b"x", &[file.as_fd(); 3]).unwrap();
            let mut fds = Vec::new();
            let result = with_room_for(room, || recv_fds(&theirs, &mut [0; 10], &mut fds));
            if raw.truncated {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::QuotaExceeded);
                assert!(fds.is_empty());
            } else {
                assert_eq!(result.unwrap(), 1);
                assert_eq!(fds.len(), 3);
            }
            drop(fds);
            assert_eq!(open_descriptors(), before);
        }
        assert_eq!((outcomes[0].0, outcomes[4]), (true, (false, false)));
        if outcomes.iter().any(|outcome| outcome.1) {
            continue;
        }
        eprintln!("not tested, this kernel puts no errno in the place of a process descriptor");
    }
}
