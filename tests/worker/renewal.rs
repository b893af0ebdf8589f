//! A publish that comes again, with the same credential or another.

use super::*;

impl Rig {
    /// Changes the user's secret in the store.
    fn rotate(&self, secret: &str) {
        self.server.users().add(User::new(KEY, secret));
    }

    fn with(&self, secret: &str, target: &str) -> Publish {
        Publish { credential: keys(secret), ..self.request_of("team", target) }
    }

    fn health(&self, workers: &Workers, target: Option<&str>) -> Result<Vec<Ailment>, Error> {
        let target = target.map(|target| self.target(target));
        self.runtime.block_on(workers.health(VOLUME, target.as_deref()))
    }
}

#[test]
fn a_repeated_publish_asks_nothing_of_the_store() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    for target in ["a", "b"] {
        rig.publish(&workers, rig.with(SECRET, target)).unwrap();
    }
    let (worker, mounts) = (rig.worker(), rig.mounts());
    rig.server.reset_counters();
    for _ in 0..20 {
        for target in ["a", "b"] {
            rig.publish(&workers, rig.with(SECRET, target)).unwrap();
        }
    }
    assert_eq!(rig.server.counters().total(), 0);
    assert_eq!((rig.worker(), rig.mounts()), (worker, mounts));
    for target in ["a", "b"] {
        rig.unpublish(&workers, target).unwrap();
    }
    rig.assert_clean(&[worker]);
}

#[test]
fn a_renewed_secret_is_proved_and_goes_to_the_live_worker() {
    let Some(rig) = Rig::new() else { return };
    rig.server.put("bucket", "data/large", vec![7; 8 << 20]);
    let workers = rig.workers();
    rig.publish(&workers, rig.with(SECRET, "a")).unwrap();
    let worker = rig.worker();
    let mut open = fs::File::open(rig.target("a").join("large")).unwrap();
    let mut bytes = vec![0; 1 << 20];
    std::io::Read::read_exact(&mut open, &mut bytes).unwrap();

    let refused = rig.publish(&workers, rig.with("wrong", "a"));
    assert!(matches!(&refused, Err(Error::ChangeRefused { kind: ErrorKind::Unauthenticated, .. })), "{refused:?}");
    let ailing = rig.health(&workers, Some("a")).unwrap();
    assert!(
        matches!(&ailing[..], [Ailment::CredentialRefused(why)] if why.contains("the one before is in force")),
        "{ailing:?}"
    );
    fs::write(rig.target("a").join("old"), "by the old one").unwrap();

    rig.rotate("rotated");
    rig.publish(&workers, rig.with("rotated", "a")).unwrap();
    assert_eq!(rig.health(&workers, None).unwrap(), []);
    fs::write(rig.target("a").join("new"), "by the new one").unwrap();
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut open, &mut rest).unwrap();
    assert!(rest.len() == 7 << 20 && rest.iter().all(|byte| *byte == 7));
    assert_eq!((rig.worker(), rig.mounts().len()), (worker, 2));
    for entry in walk(&rig.state()) {
        let text = fs::read(&entry).unwrap();
        assert!(!["canary", "rotated"].iter().any(|word| text.windows(word.len()).any(|w| w == word.as_bytes())));
    }
    drop(open);
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
}

#[test]
fn a_shared_worker_goes_over_when_all_have_brought_it() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    for target in ["a", "b"] {
        rig.publish(&workers, rig.with(SECRET, target)).unwrap();
    }
    let worker = rig.worker();
    rig.rotate("rotated");
    for _ in 0..2 {
        let early = rig.publish(&workers, rig.with("rotated", "a"));
        assert!(matches!(&early, Err(Error::NotInForce(why)) if why.contains("1 of them")), "{early:?}");
    }
    for at in [Some("a"), None] {
        let ailing = rig.health(&workers, at).unwrap();
        let [Ailment::CredentialWaits(why)] = &ailing[..] else { panic!("{ailing:?}") };
        assert!(why.contains("/targets/a") && why.contains("the one before is in force"), "{why}");
    }
    assert_eq!(rig.health(&workers, Some("b")).unwrap(), []);
    rig.publish(&workers, rig.with("rotated", "b")).unwrap();
    rig.publish(&workers, rig.with("rotated", "a")).unwrap();
    assert_eq!(rig.health(&workers, None).unwrap(), []);
    let late = rig.publish(&workers, rig.with(SECRET, "b"));
    assert!(matches!(&late, Err(Error::NotInForce(_))), "{late:?}");
    rig.publish(&workers, rig.with("rotated", "b")).unwrap();
    // Another pod has the new one, too, and shares; one with the old one does not.
    rig.publish(&workers, rig.with("rotated", "c")).unwrap();
    assert_eq!(rig.worker(), worker);
    let old = rig.publish(&workers, rig.with(SECRET, "d"));
    assert!(matches!(&old, Err(Error::Store { kind: ErrorKind::Unauthenticated, .. })), "{old:?}");
    for target in ["a", "b", "c"] {
        fs::write(rig.target(target).join(target), "by the new one").unwrap();
        rig.unpublish(&workers, target).unwrap();
    }
    rig.assert_clean(&[worker]);
}

#[test]
fn a_worker_that_was_found_takes_a_renewed_secret() {
    let Some(rig) = Rig::new() else { return };
    let node = OtherNode::start(&rig, true);
    let worker = rig.worker();
    drop(node);
    rig.rotate("rotated");
    let workers = rig.workers_with(Duration::from_secs(2));
    let renewed = Publish { credential: keys("rotated"), ..rig.request("a") };
    rig.publish(&workers, renewed.clone()).unwrap();
    fs::write(rig.target("a").join("new"), "by the new one").unwrap();
    drop(workers);
    // A third one, which knows what is in force.
    let workers = rig.workers_with(Duration::from_secs(2));
    rig.server.reset_counters();
    rig.publish(&workers, renewed).unwrap();
    assert_eq!(rig.server.counters().total(), 0);
    assert_eq!(rig.worker(), worker);
    // What the audit trail tells of a target when it goes, it tells after all these, too.
    let whose = rig.runtime.block_on(workers.whose(&rig.target("a")));
    let text = |text: &str| Some(text.to_owned());
    assert_eq!((whose.store, whose.path, whose.read_only), (text("lake"), text("data"), Some(false)));
    assert_eq!(whose.identity, Some(workers.identity(&keys("rotated"))));
    rig.unpublish(&workers, "a").unwrap();
    assert_eq!(rig.runtime.block_on(workers.whose(&rig.target("a"))), Whose::default());
    rig.assert_clean(&[worker]);
}

#[test]
fn health_tells_a_dead_worker_from_a_frozen_one_and_a_failed_publish() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    assert!(matches!(rig.health(&workers, None), Err(Error::NotMounted(_))));
    for target in ["a", "b", "c"] {
        let namespace = if target == "c" { "other" } else { "team" };
        rig.publish(&workers, rig.request_of(namespace, target)).unwrap();
    }
    assert_eq!(rig.health(&workers, None).unwrap(), []);
    let of = |namespace: &str, target: &str| Publish { credential: keys("wrong"), ..rig.request_of(namespace, target) };
    rig.publish(&workers, of("third", "d")).unwrap_err();
    let ailing = rig.health(&workers, None).unwrap();
    assert!(matches!(&ailing[..], [Ailment::PublishFailed(why)] if why.contains("targets/d")), "{ailing:?}");
    rig.unpublish(&workers, "d").unwrap();
    assert_eq!(rig.health(&workers, None).unwrap(), []);

    let pids: Vec<_> = rig.records().iter().map(|record| record["worker"]["pid"].as_i64().unwrap() as i32).collect();
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL).unwrap();
    freeze(Pid::from_raw(pids[1]));
    eventually("the worker is gone", || !is_running(Pid::from_raw(pids[0])));
    let asked = Instant::now();
    let ailing = rig.health(&workers, None).unwrap();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let is = |kind: fn(&Ailment) -> bool| ailing.iter().filter(|ailment| kind(ailment)).count();
    assert_eq!(ailing.len(), 2, "{ailing:?}");
    assert_eq!(is(|ailment| matches!(ailment, Ailment::WorkerGone(_))), 1, "{ailing:?}");
    assert_eq!(is(|ailment| matches!(ailment, Ailment::WorkerSilent(_))), 1, "{ailing:?}");
    kill(Pid::from_raw(pids[1]), Signal::SIGCONT).unwrap();
    for target in ["a", "b", "c"] {
        rig.unpublish(&workers, target).unwrap();
    }
    rig.assert_clean(&[]);
}

#[test]
fn a_silent_store_holds_up_no_call() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    for target in ["a", "b"] {
        rig.publish(&workers, rig.with(SECRET, target)).unwrap();
    }
    let worker = rig.worker();
    let open = fs::File::open(rig.target("a").join("hello")).unwrap();
    rig.server.faults().set_conditions(Conditions { silent: true, ..Conditions::default() });
    let missing = rig.target("a").join("missing");
    let caller = std::thread::spawn(move || fs::metadata(missing).map(drop));
    std::thread::sleep(Duration::from_millis(200));

    let begun = Instant::now();
    rig.usage(&workers, "a").unwrap();
    assert_eq!(rig.health(&workers, None).unwrap(), []);
    rig.publish(&workers, rig.with(SECRET, "a")).unwrap();
    let busy = rig.unpublish(&workers, "a").unwrap_err().to_string();
    assert!(busy.contains("in use"), "{busy}");
    rig.unpublish(&workers, "b").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());

    rig.server.faults().set_conditions(Conditions::default());
    assert_eq!(errno(caller.join().unwrap()), Errno::ENOENT);
    drop(open);
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
}

/// It may be that the worker has gone over and nobody knows: nobody joins, and whatever comes next is handed over.
#[test]
fn a_renewal_that_died_in_the_middle_is_done_again() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    rig.publish(&workers, rig.with(SECRET, "a")).unwrap();
    let worker = rig.worker();
    drop(workers);
    let path = walk(&rig.state()).into_iter().find(|path| path.starts_with(rig.state().join("mounts"))).unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["renewing"] = true.into();
    fs::write(&path, record.to_string()).unwrap();

    let workers = rig.workers();
    rig.publish(&workers, rig.with(SECRET, "b")).unwrap();
    assert_eq!(rig.records().len(), 2, "what is not certain is not shared");
    rig.unpublish(&workers, "b").unwrap();
    rig.server.reset_counters();
    rig.publish(&workers, rig.with(SECRET, "a")).unwrap();
    assert!(rig.server.counters().total() > 0, "it was proved again");
    rig.publish(&workers, rig.with(SECRET, "b")).unwrap();
    assert_eq!(rig.worker(), worker);
    for target in ["a", "b"] {
        rig.unpublish(&workers, target).unwrap();
    }
    rig.assert_clean(&[worker]);
}

/// The key of somebody else: every page that the first one read is gone, and the mount and its open files stay.
#[test]
fn another_principal_takes_a_shared_mount_over() {
    let Some(rig) = Rig::new() else { return };
    rig.server.put("bucket", "data/open/f", "for both");
    rig.server.put("bucket", "data/closed/f", "for one");
    let may = |dirs: &[&str]| {
        let under = dirs.iter().map(|dir| format!("bucket/data/{dir}")).collect();
        rig.server.users().add(User::new("other-key-id", "other-secret").with(Rights { under, ..Rights::default() }));
    };
    let secret_key = Secret::new("other-secret".into());
    let other = Credential::S3 { key_id: "other-key-id".into(), secret_key, session_token: None };
    let made = |mut request: Publish| {
        request.spec.generation = Some("abcdefghij".into());
        request
    };
    let with_other = |target: &str| Publish { credential: other.clone(), ..made(rig.request_of("team", target)) };
    let workers = rig.workers();
    for target in ["a", "b"] {
        rig.publish(&workers, made(rig.with(SECRET, target))).unwrap();
    }
    let worker = rig.worker();
    let [open, closed] = ["open", "closed"].map(|dir| fs::File::open(rig.target("a").join(dir).join("f")).unwrap());
    let read = |file: &fs::File| {
        let mut bytes = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).map(|()| bytes)
    };
    assert_eq!((read(&open).unwrap(), read(&closed).unwrap()), (*b"for ", *b"for "));
    may(&["open"]);
    assert!(matches!(rig.publish(&workers, with_other("a")), Err(Error::NotInForce(_))));
    let refused = rig.publish(&workers, with_other("b"));
    assert!(matches!(&refused, Err(Error::ChangeRefused { kind: ErrorKind::Denied, .. })), "{refused:?}");
    assert_eq!(read(&closed).unwrap(), *b"for ");

    may(&["open", ".millrace"]);
    for target in ["b", "a"] {
        rig.publish(&workers, with_other(target)).unwrap();
    }
    assert_eq!(errno(read(&closed)), Errno::EACCES);
    assert_eq!(read(&open).unwrap(), *b"for ");
    assert_eq!((rig.worker(), rig.mounts().len()), (worker, 3));
    drop((open, closed));
    for target in ["a", "b"] {
        rig.unpublish(&workers, target).unwrap();
    }
    rig.assert_clean(&[worker]);
}

#[test]
fn a_new_limit_counts_as_soon_as_the_volume_is_expanded() {
    let Some(rig) = Rig::new() else { return };
    let limit = |limit: u64| {
        let text = format!(r#"{{"format":1,"generation":"abcdefghij","limit":{limit}}}"#);
        rig.server.put("bucket", "data/.millrace/volume.json", text);
    };
    limit(1_000_000);
    let workers = rig.workers();
    let mut request = rig.request_of("team", "a");
    request.spec.generation = Some("abcdefghij".into());
    rig.publish(&workers, request).unwrap();
    assert_eq!(rig.usage(&workers, "a").unwrap().limit, Some(1_000_000));
    limit(2_000_000);
    let expanded = rig.runtime.block_on(workers.reload(VOLUME, &rig.target("a"))).unwrap();
    assert_eq!(expanded.limit, Some(2_000_000));
    rig.server.faults().set_conditions(Conditions { silent: true, ..Conditions::default() });
    assert_eq!(rig.usage(&workers, "a").unwrap().limit, Some(2_000_000));
    rig.server.faults().set_conditions(Conditions::default());
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[]);
}
