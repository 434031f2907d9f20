//! `wlshm` draws for a real compositor, and reads what real and hostile clients draw.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use sealed_mmap::socket::send_fds;
use sealed_mmap::{SealedFile, Seals, add_seals};

use crate::support::process::may_open_many;
use crate::{Running, Temp, end_of, eventually, example, failed, fails, pipe, start, succeeded};

fn wlshm(command: &str, path: &Path) -> Option<Command> {
    let mut wlshm = example("wlshm")?;
    wlshm.arg(command).arg(path);
    Some(wlshm)
}

fn compositor(path: &Path) -> Option<Running> {
    let compositor = Running::start(&mut wlshm("compositor", path)?);
    compositor.says("waiting for a client");
    Some(compositor)
}

/// The size and the checksum of each frame, as both sides show them.
fn frames(text: &str) -> Vec<String> {
    let after = text.split("frame ").skip(1);
    after.filter_map(|text| Some(format!("{})", text.split_once(')')?.0))).collect()
}

#[test]
fn every_frame_arrives_as_it_was_drawn() {
    for count in [0, 1, 2, 30] {
        let socket = Temp::named("wlshm-frames");
        let Some(mut command) = wlshm("compositor", &socket.0) else { return };
        let compositor = start(&mut command, Stdio::null());
        eventually("the socket", || socket.0.exists().then_some(()));
        let mut client = wlshm("client", &socket.0).unwrap();
        let drawn = crate::succeeds(client.arg(format!("--frames={count}")), b"");
        let copied = succeeded(end_of(compositor));
        assert_eq!(frames(&drawn).len(), count);
        assert_eq!(frames(&drawn), frames(&copied));
        assert!(copied.contains(&format!("the client has left after {count} frames")), "{copied}");
        assert!(!socket.0.exists());

        // It grew, and the last frames were read from the map of before.
        if count == 30 {
            assert!(copied.contains("pool 7 grew from 393216 bytes to 2850816"), "{copied}");
            let maps = copied.lines().filter_map(|line| line.split_once("copied from a map of "));
            let maps: Vec<_> = maps.map(|(_, len)| len).collect();
            let (small, large) = ("393216 bytes", "2850816 bytes");
            assert_eq!(maps, [[small; 10], [large; 10], [small; 10]].concat());
        }
    }
}

/// A client that sends what it likes.
struct RawClient {
    socket: UnixStream,
    compositor: Child,
    _path: Temp,
}

const SURFACE: u32 = 5;
const POOL: u32 = 6;
const BUFFER: u32 = 7;

impl RawClient {
    fn connect(name: &str) -> Option<Self> {
        let path = Temp::named(name);
        let compositor = start(&mut wlshm("compositor", &path.0)?, Stdio::null());
        let socket = eventually("the compositor", || UnixStream::connect(&path.0).ok());
        let client = Self { socket, compositor, _path: path };
        client.request(1, 1, &[2], &[]); // get_registry
        let interface = u32::from_ne_bytes(*b"any\0");
        client.request(2, 0, &[0, 4, interface, 1, 3], &[]); // wl_compositor
        client.request(2, 0, &[1, 4, interface, 1, 4], &[]); // wl_shm
        client.request(3, 0, &[SURFACE], &[]);
        Some(client)
    }

    fn request(&self, object: u32, opcode: u32, arguments: &[u32], fds: &[BorrowedFd<'_>]) {
        let len = 8 + 4 * arguments.len() as u32;
        let words = [&[object, len << 16 | opcode], arguments].concat();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        // The compositor may have ended at an earlier request.
        let _ = send_fds(&self.socket, &bytes, fds);
    }

    fn create_pool(&self, fd: impl AsFd, size: u32) {
        self.request(4, 0, &[POOL, size], &[fd.as_fd()]);
    }

    /// The offset, the width, the height, the stride, and the format.
    fn create_buffer(&self, geometry: [i32; 5]) {
        let geometry = geometry.map(|value| value as u32);
        self.request(POOL, 0, &[&[BUFFER][..], &geometry].concat(), &[]);
    }

    fn commit(&self) {
        self.request(SURFACE, 1, &[BUFFER, 0, 0], &[]);
        self.request(SURFACE, 6, &[], &[]);
    }

    /// The compositor ends with this complaint, which it has sent, too.
    #[track_caller]
    fn refused_for(mut self, complaint: &str) -> String {
        let mut events = Vec::new();
        let _ = self.socket.read_to_end(&mut events); // also the end of what lies unread there
        let output = end_of(self.compositor);
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        failed(output, complaint);
        let events = String::from_utf8_lossy(&events);
        assert!(events.contains(complaint), "not {complaint}: {events}");
        shown
    }

    #[track_caller]
    fn leaves(self) -> String {
        drop(self.socket);
        succeeded(end_of(self.compositor))
    }
}

/// A memfd with 16 rows of 16 pixels, and what is in it.
fn pool() -> (File, Vec<u8>) {
    let file = SealedFile::create("pool").unwrap().into_file();
    let bytes: Vec<u8> = (0..1024_u32).map(|n| (n % 251) as u8).collect();
    file.write_all_at(&bytes, 0).unwrap();
    (file, bytes)
}

fn sealed_pool() -> File {
    let (file, _) = pool();
    add_seals(&file, Seals::SHRINK).unwrap();
    file
}

#[test]
fn a_pool_that_can_shrink_is_refused_by_name_and_copied() {
    let (file, bytes) = pool();
    let crc = format!("16x16 (CRC {:08x})", crc32fast::hash(&bytes));
    let Some(client) = RawClient::connect("wlshm-unsealed") else { return };
    client.create_pool(&file, 1024);
    client.create_buffer([0, 16, 16, 64, 1]);
    client.commit();
    // The answer to a request after the frame: it was copied.
    let (mut seen, mut events) = (Vec::new(), [0; 1000]);
    client.request(1, 0, &[0x1234], &[]);
    while !seen.windows(4).any(|word| word == 0x1234_u32.to_ne_bytes()) {
        let len = (&client.socket).read(&mut events).unwrap();
        assert_ne!(len, 0, "the compositor has ended");
        seen.extend_from_slice(&events[..len]);
    }
    // Now it shrinks. A map would be SIGBUS.
    file.set_len(0).unwrap();
    client.commit();
    let shown = client.refused_for("cannot read the pool");
    assert!(shown.contains("is not mapped, its frames are copied by descriptor"), "{shown}");
    assert!(shown.contains("the file lacks the seals shrink"), "{shown}");
    assert!(shown.contains(&format!("{crc} of pool 6, copied by descriptor")), "{shown}");

    // Control: the seal is all that it lacked, and forbids the attack.
    let file = sealed_pool();
    let client = RawClient::connect("wlshm-sealed").unwrap();
    client.create_pool(&file, 1024);
    client.create_buffer([0, 16, 16, 64, 1]);
    file.set_len(0).unwrap_err();
    client.commit();
    let shown = client.leaves();
    assert!(shown.contains(&format!("{crc} of pool 6, copied from a map of 1024")), "{shown}");
}

#[test]
fn a_buffer_that_leaves_its_pool_is_a_named_error() {
    const MAX: i32 = i32::MAX;
    for (geometry, complaint) in [
        ([4, 16, 16, 64, 1], "at 4 of 16 rows of 64 bytes ends at 1028, and its pool at 1024"),
        ([0, 16, 17, 64, 1], "ends at 1088"),
        ([0, 16, 16, 65, 1], "ends at 1040"),
        ([MAX, MAX, MAX, MAX, 1], "stride 2147483647 is less than 2147483647 pixels"),
        ([MAX, 1, MAX, MAX, 1], "ends at 4611686016279904256"),
        ([0, 0x4000_0001, 1, 4, 1], "stride 4 is less than 1073741825 pixels"), // 4 in 32 bits
        ([-4, 16, 16, 64, 1], "offset -4 is negative"),
        ([0, -16, 16, 64, 1], "width -16 is not positive"),
        ([0, 16, 0, 64, 1], "height 0 is not positive"),
        ([0, 16, 16, i32::MIN, 1], "stride -2147483648 is not positive"),
        ([0, 16, 16, 63, 1], "stride 63 is less than 16 pixels"),
        ([0, 16, 16, 64, 7], "format 7 is not offered"),
    ] {
        let Some(client) = RawClient::connect("wlshm-geometry") else { return };
        client.create_pool(sealed_pool(), 1024);
        client.create_buffer(geometry);
        client.commit();
        client.refused_for(complaint);
    }
    // Control: what fits exactly.
    for geometry in [[0, 16, 16, 64, 0], [960, 16, 1, 64, 1], [4, 1, 255, 4, 1]] {
        let client = RawClient::connect("wlshm-geometry").unwrap();
        client.create_pool(sealed_pool(), 1024);
        client.create_buffer(geometry);
        client.commit();
        let shown = client.leaves();
        assert!(shown.contains("copied from a map of 1024"), "{shown}");
    }
}

#[test]
fn a_pool_that_is_not_what_the_client_says_is_a_named_error() {
    let hole = |len: u64| {
        let file = sealed_pool();
        file.set_len(len).unwrap();
        OwnedFd::from(file)
    };
    let pool_of = |fd: OwnedFd, size: i32, resized: Option<i32>| {
        let client = RawClient::connect("wlshm-pool")?;
        client.create_pool(fd, size as u32);
        if let Some(size) = resized {
            client.request(POOL, 2, &[size as u32], &[]);
        }
        Some(client)
    };
    for (fd, size, resized, complaint) in [
        (hole(1024), 1025, None, "a pool of 1025 bytes has 1024"),
        (hole(1024), 0, None, "size 0 is not positive"),
        (hole(1024), -1, None, "size -1 is not positive"),
        (hole(1 << 40), 1024, None, "the file has 1099511627776 bytes"),
        (pipe().0.into(), 1024, None, "cannot carry seals"),
        (pool().0.into(), 1025, None, "a pool of 1025 bytes has 1024"),
        (hole(1024), 1024, Some(1025), "a pool of 1025 bytes has 1024"),
        (hole(1024), 1024, Some(1023), "a pool of 1024 bytes cannot be resized to 1023"),
        (hole(1024), 1024, Some(-1), "size -1 is not positive"),
        (pool().0.into(), 1024, Some(1025), "a pool of 1025 bytes has 1024"),
    ] {
        let Some(client) = pool_of(fd, size, resized) else { return };
        client.refused_for(complaint);
    }

    // It has grown too much for the compositor after it was received.
    let file = sealed_pool();
    let client = pool_of(file.try_clone().unwrap().into(), 1024, None).unwrap();
    file.set_len(1 << 40).unwrap();
    client.request(POOL, 2, &[2048], &[]);
    client.refused_for("1099511627776");
}

#[test]
fn a_wrong_message_is_a_named_error() {
    if !may_open_many() {
        return;
    }
    let file = sealed_pool();
    type Attack<'a> = &'a dyn Fn(&RawClient);
    let attacks: [(Attack<'_>, &str); 10] = [
        (&|client| client.request(99, 0, &[], &[]), "there is no such object"),
        (&|client| client.request(SURFACE, 77, &[], &[]), "there is no request 77"),
        (&|client| client.request(3, 0, &[], &[]), "too short for its arguments"),
        (&|client| client.request(3, 0, &[SURFACE], &[]), "5 cannot be a new object"),
        (&|client| client.request(3, 0, &[u32::MAX], &[]), "cannot be a new object"),
        (&|client| client.request(SURFACE, 1, &[3, 0, 0], &[]), "3 is no buffer"),
        (&|client| client.request(4, 0, &[POOL, 1024], &[]), "a pool without a descriptor"),
        (&|client| client.request(SURFACE, 2, &[], &[file.as_fd(); 100]), "that no message asks"),
        (&|client| (&client.socket).write_all(&[0; 8]).unwrap(), "a message of 0 bytes"),
        (&|client| (0..2000).for_each(|n| client.request(3, 1, &[n + 8], &[])), "too many objects"),
    ];
    for (attack, complaint) in attacks {
        let Some(client) = RawClient::connect("wlshm-message") else { return };
        attack(&client);
        client.refused_for(complaint);
    }
}

#[test]
fn a_client_that_is_killed_is_said_to_be_gone() {
    let socket = Temp::named("wlshm-killed");
    let Some(compositor) = compositor(&socket.0) else { return };
    let mut client = wlshm("client", &socket.0).unwrap();
    let client = Running::start(client.arg("--frames=1000000"));
    compositor.says("frame 20");
    client.signal(Signal::KILL);
    compositor.says("the client is gone with its surface up");
    assert!(compositor.status().success());

    let client = RawClient::connect("wlshm-half").unwrap();
    (&client.socket).write_all(&[0; 7]).unwrap();
    assert!(client.leaves().contains("the client is gone in a message, after 0 frames"));
}

#[test]
fn a_compositor_that_refuses_ends_or_hangs_is_named() {
    let socket = Temp::named("wlshm-refusing");
    let Some(mut client) = wlshm("client", &socket.0) else { return };
    let name = socket.0.display();
    fails(&mut client, b"", &format!("wlshm: {name}: No such file"));

    let listener = UnixListener::bind(&socket.0).unwrap();
    let error = [&[1, 28 << 16, 4, 2, 8].map(u32::to_ne_bytes).concat(), &b"no\x1b[2J!\0"[..]];
    for (answer, complaint) in [
        (&error.concat()[..], "the compositor says of object 4: no\\u{1b}[2J! (code 2)"),
        (b"", "the compositor is gone"),
    ] {
        let child = start(&mut client, Stdio::null());
        listener.accept().unwrap().0.write_all(answer).unwrap();
        failed(end_of(child), &format!("wlshm: {name}: {complaint}"));
    }
    fails(&mut client, b"", &format!("wlshm: {name}: the peer says nothing for 5s"));
}

#[test]
fn a_client_does_not_draw_into_a_buffer_that_is_in_use() {
    let socket = Temp::named("wlshm-release");
    let Some(mut client) = wlshm("client", &socket.0) else { return };
    let listener = UnixListener::bind(&socket.0).unwrap();
    let client = Running::start(client.arg("--frames=9"));
    let mut compositor = listener.accept().unwrap().0;
    let mut event = |object: u32, arguments: &[u8]| {
        let head = (8 + arguments.len() as u32) << 16;
        let bytes = [&object.to_ne_bytes(), &head.to_ne_bytes(), arguments].concat();
        compositor.write_all(&bytes).unwrap();
    };
    // What the registry says, and that this is all.
    for (name, interface) in [(1_u32, &b"wl_compositor\0\0\0"[..]), (2, b"wl_shm\0\0")] {
        let len = interface.iter().filter(|byte| **byte != 0).count() as u32 + 1;
        let words = [&name.to_ne_bytes(), &len.to_ne_bytes(), interface];
        event(2, &[&words.concat()[..], &1_u32.to_ne_bytes()].concat());
    }
    event(3, &[0; 4]);
    client.says("drew frame 1");
    client.lines.recv_timeout(Duration::from_millis(300)).unwrap_err();
    event(BUFFER + 1, &[]); // the first of its two
    client.says("drew frame 2");
}

#[test]
fn a_compositor_replaces_only_a_dead_socket() {
    let socket = Temp::named("wlshm-socket");
    let Some(killed) = compositor(&socket.0) else { return };
    killed.signal(Signal::KILL);
    killed.status();
    assert!(socket.0.exists());
    let other = compositor(&socket.0).unwrap();
    drop(other);

    let file = Temp::file("wlshm-file", b"precious");
    fails(&mut wlshm("compositor", &file.0).unwrap(), b"", "Address already in use");
    assert_eq!(fs::read(&file.0).unwrap(), b"precious");
}

#[test]
fn wrong_arguments_are_named() {
    for (arguments, complaint) in [
        (&[][..], "there is no command"),
        (&["client"], "there is no socket"),
        (&["client", "--frames=many", "socket"], "many"),
        (&["compositor", "one", "two"], "two"),
    ] {
        let Some(mut wlshm) = example("wlshm") else { return };
        fails(wlshm.args(arguments), b"", complaint);
    }
}

/// Whether this program of Debian's package weston is here.
fn is_installed(program: &str) -> bool {
    let mut find = Command::new("sh");
    find.args(["-c", "command -v \"$1\"", "sh", program]).stdout(Stdio::null());
    let found = find.status().unwrap().success();
    if !found {
        eprintln!("not tested with {program}: it is not installed (Debian's package weston)");
    }
    found
}

#[test]
fn a_real_compositor_takes_the_frames() {
    if !is_installed("weston") {
        return;
    }
    // One reads the pixels at once, and the other keeps the buffer until there is another one.
    for (name, renderer) in [("wlshm-weston", None), ("wlshm-pixman", Some("--use-pixman"))] {
        let directory = Temp::directory(name);
        fs::set_permissions(&directory.0, Permissions::from_mode(0o700)).unwrap();
        let socket = directory.0.join("wayland");
        let Some(mut client) = wlshm("client", &socket) else { return };
        let mut weston = Command::new("weston");
        weston.args(["--backend=headless-backend.so", "--shell=kiosk-shell.so", "--no-config"]);
        weston.args(["--idle-time=0", "--socket=wayland"]).args(renderer);
        let weston = weston.env("XDG_RUNTIME_DIR", &directory.0).stderr(Stdio::null());
        let mut weston = Running::start(weston);
        let ended = eventually("weston", || {
            let ended = weston.child.try_wait().unwrap().map(Some);
            ended.or_else(|| UnixStream::connect(&socket).ok().map(|_| None))
        });
        if let Some(status) = ended {
            eprintln!("not tested with weston {renderer:?}: it does not start here: {status}");
            continue;
        }
        let shown = crate::succeeds(client.arg("--frames=30"), b"");
        assert!(shown.contains("the pool grew to 2850816 bytes"), "{shown}");
        assert!(shown.contains("the compositor has taken 30 frames"), "{shown}");
        weston.signal(Signal::TERM);
        assert!(weston.status().success());
    }
}

#[test]
fn a_real_client_has_its_pool_mapped() {
    if !is_installed("weston-simple-shm") {
        return;
    }
    let socket = Temp::named("wlshm-simple");
    let Some(mut command) = wlshm("compositor", &socket.0) else { return };
    let compositor = Running::start(command.arg("--frames=20"));
    compositor.says("waiting for a client");
    let mut client = Command::new("weston-simple-shm");
    let client = client.env("WAYLAND_DISPLAY", &socket.0).env("XDG_RUNTIME_DIR", "/tmp");
    let _client = Running::start(client.stderr(Stdio::null()));
    compositor.says("bytes is mapped");
    let first = compositor.says("frame 0: 250x250");
    let last = compositor.says("frame 19: 250x250");
    assert!(last.ends_with("copied from a map of 250000 bytes"), "{last}");
    let checksum = |line: &str| line.split_once("CRC").map(|(_, rest)| rest[..9].to_owned());
    assert_ne!(checksum(&first), checksum(&last), "it does not draw");
    compositor.says("20 frames were enough");
    assert!(compositor.status().success());
}
