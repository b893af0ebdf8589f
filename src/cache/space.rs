//! How much of the disk the cache takes, and who gives way when that is too much.
//!
//! There is no list of all versions in memory: there may be millions. When room is needed some shards are looked
//! through, all where there are few files, and of what they hold the longest unused goes first, if it was visited less
//! often than what needs the room.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::Stat;

use super::files::{Names, Part, TREE, is_absent, path_of};
use super::layout::Key;
use super::medium::Medium;
use crate::backend::Path;

/// Bytes of a block of `st_blocks` (stat(2)).
const SECTOR: u64 = 512;
/// Versions looked at, at least, before it is decided which are the longest unused.
const SAMPLE: usize = 1024;
/// A half-made map that is so old is nobody's.
const ABANDONED: Duration = Duration::from_secs(600);
/// What was used within this time was visited once at least, whatever is remembered: so much outlives a restart.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// How much there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes that the cache may take.
    pub(super) capacity: u64,
    /// Of a hundred bytes of the file system, how many are to stay free.
    pub(super) free_percent: u8,
}

/// What the cache takes.
#[derive(Debug)]
pub(super) struct Space {
    bounds: Bounds,
    used: AtomicU64,
}

/// Bytes that are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing {
    /// Of the cache's own, for what is to come: its capacity, or what there is beyond what is to stay free.
    pub(super) own: u64,
    /// Of what is to stay free on the disk, whoever took it.
    pub(super) floor: u64,
}

impl Missing {
    pub(super) const NOTHING: Missing = Missing { own: 0, floor: 0 };

    /// All of it.
    pub(super) fn bytes(self) -> u64 {
        self.own + self.floor
    }
}

/// A version that may go.
#[derive(Debug)]
struct Candidate {
    shard: Arc<OwnedFd>,
    key: Key,
    used: SystemTime,
    bytes: u64,
}

impl Space {
    pub(super) fn new(bounds: Bounds) -> Space {
        Space { bounds, used: AtomicU64::new(0) }
    }

    /// Bytes taken.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn took(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn gave(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Takes `bytes`, unless something must go first: then what. Asks the disk.
    pub(super) fn reserve(&self, part: &Part, bytes: u64) -> io::Result<Missing> {
        // Taken before it is looked whether they are there, so that many at once do not pass the capacity.
        self.took(bytes);
        let missing = self.missing(part, bytes);
        if !matches!(missing, Ok(Missing::NOTHING)) {
            self.gave(bytes);
        }
        missing
    }

    /// What is too much already, where `more` bytes are to come that have been taken. Asks the disk.
    pub(super) fn missing(&self, part: &Part, more: u64) -> io::Result<Missing> {
        let (free, all) = part.medium.space(&part.dir)?;
        let least = all / 100 * u64::from(self.bounds.free_percent);
        let floor = least.saturating_sub(free);
        let room = free.saturating_sub(least);
        let own = self.used().saturating_sub(self.bounds.capacity).max(more.saturating_sub(room));
        Ok(Missing { own, floor })
    }

    /// What more to remove at once, so that room is not looked for all the time.
    pub(super) fn batch(&self) -> u64 {
        self.bounds.capacity / 64
    }

    /// Counts what is there, and removes what is of no use: halves of versions, and what is called otherwise. Those that
    /// may be being written stay, unless this is the `first` look, before anything is.
    pub(super) fn survey(&self, part: &Part, first: bool) -> io::Result<()> {
        let mut all = 0;
        for number in 0..=u8::MAX {
            let Some(shard) = shard(&part.medium, &part.dir, number)? else { continue };
            let names: HashSet<String> = part.medium.names(&shard)?.into_iter().collect();
            for name in &names {
                let stat = match part.medium.stat(&shard, name) {
                    Err(error) if is_absent(&error) => continue,
                    other => other?,
                };
                let stem = name.rsplit_once('.').map_or("", |(stem, _)| stem);
                let has = |suffix: &str| names.contains(&format!("{stem}{suffix}"));
                let is_young = !first && changed(&stat).elapsed().is_ok_and(|age| age < ABANDONED);
                let is_whole =
                    has(".data") && has(".map") && [".data", ".map", ".seal"].iter().any(|end| name.ends_with(end));
                if is_whole || is_young {
                    all += stat.st_blocks as u64 * SECTOR;
                } else {
                    part.medium.unlink(&shard, name)?;
                }
            }
        }
        self.used.store(all, Ordering::Relaxed);
        Ok(())
    }

    /// Removes versions until `bytes` are gone. `may_go` is asked of each, in the order of their last use, with how often
    /// it was visited at least; `gone` is told of each. Returns the bytes that are gone, which may be fewer.
    pub(super) fn evict(
        &self,
        part: &Part,
        bytes: u64,
        may_go: impl Fn(Key, u8) -> bool,
        gone: impl Fn(Key) -> bool,
    ) -> io::Result<u64> {
        let mut freed = 0;
        for candidate in sample(part)? {
            if freed >= bytes {
                break;
            }
            let is_remembered = candidate.used.elapsed().is_ok_and(|age| age < REMEMBERED);
            if !may_go(candidate.key, u8::from(is_remembered)) || !gone(candidate.key) {
                continue;
            }
            let Names { data, map, seal, .. } = Names::of(candidate.key);
            for name in [&map, &seal, &data] {
                part.medium.unlink(&candidate.shard, name)?;
            }
            self.gave(candidate.bytes);
            freed += candidate.bytes;
        }
        Ok(freed)
    }
}

/// Some versions, or all where they are few, the longest unused first.
fn sample(part: &Part) -> io::Result<Vec<Candidate>> {
    let mut found = Vec::new();
    let first: u8 = rand::random();
    for step in 0..=u8::MAX {
        let Some(shard) = shard(&part.medium, &part.dir, first.wrapping_add(step))? else { continue };
        let shard = Arc::new(shard);
        for name in part.medium.names(&*shard)? {
            let Some(key) = Names::key(&name) else { continue };
            let stats = [name.as_str(), &Names::of(key).data].map(|name| part.medium.stat(&*shard, name));
            // Gone meanwhile, or a half.
            let [Ok(map), Ok(data)] = stats else { continue };
            let bytes = (map.st_blocks as u64 + data.st_blocks as u64) * SECTOR;
            found.push(Candidate { shard: shard.clone(), key, used: changed(&map), bytes });
        }
        if found.len() >= SAMPLE {
            break;
        }
    }
    found.sort_by_key(|candidate| candidate.used);
    Ok(found)
}

/// The paths of at most `most` versions.
pub(super) fn some_files(part: &OwnedFd, most: usize) -> io::Result<Vec<Path>> {
    let medium = Medium::default();
    let mut found = Vec::new();
    let first: u8 = rand::random();
    for step in 0..=u8::MAX {
        let Some(shard) = shard(&medium, part, first.wrapping_add(step))? else { continue };
        for name in medium.names(&shard)?.iter().filter(|name| Names::key(name).is_some()) {
            if found.len() >= most {
                return Ok(found);
            }
            found.extend(path_of(&medium, &shard, name)?);
        }
    }
    Ok(found)
}

fn shard(medium: &Medium, part: &OwnedFd, number: u8) -> io::Result<Option<OwnedFd>> {
    match medium.open_dir(part, &format!("{TREE}/{number:02x}")) {
        Err(error) if is_absent(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// When a file was last changed, or, of a map, its version last visited.
fn changed(stat: &Stat) -> SystemTime {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::new(seconds, u32::try_from(stat.st_mtime_nsec).unwrap_or_default())
}
