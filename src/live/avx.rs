//! Many whole words at once, as fast as ordinary memory is copied where the processor lets them be.
//!
//! A loop over words moves 4 or 8 bytes at a time: Rust has no larger atomic access, and compilers
//! do not join smaller ones. Processors with AVX access 16 aligned bytes at once, and so each word in
//! them. Intel promises it: "the 16-byte memory operations performed by […] VMOVDQA when encoded with
//! VEX.128" are "carried out atomically" (SDM, volume 3, "Guaranteed Atomic Operations"). AMD promises
//! it of aligned loads and stores of cacheable memory, which a memfd's is (APM, volume 2, "Access
//! Atomicity"). Of others that make such processors no promise is known. For them this relies on an
//! access of 16 aligned bytes not being divided within a word.

use std::arch::asm;
use std::sync::atomic::AtomicUsize;

use super::one_by_one::{self, WORD};

const LINE: usize = 64;

/// Fewer bytes are moved word by word before the lines among them are found.
const FEW: usize = 256;

/// Words that fill a cache line.
#[repr(C, align(64))]
struct Line([AtomicUsize; LINE / WORD]);

impl Line {
    /// The words before the first whole line, the whole lines, and the words after the last.
    fn split(words: &[AtomicUsize]) -> (&[AtomicUsize], &[Self], &[AtomicUsize]) {
        // SAFETY: `slice::align_to` is "essentially a `transmute`" of the middle, and a `Line`
        // is an array of the very words that it is made of, and nothing else.
        unsafe { words.align_to() }
    }
}

#[inline]
pub(super) fn load(words: &[AtomicUsize], target: &mut [u8]) {
    if target.len() < FEW {
        one_by_one::load(words, target);
    } else {
        load_many(words, target);
    }
}

fn load_many(words: &[AtomicUsize], target: &mut [u8]) {
    if !std::is_x86_feature_detected!("avx") {
        return one_by_one::load(words, target);
    }
    let (before, lines, after) = Line::split(words);
    let (start, rest) = target.split_at_mut(size_of_val(before));
    let (middle, end) = rest.split_at_mut(size_of_val(lines));
    one_by_one::load(before, start);
    // SAFETY: the processor has AVX.
    unsafe { load_lines(lines, middle) };
    one_by_one::load(after, end);
}

/// # Safety
///
/// The words are in memory that can be written.
#[inline]
pub(super) unsafe fn store(words: &[AtomicUsize], source: &[u8]) {
    if source.len() < FEW {
        // SAFETY: this function's obligation.
        unsafe { one_by_one::store(words, source) };
    } else {
        // SAFETY: this function's obligation.
        unsafe { store_many(words, source) };
    }
}

/// # Safety
///
/// The words are in memory that can be written.
unsafe fn store_many(words: &[AtomicUsize], source: &[u8]) {
    if !std::is_x86_feature_detected!("avx") {
        // SAFETY: this function's obligation.
        return unsafe { one_by_one::store(words, source) };
    }
    let (before, lines, after) = Line::split(words);
    let (start, rest) = source.split_at(size_of_val(before));
    let (middle, end) = rest.split_at(size_of_val(lines));
    // SAFETY: this function's obligation.
    unsafe { one_by_one::store(before, start) };
    // SAFETY: this function's obligation, and the processor has AVX.
    unsafe { store_lines(lines, middle) };
    // SAFETY: this function's obligation.
    unsafe { one_by_one::store(after, end) };
}

/// # Safety
///
/// The processor has AVX.
#[target_feature(enable = "avx")]
unsafe fn load_lines(lines: &[Line], target: &mut [u8]) {
    for (line, bytes) in lines.iter().zip(target.chunks_exact_mut(LINE)) {
        // SAFETY: "The set of memory locations that assembly code is allowed to read and write
        // are the same as those allowed for an FFI function" (Rust reference, "Inline
        // assembly"). For Rust this is one that loads each word of `line`, `Relaxed`, and writes
        // all of them to `bytes`, which is as long. Each word is loaded whole, for it lies in
        // one of the four times 16 aligned bytes. Flags and stack are not touched.
        unsafe {
            asm!(
                "vmovdqa {a:x}, [{line}]",
                "vmovdqa {b:x}, [{line} + 16]",
                "vmovdqa {c:x}, [{line} + 32]",
                "vmovdqa {d:x}, [{line} + 48]",
                "vinsertf128 {a}, {a}, {b:x}, 1",
                "vinsertf128 {c}, {c}, {d:x}, 1",
                "vmovdqu [{bytes}], {a}",
                "vmovdqu [{bytes} + 32], {c}",
                line = in(reg) line.0.as_ptr(),
                bytes = in(reg) bytes.as_mut_ptr(),
                a = out(ymm_reg) _,
                b = out(ymm_reg) _,
                c = out(ymm_reg) _,
                d = out(ymm_reg) _,
                options(nostack, preserves_flags),
            );
        }
    }
    // SAFETY: the processor has AVX.
    unsafe { clear_upper_halves() };
}

/// # Safety
///
/// The processor has AVX, and the words are in memory that can be written.
#[target_feature(enable = "avx")]
unsafe fn store_lines(lines: &[Line], source: &[u8]) {
    for (line, bytes) in lines.iter().zip(source.chunks_exact(LINE)) {
        // SAFETY: as in `load_lines`, with each word of `line` stored, `Relaxed`, which it can be.
        unsafe {
            asm!(
                "vmovdqu {a}, [{bytes}]",
                "vmovdqu {b}, [{bytes} + 32]",
                "vmovdqa [{line}], {a:x}",
                "vextractf128 {a:x}, {a}, 1",
                "vmovdqa [{line} + 16], {a:x}",
                "vmovdqa [{line} + 32], {b:x}",
                "vextractf128 {b:x}, {b}, 1",
                "vmovdqa [{line} + 48], {b:x}",
                line = in(reg) line.0.as_ptr(),
                bytes = in(reg) bytes.as_ptr(),
                a = out(ymm_reg) _,
                b = out(ymm_reg) _,
                options(nostack, preserves_flags),
            );
        }
    }
    // SAFETY: the processor has AVX.
    unsafe { clear_upper_halves() };
}

/// Some processors execute other code slowly while these are in use, and the compiler does not
/// look into assembly to see that they are.
///
/// # Safety
///
/// The processor has AVX.
#[target_feature(enable = "avx")]
unsafe fn clear_upper_halves() {
    // SAFETY: only registers are changed, all of which are declared.
    unsafe {
        asm!("vzeroupper", clobber_abi("C"), options(nomem, nostack, preserves_flags));
    }
}
