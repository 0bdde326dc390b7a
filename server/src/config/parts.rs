//! The configuration in the words of the parts that it configures.

use lazaret_auth::IssuerConfig;
use lazaret_catalog::caches::CacheLimits;
use lazaret_catalog::stores::{StoreConfig, StoresConfig};

use super::{Config, Issuer, Secret, Store};

impl Config {
    pub fn issuer_configs(&self) -> Vec<IssuerConfig> {
        self.issuers.iter().map(issuer).collect()
    }

    pub fn stores_config(&self) -> StoresConfig {
        StoresConfig {
            stores: self.stores.iter().map(|(name, section)| store(name, section)).collect(),
            allowed_paths: self.allowed_paths.clone(),
            warehouse: self.data_dir.join("warehouse"),
        }
    }

    pub fn cache_limits(&self) -> CacheLimits {
        CacheLimits {
            footer_bytes: self.cache.footer_bytes,
            snapshot_bytes: self.cache.snapshot_bytes,
            data_bytes: self.memory().data_cache_bytes,
            ..CacheLimits::default()
        }
    }
}

fn issuer(section: &Issuer) -> IssuerConfig {
    IssuerConfig {
        name: section.name.clone(),
        issuer: section.issuer.clone(),
        audience: section.audience.clone(),
        jwks_url: section.jwks_url.clone(),
        jwks_file: section.jwks_file.clone(),
        public_key_file: section.public_key_file.clone(),
        algorithms: section.algorithms.clone(),
        subject_claim: section.subject_claim.clone(),
        groups_claim: section.groups_claim.clone(),
        leeway_s: section.leeway_s,
    }
}

fn store(name: &str, section: &Store) -> StoreConfig {
    let given = |secret: &Secret| (!secret.is_empty()).then(|| secret.expose().to_owned());
    StoreConfig {
        name: name.to_owned(),
        url: section.url.clone(),
        endpoint: section.endpoint.clone(),
        region: section.region.clone(),
        access_key_id: given(&section.access_key_id),
        secret_access_key: given(&section.secret_access_key),
        allow_http: section.allow_http,
    }
}
