//! Object stores: which locations may be named, and the one store behind each.
//!
//! A location is checked twice: where a user names it ([`Stores::locate`]) and by the store itself, which for local
//! files refuses every path outside the allowed folders and the warehouse, whoever asks.

mod counting;
mod identity;
mod location;
mod resident;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::DataFusionError;
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, RetryConfig};
use parking_lot::Mutex;
use url::Url;

pub(crate) use counting::{CountingStore, RequestCounters, replaced};
pub use counting::{RequestCounts, RequestKind};
pub(crate) use identity::Identity;
pub use location::{Location, LocationError};

/// For how long one request to a store is tried again: long enough for a leader election behind the store, short
/// enough that a wrong endpoint shows as an error while the user still waits.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);
const RETRIES: usize = 5;

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
    /// Without symbolic links; those that exist.
    allowed: Vec<PathBuf>,
    warehouse: PathBuf,
    /// By the store part of a location, such as `s3://lake`.
    open: Mutex<HashMap<Arc<str>, Arc<CountingStore>>>,
    requests: Arc<RequestCounters>,
}

impl Stores {
    pub fn new(config: StoresConfig) -> Self {
        // A folder that is not there yet keeps its name; nothing can be read below it until it is made.
        let real = |path: &PathBuf| location::real_path(path).unwrap_or_else(|_| path.clone());
        Self {
            allowed: config.allowed_paths.iter().map(real).collect(),
            warehouse: real(&config.warehouse),
            config,
            open: Mutex::default(),
            requests: Arc::default(),
        }
    }

    pub fn warehouse(&self) -> &FsPath {
        &self.warehouse
    }

    /// Where files are made that then go to another store: beside the warehouse.
    pub fn staging(&self) -> PathBuf {
        self.warehouse.with_file_name("staging")
    }

    /// How many requests went to the stores since the start.
    pub fn requests(&self) -> RequestCounts {
        self.requests.snapshot()
    }

    /// What a user wrote in `LOCATION`, checked and made canonical: an absolute local path or `file://` URL below an
    /// allowed folder and not in the warehouse, or `s3://`.
    pub fn locate(&self, text: &str) -> Result<Location, LocationError> {
        let location = self.parse(text)?;
        match location.local_path() {
            Some(path) if path.starts_with(&self.warehouse) => Err(LocationError::NotAllowed { location: text.to_owned() }),
            Some(path) if !self.allowed.iter().any(|root| path.starts_with(root)) => {
                Err(LocationError::NotAllowed { location: text.to_owned() })
            }
            None if !self.has_keys(&location) => Err(LocationError::NotAllowed { location: text.to_owned() }),
            _ => Ok(location),
        }
    }

    /// Whether a bucket is configured, or the environment has keys for it.
    fn has_keys(&self, location: &Location) -> bool {
        let bucket = location.store().split_once("://").map_or("", |(_, bucket)| bucket);
        environment_has_keys() || self.config.stores.iter().any(|store| covers(&store.url, bucket, location.path().as_ref()))
    }

    /// A location out of the metadata store or out of a table's own metadata: like [`Self::locate`], but it may lie
    /// in the warehouse.
    pub fn resolve(&self, text: &str) -> Result<Location, LocationError> {
        let location = self.parse(text)?;
        match location.local_path() {
            Some(path) if !self.is_readable(&path) => Err(LocationError::NotAllowed { location: text.to_owned() }),
            _ => Ok(location),
        }
    }

    /// A location that is kept: canonical when it was named, it must be so still. Where a folder has become a symbolic link,
    /// it would lead to other files than those that were registered.
    pub fn resolve_kept(&self, text: &str) -> Result<Location, LocationError> {
        let location = self.resolve(text)?;
        match location.local_path() {
            Some(real) if !location::is_written_as(text, &real) => Err(LocationError::NotAllowed { location: text.to_owned() }),
            _ => Ok(location),
        }
    }

    /// Whether a table's metadata may name what lies outside the table's own folder: below an allowed path or a
    /// configured store, and not in the warehouse.
    pub(crate) fn may_name(&self, text: &str) -> bool {
        let Ok(location) = self.locate(text) else { return false };
        let bucket = location.store().split_once("://").map_or("", |(_, bucket)| bucket);
        location.local_path().is_some() || self.config.stores.iter().any(|store| covers(&store.url, bucket, location.path().as_ref()))
    }

    /// Puts a store in place of the one that would be made.
    #[cfg(test)]
    pub(crate) fn put(&self, store: &str, object_store: Arc<dyn ObjectStore>) {
        let counting = CountingStore::new(object_store, Arc::clone(&self.requests), None);
        self.open.lock().insert(Arc::from(store), Arc::new(counting));
    }

    /// The location of a path in a store.
    pub(crate) fn at(&self, store: &str, path: object_store::path::Path) -> Result<Location, LocationError> {
        match store {
            "file://" => location::from_local_path(&FsPath::new("/").join(path.as_ref())),
            _ => Ok(location::in_bucket(store, path)),
        }
    }

    /// The folder of a managed table, such as `<data dir>/warehouse/<table id>`.
    pub fn managed(&self, folder: &str) -> Result<Location, LocationError> {
        location::from_local_path(&self.warehouse.join(folder))
    }

    /// The store of a location or of a data file, such as `s3://lake` or `file://`.
    pub fn store(&self, store: &str) -> Result<Arc<dyn ObjectStore>, LocationError> {
        self.counting(store).map(|store| store as Arc<dyn ObjectStore>)
    }

    pub(crate) fn counting(&self, store: &str) -> Result<Arc<CountingStore>, LocationError> {
        let store = store.trim_end_matches('/');
        let store = if store == "file:" { "file://" } else { store };
        let mut open = self.open.lock();
        if let Some(found) = open.get(store) {
            return Ok(Arc::clone(found));
        }
        let made = self.make(store)?;
        open.insert(Arc::from(store), Arc::clone(&made));
        Ok(made)
    }

    fn is_readable(&self, path: &FsPath) -> bool {
        path.starts_with(&self.warehouse) || self.allowed.iter().any(|root| path.starts_with(root))
    }

    fn parse(&self, text: &str) -> Result<Location, LocationError> {
        location::parse(text, |bucket, key| self.s3_store(bucket, key))
    }

    /// The name of the store for an object: the bucket's own, or one per configured store where that covers only a
    /// part of the bucket and may have keys of its own.
    fn s3_store(&self, bucket: &str, key: &str) -> String {
        let best = self
            .config
            .stores
            .iter()
            .enumerate()
            .filter(|(_, store)| covers(&store.url, bucket, key))
            .max_by_key(|(_, store)| store.url.trim_end_matches('/').len());
        match best {
            Some((number, store)) if !key_prefix(&store.url).is_empty() => format!("s3-{number}://{bucket}"),
            _ => format!("s3://{bucket}"),
        }
    }

    fn make(&self, store: &str) -> Result<Arc<CountingStore>, LocationError> {
        let (scheme, bucket) = store.split_once("://").unwrap_or((store, ""));
        let inner: Arc<dyn ObjectStore> = if scheme == "file" {
            let roots = self.allowed.iter().chain([&self.warehouse]);
            let roots = roots.filter_map(|root| location::object_path(root).ok()).collect();
            return Ok(Arc::new(CountingStore::new(Arc::new(LocalFileSystem::new()), Arc::clone(&self.requests), Some(roots))));
        } else if scheme == "s3" {
            let whole = self.config.stores.iter().find(|it| key_prefix(&it.url).is_empty() && covers(&it.url, bucket, ""));
            s3(bucket, whole)?
        } else if let Some(config) = scheme.strip_prefix("s3-").and_then(|n| n.parse().ok()).and_then(|n: usize| self.config.stores.get(n))
        {
            s3(bucket, Some(config))?
        } else {
            return Err(LocationError::Scheme { scheme: scheme.to_owned() });
        };
        Ok(Arc::new(CountingStore::new(inner, Arc::clone(&self.requests), None)))
    }
}

/// The prefix in the bucket that a configured url names, without slashes at its ends.
fn key_prefix(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.split_once('/').map_or("", |(_, key)| key).trim_matches('/')
}

fn covers(url: &str, bucket: &str, key: &str) -> bool {
    let Some(rest) = url.strip_prefix("s3://").or_else(|| url.strip_prefix("s3a://")) else { return false };
    let prefix = key_prefix(url);
    rest.split('/').next() == Some(bucket)
        && (prefix.is_empty() || key == prefix || key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')))
}

/// Without keys the client would ask the machine's metadata service, which no statement may reach.
fn environment_has_keys() -> bool {
    let given = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
    given("AWS_ACCESS_KEY_ID") || given("AWS_SKIP_SIGNATURE")
}

fn s3(bucket: &str, config: Option<&StoreConfig>) -> Result<Arc<dyn ObjectStore>, LocationError> {
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let of_bucket = |source| LocationError::Store { bucket: bucket.to_owned(), source };
    // Endpoints are the configuration's: who asks is not told them.
    let unusable = |error: LocationError| of_bucket(object_store::Error::Generic { store: "S3", source: error.into() });
    let builder = match config {
        None => {
            if !environment_has_keys() {
                let reason = "no store is configured for it, and AWS_ACCESS_KEY_ID is not set".to_owned();
                return Err(LocationError::Invalid { location: format!("s3://{bucket}"), reason });
            }
            let builder = AmazonS3Builder::from_env();
            // Each has several variables.
            for key in [AmazonS3ConfigKey::Endpoint, AmazonS3ConfigKey::S3Endpoint] {
                if let Some(endpoint) = builder.get_config_value(&key) {
                    location::check_endpoint(&endpoint).map_err(unusable)?;
                }
            }
            builder
        }
        Some(config) => {
            let mut builder = AmazonS3Builder::new().with_allow_http(config.allow_http);
            if let Some(endpoint) = &config.endpoint {
                location::check_endpoint(endpoint).map_err(unusable)?;
                builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
            }
            // Look-alikes take any region; S3 itself needs the right one.
            builder = builder.with_region(config.region.as_deref().unwrap_or("us-east-1"));
            if let Some(key) = &config.access_key_id {
                builder = builder.with_access_key_id(key);
            }
            if let Some(secret) = &config.secret_access_key {
                builder = builder.with_secret_access_key(secret);
            }
            builder
        }
    };
    Ok(Arc::new(builder.with_bucket_name(bucket).with_retry(retry).build().map_err(of_bucket)?))
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

/// DataFusion finds the stores here. It can register none: what is not configured does not exist.
impl ObjectStoreRegistry for Stores {
    fn register_store(&self, _url: &Url, _store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, DataFusionError> {
        let store = &url[url::Position::BeforeScheme..url::Position::AfterPort];
        self.store(store).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}
