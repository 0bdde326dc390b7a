//! The integration tests: the real binary on a free port, asked through Flight SQL.
//!
//! Most of them are the transcripts in `tests/transcripts`. What SQL cannot say is in Rust beside this file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod audit;
mod client;
mod doors;
mod matrix;
mod oracle;
mod requests;
mod server;
mod transcript;
mod transcripts;
