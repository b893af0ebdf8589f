//! The store: `millrace serve-s3` in a process of its own, so that its processor time is nobody else's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use millrace::auth::{Credential, Secret};
use millrace::backend;
use millrace::backend::s3::Config as S3;
use millrace::sandbox::raw::Access;
use serde::Deserialize;
use serde_json::json;

use super::dataset::Object;
use super::mounted::{Source, Volume};

pub(crate) const BUCKET: &str = "bench";
pub(crate) const KEY_ID: &str = "bench";
pub(crate) const ACCESS_KEY: &str = "bench-secret-key";

/// What every answer waits for, and what a connection carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire {
    pub(crate) first_byte_ms: u64,
    pub(crate) bytes_per_second: u64,
}

/// The wire of all figures: 15 ms and 100 MB/s a connection.
pub(crate) const WIRE: Wire = Wire { first_byte_ms: 15, bytes_per_second: 100_000_000 };

impl Wire {
    /// The most that ranged requests of `part` bytes over `connections` carry, in bytes a second.
    pub(crate) fn limit(self, connections: u32, part: u64) -> f64 {
        let first = self.first_byte_ms as f64 / 1000.0;
        f64::from(connections) * part as f64 / (first + part as f64 / self.bytes_per_second as f64)
    }
}

/// Requests and bytes of bodies since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) gets: u64,
    pub(crate) heads: u64,
    pub(crate) lists: u64,
    pub(crate) bytes: u64,
    /// Processor seconds of what stands for the wire, where that is a process of its own.
    pub(crate) relay_cpu: f64,
}

impl Counts {
    pub(crate) fn since(self, before: Counts) -> Counts {
        Counts {
            gets: self.gets - before.gets,
            heads: self.heads - before.heads,
            lists: self.lists - before.lists,
            bytes: self.bytes - before.bytes,
            relay_cpu: self.relay_cpu - before.relay_cpu,
        }
    }
}

pub(crate) struct Origin {
    child: Child,
    latest: Arc<Mutex<Counts>>,
    pub(crate) endpoint: String,
    pub(crate) ca_pem: Option<String>,
}

#[derive(Deserialize)]
struct Hello {
    endpoint: String,
    ca: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    requests: std::collections::HashMap<String, u64>,
    body_bytes: u64,
}

/// What lies in the bucket, below a folder.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Contents<'a> {
    Objects {
        folder: &'a str,
        objects: &'a [Object],
    },
    /// The files of a local directory.
    Tree {
        folder: &'a str,
        root: &'a Path,
    },
    /// So many objects of one size, by [`Origin::name_in_series`].
    Series {
        folder: &'a str,
        count: u64,
        size: u64,
    },
}

impl Origin {
    /// Serves `objects`, each below `folder`, over such a wire.
    pub(crate) fn start(dir: &Path, folder: &str, objects: &[Object], wire: Wire, tls: bool) -> Result<Origin> {
        Origin::serve(dir, Contents::Objects { folder, objects }, wire, tls)
    }

    /// The name of an object of a series below its folder.
    pub(crate) fn name_in_series(number: u64) -> String {
        format!("{:04}/{:03}", number / 1000, number % 1000)
    }

    /// Serves `contents` over such a wire.
    pub(crate) fn serve(dir: &Path, contents: Contents<'_>, wire: Wire, tls: bool) -> Result<Origin> {
        let (mut objects, mut files, mut series) = (Vec::new(), Vec::new(), Vec::new());
        match contents {
            Contents::Objects { folder, objects: all } => {
                let key = |one: &Object| format!("{folder}/{}", one.name);
                let object =
                    |one: &Object| json!({"bucket": BUCKET, "key": key(one), "seed": one.seed, "size": one.size});
                objects.extend(all.iter().map(object));
            }
            Contents::Tree { folder, root } => {
                files.push(json!({"bucket": BUCKET, "prefix": format!("{folder}/"), "directory": root}));
            }
            Contents::Series { folder, count, size } => {
                series.push(json!({"bucket": BUCKET, "prefix": format!("{folder}/"), "count": count, "size": size}));
            }
        }
        let words = json!({
            "listen": "127.0.0.1:0",
            "tls": tls,
            "buckets": [BUCKET],
            "users": [{"keyId": KEY_ID, "accessKey": ACCESS_KEY}],
            "objects": objects,
            "files": files,
            "series": series,
            "firstByteMs": wire.first_byte_ms,
            "perConnection": wire.bytes_per_second,
        });
        let file = dir.join("origin.json");
        fs::write(&file, words.to_string())?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .arg("serve-s3")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output of the origin")?).lines();
        let hello: Hello = serde_json::from_str(&lines.next().context("the origin did not start")??)?;
        let latest = Arc::new(Mutex::new(Counts::default()));
        let seen = latest.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Ok(Line { requests, body_bytes }) = serde_json::from_str(&line) else { continue };
                let of = |kind: &str| requests.get(kind).copied().unwrap_or_default();
                let (gets, heads, lists) = (of("GetObject"), of("HeadObject"), of("ListObjectsV2"));
                *seen.lock().unwrap_or_else(PoisonError::into_inner) =
                    Counts { gets, heads, lists, bytes: body_bytes, relay_cpu: 0.0 };
            }
        });
        Ok(Origin { child, latest, endpoint: hello.endpoint, ca_pem: hello.ca })
    }

    /// The counts, once what the origin knows has been told: it tells twice a second.
    pub(crate) fn counts(&self) -> Counts {
        std::thread::sleep(Duration::from_millis(1100));
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn access(&self) -> Access {
        Access {
            endpoint: self.endpoint.clone(),
            bucket: BUCKET.into(),
            region: "us-east-1".into(),
            key_id: KEY_ID.into(),
            secret: ACCESS_KEY.into(),
            session_token: None,
            ca_pem: self.ca_pem.clone(),
        }
    }
}

impl Source for Origin {
    fn counts(&self) -> Result<Counts> {
        Ok(Origin::counts(self))
    }

    fn volume(&self, folder: &str, connections: u32) -> Result<Volume> {
        let ca_bundle = self.ca_pem.clone();
        let store = S3 { max_connections: connections, ca_bundle, ..S3::at(&self.endpoint, BUCKET) };
        let secret_key = Secret::new(ACCESS_KEY.into());
        Ok(Volume {
            backend: backend::Config::S3(store),
            path: folder.to_owned(),
            credential: Credential::S3 { key_id: KEY_ID.into(), secret_key, session_token: None },
        })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
