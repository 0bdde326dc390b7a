//! From a credential to a [`Principal`], and from a principal to a [`Grant`].
//!
//! Nothing here knows DataFusion, tonic or a file format. What is stored (users, roles, privileges, policies)
//! is read through [`AccessReader`], which the catalog implements; policies travel as SQL text.

pub mod access;
mod authenticator;
mod clock;
mod credential;
mod error;
pub mod grant;
pub mod ids;
mod issuer;
mod jwks;
mod own_token;
pub mod password;
pub mod policy;
pub mod principal;
pub mod privilege;
mod sign_in;
#[cfg(test)]
mod testing;
mod throttle;
mod token;

pub use access::{AccessReader, Authority};
pub use authenticator::{Authenticator, AuthenticatorConfig, AuthenticatorError, StoredUser, UserDirectory};
pub use credential::{Credential, MAX_PASSWORD_BYTES, MAX_USER_NAME_BYTES, is_user_name};
pub use error::{AuthError, Reason};
pub use grant::{Denied, Grant, GrantedColumns, RowSecurity};
pub use ids::{CatalogId, GrantId, ObjectId, ObjectPath, PolicyId, RoleId, SchemaId, TableId, UserId};
pub use issuer::{IssuerConfig, IssuerError};
pub use jwks::KeysError;
pub use own_token::{IssuedToken, OWN_ISSUER, TokenKey, TokenKeyError};
pub use policy::{PolicyCommand, PolicyKind, RowPolicy};
pub use principal::{CredentialKind, Grantee, GroupName, LOCAL_ISSUER, Principal, PrincipalName};
pub use privilege::{Privilege, PrivilegeGrant, SystemPrivilege};
