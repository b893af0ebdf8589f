//! What a client that died left under hidden names, removed by the next one of the same volume and identity.

use std::fs::File;

use tokio::time::timeout;

use super::*;
use crate::backend::journal::Note;
use crate::backend::{Name, RenameOptions};

/// Longer than the next one needs.
const SOON: Duration = Duration::from_secs(20);

fn keeping(journal: &File) -> Limits {
    let limits = limits();
    limits.journal.keep_in(journal.try_clone().unwrap(), Vec::new()).unwrap();
    limits
}

/// A client that does `work` and dies: what that gave is never closed.
fn dies<F: Future>(config: &Config, limits: Limits, work: impl FnOnce(Arc<dyn Backend>) -> F + Send + 'static) {
    let config = config.clone();
    let life = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let open = runtime.block_on(async { work(connect(&config, UID, limits)).await });
        std::mem::forget(open);
        runtime.shutdown_background();
    });
    life.join().unwrap();
}

fn next(config: &Config, uid: u32, limits: Limits) -> impl Future<Output = ()> + Send + 'static {
    backend::replay(&backend::Config::Nfs(config.clone()), &user(uid), &path("volume"), limits).unwrap()
}

fn on_disk(server: &Ganesha) -> Vec<String> {
    let entries = std::fs::read_dir(server.root().join("volume")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_that_died_hid_or_had_begun_is_removed_by_the_next() {
    let Some(server) = ganesha().await else { return };
    let (config, file) = (config(&server), tempfile::tempfile().unwrap());
    let hide = async |store: &dyn Backend, at: &str| {
        let hidden = Path::root().join(&Name::hidden());
        let how = RenameOptions { kind: Kind::File, version: None, replace: true };
        store.rename(&path(at), &hidden, how).await.unwrap();
        hidden
    };
    dies(&config, keeping(&file), move |store| async move {
        for name in ["open", "closed", "kept", "replaced"] {
            put(&*store, name, "content").await;
        }
        hide(&*store, "open").await;
        // Until its last close, which comes.
        let closed = hide(&*store, "closed").await;
        store.remove(&closed, Kind::File).await.unwrap();
        let mut begun = begin(&*store, "begun", Base::Absent).await;
        begun.write(noise(3 * MIB).into()).await.unwrap();
        let mut again = begin(&*store, "replaced", Base::Any).await;
        again.write("another".into()).await.unwrap();
        publish(&mut again).await;
        (begun, again)
    });
    let hidden = on_disk(&server).iter().filter(|name| name.starts_with(".millrace.tmp-")).count();
    assert_eq!((hidden, on_disk(&server).len()), (2, 4));

    let limits = keeping(&file);
    let left = limits.journal.left();
    assert!(left.len() == 2 && left.iter().all(|note| matches!(note, Note::Hidden { file: Some(_), .. })), "{left:?}");
    timeout(SOON, next(&config, UID, limits.clone())).await.unwrap();
    assert_eq!(on_disk(&server), ["kept", "replaced"]);
    assert!(limits.journal.left().is_empty() && keeping(&file).journal.left().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_was_noted_stays() {
    let Some((store, server)) = stand().await else { return };
    let file = tempfile::tempfile().unwrap();
    let journal = keeping(&file).journal;
    let hidden = |what: &str| path(&format!(".millrace.tmp-1-{what}"));
    for name in ["known", "reused", "empty", "full"] {
        let content = if name == "empty" { "" } else { "content" };
        let version = put(&*store, hidden(name).as_str().unwrap(), content).await;
        let known = matches!(name, "known" | "reused").then_some(version.file);
        journal.note(Note::Hidden { path: hidden(name), file: known }).await;
    }
    // Another file of that name and length.
    store.remove(&hidden("reused"), Kind::File).await.unwrap();
    put(&*store, hidden("reused").as_str().unwrap(), "content").await;
    store.make_dir(&hidden("directory")).await.unwrap();
    put(&*store, "user", "").await;
    for note in [
        Note::Hidden { path: hidden("directory"), file: None },
        Note::Hidden { path: hidden("gone"), file: None },
        // Of another backend's kind.
        Note::Made(path("user")),
        Note::Written { id: 7, since: Some(1) },
    ] {
        journal.note(note).await;
    }
    let limits = keeping(&file);
    assert_eq!(limits.journal.left().len(), 8);
    timeout(SOON, next(&config(&server), UID, limits.clone())).await.unwrap();
    let stayed = ["directory", "full", "reused"].map(|what| hidden(what).to_string());
    assert_eq!(on_disk(&server), [&stayed[..], &["user".to_owned()]].concat());
    assert!(limits.journal.left().is_empty() && keeping(&file).journal.left().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_given_up_and_a_server_that_is_away_waited_for() {
    let Some((store, mut server)) = stand().await else { return };
    let (config, file) = (config(&server), tempfile::tempfile().unwrap());
    let at = Path::root().join(&Name::hidden());
    let which = put(&*store, at.as_str().unwrap(), "content").await.file;
    let note = Note::Hidden { path: at, file: Some(which) };
    keeping(&file).journal.note(note.clone()).await;
    // The directory is not this one's.
    let limits = keeping(&file);
    timeout(SOON, next(&config, UID + 1, limits.clone())).await.unwrap();
    assert!(limits.journal.left().is_empty() && on_disk(&server).len() == 1);

    keeping(&file).journal.note(note).await;
    server.kill();
    let limits = keeping(&file);
    let mut undoing = tokio::spawn(next(&config, UID, limits.clone()));
    assert!(timeout(Duration::from_secs(1), &mut undoing).await.is_err(), "{:?}", limits.journal.left());
    server.restart().await.unwrap();
    timeout(2 * SOON, undoing).await.unwrap().unwrap();
    assert!(limits.journal.left().is_empty() && on_disk(&server).is_empty());
}
