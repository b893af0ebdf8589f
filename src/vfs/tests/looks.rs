//! What looking up and listing cost in data that never changes. Time is the test's own.

use super::*;
use crate::backend::Op;
use crate::backend::faulty::Faulty;

const MODULES: usize = 16;

/// Packages of 16 modules each, with nothing asked of them yet.
fn packages(config: Config, count: usize) -> (Faulty, Vfs) {
    let memory = Memory::new();
    for (package, module) in (0..count).flat_map(|package| (0..MODULES).map(move |module| (package, module))) {
        memory.put(&path(&format!("p{package}/m{module:02}")), vec![module as u8; 5000]);
    }
    let store = Faulty::new(Arc::new(memory)).with_prefixes();
    let vfs = over(Arc::new(store.clone()), config);
    (store, vfs)
}

async fn read(vfs: &Vfs, dir: Ino, module: usize) {
    let ino = vfs.lookup(dir, format!("m{module:02}").as_bytes()).await.unwrap().ino;
    let opened = vfs.open(ino, READ).await.unwrap();
    assert!(vfs.read(opened.handle, 0, 5000).await.unwrap()[..] == [module as u8; 5000]);
    vfs.release(opened.handle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_whole_listing_lacks_is_not_there() {
    for (config, asked) in [(immutable(), 0), (Config::default(), 1)] {
        let (store, vfs) = packages(config, 2);
        let dir = vfs.lookup(Ino::ROOT, b"p0").await.unwrap().ino;
        let entries = vfs.open_dir(dir).unwrap();
        vfs.read_dir(entries, 0, 4).await.unwrap();
        let before = store.calls(Op::Stat) + store.calls(Op::List);
        assert_eq!(vfs.lookup(dir, b"m99").await.unwrap_err(), Error::NotFound);
        assert!(store.calls(Op::Stat) + store.calls(Op::List) > before, "the directory is not listed whole yet");
        names(&vfs, dir).await.unwrap();
        let before = store.calls(Op::Stat);
        for name in ["m98.so", "m98.py", "a"] {
            assert_eq!(vfs.lookup(dir, name.as_bytes()).await.unwrap_err(), Error::NotFound);
        }
        assert!(vfs.lookup(dir, b"m03").await.is_ok());
        assert_eq!(store.calls(Op::Stat) - before, 3 * asked);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tree_is_listed_once_by_who_looks_up_and_then_lists() {
    let (store, vfs) = packages(immutable(), 3);
    names(&vfs, Ino::ROOT).await.unwrap();
    let dir = vfs.lookup(Ino::ROOT, b"p1").await.unwrap().ino;
    let (stats, lists) = (store.calls(Op::Stat), store.calls(Op::List));
    assert_eq!(vfs.lookup(dir, b"m00.so").await.unwrap_err(), Error::NotFound);
    assert!(vfs.lookup(dir, b"m00").await.is_ok());
    assert_eq!(names(&vfs, dir).await.unwrap().len(), MODULES + 2);
    assert_eq!((store.calls(Op::Stat) - stats, store.calls(Op::List) - lists), (0, 1));
    // Later a listing is one of the store again.
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(names(&vfs, dir).await.unwrap().len(), MODULES + 2);
    assert_eq!(store.calls(Op::List) - lists, 2);
}

#[tokio::test(start_paused = true)]
async fn packages_are_fetched_at_their_first_module_once_some_were_read_whole() {
    let (store, vfs) = packages(immutable(), 6);
    names(&vfs, Ino::ROOT).await.unwrap();
    let mut fetched = Vec::new();
    for package in 0..6 {
        let dir = vfs.lookup(Ino::ROOT, format!("p{package}").as_bytes()).await.unwrap().ino;
        let before = store.calls(Op::Read);
        // Backwards, so that they are no run.
        read(&vfs, dir, MODULES - 1).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        fetched.push(store.calls(Op::Read) - before);
        for module in (0..MODULES - 1).rev() {
            read(&vfs, dir, module).await;
        }
        assert_eq!(store.calls(Op::Read) - before, MODULES as u64);
    }
    assert_eq!(fetched, [1, 1, 16, 16, 16, 16]);
    assert_eq!(store.calls(Op::List), 7);
}
