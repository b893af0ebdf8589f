//! What every implementation of [`Records`] must do, checked on an empty store.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;

use super::{Extent, Measured, Records, Removed, Tag, fetch};
use crate::backend::{Attributes, Backend, Base, CreateOptions, Error, ErrorKind, Fetched, Kind, Name, Path, Version};

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

fn body(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// The files of users beside the records, which are files themselves only in a store without directories.
#[async_trait]
pub(crate) trait Files: Send + Sync {
    /// Makes a file, and the directories above it.
    async fn put(&self, at: &Path, body: Bytes);
    /// Removes one.
    async fn remove(&self, at: &Path);
    /// Whether there is one.
    async fn is_there(&self, at: &Path) -> bool;
}

/// A store whose records are files like any other.
pub(crate) struct Same<'a>(pub(crate) &'a dyn Records);

#[async_trait]
impl Files for Same<'_> {
    async fn put(&self, at: &Path, body: Bytes) {
        self.0.create(at, body).await.unwrap();
    }

    async fn remove(&self, at: &Path) {
        self.0.remove(at).await.unwrap();
    }

    async fn is_there(&self, at: &Path) -> bool {
        self.0.get(at).await.is_ok()
    }
}

/// Users' files through a client of their own, where directories are real.
pub(crate) struct Users(pub(crate) Arc<dyn Backend>);

#[async_trait]
impl Files for Users {
    async fn put(&self, at: &Path, body: Bytes) {
        let mut above = Vec::new();
        let mut dir = at.split_last();
        while let Some((one, _)) = dir.filter(|(one, _)| !one.is_root()) {
            dir = one.split_last();
            above.push(one);
        }
        for one in above.iter().rev() {
            match self.0.make_dir(one).await {
                Err(error) if error.kind != ErrorKind::AlreadyExists => panic!("{error}"),
                _ => {}
            }
        }
        let mut upload = self.0.create(at, CreateOptions { base: Base::Any }).await.unwrap();
        upload.write(body).await.unwrap();
        upload.publish(&Attributes::default()).await.unwrap();
    }

    async fn remove(&self, at: &Path) {
        self.0.remove(at, Kind::File).await.unwrap();
    }

    async fn is_there(&self, at: &Path) -> bool {
        self.0.stat(at).await.is_ok()
    }
}

/// Runs the whole suite on a store in which nothing lies.
pub(crate) async fn records(store: &dyn Records, users: &dyn Files) {
    creates_once(store).await;
    replaces_only_what_was_seen(store).await;
    removes_whatever_is_there(store).await;
    lists_below_and_no_more(store).await;
    measures_what_lies_below(store, users).await;
    tells_what_is_vacant(store, users).await;
    removes_a_tree_and_not_its_neighbours(store, users).await;
    proves_exclusion_and_leaves_nothing(store).await;
    one_of_many_creators_wins(store).await;
    leaves_nothing(store).await;
}

async fn creates_once(store: &dyn Records) {
    let at = path(".millrace/contract/create");
    assert_eq!(store.get(&at).await.unwrap_err().kind, ErrorKind::NotFound);
    let tag = store.create(&at, body("one")).await.unwrap();
    assert_eq!(store.get(&at).await.unwrap(), (body("one"), tag));
    assert_eq!(store.create(&at, body("two")).await.unwrap_err().kind, ErrorKind::AlreadyExists);
    assert_eq!(store.get(&at).await.unwrap().0, body("one"));
    store.remove(&at).await.unwrap();
}

async fn replaces_only_what_was_seen(store: &dyn Records) {
    let at = path(".millrace/contract/replace");
    let nowhere = store.replace(&at, &Tag("0123456789abcdef0123456789abcdef".into()), body("x")).await.unwrap_err();
    assert_eq!(nowhere.kind, ErrorKind::Stale);
    let first = store.create(&at, body("one")).await.unwrap();
    let second = store.replace(&at, &first, body("two")).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(store.replace(&at, &first, body("three")).await.unwrap_err().kind, ErrorKind::Stale);
    assert_eq!(store.get(&at).await.unwrap(), (body("two"), second));
    store.remove(&at).await.unwrap();
}

async fn removes_whatever_is_there(store: &dyn Records) {
    let at = path(".millrace/contract/remove");
    store.create(&at, body("one")).await.unwrap();
    store.remove(&at).await.unwrap();
    assert_eq!(store.get(&at).await.unwrap_err().kind, ErrorKind::NotFound);
    store.remove(&at).await.unwrap();
    store.create(&at, body("two")).await.unwrap();
    store.remove(&at).await.unwrap();
}

async fn lists_below_and_no_more(store: &dyn Records) {
    let below = ["a/@", "a/b/@", "a/b/c/@"].map(|name| path(&format!(".millrace/contract/list/{name}")));
    let beside = path(".millrace/contract/list2/@");
    for at in below.iter().chain([&beside]) {
        store.create(at, body("x")).await.unwrap();
    }
    let listed = |dir: &str| store.list(&path(dir), None).try_collect::<Vec<_>>();
    let mut found = listed(".millrace/contract/list").await.unwrap();
    found.sort();
    assert_eq!(found, below);
    assert_eq!(listed(".millrace/contract/list/a/b/c").await.unwrap(), below[2..]);
    assert_eq!(listed(".millrace/contract/nothing").await.unwrap(), []);
    let dir = path(".millrace/contract/list");
    let all: Vec<_> = store.list(&dir, None).try_collect().await.unwrap();
    for (after, left) in all.iter().zip((0..all.len()).rev()) {
        let rest: Vec<_> = store.list(&dir, Some(after)).try_collect().await.unwrap();
        assert_eq!(rest, all[all.len() - left..]);
    }
    // Between two that are there.
    let rest: Vec<_> = store.list(&dir, Some(&path(".millrace/contract/list/a/a"))).try_collect().await.unwrap();
    assert_eq!(rest, ["a/b/@", "a/b/c/@"].map(|name| path(&format!(".millrace/contract/list/{name}"))));
    for at in below.iter().chain([&beside]) {
        store.remove(at).await.unwrap();
    }
}

async fn measures_what_lies_below(store: &dyn Records, users: &dyn Files) {
    let files = ["measured/a", "measured/b/c", "measured/b/.millrace/own"].map(path);
    let beside = ["measured/.millrace/volume.json", "measured2", "measure"].map(path);
    for at in files.iter().chain(&beside) {
        users.put(at, body("12345")).await;
    }
    let (mut bytes, mut from) = (0, None);
    loop {
        let page = store.measure(&path("measured"), from).await.unwrap();
        bytes += page.bytes;
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(bytes, 15);
    assert_eq!(store.measure(&path("nothing"), None).await.unwrap(), Measured { bytes: 0, next: None });
    for at in files.iter().chain(&beside) {
        users.remove(at).await;
    }
}

async fn tells_what_is_vacant(store: &dyn Records, users: &dyn Files) {
    assert!(store.is_vacant(&path("vacant/a")).await.unwrap());
    users.put(&path("vacant/ab"), body("x")).await;
    users.put(&path("vacant/b/c"), body("x")).await;
    assert!(store.is_vacant(&path("vacant/a")).await.unwrap(), "'ab' is not below 'a'");
    assert!(!store.is_vacant(&path("vacant/ab")).await.unwrap(), "a file of that name");
    assert!(!store.is_vacant(&path("vacant/b")).await.unwrap(), "something below");
    assert!(!store.is_vacant(&path("vacant")).await.unwrap());
    users.remove(&path("vacant/ab")).await;
    users.remove(&path("vacant/b/c")).await;
}

async fn removes_a_tree_and_not_its_neighbours(store: &dyn Records, users: &dyn Files) {
    let inside = ["tree/b/x", "tree/b/y/z", "tree/b/.millrace/volume.json", "tree/b/b/b"].map(path);
    let outside = ["tree/bc/x", "tree/a", "tree/b-", "b/x"].map(path);
    for at in inside.iter().chain(&outside) {
        users.put(at, body("x")).await;
    }
    let mut count = 0;
    loop {
        let removed = store.remove_page(&path("tree/b"), Extent::Current).await.unwrap();
        count += removed.count;
        if removed.done {
            break;
        }
    }
    // A store with real directories counts those too.
    assert!(count >= inside.len() as u64, "{count}");
    assert!(store.is_vacant(&path("tree/b")).await.unwrap());
    for at in &outside {
        assert!(users.is_there(at).await, "{at} is gone");
        users.remove(at).await;
    }
    let again = store.remove_page(&path("tree/b"), Extent::Current).await.unwrap();
    assert!(again.done && again.count == 0, "{again:?}");
    for dir in ["", ".millrace", ".millrace/volumes", "a/.millrace"] {
        let refused = store.remove_page(&path(dir), Extent::All).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InvalidName, "{dir:?}");
    }
}

async fn proves_exclusion_and_leaves_nothing(store: &dyn Records) {
    assert!(store.excludes().await.unwrap());
    let left: Vec<_> = store.list(&path(".millrace/proof"), None).try_collect().await.unwrap();
    assert_eq!(left, []);
}

async fn one_of_many_creators_wins(store: &dyn Records) {
    let at = path(".millrace/contract/race");
    let attempts = (0..8).map(|_| store.create(&at, body("mine")));
    let results = join_all(attempts).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    let tag = store.get(&at).await.unwrap().1;
    let attempts = (0..8).map(|n| store.replace(&at, &tag, Bytes::from(format!("{n}"))));
    let results = join_all(attempts).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    store.remove(&at).await.unwrap();
}

async fn leaves_nothing(store: &dyn Records) {
    let left: Vec<_> = store.list(&Path::root(), None).try_collect().await.unwrap();
    assert_eq!(left, []);
}

/// Several clients of one store: one wins each change, and all see whose.
pub(crate) async fn two_clients_never_both_win(clients: &[Arc<dyn Records>]) {
    let at = path(".millrace/volumes/one");
    let made = join_all(clients.iter().map(|client| client.create(&at, "0".into()))).await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1, "{made:?}");
    for round in 1..6 {
        let tag = clients[0].get(&at).await.unwrap().1;
        let bodies: Vec<_> = (0..clients.len()).map(|number| Bytes::from(format!("{round}-{number}"))).collect();
        let swaps = clients.iter().zip(&bodies).map(|(client, body)| client.replace(&at, &tag, body.clone()));
        let swaps = join_all(swaps).await;
        let won: Vec<_> = swaps.iter().zip(&bodies).filter(|(swap, _)| swap.is_ok()).map(|(_, body)| body).collect();
        assert_eq!(won, [&clients[1].get(&at).await.unwrap().0], "{swaps:?}");
    }
}

/// What stands in the directory `volume` is read by its `mount`, and what stands in the store's own by no user who has
/// the `whole` store.
pub(crate) async fn mounts_read_their_own(records: &dyn Records, mount: &dyn Backend, whole: &dyn Backend) {
    let at = path("volume/.millrace/volume.json");
    let tag = records.create(&at, "one".into()).await.unwrap();
    let own = path(".millrace/volume.json");
    let read = async |known: Option<&Version>| match fetch(mount, &own, 1 << 16, known).await {
        Ok(Fetched::New { meta, bytes }) => Ok((meta.version().cloned().unwrap(), bytes)),
        Ok(Fetched::Same) => Err(None),
        Err(Error { kind, .. }) => Err(Some(kind)),
    };
    let (version, bytes) = read(None).await.unwrap();
    assert_eq!((&bytes[..], read(Some(&version)).await), (&b"one"[..], Err(None)));
    records.replace(&at, &tag, "two".into()).await.unwrap();
    assert_eq!(read(Some(&version)).await.unwrap().1, "two");
    records.remove(&at).await.unwrap();
    assert_eq!(read(Some(&version)).await, Err(Some(ErrorKind::NotFound)));
    records.create(&path(".millrace/volumes/one"), "secret".into()).await.unwrap();
    let outcome = fetch(whole, &path(".millrace/volumes/one"), 1 << 16, None).await;
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::Denied);
}

/// Where directories and symbolic links are real: a removal of the directory `volume`, in which so many `others` lie,
/// takes what no mount shows and follows no link. `link` makes one to the directory `victim`.
pub(crate) async fn removals_follow_no_link(
    records: &dyn Records,
    users: &Users,
    link: impl AsyncFn(&str),
    others: u64,
) -> Vec<Removed> {
    let (volume, victim) = (path("volume"), path("victim/file"));
    users.put(&victim, body("x")).await;
    for at in [path("volume/d/e/f"), path("volume/g"), volume.join(&Name::hidden())] {
        users.put(&at, body("x")).await;
    }
    for at in ["volume/link", "volume/d/link"] {
        link(at).await;
    }
    let mut pages = Vec::new();
    while pages.last().is_none_or(|page: &Removed| !page.done) {
        pages.push(records.remove_page(&volume, Extent::Current).await.unwrap());
    }
    // Three files, three directories, and two links.
    assert_eq!(pages.iter().map(|page| page.count).sum::<u64>(), 3 + 3 + 2 + others);
    assert_eq!(users.0.stat(&volume).await.unwrap_err().kind, ErrorKind::NotFound);
    assert!(users.is_there(&victim).await);
    // Nor does a record's path.
    link("linked").await;
    assert!(records.create(&path("linked/.millrace/volume.json"), body("x")).await.is_err());
    assert_eq!(records.remove_page(&path("linked"), Extent::Current).await.unwrap().count, 0);
    assert!(!records.is_vacant(&path("linked")).await.unwrap());
    assert!(users.is_there(&victim).await);
    pages
}
