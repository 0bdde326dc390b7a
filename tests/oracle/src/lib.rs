//! A generator of worlds: tables, views, row and masking policies, grants, and queries over them, each world from one seed.
//! What a governed query answers in it must be what the same query answers over a copy of the visible rows, masked; who
//! compares is the caller. Which rows are visible, and what they show, is decided here without the engine.
//!
//! Queries are deterministic: every LIMIT stands on a total order, and no sum is of floating point numbers.

mod conditions;
mod dice;
mod expressions;
mod masks;
mod policies;
mod queries;
mod script;
mod shrink;
mod tables;
mod values;

pub use conditions::{Condition, Mapping, Place};
pub use dice::Dice;
pub use masks::{Action, Hash, Mask, Masking};
pub use policies::{Audience, Policy};
pub use queries::{Parameter, Query};
pub use script::{without_values, words};
pub use shrink::Shrinker;
pub use tables::{SECRET, Table};
pub use values::{Column, Rows, Type, Value};

/// The one who asks; the policies of a world may name it.
pub const READER: &str = "rui";

/// Somebody else, under other policies.
pub const OTHER: &str = "ana";

/// On what policies may lie beside tables and views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    Schema,
    Catalog,
}

/// A view over `t`, which the admin owns.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// What stands between SELECT and FROM.
    pub columns: String,
    /// What stands after FROM t.
    pub condition: String,
    pub policies: Vec<Policy>,
}

impl View {
    /// The query of the view, over `t` under another name.
    pub fn over(&self, table: &str) -> String {
        let View { columns, condition, .. } = self;
        format!("SELECT {columns} FROM {table} AS t{condition}")
    }
}

/// Two governed tables, `t` and `u`, maybe an open one, `o`, a view `v` over `t`, and a mapping that only policies read.
#[derive(Clone, Debug)]
pub struct World {
    pub seed: u64,
    pub tables: Vec<Table>,
    pub view: View,
    pub mapping: Mapping,
    /// Policies on the schema or the catalog of the tables, bound by name in each, and in the view.
    pub shared: Option<(Container, Vec<Policy>)>,
    dice: Dice,
}

/// What a world may hold, which depends on where it is tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scene {
    /// Whether hashes can be told in advance.
    pub hashes: bool,
    /// Whether policies may lie on the whole catalog.
    pub catalog: bool,
}

impl World {
    pub fn new(seed: u64, scene: Scene) -> Self {
        let mut dice = Dice::new(seed);
        let container = match dice.below(10) {
            0 | 1 => Some(Container::Schema),
            2 if scene.catalog => Some(Container::Catalog),
            _ => None,
        };
        // What lies in the catalog is covered too, and the mapping has no such columns.
        let asks = container != Some(Container::Catalog);
        let mut tables: Vec<Table> = ["t", "u"].into_iter().map(|name| Table::random(name, false, &mut dice)).collect();
        for table in &mut tables {
            table.policies = policies::random(&table.rows, asks, true, &mut dice);
            if dice.percent(50) {
                table.masks = masks::random(&table.rows, scene.hashes, &mut dice);
            }
            if dice.percent(35) {
                table.close_some(&mut dice);
            }
        }
        let shared = container.map(|container| {
            let columns = [("id", Type::BigInt), ("g", Type::Int)].map(|(name, kind)| Column::new(name, kind)).to_vec();
            (container, policies::random(&Rows { columns, rows: Vec::new() }, false, false, &mut dice))
        });
        if shared.is_none() && dice.percent(60) {
            tables.push(Table::random("o", true, &mut dice));
        }
        let view = queries::view(&tables, shared.is_some(), &mut dice);
        Self { seed, tables, view, mapping: Mapping::random(&mut dice), shared, dice }
    }

    /// The next query over `t`, `u`, `o` and `v`.
    pub fn query(&mut self) -> Query {
        queries::random(&self.tables, &mut self.dice)
    }

    /// The policies that lie on what holds the tables.
    pub fn shared_policies(&self) -> &[Policy] {
        self.shared.as_ref().map_or(&[], |(_, policies)| policies)
    }

    /// The policies that bind who reads the view.
    pub fn view_policies(&self) -> impl Iterator<Item = &Policy> + Clone {
        self.view.policies.iter().chain(self.shared_policies())
    }

    /// The rows of these that the reader may see, as they are.
    pub fn visible(&self, table: &Table, rows: &[Vec<Value>]) -> Rows {
        let policies = table.policies.iter().chain(self.shared_policies());
        let visible = |row: &&Vec<Value>| self.is_open(table) || policies::visible(policies.clone(), &table.rows, row, &self.mapping);
        Rows { columns: table.rows.columns.clone(), rows: rows.iter().filter(visible).cloned().collect() }
    }

    /// Whether no policy is about its rows.
    pub fn is_open(&self, table: &Table) -> bool {
        table.policies.is_empty() && self.shared.is_none()
    }

    /// What the reader may see of some rows of a table, masked, and with the columns that are not the reader's too: the view
    /// reads those with its owner's rights.
    pub fn copy(&self, table: &Table, rows: &[Vec<Value>], hash: Hash<'_>) -> Rows {
        let masked = |row: &Vec<Value>| {
            let cells = table.rows.columns.iter().zip(row).map(|(column, value)| {
                let binding = table.masks.iter().filter(|mask| mask.column == column.name && mask.audience.binds_reader());
                let mask = binding.max_by_key(|mask| mask.priority);
                mask.map_or_else(|| value.clone(), |mask| mask.masked(&table.rows, row, &self.mapping, hash))
            });
            cells.collect()
        };
        let visible = self.visible(table, rows);
        Rows { rows: visible.rows.iter().map(masked).collect(), ..visible }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const EVERYTHING: Scene = Scene { hashes: true, catalog: true };

    #[test]
    fn a_seed_is_a_world() {
        let queries = |seed| {
            let mut world = World::new(seed, EVERYTHING);
            (0..20).map(|_| world.query()).collect::<Vec<_>>()
        };
        assert_eq!(queries(7), queries(7));
        assert_ne!(queries(7), queries(8));
        let batch = || World::new(7, EVERYTHING).tables[0].rows.batch(0..5);
        assert_eq!(batch(), batch());
    }

    #[test]
    fn no_secret_is_ever_visible() {
        for seed in 0..300 {
            let world = World::new(seed, EVERYTHING);
            for table in &world.tables {
                let copy = world.copy(table, &table.rows.rows, &|_, _, _| [7; 32]);
                assert!(!format!("{copy:?}").contains(SECRET), "seed {seed}: {}", table.name);
            }
        }
    }

    #[test]
    fn every_kind_of_query_and_policy_comes_up() {
        let mut all = String::new();
        for seed in 1..=400 {
            let mut world = World::new(seed, EVERYTHING);
            all.push_str(&format!("{:?}", world.setup()));
            for _ in 0..50 {
                let query = world.query();
                all.push_str(&format!("{}\n{}\n", query.text, if query.parameters.is_empty() { "" } else { "with parameters" }));
            }
        }
        for part in [
            "LEFT JOIN",
            "FULL JOIN",
            "CROSS JOIN",
            "LEFT SEMI JOIN",
            "LEFT ANTI JOIN",
            "LATERAL",
            "EXISTS (SELECT",
            "NOT IN (SELECT",
            "FROM (VALUES",
            "OVER (PARTITION BY",
            "ROWS BETWEEN",
            "UNION ALL",
            "INTERSECT",
            "EXCEPT",
            "WITH q",
            "WITH t AS (SELECT * FROM t",
            "WITH RECURSIVE",
            "LIMIT",
            "OFFSET",
            "DISTINCT",
            "DISTINCT ON",
            "GROUPING SETS",
            "ROLLUP",
            "HAVING",
            "FILTER (WHERE",
            "CASE WHEN",
            "CAST(",
            "TRY_CAST(",
            " / ",
            " % ",
            "string_agg(",
            "FROM v ",
            "FROM o ",
            "with parameters",
            "AS RESTRICTIVE",
            "ON SCHEMA",
            "ON CATALOG",
            "ON VIEW",
            "EXCEPT USER rui",
            "FOR INSERT",
            "MASKING POLICY",
            "ACTION sha256_query_local",
            "ACTION show_last_4",
            "PRIORITY",
            "DENY SELECT (",
            "GRANT SELECT (",
            "NOT EXISTS",
            "WHERE who = current_user",
            "TO USER admin USING (area",
        ] {
            assert!(all.contains(part), "{part}");
        }
    }
}
