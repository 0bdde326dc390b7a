//! Queries of every shape that the planner has a rule for.

use crate::dice::Dice;
use crate::expressions::{END, MARK, Maker, Named, Scope};
use crate::tables::Table;
use crate::values::Type;
use crate::{View, policies};

/// Deep enough for conjuncts inside conditions inside functions.
const DEPTH: usize = 3;

/// A value that is bound to `$1`, `$2`, ….
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    Number(i64),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub text: String,
    pub parameters: Vec<Parameter>,
}

/// A query and its columns, named `r0`, `r1`, ….
struct Part {
    text: String,
    kinds: Vec<Type>,
}

/// The view `v`: columns of `t` under their names, maybe filtered, maybe with one that is computed. Under a policy it computes
/// nothing: what a view computes is computed before its own policies hide rows.
pub(crate) fn view(tables: &[Table], governed: bool, dice: &mut Dice) -> View {
    let Some(table) = tables.first() else { return View { columns: "1".to_owned(), condition: String::new(), policies: Vec::new() } };
    let scope = Scope::named(&table.rows.columns, "t");
    let mut columns: Vec<String> = table.rows.columns.iter().map(|column| column.name.clone()).collect();
    let policies = match dice.percent(30) {
        true => policies::random(&crate::Rows { columns: table.rows.columns[..2].to_vec(), rows: Vec::new() }, false, false, dice),
        false => Vec::new(),
    };
    if governed || !policies.is_empty() {
        return View { columns: columns.join(", "), condition: String::new(), policies };
    }
    let condition = match dice.below(3) {
        0 => String::new(),
        1 => " WHERE c0 > 5".to_owned(),
        _ => format!(" WHERE {}", Maker { scope: &scope, tables, dice, subqueries: false }.boolean(1)),
    };
    if dice.percent(30) {
        columns[2] = "100 / (c0 - 5) AS c0".to_owned();
    }
    View { columns: columns.join(", "), condition: plain_text(&condition), policies }
}

pub(crate) fn random(tables: &[Table], dice: &mut Dice) -> Query {
    let text = match dice.below(24) {
        0..3 => set_operation(tables, dice),
        3..5 => with(tables, dice),
        5 => recursive(tables, dice),
        6 => counted(tables, dice),
        7 => distinct_on(tables, dice),
        8 => closed(tables, dice),
        9 | 10 => {
            // A name that the query gives to something else than its table.
            let name = dice.pick(tables).name;
            let inner = tables.iter().find(|table| table.name == name).map(|table| Scope::of(table, "i")).unwrap_or_default();
            let condition = Maker { scope: &inner, tables, dice, subqueries: false }.boolean(1);
            format!("WITH {name} AS (SELECT * FROM {name} AS i WHERE {condition}) {}", select(tables, dice).text)
        }
        _ => select(tables, dice).text,
    };
    bound(&text, dice)
}

/// Some of the marked literals become parameters, the others what they are.
fn bound(text: &str, dice: &mut Dice) -> Query {
    if !dice.percent(20) {
        return Query { text: plain_text(text), parameters: Vec::new() };
    }
    let mut parts = text.split(MARK);
    let mut bound = parts.next().unwrap_or_default().to_owned();
    let mut parameters = Vec::new();
    for part in parts {
        let (literal, rest) = part.split_once(END).unwrap_or((part, ""));
        let parameter = match literal.strip_prefix('\'') {
            Some(text) => Some(Parameter::Text(text.trim_end_matches('\'').to_owned())),
            None => literal.parse().ok().map(Parameter::Number),
        };
        match parameter {
            Some(parameter) if dice.percent(60) && parameters.len() < 9 => {
                let kind = if matches!(parameter, Parameter::Text(_)) { "VARCHAR" } else { "BIGINT" };
                parameters.push(parameter);
                bound.push_str(&format!("CAST(${} AS {kind})", parameters.len()));
            }
            _ => bound.push_str(literal),
        }
        bound.push_str(rest);
    }
    Query { text: bound, parameters }
}

fn plain_text(text: &str) -> String {
    text.replace([MARK, END], "")
}

fn set_operation(tables: &[Table], dice: &mut Dice) -> String {
    let first = ordered_select(tables, dice, None);
    let mut both = format!("SELECT * FROM ({}) x", first.text);
    for name in ["y", "z"] {
        let other = ordered_select(tables, dice, Some(&first.kinds));
        let operator = *dice.pick(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT"]);
        both = format!("{both} {operator} SELECT * FROM ({}) {name}", other.text);
        if dice.percent(70) {
            break;
        }
    }
    if dice.percent(30) {
        let order: Vec<String> = (1..=first.kinds.len()).map(|place| place.to_string()).collect();
        return format!("{both} ORDER BY {} LIMIT {}", order.join(", "), dice.between(0, 20));
    }
    both
}

fn with(tables: &[Table], dice: &mut Dice) -> String {
    let inner = ordered_select(tables, dice, None);
    let columns = inner.kinds.iter().enumerate().map(|(index, kind)| Named { text: format!("q.r{index}"), kind: *kind }).collect();
    let scope = Scope { columns, keys: Vec::new() };
    let mut maker = Maker { scope: &scope, tables, dice, subqueries: true };
    let (condition, value) = (maker.boolean(DEPTH - 1), maker.ordered(2).1);
    match dice.below(4) {
        0 => format!("WITH q AS ({}) SELECT count(*), max({value}) FROM q WHERE {condition}", inner.text),
        1 => format!("WITH q AS ({}) SELECT {value} FROM q WHERE {condition}", inner.text),
        2 => format!("WITH q AS ({}) SELECT count(*) FROM q JOIN q AS q2 ON q.r0 = q2.r0 WHERE {condition}", inner.text),
        _ => format!("WITH q AS ({}) SELECT q.r0, count(*) FROM q JOIN t ON t.id = q.r0 WHERE {condition} GROUP BY q.r0", inner.text),
    }
}

/// From one row on, as far as rows that are there lead.
fn recursive(tables: &[Table], dice: &mut Dice) -> String {
    let (first, next) = (dice.pick(tables), dice.pick(tables));
    let scope = Scope::of(first, "a");
    let condition = Maker { scope: &scope, tables, dice, subqueries: false }.boolean(1);
    let step = dice.between(1, 3);
    let last = dice.between(5, 40);
    let start = format!("SELECT min(a.id) AS i FROM {} AS a WHERE {condition}", first.name);
    let follow = format!("SELECT q.i + {step} FROM q JOIN {} AS b ON b.id = q.i + {step} WHERE q.i < {last}", next.name);
    format!("WITH RECURSIVE q AS ({start} UNION ALL {follow}) SELECT count(*), max(i) FROM q")
}

/// How many rows there are up to a number of them: which ones does not matter.
fn counted(tables: &[Table], dice: &mut Dice) -> String {
    let table = dice.pick(tables).name;
    let offset = if dice.percent(40) { format!(" OFFSET {}", dice.between(0, 30)) } else { String::new() };
    match dice.below(3) {
        0 => format!("SELECT count(*) FROM (SELECT a.id FROM {table} AS a LIMIT {}{offset}) AS q", dice.between(0, 60)),
        1 => format!("SELECT count(*) FROM {table}"),
        _ => format!(
            "SELECT count(*), count(q.c0) > 0 FROM (SELECT a.id AS c0 FROM {table} AS a WHERE a.id > 3 LIMIT {}) AS q",
            dice.between(1, 20)
        ),
    }
}

fn distinct_on(tables: &[Table], dice: &mut Dice) -> String {
    let table = dice.pick(tables);
    let scope = Scope::of(table, "a");
    let key = scope.group();
    let mut maker = Maker { scope: &scope, tables, dice, subqueries: false };
    let (value, condition) = (maker.ordered(2).1, maker.boolean(2));
    let order = if key == "a.id" { key.clone() } else { format!("{key}, a.id DESC") };
    format!("SELECT DISTINCT ON ({key}) {key}, a.id, {value} AS r0 FROM {} AS a WHERE {condition} ORDER BY {order}", table.name)
}

/// A column that may not be the reader's to name.
fn closed(tables: &[Table], dice: &mut Dice) -> String {
    let table = dice.pick(tables);
    let column = &dice.pick(&table.rows.columns).name;
    match dice.below(4) {
        0 => format!("SELECT a.{column} FROM {} AS a ORDER BY a.id", table.name),
        1 => format!("SELECT a.id FROM {} AS a WHERE a.{column} IS NULL", table.name),
        2 => format!("SELECT a.id FROM {} AS a ORDER BY a.{column} IS NULL, a.id LIMIT 3", table.name),
        _ => format!("SELECT * FROM {} AS a ORDER BY a.id", table.name),
    }
}

/// A query all of whose columns can be sorted; with `kinds`, of just these types. The first is an integer.
fn ordered_select(tables: &[Table], dice: &mut Dice, kinds: Option<&[Type]>) -> Part {
    let kinds = match kinds {
        Some(kinds) => kinds.to_vec(),
        None => {
            let others = (0..dice.between(0, 2)).map(|_| *dice.pick(&[Type::BigInt, Type::Text, Type::Bool]));
            [Type::BigInt].into_iter().chain(others).collect()
        }
    };
    let (from, scope) = from(tables, dice);
    let mut maker = Maker { scope: &scope, tables, dice, subqueries: true };
    // One type on both sides of a set operation, whatever integers it is made of.
    let columns: Vec<String> = kinds
        .iter()
        .enumerate()
        .map(|(index, kind)| match kind {
            Type::BigInt => format!("CAST({} AS BIGINT) AS r{index}", maker.of(*kind, 2)),
            _ => format!("{} AS r{index}", maker.of(*kind, 2)),
        })
        .collect();
    let condition = maker.boolean(DEPTH - 1);
    Part { text: format!("SELECT {} FROM {from} WHERE {condition}", columns.join(", ")), kinds }
}

fn select(tables: &[Table], dice: &mut Dice) -> Part {
    let (from, scope) = from(tables, dice);
    let condition = match dice.percent(75) {
        true => format!(" WHERE {}", Maker { scope: &scope, tables, dice, subqueries: true }.boolean(DEPTH)),
        false => String::new(),
    };
    match dice.below(11) {
        0..4 => plain(&from, &condition, &scope, tables, dice),
        4 => distinct(&from, &condition, &scope, tables, dice),
        5..8 => grouped(&from, &condition, &scope, tables, dice),
        8 => totals(&from, &condition, &scope, tables, dice),
        _ => windowed(&from, &condition, &scope, tables, dice),
    }
}

/// One to three tables, joined.
fn from(tables: &[Table], dice: &mut Dice) -> (String, Scope) {
    let (mut text, mut scope) = source(tables, "a", dice);
    for alias in ["b", "c"] {
        if !dice.percent(if alias == "b" { 45 } else { 20 }) {
            break;
        }
        let (other, columns) = source(tables, alias, dice);
        let both = scope.clone().and(columns.clone());
        let kind = *dice.pick(&[
            "JOIN",
            "JOIN",
            "LEFT JOIN",
            "RIGHT JOIN",
            "FULL JOIN",
            "CROSS JOIN",
            "LEFT SEMI JOIN",
            "LEFT ANTI JOIN",
            "LATERAL",
        ]);
        match kind {
            "CROSS JOIN" => text = format!("{text} CROSS JOIN (SELECT * FROM {other} WHERE {alias}.id < 4) AS {alias}"),
            "LATERAL" => {
                let table = dice.pick(tables);
                let inner = Scope::of(table, "s");
                let value = Maker { scope: &inner, tables, dice, subqueries: false }.integer(1);
                let (outer, group) = (scope.group(), inner.group());
                text = format!(
                    "{text} CROSS JOIN LATERAL (SELECT max({value}) AS m FROM {} AS s WHERE {group} = {outer}) AS {alias}",
                    table.name
                );
                scope.columns.push(Named { text: format!("{alias}.m"), kind: Type::BigInt });
                continue;
            }
            _ => {
                let (left, right) = match dice.percent(50) {
                    true => (scope.keys[0].clone(), columns.keys[0].clone()),
                    false => (scope.group(), columns.group()),
                };
                let rest = match dice.percent(40) {
                    true => format!(" AND {}", Maker { scope: &both, tables, dice, subqueries: false }.boolean(1)),
                    false => String::new(),
                };
                text = format!("{text} {kind} {other} ON {left} = {right}{rest}");
                if kind.contains("SEMI") || kind.contains("ANTI") {
                    continue;
                }
            }
        }
        scope = both;
    }
    (text, scope)
}

fn source(tables: &[Table], alias: &'static str, dice: &mut Dice) -> (String, Scope) {
    let table = dice.pick(tables);
    let scope = Scope::of(table, alias);
    match dice.below(10) {
        // The view shows what its owner may read.
        0 if table.name == "t" => (format!("v AS {alias}"), Scope::named(&table.rows.columns, alias)),
        1 => {
            let inner = Scope::of(table, "i");
            let condition = Maker { scope: &inner, tables, dice, subqueries: false }.boolean(1);
            (format!("(SELECT * FROM {} AS i WHERE {condition}) AS {alias}", table.name), scope)
        }
        2 => {
            let (way, rows) = (direction(dice), dice.between(1, 30));
            (format!("(SELECT * FROM {} AS i ORDER BY i.id {way} LIMIT {rows}) AS {alias}", table.name), scope)
        }
        _ => (format!("{} AS {alias}", table.name), scope),
    }
}

fn direction(dice: &mut Dice) -> &'static str {
    const EVERY: [&str; 4] = ["ASC", "DESC", "ASC NULLS FIRST", "DESC NULLS LAST"];
    EVERY[dice.below(EVERY.len())]
}

fn plain(from: &str, condition: &str, scope: &Scope, tables: &[Table], dice: &mut Dice) -> Part {
    let mut kinds = Vec::new();
    let mut columns = Vec::new();
    let subqueries = dice.percent(15);
    for index in 0..dice.between(1, 3) {
        let (kind, text) = match dice.percent(25) {
            true => {
                let column = dice.pick(&scope.columns);
                (column.kind, column.text.clone())
            }
            false => Maker { scope, tables, dice, subqueries }.ordered(DEPTH),
        };
        columns.push(format!("{text} AS r{index}"));
        kinds.push(kind);
    }
    let mut text = format!("SELECT {} FROM {from}{condition}", columns.join(", "));
    if dice.percent(45) {
        let mut order = Vec::new();
        if dice.percent(70) {
            let (_, value) = Maker { scope, tables, dice, subqueries: false }.ordered(2);
            // A bare literal would be a place.
            order.push(format!("coalesce({value}, NULL) {}", direction(dice)));
        }
        order.extend(scope.keys.iter().map(|key| format!("{key} {}", direction(dice))));
        text = format!("{text} ORDER BY {}", order.join(", "));
        if dice.percent(80) {
            text = format!("{text} LIMIT {}", dice.between(0, 12));
        }
        if dice.percent(30) {
            text = format!("{text} OFFSET {}", dice.between(0, 9));
        }
    }
    Part { text, kinds }
}

fn distinct(from: &str, condition: &str, scope: &Scope, tables: &[Table], dice: &mut Dice) -> Part {
    let mut maker = Maker { scope, tables, dice, subqueries: false };
    let (first, second) = (maker.ordered(2), maker.ordered(1));
    let text = format!("SELECT DISTINCT {} AS r0, {} AS r1 FROM {from}{condition}", first.1, second.1);
    let text = if dice.percent(40) { format!("{text} ORDER BY 1, 2 LIMIT {}", dice.between(1, 9)) } else { text };
    Part { text, kinds: vec![first.0, second.0] }
}

fn aggregate(scope: &Scope, tables: &[Table], dice: &mut Dice) -> (Type, String) {
    let keys = scope.keys.join(", ");
    let mut maker = Maker { scope, tables, dice, subqueries: false };
    match maker.dice.below(10) {
        0 => (Type::BigInt, "count(*)".to_owned()),
        1 => (Type::BigInt, format!("count({})", maker.ordered(2).1)),
        2 => (Type::BigInt, format!("count(DISTINCT {})", maker.ordered(1).1)),
        // No sum of what may hold extremes: whether that overflows depends on the order.
        3 => (Type::BigInt, format!("sum(CAST({} % 1000 AS BIGINT))", maker.integer(1))),
        4 => {
            let (kind, value) = maker.ordered(2);
            (kind, format!("min({value})"))
        }
        5 => {
            let (kind, value) = maker.ordered(2);
            (kind, format!("max({value})"))
        }
        6 => (Type::Bool, format!("bool_or({})", maker.boolean(1))),
        7 => (Type::BigInt, format!("count(*) FILTER (WHERE {})", maker.boolean(2))),
        8 => {
            let (kind, value) = maker.ordered(1);
            (kind, format!("max({value}) FILTER (WHERE {})", maker.boolean(1)))
        }
        _ => (Type::Text, format!("string_agg({}, ',' ORDER BY {keys})", maker.text(1))),
    }
}

fn grouped(from: &str, condition: &str, scope: &Scope, tables: &[Table], dice: &mut Dice) -> Part {
    // Of columns: the planner takes a literal for constant, which in a grouping set it is not.
    let columns: Vec<&Named> = scope.columns.iter().filter(|column| column.kind.is_ordered()).collect();
    let key = |dice: &mut Dice| {
        let Named { text, kind } = *dice.pick(&columns);
        match kind.is_integer() && dice.percent(40) {
            true => (Type::BigInt, format!("{text} {} 3", dice.pick(&["%", "/", "+"]))),
            false => (*kind, text.clone()),
        }
    };
    let first = key(dice);
    // Another one: the planner takes two names of one column for equal, which in a grouping set they are not.
    let others: Vec<_> = std::iter::repeat_with(|| key(dice)).take(8).collect();
    let second = others.into_iter().find(|other| *other != first).unwrap_or_else(|| (first.0, format!("nullif({}, NULL)", first.1)));
    let value = aggregate(scope, tables, dice);
    let having = match dice.percent(30) {
        true => format!(" HAVING {} IS NOT NULL", aggregate(scope, tables, dice).1),
        false => String::new(),
    };
    // Names of columns, so that no expression is taken for a place.
    let inner = format!("SELECT *, {} AS k0, {} AS k1 FROM {from}{condition}", first.1, second.1);
    let by_name = dice.percent(50) && !from.contains("JOIN") && !value.1.contains("ORDER BY");
    let (source, k0, k1) = match by_name {
        true => (format!("({}) AS a", inner.replacen("SELECT *", "SELECT a.*", 1)), "a.k0".to_owned(), "a.k1".to_owned()),
        false => (format!("{from}{condition}"), format!("coalesce({}, NULL)", first.1), format!("coalesce({}, NULL)", second.1)),
    };
    let by = match dice.below(5) {
        0 => format!("GROUPING SETS (({k0}, {k1}), ({k0}), ())"),
        1 => format!("ROLLUP ({k0}, {k1})"),
        2 => format!("CUBE ({k0}, {k1})"),
        _ => format!("{k0}, {k1}"),
    };
    let mut text = format!("SELECT {k0} AS r0, {k1} AS r1, {} AS r2 FROM {source} GROUP BY {by}{having}", value.1);
    if dice.percent(35) {
        text = format!("{text} ORDER BY 1 {}, 2, 3 LIMIT {}", direction(dice), dice.between(1, 8));
    }
    Part { text, kinds: vec![first.0, second.0, value.0] }
}

fn totals(from: &str, condition: &str, scope: &Scope, tables: &[Table], dice: &mut Dice) -> Part {
    let values: Vec<(Type, String)> = (0..dice.between(1, 3)).map(|_| aggregate(scope, tables, dice)).collect();
    let columns: Vec<String> = values.iter().enumerate().map(|(index, (_, text))| format!("{text} AS r{index}")).collect();
    Part {
        text: format!("SELECT {} FROM {from}{condition}", columns.join(", ")),
        kinds: values.into_iter().map(|(kind, _)| kind).collect(),
    }
}

fn windowed(from: &str, condition: &str, scope: &Scope, tables: &[Table], dice: &mut Dice) -> Part {
    let keys = scope.keys.join(", ");
    let mut maker = Maker { scope, tables, dice, subqueries: false };
    let (partition, order) = (maker.ordered(1).1, maker.ordered(1).1);
    let (kind, call) = match maker.dice.below(9) {
        0 => (Type::BigInt, "row_number()".to_owned()),
        1 => (Type::BigInt, "dense_rank()".to_owned()),
        2 => {
            let (kind, value) = maker.ordered(1);
            (kind, format!("lag({value})"))
        }
        3 => {
            let (kind, value) = maker.ordered(1);
            (kind, format!("first_value({value})"))
        }
        4 => (Type::BigInt, "count(*)".to_owned()),
        5 => (Type::BigInt, "ntile(3)".to_owned()),
        6 => {
            let (kind, value) = maker.ordered(1);
            (kind, format!("lead({value}, 2)"))
        }
        7 => {
            let (kind, value) = maker.ordered(1);
            (kind, format!("max({value})"))
        }
        _ => (Type::BigInt, format!("sum(CAST({} % 1000 AS BIGINT))", maker.integer(1))),
    };
    let frame = match call.as_str() {
        "count(*)" => " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
        call if call.starts_with("sum") || call.starts_with("first_value") => {
            *maker.dice.pick(&["", " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING", " ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING"])
        }
        _ => "",
    };
    let window = format!("OVER (PARTITION BY {partition} ORDER BY {order}, {keys}{frame})");
    let text = format!("SELECT {keys}, {call} {window} AS w FROM {from}{condition}");
    let text = match maker.dice.percent(35) {
        true => format!("SELECT count(*), min(w) FROM ({}) AS q", text.replacen(&format!("SELECT {keys}, "), "SELECT ", 1)),
        false => text,
    };
    Part { text, kinds: vec![kind] }
}
