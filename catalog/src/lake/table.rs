//! Opening a table: metadata (cached) to a provider that DataFusion can scan.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use lazaret_auth::TableId;

use super::snapshot::{LakeError, SnapshotId};
use crate::caches::Caches;
use crate::meta::TableFormat;
use crate::stores::Stores;

/// What a stored table is, as far as reading it goes.
#[derive(Clone, Debug)]
pub struct TableSource {
    pub id: TableId,
    pub format: TableFormat,
    pub location: String,
    pub options: BTreeMap<String, String>,
}

/// A raw table at one version. It shows every row: only `GovernedTable` may hold one.
#[derive(Clone)]
pub struct OpenTable {
    pub provider: Arc<dyn TableProvider>,
    /// `None` for plain files.
    pub snapshot: Option<SnapshotId>,
}

impl OpenTable {
    /// Folders outside `location`, its own, in which the table has files. What another table owns must not be read.
    pub fn folders_outside(&self, location: &str) -> Result<Arc<[String]>, LakeError> {
        match self.provider.downcast_ref::<super::scan::LakeTable>() {
            Some(table) => Ok(table.folders_outside(location)?),
            None => Ok(Arc::default()),
        }
    }

    /// The columns to which policies are bound: those of the provider, with the field ids of the format, which the scan
    /// does not carry.
    pub fn binding_schema(&self) -> SchemaRef {
        match self.provider.downcast_ref::<super::scan::LakeTable>() {
            Some(table) => super::scan::as_read(&table.snapshot().schema),
            None => self.provider.schema(),
        }
    }
}

/// A table in a cache: by identity, and by location, which ALTER can change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TableKey {
    pub id: TableId,
    pub location: Arc<str>,
}

impl TableKey {
    pub(crate) fn of(source: &TableSource) -> Self {
        Self { id: source.id, location: source.location.as_str().into() }
    }
}

/// The lake: every table is opened here, through the stores and the caches.
pub struct Lake {
    pub(crate) stores: Arc<Stores>,
    pub(crate) caches: Arc<Caches>,
}

impl Lake {
    pub fn new(stores: Arc<Stores>, caches: Arc<Caches>) -> Self {
        Self { stores, caches }
    }

    pub fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    pub fn stores(&self) -> &Arc<Stores> {
        &self.stores
    }

    /// The table's current version. Warm, this costs no I/O beyond a bounded-staleness check.
    pub async fn open(&self, source: &TableSource) -> Result<OpenTable, LakeError> {
        match source.format {
            TableFormat::Delta => {
                let table = super::delta::open(self, source).await?;
                Ok(OpenTable { snapshot: Some(table.snapshot().id), provider: table })
            }
            TableFormat::Iceberg => {
                let table = super::iceberg::open(self, source).await?;
                Ok(OpenTable { snapshot: Some(table.snapshot().id), provider: table })
            }
            TableFormat::Parquet | TableFormat::Csv | TableFormat::Json => {
                Ok(OpenTable { provider: super::plain::open(self, source).await?, snapshot: None })
            }
        }
    }
}
