//! WebHDFS: HDFS' REST interface, for what the RPC library leaves out. File ids above all; and what an open file holds
//! behind its last complete block.
//!
//! The URLs that a name node redirects to carry tokens, so that none is shown or logged. No cookie is kept.

mod answers;
mod delegation;
mod directories;
mod open;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use self::answers::{Block, FileSystem, Home, Located, OfServer, OnePage, OneStatus, Thrown, Truth};
use self::delegation::Delegation;
use super::Config;
use super::error::{Failure, Outcome, SAFE_MODE};
use super::identity::Identity;
use crate::backend::dial::Dial;
use crate::backend::meter::{Meter, UNREACHED, answered};
use crate::backend::{ErrorKind, Rights};
use crate::tunable::Span;

pub(super) use answers::{Capacity, Defaults, Status};

/// Everything but what a path is made of (RFC 3986, section 2.3).
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const IN_QUERY: &AsciiSet = &IN_PATH.add(b'/');

/// A page of a listing has a thousand entries, each of some hundred bytes.
const LARGEST_ANSWER: usize = 64 << 20;

/// Idle connections are closed after this; a name node closes them after 10 s.
const IDLE: Duration = Duration::from_secs(5);

/// Between two rounds through all name nodes.
const PAUSE: Duration = Duration::from_millis(500);

/// One user's view of a cluster.
#[derive(Debug, Clone)]
pub(super) struct WebHdfs {
    http: Client<Dial, Empty<Bytes>>,
    /// `http://host:port` of each name node.
    addresses: Arc<[String]>,
    /// The one that answered last.
    active: Arc<AtomicUsize>,
    identity: Identity,
    delegation: Arc<Delegation>,
    timeout: Span,
    meter: Meter,
}

impl WebHdfs {
    /// # Errors
    /// Says what is wrong with the CA bundle.
    pub(super) fn new(config: &Config, identity: Identity, timeout: Span) -> Result<WebHdfs, String> {
        let dial = Dial::new(config.ca_bundle.as_deref(), None, (timeout.get() / 3).min(Duration::from_secs(5)))?;
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(16)
            .build(dial);
        let (addresses, active, delegation) = (config.webhdfs.clone().into(), Arc::default(), Arc::default());
        Ok(WebHdfs { http, addresses, active, identity, delegation, timeout, meter: Meter::new() })
    }

    /// What lies at an absolute path. `NotFound`, also for a path below a file.
    pub(super) async fn status(&self, path: &str) -> Outcome<Status> {
        let answer: Outcome<OneStatus> = self.ask("stat", Method::GET, path, "GETFILESTATUS", "").await;
        match answer {
            Err(failure) if failure.kind == ErrorKind::NotADirectory => Err(Failure::absent()),
            answer => answer.map(|answer| answer.file_status),
        }
    }

    /// Fails with `Denied` where the user does not have all of these rights to what lies at an absolute path.
    pub(super) async fn check_access(&self, path: &str, asked: Rights) -> Outcome<()> {
        let letter = |has: bool, letter| if has { letter } else { '-' };
        let action = [letter(asked.read, 'r'), letter(asked.write, 'w'), letter(asked.execute, 'x')];
        let more = format!("&fsaction={}", String::from_iter(action));
        match self.ask_for("stat", Method::GET, path, "CHECKACCESS", &more).await {
            Err(failure) if failure.kind == ErrorKind::NotADirectory => Err(Failure::absent()),
            answer => answer.map(drop),
        }
    }

    /// What the cluster calls this user.
    pub(super) async fn user(&self) -> Outcome<String> {
        let home: Home = self.ask("stat", Method::GET, "/", "GETHOMEDIRECTORY", "").await?;
        let name = home.path.rsplit('/').next().filter(|name| !name.is_empty());
        name.map(str::to_owned).ok_or_else(|| Failure::corrupt("WebHDFS does not tell the user's name"))
    }

    /// A page of a directory's entries in the order of their names, those behind `after`; and whether there are more.
    pub(super) async fn list(&self, path: &str, after: &str) -> Outcome<(Vec<Status>, bool)> {
        let more = match after {
            "" => String::new(),
            after => format!("&startafter={}", utf8_percent_encode(after, IN_QUERY)),
        };
        let answer: OnePage = self.ask("list", Method::GET, path, "LISTSTATUS_BATCH", &more).await?;
        let page = answer.directory_listing;
        Ok((page.partial_listing.file_statuses.file_status, page.remaining_entries > 0))
    }

    /// Whether somebody is writing the file.
    pub(super) async fn is_under_construction(&self, path: &str) -> Outcome<bool> {
        let located: Located = self.ask("stat", Method::GET, path, "GET_BLOCK_LOCATIONS", "&offset=0&length=1").await?;
        Ok(located.located_blocks.is_under_construction)
    }

    /// The blocks of a file's first `length` bytes, and where they lie.
    pub(super) async fn blocks(&self, path: &str, length: u64) -> Outcome<Vec<Block>> {
        let more = format!("&offset=0&length={length}");
        let located: Located = self.ask("stat", Method::GET, path, "GET_BLOCK_LOCATIONS", &more).await?;
        Ok(located.located_blocks.located_blocks)
    }

    /// What the cluster has room for, counted in replicas.
    pub(super) async fn capacity(&self, path: &str) -> Outcome<Capacity> {
        let answer: FileSystem = self.ask("stat", Method::GET, path, "GETSTATUS", "").await?;
        Ok(answer.fs_status)
    }

    /// What a file has whose writer does not say otherwise.
    pub(super) async fn defaults(&self, path: &str) -> Outcome<Defaults> {
        let answer: OfServer = self.ask("stat", Method::GET, path, "GETSERVERDEFAULTS", "").await?;
        Ok(answer.fs_server_defaults)
    }

    /// Cuts a file. False where its end is still being recovered.
    pub(super) async fn truncate(&self, path: &str, length: u64) -> Outcome<bool> {
        let more = format!("&newlength={length}");
        let done: Truth = self.ask("other", Method::POST, path, "TRUNCATE", &more).await?;
        Ok(done.boolean)
    }

    /// Counts bytes of a file that came by the other way.
    pub(super) fn fetched(&self, bytes: usize) {
        self.meter.fetched(bytes);
    }

    /// Counts bytes of a file that went by the other way.
    pub(super) fn sent(&self, bytes: usize) {
        self.meter.sent(bytes);
    }

    /// As [`WebHdfs::ask_for`], for what is told in JSON.
    async fn ask<T: DeserializeOwned>(
        &self,
        kind: &'static str,
        method: Method,
        path: &str,
        op: &str,
        more: &str,
    ) -> Outcome<T> {
        let body = self.ask_for(kind, method, path, op, more).await?;
        serde_json::from_slice(&body)
            .map_err(|_| Failure::corrupt("a name node's answer by WebHDFS cannot be understood"))
    }

    /// Asks the name nodes in turn, until one that is active answers or the volume's time is over. What may have been done
    /// is asked for again.
    async fn ask_for(&self, kind: &'static str, method: Method, path: &str, op: &str, more: &str) -> Outcome<Bytes> {
        let begun = Instant::now();
        let deadline = begun + self.timeout.get();
        let (mut tried, mut forgot) = (0, false);
        loop {
            let number = self.active.load(Ordering::Relaxed) % self.addresses.len();
            let address = &self.addresses[number];
            let patience = self.patience(deadline);
            let asked = match timeout(patience, self.who(address)).await {
                Ok(Ok(who)) => {
                    let url = url(address, path, op, &who, more);
                    let asked = self.ask_one(kind, &method, url, deadline).await;
                    // A token that the name node does not know any more is no proof that it knows nobody.
                    if let Err(Failure { kind: ErrorKind::Unauthenticated, .. }) = &asked
                        && !std::mem::replace(&mut forgot, true)
                        && self.forget(&who).await
                    {
                        continue;
                    }
                    asked
                }
                Ok(Err(failure)) => Err(failure),
                Err(_) => {
                    let why = format!(
                        "no login within {} s: the KDC or the name node does not answer",
                        patience.as_secs_f32()
                    );
                    Err(unreached(&why))
                }
            };
            let failure = match asked {
                Ok(body) => return Ok(body),
                Err(failure) if !failure.passing => return Err(failure),
                Err(failure) => failure,
            };
            tried += 1;
            let next = (number + 1) % self.addresses.len();
            let _ = self.active.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
            if tried % self.addresses.len() == 0 {
                if Instant::now() + PAUSE >= deadline {
                    return Err(failure);
                }
                sleep(PAUSE).await;
            }
        }
    }

    /// Asks one server for a whole answer.
    async fn ask_one(&self, kind: &'static str, method: &Method, url: String, deadline: Instant) -> Outcome<Bytes> {
        let patience = self.patience(deadline);
        let begun = Instant::now();
        let asking = async {
            let (status, body) = self.whole(method, url).await?;
            self.meter.fetched(body.len());
            Ok((status, body))
        };
        let asked = timeout(patience, asking)
            .await
            .unwrap_or_else(|_| Err(Failure { passing: true, ..Failure::late(patience) }));
        let word = match &asked {
            Ok((status, _)) => answer_word(*status),
            Err(_) => UNREACHED,
        };
        answered(kind, word, begun.elapsed());
        match asked? {
            (status, body) if status.is_success() => Ok(body),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// One server's whole answer.
    async fn whole(&self, method: &Method, url: String) -> Outcome<(StatusCode, Bytes)> {
        let answer = self.send(method, url).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
        let body = body.map_err(|_| unreached("the connection broke in the middle of an answer"))?;
        Ok((status, body.to_bytes()))
    }

    async fn send(&self, method: &Method, url: String) -> Outcome<http::Response<Incoming>> {
        let request = Request::builder().method(method).uri(url).body(Empty::new());
        let request = request.map_err(|_| Failure::corrupt("a WebHDFS address that is no URL"))?;
        self.http.request(request).await.map_err(|_| unreached("WebHDFS cannot be reached"))
    }

    /// How long one server may take: another one has to have its turn.
    fn patience(&self, deadline: Instant) -> Duration {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = if self.addresses.len() > 1 { self.timeout.get() / 3 } else { left };
        left.min(share).max(Duration::from_millis(1))
    }
}

/// `path` is absolute.
fn url(address: &str, path: &str, op: &str, who: &str, more: &str) -> String {
    format!("{address}/webhdfs/v1{}?op={op}{who}{more}", utf8_percent_encode(path, IN_PATH))
}

fn unreached(message: &str) -> Failure {
    Failure { passing: true, ..Failure::new(ErrorKind::Unavailable, message) }
}

/// An answer that is an error: what was thrown, or what HTTP says where nothing was.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    if let Ok(Thrown { remote_exception: thrown }) = serde_json::from_slice(body) {
        return Failure::thrown(thrown.java_class_name.as_deref().unwrap_or(&thrown.exception), &thrown.message);
    }
    let failure = match status {
        StatusCode::UNAUTHORIZED => Failure::new(
            ErrorKind::Unauthenticated,
            "WebHDFS demands a proof of who the user is, such as Kerberos (authentication: kerberos of the store)",
        ),
        StatusCode::FORBIDDEN => Failure::new(ErrorKind::Denied, "WebHDFS refuses it to the mount's user"),
        StatusCode::NOT_FOUND => Failure::new(ErrorKind::Misconfigured, "there is no WebHDFS at that address"),
        status if status.is_server_error() => unreached("WebHDFS is in trouble"),
        _ => Failure::new(ErrorKind::Other, "WebHDFS refused a request"),
    };
    Failure { detail: format!("HTTP {}", status.as_u16()), ..failure }
}

fn answer_word(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..=399 => "ok",
        404 => "not-found",
        401 | 403 => "denied",
        500.. => "fault",
        _ => "refused",
    }
}

/// Asks without a user whether WebHDFS is there, and serves: any answer is one but that nobody is active, or that nothing
/// may be changed.
pub(super) async fn answers(config: &Config, patience: Duration) -> Outcome<()> {
    let web = WebHdfs::new(config, Identity::Claimed(String::new()), patience.into())
        .map_err(|why| Failure::new(ErrorKind::Misconfigured, why))?;
    let asking = async {
        let mut last = unreached("the store names no address of WebHDFS");
        for address in web.addresses.iter() {
            match web.serves(address).await {
                Err(failure) if failure.passing => last = failure,
                served => return served,
            }
        }
        Err(last)
    };
    timeout(patience, asking).await.unwrap_or_else(|_| Err(Failure::late(patience)))
}

impl WebHdfs {
    async fn serves(&self, address: &str) -> Outcome<()> {
        let (status, body) = self.whole(&Method::GET, format!("{address}/webhdfs/v1/?op=GETFILESTATUS")).await?;
        if !status.is_success() {
            let failure = refused(status, &body);
            if failure.passing {
                // It answered, and can do nothing.
                return Err(Failure { kind: ErrorKind::Throttled, ..failure });
            }
        }
        // Who may not look at that is not told.
        let state = self
            .whole(&Method::GET, format!("{address}/jmx?get=Hadoop:service=NameNode,name=FSNamesystemState::FSState"))
            .await;
        match state {
            Ok((status, body)) if status.is_success() && String::from_utf8_lossy(&body).contains("\"safeMode\"") => {
                Err(Failure::new(ErrorKind::Throttled, SAFE_MODE))
            }
            _ => Ok(()),
        }
    }
}
