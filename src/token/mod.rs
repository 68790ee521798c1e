//! Tokens that a verified device or application may have, and the keys that sign them.
//!
//! A grant (RFC 6749) under the policy of a client results in claims (RFC 9068) that are bound to
//! the certificate (RFC 8705 section 3).  To add a grant type, start with [`grants::Grant`] and
//! [`select()`].

pub mod application;
pub mod assertion;
pub mod claims;
pub mod grants;
pub mod keys;
pub mod policy;
pub mod replay;
pub mod rotation;
pub mod tenants;
pub mod terms;

mod authorize;
mod denied;
mod select;

pub use application::{Application, AuthMethod};
pub use authorize::{Authorized, authorize_application};
pub use claims::Claims;
pub use denied::Denied;
pub use grants::{Grant, TokenRequest};
pub use keys::{Algorithm, SigningKey, SigningKeys};
pub use policy::{Client, Subjects, TokenPolicy};
pub use select::select;
pub use tenants::Tenants;
pub use terms::{Resource, Terms};
