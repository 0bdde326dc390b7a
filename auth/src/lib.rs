//! From a credential to a [`Principal`], and from a principal to a [`Grant`].
//!
//! Nothing here knows DataFusion, tonic or a file format. What is stored (users, roles, privileges, policies)
//! is read through [`AccessReader`], which the catalog implements; policies travel as SQL text.

pub mod access;
pub mod grant;
pub mod ids;
pub mod policy;
pub mod principal;
pub mod privilege;

pub use access::{AccessReader, Authority};
pub use grant::{Denied, Grant, GrantedColumns, RowSecurity};
pub use ids::{CatalogId, GrantId, ObjectId, ObjectPath, PolicyId, RoleId, SchemaId, TableId, UserId};
pub use policy::{PolicyCommand, PolicyKind, RowPolicy};
pub use principal::{CredentialKind, Grantee, GroupName, LOCAL_ISSUER, Principal, PrincipalName};
pub use privilege::{Privilege, PrivilegeGrant, SystemPrivilege};
