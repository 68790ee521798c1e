//! The two judges: one for devices, one for applications.

pub mod applications;
pub mod devices;
