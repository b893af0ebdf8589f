//! What the node plugin must know after its own restart: small files, and a lock.
//!
//! ```text
//! <state>/lock                 held while a node plugin runs
//! <state>/identity-key         this node's key of the hashes that stand for identities
//! <state>/mounts/<id>.json     a mount and its worker, written before it is mounted and the worker is told anything
//! <state>/mounts/<id>/         its private mount point
//! <state>/mounts/<id>.sock     where its worker listens for the next node plugin
//! <state>/targets/<hash>.json  a target that shows a mount, written before it does
//! <state>/journals/            what is to be undone where a worker dies ([`super::journals`])
//! ```
//!
//! A mount's id is random; a target's file is called by a hash of its path. Each record is there before what it tells
//! of and goes after it, so that whatever is found without one is nobody's: a worker's process alone is there before, and
//! ends by itself where it is told nothing. No secret is ever written.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::parts::PartId;
use super::process::Identity;
use super::sharing::Sharing;
use super::{Consumer, Error, Publish, Whose};
use crate::backend::nfs;

const FORMAT: u32 = 1;
/// Hexadecimal digits of a mount's id.
const ID_LENGTH: usize = 16;

/// Names a mount of this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct MountId(String);

impl MountId {
    /// One that no mount has had.
    pub(super) fn random() -> MountId {
        MountId(HEXLOWER.encode(&rand::random::<[u8; ID_LENGTH / 2]>()))
    }

    /// Reads the name of a file or directory; `None` where no mount is called so.
    pub(super) fn parse(name: &str) -> Option<MountId> {
        let fits = name.len() == ID_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        fits.then(|| MountId(name.to_owned()))
    }
}

impl std::fmt::Display for MountId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A mount at its private mount point: written before its worker is told to begin, removed after its worker ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MountRecord {
    /// The layout of this record.
    format: u32,
    pub(super) volume_id: String,
    /// Which targets may share it.
    pub(super) sharing: Sharing,
    /// The credential is being changed, and `sharing` may tell of the one before.
    pub(super) renewing: bool,
    /// The worker's own uid; `None` where workers keep the node plugin's.
    pub(super) uid: Option<u32>,
    /// The worker, from its start on.
    pub(super) worker: Option<Identity>,
    /// `major:minor` of the mount, once it is served.
    pub(super) device: Option<String>,
    /// Whom it was made for, and of which store it is; empty in a record of an earlier version.
    #[serde(default)]
    pub(super) consumer: Consumer,
    #[serde(default)]
    pub(super) store: String,
    /// When it was begun, in seconds since 1970.
    #[serde(default)]
    pub(super) begun: u64,
    /// The part of the cache that a read-only mount's files may be lent from.
    #[serde(default)]
    pub(super) lends_from: Option<PartId>,
    /// The most that its worker's buffers may ever hold, in bytes; 0 in a record of an earlier version, which says
    /// nothing of it.
    #[serde(default)]
    pub(super) most_memory: u64,
    /// The server to which its worker is given connections.
    #[serde(default)]
    pub(super) dials: Option<nfs::Config>,
}

impl MountRecord {
    /// A record of a mount that is to be made.
    pub(super) fn begin(volume_id: String, sharing: Sharing, uid: Option<u32>) -> MountRecord {
        MountRecord {
            format: FORMAT,
            volume_id,
            sharing,
            renewing: false,
            uid,
            worker: None,
            device: None,
            lends_from: None,
            dials: None,
            most_memory: 0,
            consumer: Consumer::default(),
            store: String::new(),
            begun: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }

    /// The same, made for `consumer` from `store`.
    pub(super) fn shown(self, consumer: &Consumer, store: &str) -> MountRecord {
        MountRecord { consumer: consumer.clone(), store: store.to_owned(), ..self }
    }
}

/// A target: begun before it shows its mount, removed when it shows it no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TargetRecord {
    /// The layout of this record.
    format: u32,
    pub(super) volume_id: String,
    pub(super) target: PathBuf,
    /// The hash that a repeated call must agree with.
    pub(super) arguments: String,
    pub(super) single_writer: bool,
    /// What it shows.
    pub(super) mount: MountId,
    /// The directory was there before the call.
    pub(super) existed: bool,
    /// Whom it is shown to; empty in a record of an earlier version.
    #[serde(default)]
    pub(super) consumer: Consumer,
    /// For whom it is; without the identity, which the mount's record knows.
    #[serde(default)]
    pub(super) whose: Whose,
}

impl TargetRecord {
    /// A record of a publication that begins.
    pub(super) fn begin(request: &Publish, mount: MountId, existed: bool) -> TargetRecord {
        let spec = &request.spec;
        TargetRecord {
            format: FORMAT,
            volume_id: spec.volume_id.clone(),
            target: request.target.clone(),
            arguments: request.arguments.clone(),
            single_writer: request.single_writer,
            mount,
            existed,
            whose: Whose {
                namespace: request.namespace.clone(),
                pod: request.pod.clone(),
                service_account: request.service_account.clone(),
                store: Some(spec.store.clone()),
                path: Some(spec.path.clone()),
                read_only: Some(spec.read_only),
                identity: None,
            },
            consumer: request.consumer.clone(),
        }
    }
}

/// The state directory, locked for this process.
#[derive(Debug)]
pub(super) struct State {
    targets: PathBuf,
    mounts: PathBuf,
    /// `mounts`, open: a socket is reached below it, however long the path is (sun_path has 108 bytes).
    mounts_dir: File,
    _lock: File,
}

/// How long the lock of a node plugin that was killed may last: a worker that it was just starting holds it until it
/// executes its program.
const PASSING: Duration = Duration::from_secs(2);

impl State {
    /// Makes what is missing and takes the lock, for which it may block a moment.
    pub(super) fn open(dir: &Path) -> Result<State, Error> {
        let fail = |error: io::Error| Error::System(format!("the state directory {}: {error}", dir.display()));
        let (targets, mounts) = (dir.join("targets"), dir.join("mounts"));
        for path in [&targets, &mounts] {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
        }
        let mut how = File::options();
        let lock = how.write(true).create(true).truncate(true).mode(0o600).open(dir.join("lock")).map_err(fail)?;
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(fail(error)),
                Err(TryLockError::WouldBlock) if begun.elapsed() < PASSING => std::thread::sleep(PASSING / 50),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::System(format!(
                        "the state directory {} is in use by another node plugin; give each its own",
                        dir.display()
                    )));
                }
            }
        }
        // mountinfo knows the mount points below by their real path.
        let mounts = mounts.canonicalize().map_err(fail)?;
        Ok(State { targets, mounts_dir: File::open(&mounts).map_err(fail)?, mounts, _lock: lock })
    }

    /// Below which the private mount points are.
    pub(super) fn mounts(&self) -> &Path {
        &self.mounts
    }

    /// The private mount point of `mount`.
    pub(super) fn mount_point(&self, mount: &MountId) -> PathBuf {
        self.mounts.join(&mount.0)
    }

    /// This node's own key of the hash that stands for an identity; made at the first call.
    pub(super) fn identity_key(&self) -> Result<[u8; 64], Error> {
        let path = self.mounts.with_file_name("identity-key");
        let fail = |error: io::Error| Error::System(format!("the identity key {}: {error}", path.display()));
        match fs::read(&path) {
            Ok(key) => key.try_into().map_err(|_| fail(io::Error::other("it has not 64 bytes; remove it"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key: [u8; 64] = rand::random();
                write_whole(&path, &key).map_err(fail)?;
                Ok(key)
            }
            Err(error) => Err(fail(error)),
        }
    }

    /// Listens where the next node plugin finds the worker of `mount`.
    pub(super) fn listen(&self, mount: &MountId) -> Result<UnixListener, Error> {
        UnixListener::bind(self.socket(mount)).map_err(|error| {
            Error::System(format!("the socket {}.sock in {}: {error}", mount.0, self.mounts.display()))
        })
    }

    /// Reaches the worker of `mount`; within a tokio runtime.
    pub(super) async fn connect(&self, mount: &MountId) -> io::Result<UnixStream> {
        tokio::net::UnixStream::connect(self.socket(mount)).await?.into_std()
    }

    fn socket(&self, mount: &MountId) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{}.sock", self.mounts_dir.as_raw_fd(), mount.0))
    }

    /// Writes a mount's record, on the disk before it returns.
    pub(super) fn save_mount(&self, mount: &MountId, record: &MountRecord) -> Result<(), Error> {
        save(&self.mount_record(mount), record)
    }

    /// Writes a target's record, on the disk before it returns.
    pub(super) fn save_target(&self, record: &TargetRecord) -> Result<(), Error> {
        save(&self.target_record(&record.target), record)
    }

    /// Removes all that is `mount`'s, the record last; nothing may be mounted at its point. Fine where it is gone.
    pub(super) fn forget_mount(&self, mount: &MountId) -> Result<(), Error> {
        let point = self.mount_point(mount);
        absent_is_fine(fs::remove_dir(&point))
            .map_err(|error| Error::System(format!("the mount point {}: {error}", point.display())))?;
        forget(&point.with_extension("sock"))?;
        forget(&self.mount_record(mount))
    }

    /// Removes the record of `target`; fine where there is none.
    pub(super) fn forget_target(&self, target: &Path) -> Result<(), Error> {
        forget(&self.target_record(target))
    }

    /// The mounts that this directory holds anything of, with the record where it can be read.
    pub(super) fn load_mounts(&self) -> Result<Vec<(MountId, Option<MountRecord>)>, Error> {
        let mut found = Vec::new();
        for id in self.mount_ids()? {
            let path = self.mount_record(&id);
            let record = match read::<MountRecord>(&path) {
                Ok(record) => record,
                Err(why) => {
                    tracing::warn!(record = %path.display(), "a record is passed over: {why}");
                    None
                }
            };
            found.push((id, record));
        }
        Ok(found)
    }

    /// The mounts that this directory holds anything of. Half-written files are removed on the way.
    pub(super) fn mount_ids(&self) -> Result<Vec<MountId>, Error> {
        let mut found: Vec<MountId> = Vec::new();
        for path in entries(&self.mounts)? {
            let name = path.file_stem().and_then(|name| name.to_str());
            match name.and_then(MountId::parse) {
                Some(id) if found.contains(&id) => {}
                Some(id) => found.push(id),
                None => tracing::warn!(path = %path.display(), "this is nothing of the node plugin's"),
            }
        }
        Ok(found)
    }

    /// All records of targets that can be read. One that cannot, or is of a newer format, is left where it is and
    /// named in the log: what it tells of can still be unpublished, since the mount table shows it.
    pub(super) fn load_targets(&self) -> Result<Vec<TargetRecord>, Error> {
        let mut records = Vec::new();
        for path in entries(&self.targets)? {
            match read::<TargetRecord>(&path) {
                Ok(record) => records.extend(record),
                Err(why) => tracing::warn!(record = %path.display(), "a record is passed over: {why}"),
            }
        }
        Ok(records)
    }

    fn mount_record(&self, mount: &MountId) -> PathBuf {
        self.mounts.join(&mount.0).with_extension("json")
    }

    fn target_record(&self, target: &Path) -> PathBuf {
        let hash = HEXLOWER.encode(&Sha256::digest(target.as_os_str().as_encoded_bytes())[..16]);
        self.targets.join(hash).with_extension("json")
    }
}

/// What lies in `dir`, less what was half written when its writer was killed, which goes.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |error: io::Error| Error::System(format!("the records in {}: {error}", dir.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_name().as_encoded_bytes().starts_with(HALF_WRITTEN.as_bytes()) {
            absent_is_fine(fs::remove_file(entry.path())).map_err(fail)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

pub(super) fn save(path: &Path, record: &impl Serialize) -> Result<(), Error> {
    serde_json::to_vec_pretty(record)
        .map_err(io::Error::from)
        .and_then(|text| write_whole(path, &text))
        .map_err(|error| Error::System(format!("the record {}: {error}", path.display())))
}

fn forget(path: &Path) -> Result<(), Error> {
    absent_is_fine(fs::remove_file(path)).map_err(|error| Error::System(format!("{}: {error}", path.display())))
}

/// `None` where there is no such file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| error.to_string())?,
    };
    let Format { format } = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if format > FORMAT {
        return Err(format!("it has format {format}, this version knows formats up to {FORMAT}"));
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| error.to_string())
}

/// How the name of a file begins that is not whole yet.
const HALF_WRITTEN: &str = ".half-";

/// Writes a file, whole or not at all, on the disk before it returns, for its owner only.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(HALF_WRITTEN).tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

/// Removing what is gone already is no error.
pub(super) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::sharing::tests::request;

    fn mount() -> MountRecord {
        let sharing = Sharing { with: "with".into(), credential: "credential".into(), principal: "principal".into() };
        MountRecord::begin("store/vol@abc".into(), sharing, Some(1_900_000_007))
    }

    fn target(path: &str, mount: &MountId) -> TargetRecord {
        TargetRecord::begin(&Publish { target: path.into(), ..request() }, mount.clone(), false)
    }

    #[test]
    fn records_come_back_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let [one, other] = [MountId::random(), MountId::random()];
        for id in [&one, &other] {
            state.save_mount(id, &mount()).unwrap();
            fs::create_dir(state.mount_point(id)).unwrap();
        }
        for path in ["/pods/1", "/pods/2"] {
            state.save_target(&target(path, &one)).unwrap();
        }
        let served = MountRecord { device: Some("0:50".into()), ..mount() };
        state.save_mount(&one, &served).unwrap();
        for _ in 0..2 {
            state.forget_mount(&other).unwrap();
            state.forget_target(Path::new("/pods/2")).unwrap();
        }
        for place in ["mounts/.half-AbC", "targets/.half-AbC"] {
            fs::write(dir.path().join(place), "{\"for").unwrap();
        }
        drop(state);

        let state = State::open(dir.path()).unwrap();
        assert_eq!(state.load_mounts().unwrap(), [(one.clone(), Some(served))]);
        assert_eq!(state.load_targets().unwrap(), [target("/pods/1", &one)]);
        for (place, left) in [("mounts", 2), ("targets", 1)] {
            assert_eq!(fs::read_dir(dir.path().join(place)).unwrap().count(), left, "{place}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_apart_from_what_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let ids = [MountId::random(), MountId::random(), MountId::random()];
        fs::create_dir(state.mount_point(&ids[0])).unwrap();
        fs::write(state.mount_record(&ids[1]), "{\"format\": 2, \"shape\": \"other\"}").unwrap();
        fs::write(state.mount_record(&ids[2]), "").unwrap();
        fs::write(dir.path().join("mounts/of somebody else"), "").unwrap();
        fs::write(dir.path().join("targets/broken.json"), "").unwrap();
        state.save_target(&target("/pods/1", &ids[0])).unwrap();
        let found = state.load_mounts().unwrap();
        assert_eq!(found.len(), 3);
        assert!(ids.iter().all(|id| found.contains(&(id.clone(), None))), "{found:?}");
        assert_eq!(state.load_targets().unwrap().len(), 1);
        for id in &ids {
            state.forget_mount(id).unwrap();
        }
        assert_eq!(state.mount_ids().unwrap(), []);
        assert!(dir.path().join("mounts/of somebody else").exists());
    }

    #[tokio::test]
    async fn a_worker_is_found_however_long_the_path_is() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("d".repeat(150))).unwrap();
        let id = MountId::random();
        assert!(state.connect(&id).await.is_err());
        let listener = state.listen(&id).unwrap();
        state.connect(&id).await.unwrap();
        listener.accept().unwrap();
        assert_eq!(state.mount_ids().unwrap(), std::slice::from_ref(&id));
        state.forget_mount(&id).unwrap();
        assert_eq!(state.mount_ids().unwrap(), []);
    }

    #[test]
    fn two_node_plugins_do_not_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let key = state.identity_key().unwrap();
        let error = State::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another node plugin"), "{error}");
        drop(state);
        assert_eq!(State::open(dir.path()).unwrap().identity_key().unwrap(), key);
    }
}
