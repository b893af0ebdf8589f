//! What HDFS refuses, and how it goes away.

use std::time::Instant;

use super::*;

/// Limits of a mount that gives up soon.
fn hasty() -> Limits {
    Limits::alone(64 << 20, Duration::from_secs(4))
}

async fn why<T>(outcome: impl Future<Output = Result<T>>) -> (ErrorKind, String) {
    let error = outcome.await.err().unwrap();
    (error.kind, error.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_fails_the_write_and_all_that_follows() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let dir = cluster.fresh("alice").await.unwrap();
    let store = connect(&config(cluster), "alice", &dir, limits());
    let at = format!("/{dir}");
    let two_blocks = (2 * MIB).to_string();
    cluster.control("quota", &[("path", &at), ("space", &two_blocks)], Bytes::new()).await.unwrap();
    let writing = begin(&*store, "file").await;
    let data = noise(3 * MIB);
    writing.write(0, data[..2 * MIB].to_vec().into()).await.unwrap();
    let (kind, message) = why(writing.write(2 * MIB as u64, data[2 * MIB..].to_vec().into())).await;
    assert!(kind == ErrorKind::OverQuota && message.contains("space quota"), "{message}");
    // No close tells success after that.
    assert_eq!(error_of(writing.sync()).await, ErrorKind::OverQuota);
    assert_eq!(error_of(writing.finish()).await, ErrorKind::OverQuota);
    let there = cluster.get(&format!("{at}/file")).await.unwrap();
    assert!(data.starts_with(&there) && there.len() >= 2 * MIB, "{}", there.len());
    cluster.control("quota", &[("path", &at), ("names", "2")], Bytes::new()).await.unwrap();
    let (kind, message) = why(store.make_file(&path("second"), 0o644)).await;
    assert!(kind == ErrorKind::OverQuota && message.contains("names"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_says_why() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let good = config(cluster);
    let web = Config { webhdfs: vec!["http://127.0.0.1:1".into()], ..good.clone() };
    let rpc = Config { namenodes: vec!["127.0.0.1:1".into()], ..good.clone() };
    let dir = cluster.fresh("alice").await.unwrap();
    let [no_web, no_rpc] = [&web, &rpc].map(|config| connect(config, "alice", &dir, hasty()));
    let (root, made) = (Path::root(), path("dir"));
    let ((kind, message), made) = tokio::join!(why(no_web.stat(&root)), error_of(no_rpc.make_dir(&made)));
    assert!(kind == ErrorKind::Unavailable && message.contains("WebHDFS cannot be reached"), "{message}");
    assert_eq!(made, ErrorKind::Unavailable);
    // The first of two that does not answer is passed over.
    let both = Config {
        namenodes: vec!["127.0.0.1:1".into(), cluster.namenode().into()],
        webhdfs: vec!["http://127.0.0.1:1".into(), cluster.webhdfs().into()],
        ..good.clone()
    };
    let store = connect(&both, "alice", &dir, limits());
    put(&*store, "file", "content").await;
    let file = version(&*store, "file").await;
    assert_eq!(content(&*store, &file).await.unwrap(), b"content");
    let address = backend::Config::Hdfs(good.clone());
    backend::reach(&address, Duration::from_secs(5)).await.unwrap();
    let nowhere = backend::Config::Hdfs(web);
    assert_eq!(error_of(backend::reach(&nowhere, Duration::from_secs(1))).await, ErrorKind::Unavailable);
    let other = Credential::Anonymous;
    let refused = backend::connect(&address, &other, &Path::root(), limits()).map(drop);
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn datanodes_that_stop_are_read_and_written_around() {
    // A DataNode that is silent for 3 s is given no more blocks, so that the test is over sooner. And busy ones are: of a block
    // that the name node places on the dead one alone the library cannot let go.
    let soon = "dfs.namenode.stale.datanode.interval=3000;dfs.namenode.avoid.write.stale.datanode=true;\
                dfs.namenode.avoid.read.stale.datanode=true;dfs.namenode.heartbeat.recheck-interval=500;\
                dfs.namenode.redundancy.considerLoad=false";
    let words = [("replication", "2"), ("datanodes", "3"), ("conf", soon)];
    let Some(cluster) = Hadoop::start(&words).await.unwrap() else { return };
    let dir = cluster.fresh("alice").await.unwrap();
    // As a volume's default is. The DataNode that leads a recovery gives the dead one up after some 11 s.
    let patient = Limits { timeout: Duration::from_secs(60).into(), ..limits() };
    let store = connect(&config(&cluster), "alice", &dir, patient);
    let data = noise(6 * MIB);
    let file = put(&*store, "file", data.clone()).await;
    let mut body = store.read(&file, 0..file.size, Intent::Demand).await.unwrap();
    let mut read = body.try_next().await.unwrap().unwrap().to_vec();
    let writing = begin(&*store, "written").await;
    writing.write(0, data[..MIB + 5_000].to_vec().into()).await.unwrap();
    writing.sync().await.unwrap();
    writing.write(MIB as u64 + 5_000, data[MIB + 5_000..2 * MIB - 7].to_vec().into()).await.unwrap();

    cluster.control("datanode/stop", &[("i", "0")], Bytes::new()).await.unwrap();
    while let Some(piece) = body.try_next().await.unwrap() {
        read.extend_from_slice(&piece);
    }
    assert!(read == data);
    assert!(content(&*store, &file).await.unwrap() == data);
    let mut at = 2 * MIB - 7;
    while at < data.len() {
        let end = (at + 500_000).min(data.len());
        writing.write(at as u64, data[at..end].to_vec().into()).await.unwrap();
        at = end;
    }
    writing.finish().await.unwrap();
    assert!(cluster.get(&format!("/{dir}/written")).await.unwrap() == data);

    // All of them: what is told to be written is either there or the close fails.
    let lost = connect(&config(&cluster), "alice", &dir, hasty());
    let writing = begin(&*lost, "lost").await;
    writing.write(0, data[..MIB / 2].to_vec().into()).await.unwrap();
    for number in ["1", "2"] {
        cluster.control("datanode/stop", &[("i", number)], Bytes::new()).await.unwrap();
    }
    let begun = Instant::now();
    assert!(writing.finish().await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(writing.finish().await.is_err());
    assert!(writing.sync().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_cluster_is_given_up_in_time_and_gone_on_with() {
    let Some(cluster) = Hadoop::by_turns().await.unwrap() else { return };
    let dir = cluster.fresh("alice").await.unwrap();
    let store = connect(&config(&cluster), "alice", &dir, hasty());
    let data = noise(2 * MIB);
    let file = put(&*store, "file", data.clone()).await;
    let writing = begin(&*store, "written").await;
    writing.write(0, "before".into()).await.unwrap();
    cluster.freeze().unwrap();
    let begun = Instant::now();
    let fresh = connect(&config(&cluster), "alice", &dir, hasty());
    let (stat, made) = (path("file"), path("dir"));
    let errors = tokio::join!(
        error_of(content(&*fresh, &file)),
        error_of(store.stat(&stat)),
        error_of(store.make_dir(&made)),
        error_of(writing.sync())
    );
    assert_eq!(<[ErrorKind; 4]>::from(errors), [ErrorKind::Unavailable; 4]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    cluster.thaw().unwrap();
    let patient = connect(&config(&cluster), "alice", &dir, limits());
    assert!(content(&*patient, &file).await.unwrap() == data);
    // Who was told that it failed is never told that it succeeded.
    assert_eq!(error_of(writing.finish()).await, ErrorKind::Unavailable);

    cluster.control("safemode", &[("on", "true")], Bytes::new()).await.unwrap();
    let (kind, message) = why(store.make_dir(&path("dir"))).await;
    assert!(kind == ErrorKind::Unavailable && message.contains("safe mode"), "{message}");
    assert!(content(&*store, &version(&*store, "file").await).await.unwrap() == data);
    let address = backend::Config::Hdfs(config(&cluster));
    let told = backend::reach(&address, Duration::from_secs(5)).await.unwrap_err();
    assert!(told.kind == ErrorKind::Throttled && told.message.contains("safe mode"), "{told}");
    cluster.control("safemode", &[("on", "false")], Bytes::new()).await.unwrap();
    backend::reach(&address, Duration::from_secs(5)).await.unwrap();
    patient.make_dir(&path("dir")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_demands_kerberos_is_told_as_such() {
    let Some(cluster) = Hadoop::start(&[("datanodes", "1"), ("kerberos", "true")]).await.unwrap() else { return };
    let store = connect(&config(&cluster), "alice", "user/alice", hasty());
    let (kind, message) = why(store.stat(&Path::root())).await;
    assert!(kind == ErrorKind::Unauthenticated && message.contains("Kerberos"), "{message}");
    let (_, message) = why(store.make_file(&path("file"), 0o644)).await;
    assert!(message.contains("Kerberos"), "{message}");
    // Nobody's word is believed.
    let forged = connect(&config(&cluster), "hdfs", "", hasty());
    assert!(forged.stat(&Path::root()).await.is_err() && forged.make_dir(&path("dir")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn df_shows_what_the_cluster_has_room_for() {
    let Some(cluster) = Hadoop::by_turns().await.unwrap() else { return };
    let [known, fresh] = [(), ()].map(|()| connect(&config(&cluster), "alice", "user/alice", hasty()));
    let told = known.space().await.unwrap().unwrap();
    assert!(told.total > 0 && told.available <= told.total && told.files == 0, "{told:?}");
    cluster.freeze().unwrap();
    assert_eq!(known.space().await.unwrap(), Some(told));
    // One asks, and nobody waits behind it.
    let begun = Instant::now();
    let quick = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let outcome = why(fresh.space()).await;
        (outcome, begun.elapsed())
    };
    let (slow, ((kind, _), took)) = tokio::join!(error_of(fresh.space()), quick);
    assert_eq!((slow, kind), (ErrorKind::Unavailable, ErrorKind::Unavailable));
    assert!(took < Duration::from_secs(2) && begun.elapsed() > took, "{took:?}");
    cluster.thaw().unwrap();
    assert!(fresh.space().await.unwrap().is_some());
}
