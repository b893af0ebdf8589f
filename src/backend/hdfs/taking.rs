//! Snapshots of directories, as the control plane has HDFS take them: a superuser makes a directory snapshottable, and from
//! then on its snapshots are its own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};

use super::error::{Failure, Outcome};
use super::list::Pages;
use super::snapshots::{snapshot_of, within};
use super::{Config, Tree, restoring};
use crate::auth;
use crate::backend::records::numbered::root;
use crate::backend::snapshots::Snapshots;
use crate::backend::{Error, ErrorKind, Limits, Op, Path, Result};

/// What copying may hold in memory.
const MEMORY: u64 = 64 << 20;

/// How long one file that is copied may stand still.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(in crate::backend) struct Taking {
    tree: Arc<Tree>,
    /// For the copying.
    files: Arc<Tree>,
}

impl Taking {
    /// See [`crate::backend::snapshots()`].
    pub(in crate::backend) fn connect(config: &Config, credential: &auth::Credential) -> Result<Taking> {
        let tree = |limits: Limits| Tree::new(config, credential, &Path::root(), limits).map(Arc::new);
        Ok(Taking { tree: tree(root::limits())?, files: tree(Limits::alone(MEMORY, PATIENCE))? })
    }

    async fn take_one(&self, dir: &Path, name: &str) -> Outcome<()> {
        let at = &self.tree.at(dir)?;
        match self.tree.web.take_snapshot(at, name).await {
            // It is not snapshottable yet.
            Err(failure) if failure.kind == ErrorKind::Unsupported => {
                self.tree.web.allow_snapshots(at).await?;
                fine_if(self.tree.web.take_snapshot(at, name).await, ErrorKind::AlreadyExists)
            }
            taken => fine_if(taken, ErrorKind::AlreadyExists),
        }
    }
}

/// What was done before is done.
fn fine_if(outcome: Outcome<()>, kind: ErrorKind) -> Outcome<()> {
    match outcome {
        Err(failure) if failure.kind == kind => Ok(()),
        outcome => outcome,
    }
}

fn told(at: &Path) -> impl Fn(Failure) -> Error + use<> {
    let at = at.clone();
    move |failure: Failure| failure.at(Op::Record, &at)
}

#[async_trait]
impl Snapshots for Taking {
    async fn permitted(&self) -> Result<bool> {
        // Of a directory that is not there nothing changes, and whether the user may is asked first.
        let nowhere = root::own().join(&crate::backend::Name::hidden());
        let at = self.tree.at(&nowhere).map_err(told(&nowhere))?;
        match self.tree.web.disallow_snapshots(&at).await {
            Err(failure) if matches!(failure.kind, ErrorKind::Denied | ErrorKind::NotPermitted) => Ok(false),
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(true),
            outcome => outcome.map(|()| true).map_err(told(&nowhere)),
        }
    }

    async fn take(&self, dir: &Path, name: &str) -> Result<()> {
        self.take_one(dir, name).await.map_err(told(dir))
    }

    async fn discard(&self, dir: &Path, name: &str) -> Result<()> {
        let at = self.tree.at(dir).map_err(told(dir))?;
        match self.tree.web.discard_snapshot(&at, name).await {
            // Neither it nor its directory, or the directory never had any.
            Err(failure) if matches!(failure.kind, ErrorKind::NotFound | ErrorKind::Unsupported) => Ok(()),
            outcome => outcome.map_err(told(dir)),
        }
    }

    async fn names(&self, dir: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut pages = Pages::default();
        loop {
            match pages.next(&self.tree, &within(dir, None)).await {
                Ok(Some(page)) => names.extend(page.into_iter().map(|(name, _)| name.to_string())),
                Ok(None) => return Ok(names),
                Err(failure) if matches!(failure.kind, ErrorKind::NotFound | ErrorKind::Unsupported) => {
                    return Ok(Vec::new());
                }
                Err(failure) => return Err(told(dir)(failure)),
            }
        }
    }

    fn restore(&self, dir: &Path, name: &str, to: &Path) -> BoxStream<'static, Result<u64>> {
        match snapshot_of(dir, name) {
            Ok(from) => restoring::restore(self.files.clone(), from, to.clone()),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }
}
