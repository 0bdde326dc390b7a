//! Policy below the optimizer: what a principal may not see is cut off inside the scan of each table, and nothing that the
//! principal writes reaches below the cut unless it cannot leak.
//!
//! The way of a scan: [`Grant`](lazaret_auth::Grant) → policies bound to the raw columns ([`bind`]) → [`GovernedTable`] →
//! raw scan, row filter, masks, [`SecurityBarrierExec`]. [`verify`] looks at the finished plan once more, [`explain`] shows of it
//! what may be shown.

mod actions;
mod barrier;
pub mod bind;
mod bind_masks;
mod careful_planner;
mod early;
pub mod explain;
pub mod failure;
mod functions;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod lab;
mod late;
pub(crate) mod leakproof;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod mask_rules;
mod masks;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod oracle;
pub mod parse;
mod physical_rules;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod probes;
mod row_filter;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod rules;
#[cfg(test)]
pub(crate) mod sabotage;
mod selectivity;
mod sides;
mod sieve;
pub mod size;
pub(crate) mod subquery;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod subquery_rules;
mod table;
mod touched;
mod unordered;
pub mod verify;
pub(crate) mod view;

use std::sync::Arc;

use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::SessionConfig;

pub use barrier::SecurityBarrierExec;
pub use bind::{BindError, NewBinding, PolicyBinder, Rows};
pub use bind_masks::NewMask;
pub use failure::{FailureKind, ScanFailure, classify, is_missing_file};
pub use functions::identity_functions;
pub use masks::{MaskKeys, Masks};
pub use subquery::{is_of_policy, tables_named};
pub(crate) use table::Policies;
pub use table::{GovernedTable, Witness};
pub use touched::{AppliedPolicy, Touched, TouchedTables};
pub use unordered::aggregate_of_window;
pub use verify::{Leaves, Ungoverned, verify_logical, verify_physical};

/// How queries over governed tables are planned, whatever was set before.
pub fn with_careful_planning(builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.with_query_planner(Arc::new(careful_planner::CarefulPlanner)).with_physical_optimizer_rules(physical_rules::physical_rules())
}

/// Sets what correct and governed answers need, whatever was set before. No session may change these.
pub fn session_config(config: SessionConfig) -> SessionConfig {
    let mut config = config.with_information_schema(false).with_create_default_catalog_and_schema(false);
    let options = config.options_mut();
    // DataFusion 55.2 prunes rows that other aggregates of the same query need.
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // A rule that fails must fail the query.
    options.optimizer.skip_failed_rules = false;
    // The row filter of Parquet drops a predicate that it cannot build.
    options.execution.parquet.pushdown_filters = false;
    options.execution.parquet.reorder_filters = false;
    // Spark writes INT96 beyond the range of nanoseconds.
    options.execution.parquet.coerce_int96 = Some("us".to_owned());
    // Types, names and literals as PostgreSQL has them.
    options.sql_parser.enable_ident_normalization = true;
    options.sql_parser.dialect = datafusion::common::config::Dialect::PostgreSQL;
    options.execution.time_zone = Some("UTC".to_owned());
    options.explain.logical_plan_only = false;
    config
}
