//! What lies in a snapshot, below a directory named `.snapshot`: nothing there ever changes.
//!
//! A file there has the id of the living one that it is a state of, and by that id only the living one is reached, or
//! whatever has its name by now. So it is read by its path, written never, and what is known of who writes the living one
//! is not said of it.

use super::error::{Failure, Outcome};
use super::{Tree, version};
use crate::backend::{Error, ErrorKind, Name, Op, Path, Result, Version};

/// The directory through which HDFS shows the snapshots of the one above it; a listing does not name it.
const SNAPSHOTS: &str = ".snapshot";

/// The directory of the snapshots of `dir`, or one of them.
pub(super) fn within(dir: &Path, name: Option<&Name>) -> Path {
    let all = Name::new(SNAPSHOTS.as_bytes()).map_or_else(|_| dir.clone(), |all| dir.join(&all));
    name.map_or_else(|| all.clone(), |name| all.join(name))
}

/// See [`crate::backend::snapshot_of`].
pub(in crate::backend) fn snapshot_of(dir: &Path, name: &str) -> Result<Path> {
    let bad = |why: String| Error::new(ErrorKind::InvalidName, Op::Connect, dir, why);
    match Name::new(name.as_bytes()) {
        Ok(_) if name.contains(':') => Err(bad(format!("{name:?} is no snapshot's name: HDFS takes no colon (':')"))),
        Ok(name) => Ok(within(dir, Some(&name))),
        Err(why) => Err(bad(format!("{name:?} is no snapshot's name: {why}"))),
    }
}

/// Where the bytes of a version are read.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) id: u64,
    /// Absolute.
    pub(super) at: String,
    /// It is in a snapshot, and has these bytes as long as that is the one that was seen.
    pub(super) frozen: Option<String>,
}

impl Tree {
    /// Whether what lies at `path` is the state of something.
    pub(super) fn is_in_snapshot(&self, path: &Path) -> bool {
        self.root.split('/').any(|name| name == SNAPSHOTS)
            || path.names().any(|name| name.as_bytes() == SNAPSHOTS.as_bytes())
    }

    /// Where a version is read.
    pub(super) fn place(&self, file: &Version) -> Outcome<Place> {
        let id = version::id(file).ok_or_else(|| Failure::new(ErrorKind::Stale, "the version is of another store"))?;
        if self.is_in_snapshot(&file.path) {
            return Ok(Place { id, at: self.at(&file.path)?, frozen: Some(file.bytes.to_string()) });
        }
        Ok(Place { id, at: version::by_id(id), frozen: None })
    }
}

impl Place {
    /// `Stale` where another snapshot has taken the name of the one that was seen.
    pub(super) async fn check(&self, tree: &Tree) -> Outcome<()> {
        let Some(bytes) = &self.frozen else { return Ok(()) };
        match version::bytes(&tree.web.status(&self.at).await?) == *bytes {
            true => Ok(()),
            false => Err(Failure::changed()),
        }
    }
}
