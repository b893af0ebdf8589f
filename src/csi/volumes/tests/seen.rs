//! What lists and health tell.

use super::*;

async fn names(volumes: &Volumes, most: usize) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = volumes.page(after.as_deref(), most).await.unwrap();
        assert!(page.volumes.len() <= most && (!page.more || page.volumes.len() == most));
        names.extend(page.volumes.iter().map(|record| record.name.clone()));
        if !page.more {
            return names;
        }
        after = Some(record::key_of(names.last().unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_has_every_live_volume_of_this_cluster_once_in_one_order() {
    let store = Arc::new(MemoryRecords::default());
    let volumes = controller(&store);
    for n in 0..7 {
        let name = format!("v{n}");
        let deletion = if n == 1 { Deletion::Keep } else { Deletion::Current };
        let made = volumes.create(&Wanted { deletion, ..wanted(&name, &name) }).await.unwrap();
        if n < 2 {
            volumes.delete(&path(&name), &made.generation).await.unwrap();
        }
    }
    Volumes::new(store.clone(), "two").create(&wanted("theirs", "theirs")).await.unwrap();
    // Nobody was given this one.
    let dying = Volumes::new(Arc::new(View::dying(&store, 4, End::After)), "one");
    dying.create(&wanted("begun", "begun")).await.unwrap_err();
    assert!(states(&store).await.contains(&("begun".to_owned(), State::Creating)));
    for odd in [r#"{"format":9}"#, "garbage"] {
        let at = path(&format!(".millrace/volumes/{}", record::key_of(odd)));
        store.create(&at, odd.into()).await.unwrap();
    }
    let whole = names(&volumes, 100).await;
    let mut sorted = whole.clone();
    sorted.sort();
    assert_eq!(sorted, ["v2", "v3", "v4", "v5", "v6"]);
    for most in 1..7 {
        assert_eq!(names(&controller(&store), most).await, whole, "another controller, {most} a page");
    }
    assert!(volumes.page(None, 0).await.unwrap().more);

    // What is deleted between two pages moves no other volume, not even the one that the first page ended with.
    let first = volumes.page(None, 2).await.unwrap();
    let end = first.volumes.last().unwrap();
    volumes.delete(&path(&end.path), &end.generation).await.unwrap();
    let rest = volumes.page(Some(&record::key_of(&end.name)), 100).await.unwrap();
    assert_eq!(rest.volumes.iter().map(|record| record.name.clone()).collect::<Vec<_>>(), whole[2..]);
}

/// One volume of 10 bytes, and who looks at it.
async fn one() -> (Arc<MemoryRecords>, Volumes, Record) {
    let store = Arc::new(MemoryRecords::default());
    let volumes = controller(&store);
    let made = volumes.create(&Wanted { required: 10, ..wanted("v", "a/b") }).await.unwrap();
    (store, volumes, made)
}

async fn trouble(volumes: &Volumes, made: &Record) -> (Severity, &'static str) {
    let found = volumes.health(&path(&made.path), &made.generation).await.expect("there is such a volume");
    let [trouble] = found.as_slice() else { panic!("{found:?}") };
    (trouble.severity, trouble.reason)
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_gone_is_told_from_one_that_lost_its_file() {
    let (store, volumes, made) = one().await;
    assert_eq!(volumes.health(&path("a/b"), &made.generation).await, Some(vec![]));
    assert_eq!(volumes.health(&path("a/b"), "aaaaaaaaaa").await, None);
    store.put("a/b/data");
    let at = record::volume_file_at(&path("a/b"));
    store.remove(&at).await.unwrap();
    assert_eq!(trouble(&volumes, &made).await, (Severity::Inaccessible, "DirectoryGone"));
    store.remove(&path("a/b/data")).await.unwrap();
    assert_eq!(trouble(&volumes, &made).await, (Severity::DataLoss, "DirectoryGone"));
    store.create(&at, r#"{"format":1,"generation":"bbbbbbbbbb"}"#.into()).await.unwrap();
    assert_eq!(trouble(&volumes, &made).await, (Severity::Inaccessible, "DirectoryReplaced"));
    volumes.delete(&path("a/b"), &made.generation).await.unwrap();
    assert_eq!(volumes.health(&path("a/b"), &made.generation).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_volume_over_its_limit_is_told_and_counted_at_most_hourly() {
    let (store, volumes, made) = one().await;
    // 4 bytes each.
    for n in 0..3 {
        store.put(&format!("a/b/{n}"));
    }
    assert_eq!(trouble(&volumes, &made).await, (Severity::Degraded, "OverLimit"));
    store.remove(&path("a/b/0")).await.unwrap();
    assert_eq!(trouble(&volumes, &made).await.1, "OverLimit", "the count is believed for a while");
    tokio::time::sleep(Duration::from_secs(3601)).await;
    assert_eq!(volumes.health(&path("a/b"), &made.generation).await, Some(vec![]));

    // A store that is slow to list: what was counted so far is a least, and enough to tell.
    let (store, _, made) = one().await;
    for n in 0..1500 {
        store.put(&format!("a/b/{n}"));
    }
    let slow = View::disturbed(&store, 4, futures::future::pending());
    let volumes = Volumes::new(Arc::new(slow), "one");
    let found = volumes.health(&path("a/b"), &made.generation).await.unwrap();
    assert!(found[0].message.contains("at least"), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn every_probe_of_a_silent_store_has_a_deadline() {
    let (store, _, made) = one().await;
    for silent_from in 0..7 {
        let volumes = Volumes::new(Arc::new(View::disturbed(&store, silent_from, futures::future::pending())), "one");
        let begun = Instant::now();
        let found = volumes.health(&path("a/b"), &made.generation).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(8), "{silent_from}: {:?}", begun.elapsed());
        assert!(found.is_empty() || found[0].reason == "StoreUnreachable", "{silent_from}: {found:?}");
        assert!(silent_from > 2 || !found.is_empty(), "{silent_from}");
    }
    let dead = Volumes::new(Arc::new(View::dying(&store, 0, End::Before)), "one");
    assert_eq!(trouble(&dead, &made).await, (Severity::Inaccessible, "StoreUnreachable"));
}

#[test]
fn what_the_store_says_is_told_apart() {
    let error = |kind| Error::Store(backend::Error::new(kind, Op::Record, &Path::root(), "why"));
    for (error, severity, reason) in [
        (error(ErrorKind::Unavailable), Severity::Inaccessible, "StoreUnreachable"),
        (error(ErrorKind::Throttled), Severity::Inaccessible, "StoreUnreachable"),
        (error(ErrorKind::Denied), Severity::Degraded, "ControllerCredentialRefused"),
        (error(ErrorKind::Unauthenticated), Severity::Degraded, "ControllerCredentialRefused"),
        (error(ErrorKind::Misconfigured), Severity::Inaccessible, "StoreMisconfigured"),
        (error(ErrorKind::Corrupt), Severity::Degraded, "StoreFailed"),
        (Error::Precondition("no file".into()), Severity::Degraded, "ControllerCredentialMissing"),
        (Error::NewerFormat { at: Path::root(), format: 2 }, Severity::Degraded, "RecordUnreadable"),
    ] {
        let trouble = Trouble::of(&error);
        assert_eq!((trouble.severity, trouble.reason), (severity, reason));
    }
}
