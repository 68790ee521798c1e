//! The two judges, [`devices`] and [`applications`], and the [`admission`] of connections.

pub mod admission;
pub mod applications;
pub mod devices;
