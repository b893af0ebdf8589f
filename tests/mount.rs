//! A real mount: the kernel's view of a volume in memory. Needs root and `/dev/fuse`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use millrace::backend::memory::Memory;
use millrace::backend::{self, Backend};
use millrace::budget::Budget;
use millrace::fuse::{self, Session};
use millrace::prefetch::{self, ReadAhead};
use millrace::sandbox::requirement::{self, Requirement};
use millrace::vfs::{self, Vfs};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::runtime::Runtime;

const BUDGET: u64 = 64 << 20;

/// A mount of its own, gone when dropped.
struct Mount {
    store: Memory,
    dir: PathBuf,
    session: Session,
    runtime: Runtime,
    _parent: tempfile::TempDir,
}

impl Mount {
    /// `None` where this machine cannot mount.
    fn new() -> Option<Mount> {
        Mount::with(vfs::Config::default())
    }

    fn with(config: vfs::Config) -> Option<Mount> {
        let store = Memory::new();
        let backend: Arc<dyn Backend> = Arc::new(store.clone());
        Mount::over(backend, store, config, fuse::Config::default())
    }

    fn over(backend: Arc<dyn Backend>, store: Memory, config: vfs::Config, serve: fuse::Config) -> Option<Mount> {
        if !requirement::met(&[Requirement::Root, Requirement::Fuse]) {
            return None;
        }
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("volume");
        fs::create_dir(&dir).unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("millrace-test"), &dir, Some("fuse"), flags, Some(options.as_str())).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let budget = Budget::new(BUDGET);
        let ahead = ReadAhead::new(backend.clone(), budget.clone(), prefetch::Config::for_budget(BUDGET));
        let vfs = Arc::new(Vfs::new(backend, ahead, budget, config));
        let session = Session::start(device.into(), vfs, &serve, runtime.handle()).unwrap();
        Some(Mount { store, dir, session, runtime, _parent: parent })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Puts a file into the store behind the mount's back.
    fn put(&self, name: &str, content: impl Into<bytes::Bytes>) {
        self.store.put(&backend::Path::parse(name).unwrap(), content);
    }

    fn sh(&self, script: &str) -> std::process::Output {
        Command::new("sh").arg("-c").arg(script).current_dir(&self.dir).output().unwrap()
    }

    fn sh_ok(&self, script: &str) -> String {
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
    }
}

fn errno<T>(outcome: io::Result<T>) -> Errno {
    match outcome {
        Ok(_) => Errno::UnknownErrno,
        Err(error) => Errno::from_raw(error.raw_os_error().unwrap_or(0)),
    }
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn a_tree_is_read() {
    let Some(mount) = Mount::new() else { return };
    let content = pattern(3_000_000);
    mount.put("a/b/big", content.clone());
    mount.put("a/empty", "");
    mount.put(".millrace/volume.json", "{}");
    mount.put("a/.millrace/x", "hidden");

    assert_eq!(fs::read(mount.path("a/b/big")).unwrap(), content);
    assert_eq!(fs::read(mount.path("a/empty")).unwrap(), b"");
    let mut part = [0; 100];
    File::open(mount.path("a/b/big")).unwrap().read_exact_at(&mut part, 1_234_567).unwrap();
    assert_eq!(part, content[1_234_567..1_234_667]);
    assert_eq!(mount.sh_ok("find . | sort"), ".\n./a\n./a/b\n./a/b/big\n./a/empty\n");
    let meta = fs::metadata(mount.path("a/b/big")).unwrap();
    assert_eq!((meta.len(), meta.mode(), meta.uid()), (3_000_000, 0o100_644, 0));
    assert_eq!(fs::metadata(mount.path("a")).unwrap().mode(), 0o40_755);
    assert_eq!(errno(fs::metadata(mount.path("nothing"))), Errno::ENOENT);
    assert_eq!(errno(fs::metadata(mount.path(".millrace"))), Errno::ENOENT);
    assert_eq!(errno(fs::create_dir(mount.path("a/.millrace"))), Errno::EPERM);
    assert_eq!(errno(fs::write(mount.path(".millrace"), "x")), Errno::EPERM);
}
