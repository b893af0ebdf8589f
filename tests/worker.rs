//! Workers as processes, with real mounts, on the embedded S3 server: publishing, dying, freezing, restarting. Needs
//! root and `/dev/fuse`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "worker/by_hand.rs"]
mod by_hand;
#[path = "worker/cache.rs"]
mod cache;
#[path = "worker/hdfs.rs"]
mod hdfs;
#[path = "worker/identities.rs"]
mod identities;
#[path = "worker/isolation.rs"]
mod isolation;
#[path = "worker/killed.rs"]
mod killed;
#[path = "worker/limits.rs"]
mod limits;
#[path = "worker/memory.rs"]
mod memory;
#[path = "worker/nfs.rs"]
mod nfs;
#[path = "worker/pair.rs"]
mod pair;
#[path = "worker/passthrough.rs"]
mod passthrough;
#[path = "worker/random.rs"]
mod random;
#[path = "worker/refused.rs"]
mod refused;
#[path = "worker/renewal.rs"]
mod renewal;
mod replies;
#[path = "worker/rewritten.rs"]
mod rewritten;
#[path = "worker/scraped.rs"]
mod scraped;
#[path = "worker/sharing.rs"]
mod sharing;
#[path = "worker/silent.rs"]
mod silent;
#[path = "worker/troubled.rs"]
mod troubled;
#[path = "worker/unopened.rs"]
mod unopened;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace::auth::{Credential, Secret};
use millrace::backend::{self, ErrorKind, s3};
use millrace::config::{VolumeOptions, VolumeSpec};
use millrace::mount::handover::Refusal;
use millrace::mount::{Ailment, Config, Consumer, Error, Health, Mounter, Publish, Usage, Whose, Workers};
use millrace::sandbox::requirement::{self, Requirement};
use millrace::sandbox::s3::{Conditions, Kind, Options, Rights, Server, User};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

const KEY: &str = "canary-key-id";
const SECRET: &str = "canary-secret-key";
const VOLUME: &str = "pv-of-the-test";
/// Long enough for a machine that builds something else meanwhile.
const SOON: Duration = Duration::from_secs(30);

/// A store, a state directory and a place for targets. Whatever a test leaves behind is taken away.
struct Rig {
    server: Server,
    dir: PathBuf,
    _temporary: tempfile::TempDir,
    runtime: Runtime,
}

impl Rig {
    /// `None` where this machine cannot mount.
    fn new() -> Option<Rig> {
        if !requirement::met(&[Requirement::Root, Requirement::Fuse]) {
            return None;
        }
        replies::watch();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let options =
            Options { users: vec![User::new(KEY, SECRET)], buckets: vec!["bucket".into()], ..Options::default() };
        let server = runtime.block_on(Server::start(options)).unwrap();
        server.put("bucket", "data/hello", "hello, world");
        server.put("bucket", "data/.millrace/volume.json", r#"{"format":1,"generation":"abcdefghij"}"#);
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().canonicalize().unwrap();
        fs::create_dir(dir.join("targets")).unwrap();
        Some(Rig { server, dir, _temporary: temporary, runtime })
    }

    fn target(&self, name: &str) -> PathBuf {
        self.dir.join("targets").join(name)
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn workers(&self) -> Arc<Workers> {
        self.workers_with(Duration::from_secs(60))
    }

    fn workers_with(&self, ping_deadline: Duration) -> Arc<Workers> {
        self.runtime.block_on(Workers::start(config(&self.state(), ping_deadline))).unwrap()
    }

    fn request(&self, target: &str) -> Publish {
        request(&self.server.endpoint(), &self.target(target))
    }

    /// For a pod of that namespace.
    fn request_of(&self, namespace: &str, target: &str) -> Publish {
        Publish { namespace: Some(namespace.into()), ..self.request(target) }
    }

    fn publish(&self, workers: &Workers, request: Publish) -> Result<(), Error> {
        self.runtime.block_on(workers.publish(request)).map(drop)
    }

    fn unpublish(&self, workers: &Workers, target: &str) -> Result<(), Error> {
        self.runtime.block_on(workers.unpublish(VOLUME, &self.target(target)))
    }

    fn usage(&self, workers: &Workers, target: &str) -> Result<Usage, Error> {
        self.runtime.block_on(workers.usage(VOLUME, &self.target(target)))
    }

    fn hello(&self, target: &str) -> std::io::Result<String> {
        fs::read_to_string(self.target(target).join("hello"))
    }

    /// The records of mounts as they lie on disk. One may go meanwhile.
    fn records(&self) -> Vec<serde_json::Value> {
        let Ok(entries) = fs::read_dir(self.state().join("mounts")) else { return Vec::new() };
        let paths = entries.map(|entry| entry.unwrap().path());
        let records = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let texts: Vec<_> = records.filter_map(|path| fs::read(path).ok()).collect();
        texts.iter().map(|text| serde_json::from_slice(text).unwrap()).collect()
    }

    /// The worker of the one that is published, or is about to be.
    fn worker(&self) -> Pid {
        let pids: Vec<_> = self.records().iter().filter_map(|record| record["worker"]["pid"].as_i64()).collect();
        assert_eq!(pids.len(), 1, "{pids:?}");
        Pid::from_raw(pids[0] as i32)
    }

    fn mounts(&self) -> Vec<String> {
        let below = |line: &&str| line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(&self.dir));
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(below).map(str::to_owned).collect()
    }

    /// Nothing is left of `targets`: no mount, record, mount point, directory, cgroup, process.
    fn assert_clean(&self, workers: &[Pid]) {
        assert_eq!(self.mounts(), Vec::<String>::new());
        assert_eq!(self.records(), Vec::<serde_json::Value>::new());
        // What a start finds and cannot clear away in time, it goes on with beside its calls.
        eventually("no cgroup is left", || memory::cgroups_of(&self.state()).is_empty());
        for dir in ["state/mounts", "state/targets", "targets"] {
            let left: Vec<_> = fs::read_dir(self.dir.join(dir)).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        for pid in workers {
            eventually("the worker is gone", || !is_running(*pid));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for record in self.records() {
            if let Some(pid) = record["worker"]["pid"].as_i64() {
                let pid = Pid::from_raw(pid as i32);
                let is_worker = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"worker\0"));
                if is_worker {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
        }
        for line in self.mounts().iter().rev() {
            let point = line.split(' ').nth(4).unwrap();
            let _ = nix::mount::umount2(point, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        }
        memory::remove_cgroups(&self.state());
        replies::assert_none_refused();
    }
}

fn config(state_dir: &Path, ping_deadline: Duration) -> Config {
    Config {
        state_dir: state_dir.to_owned(),
        program: env!("CARGO_BIN_EXE_millrace").into(),
        worker_uid_base: uids_of(state_dir),
        worker_uid_count: 1000,
        ping_deadline,
        isolate: true,
        log_filter: "warn".into(),
        log_json: false,
        cache: None,
    }
}

fn request(endpoint: &str, target: &Path) -> Publish {
    let backend = backend::Config::S3(s3::Config { max_connections: 8, ..s3::Config::at(endpoint, "bucket") });
    let spec = VolumeSpec {
        volume_id: VOLUME.into(),
        store: "lake".into(),
        backend,
        path: "data".into(),
        generation: None,
        read_only: false,
        most_memory: 1 << 30,
        options: VolumeOptions { memory: 32 << 20, read_ahead_kb: 2048, ..VolumeOptions::default() },
    };
    Publish {
        target: target.into(),
        spec,
        credential: keys(SECRET),
        arguments: "a".into(),
        single_writer: false,
        namespace: None,
        pod: None,
        service_account: None,
        fs_group: None,
        consumer: Consumer::default(),
    }
}

fn keys(secret: &str) -> Credential {
    Credential::S3 { key_id: KEY.into(), secret_key: Secret::new(secret.into()), session_token: None }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs, and is no zombie.
fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The first of a thousand uids that no other node plugin's workers have, be it of another test or of another run of
/// these tests on this machine.
fn uids_of(state: &Path) -> u32 {
    let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
    let number = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
    100_000_000 + number % 1_700_000 * 1000
}

/// The processes that run as one of the uids of the node plugin with that state directory.
fn workers_of(state: &Path) -> Vec<Pid> {
    let base = uids_of(state);
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_one = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
        uid.is_some_and(|uid: u32| (base..base + 1000).contains(&uid)) && is_running(Pid::from_raw(*pid))
    };
    pids.filter(is_one).map(Pid::from_raw).collect()
}

/// Stops a worker, and every thread of it has stopped: one on another processor may run on for a moment.
fn freeze(pid: Pid) {
    kill(pid, Signal::SIGSTOP).unwrap();
    let is_stopped = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
    };
    let tasks = || fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    eventually("it is stopped", || tasks().all(|task| is_stopped(task.unwrap())));
}

fn errno<T: std::fmt::Debug>(outcome: std::io::Result<T>) -> Errno {
    Errno::from_raw(outcome.unwrap_err().raw_os_error().unwrap())
}

#[test]
fn a_published_volume_is_read_and_written_and_leaves_nothing() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    rig.publish(&workers, rig.request("a")).unwrap();
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    fs::write(rig.target("a").join("new"), "written here").unwrap();
    assert_eq!(rig.server.get("bucket", "data/new").unwrap().bytes, "written here");
    let usage = rig.usage(&workers, "a").unwrap();
    assert!(usage.used_bytes >= 12 && usage.used_inodes >= 2, "{usage:?}");

    let mounts = rig.mounts();
    assert_eq!(mounts.len(), 2, "private and target: {mounts:?}");
    for mount in &mounts {
        assert!(mount.contains(" rw,nosuid,nodev") && mount.contains(" - fuse.millrace pv-of-the-test "), "{mount}");
        assert!(mount.contains("allow_other") && mount.contains("default_permissions"), "{mount}");
    }
    let device = mounts[0].split(' ').nth(2).unwrap();
    let read_ahead = fs::read_to_string(format!("/sys/class/bdi/{device}/read_ahead_kb")).unwrap();
    assert_eq!(read_ahead.trim(), "2048");

    // Once is enough, and other arguments are refused.
    let worker = rig.worker();
    rig.publish(&workers, rig.request("a")).unwrap();
    assert_eq!((rig.worker(), rig.mounts().len()), (worker, 2));
    let other = rig.publish(&workers, Publish { arguments: "b".into(), ..rig.request("a") });
    assert!(matches!(&other, Err(Error::AlreadyPublished(why)) if why.contains(VOLUME)), "{other:?}");

    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
    rig.unpublish(&workers, "a").unwrap();
    assert!(matches!(rig.usage(&workers, "a"), Err(Error::NotMounted(_))));
}

#[test]
fn a_worker_has_no_rights_and_shows_no_secret() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    rig.publish(&workers, rig.request("a")).unwrap();
    rig.publish(&workers, rig.request("b")).unwrap();
    let mut uids = Vec::new();
    for record in rig.records() {
        let pid = record["worker"]["pid"].as_i64().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let uid = record["uid"].to_string();
        assert_eq!((field("Uid:"), field("Gid:")), (vec![uid.clone(); 4], vec![uid.clone(); 4]));
        assert_eq!(field("Groups:"), Vec::<String>::new());
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), ["0000000000000000"], "{set}");
        }
        assert_eq!(field("NoNewPrivs:"), ["1"]);
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
        // Undumpable: what is below belongs to root although the process does not.
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}/environ")).unwrap());
        assert_eq!(owner, 0);
        assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
        let line = String::from_utf8(fs::read(format!("/proc/{pid}/cmdline")).unwrap()).unwrap();
        assert!(line.ends_with("\0worker\0"), "{line}");
        let [cwd, root] = ["cwd", "root"].map(|link| fs::read_link(format!("/proc/{pid}/{link}")).unwrap());
        assert_eq!(cwd, root);
        uids.push(uid);
    }
    assert!(uids.len() == 2 && uids[0] != uids[1], "{uids:?}");
    for entry in walk(&rig.state()) {
        let text = fs::read(&entry).unwrap();
        assert!(!text.windows(6).any(|window| window == b"canary"), "{entry:?}");
        assert_eq!(fs::metadata(&entry).unwrap().permissions().mode() & 0o077, 0, "{entry:?}");
    }
    rig.unpublish(&workers, "a").unwrap();
    rig.unpublish(&workers, "b").unwrap();
    rig.assert_clean(&[]);
}

/// The files of the state directory; never below a mount.
fn walk(state: &Path) -> Vec<PathBuf> {
    let dirs = [state.to_owned(), state.join("mounts"), state.join("targets")];
    let files = dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap());
    files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

#[test]
fn what_the_store_refuses_is_never_mounted() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    let refused = rig.publish(&workers, Publish { credential: keys("wrong"), ..rig.request("a") });
    assert!(
        matches!(&refused, Err(Error::Store { kind: ErrorKind::Unauthenticated, message }) if !message.contains("wrong")),
        "{refused:?}"
    );
    let generation = |generation: &str| {
        let mut request = rig.request("a");
        request.spec.generation = Some(generation.into());
        request
    };
    let gone = rig.publish(&workers, generation("zzzzzzzzzz"));
    assert!(matches!(gone, Err(Error::NoSuchVolume(_))), "{gone:?}");
    let mut absent = generation("abcdefghij");
    absent.spec.path = "elsewhere".into();
    let gone = rig.publish(&workers, absent);
    assert!(matches!(gone, Err(Error::NoSuchVolume(_))), "{gone:?}");
    let mut nowhere = rig.request("a");
    let backend::Config::S3(config) = &mut nowhere.spec.backend else { panic!("{nowhere:?}") };
    config.bucket = "no-such-bucket".into();
    let refused = rig.publish(&workers, nowhere);
    assert!(matches!(&refused, Err(Error::Store { .. })), "{refused:?}");
    rig.assert_clean(&[]);

    rig.server.reset_counters();
    rig.publish(&workers, generation("abcdefghij")).unwrap();
    let counters = rig.server.counters();
    assert_eq!((counters.of(Kind::GetObject), counters.total()), (1, 1));
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[]);
}

#[test]
fn a_program_that_is_no_worker_leaves_nothing() {
    let Some(rig) = Rig::new() else { return };
    for (program, word) in [("/bin/true", "ended before it served"), ("/nonexistent/millrace", "/nonexistent/millrace")]
    {
        let config = Config { program: program.into(), ..config(&rig.state(), SOON) };
        let workers = rig.runtime.block_on(Workers::start(config)).unwrap();
        let error = rig.publish(&workers, rig.request("a")).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        rig.assert_clean(&[]);
    }
}

#[test]
fn a_killed_worker_fails_its_callers_at_once_and_is_replaced() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    rig.publish(&workers, rig.request("a")).unwrap();
    let open = fs::File::open(rig.target("a").join("hello")).unwrap();
    // A caller that waits for the store while the worker dies.
    rig.server.faults().set_conditions(Conditions { silent: true, ..Conditions::default() });
    let path = rig.target("a").join("missing");
    let caller = std::thread::spawn(move || (errno(fs::metadata(path)), Instant::now()));
    std::thread::sleep(Duration::from_millis(300));
    let first = rig.worker();
    let killed = Instant::now();
    kill(first, Signal::SIGKILL).unwrap();
    let (outcome, at) = caller.join().unwrap();
    assert!(matches!(outcome, Errno::ENOTCONN | Errno::ECONNABORTED), "{outcome}");
    assert!(at - killed < Duration::from_secs(1), "{:?}", at - killed);
    assert_eq!(errno(rig.hello("a")), Errno::ENOTCONN);
    let asked = rig.usage(&workers, "a");
    assert!(matches!(asked, Err(Error::Worker(_))), "{asked:?}");

    rig.server.faults().set_conditions(Conditions::default());
    rig.publish(&workers, rig.request("a")).unwrap();
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    assert_ne!(rig.worker(), first);

    let second = rig.worker();
    kill(second, Signal::SIGKILL).unwrap();
    // Dead, and somebody still has a file of it open.
    rig.unpublish(&workers, "a").unwrap();
    drop(open);
    rig.assert_clean(&[first, second]);
}

#[test]
fn a_frozen_worker_is_ended_after_the_deadline() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers_with(Duration::from_secs(2));
    rig.publish(&workers, rig.request("a")).unwrap();
    let first = rig.worker();
    freeze(first);
    let frozen = Instant::now();
    // Waits in the kernel for the frozen worker.
    let outcome = errno(fs::metadata(rig.target("a").join("missing")));
    assert!(matches!(outcome, Errno::ENOTCONN | Errno::ECONNABORTED), "{outcome}");
    assert!(frozen.elapsed() < SOON, "{:?}", frozen.elapsed());
    eventually("the worker is gone", || !is_running(first));
    rig.publish(&workers, rig.request("a")).unwrap();
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[first]);
}

#[test]
fn a_frozen_worker_is_unpublished() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers_with(Duration::from_secs(2));
    rig.publish(&workers, rig.request("a")).unwrap();
    let worker = rig.worker();
    freeze(worker);
    let path = rig.target("a").join("missing");
    let caller = std::thread::spawn(move || errno(fs::metadata(path)));
    std::thread::sleep(Duration::from_millis(100));
    rig.unpublish(&workers, "a").unwrap();
    caller.join().unwrap();
    rig.assert_clean(&[worker]);
}

#[test]
fn a_volume_in_use_is_not_taken_away() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    rig.publish(&workers, rig.request("a")).unwrap();
    let worker = rig.worker();
    let open = fs::File::open(rig.target("a").join("hello")).unwrap();
    let busy = rig.unpublish(&workers, "a").unwrap_err().to_string();
    assert!(busy.contains("in use"), "{busy}");
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    assert!(is_running(worker));
    drop(open);
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    let target = rig.target("a");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("mine"), "precious").unwrap();
    let full = rig.publish(&workers, rig.request("a")).unwrap_err().to_string();
    assert!(full.contains("not empty"), "{full}");
    let full = rig.unpublish(&workers, "a").unwrap_err().to_string();
    assert!(full.contains("does not delete"), "{full}");
    assert_eq!(fs::read_to_string(target.join("mine")).unwrap(), "precious");
    fs::remove_file(target.join("mine")).unwrap();

    let none = None::<&str>;
    nix::mount::mount(Some("foreign"), &target, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let taken = rig.publish(&workers, rig.request("a"));
    assert!(matches!(&taken, Err(Error::AlreadyPublished(why)) if why.contains("tmpfs")), "{taken:?}");
    let kept = rig.unpublish(&workers, "a").unwrap_err().to_string();
    assert!(kept.contains("tmpfs"), "{kept}");
    assert_eq!(rig.mounts().len(), 1);
    nix::mount::umount2(&target, MntFlags::empty()).unwrap();
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[]);
}

#[test]
fn a_single_writer_has_one_target() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    let single = |target: &str| Publish { single_writer: true, ..rig.request(target) };
    rig.publish(&workers, single("a")).unwrap();
    rig.publish(&workers, single("a")).unwrap();
    let second = rig.publish(&workers, single("b"));
    assert!(matches!(second, Err(Error::SecondWriter(_))), "{second:?}");
    rig.unpublish(&workers, "a").unwrap();
    rig.publish(&workers, single("b")).unwrap();
    rig.unpublish(&workers, "b").unwrap();
    rig.assert_clean(&[]);
}

#[test]
fn a_read_only_volume_refuses_changes() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    let mut request = rig.request("a");
    request.spec.read_only = true;
    rig.publish(&workers, request).unwrap();
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    assert_eq!(errno(fs::write(rig.target("a").join("new"), "x")), Errno::EROFS);
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[]);
}

/// A mount that is unmounted by hand ends its worker; the next publish makes it anew.
#[test]
fn a_worker_ends_with_its_mount() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    rig.publish(&workers, rig.request("a")).unwrap();
    let worker = rig.worker();
    for line in rig.mounts().iter().rev() {
        nix::mount::umount2(line.split(' ').nth(4).unwrap(), MntFlags::empty()).unwrap();
    }
    eventually("the worker is gone", || !is_running(worker));
    rig.publish(&workers, rig.request("a")).unwrap();
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
}

/// Another process that publishes as a node plugin does: this very program, run again.
struct OtherNode(Child);

const OTHER_NODE: &str = "MILLRACE_TEST_OTHER_NODE";

impl OtherNode {
    /// Starts it; `published` is whether it gets so far.
    fn start(rig: &Rig, published: bool) -> OtherNode {
        let mut node = OtherNode::play(rig, "other_node");
        if published {
            let lines = BufReader::new(node.0.stdout.take().unwrap()).lines();
            assert!(lines.map_while(Result::ok).any(|line| line.ends_with("published")), "it did not publish");
        }
        node
    }

    /// Starts it in the role of this test.
    fn play(rig: &Rig, role: &str) -> OtherNode {
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

    fn signal(&self, signal: Signal) {
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
fn words_of_other_node() -> Option<[String; 3]> {
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
