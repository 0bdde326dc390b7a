//! Flight SQL over gRPC. [`serve`] is the only door from the network.

pub mod actions;
pub mod auth_layer;
pub mod canonical;
pub mod drain;
pub mod handles;
pub mod handshake;
pub mod incoming;
pub mod metadata;
pub mod outgoing;
pub mod put;
pub mod service;
pub mod session_options;
pub mod sql_engine;
pub mod sql_info;
pub mod statements;
#[cfg(test)]
mod tests;
pub mod type_info;
pub mod warnings;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server as Grpc, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::error::{Error, Result};
use crate::flight::auth_layer::{AuthLayer, Authenticate};
use crate::flight::handles::HandleKey;
use crate::flight::metadata::ServerMetadata;
use crate::flight::service::Server;
use crate::flight::sql_engine::SqlEngine;
use crate::flight::sql_info::{ServerFacts, SqlInfo};
use crate::flight::statements::Statements;
use crate::flight::type_info::TypeInfo;
use crate::flight::warnings::WarningsLayer;
use crate::session::{SessionState, Sessions};

/// One incoming message: parameters come in messages of up to 16 MiB, and statements of up to 1 MiB.
const MESSAGE_BYTES: usize = 32 << 20;
/// Headers of one call. JDBC sends every property that it does not know as a header, so hyper's 16 KiB are too few.
const HEADER_BYTES: u32 = 64 << 10;
/// Calls at once on one connection: a BI server has one connection and many users.
const STREAMS_PER_CONNECTION: u32 = 256;
/// Streams that a client opened and reset before they were looked at, as in CVE-2023-44487.
const PENDING_RESETS: usize = 32;
/// Streams that the server had to reset for a client's errors.
const LOCAL_RESETS: usize = 256;
/// A connection that is silent for so long is asked whether it is alive, and has `KEEPALIVE_ANSWER` to say so.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// What a client may send ahead on one stream, and on one connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// From TCP's accept to the end of the TLS handshake.
const TLS_HANDSHAKE: Duration = Duration::from_secs(10);

/// For those who watch the health service to read that the server stops: some clients read nothing more once they know
/// that the connection is closing and their call has ended.
const WATCHERS_HEAR: Duration = Duration::from_secs(1);

/// PEM texts, already read.
#[derive(Clone)]
pub struct Tls {
    pub certificates: String,
    pub key: String,
    /// Clients must show a certificate of these authorities.
    pub client_authorities: Option<String>,
}

impl Tls {
    /// Whether a server can be made of these.
    pub fn check(&self) -> std::result::Result<(), tonic::transport::Error> {
        Grpc::builder().tls_config(server_tls(self)).map(drop)
    }
}

#[derive(Clone)]
pub struct FlightConfig {
    pub tls: Option<Tls>,
    /// Under which handles and cookies are MACed. Kept in the data directory, or random at each start: then tickets,
    /// prepared statements and cookies end with the process, as what they stand for does.
    pub key: [u8; 32],
    pub version: String,
    pub default_catalog: String,
    pub default_schema: String,
    /// `limits.sessions`, `limits.statements_per_session`, `limits.statement_bytes`.
    pub sessions: u64,
    pub statements_per_session: usize,
    pub statement_bytes: u64,
}

/// The Flight SQL server, ready to take connections.
pub struct Flight {
    service: Server,
    layer: AuthLayer,
    tls: Option<Tls>,
    works: Option<watch::Receiver<bool>>,
}

impl FlightConfig {
    /// The registry of the sessions that come through this door.
    pub fn new_sessions(&self) -> Arc<Sessions> {
        Arc::new(Sessions::new(self.sessions, SessionState::new(self.default_catalog.clone(), self.default_schema.clone())))
    }
}

impl Flight {
    pub fn new(
        engine: Arc<dyn SqlEngine>,
        sessions: Arc<Sessions>,
        authenticator: Arc<dyn Authenticate>,
        config: FlightConfig,
    ) -> Result<Self> {
        let key = HandleKey::new(config.key);
        let initial = sessions.initial().clone();
        let statements = Arc::new(Statements::new(Arc::clone(&engine), key.clone(), config.statements_per_session));
        let ended = Arc::clone(&statements);
        sessions.when_one_ends(move |id| ended.release(id));
        let facts = ServerFacts {
            version: config.version,
            statement_bytes: config.statement_bytes,
            statements_per_session: config.statements_per_session as u64,
            sessions: config.sessions,
        };
        let metadata = ServerMetadata { sql_info: SqlInfo::new(&facts)?, type_info: TypeInfo::new()? };
        let layer = AuthLayer::new(Arc::clone(&authenticator), Arc::clone(&sessions), key.clone());
        let service = Server { engine, authenticator, key, sessions, statements, metadata, initial };
        Ok(Self { service, layer, tls: config.tls, works: None })
    }

    /// Whether statements can run at all, for gRPC's health service to tell.
    pub fn with_health(self, works: watch::Receiver<bool>) -> Self {
        Self { works: Some(works), ..self }
    }

    /// Serves until `shutdown` completes and what is running then has ended. The caller bounds that wait.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut grpc = Grpc::builder()
            .layer(WarningsLayer)
            .layer(self.layer)
            .http2_max_header_list_size(HEADER_BYTES)
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
            .http2_max_local_error_reset_streams(Some(LOCAL_RESETS))
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if let Some(tls) = &self.tls {
            grpc = grpc.tls_config(server_tls(tls)).map_err(Error::internal)?;
        }
        let (mut health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<FlightServiceServer<Server>>().await;
        let flight = FlightServiceServer::new(self.service).max_decoding_message_size(MESSAGE_BYTES);
        let works = self.works;
        let stopping = async move {
            tokio::select! {
                () = shutdown => {}
                () = tell_health(&health, works) => {}
            }
            // Those who ask are sent elsewhere while the last calls end. Those who watch are told, and then their calls end,
            // which would keep the server.
            let names = [FlightServiceServer::<Server>::NAME, ""];
            for name in names {
                health.set_service_status(name, ServingStatus::NotServing).await;
            }
            tokio::spawn(async move {
                tokio::time::sleep(WATCHERS_HEAR).await;
                for name in names {
                    health.clear_service_status(name).await;
                }
            });
        };
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let router = grpc.add_service(health_service).add_service(flight);
        router.serve_with_incoming_shutdown(incoming, stopping).await.map_err(Error::internal)
    }
}

/// Tells, for ever, whether statements can run.
async fn tell_health(health: &HealthReporter, works: Option<watch::Receiver<bool>>) {
    if let Some(mut works) = works {
        loop {
            let status = if *works.borrow_and_update() { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status(FlightServiceServer::<Server>::NAME, status).await;
            health.set_service_status("", status).await;
            if works.changed().await.is_err() {
                break;
            }
        }
    }
    std::future::pending().await
}

/// Builds the server and serves until `shutdown` completes and what is running then has ended.
pub async fn serve(
    listener: TcpListener,
    engine: Arc<dyn SqlEngine>,
    authenticator: Arc<dyn Authenticate>,
    config: FlightConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let sessions = config.new_sessions();
    Flight::new(engine, sessions, authenticator, config)?.serve(listener, shutdown).await
}

fn server_tls(tls: &Tls) -> ServerTlsConfig {
    // rustls wants one provider for the process. Whoever came first has installed the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = ServerTlsConfig::new().identity(Identity::from_pem(&tls.certificates, &tls.key)).timeout(TLS_HANDSHAKE);
    match &tls.client_authorities {
        Some(authorities) => config.client_ca_root(Certificate::from_pem(authorities)),
        None => config,
    }
}
