//! The masks of one table for one reader, and the node that applies them: above the row policy, below the barrier.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, MutableArrayData, RecordBatch, RecordBatchOptions, make_array};
use arrow::datatypes::{Field, FieldRef, Schema};
use datafusion::catalog::Session;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, internal_datafusion_err, internal_err};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions, apply_expression_roots};
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties};
use futures::StreamExt;
use lazaret_auth::{MaskAction, MaskKey};

use super::actions::ValueMask;
use super::leakproof::is_leakproof_physical;

/// With what a statement hashes. Two executions never share the second key.
#[derive(Clone, Debug)]
pub struct MaskKeys {
    /// `None`: the statement is planned only, and never runs.
    pub global: Option<MaskKey>,
    pub query: MaskKey,
}

/// How one column is masked.
#[derive(Clone, Debug)]
pub(crate) enum Mask {
    /// Over the raw columns, of exactly the column's type, NULL where the column is.
    Expression(Expr),
    Action(ValueMask),
}

impl Mask {
    pub fn action(action: MaskAction, keys: &MaskKeys) -> Self {
        let key = match action {
            MaskAction::Sha256Global => keys.global.clone(),
            MaskAction::Sha256QueryLocal => Some(keys.query.clone()),
            _ => None,
        };
        Self::Action(ValueMask { action, key })
    }

    /// Whether it can show NULL where there is a value.
    fn makes_nulls(&self) -> bool {
        match self {
            Self::Expression(_) => true,
            Self::Action(mask) => mask.action == MaskAction::ReplaceWithNull,
        }
    }
}

/// The masked columns of a table as one reader sees it, by the names that they have now.
#[derive(Clone, Debug, Default)]
pub struct Masks(Arc<BTreeMap<String, Mask>>);

impl Masks {
    pub(crate) fn new(masks: BTreeMap<String, Mask>) -> Self {
        Self(Arc::new(masks))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    pub(crate) fn masks(&self, column: &str) -> bool {
        self.0.contains_key(column)
    }

    /// The column as the reader sees it: one that is declared NOT NULL and shown as NULL is nullable.
    pub(crate) fn shown(&self, field: &FieldRef) -> FieldRef {
        match self.0.get(field.name()) {
            Some(mask) if mask.makes_nulls() && !field.is_nullable() => Arc::new(field.as_ref().clone().with_nullable(true)),
            _ => Arc::clone(field),
        }
    }

    /// The raw columns that must be read to show this one.
    pub(crate) fn read_for(&self, column: &str) -> BTreeSet<String> {
        let mut read = BTreeSet::from([column.to_owned()]);
        if let Some(Mask::Expression(expr)) = self.0.get(column) {
            read.extend(expr.column_refs().into_iter().map(|column| column.name.clone()));
        }
        read
    }

    /// Shows these columns of the input, masked where they are.
    pub(crate) fn apply(&self, state: &dyn Session, columns: &[&Field], input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let below = input.schema();
        let df_schema = DFSchema::try_from(Arc::clone(&below))?;
        let mut outputs = Vec::with_capacity(columns.len());
        let mut fields = Vec::with_capacity(columns.len());
        for column in columns {
            let index = below.index_of(column.name())?;
            let raw = Arc::new(below.field(index).clone());
            outputs.push(match self.0.get(column.name()) {
                None => Output::Raw(index),
                Some(Mask::Action(mask)) => Output::Action(index, mask.clone()),
                Some(Mask::Expression(expr)) => Output::Expression(state.create_physical_expr(expr.clone(), &df_schema)?),
            });
            fields.push(self.shown(&raw));
        }
        Ok(Arc::new(MaskExec::try_new(outputs.into(), fields, input)?))
    }
}

#[derive(Clone)]
enum Output {
    /// A column of the input as it is.
    Raw(usize),
    Expression(Arc<dyn PhysicalExpr>),
    Action(usize, ValueMask),
}

/// Shows columns of its input, some of them masked.
pub(crate) struct MaskExec {
    outputs: Arc<[Output]>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl MaskExec {
    fn try_new(outputs: Arc<[Output]>, fields: Vec<FieldRef>, input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let below = input.schema();
        for (output, field) in outputs.iter().zip(&fields) {
            let data_type = match output {
                Output::Raw(index) | Output::Action(index, _) => below.fields().get(*index).map(|field| field.data_type().clone()),
                Output::Expression(expr) => Some(expr.data_type(&below)?),
            };
            if data_type.as_ref() != Some(field.data_type()) {
                return internal_err!("a mask changes a column's type");
            }
        }
        let partitions = Partitioning::UnknownPartitioning(input.output_partitioning().partition_count());
        let schema = EquivalenceProperties::new(Arc::new(Schema::new(fields)));
        let properties = PlanProperties::new(schema, partitions, input.pipeline_behavior(), input.boundedness());
        Ok(Self { outputs, input, properties: Arc::new(properties) })
    }

    /// Whether none of these columns leaves as it came.
    pub(crate) fn covers(&self, names: &BTreeSet<String>) -> bool {
        let schema = self.schema();
        let mut columns = schema.fields().iter().zip(self.outputs.iter());
        columns.all(|(field, output)| !names.contains(field.name()) || !matches!(output, Output::Raw(_)))
    }

    /// A filter on columns that are shown as they are, over the input's; `None` where it touches a masked one.
    fn below(&self, filter: &Arc<dyn PhysicalExpr>) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let raw = |column: &Column| match self.outputs.get(column.index()) {
            Some(Output::Raw(index)) => Some(*index),
            _ => None,
        };
        if !is_leakproof_physical(filter, &self.schema()) || !collect_columns(filter).iter().all(|column| raw(column).is_some()) {
            return Ok(None);
        }
        let moved = Arc::clone(filter).transform_down(|expr| match expr.downcast_ref::<Column>() {
            Some(column) => {
                let index = raw(column).ok_or_else(|| internal_datafusion_err!("a filter names a masked column"))?;
                Ok(Transformed::yes(Arc::new(Column::new(column.name(), index)) as Arc<dyn PhysicalExpr>))
            }
            None => Ok(Transformed::no(expr)),
        })?;
        Ok(Some(moved.data))
    }
}

/// The same values, and nothing where they are NULL. Kernels only mark what a mask takes away: the raw value would stay in the
/// buffer, which a client gets whole, and in the children of a struct, which `s['a']` reads past the struct's own NULL.
fn emptied(values: ArrayRef) -> Result<ArrayRef> {
    let Some(nulls) = values.logical_nulls().filter(|nulls| nulls.null_count() > 0) else { return Ok(values) };
    let data = values.to_data();
    let mut kept = MutableArrayData::new(vec![&data], true, values.len());
    let mut end = 0;
    for (from, to) in nulls.valid_slices() {
        kept.try_extend_nulls(from - end)?;
        kept.try_extend(0, from, to)?;
        end = to;
    }
    kept.try_extend_nulls(values.len() - end)?;
    Ok(make_array(kept.freeze()))
}

impl fmt::Debug for MaskExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaskExec").finish_non_exhaustive()
    }
}

impl DisplayAs for MaskExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskExec")
    }
}

impl ExecutionPlan for MaskExec {
    fn name(&self) -> &str {
        "MaskExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) if input.schema().fields() == self.input.schema().fields() => {
                let fields = self.schema().fields().iter().cloned().collect();
                Ok(Arc::new(Self::try_new(Arc::clone(&self.outputs), fields, input)?))
            }
            _ => internal_err!("a mask has one child, of the columns that it was made for"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        let expressions = self.outputs.iter().filter_map(|output| match output {
            Output::Expression(expr) => Some(expr),
            Output::Raw(_) | Output::Action(..) => None,
        });
        apply_expression_roots(expressions, f)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let (outputs, schema) = (Arc::clone(&self.outputs), self.schema());
        let shown = Arc::clone(&schema);
        let masked = input.map(move |batch| {
            let batch = batch?;
            let rows = batch.num_rows();
            let mut columns = Vec::with_capacity(outputs.len());
            for output in outputs.iter() {
                columns.push(match output {
                    Output::Raw(index) => Arc::clone(batch.column(*index)),
                    Output::Action(index, mask) => mask.apply(batch.column(*index))?,
                    Output::Expression(expr) => emptied(expr.evaluate(&batch)?.into_array(rows)?)?,
                });
            }
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            Ok(RecordBatch::try_new_with_options(Arc::clone(&shown), columns, &options)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, masked)))
    }

    /// What came through the barrier may prune only by what the reader sees as it is.
    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        let mut offered = Vec::new();
        for filter in &parent_filters {
            offered.extend(self.below(filter)?);
        }
        let child = ChildFilterDescription::all_unsupported(&parent_filters).with_self_filters(offered);
        Ok(FilterDescription::new().with_child(child))
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::all_unsupported(child_pushdown_result))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array, StringArray, StructArray};
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{DataType, Int64Type};

    use super::*;

    #[test]
    fn what_is_null_holds_nothing() {
        let nulls = NullBuffer::from(vec![true, false]);
        let numbers = Int64Array::new(vec![1, 4711].into(), Some(nulls.clone()));
        let emptied_numbers = emptied(Arc::new(numbers)).unwrap();
        assert_eq!(emptied_numbers.as_primitive::<Int64Type>().values(), &[1, 0]);
        let fields = vec![Field::new("n", DataType::Int64, false), Field::new("t", DataType::Utf8, true)];
        let children: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1, 4711])), Arc::new(StringArray::from(vec!["a", "secret"]))];
        let parent = StructArray::new(fields.into(), children, Some(nulls));
        let parent = emptied(Arc::new(parent)).unwrap();
        let parent = parent.as_struct();
        assert!(parent.is_null(1) && parent.column(1).is_null(1) && parent.column(0).as_primitive::<Int64Type>().value(1) == 0);
        let texts = parent.column(1).as_string::<i32>();
        assert_eq!(texts.value_data(), b"a");
    }
}
