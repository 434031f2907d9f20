//! What is said of a frame, and which frame may come next: the same for both engines.

use anyhow::{Result, bail, ensure};

/// No frame is so long.
const END: u64 = u64::MAX;

#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) len: u64,
}

impl Header {
    pub(crate) const LEN: usize = 16;

    /// Says how many frames there were.
    pub(crate) fn end(frames: u64) -> Self {
        Self { number: frames, len: END }
    }

    /// How many bytes follow the header.
    pub(crate) fn payload_len(self) -> u64 {
        if self.len == END { 0 } else { self.len }
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        (u128::from(self.number) | u128::from(self.len) << 64).to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self { number: both as u64, len: (both >> 64) as u64 }
    }
}

pub(crate) struct Expected {
    next: u64,
    limit: u64,
}

impl Expected {
    pub(crate) fn new(limit: u64) -> Self {
        Self { next: 0, limit }
    }

    /// Whether a frame follows: false at the end.
    pub(crate) fn admit(&mut self, header: Header) -> Result<bool> {
        let Header { number, len } = header;
        let what = if len == END { "the end" } else { "a frame" };
        match number.checked_sub(self.next) {
            None => bail!("{what} came late or twice: {number} after {}", self.next - 1),
            Some(0) => {}
            Some(missing) => bail!("{missing} frames are missing before number {number}"),
        }
        if len == END {
            return Ok(false);
        }
        let limit = self.limit;
        ensure!(len <= limit, "frame {number} has {len} bytes, and at most {limit} are accepted");
        self.next += 1;
        Ok(true)
    }
}
