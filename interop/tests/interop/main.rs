//! Sealed memory in the hands of other libraries: what they read in place, and what they copy. The code
//! blocks of docs/interop.md are lines of these tests.

mod buffers;
mod columns;
mod descriptors;
mod messages;
mod page;
#[allow(dead_code, reason = "this package needs a part of what the library's tests share")]
#[path = "../../../tests/support/process.rs"]
mod process;
mod reports;
mod slices;
mod stores;
mod views;

/// Whether these are bytes of the map, and no copy of them.
fn lies_in<T>(part: &[T], map: &[u8]) -> bool {
    let (part, map) = (part.as_ptr_range(), map.as_ptr_range());
    assert!(!part.is_empty(), "nothing can be said of nothing");
    map.start <= part.start.cast() && part.end.cast() <= map.end
}
