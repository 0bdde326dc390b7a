//! What a section of the configuration declares: its fields, each with its doc lines, the shape of its value and its
//! default, in one place.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::values::{Address, OptionalAddress, Secret, Size};

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub doc: &'static [&'static str],
    pub shape: Shape,
}

/// What a key may hold.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Text,
    Secret,
    Path,
    Integer,
    Bool,
    Size,
    Address,
    OptionalAddress,
    /// Of texts.
    List,
    /// `[name]`
    Section(&'static [Field]),
    /// `[[name]]`
    Sections(&'static [Field]),
    /// `[name.any]`
    NamedSections(&'static [Field]),
}

pub trait Section {
    const ABOUT: &'static [&'static str];
    const FIELDS: &'static [Field];
}

pub trait Shaped {
    const SHAPE: Shape;
}

/// Declares a section: the struct as serde reads it, its defaults, and its [`Field`]s.
macro_rules! section {
    ($(#[doc = $about:literal])+ pub struct $name:ident { $($(#[doc = $doc:literal])+ pub $field:ident: $type:ty = $default:expr,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::config::section::Section for $name {
            const ABOUT: &'static [&'static str] = &[$($about),+];
            const FIELDS: &'static [$crate::config::section::Field] = &[$(
                $crate::config::section::Field {
                    name: stringify!($field),
                    doc: &[$($doc),+],
                    shape: <$type as $crate::config::section::Shaped>::SHAPE,
                },
            )+];
        }
    };
}
pub(super) use section;

macro_rules! shaped {
    ($($type:ty: $shape:ident,)+) => {
        $(impl Shaped for $type { const SHAPE: Shape = Shape::$shape; })+
    };
}

shaped! {
    String: Text,
    Secret: Secret,
    PathBuf: Path,
    u64: Integer,
    bool: Bool,
    Size: Size,
    Address: Address,
    OptionalAddress: OptionalAddress,
    Vec<String>: List,
    Vec<PathBuf>: List,
}

impl<T: Shaped> Shaped for Option<T> {
    const SHAPE: Shape = T::SHAPE;
}

impl<T: Section> Shaped for T {
    const SHAPE: Shape = Shape::Section(T::FIELDS);
}

impl<T: Section> Shaped for Vec<T> {
    const SHAPE: Shape = Shape::Sections(T::FIELDS);
}

impl<T: Section> Shaped for BTreeMap<String, T> {
    const SHAPE: Shape = Shape::NamedSections(T::FIELDS);
}

impl Shape {
    /// A value from the file, in the form that serde reads; or why it cannot be one.
    pub fn check(self, value: toml::Value) -> Result<toml::Value, String> {
        match (self, &value) {
            (Self::Text | Self::Secret | Self::Path, toml::Value::String(_)) | (Self::Bool, toml::Value::Boolean(_)) => Ok(value),
            (Self::Integer, toml::Value::Integer(number)) if *number >= 0 => Ok(value),
            (Self::Size, toml::Value::Integer(_) | toml::Value::String(_)) => {
                value.clone().try_into::<Size>().map(|_| value).map_err(message)
            }
            (Self::Address, toml::Value::String(_)) => value.clone().try_into::<Address>().map(|_| value).map_err(message),
            (Self::OptionalAddress, toml::Value::String(_)) => value.clone().try_into::<OptionalAddress>().map(|_| value).map_err(message),
            (Self::List, toml::Value::Array(items)) if items.iter().all(toml::Value::is_str) => Ok(value),
            (Self::Integer, toml::Value::Integer(number)) => Err(format!("expected {}, found {number}", self.wanted())),
            _ => Err(format!("expected {}, found {}", self.wanted(), value.type_str())),
        }
    }

    /// A value from a variable or a flag.
    pub fn parse(self, text: &str) -> Result<toml::Value, String> {
        let value = match self {
            Self::Integer => toml::Value::Integer(text.trim().parse().map_err(|_| format!("expected {}, found {text:?}", self.wanted()))?),
            Self::Bool => toml::Value::Boolean(text.trim().parse().map_err(|_| format!("expected {}, found {text:?}", self.wanted()))?),
            Self::List => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect())
            }
            _ => toml::Value::String(text.to_owned()),
        };
        self.check(value)
    }

    /// In words, for errors and documentation.
    pub fn wanted(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Secret => "text",
            Self::Path => "a path",
            Self::Integer => "a whole number, 0 or more",
            Self::Bool => "true or false",
            Self::Size => "bytes, or percent such as \"80%\"",
            Self::Address => "an address such as \"127.0.0.1:32010\"",
            Self::OptionalAddress => "an address such as \"127.0.0.1:32011\", or \"\"",
            Self::List => "a list of texts",
            Self::Section(_) | Self::NamedSections(_) => "a section",
            Self::Sections(_) => "a list of sections",
        }
    }

    /// The fields of a section, whichever way it is written.
    pub fn fields(self) -> Option<&'static [Field]> {
        match self {
            Self::Section(fields) | Self::Sections(fields) | Self::NamedSections(fields) => Some(fields),
            _ => None,
        }
    }
}

fn message(error: toml::de::Error) -> String {
    error.message().to_owned()
}
