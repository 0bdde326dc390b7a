//! One immutable state of everything stored, with its indexes and rules.
#[derive(Debug)]
pub struct State;
#[derive(Debug, thiserror::Error)]
pub enum StateError {}
