//! The control plane's records as small objects, changed by conditional PUTs.
//!
//! A store that ignores the conditions is found out once, by a proof on a key of the driver's own. There this value
//! looks before it writes, one write at a time, which keeps one controller right and cannot keep two apart.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::types::EncodingType;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::sync::{Mutex, OnceCell};

use super::client::Client;
use super::error::Failure;
use super::object::{self, Condition};
use super::{Config, fetch, keys, removal, stat, tree};
use crate::auth::Credential;
use crate::backend::records::{Extent, LARGEST_RECORD, Measured, Records, Removed, Tag, own_directory, removable};
use crate::backend::{Attributes, Error, ErrorKind, Limits, Op, Path, RESERVED, Result};

/// The deadline of one request with all its retries.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The records of a bucket, or of a prefix of it.
#[derive(Debug)]
pub(in crate::backend) struct S3Records {
    pub(super) client: Arc<Client>,
    excludes: OnceCell<bool>,
    /// Held around each write where the store ignores conditions.
    alone: Mutex<()>,
    /// The store was seen to refuse DeleteObjects.
    refuses_batches: AtomicBool,
}

impl S3Records {
    /// See [`crate::backend::records`].
    pub(in crate::backend) fn connect(config: &Config, credential: &Credential) -> Result<S3Records> {
        let limits = Limits::alone(LARGEST_RECORD as u64, TIMEOUT);
        let client = Client::new(config, credential.into(), &Path::root(), limits)?;
        // A record in an archive class could not be read again.
        let client = Arc::new(Client { storage_class: None, ..client });
        Ok(S3Records {
            client,
            excludes: OnceCell::new(),
            alone: Mutex::new(()),
            refuses_batches: AtomicBool::new(false),
        })
    }

    async fn put(&self, at: &Path, body: &Bytes, condition: &Condition) -> Result<std::result::Result<Tag, Failure>> {
        let fail = |failure: Failure| failure.at(Op::Record, at);
        if body.len() > LARGEST_RECORD {
            let message = format!("a record has at most {LARGEST_RECORD} bytes");
            return Err(Error::new(ErrorKind::TooLarge, Op::Record, at, message));
        }
        let key = self.client.keys.file(at).map_err(fail)?;
        let put = if self.excludes().await? {
            object::put(&self.client, &key, body, condition, &Attributes::default()).await
        } else {
            let _alone = self.alone.lock().await;
            match (fetch(&self.client, &key).await, condition) {
                (Ok(_), Condition::Absent) => Err(object::overtaken()),
                (Ok((_, tag)), Condition::Is(expected)) if tag != *expected => Err(object::overtaken()),
                (Err(failure), Condition::Is(_)) if failure.kind == ErrorKind::NotFound => Err(object::overtaken()),
                (Err(failure), _) if failure.kind != ErrorKind::NotFound => Err(failure),
                _ => object::put(&self.client, &key, body, &Condition::Any, &Attributes::default()).await,
            }
        };
        match put {
            Ok(etag) => Ok(Ok(Tag(etag))),
            Err(failure) if failure.kind == ErrorKind::Stale => Ok(Err(failure)),
            Err(failure) => Err(fail(failure)),
        }
    }
}

#[async_trait]
impl Records for S3Records {
    async fn excludes(&self) -> Result<bool> {
        self.excludes.get_or_try_init(|| prove(&self.client)).await.copied()
    }

    async fn create(&self, at: &Path, body: Bytes) -> Result<Tag> {
        let put = self.put(at, &body, &Condition::Absent).await?;
        put.map_err(|_| Error::new(ErrorKind::AlreadyExists, Op::Record, at, "there is such a record already"))
    }

    async fn get(&self, at: &Path) -> Result<(Bytes, Tag)> {
        let fail = |failure: Failure| failure.at(Op::Record, at);
        let key = self.client.keys.file(at).map_err(fail)?;
        let (body, etag) = fetch(&self.client, &key).await.map_err(fail)?;
        Ok((body, Tag(etag)))
    }

    async fn replace(&self, at: &Path, tag: &Tag, body: Bytes) -> Result<Tag> {
        let put = self.put(at, &body, &Condition::Is(tag.0.clone())).await?;
        put.map_err(|_| Error::new(ErrorKind::Stale, Op::Record, at, "the record was changed meanwhile"))
    }

    async fn remove(&self, at: &Path) -> Result<()> {
        let fail = |failure: Failure| failure.at(Op::Record, at);
        let key = self.client.keys.file(at).map_err(fail)?;
        tree::delete(&self.client, &key, None).await.map_err(fail)
    }

    fn list(&self, dir: &Path, after: Option<&Path>) -> BoxStream<'static, Result<Path>> {
        let (client, dir, after) = (self.client.clone(), dir.clone(), after.cloned());
        let pages = stream::try_unfold(Some(None), move |next: Option<Option<String>>| {
            let (client, dir, after) = (client.clone(), dir.clone(), after.clone());
            async move {
                let Some(token) = next else { return Ok(None) };
                let fail = |failure: Failure| failure.at(Op::Record, &dir);
                let prefix = client.keys.directory(&dir).map_err(fail)?;
                let root = client.keys.directory(&Path::root()).map_err(fail)?;
                let begin = match (token, &after) {
                    (Some(token), _) => Begin::Where(token),
                    (None, Some(after)) => Begin::After(client.keys.file(after).map_err(fail)?),
                    (None, None) => Begin::First,
                };
                let page = page(&client, &prefix, &begin).await.map_err(fail)?;
                // What is no path is no record. A store may not know `start-after`.
                let paths = page.keys.iter().filter_map(|key| Path::parse(key.strip_prefix(&root)?).ok());
                let paths = paths.filter(|at| after.as_ref().is_none_or(|after| at.as_bytes() > after.as_bytes()));
                let paths: Vec<Result<Path>> = paths.map(Ok).collect();
                Ok::<_, Error>(Some((stream::iter(paths), page.next.map(Some))))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn measure(&self, dir: &Path, from: Option<String>) -> Result<Measured> {
        let fail = |failure: Failure| failure.at(Op::Record, dir);
        let prefix = self.client.keys.directory(dir).map_err(fail)?;
        let own = self.client.keys.directory(&own_directory(dir)).map_err(fail)?;
        let begin = from.map_or(Begin::First, Begin::Where);
        let page = page(&self.client, &prefix, &begin).await.map_err(fail)?;
        let files = page.keys.iter().zip(&page.sizes).filter(|(key, _)| !key.starts_with(&own));
        Ok(Measured { bytes: files.map(|(_, size)| size).sum(), next: page.next })
    }

    async fn is_vacant(&self, path: &Path) -> Result<bool> {
        let fail = |failure: Failure| failure.at(Op::Record, path);
        let key = self.client.keys.file(path).map_err(fail)?;
        let (file, below) = tokio::join!(stat::head(&self.client, &key), stat::has_children(&self.client, path));
        match file {
            Ok(_) => Ok(false),
            // The LIST's answer has a body, and so a reason.
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(!below.map_err(fail)?),
            Err(failure) => Err(fail(below.err().unwrap_or(failure))),
        }
    }

    async fn remove_page(&self, dir: &Path, extent: Extent) -> Result<Removed> {
        removable(dir)?;
        removal::page(&self.client, dir, extent, &self.refuses_batches)
            .await
            .map_err(|failure| failure.at(Op::Record, dir))
    }
}

/// A page of a listing.
pub(super) struct Page {
    pub(super) keys: Vec<String>,
    /// Of each key, in bytes.
    sizes: Vec<u64>,
    /// What to ask for next; `None` after the last.
    pub(super) next: Option<String>,
}

/// Where a page begins.
pub(super) enum Begin {
    /// At the first key.
    First,
    /// At the first key after this one.
    After(String),
    /// Where the page before said.
    Where(String),
}

/// Up to 1,000 keys that begin with `prefix`, at any depth.
pub(super) async fn page(client: &Client, prefix: &str, begin: &Begin) -> std::result::Result<Page, Failure> {
    let (after, token) = match begin {
        Begin::First => (None, None),
        Begin::After(key) => (Some(key.clone()), None),
        Begin::Where(token) => (None, Some(token.clone())),
    };
    let page = client
        .ask(async || {
            let list = client.sdk.list_objects_v2().bucket(&client.bucket).prefix(prefix);
            let list = list.encoding_type(EncodingType::Url).set_start_after(after.clone());
            let list = list.set_continuation_token(token.clone());
            Ok(list.set_request_payer(client.payer.clone()).send().await?)
        })
        .await?;
    let next = stat::follows(token.as_deref(), page.is_truncated(), page.next_continuation_token())?;
    let keys = page.contents().iter().map(|object| below(prefix, object.key(), page.encoding_type()));
    let keys = keys.collect::<std::result::Result<Vec<_>, _>>()?;
    let size = |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
    let sizes = page.contents().iter().map(|object| size(object.size())).collect();
    Ok(Page { keys, sizes, next })
}

/// A key of a listing of `prefix`, which it must begin with.
pub(super) fn below(
    prefix: &str,
    key: Option<&str>,
    encoding: Option<&EncodingType>,
) -> std::result::Result<String, Failure> {
    let key = String::from_utf8(keys::listed(key.unwrap_or_default(), encoding))
        .map_err(|_| Failure::new(ErrorKind::Unsupported, "a key that is not UTF-8 lies there"))?;
    match key.starts_with(prefix) {
        true => Ok(key),
        false => Err(Failure::corrupt("the store listed a key outside the directory that was asked for")),
    }
}

/// An object's bytes and its ETag.
async fn fetch(client: &Client, key: &str) -> std::result::Result<(Bytes, String), Failure> {
    match fetch::whole(client, key, LARGEST_RECORD as u64, None).await {
        Ok(Some(whole)) => Ok((whole.bytes, whole.etag)),
        Ok(None) => Err(Failure::corrupt("the store's answer is to another question")),
        Err(failure) if failure.kind == ErrorKind::TooLarge => {
            Err(Failure::corrupt(format!("a record has at most {LARGEST_RECORD} bytes; this is none")))
        }
        Err(failure) => Err(failure),
    }
}

/// Whether the store refuses a second exclusive create, and a replacement of a state that never was.
async fn prove(client: &Client) -> Result<bool> {
    let at = Path::parse(&format!("{RESERVED}/proof/{}", object::nonce().to_lowercase())).unwrap_or_default();
    let fail = |failure: Failure| failure.at(Op::Record, &at);
    let key = client.keys.file(&at).map_err(fail)?;
    let never = Condition::Is("0123456789abcdef0123456789abcdef".to_owned());
    let mut proved = true;
    for (condition, succeeds) in [(Condition::Absent, true), (Condition::Absent, false), (never, false)] {
        match object::put(client, &key, &Bytes::new(), &condition, &Attributes::default()).await {
            Ok(_) => proved &= succeeds,
            Err(failure) if !succeeds && failure.kind == ErrorKind::Stale => {}
            // A store may refuse what it does not know, which is no exclusion either.
            Err(failure) if failure.kind == ErrorKind::Unsupported => proved = false,
            Err(failure) => return Err(fail(failure)),
        }
    }
    tree::delete(client, &key, None).await.map_err(fail)?;
    Ok(proved)
}
