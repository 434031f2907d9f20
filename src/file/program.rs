//! Immutable files as programs.
#![allow(unsafe_code, reason = "what a child does before it executes the file")]

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::failure::while_doing;
use crate::file::sealed::SealedFile;
use crate::state::ReadOnlySealed;
use crate::sys;

/// A program.
impl SealedFile<ReadOnlySealed> {
    /// Returns a [`Command`] that executes the file: an ELF program, or a script that begins with `#!`.
    ///
    /// What runs is what was sealed: nobody can replace or change it, not even the program itself, which
    /// finds it as `/proc/self/exe`. That is how container runtimes keep a container from overwriting
    /// them. The example `self-copy` shows how.
    ///
    /// The file has to be [executable](crate::CreateOptions::executable).
    ///
    /// # Descriptors
    ///
    /// The command owns a duplicate of the descriptor, which is close-on-exec, and closes it when it is
    /// dropped. No other program that is started meanwhile inherits it, and an ELF program that the command
    /// starts does not have it either. The interpreter of a script has it, and leaves it to the programs
    /// that it starts, for it has to read the script: the duplicate loses close-on-exec in the child alone,
    /// just before the child executes the file. ([`CommandExt::exec`] has no child: if it fails, the
    /// duplicate of a script is not close-on-exec any longer, until the command is dropped.)
    ///
    /// [`Command::get_program`] is `/proc/self/fd/N`, where N is the duplicate. So a function that is
    /// added with [`pre_exec`](CommandExt::pre_exec) must leave N alone.
    ///
    /// `argv[0]` is that path too, until [`arg0`](CommandExt::arg0) sets another one. A script's
    /// interpreter gets the path whatever `arg0` is, as the kernel does with every script.
    ///
    /// # Errors
    ///
    /// * `PermissionDenied`: the mode does not let anybody execute the file.
    /// * `InvalidData`: the file is neither an ELF program nor a script that names its interpreter in the
    ///   first 256 bytes. The C library would run anything else with `/bin/sh`.
    /// * `Unsupported`: `/proc` is not mounted, or leads to another file; an ELF program is made of hugetlb
    ///   pages, which the kernel does not execute; always on FreeBSD.
    /// * `EMFILE`: no descriptor left.
    ///
    /// Then the command fails to start, beside the reasons that every command has, with
    ///
    /// * `NotFound` (`ENOENT`): the interpreter is missing, that of the script or of the ELF program
    ///   (`ld.so`). In a directory that [`pre_exec`](CommandExt::pre_exec) made the root, `/proc` is.
    /// * `PermissionDenied` (`EACCES`): the mode does not let this user execute the file, the interpreter
    ///   is not executable, or a security policy forbids it. A script has to be readable, too: its
    ///   interpreter opens it.
    /// * `ExecutableFileBusy` (`ETXTBSY`): somebody has *opened* the file for writing, through
    ///   `/proc/PID/fd/N` as a rule, or is [reserving](Self::reserve) its memory through a read-only
    ///   descriptor. The descriptor that created the file does not count, and the file does not change, but
    ///   a peer can keep it from being executed. A [copy](crate::CreateOptions::copy_of) helps. So does a
    ///   [mode](crate::CreateOptions::mode) without write bits, against other users.
    /// * An ELF program that the kernel cannot load (`ENOEXEC`: for another processor, or cut off) goes to
    ///   `/bin/sh` all the same under glibc. The shell cannot open it, and ends with a status that is not 0.
    ///
    /// # Platform-specific
    ///
    /// `vm.memfd_noexec=2` forbids to create executable files, not to execute one that is there.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::CreateOptions;
    ///
    /// let script = b"#!/bin/sh\necho \"$1, world\"\n";
    /// let file = CreateOptions::new().executable(true).from_bytes("greeting", script);
    /// # if !file.is_ok() { return Ok(()) } // vm.memfd_noexec=2
    /// let output = file?.command()?.arg("Hello").output()?;
    /// assert_eq!(output.stdout, b"Hello, world\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "fexecve")]
    #[doc(alias = "execveat")]
    pub fn command(&self) -> io::Result<Command> {
        if !sys::stat(self.as_fd())?.is_executable {
            let message = "the mode does not let anybody execute the file; it has to be made with \
                           CreateOptions::executable";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let is_script = self.is_script()?;
        if !is_script && self.extent()?.huge_page.is_some() {
            // It would be killed by SIGSEGV: its segments do not begin at huge pages.
            let message = "the kernel cannot execute an ELF program that is made of hugetlb pages";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let same_file = self
            .file()
            .try_clone()
            .map_err(while_doing("duplicate the descriptor (F_DUPFD_CLOEXEC)"))?;
        let mut command = Command::new(sys::program_path(same_file.as_fd())?);
        // An ELF program that cannot be loaded must not become the input of a shell.
        let before_exec = move || {
            let kept = same_file.as_fd();
            if is_script { sys::keep_on_exec(kept) } else { Ok(()) }
        };
        // SAFETY: `CommandExt::pre_exec` wants a function that is sound in a child of fork(2), where
        // allocating and locking are not. This one makes at most one system call, fcntl(2), which
        // signal-safety(7) lists. It owns what it uses.
        unsafe { command.pre_exec(before_exec) };
        Ok(command)
    }

    /// Whether the file is a script, and not an ELF program.
    fn is_script(&self) -> io::Result<bool> {
        /// How much of a script the kernel looks at.
        const BEGINNING: usize = 256;

        let mut bytes = [0; BEGINNING];
        let count = self
            .file()
            .read_at(&mut bytes, 0)
            .map_err(while_doing("read the beginning of the program (pread)"))?;
        let bytes = &bytes[..count];
        if bytes.starts_with(b"\x7fELF") {
            return Ok(false);
        }
        let Some(line) = bytes.strip_prefix(b"#!") else {
            let message = "the file is no program: neither ELF nor a script that begins with #!";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        };
        let blanks = line.iter().take_while(|byte| b" \t".contains(byte)).count();
        let interpreter = line[blanks..].iter().position(|byte| b" \t\n\0".contains(byte));
        let len = interpreter.unwrap_or(line.len() - blanks);
        if len == 0 || 2 + blanks + len == BEGINNING {
            let message = "the first 256 bytes of the script do not name an interpreter after #!";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(true)
    }
}
