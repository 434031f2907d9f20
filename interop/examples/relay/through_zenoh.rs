//! zenoh: a publisher, a subscriber, and a session between two peers that know each other's address.

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use zenoh::bytes::ZBytes;
use zenoh::handlers::{FifoChannel, FifoChannelHandler};
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::CongestionControl;
use zenoh::sample::Sample;
use zenoh::{Config, Session, Wait};

use crate::order::Header;
use crate::{Incoming, Options, Outgoing, say};

const FRAMES: &str = "sealed-mmap/relay/frames";
const ANSWER: &str = "sealed-mmap/relay/answer";

/// What the receiver may hold before it stops reading from the network.
const QUEUED: usize = 2;

fn open(settings: &[(&str, String)]) -> Result<Session> {
    let mut config = Config::default();
    let quiet = ("scouting/multicast/enabled", "false".to_owned());
    for (key, value) in settings.iter().chain([&quiet]) {
        config.insert_json5(key, value).map_err(|error| anyhow!(error))?;
    }
    zenoh::open(config).wait().map_err(|error| anyhow!(error))
}

fn subscribe(
    session: &Session,
    key: &'static str,
) -> Result<Subscriber<FifoChannelHandler<Sample>>> {
    let subscriber = session.declare_subscriber(key).with(FifoChannel::new(QUEUED)).wait();
    subscriber.map_err(|error| anyhow!(error))
}

/// A publisher that waits where it could drop.
fn publisher(session: &Session, key: &'static str) -> Result<Publisher<'static>> {
    let publisher = session.declare_publisher(key).congestion_control(CongestionControl::Block);
    publisher.wait().map_err(|error| anyhow!(error))
}

pub(crate) struct Sender {
    publisher: Publisher<'static>,
    answers: Subscriber<FifoChannelHandler<Sample>>,
    timeout: Duration,
    _session: Session,
}

impl Sender {
    pub(crate) fn connect(address: &str, timeout: Duration) -> Result<Self> {
        let session = open(&[
            ("listen/endpoints", "[]".to_owned()),
            ("connect/endpoints", format!("[\"tcp/{address}\"]")),
            ("connect/timeout_ms", timeout.as_millis().to_string()),
            ("connect/exit_on_failure", "true".to_owned()),
        ])?;
        let answers = subscribe(&session, ANSWER)?;
        let publisher = publisher(&session, FRAMES)?;
        let until = Instant::now() + timeout;
        while !publisher.matching_status().wait().map_err(|error| anyhow!(error))?.matching() {
            ensure!(Instant::now() < until, "nobody receives at {address}");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { publisher, answers, timeout, _session: session })
    }
}

impl Outgoing for Sender {
    fn send(&mut self, header: Header, frame: Bytes) -> Result<()> {
        let begin = frame.as_ptr();
        let payload = ZBytes::from(frame);
        // Before the engine has it, it is the map itself.
        let is_map = payload.slices().next().is_none_or(|slice| slice.as_ptr() == begin);
        ensure!(is_map && payload.slices().count() <= 1, "the frame was copied");
        let put = self.publisher.put(payload).attachment(&header.to_bytes()[..]).wait();
        put.map_err(|error| anyhow!(error))
    }

    fn answer(&mut self) -> Result<String> {
        let answer = self.answers.recv_timeout(self.timeout).map_err(|error| anyhow!(error))?;
        let answer = answer.context("no answer")?;
        Ok(answer.payload().try_to_string()?.into_owned())
    }
}

pub(crate) struct Receiver {
    frames: Subscriber<FifoChannelHandler<Sample>>,
    /// Parts, as they came from the network.
    frame: ZBytes,
    answers: Publisher<'static>,
    timeout: Duration,
    session: Session,
}

impl Receiver {
    pub(crate) fn listen(address: &str, options: &Options) -> Result<Self> {
        let session = open(&[
            ("listen/endpoints", format!("[\"tcp/{address}\"]")),
            // zenoh puts the parts of a frame together before anybody can look at its length.
            ("transport/link/rx/max_message_size", options.limit.saturating_add(4096).to_string()),
        ])?;
        let answers = publisher(&session, ANSWER)?;
        let frames = subscribe(&session, FRAMES)?;
        say(format_args!("receiver: listens on {address}, zenoh"))?;
        Ok(Self { frames, frame: ZBytes::default(), answers, timeout: options.timeout, session })
    }
}

impl Incoming for Receiver {
    fn next(&mut self) -> Result<Header> {
        let sample = self.frames.recv_timeout(self.timeout).map_err(|error| anyhow!(error))?;
        let sample = sample.context("no frame, and no end either")?;
        let header = sample.attachment().context("a frame without a header")?.to_bytes();
        let header = header[..].try_into().context("a header of another length")?;
        let header = Header::from_bytes(header);
        let len = sample.payload().len() as u64;
        let announced = header.payload_len();
        ensure!(len == announced, "frame {} has {len} bytes, not {announced}", header.number);
        self.frame = sample.payload().clone(); // shares the bytes
        Ok(header)
    }

    fn read(&mut self, frame: &mut [u8]) -> io::Result<()> {
        self.frame.reader().read_exact(frame)
    }

    fn answer(&mut self, text: &str) -> Result<()> {
        self.answers.put(text).wait().map_err(|error| anyhow!(error))?;
        // Sends what is queued.
        self.session.close().wait().map_err(|error| anyhow!(error))
    }
}
