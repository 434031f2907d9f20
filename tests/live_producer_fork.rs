//! A forked child is no second writer of a live file. One test, in a process of its own: what is
//! forked while another test creates a producer would inherit its mapping.
#![cfg(target_os = "linux")]

mod support;

use rustix::io::Errno;
use sealed_mmap::{Producer, add_seals};
use support::kernel::*;
use support::runs::live;

#[test]
fn a_forked_child_does_not_keep_a_producer_from_finishing() {
    let (file, inherited) = shared(draft());
    let control = while_forked(Some(inherited), || Ok(()), || add_seals(&file, WRITE));
    fails_with("sealing while a child has the mapping", control, Errno::BUSY);

    let Some(producer) = live(Producer::create("producer", LEN)) else { return };
    while_forked(None, || Ok(()), || producer.finish()).unwrap();
}
