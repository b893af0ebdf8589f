//! The parts of the node's cache directory: each belongs to one (volume, identity, pods' namespace, fsGroup, options), as
//! its uid does, and is lent to one live worker of it.
//!
//! ```text
//! <cache>/lock       held while a node plugin runs
//! <cache>/<id>.json  a part, written before there is one; last used when it was last changed
//! <cache>/<id>/      its directory: 0700, its uid's own; locked (flock) by whoever uses it
//! <cache>/*.gone/    what is being removed
//! ```
//!
//! A worker never sees the cache directory, only its part, by a descriptor which carries the lock: it is free again when
//! the last copy is closed, whatever became of the worker. A uid is nobody else's while a part of it exists.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::sharing::Sharing;
use super::state::{absent_is_fine, entries, read, save};
use super::{MayStay, Publish, kernel};
use crate::config::CacheMode;

const FORMAT: u32 = 1;
/// A part that nobody used for so long is of a volume that is gone, or might as well be.
const UNUSED: Duration = Duration::from_secs(14 * 24 * 3600);

/// How the name of a directory ends that was set aside.
const ASIDE: &str = ".gone";

/// A directory of the node for caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDir {
    /// On a local disk.
    pub path: PathBuf,
    /// Of a hundred bytes of that disk, how many stay free.
    pub free_percent: u8,
}

/// Names a part: the hexadecimal hash of what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct PartId(String);

impl PartId {
    /// The part of whoever `request` is for. Pods of which nothing is known have none, since nobody could tell whose it
    /// is.
    pub(super) fn of(request: &Publish, sharing: &Sharing) -> Option<PartId> {
        let wanted = request.spec.options.cache == CacheMode::Disk && request.namespace.is_some();
        wanted.then(|| PartId(sharing.owner(request)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    format: u32,
    volume_id: String,
    store: String,
    /// Whose it is; `None` where workers keep the node plugin's uid.
    uid: Option<u32>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Parts {
    dir: Result<Dir, String>,
    records: Mutex<HashMap<PartId, Record>>,
}

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    free_percent: u8,
    _lock: File,
}

/// A part for one worker: the directory's descriptor, which holds the lock.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) dir: OwnedFd,
    pub(super) free_percent: u8,
}

/// What came of an attempt to lock a part.
enum Lock {
    /// It is locked, for as long as this is open.
    Free(File),
    Used,
    /// There is no directory.
    Absent,
}

impl Parts {
    /// Finds what is there, as [`Parts::open`] does, for as long as a disk may take that answers.
    pub(super) async fn find(wanted: Option<CacheDir>) -> Parts {
        let place = wanted.as_ref().map(|wanted| wanted.path.display().to_string()).unwrap_or_default();
        let why = match kernel::within(kernel::PROMPT, move || Parts::open(wanted.as_ref())).await {
            Ok(Some(parts)) => return parts,
            Ok(None) => "its disk does not answer".to_owned(),
            Err(error) => error.to_string(),
        };
        Parts::none(format!("the cache directory {place}: {why}"))
    }

    /// Finds what is there. A directory that cannot be used is named in the log, and then there are no parts: volumes are
    /// read without.
    pub(super) fn open(wanted: Option<&CacheDir>) -> Parts {
        let Some(wanted) = wanted else {
            return Parts {
                dir: Err("this node has no cache directory (--cache-dir)".into()),
                records: Mutex::default(),
            };
        };
        match Dir::open(wanted) {
            Ok((dir, records)) => Parts { dir: Ok(dir), records: Mutex::new(records) },
            Err(error) => Parts::none(format!("the cache directory {}: {error}", wanted.path.display())),
        }
    }

    fn none(why: String) -> Parts {
        tracing::error!("{why}; volumes are read without a disk cache");
        Parts { dir: Err(why), records: Mutex::default() }
    }

    /// The uids that are taken by parts.
    pub(super) fn uids(&self) -> Vec<(u32, PartId)> {
        self.records().iter().filter_map(|(id, record)| Some((record.uid?, id.clone()))).collect()
    }

    /// Lends the part of `request` to its worker of `uid`, made where there is none. May wait for the disk.
    ///
    /// # Errors
    /// Why this worker has no disk cache.
    pub(super) fn lend(&self, id: &PartId, request: &Publish, uid: Option<u32>) -> Result<Lent, String> {
        let dir = self.dir.as_ref().map_err(Clone::clone)?;
        let lent = dir.lend(&mut self.records(), id, request, uid);
        lent.map_err(|error| format!("the part of the cache directory {}: {error}", dir.path.display()))
    }

    /// The directory of a part that was lent.
    pub(super) fn look_at(&self, id: &PartId) -> Option<File> {
        File::open(self.dir.as_ref().ok()?.dir_of(id)).ok()
    }

    /// Removes the parts that nobody uses and that were not used for long, that `may_stay` says no to by their store's
    /// name, that are of a pod's own volume, or whose bytes are to stay free. Returns those that are gone. May wait for the
    /// disk.
    pub(super) fn collect(&self, may_stay: &MayStay) -> Vec<PartId> {
        let Ok(dir) = &self.dir else { return Vec::new() };
        let mut gone = self.set_aside(dir, may_stay);
        // What takes long, when nobody can get at it any more and nobody waits for it.
        if let Err(error) = dir.empty() {
            tracing::warn!("parts of the disk cache that were set aside: {error}");
        }
        let records = self.records();
        gone.retain(|id| !records.contains_key(id));
        gone
    }

    /// Sets what is to go aside, in one step for whoever wants to be lent a part.
    fn set_aside(&self, dir: &Dir, may_stay: &MayStay) -> Vec<PartId> {
        let mut records = self.records();
        let mut unused = Vec::new();
        for (id, record) in &*records {
            match dir.lock(id) {
                Ok(Lock::Free(lock)) => unused.push((dir.last_used(id), id.clone(), record.clone(), Some(lock))),
                // Its making was not finished.
                Ok(Lock::Absent) => unused.push((SystemTime::UNIX_EPOCH, id.clone(), record.clone(), None)),
                // One that is used stays locked.
                Ok(Lock::Used) => dir.note_use(id),
                Err(error) => tracing::warn!("the part {}: {error}", id.0),
            }
        }
        unused.sort_by_key(|(used, ..)| *used);
        let mut gone = Vec::new();
        for (used, id, record, _lock) in unused {
            let is_old = used.elapsed().is_ok_and(|age| age >= UNUSED);
            let why = match () {
                () if !may_stay(&record.store) => "its store's data may not be kept here",
                () if is_of_a_pod(&record.volume_id) => "its pod is gone",
                () if is_old => "nobody used it for long",
                // The longest unused; what it held is free by the next look.
                () if gone.is_empty() && dir.is_short() => "the disk is full",
                () => continue,
            };
            match dir.set_aside(&id) {
                Ok(()) => {
                    tracing::info!(
                        volume = record.volume_id,
                        part = id.0,
                        "a part of the disk cache is removed: {why}"
                    );
                    records.remove(&id);
                    gone.push(id);
                }
                Err(error) => tracing::warn!("the part {} cannot be removed: {error}", id.0),
            }
        }
        gone
    }

    fn records(&self) -> MutexGuard<'_, HashMap<PartId, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dir {
    fn open(wanted: &CacheDir) -> io::Result<(Dir, HashMap<PartId, Record>)> {
        DirBuilder::new().recursive(true).mode(0o700).create(&wanted.path)?;
        // Also where it was made by somebody else.
        fs::set_permissions(&wanted.path, Permissions::from_mode(0o700))?;
        let path = wanted.path.canonicalize()?;
        let lock = File::options().write(true).create(true).truncate(true).mode(0o600).open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another node plugin uses it; give each its own"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut records = HashMap::new();
        for file in entries(&path).map_err(|error| io::Error::other(error.to_string()))? {
            let Some(id) = file.file_stem().and_then(|stem| stem.to_str()).map(|stem| PartId(stem.to_owned())) else {
                continue;
            };
            if file.extension().is_some_and(|extension| extension == "json") {
                match read::<Record>(&file) {
                    Ok(record) => records.extend(record.map(|record| (id, record))),
                    // Its uid is not known, so nobody may get at it.
                    Err(why) => tracing::warn!(record = %file.display(), "a part is passed over: {why}"),
                }
            }
        }
        Ok((Dir { path, free_percent: wanted.free_percent, _lock: lock }, records))
    }

    fn lend(
        &self,
        records: &mut HashMap<PartId, Record>,
        id: &PartId,
        request: &Publish,
        uid: Option<u32>,
    ) -> io::Result<Lent> {
        let used = || io::Error::other("another worker of this volume and identity uses it");
        match records.get(id) {
            Some(record) if record.uid != uid => return Err(used()),
            Some(_) => {}
            None => {
                if self.dir_of(id).exists() {
                    return Err(io::Error::other(format!("{} has no record; remove it", self.dir_of(id).display())));
                }
                let (volume_id, store) = (request.spec.volume_id.clone(), request.spec.store.clone());
                let record = Record { format: FORMAT, volume_id, store, uid };
                save(&self.record_of(id), &record).map_err(|error| io::Error::other(error.to_string()))?;
                records.insert(id.clone(), record);
            }
        }
        match DirBuilder::new().mode(0o700).create(self.dir_of(id)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let Lock::Free(dir) = self.lock(id)? else { return Err(used()) };
        if let Some(uid) = uid.filter(|uid| dir.metadata().is_ok_and(|found| found.uid() != *uid)) {
            // Nobody else may put anything into the directory above: it was made just now, or its making not finished.
            fchown(&dir, Some(uid), Some(uid))?;
        }
        self.note_use(id);
        Ok(Lent { dir: dir.into(), free_percent: self.free_percent })
    }

    /// A part's directory, locked.
    fn lock(&self, id: &PartId) -> io::Result<Lock> {
        let how = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits();
        let dir = match File::options().read(true).custom_flags(how.cast_signed()).open(self.dir_of(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::Absent),
            other => other?,
        };
        match dir.try_lock() {
            Ok(()) => Ok(Lock::Free(dir)),
            Err(TryLockError::WouldBlock) => Ok(Lock::Used),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Gives a part's directory another name, under which nobody finds it, and forgets it.
    fn set_aside(&self, id: &PartId) -> io::Result<()> {
        let aside = self.path.join(format!("{}.{:016x}{ASIDE}", id.0, rand::random::<u64>()));
        absent_is_fine(fs::rename(self.dir_of(id), aside))?;
        absent_is_fine(fs::remove_file(self.record_of(id)))
    }

    /// Removes what was set aside.
    fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().ends_with(ASIDE.as_bytes()) {
                absent_is_fine(remove_tree(&entry.path(), entry.metadata()?.dev()))?;
            }
        }
        Ok(())
    }

    fn note_use(&self, id: &PartId) {
        let noted =
            File::options().write(true).open(self.record_of(id)).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = noted {
            tracing::debug!("the record of the part {}: {error}", id.0);
        }
    }

    fn last_used(&self, id: &PartId) -> SystemTime {
        fs::metadata(self.record_of(id)).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Less is free than is to stay free.
    fn is_short(&self) -> bool {
        rustix::fs::statvfs(&self.path)
            .is_ok_and(|stat| stat.f_bavail < stat.f_blocks / 100 * u64::from(self.free_percent))
    }

    fn dir_of(&self, id: &PartId) -> PathBuf {
        self.path.join(&id.0)
    }

    fn record_of(&self, id: &PartId) -> PathBuf {
        self.path.join(&id.0).with_extension("json")
    }
}

/// Removes a directory with all that is in it on the file system `device`. Follows no link, and leaves what is mounted
/// there alone; nobody else changes it meanwhile.
fn remove_tree(dir: &Path, device: u64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Of a link its own.
        let meta = entry.metadata()?;
        match meta.is_dir() {
            true if meta.dev() != device => {
                return Err(io::Error::other(format!("{} is of another file system", entry.path().display())));
            }
            true => remove_tree(&entry.path(), device)?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir(dir)
}

/// Whether a volume ends with its pod: the kubelet calls inline volumes so (`csi-` and 64 hexadecimal digits).
fn is_of_a_pod(volume_id: &str) -> bool {
    let digits = volume_id.strip_prefix("csi-");
    digits.is_some_and(|digits| digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::sharing::tests::request;

    fn dir(path: &Path) -> CacheDir {
        CacheDir { path: path.to_owned(), free_percent: 0 }
    }

    fn wanted(volume: &str) -> (Publish, PartId) {
        let mut request = request();
        request.spec.volume_id = volume.into();
        request.spec.options.cache = CacheMode::Disk;
        let id = PartId::of(&request, &Sharing::of(&request, &[7; 64])).unwrap();
        (request, id)
    }

    #[test]
    fn a_part_is_one_owners_and_lent_to_one_worker() {
        let place = tempfile::tempdir().unwrap();
        let parts = Parts::open(Some(&dir(place.path())));
        let (request, id) = wanted("v");
        let lent = parts.lend(&id, &request, None).unwrap();
        let why = parts.lend(&id, &request, None).unwrap_err();
        assert!(why.contains("another worker"), "{why}");
        let (other, other_id) = wanted("w");
        assert_ne!(id, other_id);
        parts.lend(&other_id, &other, None).unwrap();
        assert!(Parts::open(Some(&dir(place.path()))).lend(&id, &request, None).unwrap_err().contains("another node"));
        assert!(parts.collect(&|_| true).is_empty());
        drop(lent);
        parts.lend(&id, &request, None).unwrap();
        drop(parts);
        Parts::open(Some(&dir(place.path()))).lend(&id, &request, None).unwrap();
    }

    #[test]
    fn whoever_differs_in_anything_has_another_part() {
        let of = |change: fn(&mut Publish)| {
            let (mut request, _) = wanted("v");
            change(&mut request);
            PartId::of(&request, &Sharing::of(&request, &[7; 64]))
        };
        let own = of(|_| {});
        let changes: [fn(&mut Publish); 5] = [
            |r| r.spec.volume_id = "w".into(),
            |r| r.spec.options.uid = 7,
            |r| r.namespace = Some("team-b".into()),
            |r| r.fs_group = Some(0),
            |r| r.credential = crate::auth::Credential::Anonymous,
        ];
        for change in changes {
            assert_ne!(of(change), own);
        }
        assert_eq!(of(|r| r.namespace = None), None);
        assert_eq!(of(|r| r.spec.options.cache = CacheMode::None), None);
        assert_eq!(of(|r| r.target = "/other".into()), own);
    }

    #[test]
    fn what_is_of_no_use_is_collected_and_nothing_that_is_used() {
        let place = tempfile::tempdir().unwrap();
        let parts = Parts::open(Some(&dir(place.path())));
        let ephemeral = format!("csi-{}", "0a".repeat(32));
        let ids: Vec<_> = ["kept", "old", &ephemeral, "used"]
            .iter()
            .map(|volume| {
                let (request, id) = wanted(volume);
                let lent = parts.lend(&id, &request, None).unwrap();
                fs::create_dir_all(place.path().join(&id.0).join("v1/00")).unwrap();
                (id, lent)
            })
            .collect();
        let (ids, lent): (Vec<_>, Vec<_>) = ids.into_iter().unzip();
        for id in [&ids[1], &ids[3]] {
            let record = File::options().write(true).open(place.path().join(&id.0).with_extension("json")).unwrap();
            record.set_modified(SystemTime::now() - UNUSED).unwrap();
        }
        let mut lent = lent.into_iter();
        lent.by_ref().take(3).for_each(drop);
        assert_eq!(parts.collect(&|_| true).len(), 2);
        let there = |id: &PartId| place.path().join(&id.0).exists();
        assert_eq!(ids.iter().map(there).collect::<Vec<_>>(), [true, false, false, true]);
        // Whose store's data may not be kept here any more.
        assert_eq!(parts.collect(&|store| store != "lake"), [ids[0].clone()]);
        drop(lent);
        assert!(parts.collect(&|_| true).is_empty(), "it was used until now");
    }

    /// A pipe that nobody reads is opened as a file is on a disk that hangs.
    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_waited_for_no_longer_than_one_that_answers() {
        let place = tempfile::tempdir().unwrap();
        let lock = place.path().join("lock");
        nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let parts = Parts::find(Some(dir(place.path()))).await;
        let _reader = File::options().read(true).write(true).open(lock).unwrap();
        let (request, id) = wanted("v");
        let why = parts.lend(&id, &request, None).unwrap_err();
        assert!(why.contains("does not answer"), "{why}");
    }

    #[test]
    fn a_directory_that_cannot_be_used_costs_no_more_than_the_cache() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "x").unwrap();
        let (request, id) = wanted("v");
        let why = Parts::open(Some(&dir(&file.join("below")))).lend(&id, &request, None).unwrap_err();
        assert!(why.contains("below"), "{why}");
        assert!(Parts::open(None).lend(&id, &request, None).unwrap_err().contains("--cache-dir"));
    }
}
