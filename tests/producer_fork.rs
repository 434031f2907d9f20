//! A forked child is no second writer of a live file. One test, in a process of its own: what is
//! forked while another test creates a producer would inherit its mapping.
#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "not every attack is used here")]
#[path = "common/kernel.rs"]
mod kernel;
#[path = "common/runs.rs"]
mod runs;

use kernel::*;
use rustix::io::Errno;
use sealed_mmap::{Producer, add_seals};

#[test]
fn a_forked_child_does_not_keep_a_producer_from_finishing() {
    let (file, inherited) = shared(draft());
    let control = while_forked(Some(inherited), || Ok(()), || add_seals(&file, WRITE));
    refused("sealing while a child has the mapping", control, Errno::BUSY);

    let Some(producer) = runs::live(Producer::create("producer", LEN)) else { return };
    while_forked(None, || Ok(()), || producer.finish()).unwrap();
}
