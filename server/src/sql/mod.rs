//! The dialect: from the text of a statement to a [`Statement`]. Nothing here knows what exists or who asks.

pub mod names;
pub mod statement;

pub use names::{Ident, ObjectName, RelationPath, SchemaPath, UserName};
pub use statement::{Query, Statement};
