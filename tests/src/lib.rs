//! The Rust side of the integration tests. The driver tests are in `python/` and `jdbc/`; nothing is here yet.
