//! Row policies of a world: permissive and restrictive, on a table or on what it lies in, for the reader and for others.

use crate::conditions::{Condition, Mapping, hiding, showing};
use crate::dice::Dice;
use crate::values::{Rows, Type, Value};

/// For whom a policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    All,
    Reader,
    Other,
    AllButReader,
}

impl Audience {
    pub fn binds_reader(self) -> bool {
        matches!(self, Self::All | Self::Reader)
    }

    /// Mostly those that bind.
    pub(crate) fn random(dice: &mut Dice) -> Self {
        *dice.pick(&[Self::All, Self::All, Self::Reader, Self::Reader, Self::Reader, Self::Other, Self::AllButReader])
    }

    pub fn sql(self) -> &'static str {
        match self {
            Self::All => "TO ALL",
            Self::Reader => "TO USER rui",
            Self::Other => "TO USER ana",
            Self::AllButReader => "TO ALL EXCEPT USER rui",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub restrictive: bool,
    pub audience: Audience,
    /// For INSERT instead of SELECT: it shows nothing and hides nothing.
    pub for_insert: bool,
    pub using: Condition,
}

/// One to three permissive policies that bind the reader, up to two restrictive ones, and some that do not bind.
pub(crate) fn random(rows: &Rows, asks: bool, guarded: bool, dice: &mut Dice) -> Vec<Policy> {
    let texts: Vec<&str> = rows.columns.iter().filter(|column| column.kind == Type::Text).map(|column| column.name.as_str()).collect();
    let mut policies = Vec::new();
    for _ in 0..=dice.below(3) {
        let audience = *dice.pick(&[Audience::All, Audience::Reader]);
        policies.push(Policy { restrictive: false, audience, for_insert: false, using: showing(asks, guarded, dice) });
    }
    for _ in 0..dice.below(3) {
        let audience = Audience::random(dice);
        policies.push(Policy { restrictive: true, audience, for_insert: false, using: hiding(asks, &texts, dice) });
    }
    if dice.percent(30) {
        // Everything, to others; and a way to write, which is none to read.
        let using = Condition::Compare("id".to_owned(), ">=", 0);
        let audience = *dice.pick(&[Audience::Other, Audience::AllButReader]);
        policies.push(Policy { restrictive: false, audience, for_insert: false, using: using.clone() });
        policies.push(Policy { restrictive: false, audience: Audience::All, for_insert: true, using });
    }
    policies
}

/// Whether the policies show a row to the reader: one of the permissive ones is true, and all of the restrictive ones.
pub(crate) fn visible<'a>(policies: impl Iterator<Item = &'a Policy> + Clone, rows: &Rows, row: &[Value], mapping: &Mapping) -> bool {
    let binding = policies.filter(|policy| policy.audience.binds_reader() && !policy.for_insert);
    let holds = |policy: &Policy| policy.using.holds(rows, row, mapping) == Some(true);
    binding.clone().filter(|policy| !policy.restrictive).any(holds) && binding.filter(|policy| policy.restrictive).all(holds)
}
