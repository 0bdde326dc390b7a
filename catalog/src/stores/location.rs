//! Locations as users and table metadata write them, parsed once into a store and a path.

use std::net::IpAddr;
use std::path::{Component, Path as FsPath, PathBuf};
use std::sync::Arc;

use object_store::path::Path;
use url::{Host, Url};

/// A place in a store. Canonical: two locations of the same place are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    store: Arc<str>,
    path: Path,
    url: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    #[error("location \"{location}\" is not valid: {reason}")]
    Invalid { location: String, reason: String },
    #[error("location \"{location}\" lies below none of the allowed paths")]
    NotAllowed { location: String },
    #[error("scheme \"{scheme}\" is not supported: use file:// or s3://")]
    Scheme { scheme: String },
    #[error("cannot use bucket \"{bucket}\"")]
    Store {
        bucket: String,
        #[source]
        source: object_store::Error,
    },
}

impl LocationError {
    /// For another of those who waited for the same.
    pub(crate) fn told_again(&self) -> Self {
        match self {
            Self::Invalid { location, reason } => Self::Invalid { location: location.clone(), reason: reason.clone() },
            Self::NotAllowed { location } => Self::NotAllowed { location: location.clone() },
            Self::Scheme { scheme } => Self::Scheme { scheme: scheme.clone() },
            Self::Store { bucket, source } => {
                let source = object_store::Error::Generic { store: "shared", source: source.to_string().into() };
                Self::Store { bucket: bucket.clone(), source }
            }
        }
    }
}

impl Location {
    /// Such as `s3://lake` or `file://`: what `ObjectStoreUrl` takes.
    pub fn store(&self) -> &Arc<str> {
        &self.store
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As it is kept: `file:///srv/lake/t` or `s3://lake/t`, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn local_path(&self) -> Option<PathBuf> {
        (&*self.store == "file://").then(|| FsPath::new("/").join(self.path.as_ref()))
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

/// `s3_store` names the store for a bucket and a key.
pub(super) fn parse(text: &str, s3_store: impl Fn(&str, &str) -> String) -> Result<Location, LocationError> {
    let invalid = |reason: &str| LocationError::Invalid { location: text.to_owned(), reason: reason.to_owned() };
    if text.chars().any(char::is_control) {
        return Err(invalid("it holds a control character"));
    }
    if !text.contains("://") && !text.starts_with("file:") {
        if !FsPath::new(text).is_absolute() {
            return Err(invalid("a local path must be absolute"));
        }
        return from_local_path(FsPath::new(text));
    }
    let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("it holds credentials"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("\"?\" and \"#\" must be percent-encoded"));
    }
    match url.scheme() {
        "file" => {
            if !matches!(url.host(), None | Some(Host::Domain("" | "localhost"))) {
                return Err(invalid("a file:// URL names no host"));
            }
            from_local_path(&url.to_file_path().map_err(|()| invalid("it names no local path"))?)
        }
        "s3" | "s3a" => {
            let bucket = url.host_str().unwrap_or_default();
            check_bucket(bucket).map_err(invalid)?;
            if url.port().is_some() {
                return Err(invalid("it names a port"));
            }
            let path = Path::from_url_path(url.path()).map_err(|error| invalid(&error.to_string()))?;
            let store = s3_store(bucket, path.as_ref());
            Ok(in_bucket(&store, path))
        }
        scheme => Err(LocationError::Scheme { scheme: scheme.to_owned() }),
    }
}

/// `store` names a bucket.
pub(super) fn in_bucket(store: &str, path: Path) -> Location {
    let bucket = store.split_once("://").map_or(store, |(_, bucket)| bucket);
    let mut url = format!("s3://{bucket}");
    if !path.as_ref().is_empty() {
        url.push('/');
        url.push_str(&encode(path.as_ref()));
    }
    Location { store: store.into(), path, url }
}

pub(super) fn from_local_path(path: &FsPath) -> Result<Location, LocationError> {
    let invalid = |reason: String| LocationError::Invalid { location: path.display().to_string(), reason };
    let real = real_path(path).map_err(invalid)?;
    let url = Url::from_file_path(&real).map_err(|()| invalid("it names no local path".to_owned()))?;
    Ok(Location { store: "file://".into(), path: object_path(&real).map_err(invalid)?, url: url.to_string() })
}

/// Whether a text names exactly this local path, without help of symbolic links.
pub(super) fn is_written_as(text: &str, path: &FsPath) -> bool {
    match text.starts_with("file:") {
        true => Url::parse(text).ok().and_then(|url| url.to_file_path().ok()).is_some_and(|written| written == path),
        false => FsPath::new(text) == path,
    }
}

/// A local path as the local store names it.
pub(super) fn object_path(path: &FsPath) -> Result<Path, String> {
    let text = path.to_str().ok_or("it is not UTF-8")?;
    Path::parse(text).map_err(|error| error.to_string())
}

/// Without `.`, `..` and symbolic links. What does not exist yet is kept as it is below the part that does.
pub(super) fn real_path(path: &FsPath) -> Result<PathBuf, String> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match std::fs::canonicalize(existing) {
            Ok(mut real) => {
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // A link to nowhere exists as a link: followed later, it could lead anywhere.
                if existing.symlink_metadata().is_ok() {
                    return Err("it is a symbolic link to nothing".to_owned());
                }
                let Some(Component::Normal(name)) = existing.components().next_back() else {
                    return Err("\"..\" follows a folder that does not exist".to_owned());
                };
                missing.push(name);
                existing = existing.parent().unwrap_or(FsPath::new("/"));
            }
            Err(error) => return Err(error.kind().to_string()),
        }
    }
}

/// S3's own rules, which also keep addresses out of the place where a bucket becomes a host name.
fn check_bucket(bucket: &str) -> Result<(), &'static str> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(fits) || bucket.parse::<IpAddr>().is_ok() {
        return Err("it names no bucket of 3 to 63 lower-case letters, digits, dots and hyphens");
    }
    Ok(())
}

/// Endpoints come from the configuration, not from users; still, none may be a cloud's metadata service.
pub(super) fn check_endpoint(endpoint: &str) -> Result<(), LocationError> {
    let invalid = |reason: &str| LocationError::Invalid { location: endpoint.to_owned(), reason: reason.to_owned() };
    let url = Url::parse(endpoint).map_err(|error| invalid(&error.to_string()))?;
    let forbidden = match url.host() {
        None => return Err(invalid("the endpoint names no host")),
        Some(Host::Ipv4(ip)) => ip.is_link_local(),
        Some(Host::Ipv6(ip)) => {
            ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_link_local()) || ip.segments() == AWS_METADATA_V6
        }
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("metadata.google.internal"),
    };
    if forbidden { Err(invalid("the endpoint is a metadata service")) } else { Ok(()) }
}

const AWS_METADATA_V6: [u16; 8] = [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254];

/// Percent-encodes what a URL's path cannot hold.
fn encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b'=' | b'+' | b',' | b':' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' => {
                out.push(char::from(byte));
            }
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::stores::{LocationError, StoreConfig, Stores, StoresConfig};

    fn lake() -> (tempfile::TempDir, Stores) {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["lake/t", "lake2", "data/warehouse/x"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("lake2"), dir.path().join("lake/out")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("nowhere"), dir.path().join("lake/dangling")).unwrap();
        let store = |url: &str, key: &str| StoreConfig {
            name: key.to_owned(),
            url: url.to_owned(),
            endpoint: Some("http://127.0.0.1:1".to_owned()),
            allow_http: true,
            ..StoreConfig::default()
        };
        let stores = Stores::new(StoresConfig {
            stores: vec![store("s3://lake/", "a"), store("s3://lake/secret", "b")],
            allowed_paths: vec![dir.path().join("lake"), dir.path().join("data")],
            warehouse: dir.path().join("data/warehouse"),
        });
        (dir, stores)
    }

    #[test]
    fn local_locations_stay_below_the_allowed_paths() {
        let (dir, stores) = lake();
        let at = |tail: &str| format!("{}/{tail}", dir.path().display());
        let found = stores.locate(&at("lake/t")).unwrap();
        assert_eq!(found, stores.locate(&format!("file://{}", at("lake/./t/"))).unwrap());
        assert_eq!(&**found.store(), "file://");
        assert!(found.url().ends_with("/lake/t"));
        assert!(stores.locate(&at("lake/new/folder")).is_ok());
        for outside in ["lake2", "lake/../lake2", "lake/out", "lake/out/x", "lake/../../etc", "data/warehouse/x", "data/warehouse"] {
            assert!(matches!(stores.locate(&at(outside)), Err(LocationError::NotAllowed { .. })), "{outside}");
        }
        for bad in [at("lake/new/../../x"), at("lake/dangling"), "lake/t".to_owned(), "file://host/etc".to_owned(), String::new()] {
            assert!(matches!(stores.locate(&bad), Err(LocationError::Invalid { .. })), "{bad}");
        }
        assert!(stores.resolve(&at("data/warehouse/x")).is_ok());
        assert!(stores.resolve(&at("lake2")).is_err());
    }

    #[test]
    fn buckets_are_names_and_the_longest_store_wins() {
        let (_dir, stores) = lake();
        assert_eq!(stores.locate("s3://lake/a/../b c/").unwrap().url(), "s3://lake/b%20c");
        assert_eq!(&**stores.locate("s3a://lake/x").unwrap().store(), "s3://lake");
        assert_eq!(&**stores.locate("s3://lake/secret/x").unwrap().store(), "s3-1://lake");
        assert_eq!(&**stores.locate("s3://lake/secrets").unwrap().store(), "s3://lake");
        assert!(stores.store("s3-1://lake").is_ok());
        for bad in ["s3://169.254.169.254/latest", "s3://lake:80/x", "s3://u:p@lake/x", "s3://lake/x?y", "s3:///x", "s3://UP/x"] {
            assert!(stores.locate(bad).is_err(), "{bad}");
        }
        for scheme in ["http://example.org/x", "gs://b/x", "memory:///x", "ftp://x/y"] {
            assert!(matches!(stores.locate(scheme), Err(LocationError::Scheme { .. })), "{scheme}");
        }
    }

    #[test]
    fn endpoints_are_no_metadata_service() {
        for bad in ["http://169.254.169.254", "http://[fe80::1]", "http://[::ffff:169.254.169.254]", "http://metadata.google.internal"] {
            assert!(super::check_endpoint(bad).is_err(), "{bad}");
        }
        assert!(super::check_endpoint("http://127.0.0.1:9000").is_ok());
    }

    #[tokio::test]
    async fn the_local_store_refuses_what_lies_outside() {
        use object_store::{ObjectStoreExt, path::Path};
        let (dir, stores) = lake();
        std::fs::write(dir.path().join("lake/t/in"), "x").unwrap();
        std::fs::write(dir.path().join("lake2/out"), "x").unwrap();
        let store = stores.store("file://").unwrap();
        let at = |tail: &str| Path::parse(format!("{}/{tail}", dir.path().canonicalize().unwrap().display())).unwrap();
        assert!(store.head(&at("lake/t/in")).await.is_ok());
        assert!(store.head(&at("lake2/out")).await.is_err());
        assert!(store.list_with_delimiter(None).await.is_err());
        // Nor a link below an allowed folder, wherever it leads: what lies there has a name of its own.
        std::os::unix::fs::symlink(dir.path().join("lake/t"), dir.path().join("lake/link")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("lake/t/in"), dir.path().join("lake/t/again")).unwrap();
        for linked in ["lake/out/out", "lake/link/in", "lake/t/again"] {
            assert!(store.get(&at(linked)).await.is_err(), "{linked}");
            assert!(store.head(&at(linked)).await.is_err(), "{linked}");
            assert!(store.get_ranges(&at(linked), std::slice::from_ref(&(0..1))).await.is_err(), "{linked}");
        }
        // A name is taken as it is on disk.
        for name in ["a#b", "a%23b", "c d"] {
            let folder = dir.path().join("lake/t").join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("in"), name).unwrap();
            std::os::unix::fs::symlink(folder.join("in"), folder.join("link")).unwrap();
            let at = |file: &str| Path::from_absolute_path(folder.canonicalize().unwrap().join(file)).unwrap();
            assert_eq!(store.get_ranges(&at("in"), std::slice::from_ref(&(0..3))).await.unwrap()[0], name.as_bytes()[..3]);
            assert!(store.get_ranges(&at("in"), std::slice::from_ref(&(0..30))).await.is_err());
            // By the slow road too.
            assert_eq!(store.get(&at("in")).await.unwrap().bytes().await.unwrap(), name);
            assert!(store.get_ranges(&at("link"), std::slice::from_ref(&(0..1))).await.is_err(), "{name}");
            assert!(store.get(&at("link")).await.is_err(), "{name}");
        }
    }
}
