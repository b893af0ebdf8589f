//! CreateVolume: record, owner, recheck, the volume's own file, `ready`; each step once, whoever takes it.
//!
//! Two controllers at one name do not race: the second finds the first's record and takes the same steps with the same
//! generation. Of two volumes on one line of directories at most one becomes `ready`. Each writes its owner before it
//! looks for the other's, so at least one sees the other, and what it decides is a change of a record under its tag: it
//! gives way itself, or, being the earlier, makes the other's record give way, which only succeeds while that is still
//! `creating`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::owner::{Neighbour, Relation, Standing};
use super::record::{self, Claim, FORMAT, Record, Source, State};
use super::{Error, PATIENCE, Volumes, path_of};
use crate::backend::Path;
use crate::backend::records::{Directory, Tag};
use crate::config::stores::Deletion;
use crate::csi::volume_id::Generation;

/// How often a wait looks again where nobody can say when it ends.
const POLL: Duration = Duration::from_secs(1);
/// How long to wait before looking at what changed under our hands.
const AGAIN: Duration = Duration::from_millis(50);

/// A volume as CreateVolume asks for it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Where it is to lie.
    pub path: Path,
    /// The least size in bytes; 0 where none is asked for.
    pub required: u64,
    /// The largest size in bytes; 0 where it may be any.
    pub limit: u64,
    /// The StorageClass's words, without those that Kubernetes adds.
    pub parameters: BTreeMap<String, String>,
    /// The mutable parameters.
    pub mutable: BTreeMap<String, String>,
    /// What DeleteVolume will do.
    pub deletion: Deletion,
    /// Whose the directory is, where the store keeps owners.
    pub directory: Option<Directory>,
    /// A hash of where the store is.
    pub location: String,
    /// The claim, where the provisioner tells.
    pub claim: Option<Claim>,
    /// The bytes that the store's volumes may have together, where it says.
    pub capacity: Option<u64>,
    /// The snapshot that it is to be made from; of its source the generation is looked up.
    pub source: Option<Source>,
}

impl Wanted {
    /// The limit of the volume in bytes; 0 for none.
    pub fn size(&self) -> u64 {
        if self.required > 0 { self.required } else { self.limit }
    }

    /// What of the store's capacity it takes.
    fn room(&self) -> u64 {
        if self.source.as_ref().is_some_and(|source| source.view) { 0 } else { self.size() }
    }

    fn record(&self, cluster: &str) -> Record {
        Record {
            format: FORMAT,
            name: self.name.clone(),
            generation: Generation::random().to_string(),
            state: State::Creating,
            path: self.path.to_string(),
            cluster: cluster.to_owned(),
            size: self.size(),
            parameters: self.parameters.clone(),
            mutable: self.mutable.clone(),
            deletion: self.deletion,
            directory: None,
            quota: false,
            source: self.source.clone(),
            snapshots: BTreeMap::new(),
            location: self.location.clone(),
            created: record::timestamp(SystemTime::now()),
            ended: None,
            claim: self.claim.clone(),
            unknown: Default::default(),
        }
    }

    /// Whether the volume that has this name is what is asked for.
    fn agrees_with(&self, record: &Record, cluster: &str) -> Result<(), Error> {
        let name = &self.name;
        let exists = |why: String| Err(Error::Exists(format!("volume {name:?} already exists {why}")));
        if record.cluster != cluster {
            return exists(format!(
                "and belongs to cluster {:?}; `millrace records adopt` takes it over",
                record.cluster
            ));
        }
        if record.state == State::Kept {
            return exists(format!(
                "as a deleted volume whose data was kept at {:?}; `millrace records release` frees the name",
                record.path
            ));
        }
        if self.path.as_str() != Some(&record.path) {
            return exists(format!("at {:?}, not at {:?}", record.path, self.path.to_string()));
        }
        if self.source != record.source {
            return exists("and was made from something else, or to be used otherwise".to_owned());
        }
        if let Some(word) = differing(&self.parameters, &record.parameters) {
            return exists(format!("with another value of the parameter {word:?}"));
        }
        if let Some(word) = differing(&self.mutable, &record.mutable) {
            return exists(format!("with another value of the mutable parameter {word:?}"));
        }
        let fits = match record.size {
            0 => self.size() == 0,
            size => self.required <= size && (self.limit == 0 || size <= self.limit),
        };
        if !fits {
            return exists(format!("with {} bytes (0 is no limit), which is not the size asked for", record.size));
        }
        if self.location != record.location {
            return Err(Error::Precondition(format!(
                "the record of volume {name:?} was written when the store was elsewhere; a store's endpoint, bucket and \
                 prefix must not change under its name"
            )));
        }
        Ok(())
    }
}

/// The first word that is not the same in both.
fn differing<'a>(one: &'a BTreeMap<String, String>, two: &'a BTreeMap<String, String>) -> Option<&'a String> {
    one.keys().chain(two.keys()).find(|word| one.get(*word) != two.get(*word))
}

/// Why an attempt did not end with a volume.
#[derive(Debug)]
enum Hurdle {
    /// It never will.
    Final(Error),
    /// It may later: why not now, and when to look again.
    Wait(String, Instant),
}

impl From<Error> for Hurdle {
    fn from(error: Error) -> Hurdle {
        Hurdle::Final(error)
    }
}

impl Hurdle {
    fn raced(name: &str) -> Hurdle {
        Hurdle::Wait(format!("volume {name:?} is being changed by another controller"), Instant::now() + AGAIN)
    }
}

impl Volumes {
    /// Makes the volume, or returns the one that has its name and is what is asked for.
    ///
    /// # Errors
    /// `Exists`, `Precondition`, `Busy` after [`PATIENCE`], the store's own.
    pub async fn create(&self, wanted: &Wanted) -> Result<Record, Error> {
        self.prove_exclusion().await?;
        let wanted = &self.with_source(wanted).await?;
        let end = Instant::now() + PATIENCE;
        loop {
            let attempt = self.attempt(wanted).await;
            self.sum.changed();
            match attempt {
                Ok(record) => return Ok(record),
                Err(Hurdle::Final(error)) => return Err(error),
                Err(Hurdle::Wait(why, _)) if Instant::now() >= end => {
                    return Err(Error::Busy(format!("{why}; try again later")));
                }
                Err(Hurdle::Wait(_, again)) => tokio::time::sleep_until(again.min(end)).await,
            }
        }
    }

    async fn attempt(&self, wanted: &Wanted) -> Result<Record, Hurdle> {
        let at = record::record_at(&record::key_of(&wanted.name));
        let (record, tag) = match self.load::<Record>(&at).await? {
            None => {
                self.check_free(wanted).await?;
                self.check_room(wanted.room(), wanted.capacity).await?;
                let record = wanted.record(&self.cluster);
                let tag = self.put_new(&at, &record).await?.ok_or_else(|| Hurdle::raced(&wanted.name))?;
                (record, tag)
            }
            Some((old, tag)) => match old.state {
                State::Creating | State::Ready | State::Kept => {
                    wanted.agrees_with(&old, &self.cluster)?;
                    (old, tag)
                }
                State::Withdrawing => {
                    self.finish_withdrawal(&old, &tag).await?;
                    return Err(Hurdle::raced(&wanted.name));
                }
                State::Deleting | State::Forgotten => {
                    let why = format!("volume {:?} is being deleted", wanted.name);
                    return Err(Hurdle::Wait(why, Instant::now() + POLL));
                }
                State::Deleted | State::Withdrawn => {
                    let free = self.free_at(&at, &tag);
                    self.check_free(wanted).await?;
                    self.check_room(wanted.room(), wanted.capacity).await?;
                    if free > Instant::now() {
                        return Err(fading(&old, Some(free)));
                    }
                    let record = wanted.record(&self.cluster);
                    let tag = self.swap(&at, &tag, &record).await?.ok_or_else(|| Hurdle::raced(&wanted.name))?;
                    (record, tag)
                }
            },
        };
        match record.state {
            State::Ready => {
                // Its directory may be gone, which health tells; it was made all the same.
                self.copy(&wanted.path, &record).await?;
                Ok(record)
            }
            _ => self.complete(wanted, record, tag).await,
        }
    }

    /// From `creating` to `ready`; every step may have been taken already.
    async fn complete(&self, wanted: &Wanted, record: Record, tag: Tag) -> Result<Record, Hurdle> {
        if self.own(&record).await?.is_none() {
            return Err(self.give_way_to_owner(&record, &tag).await?);
        }
        let path = path_of(&record)?;
        let mut withdrawn = false;
        for neighbour in self.neighbours(&path, Some(&record)).await? {
            withdrawn |= self.meet(&record, &tag, neighbour).await?;
        }
        if let Some(source) = &record.source {
            match self.hold(&record, source).await {
                Err(gone @ (Error::Missing(_) | Error::Full(_))) => {
                    return Err(self.withdraw(&record, &tag, gone).await?);
                }
                held => held?,
            }
        }
        let record = match self.make_directory(wanted, &record, &path).await {
            Ok(record) => record,
            Err(error) => {
                return Err(match error {
                    // What is in the way may be its file, which it removes when it finds out, or we do.
                    Error::Precondition(why) if withdrawn => Hurdle::Wait(why, Instant::now() + AGAIN),
                    Error::Precondition(_) => self.withdraw(&record, &tag, error).await?,
                    other => other.into(),
                });
            }
        };
        if let Some(source) = record.source.as_ref().filter(|source| !source.view) {
            self.copy_from_snapshot(&record, source, &path).await?;
            self.change_quota(&record, &path, record.size).await?;
        }
        match self.enter(&record, &tag, State::Ready).await? {
            Some((record, _)) => {
                // One that dies before is found out when the snapshot goes.
                if !record.is_view() {
                    self.let_go(&record).await?;
                }
                Ok(record)
            }
            None => {
                let at = record::record_at(&record::key_of(&record.name));
                let now = self.load::<Record>(&at).await?.map(|(now, _)| now);
                let lives = now.is_some_and(|now| {
                    now.generation == record.generation && matches!(now.state, State::Creating | State::Ready)
                });
                if !lives {
                    self.tidy(&record).await?;
                }
                Err(Hurdle::raced(&record.name))
            }
        }
    }

    /// Before anything is written: refuses what could not be made anyway.
    async fn check_free(&self, wanted: &Wanted) -> Result<(), Hurdle> {
        self.check_neighbours(wanted).await?;
        if let Err(occupied) = self.check_vacant(&wanted.path).await {
            // It may be what a volume that was made meanwhile has written.
            self.check_neighbours(wanted).await?;
            return Err(occupied.into());
        }
        Ok(())
    }

    async fn check_neighbours(&self, wanted: &Wanted) -> Result<(), Hurdle> {
        let mut wait = None;
        for neighbour in self.neighbours(&wanted.path, None).await? {
            match neighbour.standing {
                Standing::Free => {}
                Standing::Fading(..) if neighbour.is_harmless() => {}
                Standing::Fading(record, free) => wait = Some(fading(&record, free)),
                Standing::Held(record, _) if record.state == State::Deleting => wait = Some(fading(&record, None)),
                Standing::Held(record, _) if record.name == wanted.name => return Err(Hurdle::raced(&wanted.name)),
                Standing::Held(record, _) => return Err(taken(neighbour.relation, &record).into()),
            }
        }
        wait.map_or(Ok(()), Err)
    }

    /// Somebody else has our path.
    async fn give_way_to_owner(&self, record: &Record, tag: &Tag) -> Result<Hurdle, Hurdle> {
        let at = record::owner_at(&path_of(record)?);
        let Some((owner, _)) = self.load::<record::Owner>(&at).await? else { return Ok(Hurdle::raced(&record.name)) };
        match self.standing(&owner).await? {
            Standing::Free => Ok(Hurdle::raced(&record.name)),
            Standing::Fading(other, free) => Ok(fading(&other, free)),
            Standing::Held(other, _) if other.generation == record.generation => Ok(Hurdle::raced(&record.name)),
            Standing::Held(other, _) => self.withdraw(record, tag, taken(Relation::Same, &other)).await,
        }
    }

    /// Another volume above or below, after both wrote their owners: the later gives way, then the greater name.
    /// `true` where it was the other.
    async fn meet(&self, record: &Record, tag: &Tag, neighbour: Neighbour) -> Result<bool, Hurdle> {
        let harmless = neighbour.is_harmless();
        let (other, other_tag) = match neighbour.standing {
            Standing::Free => return Ok(false),
            Standing::Fading(other, _) if harmless => {
                self.tidy(&other).await?;
                return Ok(true);
            }
            Standing::Fading(other, free) => return Err(fading(&other, free)),
            Standing::Held(other, other_tag) => (other, other_tag),
        };
        let earlier = (&record.created, &record.name) < (&other.created, &other.name);
        // Another cluster's record is not ours to change, so there we give way.
        if other.state == State::Creating && other.cluster == self.cluster && earlier {
            let Some((other, other_tag)) = self.enter(&other, &other_tag, State::Withdrawing).await? else {
                return Err(Hurdle::raced(&record.name));
            };
            self.finish_withdrawal(&other, &other_tag).await?;
            return Ok(true);
        }
        Err(self.withdraw(record, tag, taken(neighbour.relation, &other)).await?)
    }

    /// Gives way because of `why`.
    async fn withdraw(&self, record: &Record, tag: &Tag, why: Error) -> Result<Hurdle, Hurdle> {
        let Some((record, tag)) = self.enter(record, tag, State::Withdrawing).await? else {
            return Ok(Hurdle::raced(&record.name));
        };
        self.finish_withdrawal(&record, &tag).await?;
        Ok(Hurdle::Final(why))
    }
}

fn taken(relation: Relation, other: &Record) -> Error {
    let how = match relation {
        Relation::Same => "is the directory of",
        Relation::Above => "lies above this one and is the directory of",
        Relation::Below => "lies below this one and is the directory of",
    };
    let Record { path, name, cluster, state, .. } = other;
    Error::Exists(format!("{path:?} {how} volume {name:?} (cluster {cluster:?}, {})", state.as_str()))
}

fn fading(other: &Record, free: Option<Instant>) -> Hurdle {
    let why = format!("volume {:?} at {:?} is being deleted", other.name, other.path);
    Hurdle::Wait(why, free.unwrap_or_else(|| Instant::now() + POLL))
}
