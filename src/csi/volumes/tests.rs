//! Volumes on a store in memory, with controllers that die, are slow or meet.

mod change;
mod seen;
mod snapshots;
mod view;

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};

use super::*;
use crate::backend::records::memory::MemoryRecords;
use crate::backend::records::{Extent, Measured, Removed};
use crate::config::stores::Deletion;

use view::{End, View};

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

fn wanted(name: &str, at: &str) -> Wanted {
    Wanted {
        name: name.into(),
        path: path(at),
        required: 1 << 30,
        limit: 0,
        parameters: [("store".to_owned(), "lake".to_owned())].into(),
        mutable: Default::default(),
        deletion: Deletion::Current,
        directory: None,
        location: "there".into(),
        claim: None,
        capacity: None,
        source: None,
    }
}

fn controller(store: &Arc<MemoryRecords>) -> Volumes {
    Volumes::new(store.clone(), "one")
}

/// Fails unless `record` is a whole volume, and the only one with a directory.
async fn assert_whole(store: &Arc<MemoryRecords>, record: &Record) {
    assert_eq!(record.state, State::Ready);
    let found = controller(store).find(&path(&record.path), &record.generation).await.unwrap();
    assert_eq!(found.as_ref(), Some(record));
    let text = store.get(&record::volume_file_at(&path(&record.path))).await.unwrap().0;
    let file: VolumeFile = record::read(&Path::root(), &text).unwrap();
    assert_eq!(file.generation, record.generation);
    let files = store.keys().into_iter().filter(|key| key.ends_with("volume.json")).count();
    assert_eq!(files, 1, "{:?}", store.keys());
}

async fn states(store: &Arc<MemoryRecords>) -> Vec<(String, State)> {
    let listed: Vec<Listed> = controller(store).list().try_collect().await.unwrap();
    let mut states: Vec<_> =
        listed.into_iter().map(|listed| listed.record.unwrap()).map(|record| (record.name, record.state)).collect();
    states.sort_by(|one, two| one.0.cmp(&two.0));
    states
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_made_once_and_deleted_alone() {
    let store = Arc::new(MemoryRecords::default());
    for beside in ["a/bc/x", "a/b-", "b/x"] {
        store.put(beside);
    }
    let before: BTreeSet<_> = store.keys().into_iter().collect();
    let volumes = controller(&store);
    let made = volumes.create(&wanted("one", "a/b")).await.unwrap();
    assert_whole(&store, &made).await;
    assert_eq!(volumes.create(&wanted("one", "a/b")).await.unwrap(), made);
    store.put("a/b/data");
    store.put("a/b/c/data");

    volumes.delete(&path("a/b"), "aaaaaaaaaa").await.unwrap();
    assert_whole(&store, &made).await;
    volumes.delete(&path("a"), &made.generation).await.unwrap();
    assert_whole(&store, &made).await;
    let deleted = volumes.delete(&path("a/b"), &made.generation).await.unwrap().unwrap();
    assert_eq!((deleted.record.generation, deleted.removed), (made.generation.clone(), 3));
    let after: BTreeSet<_> = store.keys().into_iter().filter(|key| !key.starts_with(".millrace/")).collect();
    assert_eq!(after, before);
    assert_eq!(states(&store).await, [("one".to_owned(), State::Deleted)]);
    assert_eq!(volumes.delete(&path("a/b"), &made.generation).await.unwrap().unwrap().removed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_died_anywhere_is_finished_by_the_next_controller() {
    let mut died = 0;
    for lives in 0.. {
        let mut all_lived = true;
        for end in [End::Before, End::After] {
            let store = Arc::new(MemoryRecords::default());
            let first =
                Volumes::new(Arc::new(View::dying(&store, lives, end)), "one").create(&wanted("v", "a/b")).await;
            all_lived &= first.is_ok();
            let made = controller(&store).create(&wanted("v", "a/b")).await.unwrap();
            assert_whole(&store, &made).await;
            if let Ok(first) = first {
                assert_eq!(first, made);
            }
            controller(&store).delete(&path("a/b"), &made.generation).await.unwrap();
            assert!(store.keys().iter().all(|key| key.starts_with(".millrace/")), "{:?}", store.keys());
        }
        died = lives;
        if all_lived {
            break;
        }
    }
    assert!(died > 5, "only {died} steps were seen");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_died_anywhere_is_finished_by_the_next_controller() {
    for deletion in [Deletion::Current, Deletion::Keep] {
        let mut died = 0;
        for lives in 0.. {
            let mut all_lived = true;
            for end in [End::Before, End::After] {
                let store = Arc::new(MemoryRecords::default());
                let made = controller(&store).create(&Wanted { deletion, ..wanted("v", "a/b") }).await.unwrap();
                for n in 0..2500 {
                    store.put(&format!("a/b/{n}"));
                }
                store.put("a/bc");
                let dying = Volumes::new(Arc::new(View::dying(&store, lives, end)), "one");
                all_lived &= dying.delete(&path("a/b"), &made.generation).await.is_ok();
                let next = controller(&store);
                next.delete(&path("a/b"), &made.generation).await.unwrap();
                let left = store.keys().iter().filter(|key| key.starts_with("a/b/")).count();
                let (state, expected) = match deletion {
                    Deletion::Keep => (State::Kept, 2501),
                    _ => (State::Deleted, 0),
                };
                assert_eq!((left, states(&store).await), (expected, vec![("v".to_owned(), state)]));
                assert!(store.keys().contains(&"a/bc".to_owned()));
            }
            died = lives;
            if all_lived {
                break;
            }
        }
        assert!(died > 2, "only {died} steps were seen");
    }
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_that_died_anywhere_frees_the_path() {
    for (reached, lives) in (3..20).flat_map(|reached| (0..16).map(move |lives| (reached, lives))) {
        for end in [End::Before, End::After] {
            let store = Arc::new(MemoryRecords::default());
            let first = Volumes::new(Arc::new(View::dying(&store, reached, end)), "one");
            if first.create(&wanted("v", "a/b")).await.is_ok() || states(&store).await.is_empty() {
                continue;
            }
            if states(&store).await[0].1 == State::Creating {
                let dying = Volumes::new(Arc::new(View::dying(&store, lives, end)), "one");
                let _ = dying.release("v").await;
                controller(&store).release("v").await.unwrap();
                let made = controller(&store).create(&wanted("w", "a/b")).await.unwrap();
                assert_whole(&store, &made).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_another_controller_does_between_two_steps_is_gone_on_with() {
    for (after, lives, end) in
        (0..20).flat_map(|after| (0..20).flat_map(move |n| [(after, n, End::Before), (after, n, End::After)]))
    {
        let store = Arc::new(MemoryRecords::default());
        let other = Volumes::new(Arc::new(View::dying(&store, lives, end)), "one");
        let other = async move { drop(other.create(&wanted("v", "a/b")).await) };
        let disturbed = Volumes::new(Arc::new(View::disturbed(&store, after, other)), "one");
        let made = disturbed.create(&wanted("v", "a/b")).await;
        let made = made.unwrap_or_else(|error| panic!("{lives} calls after {after}, {end:?}: {error}"));
        assert_whole(&store, &made).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_controllers_at_one_name_make_one_volume() {
    for seed in 1..2000u64 {
        let store = Arc::new(MemoryRecords::default());
        let [one, two] = [seed * 7919, seed * 104_729].map(|seed| {
            let volumes = Volumes::new(Arc::new(View::slow(&store, seed)), "one");
            tokio::spawn(async move { volumes.create(&wanted("v", "a/b")).await })
        });
        let (one, two) = (one.await.unwrap().unwrap(), two.await.unwrap().unwrap());
        assert_eq!(one, two);
        assert_whole(&store, &one).await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_volumes_on_one_line_one_is_made() {
    let mut winners = BTreeSet::new();
    for (first, second) in [("a/b", "a/b/c"), ("a/b", "a/b"), ("a/b/c/d", "a/b")] {
        for seed in 1..300u64 {
            let store = Arc::new(MemoryRecords::default());
            let [one, two] = [("v", first, seed * 7919), ("w", second, seed * 104_729)].map(|(name, at, seed)| {
                let volumes = Volumes::new(Arc::new(View::slow(&store, seed)), "one");
                let wanted = wanted(name, at);
                tokio::spawn(async move {
                    loop {
                        match volumes.create(&wanted).await {
                            Err(Error::Busy(_)) => {}
                            result => return result,
                        }
                    }
                })
            });
            let results = [one.await.unwrap(), two.await.unwrap()];
            let made: Vec<_> = results.iter().flatten().collect();
            assert_eq!(made.len(), 1, "seed {seed}: {results:?}");
            assert_whole(&store, made[0]).await;
            let refused = results.iter().find_map(|result| result.as_ref().err()).unwrap();
            assert!(matches!(refused, Error::Exists(_)), "seed {seed}: {refused:?}");
            winners.insert(made[0].name.clone());
        }
    }
    assert_eq!(winners.len(), 2, "the race never went the other way");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_and_a_creation_at_once_leave_a_whole_volume_or_none() {
    for seed in 1..200u64 {
        let store = Arc::new(MemoryRecords::default());
        let made = controller(&store).create(&wanted("v", "a/b")).await.unwrap();
        let deleter = Volumes::new(Arc::new(View::slow(&store, seed * 31)), "one");
        let second = Volumes::new(Arc::new(View::slow(&store, seed * 77)), "one");
        let generation = made.generation.clone();
        let delete = tokio::spawn(async move { deleter.delete(&path("a/b"), &generation).await });
        let create = tokio::spawn(async move { second.create(&wanted("v", "a/b")).await });
        delete.await.unwrap().unwrap();
        let created = create.await.unwrap().unwrap();
        if created.generation == made.generation {
            // It was given out before the deletion began.
            assert_eq!(states(&store).await[0].1, State::Deleted);
        } else {
            assert_whole(&store, &created).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_and_a_path_rest_after_a_deletion() {
    let store = Arc::new(MemoryRecords::default());
    let volumes = controller(&store);
    let made = volumes.create(&wanted("v", "a/b")).await.unwrap();
    volumes.delete(&path("a/b"), &made.generation).await.unwrap();
    for next in [wanted("v", "a/b"), wanted("w", "a/b")] {
        // Another controller cannot know how long ago that was.
        let begun = Instant::now();
        let made = controller(&store).create(&next).await.unwrap();
        assert!(begun.elapsed() >= TOMBSTONE && begun.elapsed() <= PATIENCE);
        assert_whole(&store, &made).await;
        volumes.delete(&path("a/b"), &made.generation).await.unwrap();
    }
    tokio::time::sleep(TOMBSTONE).await;
    let begun = Instant::now();
    volumes.create(&wanted("x", "a/b")).await.unwrap();
    assert!(begun.elapsed() < AGAIN_AT_MOST);
}

const AGAIN_AT_MOST: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn what_is_being_deleted_is_waited_for_and_then_aborted() {
    let store = Arc::new(MemoryRecords::default());
    let made = controller(&store).create(&wanted("v", "a/b")).await.unwrap();
    // Dies between the mark and the first page.
    let dying = Volumes::new(Arc::new(View::dying(&store, 4, End::Before)), "one");
    dying.delete(&path("a/b"), &made.generation).await.unwrap_err();
    assert_eq!(states(&store).await[0].1, State::Deleting);
    for next in [wanted("v", "a/b"), wanted("w", "a/b"), wanted("w", "a"), wanted("w", "a/b/c")] {
        let begun = Instant::now();
        let error = controller(&store).create(&next).await.unwrap_err();
        assert!(matches!(&error, Error::Busy(why) if why.contains("being deleted")), "{error}");
        assert!(begun.elapsed() >= PATIENCE && begun.elapsed() < PATIENCE + AGAIN_AT_MOST);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_same_volume_is_refused() {
    let store = Arc::new(MemoryRecords::default());
    let volumes = controller(&store);
    volumes.create(&Wanted { limit: 2 << 30, ..wanted("v", "a/b") }).await.unwrap();
    for (other, word) in [
        (Wanted { required: 2 << 30, ..wanted("v", "a/b") }, "size"),
        (Wanted { required: 0, limit: 1 << 20, ..wanted("v", "a/b") }, "size"),
        (Wanted { parameters: [("uid".into(), "7".into())].into(), ..wanted("v", "a/b") }, "parameter"),
        (wanted("v", "a/c"), "a/c"),
        (wanted("w", "a/b"), "\"v\""),
        (wanted("w", "a"), "below"),
        (wanted("w", "a/b/c/d"), "above"),
    ] {
        let error = volumes.create(&other).await.unwrap_err();
        assert!(matches!(&error, Error::Exists(why) if why.contains(word)), "{word}: {error}");
    }
    volumes.create(&Wanted { required: 0, limit: 1 << 30, ..wanted("v", "a/b") }).await.unwrap();
    let moved = Wanted { location: "elsewhere".into(), ..wanted("v", "a/b") };
    assert!(matches!(volumes.create(&moved).await.unwrap_err(), Error::Precondition(_)));
    volumes.create(&wanted("w", "a/bc")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn existing_data_is_nobodys_volume() {
    let store = Arc::new(MemoryRecords::default());
    for key in ["dir/x", "file", "deep/er/.millrace/volume.json"] {
        store.put(key);
    }
    let before = store.keys();
    for at in ["dir", "file", "deep/er", "deep"] {
        let error = controller(&store).create(&wanted("v", at)).await.unwrap_err();
        assert!(matches!(&error, Error::Precondition(why) if why.contains("static volume")), "{at}: {error}");
    }
    assert_eq!(store.keys(), before, "a refusal leaves no trace");
    controller(&store).create(&wanted("v", "di")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn another_clusters_volumes_are_left_alone_until_adopted() {
    let store = Arc::new(MemoryRecords::default());
    let other = Volumes::new(store.clone(), "two");
    let made = other.create(&wanted("v", "a/b")).await.unwrap();
    let volumes = controller(&store);
    let error = volumes.delete(&path("a/b"), &made.generation).await.unwrap_err();
    assert!(matches!(&error, Error::Precondition(why) if why.contains("\"two\"")), "{error}");
    assert!(matches!(volumes.release("v").await.unwrap_err(), Error::Precondition(_)));
    assert!(matches!(volumes.create(&wanted("v", "a/b")).await.unwrap_err(), Error::Exists(_)));
    assert_whole(&store, &made).await;

    assert_eq!(volumes.adopt("two").await.unwrap(), ["v"]);
    assert_eq!(volumes.adopt("two").await.unwrap(), Vec::<String>::new());
    assert_eq!(volumes.create(&wanted("v", "a/b")).await.unwrap().generation, made.generation);
    volumes.delete(&path("a/b"), &made.generation).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_kept_volume_keeps_its_path_until_released() {
    let store = Arc::new(MemoryRecords::default());
    let volumes = controller(&store);
    let made = volumes.create(&Wanted { deletion: Deletion::Keep, ..wanted("v", "a/b") }).await.unwrap();
    store.put("a/b/data");
    assert!(matches!(volumes.release("v").await.unwrap_err(), Error::Precondition(_)), "it is in use");
    volumes.delete(&path("a/b"), &made.generation).await.unwrap();
    for next in [wanted("v", "a/b"), wanted("w", "a/b"), wanted("w", "a")] {
        assert!(matches!(volumes.create(&next).await.unwrap_err(), Error::Exists(_)));
    }
    volumes.release("v").await.unwrap();
    assert!(store.keys().contains(&"a/b/data".to_owned()));
    assert!(matches!(volumes.create(&wanted("w", "a/b")).await.unwrap_err(), Error::Precondition(_)));
    assert!(matches!(volumes.release("nothing").await.unwrap_err(), Error::Invalid(_)));
}

#[tokio::test(start_paused = true)]
async fn newer_records_are_refused_and_unknown_words_survive() {
    let store = Arc::new(MemoryRecords::default());
    let volumes = controller(&store);
    let made = volumes.create(&Wanted { deletion: Deletion::Keep, ..wanted("v", "a/b") }).await.unwrap();
    let at = record::record_at(&record::key_of("v"));
    let rewrite = async |change: &dyn Fn(&mut serde_json::Value)| {
        let (text, tag) = store.get(&at).await.unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        change(&mut json);
        store.replace(&at, &tag, serde_json::to_vec(&json).unwrap().into()).await.unwrap();
    };
    rewrite(&|json| json["limit"] = serde_json::json!({"bytes": 7})).await;
    volumes.delete(&path("a/b"), &made.generation).await.unwrap();
    let kept = volumes.find(&path("a/b"), &made.generation).await.unwrap().unwrap();
    assert_eq!((kept.state, &kept.unknown["limit"]["bytes"]), (State::Kept, &serde_json::json!(7)));

    rewrite(&|json| json["format"] = 2.into()).await;
    for error in [
        volumes.create(&wanted("v", "a/b")).await.unwrap_err(),
        volumes.create(&wanted("w", "a/b")).await.unwrap_err(),
        volumes.delete(&path("a/b"), &made.generation).await.unwrap_err(),
        volumes.release("v").await.unwrap_err(),
    ] {
        assert!(matches!(&error, Error::NewerFormat { format: 2, .. }), "{error}");
    }
    let listed: Vec<Listed> = volumes.list().try_collect().await.unwrap();
    assert!(matches!(listed[0].record, Err(Error::NewerFormat { .. })));
    assert_eq!(volumes.adopt("one").await.unwrap(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn old_tombstones_are_forgotten_and_young_ones_are_not() {
    let store = Arc::new(MemoryRecords::default());
    let volumes = controller(&store);
    for (name, at) in [("old", "a/old"), ("young", "a/young"), ("live", "a/live")] {
        let made = volumes.create(&wanted(name, at)).await.unwrap();
        if name != "live" {
            volumes.delete(&path(at), &made.generation).await.unwrap();
        }
    }
    let at = record::record_at(&record::key_of("old"));
    let (old, tag) = volumes.load::<Record>(&at).await.unwrap().unwrap();
    let aged = Record { ended: Some("2020-01-01T00:00:00.000Z".into()), ..old };
    volumes.swap(&at, &tag, &aged).await.unwrap().unwrap();

    let strangers = Volumes::new(store.clone(), "two");
    assert_eq!(strangers.forget_old().await.unwrap(), 0);
    let sweep = volumes.forget_old();
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        controller(&store).create(&wanted("old", "a/old")).await
    };
    let (swept, created) = tokio::join!(sweep, meanwhile);
    assert_eq!(swept.unwrap(), 1);
    assert_whole_among(&store, &created.unwrap()).await;
    let names: Vec<_> = states(&store).await;
    assert_eq!(names.iter().filter(|(_, state)| *state == State::Deleted).count(), 1);
    assert_eq!(volumes.forget_old().await.unwrap(), 0);
}

async fn assert_whole_among(store: &Arc<MemoryRecords>, record: &Record) {
    let found = controller(store).find(&path(&record.path), &record.generation).await.unwrap();
    assert_eq!(found.as_ref(), Some(record));
    assert!(store.get(&record::volume_file_at(&path(&record.path))).await.is_ok());
}
