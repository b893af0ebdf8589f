//! A mount of its own over a store in memory, and what is asked of both.

use super::*;

pub(super) const BUDGET: u64 = 64 << 20;

/// A mount of its own, gone when dropped.
pub(super) struct Mount {
    pub(super) store: Memory,
    pub(super) dir: PathBuf,
    pub(super) vfs: Arc<Vfs>,
    pub(super) session: Session,
    pub(super) runtime: Runtime,
    _parent: tempfile::TempDir,
}

impl Mount {
    /// `None` where this machine cannot mount.
    pub(super) fn new() -> Option<Mount> {
        Mount::with(vfs::Config::default())
    }

    pub(super) fn with(config: vfs::Config) -> Option<Mount> {
        let store = Memory::new();
        let backend: Arc<dyn Backend> = Arc::new(store.clone());
        Mount::over(backend, store, config, &fuse::Config::default())
    }

    pub(super) fn over(
        backend: Arc<dyn Backend>,
        store: Memory,
        config: vfs::Config,
        serve: &fuse::Config,
    ) -> Option<Mount> {
        Mount::within(BUDGET, backend, store, config, serve)
    }

    pub(super) fn within(
        budget: u64,
        backend: Arc<dyn Backend>,
        store: Memory,
        config: vfs::Config,
        serve: &fuse::Config,
    ) -> Option<Mount> {
        if !requirement::met(&[Requirement::Root, Requirement::Fuse]) {
            return None;
        }
        replies::watch();
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("volume");
        fs::create_dir(&dir).unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("millrace-test"), &dir, Some("fuse"), flags, Some(options.as_str())).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ahead = prefetch::Config::for_budget(budget);
        let budget = Budget::new(budget);
        let ahead = ReadAhead::new(backend.clone(), budget.clone(), ahead);
        let vfs = Arc::new(Vfs::new(backend, ahead, budget, config));
        let session = Session::start(device.into(), vfs.clone(), serve, runtime.handle()).unwrap();
        Some(Mount { store, dir, vfs, session, runtime, _parent: parent })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Puts a file into the store behind the mount's back.
    pub(super) fn put(&self, name: &str, content: impl Into<Bytes>) {
        self.store.put(&backend::Path::parse(name).unwrap(), content);
    }

    /// What the store holds under `name`.
    pub(super) fn stored(&self, name: &str) -> Option<Vec<u8>> {
        self.runtime.block_on(async {
            let path = backend::Path::parse(name).unwrap();
            let version = self.store.stat(&path).await.ok()?.version()?.clone();
            let mut stream = self.store.read(&version, 0..version.size, Intent::Demand).await.ok()?;
            let mut content = Vec::new();
            while let Some(chunk) = futures::StreamExt::next(&mut stream).await {
                content.extend_from_slice(&chunk.ok()?);
            }
            Some(content)
        })
    }

    /// RELEASE comes after close(2) has returned.
    pub(super) fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) {
        for _ in 0..500 {
            if done() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("waited in vain for {what}");
    }

    pub(super) fn sh(&self, script: &str) -> std::process::Output {
        Command::new("sh").arg("-c").arg(script).current_dir(&self.dir).output().unwrap()
    }

    pub(super) fn sh_ok(&self, script: &str) -> String {
        let output = self.sh(script);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}: {out}{err}");
        out.into_owned()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Nothing may be left hanging, also when a test failed in its middle.
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
        let ended =
            self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), self.session.ended()).await });
        if ended.is_err() {
            let _ = umount2(&self.dir, MntFlags::MNT_FORCE);
            eprintln!("the session outlived its mount");
        }
        replies::assert_none_refused();
    }
}

pub(super) fn errno<T>(outcome: io::Result<T>) -> Errno {
    match outcome {
        Ok(_) => Errno::UnknownErrno,
        Err(error) => Errno::from_raw(error.raw_os_error().unwrap_or(0)),
    }
}

pub(super) fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + i / 251) as u8).collect()
}
