//! Copies bytes into and out of words. This module knows nothing of mappings.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::atomic::{AtomicUsize, Relaxed};
use super::bulk;
use super::merge::{TRIES, merge};
use super::one_by_one::WORD;
use crate::memory::{Sink, Source};

/// Words that somebody may be writing, in memory that may be read-only: only ever loaded, `Relaxed`.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a>(&'a [AtomicUsize]);

impl<'a> Words<'a> {
    pub(super) fn new(words: &'a [AtomicUsize]) -> Self {
        Self(words)
    }

    #[inline]
    pub(crate) fn load(self, word: usize) -> usize {
        self.0[word].load(Relaxed)
    }

    /// The word's lower half, as the futex to wait on and to wake. Only the kernel reads it; code uses
    /// [`load`](Self::load).
    pub(crate) fn futex(self, word: usize) -> &'a AtomicU32 {
        let lower = if cfg!(target_endian = "big") { WORD / size_of::<u32>() - 1 } else { 0 };
        let half = self.0[word].as_ptr().cast::<u32>().wrapping_add(lower);
        // SAFETY: a reference wants a pointer that is aligned and valid for `'a`, to initialized
        // memory that nobody changes but through an `UnsafeCell`. It points into a word, which is no
        // less aligned, outlives `'a`, and is an `AtomicUsize`, as what is returned is an atomic.
        // Atomic accesses of different sizes must not overlap, but no code accesses what is
        // returned, and what the kernel does is no access of this program.
        unsafe { &*half.cast::<AtomicU32>() }
    }

    /// Copies the bytes from `offset` on, all of which must lie within the words.
    #[inline]
    pub(crate) fn read(self, mut offset: usize, mut target: &mut [u8]) {
        let skip = offset % WORD;
        if skip != 0 {
            let (head, rest) = target.split_at_mut((WORD - skip).min(target.len()));
            head.copy_from_slice(&self.load(offset / WORD).to_ne_bytes()[skip..][..head.len()]);
            (offset, target) = (offset - skip + WORD, rest);
        }
        let (whole, tail) = target.split_at_mut(target.len() - target.len() % WORD);
        let words = &self.0[offset / WORD..];
        let (words, after) = words.split_at(whole.len() / WORD);
        bulk::load(words, whole);
        if !tail.is_empty() {
            tail.copy_from_slice(&after[0].load(Relaxed).to_ne_bytes()[..tail.len()]);
        }
    }

    /// One word, with nothing but `Relaxed` accesses to come, which write only where that is allowed.
    #[inline]
    pub(super) fn word(self, word: usize) -> &'a AtomicUsize {
        &self.0[word]
    }

    /// Copies `source` to `offset`. All of it must fit into the words. A word of which only some bytes
    /// change is left to `merge`, with their place in it.
    ///
    /// # Safety
    ///
    /// The words are in memory that can be written.
    #[inline]
    pub(super) unsafe fn write(
        self,
        mut offset: usize,
        mut source: &[u8],
        merge: impl Fn(&AtomicUsize, usize, &[u8]),
    ) {
        let skip = offset % WORD;
        if skip != 0 {
            let (head, rest) = source.split_at((WORD - skip).min(source.len()));
            merge(self.word(offset / WORD), skip, head);
            (offset, source) = (offset - skip + WORD, rest);
        }
        let (whole, tail) = source.split_at(source.len() - source.len() % WORD);
        let words = &self.0[offset / WORD..];
        let (words, after) = words.split_at(whole.len() / WORD);
        // SAFETY: this function's obligation.
        unsafe { bulk::store(words, whole) };
        if !tail.is_empty() {
            merge(&after[0], 0, tail);
        }
    }
}

/// Words that others write at the same time, in this process or another.
#[derive(Clone, Copy)]
pub(crate) struct SharedWords<'a>(Words<'a>);

impl<'a> SharedWords<'a> {
    /// # Safety
    ///
    /// The words are in memory that can be written.
    pub(crate) unsafe fn new(words: Words<'a>) -> Self {
        Self(words)
    }

    /// One word, for `Relaxed` accesses.
    #[inline]
    pub(crate) fn word(self, word: usize) -> &'a AtomicUsize {
        self.0.word(word)
    }

    /// Copies `source` to `offset`. All of it must fit into the words.
    pub(crate) fn write(self, offset: usize, source: &[u8]) {
        let merge = |word: &_, skip, source: &_| merge(word, skip, source, TRIES);
        // SAFETY: the words can be written, which `new` has been promised.
        unsafe { self.0.write(offset, source, merge) };
    }
}

/// Words of the only writer.
pub(crate) struct WordsMut<'a>(Words<'a>);

impl<'a> WordsMut<'a> {
    /// # Safety
    ///
    /// The words are in memory that can be written.
    pub(crate) unsafe fn new(words: Words<'a>) -> Self {
        Self(words)
    }

    pub(crate) fn reborrow(&mut self) -> WordsMut<'_> {
        WordsMut(self.0)
    }

    #[inline]
    pub(crate) fn store(&mut self, word: usize, value: usize) {
        self.0.word(word).store(value, Relaxed);
    }

    /// Copies `source` to `offset`. All of it must fit into the words.
    #[inline]
    pub(crate) fn write(&mut self, offset: usize, source: &[u8]) {
        // Nobody else stores to the word in between.
        let merge = |word: &AtomicUsize, skip: usize, source: &[u8]| {
            let mut bytes = word.load(Relaxed).to_ne_bytes();
            bytes[skip..][..source.len()].copy_from_slice(source);
            word.store(usize::from_ne_bytes(bytes), Relaxed);
        };
        // SAFETY: the words can be written, which `new` has been promised.
        unsafe { self.0.write(offset, source, merge) };
    }
}

impl Source for Words<'_> {
    #[inline]
    fn load(&self, word: usize) -> usize {
        Words::load(*self, word)
    }

    #[inline]
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        Words::read(*self, offset, bytes);
    }

    #[inline]
    fn acquire_fence(&self) {
        fence(Ordering::Acquire);
    }
}

impl Sink for WordsMut<'_> {
    #[inline]
    fn store(&mut self, word: usize, value: usize) {
        WordsMut::store(self, word, value);
    }

    #[inline]
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        WordsMut::write(self, offset, bytes);
    }

    #[inline]
    fn release_fence(&mut self) {
        fence(Ordering::Release);
    }

    #[inline]
    fn full_fence(&mut self) {
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough for cache lines with words before and after them, wherever the allocation lies.
    const LEN: usize = 5 * 64 + WORD;

    fn numbered(salt: usize) -> Vec<u8> {
        (0..LEN).map(|n| (n * 7 + salt) as u8).collect()
    }

    fn words_of(bytes: &[u8]) -> Vec<AtomicUsize> {
        let word = |bytes: &[u8]| usize::from_ne_bytes(bytes.try_into().unwrap());
        bytes.chunks_exact(WORD).map(|bytes| AtomicUsize::new(word(bytes))).collect()
    }

    fn bytes_of(words: &[AtomicUsize]) -> Vec<u8> {
        words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect()
    }

    fn every_range() -> impl Iterator<Item = (usize, usize)> {
        let step = if cfg!(miri) { 5 } else { 1 };
        (0..=LEN)
            .step_by(step)
            .flat_map(move |start| (start..=LEN).step_by(step).map(move |end| (start, end)))
    }

    #[test]
    fn every_range_is_read_as_it_is() {
        let bytes = numbered(1);
        let words = words_of(&bytes);
        for (start, end) in every_range() {
            let mut target = vec![0; end - start];
            Words::new(&words).read(start, &mut target);
            assert_eq!(target, bytes[start..end], "{start}..{end}");
        }
    }

    #[test]
    fn every_range_is_written_and_nothing_beside_it() {
        let (old, new) = (numbered(1), numbered(2));
        for (start, end) in every_range() {
            let (words, shared) = (words_of(&old), words_of(&old));
            // SAFETY: a vector can be written.
            let mut writable = unsafe { WordsMut::new(Words::new(&words)) };
            writable.write(start, &new[start..end]);
            // SAFETY: as above.
            unsafe { SharedWords::new(Words::new(&shared)) }.write(start, &new[start..end]);
            let expected = [&old[..start], &new[start..end], &old[end..]].concat();
            assert_eq!(bytes_of(&words), expected, "{start}..{end}");
            assert_eq!(bytes_of(&shared), expected, "{start}..{end}");
        }
    }

    /// Each thread writes its part again and again. The parts meet within words, and a reader reads all.
    #[test]
    fn threads_that_write_side_by_side_lose_nothing() {
        const PARTS: usize = 4;
        const PART: usize = LEN / PARTS - 3; // no multiple of a word
        let words = words_of(&[0; LEN]);
        // SAFETY: a vector can be written.
        let shared = unsafe { SharedWords::new(Words::new(&words)) };
        std::thread::scope(|scope| {
            for part in 0..PARTS {
                let all = Words::new(&words);
                scope.spawn(move || {
                    for round in 1..=if cfg!(miri) { 5 } else { 1000 } {
                        let (mut found, ours) = ([0; PART], [round as u8; PART]);
                        shared.write(1 + part * PART, &ours);
                        all.read(1 + part * PART, &mut found);
                        assert_eq!(found, ours);
                    }
                });
            }
            Words::new(&words).read(0, &mut [0; LEN]);
        });
        let found = bytes_of(&words);
        assert_eq!(found[0], 0);
        assert_eq!(found[1 + PARTS * PART..], [0; LEN - 1 - PARTS * PART]);
    }

    #[test]
    fn every_part_of_a_word_is_changed_and_nothing_beside_it() {
        let (old, new): (Vec<u8>, Vec<u8>) = (0..WORD as u8).map(|n| (0xa0 | n, 0x50 | n)).unzip();
        for tries in [0, 1, TRIES] {
            for start in 0..=WORD {
                for end in start..=WORD {
                    let word = AtomicUsize::new(usize::from_ne_bytes(old[..].try_into().unwrap()));
                    merge(&word, start, &new[start..end], tries);
                    let expected = [&old[..start], &new[start..end], &old[end..]].concat();
                    let found = word.load(Relaxed).to_ne_bytes();
                    assert_eq!(found[..], expected, "{start}..{end}, {tries} tries");
                }
            }
        }
    }

    /// One thread for each byte. What is lost once is lost in the end.
    #[test]
    fn no_byte_of_another_thread_is_lost() {
        let rounds = if cfg!(miri) { 20 } else { 10_000 };
        for tries in [0, 1, TRIES] {
            let word = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for place in 0..WORD {
                    let word = &word;
                    scope.spawn(move || {
                        for round in 0..rounds {
                            let byte = round as u8 | 1;
                            merge(word, place, &[byte], tries);
                            assert_eq!(word.load(Relaxed).to_ne_bytes()[place], byte);
                        }
                    });
                }
            });
        }
    }
}
