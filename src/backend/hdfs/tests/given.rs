//! What is read of which DataNode, by the DataNodes' own count.

use super::*;

/// Reads that each of three DataNodes has answered, and with how many bytes, checksums included; the first has this
/// machine's address.
async fn given(cluster: &Hadoop) -> [(u64, u64); 3] {
    let mut all = [(0, 0); 3];
    for (number, counts) in all.iter_mut().enumerate() {
        let told = cluster.control("datanode/given", &[("i", &number.to_string())], Bytes::new()).await.unwrap();
        let told = std::str::from_utf8(&told).unwrap();
        let (reads, bytes) = told.split_once(' ').unwrap();
        *counts = (reads.parse().unwrap(), bytes.parse().unwrap());
    }
    all
}

/// A DataNode counts a read after its last byte has been sent.
async fn settled(cluster: &Hadoop, until: impl Fn([(u64, u64); 3]) -> bool) -> [(u64, u64); 3] {
    for _ in 0..100 {
        let all = given(cluster).await;
        if until(all) {
            return all;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    given(cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_on_this_machine_is_read_here_and_neighbours_that_wait_in_one_read() {
    let Some(cluster) = Hadoop::start(&[("replication", "3")]).await.unwrap() else { return };
    let dir = cluster.fresh("alice").await.unwrap();
    let data = noise(4 * MIB + 5);
    cluster.put(&format!("/{dir}/file"), "alice", data.clone()).await.unwrap();
    let one_connection = Config { connections: 1, ..config(&cluster) };
    let store = connect(&one_connection, "alice", &dir, limits());
    let file = version(&*store, "file").await;

    assert!(content(&*store, &file).await.unwrap() == data);
    let [here, there, away] = settled(&cluster, |all| all[0].0 == 5).await;
    assert!(here.0 == 5 && here.1 >= data.len() as u64, "{here:?}");
    assert_eq!((there, away), ((0, 0), (0, 0)));

    // One holds the connection while sixteen come.
    let first = store.read(&file, 2 * MIB as u64..3 * MIB as u64, Intent::Demand).await.unwrap();
    let neighbours = (0..16).map(|number| {
        let (store, file) = (store.clone(), file.clone());
        tokio::spawn(async move {
            let range = number * 4096..(number + 1) * 4096;
            let pieces: Vec<_> = store.read(&file, range, Intent::Demand).await?.try_collect().await?;
            Ok::<_, backend::Error>(pieces.concat())
        })
    });
    let neighbours: Vec<_> = neighbours.collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let first: Vec<_> = first.try_collect().await.unwrap();
    assert!(first.concat() == data[2 * MIB..3 * MIB]);
    for (number, read) in neighbours.into_iter().enumerate() {
        assert!(read.await.unwrap().unwrap() == data[number * 4096..(number + 1) * 4096], "{number}");
    }
    let [here, ..] = settled(&cluster, |all| all[0].0 == 7).await;
    assert_eq!(here.0, 7);
}
