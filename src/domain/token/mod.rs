//! Tokens: what a verified device or application may have, and the keys that sign it.
//!
//! A grant (RFC 6749) under a policy of clients gives claims (RFC 9068) bound to the certificate
//! (RFC 8705 section 3).  Where a grant type is added: [`grants::Grant`] and [`authorize()`].

pub mod application;
pub mod assertion;
pub mod claims;
pub mod grants;
pub mod keys;
pub mod policy;
pub mod replay;

mod authorize;

pub use application::{Application, AuthMethod, authorize_application};
pub use authorize::{Authorized, Denied, authorize};
pub use claims::Claims;
pub use grants::{Grant, TokenRequest};
pub use keys::{Algorithm, SigningKey, SigningKeys};
pub use policy::{Client, Resource, Subjects, Terms, TokenPolicy};
