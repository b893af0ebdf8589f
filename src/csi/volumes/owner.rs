//! Who has a path: one volume at most among those that lie on one line from the store's root down.

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::record::{self, Owner, Record, State};
use super::{Error, Volumes, path_of};
use crate::backend::Path;
use crate::backend::records::Tag;

/// What stands behind an owner.
#[derive(Debug)]
pub(super) enum Standing {
    /// Nothing any more.
    Free,
    /// A tombstone that may still be reached by late requests; since when it will not be, where that is known.
    Fading(Box<Record>, Option<Instant>),
    /// A volume.
    Held(Box<Record>, Tag),
}

/// How another owner's path lies to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Same,
    Above,
    Below,
}

/// Another volume on our line.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) relation: Relation,
    pub(super) standing: Standing,
}

impl Neighbour {
    /// A withdrawn volume above or below: its directory was not ours, so nothing is removed there. All that may still
    /// come is its own file.
    pub(super) fn is_harmless(&self) -> bool {
        let withdrawn = matches!(&self.standing, Standing::Fading(record, _) if record.state == State::Withdrawn);
        withdrawn && self.relation != Relation::Same
    }
}

impl Volumes {
    /// The owners of `path`, above it and below it that stand for more than nothing, but for `me`'s own; or one alone,
    /// where it decides.
    pub(super) async fn neighbours(&self, path: &Path, me: Option<&Record>) -> Result<Vec<Neighbour>, Error> {
        let own = record::owner_at(path);
        let mut lines = vec![(Relation::Same, own.clone())];
        let mut above = path.split_last();
        while let Some((dir, _)) = above.filter(|(dir, _)| !dir.is_root()) {
            lines.push((Relation::Above, record::owner_at(&dir)));
            above = dir.split_last();
        }
        let below = self.records.list(&record::owners_below(path), None).map_ok(|at| (Relation::Below, at));
        let mut places = stream::iter(lines.into_iter().map(Ok)).chain(below);

        let mut found = Vec::new();
        while let Some((relation, at)) = places.try_next().await? {
            if relation == Relation::Below && (at == own || !at.as_bytes().ends_with(b"/@")) {
                continue;
            }
            let Some((owner, _)) = self.load::<Owner>(&at).await? else { continue };
            if me.is_some_and(|me| me.generation == owner.generation) {
                continue;
            }
            match self.standing(&owner).await? {
                Standing::Free => {}
                Standing::Held(record, tag) if matches!(record.state, State::Ready | State::Kept) => {
                    return Ok(vec![Neighbour { relation, standing: Standing::Held(record, tag) }]);
                }
                standing => found.push(Neighbour { relation, standing }),
            }
        }
        Ok(found)
    }

    /// What stands behind `owner`. A withdrawal that somebody began is finished on the way.
    pub(super) async fn standing(&self, owner: &Owner) -> Result<Standing, Error> {
        let at = record::record_at(&owner.record);
        loop {
            let Some((record, tag)) = self.load::<Record>(&at).await? else { return Ok(Standing::Free) };
            if record.generation != owner.generation {
                return Ok(Standing::Free);
            }
            return Ok(match record.state {
                State::Creating | State::Ready | State::Deleting | State::Kept => Standing::Held(Box::new(record), tag),
                State::Withdrawing => {
                    self.finish_withdrawal(&record, &tag).await?;
                    continue;
                }
                State::Forgotten => Standing::Fading(Box::new(record), None),
                State::Deleted | State::Withdrawn => match self.free_at(&at, &tag) {
                    free if free <= Instant::now() => Standing::Free,
                    free => Standing::Fading(Box::new(record), Some(free)),
                },
            });
        }
    }

    /// Makes `record` the owner of its path. `None` where somebody else is, or the owner changes just now.
    pub(super) async fn own(&self, record: &Record) -> Result<Option<()>, Error> {
        let at = record::owner_at(&path_of(record)?);
        let mine = Owner {
            format: record::FORMAT,
            record: record::key_of(&record.name),
            generation: record.generation.clone(),
            unknown: Default::default(),
        };
        if self.put_new(&at, &mine).await?.is_some() {
            return Ok(Some(()));
        }
        let Some((owner, tag)) = self.load::<Owner>(&at).await? else { return Ok(None) };
        if owner.record == mine.record && owner.generation == mine.generation {
            return Ok(Some(()));
        }
        match self.standing(&owner).await? {
            Standing::Free => Ok(self.swap(&at, &tag, &mine).await?.map(drop)),
            Standing::Fading(..) | Standing::Held(..) => Ok(None),
        }
    }
}
