//! Which uid a worker runs as: stable for what it serves, and never one that another live worker has.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::Error;

/// The uids that workers may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uids {
    pub(super) base: u32,
    pub(super) count: u32,
}

impl Uids {
    /// The uid for `key`, or the next one that nobody in `taken` has.
    pub(super) fn choose(self, key: &[&str], taken: &HashSet<u32>) -> Result<u32, Error> {
        let mut digest = Sha256::new();
        for part in key {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let digest = digest.finalize();
        let start = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
        (0..self.count)
            .map(|step| self.base + (u64::from(start) + u64::from(step)).rem_euclid(u64::from(self.count)) as u32)
            .find(|uid| !taken.contains(uid))
            .ok_or_else(|| {
                let (first, last) = (self.base, self.base + (self.count - 1));
                Error::System(format!("all worker uids {first} to {last} are in use; widen the range by a flag"))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_stable_until_it_is_taken() {
        let uids = Uids { base: 1_900_000_000, count: 100 };
        let mut taken = HashSet::new();
        let first = uids.choose(&["vol", "who"], &taken).unwrap();
        assert_eq!(uids.choose(&["vol", "who"], &taken).unwrap(), first);
        assert_ne!(uids.choose(&["vo", "lwho"], &taken).unwrap(), first);
        for _ in 0..100 {
            let uid = uids.choose(&["vol", "who"], &taken).unwrap();
            assert!((1_900_000_000..1_900_000_100).contains(&uid) && taken.insert(uid));
        }
        assert!(uids.choose(&["vol", "who"], &taken).unwrap_err().to_string().contains("widen the range"));
    }
}
