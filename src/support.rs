//! What this kernel and this sandbox have and enforce, found by trying it on files of our own.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use rustix::io::Errno;

use crate::file::sealed::SealedFile;
use crate::huge_pages::HugePages;
use crate::sealing;
use crate::seals::Seals;
use crate::sys;

/// What this kernel and this sandbox have and enforce.
///
/// Each answer comes from an attempt on files that nobody else has, never from the version of the kernel:
/// distributions backport, and sandboxes deny calls, or store seals that they do not enforce. An attempt
/// to break a seal counts only if the same attempt succeeds without the seal. So a sandbox that denies
/// `write(2)` does not look like one that enforces `F_SEAL_WRITE`.
///
/// The library needs no probe: it confirms what it relies on with each file, and returns an error for
/// what is missing. The probe is for a program that wants to know beforehand, and for bug reports. It
/// cannot find [holes in kernels](crate::soundness#known-holes-in-kernels), with the exception of
/// [`exec_seal_is_checked`](Self::exec_seal_is_checked).
///
/// # Examples
///
/// ```
/// use sealed_mmap::{Support, Supported};
///
/// let support = Support::probe();
/// println!("{support}"); // one line for each answer
///
/// assert!(support.enforces_seals(), "no `&[u8]` is safe here: {support}");
/// if let Supported::No(error) | Supported::Unknown(error) = &support.reopen {
///     eprintln!("no live files here: {error}");
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Support {
    /// `memfd_create(2)` makes files that can be sealed.
    #[doc(alias = "MFD_ALLOW_SEALING")]
    pub memfd_create: Supported,
    /// `memfd_create(2)` knows the flag for files that are not executable. Linux 6.3. The library does
    /// without, through the mode of the file.
    #[doc(alias = "MFD_NOEXEC_SEAL")]
    pub noexec_flag: Supported,
    /// `memfd_create(2)` makes executable files. Linux 6.3, unless `vm.memfd_noexec` is 2 (`EACCES`).
    #[doc(alias = "MFD_EXEC")]
    pub exec_flag: Supported,
    /// [`Seals::SHRINK`] is enforced: `ftruncate(2)` to a smaller length is refused.
    #[doc(alias = "F_SEAL_SHRINK")]
    pub shrink_seal: Supported,
    /// [`Seals::GROW`] is enforced: `ftruncate(2)` to a larger length is refused.
    #[doc(alias = "F_SEAL_GROW")]
    pub grow_seal: Supported,
    /// [`Seals::WRITE`] is enforced: `write(2)` and writable mappings are refused, and so is the seal while
    /// a writable mapping exists.
    #[doc(alias = "F_SEAL_WRITE")]
    pub write_seal: Supported,
    /// [`Seals::FUTURE_WRITE`] is enforced: `write(2)` and new writable mappings are refused, and an older
    /// writable mapping may stay. Linux 5.1.
    #[doc(alias = "F_SEAL_FUTURE_WRITE")]
    pub future_write_seal: Supported,
    /// [`Seals::EXEC`] is enforced: the executable bits of the mode cannot be changed. Linux 6.3.
    #[doc(alias = "F_SEAL_EXEC")]
    pub exec_seal: Supported,
    /// [`Seals::WRITE`] can be trusted beside [`Seals::EXEC`] and [`Seals::FUTURE_WRITE`]: the kernel looks
    /// for writable mappings before it adds the three together. Where this is not `Yes`, files that carry
    /// them are refused as [`UntrustedWriteSeal`](crate::Refusal::UntrustedWriteSeal). It cannot be tried
    /// where there is no `F_SEAL_EXEC`, and hence no such file, or no executable memfd.
    pub exec_seal_is_checked: Supported,
    /// A file that carries [`Seals::WRITE`] can be mapped shared through a writable descriptor. Kernels
    /// before 6.7, some with a backport aside, refuse that (`EPERM`). The library then maps it private,
    /// to the same effect.
    pub shared_map: Supported,
    /// A file can be reopened through `/proc/thread-self/fd`, as [`SealedFile::reopen`],
    /// [`Producer`](crate::Producer) and reserving through a read-only descriptor require.
    pub reopen: Supported,
    /// Memory can be reserved, as [`SealPolicy::untrusted`](crate::SealPolicy::untrusted) does.
    #[doc(alias = "fallocate")]
    pub reserve: Supported,
    /// A map can be populated: [`ReadOnlyMap::populate`](crate::ReadOnlyMap::populate). Linux 5.14.
    #[doc(alias = "MADV_POPULATE_READ")]
    pub populate: Supported,
    /// Threads can sleep on words of shared memory, as waiting in [`latest`](crate::latest) does.
    pub futex: Supported,
}

/// Whether something was seen to work.
///
/// [`Display`](fmt::Display) writes `yes`, `no: …` or `cannot tell: …`.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{Support, Supported};
///
/// match Support::probe().populate {
///     Supported::Yes => println!("maps can be populated"),
///     Supported::No(error) => println!("maps cannot be populated: {error}"),
///     Supported::Unknown(error) => println!("this could not be tried: {error}"),
/// }
/// ```
#[derive(Debug)]
pub enum Supported {
    /// It was tried, and works.
    Yes,
    /// It was tried, and would fail again: the error of the kernel or the sandbox, or one that says what
    /// succeeded that a seal forbids.
    No(io::Error),
    /// It could not be tried: what the attempt itself needs is missing, such as a free descriptor, memory,
    /// or a call that the sandbox denies.
    Unknown(io::Error),
}

impl Supported {
    /// Returns whether this is [`Yes`](Self::Yes).
    ///
    /// # Examples
    ///
    /// ```
    /// let support = sealed_mmap::Support::probe();
    /// assert!(support.memfd_create.is_yes());
    /// ```
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }
}

impl fmt::Display for Supported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answer, error) = match self {
            Self::Yes => return f.write_str("yes"),
            Self::No(error) => ("no", error),
            Self::Unknown(error) => ("cannot tell", error),
        };
        write!(f, "{answer}: {error}")?;
        match error.source() {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl Support {
    /// Tries everything, on files and mappings that are gone afterwards.
    ///
    /// Nothing is remembered but [`exec_seal_is_checked`](Self::exec_seal_is_checked). The probe makes about
    /// 160 system calls. It needs two free descriptors; without, most answers are
    /// [`Unknown`](Supported::Unknown).
    ///
    /// # Examples
    ///
    /// See the [example](Self#examples).
    pub fn probe() -> Self {
        Self {
            memfd_create: answer(create().map(drop).map_err(lacking)),
            noexec_flag: answer(sys::create_with_exec_flag(false).map(drop).map_err(lacking)),
            exec_flag: answer(sys::create_with_exec_flag(true).map(drop).map_err(lacking)),
            shrink_seal: answer(refuses(Seals::SHRINK, SHRINKING)),
            grow_seal: answer(refuses(Seals::GROW, GROWING)),
            write_seal: answer(write_seal()),
            future_write_seal: answer(future_write_seal()),
            exec_seal: answer(exec_seal()),
            exec_seal_is_checked: answer(exec_seal_is_checked()),
            shared_map: answer(shared_map()),
            reopen: answer(reopen()),
            reserve: answer(reserve()),
            populate: answer(populate()),
            futex: answer(futex()),
        }
    }

    /// Returns whether the seals on which a `&[u8]` rests were seen to be enforced:
    /// [`shrink_seal`](Self::shrink_seal) and [`write_seal`](Self::write_seal).
    ///
    /// # Examples
    ///
    /// See the [example](Self#examples).
    pub fn enforces_seals(&self) -> bool {
        self.shrink_seal.is_yes() && self.write_seal.is_yes()
    }

    /// Returns all answers with the names of their fields, in the order of the fields.
    ///
    /// # Examples
    ///
    /// ```
    /// for (name, answer) in sealed_mmap::Support::probe().answers() {
    ///     println!("{name}\t{}", answer.is_yes());
    /// }
    /// ```
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, &Supported)> {
        // Names each field, so that a new one cannot be left out.
        let Self {
            memfd_create,
            noexec_flag,
            exec_flag,
            shrink_seal,
            grow_seal,
            write_seal,
            future_write_seal,
            exec_seal,
            exec_seal_is_checked,
            shared_map,
            reopen,
            reserve,
            populate,
            futex,
        } = self;
        [
            ("memfd_create", memfd_create),
            ("noexec_flag", noexec_flag),
            ("exec_flag", exec_flag),
            ("shrink_seal", shrink_seal),
            ("grow_seal", grow_seal),
            ("write_seal", write_seal),
            ("future_write_seal", future_write_seal),
            ("exec_seal", exec_seal),
            ("exec_seal_is_checked", exec_seal_is_checked),
            ("shared_map", shared_map),
            ("reopen", reopen),
            ("reserve", reserve),
            ("populate", populate),
            ("futex", futex),
        ]
        .into_iter()
    }
}

/// One line for each answer.
impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, answer)) in self.answers().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{name:20} {answer}")?;
        }
        Ok(())
    }
}

/// The error is the answer, if it is not `Yes`.
type Tried = Result<(), Supported>;

fn answer(tried: Tried) -> Supported {
    tried.err().unwrap_or(Supported::Yes)
}

/// Of the call in question: it is missing, unless the machine is short of something just now.
fn lacking(error: io::Error) -> Supported {
    use io::ErrorKind::{Interrupted, OutOfMemory, ResourceBusy, StorageFull, WouldBlock};

    let passes =
        matches!(error.kind(), Interrupted | OutOfMemory | ResourceBusy | StorageFull | WouldBlock)
            || matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE));
    if passes { Supported::Unknown(error) } else { Supported::No(error) }
}

fn not_enforced(what: &str, seals: Seals) -> Supported {
    Supported::No(io::Error::other(format!("{what} succeeds despite the seals {seals}")))
}

const LEN: u64 = 2;

fn create() -> io::Result<File> {
    create_with(false)
}

fn create_with(executable: bool) -> io::Result<File> {
    let memfd = sys::Memfd { executable, allow_sealing: true, huge_pages: HugePages::None };
    let file = memfd.create(b"sealed-mmap-probe")?;
    sys::set_len(&file, LEN)?;
    Ok(file)
}

/// A file for an attempt that is about something else than making the file.
fn draft() -> Result<File, Supported> {
    create().map_err(Supported::Unknown)
}

fn sealed(file: File, seals: Seals) -> Result<File, Supported> {
    sealing::add_patiently(file.as_fd(), seals).map_err(|(_, error)| lacking(error))?;
    let present = sys::get_seals(file.as_fd()).map_err(lacking)?;
    if present.contains(seals) {
        return Ok(file);
    }
    let message = format!("the seals {seals} were added, and F_GET_SEALS reports {present}");
    Err(Supported::No(io::Error::other(message)))
}

fn map_writable(file: &File) -> io::Result<MmapRaw> {
    MmapOptions::new().len(LEN as usize).map_raw(file)
}

/// What a seal forbids, in words and to be tried.
type Attack = (&'static str, fn(&File) -> io::Result<()>);

const WRITING: Attack = ("write(2)", |file| file.write_at(b"!", 0).map(drop));
const MAPPING: Attack = ("a writable mapping", |file| map_writable(file).map(drop));
const SHRINKING: Attack = ("ftruncate(2) to a smaller length", |file| sys::set_len(file, LEN - 1));
const GROWING: Attack = ("ftruncate(2) to a larger length", |file| sys::set_len(file, LEN + 1));
const CHANGING_THE_MODE: Attack =
    ("a change of the executable bits", |file| sys::set_mode(file.as_fd(), 0o666));

fn refuses(seals: Seals, attack: Attack) -> Tried {
    refuses_on(create, seals, attack)
}

fn refuses_on(create: impl Fn() -> io::Result<File>, seals: Seals, attack: Attack) -> Tried {
    let (what, attempt) = attack;
    let draft = || create().map_err(Supported::Unknown);
    // The control. A file of its own, so that nothing is left of it, such as a child's copy of a mapping.
    attempt(&draft()?).map_err(Supported::Unknown)?;
    match attempt(&sealed(draft()?, seals)?) {
        Ok(()) => Err(not_enforced(what, seals)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(Supported::Unknown(error)),
    }
}

fn write_seal() -> Tried {
    refuses(Seals::WRITE, WRITING)?;
    refuses(Seals::WRITE, MAPPING)?;
    let file = draft()?;
    let _writable = map_writable(&file).map_err(Supported::Unknown)?;
    match sys::add_seals(file.as_fd(), Seals::WRITE) {
        Ok(()) => Err(not_enforced("writing through an older mapping", Seals::WRITE)),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        Err(error) => Err(Supported::Unknown(error)),
    }
}

fn future_write_seal() -> Tried {
    refuses(Seals::FUTURE_WRITE, WRITING)?;
    refuses(Seals::FUTURE_WRITE, MAPPING)?;
    let file = draft()?;
    let _producers = map_writable(&file).map_err(Supported::Unknown)?;
    sealed(file, Seals::FUTURE_WRITE).map(drop)
}

fn exec_seal() -> Tried {
    let file = draft()?;
    // Files that are not executable may carry it from the start.
    sealed(file, Seals::EXEC)?;
    refuses_on(|| create_with(true), Seals::EXEC, CHANGING_THE_MODE)
}

fn exec_seal_is_checked() -> Tried {
    match sealing::try_exec_seal() {
        Ok(true) => Ok(()),
        Ok(false) => {
            let implied = Seals::WRITE | Seals::FUTURE_WRITE | Seals::EXEC;
            Err(not_enforced("writing through an older mapping", implied))
        }
        Err(error) => Err(Supported::Unknown(error)),
    }
}

fn shared_map() -> Tried {
    let map = |file: &File| MmapOptions::new().len(LEN as usize).map_raw_read_only(file);
    map(&draft()?).map_err(Supported::Unknown)?;
    map(&sealed(draft()?, Seals::WRITE | Seals::SHRINK)?).map(drop).map_err(lacking)
}

fn reopen() -> Tried {
    sys::reopen(draft()?.as_fd(), false).map(drop).map_err(lacking)
}

fn reserve() -> Tried {
    sys::reserve(draft()?.as_fd(), LEN).map_err(lacking)
}

fn populate() -> Tried {
    let file = SealedFile::from_bytes("sealed-mmap-probe", [0; LEN as usize]);
    let map = file.and_then(|file| file.map_read_only()).map_err(Supported::Unknown)?;
    map.populate().map_err(lacking)
}

fn futex() -> Tried {
    const OTHER: u32 = 1;

    // The word differs from what is expected, so that nobody sleeps.
    sys::futex::wait(&AtomicU32::new(0), OTHER, Duration::ZERO).map_err(lacking)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_that_does_not_forbid_the_attack_is_not_enforced() {
        for (seals, attack) in [
            (Seals::SHRINK, WRITING),
            (Seals::GROW, MAPPING),
            (Seals::WRITE, SHRINKING),
            (Seals::SHRINK, GROWING),
        ] {
            let tried = refuses(seals, attack);
            let Err(Supported::No(error)) = tried else { panic!("{seals}: {tried:?}") };
            assert!(error.to_string().contains(attack.0), "{error}");
        }
    }

    #[test]
    fn an_attack_that_fails_without_the_seal_proves_nothing() {
        let attack: Attack = ("nothing", |_| Err(Errno::PERM.into()));
        assert!(matches!(refuses(Seals::WRITE, attack), Err(Supported::Unknown(_))));
    }
}
