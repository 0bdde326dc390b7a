//! Letting a client finish what it sends before it is answered.
//!
//! An answer that overtakes the upload ends in a stream reset, and Go clients then show a bare "EOF" in place of the
//! status (arrow-adbc#4497). Reading on must not become a way to keep the server busy, so it ends with time.

use std::pin::Pin;
use std::time::Duration;

use arrow_flight::FlightData;
use http_body::Body as _;
use tonic::Streaming;
use tonic::body::Body;

/// A client that sends nothing for so long is waiting for us. (Java's `executeUpdate` never half-closes.)
const DRAIN_PAUSE: Duration = Duration::from_millis(500);
/// However much it still has to say, it is answered after this.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// The same for one who has not shown who it is.
const STRANGER_LIMIT: Duration = Duration::from_secs(2);

/// Reads and drops what is left of an upload.
pub async fn drain(incoming: &mut Streaming<FlightData>) {
    let all = async { while let Ok(Ok(Some(_))) = tokio::time::timeout(DRAIN_PAUSE, incoming.message()).await {} };
    // Either way the answer goes out now.
    let _ = tokio::time::timeout(DRAIN_LIMIT, all).await;
}

/// Reads and drops the body of a call that is refused.
pub async fn drain_body(mut body: Body) {
    let all = async {
        loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            match tokio::time::timeout(DRAIN_PAUSE, frame).await {
                Ok(Some(Ok(_))) => {}
                _ => break,
            }
        }
    };
    let _ = tokio::time::timeout(STRANGER_LIMIT, all).await;
}
