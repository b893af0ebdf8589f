//! A real mount: the kernel's view of a volume in memory. Needs root and `/dev/fuse`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "mount/ahead.rs"]
mod ahead;
#[path = "mount/crowded.rs"]
mod crowded;
#[path = "mount/inodes.rs"]
mod inodes;
mod replies;
#[path = "mount/unopened.rs"]
mod unopened;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::BoxStream;

use millrace::backend::memory::Memory;
use millrace::backend::{self, Backend, Intent};
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
    vfs: Arc<Vfs>,
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
        Mount::over(backend, store, config, &fuse::Config::default())
    }

    fn over(backend: Arc<dyn Backend>, store: Memory, config: vfs::Config, serve: &fuse::Config) -> Option<Mount> {
        Mount::within(BUDGET, backend, store, config, serve)
    }

    fn within(
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

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Puts a file into the store behind the mount's back.
    fn put(&self, name: &str, content: impl Into<Bytes>) {
        self.store.put(&backend::Path::parse(name).unwrap(), content);
    }

    /// What the store holds under `name`.
    fn stored(&self, name: &str) -> Option<Vec<u8>> {
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
    fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) {
        for _ in 0..500 {
            if done() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("waited in vain for {what}");
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
        replies::assert_none_refused();
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
    assert_eq!(errno(fs::metadata(mount.path("a/.millrace"))), Errno::ENOENT);
    assert_eq!(errno(fs::create_dir(mount.path("a/.millrace"))), Errno::EPERM);
    assert_eq!(errno(fs::write(mount.path("a/.millrace"), "x")), Errno::EPERM);
}

#[test]
fn what_is_written_in_order_is_stored_whole() {
    let Some(mount) = Mount::new() else { return };
    let content = pattern(5_000_001);
    fs::write(mount.path("f"), &content).unwrap();
    assert_eq!(mount.stored("f").unwrap(), content);
    assert_eq!(fs::read(mount.path("f")).unwrap(), content);

    // A good file stays until its successor is whole.
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"new").unwrap();
    assert_eq!(mount.stored("f").unwrap(), content);
    assert_eq!(fs::metadata(mount.path("f")).unwrap().len(), 3);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"new");
    file.sync_all().unwrap();
    assert_eq!(mount.stored("f").unwrap(), b"new");
    file.write_all(b"er").unwrap();
    drop(file);
    assert_eq!(mount.stored("f").unwrap(), b"newer");
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"newer");
}

#[test]
fn a_file_being_written_is_listed_with_its_size() {
    let Some(mount) = Mount::new() else { return };
    mount.put("d/old", "old");
    let mut file = File::create(mount.path("d/new")).unwrap();
    file.write_all(b"12345").unwrap();
    assert_eq!(mount.sh_ok("ls d"), "new\nold\n");
    assert_eq!(mount.sh_ok("stat -c '%n %s' d/*"), "d/new 5\nd/old 3\n");
    assert_eq!(mount.stored("d/new"), None);
    assert_eq!(errno(fs::remove_dir(mount.path("d"))), Errno::ENOTEMPTY);
}

#[test]
fn an_empty_file_is_published_at_last() {
    let Some(mount) = Mount::new() else { return };
    File::create(mount.path("touched")).unwrap();
    mount.wait_for("the empty file", || mount.stored("touched").is_some());
    let file = File::create(mount.path("synced")).unwrap();
    assert_eq!(mount.stored("synced"), None);
    file.sync_all().unwrap();
    assert_eq!(mount.stored("synced").unwrap(), b"");
    mount.put("full", "full");
    mount.sh_ok(": > full");
    mount.wait_for("the truncated file", || mount.stored("full").is_some_and(|content| content.is_empty()));
    mount.put("cut", "something");
    mount.sh_ok("truncate -s 0 cut");
    assert_eq!(mount.stored("cut").unwrap(), b"");
}

#[test]
fn a_shells_redirections_share_one_file() {
    let Some(mount) = Mount::new() else { return };
    mount.sh_ok("(echo a; /bin/echo b; echo c) > f");
    assert_eq!(mount.stored("f").unwrap(), b"a\nb\nc\n");
    mount.sh_ok("{ echo one; sh -c 'exit 0'; (exit 0); echo two; } > g");
    assert_eq!(mount.stored("g").unwrap(), b"one\ntwo\n");
    mount.sh_ok("echo x >> new && cat new");
    assert_eq!(mount.stored("new").unwrap(), b"x\n");
    // A stored file cannot be continued.
    assert!(!mount.sh("/bin/echo y >> new").status.success());
    assert_eq!(mount.stored("new").unwrap(), b"x\n");
}

#[test]
fn another_owners_close_publishes_nothing() {
    let Some(mount) = Mount::new() else { return };
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"first").unwrap();
    // The child has a copy of the descriptor, and closes it when it starts its program.
    assert!(Command::new("true").status().unwrap().success());
    assert_eq!(mount.stored("f"), None);
    file.write_all(b", second").unwrap();
    // A descriptor of the writer's own publishes.
    drop(file.try_clone().unwrap());
    assert_eq!(mount.stored("f").unwrap(), b"first, second");
    file.write_all(b", third").unwrap();
    drop(file);
    assert_eq!(mount.stored("f").unwrap(), b"first, second, third");
}

#[test]
fn what_the_store_cannot_do_is_refused_at_once() {
    let Some(mount) = Mount::new() else { return };
    mount.put("f", "content");
    let file = OpenOptions::new().read(true).write(true).open(mount.path("f")).unwrap();
    assert_eq!(errno(file.write_at(b"X", 0)), Errno::EOPNOTSUPP);
    assert_eq!(errno(file.set_len(3)), Errno::EOPNOTSUPP);
    file.set_len(7).unwrap();
    let mut content = String::new();
    (&file).read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
    drop(file);
    let file = File::create(mount.path("g")).unwrap();
    file.write_at(b"abc", 0).unwrap();
    assert_eq!(errno(file.write_at(b"x", 100)), Errno::EOPNOTSUPP);
    assert_eq!(errno(file.write_at(b"x", 1)), Errno::EOPNOTSUPP);
    drop(file);
    assert_eq!(mount.stored("g").unwrap(), b"abc");
    assert_eq!(errno(fs::hard_link(mount.path("f"), mount.path("h"))), Errno::EPERM);
    assert_eq!(errno(std::os::unix::fs::symlink("f", mount.path("s"))), Errno::EPERM);
    assert!(!mount.sh("mkfifo p").status.success());
    assert!(!mount.sh("fallocate -l 100 g").status.success());
    assert_eq!(mount.stored("f").unwrap(), b"content");
}

#[test]
fn a_shared_writable_mapping_is_refused() {
    let Some(mount) = Mount::new() else { return };
    mount.put("f", pattern(10_000));
    let script = "import mmap,os,errno\n\
        f=os.open('f',os.O_RDWR)\n\
        try:\n mmap.mmap(f,0)\n print('mapped')\n\
        except OSError as e: print(errno.errorcode[e.errno])\n\
        r=os.open('f',os.O_RDONLY)\n\
        m=mmap.mmap(r,0,prot=mmap.PROT_READ)\n\
        print(sum(m[:]))";
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: no python3");
        return;
    }
    let output = Command::new("python3").args(["-c", script]).current_dir(&mount.dir).output().unwrap();
    let sum: u64 = pattern(10_000).iter().map(|byte| u64::from(*byte)).sum();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("ENODEV\n{sum}\n"), "{err}");
}

#[test]
fn a_replaced_file_is_another_inode() {
    let Some(mount) = Mount::with(vfs::Config { ttl: Duration::ZERO.into(), ..vfs::Config::default() }) else { return };
    let old = vec![b'o'; 20 << 20];
    mount.put("f", old.clone());
    let held = File::open(mount.path("f")).unwrap();
    let ino = held.metadata().unwrap().ino();
    let mut head = [0; 4096];
    held.read_exact_at(&mut head, 0).unwrap();
    mount.put("f", vec![b'n'; 30 << 20]);

    let new = File::open(mount.path("f")).unwrap();
    assert_ne!(new.metadata().unwrap().ino(), ino);
    assert_eq!(held.metadata().unwrap().len(), 20 << 20);
    assert_eq!(new.metadata().unwrap().len(), 30 << 20);
    let mut content = Vec::new();
    (&new).read_to_end(&mut content).unwrap();
    assert!(content.iter().all(|byte| *byte == b'n') && content.len() == 30 << 20);
    // The old descriptor gives old bytes or an error, wherever it reads.
    let mut failed = 0;
    for at in (0..old.len() as u64).step_by(1 << 20) {
        match held.read_exact_at(&mut head, at) {
            Ok(()) => assert!(head.iter().all(|byte| *byte == b'o'), "torn at {at}"),
            Err(error) => {
                assert_eq!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ESTALE));
                failed += 1;
            }
        }
    }
    assert!(failed > 0, "what was never fetched cannot be there");
}

#[test]
fn a_version_that_went_is_found_anew_at_the_next_open() {
    let Some(mount) = Mount::with(vfs::Config { ttl: Duration::from_secs(600).into(), ..vfs::Config::default() })
    else {
        return;
    };
    mount.put("f", "old");
    assert_eq!(fs::metadata(mount.path("f")).unwrap().len(), 3);
    mount.put("f", "newer");
    // The kernel still believes the old attributes; the read finds out, and the next open has the new version.
    assert_eq!(errno(fs::read(mount.path("f"))), Errno::ESTALE);
    mount.wait_for("the entry to be dropped", || fs::read(mount.path("f")).is_ok_and(|content| content == b"newer"));
}

#[test]
fn truncation_over_open_readers_shows_nothing_old() {
    let Some(mount) = Mount::new() else { return };
    let old = vec![b'o'; 1 << 20];
    mount.put("f", old);
    let before = File::open(mount.path("f")).unwrap();
    let mut head = [0; 4096];
    before.read_exact_at(&mut head, 0).unwrap();
    let mut writer = File::create(mount.path("f")).unwrap();
    assert_eq!(before.metadata().unwrap().len(), 0);
    assert_eq!(before.read_at(&mut head, 0).unwrap(), 0);
    writer.write_all(&[b'n'; 10_000]).unwrap();
    let during = File::open(mount.path("f")).unwrap();
    let mut content = Vec::new();
    (&during).read_to_end(&mut content).unwrap();
    assert_eq!(content, vec![b'n'; 10_000]);
    // Through the old descriptor the kernel keeps pages: whole ones are right, the last one may not be kept yet.
    before.read_exact_at(&mut head, 0).unwrap();
    assert_eq!(head, [b'n'; 4096]);
    assert!(before.read_at(&mut head, 8192).is_err());
    writer.write_all(&[b'm'; 10_000]).unwrap();
    drop(writer);
    let mut expected = vec![b'n'; 10_000];
    expected.extend_from_slice(&[b'm'; 10_000]);
    assert_eq!(mount.stored("f").unwrap(), expected);
    for file in [before, during, File::open(mount.path("f")).unwrap()] {
        let mut content = Vec::new();
        (&file).seek(SeekFrom::Start(0)).unwrap();
        (&file).read_to_end(&mut content).unwrap();
        assert!(content == expected);
    }
}

#[test]
fn the_loser_of_two_writers_is_told() {
    let Some(mount) = Mount::new() else { return };
    mount.put("f", "base");
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"mine").unwrap();
    mount.put("f", "theirs");
    assert_eq!(errno(file.sync_all()), Errno::ESTALE);
    drop(file);
    assert_eq!(mount.stored("f").unwrap(), b"theirs");
    mount.wait_for("the winner's content", || fs::read(mount.path("f")).is_ok_and(|content| content == b"theirs"));
    // A file that somebody else made first.
    let mut file = File::create(mount.path("g")).unwrap();
    file.write_all(b"mine").unwrap();
    mount.put("g", "theirs");
    assert_eq!(errno(file.sync_all()), Errno::ESTALE);
    drop(file);
    mount.wait_for("the winner's content", || fs::read(mount.path("g")).is_ok_and(|content| content == b"theirs"));
}

#[test]
fn a_file_follows_its_name() {
    let Some(mount) = Mount::new() else { return };
    // Never published, renamed, written on.
    let mut file = File::create(mount.path("tmp")).unwrap();
    file.write_all(b"one").unwrap();
    fs::rename(mount.path("tmp"), mount.path("final")).unwrap();
    file.write_all(b" two").unwrap();
    drop(file);
    assert_eq!((mount.stored("tmp"), mount.stored("final").unwrap()), (None, b"one two".to_vec()));
    // Over a file that is there.
    mount.put("there", "old");
    let mut file = File::create(mount.path("tmp")).unwrap();
    file.write_all(b"successor").unwrap();
    fs::rename(mount.path("tmp"), mount.path("there")).unwrap();
    assert_eq!(fs::read(mount.path("there")).unwrap(), b"successor");
    drop(file);
    assert_eq!(mount.stored("there").unwrap(), b"successor");
    // Published, then renamed, then written on.
    let mut file = File::create(mount.path("log")).unwrap();
    file.write_all(b"a").unwrap();
    file.sync_all().unwrap();
    let ino = file.metadata().unwrap().ino();
    fs::rename(mount.path("log"), mount.path("log.1")).unwrap();
    assert_eq!(fs::metadata(mount.path("log.1")).unwrap().ino(), ino);
    file.write_all(b"b").unwrap();
    drop(file);
    assert_eq!((mount.stored("log"), mount.stored("log.1").unwrap()), (None, b"ab".to_vec()));
    // An open reader goes on.
    let held = File::open(mount.path("log.1")).unwrap();
    fs::rename(mount.path("log.1"), mount.path("log.2")).unwrap();
    let mut content = String::new();
    (&held).read_to_string(&mut content).unwrap();
    assert_eq!(content, "ab");
    // A directory with what is in it, a file being written too.
    fs::create_dir(mount.path("d")).unwrap();
    let mut file = File::create(mount.path("d/x")).unwrap();
    file.write_all(b"x").unwrap();
    fs::rename(mount.path("d"), mount.path("e")).unwrap();
    file.write_all(b"y").unwrap();
    drop(file);
    assert_eq!(mount.stored("e/x").unwrap(), b"xy");
    assert_eq!(errno(fs::metadata(mount.path("d"))), Errno::ENOENT);
    assert!(mount.sh("mv -nT e final; test -d e").status.success());
}

#[test]
fn an_unlinked_file_is_never_published() {
    let Some(mount) = Mount::new() else { return };
    let mut file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(mount.path("f")).unwrap();
    file.write_all(b"scratch").unwrap();
    fs::remove_file(mount.path("f")).unwrap();
    assert_eq!(errno(fs::metadata(mount.path("f"))), Errno::ENOENT);
    file.write_all(b" space").unwrap();
    file.sync_all().unwrap();
    let mut content = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "scratch space");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    // A second file of the name has nothing to do with it.
    fs::write(mount.path("f"), "second").unwrap();
    assert_eq!(mount.stored("f").unwrap(), b"second");
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"third").unwrap();
    fs::remove_file(mount.path("f")).unwrap();
    drop(file);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(mount.stored("f"), None);
}

#[test]
fn removing_twenty_thousand_entries_misses_none() {
    let Some(mount) = Mount::new() else { return };
    for i in 0..20_000 {
        mount.put(&format!("d/{i:05}"), "");
    }
    assert_eq!(fs::read_dir(mount.path("d")).unwrap().count(), 20_000);
    mount.sh_ok("rm -r d");
    assert_eq!(errno(fs::metadata(mount.path("d"))), Errno::ENOENT);
}

#[test]
fn a_directory_offset_keeps_its_meaning() {
    let Some(mount) = Mount::new() else { return };
    for i in 0..3_000 {
        mount.put(&format!("d/{i:05}"), "x");
    }
    let script = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Dirent(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_uint64), ('off', ctypes.c_int64), ('reclen', ctypes.c_uint16), ('type', ctypes.c_uint8), ('name', ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Dirent)
for f in (libc.readdir, libc.telldir, libc.rewinddir): f.argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
d = libc.opendir(b'd')
names, marks = [], []
while True:
    mark = libc.telldir(d)
    e = libc.readdir(d)
    if not e: break
    names.append(e.contents.name); marks.append(mark)
assert len(names) == 3002 and len(set(names)) == 3002, len(names)
for n in names[10:1500]:
    if not n.startswith(b'.'): os.unlink(b'd/' + n)
for i in (2000, 5, 2999, 1600):
    libc.seekdir(d, marks[i])
    assert libc.readdir(d).contents.name == names[i], i
    os.stat(b'd/' + names[i])
libc.rewinddir(d)
again = 0
while libc.readdir(d): again += 1
assert again == 3002 - 1490, again
print('ok')
"#;
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: no python3");
        return;
    }
    let output = Command::new("python3").args(["-c", script]).current_dir(&mount.dir).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn numbers_of_entries_are_the_files_numbers() {
    let Some(mount) = Mount::new() else { return };
    mount.put("a", "1");
    mount.put("d/b", "2");
    for dir in [mount.dir.clone(), mount.path("d")] {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.ino(), fs::metadata(entry.path()).unwrap().ino(), "{:?}", entry.path());
        }
    }
}

#[test]
fn locks_work_within_the_mount() {
    let Some(mount) = Mount::new() else { return };
    mount.put("f", "x");
    let first = File::open(mount.path("f")).unwrap();
    let second = File::open(mount.path("f")).unwrap();
    first.lock_shared().unwrap();
    second.try_lock_shared().unwrap();
    second.unlock().unwrap();
    assert!(second.try_lock().is_err());
    first.unlock().unwrap();
    second.try_lock().unwrap();
}

#[test]
fn attributes_are_the_volumes() {
    let config = vfs::Config { uid: 1234, gid: 5678, file_mode: 0o640, dir_mode: 0o750, ..vfs::Config::default() };
    let Some(mount) = Mount::with(config) else { return };
    mount.put("d/f", "x");
    let (file, dir) = (fs::metadata(mount.path("d/f")).unwrap(), fs::metadata(mount.path("d")).unwrap());
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1234, 5678, 0o640));
    assert_eq!((dir.uid(), dir.gid(), dir.mode() & 0o7777), (1234, 5678, 0o750));
    mount.sh_ok("chmod 600 d/f && chown 1:1 d/f && touch d/f d");
    assert_eq!(fs::metadata(mount.path("d/f")).unwrap().mode() & 0o7777, 0o640);

    let Some(mount) = Mount::with(vfs::Config { accept_attributes: false, ..vfs::Config::default() }) else { return };
    mount.put("f", "x");
    assert!(!mount.sh("chmod 600 f").status.success());
    mount.sh_ok("cp -p f g");
}

#[test]
fn a_read_only_volume_changes_nothing() {
    let Some(mount) = Mount::with(vfs::Config { read_only: true, ..vfs::Config::default() }) else { return };
    mount.put("d/f", "x");
    assert_eq!(errno(File::create(mount.path("d/f"))), Errno::EROFS);
    assert_eq!(errno(File::create(mount.path("new"))), Errno::EROFS);
    assert_eq!(errno(fs::create_dir(mount.path("new"))), Errno::EROFS);
    assert_eq!(errno(fs::remove_file(mount.path("d/f"))), Errno::EROFS);
    assert_eq!(errno(fs::rename(mount.path("d/f"), mount.path("e"))), Errno::EROFS);
    assert_eq!(fs::read(mount.path("d/f")).unwrap(), b"x");
}

#[test]
fn what_programs_do() {
    let Some(mount) = Mount::new() else { return };
    mount.sh_ok("mkdir -p src/a/b && for i in 1 2 3 4 5; do seq 1 2000 > src/a/b/$i; done && head -c 3000000 /dev/zero > src/zeros");
    mount.sh_ok(
        "cp -r src copy && diff -r src copy && tar cf t.tar src && mkdir x && tar xf t.tar -C x && diff -r src x/src",
    );
    mount.sh_ok(
        "mv copy moved && test ! -e copy && diff -r src moved && rm -r moved && du -s src && find src -type f | wc -l",
    );
    assert_eq!(mount.sh_ok("df --output=size . | tail -1 | tr -d ' '"), "1099511627776\n");
    if Command::new("git").arg("--version").output().is_ok() {
        mount.sh_ok(
            "export HOME=$(pwd) GIT_CONFIG_NOSYSTEM=1 && git init -q repo && cd repo && git config user.email a@b && git config user.name n && \
             cp -r ../src . && git add -A && git commit -qm one && git status --porcelain && cd .. && \
             git clone -q repo clone && diff -r src clone/src && git -C clone fsck",
        );
    }
}

#[test]
fn closed_files_are_published_before_the_session_ends() {
    let Some(mount) = Mount::new() else { return };
    for i in 0..50 {
        File::create(mount.path(&format!("f{i}"))).unwrap();
    }
    umount2(&mount.dir, MntFlags::empty()).unwrap();
    mount.runtime.block_on(mount.session.ended()).unwrap();
    for i in 0..50 {
        assert!(mount.stored(&format!("f{i}")).is_some(), "f{i}");
    }
}

/// A store that never answers for names that begin with `stuck`.
#[derive(Debug)]
struct Stuck(Memory);

impl Stuck {
    async fn wait(path: &backend::Path) {
        if path.split_last().is_some_and(|(_, name)| name.as_bytes().starts_with(b"stuck")) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait::async_trait]
impl Backend for Stuck {
    fn traits(&self) -> backend::Traits {
        self.0.traits()
    }

    async fn stat(&self, path: &backend::Path) -> backend::Result<backend::Meta> {
        Stuck::wait(path).await;
        self.0.stat(path).await
    }

    fn list(&self, dir: &backend::Path) -> BoxStream<'static, backend::Result<backend::Entry>> {
        self.0.list(dir)
    }

    async fn read(
        &self,
        file: &backend::Version,
        range: Range<u64>,
        why: Intent,
    ) -> backend::Result<BoxStream<'static, backend::Result<Bytes>>> {
        if file.path.as_bytes() == b"unread" {
            std::future::pending::<()>().await;
        }
        self.0.read(file, range, why).await
    }

    async fn fetch(
        &self,
        path: &backend::Path,
        longest: u64,
        known: Option<&backend::Version>,
    ) -> backend::Result<backend::Fetched> {
        self.0.fetch(path, longest, known).await
    }

    async fn create(
        &self,
        path: &backend::Path,
        how: backend::CreateOptions,
    ) -> backend::Result<Box<dyn backend::Upload>> {
        self.0.create(path, how).await
    }

    async fn make_dir(&self, path: &backend::Path) -> backend::Result<backend::Meta> {
        self.0.make_dir(path).await
    }

    async fn remove(&self, path: &backend::Path, kind: backend::Kind) -> backend::Result<()> {
        self.0.remove(path, kind).await
    }

    async fn rename(
        &self,
        from: &backend::Path,
        to: &backend::Path,
        how: backend::RenameOptions,
    ) -> backend::Result<backend::Meta> {
        self.0.rename(from, to, how).await
    }
}

#[test]
fn a_store_that_hangs_fails_its_callers_and_nobody_else() {
    let store = Memory::new();
    let serve = fuse::Config { timeout: Duration::from_secs(3).into(), threads: 2, ..fuse::Config::default() };
    let backend = Arc::new(Stuck(store.clone()));
    let Some(mount) = Mount::over(backend, store, vfs::Config::default(), &serve) else { return };
    mount.put("f", "content");
    mount.put("unread", "never");
    mount.put("d/other", "x");
    fs::metadata(mount.path("d")).unwrap();
    let begun = Instant::now();
    let stuck: Vec<_> = (0..8)
        .map(|i| {
            let path = mount.path(&if i == 0 { "unread".into() } else { format!("stuck-{i}") });
            std::thread::spawn(move || errno(fs::read(path)))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    // More callers hang than threads read requests, in this very directory.
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"content");
    assert_eq!(fs::read_dir(&mount.dir).unwrap().count(), 3);
    // In a directory of its own: the kernel makes no name where one is being looked up.
    fs::write(mount.path("d/g"), "new").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "they waited for the deadline of others");
    for caller in stuck {
        assert_eq!(caller.join().unwrap(), Errno::EIO);
    }
}

#[test]
fn a_killed_program_counts_as_closed() {
    let Some(mount) = Mount::new() else { return };
    let mut child = Command::new("sh")
        .args(["-c", "exec > f; echo begun; read forever"])
        .stdin(std::process::Stdio::piped())
        .current_dir(&mount.dir)
        .spawn()
        .unwrap();
    mount.wait_for("the program to write", || fs::metadata(mount.path("f")).is_ok_and(|meta| meta.len() == 6));
    assert_eq!(mount.stored("f"), None);
    child.kill().unwrap();
    child.wait().unwrap();
    mount.wait_for("its file", || mount.stored("f").is_some_and(|content| content == b"begun\n"));
}

#[test]
fn an_aborted_connection_ends_the_session() {
    let Some(mount) = Mount::new() else { return };
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"in the middle of").unwrap();
    let minor = nix::sys::stat::minor(fs::metadata(&mount.dir).unwrap().dev());
    let abort = format!("/sys/fs/fuse/connections/{minor}/abort");
    if fs::metadata(&abort).is_err() {
        eprintln!("skipped: no {abort}");
        return;
    }
    fs::write(abort, "1").unwrap();
    assert!(file.write_all(b"something").is_err());
    mount.runtime.block_on(mount.session.ended()).unwrap();
    drop(file);
    // Half a file is not a file.
    assert_eq!(mount.stored("f"), None);
}

#[test]
fn a_limit_is_kept_at_write_and_shown_by_df() {
    let Some(mount) = Mount::new() else { return };
    mount.put("old", vec![0; 6 << 20]);
    mount.runtime.block_on(mount.vfs.count()).unwrap();
    mount.vfs.set_limit(Some(8 << 20));
    let stat = nix::sys::statvfs::statvfs(&mount.dir).unwrap();
    let (block, used) = (stat.fragment_size(), stat.blocks() - stat.blocks_free());
    assert_eq!((stat.blocks() * block, used * block, stat.blocks_available() * block), (8 << 20, 6 << 20, 2 << 20));

    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(&vec![1; 2 << 20]).unwrap();
    assert_eq!(errno(file.write_all(&[1])), Errno::ENOSPC);
    // What was written before is a file all the same, and reported as one.
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(mount.stored("f").unwrap().len(), 2 << 20);
    assert_eq!(errno(fs::write(mount.path("g"), "x")), Errno::ENOSPC);
    fs::remove_file(mount.path("old")).unwrap();
    fs::write(mount.path("g"), vec![2; 6 << 20]).unwrap();
    mount.vfs.set_limit(Some(9 << 20));
    fs::write(mount.path("h"), vec![2; 1 << 20]).unwrap();
    assert_eq!(errno(fs::write(mount.path("i"), "x")), Errno::ENOSPC);
}

/// Reads a mapping of the file named on its command line, and says its first byte whenever it is asked.
const MAPPED: &str = "import mmap,os,sys\n\
    f=os.open(sys.argv[1],os.O_RDONLY)\n\
    m=mmap.mmap(f,0,prot=mmap.PROT_READ)\n\
    print(chr(m[0]),flush=True)\n\
    for _ in sys.stdin:\n print(chr(m[0]),flush=True)";

#[test]
fn another_principals_bytes_come_under_open_files_and_mappings() {
    let trees = [Memory::new(), Memory::new()];
    for (store, byte) in trees.iter().zip(*b"on") {
        store.put(&backend::Path::parse("f").unwrap(), vec![byte; 3 << 20]);
    }
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: no python3");
        return;
    }
    let [old, new] = trees;
    let swappable = backend::Swappable::new(Arc::new(old.clone()));
    let serve = fuse::Config::default();
    let Some(mount) = Mount::over(Arc::new(swappable.clone()), old, vfs::Config::default(), &serve) else { return };
    let file = File::open(mount.path("f")).unwrap();
    let byte_at = |at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0]
    };
    // Pages in the kernel, and more that was read ahead.
    assert!((0..1 << 20).step_by(64 << 10).all(|at| byte_at(at) == b'o'));
    let mapped = Command::new("python3")
        .args(["-c", MAPPED, "f"])
        .current_dir(&mount.dir)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut mapped = mapped.unwrap();
    let mut ask = mapped.stdin.take().unwrap();
    let mut answers = io::BufRead::lines(io::BufReader::new(mapped.stdout.take().unwrap()));
    assert_eq!(answers.next().unwrap().unwrap(), "o");

    mount.runtime.block_on(mount.vfs.succeed(|| swappable.swap(Arc::new(new))));
    assert!((0..3 << 20).step_by(64 << 10).all(|at| byte_at(at) == b'n'));
    writeln!(ask).unwrap();
    assert_eq!(answers.next().unwrap().unwrap(), "n");
    drop(ask);
    mapped.wait().unwrap();
}

#[test]
fn what_is_made_in_a_setgid_directory_is_its_groups() {
    let config = vfs::Config { gid: 5678, dir_mode: 0o2775, file_mode: 0o664, ..vfs::Config::default() };
    let Some(mount) = Mount::with(config) else { return };
    mount.sh_ok("mkdir d && : > d/f");
    for (name, mode) in [("d", 0o42775), ("d/f", 0o100_664)] {
        let meta = fs::metadata(mount.path(name)).unwrap();
        assert_eq!((meta.gid(), meta.mode()), (5678, mode), "{name}");
    }
}
