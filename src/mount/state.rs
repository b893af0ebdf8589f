//! What the node plugin must know after its own restart: one small file a target, and a lock.
//!
//! ```text
//! <state>/lock                 held while a node plugin runs
//! <state>/identity-key         this node's key of the hashes that stand for identities
//! <state>/volumes/<id>.json    a record, written atomically
//! <state>/mounts/<id>/         the private mount point
//! ```
//!
//! The id is a hash of the target path, so that what belongs to a target is found without its record. No secret is
//! ever written.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;
use super::process::Identity;

const FORMAT: u32 = 1;

/// One publication: begun before its worker is, removed after its worker ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The layout of this record.
    format: u32,
    pub(super) volume_id: String,
    pub(super) target: PathBuf,
    /// The hash that a repeated call must agree with.
    pub(super) arguments: String,
    pub(super) single_writer: bool,
    /// The worker's own uid; `None` where workers keep the node plugin's.
    pub(super) uid: Option<u32>,
    /// The worker, from its start on.
    pub(super) worker: Option<Identity>,
    /// `major:minor` of the mount, once it is at the target.
    pub(super) device: Option<String>,
}

impl Record {
    /// A record of a publication that begins.
    pub(super) fn begin(volume_id: String, target: PathBuf, arguments: String, single_writer: bool) -> Record {
        Record { format: FORMAT, volume_id, target, arguments, single_writer, uid: None, worker: None, device: None }
    }
}

/// The state directory, locked for this process.
#[derive(Debug)]
pub(super) struct State {
    volumes: PathBuf,
    mounts: PathBuf,
    _lock: File,
}

impl State {
    /// Makes what is missing and takes the lock.
    pub(super) fn open(dir: &Path) -> Result<State, Error> {
        let fail = |error: io::Error| Error::System(format!("the state directory {}: {error}", dir.display()));
        let (volumes, mounts) = (dir.join("volumes"), dir.join("mounts"));
        for path in [&volumes, &mounts] {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
        }
        let mut how = File::options();
        let lock = how.write(true).create(true).truncate(true).mode(0o600).open(dir.join("lock")).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(fail(error)),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::System(format!(
                    "the state directory {} is in use by another node plugin; give each its own",
                    dir.display()
                )));
            }
        }
        // mountinfo knows the mount points below by their real path.
        Ok(State { volumes, mounts: mounts.canonicalize().map_err(fail)?, _lock: lock })
    }

    /// The private mount point of what is published at `target`.
    pub(super) fn mount_point(&self, target: &Path) -> PathBuf {
        self.mounts.join(id(target))
    }

    /// Removes a private mount point on which nothing is mounted; fine where it is gone.
    pub(super) fn remove_mount_point(&self, point: &Path) -> Result<(), Error> {
        absent_is_fine(fs::remove_dir(point))
            .map_err(|error| Error::System(format!("the mount point {}: {error}", point.display())))
    }

    /// The private mount points that no record, readable or not, tells of.
    pub(super) fn unrecorded_mount_points(&self) -> Result<Vec<PathBuf>, Error> {
        let fail = |error: io::Error| Error::System(format!("the mount points in {}: {error}", self.mounts.display()));
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.mounts).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if !self.volumes.join(entry.file_name()).with_extension("json").exists() {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// This node's own key of the hash that stands for an identity; made at the first call.
    pub(super) fn identity_key(&self) -> Result<[u8; 64], Error> {
        let path = self.volumes.with_file_name("identity-key");
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

    /// Writes a record, on the disk before it returns.
    pub(super) fn save(&self, record: &Record) -> Result<(), Error> {
        let path = self.record(&record.target);
        serde_json::to_vec_pretty(record)
            .map_err(io::Error::from)
            .and_then(|text| write_whole(&path, &text))
            .map_err(|error| Error::System(format!("the record {}: {error}", path.display())))
    }

    /// Removes the record of `target`; fine where there is none.
    pub(super) fn forget(&self, target: &Path) -> Result<(), Error> {
        let path = self.record(target);
        absent_is_fine(fs::remove_file(&path))
            .map_err(|error| Error::System(format!("the record {}: {error}", path.display())))
    }

    /// All records. One that cannot be read, or is of a newer format, is left where it is and named in the log: what
    /// it tells of can still be unpublished, since the mount table shows it.
    pub(super) fn load(&self) -> Result<Vec<Record>, Error> {
        let fail = |error: io::Error| Error::System(format!("the records in {}: {error}", self.volumes.display()));
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.volumes).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                // Half written when its writer was killed.
                absent_is_fine(fs::remove_file(&path)).map_err(fail)?;
                continue;
            }
            match read(&path) {
                Ok(record) => records.push(record),
                Err(why) => tracing::warn!(record = %path.display(), "a record is passed over: {why}"),
            }
        }
        Ok(records)
    }

    fn record(&self, target: &Path) -> PathBuf {
        self.volumes.join(id(target)).with_extension("json")
    }
}

fn id(target: &Path) -> String {
    HEXLOWER.encode(&Sha256::digest(target.as_os_str().as_encoded_bytes())[..16])
}

fn read(path: &Path) -> Result<Record, String> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let Format { format } = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if format > FORMAT {
        return Err(format!("it has format {format}, this version knows formats up to {FORMAT}"));
    }
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

/// Writes a file, whole or not at all, on the disk before it returns, for its owner only.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
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

    fn record(target: &str) -> Record {
        Record {
            uid: Some(1_900_000_007),
            device: Some("0:50".into()),
            ..Record::begin("store/vol@abc".into(), target.into(), "hash".into(), true)
        }
    }

    #[test]
    fn records_come_back_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        state.save(&record("/pods/1")).unwrap();
        state.save(&record("/pods/2")).unwrap();
        let changed = Record { device: None, ..record("/pods/1") };
        state.save(&changed).unwrap();
        state.forget(Path::new("/pods/2")).unwrap();
        state.forget(Path::new("/pods/2")).unwrap();
        fs::write(dir.path().join("volumes/.tmpAbC"), "{\"for").unwrap();
        drop(state);

        let state = State::open(dir.path()).unwrap();
        assert_eq!(state.load().unwrap(), [changed]);
        assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 1, "half a record is left");
        for target in ["/pods/1", "/pods/2"] {
            fs::create_dir(state.mount_point(Path::new(target))).unwrap();
        }
        assert_eq!(state.unrecorded_mount_points().unwrap(), [state.mount_point(Path::new("/pods/2"))]);
    }

    #[test]
    fn a_record_of_another_kind_is_passed_over_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        state.save(&record("/pods/1")).unwrap();
        for (name, text) in [("newer.json", "{\"format\": 2, \"shape\": \"other\"}"), ("broken.json", "")] {
            fs::write(dir.path().join("volumes").join(name), text).unwrap();
        }
        assert_eq!(state.load().unwrap().len(), 1);
        for name in ["newer", "broken", "gone"] {
            fs::create_dir(dir.path().join("mounts").join(name)).unwrap();
        }
        let unrecorded = state.unrecorded_mount_points().unwrap();
        assert!(unrecorded.len() == 1 && unrecorded[0].ends_with("gone"), "{unrecorded:?}");
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
