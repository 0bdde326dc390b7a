//! Expressions of a type over the columns in scope, many of which fail on some rows.

use crate::dice::Dice;
use crate::tables::Table;
use crate::values::{Column, Type};

/// A column that a query can name.
#[derive(Clone, Debug)]
pub struct Named {
    pub text: String,
    pub kind: Type,
}

/// What an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub columns: Vec<Named>,
    /// Together they tell each row from every other.
    pub keys: Vec<String>,
}

impl Scope {
    /// The columns of a table that the reader sees, under an alias.
    pub fn of(table: &Table, alias: &str) -> Self {
        Self::named(&table.open_columns(), alias)
    }

    pub fn named(columns: &[Column], alias: &str) -> Self {
        let columns = columns.iter().map(|Column { name, kind }| Named { text: format!("{alias}.{name}"), kind: *kind }).collect();
        Self { columns, keys: vec![format!("{alias}.id")] }
    }

    /// The groups, by which tables are joined; where they are not the reader's, the rows themselves.
    pub fn group(&self) -> String {
        let group = self.columns.iter().find(|column| column.text.ends_with(".g"));
        group.map_or_else(|| self.keys[0].clone(), |column| column.text.clone())
    }

    pub fn and(mut self, other: Self) -> Self {
        self.columns.extend(other.columns);
        self.keys.extend(other.keys);
        self
    }

    fn column(&self, fits: impl Fn(Type) -> bool, dice: &mut Dice) -> Option<String> {
        let columns: Vec<&Named> = self.columns.iter().filter(|column| fits(column.kind)).collect();
        (!columns.is_empty()).then(|| dice.pick(&columns).text.clone())
    }
}

/// A literal that may become a parameter: the query decides.
pub(crate) const MARK: char = '\u{1}';
pub(crate) const END: char = '\u{2}';

fn marked(literal: &str) -> String {
    format!("{MARK}{literal}{END}")
}

/// Makes expressions for one place of a query.
pub struct Maker<'a> {
    pub scope: &'a Scope,
    pub tables: &'a [Table],
    pub dice: &'a mut Dice,
    /// Off inside subqueries, so that they end.
    pub subqueries: bool,
}

impl Maker<'_> {
    /// One of the types that can be compared, and an expression of it.
    pub fn ordered(&mut self, depth: usize) -> (Type, String) {
        let kind = *self.dice.pick(&[Type::BigInt, Type::BigInt, Type::Text, Type::Text, Type::Bool, Type::Date, Type::Decimal]);
        (kind, self.of(kind, depth))
    }

    pub fn of(&mut self, kind: Type, depth: usize) -> String {
        match kind {
            Type::BigInt | Type::Int | Type::SmallInt => self.integer(depth),
            Type::Text => self.text(depth),
            Type::Bool => self.boolean(depth),
            Type::Date => self.date(depth),
            Type::Timestamp => self.timestamp(),
            Type::Decimal => self.decimal(depth),
            Type::Double => self.column(|kind| kind == Type::Double).unwrap_or_else(|| "CAST(1.5 AS DOUBLE)".to_owned()),
            Type::List => self.column(|kind| kind == Type::List).unwrap_or_else(|| "['7', 'n3']".to_owned()),
            Type::Struct => self.column(|kind| kind == Type::Struct).unwrap_or_else(|| "{'a': 1, 'b': 'x'}".to_owned()),
        }
    }

    fn column(&mut self, fits: impl Fn(Type) -> bool) -> Option<String> {
        self.scope.column(fits, self.dice)
    }

    pub fn integer(&mut self, depth: usize) -> String {
        if depth == 0 || self.dice.percent(35) {
            let literal = *self.dice.pick(&[-3i64, 0, 1, 2, 3, 5, 7, 20, 100]);
            return match self.column(Type::is_integer) {
                Some(column) if self.dice.percent(75) => column,
                _ => marked(&literal.to_string()),
            };
        }
        let depth = depth - 1;
        match self.dice.below(16) {
            0 => format!("({} + {})", self.integer(depth), self.integer(depth)),
            1 => format!("({} - {})", self.integer(depth), self.integer(depth)),
            2 => format!("({} / {})", self.integer(depth), self.integer(depth)),
            3 => format!("(100 / ({} - 5))", self.integer(depth)),
            4 => format!("({} % {})", self.integer(depth), self.integer(depth)),
            5 => format!("CAST({} AS BIGINT)", self.text(depth)),
            6 => format!("CAST({} AS SMALLINT)", self.integer(depth)),
            7 => format!("character_length({})", self.text(depth)),
            8 => format!("CASE WHEN {} THEN {} ELSE {} END", self.boolean(depth), self.integer(depth), self.integer(depth)),
            9 => format!("coalesce({}, {})", self.integer(depth), self.integer(depth)),
            10 => format!("nullif({}, {})", self.integer(depth), self.integer(depth)),
            11 => format!("CAST(date_part('day', {}) AS BIGINT)", self.date(depth)),
            12 => format!("TRY_CAST({} AS INT)", self.text(depth)),
            13 => format!("CAST({} AS BIGINT)", self.decimal(depth)),
            14 => match self.column(|kind| kind == Type::List) {
                Some(list) => format!("CAST(array_length({list}) AS BIGINT)"),
                None => format!("abs({})", self.integer(depth)),
            },
            _ => match self.column(|kind| kind == Type::Struct) {
                Some(column) => format!("(10 / {column}['a'])"),
                None => self.scalar_subquery(),
            },
        }
    }

    fn scalar_subquery(&mut self) -> String {
        if !self.subqueries {
            return "4".to_owned();
        }
        let (table, inner) = self.inner_table();
        let outer = self.column(Type::is_integer).unwrap_or_else(|| "1".to_owned());
        let value = Maker { scope: &inner, tables: self.tables, dice: self.dice, subqueries: false }.integer(1);
        format!("(SELECT max({value}) FROM {table} AS s WHERE {} = {outer})", inner.group())
    }

    pub fn text(&mut self, depth: usize) -> String {
        if depth == 0 || self.dice.percent(45) {
            let literal = *self.dice.pick(&["", "7", "n3", "12", "secret1", "z"]);
            return match self.column(|kind| kind == Type::Text) {
                Some(column) if self.dice.percent(80) => column,
                _ => marked(&format!("'{literal}'")),
            };
        }
        let depth = depth - 1;
        match self.dice.below(8) {
            0 => format!("upper({})", self.text(depth)),
            1 => format!("substr({}, 1, {})", self.text(depth), self.dice.between(1, 4)),
            2 => format!("concat({}, {})", self.text(depth), self.text(depth)),
            3 => format!("CAST({} AS VARCHAR)", self.integer(depth)),
            4 => format!("coalesce({}, {})", self.text(depth), self.text(depth)),
            5 => format!("CASE WHEN {} THEN {} END", self.boolean(depth), self.text(depth)),
            6 => match self.column(|kind| kind == Type::List) {
                Some(list) => format!("{list}[{}]", self.dice.between(1, 3)),
                None => format!("lower({})", self.text(depth)),
            },
            _ => match self.column(|kind| kind == Type::Struct) {
                Some(column) => format!("{column}['b']"),
                None => format!("replace({}, '1', 'one')", self.text(depth)),
            },
        }
    }

    pub fn boolean(&mut self, depth: usize) -> String {
        if depth == 0 || self.dice.percent(20) {
            return match self.column(|kind| kind == Type::Bool) {
                Some(column) if self.dice.percent(60) => column,
                _ => format!("({} > {})", self.integer(0), self.dice.between(0, 30)),
            };
        }
        let depth = depth - 1;
        match self.dice.below(17) {
            0 | 1 => format!("({} AND {})", self.boolean(depth), self.boolean(depth)),
            2 => format!("({} OR {})", self.boolean(depth), self.boolean(depth)),
            3 => format!("(NOT {})", self.boolean(depth)),
            4 | 5 => {
                let operator = *self.dice.pick(&["=", "<>", "<", "<=", ">", ">="]);
                let (kind, left) = self.ordered(depth);
                format!("({left} {operator} {})", self.of(kind, depth))
            }
            6 => format!("({} IS NULL)", self.ordered(depth).1),
            7 => format!("({} BETWEEN {} AND {})", self.integer(depth), self.integer(depth), self.integer(depth)),
            8 => format!("({} IN ({}, {}, 7))", self.integer(depth), self.integer(depth), self.integer(0)),
            9 => format!("({} LIKE '{}')", self.text(depth), *self.dice.pick(&["%", "secret%", "1%", "_", "%7"])),
            10 => format!("({} IS DISTINCT FROM {})", self.text(depth), self.text(depth)),
            11 | 12 => self.exists(),
            13 => self.in_subquery(),
            14 => format!("({} IN (SELECT column1 FROM (VALUES ({}), (7))))", self.integer(0), self.dice.between(0, 20)),
            15 => format!("({} < CAST({} AS DATE))", self.date(0), self.text(depth)),
            _ => format!("(({} > {}) = ({} < 5))", self.integer(depth), self.integer(depth), self.integer(depth)),
        }
    }

    fn exists(&mut self) -> String {
        if !self.subqueries {
            return format!("({} <> 5)", self.integer(0));
        }
        let (table, inner) = self.inner_table();
        let outer = self.column(Type::is_integer).unwrap_or_else(|| "1".to_owned());
        let not = if self.dice.percent(40) { "NOT " } else { "" };
        let condition = Maker { scope: &inner, tables: self.tables, dice: self.dice, subqueries: false }.boolean(1);
        format!("({not}EXISTS (SELECT 1 FROM {table} AS s WHERE {} = {outer} AND {condition}))", inner.group())
    }

    fn in_subquery(&mut self) -> String {
        if !self.subqueries {
            return format!("({} = 7)", self.integer(0));
        }
        let (table, inner) = self.inner_table();
        let not = if self.dice.percent(40) { "NOT " } else { "" };
        let outer = self.column(Type::is_integer).unwrap_or_else(|| "1".to_owned());
        let mut maker = Maker { scope: &inner, tables: self.tables, dice: self.dice, subqueries: false };
        let (value, condition) = (maker.integer(1), maker.boolean(1));
        format!("({outer} {not}IN (SELECT {value} FROM {table} AS s WHERE {condition}))")
    }

    fn inner_table(&mut self) -> (&'static str, Scope) {
        let table = self.dice.pick(self.tables);
        (table.name, Scope::of(table, "s"))
    }

    fn date(&mut self, depth: usize) -> String {
        if depth > 0 && self.dice.percent(15) {
            return format!("CAST({} AS DATE)", self.text(depth - 1));
        }
        match self.column(|kind| kind == Type::Date) {
            Some(column) if self.dice.percent(70) => column,
            _ => "DATE '2020-01-15'".to_owned(),
        }
    }

    fn timestamp(&mut self) -> String {
        self.column(|kind| kind == Type::Timestamp).unwrap_or_else(|| "TIMESTAMP '2020-09-13 12:00:00'".to_owned())
    }

    fn decimal(&mut self, depth: usize) -> String {
        if depth > 0 && self.dice.percent(40) {
            return match self.dice.below(3) {
                0 => format!("CAST({} AS DECIMAL(4, 2))", self.integer(depth - 1)),
                1 => format!("({} + {})", self.decimal(depth - 1), self.decimal(0)),
                _ => format!("({} / {})", self.decimal(0), self.decimal(0)),
            };
        }
        match self.column(|kind| kind == Type::Decimal) {
            Some(column) if self.dice.percent(75) => column,
            _ => "CAST(1.5 AS DECIMAL(10, 2))".to_owned(),
        }
    }
}
