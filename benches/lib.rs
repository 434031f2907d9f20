//! Measures two ways of doing one thing in turns, so that a ratio of the two can be quoted.
//!
//! Criterion runs its benchmarks one after the other, and on a machine that other work shares its
//! two figures then differ by more than the few percent that are asked about here. So every round
//! measures the subject and its baseline once each, and criterion is handed the baseline's share.

pub mod hand;

use std::hint::black_box;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use memmap2::MmapMut;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// What every question is asked for, at least.
pub const SIZES: [u64; 4] = [4 * KIB, 64 * KIB, MIB, 64 * MIB];

/// The name of all files.
pub const NAME: &str = "bench";

/// The subject's name among the contestants.
pub const SUBJECT: &str = "sealed-mmap";

/// `SIZES`, and 1 GiB where the machine has room for a source and two copies of it. Not when
/// criterion only tries whether everything runs.
pub fn sizes_with_one_gib() -> Vec<u64> {
    if std::env::args().any(|argument| argument == "--test") {
        return SIZES.to_vec();
    }
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse::<u64>().ok());
    let mut sizes = SIZES.to_vec();
    if available.is_some_and(|kib| kib * KIB >= 4 * GIB) {
        sizes.push(GIB);
    } else {
        eprintln!("1 GiB is left out: less than 4 GiB of memory are available");
    }
    sizes
}

/// How long something took, in nanoseconds.
#[derive(Clone, Copy)]
pub struct Sample {
    wall: f64,
    cpu: f64,
}

impl Sample {
    pub fn of_wall_clock(wall: Duration) -> Self {
        let wall = wall.as_nanos() as f64;
        Self { wall, cpu: wall }
    }

    /// Of one of several things that were done one after the other.
    pub fn each_of(self, count: u64) -> Self {
        Self { wall: self.wall / count as f64, cpu: self.cpu / count as f64 }
    }
}

/// Times one run.
pub fn timed<T>(work: impl FnOnce() -> T) -> Sample {
    let cpu = cpu_time();
    let start = Instant::now();
    let result = black_box(work());
    let wall = start.elapsed();
    let cpu = cpu_time() - cpu;
    drop(result);
    Sample { wall: wall.as_nanos() as f64, cpu: cpu.as_nanos() as f64 }
}

/// Times what is too short for the clock: one of `count` runs, without dropping what they return.
pub fn timed_each<T>(count: u32, mut work: impl FnMut() -> T) -> Sample {
    let mut results = Vec::with_capacity(count as usize);
    timed(|| {
        for _ in 0..count {
            results.push(black_box(work()));
        }
    })
    .each_of(count.into())
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// What is asked about one size.
pub struct Case<'a> {
    pub question: &'a str,
    pub baseline: &'a str,
    /// Bytes.
    pub size: u64,
    /// The most that the subject may take, in units of the baseline.
    pub target: Option<f64>,
}

impl Case<'_> {
    /// Measures, prints the ratio, and writes it beside criterion's own files.
    pub fn compare(
        &self,
        criterion: &mut Criterion,
        mut subject: impl FnMut() -> Sample,
        mut baseline: impl FnMut() -> Sample,
    ) {
        let mut rounds: Vec<[Sample; 2]> = Vec::new();
        let mut group = criterion.benchmark_group(self.question);
        group.throughput(Throughput::Bytes(self.size)).nresamples(10_000);
        if self.size >= 64 * MIB {
            group.sampling_mode(SamplingMode::Flat).sample_size(if self.size < GIB {
                20
            } else {
                10
            });
        } else {
            group.sample_size(50);
        }
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        group.bench_function(BenchmarkId::new(self.baseline, self.size), |bencher| {
            bencher.iter_custom(|iterations| {
                let first = rounds.len();
                for _ in 0..iterations {
                    // Whoever comes second finds the caches as the first left them.
                    rounds.push(if rounds.len() % 2 == 0 {
                        let subject = subject();
                        [subject, baseline()]
                    } else {
                        let baseline = baseline();
                        [subject(), baseline]
                    });
                }
                let baselines = rounds[first..].iter().map(|[_, baseline]| baseline.wall);
                Duration::from_nanos(baselines.sum::<f64>() as u64)
            });
        });
        group.finish();
        // Without the first, which warm up. Criterion's test mode makes a single one.
        if rounds.len() > 10 {
            self.report(&rounds[rounds.len() / 10..]);
        }
    }

    fn report(&self, rounds: &[[Sample; 2]]) {
        // Wall clock does not repeat where a round takes long.
        let (clock, of): (_, fn(&Sample) -> f64) =
            if self.size >= 64 * MIB { ("CPU", |s| s.cpu) } else { ("wall", |s| s.wall) };
        let medians = |rounds: &[[Sample; 2]]| {
            [0, 1].map(|side| median(rounds.iter().map(|round| of(&round[side]))))
        };
        let ratio = |rounds: &[[Sample; 2]]| {
            let [subject, baseline] = medians(rounds);
            subject / baseline
        };
        let fifth = |part| &rounds[rounds.len() * part / 5..rounds.len() * (part + 1) / 5];
        let fifths = (0..5).map(|part| ratio(fifth(part)));
        let (low, high) = fifths
            .fold((f64::MAX, 0.0_f64), |(low, high), ratio| (low.min(ratio), high.max(ratio)));
        let (whole, [subject, baseline]) = (ratio(rounds), medians(rounds));
        let Self { question, baseline: name, size, target } = self;

        print!("  {SUBJECT} {subject:.0} ns, {name} {baseline:.0} ns ({clock} time): {whole:.3}");
        print!(" (fifths of the run: {low:.3} to {high:.3})");
        println!("{}", target.map_or(String::new(), |target| format!(", target {target:.2}")));

        let target = target.map_or("null".into(), |target| target.to_string());
        let json = format!(
            "{{\"question\":\"{question}\",\"baseline\":\"{name}\",\"size\":{size},\"target\":{target},\
             \"clock\":\"{clock}\",\"ratio\":{whole},\"low\":{low},\"high\":{high},\
             \"rounds\":{},\"subject_ns\":{subject},\"baseline_ns\":{baseline}}}\n",
            rounds.len(),
        );
        let criterion = std::env::var_os("CRITERION_HOME").map(PathBuf::from).or_else(|| {
            // target/release/deps/BENCH-HASH
            let executable = std::env::current_exe().ok()?;
            let folders = executable.ancestors().map(|folder| folder.join("criterion"));
            folders.into_iter().find(|folder| folder.join(question).is_dir())
        });
        let written = criterion.ok_or(io::ErrorKind::NotFound.into()).and_then(|criterion| {
            std::fs::write(
                criterion.join(question).join(name).join(size.to_string()).join("ratio.json"),
                json,
            )
        });
        if let Err(error) = written {
            eprintln!("  not kept for charts.py: no folder of criterion's, {error}");
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Keeps this thread on one of the CPUs that the process may use, and says whether there is such a
/// one. Sealing pages that another CPU wrote takes longer.
pub fn stay_on_cpu(nth: usize) -> bool {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    let cpus = CPUS.get_or_init(|| {
        let usable = sched_getaffinity(None).expect("a process runs somewhere");
        (0..CpuSet::MAX_CPU).filter(|cpu| usable.is_set(*cpu)).collect()
    });
    let Some(cpu) = cpus.get(nth) else { return false };
    let mut set = CpuSet::new();
    set.set(*cpu);
    sched_setaffinity(None, &set).is_ok()
}

/// Bytes at the beginning of a page, all of them there. A large `Vec` begins 16 bytes after one, and
/// some processors copy up to 20 times slower to an address that is just above the source's.
pub fn page_aligned(len: u64) -> MmapMut {
    let mut bytes = MmapMut::map_anon(len as usize).expect("memory for a buffer");
    for (word, number) in bytes.chunks_exact_mut(8).zip(0_u64..) {
        word.copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes());
    }
    bytes
}

/// Reads every byte.
pub fn read(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
    words.fold(0, u64::wrapping_add)
}
