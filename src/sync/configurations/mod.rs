//! The trust list of a directory, replaced whole.

pub mod changes;
mod follow;
pub(super) mod handle;
mod preview;
mod state;
mod status;

pub use follow::Sync;
pub use handle::Handle;
pub use preview::Preview;
pub use status::{HeldBack, Metrics, SkippedStatus, Status};
