//! The contract on a real NFS server, nfs-ganesha, behind the cache.

use super::*;
use crate::backend::nfs::tests::stand;

contract::suite!(|| async {
    let (store, server) = stand().await?;
    let (kept, config) = (tempfile::tempdir().unwrap(), Config { capacity: 1 << 30, free_percent: 0 });
    let patience = Patience { call: Duration::from_secs(60), ..Patience::default() };
    let dir: OwnedFd = File::open(kept.path()).unwrap().into();
    let cached = Cached::with(store, dir, Medium::default(), config, patience, &Budget::new(256 << 20));
    cached.settle().await;
    let stand: contract::Stand = (Arc::new(cached), Box::new((server, kept)));
    Some(stand)
});
