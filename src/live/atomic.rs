//! The word that memory is made of here. A model checker puts its own in its place.

pub(crate) use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
