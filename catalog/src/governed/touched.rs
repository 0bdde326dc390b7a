//! What one statement touched, for the audit.

use std::collections::{BTreeMap, BTreeSet};

use lazaret_auth::{EmergencyId, PolicyId, TableId};
use parking_lot::Mutex;

use crate::lake::SnapshotId;

/// A table or view that a statement resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    pub table: TableId,
    /// Catalog, schema and table.
    pub name: [String; 3],
    /// `None` for a view and for plain files.
    pub snapshot: Option<SnapshotId>,
    pub policies: BTreeSet<AppliedPolicy>,
    /// The columns that its scans read, those in filters too; empty until a plan is made.
    pub columns: BTreeSet<String>,
    /// The columns that it writes.
    pub written: BTreeSet<String>,
    /// Whether some row or column is hidden from the one who asks.
    pub restricted: bool,
    /// The emergency access without which something would be hidden.
    pub lifted: Option<EmergencyId>,
}

/// A row or masking policy that binds the one who asks, in the version that was used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppliedPolicy {
    pub id: PolicyId,
    pub name: String,
    pub version: u64,
    /// The columns that it masks for the one who asks; none: it is a row policy.
    pub masks: BTreeSet<String>,
}

/// Shared by a statement's namespace, the views inside it, and the tables that they hand out.
#[derive(Debug, Default)]
pub struct TouchedTables(Mutex<BTreeMap<TableId, Touched>>);

impl TouchedTables {
    /// Everything so far, in order of id.
    pub fn list(&self) -> Vec<Touched> {
        self.0.lock().values().cloned().collect()
    }

    /// A table may be reached twice, directly and through a view: what was seen adds up.
    pub(crate) fn resolved(&self, touched: Touched) {
        let mut tables = self.0.lock();
        match tables.get_mut(&touched.table) {
            Some(seen) => {
                seen.policies.extend(touched.policies);
                seen.written.extend(touched.written);
                seen.restricted |= touched.restricted;
                seen.lifted = seen.lifted.or(touched.lifted);
            }
            None => {
                tables.insert(touched.table, touched);
            }
        }
    }

    pub(crate) fn scanned(&self, table: TableId, columns: BTreeSet<String>) {
        if let Some(touched) = self.0.lock().get_mut(&table) {
            touched.columns.extend(columns);
        }
    }
}
