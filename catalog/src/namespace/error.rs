//! Why a relation cannot be read or written, as far as the one who asks may know.

use datafusion::error::DataFusionError;
use lazaret_auth::Privilege;

use super::views::{MAX_VIEW_DEPTH, MAX_VIEWS};
use crate::governed::failure::find;
use crate::governed::size::TooLarge;

/// Why a relation that the principal named cannot be read. `detail` is there only for those who may manage the relation
/// (for a policy: its policies; for a view: its owner); it names files, the policy, or tables inside the view.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// Not there, or not visible.
    #[error("table \"{0}\" not found")]
    NotFound(String),
    #[error("{privilege} on \"{name}\" is required")]
    Denied { name: String, privilege: Privilege },
    #[error("not supported yet: {feature}, in \"{name}\"")]
    Unsupported { name: String, feature: String },
    /// Rows cannot be added to what is no Delta table.
    #[error("\"{name}\" is {what}: rows can be added to Delta tables only")]
    NotInsertable { name: String, what: &'static str },
    /// The row policies let no row in.
    #[error("the row policies of \"{0}\" do not let these rows in; nothing was written")]
    RowsRefused(String),
    #[error("\"{0}\" or its policies were changed while the statement ran; nothing was written")]
    RulesChanged(String),
    #[error("\"{name}\" is damaged (id {id}){}", shown(detail))]
    Corrupt { name: String, id: String, detail: Option<String> },
    #[error("\"{name}\" cannot be reached (id {id}){}", shown(detail))]
    Storage { name: String, id: String, detail: Option<String> },
    #[error("\"{name}\" is closed: a policy no longer binds{}", shown(detail))]
    PolicyNotBinding { name: String, detail: Option<String> },
    /// The view's query no longer plans with its owner's rights.
    #[error("view \"{name}\" can no longer be read (id {id}){}", shown(detail))]
    BrokenView { name: String, id: String, detail: Option<String> },
    #[error("more than {MAX_VIEW_DEPTH} views inside each other, or {MAX_VIEWS} in one statement")]
    TooManyViews,
    #[error(transparent)]
    TooLarge(TooLarge),
    #[error("reading \"{name}\" failed (id {id})")]
    Internal { name: String, id: String },
}

impl CatalogError {
    /// The one inside an error of DataFusion, where there is one.
    pub fn of(error: &DataFusionError) -> Option<&Self> {
        find(error, |it| it.downcast_ref::<Self>())
    }
}

fn shown(detail: &Option<String>) -> String {
    detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default()
}

impl From<CatalogError> for DataFusionError {
    fn from(error: CatalogError) -> Self {
        Self::External(Box::new(error))
    }
}
