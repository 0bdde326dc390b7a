//! Object stores: which locations may be named, and the one store behind each.

use std::path::PathBuf;

/// `[stores.NAME]` of the configuration.
#[derive(Clone, Default)]
pub struct StoreConfig {
    pub name: String,
    /// Such as `s3://lake/`; the longest matching url wins.
    pub url: String,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    pub allow_http: bool,
}

#[derive(Clone, Default)]
pub struct StoresConfig {
    pub stores: Vec<StoreConfig>,
    /// Local folders that LOCATION and COPY may name.
    pub allowed_paths: Vec<PathBuf>,
    /// `<data dir>/warehouse`: managed tables, never nameable in a LOCATION.
    pub warehouse: PathBuf,
}

pub struct Stores {
    config: StoresConfig,
}

impl Stores {
    pub fn new(config: StoresConfig) -> Self {
        Self { config }
    }

    pub fn warehouse(&self) -> &std::path::Path {
        &self.config.warehouse
    }
}
