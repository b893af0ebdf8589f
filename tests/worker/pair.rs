//! A mount of an HDFS with two NameNodes, of which the active one dies, and freezes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use millrace::backend::hdfs as cluster;
use millrace::sandbox::hadoop::pair::Pair;

use super::hdfs::{GID, UID};
use super::*;

/// A call's deadline: a third of it is one NameNode's.
const PATIENCE: Duration = Duration::from_secs(9);

/// What one thread did over and over.
#[derive(Default)]
struct Loop {
    done: AtomicUsize,
    failed: Mutex<Vec<Errno>>,
}

impl Loop {
    fn run(&self, stop: &AtomicBool, mut once: impl FnMut(usize) -> std::io::Result<()>) {
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            match once(round) {
                Ok(()) => drop(self.done.fetch_add(1, Ordering::Relaxed)),
                Err(error) => self.failed.lock().unwrap().push(errno::<()>(Err(error))),
            }
            round += 1;
        }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    fn failed(&self) -> Vec<Errno> {
        std::mem::take(&mut *self.failed.lock().unwrap())
    }
}

fn request(rig: &Rig, pair: &Pair, dir: &str) -> Publish {
    let mut config = cluster::Config::at("", "");
    config.namenodes = pair.namenodes().map(str::to_owned).into();
    config.webhdfs = pair.webhdfs().map(str::to_owned).into();
    config.owners.users = [("alice".to_owned(), UID)].into();
    let mut request = rig.request_of("team", "a");
    request.spec.backend = backend::Config::Hdfs(config);
    request.spec.path = dir.to_owned();
    request.spec.options.timeout = PATIENCE;
    request.spec.options.ttl = Duration::from_millis(100);
    (request.spec.options.uid, request.spec.options.gid) = (UID, GID);
    request.credential = Credential::Hadoop { user: "alice".into() };
    request
}

#[test]
fn a_mount_goes_on_when_the_active_name_node_dies_or_freezes() {
    let Some(rig) = Rig::new() else { return };
    let Some(mut pair) = rig.runtime.block_on(Pair::start()).unwrap() else { return };
    let dir = rig.runtime.block_on(pair.client().fresh("alice")).unwrap();
    let data = noise(3 << 20);
    rig.runtime.block_on(pair.client().put(&format!("/{dir}/data"), "alice", data.clone())).unwrap();
    let workers = rig.workers();
    rig.publish(&workers, request(&rig, &pair, &dir)).unwrap();

    let (reads, lists, writes) = (Loop::default(), Loop::default(), Loop::default());
    let (stop, written) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let at = |name: &str| rig.target("a").join(name);
    let read = |_| {
        let read = fs::read(at("data"))?;
        assert!(read == data, "other bytes");
        Ok(())
    };
    let list = |_| {
        let names = fs::read_dir(rig.target("a"))?.map(|entry| Ok(entry?.file_name()));
        let names: Vec<_> = names.collect::<std::io::Result<_>>()?;
        assert!(names.contains(&"data".into()), "{names:?}");
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    };
    // What is told to last lasts, also where the close then fails.
    let write = |round: usize| {
        let name = format!("w{round}");
        let mut file = File::create_new(at(&name))?;
        file.write_all(&data[..400_000])?;
        file.sync_all()?;
        written.lock().unwrap().push((name.clone(), 400_000));
        drop(file);
        let mut file = OpenOptions::new().append(true).open(at(&name))?;
        file.write_all(&data[400_000..700_000])?;
        file.sync_all()?;
        written.lock().unwrap().push((name, 700_000));
        Ok(())
    };
    std::thread::scope(|scope| {
        let all = [&reads, &lists, &writes];
        scope.spawn(|| reads.run(&stop, read));
        scope.spawn(|| lists.run(&stop, list));
        scope.spawn(|| writes.run(&stop, write));
        let finish = Finish(&stop);
        let go_on = |what: &str| {
            let before = all.map(Loop::done);
            let begun = Instant::now();
            while all.iter().zip(before).any(|(one, before)| one.done() < before + 2) {
                assert!(begun.elapsed() < 3 * SOON, "{what}: {:?} after {before:?}", all.map(Loop::done));
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        go_on("before anything happens");
        assert_eq!(all.map(Loop::failed), [vec![], vec![], vec![]]);

        pair.kill(0);
        std::thread::sleep(Duration::from_millis(500));
        rig.runtime.block_on(pair.activate(1)).unwrap();
        go_on("the active one died");
        assert_eq!([&reads, &lists].map(Loop::failed), [vec![], vec![]]);

        rig.runtime.block_on(pair.restart(0)).unwrap();
        go_on("the other one is back");
        pair.freeze(1).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        rig.runtime.block_on(pair.activate(0)).unwrap();
        go_on("the active one froze");
        // It would take itself for the active one.
        pair.kill(1);
        go_on("it is gone");
        assert_eq!([&reads, &lists].map(Loop::failed), [vec![], vec![]]);
        drop(finish);
    });
    // One that became active may not have heard of every DataNode's disks.
    let failed = writes.failed();
    assert!(failed.iter().all(|errno| matches!(errno, Errno::EIO | Errno::ENOSPC)), "{failed:?}");
    let written = written.into_inner().unwrap();
    assert!(written.len() >= 10, "{written:?}");
    for (name, length) in written {
        let there = rig.runtime.block_on(pair.client().get(&format!("/{dir}/{name}"))).unwrap();
        assert!(there.len() >= length && there == data[..there.len()], "{name}: {} of {length}", there.len());
    }
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[]);
}

/// Ends the loops also where an assertion fails.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
