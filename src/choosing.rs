//! Which one? Immutable files, live files, `latest`, `ring` and `broadcast` compared.
//!
//! This module is documentation only. In short:
//!
//! * Bytes that are kept, shared as one copy, or read in part: an **immutable file**. Its reader gets a
//!   `&[u8]` in place.
//! * State, of which only the newest matters: [`latest`](crate::latest).
//! * A stream of records, of which every one matters, to one reader: [`ring`](crate::ring).
//! * A stream of records to any number of readers, whose writer must not be held up:
//!   [`broadcast`](crate::broadcast).
//! * A layout of your own, that one side writes: a **live file**. That both sides write: a *shared* file
//!   ([`SharedMap`](crate::SharedMap)), which is the last resort, as it promises only that its words are
//!   whole and that the file stays.
//!
//! | | immutable file | live file | [`latest`](crate::latest) | [`ring`](crate::ring) | [`broadcast`](crate::broadcast) |
//! |---|---|---|---|---|---|
//! | for | frames, messages, anything large | counters, tables, a layout of your own | the newest value of something | a stream to one reader | a stream to many readers |
//! | types | [`SealedFile`] | [`Producer`], [`LiveMap`] | `Publisher`, `Subscriber` | `Sender`, `Receiver` | `Publisher`, `Subscriber` |
//! | readers | any number | any number | any number | one | any number |
//! | a reader gets | `&[u8]` in place | a copy | a copy | a copy | a copy |
//! | what it gets whole | the file | a word | a value | a record | a record |
//! | can something be missed? | no | yes | all but the newest | no | yes, and it learns exactly how much |
//! | who waits for whom | nobody | nobody | nobody for readers | the sender, when the ring is full | nobody for readers |
//! | length | any | fixed | up to a fixed capacity | up to the capacity | up to half of the capacity |
//! | something new costs | a file of fresh pages, and sending its descriptor | stores | a copy | a copy | a copy |
//! | waking a reader costs a system call | always: the descriptor is sent | – | registered: if it sleeps; anonymous: always | if it sleeps | as `latest` |
//! | in an event loop | the socket | – | registered readers | both sides | registered readers |
//! | each side writes | nobody writes, ever again | one [`Producer`] | the publisher | its own file | the publisher |
//! | seals | `WRITE`, `SHRINK`; on files made here also `GROW` and `SEAL` | `FUTURE_WRITE`, `SHRINK`; on files made here also `GROW` | as a live file | as live files | as a live file |
//! | can become immutable | is | by [`Producer::finish`](crate::Producer::finish) | no | no | no |
//! | order between calls | nothing changes | a reader that has seen something new sees nothing older afterwards | numbers never decrease | as sent | numbers follow each other |
//! | reading can raise `SIGBUS` | in holes\* | in holes\* | in holes\* | in holes\* | in holes\* |
//! | a hostile writer can | stop sending, leave holes\* | write any bytes at any time, leave holes\* | publish any bytes, keep readers from reading (`WouldBlock`), sleeping and waking, make them allocate up to the capacity, leave holes\* | [see there](crate::ring#what-a-hostile-peer-can-do) | [see there](crate::broadcast#what-a-hostile-peer-can-do) |
//! | a hostile reader can, to the writer | hold the memory, which stays until the last descriptor and mapping are gone | the same, and keep the file from being finished | cost a system call for each value | stop reading | cost a system call for each record |
//! | a hostile reader can, to other readers | move the offset of a description that they share | the same | the same, and [delay anonymous ones](crate::bell) by up to a second | there are none | the same as `latest` |
//! | a writer that is killed leaves | the files that it sent | the words that it stored | its last value | whole records, and the end is told | whole records; registered readers are told the end |
//!
//! \* A hole is memory that was never written; reading it allocates memory, and fails if there is none.
//! Nothing that is made here leaves holes; against those of others there is
//! [`SealPolicy::reserve`](crate::SealPolicy::reserve).
//!
//! `docs/benchmarks.md` in the repository says how fast each of them is. For one reader in the same
//! process, a channel of `std` or tokio is simpler. None of them reaches another machine.
//!
//! [`SealedFile`]: crate::SealedFile
//! [`Producer`]: crate::Producer
//! [`LiveMap`]: crate::LiveMap
