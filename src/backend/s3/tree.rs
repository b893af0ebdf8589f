//! Directories, and the removal of files and of them.
//!
//! A directory is whatever has keys below it; an empty one is kept by a marker, a zero-byte object whose key ends in
//! `/`. As on any file system a directory stays when its last entry goes: whoever takes that entry leaves a marker.

use bytes::Bytes;

use super::client::Client;
use super::error::Failure;
use super::object::{self, Condition};
use super::stat;
use crate::backend::{Attributes, Error, ErrorKind, Kind, Meta, Op, Path, Result};

/// `Backend::make_dir`.
pub(super) async fn make(client: &Client, path: &Path) -> Result<Meta> {
    let fail = |failure: Failure| failure.at(Op::MakeDir, path);
    let exists = || Error::new(ErrorKind::AlreadyExists, Op::MakeDir, path, "something lies there already");
    let key = client.keys.directory(path).map_err(fail)?;
    match stat::stat(client, path, Op::MakeDir).await {
        Ok(_) => return Err(exists()),
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let marked = object::put(client, &key, &Bytes::new(), &Condition::Absent, &Attributes::default()).await;
    match marked {
        Ok(_) => Ok(stat::directory()),
        Err(failure) if failure.kind == ErrorKind::Stale => Err(exists()),
        Err(failure) => Err(fail(failure)),
    }
}

/// `Backend::remove`.
pub(super) async fn remove(client: &Client, path: &Path, kind: Kind) -> Result<()> {
    if path.is_root() {
        return Err(Error::new(ErrorKind::Denied, Op::Remove, path, "the volume's own directory stays"));
    }
    let fail = |failure: Failure| failure.at(Op::Remove, path);
    match kind {
        Kind::File | Kind::Symlink => {
            let key = client.keys.file(path).map_err(fail)?;
            let (found, kept) = tokio::join!(stat::stat(client, path, Op::Remove), keep_parent(client, path, &key));
            if found?.kind() == Kind::Directory {
                return Err(Error::new(ErrorKind::IsADirectory, Op::Remove, path, "a directory lies there"));
            }
            kept.map_err(fail)?;
            delete(client, &key, None).await.map_err(fail)
        }
        Kind::Directory => {
            expect_empty(client, path, Op::Remove).await?;
            delete_marker(client, path).await.map_err(fail)
        }
    }
}

/// `NotEmpty`, `NotADirectory` or `NotFound`, unless a directory with nothing in it lies at `path`. Hidden keys count.
pub(super) async fn expect_empty(client: &Client, path: &Path, op: Op) -> Result<()> {
    let fail = |failure: Failure| failure.at(op, path);
    let prefix = client.keys.directory(path).map_err(fail)?;
    let found = stat::first_keys(client, &prefix, 2).await.map_err(fail)?;
    if found.iter().any(|(key, _)| key != prefix.as_bytes()) {
        return Err(Error::new(ErrorKind::NotEmpty, op, path, "the directory is not empty"));
    }
    if found.is_empty() {
        stat::stat(client, path, op).await?;
        return Err(Error::new(ErrorKind::NotADirectory, op, path, "a file lies there"));
    }
    Ok(())
}

/// Removes the marker of an empty directory.
pub(super) async fn delete_marker(client: &Client, path: &Path) -> std::result::Result<(), Failure> {
    let key = client.keys.directory(path)?;
    keep_parent(client, path, &key).await?;
    delete(client, &key, None).await
}

/// Marks the directory that `path` lies in, if `key` is all there is in it.
pub(super) async fn keep_parent(client: &Client, path: &Path, key: &str) -> std::result::Result<(), Failure> {
    let Some((parent, _)) = path.split_last().filter(|(parent, _)| !parent.is_root()) else { return Ok(()) };
    let marker = client.keys.directory(&parent)?;
    let found = match stat::first_keys(client, &marker, 2).await {
        Ok(found) => found,
        // Who may not list sees no directory either.
        Err(failure) if failure.kind == ErrorKind::Denied => return Ok(()),
        Err(failure) => return Err(failure),
    };
    match found.as_slice() {
        [(only, _)] if only == key.as_bytes() => mark(client, &marker).await,
        _ => Ok(()),
    }
}

/// Puts a marker, unless one is there.
pub(super) async fn mark(client: &Client, key: &str) -> std::result::Result<(), Failure> {
    let marked = object::put(client, key, &Bytes::new(), &Condition::Absent, &Attributes::default()).await;
    match marked {
        Err(failure) if failure.kind != ErrorKind::Stale => Err(failure),
        _ => Ok(()),
    }
}

/// Removes an object; fine where it is gone.
pub(super) async fn delete(client: &Client, key: &str, if_match: Option<String>) -> std::result::Result<(), Failure> {
    let deleted = client
        .ask(async || {
            let delete = client.sdk.delete_object().bucket(&client.bucket).key(key).set_if_match(if_match.clone());
            Ok(delete.set_request_payer(client.payer.clone()).send().await?)
        })
        .await;
    match deleted {
        Err(failure) if failure.kind != ErrorKind::NotFound => Err(failure),
        _ => Ok(()),
    }
}
