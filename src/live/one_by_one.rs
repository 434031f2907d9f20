//! Many whole words, one after the other.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub(crate) const WORD: usize = size_of::<usize>();

#[inline]
pub(crate) fn load(words: &[AtomicUsize], target: &mut [u8]) {
    for (word, bytes) in words.iter().zip(target.chunks_exact_mut(WORD)) {
        bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
    }
}

/// # Safety
///
/// The words are in memory that can be written.
#[inline]
pub(crate) unsafe fn store(words: &[AtomicUsize], source: &[u8]) {
    for (word, bytes) in words.iter().zip(source.chunks_exact(WORD)) {
        let mut value = [0; WORD];
        value.copy_from_slice(bytes);
        word.store(usize::from_ne_bytes(value), Relaxed);
    }
}
