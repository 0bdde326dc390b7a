//! `system.queries` and `system.sessions`: one's own for everyone, all with MANAGE QUERIES.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use lazaret_auth::PrincipalName;

use super::{SystemSources, Viewer};
use crate::activity::ShownStatement;
use crate::error::{Error, Result};
use crate::session::SessionSummary;

const UTC: &str = "UTC";

/// What is shown, and to whom.
pub(super) struct Watched<'a> {
    pub viewer: &'a Viewer,
    pub sources: &'a SystemSources,
    pub sees_all: bool,
}

impl Watched<'_> {
    fn is_own(&self, owner: &PrincipalName) -> bool {
        owner == self.viewer.rights.name()
    }

    fn shows(&self, owner: &PrincipalName) -> bool {
        self.sees_all || self.is_own(owner)
    }

    /// The names of another's place are shown to whoever sees it.
    fn place(&self, session: &SessionSummary) -> Option<(String, String)> {
        let namespace = &self.viewer.namespace;
        let is_seen = || {
            let mut catalogs = namespace.visible_catalogs().into_iter().filter(|catalog| catalog.name == session.catalog);
            let has = |name: &str| name == session.schema;
            catalogs.any(|catalog| {
                namespace.visible_schemas(catalog).into_iter().any(|schema| has(&schema.name)) || namespace.reserved_schemas().any(has)
            })
        };
        (self.is_own(&session.principal) || is_seen()).then(|| (session.catalog.clone(), session.schema.clone()))
    }
}

pub(super) fn queries_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            text("statement_id", false),
            text("session_id", false),
            text("principal", false),
            text("client_address", true),
            text("client_driver", true),
            text("statement", false),
            text("state", false),
            moment("started"),
            number("duration_us", false),
            number("rows_returned", false),
            number("bytes_returned", false),
            number("memory_bytes", true),
            text("emergency", true),
        ]))
    });
    Arc::clone(&SCHEMA)
}

pub(super) fn queries(watched: &Watched<'_>) -> Result<RecordBatch> {
    let shown = watched.sources.activity.list(|owner| watched.shows(owner));
    let texts = |of: &dyn Fn(&ShownStatement) -> Option<String>| texts(shown.iter().map(of));
    let numbers = |of: &dyn Fn(&ShownStatement) -> Option<u64>| numbers(shown.iter().map(of));
    let columns = vec![
        texts(&|it| Some(it.facts.statement_id.clone())),
        texts(&|it| Some(it.facts.session_id.clone())),
        texts(&|it| Some(it.facts.principal.to_string())),
        texts(&|it| it.facts.client_address.clone()),
        texts(&|it| it.facts.client_driver.clone()),
        texts(&|it| Some(it.facts.statement.clone())),
        texts(&|it| Some(it.state.to_owned())),
        moments(shown.iter().map(|it| it.started)),
        numbers(&|it| Some(it.duration_us)),
        numbers(&|it| Some(it.rows)),
        numbers(&|it| Some(it.bytes)),
        numbers(&|it| it.memory_bytes),
        texts(&|it| it.facts.emergency.clone()),
    ];
    RecordBatch::try_new(queries_schema(), columns).map_err(Error::internal)
}

pub(super) fn sessions_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            text("session_id", false),
            text("principal", false),
            text("client_address", true),
            text("client_driver", true),
            text("catalog", true),
            text("schema", true),
            moment("started"),
            moment("last_used"),
        ]))
    });
    Arc::clone(&SCHEMA)
}

pub(super) fn sessions(watched: &Watched<'_>) -> Result<RecordBatch> {
    let mut shown = watched.sources.sessions.list();
    shown.retain(|it| watched.shows(&it.principal));
    shown.sort_by_key(|it| it.started);
    let places: Vec<_> = shown.iter().map(|it| watched.place(it)).collect();
    let texts_of = |of: &dyn Fn(&SessionSummary) -> Option<String>| texts(shown.iter().map(of));
    let now = SystemTime::now();
    let columns = vec![
        texts_of(&|it| Some(it.id.clone())),
        texts_of(&|it| Some(it.principal.to_string())),
        texts_of(&|it| it.client_address.clone()),
        texts_of(&|it| it.client_driver.clone()),
        texts(places.iter().map(|place| place.as_ref().map(|(catalog, _)| catalog.clone()))),
        texts(places.iter().map(|place| place.as_ref().map(|(_, schema)| schema.clone()))),
        moments(shown.iter().map(|it| it.started)),
        moments(shown.iter().map(|it| now.checked_sub(it.last_used.elapsed()).unwrap_or(now))),
    ];
    RecordBatch::try_new(sessions_schema(), columns).map_err(Error::internal)
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn number(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Int64, nullable)
}

fn moment(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())), false)
}

fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn numbers(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.map(|value| value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))).collect::<Int64Array>())
}

fn moments(values: impl Iterator<Item = SystemTime>) -> ArrayRef {
    let micros =
        |time: SystemTime| i64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros()).unwrap_or(i64::MAX);
    Arc::new(TimestampMicrosecondArray::from_iter_values(values.map(micros)).with_timezone(UTC))
}
