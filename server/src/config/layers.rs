//! Flags over variables over the file: the layers are merged key by key, and every value remembers where it came from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::section::{Field, Section, Shape};
use super::{Config, ConfigError, Problem, validate};

const VARIABLE_PREFIX: &str = "LAZARET_";

/// Variables that the shell reads; a server started from the same environment does not mind them.
const SHELL_VARIABLES: [&str; 3] = ["LAZARET_PASSWORD", "LAZARET_TOKEN", "LAZARET_URL"];

/// A configuration file is small; a larger one is the wrong file.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Elements of one list of sections; more is a mistyped number in a variable.
const MAX_ELEMENTS: usize = 1000;

/// Where values may come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// All variables of the process; those that do not begin with `LAZARET_` are passed over.
    pub variables: Vec<(OsString, OsString)>,
    /// Flags as they are written (`--listen`), each with its key and value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File { path: PathBuf, line: usize },
    Variable(String),
    Flag(&'static str),
}

impl Origin {
    fn rank(&self) -> u8 {
        match self {
            Self::File { .. } => 0,
            Self::Variable(_) => 1,
            Self::Flag(_) => 2,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// By the key's full name, such as `issuers.0.name`; what is missing has its default.
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// Where the key, or the first that is given below it, comes from.
    pub(super) fn nearest_origin(&self, key: &str) -> Option<Origin> {
        let below = format!("{key}.");
        self.origins.get(key).or_else(|| self.origins.iter().find(|(name, _)| name.starts_with(&below)).map(|(_, origin)| origin)).cloned()
    }
}

/// The keys of one section, as far as they are given.
#[derive(Default)]
struct Level {
    values: BTreeMap<String, (toml::Value, Origin)>,
    sections: BTreeMap<String, Level>,
    lists: BTreeMap<String, Vec<Level>>,
}

impl Level {
    fn section(&mut self, name: &str) -> &mut Self {
        self.sections.entry(name.to_owned()).or_default()
    }
}

/// Reads, merges and checks everything. The error names every key that is wrong, not only the first.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut merge = Merge { root: Level::default(), problems: Vec::new() };
    if let Some(path) = &sources.file {
        merge.file(path);
    }
    merge.variables(&sources.variables);
    for (flag, key, value) in &sources.flags {
        merge.text(&key.split('.').collect::<Vec<_>>(), value, Origin::Flag(flag));
    }
    if !merge.problems.is_empty() {
        return Err(ConfigError { problems: merge.problems });
    }
    let mut origins = BTreeMap::new();
    let table = finish(&merge.root, "", &mut origins);
    let config =
        Config::deserialize(toml::Value::Table(table)).map_err(|error| Problem { origin: None, message: error.message().to_owned() })?;
    let mut loaded = Loaded { config, origins };
    let mut problems = validate::read_secret_files(&mut loaded);
    problems.extend(validate::problems(&loaded));
    if problems.is_empty() { Ok(loaded) } else { Err(ConfigError { problems }) }
}

struct Merge {
    root: Level,
    problems: Vec<Problem>,
}

impl Merge {
    fn file(&mut self, path: &Path) {
        let text = match read_limited(path) {
            Ok(text) => text,
            Err(message) => return self.problems.push(Problem { origin: None, message }),
        };
        match DeTable::parse(&text) {
            Ok(table) => {
                let mut file = FileLayer { path, text: &text, problems: &mut self.problems };
                file.level(&mut self.root, Config::FIELDS, table.get_ref(), "");
            }
            Err(error) => {
                let line = line_at(&text, error.span().map_or(0, |span| span.start));
                self.problems
                    .push(Problem { origin: Some(Origin::File { path: path.to_owned(), line }), message: error.message().to_owned() });
            }
        }
    }

    fn variables(&mut self, variables: &[(OsString, OsString)]) {
        let mut ours: Vec<_> = variables.iter().filter(|(name, _)| name.to_string_lossy().starts_with(VARIABLE_PREFIX)).collect();
        // By name, so that the elements of a list come in order.
        ours.sort_by_key(|(name, _)| {
            name.to_string_lossy().split('_').map(|part| (part.parse::<usize>().ok(), part.to_owned())).collect::<Vec<_>>()
        });
        for (name, value) in ours {
            let name = name.to_string_lossy().into_owned();
            if SHELL_VARIABLES.contains(&name.as_str()) || is_of_kubernetes(&name, &value.to_string_lossy()) {
                continue;
            }
            let origin = Origin::Variable(name.clone());
            match value.to_str() {
                Some(value) => {
                    let key = name[VARIABLE_PREFIX.len()..].to_lowercase();
                    self.text(&key.split("__").collect::<Vec<_>>(), value, origin);
                }
                None => self.problems.push(Problem { origin: Some(origin), message: "the value is not UTF-8".to_owned() }),
            }
        }
    }

    /// One value from a variable or a flag.
    fn text(&mut self, path: &[&str], text: &str, origin: Origin) {
        if let Err(message) = insert(&mut self.root, Config::FIELDS, path, 0, text, &origin) {
            self.problems.push(Problem { origin: Some(origin), message });
        }
    }
}

/// What Kubernetes tells every container of a Service whose name begins with `lazaret`.
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return true;
    }
    let is_url = PROTOCOLS.iter().any(|protocol| value.strip_prefix(protocol).is_some_and(|rest| rest.starts_with("://")));
    if name.ends_with("_PORT") && is_url {
        return true;
    }
    let Some((_, port)) = name.split_once("_PORT_") else { return false };
    let mut words = port.split('_');
    words.next().is_some_and(|port| port.parse::<u16>().is_ok())
        && words.next().is_some_and(|word| PROTOCOLS.iter().any(|protocol| word.eq_ignore_ascii_case(protocol)))
}

fn insert(level: &mut Level, fields: &'static [Field], path: &[&str], depth: usize, text: &str, origin: &Origin) -> Result<(), String> {
    let unknown = || unknown_key(&path.join("."), fields, &path[..depth].join("."), path.get(depth).copied().unwrap_or_default(), origin);
    let field = path.get(depth).and_then(|name| fields.iter().find(|field| field.name == *name)).ok_or_else(unknown)?;
    let incomplete = || format!("{:?} is {}; name a key in it", path.join("."), field.shape.wanted());
    match field.shape {
        Shape::Section(below) => {
            if path.len() == depth + 1 {
                return Err(incomplete());
            }
            insert(level.section(field.name), below, path, depth + 1, text, origin)
        }
        Shape::NamedSections(below) => {
            let name = path.get(depth + 1).filter(|_| path.len() > depth + 2).ok_or_else(incomplete)?;
            let named = level.section(field.name);
            // Variables have no case: a name that the file writes with capitals is meant all the same.
            let name = named.sections.keys().find(|known| known.eq_ignore_ascii_case(name)).cloned().unwrap_or_else(|| (*name).to_owned());
            insert(named.section(&name), below, path, depth + 2, text, origin)
        }
        Shape::Sections(below) => {
            let number = path.get(depth + 1).filter(|_| path.len() > depth + 2).ok_or_else(incomplete)?;
            let index: usize =
                number.parse().map_err(|_| format!("{:?}: expected the number of an element, found {number:?}", path.join(".")))?;
            let elements = level.lists.entry(field.name.to_owned()).or_default();
            if index > elements.len() || index >= MAX_ELEMENTS {
                return Err(format!("{:?}: element {index} is given, but element {} is not", path.join("."), elements.len()));
            }
            if index == elements.len() {
                elements.push(Level::default());
            }
            insert(&mut elements[index], below, path, depth + 2, text, origin)
        }
        shape => {
            if path.len() > depth + 1 {
                return Err(unknown_key(&path.join("."), &[], &path[..=depth].join("."), path[depth + 1], origin));
            }
            let value = shape.parse(text).map_err(|message| format!("{:?}: {message}", path.join(".")))?;
            put(level, fields, field, value, origin.clone());
            Ok(())
        }
    }
}

/// Sets a value. A secret that a higher layer gives replaces the file that a lower one names for it, and the other way round.
fn put(level: &mut Level, fields: &[Field], field: &Field, value: toml::Value, origin: Origin) {
    let twin = match field.name.strip_suffix("_file") {
        Some(secret) => secret.to_owned(),
        None => format!("{}_file", field.name),
    };
    let is_pair = [field.name, twin.as_str()]
        .iter()
        .any(|name| fields.iter().any(|field| field.name == *name && matches!(field.shape, Shape::Secret)));
    if is_pair && matches!(level.values.get(&twin), Some((_, lower)) if lower.rank() < origin.rank()) {
        level.values.remove(&twin);
    }
    level.values.insert(field.name.to_owned(), (value, origin));
}

struct FileLayer<'a> {
    path: &'a Path,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl FileLayer<'_> {
    fn level(&mut self, level: &mut Level, fields: &'static [Field], table: &DeTable<'_>, prefix: &str) {
        for (key, value) in table.iter() {
            let name = key.get_ref().as_ref();
            let origin = self.origin(key.span().start);
            match fields.iter().find(|field| field.name == name) {
                Some(field) => self.field(level, fields, field, value, &join(prefix, name), origin),
                None => {
                    let message = unknown_key(&join(prefix, name), fields, prefix, name, &origin);
                    self.problems.push(Problem { origin: Some(origin), message });
                }
            }
        }
    }

    fn field(
        &mut self,
        level: &mut Level,
        fields: &'static [Field],
        field: &'static Field,
        value: &Spanned<DeValue<'_>>,
        key: &str,
        origin: Origin,
    ) {
        let result = match (field.shape, value.get_ref()) {
            (Shape::Section(below), DeValue::Table(table)) => {
                self.level(level.section(field.name), below, table, key);
                Ok(())
            }
            (Shape::NamedSections(below), DeValue::Table(table)) => self.named(level, field, below, table, key),
            (Shape::Sections(below), DeValue::Array(items)) => {
                let mut elements = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    let mut element = Level::default();
                    match item.get_ref() {
                        DeValue::Table(table) => self.level(&mut element, below, table, &format!("{key}.{index}")),
                        other => self.problems.push(wrong_type(key, field.shape, other, self.origin(item.span().start))),
                    }
                    elements.push(element);
                }
                level.lists.insert(field.name.to_owned(), elements);
                Ok(())
            }
            (Shape::Section(_) | Shape::NamedSections(_) | Shape::Sections(_), other) => {
                Err(wrong_type(key, field.shape, other, origin.clone()).message)
            }
            (shape, value) => {
                plain(value).and_then(|value| shape.check(value)).map_err(|message| format!("{key:?}: {message}")).map(|value| {
                    put(level, fields, field, value, origin.clone());
                })
            }
        };
        if let Err(message) = result {
            self.problems.push(Problem { origin: Some(origin), message });
        }
    }

    fn named(&mut self, level: &mut Level, field: &Field, below: &'static [Field], table: &DeTable<'_>, key: &str) -> Result<(), String> {
        let named = level.section(field.name);
        for (name, section) in table.iter() {
            let full = join(key, name.get_ref());
            match section.get_ref() {
                DeValue::Table(section) => self.level(named.section(name.get_ref()), below, section, &full),
                other => self.problems.push(wrong_type(&full, Shape::Section(below), other, self.origin(name.span().start))),
            }
        }
        Ok(())
    }

    fn origin(&self, offset: usize) -> Origin {
        Origin::File { path: self.path.to_owned(), line: line_at(self.text, offset) }
    }
}

fn wrong_type(key: &str, shape: Shape, found: &DeValue<'_>, origin: Origin) -> Problem {
    Problem { origin: Some(origin), message: format!("{key:?}: expected {}, found {}", shape.wanted(), found.type_str()) }
}

fn plain(value: &DeValue<'_>) -> Result<toml::Value, String> {
    Ok(match value {
        DeValue::String(text) => toml::Value::String(text.clone().into_owned()),
        DeValue::Integer(number) => {
            toml::Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| format!("{number} is out of range"))?)
        }
        DeValue::Float(number) => toml::Value::Float(number.as_str().parse().map_err(|_| format!("{number} is out of range"))?),
        DeValue::Boolean(value) => toml::Value::Boolean(*value),
        DeValue::Datetime(value) => toml::Value::Datetime(*value),
        DeValue::Array(items) => toml::Value::Array(items.iter().map(|item| plain(item.get_ref())).collect::<Result<_, _>>()?),
        DeValue::Table(_) => toml::Value::Table(toml::Table::new()),
    })
}

fn finish(level: &Level, prefix: &str, origins: &mut BTreeMap<String, Origin>) -> toml::Table {
    let mut table = toml::Table::new();
    for (name, (value, origin)) in &level.values {
        origins.insert(join(prefix, name), origin.clone());
        table.insert(name.clone(), value.clone());
    }
    for (name, section) in &level.sections {
        table.insert(name.clone(), toml::Value::Table(finish(section, &join(prefix, name), origins)));
    }
    for (name, elements) in &level.lists {
        let key = join(prefix, name);
        let tables =
            elements.iter().enumerate().map(|(index, element)| toml::Value::Table(finish(element, &format!("{key}.{index}"), origins)));
        table.insert(name.clone(), toml::Value::Array(tables.collect()));
    }
    table
}

fn unknown_key(key: &str, fields: &[Field], prefix: &str, name: &str, origin: &Origin) -> String {
    let nearest = nearest_key(fields, prefix, name);
    match origin {
        Origin::Variable(_) => format!("unknown key {key:?}; the nearest known key is {nearest:?} ({})", variable_of(&nearest)),
        Origin::File { .. } | Origin::Flag(_) => format!("unknown key {key:?}; the nearest known key is {nearest:?}"),
    }
}

/// The known key that `name` most resembles: one of the same section, or one of the same name elsewhere.
fn nearest_key(fields: &[Field], prefix: &str, name: &str) -> String {
    let mut candidates: Vec<(f64, String)> =
        fields.iter().map(|field| (strsim::jaro_winkler(field.name, name), join(prefix, field.name))).collect();
    for (key, field) in all_keys(Config::FIELDS, "") {
        // A key of another section is meant only where it is nearly the same word.
        candidates.push((strsim::jaro_winkler(field, name).max(strsim::jaro_winkler(&key, &join(prefix, name))) - 0.05, key));
    }
    candidates.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, key)| key).unwrap_or_default()
}

/// Every key that can stand in a file, with `0` for the number of an element and `NAME` for any name.
pub(super) fn all_keys(fields: &'static [Field], prefix: &str) -> Vec<(String, &'static str)> {
    let mut keys = Vec::new();
    for field in fields {
        let key = join(prefix, field.name);
        match field.shape {
            Shape::Section(below) => keys.extend(all_keys(below, &key)),
            Shape::Sections(below) => keys.extend(all_keys(below, &join(&key, "0"))),
            Shape::NamedSections(below) => keys.extend(all_keys(below, &join(&key, "NAME"))),
            _ => keys.push((key, field.name)),
        }
    }
    keys
}

/// The variable that sets a key.
pub(super) fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

pub(super) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// The text of a small file; the error says which and why.
pub(super) fn read_limited(path: &Path) -> Result<String, String> {
    let failed = |error: &dyn fmt::Display| format!("cannot read {}: {error}", path.display());
    let size = fs::metadata(path).map_err(|error| failed(&error))?.len();
    if size > MAX_FILE_BYTES {
        return Err(failed(&format!("it has {size} bytes, more than {MAX_FILE_BYTES}")));
    }
    fs::read_to_string(path).map_err(|error| failed(&error))
}
