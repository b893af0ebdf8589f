//! Workers whose node plugin died, froze, or lost its records: the next one finds them.

use super::*;

/// Another process that publishes as a node plugin does: this very program, run again.
pub(super) struct OtherNode(pub(super) Child);

const OTHER_NODE: &str = "MILLRACE_TEST_OTHER_NODE";

impl OtherNode {
    /// Starts it; `published` is whether it gets so far.
    pub(super) fn start(rig: &Rig, published: bool) -> OtherNode {
        let mut node = OtherNode::play(rig, "restarted::other_node");
        if published {
            let lines = BufReader::new(node.0.stdout.take().unwrap()).lines();
            assert!(lines.map_while(Result::ok).any(|line| line.ends_with("published")), "it did not publish");
        }
        node
    }

    /// Starts it in the role of this test.
    pub(super) fn play(rig: &Rig, role: &str) -> OtherNode {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([role, "--exact", "--nocapture"])
            .env(
                OTHER_NODE,
                format!("{}\n{}\n{}", rig.server.endpoint(), rig.state().display(), rig.target("a").display()),
            )
            .stdout(Stdio::piped())
            // Where the worker logs to, too, until this end of it is gone.
            .stderr(Stdio::piped())
            .spawn();
        OtherNode(child.unwrap())
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for OtherNode {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Endpoint, state directory and target for one of the roles of [`OtherNode`].
#[expect(clippy::disallowed_methods, reason = "libtest leaves no other way to tell a test anything")]
pub(super) fn words_of_other_node() -> Option<[String; 3]> {
    let words = std::env::var(OTHER_NODE).ok()?;
    Some(words.split('\n').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap())
}

/// The first role of [`OtherNode`]; nothing where it is not asked for.
#[test]
fn other_node() {
    let Some([endpoint, state, target]) = words_of_other_node() else { return };
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let workers = Workers::start(config(Path::new(&state), Duration::from_secs(2))).await.unwrap();
        workers.publish(request(&endpoint, Path::new(&target))).await.unwrap();
        println!("published");
        std::future::pending::<()>().await;
    });
}

#[test]
fn a_worker_outlives_its_node_plugin_and_the_next_one_finds_it() {
    let Some(rig) = Rig::new() else { return };
    let node = OtherNode::start(&rig, true);
    let worker = rig.worker();
    drop(node);
    assert_eq!(rig.hello("a").unwrap(), "hello, world");

    let workers = rig.workers_with(Duration::from_secs(2));
    assert_eq!(rig.worker(), worker);
    assert!(rig.usage(&workers, "a").unwrap().used_inodes >= 2);
    rig.publish(&workers, rig.request("a")).unwrap();
    assert_eq!(rig.worker(), worker, "no second worker");
    fs::write(rig.target("a").join("later"), "by the same worker").unwrap();
    rig.publish(&workers, rig.request("b")).unwrap();
    let uids: Vec<_> = rig.records().iter().map(|record| record["uid"].as_u64().unwrap()).collect();
    assert!(uids.len() == 2 && uids[0] != uids[1], "{uids:?}");
    rig.unpublish(&workers, "b").unwrap();
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
    assert_eq!(rig.server.get("bucket", "data/later").unwrap().bytes, "by the same worker");
}

#[test]
fn a_worker_that_froze_while_no_node_plugin_ran_is_noticed() {
    let Some(rig) = Rig::new() else { return };
    let node = OtherNode::start(&rig, true);
    let worker = rig.worker();
    drop(node);
    freeze(worker);
    let path = rig.target("a").join("missing");
    let caller = std::thread::spawn(move || errno(fs::metadata(path)));
    let workers = rig.workers_with(Duration::from_secs(2));
    let outcome = caller.join().unwrap();
    assert!(matches!(outcome, Errno::ENOTCONN | Errno::ECONNABORTED), "{outcome}");
    rig.publish(&workers, rig.request("a")).unwrap();
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
}

#[test]
fn a_worker_that_died_while_no_node_plugin_ran_is_cleared_away() {
    let Some(rig) = Rig::new() else { return };
    let node = OtherNode::start(&rig, true);
    let worker = rig.worker();
    drop(node);
    kill(worker, Signal::SIGKILL).unwrap();
    eventually("the worker is gone", || !is_running(worker));
    let workers = rig.workers();
    let asked = rig.usage(&workers, "a");
    assert!(matches!(asked, Err(Error::Worker(_))), "{asked:?}");
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
}

#[test]
fn a_publish_whose_node_plugin_dies_is_undone() {
    let Some(rig) = Rig::new() else { return };
    rig.server.faults().set_conditions(Conditions { silent: true, ..Conditions::default() });
    let node = OtherNode::start(&rig, false);
    eventually("it has begun", || rig.records().iter().any(|record| record["worker"]["pid"].is_i64()));
    std::thread::sleep(Duration::from_millis(300));
    let worker = rig.worker();
    drop(node);
    let workers = rig.workers();
    rig.assert_clean(&[worker]);
    rig.server.faults().set_conditions(Conditions::default());
    rig.publish(&workers, rig.request("a")).unwrap();
    rig.unpublish(&workers, "a").unwrap();
}

/// A node plugin that was not scheduled for longer than the deadline has heard no answers, and ends nobody for it.
#[test]
fn a_frozen_node_plugin_ends_no_worker() {
    let Some(rig) = Rig::new() else { return };
    let node = OtherNode::start(&rig, true);
    let worker = rig.worker();
    for _ in 0..3 {
        node.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(2500));
        node.signal(Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(is_running(worker));
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    drop(node);
    let workers = rig.workers();
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
}

/// The state is lost: what the mount table shows is enough to unpublish, and a mount that lives is not replaced.
#[test]
fn a_mount_without_its_record_is_still_ours() {
    let Some(rig) = Rig::new() else { return };
    let node = OtherNode::start(&rig, true);
    let worker = rig.worker();
    drop(node);
    for entry in walk(&rig.state()).into_iter().filter(|path| path.extension().is_some_and(|e| e == "json")) {
        // Of a newer version: not to be read, not to be lost.
        fs::write(entry, r#"{"format": 99, "worker": null}"#).unwrap();
    }
    let workers = rig.workers();
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    let again = rig.publish(&workers, rig.request("a"));
    assert!(matches!(&again, Err(Error::AlreadyPublished(_))), "{again:?}");
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
}
