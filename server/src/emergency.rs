//! Emergency access as the server watches over it: an alarm when it begins, and its end recorded, whatever ends it.
//!
//! That it no longer lifts anything does not depend on this: every statement asks anew whether it is in force
//! ([`Authority::under_emergency`](lazaret_auth::Authority::under_emergency)).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use lazaret_auth::emergency::micros;
use lazaret_auth::{AccessReader, EmergencyAccess, EmergencyEnd, EmergencyEndCause, EmergencyId};
use lazaret_catalog::meta::{Change, ChangeError, Entity, Metadata, State};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::audit::{AuditError, AuditLog, StartRecord, Status};
use crate::session::Session;
use crate::telemetry::Metrics;

/// What a session keeps of the emergency access that was set in it. When it lets go, the [`Warden`] knows.
#[derive(Clone, Debug)]
pub struct Held {
    pub id: EmergencyId,
    /// By which it expires.
    pub clock: fn() -> SystemTime,
    _let_go: Arc<DropGuard>,
}

pub struct Warden {
    metadata: Arc<Metadata>,
    audit: AuditLog,
    metrics: Arc<Metrics>,
    pub clock: fn() -> SystemTime,
}

/// Why the end of an emergency access could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum WardenError {
    #[error("the end of an emergency access cannot be stored")]
    Metadata(#[from] ChangeError<Infallible>),
    #[error("the end of an emergency access cannot be audited")]
    Audit(#[from] AuditError),
}

impl Warden {
    pub fn new(metadata: Arc<Metadata>, audit: AuditLog, metrics: Arc<Metrics>, clock: fn() -> SystemTime) -> Self {
        Self { metadata, audit, metrics, clock }
    }

    /// At the start of the server, whose sessions are new: whatever was set before is over.
    pub async fn close_all(&self) -> Result<(), WardenError> {
        let open: Vec<EmergencyId> = open_ones(&self.metadata.current()).map(|access| access.id).collect();
        for id in open {
            self.close(id, EmergencyEndCause::ServerRestarted).await?;
        }
        Ok(())
    }

    /// Gives the session an access that has been stored, with an alarm, and watches for its end.
    pub fn begin(self: &Arc<Self>, session: &Session, access: &EmergencyAccess) {
        let left = access.expires_at().duration_since((self.clock)()).unwrap_or_default();
        tracing::warn!(
            emergency = %access.id,
            principal = %access.holder,
            session = access.session,
            reason = access.reason,
            minutes = left.as_secs().div_ceil(60),
            everything = access.tables.is_none(),
            "EMERGENCY ACCESS: row policies and masks are lifted"
        );
        self.metrics.emergency_began();
        let (let_go, session_over) = (CancellationToken::new(), session.life.over().clone());
        let held = Held { id: access.id, clock: self.clock, _let_go: Arc::new(let_go.clone().drop_guard()) };
        session.state.lock().emergency = Some(held);
        if session_over.is_cancelled() {
            session.state.lock().emergency = None;
        }
        let (warden, id, expires_at) = (Arc::clone(self), access.id, access.expires_at());
        tokio::spawn(async move {
            let timed_out = tokio::select! {
                () = tokio::time::sleep(left) => true,
                () = let_go.cancelled() => false,
                () = session_over.cancelled() => false,
            };
            let cause = if session_over.is_cancelled() {
                EmergencyEndCause::SessionOver
            } else if timed_out || (warden.clock)() >= expires_at {
                EmergencyEndCause::Expired
            } else {
                EmergencyEndCause::Revoked
            };
            if let Err(error) = warden.close(id, cause).await {
                tracing::error!(emergency = %id, error = &error as &dyn std::error::Error, "the end of an emergency access is not recorded");
            }
        });
    }

    /// Stores and audits the end, where none is stored yet.
    async fn close(&self, id: EmergencyId, cause: EmergencyEndCause) -> Result<(), WardenError> {
        let mut closed = None;
        let at_us = micros((self.clock)());
        self.metadata
            .change(|state| {
                let open = state.emergency_access(id).filter(|access| access.end.is_none());
                closed = open.map(|access| ended(access, at_us, cause.clone()));
                Ok::<_, Infallible>(closed.iter().map(|access| Change::Put(Entity::EmergencyAccess(access.clone()))).collect())
            })
            .await?;
        let Some(access) = closed else { return Ok(()) };
        let cause = cause_text(&cause);
        tracing::warn!(emergency = %id, principal = %access.holder, cause, "EMERGENCY ACCESS is over");
        let record = StartRecord {
            statement_id: uuid::Uuid::now_v7().simple().to_string(),
            session_id: access.session.clone(),
            principal: access.holder.to_string(),
            issuer: access.holder.issuer.clone(),
            subject: access.holder.subject.clone(),
            statement: format!("-- emergency access {id} is over: {cause}"),
            policies: serde_json::Value::Array(Vec::new()),
            emergency: Some(id.to_string()),
            ..StartRecord::default()
        };
        self.audit.start(record).await?.finish_durably(Status::Ok, None).await?;
        Ok(())
    }
}

/// Those of which no end is stored.
pub fn open_ones(state: &State) -> impl Iterator<Item = &EmergencyAccess> {
    state.emergencies().map(Arc::as_ref).filter(|access| access.end.is_none())
}

pub fn ended(access: &EmergencyAccess, at_us: u64, cause: EmergencyEndCause) -> EmergencyAccess {
    EmergencyAccess { end: Some(EmergencyEnd { at_us, cause }), ..access.clone() }
}

/// As SHOW EMERGENCY ACCESS and the audit have it.
pub fn cause_text(cause: &EmergencyEndCause) -> String {
    match cause {
        EmergencyEndCause::EndedBy(name) => format!("ended by {name}"),
        EmergencyEndCause::Expired => "expired".to_owned(),
        EmergencyEndCause::SessionOver => "session over".to_owned(),
        EmergencyEndCause::Revoked => "privilege revoked".to_owned(),
        EmergencyEndCause::ServerRestarted => "server restarted".to_owned(),
    }
}
