//! A file is replaced whole, by the writer who knew what it replaced.

use super::*;

pub(crate) async fn nothing_is_seen_before_publish(store: Store) {
    let old = put(&store, "file", "old").await;
    let mut writing = upload(&store, "file", Base::Version(old)).await;
    writing.write(pattern(12 << 20)).await.unwrap();
    assert_eq!(content(&store, "file").await, b"old");
    publish(&mut writing).await.unwrap();
    assert!(content(&store, "file").await == pattern(12 << 20));
}

pub(crate) async fn an_upload_goes_on_after_publish(store: Store) {
    for first in [0, 3, 6 << 20, 11 << 20] {
        let whole = pattern(first + (7 << 20));
        let name = format!("grows-{first}");
        let mut writing = upload(&store, &name, Base::Absent).await;
        if first > 0 {
            writing.write(whole.slice(..first)).await.unwrap();
        }
        let early = publish(&mut writing).await.unwrap();
        assert_eq!(early.size(), first as u64);
        assert!(content(&store, &name).await == whole[..first], "{first}");
        let middle = first + 10;
        writing.write(whole.slice(first..middle)).await.unwrap();
        publish(&mut writing).await.unwrap();
        assert!(content(&store, &name).await == whole[..middle], "{first}");
        writing.write(whole.slice(middle..)).await.unwrap();
        assert_eq!(writing.written(), whole.len() as u64);
        let late = publish(&mut writing).await.unwrap();
        assert_ne!(late.version(), early.version());
        assert!(content(&store, &name).await == whole, "{first}");
        assert_eq!(store.stat(&path(&name)).await.unwrap().version(), late.version());
    }
}

pub(crate) async fn written_bytes_can_be_peeked(store: Store) {
    let mut writing = upload(&store, "file", Base::Absent).await;
    assert_eq!(writing.peek(0..10), None);
    writing.write(pattern(1000)).await.unwrap();
    assert_eq!(writing.peek(10..20).unwrap(), pattern(1000)[10..20]);
    let tail = writing.peek(990..2000).unwrap();
    assert_eq!(tail, pattern(1000)[990..]);
    assert_eq!(writing.peek(1000..1001), None);
}

pub(crate) async fn absent_means_absent(store: Store) {
    let mut early = upload(&store, "file", Base::Absent).await;
    early.write("mine".into()).await.unwrap();
    put(&store, "file", "theirs").await;
    assert_eq!(kind_of_error(publish(&mut early)).await, ErrorKind::Stale);
    early.abort().await;
    assert_eq!(content(&store, "file").await, b"theirs");
}

pub(crate) async fn the_loser_of_two_writers_is_stale(store: Store) {
    for length in [10, 9 << 20] {
        let base = put(&store, "file", "base").await;
        let mut winner = upload(&store, "file", Base::Version(base.clone())).await;
        let mut loser = upload(&store, "file", Base::Version(base)).await;
        winner.write(pattern(length)).await.unwrap();
        loser.write(pattern(length).slice(1..)).await.unwrap();
        publish(&mut winner).await.unwrap();
        assert_eq!(kind_of_error(publish(&mut loser)).await, ErrorKind::Stale);
        assert!(content(&store, "file").await == pattern(length));
        winner.write("more".into()).await.unwrap();
        put(&store, "file", "other").await;
        assert_eq!(kind_of_error(publish(&mut winner)).await, ErrorKind::Stale);
        assert_eq!(content(&store, "file").await, b"other");
    }
}

pub(crate) async fn last_wins_where_asked(store: Store) {
    let mut writing = upload(&store, "file", Base::Any).await;
    writing.write("mine".into()).await.unwrap();
    put(&store, "file", "theirs").await;
    publish(&mut writing).await.unwrap();
    assert_eq!(content(&store, "file").await, b"mine");
}

pub(crate) async fn an_abort_leaves_nothing(store: Store) {
    let mut writing = upload(&store, "file", Base::Absent).await;
    writing.write(pattern(11 << 20)).await.unwrap();
    writing.abort().await;
    assert_eq!(kind_of_error(store.stat(&path("file"))).await, ErrorKind::NotFound);
    assert_eq!(names(&store, "").await, Vec::<String>::new());
}

pub(crate) async fn publishing_again_changes_nothing(store: Store) {
    for length in [0, 10, 9 << 20] {
        let mut writing = upload(&store, "file", Base::Any).await;
        if length > 0 {
            writing.write(pattern(length)).await.unwrap();
        }
        let first = publish(&mut writing).await.unwrap();
        let again = publish(&mut writing).await.unwrap();
        assert_eq!((first.size(), again.size()), (length as u64, length as u64));
        assert_eq!(store.stat(&path("file")).await.unwrap().version(), again.version());
        assert!(content(&store, "file").await == pattern(length));
    }
}

pub(crate) async fn a_file_may_be_emptied(store: Store) {
    let full = put(&store, "file", pattern(6 << 20)).await;
    let mut writing = upload(&store, "file", Base::Version(full)).await;
    assert_eq!(publish(&mut writing).await.unwrap().size(), 0);
    assert_eq!(content(&store, "file").await, b"");
}

pub(crate) async fn an_abort_keeps_what_was_published(store: Store) {
    let mut writing = upload(&store, "file", Base::Absent).await;
    writing.write(pattern(7 << 20)).await.unwrap();
    publish(&mut writing).await.unwrap();
    writing.write(pattern(7 << 20)).await.unwrap();
    writing.abort().await;
    assert!(content(&store, "file").await == pattern(7 << 20));
}

pub(crate) async fn a_dropped_upload_was_never_seen(store: Store) {
    let mut writing = upload(&store, "file", Base::Absent).await;
    writing.write(pattern(11 << 20)).await.unwrap();
    drop(writing);
    assert_eq!(kind_of_error(store.stat(&path("file"))).await, ErrorKind::NotFound);
    assert_eq!(names(&store, "").await, Vec::<String>::new());
}

pub(crate) async fn a_removed_file_stays_removed(store: Store) {
    let base = put(&store, "file", "base").await;
    let mut writing = upload(&store, "file", Base::Version(base)).await;
    writing.write("more".into()).await.unwrap();
    store.remove(&path("file"), Kind::File).await.unwrap();
    assert_eq!(kind_of_error(publish(&mut writing)).await, ErrorKind::Stale);
    assert_eq!(kind_of_error(store.stat(&path("file"))).await, ErrorKind::NotFound);
}

pub(crate) async fn one_of_many_creators_wins(store: Store) {
    for round in 0..4 {
        let name = format!("file-{round}");
        let creators = (0..6).map(|number| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(async move {
                let mut writing = upload(&store, &name, Base::Absent).await;
                writing.write(number.to_string().into()).await.unwrap();
                publish(&mut writing).await.map(|_| number)
            })
        });
        let outcomes: Vec<_> = futures::future::join_all(creators).await.into_iter().map(|one| one.unwrap()).collect();
        let winners: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert!(outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).all(|e| e.kind == ErrorKind::Stale));
        assert_eq!(content(&store, &name).await, winners[0].to_string().as_bytes());
    }
}

pub(crate) async fn attributes_do_not_touch_the_bytes(store: Store) {
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let attributes = Attributes { mode: Some(0o640), uid: Some(1000), gid: Some(2000), mtime: Some(time) };
    let mut writing = upload(&store, "file", Base::Absent).await;
    writing.write(pattern(100)).await.unwrap();
    let meta = writing.publish(&attributes).await.unwrap();
    assert_eq!(meta.size(), 100);
    assert_eq!(store.stat(&path("file")).await.unwrap(), meta);
    assert_eq!(content(&store, "file").await, pattern(100));
}

pub(crate) async fn a_file_needs_its_directory(store: Store) {
    let write = async |at: &str| {
        let mut writing = store.create(&path(at), CreateOptions { base: Base::Absent }).await?;
        writing.write("x".into()).await?;
        publish(&mut writing).await
    };
    if store.traits().real_directories {
        assert_eq!(write("missing/file").await.unwrap_err().kind, ErrorKind::NotFound);
        put(&store, "file", "x").await;
        assert_eq!(write("file/below").await.unwrap_err().kind, ErrorKind::NotADirectory);
        store.make_dir(&path("dir")).await.unwrap();
        assert_eq!(write("dir").await.unwrap_err().kind, ErrorKind::IsADirectory);
        assert_eq!(write("").await.unwrap_err().kind, ErrorKind::IsADirectory);
    } else {
        // A prefix is a directory as soon as a file lies below it.
        write("missing/file").await.unwrap();
        assert_eq!(store.stat(&path("missing")).await.unwrap().kind(), Kind::Directory);
        assert_eq!(names(&store, "").await, ["missing"]);
    }
}
