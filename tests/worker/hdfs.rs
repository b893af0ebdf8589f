//! Volumes of a real HDFS: read and written through a mount, beside Hadoop's own client.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, chown};

use bytes::Bytes;
use millrace::backend::hdfs as cluster;
use millrace::backend::journal::{Journal, Note};
use millrace::sandbox::hadoop::Hadoop;
use nix::unistd::{AccessFlags, access};

use super::file_servers::{LARGE, PATIENCE, an_open_file_outlives_its_name, holds_nobody_while_frozen};
use super::*;

pub(super) const UID: u32 = 1000;
pub(super) const GID: u32 = 2000;

/// A cluster with a directory of alice's, and a rig to mount it with.
struct Lake<'a> {
    hadoop: &'a Hadoop,
    rig: Rig,
    dir: String,
}

impl Lake<'static> {
    /// In the cluster that the tests of this process share.
    fn shared() -> Option<Lake<'static>> {
        let rig = Rig::new()?;
        let hadoop = rig.runtime.block_on(Hadoop::shared()).unwrap()?;
        Some(Lake::of(hadoop, rig))
    }
}

impl<'a> Lake<'a> {
    fn of(hadoop: &'a Hadoop, rig: Rig) -> Lake<'a> {
        let dir = rig.runtime.block_on(hadoop.fresh("alice")).unwrap();
        Lake { hadoop, rig, dir }
    }

    fn request(&self, target: &str, user: &str, timeout: Duration) -> Publish {
        let mut config = cluster::Config::at(self.hadoop.namenode(), self.hadoop.webhdfs());
        config.owners.users = [("alice".to_owned(), UID), ("bob".to_owned(), UID + 1)].into();
        config.owners.groups = [("users".to_owned(), GID)].into();
        let mut request = self.rig.request_of(user, target);
        request.spec.backend = backend::Config::Hdfs(config);
        request.spec.path.clone_from(&self.dir);
        request.spec.options.timeout = timeout;
        request.spec.options.ttl = Duration::from_millis(100);
        (request.spec.options.uid, request.spec.options.gid) = (UID, GID);
        request.credential = Credential::Hadoop { user: user.into() };
        request
    }

    fn at(&self, target: &str, name: &str) -> PathBuf {
        self.rig.target(target).join(name)
    }

    fn path(&self, name: &str) -> String {
        format!("/{}/{name}", self.dir)
    }

    fn put(&self, name: &str, content: &[u8]) {
        self.rig.runtime.block_on(self.hadoop.put(&self.path(name), "alice", content.to_vec())).unwrap();
    }

    fn get(&self, name: &str) -> Bytes {
        self.rig.runtime.block_on(self.hadoop.get(&self.path(name))).unwrap()
    }
}

#[test]
fn a_directory_of_hdfs_is_read_and_written_as_its_user() {
    let Some(lake) = Lake::shared() else { return };
    let (rig, workers) = (&lake.rig, lake.rig.workers());
    lake.put("hello", b"hello, world");
    lake.put("large", &noise(5_000_001));
    rig.publish(&workers, lake.request("a", "alice", SOON)).unwrap();
    for mount in rig.mounts() {
        assert!(!mount.contains("default_permissions"), "{mount}");
    }
    let at = |name: &str| lake.at("a", name);
    assert_eq!(fs::read(at("hello")).unwrap(), b"hello, world");
    assert!(fs::read(at("large")).unwrap() == noise(5_000_001));
    let mut names: Vec<_> = fs::read_dir(rig.target("a")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["hello", "large"]);
    let shown = fs::metadata(at("hello")).unwrap();
    assert_eq!((shown.uid(), shown.gid(), shown.mode() & 0o7777), (UID, GID, 0o644));

    // Written in order, synced in the middle, closed: there for others when the close returns.
    let data = noise(3_500_000);
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(at("new")).unwrap();
    file.write_all(&data[..1_500_000]).unwrap();
    let mut read = vec![0; 1_500_000];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == data[..1_500_000]);
    file.sync_all().unwrap();
    assert!(lake.get("new") == data[..1_500_000]);
    file.write_all(&data[1_500_000..]).unwrap();
    drop(file);
    assert!(lake.get("new") == data && fs::read(at("new")).unwrap() == data);

    // At its end alone, or anew.
    OpenOptions::new().append(true).open(at("new")).unwrap().write_all(b"tail").unwrap();
    assert!(lake.get("new")[3_500_000..] == *b"tail");
    let file = OpenOptions::new().write(true).open(at("new")).unwrap();
    assert_eq!(errno(file.write_all_at(b"x", 5)), Errno::EOPNOTSUPP);
    assert_eq!(errno(file.set_len(10_000_000)), Errno::EOPNOTSUPP);
    file.set_len(2_000_000).unwrap();
    drop(file);
    assert!(lake.get("new") == data[..2_000_000] && fs::read(at("new")).unwrap() == data[..2_000_000]);
    fs::write(at("new"), "short").unwrap();
    assert_eq!(lake.get("new"), "short");
    assert_eq!(errno(fs::write(at("a:b"), "x")), Errno::EINVAL);

    // HDFS keeps attributes, and decides.
    fs::set_permissions(at("new"), PermissionsExt::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(at("new")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(errno(chown(at("new"), Some(UID + 1), None)), Errno::EPERM);
    assert_eq!(errno(chown(at("new"), Some(65_534), None)), Errno::EINVAL);
    fs::create_dir(at("dir")).unwrap();
    assert_eq!(errno(fs::create_dir(at("dir"))), Errno::EEXIST);
    fs::rename(at("new"), at("dir/moved")).unwrap();
    assert_eq!(errno(fs::remove_dir(at("dir"))), Errno::ENOTEMPTY);
    fs::rename(at("dir"), at("other")).unwrap();
    assert_eq!(lake.get("other/moved"), "short");
    fs::rename(at("other/moved"), at("hello")).unwrap();
    assert_eq!(fs::read(at("hello")).unwrap(), b"short");
    assert_eq!(errno(std::os::unix::fs::symlink("hello", at("link"))), Errno::EPERM);
    assert_eq!(errno(fs::hard_link(at("hello"), at("link"))), Errno::EPERM);
    fs::remove_dir(at("other")).unwrap();

    // Another user of alice's group sees what HDFS lets him see.
    fs::set_permissions(at("hello"), PermissionsExt::from_mode(0o600)).unwrap();
    rig.publish(&workers, lake.request("b", "bob", SOON)).unwrap();
    assert_eq!(errno(fs::read(lake.at("b", "hello"))), Errno::EACCES);
    assert!(fs::read(lake.at("b", "large")).unwrap() == noise(5_000_001));
    assert_eq!(errno(fs::write(lake.at("b", "mine"), "x")), Errno::EACCES);
    for target in ["a", "b"] {
        rig.unpublish(&workers, target).unwrap();
    }
    rig.assert_clean(&[]);
}

#[test]
fn a_log_that_another_client_writes_is_followed() {
    let Some(lake) = Lake::shared() else { return };
    let (rig, workers) = (&lake.rig, lake.rig.workers());
    let log = lake.path("log");
    let more = |piece: &[u8]| {
        let writing = lake.hadoop.hsync(&log, "alice", piece.to_vec());
        rig.runtime.block_on(writing).unwrap();
    };
    let data = noise(50_000);
    more(&data[..5_000]);
    rig.publish(&workers, lake.request("a", "alice", SOON)).unwrap();
    let mut tail = File::open(lake.at("a", "log")).unwrap();
    let mut seen = Vec::new();
    for end in (5_000..=50_000).step_by(5_000) {
        if end > 5_000 {
            more(&data[end - 5_000..end]);
        }
        eventually("the reader follows", || {
            tail.read_to_end(&mut seen).unwrap();
            seen.len() == end
        });
    }
    assert!(seen == data);
    assert_eq!(errno(OpenOptions::new().append(true).open(lake.at("a", "log")).unwrap().write_all(b"x")), Errno::EBUSY);
    rig.runtime.block_on(lake.hadoop.close(&lake.path("log"))).unwrap();
    OpenOptions::new().append(true).open(lake.at("a", "log")).unwrap().write_all(b"x").unwrap();
    assert!(lake.get("log")[..50_000] == data && lake.get("log")[50_000..] == *b"x");
    drop(tail);
    rig.unpublish(&workers, "a").unwrap();
}

/// As CreateVolume and CreateSnapshot leave things: a volume, a snapshot of it, and a volume that shows that.
#[test]
fn a_volume_that_shows_a_snapshot_shows_it_as_it_was_and_no_others() {
    let Some(lake) = Lake::shared() else { return };
    let (rig, workers) = (&lake.rig, lake.rig.workers());
    let superuser = lake.hadoop.superuser();
    let mut request = lake.request("a", "alice", SOON);
    let backend::Config::Hdfs(config) = &mut request.spec.backend else { unreachable!() };
    config.prefix.clone_from(&lake.dir);
    let at = |text: &str| backend::Path::parse(text).unwrap();
    let controller = Credential::Hadoop { user: superuser.into() };
    let (config, name) = (request.spec.backend.clone(), "zyxwvut765");
    rig.runtime.block_on(async {
        let records = backend::records(&config, &controller).unwrap();
        for (dir, generation) in [("source", "aaaaaaaaaa"), ("view", "bbbbbbbbbb")] {
            let file = format!(r#"{{"format":1,"generation":"{generation}"}}"#);
            records.create(&at(&format!("{dir}/.millrace/volume.json")), file.into()).await.unwrap();
        }
        lake.hadoop.put(&lake.path("source/data"), superuser, noise(2_000_000)).await.unwrap();
        backend::snapshots(&config, &controller).unwrap().unwrap().take(&at("source"), name).await.unwrap();
        lake.hadoop.put(&lake.path("source/data"), superuser, "later").await.unwrap();
    });
    let shown = SnapshotSpec { path: "source".into(), generation: "aaaaaaaaaa".into(), name: name.into() };
    request.spec.path = "view".into();
    request.spec.generation = Some("bbbbbbbbbb".into());
    request.spec.snapshot = Some(shown.clone());
    request.spec.read_only = true;
    let refused = |spec: VolumeSpec| {
        let error = rig.publish(&workers, Publish { spec, ..request.clone() }).unwrap_err();
        assert!(matches!(error, Error::NoSuchVolume(_)), "{error:?}");
    };
    let spec = &request.spec;
    refused(VolumeSpec { generation: Some("cccccccccc".into()), ..spec.clone() });
    refused(VolumeSpec {
        snapshot: Some(SnapshotSpec { generation: "cccccccccc".into(), ..shown.clone() }),
        ..spec.clone()
    });
    refused(VolumeSpec { snapshot: Some(SnapshotSpec { name: "gone".into(), ..shown }), ..spec.clone() });
    rig.publish(&workers, request.clone()).unwrap();
    let names: Vec<_> = fs::read_dir(rig.target("a")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["data"]);
    assert!(fs::read(lake.at("a", "data")).unwrap() == noise(2_000_000));
    assert_eq!(errno(fs::write(lake.at("a", "new"), "x")), Errno::EROFS);
    assert_eq!(errno(fs::remove_file(lake.at("a", "data"))), Errno::EROFS);
    rig.unpublish(&workers, "a").unwrap();
    assert_eq!(lake.get("source/data"), "later");
}

/// Killed while it writes a file, and with another that was removed while it is open.
#[test]
fn what_a_killed_worker_left_in_hdfs_is_undone_by_the_next() {
    let Some(lake) = Lake::shared() else { return };
    let (rig, workers) = (&lake.rig, lake.rig.workers());
    let of_others = lake.path("theirs");
    rig.runtime.block_on(lake.hadoop.hsync(&of_others, "alice", "one ")).unwrap();
    rig.publish(&workers, lake.request("a", "alice", SOON)).unwrap();
    let data = noise(1_500_000);
    let open =
        |name: &str| OpenOptions::new().read(true).append(true).create_new(true).open(lake.at("a", name)).unwrap();
    let (mut log, mut removed) = (open("log"), open("removed"));
    log.write_all(&data[..1_000_000]).unwrap();
    log.sync_all().unwrap();
    log.write_all(&data[1_000_000..]).unwrap();
    removed.write_all(b"content").unwrap();
    fs::remove_file(lake.at("a", "removed")).unwrap();
    kill(rig.worker(), Signal::SIGKILL).unwrap();
    eventually("the mount is dead", || fs::metadata(lake.at("a", "log")).is_err());
    drop((log, removed));

    let journals: Vec<_> =
        fs::read_dir(rig.state().join("journals")).unwrap().map(|file| file.unwrap().path()).collect();
    let [journal] = &journals[..] else { panic!("{journals:?}") };
    assert_eq!(fs::metadata(journal).unwrap().mode() & 0o777, 0o600);
    let left = Journal::default();
    left.keep_in(File::open(journal).unwrap(), Vec::new()).unwrap();
    let hidden = left.left().iter().find_map(|note| match note {
        Note::Hidden { path, .. } => Some(lake.path(&path.to_string())),
        _ => None,
    });
    let hidden = hidden.unwrap();
    let is_there = || rig.runtime.block_on(lake.hadoop.get(&hidden)).is_ok();
    assert!(is_there());

    let begun = Instant::now();
    rig.publish(&workers, lake.request("a", "alice", SOON)).unwrap();
    // Waits for the lease.
    OpenOptions::new().append(true).open(lake.at("a", "log")).unwrap().write_all(b"more").unwrap();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let log = lake.get("log");
    let synced = log.len() - 4;
    assert!((1_000_000..=data.len()).contains(&synced) && log[..synced] == data[..synced] && log.ends_with(b"more"));
    eventually("what was hidden is removed", || !is_there());
    rig.runtime.block_on(lake.hadoop.hsync(&of_others, "alice", "two")).unwrap();
    rig.runtime.block_on(lake.hadoop.close(&of_others)).unwrap();
    assert_eq!(lake.get("theirs"), "one two");
    rig.unpublish(&workers, "a").unwrap();
    rig.runtime.block_on(workers.tidy()).unwrap();
    assert_eq!(fs::read_dir(rig.state().join("journals")).unwrap().count(), 0);
    rig.assert_clean(&[]);
}

#[test]
fn what_one_may_in_hdfs_is_the_name_nodes_to_say() {
    let Some(lake) = Lake::shared() else { return };
    let (rig, workers) = (&lake.rig, lake.rig.workers());
    lake.put("open", b"content");
    lake.put("closed", b"content");
    for (target, user) in [("a", "alice"), ("b", "bob")] {
        rig.publish(&workers, lake.request(target, user, SOON)).unwrap();
    }
    fs::set_permissions(lake.at("a", "closed"), PermissionsExt::from_mode(0o600)).unwrap();
    let may = |target, name: &str, how| access(&lake.at(target, name), how).err();
    let (read, write) = (AccessFlags::R_OK, AccessFlags::W_OK);
    for name in ["open", "closed", ""] {
        assert_eq!(may("a", name, read | write), None, "{name}");
        assert_eq!(may("b", name, read | write), Some(Errno::EACCES), "{name}");
    }
    assert_eq!((may("b", "open", read), may("b", "closed", read)), (None, Some(Errno::EACCES)));
    assert_eq!((may("b", "", read), may("b", "", AccessFlags::X_OK)), (None, None));
    assert_eq!(may("a", "closed", AccessFlags::X_OK), Some(Errno::EACCES));
    for target in ["a", "b"] {
        rig.unpublish(&workers, target).unwrap();
    }
}

/// As git makes its objects.
#[test]
fn who_makes_a_read_only_file_writes_it_and_nobody_after_him() {
    let Some(lake) = Lake::shared() else { return };
    let (rig, workers) = (&lake.rig, lake.rig.workers());
    rig.publish(&workers, lake.request("a", "alice", SOON)).unwrap();
    let (new, there) = (lake.at("a", "tmp_obj"), lake.at("a", "obj"));
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o444).open(&new).unwrap();
    file.write_all(b"blob").unwrap();
    file.sync_all().unwrap();
    file.write_all(b" and more").unwrap();
    drop(file);
    fs::rename(&new, &there).unwrap();
    let mode = || fs::metadata(&there).unwrap().mode() & 0o7777;
    eventually("it is read-only", || mode() == 0o444);
    assert_eq!(lake.get("obj"), "blob and more");
    let again = OpenOptions::new().append(true).open(&there).and_then(|mut file| {
        file.write_all(b"!")?;
        file.sync_all()
    });
    assert_eq!(errno(again), Errno::EACCES);
    assert_eq!(lake.get("obj"), "blob and more");
    rig.unpublish(&workers, "a").unwrap();
}

/// HDFS sets it when the file is complete, and an editor that finds another one than it saw asks whether it shall write.
#[test]
fn a_files_time_is_settled_when_it_is_closed() {
    let Some(lake) = Lake::shared() else { return };
    let (rig, workers) = (&lake.rig, lake.rig.workers());
    let mut request = lake.request("a", "alice", SOON);
    request.spec.options.ttl = Duration::from_secs(1);
    rig.publish(&workers, request).unwrap();
    let time = |name: &str| fs::metadata(lake.at("a", name)).unwrap().modified().unwrap();
    for (name, synced) in [("saved", true), ("copied", false), ("saved again", true)] {
        let mut file = File::create(lake.at("a", name)).unwrap();
        file.write_all(b"text").unwrap();
        if synced {
            file.sync_all().unwrap();
        }
        // Its answer tells the time, too.
        file.set_permissions(PermissionsExt::from_mode(0o640)).unwrap();
        drop(file);
        let closed = time(name);
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(time(name), closed, "{name}");
    }
    rig.unpublish(&workers, "a").unwrap();
}

#[test]
fn an_open_file_of_hdfs_outlives_its_name() {
    let Some(lake) = Lake::shared() else { return };
    let (rig, workers) = (&lake.rig, lake.rig.workers());
    rig.publish(&workers, lake.request("a", "alice", SOON)).unwrap();
    an_open_file_outlives_its_name(&rig.target("a"), || {}, || {});
    rig.unpublish(&workers, "a").unwrap();
}

#[test]
fn a_frozen_cluster_holds_nobody() {
    let Some(rig) = Rig::new() else { return };
    let Some(hadoop) = rig.runtime.block_on(Hadoop::start(&[("datanodes", "1")])).unwrap() else { return };
    let lake = Lake::of(&hadoop, rig);
    let (rig, workers) = (&lake.rig, lake.rig.workers());
    lake.put("large", &noise(LARGE));
    for target in ["a", "b"] {
        rig.publish(&workers, lake.request(target, "alice", PATIENCE)).unwrap();
    }
    let mut written = OpenOptions::new().write(true).create_new(true).open(lake.at("a", "written")).unwrap();
    written.write_all(b"before").unwrap();
    written.sync_all().unwrap();
    holds_nobody_while_frozen(rig, &workers, || hadoop.freeze().unwrap());
    written.write_all(b" lost").unwrap_or_default();
    assert_eq!(errno(written.sync_all()), Errno::EIO);

    hadoop.thaw().unwrap();
    assert!(fs::read(lake.at("a", "large")).unwrap() == noise(LARGE));
    // An error is never followed by a sync that succeeds; what was synced before is there.
    assert_eq!(errno(written.sync_all()), Errno::EIO);
    drop(written);
    assert!(lake.get("written").starts_with(b"before"));
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[]);
}
