//! Snapshots and what is made from them, by controllers that die, are slow or meet.

use super::*;
use crate::csi::volumes::snapshots::Snapshot;

const GIB: u64 = 1 << 30;

/// A controller that sees the store so.
fn through(view: View) -> Volumes {
    let view = Arc::new(view);
    Volumes { snapshots: Some(view.clone()), ..Volumes::new(view, "one") }
}

fn whole(store: &Arc<MemoryRecords>) -> Volumes {
    through(View::of(store))
}

/// A volume at `a/b` that holds `data`.
async fn source(store: &Arc<MemoryRecords>) -> Record {
    let made = whole(store).create(&wanted("v", "a/b")).await.unwrap();
    store.put("a/b/data");
    made
}

fn from(snapshot: &Snapshot, name: &str, at: &str, view: bool) -> Wanted {
    let Snapshot { path, generation, .. } = snapshot.clone();
    let source = Source { path, volume: String::new(), snapshot: generation, view };
    Wanted { source: Some(source), ..wanted(name, at) }
}

async fn taken(store: &Arc<MemoryRecords>, of: &Record, name: &str) -> Snapshot {
    whole(store).take_snapshot(name, &path(&of.path), &of.generation).await.unwrap()
}

/// The store's own names of what was taken of `a/b`.
async fn names(store: &Arc<MemoryRecords>) -> Vec<String> {
    Snapshots::names(&**store, &path("a/b")).await.unwrap()
}

/// Runs `act` with a controller that dies at each of its requests in turn, and then `check`, until one lives to the end.
async fn dying<T, C>(act: impl AsyncFn(&Arc<MemoryRecords>, Volumes) -> T, check: C)
where
    C: AsyncFn(&Arc<MemoryRecords>),
    T: Into<bool>,
{
    for lives in 0.. {
        let mut all_lived = true;
        for end in [End::Before, End::After] {
            let store = Arc::new(MemoryRecords::default());
            all_lived &= act(&store, through(View::dying(&store, lives, end))).await.into();
            check(&store).await;
        }
        if all_lived {
            assert!(lives > 4, "only {lives} steps were seen");
            return;
        }
    }
}

/// What `late` comes to, which begins when everybody else had so many turns.
async fn after<T>(turns: u64, late: impl Future<Output = T>) -> T {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
    late.await
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_taken_once_found_listed_and_removed() {
    let store = Arc::new(MemoryRecords::default());
    let (volumes, of) = (whole(&store), source(&store).await);
    let at = path("a/b");
    let one = volumes.take_snapshot("one", &at, &of.generation).await.unwrap();
    assert_eq!((one.size, one.path.as_str(), one.volume.as_str()), (GIB, "a/b", of.generation.as_str()));
    assert_eq!(volumes.take_snapshot("one", &at, &of.generation).await.unwrap(), one);
    let two = volumes.take_snapshot("two", &at, &of.generation).await.unwrap();
    let other = volumes.create(&wanted("w", "a/c")).await.unwrap();
    let error = volumes.take_snapshot("one", &path("a/c"), &other.generation).await.unwrap_err();
    assert!(matches!(&error, Error::Exists(why) if why.contains("another volume")), "{error}");
    let error = volumes.take_snapshot("three", &at, "aaaaaaaaaa").await.unwrap_err();
    assert!(matches!(error, Error::Missing(_)), "{error}");
    let strangers = Volumes { cluster: "two".into(), ..whole(&store) };
    let error = strangers.take_snapshot("one", &at, &of.generation).await.unwrap_err();
    assert!(matches!(error, Error::Exists(_)), "{error}");

    assert_eq!(volumes.snapshot(&at, &one.generation).await.unwrap(), Some(one.clone()));
    assert_eq!(volumes.snapshot(&at, "aaaaaaaaaa").await.unwrap(), None);
    assert_eq!(volumes.snapshots_of(&path("a/c"), &other.generation).await.unwrap(), []);
    let mut all = vec![one.clone(), two.clone()];
    all.sort_by_key(|snapshot| record::key_of(&snapshot.name));
    assert_eq!(volumes.snapshots_of(&at, &of.generation).await.unwrap(), all);
    let first = volumes.page_of_snapshots(None, 1).await.unwrap();
    assert!(first.more && first.snapshots == all[..1]);
    let rest = volumes.page_of_snapshots(Some(&record::key_of(&all[0].name)), 9).await.unwrap();
    assert!(!rest.more && rest.snapshots == all[1..]);
    assert_eq!(strangers.page_of_snapshots(None, 9).await.unwrap().snapshots, []);

    let error = volumes.delete(&at, &of.generation).await.unwrap_err();
    assert!(matches!(&error, Error::Precondition(why) if why.contains("2 snapshots")), "{error}");
    for snapshot in [&one, &one, &two] {
        volumes.discard_snapshot(&at, &snapshot.generation).await.unwrap();
    }
    assert_eq!(volumes.page_of_snapshots(None, 9).await.unwrap().snapshots, []);
    assert_eq!(names(&store).await, Vec::<String>::new());
    // The name is free, for another volume too.
    let again = volumes.take_snapshot("one", &path("a/c"), &other.generation).await.unwrap();
    assert_ne!(again.generation, one.generation);
    // What others took counts as well.
    Snapshots::take(&*store, &at, "nightly").await.unwrap();
    let error = volumes.delete(&at, &of.generation).await.unwrap_err();
    assert!(matches!(&error, Error::Precondition(why) if why.contains("\"nightly\"")), "{error}");
    Snapshots::discard(&*store, &at, "nightly").await.unwrap();
    volumes.delete(&at, &of.generation).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_taking_died_anywhere_is_taken_by_the_next_controller() {
    let act = async |store: &Arc<MemoryRecords>, dying: Volumes| {
        let of = source(store).await;
        dying.take_snapshot("one", &path("a/b"), &of.generation).await.is_ok()
    };
    dying(act, async |store| {
        let of = source(store).await;
        let one = taken(store, &of, "one").await;
        assert_eq!(names(store).await, std::slice::from_ref(&one.generation));
        assert_eq!(whole(store).snapshots_of(&path("a/b"), &of.generation).await.unwrap(), [one]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_died_anywhere_is_finished_by_the_next_controller() {
    for by_name in [false, true] {
        let act = async |store: &Arc<MemoryRecords>, dying: Volumes| {
            let of = source(store).await;
            let one = taken(store, &of, "one").await;
            let gone = dying.discard_snapshot(&path("a/b"), &one.generation).await.is_ok();
            match by_name {
                // Somebody wants the name before anybody removes the rest.
                true => drop(taken(store, &of, "one").await),
                false => whole(store).discard_snapshot(&path("a/b"), &one.generation).await.unwrap(),
            }
            gone
        };
        dying(act, async |store| {
            let of = source(store).await;
            let left = whole(store).snapshots_of(&path("a/b"), &of.generation).await.unwrap();
            let left: Vec<_> = left.into_iter().map(|snapshot| snapshot.generation).collect();
            assert_eq!((left.len(), names(store).await), (usize::from(by_name), left));
            let named = whole(store).find(&path("a/b"), &of.generation).await.unwrap().unwrap().snapshots;
            assert_eq!(named.len(), usize::from(by_name));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_view_needs_its_snapshot_and_a_copy_does_not() {
    let store = Arc::new(MemoryRecords::default());
    store.keep_quotas(true);
    let (volumes, of) = (whole(&store), source(&store).await);
    let one = taken(&store, &of, "one").await;
    let view = volumes.create(&from(&one, "view", "a/view", true)).await.unwrap();
    let shown = view.source.clone().unwrap();
    assert_eq!((shown.volume.as_str(), shown.view, view.quota), (of.generation.as_str(), true, false));
    assert_eq!(volumes.create(&from(&one, "view", "a/view", true)).await.unwrap(), view);
    let error = volumes.create(&from(&one, "view", "a/view", false)).await.unwrap_err();
    assert!(matches!(error, Error::Exists(_)), "{error}");
    assert!(matches!(volumes.create(&wanted("view", "a/view")).await.unwrap_err(), Error::Exists(_)));
    let copy = volumes.create(&from(&one, "copy", "a/copy", false)).await.unwrap();
    assert_eq!((store.quota("a/copy"), store.quota("a/view")), (Some(GIB), None));
    assert!(copy.quota && store.keys().contains(&"a/copy/data".to_owned()), "{:?}", store.keys());
    assert!(!store.keys().contains(&"a/view/data".to_owned()));
    let error = volumes.take_snapshot("of-view", &path("a/view"), &view.generation).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");

    let discard = async || volumes.discard_snapshot(&path("a/b"), &one.generation).await;
    let error = discard().await.unwrap_err();
    assert!(matches!(&error, Error::Precondition(why) if why.contains(&view.generation)), "{error}");
    let held = volumes.snapshot(&path("a/b"), &one.generation).await.unwrap().unwrap().held;
    assert_eq!(held.into_keys().collect::<Vec<_>>(), std::slice::from_ref(&view.generation), "the copy is whole");
    volumes.delete(&path("a/view"), &view.generation).await.unwrap();
    assert!(store.keys().contains(&"a/b/data".to_owned()));
    discard().await.unwrap();
    // What was made of it is there still, and no more is made.
    assert_eq!(volumes.create(&from(&one, "copy", "a/copy", false)).await.unwrap(), copy);
    let error = volumes.create(&from(&one, "late", "a/late", true)).await.unwrap_err();
    assert!(matches!(error, Error::Missing(_)), "{error}");
    volumes.create(&wanted("late", "a/late")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_volume_from_a_snapshot_has_its_size_at_least() {
    let store = Arc::new(MemoryRecords::default());
    let (volumes, of) = (whole(&store), source(&store).await);
    let one = taken(&store, &of, "one").await;
    for view in [true, false] {
        let sized = |name: &str, required, limit| {
            let at = format!("a/{name}-{view}");
            Wanted { required, limit, ..from(&one, &at, &at, view) }
        };
        for (required, limit) in [(GIB - 1, 0), (0, GIB - 1)] {
            let error = volumes.create(&sized("small", required, limit)).await.unwrap_err();
            assert!(matches!(error, Error::OutOfRange(_)), "{error}");
        }
        for (required, limit, size) in [(0, 0, GIB), (GIB, 0, GIB), (2 * GIB, 0, 2 * GIB), (0, 3 * GIB, 3 * GIB)] {
            let name = format!("v{size}-{limit}-{required}");
            let made = volumes.create(&sized(&name, required, limit)).await.unwrap();
            assert_eq!(made.size, size);
            assert_eq!(volumes.create(&sized(&name, required, limit)).await.unwrap(), made);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_died_anywhere_is_finished_by_the_next_controller() {
    for view in [true, false] {
        let act = async |store: &Arc<MemoryRecords>, dying: Volumes| {
            let of = source(store).await;
            let one = taken(store, &of, "one").await;
            dying.create(&from(&one, "w", "a/w", view)).await.is_ok()
        };
        dying(act, async |store| {
            let of = source(store).await;
            let one = taken(store, &of, "one").await;
            let made = whole(store).create(&from(&one, "w", "a/w", view)).await.unwrap();
            assert_eq!(store.keys().contains(&"a/w/data".to_owned()), !view);
            let discarded = whole(store).discard_snapshot(&path("a/b"), &one.generation).await;
            assert_eq!(discarded.is_err(), view, "{discarded:?}");
            whole(store).delete(&path("a/w"), &made.generation).await.unwrap();
            whole(store).discard_snapshot(&path("a/b"), &one.generation).await.unwrap();
            whole(store).delete(&path("a/b"), &of.generation).await.unwrap();
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_view_that_died_anywhere_frees_its_snapshot() {
    let act = async |store: &Arc<MemoryRecords>, dying: Volumes| {
        let of = source(store).await;
        let one = taken(store, &of, "one").await;
        let made = whole(store).create(&from(&one, "w", "a/w", true)).await.unwrap();
        let deleted = dying.delete(&path("a/w"), &made.generation).await.is_ok();
        whole(store).delete(&path("a/w"), &made.generation).await.unwrap();
        deleted
    };
    dying(act, async |store| {
        let of = source(store).await;
        let one = taken(store, &of, "one").await;
        whole(store).discard_snapshot(&path("a/b"), &one.generation).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_deleted_or_a_snapshot_of_it_taken() {
    let (mut deleted, mut kept) = (0, 0);
    for seed in 0..60 {
        let store = Arc::new(MemoryRecords::default());
        let of = source(&store).await;
        let (one, two) = (through(View::slow(&store, seed)), through(View::slow(&store, seed * 31 + 7)));
        let at = path("a/b");
        let deletion = after(2 * seed, one.delete(&at, &of.generation));
        let (deletion, taking) = tokio::join!(deletion, two.take_snapshot("one", &at, &of.generation));
        let lives = whole(&store).find(&at, &of.generation).await.unwrap().unwrap().state == State::Ready;
        match (&deletion, &taking) {
            (Ok(_), Err(Error::Missing(_) | Error::Busy(_))) => {
                deleted += 1;
                assert!(!lives && names(&store).await.is_empty(), "{taking:?}");
            }
            (Err(Error::Precondition(_)), Ok(_)) => {
                kept += 1;
                assert!(lives && names(&store).await.len() == 1);
            }
            both => panic!("{seed}: {both:?}"),
        }
    }
    assert!(deleted > 0 && kept > 0, "{deleted} {kept}");
}

#[tokio::test(start_paused = true)]
async fn of_a_view_and_the_end_of_its_snapshot_one_wins() {
    let (mut made, mut gone) = (0, 0);
    for seed in 0..60 {
        let store = Arc::new(MemoryRecords::default());
        let of = source(&store).await;
        let snapshot = taken(&store, &of, "one").await;
        let (one, two) = (through(View::slow(&store, seed)), through(View::slow(&store, seed * 31 + 7)));
        let wanted = from(&snapshot, "w", "a/w", true);
        let at = path("a/b");
        let discarding = after(4 * seed, two.discard_snapshot(&at, &snapshot.generation));
        let (creation, discarding) = tokio::join!(one.create(&wanted), discarding);
        match (&creation, &discarding) {
            (Ok(_), Err(Error::Precondition(_))) => {
                made += 1;
                assert_eq!(names(&store).await.len(), 1);
            }
            (Err(Error::Missing(_)), Ok(())) => {
                gone += 1;
                assert!(names(&store).await.is_empty() && !store.keys().contains(&"a/w/.millrace/volume.json".into()));
            }
            // A creation that has just begun and gives way may be taken for one that goes on.
            (Err(Error::Missing(_)), Err(Error::Precondition(_))) => {
                two.discard_snapshot(&at, &snapshot.generation).await.unwrap();
            }
            both => panic!("{seed}: {both:?}"),
        }
    }
    assert!(made > 0 && gone > 0, "{made} {gone}");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_snapshots_goes_in_time_and_is_adopted_with_its_volumes() {
    let store = Arc::new(MemoryRecords::default());
    let (volumes, of) = (whole(&store), source(&store).await);
    let (old, live) = (taken(&store, &of, "old").await, taken(&store, &of, "live").await);
    volumes.discard_snapshot(&path("a/b"), &old.generation).await.unwrap();
    assert_eq!(volumes.forget_old().await.unwrap(), 0);
    let at = Path::parse(&format!(".millrace/snapshots/{}", record::key_of("old"))).unwrap();
    let (gone, tag) = volumes.load::<Snapshot>(&at).await.unwrap().unwrap();
    let aged = Snapshot { at: Some("2020-01-01T00:00:00.000Z".into()), ..gone };
    volumes.swap(&at, &tag, &aged).await.unwrap().unwrap();
    let others = Volumes { cluster: "two".into(), ..whole(&store) };
    assert_eq!(others.forget_old().await.unwrap(), 0);
    assert_eq!(volumes.forget_old().await.unwrap(), 1);
    assert!(!store.keys().contains(&at.to_string()));
    assert_eq!(others.adopt("one").await.unwrap(), ["v"]);
    let adopted = Snapshot { cluster: "two".into(), ..live };
    assert_eq!(others.page_of_snapshots(None, 9).await.unwrap().snapshots, [adopted]);
    assert_eq!(volumes.page_of_snapshots(None, 9).await.unwrap().snapshots, []);
}
