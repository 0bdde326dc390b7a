//! Session options: SetSessionOptions, GetSessionOptions and CloseSession.
//!
//! Their bodies are bare protobuf, not packed in an `Any`, and arrow-flight 59 has no types for them. The messages are
//! those of Arrow's Flight.proto.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::objects::ObjectFilter;
use crate::error::{Error, ErrorKind, Result};
use crate::flight::sql_engine::SqlEngine;
use crate::session::{Session, SessionState};

#[derive(Clone, PartialEq, prost::Message)]
pub struct SessionOptionValue {
    /// Absent: erase the option.
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub option_value: Option<OptionValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OptionValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    Texts(StringListValue),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StringListValue {
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub errors: HashMap<String, OptionError>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct OptionError {
    #[prost(enumeration = "OptionErrorValue", tag = "1")]
    pub value: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum OptionErrorValue {
    Unspecified = 0,
    InvalidName = 1,
    InvalidValue = 2,
    Error = 3,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CloseSessionResult {
    #[prost(enumeration = "CloseSessionStatus", tag = "1")]
    pub status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum CloseSessionStatus {
    Unspecified = 0,
    Closed = 1,
    Closing = 2,
    NotCloseable = 3,
}

/// Sets what can be set, and says of each other option why not. A schema is looked for in the catalog that is set with it.
pub async fn set_options(
    engine: &dyn SqlEngine,
    session: &Arc<Session>,
    initial: &SessionState,
    request: SetSessionOptionsRequest,
) -> Result<SetSessionOptionsResult> {
    if !session.keeps_state() {
        let text = "this connection keeps no session, so options would be lost: log in with a password, or enable cookies in the driver";
        return Err(Error::new(ErrorKind::FailedPrecondition, text));
    }
    let mut errors = HashMap::new();
    let (mut catalog, mut schema) = (None, None);
    for (name, value) in request.session_options {
        let (wanted, default) = match name.as_str() {
            "catalog" => (&mut catalog, &initial.catalog),
            "schema" => (&mut schema, &initial.schema),
            _ => {
                errors.insert(name, OptionErrorValue::InvalidName);
                continue;
            }
        };
        match value.option_value {
            Some(OptionValue::Text(text)) if !text.is_empty() => *wanted = Some(text),
            None => *wanted = Some(default.clone()),
            Some(_) => {
                errors.insert(name, OptionErrorValue::InvalidValue);
            }
        }
    }
    if let Some(wanted) = &catalog
        && !engine.visible_catalogs(session).await?.contains(wanted)
    {
        errors.insert("catalog".to_owned(), OptionErrorValue::InvalidValue);
        catalog = None;
    }
    if let Some(wanted) = &schema {
        let within = catalog.clone().unwrap_or_else(|| session.state.lock().catalog.clone());
        let filter = ObjectFilter { catalog: Some(within.clone()), ..ObjectFilter::default() };
        if !engine.visible_schemas(session, &filter).await?.contains(&(within, wanted.clone())) {
            errors.insert("schema".to_owned(), OptionErrorValue::InvalidValue);
            schema = None;
        }
    }
    {
        let mut state = session.state.lock();
        state.catalog = catalog.unwrap_or_else(|| state.catalog.clone());
        state.schema = schema.unwrap_or_else(|| state.schema.clone());
    }
    let errors = errors.into_iter().map(|(name, error)| (name, OptionError { value: error.into() }));
    Ok(SetSessionOptionsResult { errors: errors.collect() })
}

pub fn get_options(session: &Session) -> GetSessionOptionsResult {
    let state = session.state.lock();
    let options = [("catalog", &state.catalog), ("schema", &state.schema)];
    let option = |value: &String| SessionOptionValue { option_value: Some(OptionValue::Text(value.clone())) };
    GetSessionOptionsResult { session_options: options.map(|(name, value)| (name.to_owned(), option(value))).into() }
}
