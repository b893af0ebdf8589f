//! What the store keeps of a volume: the record, the owner of its path, and the file in its own directory.
//!
//! All are JSON with `format: 1`. A newer format is refused by name; words that this version does not know survive a
//! rewrite, so that an older controller does not undo what a newer one wrote.
//!
//! | key below the store's root | holds |
//! | --- | --- |
//! | `.millrace/volumes/<sha256 of the name, hex>` | [`Record`] |
//! | `.millrace/paths/<path>/@` | [`Owner`] |
//! | `.millrace/snapshots/<sha256 of the name, hex>` | [`Snapshot`](super::snapshots::Snapshot) |
//! | `<path>/.millrace/volume.json` | [`VolumeFile`] |

use std::collections::BTreeMap;
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Error;
use crate::backend::{Name, Path, RESERVED};
use crate::config::stores::Deletion;

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// A volume that CreateVolume made, is making, or made once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// The name in CreateVolume, whole.
    pub name: String,
    /// Tells it from every other volume that ever had this path.
    pub generation: String,
    /// How far it is.
    pub state: State,
    /// Its directory below the store's root.
    pub path: String,
    /// The cluster whose controller made it.
    pub cluster: String,
    /// The most bytes it may hold: what CreateVolume or an expansion asked for. 0 where none did: then it has no limit.
    pub size: u64,
    /// The StorageClass's words as CreateVolume gave them, without those that Kubernetes adds.
    pub parameters: BTreeMap<String, String>,
    /// The mutable parameters that CreateVolume or a modification set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mutable: BTreeMap<String, String>,
    /// What DeleteVolume will do; fixed here.
    pub deletion: Deletion,
    /// What tells its directory from another that may lie there later, where directories are more than prefixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The store itself keeps its directory to `size`, by a quota.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quota: bool,
    /// What it was made from, where that is a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Its own snapshots: the keys of their records, by their generations. With any it is not deleted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub snapshots: BTreeMap<String, String>,
    /// A hash of where the store was.
    pub location: String,
    /// When CreateVolume began: RFC 3339 in UTC with milliseconds, so that text order is time order.
    pub created: String,
    /// When it became `deleted` or `withdrawn`; the same form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// The claim it was made for, where the provisioner tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Words of newer versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Record {
    /// It shows a snapshot, and nothing is ever written there.
    pub fn is_view(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.view)
    }
}

/// How far a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// CreateVolume is at work or died at it; nobody was given the volume.
    Creating,
    /// It was given out.
    Ready,
    /// Its data is being removed.
    Deleting,
    /// DeleteVolume left the data, as `deletion: keep` says, and the path stays taken.
    Kept,
    /// CreateVolume gives way to another volume, and what it wrote is being removed.
    Withdrawing,
    /// A tombstone: the data is gone.
    Deleted,
    /// A tombstone: CreateVolume gave way, or an administrator released the record. Its directory is not ours.
    Withdrawn,
    /// A tombstone that is itself about to be removed.
    Forgotten,
}

impl State {
    /// The word in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Creating => "creating",
            State::Ready => "ready",
            State::Deleting => "deleting",
            State::Kept => "kept",
            State::Withdrawing => "withdrawing",
            State::Deleted => "deleted",
            State::Withdrawn => "withdrawn",
            State::Forgotten => "forgotten",
        }
    }

    /// Nothing is left of the volume but its record.
    pub fn is_tombstone(self) -> bool {
        matches!(self, State::Deleted | State::Withdrawn | State::Forgotten)
    }
}

/// What a volume was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The directory of the snapshot's source, below the store's root.
    pub path: String,
    /// The source's generation.
    pub volume: String,
    /// The snapshot's.
    pub snapshot: String,
    /// The volume shows the snapshot itself, and is read-only; else it is a copy.
    pub view: bool,
}

/// A PersistentVolumeClaim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Who has a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Owner {
    /// [`FORMAT`].
    pub format: u32,
    /// The last segment of its record's key.
    pub record: String,
    /// The record's generation; where the record has another, the path is free.
    pub generation: String,
    /// Words of newer versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// What a node reads in the volume's own directory with the mount's credential: a copy of what of the record may change
/// while the volume is mounted.
///
/// It is advice. The volume's own user can rewrite it, so whoever reads it keeps to the maxima of the stores file; it
/// never says where the volume lies, who may use it or what its files' owners and modes are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeFile {
    /// [`FORMAT`].
    pub format: u32,
    /// The volume's generation.
    pub generation: String,
    /// The most bytes that the volume may hold, where whoever writes has to keep to it; `None` for no limit, and where the
    /// store keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The mutable parameters that were set, in the words of a StorageClass
    /// ([`crate::config::parameters::MUTABLE_WORDS`]); they go before those of the `volume_context`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// Words of newer versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl VolumeFile {
    /// The copy of `record`.
    pub fn of(record: &Record) -> VolumeFile {
        VolumeFile {
            format: FORMAT,
            generation: record.generation.clone(),
            limit: Some(record.size).filter(|size| *size > 0 && !record.quota && !record.is_view()),
            parameters: record.mutable.clone(),
            unknown: Map::new(),
        }
    }

    /// Whether it says of `record` what nodes need, whatever else it says.
    pub fn copies(&self, record: &Record) -> bool {
        *self == VolumeFile { unknown: self.unknown.clone(), ..VolumeFile::of(record) }
    }
}

/// The time of day as records hold it.
pub fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// The last segment of the key of `name`'s record.
pub fn key_of(name: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(name.as_bytes()))
}

/// Where all records lie.
pub fn volumes() -> Path {
    own(&["volumes"])
}

/// Where the record called `key` lies.
pub fn record_at(key: &str) -> Path {
    own(&["volumes", key])
}

/// Where the owners of what lies below `path` are, and [`owner_at`] of `path` itself.
pub fn owners_below(path: &Path) -> Path {
    path.names().fold(own(&["paths"]), |dir, name| dir.join(&name))
}

/// Where the owner of `path` is written.
pub fn owner_at(path: &Path) -> Path {
    owners_below(path).join(&fixed("@"))
}

/// Where a volume's own file lies.
pub fn volume_file_at(path: &Path) -> Path {
    path.join(&fixed(RESERVED)).join(&fixed("volume.json"))
}

/// A path in the driver's own directory.
pub(super) fn own(names: &[&str]) -> Path {
    names.iter().fold(Path::root().join(&fixed(RESERVED)), |dir, name| dir.join(&fixed(name)))
}

/// A name that is one: a constant of this module's or a hash. Anything else becomes its hash, which no record has.
fn fixed(name: &str) -> Name {
    match Name::new(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => fixed(&key_of(name)),
    }
}

/// Writes a form.
///
/// # Errors
/// [`Error::Internal`], never in practice: the forms have text keys only.
pub fn write<T: Serialize>(form: &T) -> Result<bytes::Bytes, Error> {
    match serde_json::to_vec_pretty(form) {
        Ok(text) => Ok(text.into()),
        Err(error) => Err(Error::Internal(format!("cannot write a record: {error}"))),
    }
}

/// Reads a form that lies at `at`.
///
/// # Errors
/// [`Error::NewerFormat`], [`Error::Unreadable`].
pub fn read<T: DeserializeOwned>(at: &Path, text: &[u8]) -> Result<T, Error> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let unreadable = |error: serde_json::Error| Error::Unreadable { at: at.clone(), why: error.to_string() };
    match serde_json::from_slice::<Head>(text).map_err(unreadable)?.format {
        FORMAT => serde_json::from_slice(text).map_err(unreadable),
        0 => Err(Error::Unreadable { at: at.clone(), why: "format 0 does not exist".to_owned() }),
        format => Err(Error::NewerFormat { at: at.clone(), format }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    #[test]
    fn everything_lies_where_it_is_said_to() {
        let key = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_eq!(key_of("test"), key);
        assert_eq!(record_at(key).to_string(), format!(".millrace/volumes/{key}"));
        assert_eq!(owner_at(&path("a/b")).to_string(), ".millrace/paths/a/b/@");
        assert_eq!(owners_below(&path("a")).to_string(), ".millrace/paths/a");
        assert_eq!(volume_file_at(&path("a/b")).to_string(), "a/b/.millrace/volume.json");
    }

    #[test]
    fn a_forged_key_leads_nowhere_else() {
        assert_eq!(record_at("../../team/data").to_string().matches('/').count(), 2);
        assert_eq!(record_at("").to_string().matches('/').count(), 2);
    }

    #[test]
    fn unknown_words_survive_and_a_newer_format_is_refused_by_name() {
        let at = path(".millrace/paths/a/@");
        let text = br#"{"format":1,"record":"r","generation":"g","later":{"deep":[1,2]}}"#;
        let mut owner: Owner = read(&at, text).unwrap();
        owner.generation = "h".to_owned();
        let again: Value = serde_json::from_slice(&write(&owner).unwrap()).unwrap();
        assert_eq!(again, serde_json::json!({"format":1,"record":"r","generation":"h","later":{"deep":[1,2]}}));

        let newer = read::<Owner>(&at, br#"{"format":2,"anything":true}"#).unwrap_err();
        assert!(matches!(newer, Error::NewerFormat { format: 2, .. }), "{newer}");
        let shown = newer.to_string();
        assert!(shown.contains("format 2") && shown.contains(".millrace/paths/a/@"), "{shown}");
        for bad in [&b""[..], b"{}", b"[]", br#"{"format":"1"}"#, br#"{"format":0}"#, br#"{"format":1}"#] {
            assert!(matches!(read::<Owner>(&at, bad), Err(Error::Unreadable { .. })));
        }
    }

    #[test]
    fn a_volume_file_of_any_version_is_read() {
        let at = path("a/.millrace/volume.json");
        let old: VolumeFile = read(&at, br#"{"format":1,"generation":"g"}"#).unwrap();
        assert_eq!((old.limit, old.parameters.len()), (None, 0));
        let text = br#"{"format":1,"generation":"g","limit":7,"parameters":{"ttl":"5s"},"later":true}"#;
        let file: VolumeFile = read(&at, text).unwrap();
        assert_eq!(
            (file.limit, file.parameters["ttl"].as_str(), &file.unknown["later"]),
            (Some(7), "5s", &true.into())
        );
        let again: Value = serde_json::from_slice(&write(&file).unwrap()).unwrap();
        assert_eq!(again, serde_json::from_slice::<Value>(text).unwrap());
    }

    #[test]
    fn times_sort_as_text() {
        let early = timestamp(SystemTime::UNIX_EPOCH);
        let late = timestamp(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_800_000_000_001));
        assert_eq!(early, "1970-01-01T00:00:00.000Z");
        assert!(early < late);
    }
}
