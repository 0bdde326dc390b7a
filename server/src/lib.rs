//! The server: configuration, sessions, SQL and DDL, Flight SQL, admission, audit, telemetry.

pub mod activity;
pub mod audit;
pub mod config;
pub mod emergency;
pub mod engine;
pub mod error;
pub mod flight;
pub mod serve;
pub mod session;
pub mod sql;
pub mod statements;
pub mod system;
pub mod telemetry;
