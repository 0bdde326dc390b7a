//! What a driver asks about the catalog, and what it is told: only what the principal may see.

use arrow::datatypes::SchemaRef;

/// A table or view that the asking principal may see.
#[derive(Clone, Debug)]
pub struct CatalogObject {
    pub catalog: String,
    pub schema: String,
    pub name: String,
    /// `TABLE`, `VIEW` or `SYSTEM TABLE`.
    pub table_type: &'static str,
    /// Only the granted columns, where the filter asked for them. `None` also for a table that cannot be opened:
    /// one damaged table must not hide the others.
    pub columns: Option<SchemaRef>,
}

/// Which objects are asked for. Check it before opening a table: opening is what costs.
#[derive(Clone, Debug, Default)]
pub struct ObjectFilter {
    /// A name, not a pattern. `Some("")` is "those without a catalog": here, none.
    pub catalog: Option<String>,
    /// LIKE patterns with `\` as escape.
    pub schema_pattern: Option<String>,
    pub name_pattern: Option<String>,
    /// Empty: all.
    pub table_types: Vec<String>,
    pub with_columns: bool,
}

impl ObjectFilter {
    pub fn matches_catalog(&self, catalog: &str) -> bool {
        self.catalog.as_deref().is_none_or(|wanted| wanted == catalog)
    }

    pub fn matches_schema(&self, schema: &str) -> bool {
        self.schema_pattern.as_deref().is_none_or(|pattern| like(pattern, schema))
    }

    pub fn matches(&self, catalog: &str, schema: &str, name: &str, table_type: &str) -> bool {
        self.matches_catalog(catalog)
            && self.matches_schema(schema)
            && self.name_pattern.as_deref().is_none_or(|pattern| like(pattern, name))
            && (self.table_types.is_empty() || self.table_types.iter().any(|wanted| wanted == table_type))
    }
}

/// SQL's LIKE, case-sensitive: `%` any text, `_` any one character, `\` takes the next character as it is.
pub fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut pos) = (0, 0);
    // Where to go on when a later part does not match: after the last `%`, one character of text further.
    let mut retry: Option<(usize, usize)> = None;
    while pos < text.len() {
        let step = match pattern.get(at) {
            Some('%') => {
                retry = Some((at + 1, pos));
                at += 1;
                continue;
            }
            Some('_') => Some(1),
            Some('\\') if at + 1 < pattern.len() => (pattern[at + 1] == text[pos]).then_some(2),
            Some(literal) => (*literal == text[pos]).then_some(1),
            None => None,
        };
        match (step, retry) {
            (Some(step), _) => {
                at += step;
                pos += 1;
            }
            (None, Some((after, from))) => {
                at = after;
                pos = from + 1;
                retry = Some((after, pos));
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|rest| *rest == '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_is_sqls() {
        for (pattern, text) in [
            ("", ""),
            ("%", ""),
            ("%", "abc"),
            ("a%", "abc"),
            ("%c", "abc"),
            ("a_c", "abc"),
            ("%b%", "abc"),
            ("a%b%c", "axxbyyc"),
            (r"a\_c", "a_c"),
            (r"100\%", "100%"),
            ("%ab", "aab"),
            ("_", "ü"),
            ("a%%", "a"),
            (r"a\", r"a\"),
            (r"\\", r"\"),
        ] {
            assert!(like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a", ""), ("A", "a"), ("a_", "a"), (r"a\_c", "abc"), (r"\%", "x"), ("a%b", "ac"), ("_", "")] {
            assert!(!like(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn an_empty_catalog_is_not_an_absent_one() {
        let all = ObjectFilter::default();
        assert!(all.matches("lake", "omop", "person", "TABLE"));
        let without = ObjectFilter { catalog: Some(String::new()), ..ObjectFilter::default() };
        assert!(!without.matches("lake", "omop", "person", "TABLE"));
        let views = ObjectFilter { table_types: vec!["VIEW".into()], name_pattern: Some("p%".into()), ..ObjectFilter::default() };
        assert!(views.matches("lake", "omop", "person", "VIEW"));
        assert!(!views.matches("lake", "omop", "person", "TABLE"));
    }
}
