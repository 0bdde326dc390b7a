//! From a credential to a [`Principal`], and from a principal to a [`Grant`].
//!
//! Nothing here knows DataFusion, tonic or a file format. What is stored (users, roles, privileges, policies)
//! is read through [`AccessReader`], which the catalog implements; policies travel as SQL text.

pub mod access;
mod authenticator;
mod certificate;
mod clock;
mod credential;
pub mod effective;
pub mod emergency;
mod error;
pub mod grant;
pub mod ids;
mod issuer;
mod jwks;
mod mask_key;
mod own_token;
pub mod password;
pub mod policy;
pub mod principal;
pub mod privilege;
mod service_token;
mod sign_in;
#[cfg(test)]
mod testing;
mod throttle;
mod token;

pub use access::{AccessReader, ActiveRoles, Authority};
pub use authenticator::{Authenticator, AuthenticatorConfig, AuthenticatorError, StoredToken, StoredUser, UserDirectory};
pub use certificate::{CertificateSubject, ClientCertificate, SubjectError};
pub use credential::{Credential, MAX_PASSWORD_BYTES, MAX_USER_NAME_BYTES, is_user_name};
pub use emergency::{EmergencyAccess, EmergencyEnd, EmergencyEndCause};
pub use error::{AuthError, Reason};
pub use grant::{ColumnMask, Denied, Grant, GrantedColumns, InsertGrant, Lifted, RowSecurity};
pub use ids::{CatalogId, EmergencyId, GrantId, ObjectId, ObjectPath, PolicyId, RoleId, SchemaId, TableId, TokenId, UserId};
pub use issuer::{IssuerConfig, IssuerError};
pub use jwks::KeysError;
pub use mask_key::{MaskKey, MaskKeyError};
pub use own_token::{IssuedToken, OWN_ISSUER, TokenKey, TokenKeyError};
pub use policy::{
    CheckSubqueries, MaskAction, Masking, MaskingPolicy, PolicyCommand, PolicyKind, PolicySubqueries, PolicyText, RowPolicy, TextSubqueries,
};
pub use principal::{CredentialKind, Grantee, GroupName, LOCAL_ISSUER, Principal, PrincipalName};
pub use privilege::{Privilege, PrivilegeGrant, SystemPrivilege};
pub use service_token::{NewToken, TokenHash, hide_tokens};
