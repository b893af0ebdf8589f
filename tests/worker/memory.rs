//! A worker's memory cgroup, by the kernel's own (version 1; version 2 has its tests in src/mount/cgroup).

use data_encoding::HEXLOWER;

use super::*;

/// The directory of this process's own memory cgroup, version 1.
fn own() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = text.lines().find_map(|line| line.split_once(":memory:"))?.1;
    Some(Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/')))
}

/// What begins the names of the cgroups of a node plugin with that state directory.
fn prefix_of(state: &Path) -> String {
    let mounts = state.join("mounts");
    format!("millrace-{}-", HEXLOWER.encode(&Sha256::digest(mounts.as_os_str().as_encoded_bytes())[..4]))
}

/// Cgroups of the workers of a node plugin with that state directory.
pub(super) fn cgroups_of(state: &Path) -> Vec<PathBuf> {
    let prefix = prefix_of(state);
    let entries = own().and_then(|own| fs::read_dir(own).ok()).into_iter().flatten().filter_map(Result::ok);
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    ours.map(|entry| entry.path()).collect()
}

/// After a test that failed. Its workers have been killed.
pub(super) fn remove_cgroups(state: &Path) {
    for cgroup in cgroups_of(state) {
        let begun = Instant::now();
        // Busy until what was killed has ended.
        while fs::remove_dir(&cgroup).is_err() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Of a worker; `None`, with a word, where this machine lets nobody make any.
pub(super) fn cgroup_of(rig: &Rig, worker: Pid) -> Option<PathBuf> {
    let is_its = |dir: &PathBuf| {
        let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        processes.lines().any(|line| line == worker.to_string())
    };
    let found = cgroups_of(&rig.state()).into_iter().find(is_its);
    if found.is_none() {
        let can_be_made = own().is_some_and(|own| {
            let probe = own.join(format!("millrace-tried-{}", std::process::id()));
            fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).is_ok()
        });
        assert!(!can_be_made, "the worker has no cgroup");
        eprintln!("skipped: no memory cgroup (version 1) that may be written");
    }
    found
}

fn number(dir: &Path, file: &str) -> u64 {
    fs::read_to_string(dir.join(file)).unwrap().trim().parse().unwrap()
}

/// The workers that show these targets.
fn workers_at<const N: usize>(rig: &Rig, volumes: [&str; N]) -> [Pid; N] {
    volumes.map(|volume| {
        let records = rig.records();
        let record = records.iter().find(|record| record["volume_id"] == volume && record["worker"]["pid"].is_i64());
        Pid::from_raw(record.unwrap()["worker"]["pid"].as_i64().unwrap() as i32)
    })
}

fn of_volume(rig: &Rig, volume: &str) -> Publish {
    let mut request = rig.request(volume);
    request.spec.volume_id = volume.into();
    request
}

#[test]
fn an_out_of_memory_kill_takes_one_mount() {
    let Some(rig) = Rig::new() else { return };
    rig.server.put_computed("bucket", "data/large", 1, 64 << 20);
    let workers = rig.workers();
    for volume in ["greedy", "modest"] {
        rig.publish(&workers, of_volume(&rig, volume)).unwrap();
    }
    let [greedy, modest] = workers_at(&rig, ["greedy", "modest"]);
    let Some(cgroup) = cgroup_of(&rig, greedy) else { return };
    assert_eq!(number(&cgroup, "memory.limit_in_bytes"), (32 + 96) << 20);
    // As one that leaks: what it reads ahead is then too much.
    let tight = (number(&cgroup, "memory.usage_in_bytes") + (1 << 20)).next_multiple_of(4096);
    fs::write(cgroup.join("memory.limit_in_bytes"), tight.to_string()).unwrap();

    let outcome = errno(fs::read(rig.target("greedy").join("large")));
    assert!(matches!(outcome, Errno::ENOTCONN | Errno::ECONNABORTED), "{outcome}");
    eventually("the greedy worker is gone", || !is_running(greedy));
    let mut why = String::new();
    eventually("its end is explained", || {
        let usage = rig.runtime.block_on(workers.usage("greedy", &rig.target("greedy")));
        why = usage.unwrap_err().to_string();
        why.contains("raise `memory`")
    });
    assert!(why.contains(&format!("{} MiB", tight >> 20)) && why.contains("SIGKILL"), "{why}");

    assert_eq!(rig.hello("modest").unwrap(), "hello, world");
    assert!(is_running(modest));
    rig.publish(&workers, of_volume(&rig, "greedy")).unwrap();
    assert_eq!(fs::read(rig.target("greedy").join("large")).unwrap().len(), 64 << 20);
    for volume in ["greedy", "modest"] {
        rig.runtime.block_on(workers.unpublish(volume, &rig.target(volume))).unwrap();
    }
    rig.assert_clean(&[greedy, modest]);
}

#[test]
fn cgroups_that_a_dead_node_plugin_left_are_collected() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    rig.publish(&workers, rig.request("a")).unwrap();
    let worker = rig.worker();
    let Some(used) = cgroup_of(&rig, worker) else { return };
    drop(workers);
    let empty = own().unwrap().join(format!("{}0123456789abcdef", prefix_of(&rig.state())));
    let held = empty.with_file_name(format!("{}fedcba9876543210", prefix_of(&rig.state())));
    let other = empty.with_file_name(format!("millrace-00000000-{}", std::process::id()));
    for dir in [&empty, &held, &other] {
        fs::create_dir(dir).unwrap();
    }
    // A worker whose node plugin was killed before it had noted it.
    let mut unknown = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(held.join("cgroup.procs"), unknown.id().to_string()).unwrap();

    // The lock of the state directory goes with the last task of the one before.
    let mut next = None;
    eventually("the next one starts", || {
        next = rig.runtime.block_on(Workers::start(config(&rig.state(), SOON))).ok();
        next.is_some()
    });
    assert_eq!(cgroups_of(&rig.state()), [used]);
    assert!(other.exists());
    fs::remove_dir(other).unwrap();
    assert!(!unknown.wait().unwrap().success());
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    rig.unpublish(&next.unwrap(), "a").unwrap();
    rig.assert_clean(&[worker]);
}

/// Many readers of large files, each connection with its TLS and its part of a window.
#[test]
fn a_worker_with_64_connections_over_tls_keeps_to_its_memory() {
    const BUDGET: u64 = 64 << 20;
    const READERS: usize = 64;
    const LENGTH: u64 = 8 << 20;
    let Some(rig) = Rig::new() else { return };
    let options = Options {
        users: vec![User::new(KEY, SECRET)],
        buckets: vec!["bucket".into()],
        tls: true,
        conditions: Conditions { first_byte: Duration::from_millis(5), ..Conditions::default() },
        ..Options::default()
    };
    let server = rig.runtime.block_on(Server::start(options)).unwrap();
    for number in 0..READERS {
        server.put_computed("bucket", &format!("data/{number}"), number as u64, LENGTH);
    }
    let workers = rig.workers();
    let mut request = request(&server.endpoint(), &rig.target("a"));
    let backend::Config::S3(config) = &mut request.spec.backend else { panic!("it is S3") };
    (config.max_connections, config.ca_bundle) = (64, server.ca_pem().map(str::to_owned));
    request.spec.options.memory = BUDGET;
    rig.publish(&workers, request).unwrap();
    let worker = rig.worker();
    let Some(cgroup) = cgroup_of(&rig, worker) else { return };
    assert_eq!(number(&cgroup, "memory.limit_in_bytes"), BUDGET + (96 << 20));

    let anonymous = || {
        let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    let idle = anonymous();
    let done = std::sync::atomic::AtomicUsize::new(0);
    let most = std::thread::scope(|scope| {
        for number in 0..READERS {
            let (path, done) = (rig.target("a").join(number.to_string()), &done);
            scope.spawn(move || {
                let read = std::io::copy(&mut fs::File::open(path).unwrap(), &mut std::io::sink());
                done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                assert_eq!(read.unwrap(), LENGTH);
            });
        }
        let mut most = 0;
        while done.load(std::sync::atomic::Ordering::Relaxed) < READERS {
            most = most.max(anonymous());
            std::thread::sleep(Duration::from_millis(5));
        }
        most
    });
    let charged = number(&cgroup, "memory.max_usage_in_bytes");
    eprintln!("idle {} KiB, at most {} KiB, charged {} KiB", idle >> 10, most >> 10, charged >> 10);
    assert!(most <= BUDGET + (64 << 20), "{most} bytes are more than the budget and 64 MiB");
    assert!(charged < BUDGET + (96 << 20));
    assert!(is_running(worker));
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
}
