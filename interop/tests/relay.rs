//! `relay` carries every frame in order, or says what is wrong; tested against senders that lie.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use zenoh::{Config, Wait};

fn relay() -> Command {
    Command::new(env!("CARGO_BIN_EXE_relay"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn every_frame_arrives_as_a_sealed_file_through_both_engines() {
    for (frames, size) in [(9, 3_000_001), (3, 1), (0, 4096), (2, 0)] {
        let output = relay()
            .args(["--frames", &frames.to_string(), "--size", &size.to_string()])
            .output()
            .unwrap();
        let text = text(&output);
        assert!(output.status.success(), "{text}");
        let arrived = format!("consumer: {frames} frames, {} bytes, CRC-32", frames * size);
        assert_eq!(text.matches(&arrived).count(), 2, "{text}");
        assert!(text.contains("zenoh takes ") && text.contains("as long as tcp"), "{text}");
    }
}

#[test]
fn relay_says_how_it_is_used() {
    let help = relay().arg("--help").output().unwrap();
    assert!(help.status.success() && text(&help).contains("usage: relay"), "{}", text(&help));
    for arguments in
        [&["--unknown"][..], &["send"], &["send", "pigeon", "here"], &["--frames", "x"]]
    {
        let output = relay().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains("usage: relay"), "{}", text(&output));
    }
}

/// What a sender sends: number, announced length, bytes.
type Frame = (u64, u64, Vec<u8>);

const END: u64 = u64::MAX;

fn frame(number: u64) -> Frame {
    (number, 100, vec![number as u8; 100])
}

fn header(number: u64, len: u64) -> Vec<u8> {
    [number.to_le_bytes(), len.to_le_bytes()].concat()
}

fn send_over_tcp(address: &str, frames: &[Frame]) {
    let mut stream = TcpStream::connect(address).unwrap();
    for (number, len, bytes) in frames {
        // The receiver may have refused the frame before.
        let _ = stream.write_all(&[&header(*number, *len), &bytes[..]].concat());
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

fn send_over_zenoh(address: &str, frames: &[Frame]) {
    let mut config = Config::default();
    for (key, value) in [
        ("scouting/multicast/enabled", "false"),
        ("listen/endpoints", "[]"),
        ("connect/endpoints", &format!("[\"tcp/{address}\"]")),
        ("connect/timeout_ms", "10000"),
    ] {
        config.insert_json5(key, value).unwrap();
    }
    let session = zenoh::open(config).wait().unwrap();
    let publisher = session.declare_publisher("sealed-mmap/relay/frames").wait().unwrap();
    while !publisher.matching_status().wait().unwrap().matching() {
        thread::sleep(Duration::from_millis(5));
    }
    for (number, len, bytes) in frames {
        publisher.put(&bytes[..]).attachment(header(*number, *len)).wait().unwrap();
    }
    thread::sleep(Duration::from_secs(1));
}

/// What a receiver says of such a sender.
fn received(engine: &str, frames: &[Frame]) -> Output {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut receiver = relay()
        .args(["receive", engine, &address, "--limit", "1000", "--timeout", "3"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(receiver.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("listens on"), "{line}");
    match engine {
        "tcp" => send_over_tcp(&address, frames),
        _ => send_over_zenoh(&address, frames),
    }
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    Output { stdout: rest, ..receiver.wait_with_output().unwrap() }
}

#[track_caller]
fn refused(frames: &[Frame], expected: [&str; 2]) {
    for (engine, expected) in ["tcp", "zenoh"].into_iter().zip(expected) {
        let output = received(engine, frames);
        assert_eq!(output.status.code(), Some(1), "{engine}: {}", text(&output));
        assert!(text(&output).contains(expected), "{engine}: {}", text(&output));
        assert!(!text(&output).contains("consumer:"), "{engine}: {}", text(&output));
    }
}

/// The control: these senders lie in one thing only.
#[test]
fn a_sender_that_tells_the_truth_is_believed() {
    for engine in ["tcp", "zenoh"] {
        let output = received(engine, &[frame(0), frame(1), (2, END, vec![])]);
        assert!(output.status.success(), "{engine}: {}", text(&output));
        assert!(text(&output).contains("consumer: 2 frames, 200 bytes"), "{}", text(&output));
    }
}

#[test]
fn a_lost_frame_is_an_error() {
    let lost = "1 frames are missing before number 2";
    refused(&[frame(0), frame(2), (3, END, vec![])], [lost; 2]);
}

#[test]
fn a_lost_last_frame_is_an_error() {
    let lost = "2 frames are missing before number 3";
    refused(&[frame(0), (3, END, vec![])], [lost; 2]);
}

#[test]
fn frames_out_of_order_are_an_error() {
    refused(&[frame(1), frame(0)], ["1 frames are missing before number 1"; 2]);
    refused(&[frame(0), frame(1), frame(0)], ["a frame came late or twice: 0 after 1"; 2]);
}

#[test]
fn a_frame_that_is_too_long_is_an_error() {
    let long = "frame 0 has 1001 bytes, and at most 1000 are accepted";
    refused(&[(0, 1001, vec![7; 1001])], [long; 2]);
    // zenoh puts no such message together.
    let longer = "frame 0 has 10000000 bytes";
    refused(&[(0, 10_000_000, vec![7; 10_000_000])], [longer, "no frame, and no end either"]);
}

#[test]
fn a_frame_that_is_cut_off_is_an_error() {
    let [tcp, zenoh] = ["failed to fill whole buffer", "frame 0 has 50 bytes, not 100"];
    refused(&[(0, 100, vec![7; 50])], [tcp, zenoh]);
}

#[test]
fn a_sender_that_falls_silent_is_an_error() {
    refused(&[frame(0)], ["no frame, and no end either"; 2]);
}
