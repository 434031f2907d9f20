//! Many whole words at once, one after the other.

pub(super) use super::words::{load_each as load, store_each as store};
