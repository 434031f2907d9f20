//! Why safe code may hold a `&[u8]` over shared memory. Documentation only.
//!
//! # The claim
//!
//! No safe program that uses this crate, and no other process, can change a byte behind a `&[u8]`
//! from this crate, change a byte behind a `&mut [u8]` from this crate except through it, or make an
//! access to either fault. The claim holds within the limits listed under
//! [What is out of scope](#what-is-out-of-scope).
//!
//! # Threat model
//!
//! * A **peer** that sends a descriptor, keeps others to the same file, maps and writes the file,
//!   changes its length and adds seals, all at the worst moment.
//! * A **reader** that holds a descriptor of our file and tries to change the file, to keep us from
//!   sealing it, or to harm other readers.
//! * **Safe code in this process**, in any order, on any thread, leaking any value.
//!
//! The kernel is trusted. Whatever answers system calls in the kernel's place is part of the kernel
//! for this argument: the supervisor behind a seccomp user notification, a seccomp filter that
//! returns success without making the call, a `ptrace(2)` tracer.
//!
//! # Immutable files
//!
//! A [`ReadOnlySealed`] file is constructed in one place, and every path to that place has seen
//! `F_GET_SEALS` report `F_SEAL_WRITE` and `F_SEAL_SHRINK`. By [fcntl(2)], "File Sealing", it
//! follows:
//!
//! 1. *No byte changes.* `F_SEAL_WRITE`: "you cannot modify the contents of the file". Adding the
//!    seal "fails with `EBUSY` if any writable, shared mapping exists", so no such mapping is left;
//!    new ones are refused, and so are `write(2)` and hole punching.
//! 2. *No byte vanishes.* `F_SEAL_SHRINK`: "the file in question cannot be reduced in size". An
//!    access within a length that was read *after* the seal therefore never lies beyond the end of
//!    the file. (hugetlbfs counts the end of a file in whole pages, so a length that ends within a
//!    page is refused.)
//! 3. *Forever.* "Once set, seals cannot be removed."
//!
//! Three properties of kernels complicate this.
//!
//! **`F_GET_SEALS` can report `F_SEAL_WRITE` while somebody still writes.** From Linux 6.3
//! (c4f75bc8bd6b) until mid-2026 (3b041514cb6e), `F_SEAL_EXEC` on a file with an executable mode
//! also adds SHRINK, GROW, WRITE and FUTURE_WRITE, without checking for writable mappings. Seals are
//! never removed, and that path sets all of them at once, so WRITE can be trusted where EXEC or
//! FUTURE_WRITE is absent. Where both are present, WRITE is trusted only on a kernel that has been
//! seen to refuse: the crate tries it once, on a file of its own, and caches the answer. Otherwise
//! the file is refused as [`UntrustedWriteSeal`]. Files made by this crate never look like that.
//! Drafts never get FUTURE_WRITE, whether they carry EXEC or not
//! ([`exec_seal`](crate::CreateOptions::exec_seal)), live files are made without EXEC, and
//! `F_SEAL_SEAL` closes immutable files to further seals.
//!
//! **Kernels before 4.20 let `userfaultfd(2)` fill holes of a sealed file** (CVE-2018-18397). The
//! claim is made for Linux 5.4 and later, for live files from 5.4.4 on.
//!
//! **Holes.** Reading a page that was never written allocates memory for it. If there is none, the
//! access raises `SIGBUS` (under `vm.overcommit_memory=2`, or with an empty hugetlb pool) or invokes
//! the OOM killer. Looking for holes, or touching every page, does not help: a page that was only
//! read can be dropped again, and a hostile sender can make holes look filled. `fallocate(2)` lasts,
//! and works on sealed files: [`SealedFile::reserve`], [`SealPolicy::reserve`]. Without a
//! reservation such a fault ends the process; it never changes a byte.
//!
//! ## Order
//!
//! Receiving reads the access mode, then the seals, then the length, and judges them; mapping covers
//! exactly that length. With SHRINK confirmed, a length read afterwards is a lower bound forever.
//! Nothing that a hostile holder of the same file does in between matters: it can extend the file
//! (if GROW is absent), but the mapping does not cover the extension.
//!
//! ## Which files can report seals
//!
//! Only tmpfs and hugetlbfs answer `F_GET_SEALS`; the answer comes from the kernel's own inode and
//! not from a file system's server. No other proof is accepted: a FUSE server can claim fs-verity,
//! and mode bits, leases and locks bind nobody.
//!
//! ## Shared and private mappings
//!
//! The file is mapped shared; where the kernel refuses that for a writable descriptor (`EPERM`
//! before Linux 6.7 and its backports), it is mapped private. Both show the pages of the file, which
//! do not change. On a shared mapping the kernel also refuses `mprotect(PROT_WRITE)`,
//! `/proc/self/mem`, `ptrace(2)` and `userfaultfd(2)`. On a private mapping these make a copy within
//! the process that owns the mapping, and never reach the file.
//!
//! ## Private maps that are written
//!
//! [`map_private`](SealedFile::map_private) hands out a `&mut [u8]` over an immutable file. A page of it
//! is the file's, which does not change, until this process writes to the page. Then the page is this
//! process's own: "Updates to the mapping are not visible to other processes mapping the same file, and
//! are not carried through to the underlying file" ([mmap(2)], `MAP_PRIVATE`). A child of `fork(2)` gets
//! its own copy in turn. So the slice has one owner, as memory of the heap has. Every kernel allows such
//! a mapping of a file with `F_SEAL_WRITE`, for nothing that is written to it reaches the file. That a
//! page is copied before it is written is the rule that CVE-2022-2590 and "Dirty COW" broke: see
//! [Known holes in kernels](#known-holes-in-kernels).
//!
//! # Drafts
//!
//! [`map_mut`](SealedFile::map_mut) hands out a `&mut [u8]` over a file without any seal. What
//! makes it exclusive:
//!
//! * A draft, [`SealedFile<Unsealed>`](crate::Unsealed), is made only from a descriptor that
//!   `memfd_create(2)` has just returned. A draft has no `AsFd`, no `AsRawFd` and no clone. Leaving
//!   the typestate consumes it.
//! * The map borrows the draft exclusively, so no method of the draft, not even one on `&self`, can
//!   be called while a map lives. Leaking a map leaves a mapping that nothing refers to; sealing then
//!   fails with `EBUSY`, and nothing else happens.
//! * The descriptor is close-on-exec from the start. A child of `fork(2)` does not inherit the
//!   mapping (`MADV_DONTFORK`). A child forked between `mmap` and `madvise` does inherit it, and
//!   keeps the file from being sealed (`EBUSY`) until the child ends.
//! * Memory for the whole mapping is reserved first, so writing cannot fault.
//!
//! # Live files
//!
//! The producer of a [`FutureWriteSealed`] file writes to it all the time, so there is never a
//! `&[u8]` over one. [`LiveMap`] and [`Producer`] see the file as whole, aligned `usize` words:
//!
//! * *Every access is atomic, `Relaxed`, and of one size.* Two accesses of which one writes are a
//!   data race unless both are atomic, and overlapping atomic accesses of different sizes are not
//!   defined ([`std::sync::atomic`], "Memory model for atomic accesses"). A writer in another process
//!   that uses other instructions can make a word look like a mixture of what it wrote, but not
//!   undefined: what that writer does is outside of this program.
//! * *Loads work on read-only pages* because they are `Relaxed` and no larger than a word (same
//!   page, "Atomic accesses to read-only memory").
//! * *A word that is written in part* is loaded, changed and stored by the only writer:
//!   [`Producer::write_at`] takes `&mut self`, the producer's mapping is the only writable one, and
//!   after `F_SEAL_FUTURE_WRITE` there can be no other.
//! * *Pointers* ([`LiveMap::as_ptr`](crate::LiveMap::as_ptr), [`Producer::as_ptr`]) are safe to get. What
//!   may be done through them is a promise of whoever does it, in an `unsafe` block of theirs.
//! * *No access faults*: mappings are as long as the file, rounded up within its last page, and
//!   `F_SEAL_SHRINK` keeps the file that long.
//! * *Several words at once*: on x86 with AVX, inline assembly moves words 16 aligned bytes at a
//!   time. To Rust this is a function written elsewhere (reference, "Inline assembly": what it may
//!   read and write is "the same as those allowed for an FFI function"), one that loads or stores
//!   each word, `Relaxed`. For the instructions to do that, no word may be split. Intel guarantees
//!   that none of the 16 bytes are (SDM, volume 3, "Guaranteed Atomic Operations"); AMD guarantees it
//!   for cacheable memory, which a memfd's is (APM, volume 2, "Access Atomicity"). No guarantee is
//!   known of other makers of processors with AVX; on theirs it is an assumption. If it were wrong, a
//!   word could be a mixture, as with a writer that uses other instructions.
//!
//! [`latest`](crate::latest), [`ring`](crate::ring) and [`broadcast`](crate::broadcast) add no unsafe
//! code except the address of one word for `futex(2)`, which only the kernel reads. That values and
//! records are whole is a matter of fences: the argument stands at the top of each `protocol.rs`, and a
//! model checker checks it (`tests/latest_model.rs`, `ring_model.rs`, `broadcast_model.rs`). A hostile
//! peer can make them return any bytes, which is what a `Vec<u8>` from a stranger is.
//!
//! [`Producer::build`] fills the file through a `&mut [u8]` as a draft; that mapping is gone before
//! the live one is made.
//!
//! # Shared files
//!
//! Everybody who has a [`SizeSealed`] file may write to it, so there is never a `&[u8]` over one, and
//! nothing that follows relies on what others do. [`SharedMap`] sees the file as a live file is seen: as
//! whole, aligned words, every access atomic, `Relaxed` and of one size; what is said above of those
//! holds here, also of several words at once. Three things differ, because there is no only writer:
//!
//! * *A word that is written in part* is exchanged as a whole (`compare_exchange`), which fails if
//!   somebody has changed the word since it was loaded. So bytes beside the part are never set back to
//!   what they were before. A writer that is in the way without pause could make that fail forever. After
//!   64 times the bits of the part alone are cleared and set (`fetch_and`, `fetch_or`), which always
//!   succeeds and touches no other bit. Others can see the part between the two. A model checker runs
//!   both ways in every order of two writers and a reader, and finds the loss if the word is merely loaded
//!   and stored (`tests/shared_model.rs`).
//! * *The last word* of a file whose length is not a multiple of a word reaches beyond the end, within
//!   the last page. If the file grows, those bytes are somebody's. They are loaded with the word and
//!   never given out; they are in no part that is written; and no word that reaches beyond the end can be
//!   named.
//! * *Nothing is exclusive.* Two maps of one file, in one process or in two, are as two threads with one
//!   map. `write(2)`, a device, and code in other languages are other writers: they are outside of this
//!   program, and can make a word look like a mixture.
//!
//! *No access lies beyond the end*: `F_SEAL_SHRINK` was confirmed before the length was read, and a map
//! covers that length and no more. [`refresh_len`](SealedFile::refresh_len) reads the length anew, which
//! by then can only have risen. Maps that exist are not touched by it.
//!
//! *Memory is not promised.* Nothing forbids to punch holes into a shared file, so memory that was reserved
//! can be taken away again at any moment, and touching such a hole needs memory anew. Under strict
//! overcommit, and on hugetlb pages, the lack of it is `SIGBUS`, which ends the process. Neither a check
//! nor `mlock(2)` helps. [Holes](crate::SharedMap#holes) lists what does.
//!
//! *Becoming immutable.* [`finish`](SealedFile::finish) and
//! [`adopt_read_only`](SealedFile::adopt_read_only) add `F_SEAL_WRITE`, which the kernel refuses while any
//! [`SharedMap`] of the file exists, in any process (`EBUSY`). So a `&[u8]` and a [`SharedMap`] of one file
//! never exist together, whatever safe code does.
//!
//! # Known holes in kernels
//!
//! The promise is as good as the kernel that makes it. Each fault below breaks the seals themselves:
//! it writes behind a `&[u8]` of an immutable file, or lets somebody other than the producer write to
//! a live one, although the file carries every seal. No program can detect it from the descriptor.
//!
//! Most of them form one class: *whatever writes in place to pages that it reached by splice, pin or
//! DMA, past the file's seals.* More of that class will be found. What an operator can do about all
//! of it: run a current kernel, and keep the modules, devices and user namespaces named below from
//! processes that need none of them.
//!
//! | hole | affects | kernels | an attacker needs | an operator can | evidence |
//! |---|---|---|---|---|---|
//! | iommufd: `IOMMU_IOAS_MAP_FILE` with `WRITEABLE` asks neither for seals nor for a writable descriptor; a device's DMA then writes into the file | all files | since 6.13 (f4986a72d6e4); not known to be fixed: a patch, "Require write access for writable MAP_FILE mappings", was posted in June 2026, and no merge of it was found in November 2026 | a read-only descriptor, `/dev/iommu` and one vfio device | give `/dev/iommu` and vfio devices to trusted processes alone; blacklist `iommufd` | reproduced on Ubuntu 6.17.0-42 and 7.0.0-44: 8 bytes changed. Debian's cloud kernels have no `/dev/iommu` |
//! | CVE-2026-31431, "Copy Fail": `AF_ALG` with `authencesn` and splice | all files | since 4.14 (72548b093ee3); fixed in 7.0 (a664bf3d603d), 6.19.12, 6.18.22, 6.12.85, 6.6.137, 6.1.170, 5.15.204, 5.10.254 | a read-only descriptor, nothing else | upgrade; blacklist `algif_aead`; deny `socket(AF_ALG)` by seccomp | reproduced on Ubuntu 6.8.0-31, as uid 1000 |
//! | CVE-2026-43284, "Dirty Frag": ESP decrypts in place | all files | since 4.11 (cac2661c53f3); fixed in 7.1 (f4c50a4034e6), 7.0.5, 6.18.28, 6.12.87, 6.6.138, 6.1.172, 5.15.206, 5.10.255 | a read-only descriptor, and a network namespace of its own | upgrade; blacklist `esp4` and `esp6`, which disables IPsec; forbid unprivileged user namespaces | advisory |
//! | CVE-2026-43500, "Dirty Frag": rxrpc decrypts in place | all files | since 5.3 (d0d5c0cd1e71); fixed in 7.1 (aa54b1d27fe0), 7.0.6, 6.18.29, 6.12.88, 6.6.140 | a read-only descriptor, and the module `rxrpc`; no namespace | upgrade; blacklist `rxrpc` | advisory |
//! | CVE-2026-46300 (`skb_try_coalesce`) and CVE-2026-43503 (`__pskb_copy_fclone`, `skb_shift`): the mark of shared pages is lost, and ESP decrypts in place | all files | since 3.9 (cef401de7be8); fixed in 7.1, 7.0.10, 6.18.33, 6.12.91, 6.6.141, 6.1.174, 5.15.208, 5.10.257 | as CVE-2026-43284 | as CVE-2026-43284; that closes the known way, the fault is in the core of the network stack | advisory |
//! | CVE-2026-46331: `act_pedit` edits packets in place | all files | since 5.18, 5.15.41, 5.10.117 and 5.4.195; fixed in 7.1 (899ee91156e5), 7.0.13, 6.18.36, 6.12.94, 6.6.144, 6.1.177, 5.15.211, 5.10.260 | a read-only descriptor, and a network namespace of its own | upgrade; blacklist `act_pedit`; forbid unprivileged user namespaces | advisory |
//! | "udmabuf: fix racy memfd sealing check": a writable buffer of a memfd's pages, made at the moment of sealing | files shared before they are sealed | fixed in 6.13 | a descriptor, and `/dev/udmabuf` | upgrade; give `/dev/udmabuf` to trusted processes alone | kernel source |
//! | "udmabuf: also check for F_SEAL_FUTURE_WRITE" (0a16e24e34f2): a writable buffer of a live file's pages | live files | since 5.1; fixed in 6.13, 6.12.7, 6.6.68, 6.1.122, 5.15.176, 5.10.233 and 5.4.289 | a descriptor, even a read-only one, and `/dev/udmabuf` | upgrade; give `/dev/udmabuf` to trusted processes alone | kernel source |
//! | CVE-2022-0847, "Dirty Pipe" | all files | 5.8 to 5.16.10; fixed in 5.15.25 and 5.10.102 | a read-only descriptor | upgrade | advisory |
//! | CVE-2022-2590: a race in copy-on-write writes to pages of shared memory that are mapped read-only | all files | 5.16 to 5.19 | a read-only descriptor | upgrade | advisory |
//! | CVE-2021-4002: stale TLB entries after hugetlb page tables are unshared | hugetlb files | 3.6 to 5.15.5; fixed in 5.16 (a4a118f2eead), 5.10.82 and 5.4.162 | hugetlb pages | upgrade; have no hugetlb pool | advisory |
//! | "mm/hugetlb: fix F_SEAL_FUTURE_WRITE" (22247efd822e): the seal did not stop new writable mappings | live hugetlb files | since 5.1; fixed in 5.13, 5.10.38 and 5.4.120 | a writable descriptor | upgrade; have no hugetlb pool | kernel source |
//! | CVE-2018-18397: `userfaultfd(2)` fills holes | files with holes | before 4.20 (29ec90660d68) | a read-only descriptor | upgrade: the claim starts at 5.4 | reproduced on 4.19.1, gone on 5.4 |
//!
//! *Evidence*: "reproduced" was seen in a virtual machine by this project; "advisory" and "kernel
//! source" were read. Version numbers are those of kernel.org; distributions backport fixes without
//! changing them, so look up the name of the hole in your distribution's advisories. The advisories
//! of 2026 name no fixed release of 5.4.
//!
//! To blacklist a module, write `install NAME /bin/false` into a file in `/etc/modprobe.d/`, and
//! unload it. That does not help where the kernel has it built in.
//!
//! *Live files.* Where somebody other than the producer writes to a live file, words are wrong, but
//! nothing is undefined behaviour: nobody has a `&[u8]` of the file, and every access of this program
//! is atomic. Such a file does not become immutable while a udmabuf of it exists, for the buffer
//! pins the pages (`EBUSY`).
//!
//! *hugetlb.* [`SealPolicy`] refuses hugetlb files unless
//! [`allow_hugetlb`](crate::SealPolicy::allow_hugetlb) is set, so on kernels with the two holes above
//! a peer's hugetlb file is refused by default.
//!
//! *Suspected, not shown*: FUSE passthrough (root registers the backing file); an iommufd address
//! space without a device, which pins nothing while the file is sealed and writes after a device is
//! attached; FreeBSD's `shm_add_seals`, which checks mappings and not wired pages.
//!
//! # What is out of scope
//!
//! * **Other processes of the same user, and root**: a process that may trace this one can write all
//!   of its memory. A process that may inspect this one (even where Yama forbids tracing, unless
//!   `PR_SET_DUMPABLE` is 0) can open a draft through `/proc/PID/fd`, or obtain it with
//!   `pidfd_getfd(2)`.
//! * **This process, in the same ways**: `/proc/self/mem` writes through page protections, and
//!   `/proc/self/fd/N` and `pidfd_getfd(2)` lead to a second descriptor of a draft. To Rust they are
//!   not unsafe operations, and
//!   [the standard library's position](https://doc.rust-lang.org/std/os/unix/io/index.html#procselfmem-and-similar-os-features)
//!   is that their effect on memory safety is outside of Rust's guarantees.
//! * **Holes in a file that nobody reserved memory for** (see above; FreeBSD reserves none at all):
//!   an access can end the process. No byte changes.
//! * **Descriptors that are not owned**: code that makes up a descriptor number violates
//!   [I/O safety](https://doc.rust-lang.org/std/io/index.html#io-safety).
//! * **The kernel and the machine**: a module, a debugger, a kernel that does not enforce its seals,
//!   broken memory, a page that cannot be read back from swap (`SIGBUS`). A kernel that is live-patched
//!   against the `F_SEAL_EXEC` fault counts as fixed, also for a file that was sealed before the patch.
//! * **A forked child that goes on running Rust code**: it has a copy of every descriptor, and `fork`
//!   without `exec` is `unsafe`.
//!
//! # What is left to you
//!
//! * Immutable does not mean valid: parse what a peer sent as the hostile input that it is.
//! * Immutable does not mean consistent: [`copy_of`](SealedFile::copy_of) a file that changes during
//!   the copy may mix old and new bytes.
//! * The peer chooses the length: bound it with [`SealPolicy::untrusted`] or
//!   [`SealPolicy::untrusted_live`].
//!
//! ## Core dumps
//!
//! A core dump reads every page of the mappings that it contains. Dumping a process that maps an
//! unreserved hole therefore allocates memory for the whole hole, even if nothing ever touched it.
//!
//! Maps are not marked `MADV_DONTDUMP` all the same: a dump without the bytes that were being parsed
//! is useless for debugging, and the mark costs one more system call for every map. Instead,
//!
//! * reserve the memory, or bound the length: [`SealPolicy::reserve`], [`SealPolicy::len`];
//! * or exclude shared memory from this process's dumps: clear bit 1 of `/proc/PID/coredump_filter`
//!   ([core(5)]);
//! * or call `madvise(2)` with `MADV_DONTDUMP` on the range of the map.
//!
//! [mmap(2)]: https://man7.org/linux/man-pages/man2/mmap.2.html
//! [fcntl(2)]: https://man7.org/linux/man-pages/man2/fcntl.2.html
//! [core(5)]: https://man7.org/linux/man-pages/man5/core.5.html
//! [`ReadOnlySealed`]: crate::ReadOnlySealed
//! [`FutureWriteSealed`]: crate::FutureWriteSealed
//! [`UntrustedWriteSeal`]: crate::Refusal::UntrustedWriteSeal
//! [`LiveMap`]: crate::LiveMap
//! [`SharedMap`]: crate::SharedMap
//! [`SizeSealed`]: crate::SizeSealed
//! [`Producer`]: crate::Producer
//! [`Producer::write_at`]: crate::Producer::write_at
//! [`Producer::as_ptr`]: crate::Producer::as_ptr
//! [`Producer::build`]: crate::Producer::build
//! [`SealedFile::reserve`]: crate::SealedFile::reserve
//! [`SealPolicy`]: crate::SealPolicy
//! [`SealPolicy::len`]: crate::SealPolicy::len
//! [`SealPolicy::reserve`]: crate::SealPolicy::reserve
//! [`SealPolicy::untrusted`]: crate::SealPolicy::untrusted
//! [`SealPolicy::untrusted_live`]: crate::SealPolicy::untrusted_live

#[allow(unused_imports, reason = "for the links above")]
use crate::SealedFile;
