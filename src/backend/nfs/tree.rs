//! From a path to a handle.
//!
//! NFS names a thing by the handle of its directory and its name there. Handles of directories are kept for a moment, so
//! that a path costs one LOOKUP; a handle that the server no longer knows is looked for again by its path, once. No
//! symbolic link is followed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nfs3_types::nfs3::{fattr3, ftype3, nfs_fh3};
use tokio::time::Instant;

use super::Config;
use super::calls::{Outcome, option};
use super::error::Failure;
use super::mounting::{Mounted, mounted};
use super::privileged::{Dialer, Own};
use super::rpc::Credential;
use super::writers::Writers;
use crate::backend::{ErrorKind, Limits, Name, Path};

/// How long a directory is believed to lie where it lay. Another client may move it meanwhile.
const FRESH: Duration = Duration::from_secs(1);

/// Directories that are remembered at most.
const MOST: usize = 10_000;

/// A volume: a directory of an export, used as one principal.
#[derive(Debug)]
pub(super) struct Tree {
    config: Config,
    credential: Credential,
    /// The volume's directory below the export's.
    root: Path,
    pub(super) limits: Limits,
    /// Where the server wants privileged source ports.
    dialer: Option<Arc<dyn Dialer>>,
    state: tokio::sync::Mutex<State>,
    /// By the path below the volume's directory.
    directories: Mutex<HashMap<Path, (nfs_fh3, Instant)>>,
    pub(super) writers: Writers,
}

#[derive(Debug, Default)]
struct State {
    mounted: Option<Arc<Mounted>>,
    failed: Option<(Instant, Failure)>,
}

/// What lies at a path.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) handle: nfs_fh3,
    pub(super) attributes: fattr3,
}

impl Found {
    pub(super) fn is_directory(&self) -> bool {
        self.attributes.type_ == ftype3::NF3DIR
    }
}

impl Tree {
    pub(super) fn new(config: &Config, credential: Credential, root: Path, limits: Limits) -> Tree {
        let (state, directories, writers) = Default::default();
        let own = || Arc::new(Own(config.clone())) as Arc<dyn Dialer>;
        let dialer = config.privileged_ports.then(|| limits.dialer.clone().unwrap_or_else(own));
        Tree { config: config.clone(), credential, root, limits, dialer, state, directories, writers }
    }

    /// The server, whose export is asked for by the first who needs it.
    pub(super) async fn mounted(&self) -> Outcome<Arc<Mounted>> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(mounted) = &state.mounted {
            return Ok(mounted.clone());
        }
        // Who waited for an attempt that failed makes none of his own, or all who wait would wait for each other.
        if let Some((_, failure)) = state.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(failure.clone());
        }
        match mounted(&self.config, &self.credential, self.dialer.as_ref(), &self.limits.timeout).await {
            Ok(mounted) => Ok(state.mounted.insert(Arc::new(mounted)).clone()),
            Err(failure) => {
                state.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    /// The export is asked for its root again, unless somebody did so meanwhile.
    async fn unmount(&self, old: &Arc<Mounted>) {
        let mut state = self.state.lock().await;
        if state.mounted.as_ref().is_some_and(|mounted| Arc::ptr_eq(mounted, old)) {
            state.mounted = None;
        }
        self.known().clear();
    }

    /// The handle of a directory.
    ///
    /// `NotFound`, `NotADirectory` where something else lies at `dir` or above it.
    pub(super) async fn directory(&self, dir: &Path) -> Outcome<nfs_fh3> {
        match self.walk(dir).await {
            // A handle on the way was too old.
            Err(failure) if failure.is_stale() => {
                self.known().clear();
                self.walk(dir).await
            }
            outcome => outcome,
        }
    }

    async fn walk(&self, dir: &Path) -> Outcome<nfs_fh3> {
        let mounted = self.mounted().await?;
        let (mut at, mut handle) = match self.nearest(dir) {
            Some(known) => known,
            None => {
                let handle = match self.enter(&mounted).await {
                    Err(failure) if failure.is_stale() => {
                        self.unmount(&mounted).await;
                        self.enter(&*self.mounted().await?).await?
                    }
                    outcome => outcome?,
                };
                self.learn(&Path::root(), &handle);
                (Path::root(), handle)
            }
        };
        let below: Vec<Name> = dir.names().skip(at.names().count()).collect();
        for name in below {
            at = at.join(&name);
            handle = subdirectory(&mounted, &handle, &name).await?;
            self.learn(&at, &handle);
        }
        Ok(handle)
    }

    /// The volume's own directory.
    async fn enter(&self, mounted: &Mounted) -> Outcome<nfs_fh3> {
        let mut handle = mounted.root.clone();
        let mut at = Path::root();
        for name in self.root.names() {
            at = at.join(&name);
            handle = subdirectory(mounted, &handle, &name).await.map_err(|failure| match failure.kind {
                ErrorKind::NotFound | ErrorKind::NotADirectory => {
                    let export = &self.config.export;
                    let message = format!("export {export:?} has no directory {:?}", at.to_string());
                    Failure { message, ..failure }
                }
                _ => failure,
            })?;
        }
        Ok(handle)
    }

    /// What lies at a path. `NotFound`, also for a path below a file.
    pub(super) async fn lookup(&self, path: &Path) -> Outcome<Found> {
        let Some((dir, name)) = path.split_last() else {
            return self
                .in_directory(path, |mounted, handle| async move {
                    let attributes = mounted.server.getattr(&handle).await?;
                    Ok(Found { handle, attributes })
                })
                .await;
        };
        let name = &name;
        let found = self.in_directory(&dir, |mounted, dir| async move { look(&mounted, &dir, name).await }).await;
        found.map_err(|failure| match failure.kind {
            ErrorKind::NotADirectory => Failure::absent(),
            _ => failure,
        })
    }

    /// What lies at a path, if anything does.
    pub(super) async fn lookup_any(&self, path: &Path) -> Outcome<Option<Found>> {
        match self.lookup(path).await {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Does something by the handle of the directory `dir`; once more, where the server no longer knows the handle and
    /// the path leads to one that it knows.
    pub(super) async fn in_directory<T, F>(&self, dir: &Path, act: impl Fn(Arc<Mounted>, nfs_fh3) -> F) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>>,
    {
        let handle = self.directory(dir).await?;
        match act(self.mounted().await?, handle).await {
            Err(failure) if failure.is_stale() => {
                self.known().clear();
                let handle = self.directory(dir).await?;
                act(self.mounted().await?, handle).await
            }
            outcome => outcome,
        }
    }

    /// Does something by the handle of what lies at `path`; once more, where the server no longer knows the handle and the
    /// path leads to one that it knows.
    pub(super) async fn at_path<T, F>(&self, path: &Path, act: impl Fn(Arc<Mounted>, nfs_fh3) -> F) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>>,
    {
        let found = self.lookup(path).await?;
        match act(self.mounted().await?, found.handle).await {
            Err(failure) if failure.is_stale() => {
                let found = self.lookup(path).await?;
                act(self.mounted().await?, found.handle).await
            }
            outcome => outcome,
        }
    }

    /// Does something by the handle of a file that lay at `path`; once more, where the server forgot the handle for a moment,
    /// as some do, above all after a restart: the path still leads to it.
    pub(super) async fn by_handle<T, F>(
        &self,
        path: &Path,
        handle: &nfs_fh3,
        act: impl Fn(Arc<Mounted>) -> F,
    ) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>>,
    {
        match act(self.mounted().await?).await {
            Err(failure) if failure.is_stale() && self.leads_to(path, handle).await? => {
                act(self.mounted().await?).await
            }
            outcome => outcome,
        }
    }

    async fn leads_to(&self, path: &Path, handle: &nfs_fh3) -> Outcome<bool> {
        Ok(self.lookup_any(path).await?.is_some_and(|found| found.handle == *handle))
    }

    /// A directory was removed or moved, with all below it.
    pub(super) fn left(&self, dir: &Path) {
        self.known().retain(|known, _| !known.starts_with(dir));
    }

    /// The deepest directory on the way to `dir` that is known.
    fn nearest(&self, dir: &Path) -> Option<(Path, nfs_fh3)> {
        let known = self.known();
        let mut at = dir.clone();
        loop {
            if let Some((handle, seen)) = known.get(&at)
                && seen.elapsed() < FRESH
            {
                return Some((at, handle.clone()));
            }
            at = at.split_last()?.0;
        }
    }

    fn learn(&self, dir: &Path, handle: &nfs_fh3) {
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(dir.clone(), (handle.clone(), Instant::now()));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Path, (nfs_fh3, Instant)>> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What lies under `name` in a directory.
pub(super) async fn look(mounted: &Mounted, dir: &nfs_fh3, name: &Name) -> Outcome<Found> {
    let found = mounted.server.lookup(dir, name.as_bytes()).await?;
    let attributes = match option(found.obj_attributes) {
        Some(attributes) => attributes,
        None => mounted.server.getattr(&found.object).await?,
    };
    Ok(Found { handle: found.object, attributes })
}

async fn subdirectory(mounted: &Mounted, dir: &nfs_fh3, name: &Name) -> Outcome<nfs_fh3> {
    let found = look(mounted, dir, name).await?;
    match found.is_directory() {
        true => Ok(found.handle),
        false => Err(Failure::new(ErrorKind::NotADirectory, "it is no directory")),
    }
}
