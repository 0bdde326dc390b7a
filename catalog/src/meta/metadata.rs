//! The current state and the one way to change it.
pub struct Metadata;
