//! A store's root as the controller's own user has it: the directories in which records and volumes lie.
//!
//! The controller may be root on the server, or, where the export squashes root, a user of its own to whom the root
//! belongs. It follows no symbolic link: each name of a path is looked up by itself, and must be a directory.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use futures::stream::BoxStream;
use nfs3_types::nfs3::{Nfs3Option, fattr3, sattr3};
use tokio::sync::OnceCell;

use super::calls::{Outcome, option};
use super::error::Failure;
use super::tree::{Found, Tree, look};
use super::{Config, Nfs, changes, list, tree_of, upload};
use crate::auth;
use crate::backend::records::Directory;
use crate::backend::records::numbered::root::{self, OWN, Shown};
use crate::backend::records::numbered::{Directories, Item};
use crate::backend::{Attributes, Base, CreateOptions, Error, ErrorKind, Kind, Op, Path, Result, Upload};

/// See the module.
#[derive(Debug)]
pub(in crate::backend) struct Root {
    tree: Arc<Tree>,
    /// The controller's user.
    uid: u32,
    prepared: OnceCell<()>,
}

impl Root {
    /// See [`crate::backend::records`].
    pub(in crate::backend) fn connect(config: &Config, credential: &auth::Credential) -> Result<Root> {
        let tree = tree_of(config, credential, &Path::root(), root::limits())?;
        let uid = if let auth::Credential::Sys { uid, .. } = credential { *uid } else { 0 };
        Ok(Root { tree: Arc::new(tree), uid, prepared: OnceCell::new() })
    }

    fn told(&self, at: &Path) -> impl Fn(Failure) -> Error + use<> {
        let (at, is_root) = (at.clone(), self.uid == 0);
        move |failure: Failure| match failure.kind {
            ErrorKind::Denied | ErrorKind::NotPermitted if is_root => squashed(&at),
            _ => failure.at(Op::Record, &at),
        }
    }

    /// Makes a directory where nothing lies.
    async fn make(&self, dir: &Path, mode: u32) -> Outcome<Found> {
        let (above, name) = changes::new_name(dir)?;
        let name = &name;
        self.tree
            .in_directory(&above, |mounted, above| async move {
                let made = mounted.server.mkdir(&above, name.as_bytes(), mode).await;
                match made.outcome {
                    // The first sending may have made it.
                    Err(failure) if failure.kind != ErrorKind::AlreadyExists || !made.resent => Err(failure),
                    _ => look(&mounted, &above, name).await,
                }
            })
            .await
    }

    /// Checks the control plane's own directory, which users must not be able to write.
    fn check_own(&self, at: &Path, found: &Found) -> Result<()> {
        let fattr3 { uid, mode, .. } = found.attributes;
        if found.is_directory() && uid != self.uid && self.uid == 0 {
            return Err(squashed(at));
        }
        root::check_own(&Shown {
            is_directory: found.is_directory(),
            owner: &format!("uid {uid}"),
            controller: &format!("uid {}", self.uid),
            mode: mode & 0o7777,
        })
    }
}

/// The controller acts as root, and is not taken for it.
fn squashed(at: &Path) -> Error {
    let why = "the server does not let uid 0 do that: the export squashes root (root_squash). Give the controller a user \
               of its own (controllerUser), to whom the store's root belongs, or export with no_root_squash";
    Error::new(ErrorKind::Misconfigured, Op::Record, at, why)
}

#[async_trait]
impl Directories for Root {
    async fn prepare(&self) -> Result<()> {
        let prepare = async || {
            let at = root::own();
            let fail = self.told(&at);
            let found = match self.tree.lookup_any(&at).await.map_err(&fail)? {
                Some(found) => found,
                None => match self.make(&at, OWN).await {
                    // Another controller was faster.
                    Err(failure) if failure.kind == ErrorKind::AlreadyExists => {
                        self.tree.lookup(&at).await.map_err(&fail)?
                    }
                    made => made.map_err(&fail)?,
                },
            };
            self.check_own(&at, &found)
        };
        self.prepared.get_or_try_init(prepare).await.copied()
    }

    fn entries(&self, dir: &Path) -> BoxStream<'static, Result<Item>> {
        root::items(list::list_all(self.tree.clone(), dir))
    }

    async fn read(&self, file: &Path) -> Result<Bytes> {
        root::read(&Nfs { tree: self.tree.clone() }, file).await
    }

    async fn place(&self, file: &Path, body: Bytes) -> Result<()> {
        let told = |error: Error| (self.told(file))(Failure::new(error.kind, error.message));
        let mut writing = upload::create(&self.tree, file, CreateOptions { base: Base::Absent }).await.map_err(told)?;
        writing.write(body).await?;
        let Err(error) = writing.publish(&Attributes::default()).await else { return Ok(()) };
        // Whoever removes the directory next must not find what is left of this.
        Box::new(writing).abort().await;
        let kind = if error.kind == ErrorKind::Stale { ErrorKind::AlreadyExists } else { error.kind };
        Err(Error { kind, ..error })
    }

    async fn make_dir(&self, dir: &Path) -> Result<()> {
        self.make(dir, root::mode_of(dir)).await.map(drop).map_err(self.told(dir))
    }

    async fn remove(&self, at: &Path, kind: Kind) -> Result<()> {
        changes::remove(&self.tree, at, kind).await.map_err(self.told(at))
    }

    async fn make_volume(&self, at: &Path, how: &Directory) -> Result<String> {
        let fail = self.told(at);
        let (found, is_new) = match self.make(at, OWN).await {
            Ok(made) => (made, true),
            Err(failure) if failure.kind == ErrorKind::AlreadyExists => {
                (self.tree.lookup(at).await.map_err(&fail)?, false)
            }
            Err(failure) => return Err(fail(failure)),
        };
        if !found.is_directory() {
            return Err(fail(Failure::new(ErrorKind::NotADirectory, "what lies there is no directory")));
        }
        let set = sattr3 {
            mode: Nfs3Option::Some(how.mode),
            uid: Nfs3Option::Some(how.uid),
            gid: Nfs3Option::Some(how.gid),
            ..sattr3::default()
        };
        let mounted = self.tree.mounted().await.map_err(&fail)?;
        let given = match mounted.server.setattr(&found.handle, set).await {
            Ok(given) => match option(given.obj_wcc.after) {
                Some(attributes) => Ok(attributes),
                None => mounted.server.getattr(&found.handle).await,
            },
            Err(failure) => Err(failure),
        };
        let given = match given {
            Ok(given) if (given.uid, given.gid) == (how.uid, how.gid) => return Ok(identity(&found)),
            Ok(_) => Err(not_given(self.uid, at, how)),
            Err(failure) if matches!(failure.kind, ErrorKind::NotPermitted | ErrorKind::Denied) => {
                Err(not_given(self.uid, at, how))
            }
            Err(failure) => Err(fail(failure)),
        };
        if is_new {
            // Best effort: empty, it stands in nobody's way.
            let _ = self.remove(at, Kind::Directory).await;
        }
        given
    }

    async fn identity(&self, at: &Path) -> Result<Option<String>> {
        let found = self.tree.lookup_any(at).await.map_err(self.told(at))?;
        Ok(found.filter(Found::is_directory).map(|found| identity(&found)))
    }

    async fn exposure(&self) -> Result<Option<String>> {
        let at = Path::root();
        let Found { attributes, .. } = self.tree.lookup(&at).await.map_err(self.told(&at))?;
        let fattr3 { uid, mode, .. } = attributes;
        let owner = format!("uid {uid}");
        let is_strange = uid != self.uid && uid != 0;
        Ok(root::exposure(is_strange.then_some(&*owner), mode & 0o7777))
    }
}

/// The controller may not give the directory away.
fn not_given(controller: u32, at: &Path, how: &Directory) -> Error {
    let Directory { uid, gid, .. } = how;
    let why = match controller {
        0 => return squashed(at),
        _ => format!(
            "the controller is uid {controller} and cannot give a directory to uid {uid} and gid {gid}: only root can, where \
             the export does not squash it (root_squash). Give the StorageClass the controller's own uid and a group of \
             its, or export with no_root_squash and make the controller root"
        ),
    };
    Error::new(ErrorKind::Misconfigured, Op::Record, at, why)
}

/// A directory's whole handle: a server uses a fileid again at once.
fn identity(found: &Found) -> String {
    BASE64URL_NOPAD.encode(&found.handle.data)
}
