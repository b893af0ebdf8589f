//! Files of the cache that the kernel reads by itself.

use std::os::unix::fs::FileExt;
use std::sync::mpsc;

use super::*;

const MIB: usize = 1 << 20;

fn read_only(rig: &Rig, target: &str) -> Publish {
    let mut request = rig.cached(target);
    request.spec.read_only = true;
    request
}

/// Whether the file is read while its worker is frozen.
fn passes(rig: &Rig, file: &fs::File, bytes: &[u8]) -> bool {
    let worker = rig.worker();
    freeze(worker);
    let (tell, told) = mpsc::channel();
    let file = file.try_clone().unwrap();
    let length = bytes.len();
    std::thread::spawn(move || {
        let mut found = vec![0; length];
        let outcome = file.read_exact_at(&mut found, 0);
        let _ = tell.send(outcome.map(|()| found));
    });
    let heard = told.recv_timeout(Duration::from_secs(5));
    kill(worker, Signal::SIGCONT).unwrap();
    match heard {
        Ok(found) => {
            assert!(found.unwrap() == bytes);
            true
        }
        Err(_) => {
            assert!(told.recv().unwrap().unwrap() == bytes);
            false
        }
    }
}

/// The file, opened so that the kernel reads it by itself where it `can`. On a busy machine an open may not be waited for.
fn opened(rig: &Rig, name: &str, bytes: &[u8], can: bool) -> fs::File {
    let mut file = None;
    eventually("the kernel reads by itself", || {
        let last = file.insert(fs::File::open(rig.target("a").join(name)).unwrap());
        let passes = passes(rig, last, bytes);
        if passes != can {
            file = None;
        }
        passes == can
    });
    file.unwrap()
}

/// Whether the kernel tells which connection a descriptor of `/dev/fuse` is of, without which no file is lent.
fn kernel_tells(rig: &Rig) -> bool {
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let (fd, point) = (std::os::fd::AsRawFd::as_raw_fd(&device), rig.dir.join("probe"));
    fs::create_dir(&point).unwrap();
    let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
    nix::mount::mount(Some("probe"), &point, Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap().contains("fuse_connection");
    nix::mount::umount2(&point, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).unwrap();
    told
}

#[test]
fn what_is_complete_is_read_without_the_worker() {
    let Some(rig) = Rig::new() else { return };
    let can = kernel_tells(&rig);
    let (large, small) = (rig.put_random("large", 5 * MIB + 123), rig.put_random("small", 10_000));
    let mut workers = rig.caching_workers();
    let open = |name: &str| fs::File::open(rig.target("a").join(name)).unwrap();
    rig.publish(&workers, read_only(&rig, "a")).unwrap();
    for (name, bytes) in [("large", &large), ("small", &small)] {
        assert!(fs::read(rig.target("a").join(name)).unwrap() == *bytes);
    }
    rig.unpublish(&workers, "a").unwrap();

    rig.server.reset_counters();
    rig.publish(&workers, read_only(&rig, "a")).unwrap();
    // Also where the node plugin is another one than made the mount.
    for restarted in [false, true] {
        if restarted {
            drop(workers);
            workers = rig.caching_workers();
        }
        let file = opened(&rig, "large", &large, can);
        // All handles in one way, also while others come and go.
        let more: Vec<_> = (0..8).map(|_| open("large")).collect();
        drop(file);
        for file in &more {
            assert!(fs::read(rig.target("a").join("large")).unwrap() == large);
            assert_eq!(passes(&rig, file, &large), can);
        }
        assert!(fs::read(rig.target("a").join("small")).unwrap() == small);
        assert_eq!(errno(fs::File::options().write(true).open(rig.target("a").join("large"))), Errno::EROFS);
    }
    assert_eq!(rig.gets(), 0);
    rig.unpublish(&workers, "a").unwrap();
}

#[test]
fn a_writable_mount_is_read_through_its_worker() {
    let Some(rig) = Rig::new() else { return };
    let large = rig.put_random("large", 2 * MIB);
    let workers = rig.caching_workers();
    for _ in 0..2 {
        rig.publish(&workers, rig.cached("a")).unwrap();
        let file = fs::File::open(rig.target("a").join("large")).unwrap();
        assert!(!passes(&rig, &file, &large));
        drop(file);
        rig.unpublish(&workers, "a").unwrap();
    }
}

/// Who keeps a file open that the kernel reads keeps it; whoever opens it from then on asks the store's word.
#[test]
fn nothing_more_is_lent_to_whom_the_store_refuses() {
    let Some(rig) = Rig::new() else { return };
    let can = kernel_tells(&rig);
    let large = rig.put_random("large", 2 * MIB);
    let workers = rig.caching_workers();
    let mut request = read_only(&rig, "a");
    request.spec.options.auth_ttl = Duration::from_secs(1);
    rig.publish(&workers, request.clone()).unwrap();
    assert!(fs::read(rig.target("a").join("large")).unwrap() == large);
    rig.unpublish(&workers, "a").unwrap();
    rig.publish(&workers, request).unwrap();
    let file = opened(&rig, "large", &large, can);
    let read = || fs::read(rig.target("a").join("large"));
    rig.server.users().remove(KEY);
    eventually("it is refused", || read().is_err());
    assert_eq!(errno(read()), Errno::EACCES);
    rig.server.users().add(User::new(KEY, SECRET));
    eventually("it is accepted again", || read().is_ok());
    assert!(read().unwrap() == large);
    drop(file);
    rig.unpublish(&workers, "a").unwrap();
}
