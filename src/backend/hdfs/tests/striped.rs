//! Erasure-coded files: they are read and written, and neither synced before they are closed nor mended.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn erasure_coded_files_are_written_whole_and_not_synced() {
    let Some(cluster) = Hadoop::start(&[("datanodes", "5"), ("replication", "2")]).await.unwrap() else { return };
    let dir = cluster.fresh("alice").await.unwrap();
    let policy = [("path", format!("/{dir}")), ("name", "RS-3-2-1024k".to_owned())];
    let policy: Vec<(&str, &str)> = policy.iter().map(|(word, value)| (*word, value.as_str())).collect();
    cluster.control("policy", &policy, Bytes::new()).await.unwrap();
    let store = connect(&config(&cluster), "alice", &dir, limits());
    // Of five DataNodes, three fifths hold striped files, and a half holds files of two replicas.
    let plain = connect(&config(&cluster), "alice", &cluster.fresh("alice").await.unwrap(), limits());
    let [striped, plain] = [&store, &plain].map(|store| store.space());
    let (striped, plain) = (striped.await.unwrap().unwrap(), plain.await.unwrap().unwrap());
    assert!((5 * striped.total).abs_diff(6 * plain.total) < plain.total / 100, "{striped:?} {plain:?}");
    let data = noise(7 * MIB + 123);
    let writing = begin(&*store, "ours").await;
    for (at, piece) in data.chunks(MIB).enumerate() {
        writing.write((at * MIB) as u64, Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert_eq!(error_of(writing.sync()).await, ErrorKind::Unsupported);
    let ours = version(&*store, "ours").await;
    assert_eq!(error_of(content(&*store, &ours)).await, ErrorKind::Busy);
    writing.finish().await.unwrap();
    assert!(cluster.get(&format!("/{dir}/ours")).await.unwrap() == data);
    writing.write(data.len() as u64, "tail".into()).await.unwrap();
    writing.finish().await.unwrap();
    assert!(cluster.get(&format!("/{dir}/ours")).await.unwrap() == [&data[..], b"tail"].concat());
    cluster.put(&format!("/{dir}/theirs"), "alice", data.clone()).await.unwrap();
    let theirs = version(&*store, "theirs").await;
    assert!(content(&*store, &theirs).await.unwrap() == data);
    cluster.control("datanode/stop", &[("i", "1")], Bytes::new()).await.unwrap();
    let fresh = connect(&config(&cluster), "alice", &dir, limits());
    assert!(content(&*fresh, &theirs).await.unwrap() == data);
}
