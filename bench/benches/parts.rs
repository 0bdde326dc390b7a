//! What the parts of a query cost in process: choosing among files, tokens, tickets, the encoding of rows.
//! `cargo bench --locked --workspace --bench parts`

#![allow(clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Date32Array, Int32Array, Int64Array, RecordBatch, StringViewArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use datafusion::catalog::TableProvider;
use datafusion::prelude::{SessionContext, col, lit};
use futures::TryStreamExt;
use lazaret_auth::{
    Authenticator, AuthenticatorConfig, CertificateSubject, Credential, CredentialKind, Principal, StoredToken, StoredUser, TokenId,
    TokenKey, UserDirectory,
};
use lazaret_catalog::caches::{CacheLimits, Caches};
use lazaret_catalog::lake::{ColumnBounds, FileBounds, LakeFile, LakeSnapshot, LakeTable};
use lazaret_catalog::stores::{Stores, StoresConfig};
use lazaret_server::flight::handles::{HandleKey, Handles, Overflow, Rules};
use lazaret_server::flight::outgoing::batch_to_flight;
use lazaret_server::session::{Caller, Session, SessionState};
use tokio::runtime::Runtime;

const FILES: [usize; 3] = [1_000, 100_000, 1_000_000];
const ROWS_PER_FILE: i64 = 1_000;
const ENCODED_ROWS: usize = 65_536;

/// A table of so many files, whose numbers follow each other.
fn table(files: usize) -> LakeTable {
    let file = |number| LakeFile {
        store: "file://".into(),
        path: format!("table/part-{number:08}.parquet").into(),
        size_bytes: 100_000_000,
        version: 0,
        shape: None,
        rows: Some(ROWS_PER_FILE as u64),
        constants: Arc::from([]),
        deletes: Vec::new(),
    };
    let numbers = ColumnBounds {
        min: Arc::new(Int64Array::from_iter_values((0..files as i64).map(|file| file * ROWS_PER_FILE))),
        max: Arc::new(Int64Array::from_iter_values((1..=files as i64).map(|file| file * ROWS_PER_FILE - 1))),
        null_counts: UInt64Array::from(vec![0; files]),
    };
    let bounds = FileBounds { columns: [("number".to_owned(), numbers)].into_iter().collect(), row_counts: None };
    let schema = Schema::new(vec![Field::new("number", DataType::Int64, true), Field::new("text", DataType::Utf8View, true)]);
    let snapshot = LakeSnapshot::of_files(Arc::new(schema), (0..files).map(file).collect(), bounds);
    let (stores, caches) = (Stores::new(StoresConfig::default()), Caches::new(CacheLimits::default()));
    LakeTable::new(Arc::new(snapshot), Arc::new(stores), Arc::new(caches))
}

/// Which of the files have one number.
fn pruning(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let state = SessionContext::new().state();
    let mut group = criterion.benchmark_group("pruning");
    for files in FILES {
        let table = table(files);
        let filter = [col("number").eq(lit(files as i64 * ROWS_PER_FILE / 2))];
        group.bench_function(BenchmarkId::from_parameter(files), |bencher| {
            bencher.iter(|| runtime.block_on(table.scan(&state, Some(&vec![1]), &filter, None)).expect("a plan"));
        });
    }
    group.finish();
}

struct OneUser;

impl UserDirectory for OneUser {
    fn user(&self, _name: &str) -> Option<StoredUser> {
        Some(StoredUser { password_hash: None, enabled: true, tokens_valid_after_s: 0 })
    }

    fn token(&self, _id: TokenId) -> Option<StoredToken> {
        None
    }

    fn certificate_user(&self, _subject: &CertificateSubject) -> Option<(String, bool)> {
        None
    }
}

fn ana() -> Principal {
    Principal::local_user("ana", CredentialKind::Password, None, None)
}

/// A token of our own is shown with every call.
fn tokens(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let token_key = TokenKey::generate().expect("a key");
    let config = AuthenticatorConfig { issuers: vec![], token_key, token_lifetime: Duration::from_secs(3600) };
    let authenticator = Authenticator::new(config, Arc::new(OneUser)).expect("an authenticator");
    let token = authenticator.issue(&ana()).expect("a token");
    let credential = Credential::Bearer(token.token.clone());
    criterion.bench_function("token/own", |bencher| {
        bencher.iter(|| runtime.block_on(authenticator.authenticate(&credential, None)).expect("a principal"));
    });
}

fn tickets(criterion: &mut Criterion) {
    let rules = Rules {
        kind: "ticket",
        per_owner: 1_000,
        overflow: Overflow::DropOldest,
        lifetime: Some(Duration::from_secs(60)),
        idle: Duration::from_secs(60),
        total_bytes: 1 << 30,
    };
    let handles = Handles::new(HandleKey::new([7; 32]), rules);
    let caller = Caller { principal: Arc::new(ana()), session_key: Some("key".into()), client_address: None, client_driver: None };
    let session = Session::new(caller, SessionState::new("lazaret", "public"));
    criterion.bench_function("ticket/made and shown", |bencher| {
        bencher.iter(|| {
            let ticket = handles.insert(&session, 7_u64, 100).expect("a ticket");
            handles.remove(&session, &ticket).expect("its value")
        });
    });
}

/// From a batch as queries give it to messages of Flight.
fn encoding(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let rows = 0..ENCODED_ROWS;
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from_iter_values(rows.clone().map(|row| row as i64))) as _),
        ("date", Arc::new(Date32Array::from_iter_values(rows.clone().map(|row| row as i32))) as _),
        ("region", Arc::new(Int32Array::from_iter_values(rows.clone().map(|row| row as i32 % 3_200))) as _),
        ("event", Arc::new(StringViewArray::from_iter_values(rows.map(|row| ["TEST", "CASE", "HOSP"][row % 3]))) as _),
    ])
    .expect("a batch");
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(ENCODED_ROWS as u64));
    group.bench_function("four columns", |bencher| {
        bencher.iter_batched(
            || batch.clone(),
            |batch| runtime.block_on(batch_to_flight(batch).try_collect::<Vec<_>>()).expect("messages"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, pruning, tokens, tickets, encoding);
criterion_main!(benches);
