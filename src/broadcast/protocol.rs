//! The layout of the file, and the order in which words are written and read: a ring buffer whose writer
//! waits for nobody.
//!
//! ```text
//! byte 0     header, with the capacity
//! byte 128   NEXT, TAIL, LAST, BELL
//! byte 256   CLAIMED
//! byte 384   the index: for each step, the first record that begins there
//! byte 896   the records
//! ```
//!
//! A record is its length, its sequence number and its payload, which goes on at the beginning of the area
//! where the area ends. Each record begins at a word. A payload of 256 bytes or more begins at a cache
//! line. Positions count bytes from the first record on, sequence numbers count records from 1 on; both
//! have 64 bits and never come round (`memory.rs`, "Numbers of two words").
//!
//! # A record is whole
//!
//! The writer raises `CLAIMED` to beyond the end of what it is about to write, executes a release fence,
//! writes the record, executes a release fence, and announces `TAIL`, the end of the last record. A reader
//! loads `TAIL`, executes an acquire fence, copies the record, executes an acquire fence, and loads
//! `CLAIMED`. If `CLAIMED` is no more than a capacity beyond where the record begins, then all of the copy is of
//! that record:
//!
//! * nothing is older, because a reader that sees `TAIL` sees what was stored before it;
//! * nothing is newer, because whoever writes there again has claimed more than a capacity beyond it
//!   before, and a reader that sees any word of that sees the claim.
//!
//! `CLAIMED` is raised by a thirty-second part of the capacity, a *step*, and not for each record. So
//! readers, which load it for each, find its cache line where it was.
//!
//! # What was missed
//!
//! Each record has its sequence number, and the index has the position and the number of the first record
//! of each of the last 32 steps. A reader that was overtaken takes up an entry, and has missed as many
//! records as the numbers differ by. The record of an entry may still be being written. In an entry, the
//! number is stored first, and then the position is announced; a reader goes the other way:
//!
//! * nothing is older than the position, because a reader that sees it sees what was stored before it;
//! * nothing is newer, because an entry is written after the claim of its record. The next entry of the
//!   same place is of a step that begins a capacity later, and the same check of `CLAIMED` shows it.
//!
//! A reader that goes on with what comes next takes `TAIL` and the number of the record that ends there.
//! The writer announces the number in `NEXT` before `TAIL`, and in `LAST` after it. A reader loads
//! `LAST`, `TAIL` and `NEXT`, in this order: if the numbers are equal, `TAIL` belongs to them. A writer
//! that was killed in between leaves them unequal; then the newest entry of the index has to do.
//!
//! # What is believed
//!
//! Nothing that would lead out of the area, into a loop, or back. A length ends at or before `TAIL`,
//! numbers follow each other, `CLAIMED` is not before the record that is read; whatever breaks this while no overtaking
//! explains it is [`Broken`]. A hostile publisher can make a reader miss records, and lie about how many.

use std::io;
use std::ops::RangeInclusive;

use super::super::memory::{
    Area, HALVES, HEADER, LINE, Sink, Source, Span, WORD, announce, announced, claim, claimed,
    from_header, halves, header, whole,
};
use super::super::word::Word;

const NEXT: usize = LINE / WORD;
const TAIL: usize = NEXT + HALVES;
const LAST: usize = TAIL + HALVES;
/// The word to sleep on: its low 32 bits change with every record.
pub(crate) const BELL: usize = LAST + HALVES;
const CLAIMED: usize = 2 * LINE / WORD;
const INDEX: usize = 3 * LINE / WORD;

/// How many steps the capacity has.
pub(crate) const STEPS: usize = 32;
/// Words of an entry of the index: a position and a sequence number.
const ENTRY: usize = 2 * HALVES;
/// Where the records begin, in bytes.
pub(crate) const RECORDS: usize = 3 * LINE + (STEPS * ENTRY * WORD).next_multiple_of(LINE);

/// Bytes of a record before its payload: the length and the sequence number.
const HEAD: usize = WORD + HALVES * WORD;

const MAGIC: &[u8; 8] = b"broad!!\n";

/// The bit of `TAIL` that tells the end. Positions are multiples of a word.
const ENDED: u64 = 1;

/// How often a reader begins anew before it gives up, as in `latest`.
const ATTEMPTS: usize = 100;

pub(crate) fn to_header(area: &Area) -> [u8; HEADER] {
    header(MAGIC, [area.capacity as u64, 0])
}

pub(crate) fn from_file(header: &[u8; HEADER], len: usize) -> Result<Area, String> {
    let [capacity, _] = from_header(header, MAGIC, "a broadcaster")?;
    let area = Area::in_file(RECORDS, capacity, len)?;
    match area.capacity % (STEPS * WORD) == 0 {
        true => Ok(area),
        false => {
            Err(format!("a capacity of {capacity} bytes cannot be divided into {STEPS} steps"))
        }
    }
}

/// The longest record: half of the capacity, so that a reader has as long again to copy it.
pub(crate) fn longest(area: &Area) -> usize {
    (area.capacity / 2).saturating_sub(LINE)
}

fn step(area: &Area) -> u64 {
    (area.capacity / STEPS) as u64
}

fn entry(step: u64) -> usize {
    INDEX + (step % STEPS as u64) as usize * ENTRY
}

/// A number that other words tell to be whole.
fn store(memory: &mut impl Sink, word: usize, number: u64) {
    for (i, half) in halves(number).into_iter().enumerate() {
        memory.store(word + i, half);
    }
}

/// As [`store`].
fn load(memory: &impl Source, word: usize) -> u64 {
    whole(std::array::from_fn(|i| memory.load(word + i)))
}

/// What the publisher has done that it must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

/// Where to write a record, and how much of the area it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    payload: Span,
    size: usize,
}

/// The one writer's side.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    area: Area,
    /// Where the next record begins, as a position and from the start of the area on.
    tail: u64,
    offset: usize,
    /// The number of the last record.
    last: u64,
    claimed: u64,
    /// The first step that has no entry.
    next_step: u64,
}

impl Writer {
    /// For memory that is zero but for the header.
    pub(crate) fn new(area: Area) -> Self {
        Self { area, tail: 0, offset: 0, last: 0, claimed: 0, next_step: 0 }
    }

    pub(crate) fn area(&self) -> &Area {
        &self.area
    }

    /// The sequence number of the last record, or 0.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Room for a record, `None` if it is longer than the longest.
    #[inline]
    pub(crate) fn room(&self, len: usize) -> Option<Room> {
        let (payload, size) = self.area.record(self.offset, HEAD, len)?;
        (len <= longest(&self.area)).then_some(Room { payload, size })
    }

    /// Publishes a record that `write` writes, and returns its sequence number.
    #[inline]
    pub(crate) fn publish<S: Sink, T>(
        &mut self,
        memory: &mut S,
        room: Room,
        write: impl FnOnce(&mut S, Span) -> T,
    ) -> (u64, T) {
        let (number, end) = (self.last + 1, self.tail + room.size as u64);
        if end > self.claimed {
            self.claimed = end.next_multiple_of(step(&self.area));
            claim(memory, CLAIMED, self.claimed);
        }
        let begins_in = self.tail / step(&self.area);
        if begins_in >= self.next_step {
            store(memory, entry(begins_in) + HALVES, number);
            announce(memory, entry(begins_in), self.tail);
            self.next_step = begins_in + 1;
        }
        memory.store(self.area.word(self.offset), room.payload.len as Word);
        for (i, half) in halves(number).into_iter().enumerate() {
            memory.store(self.area.word(self.area.after(self.offset, (1 + i) * WORD)), half);
        }
        let done = write(memory, room.payload);
        (self.tail, self.last) = (end, number);
        self.offset = self.area.after(self.offset, room.size);
        self.announce(memory, false);
        (number, done)
    }

    /// Tells readers that nothing more will come.
    pub(crate) fn end(&mut self, memory: &mut impl Sink) {
        self.announce(memory, true);
    }

    #[inline]
    fn announce(&self, memory: &mut impl Sink, ended: bool) {
        claim(memory, NEXT, self.last);
        announce(memory, TAIL, self.tail | if ended { ENDED } else { 0 });
        announce(memory, LAST, self.last);
        memory.release_fence();
        memory.store(BELL, halves(self.last << 1 | u64::from(ended))[0]);
    }
}

/// Where a reader begins, and where it goes on after it was overtaken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// With the oldest record that is still there. A reader that is overtaken again and again misses as
    /// little as possible, but will soon be overtaken again.
    Oldest,
    /// About half a capacity back.
    #[default]
    Middle,
    /// With the record that is published next. Where a publisher has stopped in the middle of a call,
    /// perhaps for good, with one of the last.
    Now,
}

/// What there is for a reader.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News<T> {
    /// A record: its sequence number, and what was made of it.
    Record(u64, T),
    /// So many records were overwritten before they were read.
    Lagged(u64),
    /// Nothing, and nothing more will come.
    Ended,
    /// Nothing yet, and what [`BELL`] was before.
    Nothing { bell: Word },
}

/// Why a reader has nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    Broken(Broken),
    /// The publisher overtook every attempt.
    Overtaken,
    /// The caller's.
    Io(io::Error),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// One reader's side. What it knows of the geometry it never reads again.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    area: Area,
    /// Where the next record begins, as a position and from the start of the area on.
    position: u64,
    offset: usize,
    /// The number of the next record.
    next: u64,
    /// What this side knows of the writer.
    tail: u64,
    after_lag: StartAt,
}

impl Reader {
    pub(crate) fn new(area: Area, memory: &impl Source, start: StartAt) -> Result<Self, Failure> {
        let mut reader =
            Self { area, position: 0, offset: 0, next: 1, tail: 0, after_lag: StartAt::default() };
        let (position, next) = reader.place(memory, start).ok_or(Failure::Overtaken)?;
        reader.go_to(position, next);
        Ok(reader)
    }

    pub(crate) fn area(&self) -> &Area {
        &self.area
    }

    /// The sequence number of the record that comes next, unless some are missed.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    pub(crate) fn set_after_lag(&mut self, place: StartAt) {
        self.after_lag = place;
    }

    /// Whether [`next`](Self::next) will find something, the end included; what [`BELL`] was before, if not.
    pub(crate) fn look(&mut self, memory: &impl Source) -> Result<bool, Word> {
        if self.position != self.tail {
            return Ok(true);
        }
        let bell = memory.load(BELL);
        memory.acquire_fence();
        let stamp = announced(memory, TAIL);
        let tail = stamp & !ENDED;
        // A smaller one is halves of two numbers, or a hostile publisher's.
        if tail > self.position {
            self.tail = tail;
            return Ok(true);
        }
        // At the end `TAIL` stays as it is. Halves of two numbers do not.
        if stamp == self.position | ENDED && announced(memory, TAIL) == stamp {
            return Ok(false);
        }
        Err(bell)
    }

    /// Has `read` read the next record.
    #[inline]
    pub(crate) fn next<S: Source, T>(
        &mut self,
        memory: &S,
        mut read: impl FnMut(&S, Span) -> io::Result<T>,
    ) -> Result<News<T>, Failure> {
        for _ in 0..ATTEMPTS {
            match self.look(memory) {
                Ok(true) => {}
                Ok(false) => return Ok(News::Ended),
                Err(bell) => return Ok(News::Nothing { bell }),
            }
            if let Some(news) = self.attempt(memory, &mut read)? {
                return Ok(news);
            }
        }
        Err(Failure::Overtaken)
    }

    /// `None` if the place to go on was overwritten meanwhile.
    #[inline]
    pub(crate) fn attempt<S: Source, T>(
        &mut self,
        memory: &S,
        read: impl FnOnce(&S, Span) -> io::Result<T>,
    ) -> Result<Option<News<T>>, Failure> {
        let number = whole(std::array::from_fn(|i| {
            memory.load(self.area.word(self.area.after(self.offset, (1 + i) * WORD)))
        }));
        #[allow(clippy::unnecessary_cast, reason = "the model checks other words too")]
        let len = memory.load(self.area.word(self.offset)) as usize;
        let there_is = self.tail - self.position;
        let record = self.area.record(self.offset, HEAD, len);
        let plausible = record.filter(|(_, size)| {
            let is_next = number == self.next && number != u64::MAX;
            *size as u64 <= there_is && len <= longest(&self.area) && is_next
        });
        let read = plausible.map(|(payload, size)| (read(memory, payload), size));

        let claimed = claimed(memory, CLAIMED);
        let Some(ahead) = claimed.checked_sub(self.position) else {
            return Err(Broken("the publisher takes back what it has claimed").into());
        };
        if ahead > self.area.capacity as u64 {
            return Ok(self.catch_up(memory).map(News::Lagged));
        }
        match read {
            Some((Ok(done), size)) => {
                self.position += size as u64;
                self.offset = self.area.after(self.offset, size);
                self.next += 1;
                Ok(Some(News::Record(number, done)))
            }
            Some((Err(error), _)) => Err(Failure::Io(error)),
            None => Err(Broken("the publisher's record does not follow the one before").into()),
        }
    }

    /// Goes to where there are records, and returns how many have been missed. `None` if there is nothing
    /// ahead: the publisher overtook the attempt, or is hostile.
    #[cold]
    fn catch_up(&mut self, memory: &impl Source) -> Option<u64> {
        let (position, next) = self.place(memory, self.after_lag)?;
        let missed = next.checked_sub(self.next)?;
        if position <= self.position || missed == 0 {
            return None;
        }
        self.go_to(position, next);
        Some(missed)
    }

    fn go_to(&mut self, position: u64, next: u64) {
        (self.position, self.tail, self.next) = (position, position, next);
        self.offset = (position % self.area.capacity as u64) as usize;
    }

    /// Where there is a record, or will be the next one: its position and number.
    fn place(&self, memory: &impl Source, place: StartAt) -> Option<(u64, u64)> {
        let capacity = self.area.capacity as u64;
        let oldest = |back| self.steps(memory, back).find_map(|step| self.first_of(memory, step));
        match place {
            StartAt::Oldest => oldest(capacity),
            StartAt::Middle => oldest(capacity / 2),
            StartAt::Now => None,
        }
        .or_else(|| self.now(memory))
        // The writer has stopped where `now` finds no number, perhaps for good.
        .or_else(|| self.steps(memory, capacity).rev().find_map(|step| self.first_of(memory, step)))
    }

    /// The steps of the last so many bytes.
    fn steps(&self, memory: &impl Source, back: u64) -> RangeInclusive<u64> {
        let (claimed, step) = (claimed(memory, CLAIMED), step(&self.area));
        claimed.saturating_sub(back).div_ceil(step)..=claimed / step
    }

    /// The first record that begins in a step, if its entry and the record are still there.
    fn first_of(&self, memory: &impl Source, number: u64) -> Option<(u64, u64)> {
        let position = announced(memory, entry(number));
        let record = load(memory, entry(number) + HALVES);
        let ahead = claimed(memory, CLAIMED).checked_sub(position)?;
        let is_whole = position / step(&self.area) == number && ahead <= self.area.capacity as u64;
        let is_one = record != 0 && position % WORD as u64 == 0;
        (is_whole && is_one).then_some((position, record))
    }

    /// Where the next record will be.
    fn now(&self, memory: &impl Source) -> Option<(u64, u64)> {
        (0..ATTEMPTS).find_map(|_| {
            let last = announced(memory, LAST);
            let tail = announced(memory, TAIL) & !ENDED;
            let is_whole = claimed(memory, NEXT) == last && tail % WORD as u64 == 0;
            is_whole.then_some((tail, last.wrapping_add(1)))
        })
    }
}
