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

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: usize = size_of::<usize>();

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
