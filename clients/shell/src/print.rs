//! Results on standard output, in pages: a result of millions of rows is never held.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Schema};
use arrow::json::writer::{LineDelimited, WriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::client::Rows;
use crate::error::ShellError;
use crate::table::{Cell, Grid, Look, csv_line, record};

/// Rows that are aligned with each other.
const PAGE_ROWS: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns.
    Table,
    /// One column below the other.
    Vertical,
    /// With a header; NULL is nothing, an empty text is `""`.
    Csv,
    /// One object a line.
    Json,
}

impl Format {
    /// Whether a person reads it: then it says how many rows there were, and what a statement did.
    pub fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Vertical)
    }
}

/// Prints the rows as they come; `limit`: as many at most (0: all).
pub async fn print_rows(rows: &mut Rows, format: Format, look: Look, limit: usize) -> Result<(), ShellError> {
    let mut printer = Printer::new(&rows.schema, format, look)?;
    let mut is_cut = false;
    while let Some(batch) = rows.next().await? {
        let left = if limit == 0 { usize::MAX } else { limit - printer.rows };
        if batch.num_rows() > left {
            printer.batch(&batch.slice(0, left))?;
            is_cut = true;
            break;
        }
        printer.batch(&batch)?;
    }
    printer.finish(is_cut)
}

/// Prints rows that are at hand.
pub fn print_cells(names: &[&str], rows: Vec<Vec<Cell>>, format: Format, look: Look) -> Result<(), ShellError> {
    let fields: Vec<_> = names.iter().map(|name| arrow::datatypes::Field::new(*name, DataType::Utf8, true)).collect();
    let columns = (0..names.len()).map(|column| {
        let values = rows.iter().map(|row| row.get(column).cloned().flatten());
        std::sync::Arc::new(arrow::array::StringArray::from_iter(values)) as arrow::array::ArrayRef
    });
    let schema = std::sync::Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(std::sync::Arc::clone(&schema), columns.collect())?;
    let mut printer = Printer::new(&schema, format, look)?;
    printer.batch(&batch)?;
    printer.finish(false)
}

struct Printer {
    format: Format,
    look: Look,
    names: Vec<String>,
    grid: Grid,
    /// Of the page that is not printed yet.
    page: Vec<Vec<Cell>>,
    rows: usize,
    out: io::Stdout,
}

impl Printer {
    fn new(schema: &Schema, format: Format, look: Look) -> Result<Self, ShellError> {
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let grid = Grid::new(schema.fields().iter().map(|field| (field.name().clone(), field.data_type().is_numeric())), look);
        let mut out = io::stdout();
        if format == Format::Csv {
            out.write_all(csv_line(names.iter().map(|name| Some(name.as_str()))).as_bytes())?;
        }
        Ok(Self { format, look, names, grid, page: Vec::new(), rows: 0, out })
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<(), ShellError> {
        if self.format == Format::Json {
            self.rows += batch.num_rows();
            return self.json(batch);
        }
        let options = FormatOptions::default().with_display_error(true);
        let columns =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options)).collect::<Result<Vec<_>, _>>()?;
        // Also of a column that is nothing but NULL, or whose values are in a dictionary.
        let nulls: Vec<_> = batch.columns().iter().map(|column| column.logical_nulls()).collect();
        for row in 0..batch.num_rows() {
            let is_null = |nulls: &Option<NullBuffer>| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            let cells = columns.iter().zip(&nulls).map(|(text, nulls)| (!is_null(nulls)).then(|| text.value(row).to_string())).collect();
            self.rows += 1;
            self.page.push(cells);
            if self.page.len() >= PAGE_ROWS {
                self.print_page()?;
            }
        }
        Ok(())
    }

    fn json(&mut self, batch: &RecordBatch) -> Result<(), ShellError> {
        let mut text = Vec::new();
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut text);
        writer.write(batch)?;
        writer.finish()?;
        Ok(self.out.write_all(&text)?)
    }

    fn print_page(&mut self) -> io::Result<()> {
        let page = std::mem::take(&mut self.page);
        let first = self.rows - page.len() + 1;
        let text = match self.format {
            Format::Table => self.grid.page(&page),
            Format::Vertical => page.iter().enumerate().map(|(index, row)| record(first + index, &self.names, row, self.look)).collect(),
            Format::Csv => page.iter().map(|row| csv_line(row.iter().map(Option::as_deref))).collect(),
            Format::Json => String::new(),
        };
        self.out.write_all(text.as_bytes())
    }

    fn finish(mut self, is_cut: bool) -> Result<(), ShellError> {
        if !self.page.is_empty() || self.rows == 0 {
            self.print_page()?;
        }
        if self.format.is_for_people() {
            let rows = if self.rows == 1 { "1 row".to_owned() } else { format!("{} rows", self.rows) };
            let note = if is_cut { format!("(the first {rows}; \\limit 0 shows all)\n") } else { format!("({rows})\n") };
            self.out.write_all(note.as_bytes())?;
        }
        Ok(self.out.flush()?)
    }
}
