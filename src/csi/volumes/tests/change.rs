//! Limits and mutable parameters: the record, its copy, and controllers that die in between.

use std::collections::BTreeMap;

use super::*;

const GIB: u64 = 1 << 30;

fn to(required: u64) -> Room {
    Room { required, limit: 0, capacity: None }
}

fn words(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(word, value)| ((*word).to_owned(), (*value).to_owned())).collect()
}

async fn record_of(store: &Arc<MemoryRecords>, made: &Record) -> Record {
    controller(store).find(&path(&made.path), &made.generation).await.unwrap().unwrap()
}

async fn file_of(store: &Arc<MemoryRecords>, made: &Record) -> VolumeFile {
    let text = store.get(&record::volume_file_at(&path(&made.path))).await.unwrap().0;
    record::read(&Path::root(), &text).unwrap()
}

/// Fails unless the copy says what the record does.
async fn assert_copied(store: &Arc<MemoryRecords>, made: &Record) -> Record {
    let record = record_of(store, made).await;
    assert_eq!(file_of(store, made).await, VolumeFile::of(&record));
    record
}

#[tokio::test(start_paused = true)]
async fn a_size_is_a_limit_and_no_size_is_none() {
    for (required, limit, kept) in [(GIB, 0, Some(GIB)), (GIB, 2 * GIB, Some(GIB)), (0, GIB, Some(GIB)), (0, 0, None)] {
        let store = Arc::new(MemoryRecords::default());
        let wanted = Wanted { required, limit, mutable: words(&[("ttl", "5s")]), ..wanted("v", "a/b") };
        let made = controller(&store).create(&wanted).await.unwrap();
        assert_eq!(assert_copied(&store, &made).await.size, kept.unwrap_or_default());
        let file = file_of(&store, &made).await;
        assert_eq!((file.limit, file.parameters), (kept, words(&[("ttl", "5s")])));
        assert_eq!(controller(&store).create(&wanted).await.unwrap(), made);
        let other = Wanted { mutable: words(&[("ttl", "6s")]), ..wanted.clone() };
        let error = controller(&store).create(&other).await.unwrap_err();
        assert!(matches!(&error, Error::Exists(why) if why.contains("ttl")), "{error}");
        let sized = Wanted { required: 0, limit: GIB / 2, ..wanted };
        assert!(matches!(controller(&store).create(&sized).await.unwrap_err(), Error::Exists(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_raised_and_never_lowered() {
    let store = Arc::new(MemoryRecords::default());
    let volumes = controller(&store);
    let made = volumes.create(&wanted("v", "a/b")).await.unwrap();
    let expand = async |room| volumes.expand(&path("a/b"), &made.generation, room).await.map(|record| record.size);
    assert_eq!(expand(to(2 * GIB)).await, Ok(2 * GIB));
    assert_eq!(assert_copied(&store, &made).await.size, 2 * GIB);
    assert_eq!(expand(to(2 * GIB)).await, Ok(2 * GIB), "again");
    assert_eq!(expand(to(GIB)).await, Ok(2 * GIB), "it is at least that");
    assert_eq!(expand(Room { required: GIB, limit: 3 * GIB, capacity: None }).await, Ok(2 * GIB));
    assert_eq!(expand(Room { required: 0, limit: 3 * GIB, capacity: None }).await, Ok(2 * GIB));
    let smaller = expand(Room { required: GIB, limit: GIB, capacity: None }).await;
    assert!(matches!(&smaller, Err(Error::OutOfRange(why)) if why.contains("never shrinks")), "{smaller:?}");
    assert_eq!(assert_copied(&store, &made).await.size, 2 * GIB);

    let boundless = volumes.create(&Wanted { required: 0, ..wanted("w", "a/c") }).await.unwrap();
    let answer = volumes.expand(&path("a/c"), &boundless.generation, to(GIB)).await;
    assert_eq!(answer.unwrap(), assert_copied(&store, &boundless).await);
    assert_eq!(record_of(&store, &boundless).await.size, 0);
    let held = Room { required: 0, limit: GIB, capacity: None };
    assert!(matches!(volumes.expand(&path("a/c"), &boundless.generation, held).await, Err(Error::OutOfRange(_))));
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_the_store_keeps_is_nobody_elses() {
    let store = Arc::new(MemoryRecords::default());
    store.keep_quotas(true);
    let volumes = controller(&store);
    let made = volumes.create(&wanted("v", "a/b")).await.unwrap();
    assert_eq!((made.quota, store.quota("a/b"), file_of(&store, &made).await.limit), (true, Some(GIB), None));
    assert_eq!(volumes.create(&wanted("v", "a/b")).await.unwrap(), made);
    let boundless = volumes.create(&Wanted { required: 0, ..wanted("w", "a/c") }).await.unwrap();
    assert_eq!((boundless.quota, store.quota("a/c")), (false, None));
    let expand = async |room| volumes.expand(&path("a/b"), &made.generation, room).await.map(|record| record.size);
    assert_eq!((expand(to(2 * GIB)).await, store.quota("a/b")), (Ok(2 * GIB), Some(2 * GIB)));
    assert_eq!((expand(to(GIB)).await, store.quota("a/b")), (Ok(2 * GIB), Some(2 * GIB)));
    assert_eq!(assert_copied(&store, &made).await.size, 2 * GIB);
    // Whoever may raise none any more says so, and promises nothing.
    store.keep_quotas(false);
    let refused = expand(to(3 * GIB)).await;
    assert!(matches!(&refused, Err(Error::Precondition(why)) if why.contains("quota")), "{refused:?}");
    assert_eq!(assert_copied(&store, &made).await.size, 2 * GIB);
    let kept_by_writers = volumes.create(&wanted("x", "a/d")).await.unwrap();
    assert_eq!((kept_by_writers.quota, file_of(&store, &kept_by_writers).await.limit), (false, Some(GIB)));
}

#[tokio::test(start_paused = true)]
async fn whoever_ends_a_creation_decides_who_keeps_the_limit() {
    for (first, second) in [(false, true), (true, false)] {
        let mut seen = 0;
        for lives in 0..40 {
            let store = Arc::new(MemoryRecords::default());
            store.keep_quotas(first);
            let died = Volumes::new(Arc::new(View::dying(&store, lives, End::After)), "one");
            let unfinished = died.create(&wanted("v", "a/b")).await.is_err();
            store.keep_quotas(second);
            let made = controller(&store).create(&wanted("v", "a/b")).await.unwrap();
            assert_eq!(assert_copied(&store, &made).await.quota, made.quota);
            seen += u32::from(unfinished && made.quota == second);
            assert!(unfinished || made.quota == first);
        }
        assert!(seen > 3, "{seen}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_capacity_is_shared_by_all_volumes_of_the_store() {
    let store = Arc::new(MemoryRecords::default());
    let volumes = controller(&store);
    let within = |name: &str, at: &str, required| Wanted { required, capacity: Some(4 * GIB), ..wanted(name, at) };
    let first = volumes.create(&within("v", "a", GIB)).await.unwrap();
    Volumes::new(store.clone(), "two").create(&within("theirs", "b", 2 * GIB)).await.unwrap();
    // What others do is seen after a while, and counts at once where something is given.
    assert_eq!(volumes.provisioned().await, Ok(3 * GIB));
    let theirs = Volumes::new(store.clone(), "two").create(&within("more", "b2", GIB)).await.unwrap();
    assert_eq!(volumes.provisioned().await, Ok(3 * GIB));
    assert!(matches!(volumes.create(&within("w", "c", GIB)).await.unwrap_err(), Error::OutOfRange(_)));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(volumes.provisioned().await, Ok(4 * GIB));
    Volumes::new(store.clone(), "two").delete(&path("b2"), &theirs.generation).await.unwrap();
    let error = volumes.create(&within("w", "c", GIB + 1)).await.unwrap_err();
    assert!(matches!(&error, Error::OutOfRange(why) if why.contains("left")), "{error}");
    volumes.create(&within("boundless", "d", 0)).await.unwrap();
    let room = |required| Room { required, limit: 0, capacity: Some(4 * GIB) };
    let refused = volumes.expand(&path("a"), &first.generation, room(2 * GIB + 1)).await;
    assert!(matches!(refused, Err(Error::OutOfRange(_))), "{refused:?}");
    let larger = volumes.expand(&path("a"), &first.generation, room(2 * GIB)).await.unwrap();
    assert_eq!(larger.size, 2 * GIB);
    // What was made already is given again, however full the store is.
    volumes.create(&within("v", "a", GIB)).await.unwrap();
    volumes.delete(&path("a"), &first.generation).await.unwrap();
    assert_eq!(volumes.provisioned().await, Ok(2 * GIB));
}

#[tokio::test(start_paused = true)]
async fn parameters_are_set_word_by_word() {
    let store = Arc::new(MemoryRecords::default());
    let volumes = controller(&store);
    let made = volumes.create(&Wanted { mutable: words(&[("ttl", "5s")]), ..wanted("v", "a/b") }).await.unwrap();
    let modify =
        async |pairs: &[(&str, &str)]| volumes.modify(&path("a/b"), &made.generation, &words(pairs)).await.unwrap();
    modify(&[("memory", "64Mi")]).await;
    modify(&[("ttl", "9s")]).await;
    modify(&[]).await;
    let now = assert_copied(&store, &made).await;
    assert_eq!((now.mutable, now.parameters), (words(&[("memory", "64Mi"), ("ttl", "9s")]), made.parameters.clone()));
    for (at, generation) in [("a/b", "aaaaaaaaaa"), ("a", made.generation.as_str())] {
        let missing = volumes.modify(&path(at), generation, &words(&[("ttl", "1s")])).await;
        assert!(matches!(missing, Err(Error::Missing(_))), "{missing:?}");
        let missing = volumes.expand(&path(at), generation, to(2 * GIB)).await;
        assert!(matches!(missing, Err(Error::Missing(_))), "{missing:?}");
    }
    let strangers = Volumes::new(store.clone(), "two");
    let refused = strangers.modify(&path("a/b"), &made.generation, &words(&[])).await;
    assert!(matches!(refused, Err(Error::Precondition(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_died_anywhere_is_finished_by_any_later_call() {
    for later in ["retry", "create", "health"] {
        let mut died = 0;
        for lives in 0.. {
            let mut all_lived = true;
            for end in [End::Before, End::After] {
                let store = Arc::new(MemoryRecords::default());
                let made = controller(&store).create(&wanted("v", "a/b")).await.unwrap();
                let at = path("a/b");
                let dying = Volumes::new(Arc::new(View::dying(&store, lives, end)), "one");
                let set = words(&[("ttl", "9s")]);
                all_lived &= dying.expand(&at, &made.generation, to(2 * GIB)).await.is_ok()
                    && dying.modify(&at, &made.generation, &set).await.is_ok();
                let next = controller(&store);
                match later {
                    "retry" => {
                        next.expand(&at, &made.generation, to(2 * GIB)).await.unwrap();
                        next.modify(&at, &made.generation, &set).await.unwrap();
                        let now = record_of(&store, &made).await;
                        assert_eq!((now.size, now.mutable), (2 * GIB, set));
                    }
                    "create" => drop(next.create(&wanted("v", "a/b")).await),
                    _ => assert_eq!(next.health(&at, &made.generation).await, Some(vec![])),
                }
                if later != "create" || record_of(&store, &made).await.mutable.is_empty() {
                    assert_copied(&store, &made).await;
                }
            }
            died = lives;
            if all_lived {
                break;
            }
        }
        assert!(died > 8, "only {died} steps were seen");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_changes_at_once_none_is_lost() {
    for seed in 1..400u64 {
        let store = Arc::new(MemoryRecords::default());
        let made = controller(&store).create(&wanted("v", "a/b")).await.unwrap();
        let [one, two] = [seed * 7919, seed * 104_729].map(|seed| {
            let volumes = Volumes::new(Arc::new(View::slow(&store, seed)), "one");
            let generation = made.generation.clone();
            tokio::spawn(async move {
                let set = if seed % 7919 == 0 { [("ttl", "9s")] } else { [("memory", "64Mi")] };
                volumes.expand(&path("a/b"), &generation, to(seed % 5 * GIB + GIB)).await.unwrap();
                volumes.modify(&path("a/b"), &generation, &words(&set)).await
            })
        });
        one.await.unwrap().unwrap();
        two.await.unwrap().unwrap();
        let now = assert_copied(&store, &made).await;
        let largest = (seed * 7919 % 5).max(seed * 104_729 % 5) * GIB + GIB;
        assert_eq!((now.size, now.mutable), (largest, words(&[("memory", "64Mi"), ("ttl", "9s")])), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_user_wrote_into_the_copy_is_mended_and_a_missing_one_is_not_made_up() {
    let store = Arc::new(MemoryRecords::default());
    let volumes = controller(&store);
    let made = volumes.create(&wanted("v", "a/b")).await.unwrap();
    let at = record::volume_file_at(&path("a/b"));
    let filler = "x".repeat(60 << 10);
    let padded =
        format!(r#"{{"format":1,"generation":"{}","limit":9,"pad":"{filler}","more":[{filler:?}]}}"#, made.generation);
    let later = format!(r#"{{"format":1,"generation":"{}","later":true}}"#, made.generation);
    for text in ["garbage".to_owned(), padded, later] {
        let tag = store.get(&at).await.unwrap().1;
        store.replace(&at, &tag, text.clone().into()).await.unwrap();
        assert_eq!(volumes.health(&path("a/b"), &made.generation).await, Some(vec![]));
        let file = file_of(&store, &made).await;
        assert_eq!((file.limit, file.unknown.contains_key("later")), (Some(GIB), text.contains("later")));
        assert!(store.get(&at).await.unwrap().0.len() <= crate::backend::records::LARGEST_RECORD);
    }
    store.remove(&at).await.unwrap();
    for refused in [
        volumes.expand(&path("a/b"), &made.generation, to(2 * GIB)).await,
        volumes.modify(&path("a/b"), &made.generation, &words(&[("ttl", "1s")])).await,
    ] {
        assert!(matches!(&refused, Err(Error::Precondition(why)) if why.contains("volume.json")), "{refused:?}");
    }
    assert_eq!(record_of(&store, &made).await, made, "nothing was changed");
    assert!(store.get(&at).await.is_err());
}
