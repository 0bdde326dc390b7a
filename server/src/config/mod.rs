//! The configuration: one struct, parsed once and passed down. Flags win over variables, variables over the file.
//!
//! Everything else here follows from the declaration below: which keys exist, what they may hold, their defaults, and
//! `docs/configuration.md`.

mod layers;
mod machine;
mod parts;
mod section;
mod show;
#[cfg(test)]
mod tests;
mod validate;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

pub use layers::{Loaded, Origin, Sources, load};
pub use show::{document, show};
pub use values::{Address, OptionalAddress, Secret, Size};

use section::section;

section! {
    /// Keys outside any section.
    pub struct Config {
        /// The address that Flight SQL listens on; port 0 picks a free one. An address that is not loopback needs `[tls]`, or `insecure = true`.
        pub listen: Address = Address::loopback(32010),
        /// The address of `/livez`, `/readyz` and `/metrics`, without TLS or password; port 0 picks a free one, `""` switches it off.
        pub admin_listen: OptionalAddress = OptionalAddress::loopback(32011),
        /// The folder of metadata, keys, audit, local warehouse and spill; made where it is missing. Like every path here that is not absolute, it is seen from the working directory of the process.
        pub data_dir: PathBuf = PathBuf::from("lazaret-data"),
        /// Local folders that LOCATION and COPY may name, such as `["/srv/lake"]`; absolute paths.
        pub allowed_paths: Vec<PathBuf> = Vec::new(),
        /// Where the catalog is kept; only `"sqlite"` (a file in the data folder) for now.
        pub metadata: String = "sqlite".to_owned(),
        /// Whether to serve without TLS on an address that is not loopback; gives a warning at every start.
        pub insecure: bool = false,
        /// The password of the user `admin`, used at the first start only. Empty: one is made, printed once on standard error, and stays valid until it is changed.
        pub admin_password: Secret = Secret::default(),
        /// A file that holds `admin_password`.
        pub admin_password_file: Option<PathBuf> = None,
        /// How the server encrypts connections; none: it does not.
        pub tls: Option<Tls> = None,
        /// The identity providers whose tokens are accepted; none: only users with passwords.
        pub issuers: Vec<Issuer> = Vec::new(),
        /// The object stores, each under any name; the longest matching `url` wins. A location that none matches uses the usual `AWS_…` variables.
        pub stores: BTreeMap<String, Store> = BTreeMap::new(),
        /// What one server, one session and one statement may use.
        pub limits: Limits = Limits::default(),
        /// How much memory each cache may hold.
        pub cache: Cache = Cache::default(),
        /// The record of every statement.
        pub audit: Audit = Audit::default(),
        /// What the server writes to standard error.
        pub log: Log = Log::default(),
    }
}

section! {
    /// How the server encrypts connections.
    pub struct Tls {
        /// The server's certificate chain, PEM. Required in this section.
        pub cert_file: PathBuf = PathBuf::new(),
        /// The private key of the certificate, PEM. Required in this section.
        pub key_file: PathBuf = PathBuf::new(),
        /// Certificates of the authorities that sign client certificates, PEM. Where it is given, clients must show one; one
        /// that shows nothing else is the user of its subject (`ALTER USER … SET CERTIFICATE SUBJECT`).
        pub client_ca_file: Option<PathBuf> = None,
    }
}

section! {
    /// An identity provider whose tokens are accepted. Exactly one of `jwks_url`, `jwks_file` and `public_key_file` is given.
    pub struct Issuer {
        /// The issuer's name here: principals are `"<name>:<subject>"`. It cannot be renamed, `local` is taken. Required.
        pub name: String = String::new(),
        /// What the claim `iss` must be, letter by letter. Required.
        pub issuer: String = String::new(),
        /// What the claim `aud` must name one of. Required.
        pub audience: Vec<String> = Vec::new(),
        /// Where the key set is fetched.
        pub jwks_url: Option<String> = None,
        /// A file that holds the key set.
        pub jwks_file: Option<PathBuf> = None,
        /// A file that holds one public key, PEM.
        pub public_key_file: Option<PathBuf> = None,
        /// The signature algorithms that are accepted; only asymmetric ones.
        pub algorithms: Vec<String> = vec!["RS256".to_owned(), "ES256".to_owned()],
        /// The claim that holds the subject.
        pub subject_claim: String = "sub".to_owned(),
        /// The claim that holds the groups.
        pub groups_claim: String = "groups".to_owned(),
        /// By how many seconds the clocks may differ.
        pub leeway_s: u64 = 5,
    }
}

section! {
    /// An object store.
    pub struct Store {
        /// The locations that this store holds, such as `"s3://lake/"`. Required.
        pub url: String = String::new(),
        /// The address of an S3 look-alike.
        pub endpoint: Option<String> = None,
        /// The region of the bucket.
        pub region: Option<String> = None,
        /// The id of the access key.
        pub access_key_id: Secret = Secret::default(),
        /// A file that holds `access_key_id`.
        pub access_key_id_file: Option<PathBuf> = None,
        /// The secret of the access key.
        pub secret_access_key: Secret = Secret::default(),
        /// A file that holds `secret_access_key`.
        pub secret_access_key_file: Option<PathBuf> = None,
        /// Whether the endpoint may be `http://`.
        pub allow_http: bool = false,
    }
}

section! {
    /// What one server, one session and one statement may use.
    pub struct Limits {
        /// The memory that all queries together may use: bytes, or percent of what `cache.data_bytes` leaves of the machine's (or container's).
        pub memory_bytes: Size = Size::Percent(80),
        /// The memory that one query may use: bytes, or percent of `memory_bytes`.
        pub query_memory_bytes: Size = Size::Percent(50),
        /// The length of a statement's text.
        pub statement_bytes: u64 = 1_048_576,
        /// How long a statement may run; 0: for ever.
        pub query_timeout_s: u64 = 0,
        /// The sessions that are open at a time.
        pub sessions: u64 = 1000,
        /// The prepared and running statements of one session.
        pub statements_per_session: u64 = 100,
    }
}

section! {
    /// How much memory each cache may hold; 0 switches it off.
    pub struct Cache {
        /// Parquet footers with page index.
        pub footer_bytes: u64 = 268_435_456,
        /// Delta and Iceberg snapshots, manifests, file indexes and deleted rows, which have a fixed part of it each.
        pub snapshot_bytes: u64 = 536_870_912,
        /// Byte ranges of data files on remote stores; column chunks that are read often, decompressed: bytes, or percent of the machine's (or container's) memory.
        pub data_bytes: Size = Size::Percent(20),
    }
}

section! {
    /// The record of every statement.
    pub struct Audit {
        /// How long records are kept.
        pub retention_days: u64 = 3650,
        /// Whether records have the values that are bound to a statement's parameters; these can identify persons.
        pub parameters: bool = false,
    }
}

section! {
    /// What the server writes to standard error.
    pub struct Log {
        /// Which messages are written: a level, or levels by target, such as `"info,lazaret_server=debug"`.
        pub filter: String = "info,buoyant_kernel=warn,deltalake_core=warn".to_owned(),
        /// `"text"`, or `"json"` for one object a line.
        pub format: String = "text".to_owned(),
    }
}

/// What the sizes come to where some are given in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The machine's, or the container's.
    pub total_bytes: u64,
    pub data_cache_bytes: u64,
    pub all_queries_bytes: u64,
    pub one_query_bytes: u64,
}

impl Config {
    /// On this machine.
    pub fn memory(&self) -> Memory {
        self.memory_of(machine::memory_bytes())
    }

    fn memory_of(&self, total_bytes: u64) -> Memory {
        let data_cache_bytes = self.cache.data_bytes.of(total_bytes);
        let all_queries_bytes = self.limits.memory_bytes.of(total_bytes.saturating_sub(data_cache_bytes));
        Memory { total_bytes, data_cache_bytes, all_queries_bytes, one_query_bytes: self.limits.query_memory_bytes.of(all_queries_bytes) }
    }
}

/// Something in the configuration that cannot stand, and where it was said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    pub origin: Option<Origin>,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// All that is wrong, so that it can be put right in one go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}
