//! What lies under a name: remembered, or asked of the store.

use std::time::Duration;

use super::changes::Ticket;
use super::inodes::Ino;
use super::listings::Remembered;
use super::{Attr, Error, Result, Vfs};
use crate::backend::{Meta, Name, Path};
use crate::prefetch::Target;

/// For ever, as far as a kernel's lifetime goes.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What lies under a name.
pub(super) enum There {
    /// A file being written here: the store decides nothing.
    Here(Ino),
    /// What the store says, and from when on a change of ours makes that old.
    Store(Meta, Ticket),
    /// Nothing, as the store says.
    Nothing(Ticket),
}

impl Vfs {
    /// What lies under `name`. Counts a lookup.
    ///
    /// # Errors
    /// `NotFound`, `NameTooLong`, `Io`, `Denied`
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.look_up(parent, name).await.map(|(attr, _)| attr)
    }

    /// As [`Vfs::lookup`], with how long it may be believed from now on.
    ///
    /// # Errors
    /// As [`Vfs::lookup`].
    pub async fn look_up(&self, parent: Ino, name: &[u8]) -> Result<(Attr, Duration)> {
        if let Some(attr) = self.control(parent, name) {
            return Ok((attr, self.believed()));
        }
        if self.is_control(parent) {
            return Err(Error::NotFound);
        }
        let path = self.known_name(parent, name)?;
        let mut listed = false;
        loop {
            if let Some((ino, believed)) = self.enter_remembered(&path).await {
                return Ok((self.getattr(ino)?, believed.min(self.believed_of(ino))));
            }
            if self.was_not_listed(&path) {
                return Err(Error::NotFound);
            }
            if listed || !self.list_beside(&path).await {
                break;
            }
            listed = true;
        }
        let ino = self.enter(&path).await?;
        Ok((self.getattr(ino)?, self.believed_of(ino)))
    }

    /// How long what the store says now may be believed.
    pub fn believed(&self) -> Duration {
        if self.config.immutable { FOR_EVER } else { self.config.ttl.get() }
    }

    /// As [`Vfs::believed`], of the attributes of `ino`: those of a file that is written at its end alone are settled when the
    /// store is told that it is the end, which close(2) waits for.
    pub fn believed_of(&self, ino: Ino) -> Duration {
        let traits = self.backend.traits();
        let unsettled = traits.append && !traits.random_write;
        if unsettled && self.inodes().get(ino).is_ok_and(|inode| inode.is_open_in_place()) {
            return Duration::ZERO;
        }
        self.believed()
    }

    /// Takes in what a listing, or a file fetched ahead, has told of `path`, while that is believed, and counts a
    /// lookup of it.
    async fn enter_remembered(&self, path: &Path) -> Option<(Ino, Duration)> {
        let ttl = self.believed();
        let listed = self.listings.get(path, self.reign.number());
        if let Some(Remembered { meta, pass }) = &listed
            && let Some(left) = pass.left(ttl)
        {
            return self.take_in(path, meta, &pass.asked).map(|ino| (ino, left));
        }
        let seen = self.read_ahead.seen_at(path).await?;
        let left = ttl.checked_sub(seen.since.elapsed()).filter(|left| !left.is_zero())?;
        let ino = match (&seen.meta, listed) {
            (Some(meta), Some(Remembered { pass, .. })) if pass.source == seen.source => {
                self.take_in(path, meta, &pass.asked)
            }
            (Some(meta), _) => self.take_in(path, meta, &self.order(seen.source)?.asked),
            (None, Some(Remembered { meta, pass })) => {
                // The listing's attributes, of the version that was proved to lie there since.
                let same = meta.version().is_some_and(|version| seen.what == Target::Version(version.clone()));
                if same { self.take_in(path, &meta, &pass.asked) } else { None }
            }
            (None, None) => None,
        }?;
        Some((ino, left))
    }

    /// Nothing lies at `path`, where the data never changes and its directory was listed whole.
    fn was_not_listed(&self, path: &Path) -> bool {
        let lacks = self.config.immutable && self.listings.lacks(path, self.reign.number());
        if lacks {
            self.inodes().detach(path);
        }
        lacks
    }

    /// Takes in what was learned of `path` after `asked`, and counts a lookup of it; `None` where this mount changed it
    /// since.
    fn take_in(&self, path: &Path, meta: &Meta, asked: &Ticket) -> Option<Ino> {
        let mut inodes = self.inodes();
        // Asked under the table's lock: a change is recorded before the table learns of it.
        if inodes.written_at(path).is_some() || asked.changed(path).is_some() {
            return None;
        }
        let ino = inodes.enter(path, meta);
        self.thin_out(&mut inodes);
        Some(ino)
    }

    /// Asks the store what lies at `path`, takes it in and counts a lookup of it.
    pub(super) async fn enter(&self, path: &Path) -> Result<Ino> {
        self.listings.outdate(path);
        loop {
            let there = self.there(path).await?;
            let mut inodes = self.inodes();
            match there {
                There::Here(ino) if inodes.at(path) == Some(ino) => {
                    inodes.count(ino);
                    return Ok(ino);
                }
                // Asked under the table's lock: a change is recorded before the table learns of it.
                There::Store(meta, asked) if asked.changed(path).is_none() => {
                    self.listings.confirm(path, &meta);
                    let ino = inodes.enter(path, &meta);
                    self.thin_out(&mut inodes);
                    return Ok(ino);
                }
                // What a file here was begun as is not undone by an absence that was asked before.
                There::Nothing(asked) if inodes.written_at(path).is_none() => {
                    inodes.detach(path);
                    drop(inodes);
                    self.absences.note(path, asked);
                    return Err(Error::NotFound);
                }
                There::Here(_) | There::Store(..) | There::Nothing(_) => {}
            }
        }
    }

    /// Asks what lies at `path`, again where this mount changed it meanwhile.
    pub(super) async fn there(&self, path: &Path) -> Result<There> {
        loop {
            if let Some(ino) = self.inodes().written_at(path) {
                return Ok(There::Here(ino));
            }
            let asked = self.changes.ask();
            let answer = self.backend.stat(path).await.map_err(Error::from);
            if asked.changed(path).is_none() {
                return match answer {
                    Ok(meta) => Ok(There::Store(meta, asked)),
                    Err(Error::NotFound) => Ok(There::Nothing(asked)),
                    Err(error) => Err(error),
                };
            }
        }
    }

    /// Whether nothing lies at `path`, as far as was asked at this moment or just before.
    pub(super) async fn is_absent(&self, path: &Path) -> Result<bool> {
        let was_absent = self.absences.take(path, self.believed()) && self.inodes().at(path).is_none();
        Ok(was_absent || matches!(self.there(path).await?, There::Nothing(_)))
    }

    /// The path of a name that exists, or may.
    pub(super) fn known_name(&self, parent: Ino, name: &[u8]) -> Result<Path> {
        let name = Name::new(name)?;
        if self.is_control(parent) {
            return Err(Error::NotPermitted);
        }
        let parent = self.inodes().directory(parent)?;
        if name.is_reserved() || name.is_hidden() {
            return Err(Error::NotFound);
        }
        Ok(parent.join(&name))
    }

    /// The path of a name that something is to get.
    pub(super) fn new_name(&self, parent: Ino, name: &[u8]) -> Result<Path> {
        let name = Name::new(name)?;
        if self.is_control(parent) {
            return Err(Error::NotPermitted);
        }
        let parent = self.inodes().directory(parent)?;
        if name.is_reserved() || name.is_hidden() {
            return Err(Error::NotPermitted);
        }
        Ok(parent.join(&name))
    }
}
