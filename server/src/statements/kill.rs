//! KILL QUERY and KILL SESSION. Whose is whose is not told: what is not there and what is not one's own read the same.

use lazaret_auth::grant::authorize_system;
use lazaret_auth::{PrincipalName, Privilege, SystemPrivilege};

use super::StatementContext;
use crate::engine::UpdateOutcome;
use crate::error::{Error, Result};
use crate::sql::statement::KillTarget;

/// One's own; with MANAGE QUERIES, anybody's. What has begun to change the catalog comes to its end.
pub fn kill(context: &StatementContext, what: KillTarget, id: &str) -> Result<UpdateOutcome> {
    let state = context.metadata.current();
    let rights = context.authority(state.as_ref());
    let manages = authorize_system(state.as_ref(), &rights, Privilege::System(SystemPrivilege::ManageQueries)).is_ok();
    let may_end = |owner: &PrincipalName| manages || owner == rights.name();
    let (found, word) = match what {
        KillTarget::Query => (context.activity.kill(id, may_end), "query"),
        KillTarget::Session => (context.sessions.kill(id, may_end), "session"),
    };
    if found { Ok(UpdateOutcome::default()) } else { Err(Error::not_found(word, id)) }
}
