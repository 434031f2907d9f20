//! Safe shared memory.

mod create;
mod error;
mod file;
mod map;
mod receive;
mod seals;
pub mod socket;
mod state;
mod sys;

pub use create::{CreateOptions, HugePageSize, HugePages};
pub use error::{OutOfBounds, ReceiveError, Refusal, SealError, SealFailure};
pub use file::SealedFile;
pub use map::{ReadOnlyMap, UnsealedMap};
pub use receive::SealPolicy;
pub use seals::{Seals, add_seals, get_seals};
pub use state::{FutureWriteSealed, ReadOnlySealed, Shared, State, Unsealed};
