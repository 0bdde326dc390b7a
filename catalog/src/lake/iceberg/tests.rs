//! Tables that Spark wrote (`../shared/data/iceberg`), from an in-memory bucket `lake`, where their metadata say they are.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use lazaret_auth::TableId;
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutPayload};

use super::*;
use crate::caches::CacheLimits;
use crate::meta::TableFormat;
use crate::stores::StoresConfig;

/// One archive.
struct Archive {
    name: String,
    files: Vec<(String, Vec<u8>)>,
    about: serde_json::Value,
}

/// The folder of the archives; absent in a plain clone.
fn shared() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/iceberg");
    if !folder.is_dir() {
        println!("skipped: no ../shared");
        return None;
    }
    Some(folder)
}

impl Archive {
    fn open(folder: &std::path::Path, name: &str) -> Self {
        let compressed = std::fs::read(folder.join(format!("{name}.tar.zst"))).unwrap();
        let mut tar = Vec::new();
        zstd::stream::read::Decoder::new(&*compressed).unwrap().read_to_end(&mut tar).unwrap();
        let files = untar(&tar);
        let about = files.iter().find(|(path, _)| path == "about.json").map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).unwrap();
        Self { name: name.to_owned(), files, about }
    }

    fn all(folder: &std::path::Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".tar.zst").map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    /// Puts the table where its metadata say it is.
    async fn upload(&self, bucket: &InMemory) {
        for (path, bytes) in &self.files {
            if let Some(path) = path.strip_prefix("table/") {
                let key = object_store::path::Path::parse(format!("{}/{path}", self.name)).unwrap();
                bucket.put(&key, PutPayload::from(bytes.clone())).await.unwrap();
            }
        }
    }

    fn source(&self) -> TableSource {
        self.at(&format!("/{}", self.about["metadata_file"].as_str().unwrap()))
    }

    fn at(&self, tail: &str) -> TableSource {
        TableSource {
            id: TableId::generate(),
            format: TableFormat::Iceberg,
            location: format!("s3://lake/{}{tail}", self.name),
            options: BTreeMap::new(),
        }
    }
}

/// Regular files of a tar archive, with their paths (from a pax header where one is too long).
fn untar(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.split(|b| *b == 0).next().unwrap().to_vec()).unwrap();
    let (mut files, mut long_name, mut at) = (Vec::new(), None, 0);
    while tar.len() >= at + 512 && tar[at] != 0 {
        let header = &tar[at..at + 512];
        let size = usize::from_str_radix(text(&header[124..136]).trim(), 8).unwrap();
        let body = &tar[at + 512..at + 512 + size];
        match header[156] {
            b'x' => {
                let records = String::from_utf8_lossy(body).into_owned();
                long_name = records.lines().find_map(|line| line.split_once(" path=").map(|(_, path)| path.to_owned()));
            }
            b'L' => long_name = Some(text(body)),
            b'0' | 0 => {
                let prefix = text(&header[345..500]);
                let short = text(&header[..100]);
                let short = if prefix.is_empty() { short } else { format!("{prefix}/{short}") };
                let name = long_name.take().unwrap_or(short);
                files.push((name.trim_start_matches("./").to_owned(), body.to_vec()));
            }
            _ => {}
        }
        at += 512 + size.div_ceil(512) * 512;
    }
    files
}

struct Setup {
    stores: Arc<Stores>,
    caches: Arc<Caches>,
    bucket: Arc<InMemory>,
}

fn setup() -> Setup {
    let stores = Arc::new(Stores::new(StoresConfig::default()));
    let bucket = Arc::new(InMemory::new());
    stores.put("s3://lake", Arc::clone(&bucket) as _);
    Setup { stores, caches: Arc::new(Caches::new(CacheLimits::default())), bucket }
}

/// Rows left after deletes, counted from metadata and delete files alone.
async fn count(setup: &Setup, snapshot: &LakeSnapshot) -> u64 {
    let mut rows = 0;
    for file in &snapshot.files {
        let mut gone = roaring::RoaringTreemap::new();
        for delete in &file.deletes {
            match delete {
                DeleteFile::PositionParquet { store, path, size_bytes, data_file } => {
                    gone |= &*position_deletes(&setup.stores, &setup.caches, store, path, *size_bytes, data_file).await.unwrap();
                }
                DeleteFile::Puffin { cardinality, .. } => rows -= i64::try_from(*cardinality).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        rows += i64::try_from(file.rows.unwrap() - gone.len()).unwrap();
    }
    u64::try_from(rows).unwrap()
}

#[tokio::test]
async fn every_archive_counts_right_or_is_refused_by_name() {
    let Some(folder) = shared() else { return };
    let refused: BTreeMap<&str, &str> = BTreeMap::from([
        ("avro-files", "Avro data files"),
        ("rewritten-manifests", "equality deletes"),
        ("types-beyond-spark", "equality deletes"),
        ("v2-equality-deletes", "equality deletes"),
        ("v2-equality-deletes-sequence", "equality deletes"),
        ("v3-defaults", "default value of a nested column"),
        ("v3-variant", "type variant"),
    ]);
    for name in Archive::all(&folder) {
        let archive = Archive::open(&folder, &name);
        let setup = setup();
        archive.upload(&setup.bucket).await;
        match load(&setup.stores, &setup.caches, &archive.source()).await {
            Ok(snapshot) => {
                assert_eq!(refused.get(&*name), None, "{name}");
                assert_eq!(count(&setup, &snapshot).await, archive.about["rows"].as_u64().unwrap(), "{name}");
                println!("{name}: {} files, bounds of {} columns", snapshot.files.len(), snapshot.bounds.columns.len());
            }
            Err(LakeError::Unsupported { feature }) => {
                assert_eq!(refused.get(&*name), Some(&&*feature), "{name}");
                println!("{name}: refused, {feature}");
            }
            Err(error) => panic!("{name}: {error}: {error:?}"),
        }
    }
}
