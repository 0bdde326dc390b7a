//! The server: configuration, sessions, SQL and DDL, Flight SQL, admission, audit, telemetry.

pub mod engine;
pub mod error;
pub mod session;
pub mod sql;
