//! What a worker can do to others and to its node: each thing tried from inside one, by a process that is started and
//! confined as every worker is and then turns on its node. The same things, tried by root outside, succeed.

use std::io::{IoSliceMut, Read};
use std::net::ToSocketAddrs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use millrace::mount::confine::confine;
use millrace::mount::handover::{Channel, FromWorker, ToWorker, VERSION};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::{Mode, SFlag};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;
use serde::{Deserialize, Serialize};

use super::*;

const INSIDE: &str = "MILLRACE_TEST_INSIDE";

/// What it turns on.
#[derive(Debug, Serialize, Deserialize)]
struct Victim {
    /// A worker that serves, as the node knows it.
    pid: i32,
    /// Somewhere in its memory.
    address: usize,
    socket: PathBuf,
    target: PathBuf,
    state: PathBuf,
    cgroup: Option<PathBuf>,
    /// Where nothing is yet.
    free: PathBuf,
    /// Play the worker. Otherwise stay who one is, and print.
    confined: bool,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    /// What was tried, and `None` where it could be done, else the error.
    tried: Vec<(String, Option<String>)>,
    /// Every path that can be seen.
    seen: Vec<PathBuf>,
    /// How many certificates are trusted.
    certificates: usize,
    /// `localhost` has an address.
    resolves: bool,
}

impl Report {
    fn done(&self) -> Vec<&str> {
        self.tried.iter().filter(|(_, error)| error.is_none()).map(|(what, _)| what.as_str()).collect()
    }
}

fn turn_on(victim: &Victim) -> Report {
    let Victim { pid, free, .. } = victim;
    let proc = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let mut tried = Vec::new();
    let mut attempt = |what: &str, outcome: std::io::Result<()>| {
        tried.push((what.to_owned(), outcome.err().map(|error| error.to_string())));
    };
    let open = |path: &Path| fs::File::open(path).map(drop);
    let list = |path: &Path| fs::read_dir(path).map(drop);
    let read = |path: &Path| fs::File::open(path).and_then(|mut file| file.read(&mut [0; 16])).map(drop);

    let process = Pid::from_raw(*pid);
    attempt("signal it", Ok(kill(process, None)).and_then(|done| Ok(done?)));
    attempt("signal everybody", Ok(kill(Pid::from_raw(-1), None)).and_then(|done| Ok(done?)));
    let remote = [RemoteIoVec { base: victim.address, len: 16 }];
    let mut bytes = [0; 16];
    let copied = process_vm_readv(process, &mut [IoSliceMut::new(&mut bytes)], &remote);
    attempt("copy its memory", copied.map(drop).map_err(Into::into));
    for name in ["mem", "maps", "environ", "root/etc"] {
        attempt(&format!("open its {name} in /proc"), open(&proc(name)));
    }
    attempt("list its descriptors", list(&proc("fd")));
    attempt("connect to its socket", UnixStream::connect(&victim.socket).map(drop));
    attempt("read what it serves", read(&victim.target.join("hello")));
    attempt("list the state directory", list(&victim.state));
    if let Some(cgroup) = &victim.cgroup {
        let raise = || fs::OpenOptions::new().write(true).open(cgroup.join("memory.limit_in_bytes")).map(drop);
        attempt("change its memory limit", raise());
    }
    for path in ["/etc/passwd", "/etc/shadow", "/proc/self/mem", "/dev/fuse", "/dev/null", "/sys/kernel", "/root"] {
        attempt(&format!("open {path}"), open(Path::new(path)));
    }
    let shell = || Command::new("/bin/sh").args(["-c", "true"]).status().map(drop);
    attempt("run a shell", shell());
    attempt("make a file", fs::write(free, "x").and_then(|()| fs::remove_file(free)));
    let visible = Path::new("/etc/hosts");
    attempt("change a file that it sees", fs::OpenOptions::new().append(true).open(visible).map(drop));
    let device = nix::sys::stat::mknod(free, SFlag::S_IFCHR, Mode::S_IRUSR, nix::sys::stat::makedev(1, 3));
    attempt("make a device", device.map_err(Into::into).and_then(|()| fs::remove_file(free)));
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), nix::sys::socket::SockProtocol::Icmp);
    attempt("open a raw socket", raw.map(drop).map_err(Into::into));
    let root = nix::unistd::Uid::from_raw(0);
    attempt("become root", nix::unistd::setresuid(root, root, root).map_err(Into::into));
    attempt("join a group", nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(0)]).map_err(Into::into));
    let certificates = rustls_native_certs::load_native_certs().certs.len();
    let resolves = ("localhost", 80).to_socket_addrs().is_ok_and(|mut found| found.next().is_some());
    let mut seen = Vec::new();
    if victim.confined {
        see(Path::new("/"), &mut seen);
    }
    attempt("make a user namespace", become_root_of_a_namespace());
    // These change who one is, and come last.
    attempt("make a mount namespace", unshare(CloneFlags::CLONE_NEWNS).map_err(Into::into));
    attempt("move the root", nix::unistd::chroot("/etc").map_err(Into::into));
    Report { tried, seen, certificates, resolves }
}

/// In a child, since only a process with one thread may.
#[expect(unsafe_code, reason = "there is no safe fork(2)")]
fn become_root_of_a_namespace() -> std::io::Result<()> {
    // SAFETY: the child makes two system calls and allocates nothing.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            let outcome = unshare(CloneFlags::CLONE_NEWUSER);
            // SAFETY: ends the child without running what the parent is to run at its end.
            unsafe { libc::_exit(outcome.err().map_or(0, |errno| errno as i32)) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, errno) => Err(std::io::Error::from_raw_os_error(errno)),
            other => Err(std::io::Error::other(format!("{other:?}"))),
        },
    }
}

fn see(dir: &Path, seen: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        seen.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            see(&entry.path(), seen);
        }
    }
}

/// The part that is played inside; nothing where it is not asked for.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test runner takes no words of its own on its command line")]
fn inside() {
    let Ok(words) = std::env::var(INSIDE) else { return };
    let victim: Victim = serde_json::from_str(&words).unwrap();
    if !victim.confined {
        // A marked line: the test runner prints, too.
        println!("\n{INSIDE}{}", serde_json::to_string(&turn_on(&victim)).unwrap());
        // It has thrown away what the test runner needs to go on.
        std::process::exit(0);
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut channel = Channel::new(UnixStream::from(socket)).unwrap();
        let (ToWorker::Begin(begin), _) = channel.receive().await.unwrap() else { panic!("no beginning") };
        confine(begin.uid, begin.kerberos).unwrap();
        channel.send(&FromWorker::Ready { version: VERSION.into() }).await.unwrap();
        let (ToWorker::Volume(_), _) = channel.receive::<ToWorker>().await.unwrap() else { panic!("no volume") };
        let report = serde_json::to_string(&turn_on(&victim)).unwrap();
        channel.send(&FromWorker::Refused(Refusal::Worker(format!("{INSIDE}{report}")))).await.unwrap();
    });
    std::process::exit(0);
}

fn reported(text: &str) -> Report {
    let (_, report) = text.split_once(INSIDE).unwrap_or_else(|| panic!("no report: {text}"));
    serde_json::from_str(report.lines().next().unwrap()).unwrap()
}

const ARGUMENTS: [&str; 4] = ["isolation::inside", "--exact", "--nocapture", "--test-threads=1"];

#[test]
fn a_worker_reaches_neither_others_nor_the_node() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    rig.publish(&workers, rig.request("a")).unwrap();
    let worker = rig.worker();
    let maps = fs::read_to_string(format!("/proc/{worker}/maps")).unwrap();
    let stack = maps.lines().find(|line| line.ends_with("[stack]")).unwrap();
    // Its upper end: the stack is grown downwards from there.
    let end = usize::from_str_radix(stack.split(['-', ' ']).nth(1).unwrap(), 16).unwrap();
    let entries = fs::read_dir(rig.state().join("mounts")).unwrap().map(|entry| entry.unwrap().path());
    let mut victim = Victim {
        pid: worker.as_raw(),
        address: end - 4096,
        socket: entries.into_iter().find(|path| path.extension().is_some_and(|ext| ext == "sock")).unwrap(),
        target: rig.target("a"),
        state: rig.state(),
        cgroup: memory::cgroup_of(&rig, worker),
        free: rig.dir.join("free"),
        confined: false,
    };
    let exe = std::env::current_exe().unwrap();
    let outside =
        Command::new(&exe).args(ARGUMENTS).env(INSIDE, serde_json::to_string(&victim).unwrap()).output().unwrap();
    let outside = reported(&String::from_utf8_lossy(&outside.stdout));
    assert_eq!(outside.done().len(), outside.tried.len(), "root cannot do this here: {:?}", outside.tried);

    victim.confined = true;
    let program = rig.dir.join("pretender");
    let words = serde_json::to_string(&victim).unwrap();
    fs::write(&program, format!("#!/bin/sh\n{INSIDE}='{words}' exec {} {}\n", exe.display(), ARGUMENTS.join(" ")))
        .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let pretended = Config { program, ..config(&rig.dir.join("pretended"), SOON) };
    let pretended = rig.runtime.block_on(Workers::start(pretended)).unwrap();
    let refused = rig.publish(&pretended, rig.request("b")).unwrap_err();
    let inside = reported(&refused.to_string());
    assert_eq!(inside.done(), Vec::<&str>::new(), "{:?}", inside.tried);
    assert_eq!(inside.tried.len(), outside.tried.len());

    // It can do its work.
    assert_eq!((inside.certificates, inside.resolves), (outside.certificates, outside.resolves));
    let may_be_seen = |path: &PathBuf| {
        let needed = ["/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr", "/var/lib/ca-certificates"];
        let names = ["/etc", "/var", "/var/lib", "/lib", "/lib64"];
        let files = ["resolv.conf", "hosts", "host.conf", "nsswitch.conf", "gai.conf"];
        let library = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            name.starts_with("libnss_") || name.starts_with("libresolv") || name.ends_with("linux-gnu")
        });
        needed.iter().any(|dir| path.starts_with(dir))
            || names.iter().any(|name| path == Path::new(name))
            || files.iter().any(|file| *path == Path::new("/etc").join(file))
            || library
    };
    let too_much: Vec<_> = inside.seen.iter().filter(|path| !may_be_seen(path)).collect();
    assert!(too_much.is_empty() && !inside.seen.is_empty(), "{too_much:?}");
    assert!(!inside.seen.iter().any(|path| path.to_string_lossy().contains("private")), "{:?}", inside.seen);

    assert!(is_running(worker));
    assert_eq!(rig.hello("a").unwrap(), "hello, world");
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[worker]);
}

#[test]
fn a_worker_has_namespaces_of_its_own_that_hold_no_mount_of_the_node() {
    let Some(rig) = Rig::new() else { return };
    let workers = rig.workers();
    for target in ["a", "b"] {
        let mut request = rig.request(target);
        request.spec.volume_id = target.into();
        rig.publish(&workers, request).unwrap();
    }
    let pids = rig.records().iter().map(|record| record["worker"]["pid"].as_i64().unwrap()).collect::<Vec<_>>();
    for pid in &pids {
        for namespace in ["pid", "mnt", "ipc"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"));
            assert_eq!(pids.iter().filter(|other| of(&other.to_string()) == of(&pid.to_string())).count(), 1);
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.lines().any(|line| line == format!("NSpid:\t{pid}\t1")), "{status}");
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let writable = |line: &&str| !line.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro");
        assert_eq!(table.lines().filter(writable).collect::<Vec<_>>(), Vec::<&str>::new());
        assert!(!table.contains("fuse.millrace") && !table.contains(" /proc"), "{table}");
    }
    for target in ["a", "b"] {
        rig.runtime.block_on(workers.unpublish(target, &rig.target(target))).unwrap();
    }
    rig.assert_clean(&pids.iter().map(|pid| Pid::from_raw(*pid as i32)).collect::<Vec<_>>());
}
