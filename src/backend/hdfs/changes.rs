//! What changes names, directories and attributes.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::{Failure, Outcome};
use super::webhdfs::Status;
use super::{Tree, version};
use crate::backend::journal::Note;
use crate::backend::{ErrorKind, Kind, Meta, Name, Path, RenameOptions, SetAttributes};

/// Permission bits of a new directory.
const MODE: u32 = 0o755;

/// Between two looks at a file that is being cut.
const PAUSE: Duration = Duration::from_millis(50);

/// Leaves a time as it is.
const UNCHANGED: u64 = u64::MAX;

/// `Backend::make_dir`. HDFS makes a directory that is there already without a word; but a rename has one winner.
pub(super) async fn make_dir(tree: &Tree, path: &Path) -> Outcome<Meta> {
    let Some((dir, _)) = path.split_last() else {
        return Err(Failure::new(ErrorKind::AlreadyExists, "it is the volume's own directory"));
    };
    let to = &tree.at(path)?;
    let own = dir.join(&Name::hidden());
    let from = &tree.at(&own)?;
    let making = tree.library.act("other", |client| async move { client.mkdirs(from, MODE, false).await });
    let (journal, note) = (&tree.limits.journal, Note::hidden(&own, None));
    journal.noted(note.clone(), making).await?;
    let moved = tree.library.act("other", |client| async move { client.rename(from, to, false).await }).await;
    if let Err(failure) = moved {
        let removed = tree.library.act("remove", |client| async move { client.delete(from, false).await }).await;
        if removed.is_ok() {
            journal.over(note).await;
        }
        if let Ok(false) = removed {
            // Nobody else knows the hidden name: the directory was moved, and the answer got lost.
            return tree.meta(path).await;
        }
        // Of a file in its place HDFS says no more than that it is no directory.
        return match tree.status_any(path).await? {
            Some(_) => Err(Failure::new(ErrorKind::AlreadyExists, "something lies there already")),
            None => Err(failure),
        };
    }
    journal.over(note).await;
    tree.meta(path).await
}

/// `Backend::remove`.
pub(super) async fn remove(tree: &Tree, path: &Path, kind: Kind) -> Outcome<()> {
    let removed = remove_one(tree, path, kind).await;
    if removed.as_ref().map_or_else(|failure| failure.kind == ErrorKind::NotFound, |()| true) {
        tree.limits.journal.over(Note::hidden(path, None)).await;
    }
    removed
}

async fn remove_one(tree: &Tree, path: &Path, kind: Kind) -> Outcome<()> {
    new_name(path)?;
    of_kind(&tree.status(path).await?, kind)?;
    let at = &tree.at(path)?;
    match tree.library.act("remove", |client| async move { client.delete(at, false).await }).await? {
        true => Ok(()),
        false => Err(Failure::absent()),
    }
}

/// `Backend::rename`.
pub(super) async fn rename(tree: &Tree, from: &Path, to: &Path, how: RenameOptions) -> Outcome<Meta> {
    let moved = rename_one(tree, from, to, how).await?;
    tree.limits.journal.over(Note::hidden(from, None)).await;
    Ok(moved)
}

async fn rename_one(tree: &Tree, from: &Path, to: &Path, how: RenameOptions) -> Outcome<Meta> {
    new_name(from)?;
    let (to_dir, _) = new_name(to)?;
    let source = tree.status(from).await?;
    of_kind(&source, how.kind)?;
    if let Some(wanted) = &how.version
        && version::version(from, &source).bytes != wanted.bytes
    {
        return Err(Failure::new(ErrorKind::Stale, "the file was replaced or changed"));
    }
    if from == to {
        return Ok(version::meta(to, &source, &tree.owners));
    }
    if to.starts_with(from) {
        return Err(Failure::new(ErrorKind::Unsupported, "a directory cannot move into itself"));
    }
    let target = tree.status_any(to).await?;
    if let Some(target) = &target {
        if !how.replace {
            return Err(Failure::new(ErrorKind::AlreadyExists, "something lies there already"));
        }
        of_kind(target, how.kind)?;
    }
    let (at, new, replace) = (&tree.at(from)?, &tree.at(to)?, how.replace);
    let moving = tree.library.act("other", |client| async move { client.rename(at, new, replace).await });
    let note = Note::hidden(to, Some(version::file(source.file_id)));
    match tree.limits.journal.noted(note, moving).await {
        Ok(()) => tree.meta(to).await,
        // It does not say which of the two it did not find.
        Err(failure) if failure.kind == ErrorKind::Other && target.is_some() && how.kind == Kind::Directory => {
            let full = !tree.web.list(new, "").await?.0.is_empty();
            Err(if full { Failure::new(ErrorKind::NotEmpty, "the directory is not empty") } else { failure })
        }
        Err(failure) if matches!(failure.kind, ErrorKind::NotFound | ErrorKind::Other) => {
            match tree.status(&to_dir).await?.kind.as_str() {
                "DIRECTORY" => Err(failure),
                _ => Err(Failure::new(ErrorKind::NotADirectory, "what lies above it is no directory")),
            }
        }
        Err(failure) => Err(failure),
    }
}

/// `Backend::set_attributes`.
pub(super) async fn set_attributes(tree: &Tree, path: &Path, set: &SetAttributes) -> Outcome<Meta> {
    let status = tree.status(path).await?;
    if let Some(size) = set.size {
        cut(tree, path, &status, size).await?;
    }
    apply(tree, &tree.at(path)?, set).await?;
    tree.meta(path).await
}

/// Sets what is no length of what lies at an absolute path.
pub(super) async fn apply(tree: &Tree, at: &str, set: &SetAttributes) -> Outcome<()> {
    let user = set.uid.map(|uid| tree.owners.user(uid)).transpose()?;
    let group = set.gid.map(|gid| tree.owners.group(gid)).transpose()?;
    if user.is_some() || group.is_some() {
        tree.library.act("other", |client| async move { client.set_owner(at, user, group).await }).await?;
    }
    if let Some(mode) = set.mode {
        let mode = mode & 0o7777;
        tree.library.act("other", |client| async move { client.set_permission(at, mode).await }).await?;
    }
    if set.mtime.is_some() || set.atime.is_some() {
        let [mtime, atime] = [set.mtime, set.atime].map(|time| time.map_or(UNCHANGED, version::millis));
        tree.library.act("other", |client| async move { client.set_times(at, mtime, atime).await }).await?;
    }
    Ok(())
}

/// Makes a file shorter.
async fn cut(tree: &Tree, path: &Path, status: &Status, size: u64) -> Outcome<()> {
    of_kind(status, Kind::File)?;
    if tree.is_in_snapshot(path) {
        return Err(Failure::in_snapshot());
    }
    if let Some(open) = tree.writers.get(status.file_id) {
        open.close().await?;
    }
    if size == status.length {
        return Ok(());
    }
    if size > status.length {
        return Err(Failure::new(ErrorKind::Unsupported, "HDFS does not make a file longer without bytes"));
    }
    let at = &tree.at(path)?;
    let deadline = Instant::now() + tree.limits.timeout.get();
    let done = tree.web.truncate(at, size).await?;
    tree.readers.forget(&version::by_id(status.file_id));
    if done {
        return Ok(());
    }
    // Its last block is being cut by the DataNodes.
    while tree.web.is_under_construction(at).await? {
        if Instant::now() > deadline {
            return Err(Failure::new(ErrorKind::Unavailable, "the file was not cut in time"));
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// The directory and the name of a path that something is to get.
pub(super) fn new_name(path: &Path) -> Outcome<(Path, Name)> {
    let stays = || Failure::new(ErrorKind::Denied, "the volume's own directory stays where it is");
    path.split_last().ok_or_else(stays)
}

fn of_kind(status: &Status, kind: Kind) -> Outcome<()> {
    match (kind, status.kind.as_str()) {
        (Kind::File | Kind::Symlink, "DIRECTORY") => Err(Failure::new(ErrorKind::IsADirectory, "it is a directory")),
        (Kind::Directory, kind) if kind != "DIRECTORY" => {
            Err(Failure::new(ErrorKind::NotADirectory, "it is no directory"))
        }
        _ => Ok(()),
    }
}
