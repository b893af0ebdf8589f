//! A worker's view of the file system: a few read-only files that resolving names and trusting certificates need, and
//! nothing else of the node.
//!
//! The rest of the node's mounts is detached from the worker's mount namespace, not hidden in it: a copy of a mount
//! keeps its file system alive after the node plugin has unmounted it, the worker's own too.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, chroot, pivot_root};

/// What the resolver of libc reads (resolver(5), nsswitch.conf(5), gai.conf(5)), and where distributions keep the
/// certificates that they trust, links and their ends. What is missing is passed over.
const NEEDED: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates/extracted",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
];

/// A directory that every system has and that nothing needed is below: the new root is put together there.
const WORKSHOP: &str = "/dev";

/// The worker's root within the new root: a process whose root is not its namespace's can make no user namespace, in
/// which it would have every capability again (current_chrooted in the kernel's fs/namespace.c).
const INNER: &str = "worker";

const SEALED: MsFlags = MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV);

/// Moves this process, which has one thread, to a mount and an IPC namespace of its own, and to a root that holds what a
/// worker needs; and where a path and a uid are given, at that path a folder of that user's alone, in memory. Needs
/// CAP_SYS_ADMIN.
pub(super) fn leave_the_nodes_files(own: Option<(&str, u32)>) -> io::Result<()> {
    // Before there is no /proc any more.
    let libraries = resolver_libraries();
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC)?;
    // What the node unmounts meanwhile goes here too; what is mounted here goes nowhere else.
    change(Path::new("/"), MsFlags::MS_SLAVE | MsFlags::MS_REC)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("worker"), WORKSHOP, Some("tmpfs"), flags, Some("mode=0755,size=64k"))?;
    umask(Mode::from_bits_truncate(0o022));
    let root = Path::new(WORKSHOP).join(INNER);
    fs::create_dir(&root)?;
    for path in NEEDED.iter().map(Path::new) {
        show(path, &root, MsFlags::MS_NOEXEC)?;
    }
    for path in &libraries {
        show(path, &root, MsFlags::empty())?;
    }
    if let Some((path, uid)) = own {
        let at = root.join(path.trim_start_matches('/'));
        fs::create_dir(&at)?;
        let words = format!("mode=0700,uid={uid},gid={uid},size=512k,nr_inodes=64");
        mount(Some("worker"), &at, Some("tmpfs"), flags, Some(words.as_str()))?;
    }
    // pivot_root(2): the old root comes to lie on the new one, and is taken off.
    chdir(WORKSHOP)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    change(Path::new("/"), MsFlags::MS_REMOUNT | MsFlags::MS_BIND | SEALED | MsFlags::MS_NOEXEC)?;
    chroot(Path::new("/").join(INNER).as_path())?;
    chdir("/")?;
    Ok(())
}

/// Whether any directory is there that every node has and no worker needs.
pub(super) fn sees_the_nodes_files() -> bool {
    ["/proc", "/dev", "/sys", "/tmp", "/home"].iter().any(|path| Path::new(path).exists())
}

/// Shows a file or directory of the node at the same path below `root`, read-only. What is mounted below it is not
/// shown.
fn show(path: &Path, root: &Path, more: MsFlags) -> io::Result<()> {
    // The end of a link.
    let Ok(meta) = fs::metadata(path) else { return Ok(()) };
    let at = root.join(path.strip_prefix("/").unwrap_or(path));
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let dir = if meta.is_dir() { Some(at.as_path()) } else { at.parent() };
    if let Some(dir) = dir {
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(named)?;
    }
    if !meta.is_dir() {
        File::create(&at).map_err(named)?;
    }
    let none = None::<&str>;
    mount(Some(path), &at, none, MsFlags::MS_BIND, none).map_err(io::Error::from).map_err(named)?;
    change(&at, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | SEALED | more).map_err(named)
}

fn change(at: &Path, flags: MsFlags) -> io::Result<()> {
    let none = None::<&str>;
    Ok(mount(none, at, none, flags, none)?)
}

/// The libraries beside libc that it loads when a name is first resolved (nss(5)). None where libc is linked in.
fn resolver_libraries() -> Vec<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let libc =
        maps.lines().find_map(|line| line.find('/').map(|at| &line[at..]).filter(|path| path.contains("/libc.so.")));
    let dir = libc.and_then(|path| Path::new(path).parent());
    let entries = dir.and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().filter_map(Result::ok);
    let is_needed =
        |name: &str| (name.starts_with("libnss_") && name.contains(".so.")) || name.starts_with("libresolv.so.");
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_needed)).map(|entry| entry.path()).collect()
}
