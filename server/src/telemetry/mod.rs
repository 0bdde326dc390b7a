//! What the operator sees: logs on standard error, metrics, and health on a port of its own.

mod admin;
mod logs;
mod metrics;

pub use admin::{AdminServer, Health, Probe};
pub use logs::{LogError, start_logs};
pub use metrics::{Exposition, Metrics, Sample, StatementKind};
