//! Following a Graph directory: credentials, configurations, devices, and servers that misbehave.

#[path = "../support/mod.rs"]
mod support;

mod applications;
mod credentials;
mod devices;
mod faults;
