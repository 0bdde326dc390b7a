//! Conditions on rows, each in two forms that share no code: SQL for a policy, and a decision of our own about a row.

use crate::READER;
use crate::dice::Dice;
use crate::values::{Rows, Type, Value};

/// Values of `g`, by which policies choose rows; those of the lower half are the ones that policies may show.
pub const GROUPS: i64 = 8;

/// A condition over the columns of one table.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// `column operator value`.
    Compare(String, &'static str, i64),
    In(String, Vec<Option<i64>>),
    /// `column % by < below`.
    Remainder(String, i64, i64),
    IsNull(String),
    Contains(String, &'static str),
    /// About who asks: a text that is true or false of the reader.
    Asker(&'static str, bool),
    /// `CASE WHEN … THEN 100 / (c0 - 5) > value ELSE false END`: fails on rows that the guard does not let through.
    Guarded(Box<Condition>, i64),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
    /// `g IN (SELECT area …)`, over the mapping of who asks.
    MappedIn,
    /// `EXISTS (SELECT 1 … WHERE area = t.g)`.
    MappedExists,
    /// `g = (SELECT max(area) …)`.
    MappedMax,
    /// `NOT EXISTS (SELECT 1 …)`: the areas of somebody else, taken away.
    NotOthers,
}

/// Where a condition's text stands.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The governed table's own name.
    pub table: &'a str,
    /// By which the mapping is named.
    pub mapping: &'a str,
}

impl Condition {
    pub fn asks_other_tables(&self) -> bool {
        match self {
            Self::MappedIn | Self::MappedExists | Self::MappedMax | Self::NotOthers => true,
            Self::And(left, right) | Self::Or(left, right) => left.asks_other_tables() || right.asks_other_tables(),
            Self::Not(inner) | Self::Guarded(inner, _) => inner.asks_other_tables(),
            _ => false,
        }
    }

    pub fn sql(&self, place: Place<'_>) -> String {
        let Place { table, mapping } = place;
        match self {
            Self::Compare(column, operator, value) => format!("{column} {operator} {value}"),
            Self::In(column, values) => {
                let values: Vec<String> = values.iter().map(|it| it.map_or("NULL".to_owned(), |it| it.to_string())).collect();
                format!("{column} IN ({})", values.join(", "))
            }
            Self::Remainder(column, by, below) => format!("{column} % {by} < {below}"),
            Self::IsNull(column) => format!("{column} IS NULL"),
            Self::Contains(column, piece) => format!("{column} LIKE '%{piece}%'"),
            Self::Asker(text, _) => (*text).to_owned(),
            Self::Guarded(guard, value) => format!("CASE WHEN {} THEN 100 / (c0 - 5) > {value} ELSE false END", guard.sql(place)),
            Self::And(left, right) => format!("({}) AND ({})", left.sql(place), right.sql(place)),
            Self::Or(left, right) => format!("({}) OR ({})", left.sql(place), right.sql(place)),
            Self::Not(inner) => format!("NOT ({})", inner.sql(place)),
            Self::MappedIn => format!("g IN (SELECT area FROM {mapping} WHERE who = current_user AND area < {})", GROUPS / 2),
            Self::MappedExists => {
                format!(
                    "EXISTS (SELECT 1 FROM {mapping} AS x WHERE x.who = current_user AND x.area = {table}.g AND x.area < {})",
                    GROUPS / 2
                )
            }
            Self::MappedMax => format!("g = (SELECT max(area) FROM {mapping} WHERE who = current_user AND area < {})", GROUPS / 2),
            Self::NotOthers => format!("NOT EXISTS (SELECT 1 FROM {mapping} AS x WHERE x.who <> current_user AND x.area = {table}.g)"),
        }
    }

    /// The text for somebody else who asks as the reader would, over a table without policies.
    pub fn sql_for_reader(&self) -> String {
        let of = |inner: &Self| inner.sql_for_reader();
        match self {
            Self::Asker(_, answer) => answer.to_string(),
            Self::Guarded(guard, value) => format!("CASE WHEN {} THEN 100 / (c0 - 5) > {value} ELSE false END", of(guard)),
            Self::And(left, right) => format!("({}) AND ({})", of(left), of(right)),
            Self::Or(left, right) => format!("({}) OR ({})", of(left), of(right)),
            Self::Not(inner) => format!("NOT ({})", of(inner)),
            other => other.sql(Place { table: "v", mapping: "m" }),
        }
    }

    /// What it comes to for one row: true, false, or unknown.
    pub fn holds(&self, rows: &Rows, row: &[Value], mapping: &Mapping) -> Option<bool> {
        let number = |column: &str| rows.value(row, column).number();
        let of = |inner: &Self| inner.holds(rows, row, mapping);
        match self {
            Self::Compare(column, operator, value) => {
                let found = number(column)?;
                Some(match *operator {
                    "=" => found == *value,
                    "<>" => found != *value,
                    "<" => found < *value,
                    "<=" => found <= *value,
                    ">" => found > *value,
                    _ => found >= *value,
                })
            }
            Self::In(column, values) => {
                let found = number(column)?;
                if values.contains(&Some(found)) { Some(true) } else { (!values.contains(&None)).then_some(false) }
            }
            Self::Remainder(column, by, below) => Some(number(column)? % by < *below),
            Self::IsNull(column) => Some(*rows.value(row, column) == Value::Null),
            Self::Contains(column, piece) => Some(rows.value(row, column).text()?.contains(piece)),
            Self::Asker(_, answer) => Some(*answer),
            Self::Guarded(guard, value) => match of(guard) {
                Some(true) => number("c0").map(|c0| 100 / (c0 - 5) > *value),
                _ => Some(false),
            },
            Self::And(left, right) => match (of(left), of(right)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(left, right) => match (of(left), of(right)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Self::Not(inner) => of(inner).map(|it| !it),
            Self::MappedIn => {
                let areas = mapping.readers_areas();
                if areas.is_empty() { Some(false) } else { number("g").map(|g| areas.contains(&g)) }
            }
            Self::MappedExists => Some(number("g").is_some_and(|g| mapping.readers_areas().contains(&g))),
            Self::MappedMax => Some(number("g")? == mapping.readers_areas().into_iter().max()?),
            Self::NotOthers => Some(!number("g").is_some_and(|g| mapping.others_areas().contains(&g))),
        }
    }
}

/// Shows some of the groups in the lower half, and nothing else. `guarded`: with a part that fails on other rows.
pub(crate) fn showing(asks: bool, guarded: bool, dice: &mut Dice) -> Condition {
    let half = GROUPS / 2;
    let low = dice.between(0, half - 1);
    let g = || "g".to_owned();
    let below = |value| Condition::Compare(g(), "<", value);
    let both = |left, right| Condition::And(Box::new(left), Box::new(right));
    match dice.below(if asks { 13 } else { 9 }) {
        0 => Condition::Compare(g(), "=", low),
        1 => both(Condition::Compare(g(), ">=", low), Condition::Compare(g(), "<=", half - 1)),
        2 => Condition::In(g(), vec![Some(low), Some(half - 1), None]),
        3 => both(below(half), Condition::Asker("current_user = 'rui'", true)),
        4 => both(below(half), Condition::Asker("claim('sub') IS NOT NULL OR session_user() <> 'ana'", true)),
        5 => Condition::Or(Box::new(Condition::Remainder(g(), GROUPS, half)), Box::new(Condition::Asker("has_role('nobody')", false))),
        6 if guarded => Condition::Guarded(Box::new(below(half)), dice.between(-3, 12)),
        6 => below(half),
        7 => both(below(half), Condition::Asker("NOT is_member('nobodies')", true)),
        8 => both(Condition::Not(Box::new(Condition::IsNull(g()))), Condition::Not(Box::new(Condition::Compare(g(), ">", low)))),
        9 => Condition::MappedIn,
        10 => Condition::MappedExists,
        11 => Condition::MappedMax,
        _ => both(below(half), Condition::NotOthers),
    }
}

/// Takes some rows away. `texts` are the columns that it may look at beside `id` and `g`.
pub(crate) fn hiding(asks: bool, texts: &[&str], dice: &mut Dice) -> Condition {
    let not = |inner| Condition::Not(Box::new(inner));
    let text = texts.first().map(|text| (*text).to_owned());
    match dice.below(if asks { 7 } else { 6 }) {
        0 => not(Condition::Remainder("id".to_owned(), dice.between(2, 5), 1)),
        1 => Condition::Compare("id".to_owned(), "<", dice.between(5, 80)),
        2 => Condition::Compare("g".to_owned(), "<>", dice.between(0, GROUPS - 1)),
        3 => match text {
            Some(text) => Condition::Or(Box::new(Condition::IsNull(text.clone())), Box::new(not(Condition::Contains(text, "7")))),
            None => Condition::Compare("id".to_owned(), ">", 3),
        },
        4 => match text {
            Some(text) => not(Condition::IsNull(text)),
            None => Condition::Asker("current_user IS NOT NULL", true),
        },
        5 => not(Condition::In("id".to_owned(), (0..4).map(|_| Some(dice.between(0, 60))).collect())),
        _ => Condition::NotOthers,
    }
}

/// Which user may see which groups: the table that policies ask.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    pub rows: Rows,
    /// A policy on the mapping itself that binds the creator of the policies: the areas from here on do not count.
    pub hidden_from: Option<i64>,
}

impl Mapping {
    pub(crate) fn random(dice: &mut Dice) -> Self {
        let columns = vec![crate::values::Column::new("who", Type::Text), crate::values::Column::new("area", Type::Int)];
        let mut rows = Vec::new();
        for _ in 0..dice.between(1, 4) {
            rows.push(vec![Value::Text(READER.to_owned()), Value::Number(dice.between(0, GROUPS / 2 - 1))]);
        }
        for _ in 0..dice.between(0, 4) {
            let who = dice.pick(&["ana", "eva"]);
            rows.push(vec![Value::Text((*who).to_owned()), Value::Number(dice.between(0, GROUPS - 1))]);
        }
        rows.push(vec![Value::Null, Value::Number(GROUPS - 1)]);
        rows.push(vec![Value::Text(READER.to_owned()), Value::Null]);
        let hidden_from = dice.percent(25).then(|| dice.between(1, GROUPS - 1));
        Self { rows: Rows { columns, rows }, hidden_from }
    }

    fn areas(&self, of_reader: bool) -> Vec<i64> {
        let of = |row: &&Vec<Value>| row[0].text().is_some_and(|who| (who == READER) == of_reader);
        let counts = |area: &i64| self.hidden_from.is_none_or(|from| *area < from);
        self.rows.rows.iter().filter(of).filter_map(|row| row[1].number()).filter(counts).collect()
    }

    fn readers_areas(&self) -> Vec<i64> {
        self.areas(true).into_iter().filter(|area| *area < GROUPS / 2).collect()
    }

    fn others_areas(&self) -> Vec<i64> {
        self.areas(false)
    }
}
