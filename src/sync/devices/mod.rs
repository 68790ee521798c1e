//! The devices of a directory, followed by their changes (Graph's delta query).
//!
//! They are fetched only if a configuration admits registered devices alone.  The first response
//! enumerates every device, page by page, and ends with a delta link; from then on the changes since then
//! are requested there.
//!
//! # Design notes
//! A response comes into force when it is complete.  Objects can move between pages and appear twice, so
//! only the end of a response is a state that the directory was in, and only then is it known how many
//! devices the response removes.  The pages are applied to a copy of the registry, which shares what does
//! not change.  After a failure the pages that were read are kept, and the next request is for the page
//! that failed.
//!
//! A response that removes too many devices is held back, as in the list of configurations: it is likelier
//! a fault than intended.  Disabled and enabled devices alone are never held back, but wait with a response
//! that is.

mod content;
mod payload;
mod round;
mod state;

use crate::sync::handle;
use crate::trust::devices::Difference;

pub use content::Content;
pub(super) use content::Metrics;
pub use payload::Devices;

/// Status of the follower of one directory's devices.
pub type Status = crate::sync::status::Status<Difference, Content>;
/// Handle of the follower of one directory's devices.
pub type Handle = handle::Handle<Difference, Content>;
