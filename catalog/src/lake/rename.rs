//! Renames a Parquet footer to the table's current schema.
//!
//! DataFusion finds a file's columns, and prunes row groups and pages, by name. A table finds them by field id or by a
//! physical name. So the footer is given the table's names before DataFusion sees it, at every depth, and renamed,
//! swapped, dropped and added-again columns need nothing more. A column that the table does not have gets a name that
//! no column can have.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Fields};
use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as PhysicalType};
use parquet::errors::{ParquetError, Result};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};

use super::snapshot::{LakeSnapshot, PathedName};

/// `Field::metadata` key for the name under which a Delta table's files hold a column.
pub const PHYSICAL_NAME_KEY: &str = "lazaret:physical_name";
/// `Field::metadata` key for the id under which a table's files hold a column.
pub const FIELD_ID_KEY: &str = parquet::arrow::PARQUET_FIELD_ID_META_KEY;

/// How the files of one table version name their columns.
#[derive(Debug)]
pub(crate) struct Naming {
    fields: Fields,
    by: PathedName,
    name_mapping: Option<HashMap<Vec<String>, i32>>,
    fingerprint: u64,
}

impl Naming {
    pub(crate) fn new(snapshot: &LakeSnapshot) -> Self {
        Self::by(snapshot.naming, snapshot.schema.fields(), snapshot.name_mapping.clone())
    }

    /// Of a table whose columns have the names that its files use.
    pub(crate) fn logical(fields: &Fields) -> Self {
        Self::by(PathedName::Logical, fields, None)
    }

    fn by(by: PathedName, fields: &Fields, name_mapping: Option<HashMap<Vec<String>, i32>>) -> Self {
        let mut hasher = DefaultHasher::new();
        by.hash(&mut hasher);
        // Names, ids, nesting: with the fields' metadata, this is more than what decides, and never less.
        fields.hash(&mut hasher);
        if let Some(mapping) = &name_mapping {
            let mut sorted: Vec<_> = mapping.iter().collect();
            sorted.sort();
            sorted.hash(&mut hasher);
        }
        Self { fields: fields.clone(), by, name_mapping, fingerprint: hasher.finish() }
    }

    /// Equal for tables that give every footer the same names.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The schema with the table's names.
    pub(crate) fn apply(&self, file: &SchemaDescriptor) -> Result<SchemaDescPtr> {
        let root = file.root_schema();
        let by = match self.by {
            PathedName::Logical => Key::Name,
            PathedName::Physical => Key::Physical,
            PathedName::FieldId if has_ids(root) => Key::Id,
            // Files that were taken into the table as they were.
            PathedName::FieldId => match &self.name_mapping {
                Some(mapping) => Key::Mapped(mapping),
                // Delta's physical names are unique and never change, so they identify a column as well as its id.
                None if self.fields.iter().any(|it| it.metadata().contains_key(PHYSICAL_NAME_KEY)) => Key::Physical,
                None => return Err(ParquetError::General("the file has no field ids and the table has no name mapping".to_owned())),
            },
        };
        let mut renaming = Renaming { by, dropped: 0, path: Vec::new() };
        let children = renaming.children(&self.fields, root.get_fields())?;
        let schema = Type::group_type_builder(root.name()).with_fields(children).build()?;
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
        if let Some(path) = unreadable_int96(&schema) {
            return Err(ParquetError::NYI(format!("INT96 in the two-level list \"{path}\"")));
        }
        Ok(schema)
    }
}

fn has_ids(node: &Type) -> bool {
    node.is_group() && node.get_fields().iter().any(|child| child.get_basic_info().has_id() || has_ids(child))
}

/// DataFusion does not recognise INT96 there and would read it as nanoseconds, which overflow.
fn unreadable_int96(schema: &SchemaDescriptor) -> Option<String> {
    let columns = schema.columns().iter().enumerate();
    columns.filter(|(_, leaf)| leaf.physical_type() == PhysicalType::INT96).find_map(|(index, leaf)| {
        let is_repeated = leaf.self_type().get_basic_info().repetition() == Repetition::REPEATED;
        let in_repeated = schema.get_column_root(index).get_basic_info().repetition() == Repetition::REPEATED;
        (is_repeated || in_repeated).then(|| leaf.path().string())
    })
}

enum Key<'a> {
    Name,
    Physical,
    Id,
    /// By a path of names, the wrappers of lists and maps being `element`, `key` and `value`.
    Mapped(&'a HashMap<Vec<String>, i32>),
}

struct Renaming<'a> {
    by: Key<'a>,
    dropped: usize,
    path: Vec<String>,
}

impl Renaming<'_> {
    fn children(&mut self, table: &Fields, file: &[TypePtr]) -> Result<Vec<TypePtr>> {
        let mut taken = HashSet::new();
        let mut renamed = Vec::with_capacity(file.len());
        for node in file {
            self.path.push(node.name().to_owned());
            let found = self.find(table, node).filter(|field| taken.insert(field.name().clone()));
            renamed.push(match found {
                Some(field) => self.node(field.name(), Some(field), node)?,
                None => {
                    // Names of columns hold no NUL, so this one is free.
                    let name = format!("\0dropped.{}", self.dropped);
                    self.dropped += 1;
                    self.node(&name, None, node)?
                }
            });
            self.path.pop();
        }
        Ok(renamed)
    }

    fn find<'t>(&self, table: &'t Fields, node: &Type) -> Option<&'t FieldRef> {
        let by_id = |id: i32| table.iter().find(|field| field.metadata().get(FIELD_ID_KEY).is_some_and(|it| it.parse() == Ok(id)));
        match &self.by {
            Key::Name => table.iter().find(|field| field.name() == node.name()),
            Key::Physical => table.iter().find(|field| field.metadata().get(PHYSICAL_NAME_KEY).unwrap_or(field.name()) == node.name()),
            Key::Id => node.get_basic_info().has_id().then(|| by_id(node.get_basic_info().id())).flatten(),
            Key::Mapped(mapping) => mapping.get(&self.path).copied().and_then(by_id),
        }
    }

    /// `node` called `name`, and what lies below it renamed to the field's children.
    fn node(&mut self, name: &str, field: Option<&FieldRef>, node: &Type) -> Result<TypePtr> {
        if node.is_primitive() {
            return leaf(name, node);
        }
        let children = match field.map(|field| field.data_type()) {
            Some(DataType::Struct(fields)) if !is_list(node) && !is_map(node) => self.children(fields, node.get_fields())?,
            Some(DataType::List(element)) if is_list(node) => vec![self.repeated(name, element, node)?],
            Some(DataType::Map(entries, _)) if is_map(node) => vec![self.entries(entries, node)?],
            // A repeated group without annotation is a list of its own.
            Some(DataType::List(element)) if is_repeated(node) => match element.data_type() {
                DataType::Struct(fields) => {
                    self.path.push("element".to_owned());
                    let children = self.children(fields, node.get_fields())?;
                    self.path.pop();
                    children
                }
                _ => node.get_fields().to_vec(),
            },
            // Not in the table, or of another shape there, which the adapter will say.
            _ => node.get_fields().to_vec(),
        };
        group(name, node, children)
    }

    /// The repeated child of a list. Which of its two layouts it has depends on its names (Parquet's LogicalTypes.md,
    /// "Lists"), so they change only where that cannot change the layout.
    fn repeated(&mut self, list: &str, element: &FieldRef, node: &Type) -> Result<TypePtr> {
        let [repeated] = node.get_fields() else { return Err(ParquetError::General("a list has one child".to_owned())) };
        if repeated.is_primitive() {
            return Ok(Arc::clone(repeated));
        }
        let tuple = format!("{}_tuple", node.name());
        self.path.push("element".to_owned());
        let renamed = match repeated.get_fields() {
            [only] if repeated.name() != "array" && repeated.name() != tuple => {
                let only = self.node("element", Some(element), only)?;
                group("list", repeated, vec![only])?
            }
            // The repeated group is the element itself. A name made from the list's own goes with it.
            fields => {
                let children = match element.data_type() {
                    DataType::Struct(wanted) => self.children(wanted, fields)?,
                    _ => fields.to_vec(),
                };
                let renamed = if repeated.name() == tuple { format!("{list}_tuple") } else { repeated.name().to_owned() };
                group(&renamed, repeated, children)?
            }
        };
        self.path.pop();
        Ok(renamed)
    }

    fn entries(&mut self, entries: &FieldRef, node: &Type) -> Result<TypePtr> {
        let ([repeated], DataType::Struct(wanted)) = (node.get_fields(), entries.data_type()) else {
            return Err(ParquetError::General("a map has one child".to_owned()));
        };
        let (true, [key, value], [wanted_key, wanted_value]) = (repeated.is_group(), group_fields(repeated), &wanted[..]) else {
            return Err(ParquetError::General("a map has keys and values".to_owned()));
        };
        self.path.push("key".to_owned());
        let key = self.node("key", Some(wanted_key), key)?;
        self.path.pop();
        self.path.push("value".to_owned());
        let value = self.node("value", Some(wanted_value), value)?;
        self.path.pop();
        group("key_value", repeated, vec![key, value])
    }
}

fn group_fields(node: &Type) -> &[TypePtr] {
    if node.is_group() { node.get_fields() } else { &[] }
}

fn is_repeated(node: &Type) -> bool {
    node.get_basic_info().has_repetition() && node.get_basic_info().repetition() == Repetition::REPEATED
}

fn is_list(node: &Type) -> bool {
    let info = node.get_basic_info();
    info.logical_type_ref() == Some(&LogicalType::List) || info.converted_type() == ConvertedType::LIST
}

fn is_map(node: &Type) -> bool {
    let info = node.get_basic_info();
    info.logical_type_ref() == Some(&LogicalType::Map) || matches!(info.converted_type(), ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE)
}

/// Without its id: it has served, and would only make the Arrow fields differ from the table's.
fn group(name: &str, like: &Type, children: Vec<TypePtr>) -> Result<TypePtr> {
    let info = like.get_basic_info();
    let mut builder = Type::group_type_builder(name)
        .with_fields(children)
        .with_converted_type(info.converted_type())
        .with_logical_type(info.logical_type_ref().cloned());
    if info.has_repetition() {
        builder = builder.with_repetition(info.repetition());
    }
    Ok(Arc::new(builder.build()?))
}

fn leaf(name: &str, like: &Type) -> Result<TypePtr> {
    let Type::PrimitiveType { basic_info, physical_type, type_length, scale, precision } = like else {
        return Err(ParquetError::General("a leaf is primitive".to_owned()));
    };
    let built = Type::primitive_type_builder(name, *physical_type)
        .with_repetition(basic_info.repetition())
        .with_converted_type(basic_info.converted_type())
        .with_logical_type(basic_info.logical_type_ref().cloned())
        .with_length(*type_length)
        .with_precision(*precision)
        .with_scale(*scale)
        .build()?;
    Ok(Arc::new(built))
}
