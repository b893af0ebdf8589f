//! Which volume is at which target, and as which uid its worker runs: decided in one step, so that two calls at once
//! agree.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Error;
use super::state::Record;

/// All publications of this node, begun or done.
#[derive(Debug)]
pub(super) struct Claims {
    /// First uid of the range and how many; `None` where workers keep the node plugin's.
    range: Option<(u32, u32)>,
    by_target: HashMap<PathBuf, Claim>,
}

#[derive(Debug)]
struct Claim {
    volume_id: String,
    single_writer: bool,
    uid: Option<u32>,
}

impl Claims {
    pub(super) fn new(range: Option<(u32, u32)>) -> Claims {
        Claims { range, by_target: HashMap::new() }
    }

    /// Claims `record.target` and fills in `record.uid`. The uid is the same each time for one `sharer` (all that a
    /// worker may be shared by), as long as no other worker has it.
    pub(super) fn claim(&mut self, record: &mut Record, sharer: &str) -> Result<(), Error> {
        let other = self.by_target.iter().find(|(target, claim)| {
            **target != record.target
                && claim.volume_id == record.volume_id
                && (claim.single_writer || record.single_writer)
        });
        if let Some((target, _)) = other {
            return Err(Error::SecondWriter(format!(
                "volume {} has access mode SINGLE_NODE_SINGLE_WRITER (ReadWriteOncePod) and is published at {} already",
                record.volume_id,
                target.display()
            )));
        }
        record.uid = self.free_uid(sharer)?;
        self.adopt(record);
        Ok(())
    }

    /// Takes over a claim that was made before a restart.
    pub(super) fn adopt(&mut self, record: &Record) {
        let claim = Claim { volume_id: record.volume_id.clone(), single_writer: record.single_writer, uid: record.uid };
        self.by_target.insert(record.target.clone(), claim);
    }

    /// Gives a claim back, once its worker has ended.
    pub(super) fn release(&mut self, target: &Path) {
        self.by_target.remove(target);
    }

    fn free_uid(&self, sharer: &str) -> Result<Option<u32>, Error> {
        let Some((base, count)) = self.range else { return Ok(None) };
        let taken: HashSet<u32> = self.by_target.values().filter_map(|claim| claim.uid).collect();
        let digest = Sha256::digest(sharer);
        let wanted = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
        (0..count)
            .map(|step| base + (wanted % count + step) % count)
            .find(|uid| !taken.contains(uid))
            .map(Some)
            .ok_or_else(|| {
                Error::System(format!("all {count} worker uids from {base} on are in use; give the node a wider range"))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(volume: &str, target: &str, single_writer: bool) -> Record {
        Record::begin(volume.into(), target.into(), String::new(), single_writer)
    }

    #[test]
    fn a_sharer_keeps_its_uid_and_no_two_live_workers_share_one() {
        let mut claims = Claims::new(Some((1000, 3)));
        let claim = |claims: &mut Claims, target: &str, sharer: &str| {
            let mut record = record("v", target, false);
            claims.claim(&mut record, sharer).map(|()| record.uid.unwrap())
        };
        let first = claim(&mut claims, "/1", "alice").unwrap();
        let second = claim(&mut claims, "/2", "alice").unwrap();
        let third = claim(&mut claims, "/3", "bob").unwrap();
        assert_eq!(HashSet::from([first, second, third]), HashSet::from([1000, 1001, 1002]));
        let error = claim(&mut claims, "/4", "carol").unwrap_err();
        assert!(matches!(error, Error::System(_)));
        claims.release(Path::new("/1"));
        assert_eq!(claim(&mut claims, "/5", "alice").unwrap(), first, "stable");

        let mut restarted = Claims::new(Some((1000, 3)));
        let mut recorded = record("v", "/5", false);
        recorded.uid = Some(first);
        restarted.adopt(&recorded);
        assert_ne!(claim(&mut restarted, "/6", "alice").unwrap(), first, "recorded uids stay taken");
    }

    #[test]
    fn a_single_writer_stays_alone() {
        let mut claims = Claims::new(None);
        claims.claim(&mut record("v", "/1", true), "").unwrap();
        claims.claim(&mut record("w", "/2", false), "").unwrap();
        for single_writer in [true, false] {
            let error = claims.claim(&mut record("v", "/3", single_writer), "").unwrap_err();
            assert!(matches!(&error, Error::SecondWriter(why) if why.contains("/1")), "{error}");
        }
        assert!(claims.claim(&mut record("w", "/3", true), "").is_err());
        claims.claim(&mut record("v", "/1", true), "").unwrap();
        claims.release(Path::new("/1"));
        claims.claim(&mut record("v", "/3", true), "").unwrap();
    }
}
