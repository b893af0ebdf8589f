//! A real mount: the kernel's view of a volume in memory. Needs root and `/dev/fuse`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "mount/ahead.rs"]
mod ahead;
#[path = "mount/crowded.rs"]
mod crowded;
#[path = "mount/directories.rs"]
mod directories;
#[path = "mount/ending.rs"]
mod ending;
#[path = "mount/inodes.rs"]
mod inodes;
#[path = "mount/mounted.rs"]
mod mounted;
mod replies;
#[path = "mount/unopened.rs"]
mod unopened;
#[path = "mount/written.rs"]
mod written;

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

use mounted::*;

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
