//! Many whole words, one after the other.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub(crate) const WORD: usize = size_of::<usize>();

/// How many words are moved without asking whether there are more: what the compiler unrolls.
const BLOCK: usize = 8;

#[inline]
pub(crate) fn load(words: &[AtomicUsize], target: &mut [u8]) {
    let mut blocks = words.chunks_exact(BLOCK);
    let mut targets = target.chunks_exact_mut(BLOCK * WORD);
    for (words, bytes) in (&mut blocks).zip(&mut targets) {
        let values: [usize; BLOCK] = std::array::from_fn(|i| words[i].load(Relaxed));
        for (value, bytes) in values.iter().zip(bytes.chunks_exact_mut(WORD)) {
            bytes.copy_from_slice(&value.to_ne_bytes());
        }
    }
    for (word, bytes) in
        blocks.remainder().iter().zip(targets.into_remainder().chunks_exact_mut(WORD))
    {
        bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
    }
}

/// # Safety
///
/// The words are in memory that can be written.
#[inline]
pub(crate) unsafe fn store(words: &[AtomicUsize], source: &[u8]) {
    let value = |bytes: &[u8], i: usize| {
        let mut value = [0; WORD];
        value.copy_from_slice(&bytes[i * WORD..][..WORD]);
        usize::from_ne_bytes(value)
    };
    let (mut blocks, mut sources) = (words.chunks_exact(BLOCK), source.chunks_exact(BLOCK * WORD));
    for (words, bytes) in (&mut blocks).zip(&mut sources) {
        let values: [usize; BLOCK] = std::array::from_fn(|i| value(bytes, i));
        for (word, value) in words.iter().zip(values) {
            word.store(value, Relaxed);
        }
    }
    for (i, word) in blocks.remainder().iter().enumerate() {
        word.store(value(sources.remainder(), i), Relaxed);
    }
}
