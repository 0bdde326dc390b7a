//! Tables whose hidden rows hold everything that makes an expression fail.

use crate::conditions::GROUPS;
use crate::dice::Dice;
use crate::masks::Mask;
use crate::policies::Policy;
use crate::values::{Column, Rows, Type, Value};

/// Microseconds of the first and the last day that a timestamp of Delta may have; nanoseconds reach neither.
const FIRST_YEAR: i64 = -62_135_596_800_000_000;
const LAST_YEAR: i64 = 253_402_214_400_000_000;

/// What every text of a hidden row contains; it must be in no answer, and in no error.
pub const SECRET: &str = "secret__";

/// `id` (unique), `g` (by which policies choose), and some columns more.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: &'static str,
    pub rows: Rows,
    pub policies: Vec<Policy>,
    pub masks: Vec<Mask>,
    /// Columns that the reader may not read.
    pub closed: Vec<String>,
    /// Whether they are denied, or all the others granted one by one.
    pub denied: bool,
}

impl Table {
    /// With `open`, a table without a policy: no row of it is a trap that is hidden.
    pub(crate) fn random(name: &'static str, open: bool, dice: &mut Dice) -> Self {
        let others: Vec<Type> = (0..dice.between(3, 6)).map(|_| *dice.pick(&Type::EVERY)).collect();
        let columns: Vec<Column> = [("id", Type::BigInt), ("g", Type::Int), ("c0", Type::Int), ("c1", Type::Text)]
            .map(|(name, kind)| Column::new(name, kind))
            .into_iter()
            .chain(others.into_iter().enumerate().map(|(index, kind)| Column::new(&format!("c{}", index + 2), kind)))
            .collect();
        // Visible rows hold traps too, now and then: their errors are compared. `c0` and `c1` never do: what fails on them has
        // seen a hidden row.
        let fails_in_sight: Vec<bool> = (0..columns.len()).map(|index| index > 3 && dice.percent(25)).collect();
        let rows = (0..dice.between(12, if open { 30 } else { 60 })).map(|id| row(id, &columns, &fails_in_sight, open, dice)).collect();
        Self { name, rows: Rows { columns, rows }, policies: Vec::new(), masks: Vec::new(), closed: Vec::new(), denied: false }
    }

    /// Columns other than `id`, which tells rows apart.
    pub(crate) fn close_some(&mut self, dice: &mut Dice) {
        let closable = self.rows.columns.iter().skip(1).filter(|_| dice.percent(25)).map(|column| column.name.clone());
        self.closed = closable.collect();
        self.denied = dice.percent(50);
    }

    /// The columns that the reader sees.
    pub fn open_columns(&self) -> Vec<Column> {
        self.rows.columns.iter().filter(|column| !self.closed.contains(&column.name)).cloned().collect()
    }
}

fn row(id: i64, columns: &[Column], fails_in_sight: &[bool], open: bool, dice: &mut Dice) -> Vec<Value> {
    let group = (!dice.percent(5)).then(|| dice.between(0, GROUPS - 1));
    let likely_hidden = !open && group.is_none_or(|group| group >= GROUPS / 2);
    let mut values = vec![Value::Number(id), group.map_or(Value::Null, Value::Number)];
    for (column, fails) in columns.iter().zip(fails_in_sight).skip(2) {
        let trap = if likely_hidden { dice.percent(70) } else { *fails && dice.percent(8) };
        values.push(match dice.percent(10) {
            true => Value::Null,
            false => cell(column.kind, trap, likely_hidden.then_some(id), dice),
        });
    }
    values
}

/// The traps are what fails: 0 and 5 where something is divided by `x` or `x - 5`, extremes, texts that are no numbers,
/// empty lists.
fn cell(kind: Type, trap: bool, hidden: Option<i64>, dice: &mut Dice) -> Value {
    let pick = dice.below(64);
    let number = |traps: &[i64], low: i64, high: i64, dice: &mut Dice| match trap {
        true => Value::Number(traps[pick % traps.len()]),
        false => Value::Number(dice.between(low, high)),
    };
    let text = |dice: &mut Dice| {
        Value::Text(match (trap, hidden) {
            (true, Some(id)) => format!("{SECRET}{id}"),
            (true, None) => ["", "n3", "-", "1e400"][pick % 4].to_owned(),
            (false, _) => dice.between(0, 39).to_string(),
        })
    };
    match kind {
        Type::BigInt => number(&[0, 5, i64::MAX, i64::MIN], 6, 200, dice),
        Type::Int => number(&[0, 5, 5, i32::MAX as i64, i32::MIN as i64], 6, 60, dice),
        Type::SmallInt => number(&[0, 5, i16::MAX as i64, i16::MIN as i64], 6, 30, dice),
        Type::Text => text(dice),
        Type::Bool => Value::Bool(!trap && dice.percent(50)),
        Type::Date => number(&[-700_000, 2_900_000], 18_000, 18_400, dice),
        Type::Timestamp => match number(&[FIRST_YEAR, LAST_YEAR], 1_600_000_000, 1_600_999_999, dice) {
            Value::Number(seconds) if !trap => Value::Number(seconds * 1_000_000),
            other => other,
        },
        Type::Decimal => number(&[0, 9_999_999_999, -9_999_999_999], 100, 99_900, dice),
        Type::Double => Value::Double(match trap {
            true => [f64::NAN, f64::INFINITY, -0.0, f64::MIN_POSITIVE][pick % 4],
            false => dice.between(1, 400) as f64 / 2.0,
        }),
        Type::List if trap && pick.is_multiple_of(2) => Value::List(Vec::new()),
        Type::List => Value::List(vec![if dice.percent(10) { Value::Null } else { text(dice) }, Value::Text("7".to_owned())]),
        Type::Struct => {
            let a = number(&[0, 5], 6, 60, dice);
            let null = dice.percent(5);
            Value::Struct(Box::new([a, if null { Value::Null } else { text(dice) }]))
        }
    }
}
