//! What the tests of workers stand on: a store, a node plugin's state, and a look at what is left of it.

use super::*;

pub(super) const KEY: &str = "canary-key-id";
pub(super) const SECRET: &str = "canary-secret-key";
pub(super) const VOLUME: &str = "pv-of-the-test";
/// Long enough for a machine that builds something else meanwhile.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// A store, a state directory and a place for targets. Whatever a test leaves behind is taken away.
pub(super) struct Rig {
    pub(super) server: Server,
    pub(super) dir: PathBuf,
    _temporary: tempfile::TempDir,
    pub(super) runtime: Runtime,
}

impl Rig {
    /// `None` where this machine cannot mount.
    pub(super) fn new() -> Option<Rig> {
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

    pub(super) fn target(&self, name: &str) -> PathBuf {
        self.dir.join("targets").join(name)
    }

    pub(super) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub(super) fn workers(&self) -> Arc<Workers> {
        self.workers_with(Duration::from_secs(60))
    }

    pub(super) fn workers_with(&self, ping_deadline: Duration) -> Arc<Workers> {
        self.runtime.block_on(Workers::start(config(&self.state(), ping_deadline))).unwrap()
    }

    pub(super) fn request(&self, target: &str) -> Publish {
        request(&self.server.endpoint(), &self.target(target))
    }

    /// For a pod of that namespace.
    pub(super) fn request_of(&self, namespace: &str, target: &str) -> Publish {
        Publish { namespace: Some(namespace.into()), ..self.request(target) }
    }

    pub(super) fn publish(&self, workers: &Workers, request: Publish) -> Result<(), Error> {
        self.runtime.block_on(workers.publish(request)).map(drop)
    }

    pub(super) fn unpublish(&self, workers: &Workers, target: &str) -> Result<(), Error> {
        self.runtime.block_on(workers.unpublish(VOLUME, &self.target(target)))
    }

    pub(super) fn usage(&self, workers: &Workers, target: &str) -> Result<Usage, Error> {
        self.runtime.block_on(workers.usage(VOLUME, &self.target(target)))
    }

    pub(super) fn hello(&self, target: &str) -> std::io::Result<String> {
        fs::read_to_string(self.target(target).join("hello"))
    }

    /// The records of mounts as they lie on disk. One may go meanwhile.
    pub(super) fn records(&self) -> Vec<serde_json::Value> {
        let Ok(entries) = fs::read_dir(self.state().join("mounts")) else { return Vec::new() };
        let paths = entries.map(|entry| entry.unwrap().path());
        let records = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let texts: Vec<_> = records.filter_map(|path| fs::read(path).ok()).collect();
        texts.iter().map(|text| serde_json::from_slice(text).unwrap()).collect()
    }

    /// The worker of the one that is published, or is about to be.
    pub(super) fn worker(&self) -> Pid {
        let pids: Vec<_> = self.records().iter().filter_map(|record| record["worker"]["pid"].as_i64()).collect();
        assert_eq!(pids.len(), 1, "{pids:?}");
        Pid::from_raw(pids[0] as i32)
    }

    pub(super) fn mounts(&self) -> Vec<String> {
        let below = |line: &&str| line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(&self.dir));
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(below).map(str::to_owned).collect()
    }

    /// Nothing is left of `targets`: no mount, record, mount point, directory, cgroup, process.
    pub(super) fn assert_clean(&self, workers: &[Pid]) {
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

pub(super) fn config(state_dir: &Path, ping_deadline: Duration) -> Config {
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

pub(super) fn request(endpoint: &str, target: &Path) -> Publish {
    let backend = backend::Config::S3(s3::Config { max_connections: 8, ..s3::Config::at(endpoint, "bucket") });
    let spec = VolumeSpec {
        volume_id: VOLUME.into(),
        store: "lake".into(),
        backend,
        path: "data".into(),
        generation: None,
        snapshot: None,
        quota: false,
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

pub(super) fn keys(secret: &str) -> Credential {
    Credential::S3 { key_id: KEY.into(), secret_key: Secret::new(secret.into()), session_token: None }
}

pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs, and is no zombie.
pub(super) fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The first of a thousand uids that no other node plugin's workers have, be it of another test or of another run of
/// these tests on this machine.
pub(super) fn uids_of(state: &Path) -> u32 {
    let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
    let number = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
    100_000_000 + number % 1_700_000 * 1000
}

/// The processes that run as one of the uids of the node plugin with that state directory.
pub(super) fn workers_of(state: &Path) -> Vec<Pid> {
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
pub(super) fn freeze(pid: Pid) {
    kill(pid, Signal::SIGSTOP).unwrap();
    let is_stopped = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
    };
    let tasks = || fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    eventually("it is stopped", || tasks().all(|task| is_stopped(task.unwrap())));
}

pub(super) fn errno<T: std::fmt::Debug>(outcome: std::io::Result<T>) -> Errno {
    Errno::from_raw(outcome.unwrap_err().raw_os_error().unwrap())
}

/// The files of the state directory; never below a mount.
pub(super) fn walk(state: &Path) -> Vec<PathBuf> {
    let dirs = [state.to_owned(), state.join("mounts"), state.join("targets")];
    let files = dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap());
    files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

/// Bytes that differ everywhere.
pub(super) fn noise(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}
