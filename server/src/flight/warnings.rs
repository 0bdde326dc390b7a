//! Warnings of a statement, beside its answer: in the call's trailers, one `lazaret-warning` for each, percent-encoded
//! UTF-8. SHOW WARNINGS has the same texts.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tonic::Response;
use tonic::body::Body;
use tower::{Layer, Service};

/// The name of the trailer.
pub const WARNING_TRAILER: &str = "lazaret-warning";

/// More are in SHOW WARNINGS: clients bound what they take of trailers, often at 8 KiB.
const MAX_TRAILERS: usize = 8;
/// Of one encoded warning. A longer one is cut here, between two characters.
const MAX_TRAILER_BYTES: usize = 512;

/// What a trailer cannot hold, and the sign itself.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// An answer, and what its reader is warned of.
#[derive(Debug)]
pub struct Warned<T> {
    pub answer: T,
    pub warnings: Vec<String>,
}

impl<T> Warned<T> {
    pub fn none(answer: T) -> Self {
        Self { answer, warnings: Vec::new() }
    }

    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Warned<U> {
        Warned { answer: change(self.answer), warnings: self.warnings }
    }

    /// The warnings travel in the extensions, to where the trailers are written.
    pub fn into_response(self) -> Response<T> {
        let mut response = Response::new(self.answer);
        if !self.warnings.is_empty() {
            response.extensions_mut().insert(Warnings(self.warnings));
        }
        response
    }
}

#[derive(Clone)]
struct Warnings(Vec<String>);

impl Warnings {
    fn trailers(&self) -> HeaderMap {
        let encoded = self.0.iter().take(MAX_TRAILERS).map(|warning| encode(warning));
        encoded.filter_map(|value| Some((WARNING_TRAILER.parse().ok()?, HeaderValue::from_str(&value).ok()?))).collect()
    }
}

fn encode(warning: &str) -> String {
    let mut encoded = String::new();
    for character in warning.chars() {
        let next = utf8_percent_encode(character.encode_utf8(&mut [0; 4]), ESCAPED).to_string();
        if encoded.len() + next.len() > MAX_TRAILER_BYTES {
            break;
        }
        encoded.push_str(&next);
    }
    encoded
}

/// Writes the warnings of a call into its trailers.
#[derive(Clone, Copy)]
pub struct WarningsLayer;

impl<S> Layer<S> for WarningsLayer {
    type Service = WarningsService<S>;

    fn layer(&self, inner: S) -> WarningsService<S> {
        WarningsService(inner)
    }
}

#[derive(Clone)]
pub struct WarningsService<S>(S);

impl<S> Service<Request<Body>> for WarningsService<S>
where
    S: Service<Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<http::Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answering = self.0.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            let Some(warnings) = response.extensions_mut().remove::<Warnings>() else { return Ok(response) };
            Ok(response.map(|body| Body::new(body.with_trailers(async move { Some(Ok(warnings.trailers())) }))))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn any_text_fits_into_a_trailer() {
        let warnings = Warnings(vec!["policy \"p\" names \"joão\": 100 %".into(), "\n".into(), "é".repeat(1000)]);
        let trailers = warnings.trailers();
        let values: Vec<&str> = trailers.get_all(WARNING_TRAILER).iter().map(|it| it.to_str().unwrap()).collect();
        assert_eq!(values[..2], ["policy \"p\" names \"jo%C3%A3o\": 100 %25", "%0A"]);
        assert_eq!(values[2], "%C3%A9".repeat(MAX_TRAILER_BYTES / 6));
        assert_eq!(Warnings(vec!["w".into(); 100]).trailers().len(), MAX_TRAILERS);
    }
}
