//! The server over a real socket, with a real gRPC client; the engine is a small one on DataFusion.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod engine;
mod handshake;
mod metadata;
mod refusals;
mod sessions;
mod statements;
mod transport;
mod uploads;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{ActionCreatePreparedStatementRequest, Any, CommandStatementQuery, ProstMessageExt};
use arrow_flight::{Action, FlightData, FlightDescriptor, FlightInfo, IpcMessage, Ticket};
use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use futures::TryStreamExt;
use lazaret_auth::{
    AuthError, Authenticator, AuthenticatorConfig, CertificateSubject, Credential, CredentialKind, IssuedToken, NewToken, Principal,
    PrincipalName, StoredToken, StoredUser, TokenId, TokenKey, UserDirectory,
};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, oneshot};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Extensions, Request, Status};

use self::engine::TestEngine;
use crate::error::ErrorKind;
use crate::flight::actions::PreparedStatementResult;
use crate::flight::auth_layer::Authenticate;
use crate::flight::{Flight, FlightConfig, Tls};
use crate::session::Sessions;

/// The real one with two local users whose password is their name; and, so that no test has to sign tokens, bearers
/// `foreign-<subject>` of the issuer `hospital`.
pub struct TestAuthenticator {
    real: Authenticator,
}

const USERS: [&str; 2] = ["ana", "rui"];

/// Argon2 is slow on purpose: once for all tests.
static HASHES: OnceCell<HashMap<String, String>> = OnceCell::const_new();

async fn hashes() -> HashMap<String, String> {
    let mut hashes = HashMap::new();
    for name in USERS {
        hashes.insert(name.to_owned(), lazaret_auth::password::hash(name).await.unwrap());
    }
    hashes
}

/// A token of ana's, that of all tests.
static TOKEN: LazyLock<NewToken> = LazyLock::new(|| NewToken::generate().unwrap());

struct Users(HashMap<String, String>);

impl UserDirectory for Users {
    fn user(&self, name: &str) -> Option<StoredUser> {
        let password_hash = Some(self.0.get(name)?.clone());
        Some(StoredUser { password_hash, enabled: true, tokens_valid_after_s: 0 })
    }

    fn token(&self, id: TokenId) -> Option<StoredToken> {
        let token = StoredToken { user: "ana".into(), enabled: true, hash: TOKEN.hash, expires_at_s: 1 << 40 };
        (id == TOKEN.id).then_some(token)
    }

    fn certificate_user(&self, _subject: &CertificateSubject) -> Option<(String, bool)> {
        None
    }
}

impl TestAuthenticator {
    pub async fn new() -> Self {
        let users = HASHES.get_or_init(hashes).await.clone();
        let token_key = TokenKey::generate().unwrap();
        let config = AuthenticatorConfig { issuers: vec![], token_key, token_lifetime: Duration::from_secs(600) };
        Self { real: Authenticator::new(config, Arc::new(Users(users))).unwrap() }
    }
}

#[async_trait]
impl Authenticate for TestAuthenticator {
    async fn authenticate(&self, credential: &Credential, peer: Option<IpAddr>) -> Result<Principal, AuthError> {
        if let Credential::Bearer(token) = credential
            && let Some(name) = token.strip_prefix("foreign-")
        {
            let local = Principal::local_user(name, CredentialKind::ForeignToken, None, None);
            return Ok(Principal { name: PrincipalName::new("hospital", name), ..local });
        }
        self.real.authenticate(credential, peer).await
    }

    fn issue(&self, principal: &Principal) -> Result<IssuedToken, AuthError> {
        self.real.issue(principal)
    }
}

pub struct TestServer {
    pub address: SocketAddr,
    pub engine: Arc<TestEngine>,
    pub sessions: Arc<Sessions>,
    stop: Option<oneshot::Sender<()>>,
    stopped: Option<oneshot::Receiver<()>>,
}

pub fn config() -> FlightConfig {
    FlightConfig {
        tls: None,
        key: [9; 32],
        version: "0.1.0".into(),
        default_catalog: "datafusion".into(),
        default_schema: "public".into(),
        sessions: 20,
        statements_per_session: 5,
        statement_bytes: 1 << 20,
    }
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(config()).await
    }

    pub async fn start_with(config: FlightConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let engine = Arc::new(TestEngine::new().await);
        let sessions = config.new_sessions();
        let authenticator = Arc::new(TestAuthenticator::new().await);
        let flight = Flight::new(Arc::clone(&engine) as _, Arc::clone(&sessions), authenticator, config).unwrap();
        let (stop, stopping) = oneshot::channel::<()>();
        let (done, stopped) = oneshot::channel();
        tokio::spawn(async move {
            let shutdown = async {
                let _ = stopping.await;
            };
            flight.serve(listener, shutdown).await.unwrap();
            let _ = done.send(());
        });
        Self { address, engine, sessions, stop: Some(stop), stopped: Some(stopped) }
    }

    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub async fn client(&self, authorization: &str) -> Client {
        let inner = FlightServiceClient::new(self.channel().await).max_decoding_message_size(16 << 20);
        Client { inner, headers: vec![("authorization", authorization.to_owned())] }
    }

    /// A client that has shaken hands, as drivers do.
    pub async fn login(&self, name: &str) -> Client {
        let mut client = self.client(&basic(name, name)).await;
        let answer = client.inner.handshake(client.request(futures::stream::empty())).await.unwrap();
        let token = answer.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        client.headers = vec![("authorization", token)];
        client
    }

    pub async fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.stopped.take().unwrap()).await.unwrap().unwrap();
    }
}

/// What every refused call reads.
pub const REFUSED: &str = "authentication failed: a valid user name and password, or a valid token, is required";

pub fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}")))
}

#[derive(Clone)]
pub struct Client {
    pub inner: FlightServiceClient<Channel>,
    pub headers: Vec<(&'static str, String)>,
}

impl Client {
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut headers = http::HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(*name, value.parse().unwrap());
        }
        Request::from_parts(MetadataMap::from_headers(headers), Extensions::default(), message)
    }

    pub async fn info(&mut self, command: impl ProstMessageExt) -> Result<FlightInfo, Status> {
        let request = self.request(descriptor(&command));
        Ok(self.inner.get_flight_info(request).await?.into_inner())
    }

    pub async fn schema(&mut self, command: impl ProstMessageExt) -> Result<Schema, Status> {
        let request = self.request(descriptor(&command));
        let result = self.inner.get_schema(request).await?.into_inner();
        Ok(Schema::try_from(&result).unwrap())
    }

    pub async fn get(&mut self, ticket: Ticket) -> Result<(SchemaRef, Vec<RecordBatch>), Status> {
        let request = self.request(ticket);
        let messages: Vec<FlightData> = self.inner.do_get(request).await?.into_inner().try_collect().await?;
        let mut stream = FlightRecordBatchStream::new_from_flight_data(futures::stream::iter(messages.into_iter().map(Ok)));
        let batches = (&mut stream).try_collect().await.unwrap();
        Ok((stream.schema().unwrap().clone(), batches))
    }

    pub async fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>, Status> {
        let info = self.info(statement(sql)).await?;
        Ok(self.get(ticket_of(&info)).await?.1)
    }

    pub async fn action(&mut self, name: &str, body: impl Into<Bytes>) -> Result<Vec<Bytes>, Status> {
        let request = self.request(Action::new(name, body));
        let results: Vec<_> = self.inner.do_action(request).await?.into_inner().try_collect().await?;
        Ok(results.into_iter().map(|result| result.body).collect())
    }

    pub async fn prepare(&mut self, sql: &str) -> Result<PreparedStatementResult, Status> {
        let request = ActionCreatePreparedStatementRequest { query: sql.into(), transaction_id: None };
        let answer = self.action("CreatePreparedStatement", request.as_any().encode_to_vec()).await?;
        let any = Any::decode(answer[0].clone()).unwrap();
        assert!(any.type_url.ends_with("sql.ActionCreatePreparedStatementResult"));
        Ok(PreparedStatementResult::decode(any.value).unwrap())
    }

    /// The metadata of the PutResults.
    pub async fn put(&mut self, messages: Vec<FlightData>) -> Result<Vec<Bytes>, Status> {
        let request = self.request(futures::stream::iter(messages));
        let results: Vec<_> = self.inner.do_put(request).await?.into_inner().try_collect().await?;
        Ok(results.into_iter().map(|result| result.app_metadata).collect())
    }
}

pub fn descriptor(command: &impl ProstMessageExt) -> FlightDescriptor {
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

pub fn statement(sql: &str) -> CommandStatementQuery {
    CommandStatementQuery { query: sql.into(), transaction_id: None }
}

pub fn ticket_of(info: &FlightInfo) -> Ticket {
    assert_eq!(info.endpoint.len(), 1);
    assert!(info.endpoint[0].location.is_empty(), "redeem it here");
    info.endpoint[0].ticket.clone().unwrap()
}

pub fn schema_from(bytes: &Bytes) -> Schema {
    Schema::try_from(IpcMessage(bytes.clone())).unwrap()
}

pub fn code(result: Result<impl Sized, Status>) -> tonic::Code {
    result.err().expect("an error").code()
}
