//! Volume options as words: StorageClass parameters and `volumeAttributes`. Names once published never change meaning.

use std::collections::HashMap;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::quoted;
use super::stores::Deletion;
use super::volume::VolumeOptions;

/// Where words stand, which decides the ones that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Parameters of a StorageClass, in CreateVolume.
    StorageClass,
    /// `volumeAttributes` of a PersistentVolume or an inline volume, or what CreateVolume returned.
    VolumeContext,
}

/// The words of one volume, understood.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    /// `store`.
    pub store: Option<String>,
    /// `path`: a template in a StorageClass, a path in a volume.
    pub path: Option<String>,
    /// `deletion`, of a StorageClass only.
    pub deletion: Option<Deletion>,
    /// `quota`, of a volume only: the store keeps its directory to a quota of its own.
    pub quota: bool,
    /// `snapshot`, of a volume that CreateVolume made only: which one it shows, in the controller's words.
    pub snapshot: Option<String>,
    /// `version`, of a volume only: the snapshot of its directory that it shows.
    pub version: Option<String>,
    /// `user`, of a volume only: which of the users that the store lists for the pod's namespace.
    pub user: Option<String>,
    /// How to show the volume; defaults where no word was given.
    pub options: VolumeOptions,
}

/// A word that cannot be taken: which, why, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadWord(pub String);

/// The words that set [`VolumeOptions`]: what a StorageClass passes on in `volume_context`.
pub const OPTION_WORDS: &[&str] = &[
    "announce",
    "attributes",
    "authGrace",
    "authTtl",
    "cache",
    "cacheSize",
    "dirMode",
    "enforceModes",
    "fileMode",
    "gid",
    "immutable",
    "memory",
    "overwrite",
    "readAheadKb",
    "skipOpens",
    "timeout",
    "ttl",
    "uid",
];

/// The options that may change while a volume lives: what ControllerModifyVolume and a VolumeAttributesClass may set.
pub const MUTABLE_WORDS: &[&str] = &["memory", "readAheadKb", "timeout", "ttl"];

/// Of a volume whose directory the store keeps to a quota.
pub const QUOTA_WORD: &str = "quota";

/// Of a volume that shows a snapshot: which.
pub const SNAPSHOT_WORD: &str = "snapshot";

/// The words that the driver itself puts into `volume_context`.
pub const OWN_WORDS: &[&str] = &["format", "location"];

const MEMORY_FLOOR: u64 = 32 << 20;
const CACHE_FLOOR: u64 = 64 << 20;

impl Parameters {
    /// Understands `words`. Keys of the kubelet and the provisioner (`csi.storage.k8s.io/`, `storage.kubernetes.io/`)
    /// pass; any other unknown one is refused.
    ///
    /// # Errors
    /// The word, and those that are known or its right form.
    pub fn parse(words: &HashMap<String, String>, place: Place) -> Result<Parameters, BadWord> {
        let mut parsed = Parameters::default();
        let mut sorted: Vec<_> = words.iter().collect();
        sorted.sort();
        for (word, value) in sorted {
            if is_kubernetes(word) {
                continue;
            }
            let outcome = match (word.as_str(), place) {
                ("store", _) => {
                    parsed.store = Some(value.clone());
                    Ok(())
                }
                ("path", _) => {
                    parsed.path = Some(value.clone());
                    Ok(())
                }
                ("deletion", Place::StorageClass) => {
                    one_of(value, "current, all, keep").map(|d| parsed.deletion = Some(d))
                }
                (QUOTA_WORD, Place::VolumeContext) => one_of(value, "true, false").map(|quota| parsed.quota = quota),
                (SNAPSHOT_WORD, Place::VolumeContext) => {
                    parsed.snapshot = Some(value.clone());
                    Ok(())
                }
                ("version", Place::VolumeContext) => {
                    parsed.version = Some(value.clone());
                    Ok(())
                }
                ("user", Place::VolumeContext) => {
                    parsed.user = Some(value.clone());
                    Ok(())
                }
                (own, Place::VolumeContext) if OWN_WORDS.contains(&own) => Ok(()),
                (option, _) if OPTION_WORDS.contains(&option) => set(&mut parsed.options, option, value),
                _ => return Err(unknown(word, place)),
            };
            outcome.map_err(|why| bad(word, &why))?;
        }
        if parsed.options.skip_opens && !parsed.options.immutable {
            let why =
                "needs `immutable: true` beside it: what is opened unasked would show old bytes of a file that changes";
            return Err(bad("skipOpens", why));
        }
        Ok(parsed)
    }
}

/// Sets mutable options by their `words`, in the order of the words. Those that Kubernetes adds pass.
///
/// # Errors
/// The word, and those that are known or its right form; then `options` may be half changed.
pub fn modify<'a>(
    options: &mut VolumeOptions,
    words: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<(), BadWord> {
    let mut sorted: Vec<_> = words.into_iter().filter(|(word, _)| !is_kubernetes(word)).collect();
    sorted.sort();
    for (word, value) in sorted {
        if !MUTABLE_WORDS.contains(&word.as_str()) {
            let known = MUTABLE_WORDS.join(", ");
            return Err(BadWord(match OPTION_WORDS.contains(&word.as_str()) {
                true => format!("{word} is fixed when a volume is made; what may change is {known}"),
                false => format!("unknown mutable parameter {}; known are {known}", quoted(word)),
            }));
        }
        set(options, word, value).map_err(|why| bad(word, &why))?;
    }
    Ok(())
}

/// Whether `word` is the kubelet's or the provisioner's own.
pub fn is_kubernetes(word: &str) -> bool {
    word.starts_with("csi.storage.k8s.io/") || word.starts_with("storage.kubernetes.io/")
}

fn unknown(word: &str, place: Place) -> BadWord {
    let (what, extra) = match place {
        Place::StorageClass => ("StorageClass parameter", "store, path, deletion"),
        Place::VolumeContext => ("volume attribute", "store, path, version, quota, user"),
    };
    BadWord(format!("unknown {what} {}; known are {extra}, {}", quoted(word), OPTION_WORDS.join(", ")))
}

/// A word that is known, with a value that cannot be taken. The value is not repeated.
fn bad(word: &str, why: &str) -> BadWord {
    BadWord(format!("the value of {word} {why}"))
}

fn set(options: &mut VolumeOptions, word: &str, value: &str) -> Result<(), String> {
    match word {
        "uid" => options.uid = id(value)?,
        "gid" => options.gid = id(value)?,
        "fileMode" => options.file_mode = mode(value)?,
        "dirMode" => options.dir_mode = mode(value)?,
        "enforceModes" => options.enforce_modes = one_of(value, "true, false")?,
        "timeout" => options.timeout = duration(value, Duration::from_secs(1))?,
        "ttl" => options.ttl = duration(value, Duration::ZERO)?,
        "memory" => options.memory = memory(value)?,
        "readAheadKb" => options.read_ahead_kb = read_ahead(value)?,
        "immutable" => options.immutable = one_of(value, "true, false")?,
        "skipOpens" => options.skip_opens = one_of(value, "true, false")?,
        "announce" => options.announce = one_of(value, "true, false")?,
        "cache" => options.cache = one_of(value, "none, disk")?,
        "cacheSize" => options.cache_size = cache_size(value)?,
        "authTtl" => options.auth_ttl = duration(value, Duration::from_secs(1))?,
        "authGrace" => options.auth_grace = duration(value, Duration::ZERO)?,
        "attributes" => options.attributes = one_of(value, "accepted, refused")?,
        "overwrite" => options.overwrite = one_of(value, "conditional, last-wins")?,
        _ => return Err("not an option".into()),
    }
    Ok(())
}

fn id(value: &str) -> Result<u32, String> {
    // (uid_t)-1 means "leave it" to chown(2) and is nobody's.
    value.parse().ok().filter(|id| *id != u32::MAX).ok_or_else(|| "must be a number from 0 to 4294967294".into())
}

fn mode(value: &str) -> Result<u32, String> {
    let octal = u32::from_str_radix(value.strip_prefix("0o").unwrap_or(value), 8).ok();
    octal.filter(|mode| *mode <= 0o777).ok_or_else(|| "must be octal permission bits such as 0644, at most 0777".into())
}

fn duration(value: &str, least: Duration) -> Result<Duration, String> {
    let most = Duration::from_secs(24 * 3600);
    let shape =
        || format!("must be a time with its unit from {} to 24h, such as 30s", humantime::format_duration(least));
    humantime::parse_duration(value).ok().filter(|time| (least..=most).contains(time)).ok_or_else(shape)
}

fn memory(value: &str) -> Result<u64, String> {
    let found = bytes(value)?;
    if found < MEMORY_FLOOR {
        return Err("must be at least 32Mi, or nothing could be read ahead".into());
    }
    Ok(found)
}

fn cache_size(value: &str) -> Result<u64, String> {
    let found = bytes(value)?;
    if found < CACHE_FLOOR {
        return Err("must be at least 64Mi; `cache: none` switches it off".into());
    }
    Ok(found)
}

fn read_ahead(value: &str) -> Result<u32, String> {
    let most = 1 << 20;
    value.parse().ok().filter(|kib| *kib <= most).ok_or_else(|| format!("must be a number of KiB from 0 to {most}"))
}

/// A Kubernetes-like quantity of bytes: a whole number with `Ki`, `Mi`, `Gi`, `Ti`, `k`, `M`, `G`, `T` or nothing
/// behind it.
pub(super) fn bytes(value: &str) -> Result<u64, String> {
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let factor: Option<u64> = match unit {
        "" => Some(1),
        "k" => Some(1000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        "T" => Some(1_000_000_000_000),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        "Ti" => Some(1 << 40),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| "must be a whole number of bytes, such as 256Mi".into())
}

fn one_of<T: DeserializeOwned>(value: &str, known: &str) -> Result<T, String> {
    let word = match value {
        "true" => serde_json::Value::Bool(true),
        "false" => serde_json::Value::Bool(false),
        other => serde_json::Value::String(other.to_owned()),
    };
    serde_json::from_value(word).map_err(|_| format!("must be one of {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AttributeChanges, CacheMode, Overwrite};

    fn words(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_option_is_understood() {
        let parsed = Parameters::parse(
            &words(&[
                ("store", "lake"),
                ("path", "a/${pv.name}"),
                ("deletion", "keep"),
                ("uid", "1000"),
                ("gid", "100"),
                ("fileMode", "0600"),
                ("dirMode", "700"),
                ("enforceModes", "true"),
                ("timeout", "5m"),
                ("ttl", "0s"),
                ("memory", "64Mi"),
                ("readAheadKb", "128"),
                ("immutable", "true"),
                ("skipOpens", "true"),
                ("announce", "false"),
                ("cache", "disk"),
                ("cacheSize", "2Ti"),
                ("authTtl", "10s"),
                ("authGrace", "0s"),
                ("attributes", "refused"),
                ("overwrite", "last-wins"),
                ("csi.storage.k8s.io/pvc/name", "claim"),
            ]),
            Place::StorageClass,
        )
        .unwrap();
        assert_eq!((parsed.store.as_deref(), parsed.deletion), (Some("lake"), Some(Deletion::Keep)));
        let expected = VolumeOptions {
            uid: 1000,
            gid: 100,
            file_mode: 0o600,
            dir_mode: 0o700,
            enforce_modes: true,
            timeout: Duration::from_secs(300),
            ttl: Duration::ZERO,
            memory: 64 << 20,
            read_ahead_kb: 128,
            immutable: true,
            skip_opens: true,
            announce: false,
            cache: CacheMode::Disk,
            cache_size: 2 << 40,
            auth_ttl: Duration::from_secs(10),
            auth_grace: Duration::ZERO,
            attributes: AttributeChanges::Refused,
            overwrite: Overwrite::LastWins,
        };
        assert_eq!(parsed.options, expected);
    }

    #[test]
    fn a_wrong_word_is_named_with_what_would_be_right() {
        for (word, value, why) in [
            ("fileMod", "0600", "known are"),
            ("fileMode", "0888", "octal"),
            ("fileMode", "4755", "at most 0777"),
            ("uid", "-1", "0 to"),
            ("uid", "4294967295", "0 to"),
            ("timeout", "10", "unit"),
            ("timeout", "0s", "from 1s"),
            ("memory", "1Mi", "at least 32Mi"),
            ("memory", "1.5Gi", "whole number"),
            ("readAheadKb", "many", "KiB"),
            ("immutable", "yes", "true, false"),
            ("skipOpens", "yes", "true, false"),
            ("skipOpens", "true", "immutable: true"),
            ("cache", "memory", "none, disk"),
            ("cacheSize", "1Mi", "at least 64Mi"),
            ("authTtl", "0s", "from 1s"),
            ("authGrace", "10", "unit"),
            ("attributes", "true", "accepted, refused"),
            ("overwrite", "never", "last-wins"),
        ] {
            let error = Parameters::parse(&words(&[(word, value)]), Place::VolumeContext).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(why), "{word}={value}: {error}");
        }
    }

    #[test]
    fn what_may_change_is_a_list() {
        let modified = |pairs: &[(&str, &str)]| {
            let mut options = VolumeOptions::default();
            modify(&mut options, &words(pairs)).map(|()| options).map_err(|error| error.to_string())
        };
        let all = [("timeout", "5m"), ("ttl", "0s"), ("memory", "64Mi"), ("readAheadKb", "128")];
        let expected = VolumeOptions {
            timeout: Duration::from_secs(300),
            ttl: Duration::ZERO,
            memory: 64 << 20,
            read_ahead_kb: 128,
            ..VolumeOptions::default()
        };
        assert_eq!(modified(&all), Ok(expected));
        assert_eq!(modified(&[("csi.storage.k8s.io/pvc/name", "claim")]), Ok(VolumeOptions::default()));
        assert!(MUTABLE_WORDS.iter().all(|word| OPTION_WORDS.contains(word)));
        for (word, value, why) in [
            ("uid", "7", "fixed when a volume is made; what may change is memory"),
            ("store", "lake", "known are memory"),
            ("TTL", "1s", "known are memory"),
            ("ttl", "1", "unit"),
        ] {
            let error = modified(&[(word, value)]).unwrap_err();
            assert!(error.contains(word) && error.contains(why), "{word}={value}: {error}");
        }
    }

    #[test]
    fn each_place_knows_its_own_words() {
        let ok = |word: &str, value: &str, place| Parameters::parse(&words(&[(word, value)]), place).is_ok();
        assert!(ok("deletion", "all", Place::StorageClass) && !ok("deletion", "all", Place::VolumeContext));
        assert!(ok("format", "1", Place::VolumeContext) && !ok("format", "1", Place::StorageClass));
        assert!(ok("storage.kubernetes.io/csiProvisionerIdentity", "x", Place::VolumeContext));
    }
}
