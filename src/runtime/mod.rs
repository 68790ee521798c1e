//! Rank 3: code that all running parts share.

pub mod activity;
pub mod atomic;
pub mod audit;
pub mod audit_sink;
pub mod clock;
pub mod core_dumps;
pub mod files;
pub mod health;
pub mod hosts;
pub mod live;
pub mod lock_file;
pub mod log;
pub mod log_limit;
mod log_queue;
pub mod memory;
pub mod metrics;
pub mod pace;
pub mod publisher;
pub mod random;
pub mod reload;
pub mod secret_files;
pub mod server_clocks;
pub mod tasks;
pub mod telemetry;
pub mod text;
pub mod tolerated;
pub mod unsaved;
