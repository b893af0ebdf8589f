//! Workers as processes, with real mounts, on the embedded S3 server: publishing, dying, freezing, restarting. Needs
//! root and `/dev/fuse`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "worker/by_hand.rs"]
mod by_hand;
#[path = "worker/cache.rs"]
mod cache;
#[path = "worker/file_servers.rs"]
mod file_servers;
#[path = "worker/hdfs.rs"]
mod hdfs;
#[path = "worker/identities.rs"]
mod identities;
#[path = "worker/isolation.rs"]
mod isolation;
#[path = "worker/kerberos.rs"]
mod kerberos;
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
#[path = "worker/privileged.rs"]
mod privileged;
#[path = "worker/random.rs"]
mod random;
#[path = "worker/refused.rs"]
mod refused;
#[path = "worker/renewal.rs"]
mod renewal;
mod replies;
#[path = "worker/restarted.rs"]
mod restarted;
#[path = "worker/rewritten.rs"]
mod rewritten;
#[path = "worker/rig.rs"]
mod rig;
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
use millrace::config::{SnapshotSpec, VolumeOptions, VolumeSpec};
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

use restarted::*;
use rig::*;

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
        // A machine that runs out of memory ends it before the node plugin.
        let readiness = |process: &str| {
            let text = fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap();
            text.trim().parse::<i32>().unwrap()
        };
        assert_eq!(readiness(&pid.to_string()), readiness("self").max(500));
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
