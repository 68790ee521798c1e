//! The list of configurations of a directory, replaced as a whole.

mod ambiguity;
pub mod changes;
mod content;
mod handle;
mod merge;
mod outline;
mod payload;
mod state;

use crate::sync::configurations::changes::Changes;

pub(super) use content::Metrics;
pub use content::{Content, SkippedStatus};
pub use handle::{Handle, Preview};
pub(super) use payload::{FollowedKind, Payload};

/// Status of the follower of one directory's configurations.
pub type Status = crate::sync::status::Status<Changes, Content>;
