//! Which tables and views a statement names, whether they are there or not: the audit must know what was asked for.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{self, TableFactor, Visit, Visitor};

use super::names::ObjectName;
use super::statement::{ObjectRef, Query, Show, ShowGrants, Statement};

impl Statement {
    /// Full names; the session's catalog and schema fill in what is left out. Names of `WITH` are none.
    pub fn relations(&self, catalog: &str, schema: &str) -> BTreeSet<String> {
        let mut found = Relations { catalog, schema, names: BTreeSet::new() };
        if let Some(query) = self.query() {
            found.query(query);
        }
        match self {
            Self::CreateExternalTable(create) => found.name(&create.name),
            Self::CreateTableAs(create) => found.name(&create.name),
            Self::Insert(insert) => found.name(&insert.table),
            Self::CreateView(create) => {
                found.name(&create.name);
                found.query(&create.query);
            }
            Self::Drop { name, .. } | Self::Describe { name } | Self::RowLevelSecurity { name, .. } | Self::SetOwner { name, .. } => {
                found.name(name);
            }
            Self::Show(Show::Columns(name) | Show::CreateTable(name) | Show::MaskingPolicies(Some(name))) => found.name(name),
            Self::Show(Show::Grants(Some(ShowGrants::On(on))) | Show::Policies(Some(on))) => found.object(on),
            Self::Grant(grant) => found.object(&grant.on),
            Self::Revoke(revoke) => found.object(&revoke.on),
            Self::CreatePolicy(create) => found.object(&create.on),
            Self::DropPolicy { on, .. } => found.object(on),
            Self::CreateMaskingPolicy(create) => found.name(&create.on),
            Self::DropMaskingPolicy { on, .. } => found.name(on),
            Self::ExplainPolicy(explain) => found.query(&explain.query),
            Self::Show(Show::EffectivePolicies { on, .. }) => found.object(on),
            Self::SetEmergencyAccess(set) => set.on.iter().flatten().for_each(|name| found.name(name)),
            Self::Query(_)
            | Self::Explain(_)
            | Self::ExecuteAs(_)
            | Self::CreateSchema { .. }
            | Self::DropSchema { .. }
            | Self::Show(_)
            | Self::Use { .. }
            | Self::Set { .. }
            | Self::Reset { .. }
            | Self::SetRole(_)
            | Self::CreateToken { .. }
            | Self::DropToken { .. }
            | Self::EndEmergencyAccess { .. }
            | Self::Kill { .. }
            | Self::CreateUser { .. }
            | Self::AlterUser { .. }
            | Self::DropUser { .. }
            | Self::CreateRole { .. }
            | Self::DropRole { .. }
            | Self::GrantRole { .. }
            | Self::RevokeRole { .. } => {}
        }
        found.names
    }
}

struct Relations<'a> {
    catalog: &'a str,
    schema: &'a str,
    names: BTreeSet<String>,
}

impl Relations<'_> {
    fn name(&mut self, name: &ObjectName) {
        // A name of too many parts is refused where it is used.
        self.names.extend(name.as_relation(self.catalog, self.schema).ok().map(|path| path.to_string()));
    }

    fn object(&mut self, object: &ObjectRef) {
        if let ObjectRef::Relation(_, name) = object {
            self.name(name);
        }
    }

    fn query(&mut self, query: &Query) {
        let mut functions = TableFunctions::default();
        let _ = query.ast.visit(&mut functions);
        let statement = DfStatement::Statement(Box::new(ast::Statement::Query(query.ast.clone())));
        // It fails on names of too many parts only, which are refused where they are used.
        let Ok((tables, _)) = resolve_table_references(&statement, true) else { return };
        for table in tables.into_iter().filter(|table| !functions.is_one(table)) {
            let full = table.resolve(self.catalog, self.schema);
            self.names.insert(format!("{}.{}.{}", full.catalog, full.schema, full.table));
        }
    }
}

/// `generate_series(1, 10)` is no table.
#[derive(Default)]
struct TableFunctions(BTreeSet<String>);

impl TableFunctions {
    fn is_one(&self, table: &TableReference) -> bool {
        matches!(table, TableReference::Bare { table } if self.0.contains(table.as_ref()))
    }
}

impl Visitor for TableFunctions {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: Some(_), .. } = factor {
            self.0.insert(name.to_string().to_lowercase());
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::sql::parse;

    #[test]
    fn a_statement_names_what_it_asks_for() {
        for (text, expected) in [
            ("SELECT * FROM a JOIN s.b USING (id) WHERE id IN (SELECT id FROM c.s.d)", "c.s.d k.p.a k.s.b"),
            ("WITH a AS (SELECT * FROM \"A\") SELECT * FROM a, generate_series(1, 2)", "k.p.A"),
            ("EXPLAIN SELECT (SELECT max(x) FROM b) FROM a", "k.p.a k.p.b"),
            ("CREATE TABLE t AS SELECT * FROM a", "k.p.a k.p.t"),
            ("CREATE VIEW v AS SELECT * FROM a UNION SELECT * FROM b", "k.p.a k.p.b k.p.v"),
            ("DROP TABLE IF EXISTS s.t", "k.s.t"),
            ("DESCRIBE t", "k.p.t"),
            ("GRANT SELECT ON TABLE t TO USER u", "k.p.t"),
            ("REVOKE SELECT ON SCHEMA s FROM USER u", ""),
            ("CREATE POLICY p ON TABLE t TO ALL USING (true)", "k.p.t"),
            ("SHOW GRANTS ON s.t", "k.s.t"),
            ("ALTER TABLE t OWNER TO u", "k.p.t"),
            ("EXECUTE AS USER u SELECT * FROM s.t", "k.s.t"),
            ("EXPLAIN POLICY SELECT * FROM t", "k.p.t"),
            ("SELECT 1", ""),
        ] {
            let names = parse(text, 10_000).unwrap().relations("k", "p");
            assert_eq!(names.into_iter().collect::<Vec<_>>().join(" "), expected, "{text}");
        }
    }
}
