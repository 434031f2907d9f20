//! Changes some bytes of a word that others are writing, too.

use super::atomic::{AtomicUsize, Relaxed};

/// How often a word is tried as a whole. Whoever writes for a purpose, and not to be in the way, leaves
/// room for one of them.
pub(crate) const TRIES: usize = 64;

/// Changes the bytes from `skip` on to those of `source`, and no other byte of the word.
///
/// First it tries to exchange the whole word, `tries` times, each of which fails only if somebody else has
/// changed the word meanwhile. Then it changes the bits alone, in two steps that cannot fail, and others
/// can see the bytes between the two.
pub(crate) fn merge(word: &AtomicUsize, skip: usize, source: &[u8], tries: usize) {
    let (mut ours, mut bits) = ([0; size_of::<usize>()], [0; size_of::<usize>()]);
    ours[skip..][..source.len()].fill(0xff);
    bits[skip..][..source.len()].copy_from_slice(source);
    let (ours, bits) = (usize::from_ne_bytes(ours), usize::from_ne_bytes(bits));

    let mut old = word.load(Relaxed);
    for _ in 0..tries {
        match word.compare_exchange(old, old & !ours | bits, Relaxed, Relaxed) {
            Ok(_) => return,
            Err(other) => old = other,
        }
    }
    word.fetch_and(!ours | bits, Relaxed);
    word.fetch_or(bits, Relaxed);
}
