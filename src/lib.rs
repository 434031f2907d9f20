//! Shared memory that is safe to read: `&[u8]` over memory that the kernel has promised not to change.
//!
//! Mapping a file is `unsafe` in Rust because another process could write to it, or cut it off,
//! while a slice of it is alive. A file in memory (*memfd*) that carries the kernel's *seals*
//! against writing and shrinking can never change again, in any process. This crate turns that
//! promise into a type, [`SealedFile`], which hands out a `&[u8]` of a shared file only once the
//! kernel has confirmed the seals.
//!
//! Use it to
//!
//! * read a message from a peer that you do not trust in place, without copying and without `unsafe`;
//! * make a value once and share it with any number of processes;
//! * turn whatever a descriptor leads to into bytes that stay as they are.
//!
//! It does not map files on disk (they can only be copied in), and it is not for memory that both
//! sides write. And a pipe or a socket hands fresh bytes to one reader faster: sealing
//! pays where bytes are kept, shared as one copy, or read only in part, where they are large, or where
//! the reader should not need room for a copy.
//!
//! # Example
//!
//! ```
//! use sealed_mmap::{SealPolicy, SealedFile};
//! use std::io::Write;
//! use std::os::fd::OwnedFd;
//!
//! // A writer fills a file that nobody else has, and gives up the right to change it.
//! let mut draft = SealedFile::create("frame")?; // SealedFile<Unsealed>
//! draft.write_all(b"some pixels")?;
//! let frame = draft.seal_read_only()?; // SealedFile<ReadOnlySealed>
//!
//! // The descriptor goes to another process, over a socket or as a child's standard input …
//! let descriptor = OwnedFd::from(frame);
//!
//! // … which need not trust where it came from.
//! let frame = SealedFile::receive_read_only(descriptor, &SealPolicy::untrusted(1 << 20))?;
//! let pixels = frame.map_read_only()?; // Deref<Target = [u8]>, Send + Sync + 'static
//! assert_eq!(&pixels[5..], b"pixels");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # I want to …
//!
//! | … | use |
//! |---|---|
//! | share bytes that I have | [`SealedFile::from_bytes`] |
//! | make shared bytes | [`SealedFile::build`]; in place: [`create`](SealedFile::create), [`map_mut`](SealedFile::map_mut), [`seal_read_only`](SealedFile::seal_read_only) |
//! | share what a file, pipe or socket holds | [`SealedFile::copy_of`] |
//! | choose huge pages, or an executable file | [`CreateOptions`] |
//! | send and receive descriptors | [`socket`] |
//! | take an immutable file from a peer | [`SealedFile::receive_read_only`] with [`SealPolicy::untrusted`] |
//! | take a file and seal it myself | [`SealedFile::adopt_read_only`] |
//! | take any file, copying where it is not sealed | [`SealedFile::receive_or_copy`] |
//! | read it | [`map_read_only`](SealedFile::map_read_only), [`map_range`](SealedFile::map_range), or [`Read`](std::io::Read) |
//! | go on writing while others watch | [`Producer`] |
//! | publish the newest value of something | [`latest`] |
//! | watch what a peer goes on writing | [`SealedFile::receive_future_write`], [`map_live`](SealedFile::map_live) |
//! | be sure that reading cannot run out of memory | [`SealPolicy::reserve`], [`SealedFile::reserve`] |
//! | look at or add seals by hand | [`get_seals`], [`add_seals`] |
//!
//! [Which to use](latest#which-to-use) compares immutable files, live files and newest values.
//!
//! # States
//!
//! ```text
//!  create ───────────▶ Unsealed ──────────seal_read_only───────▶ ReadOnlySealed
//!                         │                                        ▲   ▲
//!                         └─into_file─▶ File ──adopt_read_only─────┘   │
//!                                                                      │
//!  from_bytes, build, copy_of, receive_read_only, receive_or_copy ─────┤
//!                                                                      │
//!  Producer::create ──▶ Producer ──finish──────────────────────────────┘
//!                         │ file()
//!                         ▼
//!  receive_future_write ─▶ FutureWriteSealed
//! ```
//!
//! | state | promised | not promised | allowed |
//! |---|---|---|---|
//! | [`Unsealed`] | this value is the only handle | – | write, resize, `&mut [u8]`; no sharing |
//! | [`ReadOnlySealed`] | no byte changes and the length cannot fall, in any process, forever | that every page is in memory | share, clone, `&[u8]` |
//! | [`FutureWriteSealed`] | the length cannot fall; only mappings made before the seal, such as a [`Producer`]'s, can write | that the bytes stay | share, clone, copy bytes out; never `&[u8]` |
//!
//! A transition consumes the value. One that fails gives it back inside the error, contents and
//! offset intact; `?` into an [`io::Result`](std::io::Result) keeps the errno and drops the value and
//! the explanation. The type parameter need not be written: `SealedFile` alone is the immutable file,
//! and the constructors fix the rest.
//!
//! # What is not promised
//!
//! Seals hold against every process that goes through the kernel's ordinary calls. They do not hold
//! against `ptrace(2)` or `/proc/self/mem` (which reach drafts, and this process's own view where
//! the kernel only allows a private mapping), root loading a module, or broken memory. Nor do they
//! promise memory: reading a page that was never written can end the process (`SIGBUS`), unless it is
//! [reserved](SealPolicy::reserve).
//! [`soundness`] has the argument in full, with its sources, and what is left to you.
//!
//! # Platforms
//!
//! | | |
//! |---|---|
//! | Linux | the guarantees are claimed from 5.4 on, and tested on kernels from 5.10 to 7.3 |
//! | Android | the same kernel; compiled, not tested |
//! | FreeBSD | as far as it goes: no [`FutureWriteSealed`], no reserved memory, nothing that needs `/proc/self/fd`; compiled, not tested |
//! | others | the build stops |

#[cfg(doctest)]
mod compile_fail;
mod copy;
mod create;
mod failure;
mod file;
mod huge_pages;
pub mod latest;
mod live;
mod map;
mod policy;
mod producer;
mod sealing;
mod seals;
pub mod socket;
pub mod soundness;
mod state;
mod sys;

pub use create::CreateOptions;
pub use file::draft::SealError;
pub use file::receive::ReceiveError;
pub use file::sealed::SealedFile;
pub use huge_pages::{HugePageSize, HugePages};
pub use live::LiveMap;
pub use map::{OutOfBounds, ReadOnlyMap, UnsealedMap};
pub use policy::{Refusal, SealPolicy};
pub use producer::Producer;
pub use sealing::{SealFailure, add_seals, get_seals};
pub use seals::Seals;
pub use state::{FutureWriteSealed, ReadOnlySealed, Sealed, State, Unsealed};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
