//! Avro object container files, as far as Iceberg's manifests need them.
//!
//! Our own reader because general ones lose what a manifest says: they read a `fixed` with the logical type `uuid` as
//! length-prefixed bytes (so partition tuples with a UUID fail), and drop field ids. Values are positional; names and
//! field ids are looked up in the schema once per file.

use std::collections::HashMap;
use std::io::Read;

use serde_json::Value as Json;

use super::values::decimal_from_bytes;

/// The most a block may hold when decompressed. Writers flush at 64 KiB of input; the limit stops a bomb.
const MAX_BLOCK_BYTES: u64 = 256 << 20;
/// Nesting of a schema; Iceberg's own stay below ten.
const MAX_SCHEMA_DEPTH: usize = 32;

/// A writer's schema, named types resolved.
#[derive(Clone, Debug)]
pub(super) enum Schema {
    Null,
    Boolean,
    /// `int` and `long`, which are written alike.
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    /// `bytes`, or `fixed` of a size, with the logical type `decimal`.
    Decimal(Option<usize>),
    Enum(Vec<String>),
    Array(Box<Schema>),
    Map(Box<Schema>),
    Union(Vec<Schema>),
    Record(Vec<Field>),
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: String,
    /// Iceberg's `field-id`.
    pub id: Option<i32>,
    pub schema: Schema,
}

/// One value. A record's fields stand in the order of its schema.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Long(i64),
    Float(f32),
    Double(f64),
    Bytes(Vec<u8>),
    /// Unscaled.
    Decimal(i128),
    String(String),
    Array(Vec<Value>),
    Map(Vec<(String, Value)>),
    Record(Vec<Value>),
}

/// A whole file, decoded.
pub(super) struct File {
    pub metadata: HashMap<String, Vec<u8>>,
    pub fields: Vec<Field>,
    pub records: Vec<Vec<Value>>,
}

impl File {
    /// Decodes every record; the reason is the error.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor(bytes);
        if cursor.take(4)? != b"Obj\x01" {
            return Err("not an Avro file".to_owned());
        }
        let metadata = cursor.metadata()?;
        let sync = cursor.take(16)?;
        let schema = metadata.get("avro.schema").ok_or("no avro.schema")?;
        let schema: Json = serde_json::from_slice(schema).map_err(|e| format!("avro.schema: {e}"))?;
        let Schema::Record(fields) = Parser::default().parse(&schema, 0)? else { return Err("avro.schema is not a record".to_owned()) };
        let codec = match metadata.get("avro.codec") {
            Some(codec) => String::from_utf8_lossy(codec).into_owned(),
            None => "null".to_owned(),
        };

        let mut records = Vec::new();
        while !cursor.0.is_empty() {
            let count = cursor.long()?;
            let size = cursor.length()?;
            let block = decompress(&codec, cursor.take(size)?)?;
            if !(0..=block.len() as i64).contains(&count) {
                return Err("a count exceeds its block".to_owned());
            }
            let mut block = Cursor(&block);
            for _ in 0..count {
                records.push(block.record(&fields)?);
            }
            if !block.0.is_empty() {
                return Err("a block holds more than its records".to_owned());
            }
            if cursor.take(16)? != sync {
                return Err("a block does not end with the sync marker".to_owned());
            }
        }
        Ok(Self { metadata, fields, records })
    }
}

/// Where the field `name` stands among `fields`.
pub(super) fn position(fields: &[Field], name: &str) -> Option<usize> {
    fields.iter().position(|field| field.name == name)
}

impl Schema {
    /// The schema behind an optional value.
    pub(super) fn non_null(&self) -> &Schema {
        match self {
            Self::Union(branches) => branches.iter().find(|branch| !matches!(branch, Self::Null)).unwrap_or(self),
            other => other,
        }
    }
}

fn decompress(codec: &str, data: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let read = |reader: &mut dyn Read, out: &mut Vec<u8>| {
        reader.take(MAX_BLOCK_BYTES + 1).read_to_end(out).map_err(|e| format!("{codec} block: {e}"))
    };
    match codec {
        "null" => out.extend_from_slice(data),
        "deflate" => {
            read(&mut flate2::read::DeflateDecoder::new(data), &mut out)?;
        }
        "zstandard" => {
            let mut decoder = zstd::stream::read::Decoder::new(data).map_err(|e| format!("zstandard block: {e}"))?;
            read(&mut decoder, &mut out)?;
        }
        // Raw snappy, then the CRC-32 of the plain bytes.
        "snappy" => {
            let (body, crc) = data.split_last_chunk::<4>().ok_or("snappy block without its checksum")?;
            if snap::raw::decompress_len(body).map_err(|e| e.to_string())? as u64 > MAX_BLOCK_BYTES {
                return Err("a block is too large".to_owned());
            }
            out = snap::raw::Decoder::new().decompress_vec(body).map_err(|e| format!("snappy block: {e}"))?;
            if crc32fast::hash(&out) != u32::from_be_bytes(*crc) {
                return Err("snappy block with a wrong checksum".to_owned());
            }
        }
        other => return Err(format!("codec \"{other}\" is not known")),
    }
    if out.len() as u64 > MAX_BLOCK_BYTES { Err("a block is too large".to_owned()) } else { Ok(out) }
}

#[derive(Default)]
struct Parser {
    named: HashMap<String, Schema>,
}

impl Parser {
    fn parse(&mut self, json: &Json, depth: usize) -> Result<Schema, String> {
        if depth > MAX_SCHEMA_DEPTH {
            return Err("avro.schema is nested too deep".to_owned());
        }
        match json {
            Json::String(name) => self.named_or_primitive(name),
            Json::Array(branches) => {
                Ok(Schema::Union(branches.iter().map(|branch| self.parse(branch, depth + 1)).collect::<Result<_, _>>()?))
            }
            Json::Object(object) => {
                let part = |key: &str| object.get(key).ok_or_else(|| format!("avro.schema: no \"{key}\""));
                let kind = part("type")?;
                let schema = match kind.as_str() {
                    Some("record") => {
                        let fields = part("fields")?.as_array().ok_or("avro.schema: fields is not a list")?;
                        Schema::Record(fields.iter().map(|field| self.field(field, depth)).collect::<Result<_, _>>()?)
                    }
                    Some("fixed") => {
                        let size = part("size")?.as_u64().and_then(|size| usize::try_from(size).ok());
                        Schema::Fixed(size.ok_or("avro.schema: size is not a number")?)
                    }
                    Some("enum") => {
                        let symbols = part("symbols")?.as_array().ok_or("avro.schema: symbols is not a list")?;
                        Schema::Enum(symbols.iter().filter_map(Json::as_str).map(str::to_owned).collect())
                    }
                    Some("array") => return Ok(Schema::Array(Box::new(self.parse(part("items")?, depth + 1)?))),
                    Some("map") => return Ok(Schema::Map(Box::new(self.parse(part("values")?, depth + 1)?))),
                    Some(name) => self.named_or_primitive(name)?,
                    None => return self.parse(kind, depth + 1),
                };
                let schema = match (schema, object.get("logicalType").and_then(Json::as_str)) {
                    (Schema::Bytes, Some("decimal")) => Schema::Decimal(None),
                    (Schema::Fixed(size), Some("decimal")) => Schema::Decimal(Some(size)),
                    (schema, _) => schema,
                };
                if let Some(name) = object.get("name").and_then(Json::as_str) {
                    self.named.insert(name.to_owned(), schema.clone());
                }
                Ok(schema)
            }
            other => Err(format!("avro.schema: unexpected {other}")),
        }
    }

    fn field(&mut self, json: &Json, depth: usize) -> Result<Field, String> {
        let name = json.get("name").and_then(Json::as_str).ok_or("avro.schema: a field without a name")?;
        let kind = json.get("type").ok_or_else(|| format!("avro.schema: field {name} without a type"))?;
        let id = json.get("field-id").and_then(Json::as_i64).and_then(|id| i32::try_from(id).ok());
        Ok(Field { name: name.to_owned(), id, schema: self.parse(kind, depth + 1)? })
    }

    fn named_or_primitive(&self, name: &str) -> Result<Schema, String> {
        Ok(match name {
            "null" => Schema::Null,
            "boolean" => Schema::Boolean,
            "int" | "long" => Schema::Long,
            "float" => Schema::Float,
            "double" => Schema::Double,
            "bytes" => Schema::Bytes,
            "string" => Schema::String,
            other => self.named.get(other).cloned().ok_or_else(|| format!("avro.schema: type \"{other}\" is not known"))?,
        })
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(bytes).ok_or("ends too early")?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "ends too early".to_owned())
    }

    /// A zigzag variable-length integer.
    fn long(&mut self) -> Result<i64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("an integer is too long".to_owned())
    }

    /// A length or count. Every counted thing takes at least a byte, so what exceeds the rest is damage.
    fn length(&mut self) -> Result<usize, String> {
        let length = usize::try_from(self.long()?).map_err(|_| "a negative length")?;
        if length > self.0.len() { Err("a length exceeds the file".to_owned()) } else { Ok(length) }
    }

    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let length = self.length()?;
        self.take(length)
    }

    fn string(&mut self) -> Result<String, String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| "a string is not UTF-8".to_owned())
    }

    /// Runs `item` for each item of an array or map, which come in counted blocks.
    fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        loop {
            let count = match self.long()? {
                0 => return Ok(()),
                count if count < 0 => {
                    self.long()?; // the block's size in bytes, for readers that skip
                    count.unsigned_abs()
                }
                count => count.unsigned_abs(),
            };
            if count > self.0.len() as u64 {
                return Err("a count exceeds the file".to_owned());
            }
            for _ in 0..count {
                item(self)?;
            }
        }
    }

    fn metadata(&mut self) -> Result<HashMap<String, Vec<u8>>, String> {
        let mut metadata = HashMap::new();
        self.blocks(|cursor| {
            let key = cursor.string()?;
            metadata.insert(key, cursor.bytes()?.to_vec());
            Ok(())
        })?;
        Ok(metadata)
    }

    fn record(&mut self, fields: &[Field]) -> Result<Vec<Value>, String> {
        fields.iter().map(|field| self.value(&field.schema).map_err(|e| format!("{}: {e}", field.name))).collect()
    }

    fn value(&mut self, schema: &Schema) -> Result<Value, String> {
        Ok(match schema {
            Schema::Null => Value::Null,
            Schema::Boolean => Value::Boolean(self.array::<1>()? != [0]),
            Schema::Long => Value::Long(self.long()?),
            Schema::Float => Value::Float(f32::from_le_bytes(self.array()?)),
            Schema::Double => Value::Double(f64::from_le_bytes(self.array()?)),
            Schema::Bytes => Value::Bytes(self.bytes()?.to_vec()),
            Schema::String => Value::String(self.string()?),
            Schema::Fixed(size) => Value::Bytes(self.take(*size)?.to_vec()),
            Schema::Decimal(size) => {
                let bytes = match size {
                    Some(size) => self.take(*size)?,
                    None => self.bytes()?,
                };
                Value::Decimal(decimal_from_bytes(bytes).ok_or("a decimal is too long")?)
            }
            Schema::Enum(symbols) => {
                let symbol = usize::try_from(self.long()?).ok().and_then(|index| symbols.get(index));
                Value::String(symbol.ok_or("an unknown enum symbol")?.clone())
            }
            Schema::Array(items) => {
                let mut values = Vec::new();
                self.blocks(|cursor| {
                    values.push(cursor.value(items)?);
                    Ok(())
                })?;
                Value::Array(values)
            }
            Schema::Map(of) => {
                let mut values = Vec::new();
                self.blocks(|cursor| {
                    values.push((cursor.string()?, cursor.value(of)?));
                    Ok(())
                })?;
                Value::Map(values)
            }
            Schema::Union(branches) => {
                let branch = usize::try_from(self.long()?).ok().and_then(|index| branches.get(index));
                self.value(branch.ok_or("an unknown union branch")?)?
            }
            Schema::Record(fields) => Value::Record(self.record(fields)?),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn file(schema: &str, records: i64, body: &[u8]) -> Vec<u8> {
        let zig = |value: i64| {
            let mut value = ((value << 1) ^ (value >> 63)) as u64;
            let mut out = Vec::new();
            while value >= 0x80 {
                out.push(value as u8 | 0x80);
                value >>= 7;
            }
            out.push(value as u8);
            out
        };
        let mut out = b"Obj\x01".to_vec();
        out.extend(zig(1));
        for part in ["avro.schema", schema] {
            out.extend(zig(part.len() as i64));
            out.extend(part.as_bytes());
        }
        out.extend(zig(0));
        out.extend([7; 16]);
        out.extend(zig(records));
        out.extend(zig(body.len() as i64));
        out.extend(body);
        out.extend([7; 16]);
        out
    }

    #[test]
    fn a_uuid_in_a_fixed_is_sixteen_bytes_without_a_length() {
        let schema = r#"{"type":"record","name":"r","fields":[
            {"name":"u","field-id":1000,"type":["null",{"type":"fixed","name":"u16","size":16,"logicalType":"uuid"}]},
            {"name":"n","type":"int"}]}"#;
        let mut body = vec![2];
        body.extend([9; 16]);
        body.push(6);
        let file = File::decode(&file(schema, 1, &body)).unwrap();
        assert_eq!(file.fields[0].id, Some(1000));
        assert_eq!(file.records, vec![vec![Value::Bytes(vec![9; 16]), Value::Long(3)]]);
    }

    #[test]
    fn damage_is_an_error() {
        let schema = r#"{"type":"record","name":"r","fields":[{"name":"a","type":{"type":"array","items":"null"}}]}"#;
        // An array of 2^40 nulls, which take no bytes.
        let body = [0x80, 0x80, 0x80, 0x80, 0x80, 0x40, 0];
        assert!(File::decode(&file(schema, 1, &body)).is_err());
        let good = file(r#"{"type":"record","name":"r","fields":[{"name":"n","type":"long"}]}"#, 1, &[2]);
        assert!(File::decode(&good).is_ok());
        for cut in 0..good.len() {
            // A file that ends right before its first block is an empty one.
            let block = good.len() - 19;
            assert_eq!(File::decode(&good[..cut]).is_ok(), cut == block, "{cut}");
        }
        assert!(File::decode(b"PAR1").is_err());
    }
}
