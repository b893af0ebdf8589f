//! A store's root as the controller's own user has it: the directories in which records and volumes lie.
//!
//! The controller is a superuser of HDFS, or a user to whom the root belongs. No symbolic link is followed: HDFS resolves
//! none by itself, but refuses a path that has one.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::OnceCell;

use super::error::{Failure, Outcome, SAFE_MODE};
use super::webhdfs::Status;
use super::{Config, Hdfs, Tree, changes, in_place, list, quota, version};
use crate::auth;
use crate::backend::records::Directory;
use crate::backend::records::numbered::root::{self, OWN, Shown, TIMEOUT};
use crate::backend::records::numbered::{Directories, Item};
use crate::backend::{Error, ErrorKind, Kind, Name, Op, Path, Result, SetAttributes};

/// Permission bits of a record, which a mount reads as its own user.
const RECORD: u32 = 0o644;

/// See the module.
#[derive(Debug)]
pub(in crate::backend) struct Root {
    tree: Arc<Tree>,
    /// The controller's user, or principal.
    user: String,
    /// What the cluster calls it.
    name: OnceCell<String>,
    prepared: OnceCell<()>,
}

impl Root {
    /// See [`crate::backend::records`].
    pub(in crate::backend) fn connect(config: &Config, credential: &auth::Credential) -> Result<Root> {
        let tree = Tree::new(config, credential, &Path::root(), root::limits())?;
        let (user, name) = match credential {
            auth::Credential::Hadoop { user } => (user.clone(), OnceCell::new_with(Some(user.clone()))),
            auth::Credential::Kerberos { principal, .. } => (principal.clone(), OnceCell::new()),
            _ => (String::new(), OnceCell::new()),
        };
        Ok(Root { tree: Arc::new(tree), user, name, prepared: OnceCell::new() })
    }

    /// What the cluster calls the controller's user: of a principal its own rules make a name.
    async fn name(&self) -> Result<&str> {
        let name = self.name.get_or_try_init(|| self.tree.web.user()).await;
        name.map(String::as_str).map_err(self.told(&Path::root()))
    }

    fn told(&self, at: &Path) -> impl Fn(Failure) -> Error + use<> {
        let (at, user) = (at.clone(), self.user.clone());
        move |failure: Failure| match failure.kind {
            ErrorKind::Denied | ErrorKind::NotPermitted => {
                let why = format!("HDFS refuses it to {user:?}, as whom the controller uses the store");
                Error::new(failure.kind, Op::Record, &at, why).with_detail(failure.detail)
            }
            _ => failure.at(Op::Record, &at),
        }
    }

    /// Makes a directory, or leaves the one that is there.
    async fn make(&self, dir: &Path, mode: u32) -> Outcome<()> {
        let at = &self.tree.at(dir)?;
        self.tree.library.act("other", |client| async move { client.mkdirs(at, mode, false).await }).await
    }

    /// Writes `body` under a name of the driver's own, and gives it the name that it is to have where nothing has that.
    async fn write_and_name(&self, hidden: &Path, file: &Path, body: Bytes) -> Outcome<()> {
        if body.is_empty() {
            in_place::make_file(&self.tree, hidden, RECORD).await?;
        } else {
            let writing = in_place::begin(&self.tree, hidden, RECORD).await?;
            writing.append(0, body).await?;
            writing.close().await?;
        }
        let (from, to) = (&self.tree.at(hidden)?, &self.tree.at(file)?);
        let named = self.tree.library.act("write", |client| async move { client.rename(from, to, false).await }).await;
        match named {
            // Somebody took the directory away, or what was to get the name.
            Err(failure) if failure.kind == ErrorKind::NotFound => {
                let dir = file.split_last().map_or_else(Path::root, |(dir, _)| dir);
                self.tree.status(&dir).await?;
                Err(Failure::new(ErrorKind::Unavailable, "it is not known whether the file got its name"))
            }
            named => named,
        }
    }

    /// Removes a file, a symbolic link or an empty directory. Whether one was there.
    fn delete(&self, path: &Path) -> impl Future<Output = Outcome<bool>> + Send + use<> {
        let (tree, path) = (self.tree.clone(), path.clone());
        async move {
            let at = &tree.at(&path)?;
            tree.library.act("remove", |client| async move { client.delete(at, false).await }).await
        }
    }

    /// Gives a directory its owner and mode.
    async fn give(&self, at: &Path, found: &Status, how: &Directory) -> Result<()> {
        let fail = self.told(at);
        // A group that the table does not know stays that of the directory above.
        let gid = self.tree.owners.group(how.gid).is_ok().then_some(how.gid);
        let set = SetAttributes { mode: Some(how.mode), uid: Some(how.uid), gid, ..SetAttributes::default() };
        match changes::apply(&self.tree, &version::by_id(found.file_id), &set).await {
            Ok(()) => Ok(()),
            Err(failure) if matches!(failure.kind, ErrorKind::NotPermitted | ErrorKind::Denied) => {
                let owners = &self.tree.owners;
                let why = format!(
                    "the controller is {:?} and cannot give a directory to user {} and group {}: only a superuser of HDFS \
                     can. Make the controller one, or give the StorageClass the controller's own uid (controllerUser: \
                     {{name, uid}}) and a group of its",
                    self.user,
                    owners.user(how.uid).unwrap_or("nobody"),
                    owners.group(how.gid).unwrap_or("of the directory above"),
                );
                Err(Error::new(ErrorKind::Misconfigured, Op::Record, at, why))
            }
            Err(failure) if failure.kind == ErrorKind::InvalidName => {
                Err(Error::new(ErrorKind::Misconfigured, Op::Record, at, failure.message))
            }
            Err(failure) => Err(fail(failure)),
        }
    }
}

#[async_trait]
impl Directories for Root {
    async fn prepare(&self) -> Result<()> {
        let prepare = async || {
            let at = root::own();
            let fail = self.told(&at);
            let found = match self.tree.status_any(&at).await.map_err(&fail)? {
                Some(found) => found,
                None => {
                    self.make(&at, OWN).await.map_err(|failure| match failure.kind {
                        ErrorKind::NotFound => {
                            let why = "the store's root (prefix) is not there: make it, and let it belong to the controller's user";
                            Error::new(ErrorKind::Misconfigured, Op::Record, &Path::root(), why)
                        }
                        _ => fail(failure),
                    })?;
                    self.tree.status(&at).await.map_err(&fail)?
                }
            };
            root::check_own(&Shown {
                is_directory: is_directory(&found),
                owner: &format!("{:?}", found.owner),
                controller: &format!("{:?}", self.name().await?),
                mode: mode(&found),
            })
        };
        self.prepared.get_or_try_init(prepare).await.copied()
    }

    fn entries(&self, dir: &Path) -> BoxStream<'static, Result<Item>> {
        root::items(list::list_all(self.tree.clone(), dir))
    }

    async fn read(&self, file: &Path) -> Result<Bytes> {
        root::read(&Hdfs { tree: self.tree.clone() }, file).await
    }

    async fn place(&self, file: &Path, body: Bytes) -> Result<()> {
        let dir = file.split_last().map_or_else(Path::root, |(dir, _)| dir);
        let hidden = dir.join(&Name::hidden());
        let outcome = self.write_and_name(&hidden, file, body).await;
        match &outcome {
            Ok(()) => {}
            // It would wait as long again.
            Err(failure) if failure.kind == ErrorKind::Unavailable => drop(tokio::spawn(self.delete(&hidden))),
            // Whoever removes the directory next must not find what is left of this.
            Err(_) => drop(self.delete(&hidden).await),
        }
        outcome.map_err(self.told(file))
    }

    async fn make_dir(&self, dir: &Path) -> Result<()> {
        self.make(dir, root::mode_of(dir)).await.map_err(self.told(dir))
    }

    async fn remove(&self, at: &Path, _kind: Kind) -> Result<()> {
        // Not looked at first: of a symbolic link HDFS tells nothing.
        match self.delete(at).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.told(at)(Failure::absent())),
            Err(failure) => Err(self.told(at)(failure)),
        }
    }

    async fn make_volume(&self, at: &Path, how: &Directory) -> Result<String> {
        let fail = self.told(at);
        let there = self.tree.status_any(at).await.map_err(&fail)?;
        let is_new = there.is_none();
        let found = match there {
            Some(found) => found,
            None => {
                self.make(at, OWN).await.map_err(&fail)?;
                self.tree.status(at).await.map_err(&fail)?
            }
        };
        if !is_directory(&found) {
            return Err(fail(Failure::new(ErrorKind::NotADirectory, "what lies there is no directory")));
        }
        if let Err(error) = self.give(at, &found, how).await {
            if is_new {
                // Best effort: empty, it stands in nobody's way.
                let _ = self.remove(at, Kind::Directory).await;
            }
            return Err(error);
        }
        Ok(identity(&found))
    }

    async fn identity(&self, at: &Path) -> Result<Option<String>> {
        let found = self.tree.status_any(at).await.map_err(self.told(at))?;
        Ok(found.filter(is_directory).map(|found| identity(&found)))
    }

    async fn set_quota(&self, at: &Path, bytes: u64) -> Result<bool> {
        quota::set(&self.tree, at, bytes).await.map_err(self.told(at))
    }

    async fn exposure(&self) -> Result<Option<String>> {
        let at = Path::root();
        let fail = self.told(&at);
        let found = self.tree.status(&at).await.map_err(&fail)?;
        // Whoever has all of the file system is its superuser.
        let is_strange =
            found.owner != self.name().await? && found.owner != self.tree.web.status("/").await.map_err(&fail)?.owner;
        let owner = format!("{:?}", found.owner);
        Ok(root::exposure(is_strange.then_some(&*owner), mode(&found)))
    }

    async fn halted(&self) -> Result<Option<String>> {
        let at = root::own();
        let own = &self.tree.at(&at).map_err(self.told(&at))?;
        // Where it is there nothing changes, and the name node looks first whether anything may.
        let made =
            self.tree.library.once("other", TIMEOUT, |client| async move { client.mkdirs(own, OWN, false).await });
        match made.await {
            Ok(()) => Ok(None),
            Err(failure) if failure.message == SAFE_MODE => Ok(Some(failure.message)),
            Err(failure) => Err(self.told(&at)(failure)),
        }
    }
}

fn is_directory(status: &Status) -> bool {
    status.kind == "DIRECTORY"
}

/// Permission bits; with an ACL, those of the group are the most that it gives anybody.
fn mode(status: &Status) -> u32 {
    u32::from_str_radix(&status.permission, 8).unwrap_or(0o7777) & 0o7777
}

/// A directory's file id.
fn identity(found: &Status) -> String {
    found.file_id.to_string()
}
