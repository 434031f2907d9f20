//! A pool of buffers as Wayland's `wl_shm` has it: the client draws, and the compositor copies.
//!
//! ```sh
//! cargo run --release --example wlshm -- compositor /tmp/wl      # waits for one client …
//! cargo run --release --example wlshm -- client /tmp/wl          # … which draws, grows its pool, and draws again
//!
//! weston --backend=headless-backend.so --socket=wl &             # a real compositor
//! cargo run --release --example wlshm -- client "$XDG_RUNTIME_DIR/wl"
//!
//! cargo run --release --example wlshm -- compositor /tmp/wl &    # a real client
//! WAYLAND_DISPLAY=/tmp/wl weston-simple-shm
//! ```
//!
//! Both sides speak the wire protocol of Wayland, as much of it as such a client needs. The pool is a
//! memfd that cannot shrink (`F_SEAL_SHRINK`), so that a compositor that maps it gets no `SIGBUS`. It can
//! grow: the old maps stay valid, and buffers of before are read through them. A pool that can shrink is
//! refused by name, and its frames are copied by descriptor (`pread`) instead.
//!
//! A frame is copied once, and only the copy is looked at, because the client may draw at any time. Then
//! the buffer is released at once. A client can also punch holes. Where reading one may not fail, under
//! `vm.overcommit_memory=2`, copy by descriptor.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use sealed_mmap::socket::{recv_fds, send_fds};
use sealed_mmap::{
    LiveMap, Refusal, SealPolicy, SealedFile, Seals, SharedMap, SizeSealed, get_seals,
};

const USAGE: &str = "usage: wlshm client [--frames N] SOCKET
       wlshm compositor [--frames N] SOCKET";

const HELP: &str = "\
client       draws frames into a pool that it shares with the compositor at SOCKET
compositor   waits for one client at SOCKET, and shows the checksum of each frame until it leaves

  --frames N   how many frames to draw, 6 by default; or after how many to end";

/// The largest pool that the compositor maps.
const LIMIT: u64 = 64 << 20;

/// How many objects a client may have at a time.
const MOST_OBJECTS: usize = 1000;

const PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN_FRAMES: Duration = Duration::from_millis(16);

fn main() -> ExitCode {
    let done = match parse_arguments() {
        Ok(Some(Arguments { is_client, frames, path })) => match is_client {
            true => draw(&path, frames.unwrap_or(6)),
            false => compose(&path, frames),
        }
        .map_err(|error| named(error, &path)),
        Ok(None) => say(format_args!("{HELP}\n\n{USAGE}")),
        Err(error) => Err(anyhow!("{error}\n{USAGE}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads the output any longer: `| head`.
        Err(error) if error.downcast_ref::<Unsaid>().is_some_and(Unsaid::is_closed_pipe) => {
            ExitCode::FAILURE
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "wlshm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

// The heart of it: a pool that grows, and a pool that is received.

/// The client's pool.
struct Canvas {
    file: SealedFile<SizeSealed>,
    map: SharedMap,
}

impl Canvas {
    fn new(len: u64) -> Result<Self> {
        let mut draft = SealedFile::create("wlshm pool").context("cannot create the pool")?;
        draft.set_len(len)?;
        // SEAL: the compositor cannot add GROW.
        let file = draft.seal_size(Seals::SEAL)?;
        let map = file.map_shared()?;
        Ok(Self { file, map })
    }

    /// Makes the pool longer. Returns the old map, which stays valid.
    fn grow(&mut self, len: u64) -> Result<SharedMap> {
        File::from(OwnedFd::from(self.file.try_clone()?)).set_len(len)?;
        self.file.refresh_len(len)?;
        Ok(std::mem::replace(&mut self.map, self.file.map_shared()?))
    }
}

/// The compositor's side of a pool.
struct Pool {
    /// `None` if the pool can shrink.
    sealed: Option<SealedFile<SizeSealed>>,
    source: Source,
    size: u64,
}

/// Where frames are copied from.
#[derive(Clone)]
enum Source {
    Map(Rc<LiveMap>),
    /// `pread` of a file that has become shorter is an error. Touching a map of it would be `SIGBUS`.
    File(Rc<File>),
}

impl Pool {
    /// Also returns why the pool is not mapped.
    fn receive(fd: OwnedFd, size: i32) -> Result<(Self, Option<Refusal>)> {
        let size = length("size", size)?;
        let policy = SealPolicy::untrusted_live(LIMIT);
        let mut pool = match SealedFile::receive_size_sealed(fd, &policy) {
            Ok(file) => {
                let source = Source::Map(Rc::new(file.map_live()?));
                (Self { sealed: Some(file), source, size }, None)
            }
            Err(refused) => match refused.into_parts() {
                // Memory like any other. Reading another kind of file may take forever.
                (refusal @ Refusal::MissingSeals { .. }, fd) => {
                    let source = Source::File(Rc::new(fd.into()));
                    (Self { sealed: None, source, size: 0 }, Some(refusal))
                }
                (refusal, _) => return Err(fault(INVALID_FD, refusal)),
            },
        };
        pool.0.set_size(size)?;
        Ok(pool)
    }

    /// Later buffers may lie anywhere in this size. Earlier ones keep the map that they have.
    fn resize(&mut self, size: i32) -> Result<()> {
        let size = length("size", size)?;
        if size < self.size {
            let why = format!("a pool of {} bytes cannot be resized to {size}", self.size);
            return Err(fault(INVALID_FD, why));
        }
        if let Some(file) = &mut self.sealed {
            file.refresh_len(LIMIT).map_err(|error| fault(INVALID_FD, error))?;
            self.source = Source::Map(Rc::new(file.map_live()?));
        }
        self.set_size(size)
    }

    fn set_size(&mut self, size: u64) -> Result<()> {
        let len = match &self.source {
            Source::Map(map) => map.len() as u64,
            Source::File(file) => file.metadata()?.len().min(LIMIT),
        };
        if size > len {
            let why = format!("a pool of {size} bytes has {len} (and may have {LIMIT})");
            return Err(fault(INVALID_FD, why));
        }
        self.size = size;
        Ok(())
    }
}

impl Source {
    fn copy(&self, offset: u64, target: &mut [u8]) -> Result<()> {
        match self {
            Self::Map(map) => Ok(map.read_at(offset, target)?),
            Self::File(file) => file
                .read_exact_at(target, offset)
                .map_err(|error| fault(INVALID_FD, format!("cannot read the pool: {error}"))),
        }
    }
}

/// Where a frame lies in its pool.
#[derive(Clone, Copy)]
struct Geometry {
    offset: u64,
    width: u64,
    height: u64,
    stride: u64,
}

impl Geometry {
    /// A client may say anything.
    fn new(pool_size: u64, offset: i32, [width, height, stride]: [i32; 3]) -> Result<Self> {
        let wrong = |why: String| fault(INVALID_STRIDE, why);
        let offset =
            u64::try_from(offset).map_err(|_| wrong(format!("offset {offset} is negative")))?;
        let (width, height) = (length("width", width)?, length("height", height)?);
        let stride = length("stride", stride)?;
        // Each is less than 2^31: none of this overflows.
        if stride < width * 4 {
            return Err(wrong(format!("stride {stride} is less than {width} pixels")));
        }
        let end = offset + stride * height;
        if end > pool_size {
            let why =
                format!("a buffer at {offset} of {height} rows of {stride} bytes ends at {end}");
            return Err(wrong(format!("{why}, and its pool at {pool_size}")));
        }
        Ok(Self { offset, width, height, stride })
    }

    fn len(&self) -> usize {
        (self.stride * self.height) as usize // at most LIMIT
    }

    /// The checksum of the pixels, without what is between rows.
    fn checksum(&self, bytes: &[u8]) -> u32 {
        let mut checksum = crc32fast::Hasher::new();
        for row in bytes.chunks(self.stride as usize) {
            checksum.update(&row[..self.width as usize * 4]);
        }
        checksum.finalize()
    }
}

fn length(name: &str, value: i32) -> Result<u64> {
    match u64::try_from(value) {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(fault(INVALID_STRIDE, format!("{name} {value} is not positive"))),
    }
}

/// What the peer has done wrong.
#[derive(Debug, thiserror::Error)]
#[error("protocol error: {why}")]
struct Fault {
    code: u32,
    why: String,
}

// Of wl_shm.
const INVALID_FORMAT: u32 = 0;
const INVALID_STRIDE: u32 = 1;
const INVALID_FD: u32 = 2;
// Of wl_display.
const INVALID_OBJECT: u32 = 0;
const INVALID_METHOD: u32 = 1;
const NO_MEMORY: u32 = 2;

fn fault(code: u32, why: impl Display) -> anyhow::Error {
    Fault { code, why: why.to_string() }.into()
}

// The wire: https://wayland.freedesktop.org/docs/html/ch04.html#sect-Protocol-Wire-Format

const DISPLAY: u32 = 1;

/// A message is at most this long, as in libwayland.
const LONGEST: usize = 4096;

struct Wire {
    socket: UnixStream,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

struct Message {
    object: u32,
    opcode: u16,
    arguments: Vec<u8>,
}

impl Wire {
    fn new(socket: UnixStream) -> Result<Self> {
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, bytes: Vec::new(), fds: Vec::new() })
    }

    /// The next message, or `None` if the peer is gone.
    fn next(&mut self) -> Result<Option<Message>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let mut bytes = [0; LONGEST];
            match recv_fds(&self.socket, &mut bytes, &mut self.fds) {
                Ok(0) => return Ok(None),
                Ok(len) => self.bytes.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    bail!("the peer says nothing for {PATIENCE:?}")
                }
                Err(error) => return Err(error).context("cannot receive"),
            }
            if self.fds.len() > 64 {
                return Err(fault(INVALID_METHOD, "descriptors that no message asks for"));
            }
        }
    }

    fn take(&mut self) -> Result<Option<Message>> {
        let word = |n: usize| Some(u32::from_ne_bytes(*self.bytes.get(n..)?.first_chunk()?));
        let (Some(object), Some(word)) = (word(0), word(4)) else { return Ok(None) };
        let (len, opcode) = ((word >> 16) as usize, word as u16);
        if len < 8 || len % 4 != 0 || len > LONGEST {
            return Err(fault(INVALID_METHOD, format!("a message of {len} bytes")));
        }
        if self.bytes.len() < len {
            return Ok(None);
        }
        let arguments = self.bytes[8..len].to_vec();
        self.bytes.drain(..len);
        Ok(Some(Message { object, opcode, arguments }))
    }

    fn send(&self, object: u32, opcode: u16, arguments: &[Argument<'_>]) -> Result<()> {
        let mut bytes = vec![0; 8];
        let mut fds: Vec<BorrowedFd<'_>> = Vec::new();
        for argument in arguments {
            match *argument {
                Argument::Word(word) => bytes.extend_from_slice(&word.to_ne_bytes()),
                Argument::Int(value) => bytes.extend_from_slice(&value.to_ne_bytes()),
                Argument::Text(text) => {
                    bytes.extend_from_slice(&(text.len() as u32 + 1).to_ne_bytes());
                    bytes.extend_from_slice(text.as_bytes());
                    bytes.push(0);
                    bytes.resize(bytes.len().next_multiple_of(4), 0);
                }
                Argument::Fd(fd) => fds.push(fd),
            }
        }
        let head = (bytes.len() as u32) << 16 | u32::from(opcode);
        bytes[..4].copy_from_slice(&object.to_ne_bytes());
        bytes[4..8].copy_from_slice(&head.to_ne_bytes());
        let sent = send_fds(&self.socket, &bytes, &fds)
            .and_then(|sent| (&self.socket).write_all(&bytes[sent..]));
        match sent {
            // What the peer said before it left is still to be read.
            Err(error)
                if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
            {
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bail!("the peer reads nothing for {PATIENCE:?}")
            }
            sent => sent.context("cannot send"),
        }
    }
}

#[derive(Clone, Copy)]
enum Argument<'a> {
    Word(u32),
    Int(i32),
    Text(&'a str),
    Fd(BorrowedFd<'a>),
}
use Argument::{Fd, Int, Text, Word};

impl Message {
    fn word(&mut self) -> Result<u32> {
        let Some((word, rest)) = self.arguments.split_first_chunk() else {
            return Err(fault(INVALID_METHOD, "a message is too short for its arguments"));
        };
        let word = u32::from_ne_bytes(*word);
        self.arguments = rest.to_vec();
        Ok(word)
    }

    fn int(&mut self) -> Result<i32> {
        Ok(self.word()? as i32)
    }

    fn text(&mut self) -> Result<String> {
        let len = self.word()? as usize;
        let text = self.arguments.get(..len).and_then(|text| text.strip_suffix(&[0]));
        let Some(text) = text else { return Err(fault(INVALID_METHOD, "a text without an end")) };
        let text = String::from_utf8_lossy(text).into_owned();
        self.arguments.drain(..len.next_multiple_of(4).min(self.arguments.len()));
        Ok(text)
    }
}

// The client.

struct Client {
    wire: Wire,
    last_id: u32,
    globals: HashMap<String, u32>,
    registry: u32,
    /// The buffers that the compositor may still read.
    busy: HashSet<u32>,
}

impl Client {
    fn connect(path: &Path) -> Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let wire = Wire::new(socket)?;
        let (globals, busy) = (HashMap::new(), HashSet::new());
        let mut client = Self { wire, last_id: DISPLAY, globals, registry: 0, busy };
        client.registry = client.create(DISPLAY, 1, &[])?;
        client.round_trip()?;
        Ok(client)
    }

    /// A request that makes an object, whose number is the first argument.
    fn create(&mut self, object: u32, opcode: u16, arguments: &[Argument<'_>]) -> Result<u32> {
        self.last_id += 1;
        let id = self.last_id;
        self.wire.send(object, opcode, &[&[Word(id)], arguments].concat())?;
        Ok(id)
    }

    fn bind(&mut self, interface: &str) -> Result<u32> {
        let name =
            *self.globals.get(interface).with_context(|| format!("it has no {interface}"))?;
        self.last_id += 1;
        let arguments = [Word(name), Text(interface), Word(1), Word(self.last_id)];
        self.wire.send(self.registry, 0, &arguments)?;
        Ok(self.last_id)
    }

    /// Waits until everything that was sent is done.
    fn round_trip(&mut self) -> Result<()> {
        let callback = self.create(DISPLAY, 0, &[])?;
        while self.dispatch()? != callback {}
        Ok(())
    }

    /// Takes one event, and returns whose it is.
    fn dispatch(&mut self) -> Result<u32> {
        let mut event = self.wire.next()?.context("the compositor is gone")?;
        match (event.object, event.opcode) {
            (DISPLAY, 0) => {
                let (object, code, why) = (event.word()?, event.word()?, event.text()?);
                bail!(
                    "the compositor says of object {object}: {} (code {code})",
                    why.escape_debug()
                )
            }
            (object, 0) if object == self.registry => {
                let (name, interface) = (event.word()?, event.text()?);
                self.globals.insert(interface, name);
            }
            (object, 0) => {
                self.busy.remove(&object); // wl_buffer.release
            }
            _ => {}
        }
        Ok(event.object)
    }
}

const XRGB8888: u32 = 1;
const SMALL: (i32, i32) = (256, 192);
const LARGE: (i32, i32) = (640, 480);

fn draw(path: &Path, frames: u64) -> Result<()> {
    let mut client = Client::connect(path)?;
    let compositor = client.bind("wl_compositor")?;
    let shm = client.bind("wl_shm")?;
    let surface = client.create(compositor, 0, &[])?;

    let bytes = |(width, height): (i32, i32)| width * 4 * height;
    let (short, long) = (2 * bytes(SMALL), 2 * bytes(SMALL) + 2 * bytes(LARGE));
    let mut canvas = Canvas::new(short as u64)?;
    let pool = client.create(shm, 0, &[Fd(canvas.file.as_fd()), Int(short)])?;
    say(format_args!("made a pool of {short} bytes, sealed {}", get_seals(&canvas.file)?))?;
    let buffer = |client: &mut Client, start: i32, size: (i32, i32), n: i32| {
        let (width, height) = size;
        let offset = start + n * bytes(size);
        let geometry = [offset, width, height, width * 4].map(Int);
        let id = client.create(pool, 0, &[&geometry[..], &[Word(XRGB8888)]].concat())?;
        Ok::<_, anyhow::Error>((id, offset as u64, size))
    };
    let small = [buffer(&mut client, 0, SMALL, 0)?, buffer(&mut client, 0, SMALL, 1)?];

    // The window becomes larger for the second third of the frames.
    let larger = frames / 3..frames - frames / 3;
    let mut grown = None;
    for frame in 0..frames {
        if grown.is_none() && larger.contains(&frame) {
            let before = canvas.grow(long as u64)?;
            client.wire.send(pool, 2, &[Int(long)])?;
            let large = [0, 1].map(|n| buffer(&mut client, short, LARGE, n));
            let [one, two] = large;
            grown = Some((before, [one?, two?]));
            say(format_args!("the pool grew to {long} bytes"))?;
        }
        let n = (frame % 2) as usize;
        let (map, (id, offset, (width, height))) = match &grown {
            Some((_, large)) if larger.contains(&frame) => (&canvas.map, large[n]),
            Some((before, _)) => (before, small[n]), // the map of before, which is still valid
            None => (&canvas.map, small[n]),
        };
        while client.busy.contains(&id) {
            client.dispatch()?;
        }
        let pixels = picture(frame, width, height);
        map.write_at(offset, &pixels)?;
        client.busy.insert(id);
        client.wire.send(surface, 1, &[Word(id), Int(0), Int(0)])?;
        client.wire.send(surface, 2, &[0, 0, width, height].map(Int))?;
        client.wire.send(surface, 6, &[])?;
        let checksum = crc32fast::hash(&pixels);
        say(format_args!("drew frame {frame}: {width}x{height} (CRC {checksum:08x})"))?;
    }
    client.wire.send(surface, 0, &[])?;
    client.round_trip()?;
    say(format_args!("the compositor has taken {frames} frames"))
}

/// A gradient that moves.
fn picture(frame: u64, width: i32, height: i32) -> Vec<u8> {
    let shade = |x: i32, y: i32| [x as u8, y as u8, (frame * 16) as u8, 0];
    (0..height).flat_map(|y| (0..width).flat_map(move |x| shade(x, y))).collect()
}

// The compositor.

enum Object {
    Display,
    Registry,
    Compositor,
    Region,
    Shm,
    Pool(Pool),
    Buffer(Buffer),
    Surface(Surface),
    WmBase,
    XdgSurface(u32),
    Toplevel,
}

#[derive(Clone)]
struct Buffer {
    pool: u32,
    source: Source,
    geometry: Geometry,
}

#[derive(Default)]
struct Surface {
    attached: Option<(u32, Buffer)>,
    /// The callbacks of the next frame.
    callbacks: Vec<u32>,
    /// The window of the surface, which waits to be told that it may draw.
    unconfigured: Option<[u32; 2]>,
}

const GLOBALS: [(&str, u32); 3] = [("wl_compositor", 4), ("wl_shm", 1), ("xdg_wm_base", 1)];

struct Compositor {
    wire: Wire,
    objects: HashMap<u32, Object>,
    frames: u64,
    bytes: Vec<u8>,
}

fn compose(path: &Path, frames: Option<u64>) -> Result<()> {
    let listener = bind(path)?;
    let client = say(format_args!("waiting for a client at {}", path.display()))
        .and_then(|()| listener.accept().context("no client comes"));
    fs::remove_file(path)?;
    let wire = Wire::new(client?.0)?;
    let objects = HashMap::from([(DISPLAY, Object::Display)]);
    let mut compositor = Compositor { wire, objects, frames: 0, bytes: Vec::new() };
    while frames.is_none_or(|frames| compositor.frames < frames) {
        let (object, handled) = match compositor.wire.next() {
            Ok(Some(message)) => (message.object, compositor.handle(message)),
            Ok(None) => return compositor.part(),
            Err(error) => (DISPLAY, Err(error)),
        };
        if let Err(error) = handled {
            if let Some(Fault { code, why }) = error.downcast_ref() {
                compositor.wire.send(DISPLAY, 0, &[Word(object), Word(*code), Text(why)])?;
            }
            return Err(error.context(format!("the client's object {object}")));
        }
    }
    say(format_args!("{} frames were enough", compositor.frames))
}

/// Replaces the socket of a compositor that is gone, and nothing else.
fn bind(path: &Path) -> io::Result<UnixListener> {
    // Any other file refuses connections, too.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = UnixStream::connect(path).err();
    if is_socket && refused.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
        fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

impl Compositor {
    /// A client says no goodbye. One that ends as it means to has taken its surfaces down.
    fn part(&self) -> Result<()> {
        let frames = self.frames;
        let is_surface = |object: &Object| matches!(object, Object::Surface(_));
        if !self.wire.bytes.is_empty() {
            return say(format_args!("the client is gone in a message, after {frames} frames"));
        }
        match self.objects.values().any(is_surface) {
            true => {
                say(format_args!("the client is gone with its surface up, after {frames} frames"))
            }
            false => say(format_args!("the client has left after {frames} frames")),
        }
    }

    fn handle(&mut self, mut message: Message) -> Result<()> {
        let id = message.object;
        let Some(object) = self.objects.get_mut(&id) else {
            return Err(fault(INVALID_OBJECT, "there is no such object"));
        };
        match (object, message.opcode) {
            (Object::Display, 0) => self.call_back(message.word()?),
            (Object::Display, 1) => {
                let registry = message.word()?;
                self.insert(registry, Object::Registry)?;
                for (n, (interface, version)) in GLOBALS.into_iter().enumerate() {
                    let global = [Word(n as u32), Text(interface), Word(version)];
                    self.wire.send(registry, 0, &global)?;
                }
                Ok(())
            }
            (Object::Registry, 0) => {
                let (name, _interface, _version) =
                    (message.word()?, message.text()?, message.word()?);
                let id = message.word()?;
                self.bind(name, id)
            }

            (Object::Compositor, 0) => {
                self.insert(message.word()?, Object::Surface(Surface::default()))
            }
            (Object::Compositor, 1) => self.insert(message.word()?, Object::Region),
            (Object::Region, 1 | 2) => Ok(()),
            (Object::Shm, 0) => {
                let (pool, size) = (message.word()?, message.int()?);
                if self.wire.fds.is_empty() {
                    return Err(fault(INVALID_FD, "a pool without a descriptor"));
                }
                self.add_pool(pool, size)
            }
            (Object::Pool(pool), 0) => {
                let (buffer, offset) = (message.word()?, message.int()?);
                let size = [message.int()?, message.int()?, message.int()?];
                let format = message.word()?;
                if format > XRGB8888 {
                    return Err(fault(INVALID_FORMAT, format!("format {format} is not offered")));
                }
                let geometry = Geometry::new(pool.size, offset, size)?;
                let source = pool.source.clone();
                self.insert(buffer, Object::Buffer(Buffer { pool: id, source, geometry }))
            }
            (Object::Pool(pool), 2) => {
                let before = pool.size;
                pool.resize(message.int()?)?;
                say(format_args!("pool {id} grew from {before} bytes to {}", pool.size))
            }

            (Object::Surface(surface), 6) => {
                let Surface { attached, callbacks, unconfigured } = std::mem::take(surface);
                self.commit(attached, callbacks, unconfigured)
            }
            (Object::Surface(_), 1) => {
                let buffer = message.word()?;
                let attached = match self.objects.get(&buffer) {
                    _ if buffer == 0 => None,
                    Some(Object::Buffer(found)) => Some((buffer, found.clone())),
                    _ => return Err(fault(INVALID_OBJECT, format!("{buffer} is no buffer"))),
                };
                if let Some(Object::Surface(surface)) = self.objects.get_mut(&id) {
                    surface.attached = attached;
                }
                Ok(())
            }
            (Object::Surface(surface), 3) => {
                if surface.callbacks.len() == MOST_OBJECTS {
                    return Err(fault(NO_MEMORY, "too many callbacks"));
                }
                surface.callbacks.push(message.word()?);
                Ok(())
            }
            // Only the pixels matter here.
            (Object::Surface(_), 2 | 4 | 5 | 7..=9) => Ok(()),

            (Object::WmBase, 2) => {
                let (window, surface) = (message.word()?, message.word()?);
                self.insert(window, Object::XdgSurface(surface))
            }
            (Object::XdgSurface(surface), 1) => {
                let (surface, toplevel) = (*surface, message.word()?);
                self.insert(toplevel, Object::Toplevel)?;
                match self.objects.get_mut(&surface) {
                    Some(Object::Surface(surface)) => surface.unconfigured = Some([id, toplevel]),
                    _ => return Err(fault(INVALID_OBJECT, format!("{surface} is no surface"))),
                }
                Ok(())
            }
            (Object::WmBase, 3) | (Object::XdgSurface(_), 3 | 4) | (Object::Toplevel, 1..) => {
                Ok(())
            }

            (Object::Pool(_), 1)
            | (
                Object::Buffer(_)
                | Object::Surface(_)
                | Object::Region
                | Object::WmBase
                | Object::XdgSurface(_)
                | Object::Toplevel,
                0,
            ) => {
                self.objects.remove(&id);
                self.wire.send(DISPLAY, 1, &[Word(id)])
            }
            (_, opcode) => Err(fault(INVALID_METHOD, format!("there is no request {opcode}"))),
        }
    }

    fn insert(&mut self, id: u32, object: Object) -> Result<()> {
        if self.objects.len() == MOST_OBJECTS {
            return Err(fault(NO_MEMORY, "too many objects"));
        }
        // The upper numbers are the compositor's.
        if id == 0 || id >= 0xff00_0000 || self.objects.contains_key(&id) {
            return Err(fault(INVALID_OBJECT, format!("{id} cannot be a new object")));
        }
        self.objects.insert(id, object);
        Ok(())
    }

    fn bind(&mut self, name: u32, id: u32) -> Result<()> {
        match name {
            0 => self.insert(id, Object::Compositor),
            1 => {
                self.insert(id, Object::Shm)?;
                (0..=XRGB8888).try_for_each(|format| self.wire.send(id, 0, &[Word(format)]))
            }
            2 => self.insert(id, Object::WmBase),
            _ => Err(fault(INVALID_OBJECT, format!("there is no global {name}"))),
        }
    }

    fn call_back(&mut self, callback: u32) -> Result<()> {
        // The time in milliseconds, by which clients animate.
        let now = self.frames * BETWEEN_FRAMES.as_millis() as u64;
        self.wire.send(callback, 0, &[Word(now as u32)])?;
        self.wire.send(DISPLAY, 1, &[Word(callback)])
    }

    fn add_pool(&mut self, id: u32, size: i32) -> Result<()> {
        let (pool, refusal) = Pool::receive(self.wire.fds.remove(0), size)?;
        match refusal {
            None => say(format_args!("pool {id} of {size} bytes is mapped"))?,
            Some(refusal) => say(format_args!(
                "pool {id} of {size} bytes is not mapped, its frames are copied by descriptor: \
                 {refusal}"
            ))?,
        }
        self.insert(id, Object::Pool(pool))
    }

    fn commit(
        &mut self,
        attached: Option<(u32, Buffer)>,
        callbacks: Vec<u32>,
        unconfigured: Option<[u32; 2]>,
    ) -> Result<()> {
        if let Some([window, toplevel]) = unconfigured {
            // Any size, and no states.
            self.wire.send(toplevel, 0, &[Word(0), Word(0), Word(0)])?;
            self.wire.send(window, 0, &[Word(1)])?;
        }
        if let Some((id, Buffer { pool, source, geometry })) = attached {
            self.bytes.resize(geometry.len(), 0);
            source.copy(geometry.offset, &mut self.bytes)?;
            let Geometry { width, height, .. } = geometry;
            let checksum = geometry.checksum(&self.bytes);
            let (n, how) = match source {
                Source::Map(map) => (self.frames, format!("from a map of {} bytes", map.len())),
                Source::File(_) => (self.frames, "by descriptor".into()),
            };
            say(format_args!(
                "frame {n}: {width}x{height} (CRC {checksum:08x}) of pool {pool}, copied {how}"
            ))?;
            self.frames += 1;
            if let Some(Object::Buffer(_)) = self.objects.get(&id) {
                self.wire.send(id, 0, &[])?;
            }
        }
        if !callbacks.is_empty() {
            thread::sleep(BETWEEN_FRAMES);
        }
        callbacks.into_iter().try_for_each(|callback| self.call_back(callback))
    }
}

/// Standard output, which is not a socket that is broken.
#[derive(Debug, thiserror::Error)]
#[error("standard output: {0}")]
struct Unsaid(io::Error);

impl Unsaid {
    fn is_closed_pipe(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

fn say(line: impl Display) -> Result<()> {
    writeln!(io::stdout(), "{line}").map_err(|error| Unsaid(error).into())
}

/// Everything but standard output is about the peer at this socket.
fn named(error: anyhow::Error, path: &Path) -> anyhow::Error {
    match error.is::<Unsaid>() {
        true => error,
        false => error.context(path.display().to_string()),
    }
}

struct Arguments {
    is_client: bool,
    frames: Option<u64>,
    path: PathBuf,
}

/// What to do, or `None` if the user asks for help.
fn parse_arguments() -> Result<Option<Arguments>> {
    use lexopt::prelude::*;

    let (mut is_client, mut frames, mut path) = (None, None, None);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("frames") => frames = Some(arguments.value()?.parse()?),
            Value(name) if is_client.is_none() && (name == "client" || name == "compositor") => {
                is_client = Some(name == "client");
            }
            Value(socket) if is_client.is_some() && path.is_none() && !socket.is_empty() => {
                path = Some(PathBuf::from(socket));
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    let is_client = is_client.context("there is no command")?;
    Ok(Some(Arguments { is_client, frames, path: path.context("there is no socket")? }))
}
