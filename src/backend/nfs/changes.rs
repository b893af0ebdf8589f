//! Making, removing and moving names.
//!
//! A call that was sent twice may find that its first sending did it: what it finds then is compared with what it
//! wanted.

use bytes::Bytes;
use nfs3_types::nfs3::nfs_fh3;

use super::calls::{Outcome, option};
use super::error::Failure;
use super::tree::{Found, Tree, look};
use super::version;
use crate::backend::journal::Note;
use crate::backend::{ErrorKind, Kind, Meta, Name, Path, RenameOptions};

/// Permission bits of a new directory.
const MODE: u32 = 0o755;

/// `Backend::make_dir`.
pub(super) async fn make_dir(tree: &Tree, path: &Path) -> Outcome<Meta> {
    let (dir, name) = new_name(path).map_err(|failure| match path.is_root() {
        true => Failure::new(ErrorKind::AlreadyExists, "it is the volume's own directory"),
        false => failure,
    })?;
    let name = &name;
    let found = tree
        .in_directory(&dir, |mounted, dir| async move {
            let made = mounted.server.mkdir(&dir, name.as_bytes(), MODE).await;
            match made.outcome {
                Ok(made) => match (option(made.obj), option(made.obj_attributes)) {
                    (Some(handle), Some(attributes)) => Ok(Found { handle, attributes }),
                    _ => look(&mounted, &dir, name).await,
                },
                Err(failure) if failure.kind == ErrorKind::AlreadyExists && made.resent => {
                    let found = look(&mounted, &dir, name).await?;
                    if found.is_directory() { Ok(found) } else { Err(failure) }
                }
                Err(failure) => Err(failure),
            }
        })
        .await?;
    Ok(version::meta(path, &found.handle, &found.attributes))
}

/// `Backend::remove`.
pub(super) async fn remove(tree: &Tree, path: &Path, kind: Kind) -> Outcome<()> {
    let removed = remove_one(tree, path, kind).await;
    if removed.as_ref().map_or_else(|failure| failure.kind == ErrorKind::NotFound, |()| true) {
        tree.limits.journal.over(Note::hidden(path, None)).await;
    }
    removed
}

/// As [`remove`], without the journal.
pub(super) async fn remove_one(tree: &Tree, path: &Path, kind: Kind) -> Outcome<()> {
    let Some((dir, name)) = path.split_last() else { return Err(stays()) };
    let found = tree.lookup(path).await?;
    of_kind(&found, kind)?;
    let name = &name;
    let removed = tree
        .in_directory(&dir, |mounted, dir| async move {
            let (outcome, resent) = match kind {
                Kind::File | Kind::Symlink => {
                    let removed = mounted.server.remove(&dir, name.as_bytes()).await;
                    (removed.outcome.map(drop), removed.resent)
                }
                Kind::Directory => {
                    let removed = mounted.server.rmdir(&dir, name.as_bytes()).await;
                    (removed.outcome.map(drop), removed.resent)
                }
            };
            match outcome {
                Err(failure) if failure.kind == ErrorKind::NotFound && resent => Ok(()),
                outcome => outcome,
            }
        })
        .await;
    if kind == Kind::Directory {
        tree.left(path);
    }
    removed.map_err(not_empty)
}

/// `Backend::rename`.
pub(super) async fn rename(tree: &Tree, from: &Path, to: &Path, how: RenameOptions) -> Outcome<Meta> {
    let Some((from_dir, from_name)) = from.split_last() else { return Err(stays()) };
    if to.is_root() {
        return Err(stays());
    }
    let (to_dir, to_name) = new_name(to)?;
    let source = tree.lookup(from).await?;
    of_kind(&source, how.kind)?;
    if let Some(wanted) = &how.version
        && version::version(from, &source.handle, &source.attributes).bytes != wanted.bytes
    {
        return Err(Failure::new(ErrorKind::Stale, "the file was replaced or changed"));
    }
    let new_dir = tree.directory(&to_dir).await?;
    let target = tree.lookup_any(to).await?;
    if from == to {
        return Ok(version::meta(to, &source.handle, &source.attributes));
    }
    if to.starts_with(from) {
        return Err(Failure::new(ErrorKind::Unsupported, "a directory cannot move into itself"));
    }
    if let Some(target) = &target {
        if !how.replace {
            return Err(Failure::new(ErrorKind::AlreadyExists, "something lies there already"));
        }
        of_kind(target, how.kind)?;
    }
    let note = Note::hidden(to, Some(version::file(&source.handle, &source.attributes)));
    let moving = async {
        let (old, new) = ((&from_dir, &from_name), (&to_dir, &to_name));
        match how.kind != Kind::Directory && !how.replace {
            true => move_by_link(tree, &source, old, new).await,
            false => rename_over(tree, old, (&new_dir, &to_name)).await,
        }
    };
    let moved = tree.limits.journal.noted(note, moving).await;
    if how.kind == Kind::Directory {
        tree.left(from);
        tree.left(to);
    }
    moved.map_err(|failure| if target.is_some() { not_empty(failure) } else { failure })?;
    tree.limits.journal.over(Note::hidden(from, None)).await;
    let moved = tree.lookup(to).await?;
    Ok(version::meta(to, &moved.handle, &moved.attributes))
}

/// `Backend::make_symlink`.
pub(super) async fn make_symlink(tree: &Tree, path: &Path, target: &[u8]) -> Outcome<Meta> {
    let (dir, name) = new_name(path)?;
    let name = &name;
    let found = tree
        .in_directory(&dir, |mounted, dir| async move {
            let made = mounted.server.symlink(&dir, name.as_bytes(), target).await;
            match made.outcome {
                // The first sending made it.
                Err(failure) if failure.kind == ErrorKind::AlreadyExists && made.resent => {
                    let found = look(&mounted, &dir, name).await?;
                    match mounted.server.readlink(&found.handle).await {
                        Ok(there) if there[..] == *target => Ok(found),
                        _ => Err(failure),
                    }
                }
                Err(failure) => Err(failure),
                Ok(_) => look(&mounted, &dir, name).await,
            }
        })
        .await?;
    Ok(version::meta(path, &found.handle, &found.attributes))
}

/// `Backend::read_symlink`.
pub(super) async fn read_symlink(tree: &Tree, path: &Path) -> Outcome<Bytes> {
    tree.at_path(path, |mounted, link| async move { mounted.server.readlink(&link).await }).await
}

/// `Backend::link`.
pub(super) async fn link(tree: &Tree, from: &Path, to: &Path) -> Outcome<Meta> {
    let source = tree.lookup(from).await?;
    of_kind(&source, Kind::File)?;
    let (dir, name) = new_name(to)?;
    add_name(tree, &source.handle, (&dir, &name)).await?;
    let linked = tree.lookup(to).await?;
    Ok(version::meta(to, &linked.handle, &linked.attributes))
}

/// RENAME, which replaces what lies there.
pub(super) async fn rename_over(tree: &Tree, from: (&Path, &Name), to: (&nfs_fh3, &Name)) -> Outcome<()> {
    tree.in_directory(from.0, |mounted, dir| async move {
        let (old, new) = ((&dir, from.1.as_bytes()), (to.0, to.1.as_bytes()));
        let moved = mounted.server.rename(old, new).await;
        match moved.outcome {
            // The first sending did it.
            Err(failure) if failure.kind == ErrorKind::NotFound && moved.resent => Ok(()),
            outcome => outcome.map(drop),
        }
    })
    .await
}

/// Moves a file to where nothing lies: RENAME would replace what another client puts there meanwhile.
async fn move_by_link(tree: &Tree, source: &Found, from: (&Path, &Name), to: (&Path, &Name)) -> Outcome<()> {
    add_name(tree, &source.handle, to).await?;
    tree.in_directory(from.0, |mounted, dir| async move {
        let removed = mounted.server.remove(&dir, from.1.as_bytes()).await;
        match removed.outcome {
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(()),
            outcome => outcome.map(drop),
        }
    })
    .await
}

/// Gives a file another name where nothing lies.
pub(super) async fn add_name(tree: &Tree, file: &nfs_fh3, to: (&Path, &Name)) -> Outcome<()> {
    tree.in_directory(to.0, |mounted, dir| async move {
        let linked = mounted.server.link(file, &dir, to.1.as_bytes()).await;
        match linked.outcome {
            // The first sending did it.
            Err(failure) if failure.kind == ErrorKind::AlreadyExists && linked.resent => {
                let there = look(&mounted, &dir, to.1).await?;
                if there.handle == *file { Ok(()) } else { Err(failure) }
            }
            outcome => outcome.map(drop),
        }
    })
    .await
}

/// The directory and the name of a path that something is to get.
pub(super) fn new_name(path: &Path) -> Outcome<(Path, Name)> {
    path.split_last().ok_or_else(stays)
}

fn of_kind(found: &Found, kind: Kind) -> Outcome<()> {
    match (kind, found.is_directory()) {
        (Kind::File | Kind::Symlink, true) => Err(Failure::new(ErrorKind::IsADirectory, "it is a directory")),
        (Kind::Directory, false) => Err(Failure::new(ErrorKind::NotADirectory, "it is no directory")),
        _ => Ok(()),
    }
}

/// Some servers say of a directory that is not empty that something exists.
fn not_empty(failure: Failure) -> Failure {
    match failure.kind {
        ErrorKind::AlreadyExists => Failure { kind: ErrorKind::NotEmpty, ..failure },
        _ => failure,
    }
}

fn stays() -> Failure {
    Failure::new(ErrorKind::Denied, "the volume's own directory stays where it is")
}
