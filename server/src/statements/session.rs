//! USE, SET, SET ROLE and RESET: what a session keeps between its statements.

use std::time::Duration;

use datafusion::prelude::SessionConfig;
use lazaret_auth::ActiveRoles;
use lazaret_catalog::meta::DEFAULT_SCHEMA;

use super::StatementContext;
use super::objects::{find_catalog, find_schema};
use crate::engine::UpdateOutcome;
use crate::error::{Error, ErrorKind, Position, Result};
use crate::session::{Session, SessionState};
use crate::sql::names::is_reserved_schema;
use crate::sql::statement::RoleChoice;
use crate::sql::{Ident, SchemaPath};

/// More partitions than any machine that we know has cores only cost memory.
const MAX_TARGET_PARTITIONS: u64 = 512;

/// Smaller batches cost more than they carry; larger ones take the memory of a query in one piece.
const BATCH_ROWS: (u64, u64) = (64, 65_536);

/// A statement that may run for a week has no limit in any sense.
const MAX_TIMEOUT_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Goes with the session into each catalog: the schema that a new catalog starts with.
pub async fn use_schema(context: &StatementContext, catalog: &Ident, schema: Option<&Ident>) -> Result<UpdateOutcome> {
    let state = context.metadata.current();
    let rights = context.authority(state.as_ref());
    let found = find_catalog(&state, &rights, catalog.as_str())?;
    if let Some(schema) = schema.filter(|schema| !is_reserved_schema(schema.as_str())) {
        let path = SchemaPath { catalog: found.name.clone(), schema: schema.as_str().to_owned() };
        find_schema(&state, &rights, &path)?;
    }
    must_keep_state(&context.session)?;
    let mut session = context.session.state.lock();
    session.catalog = found.name.clone();
    session.schema = schema.map_or(DEFAULT_SCHEMA, Ident::as_str).to_owned();
    Ok(UpdateOutcome::default())
}

pub fn set(context: &StatementContext, name: &str, value: &str) -> Result<UpdateOutcome> {
    let setting = Setting::named(name)?;
    let value = (setting.check)(value.trim())
        .map_err(|wanted| Error::invalid(format!("setting \"{}\" takes {wanted}, not '{value}'", setting.name)))?;
    must_keep_state(&context.session)?;
    context.session.state.lock().settings.insert(setting.name.to_owned(), value);
    Ok(UpdateOutcome::default())
}

/// `None`: all of them.
pub fn reset(context: &StatementContext, name: Option<&str>) -> Result<UpdateOutcome> {
    let setting = name.map(Setting::named).transpose()?;
    let mut session = context.session.state.lock();
    match setting {
        Some(setting) => {
            session.settings.remove(setting.name);
        }
        None => session.settings.clear(),
    }
    Ok(UpdateOutcome::default())
}

/// Which of the roles that are held count for what the session may do; what binds stays bound.
pub fn set_role(context: &StatementContext, choice: &RoleChoice) -> Result<UpdateOutcome> {
    let state = context.metadata.current();
    let roles = match choice {
        RoleChoice::All => ActiveRoles::All,
        RoleChoice::None => ActiveRoles::None,
        RoleChoice::Only(name) => {
            let rights = context.authority(state.as_ref());
            let role = state.role(name.as_str()).filter(|role| rights.held_roles().contains(&role.id));
            // The same words for a role that is there and for one that is not.
            let Position { line, column } = name.position;
            let not_held = || Error::new(ErrorKind::NotFound, format!("role \"{name}\" not found among those that you hold"));
            ActiveRoles::Only(role.ok_or_else(|| not_held().at(line, column))?.id)
        }
    };
    must_keep_state(&context.session)?;
    context.session.state.lock().active_roles = roles;
    Ok(UpdateOutcome::default())
}

pub(super) fn must_keep_state(session: &Session) -> Result<()> {
    if session.keeps_state() {
        return Ok(());
    }
    let text = "this connection keeps no session, so settings would be lost: log in with a password, or enable cookies in the driver";
    Err(Error::new(ErrorKind::FailedPrecondition, text))
}

/// The settings of a session, as the engine needs them. `None`: the server's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub target_partitions: Option<usize>,
    pub batch_size: Option<usize>,
    /// Never longer than the server's own limit, which the engine sees to.
    pub statement_timeout: Option<Duration>,
}

impl Settings {
    pub fn apply(&self, mut config: SessionConfig) -> SessionConfig {
        if let Some(partitions) = self.target_partitions {
            config = config.with_target_partitions(partitions);
        }
        if let Some(rows) = self.batch_size {
            config = config.with_batch_size(rows);
        }
        config
    }
}

impl From<&SessionState> for Settings {
    fn from(session: &SessionState) -> Self {
        let number = |name| session.settings.get(name).and_then(|value| value.parse::<u64>().ok()).filter(|value| *value > 0);
        let size = |name| number(name).and_then(|value| usize::try_from(value).ok());
        Self {
            target_partitions: size(TARGET_PARTITIONS.name),
            batch_size: size(BATCH_SIZE.name),
            statement_timeout: number(STATEMENT_TIMEOUT.name).map(Duration::from_millis),
        }
    }
}

/// A setting that a session may change. All others belong to the server.
struct Setting {
    name: &'static str,
    /// Shown where nothing was set.
    default: &'static str,
    about: &'static str,
    /// The value as it is kept, or what would have been one.
    check: fn(&str) -> Result<String, String>,
}

const TARGET_PARTITIONS: Setting = Setting {
    name: "target_partitions",
    default: "the server's",
    about: "how many parts of a query run at the same time",
    check: |value| number(value, 1, MAX_TARGET_PARTITIONS),
};

const BATCH_SIZE: Setting = Setting {
    name: "batch_size",
    default: "the server's",
    about: "rows that are worked on at a time",
    check: |value| number(value, BATCH_ROWS.0, BATCH_ROWS.1),
};

const STATEMENT_TIMEOUT: Setting = Setting {
    name: "statement_timeout_ms",
    default: "0",
    about: "milliseconds that a statement may run, within the server's limit; 0: up to that",
    check: |value| number(value, 0, MAX_TIMEOUT_MS),
};

const TIME_ZONE: Setting = Setting { name: "timezone", default: "UTC", about: "the session's time zone: always UTC", check: utc };

/// In order of name.
static SETTINGS: [Setting; 4] = [BATCH_SIZE, STATEMENT_TIMEOUT, TARGET_PARTITIONS, TIME_ZONE];

impl Setting {
    fn named(name: &str) -> Result<&'static Self> {
        let name = name.to_ascii_lowercase();
        let wanted = if name == "time_zone" { TIME_ZONE.name } else { &name };
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == wanted) {
            return Ok(setting);
        }
        // What DataFusion calls `datafusion.execution.batch_size` is looked for by its last part.
        let last = name.rsplit('.').next().unwrap_or(&name);
        let nearest = SETTINGS.iter().min_by_key(|setting| strsim::levenshtein(setting.name, last)).map_or("", |setting| setting.name);
        Err(Error::invalid(format!("there is no setting \"{name}\"; the nearest is \"{nearest}\" (SHOW SETTINGS lists them)")))
    }
}

/// One line of SHOW SETTINGS and `system.settings`.
pub(crate) struct ShownSetting {
    pub name: &'static str,
    pub value: String,
    pub about: &'static str,
}

/// In order of name.
pub(crate) fn shown_settings(session: &SessionState) -> Vec<ShownSetting> {
    let value = |setting: &Setting| session.settings.get(setting.name).cloned().unwrap_or_else(|| setting.default.to_owned());
    SETTINGS.iter().map(|setting| ShownSetting { name: setting.name, value: value(setting), about: setting.about }).collect()
}

fn number(value: &str, least: u64, most: u64) -> Result<String, String> {
    let number = value.parse::<u64>().ok().filter(|number| (least..=most).contains(number));
    number.map(|number| number.to_string()).ok_or_else(|| format!("a whole number from {least} to {most}"))
}

fn utc(value: &str) -> Result<String, String> {
    let is_utc = ["utc", "etc/utc", "z", "+00:00"].contains(&value.to_ascii_lowercase().as_str());
    if is_utc { Ok("UTC".to_owned()) } else { Err("only UTC".to_owned()) }
}
