//! The one scan of both formats: a snapshot's files, pruned, without their deleted rows, as DataFusion's Parquet scan.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DFSchema, DataFusionError, Result, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::functions_aggregate::min_max::{MaxAccumulator, MinAccumulator};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Accumulator, Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{MetricBuilder, MetricValue};
use datafusion::physical_plan::union::UnionExec;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;
use roaring::RoaringTreemap;

use super::deletes;
use super::evolve::EvolveFactory;
use super::lookup::Lookups;
use super::prune::prune;
use super::reader::{LakeReaderFactory, ScannedFile};
use super::rename::Naming;
use super::snapshot::{ColumnBounds, LakeError, LakeFile, LakeSnapshot};
use crate::caches::Caches;
use crate::stores::{LocationError, Stores};

/// Data files whose deleted rows one scan looks up at once.
const CONCURRENT_FILES: usize = 16;

/// Above this, files are scanned without bounds of their own: they serve filters that come up while a query runs, and
/// cost a microsecond per file and column of planning.
const MAX_FILES_WITH_BOUNDS: usize = 2_048;

const FILES_TOTAL: &str = "lake_files_total";
const FILES_SCANNED: &str = "lake_files_scanned";

/// A raw table at one version. It shows every row: only a governed table may hold one.
#[derive(Debug)]
pub struct LakeTable {
    snapshot: Arc<LakeSnapshot>,
    schema: SchemaRef,
    naming: Arc<Naming>,
    stores: Arc<Stores>,
    caches: Arc<Caches>,
}

impl LakeTable {
    pub fn new(snapshot: Arc<LakeSnapshot>, stores: Arc<Stores>, caches: Arc<Caches>) -> Self {
        let schema = as_read(&Schema::new(bare(snapshot.schema.fields())));
        Self { naming: Arc::new(Naming::new(&snapshot)), snapshot, schema, stores, caches }
    }

    pub fn snapshot(&self) -> &Arc<LakeSnapshot> {
        &self.snapshot
    }

    /// See [`super::territory::folders_outside`]. `location` is the table's own.
    pub(crate) fn folders_outside(&self, location: &str) -> Result<Arc<[String]>, LocationError> {
        if let Some(found) = self.snapshot.outside.get() {
            return Ok(Arc::clone(found));
        }
        let found = super::territory::folders_outside(&self.snapshot, &self.stores, &self.stores.resolve(location)?)?;
        Ok(Arc::clone(self.snapshot.outside.get_or_init(|| found)))
    }

    /// With the number of deleted rows of each surviving file.
    async fn surviving(&self, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Result<Vec<Survivor<'_>>, LakeError> {
        let files = prune(&self.snapshot, &self.schema, predicate);
        let looked_up = stream::iter(files).map(|index| async move {
            let Some(file) = self.snapshot.files.get(index) else { return Err(LakeError::Internal("no such file".to_owned())) };
            if file.deletes.is_empty() {
                return Ok(Survivor { index, file, rows: file.rows, deleted: None });
            }
            let deleted = deletes::deleted_rows(&self.stores, &self.caches, &file.deletes).await?;
            let rows = match file.rows {
                Some(rows) => rows,
                None => self.count_rows(file).await?,
            };
            Ok(Survivor { index, file, rows: Some(rows), deleted: Some(deleted) })
        });
        looked_up.buffered(CONCURRENT_FILES).try_collect().await
    }

    async fn count_rows(&self, file: &LakeFile) -> Result<u64, LakeError> {
        let name = || format!("{}/{}", file.store, file.path);
        let reader = self.reader(&file.store)?.file(file.path.clone(), file.size_bytes, ScannedFile::of(file));
        let footer = reader.footer().await.map_err(|error| LakeError::Corrupt { file: name(), reason: error.to_string() })?;
        u64::try_from(footer.metadata.file_metadata().num_rows())
            .map_err(|_| LakeError::Corrupt { file: name(), reason: "a negative number of rows".to_owned() })
    }

    fn reader(&self, store: &Arc<str>) -> Result<LakeReaderFactory, LakeError> {
        Ok(LakeReaderFactory {
            store_name: Arc::clone(store),
            store: self.stores.counting(store)?,
            caches: Arc::clone(&self.caches),
            naming: Arc::clone(&self.naming),
            lookups: Arc::default(),
            effort: Arc::default(),
        })
    }

    /// One scan of files that lie in one store and have the same constant columns.
    fn scan_group(
        &self,
        state: &dyn Session,
        store: &Arc<str>,
        layout: &Layout,
        files: &[Survivor<'_>],
        projection: Option<&Vec<usize>>,
        filters: Option<&Expr>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut options = TableParquetOptions { global: state.config_options().execution.parquet.clone(), ..Default::default() };
        // Spark writes timestamps as INT96; as nanoseconds they end in 2262.
        options.global.coerce_int96 = Some("us".to_owned());
        options.global.coerce_int96_tz = Some("UTC".to_owned());

        let table_schema = layout.schema(&self.schema);
        let mut reader = self.reader(store).map_err(external)?;
        let mut source = ParquetSource::new(table_schema.clone()).with_table_parquet_options(options);
        if let Some(filters) = filters {
            let df_schema = DFSchema::try_from(Arc::clone(table_schema.table_schema()))?;
            let predicate = state.create_physical_expr(filters.clone(), &df_schema)?;
            reader.lookups = Arc::new(Lookups::of(&predicate));
            source = source.with_predicate(predicate);
        }
        source = source.with_parquet_file_reader_factory(Arc::new(reader));
        let metrics = MetricBuilder::new(source.metrics());
        metrics.global_counter(FILES_SCANNED).add(files.len());

        let needed: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let with_bounds = files.len() <= MAX_FILES_WITH_BOUNDS;
        let partitioned = files.iter().map(|it| self.partitioned_file(it, layout, if with_bounds { &needed } else { &[] }));
        let groups = FileGroup::new(partitioned.collect::<Result<Vec<_>>>()?).split_files(state.config().target_partitions().max(1));
        // Without a file, one empty partition: a plan must have one.
        let groups = if groups.is_empty() { vec![FileGroup::new(Vec::new())] } else { groups };

        let url = ObjectStoreUrl::parse(store)?;
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(self.statistics(files, layout, &needed))
            .with_projection_indices(Some(layout.positions(&needed)))?
            .with_expr_adapter(Some(Arc::new(self.adapters())))
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn adapters(&self) -> EvolveFactory {
        let defaults = self.snapshot.initial_defaults.iter();
        let named = defaults.filter_map(|(index, value)| Some((self.schema.fields().get(*index)?.name().clone(), value_as_read(value))));
        EvolveFactory { initial_defaults: named.collect::<HashMap<_, _>>() }
    }

    fn partitioned_file(&self, survivor: &Survivor<'_>, layout: &Layout, bounds_of: &[usize]) -> Result<PartitionedFile> {
        let file = survivor.file;
        let mut partitioned = PartitionedFile::new_from_meta(ObjectMeta {
            location: file.path.clone(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: file.size_bytes,
            e_tag: None,
            version: None,
        });
        partitioned = partitioned.with_extension(ScannedFile::of(file));
        partitioned.partition_values = file.constants.iter().map(|(_, value)| value_as_read(value)).collect();
        partitioned.statistics = Some(Arc::new(self.file_statistics(survivor, layout, bounds_of)?));
        if let (Some(deleted), Some(rows)) = (&survivor.deleted, survivor.rows) {
            partitioned = partitioned.with_extension(ParquetRowSelection::new(deletes::selection(deleted, rows)));
        }
        Ok(partitioned)
    }

    /// Of all these files, for the order and the kind of joins. DataFusion narrows bounds by casts that lose something or keep no
    /// order, and takes what comes out for exact (apache/datafusion#25523): how many values there may be says enough.
    fn statistics(&self, files: &[Survivor<'_>], layout: &Layout, needed: &[usize]) -> Statistics {
        let mut columns = vec![ColumnStatistics::new_unknown(); self.schema.fields().len()];
        let indices = UInt64Array::from_iter_values(files.iter().map(|it| it.index as u64));
        for (index, position) in needed.iter().zip(layout.positions(needed)) {
            let (Some(field), Some(column)) = (self.schema.fields().get(*index), columns.get_mut(position)) else { continue };
            let bounds = self.snapshot.bounds.columns.get(field.name());
            column.distinct_count = bounds.and_then(|bounds| most_values(bounds, &indices)).map_or(Precision::Absent, Precision::Inexact);
        }
        let bytes = files.iter().map(|it| it.file.size_bytes).sum::<u64>();
        Statistics {
            num_rows: files.iter().map(Survivor::live_rows).reduce(|a, b| a.add(&b)).unwrap_or(Precision::Exact(0)),
            total_byte_size: Precision::Inexact(usize::try_from(bytes).unwrap_or(usize::MAX)),
            column_statistics: columns,
        }
    }

    /// For filters that come up while the query runs. Never exact: a bound may be cut, and DataFusion would take an
    /// exact one for the value itself.
    fn file_statistics(&self, survivor: &Survivor<'_>, layout: &Layout, bounds_of: &[usize]) -> Result<Statistics> {
        let mut columns = vec![ColumnStatistics::new_unknown(); self.schema.fields().len()];
        for (index, position) in bounds_of.iter().zip(layout.positions(bounds_of)) {
            let (Some(field), Some(column)) = (self.schema.fields().get(*index), columns.get_mut(position)) else { continue };
            let Some(bounds) = self.snapshot.bounds.columns.get(field.name()) else { continue };
            column.min_value = inexact(&ScalarValue::try_from_array(&bounds.min, survivor.index)?);
            column.max_value = inexact(&ScalarValue::try_from_array(&bounds.max, survivor.index)?);
            if bounds.null_counts.is_valid(survivor.index) {
                let nulls = usize::try_from(bounds.null_counts.value(survivor.index)).unwrap_or(usize::MAX);
                column.null_count = Precision::Inexact(nulls);
            }
        }
        for (value, column) in survivor.file.constants.iter().map(|(_, value)| value).zip(columns.iter_mut().skip(layout.file.len())) {
            column.min_value = inexact(value);
            column.max_value = inexact(value);
        }
        Ok(Statistics { num_rows: survivor.live_rows(), total_byte_size: Precision::Absent, column_statistics: columns })
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let filter = conjunction(filters.iter().cloned());
        let predicate = match &filter {
            Some(filter) => {
                let schema = DFSchema::try_from(Arc::clone(&self.schema))?;
                Some(state.create_physical_expr(filter.clone(), &schema)?)
            }
            None => None,
        };
        let mut survivors = self.surviving(predicate.as_ref()).await.map_err(external)?;
        if filter.is_none() {
            shorten(&mut survivors, limit);
        }

        let mut groups: BTreeMap<(Arc<str>, Vec<usize>), Vec<Survivor<'_>>> = BTreeMap::new();
        for survivor in survivors {
            let constants = survivor.file.constants.iter().map(|(index, _)| *index).collect();
            groups.entry((Arc::clone(&survivor.file.store), constants)).or_default().push(survivor);
        }
        if groups.is_empty() {
            // Any store will do: nothing is read.
            groups.insert((Arc::from("file://"), Vec::new()), Vec::new());
        }
        let mut plans = Vec::with_capacity(groups.len());
        for ((store, constants), files) in &groups {
            let layout = Layout::new(self.schema.fields().len(), constants);
            plans.push(self.scan_group(state, store, &layout, files, projection, filter.as_ref())?);
        }
        // Once per scan, so that the sum over a plan is right.
        if let Some(scan) = plans.first().and_then(|plan| plan.downcast_ref::<DataSourceExec>())
            && let Some((_, source)) = scan.downcast_to_file_source::<ParquetSource>()
        {
            MetricBuilder::new(source.metrics()).global_counter(FILES_TOTAL).add(self.snapshot.files.len());
        }
        match plans.len() {
            1 => plans.pop().ok_or_else(|| DataFusionError::Internal("no plan".to_owned())),
            _ => UnionExec::try_new(plans),
        }
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(
                |filter| {
                    if filter.is_volatile() { TableProviderFilterPushDown::Unsupported } else { TableProviderFilterPushDown::Inexact }
                },
            )
            .collect())
    }
}

/// A file that pruning left.
struct Survivor<'a> {
    index: usize,
    file: &'a LakeFile,
    /// In the file, deleted ones included.
    rows: Option<u64>,
    deleted: Option<Arc<RoaringTreemap>>,
}

impl Survivor<'_> {
    fn live_rows(&self) -> Precision<usize> {
        let Some(rows) = self.rows else { return Precision::Absent };
        // `rank` counts the positions up to and including its argument.
        let deleted = self.deleted.as_ref().filter(|_| rows > 0).map_or(0, |deleted| deleted.rank(rows - 1));
        usize::try_from(rows - deleted).map_or(Precision::Absent, Precision::Exact)
    }
}

fn inexact(bound: &ScalarValue) -> Precision<ScalarValue> {
    if bound.is_null() { Precision::Absent } else { Precision::Inexact(value_as_read(bound)) }
}

/// How many values lie between the bounds of these files, where each has bounds; of whole numbers, dates and times.
fn most_values(bounds: &ColumnBounds, files: &UInt64Array) -> Option<usize> {
    let data_type = bounds.min.data_type();
    if data_type.is_floating() {
        return None;
    }
    let evaluated = |accumulator: &mut dyn Accumulator, of: &ArrayRef| {
        let of = if files.len() == of.len() { Arc::clone(of) } else { take(of, files, None).ok()? };
        if of.null_count() > 0 {
            return None;
        }
        accumulator.update_batch(&[of]).ok()?;
        accumulator.evaluate().ok()
    };
    let min = evaluated(&mut MinAccumulator::try_new(data_type).ok()?, &bounds.min)?;
    let max = evaluated(&mut MaxAccumulator::try_new(data_type).ok()?, &bounds.max)?;
    min.distance(&max)?.checked_add(1)
}

/// Keeps as many files as hold `limit` rows for certain.
fn shorten(survivors: &mut Vec<Survivor<'_>>, limit: Option<usize>) {
    let Some(limit) = limit else { return };
    let mut rows = 0_usize;
    let enough = survivors.iter().position(|survivor| {
        if let Precision::Exact(live) = survivor.live_rows() {
            rows = rows.saturating_add(live);
        }
        rows >= limit
    });
    if let Some(last) = enough {
        survivors.truncate(last + 1);
    }
}

/// Where a group's scan has the table's columns: those read from files first, then the constant ones.
struct Layout {
    file: Vec<usize>,
    constant: Vec<usize>,
}

impl Layout {
    fn new(columns: usize, constants: &[usize]) -> Self {
        Self { file: (0..columns).filter(|index| !constants.contains(index)).collect(), constant: constants.to_vec() }
    }

    fn schema(&self, table: &Schema) -> TableSchema {
        let fields = |indexes: &[usize]| indexes.iter().filter_map(|index| table.fields().get(*index).cloned()).collect::<Vec<FieldRef>>();
        TableSchema::builder(Arc::new(Schema::new(fields(&self.file)))).with_table_partition_cols(fields(&self.constant)).build()
    }

    /// Of columns of the table, in the scan.
    fn positions(&self, columns: &[usize]) -> Vec<usize> {
        let at = |index: &usize| self.file.iter().chain(&self.constant).position(|it| it == index);
        columns.iter().filter_map(at).collect()
    }
}

/// Without metadata at any depth: ids and physical names are the lake's own affair.
fn bare(fields: &Fields) -> Fields {
    fields.iter().map(bare_field).collect()
}

/// The columns as they are read: texts as views, which point into the pages that they were decoded from.
pub(crate) fn as_read(schema: &Schema) -> SchemaRef {
    let read = |field: &FieldRef| match field.data_type() {
        DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        _ => Arc::clone(field),
    };
    Arc::new(Schema::new_with_metadata(schema.fields().iter().map(read).collect::<Fields>(), schema.metadata().clone()))
}

fn value_as_read(value: &ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Utf8(text) => ScalarValue::Utf8View(text.clone()),
        other => other.clone(),
    }
}

fn bare_field(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Struct(children) => DataType::Struct(bare(children)),
        DataType::List(child) => DataType::List(bare_field(child)),
        DataType::Map(child, sorted) => DataType::Map(bare_field(child), *sorted),
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()))
}

fn external(error: LakeError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// What the scans of lake tables in a plan read, for tests and metrics. The row groups are known once it has run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// In the tables' versions.
    pub files_total: usize,
    /// Left by pruning when the query was planned.
    pub files_scanned: usize,
    /// Left by pruning within the files that were opened.
    pub row_groups_read: usize,
    pub row_groups_pruned: usize,
    pub bytes_read: usize,
}

impl ScanReport {
    pub fn of(plan: &Arc<dyn ExecutionPlan>) -> Self {
        let mut report = Self::default();
        report.add(plan);
        report
    }

    fn add(&mut self, plan: &Arc<dyn ExecutionPlan>) {
        let is_scan = plan.downcast_ref::<DataSourceExec>().is_some();
        if let Some(metrics) = plan.metrics().filter(|_| is_scan) {
            for metric in metrics.iter() {
                match metric.value() {
                    MetricValue::Count { name, count } if name == FILES_TOTAL => self.files_total += count.value(),
                    MetricValue::Count { name, count } if name == FILES_SCANNED => self.files_scanned += count.value(),
                    MetricValue::Count { name, count } if name == "bytes_scanned" => self.bytes_read += count.value(),
                    MetricValue::PruningMetrics { name, pruning_metrics } if name == "row_groups_pruned_statistics" => {
                        self.row_groups_pruned += pruning_metrics.pruned();
                        self.row_groups_read += pruning_metrics.matched();
                    }
                    _ => {}
                }
            }
        }
        for child in plan.children() {
            self.add(child);
        }
    }
}
