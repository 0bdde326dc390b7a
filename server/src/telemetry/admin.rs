//! `/livez`, `/readyz` and `/metrics`, on a port of their own: nothing of the database is served there.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::future::BoxFuture;
use tokio::net::TcpListener;

use super::metrics::Metrics;

/// A check that takes longer has failed: whoever asks has a time limit too.
const CHECK_TIME: Duration = Duration::from_secs(2);

/// The content type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One thing that must work for the server to be ready. The error is for the operator's log, not for the answer.
pub struct Probe {
    name: &'static str,
    check: Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

impl Probe {
    pub fn new<F>(name: &'static str, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self { name, check: Box::new(move || Box::pin(check())) }
    }
}

/// Whether the server should be sent work: it has started, does not drain, and every probe succeeds.
pub struct Health {
    ready: AtomicBool,
    probes: Vec<Probe>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("ready", &self.ready).finish_non_exhaustive()
    }
}

impl Health {
    /// Not ready until [`set_ready`](Self::set_ready).
    pub fn new(probes: Vec<Probe>) -> Self {
        Self { ready: AtomicBool::new(false), probes }
    }

    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// The names of what is not as it should be.
    pub async fn failing(&self) -> Vec<&'static str> {
        let mut failing = Vec::new();
        if !self.ready.load(Ordering::Acquire) {
            failing.push("started");
        }
        let outcomes = self.probes.iter().map(|probe| async { (probe.name, tokio::time::timeout(CHECK_TIME, (probe.check)()).await) });
        for (name, outcome) in futures::future::join_all(outcomes).await {
            let error = match outcome {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(_) => "it took too long".to_owned(),
            };
            tracing::warn!(probe = name, error, "not ready");
            failing.push(name);
        }
        failing
    }
}

/// The server of the admin port, bound but not served yet.
pub struct AdminServer {
    listener: TcpListener,
    router: Router,
}

#[derive(Clone)]
struct Shared {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl AdminServer {
    pub async fn bind(address: SocketAddr, health: Arc<Health>, metrics: Arc<Metrics>) -> io::Result<Self> {
        let router = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics_text))
            .with_state(Shared { health, metrics });
        Ok(Self { listener: TcpListener::bind(address).await?, router })
    }

    /// Where it really listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` completes.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        axum::serve(self.listener, self.router).with_graceful_shutdown(shutdown).await
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let failing = shared.health.failing().await;
    if failing.is_empty() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", failing.join(", "))).into_response()
    }
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], shared.metrics.render()).into_response()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;
    use crate::config::Address;

    async fn get_text(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn it_is_ready_when_every_probe_succeeds() {
        let works = Arc::new(AtomicBool::new(true));
        let probe = Arc::clone(&works);
        let audit = Probe::new("audit", move || {
            let works = probe.load(Ordering::SeqCst);
            async move { if works { Ok(()) } else { Err("disk full".to_owned()) } }
        });
        let health = Arc::new(Health::new(vec![audit]));
        let server = AdminServer::bind(Address::loopback(0).0, Arc::clone(&health), Arc::new(Metrics::default())).await.unwrap();
        let address = server.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve(async move {
            let _ = stopped.await;
        }));
        assert!(get_text(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get_text(address, "/readyz").await.contains("not ready: started\n"));
        health.set_ready(true);
        assert!(get_text(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        works.store(false, Ordering::SeqCst);
        let text = get_text(address, "/readyz").await;
        assert!(text.starts_with("HTTP/1.1 503") && text.contains("not ready: audit\n"), "{text}");
        assert!(!text.contains("disk"));
        let text = get_text(address, "/metrics").await;
        assert!(text.contains("content-type: text/plain; version=0.0.4") && text.contains("lazaret_build_info"), "{text}");
        assert!(get_text(address, "/").await.starts_with("HTTP/1.1 404"));
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    }
}
