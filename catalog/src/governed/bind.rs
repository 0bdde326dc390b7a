//! From a policy's text to a predicate over a table's raw columns: bound when it is made, and bound again, to the same
//! columns, whenever it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{Expr, ExprSchemable, Volatility, cast, lit};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::ExprWithAlias;
use lazaret_auth::policy::BoundColumn;
use lazaret_auth::{ObjectId, PolicyText, RowPolicy, RowSecurity, TableId};

use super::parse::{self, ParseError};
use super::subquery::asks_other_tables;

/// The metadata key under which a column has its field id (or, in Delta, its mapping id).
const FIELD_ID: &str = "PARQUET:field_id";

/// Why a policy's text does not bind. For whoever manages policies; see [`BindError::Closed`] for what others hear.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// A name that is not there, or types that do not fit.
    #[error("{0}")]
    Plan(String),
    #[error("a policy must be BOOLEAN, this one is {0}")]
    NotBoolean(DataType),
    /// A subquery that does not plan; the names in it are its author's.
    #[error("{}", .0.strip_backtrace())]
    Inside(#[source] DataFusionError),
    /// Columns of the inner table would be taken for those of the governed one.
    #[error("a table inside a subquery has the name of the governed one: give it an alias other than \"{0}\"")]
    Hidden(String),
    #[error("not supported yet: {0} in a policy")]
    Unsupported(&'static str),
    #[error("{0} is not allowed in a policy")]
    NotAllowed(&'static str),
    #[error("function \"{0}\" is not allowed in a policy: it gives another value with every call")]
    Volatile(String),
    /// The table is closed until the policy is changed.
    #[error("policy \"{policy}\" no longer binds: {reason}")]
    Closed { policy: String, reason: String },
    /// As [`Self::Closed`], for whom the mask is.
    #[error("masking policy \"{policy}\" no longer binds: {reason}")]
    MaskClosed { policy: String, reason: String },
    #[error("column \"{0}\" not found")]
    NoColumn(String),
    #[error("a mask keeps the column's type: column \"{column}\" is {wanted}, its mask {found}")]
    MaskType { column: String, wanted: DataType, found: DataType },
    #[error("action {action} takes {takes}, and column \"{column}\" is {found}")]
    MaskAction { action: &'static str, takes: &'static str, column: String, found: DataType },
}

/// The rows of a table that a reader sees, or those that may come in.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    All,
    None,
    /// Where this is true, over the raw columns.
    Where(Expr),
    /// What comes out of a query that stands in the table's place, because its policies ask other tables.
    OfQuery,
}

/// What the text of a new policy depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewBinding {
    pub columns: Vec<BoundColumn>,
    /// `None` where no other table is asked.
    pub reads: Option<BTreeSet<TableId>>,
}

/// Binds policies for one principal: its session state carries the identity functions.
pub struct PolicyBinder<'a> {
    state: &'a SessionState,
}

impl<'a> PolicyBinder<'a> {
    pub fn new(state: &'a SessionState) -> Self {
        Self { state }
    }

    /// Checks the text of a new policy against a table, and tells which columns it is bound to.
    pub fn bind_new_policy(&self, text: &str, schema: &Schema) -> Result<Vec<BoundColumn>, BindError> {
        let expr = self.plan(text, schema.fields().iter().map(|field| (field.name().as_str(), field.as_ref())))?;
        let names: BTreeSet<&str> = expr.column_refs().into_iter().map(|column| column.name.as_str()).collect();
        Ok(bound_columns(schema, &names))
    }

    /// A predicate of a stored policy over the table as it is now.
    pub fn bind_stored(&self, policy: &RowPolicy, text: PolicyText, schema: &Schema) -> Result<Expr, BindError> {
        let closed = |reason: String| BindError::Closed { policy: policy.name.clone(), reason };
        let text = policy.text(text).ok_or_else(|| closed("it has no expression for this".to_owned()))?;
        let columns = columns_of(policy, schema)?;
        let expr = self.plan(text, columns.iter().map(|(name, field)| (*name, *field))).map_err(|error| closed(error.to_string()))?;
        renamed(expr, &columns).map_err(|error| closed(error.to_string()))
    }

    /// The rows that a grant shows of a table, or lets come in: any of the permissive policies and all of the restrictive
    /// ones.
    pub fn bind_rows(&self, security: &RowSecurity, text: PolicyText, schema: &Schema) -> Result<Rows, BindError> {
        let RowSecurity::On { permissive, restrictive } = security else { return Ok(Rows::All) };
        let bind = |policies: &[Arc<RowPolicy>]| {
            policies.iter().map(|policy| self.bind_stored(policy, text, schema)).collect::<Result<Vec<_>, _>>()
        };
        // Both are bound even where no row is left: a policy that does not bind closes the table for everyone it binds.
        let (permissive, restrictive) = (bind(permissive)?, bind(restrictive)?);
        let Some(visible) = combined(permissive, restrictive) else { return Ok(Rows::None) };
        let visible = self.simplify(visible, schema)?;
        Ok(match visible {
            Expr::Literal(ScalarValue::Boolean(Some(true)), _) => Rows::All,
            Expr::Literal(ScalarValue::Boolean(_), _) => Rows::None,
            other => Rows::Where(other),
        })
    }

    /// A BOOLEAN expression over these columns, of allowed parts only.
    fn plan<'c>(&self, text: &str, columns: impl Iterator<Item = (&'c str, &'c Field)>) -> Result<Expr, BindError> {
        let schema = open_schema(columns)?;
        let expr = self.plan_expression(text, &schema)?;
        match expr.get_type(&schema).map_err(|error| plan_error(&error))? {
            DataType::Boolean => {}
            other => return Err(BindError::NotBoolean(other)),
        }
        self.coerce(expr, &schema)
    }

    /// An expression of allowed parts only, its types not yet made to fit.
    pub(super) fn plan_expression(&self, text: &str, schema: &DFSchema) -> Result<Expr, BindError> {
        let syntax = parse::expression(text)?;
        // Subqueries have a planner of their own, for a policy that was made with them.
        let refused = asks_other_tables(&syntax).then_some("subquery");
        let planned = self.state.create_logical_expr_from_sql_expr(ExprWithAlias { expr: syntax, alias: None }, schema);
        let expr = match (planned, refused) {
            (_, Some(feature)) => return Err(BindError::Unsupported(feature)),
            (Ok(expr), None) => expr,
            (Err(error), None) => return Err(plan_error(&error)),
        };
        check(&expr, false)?;
        keep_guards(expr.unalias_nested().data, schema)
    }

    pub(super) fn coerce(&self, expr: Expr, schema: &DFSchema) -> Result<Expr, BindError> {
        let coerced = self.simplifier(schema).coerce(expr, schema).map_err(|error| plan_error(&error))?;
        check(&coerced, false)?;
        Ok(coerced)
    }

    /// Folds what is known of the principal, so that what remains can prune.
    pub(super) fn simplify(&self, expr: Expr, schema: &Schema) -> Result<Expr, BindError> {
        let schema = open_schema(schema.fields().iter().map(|field| (field.name().as_str(), field.as_ref())))?;
        self.simplify_in(expr, &schema)
    }

    pub(super) fn simplify_in(&self, expr: Expr, schema: &DFSchema) -> Result<Expr, BindError> {
        self.simplifier(schema).simplify(expr).map_err(|error| plan_error(&error))
    }

    fn simplifier(&self, schema: &DFSchema) -> ExprSimplifier {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_config_options(Arc::clone(self.state.config_options()))
            .with_query_execution_start_time(self.state.execution_props().query_execution_start_time)
            .build();
        ExprSimplifier::new(context)
    }
}

/// Any of the permissive policies and all of the restrictive ones; `None` where nothing is permitted.
pub(crate) fn combined(permissive: Vec<Expr>, restrictive: Vec<Expr>) -> Option<Expr> {
    conjunction([disjunction(permissive)?].into_iter().chain(restrictive))
}

/// Under the names that a stored policy's text has: the columns of the table as it is now.
pub(crate) fn columns_of<'a>(policy: &'a RowPolicy, schema: &'a Schema) -> Result<BTreeMap<&'a str, &'a Field>, BindError> {
    match policy.object {
        ObjectId::Table(_) => {
            columns_now(&policy.columns, schema).map_err(|reason| BindError::Closed { policy: policy.name.clone(), reason })
        }
        // On what holds tables, names are all there is, table by table.
        ObjectId::System | ObjectId::Catalog(_) | ObjectId::Schema(_) => {
            Ok(schema.fields().iter().map(|field| (field.name().as_str(), field.as_ref())).collect())
        }
    }
}

pub(crate) fn bound_columns(schema: &Schema, names: &BTreeSet<&str>) -> Vec<BoundColumn> {
    let columns = schema.fields().iter().filter(|field| names.contains(field.name().as_str()));
    columns.map(|field| bound_column(field)).collect()
}

/// The columns under these names, every one nullable: that a table declares NOT NULL keeps no file from holding NULLs, and
/// `c IS NOT NULL` must not become true for it.
pub(super) fn open_schema<'c>(columns: impl Iterator<Item = (&'c str, &'c Field)>) -> Result<DFSchema, BindError> {
    let fields: Vec<Field> = columns.map(|(name, field)| Field::new(name, field.data_type().clone(), true)).collect();
    DFSchema::try_from(Schema::new(fields)).map_err(|error| plan_error(&error))
}

/// The columns that a text was bound to, by the names that it has for them.
pub(super) fn columns_now<'b, 's>(bound: &'b [BoundColumn], schema: &'s Schema) -> Result<BTreeMap<&'b str, &'s Field>, String> {
    bound.iter().map(|bound| Ok((bound.name.as_str(), find_column(bound, schema)?))).collect()
}

/// The text has the names of its day; the expression gets those of now.
pub(super) fn renamed(expr: Expr, columns: &BTreeMap<&str, &Field>) -> Result<Expr, DataFusionError> {
    let now = expr.transform(|expr| match expr {
        Expr::Column(column) => match columns.get(column.name.as_str()) {
            Some(field) => Ok(Transformed::yes(Expr::Column(Column::new_unqualified(field.name())))),
            None => Err(DataFusionError::Plan(format!("no column \"{}\"", column.name))),
        },
        other => Ok(Transformed::no(other)),
    })?;
    Ok(now.data)
}

pub(super) fn bound_column(field: &Field) -> BoundColumn {
    BoundColumn { name: field.name().clone(), field_id: field_id(field), data_type: type_name(field.data_type()) }
}

pub(super) fn find_column<'s>(bound: &BoundColumn, schema: &'s Schema) -> Result<&'s Field, String> {
    let found = match bound.field_id {
        Some(id) => schema.fields().iter().find(|field| field_id(field) == Some(id)),
        None => schema.fields().iter().find(|field| *field.name() == bound.name),
    };
    let field = found.ok_or_else(|| format!("column \"{}\" is gone", bound.name))?;
    match type_name(field.data_type()) {
        now if now == bound.data_type => Ok(field),
        now => Err(format!("column \"{}\" was {} and is {now}", bound.name, bound.data_type)),
    }
}

fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(FIELD_ID)?.parse().ok()
}

/// A type as Arrow prints it, without what depends on how the table is read: views, large offsets and dictionaries.
pub(super) fn type_name(data_type: &DataType) -> String {
    use DataType::*;
    let nested = |field: &Field| type_name(field.data_type());
    match data_type {
        Utf8 | LargeUtf8 | Utf8View => Utf8.to_string(),
        Binary | LargeBinary | BinaryView => Binary.to_string(),
        Dictionary(_, values) => type_name(values),
        List(item) | LargeList(item) | ListView(item) | LargeListView(item) => format!("List({})", nested(item)),
        FixedSizeList(item, size) => format!("FixedSizeList({size} x {})", nested(item)),
        Map(entries, _) => format!("Map({})", nested(entries)),
        Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|field| format!("{}: {}", field.name(), nested(field))).collect();
            format!("Struct({})", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// A CASE of BOOLEANs, as one of numbers: of the former the optimizer makes AND and OR, and then evaluates a branch for rows
/// that its condition was to keep from it. On a hidden row that would fail the query.
pub(super) fn keep_guards(expr: Expr, schema: &DFSchema) -> Result<Expr, BindError> {
    let number = |expr: Box<Expr>| Box::new(cast(*expr, DataType::Int8));
    let kept = expr.transform_up(|part| match part {
        Expr::Case(mut case) if Expr::Case(case.clone()).get_type(schema)? == DataType::Boolean => {
            case.when_then_expr = case.when_then_expr.into_iter().map(|(when, then)| (when, number(then))).collect();
            case.else_expr = case.else_expr.map(number);
            Ok(Transformed::yes(Expr::Case(case).eq(lit(1_i8))))
        }
        other => Ok(Transformed::no(other)),
    });
    kept.map(|kept| kept.data).map_err(|error| plan_error(&error))
}

pub(super) fn plan_error(error: &DataFusionError) -> BindError {
    BindError::Plan(error.strip_backtrace())
}

/// A policy is made of these and nothing else.
pub(super) fn check(expr: &Expr, subqueries: bool) -> Result<(), BindError> {
    let mut refused = None;
    let visited = expr.apply(|part| {
        refused = if subqueries && is_subquery(part) { None } else { refuse(part) };
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    match (visited, refused) {
        (_, Some(error)) => Err(error),
        (Err(error), None) => Err(plan_error(&error)),
        (Ok(_), None) => Ok(()),
    }
}

fn is_subquery(part: &Expr) -> bool {
    matches!(part, Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) | Expr::ScalarSubquery(_))
}

fn refuse(part: &Expr) -> Option<BindError> {
    match part {
        Expr::Alias(_) | Expr::Column(_) | Expr::Literal(..) | Expr::BinaryExpr(_) | Expr::Like(_) | Expr::SimilarTo(_) => None,
        Expr::Not(_) | Expr::IsNotNull(_) | Expr::IsNull(_) | Expr::IsTrue(_) | Expr::IsFalse(_) | Expr::IsUnknown(_) => None,
        Expr::IsNotTrue(_) | Expr::IsNotFalse(_) | Expr::IsNotUnknown(_) | Expr::Negative(_) | Expr::Between(_) => None,
        Expr::Case(_) | Expr::Cast(_) | Expr::TryCast(_) | Expr::InList(_) => None,
        Expr::ScalarFunction(call) if call.func.signature().volatility == Volatility::Volatile => {
            Some(BindError::Volatile(call.func.name().to_owned()))
        }
        Expr::ScalarFunction(_) => None,
        Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) | Expr::ScalarSubquery(_) => {
            Some(BindError::Unsupported("subquery"))
        }
        Expr::AggregateFunction(_) | Expr::GroupingSet(_) => Some(BindError::NotAllowed("an aggregate function")),
        Expr::WindowFunction(_) => Some(BindError::NotAllowed("a window function")),
        Expr::Placeholder(_) => Some(BindError::NotAllowed("a placeholder")),
        _ => Some(BindError::NotAllowed("this kind of expression")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::collections::HashMap;

    use lazaret_auth::{PolicyCommand, PolicyId, PolicyKind, PrincipalName, TableId};

    use super::*;
    use crate::governed::lab::{Lab, schema};

    fn binds(text: &str) -> Result<Vec<BoundColumn>, String> {
        let state = Lab::new().namespace("ana").session_state();
        PolicyBinder::new(&state).bind_new_policy(text, &schema()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_new_policy_is_boolean_pure_and_without_doubt() {
        for text in [
            "region = 2",
            "region IN (1, 2) OR has_role('national')",
            "s = current_user",
            "s = current_user() AND session_user() = 'x'",
            "s = claim('region') OR array_has(claims('regions'), s)",
            "TRY_CAST(s AS INT) = region",
            "d > now() - interval '1 year'",
            "region IS NOT DISTINCT FROM 2",
            "region IS NOT DISTINCT FROM (x) OR id > 3",
            "true",
        ] {
            assert!(binds(text).is_ok(), "{text}: {:?}", binds(text));
        }
        for (text, said) in [
            ("region", "a policy must be BOOLEAN, this one is Int32"),
            ("NULL", "a policy must be BOOLEAN, this one is Null"),
            ("'true'", "must be BOOLEAN"),
            ("1", "must be BOOLEAN"),
            ("s", "must be BOOLEAN"),
            ("region = 2 AND s", "AND"),
            ("nothing = 2", "nothing"),
            ("region = 2; DROP TABLE t", "unexpected ;"),
            ("region = 2) OR (true", "unexpected )"),
            ("region = 2 -- note", ""),
            ("", "an expression"),
            ("region IN (SELECT id FROM m)", "not supported yet: subquery in a policy"),
            ("EXISTS (SELECT 1)", "not supported yet: subquery in a policy"),
            ("(SELECT true)", "not supported yet: subquery in a policy"),
            ("region = (SELECT 1)", "not supported yet: subquery in a policy"),
            ("region = ANY (SELECT 1)", "not supported yet: subquery in a policy"),
            ("max(region) = 2", "an aggregate function is not allowed"),
            ("row_number() OVER () = 2", "a window function is not allowed"),
            ("random() < 0.5", "function \"random\" is not allowed"),
            ("s = uuid()", "function \"uuid\" is not allowed"),
            ("region = $1", "a placeholder is not allowed"),
            ("region = @@session", ""),
            ("unnest(tags) = 'a'", ""),
        ] {
            match (binds(text), said) {
                (Ok(columns), "") if text.contains("--") => assert_eq!(columns.len(), 1),
                (Err(error), said) => assert!(error.contains(said), "{text}: {error}"),
                (Ok(columns), _) => panic!("{text} binds to {columns:?}"),
            }
        }
    }

    #[test]
    fn binding_records_names_ids_and_types() {
        let id = HashMap::from([(FIELD_ID.to_owned(), "7".to_owned())]);
        let fields = vec![Field::new("region", DataType::Int32, false).with_metadata(id), Field::new("s", DataType::Utf8View, true)];
        let state = Lab::new().namespace("ana").session_state();
        let columns = PolicyBinder::new(&state).bind_new_policy("region = 2 AND s > 'a' OR true", &Schema::new(fields)).unwrap();
        let region = BoundColumn { name: "region".to_owned(), field_id: Some(7), data_type: "Int32".to_owned() };
        assert_eq!(columns, [region, BoundColumn { name: "s".to_owned(), field_id: None, data_type: "Utf8".to_owned() }]);
    }

    #[test]
    fn a_stored_policy_follows_its_column_and_nothing_else() {
        let field = |name: &str, id: &str, data_type| {
            Field::new(name, data_type, true).with_metadata(HashMap::from([(FIELD_ID.to_owned(), id.to_owned())]))
        };
        let state = Lab::new().namespace("ana").session_state();
        let binder = PolicyBinder::new(&state);
        let made = Schema::new(vec![field("region", "1", DataType::Int32), field("x", "2", DataType::Int32)]);
        let policy = |object, columns| RowPolicy {
            id: PolicyId::generate(),
            name: "p".to_owned(),
            object,
            kind: PolicyKind::Permissive,
            command: PolicyCommand::Select,
            to: Vec::new(),
            except: Vec::new(),
            using: Some("region = 2".to_owned()),
            with_check: None,
            columns,
            subqueries: None,
            creator: PrincipalName::local("admin"),
            version: 1,
            comment: None,
        };
        let on_table = policy(ObjectId::Table(TableId::generate()), binder.bind_new_policy("region = 2", &made).unwrap());
        let bound = |policy: &RowPolicy, fields: Vec<Field>| {
            binder
                .bind_stored(policy, PolicyText::Using, &Schema::new(fields))
                .map(|expr| expr.to_string())
                .map_err(|error| error.to_string())
        };
        assert_eq!(
            bound(&on_table, made.fields().iter().map(|f| f.as_ref().clone()).collect()).unwrap(),
            "region = Int64(2)".replace("region", "CAST(region AS Int64)")
        );
        // Renamed, and its old name taken by another column.
        let swapped = vec![field("region", "2", DataType::Int32), field("area", "1", DataType::Int32)];
        assert_eq!(bound(&on_table, swapped).unwrap(), "CAST(area AS Int64) = Int64(2)");
        let dropped = vec![field("region", "3", DataType::Int32)];
        assert!(bound(&on_table, dropped).unwrap_err().contains("column \"region\" is gone"));
        let retyped = vec![field("region", "1", DataType::Int64)];
        assert!(bound(&on_table, retyped).unwrap_err().contains("was Int32 and is Int64"));

        // Without ids: by name and type. On a schema: by name, in whatever type it binds.
        let by_name = policy(ObjectId::Table(TableId::generate()), binder.bind_new_policy("region = 2", &schema()).unwrap());
        assert!(bound(&by_name, vec![Field::new("region", DataType::Int32, true)]).is_ok());
        assert!(bound(&by_name, vec![Field::new("area", DataType::Int32, true)]).is_err());
        let on_schema = policy(ObjectId::Schema(lazaret_auth::SchemaId::generate()), Vec::new());
        assert!(bound(&on_schema, vec![Field::new("region", DataType::Int64, true)]).is_ok());
        assert!(bound(&on_schema, vec![Field::new("id", DataType::Int64, true)]).unwrap_err().contains("no longer binds"));
        // A text with a column that was never recorded.
        let unrecorded = policy(ObjectId::Table(TableId::generate()), Vec::new());
        assert!(bound(&unrecorded, vec![Field::new("region", DataType::Int32, true)]).unwrap_err().contains("no longer binds"));
    }

    /// sqlparser 0.62 takes everything behind IS [NOT] DISTINCT FROM into its right side.
    #[test]
    fn is_distinct_from_binds_closer_than_and_and_or() {
        let state = Lab::new().namespace("ana").session_state();
        let binder = PolicyBinder::new(&state);
        let read = |text: &str| {
            let schema = schema();
            let fields = schema.fields().iter().map(|field| (field.name().as_str(), field.as_ref()));
            binder.plan(text, fields).unwrap().to_string()
        };
        for (text, meant) in [
            ("region IS NOT DISTINCT FROM x OR id = 1", "(region IS NOT DISTINCT FROM x) OR (id = 1)"),
            ("id = 1 AND region IS DISTINCT FROM x OR x = 2", "(id = 1 AND (region IS DISTINCT FROM x)) OR x = 2"),
            ("NOT region IS DISTINCT FROM x AND x = 2", "(NOT (region IS DISTINCT FROM x)) AND (x = 2)"),
            ("region IS NOT DISTINCT FROM x + 1 AND x = 2", "(region IS NOT DISTINCT FROM (x + 1)) AND (x = 2)"),
        ] {
            assert_eq!(read(text), read(meant), "{text}");
        }
    }

    #[test]
    fn not_null_columns_are_not_believed() {
        let state = Lab::new().namespace("ana").session_state();
        let binder = PolicyBinder::new(&state);
        let schema = Schema::new(vec![Field::new("c", DataType::Int32, false)]);
        let expr = binder.plan("c IS NOT NULL", schema.fields().iter().map(|field| (field.name().as_str(), field.as_ref()))).unwrap();
        assert_eq!(binder.simplify(expr, &schema).unwrap().to_string(), "c IS NOT NULL");
    }
}
