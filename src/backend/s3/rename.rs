//! Rename: a copy pinned to the source's version, then the removal of the source.
//!
//! Many stores ignore `If-None-Match` on CopyObject and take RenameObject for a PutObject of nothing, so neither is
//! ever sent: whether the destination is free is looked up before the copy.

use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;

use super::assembly::{Assembly, Source, copy_failed};
use super::client::{Client, quiet_for};
use super::error::Failure;
use super::object::{self, Condition};
use super::schedule::LARGEST;
use super::{stat, tree};
use crate::backend::{Error, ErrorKind, Kind, Meta, Op, Path, RenameOptions, Result};

/// `Backend::rename`.
pub(super) async fn rename(client: &Arc<Client>, from: &Path, to: &Path, how: RenameOptions) -> Result<Meta> {
    let refuse = |kind, at: &Path, why: &str| Err(Error::new(kind, Op::Rename, at, why));
    if from.is_root() || to.is_root() {
        return refuse(ErrorKind::Denied, from, "the volume's own directory stays where it is");
    }
    let (source, target) = tokio::join!(stat::stat(client, from, Op::Rename), stat::stat(client, to, Op::Rename));
    let source = source?;
    match (how.kind, source.kind()) {
        (Kind::File, Kind::Directory) => return refuse(ErrorKind::IsADirectory, from, "a directory lies there"),
        (Kind::Directory, Kind::File) => return refuse(ErrorKind::NotADirectory, from, "a file lies there"),
        _ => {}
    }
    if how.version.as_ref().is_some_and(|version| source.version().map(|now| &now.bytes) != Some(&version.bytes)) {
        return refuse(ErrorKind::Stale, from, "the file is no longer that version");
    }
    let target = match target {
        Ok(meta) => Some(meta.kind()),
        Err(error) if error.kind == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if from == to {
        return Ok(source);
    }
    match (how.kind, target) {
        (_, None) => {}
        (_, Some(_)) if !how.replace => return refuse(ErrorKind::AlreadyExists, to, "something lies there already"),
        (Kind::File, Some(Kind::Directory)) => return refuse(ErrorKind::IsADirectory, to, "a directory lies there"),
        (Kind::Directory, Some(Kind::File)) => return refuse(ErrorKind::NotADirectory, to, "a file lies there"),
        (Kind::Directory, Some(Kind::Directory)) => tree::expect_empty(client, to, Op::Rename).await?,
        _ => {}
    }
    let moved = match how.kind {
        Kind::File | Kind::Symlink => file(client, from, to).await,
        Kind::Directory => return directory(client, from, to).await,
    };
    moved.map_err(|failure| failure.at(Op::Rename, from))
}

async fn file(client: &Arc<Client>, from: &Path, to: &Path) -> std::result::Result<Meta, Failure> {
    let (from_key, to_key) = (client.keys.file(from)?, client.keys.file(to)?);
    let head = stat::head(client, &from_key).await?;
    let version = stat::version(from, head.e_tag(), head.content_length())?;
    let source = Source { key: from_key, etag: version.bytes.to_string(), size: version.size };
    let meta = if source.size > LARGEST {
        let etag = copy_in_parts(client, &source, &to_key, &head).await?;
        object::written(client, to, &to_key, &etag, source.size).await
    } else {
        let meta = copy(client, &source, to, &to_key, &head).await?;
        // A store that ignores the pin may have copied another version, which must not be taken for this one.
        source.expect_unchanged(client).await?;
        meta
    };
    tree::keep_parent(client, from, &source.key).await?;
    delete_version(client, &source.key, &source.etag).await?;
    Ok(meta)
}

/// Moves an empty directory.
async fn directory(client: &Arc<Client>, from: &Path, to: &Path) -> Result<Meta> {
    if to.starts_with(from) {
        return Err(Error::new(ErrorKind::Other, Op::Rename, to, "a directory cannot move into itself"));
    }
    tree::expect_empty(client, from, Op::Rename).await.map_err(|error| match error.kind {
        ErrorKind::NotEmpty => {
            let why = "S3 has no rename of directories, and this one is not empty: move its files one by one";
            Error::new(ErrorKind::Unsupported, Op::Rename, from, why)
        }
        _ => error,
    })?;
    let moved = async {
        tree::mark(client, &client.keys.directory(to)?).await?;
        tree::delete_marker(client, from).await
    };
    moved.await.map_err(|failure| failure.at(Op::Rename, from))?;
    Ok(stat::directory())
}

/// One CopyObject, up to 5 GiB. The store keeps metadata and tags.
async fn copy(
    client: &Client,
    source: &Source,
    to: &Path,
    to_key: &str,
    head: &HeadObjectOutput,
) -> std::result::Result<Meta, Failure> {
    let budget = client.copy_budget(source.size);
    let copied = client
        .ask_for(budget, async || {
            let copy = client.sdk.copy_object().bucket(&client.bucket).key(to_key);
            let copy = copy.copy_source(client.source(&source.key));
            let copy = copy.copy_source_if_match(stat::quoted(&source.etag)).set_request_payer(client.payer.clone());
            let copy = copy.set_storage_class(client.class().or_else(|| kept_class(head)));
            let copy = copy.set_server_side_encryption(client.encryption()).set_ssekms_key_id(client.kms_key.clone());
            Ok(copy.customize().config_override(quiet_for(budget)).send().await?)
        })
        .await;
    let copied = match copied {
        Ok(copied) => copied,
        Err(failure) => return Err(copy_failed(client, source, failure).await),
    };
    let Some(result) = copied.copy_object_result else {
        return Err(Failure::corrupt("the store's answer to a copy is empty"));
    };
    let etag = object::etag(result.e_tag())?;
    let mtime = match result.last_modified() {
        Some(time) => stat::time(Some(time)),
        None => SystemTime::now(),
    };
    Ok(stat::of(stat::tagged(to, &etag, source.size), mtime))
}

/// A copy in parts, which keeps no metadata of itself: it is given what HEAD told, and no tags.
async fn copy_in_parts(
    client: &Arc<Client>,
    source: &Source,
    to_key: &str,
    head: &HeadObjectOutput,
) -> std::result::Result<String, Failure> {
    let mut assembly = Assembly::begin(client.clone(), to_key.to_owned(), |begin, nonce| {
        let mut metadata = object::metadata(nonce, &Default::default());
        for (key, value) in head.metadata().into_iter().flatten() {
            metadata.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let begin = begin.set_metadata(Some(metadata)).set_content_type(head.content_type.clone());
        let begin = begin.set_content_encoding(head.content_encoding.clone());
        let begin = begin.set_content_disposition(head.content_disposition.clone());
        let begin = begin.set_content_language(head.content_language.clone());
        let begin = begin.set_cache_control(head.cache_control.clone());
        begin.set_storage_class(client.class().or_else(|| kept_class(head)))
    })
    .await?;
    let copied = match assembly.take(source).await {
        Ok(()) => assembly.complete(&Condition::Any).await,
        Err(failure) => Err(failure),
    };
    if copied.is_err() {
        assembly.abort().await;
    }
    copied
}

/// The source's own class, where an object can be born in it.
fn kept_class(head: &HeadObjectOutput) -> Option<aws_sdk_s3::types::StorageClass> {
    head.storage_class().filter(|class| !stat::is_archive(class.as_str())).cloned()
}

/// Removes the object `key` if it still is `etag`; fine where it is gone.
pub(super) async fn delete_version(client: &Client, key: &str, etag: &str) -> std::result::Result<(), Failure> {
    let deleted = tree::delete(client, key, Some(stat::quoted(etag))).await;
    match deleted {
        // A store that knows no condition here gets the plain request, after a look.
        Err(failure) if failure.kind == ErrorKind::Unsupported => match stat::head(client, key).await {
            Ok(head) if head.e_tag().map(stat::bare) == Some(etag) => tree::delete(client, key, None).await,
            Ok(_) => Err(object::overtaken()),
            Err(missing) if missing.kind == ErrorKind::NotFound => Ok(()),
            Err(failure) => Err(failure),
        },
        other => other,
    }
}
