//! Shared memory that is safe to read: `&[u8]` over memory that the kernel has promised not to change.
//!
//! Mapping a file is `unsafe` in Rust: another process could write to the file, or shorten it, while a
//! slice of it is alive. The kernel can rule that out. A file in memory (*memfd*) that is *sealed*
//! against writing and shrinking never changes again, in any process. [`SealedFile`] turns that promise
//! into a type, which hands out a `&[u8]` only after the kernel has confirmed the seals.
//!
//! Use it to
//!
//! * read a message from an untrusted peer in place, without copying and without `unsafe`;
//! * make a value once, and share it with any number of processes;
//! * turn whatever a descriptor refers to into bytes that never change;
//! * send records to another process through memory, faster than through a pipe: [`ring`] to one reader,
//!   [`broadcast`] to many, [`latest`] where only the newest counts.
//!
//! The crate does not map files on disk (it can copy them in). Memory that both sides write can be shared
//! as well, but never as a `&[u8]`. For one reader that reads once, a sealed file is slower than a pipe, and a
//! [`ring`] is faster. Sealing pays where bytes are kept, shared as one copy, or read only in part, where
//! they are large, or where the reader should not need room for a copy.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | *draft* | `SealedFile<Unsealed>`: a file that is being filled, and that nobody else has |
//! | *immutable* file | `SealedFile<ReadOnlySealed>`, or `SealedFile` for short: a file that never changes again |
//! | *shared* file | `SealedFile<SizeSealed>`: a file that cannot shrink, and that everybody who has it may write |
//! | *live* file | `SealedFile<FutureWriteSealed>`: a file that one producer goes on writing while others read it |
//! | *description* | what the kernel creates when a file is opened: it has the access mode and the offset |
//! | *descriptor* | a process's number for a description; duplicates, and what other processes receive, refer to the same description |
//! | *hole* | a part of a file that was never written; reading it through a map allocates memory, and can end the process if there is none |
//! | *pin* | to hold pages in place for I/O (io_uring buffers, `vmsplice(2)`, udmabuf); a file with pinned pages cannot be sealed against writing |
//!
//! # I want to …
//!
//! | … | use |
//! |---|---|
//! | share bytes that I have | [`SealedFile::from_bytes`] |
//! | make shared bytes | [`SealedFile::build`]; in place: [`create`](SealedFile::create), [`map_mut`](SealedFile::map_mut), [`seal_read_only`](SealedFile::seal_read_only) |
//! | share what a file, pipe or socket holds | [`SealedFile::copy_of`] |
//! | have a child, a C library or a GPU fill the file, and then seal it | [`into_file`](SealedFile::into_file), then [`adopt_read_only`](SealedFile::adopt_read_only) |
//! | have just a memfd, which is never sealed | [`create`](SealedFile::create), [`into_file`](SealedFile::into_file); so that nobody else seals it: [`allow_sealing(false)`](CreateOptions::allow_sealing) |
//! | choose huge pages, or an executable file | [`CreateOptions`] |
//! | please a peer that compares seals with a fixed set | [`exec_seal(false)`](CreateOptions::exec_seal), [`final_seals(true)`](CreateOptions::final_seals) |
//! | send and receive descriptors | [`socket`] |
//! | send a file to a socket by its address, as to `systemd-journald` | [`socket::send_fds_to`] |
//! | know who sent a file | [`socket::recv_fds_with_credentials`] |
//! | receive an immutable file from a peer | [`SealedFile::receive_read_only`] with [`SealPolicy::untrusted`] |
//! | receive a file and seal it myself | [`SealedFile::adopt_read_only`] |
//! | accept any file, copying it if it is not sealed | [`SealedFile::receive_or_copy`] |
//! | read an immutable file | [`map_read_only`](SealedFile::map_read_only), [`map_range`](SealedFile::map_range), or [`Read`](std::io::Read) |
//! | go on writing while others read | [`Producer`] |
//! | publish the newest value of something | [`latest`] |
//! | send a stream of records to one reader | [`ring`] |
//! | send a stream of records to many readers, and never wait for them | [`broadcast`] |
//! | wait for such a peer in an event loop | [`bell`](bell#in-an-event-loop) |
//! | read what a peer goes on writing | [`SealedFile::receive_future_write`], [`map_live`](SealedFile::map_live), [`SealPolicy::untrusted_live`] |
//! | share memory that both sides write | [`seal_size`](SealedFile::seal_size), [`SealedFile::receive_size_sealed`], [`map_shared`](SealedFile::map_shared) |
//! | follow a file that becomes longer | [`refresh_len`](SealedFile::refresh_len) |
//! | make a file immutable when its writers are gone | [`finish`](SealedFile::finish), [`SealedFile::adopt_read_only`] |
//! | be sure that reading cannot run out of memory | [`SealPolicy::reserve`], [`SealedFile::reserve`] |
//! | change a few pages of a large immutable file, for myself | [`map_private`](SealedFile::map_private) |
//! | execute a program that nobody can change | [`CreateOptions::executable`], [`command`](SealedFile::command) |
//! | count, or set a flag, while others look | [`Producer::add`], [`Producer::store`], [`LiveMap::load`] |
//! | give memory to a C library or a device | [`LiveMap::as_ptr`], [`Producer::as_ptr`] |
//! | look at seals, or add them, by hand | [`get_seals`], [`add_seals`] |
//!
//! [`choosing`] compares immutable files, live files, `latest`, `ring` and `broadcast`.
//!
//! # States
//!
//! ```text
//!  create ───────────▶ Unsealed ──────────seal_read_only───────▶ ReadOnlySealed
//!                        │ │                                       ▲   ▲
//!                        │ └─into_file─▶ File ──adopt_read_only────┘   │
//!                        └───seal_size────────┐                        │
//!                                             ▼                        │
//!  receive_size_sealed ─────────────────▶ SizeSealed ──finish──────────┤
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
//! | [`Unsealed`] | this value is the only handle to the file | – | write, resize, `&mut [u8]`; no sharing |
//! | [`ReadOnlySealed`] | no byte changes and the file cannot shrink, in any process, forever | that every page is in memory | share, clone, `&[u8]` |
//! | [`SizeSealed`] | the file cannot shrink | that the bytes stay as they are: everybody who has the file may write | share, clone, copy bytes and words out and in; never `&[u8]` |
//! | [`FutureWriteSealed`] | the file cannot shrink; only mappings made before the seal, such as a [`Producer`]'s, can write | that the bytes stay as they are | share, clone, copy bytes out; never `&[u8]` |
//!
//! A transition consumes the value. A transition that fails gives the same value back inside the error,
//! contents and offset intact.
//!
//! # Example
//!
//! Through all states:
//!
//! ```
//! # if !sealed_mmap::Producer::is_supported() { return Ok(()); }
//! use sealed_mmap::{Producer, SealPolicy, SealedFile, Seals};
//! use std::io::Write;
//!
//! // A draft: nobody else has the file. Sealing it gives up the right to change it.
//! let mut draft = SealedFile::create("frame")?; // SealedFile<Unsealed>
//! draft.write_all(b"some pixels")?;
//! let frame = draft.seal_read_only()?; // SealedFile<ReadOnlySealed>
//!
//! // The descriptor goes to another process, over a socket or as a child's standard input. The
//! // receiver need not trust the sender.
//! let frame = SealedFile::receive_read_only(frame, &SealPolicy::untrusted(1 << 20))?;
//! let pixels = frame.map_read_only()?; // Deref<Target = [u8]>, Send + Sync + 'static
//! assert_eq!(&pixels[5..], b"pixels");
//!
//! // A live file: its producer goes on writing, and a receiver copies out what is there.
//! let mut producer = Producer::create("subtitles", 13)?;
//! let sent = producer.file().try_clone()?; // SealedFile<FutureWriteSealed>
//! let live = SealedFile::receive_future_write(sent, &SealPolicy::untrusted_live(1 << 20))?;
//! let watched = live.map_live()?;
//! producer.write_at(0, b"Hello, world!")?;
//! assert_eq!(watched.to_vec(..5)?, b"Hello");
//!
//! // Once it is finished, the same file is immutable, for its receivers, too.
//! let finished = producer.finish()?; // SealedFile<ReadOnlySealed>
//! let received = SealedFile::receive_read_only(live, &SealPolicy::new())?;
//! assert_eq!(received.map_read_only()?, finished.map_read_only()?);
//!
//! // A shared file: everybody who has it may write. It cannot shrink, so the maps stay valid.
//! let mut draft = SealedFile::create("pool")?;
//! draft.set_len(4096)?;
//! let pool = draft.seal_size(Seals::empty())?; // SealedFile<SizeSealed>
//! let sent = pool.try_clone()?;
//! let received = SealedFile::receive_size_sealed(sent, &SealPolicy::untrusted_live(1 << 20))?;
//! pool.map_shared()?.write_at(64, b"pixels")?;
//! received.map_shared()?.fetch_add(0, 1)?;
//! assert_eq!(received.map_live()?.to_vec(64..70)?, b"pixels");
//!
//! // When nobody maps it for writing any more, it can become immutable.
//! let picture = pool.finish()?; // SealedFile<ReadOnlySealed>
//! assert_eq!(&picture.map_read_only()?[64..70], b"pixels");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Errors
//!
//! A transition that fails returns a [`SealError`], with the file. A receiver that refuses a file returns
//! a [`ReceiveError`], with the descriptor. Both say why.
//!
//! In a function that returns [`io::Result`](std::io::Result), `?` converts both. The conversion drops
//! the file or the descriptor, and keeps the explanation: `Display` and `Debug` print it, `kind()` is
//! the errno's, and `source()` leads to the errno's [`io::Error`](std::io::Error). The boxed error is a
//! `SealError<()>` or a `ReceiveError<()>`, and can be downcast to.
//!
//! A system call that a sandbox denies (`EPERM`, `EACCES`, `ENOSYS`) is reported as an error of the
//! errno's kind that says what was being done; its `source()` is the errno's error. There are two
//! exceptions: errnos that have a meaning of their own for that call, which are listed with the item, and
//! what only passes a call on (`Read`, `Write`, `Seek`, `FileExt`, `metadata`, sending a message).
//!
//! # What is not promised
//!
//! Seals hold against every process that goes through the kernel's ordinary calls. They do not hold
//! against `ptrace(2)` and `/proc/self/mem` (which reach drafts, and this process's own view where the
//! kernel allows only a private mapping), against root loading a module, or against broken memory. Nor
//! do seals promise memory: reading a hole can end the process (`SIGBUS`), unless its memory is
//! [reserved](SealPolicy::reserve).
//!
//! [`soundness`] has the argument in full, with its sources, and what is left to you. The promise is as
//! good as the kernel that makes it: [known holes in kernels](soundness#known-holes-in-kernels) lists
//! the faults that broke it, and what an operator can do.
//!
//! # Platforms
//!
//! | | |
//! |---|---|
//! | Linux | the guarantees are claimed from 5.4 on, and tested on kernels from 5.10 to 7.3 |
//! | Android | the same kernel; compiled, not tested |
//! | FreeBSD | in part: no [`FutureWriteSealed`], no reserved memory, nothing that needs `/proc/thread-self/fd`; compiled, not tested |
//! | others | the build stops |

pub mod bell;
pub mod broadcast;
pub mod choosing;
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
mod memory;
mod policy;
mod producer;
mod record;
pub mod ring;
mod sealing;
mod seals;
pub mod socket;
pub mod soundness;
mod state;
mod sys;
mod word;

pub use create::CreateOptions;
pub use file::draft::SealError;
pub use file::receive::ReceiveError;
pub use file::sealed::SealedFile;
pub use huge_pages::{HugePageSize, HugePages};
pub use live::{LiveMap, SharedMap};
pub use map::{OutOfBounds, PrivateMap, ReadOnlyMap, UnsealedMap};
pub use policy::{Refusal, SealPolicy};
pub use producer::Producer;
pub use sealing::{SealFailure, add_seals, get_seals};
pub use seals::Seals;
pub use state::{Changing, FutureWriteSealed, ReadOnlySealed, Sealed, SizeSealed, State, Unsealed};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
