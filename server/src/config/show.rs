//! The configuration in words: `lazaret config`, and `docs/configuration.md`.

use std::fmt::Write as _;

use toml::Value;

use super::layers::{Loaded, join, variable_of};
use super::section::{Field, Section, Shape};
use super::{Audit, Cache, Config, Issuer, Limits, Log, Store, Tls};

/// What is in force, as a file that could be read again, each value with where it came from. Secrets are `***`.
pub fn show(loaded: &Loaded) -> String {
    let mut out = String::new();
    if let Ok(Value::Table(root)) = Value::try_from(&loaded.config) {
        section(&mut out, loaded, Config::FIELDS, &root, "", "");
    }
    out
}

/// First the values of this section, then the sections in it: TOML cannot go back.
fn section(out: &mut String, loaded: &Loaded, fields: &[Field], table: &toml::Table, key: &str, header: &str) {
    if !header.is_empty() {
        let _ = writeln!(out, "\n{header}");
    }
    for field in fields.iter().filter(|field| field.shape.fields().is_none()) {
        if let Some(value) = table.get(field.name) {
            line(out, loaded, &join(key, field.name), field.name, value);
        }
    }
    for field in fields {
        let key = join(key, field.name);
        match (field.shape, table.get(field.name)) {
            (Shape::Section(below), Some(Value::Table(table))) => section(out, loaded, below, table, &key, &format!("[{key}]")),
            (Shape::Sections(below), Some(Value::Array(items))) => {
                for (index, table) in items.iter().enumerate().filter_map(|(index, item)| Some((index, item.as_table()?))) {
                    section(out, loaded, below, table, &format!("{key}.{index}"), &format!("[[{key}]]"));
                }
            }
            (Shape::NamedSections(below), Some(Value::Table(tables))) => {
                for (name, table) in tables.iter().filter_map(|(name, table)| Some((name, table.as_table()?))) {
                    section(out, loaded, below, table, &join(&key, name), &format!("[{key}.{}]", quoted_key(name)));
                }
            }
            _ => {}
        }
    }
}

fn line(out: &mut String, loaded: &Loaded, key: &str, name: &str, value: &Value) {
    let origin = loaded.origin(key).map_or_else(|| "default".to_owned(), ToString::to_string);
    let memory = || loaded.config.memory();
    let note = match (key, value) {
        ("limits.memory_bytes", Value::String(_)) => format!("; {} bytes here", memory().all_queries_bytes),
        ("limits.query_memory_bytes", Value::String(_)) => format!("; {} bytes here", memory().one_query_bytes),
        ("cache.data_bytes", Value::String(_)) => format!("; {} bytes here", memory().data_cache_bytes),
        _ => String::new(),
    };
    let _ = writeln!(out, "{:<40} # {origin}{note}", format!("{name} = {value}"));
}

fn quoted_key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { name.to_owned() } else { Value::String(name.to_owned()).to_string() }
}

/// `docs/configuration.md`.
pub fn document() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         <!-- Generated from server/src/config/mod.rs. To make it anew: LAZARET_UPDATE_DOCS=1 cargo test --workspace --lib config -->\n\n\
         `lazaret serve --data-dir DIR [--listen ADDR] [--config lazaret.toml]`. Every key has a default, so that no file is needed. \
         Flags win over variables, variables over the file. An unknown key is an error that names the nearest known one. \
         `lazaret config` prints what is in force and where each value came from.\n\n\
         A variable is `LAZARET_` and the key in capitals, with `__` between levels. A list is written with commas, an element of a list of sections by its number, \
         as in `LAZARET_ISSUERS__0__ISSUER`. Each secret may come as `…_file` too, so that it can be mounted.\n",
    );
    table::<Config>(&mut out, "Outside any section", "", &Config::default());
    table::<Tls>(&mut out, "`[tls]`", "tls", &Tls::default());
    table::<Issuer>(&mut out, "`[[issuers]]`", "issuers.0", &Issuer::default());
    table::<Store>(&mut out, "`[stores.NAME]`", "stores.NAME", &Store::default());
    table::<Limits>(&mut out, "`[limits]`", "limits", &Limits::default());
    table::<Cache>(&mut out, "`[cache]`", "cache", &Cache::default());
    table::<Audit>(&mut out, "`[audit]`", "audit", &Audit::default());
    table::<Log>(&mut out, "`[log]`", "log", &Log::default());
    out
}

fn table<S: Section + serde::Serialize>(out: &mut String, title: &str, prefix: &str, defaults: &S) {
    let about: Vec<&str> = S::ABOUT.iter().map(|line| line.trim()).collect();
    let _ = write!(out, "\n## {title}\n\n{}\n\n| key | value | default | variable | |\n| --- | --- | --- | --- | --- |\n", about.join(" "));
    let defaults = Value::try_from(defaults).ok();
    for field in S::FIELDS.iter().filter(|field| field.shape.fields().is_none()) {
        let doc: Vec<&str> = field.doc.iter().map(|line| line.trim()).collect();
        let default = match defaults.as_ref().and_then(|defaults| defaults.get(field.name)) {
            Some(Value::String(text)) if text.is_empty() && !matches!(field.shape, Shape::Secret | Shape::OptionalAddress) => {
                "none".to_owned()
            }
            Some(Value::Array(items)) if items.is_empty() => "none".to_owned(),
            Some(value) => format!("`{value}`"),
            None => "none".to_owned(),
        };
        let variable = variable_of(&join(prefix, field.name));
        let _ = writeln!(out, "| `{}` | {} | {default} | `{variable}` | {} |", field.name, field.shape.wanted(), doc.join(" "));
    }
}

/// Whether the document speaks of every key; a section that was added above but not to [`document`] shows here.
#[cfg(test)]
pub(super) fn undocumented() -> Vec<String> {
    let text = document();
    super::layers::all_keys(Config::FIELDS, "")
        .into_iter()
        .map(|(key, _)| key)
        .filter(|key| !text.contains(&format!("`{}`", variable_of(key))))
        .collect()
}
