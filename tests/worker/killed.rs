//! A node plugin that is killed at every step of publishing and unpublishing.

use super::*;

/// The role of the one that is killed: two targets of one mount and one of another come and go.
#[test]
fn a_short_life() {
    let Some([endpoint, state, target]) = words_of_other_node() else { return };
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let workers = Workers::start(config(Path::new(&state), SOON)).await.unwrap();
        let targets = ["a", "b", "c"].map(|name| Path::new(&target).with_file_name(name));
        for at in &targets {
            workers.publish(of_namespace(&endpoint, at)).await.unwrap();
        }
        for at in &targets {
            workers.unpublish(VOLUME, at).await.unwrap();
        }
    });
}

fn of_namespace(endpoint: &str, target: &Path) -> Publish {
    let namespace = if target.ends_with("c") { "other" } else { "team" };
    Publish { namespace: Some(namespace.into()), ..request(endpoint, target) }
}

/// All that a step of a publish or unpublish changes. Asks nothing of a mount.
fn traces(rig: &Rig) -> Vec<String> {
    let mut seen = rig.mounts();
    for dir in ["state/mounts", "state/targets", "targets"] {
        let Ok(entries) = fs::read_dir(rig.dir.join(dir)) else { continue };
        for path in entries.map_while(Result::ok).map(|entry| entry.path()) {
            let length = if path.extension().is_some() { fs::read(&path).map_or(0, |text| text.len()) } else { 0 };
            seen.push(format!("{} {length}", path.display()));
        }
    }
    seen.sort();
    seen
}

/// Kills the node plugin when it has changed something for the `step`th time. False where it was done before.
fn kill_at(rig: &Rig, node: &mut OtherNode, step: usize) -> bool {
    let (mut before, mut changes) = (traces(rig), 0);
    let begun = Instant::now();
    loop {
        if let Some(status) = node.0.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return false;
        }
        let now = traces(rig);
        changes += usize::from(now != before);
        if changes == step {
            node.0.kill().unwrap();
            node.0.wait().unwrap();
            return true;
        }
        before = now;
        assert!(begun.elapsed() < 2 * SOON, "it hangs: {before:?}");
    }
}

/// Soon the workers that run are those of the records, one each.
fn assert_each_worker_is_recorded(rig: &Rig, when: &str) {
    let recorded = || {
        let records = rig.records();
        let mut pids: Vec<_> = records.iter().map(|record| record["worker"]["pid"].as_i64()).collect();
        pids.sort_unstable();
        pids
    };
    let running = || {
        let mut pids: Vec<_> = workers_of(&rig.state()).iter().map(|pid| Some(i64::from(pid.as_raw()))).collect();
        pids.sort_unstable();
        pids
    };
    let begun = Instant::now();
    while recorded() != running() {
        if begun.elapsed() > SOON {
            let seen: Vec<_> = workers_of(&rig.state()).iter().map(|pid| described(*pid)).collect();
            panic!("{when}\nrecords {:#?}\nworkers {seen:#?}\nmounts {:#?}", rig.records(), rig.mounts());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process, for whoever wonders why it is there.
fn described(pid: Pid) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|error| error.to_string());
    let status = read("status");
    let lines =
        status.lines().filter(|line| ["State", "PPid", "Uid", "NSpid"].iter().any(|word| line.starts_with(word)));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let wait: Vec<_> =
        threads.map(|thread| fs::read_to_string(thread.path().join("wchan")).unwrap_or_default()).collect();
    format!("{pid} {} {wait:?} mounts {:?}", lines.collect::<Vec<_>>().join(" "), read("mountinfo"))
}

#[test]
fn a_node_plugin_killed_at_any_step_leaves_nothing() {
    let Some(rig) = Rig::new() else { return };
    // How many steps are seen depends on how often this thread gets a turn beside the one that is killed.
    let (mut step, mut lived) = (1, 0);
    while lived < 2 {
        let mut node = OtherNode::play(&rig, "killed::a_short_life");
        let was_killed = kill_at(&rig, &mut node, step);
        drop(node);
        let begun = Instant::now();
        let workers = rig.workers_with(SOON);
        let recovered = begun.elapsed();
        assert_each_worker_is_recorded(&rig, &format!("step {step}, recovered in {recovered:?}"));
        // What it had begun, the kubelet asks for again, and then for its end.
        for name in ["a", "b", "c"] {
            let target = rig.target(name);
            let shown = rig.mounts().iter().any(|line| line.contains(&format!("/targets/{name} ")));
            if shown {
                assert_eq!(rig.hello(name).unwrap(), "hello, world", "step {step}");
            } else {
                assert!(!target.exists(), "step {step}");
            }
            rig.publish(&workers, of_namespace(&rig.server.endpoint(), &target)).unwrap();
            assert_eq!(rig.hello(name).unwrap(), "hello, world", "step {step}");
        }
        assert_eq!((rig.records().len(), rig.mounts().len()), (2, 5), "step {step}: {:?}", rig.mounts());
        for name in ["a", "b", "c"] {
            rig.unpublish(&workers, name).unwrap();
        }
        rig.assert_clean(&[]);
        eventually("no worker is left", || workers_of(&rig.state()).is_empty());
        lived += usize::from(!was_killed);
        step += usize::from(was_killed);
    }
    assert!(step > 5, "it was killed {step} times");
}

/// Workers die at any moment of a publish, a repeated one and an unpublish: each call ends, and what is left is right.
#[test]
fn workers_killed_at_random_leave_nothing() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers_with(Duration::from_secs(5));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    let pod = async |number: usize| {
        let (namespace, name) = (["team", "other"][number % 2], format!("pod-{number}"));
        let mut served = 0;
        while !stopped() {
            for _ in 0..2 {
                match workers.publish(rig.request_of(namespace, &name)).await {
                    Ok(_) => served += 1,
                    Err(Error::Worker(_) | Error::System(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            workers.unpublish(VOLUME, &rig.target(&name)).await.unwrap();
        }
        served
    };
    let served: usize = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..40 {
                std::thread::sleep(Duration::from_millis(40 + round % 7 * 20));
                if let Some(pid) = workers_of(&rig.state()).first() {
                    let _ = kill(*pid, Signal::SIGKILL);
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        rig.runtime.block_on(futures::future::join_all((0..8).map(pod))).into_iter().sum()
    });
    assert!(served > 0);
    rig.assert_clean(&[]);
    eventually("no worker is left", || workers_of(&rig.state()).is_empty());
}
