//! What does an operation cost in things that do not vary: system calls, heap allocations and
//! instructions of the program (not the kernel's)?
//!
//! Prints a table. It runs itself under strace and valgrind, with different numbers of rounds, and
//! the differences are what a round costs.
#![allow(unsafe_code, reason = "a counting allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::FallocateFlags;
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{SealPolicy, SealedFile};
use sealed_mmap_benches::NAME;
use sealed_mmap_benches::hand::{self, Map};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

type Failure = Box<dyn Error>;

static BYTES: [u8; 4096] = [7; 4096];

/// Does an operation so many times.
type Rounds = fn(u64) -> Result<(), Failure>;

/// Every operation, done by the crate and by hand.
const OPERATIONS: [(&str, Rounds, Rounds); 7] = [
    (
        "`from_bytes`",
        |rounds| repeat(rounds, || Ok(SealedFile::from_bytes(NAME, BYTES)?)),
        |rounds| {
            repeat(rounds, || {
                let file = hand::memfd()?;
                hand::write_all(&file, &BYTES)?;
                Ok(hand::seal(&file)?)
            })
        },
    ),
    (
        "`build`",
        |rounds| repeat(rounds, || Ok(SealedFile::build(NAME, 4096, fill)?)),
        |rounds| {
            repeat(rounds, || {
                let file = hand::memfd()?;
                hand::write_all(&file, &*black_box(Box::new(BYTES)))?;
                Ok(hand::seal(&file)?)
            })
        },
    ),
    (
        "`create`, write, `seal_read_only`",
        |rounds| {
            repeat(rounds, || {
                let mut draft = SealedFile::create(NAME)?;
                draft.write_all(&BYTES)?;
                Ok(draft.seal_read_only()?)
            })
        },
        |rounds| {
            repeat(rounds, || {
                let file = hand::memfd()?;
                hand::write_all(&file, &BYTES)?;
                Ok(hand::seal(&file)?)
            })
        },
    ),
    (
        "`receive_read_only`, map",
        |rounds| received(rounds, &SealPolicy::new()),
        |rounds| received_by_hand(rounds, |_, _| Ok(())),
    ),
    (
        "… `untrusted`",
        |rounds| received(rounds, &SealPolicy::untrusted(4096)),
        |rounds| {
            received_by_hand(rounds, |fd, len| {
                Ok(rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, len as u64)?)
            })
        },
    ),
    (
        "`copy_of`",
        |rounds| {
            let source = source()?;
            repeat(rounds, || Ok(SealedFile::copy_of(NAME, &source, u64::MAX)?))
        },
        |rounds| {
            let source = source()?;
            repeat(rounds, || {
                let copy = hand::memfd()?;
                let len = rustix::fs::fstat(&source)?.st_size as usize;
                rustix::fs::sendfile(&copy, &source, Some(&mut 0), len)?;
                Ok(hand::seal(&copy)?)
            })
        },
    ),
    (
        "`send_fds`, `recv_fd`",
        |rounds| {
            let (here, there) = UnixStream::pair()?;
            repeat(rounds, || {
                send_fds(&here, b"x", &[here.as_fd()])?;
                Ok(recv_fd(&there, &mut [0])?)
            })
        },
        |rounds| {
            let (here, there) = UnixStream::pair()?;
            repeat(rounds, || {
                hand::send(&here, here.as_fd())?;
                Ok(hand::receive(&there)?)
            })
        },
    ),
];

fn repeat<T>(rounds: u64, mut work: impl FnMut() -> Result<T, Failure>) -> Result<(), Failure> {
    (0..rounds).try_for_each(|_| work().map(drop))
}

fn fill(bytes: &mut [u8]) -> std::io::Result<()> {
    bytes[..BYTES.len()].copy_from_slice(&BYTES);
    Ok(())
}

fn received(rounds: u64, policy: &SealPolicy) -> Result<(), Failure> {
    let mut fd = Some(OwnedFd::from(SealedFile::from_bytes(NAME, BYTES)?));
    repeat(rounds, || {
        let sent = fd.take().ok_or("it came back the last time")?;
        let file = SealedFile::receive_read_only(sent, policy)?;
        drop(file.map_read_only()?);
        fd = Some(file.into());
        Ok(())
    })
}

fn received_by_hand(
    rounds: u64,
    reserve: fn(&OwnedFd, usize) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let fd = OwnedFd::from(SealedFile::from_bytes(NAME, BYTES)?);
    repeat(rounds, || {
        let len = hand::verify(&fd)?;
        reserve(&fd, len)?;
        Ok(Map::read_only(&fd, len)?)
    })
}

fn source() -> Result<File, Failure> {
    let path = std::env::temp_dir().join(format!("sealed-mmap-counts-{}", std::process::id()));
    std::fs::write(&path, BYTES)?;
    let source = File::open(&path)?;
    std::fs::remove_file(path)?;
    Ok(source)
}

/// Names an operation and how it is done, and how often, to the process that is counted.
const COUNTED: &str = "SEALED_MMAP_COUNTED";

/// The difference between what `count` finds at 10 and at 110 rounds, for one round.
fn of_a_round(count: impl Fn(u64) -> Result<u64, Failure>) -> Result<u64, Failure> {
    Ok((count(110)? - count(10)? + 50) / 100)
}

fn under(tool: &[&str], operation: usize, way: usize, rounds: u64) -> Result<String, Failure> {
    let (program, arguments) = tool.split_first().ok_or("a tool has a name")?;
    let done = Command::new(program)
        .args(arguments)
        .arg(std::env::current_exe()?)
        .env(COUNTED, format!("{operation} {way} {rounds}"))
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    let log = String::from_utf8(done.stderr)?;
    if done.status.success() { Ok(log) } else { Err(format!("{program}: {log}").into()) }
}

fn allocations(operation: Rounds) -> Result<u64, Failure> {
    of_a_round(|rounds| {
        let before = ALLOCATIONS.load(Relaxed);
        operation(rounds)?;
        Ok(ALLOCATIONS.load(Relaxed) - before)
    })
}

fn system_calls(operation: usize, way: usize) -> Result<u64, Failure> {
    of_a_round(|rounds| {
        Ok(under(&["strace", "-qq"], operation, way, rounds)?.lines().count() as u64)
    })
}

fn instructions(operation: usize, way: usize) -> Result<u64, Failure> {
    // Not /dev/null, which callgrind would replace with a file.
    let profile = std::env::temp_dir().join(format!("sealed-mmap-profile-{}", std::process::id()));
    let argument = format!("--callgrind-out-file={}", profile.display());
    of_a_round(|rounds| {
        let tool = ["valgrind", "--tool=callgrind", &argument];
        let log = under(&tool, operation, way, rounds)?;
        std::fs::remove_file(&profile)?;
        let collected = log.lines().find_map(|line| line.split_once("Collected : "));
        Ok(collected.ok_or("callgrind says what it collected")?.1.trim().parse()?)
    })
}

fn main() -> Result<(), Failure> {
    if let Ok(counted) = std::env::var(COUNTED) {
        let numbers: Vec<u64> = counted.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [operation, way, rounds] = numbers[..] else { return Err("three numbers".into()) };
        let (_, subject, by_hand) = OPERATIONS[operation as usize];
        return [subject, by_hand][way as usize](rounds);
    }

    println!("| 4 KiB | system calls | by hand | allocations | by hand | instructions | by hand |");
    println!("|---|---|---|---|---|---|---|");
    for (operation, (name, subject, by_hand)) in OPERATIONS.into_iter().enumerate() {
        print!("| {name} |");
        for count in [
            [0, 1].map(|way| system_calls(operation, way)),
            [subject, by_hand].map(allocations),
            [0, 1].map(|way| instructions(operation, way)),
        ] {
            let [own, by_hand] = count;
            print!(" {} | {} |", own?, by_hand?);
        }
        println!();
    }
    Ok(())
}
