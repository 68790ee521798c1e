//! Rank 1: what running code shares.

pub mod health;
pub mod live;
pub mod log;
pub mod tasks;
