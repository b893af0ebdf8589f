//! The HDFS backend against Hadoop's own daemons.

mod between;
mod given;
mod journals;
mod others;
mod quotas;
mod records;
mod snapshots;
mod striped;
mod taking;
mod trouble;
mod web;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;

use super::{Config, Owners};
use crate::auth::Credential;
use crate::backend::contract::Stand;
use crate::backend::contract::steps::*;
use crate::backend::faulty::Faulty;
use crate::backend::{
    self, Backend, ErrorKind, InPlace, Intent, Kind, Limits, Path, Result, Rights, SetAttributes, contract,
};
use crate::sandbox::hadoop::Hadoop;

fn limits() -> Limits {
    Limits::alone(64 << 20, Duration::from_secs(30))
}

fn config(cluster: &Hadoop) -> Config {
    let users = [("alice", 1000), ("bob", 1001), ("carol", 1002)];
    let groups = [("users", 2000), ("staff", 2001)];
    let named = |names: &[(&str, u32)]| names.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect();
    let owners = Owners { users: named(&users), groups: named(&groups) };
    Config { owners, ..Config::at(cluster.namenode(), cluster.webhdfs()) }
}

fn connect(config: &Config, user: &str, dir: &str, limits: Limits) -> Arc<dyn Backend> {
    let (config, user) = (backend::Config::Hdfs(config.clone()), Credential::Hadoop { user: user.into() });
    backend::connect(&config, &user, &Path::parse(dir).unwrap(), limits).unwrap()
}

/// An empty directory of alice's in the cluster that the tests share.
async fn stand() -> Option<(Arc<dyn Backend>, &'static Hadoop)> {
    let cluster = Hadoop::shared().await.unwrap()?;
    let dir = cluster.fresh("alice").await.unwrap();
    Some((connect(&config(cluster), "alice", &dir, limits()), cluster))
}

mod bare {
    use super::*;

    contract::suite!(|| async {
        let (store, _) = stand().await?;
        let stand: Stand = (store, Box::new(()));
        Some(stand)
    });
}

mod behind_the_fault_wrapper {
    use super::*;

    contract::suite!(|| async {
        let (store, _) = stand().await?;
        let stand: Stand = (Arc::new(Faulty::new(store)), Box::new(()));
        Some(stand)
    });
}

/// A new file, open to be written.
async fn begin(store: &dyn Backend, at: &str) -> Arc<dyn InPlace> {
    let made = store.make_file(&path(at), 0o644).await.unwrap();
    store.open_write(made.version().unwrap()).await.unwrap()
}
