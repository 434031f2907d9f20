//! Who sleeps says so, so that nobody makes a system call for somebody who is awake.
//!
//! A sleeper has a file of its own, which it alone writes. Before it falls asleep it stores a new number
//! in the word `ASLEEP` of that file, its ticket, and after that looks once more for what it wants. Whoever
//! has published something looks at `ASLEEP` after that, and rings for a ticket that it has not rung for.
//! This is Dekker's algorithm: each side stores, executes a `SeqCst` fence, and loads what the other
//! stores. Of two such fences one comes first, and what was stored before it is seen after the other. So
//! the sleeper sees what was published, or the publisher sees the ticket, or both. Without one of the
//! fences both can miss: the wake-up is lost.
//!
//! A ticket is rung once. It takes as many sleeps as a word has values before a ticket comes round, and
//! the one that was rung last must still be the last that was rung: nothing was published all that time.
//!
//! Nothing here relies on the other side. A hostile sleeper that writes new tickets costs the publisher
//! one ring each time it publishes. A hostile publisher does not ring, or rings for nothing: the sleeper
//! has its timeout, and looks for what it wants rather than believing the bell.

use super::super::memory::{LINE, Sink, Source, WORD};
use super::super::word::Word;

/// In the sleeper's file. 0 means that it is awake.
pub(crate) const ASLEEP: usize = 2 * LINE / WORD;
/// Bytes of a file that has nothing else.
pub(crate) const FILE_LEN: usize = 3 * LINE;

/// The side that sleeps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sleeper {
    ticket: Word,
}

impl Sleeper {
    /// Says that this side sleeps. What it looks at afterwards was not published before, or it will be
    /// rung.
    pub(crate) fn lie_down(&mut self, ours: &mut impl Sink) {
        self.ticket = self.ticket.checked_add(1).unwrap_or(1);
        ours.store(ASLEEP, self.ticket);
        ours.full_fence();
    }

    /// Says that this side is awake.
    pub(crate) fn get_up(&mut self, ours: &mut impl Sink) {
        ours.store(ASLEEP, 0);
    }
}

/// The side that rings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ringer {
    rung: Word,
}

impl Ringer {
    /// Whether to ring now. To be asked after something has been published, and a full fence.
    #[inline]
    pub(crate) fn is_due(&mut self, theirs: &impl Source) -> bool {
        let ticket = theirs.load(ASLEEP);
        let is_due = ticket != 0 && ticket != self.rung;
        if is_due {
            self.rung = ticket;
        }
        is_due
    }

    /// The last ring did not reach the sleeper, and is due again.
    pub(crate) fn forget(&mut self) {
        self.rung = 0;
    }
}
