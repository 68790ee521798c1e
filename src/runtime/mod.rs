//! Rank 1: what running code shares.

pub mod atomic;
pub mod health;
pub mod live;
pub mod lock_file;
pub mod log;
pub mod pace;
pub mod publisher;
pub mod random;
pub mod tasks;
