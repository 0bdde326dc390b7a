//! Rows as text: aligned columns, or one column below the other.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// In bold red nothing would stand out; NULL is dim, so that it is not taken for the text `NULL`.
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// A value; `None` is NULL.
pub type Cell = Option<String>;

/// How tables look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// NULL is dimmed.
    pub has_color: bool,
    /// The widest that a column is printed; 0: as wide as its widest value.
    pub max_width: usize,
}

/// Aligned columns, printed page by page: a page is as wide as its own values and those before it want.
pub struct Grid {
    look: Look,
    names: Vec<String>,
    /// Numbers stand at the right.
    is_number: Vec<bool>,
    widths: Vec<usize>,
    has_header: bool,
}

impl Grid {
    pub fn new(columns: impl IntoIterator<Item = (String, bool)>, look: Look) -> Self {
        let (names, is_number): (Vec<_>, Vec<_>) =
            columns.into_iter().map(|(name, is_number)| (printable(&name, false), is_number)).unzip();
        let mut grid = Self { look, widths: vec![0; names.len()], names, is_number, has_header: false };
        for (index, name) in grid.names.clone().iter().enumerate() {
            grid.widen(index, name.width());
        }
        grid
    }

    fn widen(&mut self, column: usize, width: usize) {
        let width = if self.look.max_width > 0 { width.min(self.look.max_width) } else { width };
        self.widths[column] = self.widths[column].max(width);
    }

    /// The next page; the first has the header, also where it has no rows.
    pub fn page(&mut self, rows: &[Vec<Cell>]) -> String {
        let rows: Vec<Vec<Cell>> =
            rows.iter().map(|row| row.iter().map(|cell| cell.as_ref().map(|text| printable(text, false))).collect()).collect();
        for row in &rows {
            for (column, cell) in row.iter().enumerate() {
                self.widen(column, cell.as_deref().unwrap_or("NULL").width());
            }
        }
        let mut out = String::new();
        if !self.has_header {
            self.has_header = true;
            let names: Vec<String> =
                self.names.iter().zip(&self.widths).map(|(name, width)| format!(" {} ", centered(name, *width))).collect();
            out.push_str(names.join("|").trim_end());
            out.push('\n');
            let lines: Vec<String> = self.widths.iter().map(|width| "-".repeat(width + 2)).collect();
            out.push_str(&lines.join("+"));
            out.push('\n');
        }
        for row in &rows {
            let cells: Vec<String> = row.iter().enumerate().map(|(column, cell)| format!(" {} ", self.cell(column, cell))).collect();
            out.push_str(cells.join("|").trim_end());
            out.push('\n');
        }
        out
    }

    fn cell(&self, column: usize, cell: &Cell) -> String {
        let text = truncated(cell.as_deref().unwrap_or("NULL"), self.widths[column]);
        let spaces = " ".repeat(self.widths[column].saturating_sub(text.width()));
        let text = match cell {
            None if self.look.has_color => format!("{DIM}{text}{PLAIN}"),
            _ => text,
        };
        if self.is_number[column] { format!("{spaces}{text}") } else { format!("{text}{spaces}") }
    }
}

/// One row, a column a line.
pub fn record(number: usize, names: &[String], row: &[Cell], look: Look) -> String {
    let names: Vec<String> = names.iter().map(|name| printable(name, false)).collect();
    let width = names.iter().map(|name| name.width()).max().unwrap_or(0);
    let mut out = format!("-[ RECORD {number} ]\n");
    for (name, cell) in names.iter().zip(row) {
        let spaces = " ".repeat(width - name.width());
        let text = match cell {
            Some(text) => printable(text, false),
            None if look.has_color => format!("{DIM}NULL{PLAIN}"),
            None => "NULL".to_owned(),
        };
        out.push_str(format!("{name}{spaces} | {text}").trim_end());
        out.push('\n');
    }
    out
}

/// A line of CSV (RFC 4180, but with `\n`). NULL is nothing, an empty text is `""`.
pub fn csv_line<'a>(cells: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let quoted = |text: &str| {
        if text.is_empty() || text.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_owned()
        }
    };
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.map(quoted).unwrap_or_default()).collect();
    format!("{}\n", cells.join(","))
}

/// Without characters that a terminal would obey: data must not move the cursor or set its title.
pub fn printable(text: &str, keeps_lines: bool) -> String {
    if !text.contains(|c: char| c.is_control()) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' if keeps_lines => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// At most `width` columns of the terminal, with `…` where something is left out.
fn truncated(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

fn centered(text: &str, width: usize) -> String {
    let text = truncated(text, width);
    let spaces = width.saturating_sub(text.width());
    format!("{}{text}{}", " ".repeat(spaces / 2), " ".repeat(spaces - spaces / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(texts: &[Option<&str>]) -> Vec<Cell> {
        texts.iter().map(|text| text.map(str::to_owned)).collect()
    }

    #[test]
    fn columns_are_aligned() {
        let mut grid = Grid::new([("id".to_owned(), true), ("name".to_owned(), false)], Look::default());
        let page = grid.page(&[cells(&[Some("1"), Some("Ana")]), cells(&[Some("1000"), None]), cells(&[None, Some("日本")])]);
        assert_eq!(page, "  id  | name\n------+------\n    1 | Ana\n 1000 | NULL\n NULL | 日本\n");
        assert_eq!(grid.page(&[cells(&[Some("2"), Some("x")])]), "    2 | x\n");
    }

    #[test]
    fn an_empty_result_has_its_header() {
        assert_eq!(Grid::new([("a".to_owned(), false)], Look::default()).page(&[]), " a\n---\n");
    }

    #[test]
    fn wide_values_are_cut_and_null_is_dim() {
        let mut grid = Grid::new([("a".to_owned(), false)], Look { has_color: true, max_width: 5 });
        assert_eq!(grid.page(&[cells(&[Some("123456789")]), cells(&[None])]), "   a\n-------\n 1234…\n \u{1b}[2mNULL\u{1b}[0m\n");
        assert_eq!(truncated("日本語", 5), "日本…");
    }

    #[test]
    fn data_cannot_talk_to_the_terminal() {
        assert_eq!(printable("a\u{1b}]0;x\u{7}b\nc", false), "a\\u{1b}]0;x\\u{7}b\\nc");
        let page = Grid::new([("\u{1b}[2J".to_owned(), false)], Look::default()).page(&[cells(&[Some("\u{1b}[2J")])]);
        assert!(!page.contains('\u{1b}'));
    }

    #[test]
    fn records_stand_one_below_the_other() {
        let text = record(2, &["id".to_owned(), "name".to_owned()], &cells(&[Some("1"), None]), Look::default());
        assert_eq!(text, "-[ RECORD 2 ]\nid   | 1\nname | NULL\n");
    }

    #[test]
    fn csv_tells_null_from_empty() {
        assert_eq!(csv_line([Some("a,b"), None, Some(""), Some("say \"x\"\n"), Some("1")]), "\"a,b\",,\"\",\"say \"\"x\"\"\n\",1\n");
    }
}
