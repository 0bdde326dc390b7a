//! What the types cannot say: which values go together, and which would be dangerous.

use std::collections::BTreeSet;
use std::path::PathBuf;

use url::Url;

use super::layers::{Loaded, read_limited};
use super::{Config, Issuer, Problem, Secret, Size, Store};

/// Every asymmetric algorithm that tokens may be signed with. `none` and the HMAC ones are never accepted: with a public
/// key as the "secret" anyone could sign.
const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// Clocks that differ by more are wrong, and a longer leeway keeps expired tokens alive.
const MAX_LEEWAY_S: u64 = 300;

/// Reads each secret that is given as a file.
pub(super) fn read_secret_files(loaded: &mut Loaded) -> Vec<Problem> {
    let mut found = Vec::new();
    let config = &mut loaded.config;
    read_secret("admin_password".to_owned(), &mut config.admin_password, config.admin_password_file.as_ref(), &mut found);
    for (name, store) in &mut config.stores {
        read_secret(format!("stores.{name}.access_key_id"), &mut store.access_key_id, store.access_key_id_file.as_ref(), &mut found);
        read_secret(
            format!("stores.{name}.secret_access_key"),
            &mut store.secret_access_key,
            store.secret_access_key_file.as_ref(),
            &mut found,
        );
    }
    found.into_iter().map(|(key, message)| problem(loaded, &key, message)).collect()
}

fn read_secret(key: String, secret: &mut Secret, file: Option<&PathBuf>, problems: &mut Vec<(String, String)>) {
    let Some(path) = file else { return };
    if !secret.is_empty() {
        return problems.push((key.clone(), format!("both \"{key}\" and \"{key}_file\" are given; keep one")));
    }
    match read_limited(path) {
        // A mounted secret often ends with a line break that is not part of it.
        Ok(text) => *secret = Secret::new(text.trim_end_matches(['\r', '\n'])),
        Err(message) => problems.push((format!("{key}_file"), format!("\"{key}_file\": {message}"))),
    }
}

/// Everything that is wrong with the configuration as a whole.
pub(super) fn problems(loaded: &Loaded) -> Vec<Problem> {
    let config = &loaded.config;
    let mut found = Found { loaded, problems: Vec::new() };
    found.network(config);
    found.paths(config);
    found.issuers(&config.issuers);
    for (name, store) in &config.stores {
        found.store(name, store);
    }
    found.limits(config);
    found.problems
}

fn problem(loaded: &Loaded, key: &str, message: String) -> Problem {
    Problem { origin: loaded.nearest_origin(key), message }
}

struct Found<'a> {
    loaded: &'a Loaded,
    problems: Vec<Problem>,
}

impl Found<'_> {
    fn add(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(problem(self.loaded, key, message.into()));
    }

    fn network(&mut self, config: &Config) {
        if !config.listen.0.ip().is_loopback() && config.tls.is_none() && !config.insecure {
            let message = format!(
                "\"listen\" is {}, which is not a loopback address, and there is no [tls]: passwords and data would cross the network in the clear; \
                 configure [tls], or say insecure = true",
                config.listen
            );
            self.add("listen", message);
        }
        if let Some(tls) = &config.tls {
            for (key, path) in [("tls.cert_file", &tls.cert_file), ("tls.key_file", &tls.key_file)] {
                if path.as_os_str().is_empty() {
                    self.add("tls", format!("[tls] has no \"{key}\""));
                }
            }
        }
    }

    fn paths(&mut self, config: &Config) {
        if config.data_dir.as_os_str().is_empty() {
            self.add("data_dir", "\"data_dir\" is empty");
        }
        for path in config.allowed_paths.iter().filter(|path| !path.is_absolute()) {
            self.add("allowed_paths", format!("\"allowed_paths\": {} is not an absolute path", path.display()));
        }
        if config.metadata != "sqlite" {
            self.add("metadata", "\"metadata\" can only be \"sqlite\"; other stores are not supported yet");
        }
        if !["text", "json"].contains(&config.log.format.as_str()) {
            self.add("log.format", format!("\"log.format\" is \"text\" or \"json\", not {:?}", config.log.format));
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&config.log.filter) {
            self.add("log.filter", format!("\"log.filter\": {error}"));
        }
    }

    fn issuers(&mut self, issuers: &[Issuer]) {
        let mut names = BTreeSet::from(["local"]);
        for (index, issuer) in issuers.iter().enumerate() {
            let at = format!("issuers.{index}");
            self.issuer(&at, issuer);
            if !issuer.name.is_empty() && !names.insert(&issuer.name) {
                self.add(&format!("{at}.name"), format!("\"{at}.name\": the name {:?} is taken", issuer.name));
            }
        }
    }

    fn issuer(&mut self, at: &str, issuer: &Issuer) {
        for (key, missing) in
            [("name", issuer.name.is_empty()), ("issuer", issuer.issuer.is_empty()), ("audience", issuer.audience.is_empty())]
        {
            if missing {
                self.add(at, format!("\"{at}.{key}\" is missing"));
            }
        }
        if issuer.name.contains([':', '"']) || issuer.name.contains(char::is_whitespace) {
            self.add(
                &format!("{at}.name"),
                format!("\"{at}.name\" cannot hold colons, quotes or spaces: principals are written \"name:subject\""),
            );
        }
        let keys = [issuer.jwks_url.is_some(), issuer.jwks_file.is_some(), issuer.public_key_file.is_some()];
        if keys.iter().filter(|given| **given).count() != 1 {
            self.add(at, format!("\"{at}\" needs exactly one of \"jwks_url\", \"jwks_file\" and \"public_key_file\""));
        }
        if let Some(url) = &issuer.jwks_url
            && !Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.has_host())
        {
            self.add(&format!("{at}.jwks_url"), format!("\"{at}.jwks_url\" is not an https:// or http:// URL"));
        }
        if issuer.algorithms.is_empty() {
            self.add(&format!("{at}.algorithms"), format!("\"{at}.algorithms\" is empty: no token could be accepted"));
        }
        for algorithm in issuer.algorithms.iter().filter(|name| !ALGORITHMS.contains(&name.as_str())) {
            self.add(&format!("{at}.algorithms"), format!("\"{at}.algorithms\": {algorithm:?} is not one of {}", ALGORITHMS.join(", ")));
        }
        if issuer.leeway_s > MAX_LEEWAY_S {
            self.add(&format!("{at}.leeway_s"), format!("\"{at}.leeway_s\" is {}; at most {MAX_LEEWAY_S}", issuer.leeway_s));
        }
    }

    fn store(&mut self, name: &str, store: &Store) {
        let at = format!("stores.{name}");
        if store.url.is_empty() {
            self.add(&at, format!("\"{at}.url\" is missing"));
        } else if !Url::parse(&store.url).is_ok_and(|url| url.scheme() == "s3" && url.has_host()) {
            self.add(&format!("{at}.url"), format!("\"{at}.url\" is not a URL such as \"s3://bucket/\""));
        }
        if store.access_key_id.is_empty() != store.secret_access_key.is_empty() {
            self.add(&at, format!("\"{at}\" has only one of \"access_key_id\" and \"secret_access_key\""));
        }
        if let Some(endpoint) = &store.endpoint {
            match Url::parse(endpoint).ok().filter(Url::has_host) {
                Some(url) if url.scheme() == "https" || (url.scheme() == "http" && store.allow_http) => {}
                Some(url) if url.scheme() == "http" => {
                    self.add(&format!("{at}.endpoint"), format!("\"{at}.endpoint\" is http://; use https://, or say allow_http = true"));
                }
                _ => self.add(&format!("{at}.endpoint"), format!("\"{at}.endpoint\" is not an https:// or http:// URL")),
            }
        }
    }

    fn limits(&mut self, config: &Config) {
        let limits = &config.limits;
        let memory = config.memory();
        let is_percent = matches!(limits.memory_bytes, Size::Percent(_));
        if is_percent && memory.data_cache_bytes >= memory.total_bytes {
            let (hot, all) = (memory.data_cache_bytes, memory.total_bytes);
            self.add("cache.data_bytes", format!("\"cache.data_bytes\" leaves nothing for queries: {hot} of the {all} bytes here"));
        } else {
            self.positive("limits.memory_bytes", memory.all_queries_bytes);
            self.positive("limits.query_memory_bytes", memory.one_query_bytes);
        }
        self.positive("limits.statement_bytes", limits.statement_bytes);
        self.positive("limits.sessions", limits.sessions);
        self.positive("limits.statements_per_session", limits.statements_per_session);
        self.positive("audit.retention_days", config.audit.retention_days);
    }

    fn positive(&mut self, key: &str, value: u64) {
        if value == 0 {
            self.add(key, format!("\"{key}\" is 0; at least 1"));
        }
    }
}
