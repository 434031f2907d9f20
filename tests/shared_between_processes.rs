//! Patterns of programs that share memory, each with a peer in another process: a pool of buffers that is
//! resized, frames that go round, counters. Needs `/proc`; runs as any user.
#![cfg(target_os = "linux")]

mod support;

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use sealed_mmap::{SealPolicy, SealedFile, Seals, SharedMap, SizeSealed};
use support::process::{self, Peer};
use support::runs::rounds;
use support::{checksum, salted_pattern};

const MOST: u64 = 64 << 20;

fn shared(len: u64, seals: Seals) -> SealedFile<SizeSealed> {
    let mut draft = SealedFile::create("shared").unwrap();
    draft.set_len(len).unwrap();
    draft.seal_size(seals).unwrap()
}

fn receive(fd: OwnedFd) -> SealedFile<SizeSealed> {
    SealedFile::receive_size_sealed(fd, &SealPolicy::untrusted_live(MOST)).unwrap()
}

/// `wl_shm_pool`: the client draws and resizes, the compositor reads buffers by offset and length.
#[test]
fn a_pool_is_drawn_by_one_side_and_resized_for_both() {
    const NAME: &str = "a_pool_is_drawn_by_one_side_and_resized_for_both";
    const FRAME: usize = 64 * 48 * 4;

    if let Some(mut role) = process::role() {
        // The compositor, which is told lengths and offsets that it does not trust.
        let mut pool = receive(role.fd);
        let mut maps = vec![pool.map_live().unwrap()];
        loop {
            let request = role.parent.hear();
            let words: Vec<_> = request.split(' ').collect();
            match words[..] {
                ["resize", len] => {
                    let reply = match pool.refresh_len(MOST) {
                        Ok(found) if found >= len.parse().unwrap() => {
                            maps.push(pool.map_live().unwrap());
                            format!("{found}")
                        }
                        Ok(_) => "shorter than you say".into(),
                        Err(error) => error.to_string(),
                    };
                    role.parent.tell(reply);
                }
                ["buffer", offset] => {
                    let start: u64 = offset.parse().unwrap();
                    let newest = maps.last().unwrap();
                    let end = start.saturating_add(FRAME as u64);
                    let reply = newest.to_vec(start..end).map(|frame| checksum(&frame));
                    role.parent
                        .tell(reply.map_or_else(|error| error.to_string(), |sum| sum.to_string()));
                }
                _ => {
                    // The maps of before are as good as they were.
                    let sums =
                        maps.iter().map(|map| checksum(&map.to_vec(..FRAME as u64).unwrap()));
                    assert!(sums.clone().all(|sum| sum == sums.clone().next().unwrap()));
                    return;
                }
            }
        }
    }
    let pool = shared(FRAME as u64, Seals::empty());
    let mut compositor = Peer::start(NAME, "compositor", &pool);
    let map = pool.map_shared().unwrap();
    let draw = |map: &SharedMap, offset: usize, salt| {
        let frame = salted_pattern(FRAME, salt);
        map.write_at(offset as u64, &frame).unwrap();
        checksum(&frame).to_string()
    };
    assert_eq!(draw(&map, 0, 1), compositor.channel.ask("buffer 0"));

    // By the client, through the descriptor that it has.
    let client = std::fs::File::from(pool.try_clone().unwrap());
    let mut pool = pool;
    for buffers in 2..=4 {
        let len = (buffers * FRAME) as u64;
        client.set_len(len).unwrap();
        assert_eq!(pool.refresh_len(len).unwrap(), len);
        assert_eq!(compositor.channel.ask(format!("resize {len}")), len.to_string());
        let map = pool.map_shared().unwrap();
        let offset = (buffers - 1) * FRAME;
        let drawn = draw(&map, offset, buffers);
        assert_eq!(drawn, compositor.channel.ask(format!("buffer {offset}")));
    }
    // What a client claims, and is not so.
    let claim = 5 * FRAME;
    assert_eq!(compositor.channel.ask(format!("resize {claim}")), "shorter than you say");
    let beyond = compositor.channel.ask(format!("buffer {}", 4 * FRAME));
    assert!(beyond.contains("do not fit into"), "{beyond}");
    client.set_len(MOST + 1).unwrap();
    let refused = compositor.channel.ask(format!("resize {}", MOST + 1));
    assert!(refused.contains(&format!("more than {MOST}")), "{refused}");
    assert!(compositor.dismiss().success());
}

/// As media servers do: two buffers go round, a word says whose turn it is, and both sides write.
#[test]
fn buffers_go_round_between_two_writers() {
    const NAME: &str = "buffers_go_round_between_two_writers";
    const LEN: u64 = 16 << 10;
    const TURN: u64 = 0;
    const SUM: u64 = 64;
    const BUFFER: u64 = 4099; // at no word's beginning

    /// Waits until the turn has this number.
    fn wait(map: &SharedMap, turn: usize) {
        let start = Instant::now();
        while map.load(TURN).unwrap() != turn {
            assert!(start.elapsed() < Duration::from_secs(60), "the other side is gone");
            thread::yield_now();
        }
    }
    let turns = rounds(200, 20_000);

    if let Some(role) = process::role() {
        let map = receive(role.fd).map_shared().unwrap();
        for turn in (1..2 * turns).step_by(2) {
            wait(&map, turn);
            let frame = map.to_vec(BUFFER..BUFFER + 9001).unwrap();
            map.store(SUM, checksum(&frame) as usize).unwrap();
            map.write_at(BUFFER, &salted_pattern(9001, turn + 1)).unwrap();
            map.store(TURN, turn + 1).unwrap();
        }
        return;
    }
    let file = shared(LEN, Seals::GROW);
    let map = file.map_shared().unwrap();
    let mut peer = Peer::start(NAME, "consumer", &file);
    for turn in (0..2 * turns).step_by(2) {
        wait(&map, turn);
        if turn > 0 {
            assert_eq!(map.load(SUM).unwrap(), checksum(&salted_pattern(9001, turn - 1)) as usize);
            assert!(map.to_vec(BUFFER..BUFFER + 9001).unwrap() == salted_pattern(9001, turn));
        }
        map.write_at(BUFFER, &salted_pattern(9001, turn + 1)).unwrap();
        map.store(TURN, turn + 1).unwrap();
    }
    wait(&map, 2 * turns);
    assert!(peer.wait().success());
    assert!(map.to_vec(64 + 8..BUFFER).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn counters_of_two_processes_with_many_threads_are_exact() {
    const NAME: &str = "counters_of_two_processes_with_many_threads_are_exact";
    const THREADS: usize = 4;
    let times = rounds(20_000, 500_000);
    /// Each thread also writes bytes of its own into words that it shares with the others.
    fn count(map: &SharedMap, first: usize, times: usize) {
        thread::scope(|scope| {
            for thread in first..first + THREADS {
                scope.spawn(move || {
                    for n in 0..times {
                        map.fetch_add(8, 1).unwrap();
                        map.write_at(67 + 3 * thread as u64, &[n as u8; 3]).unwrap();
                        let found = map.to_vec(67 + 3 * thread as u64..70 + 3 * thread as u64);
                        assert_eq!(found.unwrap(), [n as u8; 3]);
                    }
                });
            }
        });
    }

    if let Some(mut role) = process::role() {
        let map = receive(role.fd).map_shared().unwrap();
        assert_eq!(role.parent.ask("maps"), "go");
        count(&map, THREADS, times);
        return;
    }
    let file = shared(4096, Seals::GROW | Seals::SEAL);
    let map = file.map_shared().unwrap();
    let mut peer = Peer::start(NAME, "counter", &file);
    assert_eq!(peer.channel.hear(), "maps");
    peer.channel.tell("go");
    count(&map, 0, times);
    assert!(peer.wait().success());
    assert_eq!(map.load(8).unwrap(), 2 * THREADS * times);
    let last = (times - 1) as u8;
    assert!(map.to_vec(67..67 + 6 * THREADS as u64).unwrap().iter().all(|byte| *byte == last));
}
