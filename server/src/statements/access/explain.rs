//! EXPLAIN POLICY: for each table that a query reads, what lets somebody read it and what of it stays hidden.
//!
//! Nothing is opened and nothing is planned: the names in a query, in the views that it reads and in the policies that bind
//! are followed as a planner would, and each table is asked what SHOW EFFECTIVE POLICIES asks. A table that the asker does
//! not see is passed over, with what is behind it; one that the query names itself is then not found.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::TableReference;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast;
use lazaret_auth::grant::{Stance, authorize_read, is_visible};
use lazaret_auth::{Authority, ObjectId, ObjectPath, PolicyKind, Privilege, RowPolicy, TableId};
use lazaret_catalog::governed::{parse, tables_named};
use lazaret_catalog::meta::{Definition, Relation, State};

use super::effective::{About, Kind, Line, is_for_select, is_oneself, lines, manages_object, manages_policies};
use super::show::{quoted, texts};
use super::{named, subjects};
use crate::error::{Error, ErrorKind, Result};
use crate::sql::names::is_reserved_schema;
use crate::sql::statement::ExplainPolicy;
use crate::statements::StatementContext;

/// As deep as views are read inside each other.
const MAX_DEPTH: usize = 16;

/// Tables that are told of: views that join views grow as a power of two.
const MAX_TABLES: usize = 512;

pub fn explain_policy_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        text("table_type"),
        text("table"),
        text("read_by"),
        text("kind"),
        text("name"),
        text("object_type"),
        text("object"),
        text("columns"),
        text("to"),
        text("except"),
        text("using"),
        Field::new("priority", DataType::Int64, true),
        text("effect"),
        text("creator"),
    ]))
}

/// For somebody else it needs MANAGE POLICIES on each table that is told of.
pub fn explain_policy(context: &StatementContext, state: &State, explain: &ExplainPolicy) -> Result<RecordBatch> {
    let asker = context.authority(state);
    let (catalog, schema) = {
        let session = context.session.state.lock();
        (session.catalog.clone(), session.schema.clone())
    };
    let query = DfStatement::Statement(Box::new(ast::Statement::Query(explain.query.ast.clone())));
    let names = references(&query)?;
    let is_own = explain.subject.as_ref().is_none_or(|subject| is_oneself(context, state, &asker, subject));
    let mut walk = Walk { state, asker: &asker, is_own, told: Vec::new(), seen: HashSet::new() };
    let reader = match (&explain.subject, is_own) {
        (Some(subject), false) => {
            // The tables come before the name: who manages no policies learns nothing of who there is.
            let functions = table_functions(&explain.query.ast);
            let tables: Vec<_> = names.iter().filter(|name| !functions.contains(name.table())).collect();
            if tables.is_empty() {
                return walk.answer();
            }
            for name in tables {
                walk.require_named(name, &catalog, &schema)?;
            }
            Authority::of(state, Arc::new(subjects::principal(context, state, subject)?))
        }
        _ => asker.clone(),
    };
    let place = Place { rights: reader.clone(), reader, in_policy: false, catalog, schema, read_by: None, depth: 0 };
    for name in &names {
        walk.reference(name, &place)?;
    }
    walk.answer()
}

fn references(statement: &DfStatement) -> Result<Vec<TableReference>> {
    let (tables, _) = resolve_table_references(statement, true).map_err(|error| Error::invalid(error.strip_backtrace()))?;
    Ok(tables)
}

/// `generate_series(…)` is a name too, and no table's.
fn table_functions(query: &ast::Query) -> HashSet<String> {
    struct Functions(HashSet<String>);
    impl ast::Visitor for Functions {
        type Break = ();
        fn pre_visit_table_factor(&mut self, factor: &ast::TableFactor) -> ControlFlow<()> {
            if let ast::TableFactor::Table { name, args: Some(_), .. } = factor {
                let name = name.0.last().and_then(|part| part.as_ident());
                self.0.extend(name.map(|name| if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }));
            }
            ControlFlow::Continue(())
        }
    }
    let mut functions = Functions(HashSet::new());
    let _ = ast::Visit::visit(query, &mut functions);
    functions.0
}

/// Where a name stands: in the query, in a view, or in a policy.
struct Place {
    rights: Authority,
    reader: Authority,
    /// Its reader is the creator of a policy.
    in_policy: bool,
    catalog: String,
    schema: String,
    read_by: Option<String>,
    depth: usize,
}

struct Told {
    table: (&'static str, String),
    read_by: Option<String>,
    line: Line,
}

struct Walk<'a> {
    state: &'a State,
    asker: &'a Authority,
    is_own: bool,
    told: Vec<Told>,
    /// Table, who reads it, and for what.
    seen: HashSet<(TableId, String, Option<String>)>,
}

impl<'a> Walk<'a> {
    fn find(&self, name: &TableReference, catalog: &str, schema: &str) -> Option<(&'a Arc<Relation>, ObjectPath)> {
        let name = name.clone().resolve(catalog, schema);
        let schema = self.state.schema(self.state.catalog(&name.catalog)?.id, &name.schema)?;
        let relation = self.state.relation(schema.id, &name.table)?;
        let path = ObjectPath::table(schema.catalog, schema.id, relation.id);
        is_visible(self.state, self.asker, path).then_some((relation, path))
    }

    /// A table that the query itself names, when it is explained for somebody else.
    fn require_named(&self, name: &TableReference, catalog: &str, schema: &str) -> Result<()> {
        let shown = name.clone().resolve(catalog, schema);
        if is_reserved_schema(&shown.schema) {
            return Err(Error::invalid(format!("\"{}.{}\" is a table of the server: it has no policies", shown.schema, shown.table)));
        }
        let found = self.find(name, catalog, schema).ok_or_else(|| Error::not_found("table", &shown))?;
        self.require_policies(found.1, &shown)
    }

    fn require_policies(&self, path: ObjectPath, shown: impl std::fmt::Display) -> Result<()> {
        match manages_policies(self.state, self.asker, path) {
            true => Ok(()),
            false => Err(Error::denied(format!("{} on \"{shown}\" is required", Privilege::ManagePolicies))),
        }
    }

    fn reference(&mut self, name: &TableReference, place: &Place) -> Result<()> {
        let Some((relation, path)) = self.find(name, &place.catalog, &place.schema) else { return Ok(()) };
        // What binds the creator of a policy is neither about the one who asks nor about the one who is asked for.
        if place.in_policy && !manages_policies(self.state, self.asker, path) {
            return Ok(());
        }
        if !self.is_own {
            self.require_policies(path, name.clone().resolve(&place.catalog, &place.schema))?;
        }
        if !self.seen.insert((relation.id, place.reader.name().to_string(), place.read_by.clone())) {
            return Ok(());
        }
        if self.seen.len() > MAX_TABLES || place.depth > MAX_DEPTH {
            let text = format!("more than {MAX_DEPTH} views inside each other, or {MAX_TABLES} tables");
            return Err(Error::new(ErrorKind::Exhausted, text));
        }
        let Some((kind, full, _)) = named(self.state, ObjectId::Table(relation.id)) else { return Ok(()) };
        let about = About {
            asker: self.asker,
            rights: &place.rights,
            reader: &place.reader,
            own_rights: self.is_own && place.depth == 0,
            own_reader: self.is_own && !place.in_policy,
        };
        let mut lines: Vec<Line> = lines(self.state, &about, path).into_iter().filter(Line::is_for_select).collect();
        let table = (kind, full.clone());
        let tells_grants = about.own_rights || manages_policies(self.state, self.asker, path);
        if tells_grants && authorize_read(self.state, &place.rights, &place.reader, path).is_err() {
            lines.insert(0, Line { effect: "missing", ..Line::empty(Kind::Grant, table.clone()) });
        }
        let bound = self.bound(&place.reader, path);
        if let Some(bound) = &bound
            && !lines.is_empty()
        {
            lines.push(Line { using: Some(self.filter(bound)), ..Line::empty(Kind::RowFilter, table.clone()) });
        }
        self.told.extend(lines.into_iter().map(|line| Told { table: table.clone(), read_by: place.read_by.clone(), line }));
        if let Definition::View { query, catalog, schema, owner_groups } = &relation.definition {
            let mut owner = Authority::stored(self.state, &relation.owner).bound_by(self.state, owner_groups);
            if relation.owner == *place.reader.name() {
                owner = owner.bound_by(self.state, place.reader.groups());
            }
            let inside = Place {
                rights: owner,
                reader: place.reader.clone(),
                in_policy: place.in_policy,
                catalog: catalog.clone(),
                schema: schema.clone(),
                read_by: Some(format!("VIEW {full}")),
                depth: place.depth + 1,
            };
            if let Ok(query) = parse::query(query) {
                for name in references(&DfStatement::Statement(Box::new(query)))? {
                    self.reference(&name, &inside)?;
                }
            }
        }
        for policy in bound.into_iter().flatten() {
            self.inside_policy(&policy, place)?;
        }
        Ok(())
    }

    /// The tables that a policy asks, for those who may read its text.
    fn inside_policy(&mut self, policy: &RowPolicy, place: &Place) -> Result<()> {
        let (Some(subqueries), Some(text)) = (&policy.subqueries, &policy.using) else { return Ok(()) };
        if !manages_object(self.state, self.asker, policy.object) {
            return Ok(());
        }
        let creator = Authority::stored(self.state, &policy.creator).bound_by(self.state, &subqueries.creator_groups);
        let inside = Place {
            rights: creator.clone(),
            reader: creator,
            in_policy: true,
            catalog: subqueries.catalog.clone(),
            schema: subqueries.schema.clone(),
            read_by: Some(format!("POLICY {}", quoted(&policy.name))),
            depth: place.depth + 1,
        };
        for name in tables_named(text).unwrap_or_default() {
            self.reference(&name, &inside)?;
        }
        Ok(())
    }

    /// The row policies that decide which rows are seen; `None` where row-level security is off.
    fn bound(&self, reader: &Authority, path: ObjectPath) -> Option<Vec<Arc<RowPolicy>>> {
        let told = lazaret_auth::effective::effective(self.state, reader, reader, path);
        let binds = |(policy, stance): &(Arc<RowPolicy>, Stance)| *stance == Stance::Binds && is_for_select(policy);
        told.row_security.then(|| told.policies.into_iter().filter(binds).map(|(policy, _)| policy).collect())
    }

    /// `(a OR b) AND c`: a text where it may be read, else the policy's name.
    fn filter(&self, bound: &[Arc<RowPolicy>]) -> String {
        let text = |policy: &Arc<RowPolicy>| match &policy.using {
            Some(using) if manages_object(self.state, self.asker, policy.object) => format!("({using})"),
            _ => format!("POLICY {}", quoted(&policy.name)),
        };
        let (permissive, restrictive): (Vec<_>, Vec<_>) = bound.iter().partition(|policy| policy.kind == PolicyKind::Permissive);
        let permitted: Vec<String> = permissive.into_iter().map(text).collect();
        let permitted = match (permitted.as_slice(), restrictive.is_empty()) {
            ([], _) => return "false".to_owned(),
            ([one], _) => one.clone(),
            (several, true) => several.join(" OR "),
            (several, false) => format!("({})", several.join(" OR ")),
        };
        let all: Vec<String> = [permitted].into_iter().chain(restrictive.into_iter().map(text)).collect();
        all.join(" AND ")
    }

    fn answer(self) -> Result<RecordBatch> {
        let text = |of: &dyn Fn(&Told) -> Option<String>| texts(self.told.iter().map(of));
        let columns: Vec<ArrayRef> = vec![
            text(&|told| Some(told.table.0.to_owned())),
            text(&|told| Some(told.table.1.clone())),
            text(&|told| told.read_by.clone()),
            text(&|told| Some(told.line.kind.name().to_owned())),
            text(&|told| told.line.name.clone()),
            text(&|told| Some(told.line.on.0.to_owned())),
            text(&|told| Some(told.line.on.1.clone())),
            text(&|told| told.line.columns.clone()),
            text(&|told| told.line.to.clone()),
            text(&|told| told.line.except.clone()),
            text(&|told| told.line.using.clone()),
            Arc::new(self.told.iter().map(|told| told.line.priority).collect::<Int64Array>()),
            text(&|told| Some(told.line.effect.to_owned())),
            text(&|told| told.line.creator.clone()),
        ];
        RecordBatch::try_new(explain_policy_schema(), columns).map_err(Error::internal)
    }
}
