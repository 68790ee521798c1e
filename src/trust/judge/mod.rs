//! The two judges: [`devices`] and [`applications`].

pub mod applications;
pub mod devices;
