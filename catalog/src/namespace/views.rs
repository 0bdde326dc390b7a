//! The queries of views.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::DataFusionError;
use datafusion::sql::parser::Statement as DfStatement;
use lazaret_auth::{Authority, GroupName};

use super::{CatalogError, Namespace};
use crate::governed::size::PlanSize;
use crate::governed::view::ViewQuery;
use crate::governed::{Witness, parse};
use crate::meta::Relation;

/// Views inside views.
pub(super) const MAX_VIEW_DEPTH: usize = 16;

/// Views that one statement may plan or scan, each time counted: views that join views grow as a power of two.
pub(super) const MAX_VIEWS: usize = 512;

/// Counts the views of a statement.
#[derive(Default)]
pub(crate) struct ViewBudget(AtomicUsize);

impl ViewBudget {
    pub(crate) fn spend(&self) -> Result<(), CatalogError> {
        if self.0.fetch_add(1, Ordering::Relaxed) < MAX_VIEWS { Ok(()) } else { Err(CatalogError::TooManyViews) }
    }
}

impl Namespace {
    /// The query of a view, with its owner's stored rights and the names of its day, under the reader's policies.
    pub(super) async fn plan_view(
        &self,
        view: &Relation,
        query: &str,
        catalog: &str,
        schema: &str,
        owner_groups: &BTreeSet<GroupName>,
    ) -> Result<ViewQuery, DataFusionError> {
        if self.depth >= MAX_VIEW_DEPTH {
            return Err(CatalogError::TooManyViews.into());
        }
        // Its owner would choose what is read with the eyes of the policy's creator.
        if self.in_policy && view.owner != *self.statement.reader.name() {
            let feature = "a view that somebody else owns, read by a policy".to_owned();
            return Err(CatalogError::Unsupported { name: view.name.clone(), feature }.into());
        }
        self.statement.views.spend()?;
        let (state, reader) = (self.statement.state.as_ref(), &self.statement.reader);
        let mut owner = Authority::stored(state, &view.owner).bound_by(state, owner_groups);
        if view.owner == *reader.name() {
            owner = owner.bound_by(state, reader.groups());
        }
        let inside = Self {
            statement: Arc::clone(&self.statement),
            rights: Arc::new(owner),
            depth: self.depth + 1,
            in_policy: self.in_policy,
            default_catalog: catalog.into(),
            default_schema: schema.into(),
            reserved: Arc::clone(&self.reserved),
            witness: Witness { touched: Arc::clone(&self.statement.touched), ..Witness::default() },
            resolved: Arc::default(),
        };
        let query = parse::query(query).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let state = inside.session_state();
        let plan = state.statement_to_plan(DfStatement::Statement(Box::new(query))).await?;
        PlanSize::of(&plan)?;
        let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        ViewQuery::try_new(plan, Arc::clone(&inside.witness.leaves), Arc::clone(&self.statement.views))
    }

    /// What of a view's failure the reader may know: not the names of the tables inside it.
    pub(super) fn broken_view(&self, name: &str, view: &Relation, error: &DataFusionError) -> CatalogError {
        let id = uuid::Uuid::new_v4().simple().to_string();
        tracing::error!(error_id = %id, view = name, error = %error, "a view cannot be planned");
        let name = name.to_owned();
        let is_owner = self.depth == 0 && *self.statement.reader.name() == view.owner;
        let detail = is_owner.then(|| error.strip_backtrace());
        match CatalogError::of(error) {
            Some(CatalogError::TooManyViews) => CatalogError::TooManyViews,
            Some(CatalogError::TooLarge(limit)) => CatalogError::TooLarge(limit.clone()),
            Some(CatalogError::Unsupported { feature, .. }) => CatalogError::Unsupported { name, feature: feature.clone() },
            Some(CatalogError::Corrupt { .. }) => CatalogError::Corrupt { name, id, detail: None },
            Some(CatalogError::Storage { .. }) => CatalogError::Storage { name, id, detail: None },
            Some(CatalogError::PolicyNotBinding { .. }) => CatalogError::PolicyNotBinding { name, detail: None },
            Some(CatalogError::Internal { .. }) => CatalogError::Internal { name, id },
            _ => CatalogError::BrokenView { name, id, detail },
        }
    }
}
