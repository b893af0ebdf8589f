//! One limit of a volume, kept by all of its workers on a node together.

use std::fs::File;
use std::io::Write;

use super::*;

const LIMIT: u64 = 1_000_000;
/// What lies in the volume before anybody mounts it, beside `hello`.
const THERE: u64 = 100_000;
const HELLO: u64 = 12;

/// Of a volume that CreateVolume made, with a limit.
fn limited(rig: &Rig, key_id: &str, target: &str) -> Publish {
    let secret_key = Secret::new(SECRET.into());
    let credential = Credential::S3 { key_id: key_id.into(), secret_key, session_token: None };
    let mut request = Publish { credential, ..rig.request_of(target, target) };
    request.spec.generation = Some("abcdefghij".into());
    request
}

fn bytes(count: u64) -> Vec<u8> {
    vec![7; count as usize]
}

/// Until the worker of `target` knows of so many bytes.
fn knows(rig: &Rig, workers: &Workers, target: &str, used: u64) {
    let begun = Instant::now();
    loop {
        let usage = rig.usage(workers, target).unwrap();
        if usage.used_bytes == used && usage.counted_s.is_some() && usage.limit == Some(LIMIT) {
            return;
        }
        assert!(begun.elapsed() < SOON, "{target} was to know of {used}: {usage:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A worker's word is with the node plugin within a tenth of a second; this is with margin.
const WORD: Duration = Duration::from_secs(1);

#[test]
fn identities_on_one_node_keep_one_limit_together() {
    let Some(rig) = Rig::new() else { return };
    let file = format!(r#"{{"format":1,"generation":"abcdefghij","limit":{LIMIT}}}"#);
    rig.server.put("bucket", "data/.millrace/volume.json", file);
    rig.server.put("bucket", "data/dir/there", bytes(THERE));
    for name in ["other-id", "third-id"] {
        rig.server.users().add(User::new(name, SECRET));
    }
    let workers = rig.workers();
    rig.publish(&workers, limited(&rig, KEY, "a")).unwrap();
    let before = THERE + HELLO;
    knows(&rig, &workers, "a", before);

    // What one has counted no other counts, once the node plugin has heard of it.
    std::thread::sleep(WORD);
    rig.server.reset_counters();
    rig.publish(&workers, limited(&rig, "other-id", "b")).unwrap();
    assert_eq!(rig.records().len(), 2);
    knows(&rig, &workers, "b", before);
    assert_eq!(rig.server.counters().of(Kind::ListObjectsV2), 0);

    fs::write(rig.target("a").join("first"), bytes(500_000)).unwrap();
    knows(&rig, &workers, "b", before + 500_000);
    assert_eq!(errno(fs::write(rig.target("b").join("large"), bytes(400_001))), Errno::ENOSPC);
    fs::remove_file(rig.target("b").join("large")).unwrap();
    knows(&rig, &workers, "a", before + 500_000);
    // What is being written counts before it is in the store.
    let mut half = File::create(rig.target("b").join("half")).unwrap();
    half.write_all(&bytes(300_000)).unwrap();
    knows(&rig, &workers, "a", before + 800_000);
    assert_eq!(errno(fs::write(rig.target("a").join("second"), bytes(100_000))), Errno::ENOSPC);
    fs::remove_file(rig.target("a").join("second")).unwrap();
    let statvfs = nix::sys::statvfs::statvfs(&rig.target("a")).unwrap();
    let blocks = (before + 800_000).div_ceil(4096);
    assert_eq!(statvfs.blocks() - statvfs.blocks_free(), blocks, "df says the same");
    drop(half);
    knows(&rig, &workers, "a", before + 800_000);
    // Room is made by whoever removes.
    fs::remove_file(rig.target("a").join("first")).unwrap();
    knows(&rig, &workers, "b", before + 300_000);
    fs::write(rig.target("b").join("large"), bytes(500_000)).unwrap();

    // The next node plugin knows nothing, and hears it from them.
    drop(workers);
    fs::remove_file(rig.target("b").join("large")).unwrap();
    rig.server.reset_counters();
    let workers = rig.workers();
    std::thread::sleep(WORD);
    rig.publish(&workers, limited(&rig, "third-id", "c")).unwrap();
    for target in ["a", "b", "c"] {
        knows(&rig, &workers, target, before + 300_000);
    }
    assert_eq!(rig.server.counters().of(Kind::ListObjectsV2), 0);

    // What is never published, since its worker was killed, is given back.
    let half =
        File::create(rig.target("c").join("never")).map(|mut file| file.write_all(&bytes(200_000)).map(|()| file));
    knows(&rig, &workers, "a", before + 500_000);
    let device = |line: &String| line.split(' ').nth(2).unwrap().to_owned();
    let shown = rig.mounts().into_iter().find(|line| line.contains("/targets/c ")).unwrap();
    let record = rig.records().into_iter().find(|record| record["device"] == device(&shown)).unwrap();
    kill(Pid::from_raw(record["worker"]["pid"].as_i64().unwrap() as i32), Signal::SIGKILL).unwrap();
    drop(half);
    knows(&rig, &workers, "a", before + 300_000);
    for target in ["a", "b", "c"] {
        rig.unpublish(&workers, target).unwrap();
    }
    rig.assert_clean(&[]);
}
