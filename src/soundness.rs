//! Why safe code may have a `&[u8]` over shared memory. Documentation only.
//!
//! # The claim
//!
//! No safe program that uses this crate, and no other process, can change a byte behind a `&[u8]`
//! from this crate, or behind a `&mut [u8]` but through it, or make an access to either fault,
//! within the limits listed under [What is out of scope](#what-is-out-of-scope).
//!
//! # Who attacks
//!
//! * A **peer** that sends a descriptor, keeps others of the same file, maps and writes it, changes
//!   its length, adds seals, and does all of that at the worst moment.
//! * A **reader** that has the descriptor of our file and wants to change it, or to keep us from
//!   sealing it.
//! * **Safe code in this process**, in any order, on any thread, leaking whatever it likes.
//!
//! # Immutable files
//!
//! A [`ReadOnlySealed`] file is made in one place, and every way there has seen `F_GET_SEALS` report
//! `F_SEAL_WRITE` and `F_SEAL_SHRINK`. From that follows, by [fcntl(2)], "File Sealing":
//!
//! 1. *No byte changes.* `F_SEAL_WRITE`: "you cannot modify the contents of the file". Adding it
//!    "fails with `EBUSY` if any writable, shared mapping exists", so none is left over; new ones
//!    are refused, and so are `write(2)` and punching holes.
//! 2. *No byte vanishes.* `F_SEAL_SHRINK`: "the file in question cannot be reduced in size". So an
//!    access within a length that was seen *after* the seal never lies beyond the end of the file.
//!    (hugetlbfs counts its end in whole pages, so a length with a part of one is refused.)
//! 3. *For ever.* "Once set, seals cannot be removed."
//!
//! Three things about kernels complicate this.
//!
//! **`F_GET_SEALS` can report `F_SEAL_WRITE` while somebody writes.** From Linux 6.3 (c4f75bc8bd6b)
//! until mid-2026 (3b041514cb6e) `F_SEAL_EXEC` on a file with an executable mode adds SHRINK, GROW,
//! WRITE and FUTURE_WRITE with it, without looking for writable mappings. Seals are never removed
//! and that path sets all of them at once, so WRITE can be believed where EXEC or FUTURE_WRITE is
//! absent. Where both are present it is believed only on a kernel that has been seen to refuse: the
//! crate tries it once, on a file of its own, and remembers. Otherwise the file is refused as
//! [`UntrustedWriteSeal`]. Our own files never look like that: they are created not executable,
//! which carries EXEC and never FUTURE_WRITE, and are closed to further seals with `F_SEAL_SEAL`.
//!
//! **Kernels before 4.20 let `userfaultfd(2)` fill holes of a sealed file** (CVE-2018-18397). The
//! claim is made from Linux 5.4 on.
//!
//! **Holes.** A page that was never written takes memory when it is read. If there is none,
//! access is `SIGBUS` (under `vm.overcommit_memory=2`, or with an empty hugetlb pool), or the OOM
//! killer comes. Looking for holes, or touching every page, does not help: a page that was only
//! read can be dropped again, and a hostile sender can make holes look filled. What lasts is
//! `fallocate(2)`, which works on sealed files: [`SealedFile::reserve`], [`SealPolicy::reserve`].
//! Without it such a fault ends the process; it never makes a byte change.
//!
//! ## Order
//!
//! Receiving reads the access mode, then the seals, then the length, and judges them; mapping covers
//! exactly that length. With SHRINK confirmed the length read after it is a lower bound forever, so nothing
//! that a hostile holder of the same file does in between matters: it can make the file longer (if
//! GROW is absent), which the mapping does not cover.
//!
//! ## Which files can say they are sealed
//!
//! Only tmpfs and hugetlbfs answer `F_GET_SEALS`; the answer comes from the kernel's own inode and
//! not from a file system's server. Other proofs are not accepted: fs-verity can be claimed by a
//! FUSE server, and mode bits, leases and locks bind nobody.
//!
//! ## Shared and private mappings
//!
//! The file is mapped shared; where the kernel refuses that for a writable descriptor (`EPERM`
//! before Linux 6.7 and its backports), privately. Both show the pages of the file, which do not
//! change. On a shared mapping the kernel also refuses `mprotect(PROT_WRITE)`, `/proc/self/mem`,
//! `ptrace(2)` and `userfaultfd(2)`; on a private one these make a copy in the process whose
//! mapping it is, and never reach the file.
//!
//! # Unsealed files
//!
//! [`map_mut`](SealedFile::map_mut) hands out `&mut [u8]` over a file without any seal. What
//! makes it exclusive:
//!
//! * [`SealedFile<Unsealed>`](crate::Unsealed) is made only from a descriptor that
//!   `memfd_create(2)` has just returned. It has no `AsFd`, no `AsRawFd` and no clone. Leaving the
//!   typestate consumes it.
//! * The map borrows the file exclusively, so that no method of it, not even through `&self`, can
//!   be called while a map lives. A map that is leaked leaves a mapping without any reference to it;
//!   sealing then fails with `EBUSY`, and nothing else happens.
//! * The descriptor is close-on-exec from its creation on. A child of `fork(2)` does not inherit the
//!   mapping (`MADV_DONTFORK`). One that is forked between `mmap` and `madvise` does inherit it,
//!   and keeps the file from being sealed (`EBUSY`) until it ends.
//! * Memory for the whole mapping is reserved first, so that writing cannot fault.
//!
//! # Live files
//!
//! A [`FutureWriteSealed`] file is written by its producer all the time, and so there is never a
//! `&[u8]` over one. [`LiveMap`] and [`Producer`] see it as whole aligned `usize` words:
//!
//! * *Every access is atomic, `Relaxed`, and of one size.* Two accesses of which one writes are a
//!   data race unless both are atomic, and overlapping atomic accesses of different sizes are not
//!   defined ([`std::sync::atomic`], "Memory model for atomic accesses"). A writer in another process
//!   that uses other instructions can make a word look like a mixture of what it wrote, never
//!   undefined: what it does is outside of this program.
//! * *Loads work on read-only pages* because they are `Relaxed` and no larger than a word (same
//!   place, "Atomic accesses to read-only memory").
//! * *A word that is written in part* is loaded, changed and stored by the only writer:
//!   [`Producer::write_at`] takes `&mut self`, the producer's is the only writable mapping, and after
//!   `F_SEAL_FUTURE_WRITE` there can be no other.
//! * *No access faults*: mappings are as long as the file, rounded up within its last page, and
//!   `F_SEAL_SHRINK` keeps it that long.
//! * *Several words at once*: on x86 with AVX words are moved by inline assembly, 16 aligned bytes at
//!   a time. To Rust this is a function written elsewhere (reference, "Inline assembly": what it may
//!   read and write is "the same as those allowed for an FFI function"), and one that loads or stores
//!   each word, `Relaxed`. For the instructions to do that, no word may be divided. Intel promises that
//!   none of the 16 bytes are (SDM, volume 3, "Guaranteed Atomic Operations"), AMD promises it of
//!   cacheable memory, which a memfd's is (APM, volume 2, "Access Atomicity"). Of other makers of
//!   processors with AVX no promise is known; with theirs it is an assumption. Were it wrong, a word
//!   could be a mixture, as with a writer that uses other instructions.
//!
//! [`latest`](crate::latest) adds no unsafe code but the address of one word for `futex(2)`, which
//! only the kernel looks at. That a value is whole is a matter of fences, argued at the top of its
//! `protocol.rs` and checked by a model checker (`tests/latest_model.rs`). A hostile publisher can
//! make it give out any bytes, which is what a `Vec<u8>` from a stranger is.
//!
//! [`Producer::build`] fills the file through a `&mut [u8]` as an unsealed file; that mapping is gone
//! before the live one is made.
//!
//! # Known holes in kernels
//!
//! Faults that break the seals themselves and were mended in the kernel. No program can see them;
//! keep the kernel up to date.
//!
//! * CVE-2022-0847, "Dirty Pipe" (5.8 to 5.16.10, mended in 5.10.102 and 5.15.25): anybody who could
//!   read a file could change its pages.
//! * CVE-2022-2590 (5.16 to 5.19): a race in copy-on-write let anybody write to pages of shared
//!   memory that were mapped read-only.
//! * "udmabuf: fix racy memfd sealing check" (mended in 6.13): whoever may open `/dev/udmabuf` could make a
//!   writable buffer of a memfd's pages in the moment in which it was sealed.
//! * "udmabuf: also check for F_SEAL_FUTURE_WRITE" (0a16e24e34f2; from 5.1, mended in 6.13, 6.12.7,
//!   6.6.68, 6.1.122, 5.15.176, 5.10.233 and 5.4.289): whoever may open `/dev/udmabuf` and has the
//!   descriptor of a live file, even one that can only read, gets a writable buffer of its pages. Then
//!   it is not true that only the producer writes. What follows is wrong words, not undefined
//!   behaviour: nobody has a `&[u8]` of the file, and every access of this program is atomic. And the
//!   file does not become immutable as long as there is such a buffer, for it pins the pages (`EBUSY`).
//!
//! # What is out of scope
//!
//! * **Other processes of the same user, and root**: whoever may trace this process can write all of
//!   its memory; whoever may look at it (also where Yama forbids tracing, unless `PR_SET_DUMPABLE`
//!   is 0) can open an unsealed file through `/proc/PID/fd`, or get it with `pidfd_getfd(2)`.
//! * **This process, in the same ways**: `/proc/self/mem` writes through page protections, and
//!   `/proc/self/fd/N` and `pidfd_getfd(2)` lead to a second descriptor of an unsealed file. They are
//!   no unsafe operations to Rust, and
//!   [the standard library's position](https://doc.rust-lang.org/std/os/unix/io/index.html#procselfmem-and-similar-os-features)
//!   is that what they do to memory safety is outside of Rust's guarantees.
//! * **Holes in a file that nobody reserved memory for** (see above; FreeBSD reserves none at all):
//!   access can end the process. No byte changes.
//! * **Descriptors that are not owned**: code that conjures up a descriptor number violates
//!   [I/O safety](https://doc.rust-lang.org/std/io/index.html#io-safety).
//! * **The kernel and the machine**: a module, a debugger, a kernel that does not enforce its seals,
//!   broken memory, a page that cannot be read back from swap (`SIGBUS`).
//! * **A forked child that goes on running Rust code**: it has a copy of every descriptor, and `fork`
//!   without `exec` is `unsafe`.
//!
//! # What is left to you
//!
//! * Immutable is not valid: parse what a peer sent as the hostile input that it is.
//! * Immutable is not a point in time: [`copy_of`](SealedFile::copy_of) a file that changes meanwhile may mix old and new.
//! * The peer chooses the length: bound it with [`SealPolicy::untrusted`].
//!
//! [fcntl(2)]: https://man7.org/linux/man-pages/man2/fcntl.2.html
//! [`ReadOnlySealed`]: crate::ReadOnlySealed
//! [`FutureWriteSealed`]: crate::FutureWriteSealed
//! [`UntrustedWriteSeal`]: crate::Refusal::UntrustedWriteSeal
//! [`LiveMap`]: crate::LiveMap
//! [`Producer`]: crate::Producer
//! [`Producer::write_at`]: crate::Producer::write_at
//! [`Producer::build`]: crate::Producer::build
//! [`SealedFile::reserve`]: crate::SealedFile::reserve
//! [`SealPolicy::reserve`]: crate::SealPolicy::reserve
//! [`SealPolicy::untrusted`]: crate::SealPolicy::untrusted

#[allow(unused_imports, reason = "for the links above")]
use crate::SealedFile;
