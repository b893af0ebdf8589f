//! The disk cache of a node: kept for one identity, lent to one worker, and no way around the store's word.

use std::os::unix::fs::{FileExt, MetadataExt};

use millrace::config::CacheMode;
use millrace::mount::CacheDir;
use millrace::observability::metrics::CACHE_WRITTEN_BYTES;
use millrace::sandbox::s3::{Fault, Rule};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::*;

const MIB: usize = 1 << 20;

impl Rig {
    pub(super) fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    pub(super) fn caching_workers(&self) -> Arc<Workers> {
        let cache = Some(CacheDir { path: self.cache(), free_percent: 0 });
        let config = Config { cache, ..config(&self.state(), Duration::from_secs(60)) };
        self.runtime.block_on(Workers::start(config)).unwrap()
    }

    pub(super) fn cached(&self, target: &str) -> Publish {
        let mut request = self.request_of("team", target);
        request.spec.options.cache = CacheMode::Disk;
        request.spec.options.cache_size = 64 << 20;
        request
    }

    /// The directories of parts, with their owners.
    fn parts(&self) -> Vec<(PathBuf, u32)> {
        let entries = fs::read_dir(self.cache()).unwrap().map(|entry| entry.unwrap().path());
        let dirs = entries.filter(|path| path.is_dir());
        let mut parts: Vec<_> = dirs.map(|dir| (dir.clone(), fs::metadata(dir).unwrap().uid())).collect();
        parts.sort();
        parts
    }

    pub(super) fn put_random(&self, name: &str, length: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..length / 8).flat_map(|_| rand::random::<[u8; 8]>()).collect();
        self.server.put("bucket", &format!("data/{name}"), bytes.clone());
        bytes
    }

    pub(super) fn gets(&self) -> u64 {
        self.server.counters().of(Kind::GetObject)
    }
}

fn uid_of(worker: Pid) -> u32 {
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
    uid.unwrap().parse().unwrap()
}

fn cache_ailments(rig: &Rig, workers: &Workers, target: &str) -> Vec<String> {
    let ailments = rig.runtime.block_on(workers.health(VOLUME, Some(&rig.target(target)))).unwrap();
    let of_cache = |ailment| match ailment {
        Ailment::CacheFails(why) => Some(why),
        _ => None,
    };
    ailments.into_iter().filter_map(of_cache).collect()
}

#[test]
fn a_second_mount_reads_from_the_disk_without_one_request_for_data() {
    let Some(rig) = Rig::new() else { return };
    let large = rig.put_random("large", 10 * MIB + 800);
    let small: Vec<_> = (0..20).map(|number| rig.put_random(&format!("small-{number}"), 100_000)).collect();
    let read = || {
        assert!(fs::read(rig.target("a").join("large")).unwrap() == large);
        for (number, bytes) in small.iter().enumerate() {
            assert!(fs::read(rig.target("a").join(format!("small-{number}"))).unwrap() == *bytes, "{number}");
        }
    };
    let mut workers = rig.caching_workers();
    rig.publish(&workers, rig.cached("a")).unwrap();
    let first = rig.worker();
    let uid = uid_of(first);
    read();
    rig.unpublish(&workers, "a").unwrap();
    let parts = rig.parts();
    assert_eq!(parts.iter().map(|(_, owner)| *owner).collect::<Vec<_>>(), [uid]);
    assert_eq!(fs::metadata(&parts[0].0).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(rig.cache()).unwrap().mode() & 0o7777, 0o700);
    for restarted in [false, true] {
        if restarted {
            drop(workers);
            workers = rig.caching_workers();
        }
        rig.server.reset_counters();
        rig.publish(&workers, rig.cached("a")).unwrap();
        assert_eq!(uid_of(rig.worker()), uid);
        read();
        assert_eq!((rig.gets(), cache_ailments(&rig, &workers, "a")), (0, Vec::new()));
        rig.unpublish(&workers, "a").unwrap();
    }
    assert_eq!(rig.parts(), parts);
    rig.assert_clean(&[first]);
}

#[test]
fn past_its_time_a_listing_costs_one_look_a_file_ahead_of_the_reader_and_no_data() {
    let Some(rig) = Rig::new() else { return };
    let put = |number: usize| rig.put_random(&format!("d/{number:03}"), 50_000);
    let mut files: Vec<_> = (0..100).map(put).collect();
    let workers = rig.caching_workers();
    rig.publish(&workers, rig.cached("a")).unwrap();
    let dir = rig.target("a").join("d");
    let read = |files: &[Vec<u8>]| {
        for (number, bytes) in files.iter().enumerate() {
            let path = dir.join(format!("{number:03}"));
            assert!(fs::read(&path).unwrap() == *bytes, "{number}");
            // The worker does not see reads of pages that the kernel has.
            let file = fs::File::open(path).unwrap();
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        }
    };
    fs::read_dir(&dir).unwrap().for_each(drop);
    read(&files);
    files[70] = put(70);
    std::thread::sleep(Duration::from_secs(2));
    rig.server.reset_counters();
    read(&files);
    let counters = rig.server.counters();
    assert!(counters.body_bytes < 150_000, "{counters:?}");
    assert!(counters.of(Kind::GetObject) <= 105 && counters.of(Kind::HeadObject) <= 20, "{counters:?}");
    rig.unpublish(&workers, "a").unwrap();
}

#[test]
fn a_part_and_its_uid_are_one_owners_and_one_workers() {
    let Some(rig) = Rig::new() else { return };
    let bytes = rig.put_random("f", MIB);
    rig.server.users().add(User::new("other-key-id", "other-secret"));
    let workers = rig.caching_workers();
    let read = |target: &str| assert!(fs::read(rig.target(target).join("f")).unwrap() == bytes);
    let secret_key = Secret::new("other-secret".into());
    let other = Credential::S3 { key_id: "other-key-id".into(), secret_key, session_token: None };
    rig.publish(&workers, rig.cached("a")).unwrap();
    read("a");
    for (target, change) in [
        ("identity", Box::new(|r: &mut Publish| r.credential = other.clone()) as Box<dyn Fn(&mut Publish)>),
        ("namespace", Box::new(|r| r.namespace = Some("other".into()))),
        ("group", Box::new(|r| r.fs_group = Some(7))),
    ] {
        let mut request = rig.cached(target);
        change(&mut request);
        let before = rig.gets();
        rig.publish(&workers, request).unwrap();
        read(target);
        assert!(rig.gets() > before, "{target}");
        assert!(cache_ailments(&rig, &workers, target).is_empty());
    }
    let parts = rig.parts();
    let owners: std::collections::HashSet<_> = parts.iter().map(|(_, owner)| *owner).collect();
    assert_eq!((parts.len(), owners.len()), (4, 4));
    // The same owner under another limit of the store: another worker, which finds the part lent.
    let mut second = rig.cached("second");
    second.spec.most_memory += 1;
    rig.publish(&workers, second).unwrap();
    read("second");
    let why = cache_ailments(&rig, &workers, "second");
    assert!(why[0].contains("another worker"), "{why:?}");
    // Of a pod of which nothing is known nobody can say whose it is, and without a directory there is no cache.
    let mut unknown = rig.cached("unknown");
    unknown.namespace = None;
    rig.publish(&workers, unknown).unwrap();
    read("unknown");
    assert_eq!(rig.parts(), parts);
    for target in ["a", "identity", "namespace", "group", "second", "unknown"] {
        rig.unpublish(&workers, target).unwrap();
    }
}

#[test]
fn what_the_store_refuses_is_given_out_no_more() {
    let Some(rig) = Rig::new() else { return };
    let bytes = rig.put_random("f", MIB);
    let workers = rig.caching_workers();
    let mut request = rig.cached("a");
    request.spec.options.auth_ttl = Duration::from_secs(1);
    rig.publish(&workers, request.clone()).unwrap();
    let open = fs::File::open(rig.target("a").join("f")).unwrap();
    let read = || {
        let mut found = vec![0; MIB];
        open.read_exact_at(&mut found, 0).map(|()| found)
    };
    assert!(read().unwrap() == bytes);
    rig.server.users().remove(KEY);
    eventually("it is refused", || read().is_err());
    assert_eq!(errno(read()), Errno::EACCES);
    assert_eq!(errno(fs::read(rig.target("a").join("f"))), Errno::EACCES);
    rig.server.users().add(User::new(KEY, SECRET));
    eventually("it is accepted again", || read().is_ok());
    assert!(read().unwrap() == bytes);
    drop(open);
    rig.unpublish(&workers, "a").unwrap();

    // Who may list but not read any more is not given what an earlier worker kept.
    rig.server.faults().add(Rule::on(Kind::HeadObject, Fault::error(403, "AccessDenied")).always());
    rig.publish(&workers, request).unwrap();
    let why = cache_ailments(&rig, &workers, "a");
    assert!(why[0].contains("does not let this identity read"), "{why:?}");
    rig.server.faults().clear();
    rig.unpublish(&workers, "a").unwrap();
}

#[test]
fn a_store_that_does_not_answer_is_believed_for_a_while() {
    let Some(rig) = Rig::new() else { return };
    let bytes = rig.put_random("f", MIB);
    let workers = rig.caching_workers();
    let mut request = rig.cached("a");
    let options = &mut request.spec.options;
    (options.auth_ttl, options.auth_grace) = (Duration::from_secs(1), Duration::from_secs(4));
    options.timeout = Duration::from_secs(1);
    rig.publish(&workers, request).unwrap();
    let open = fs::File::open(rig.target("a").join("f")).unwrap();
    let read = || {
        let mut found = vec![0; MIB];
        open.read_exact_at(&mut found, 0).map(|()| found)
    };
    assert!(read().unwrap() == bytes);
    rig.server.faults().set_conditions(Conditions { silent: true, ..Conditions::default() });
    let silent = Instant::now();
    while silent.elapsed() < Duration::from_secs(3) {
        assert!(read().unwrap() == bytes);
        std::thread::sleep(Duration::from_millis(100));
    }
    eventually("it is believed no longer", || read().is_err());
    assert_eq!(errno(read()), Errno::EIO);
    rig.server.faults().set_conditions(Conditions::default());
    eventually("it answers again", || read().is_ok());
    drop(open);
    rig.unpublish(&workers, "a").unwrap();
}

/// A file system that is smaller than what the cache may have, and then full of something else.
#[test]
fn a_full_disk_costs_the_cache_and_nothing_else() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.cache()).unwrap();
    let files: Vec<_> = (0..8).map(|number| rig.put_random(&format!("f-{number}"), MIB)).collect();
    for full in [false, true] {
        nix::mount::mount(Some("small"), &rig.cache(), Some("tmpfs"), MsFlags::empty(), Some("size=3m")).unwrap();
        if full {
            fs::write(rig.cache().join("foreign.bin"), vec![0; 11 * MIB / 4]).unwrap();
        }
        let workers = rig.caching_workers();
        rig.publish(&workers, rig.cached("a")).unwrap();
        for _ in 0..2 {
            for (number, bytes) in files.iter().enumerate() {
                assert!(fs::read(rig.target("a").join(format!("f-{number}"))).unwrap() == *bytes);
            }
        }
        if full {
            let is_told = || cache_ailments(&rig, &workers, "a").iter().any(|why| why.contains("full"));
            eventually("health tells", is_told);
        }
        rig.unpublish(&workers, "a").unwrap();
        drop(workers);
        nix::mount::umount2(&rig.cache(), MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn what_a_killed_worker_kept_is_the_next_ones() {
    let Some(rig) = Rig::new() else { return };
    let bytes = rig.put_random("f", 4 * MIB);
    let workers = rig.caching_workers();
    rig.publish(&workers, rig.cached("a")).unwrap();
    assert!(fs::read(rig.target("a").join("f")).unwrap() == bytes);
    // The bytes lie there before it is noted that they do.
    let written = || {
        let (_, volumes) = rig.runtime.block_on(workers.numbers());
        volumes.values().filter_map(|numbers| numbers.get(CACHE_WRITTEN_BYTES, &[])).sum::<u64>()
    };
    eventually("it is kept", || written() >= 4 * MIB as u64);
    kill(rig.worker(), Signal::SIGKILL).unwrap();
    eventually("it is gone", || fs::metadata(rig.target("a").join("f")).is_err());
    rig.server.reset_counters();
    rig.publish(&workers, rig.cached("a")).unwrap();
    assert!(fs::read(rig.target("a").join("f")).unwrap() == bytes);
    assert_eq!(rig.gets(), 0);
    rig.unpublish(&workers, "a").unwrap();
}
