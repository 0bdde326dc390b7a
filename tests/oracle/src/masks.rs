//! Masks of columns, each in two forms that share no code: SQL for a masking policy, and what becomes of a value.

use chrono::{DateTime, Datelike, NaiveDate, TimeDelta};

use crate::conditions::{Condition, Mapping, Place, showing};
use crate::dice::Dice;
use crate::policies::Audience;
use crate::values::{Column, Rows, Type, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Null,
    Alphanum,
    ShowFirst,
    ShowLast,
    Month,
    Year,
    QueryHash,
    GlobalHash,
}

impl Action {
    pub fn sql(self) -> &'static str {
        match self {
            Self::Null => "replace_with_null",
            Self::Alphanum => "mask_alphanum",
            Self::ShowFirst => "show_first_4",
            Self::ShowLast => "show_last_4",
            Self::Month => "truncate_to_month",
            Self::Year => "truncate_to_year",
            Self::QueryHash => "sha256_query_local",
            Self::GlobalHash => "sha256_global",
        }
    }
}

/// What a column's values become.
#[derive(Clone, Debug, PartialEq)]
pub enum Masking {
    Action(Action),
    /// `'masked'` or 7.
    Constant,
    /// `CASE WHEN condition THEN column END`.
    Only(Condition),
    /// `upper(substr(column, 1, 2))`.
    Initials,
    /// `column / 10 * 10`.
    Rounded,
    /// `100 / (column - 5)`: fails on the hidden rows of `c0`.
    Reciprocal,
    /// Another text column.
    Another(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    pub column: String,
    pub audience: Audience,
    pub priority: i64,
    pub masking: Masking,
}

/// HMAC-SHA256 under the key of the server or of the query, of a value of a kind.
pub type Hash<'a> = &'a dyn Fn(Action, u8, &[u8]) -> [u8; 32];

/// Masks of some columns, never of `id`, by which rows are told apart.
pub(crate) fn random(rows: &Rows, hashes: bool, dice: &mut Dice) -> Vec<Mask> {
    let mut masks = Vec::new();
    for column in rows.columns.iter().skip(1) {
        if !dice.percent(if column.name == "g" { 10 } else { 30 }) {
            continue;
        }
        // Of several the one of the highest priority that binds.
        let priorities = if dice.percent(25) { vec![3, -2] } else { vec![0] };
        for priority in priorities {
            let masking = masking(column, rows, hashes, dice);
            masks.push(Mask { column: column.name.clone(), audience: Audience::random(dice), priority, masking });
        }
    }
    masks
}

fn masking(column: &Column, rows: &Rows, hashes: bool, dice: &mut Dice) -> Masking {
    let mut fitting = vec![Masking::Action(Action::Null), Masking::Only(showing(false, true, dice))];
    let text_actions = [Action::Alphanum, Action::ShowFirst, Action::ShowLast].map(Masking::Action);
    match column.kind {
        Type::Text => {
            fitting.extend(text_actions);
            fitting.extend([Masking::Constant, Masking::Initials]);
            let others = rows.columns.iter().filter(|other| other.kind == Type::Text && other.name != column.name);
            fitting.extend(others.map(|other| Masking::Another(other.name.clone())));
        }
        Type::List => fitting.extend(text_actions),
        Type::Date | Type::Timestamp => fitting.extend([Masking::Action(Action::Month), Masking::Action(Action::Year)]),
        kind if kind.is_integer() => {
            fitting.extend([Masking::Constant, Masking::Rounded]);
            if column.name == "c0" {
                fitting.extend([Masking::Reciprocal, Masking::Reciprocal]);
            }
        }
        _ => {}
    }
    if hashes && matches!(column.kind, Type::Text | Type::BigInt | Type::List) {
        fitting.extend([Masking::Action(Action::QueryHash), Masking::Action(Action::GlobalHash)]);
    }
    dice.pick(&fitting).clone()
}

impl Mask {
    /// What stands after USING.
    pub fn sql(&self, rows: &Rows, place: Place<'_>) -> String {
        match &self.masking {
            Masking::Action(action) => format!("ACTION {}", action.sql()),
            other => format!("({})", expression(other, &self.column, rows, place)),
        }
    }

    pub(crate) fn masked(&self, rows: &Rows, row: &[Value], mapping: &Mapping, hash: Hash<'_>) -> Value {
        let value = rows.value(row, &self.column);
        let kind = rows.kind(&self.column).unwrap_or(Type::Text);
        if *value == Value::Null {
            return Value::Null;
        }
        match &self.masking {
            Masking::Action(action) => acted(*action, value, kind, hash),
            Masking::Constant if kind == Type::Text => Value::Text("masked".to_owned()),
            Masking::Constant => Value::Number(7),
            Masking::Only(condition) if condition.holds(rows, row, mapping) == Some(true) => value.clone(),
            Masking::Only(_) => Value::Null,
            Masking::Initials => Value::Text(value.text().unwrap_or_default().chars().take(2).collect::<String>().to_uppercase()),
            Masking::Rounded => Value::Number(value.number().unwrap_or_default() / 10 * 10),
            Masking::Reciprocal => Value::Number(100 / (value.number().unwrap_or_default() - 5)),
            Masking::Another(other) => rows.value(row, other).clone(),
        }
    }
}

/// The text of a mask that is an expression.
fn expression(masking: &Masking, column: &str, rows: &Rows, place: Place<'_>) -> String {
    let kind = rows.kind(column).unwrap_or(Type::Text);
    let cast = |text: String| format!("CAST({text} AS {})", kind.sql().unwrap_or("VARCHAR"));
    match masking {
        Masking::Action(_) => "NULL".to_owned(),
        Masking::Constant if kind == Type::Text => "'masked'".to_owned(),
        Masking::Constant => "7".to_owned(),
        Masking::Only(condition) => format!("CASE WHEN {} THEN {column} END", condition.sql(place)),
        Masking::Initials => format!("upper(substr({column}, 1, 2))"),
        Masking::Rounded => cast(format!("{column} / 10 * 10")),
        Masking::Reciprocal => cast(format!("100 / ({column} - 5)")),
        Masking::Another(other) => other.clone(),
    }
}

fn acted(action: Action, value: &Value, kind: Type, hash: Hash<'_>) -> Value {
    match value {
        _ if action == Action::Null => Value::Null,
        Value::List(items) => Value::List(items.iter().map(|item| acted(action, item, Type::Text, hash)).collect()),
        Value::Text(text) => Value::Text(match action {
            Action::Alphanum => redacted(text, 0, 0),
            Action::ShowFirst => redacted(text, shown(text.chars().rev()), 0),
            Action::ShowLast => redacted(text, 0, shown(text.chars())),
            _ => hash(action, 0, text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect(),
        }),
        Value::Number(number) => Value::Number(match (action, kind) {
            (Action::Month | Action::Year, Type::Date) => first_day(action, *number),
            (Action::Month | Action::Year, _) => first_day(action, number.div_euclid(86_400_000_000)) * 86_400_000_000,
            _ => {
                let hash = hash(action, 2, &i128::from(*number).to_le_bytes());
                let head = hash[..8].iter().fold(0_u64, |head, byte| head << 8 | u64::from(*byte));
                (head / 2) as i64
            }
        }),
        other => other.clone(),
    }
}

/// How many characters to show at the far end of these: four, or as many as are no more than those that stay hidden.
fn shown(chars: impl DoubleEndedIterator<Item = char>) -> usize {
    let chars: Vec<char> = chars.collect();
    let hidden = |shown: usize| chars[..chars.len() - shown].iter().filter(|char| !"(),.-@".contains(**char)).count();
    (1..=chars.len().min(4)).rev().find(|shown| hidden(*shown) >= *shown).unwrap_or(0)
}

/// With so many characters shown at the start and at the end.
fn redacted(text: &str, first: usize, last: usize) -> String {
    let length = text.chars().count();
    let mask = |(index, char): (usize, char)| match char {
        char if index < first || index + last >= length => char,
        '0'..='9' => 'n',
        '(' | ')' | ',' | '.' | '-' | '@' => char,
        _ => 'x',
    };
    text.chars().enumerate().map(mask).collect()
}

fn first_day(action: Action, day: i64) -> i64 {
    let Some(date) = DateTime::UNIX_EPOCH.date_naive().checked_add_signed(TimeDelta::days(day)) else { return day };
    let month = if action == Action::Year { 1 } else { date.month() };
    let first = NaiveDate::from_ymd_opt(date.year(), month, 1);
    first.map_or(day, |first| first.signed_duration_since(DateTime::UNIX_EPOCH.date_naive()).num_days())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_what_the_documentation_says() {
        let hash: Hash<'_> = &|_, _, _| [0; 32];
        let text = |action, text: &str| acted(action, &Value::Text(text.to_owned()), Type::Text, hash);
        let is = |text: &str| Value::Text(text.to_owned());
        assert_eq!(text(Action::Alphanum, "+1 (415) a@b.org"), is("xnx(nnn)xx@x.xxx"));
        assert_eq!(text(Action::ShowFirst, "12345678"), is("1234nnnn"));
        assert_eq!(text(Action::ShowLast, "12345678"), is("nnnn5678"));
        assert_eq!(text(Action::ShowFirst, "12345"), is("12nnn"));
        assert_eq!(text(Action::ShowLast, "7"), is("n"));
        let day = |action, day| acted(action, &Value::Number(day), Type::Date, hash);
        assert_eq!(
            (day(Action::Month, 31), day(Action::Year, 400), day(Action::Year, -1)),
            (Value::Number(31), Value::Number(365), Value::Number(-365))
        );
    }
}
