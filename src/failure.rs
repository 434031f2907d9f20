//! How errors say what was being done.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

use rustix::io::Errno;

/// A system call that failed, and what it was for.
#[derive(thiserror::Error)]
#[error("cannot {doing}")]
struct Failed {
    doing: &'static str,
    source: io::Error,
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_sources(self, f)
    }
}

/// Keeps the errno as the source of an error that says what was being done, if the errno is one with
/// which sandboxes answer whatever they deny. Every other errno says enough, and is kept as it is.
/// For calls whose man page gives these three no meaning.
pub(crate) fn while_doing<E: Into<io::Error>>(doing: &'static str) -> impl Fn(E) -> io::Error {
    move |error| {
        let error = error.into();
        match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS) => failed(doing)(error),
            _ => error,
        }
    }
}

/// The same, whatever the errno: for calls of which nobody expects that they fail.
pub(crate) fn failed<E: Into<io::Error>>(doing: &'static str) -> impl Fn(E) -> io::Error {
    move |error| {
        let source = error.into();
        io::Error::new(source.kind(), Failed { doing, source })
    }
}

/// An error with words of its own, and with its cause, if there is one, as the source.
pub(crate) fn explained(
    kind: io::ErrorKind,
    message: impl Into<Cow<'static, str>>,
    source: impl Into<Option<io::Error>>,
) -> io::Error {
    io::Error::new(kind, Explained { message: message.into(), source: source.into() })
}

#[derive(thiserror::Error)]
#[error("{message}")]
struct Explained {
    message: Cow<'static, str>,
    source: Option<io::Error>,
}

impl fmt::Debug for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_sources(self, f)
    }
}

/// Whether the error says what was being done, and its source why that failed.
pub(crate) fn is_denied_call(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<Failed>())
}

/// The name of a file that an error is about, asked for only where it is shown.
pub(crate) enum Name<F> {
    Of(fn(&F) -> Option<String>),
    /// The file is gone.
    Was(Option<String>),
}

impl<F> Name<F> {
    pub(crate) fn get(&self, file: &F) -> Option<String> {
        match self {
            Self::Of(ask) => ask(file),
            Self::Was(name) => name.clone(),
        }
    }
}

/// `Debug` for people: the message and its sources. It is what `fn main() -> io::Result<()>` prints.
pub(crate) fn with_sources(error: &dyn Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{error}")?;
    let mut source = error.source();
    while let Some(error) = source {
        write!(f, ": {error}")?;
        source = error.source();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_call_is_named_and_the_errno_is_its_source() {
        for errno in [Errno::PERM, Errno::ACCESS, Errno::NOSYS] {
            let error = while_doing("read the seals")(errno);
            assert_eq!(error.to_string(), "cannot read the seals");
            assert_eq!(error.kind(), errno.kind());
            let source = error.get_ref().unwrap().source().unwrap();
            let source = source.downcast_ref::<io::Error>().unwrap();
            assert_eq!(Errno::from_io_error(source), Some(errno));
            assert!(format!("{error:?}").contains(&format!("cannot read the seals: {source}")));
        }
    }

    #[test]
    fn an_errno_that_says_enough_stays_as_it_is() {
        let error = while_doing("read the seals")(Errno::MFILE);
        assert_eq!(Errno::from_io_error(&error), Some(Errno::MFILE));
    }
}
