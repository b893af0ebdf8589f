//! Which targets share a worker, and that one's end is not the others'.

use super::*;

/// Pods of one job start together: one worker, and it lives as long as one of them shows it.
#[test]
fn fifty_publishes_at_once_make_one_worker() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    let names: Vec<_> = (0..50).map(|number| format!("pod-{number}")).collect();
    let at_once = async |requests: Vec<Publish>| {
        futures::future::join_all(requests.into_iter().map(|request| workers.publish(request))).await
    };
    let requests = || names.iter().map(|name| rig.request_of("team", name)).collect::<Vec<_>>();
    for outcome in rig.runtime.block_on(at_once(requests())) {
        outcome.unwrap();
    }
    let worker = rig.worker();
    assert_eq!(rig.mounts().len(), 51, "one private and fifty targets");
    assert!(names.iter().all(|name| rig.hello(name).unwrap() == "hello, world"));
    let leave = async |names: &[String]| {
        let targets: Vec<_> = names.iter().map(|name| rig.target(name)).collect();
        futures::future::join_all(targets.iter().map(|target| workers.unpublish(VOLUME, target))).await
    };
    for outcome in rig.runtime.block_on(leave(&names[1..])) {
        outcome.unwrap();
    }
    assert_eq!(rig.hello(&names[0]).unwrap(), "hello, world");
    assert_eq!((rig.worker(), rig.mounts().len()), (worker, 2));
    rig.unpublish(&workers, &names[0]).unwrap();
    rig.assert_clean(&[worker]);

    // Where it fails, it fails once, and everybody is told.
    rig.server.reset_counters();
    let wrong = requests().into_iter().map(|request| Publish { credential: keys("wrong"), ..request });
    for outcome in rig.runtime.block_on(at_once(wrong.collect())) {
        assert!(matches!(&outcome, Err(Error::Store { kind: ErrorKind::Unauthenticated, .. })), "{outcome:?}");
    }
    assert_eq!(rig.server.counters().of(Kind::ListObjectsV2), 1);
    rig.assert_clean(&[]);
}

#[test]
fn what_differs_shares_no_worker() {
    let Some(rig) = Rig::new() else { return };
    rig.server.users().add(User::new("other-key-id", SECRET));
    let workers = rig.workers();
    let read_only = |mut request: Publish| {
        request.spec.read_only = true;
        request
    };
    let other =
        Credential::S3 { key_id: "other-key-id".into(), secret_key: Secret::new(SECRET.into()), session_token: None };
    let requests = [
        rig.request_of("team", "a"),
        rig.request_of("other-team", "b"),
        read_only(rig.request_of("team", "c")),
        Publish { fs_group: Some(0), ..rig.request_of("team", "d") },
        Publish { credential: other, ..rig.request_of("team", "e") },
        rig.request("f"),
        rig.request("g"),
    ];
    let count = requests.len();
    for request in requests {
        rig.publish(&workers, request).unwrap();
    }
    let field = |field: fn(&serde_json::Value) -> &serde_json::Value| {
        rig.records().iter().map(|record| field(record).to_string()).collect::<std::collections::HashSet<_>>().len()
    };
    assert_eq!(field(|record| &record["worker"]["pid"]), count);
    assert_eq!(field(|record| &record["uid"]), count);
    rig.publish(&workers, rig.request_of("team", "z")).unwrap();
    assert_eq!(rig.records().len(), count, "and what does not, does");
    for target in ["a", "b", "c", "d", "e", "f", "g", "z"] {
        rig.unpublish(&workers, target).unwrap();
    }
    rig.assert_clean(&[]);
}

/// One target of a shared mount in use, unpublished, gone by hand: the others read on.
#[test]
fn a_targets_end_is_not_the_others() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    for target in ["a", "b", "c"] {
        rig.publish(&workers, rig.request_of("team", target)).unwrap();
    }
    let worker = rig.worker();
    let open = fs::File::open(rig.target("a").join("hello")).unwrap();
    let busy = rig.unpublish(&workers, "a").unwrap_err().to_string();
    assert!(busy.contains("in use"), "{busy}");
    nix::mount::umount2(&rig.target("b"), MntFlags::empty()).unwrap();
    rig.publish(&workers, rig.request_of("team", "b")).unwrap();
    assert_eq!(rig.hello("b").unwrap(), "hello, world");
    rig.unpublish(&workers, "b").unwrap();
    assert_eq!(rig.hello("c").unwrap(), "hello, world");
    drop(open);
    rig.unpublish(&workers, "a").unwrap();
    assert_eq!(rig.hello("c").unwrap(), "hello, world");
    assert_eq!(rig.worker(), worker);
    rig.unpublish(&workers, "c").unwrap();
    rig.assert_clean(&[worker]);
}

/// Each target of a mount that died is replaced when it comes again; all of them then share the next one.
#[test]
fn the_targets_of_a_killed_worker_share_the_next() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    for target in ["a", "b", "c"] {
        rig.publish(&workers, rig.request_of("team", target)).unwrap();
    }
    let first = rig.worker();
    let uid = rig.records()[0]["uid"].clone();
    kill(first, Signal::SIGKILL).unwrap();
    rig.publish(&workers, rig.request_of("team", "d")).unwrap();
    for target in ["b", "c"] {
        assert_eq!(errno(rig.hello(target)), Errno::ENOTCONN);
        rig.publish(&workers, rig.request_of("team", target)).unwrap();
        assert_eq!(rig.hello(target).unwrap(), "hello, world");
    }
    // The one whose pod ends without being published again.
    rig.unpublish(&workers, "a").unwrap();
    let second = rig.worker();
    assert_eq!((rig.records()[0]["uid"].clone(), rig.mounts().len()), (uid, 4), "{:?}", rig.mounts());
    for target in ["b", "c", "d"] {
        rig.unpublish(&workers, target).unwrap();
    }
    rig.assert_clean(&[first, second]);
}

/// Targets of two namespaces come and go at once, each again and again.
#[test]
fn two_hundred_publishes_and_unpublishes_at_once_leave_nothing() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers_with(SOON);
    let pod = async |number: usize| {
        let (namespace, target) = (["team", "other"][number % 2], format!("pod-{number}"));
        for _ in 0..10 {
            workers.publish(rig.request_of(namespace, &target)).await.unwrap();
            let file = rig.target(&target).join("hello");
            let read = tokio::task::spawn_blocking(move || fs::read_to_string(file)).await.unwrap();
            assert_eq!(read.unwrap(), "hello, world");
            workers.unpublish(VOLUME, &rig.target(&target)).await.unwrap();
        }
    };
    rig.runtime.block_on(futures::future::join_all((0..20).map(pod)));
    rig.assert_clean(&[]);
    eventually("no worker is left", || workers_of(&rig.state()).is_empty());
}

/// A target whose pod is gone without an unpublish, with all that belonged to it.
#[test]
fn what_nobody_unpublished_is_collected() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    fs::create_dir(rig.target("pod")).unwrap();
    for target in ["pod/mount", "stays"] {
        rig.publish(&workers, rig.request_of(target.split('/').next().unwrap(), target)).unwrap();
    }
    let gone = rig.target("pod/mount");
    rig.runtime.block_on(workers.tidy()).unwrap();
    assert_eq!((rig.records().len(), rig.mounts().len()), (2, 4));
    nix::mount::umount2(&gone, MntFlags::empty()).unwrap();
    fs::remove_dir(&gone).unwrap();
    fs::remove_dir(rig.target("pod")).unwrap();
    // As a worker's mount that is made but never recorded would be left.
    fs::create_dir(rig.state().join("mounts/0123456789abcdef")).unwrap();
    rig.runtime.block_on(workers.tidy()).unwrap();
    assert_eq!((rig.records().len(), rig.mounts().len()), (1, 2), "{:?}", rig.mounts());
    assert_eq!(rig.hello("stays").unwrap(), "hello, world");
    rig.unpublish(&workers, "stays").unwrap();
    rig.assert_clean(&[]);
}

/// The records are lost, and with them who shares what: the table of mounts tells which target is the last.
#[test]
fn a_shared_mount_without_its_records_goes_with_its_last_target() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    for target in ["a", "b"] {
        rig.publish(&workers, rig.request_of("team", target)).unwrap();
    }
    let worker = rig.worker();
    drop(workers);
    for entry in walk(&rig.state()).into_iter().filter(|path| path.extension().is_some_and(|e| e == "json")) {
        fs::remove_file(entry).unwrap();
    }
    let workers = rig.workers();
    rig.unpublish(&workers, "a").unwrap();
    assert_eq!(rig.hello("b").unwrap(), "hello, world");
    rig.unpublish(&workers, "b").unwrap();
    rig.assert_clean(&[worker]);
}

/// With a pod's fsGroup, as the node service puts it into the options: whoever is in the group writes.
#[test]
fn the_pods_group_writes_and_hands_the_group_on() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    let mut request = Publish { fs_group: Some(2000), ..rig.request_of("team", "a") };
    let options = &mut request.spec.options;
    (options.gid, options.file_mode, options.dir_mode) = (2000, 0o660, 0o2770);
    rig.publish(&workers, request).unwrap();
    for dir in [&rig.dir, &rig.dir.join("targets")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
    }
    let run = |gid: u32, line: &str| {
        let mut shell = Command::new("sh");
        std::os::unix::process::CommandExt::uid(&mut shell, 12_345);
        std::os::unix::process::CommandExt::gid(&mut shell, gid);
        shell.args(["-c", line]).current_dir("/").env("T", rig.target("a")).output().unwrap()
    };
    let wrote = run(2000, "cd $T && cat hello && mkdir d && echo x >d/f && stat -c '%g %a' d d/f");
    let text = String::from_utf8_lossy(&wrote.stdout).into_owned();
    assert_eq!(text, "hello, world2000 2770\n2000 660\n", "{}", String::from_utf8_lossy(&wrote.stderr));
    assert!(!run(2001, "cat $T/hello").status.success());
    assert_eq!(rig.server.get("bucket", "data/d/f").unwrap().bytes, "x\n");
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[]);
}
