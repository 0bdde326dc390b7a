//! `lazaret serve`: builds every component from the configuration, serves, and drains when it is told to stop.

pub(crate) mod data_dir;
mod figures;
mod first_start;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lazaret_auth::{Authenticator, AuthenticatorConfig, MaskKey, TokenKey};
use lazaret_catalog::caches::Caches;
use lazaret_catalog::lake::Lake;
use lazaret_catalog::meta::{Metadata, SqliteStore};
use lazaret_catalog::stores::Stores;
use lazaret_catalog::write;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::activity::Activity;
use crate::audit::sign_in::AuditedSignIn;
use crate::audit::{AuditConfig, AuditKey, AuditLog};
use crate::config::{Config, Tls};
use crate::emergency::Warden;
use crate::engine::{Engine, EngineLimits, EngineParts};
use crate::flight::{self, Flight, FlightConfig};
use crate::session::Sessions;
use crate::telemetry::{AdminServer, Health, Metrics, Probe};

use data_dir::DataDir;

/// How long running statements may go on after SIGTERM. Kubernetes kills after 30 seconds unless told otherwise.
const DRAIN: Duration = Duration::from_secs(25);

/// How long a token that is given for a password is valid: a working day and a bit.
const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// Why the server cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct ServeError {
    what: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl ServeError {
    fn new<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self { what, source: source.into() }
    }
}

/// Everything that the engine is built from.
pub struct Components {
    pub config: Arc<Config>,
    pub metadata: Arc<Metadata>,
    pub stores: Arc<Stores>,
    pub caches: Arc<Caches>,
    pub audit: AuditLog,
    pub metrics: Arc<Metrics>,
}

/// Serves until SIGTERM or SIGINT. Logs have been started.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let signals = Signals::listen().map_err(ServeError::new("listen for signals"))?;
    if config.insecure && !config.listen.0.ip().is_loopback() && config.tls.is_none() {
        tracing::warn!(listen = %config.listen, "insecure = true: passwords and data cross the network in the clear");
    }
    // Held to the end: no other server may write here.
    let data_dir =
        DataDir::open(&config.data_dir).map_err(ServeError::new(format!("use the data folder {}", config.data_dir.display())))?;
    let tls = config.tls.as_ref().map(read_tls).transpose()?;
    let metrics = Arc::new(Metrics::default());
    let key = TokenKey::load_or_create(&data_dir.key()).map_err(ServeError::new("load the server's key"))?;
    let audit_config =
        AuditConfig { records_parameters: config.audit.parameters, ..AuditConfig::new(config.audit.retention_days, AuditKey::of(&key)) };
    let audit_dir = data_dir.audit();
    let audit = tokio::task::spawn_blocking(move || AuditLog::open(&audit_dir, audit_config))
        .await
        .map_err(ServeError::new("open the audit log"))?
        .map_err(ServeError::new("open the audit log"))?;
    let store = Arc::new(SqliteStore::open(&data_dir.metadata()).await.map_err(ServeError::new("open the metadata"))?);
    let metadata = Arc::new(Metadata::open(Arc::clone(&store) as _).await.map_err(ServeError::new("open the metadata"))?);
    first_start::make_admin(&metadata, &config.admin_password).await.map_err(ServeError::new("make the user admin"))?;
    let authenticator = AuthenticatorConfig { issuers: config.issuer_configs(), token_key: key.clone(), token_lifetime: TOKEN_LIFETIME };
    let authenticator = Authenticator::new(authenticator, Arc::clone(&metadata) as _).map_err(ServeError::new("start authentication"))?;
    let authenticator = Arc::new(AuditedSignIn::new(authenticator, Arc::clone(&metadata) as _, audit.clone()));
    let components = Components {
        stores: Arc::new(Stores::new(config.stores_config())),
        caches: Arc::new(Caches::new(config.cache_limits())),
        audit: audit.clone(),
        metrics: Arc::clone(&metrics),
        metadata: Arc::clone(&metadata),
        config: Arc::new(config),
    };
    let leftovers: Vec<_> = metadata.current().leftovers().collect();
    write::sweep(&components.stores, &metadata, &leftovers).await.map_err(ServeError::new("sweep the warehouse"))?;
    write::clear_staging(&components.stores).await.map_err(ServeError::new("clear the staging folder"))?;
    let strangers = write::strangers(&components.stores, &metadata.current()).await.map_err(ServeError::new("look into the warehouse"))?;
    if !strangers.is_empty() {
        tracing::warn!(names = ?strangers, "the warehouse holds what the metadata does not know; it stays");
    }
    let warden = Arc::new(Warden::new(Arc::clone(&metadata), audit.clone(), Arc::clone(&metrics), SystemTime::now));
    warden.close_all().await.map_err(ServeError::new("end emergency accesses"))?;
    figures::of_emergencies(&metrics, &metadata);
    figures::of_audit(&metrics, &audit);
    figures::of_caches(&metrics, &components.caches);
    figures::of_stores(&metrics, &components.stores);
    let config = Arc::clone(&components.config);
    let flight_config = flight_config(&config, tls, &key);
    let sessions = flight_config.new_sessions();
    figures::of_sessions(&metrics, Arc::clone(&sessions));
    let engine = engine(components, Arc::clone(&sessions), warden, MaskKey::global(&key), &data_dir.spill())?;
    let flight =
        Flight::new(engine, sessions, Arc::clone(&authenticator) as _, flight_config).map_err(ServeError::new("start Flight SQL"))?;
    let health = Arc::new(Health::new(vec![audit_probe(&audit), metadata_probe(&store)]));

    let listener = TcpListener::bind(config.listen.0).await.map_err(ServeError::new(format!("listen on {}", config.listen)))?;
    let listen = listener.local_addr().map_err(ServeError::new("listen"))?;
    let admin = match config.admin_listen.0 {
        Some(address) => Some(
            AdminServer::bind(address.0, Arc::clone(&health), metrics)
                .await
                .map_err(ServeError::new(format!("listen on {address} (admin_listen)")))?,
        ),
        None => None,
    };
    let admin_listen = admin.as_ref().map(AdminServer::local_addr).transpose().map_err(ServeError::new("listen"))?;
    let (end_admin, mut admin_ends) = watch::channel(());
    let admin = admin.map(|admin| {
        tokio::spawn(admin.serve(async move {
            let _ = admin_ends.changed().await;
        }))
    });
    health.set_ready(true);
    say_ready(listen, admin_listen).map_err(ServeError::new("write to standard output"))?;
    let outcome = serve_until_signal(flight.with_health(audit.watch_health()), listener, &health, signals).await;

    // The last end records, and then the files.
    authenticator.flush();
    if let Err(error) = audit.flush().await {
        tracing::error!(%error, "audit log could not be flushed");
    }
    store.close().await;
    drop(end_admin);
    if let Some(admin) = admin {
        let _ = admin.await;
    }
    drop(data_dir);
    tracing::info!("stopped");
    outcome
}

/// Where the engine is put together.
fn engine(
    components: Components,
    sessions: Arc<Sessions>,
    warden: Arc<Warden>,
    mask_key: MaskKey,
    spill: &Path,
) -> Result<Arc<Engine>, ServeError> {
    let Components { config, metadata, stores, caches, audit, metrics } = components;
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let memory = config.memory();
    let limits = EngineLimits {
        statement_bytes: bytes(config.limits.statement_bytes),
        memory_bytes: bytes(memory.all_queries_bytes),
        query_memory_bytes: bytes(memory.one_query_bytes),
        query_timeout: (config.limits.query_timeout_s > 0).then(|| Duration::from_secs(config.limits.query_timeout_s)),
    };
    let issuers = config.issuers.iter().map(|issuer| issuer.name.clone()).collect();
    let lake = Arc::new(Lake::new(stores, caches));
    let activity = Arc::new(Activity::default());
    let parts = EngineParts { metadata, lake, audit, metrics, activity, sessions, warden, limits, issuers, mask_key };
    Engine::new(parts, spill).map(Arc::new).map_err(ServeError::new("start the engine"))
}

fn flight_config(config: &Config, tls: Option<flight::Tls>, key: &TokenKey) -> FlightConfig {
    FlightConfig {
        tls,
        key: key.derive("flight handles"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        default_catalog: lazaret_catalog::meta::DEFAULT_CATALOG.to_owned(),
        default_schema: lazaret_catalog::meta::DEFAULT_SCHEMA.to_owned(),
        sessions: config.limits.sessions,
        statements_per_session: usize::try_from(config.limits.statements_per_session).unwrap_or(usize::MAX),
        statement_bytes: config.limits.statement_bytes,
    }
}

/// After the signal no call is taken any more; those that run have [`DRAIN`], or until the next signal.
async fn serve_until_signal(flight: Flight, listener: TcpListener, health: &Health, mut signals: Signals) -> Result<(), ServeError> {
    let (stop, mut stopping) = watch::channel(());
    let serving = flight.serve(listener, async move {
        let _ = stopping.changed().await;
    });
    tokio::pin!(serving);
    tokio::select! {
        outcome = &mut serving => return outcome.map_err(ServeError::new("serve Flight SQL")),
        name = signals.next() => tracing::info!(signal = name, drain_s = DRAIN.as_secs(), "stopping"),
    }
    health.set_ready(false);
    drop(stop);
    tokio::select! {
        outcome = &mut serving => outcome.map_err(ServeError::new("serve Flight SQL")),
        () = tokio::time::sleep(DRAIN) => {
            tracing::warn!("statements still run; they are cancelled");
            Ok(())
        }
        name = signals.next() => {
            tracing::warn!(signal = name, "told again to stop; running statements are cancelled");
            Ok(())
        }
    }
}

struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[derive(serde::Serialize)]
struct Ready {
    ready: bool,
    listen: String,
    admin_listen: Option<String>,
}

/// The one line on standard output, for whoever started us.
fn say_ready(listen: SocketAddr, admin_listen: Option<SocketAddr>) -> io::Result<()> {
    let admin_listen = admin_listen.map(|address| address.to_string());
    tracing::info!(%listen, admin_listen, "ready");
    let line = serde_json::to_string(&Ready { ready: true, listen: listen.to_string(), admin_listen }).map_err(io::Error::other)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn read_tls(tls: &Tls) -> Result<flight::Tls, ServeError> {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).map_err(ServeError::new(format!("read {}", path.display())));
    let mut texts = flight::Tls { certificates: read(&tls.cert_file)?, key: read(&tls.key_file)?, client_authorities: None };
    let files = format!("use {} as cert_file with {} as key_file", tls.cert_file.display(), tls.key_file.display());
    texts.check().map_err(ServeError::new(files))?;
    if let Some(file) = &tls.client_ca_file {
        texts.client_authorities = Some(read(file)?);
        texts.check().map_err(ServeError::new(format!("use {} as client_ca_file", file.display())))?;
    }
    Ok(texts)
}

fn audit_probe(audit: &AuditLog) -> Probe {
    let audit = audit.clone();
    Probe::new("audit", move || {
        let healthy = audit.healthy();
        async move { if healthy { Ok(()) } else { Err("the audit log cannot be written".to_owned()) } }
    })
}

fn metadata_probe(store: &Arc<SqliteStore>) -> Probe {
    let store = Arc::clone(store);
    Probe::new("metadata", move || {
        let store = Arc::clone(&store);
        async move { store.ping().await.map_err(|error| error.to_string()) }
    })
}
