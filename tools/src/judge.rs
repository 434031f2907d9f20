//! Whether a descriptor can be mapped safely. The library alone decides.

use std::os::fd::OwnedFd;

use sealed_mmap::{ReceiveError, Refusal, SealPolicy, SealedFile};
use serde::Serialize;

/// What a receiver may do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Nobody changes it any more: map it, read it in place.
    Immutable,
    /// Its producer goes on writing: map it, copy out.
    Live,
    /// It cannot shrink, and everybody may write: map it, copy out and in.
    Shared,
}

impl State {
    const ALL: [Self; 3] = [Self::Immutable, Self::Live, Self::Shared];

    pub(crate) fn accepts(self, fd: OwnedFd, policy: &SealPolicy) -> Result<(), ReceiveError> {
        match self {
            Self::Immutable => SealedFile::receive_read_only(fd, policy).map(drop),
            Self::Live => SealedFile::receive_future_write(fd, policy).map(drop),
            Self::Shared => SealedFile::receive_size_sealed(fd, policy).map(drop),
        }
    }
}

/// The best that a receiver can make of a file, and why it is no better.
pub(crate) struct Verdict {
    /// `None` if no state accepts it.
    pub(crate) state: Option<State>,
    /// Why the file is not accepted as an immutable one.
    pub(crate) refusal: Option<Refusal>,
}

pub(crate) fn judge(mut fd: OwnedFd, policy: &SealPolicy) -> Verdict {
    let mut first = None;
    for state in State::ALL {
        match state.accepts(fd, policy) {
            Ok(()) => return Verdict { state: Some(state), refusal: first },
            Err(refused) => {
                let (refusal, same) = refused.into_parts();
                first.get_or_insert(refusal);
                fd = same;
            }
        }
    }
    Verdict { state: None, refusal: first }
}

/// The refusal in a few words, for a column of a table.
pub(crate) fn in_short(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotReadable => "not open for reading".to_owned(),
        Refusal::NotSealable(_) => "cannot carry seals".to_owned(),
        Refusal::MissingSeals { missing, .. } => format!("lacks {missing}"),
        Refusal::ForbiddenSeals { forbidden, .. } => format!("carries {forbidden}"),
        Refusal::UntrustedWriteSeal => "write seal not enforced beside exec".to_owned(),
        Refusal::HugeTlb => "hugetlb pages".to_owned(),
        Refusal::Length { len, .. } => format!("{len} bytes"),
        Refusal::Owner { found, .. } => format!("belongs to uid {found}"),
        other => other.to_string(),
    }
}
