//! What the protocols read and write at once. The model checker puts other sizes in this file's place.

pub(crate) type Word = usize;
