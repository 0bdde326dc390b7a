//! Emergency access: for a short time, in one session, row policies and masks do not bind the one who asked for it.
//!
//! It gives no privilege: what its holder has no grant for, or is denied, stays so.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::ids::{EmergencyId, TableId};
use crate::principal::PrincipalName;

/// One stored use of it, kept for those who look after policies when it is over too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmergencyAccess {
    pub id: EmergencyId,
    pub holder: PrincipalName,
    /// In which it was set. In another one, of the same principal too, it lifts nothing.
    pub session: String,
    pub reason: String,
    /// Microseconds since 1970.
    pub started_us: u64,
    pub expires_us: u64,
    /// `None`: every table and view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<TableId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<EmergencyEnd>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmergencyEnd {
    pub at_us: u64,
    pub cause: EmergencyEndCause,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmergencyEndCause {
    /// END EMERGENCY ACCESS, of its holder or of somebody who manages policies.
    EndedBy(PrincipalName),
    Expired,
    /// The session was closed, expired or was killed.
    SessionOver,
    /// The holder no longer held the privilege.
    Revoked,
    ServerRestarted,
}

impl EmergencyAccess {
    pub fn is_in_force(&self, now: SystemTime) -> bool {
        self.end.is_none() && micros(now) < self.expires_us
    }

    pub fn covers(&self, table: TableId) -> bool {
        self.tables.as_ref().is_none_or(|tables| tables.contains(&table))
    }

    pub fn expires_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.expires_us)
    }
}

/// Microseconds since 1970, 0 before it.
pub fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
