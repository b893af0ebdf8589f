//! Volumes of a real NFS server, nfs-ganesha: read and written through a mount, with the server frozen, killed and back.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::time::SystemTime;

use super::file_servers::{LARGE, PATIENCE, an_open_file_outlives_its_name, holds_nobody_while_frozen};
use super::silent::ANSWERED;
use super::*;
use millrace::backend::journal::{Journal, Note};
use millrace::backend::{Kind, Limits, Name, SetAttributes, nfs as export};
use millrace::sandbox::ganesha::Ganesha;
use nix::unistd::{AccessFlags, access};

const UID: u32 = 1000;

/// A server with a directory `data` of [`UID`]'s, and a rig to mount it with.
struct Filer {
    server: Ganesha,
    rig: Rig,
}

impl Filer {
    fn new() -> Option<Filer> {
        let rig = Rig::new()?;
        let server = rig.runtime.block_on(Ganesha::start()).unwrap()?;
        fs::create_dir(server.root().join("data")).unwrap();
        chown(server.root().join("data"), Some(UID), Some(UID)).unwrap();
        fs::set_permissions(server.root(), PermissionsExt::from_mode(0o755)).unwrap();
        let filer = Filer { server, rig };
        filer.put("hello", b"hello, world");
        Some(filer)
    }

    fn request(&self, target: &str, uid: u32, timeout: Duration) -> Publish {
        let export = self.server.root().to_str().unwrap().to_owned();
        let config = export::Config::at("127.0.0.1", &export, self.server.port(), self.server.mount_port());
        let mut request = self.rig.request_of("team", target);
        request.spec.backend = backend::Config::Nfs(config);
        request.spec.options.timeout = timeout;
        request.spec.options.ttl = Duration::from_millis(100);
        request.credential = Credential::Sys { uid, gid: uid, groups: vec![] };
        request
    }

    /// Where a file lies on the server's disk.
    fn disk(&self, name: &str) -> PathBuf {
        self.server.root().join("data").join(name)
    }

    fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.disk(name), content).unwrap();
        chown(self.disk(name), Some(UID), Some(UID)).unwrap();
    }

    fn at(&self, target: &str, name: &str) -> PathBuf {
        self.rig.target(target).join(name)
    }
}

#[test]
fn an_export_is_read_and_written_as_its_user() {
    let Some(filer) = Filer::new() else { return };
    let (rig, workers) = (&filer.rig, filer.rig.workers());
    filer.put("large", &noise(9_000_001));
    rig.publish(&workers, filer.request("a", UID, SOON)).unwrap();
    for mount in rig.mounts() {
        assert!(!mount.contains("default_permissions"), "{mount}");
    }
    let at = |name: &str| filer.at("a", name);
    assert_eq!(fs::read(at("hello")).unwrap(), b"hello, world");
    assert!(fs::read(at("large")).unwrap() == noise(9_000_001));
    let mut names: Vec<_> = fs::read_dir(rig.target("a")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["hello", "large"]);
    let shown = fs::metadata(at("hello")).unwrap();
    assert_eq!((shown.uid(), shown.gid(), shown.mode() & 0o7777), (UID, UID, 0o644));

    // At any offset, through two handles, and cut.
    let mut model = vec![0; 300_000];
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(at("new")).unwrap();
    let other = OpenOptions::new().write(true).open(at("new")).unwrap();
    for (number, (offset, length)) in [(200_000, 100_000), (0, 10), (5, 70_000), (199_990, 20)].into_iter().enumerate()
    {
        let piece = noise(length + number)[number..].to_vec();
        if number % 2 == 0 { &file } else { &other }.write_all_at(&piece, offset as u64).unwrap();
        model[offset..offset + length].copy_from_slice(&piece);
    }
    let mut read = vec![0; 300_000];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == model);
    file.set_len(250_000).unwrap();
    model.truncate(250_000);
    drop((file, other));
    assert!(fs::read(at("new")).unwrap() == model && fs::read(filer.disk("new")).unwrap() == model);
    OpenOptions::new().append(true).open(at("new")).unwrap().write_all(b"tail").unwrap();
    assert!(fs::read(filer.disk("new")).unwrap()[250_000..] == *b"tail");
    fs::write(at("new"), "short").unwrap();
    assert_eq!(fs::read(filer.disk("new")).unwrap(), b"short");

    // The server keeps attributes, and decides.
    fs::set_permissions(at("new"), PermissionsExt::from_mode(0o640)).unwrap();
    let kept = fs::metadata(filer.disk("new")).unwrap();
    assert_eq!((kept.uid(), kept.mode() & 0o7777), (UID, 0o640));
    assert_eq!(errno(chown(at("new"), Some(0), None)), Errno::EPERM);
    fs::create_dir(at("dir")).unwrap();
    fs::rename(at("new"), at("dir/moved")).unwrap();
    assert_eq!(errno(fs::remove_dir(at("dir"))), Errno::ENOTEMPTY);
    fs::rename(at("dir"), at("other")).unwrap();
    assert_eq!(fs::read(filer.disk("other/moved")).unwrap(), b"short");

    std::os::unix::fs::symlink("other/moved", at("link")).unwrap();
    assert_eq!(
        (fs::read_link(at("link")).unwrap(), fs::read(at("link")).unwrap()),
        ("other/moved".into(), b"short".into())
    );
    assert_eq!(fs::read_link(filer.disk("link")).unwrap(), Path::new("other/moved"));
    fs::hard_link(at("hello"), at("second")).unwrap();
    assert_eq!(errno(fs::hard_link(at("hello"), at("second"))), Errno::EEXIST);
    fs::remove_file(at("hello")).unwrap();
    assert_eq!(fs::read(at("second")).unwrap(), b"hello, world");
    fs::rename(at("second"), at("hello")).unwrap();
    fs::rename(at("link"), at("renamed")).unwrap();
    fs::remove_file(at("renamed")).unwrap();
    assert!(!filer.disk("link").exists() && filer.disk("other/moved").exists());

    // Another user sees what the server lets him see.
    let mut request = filer.request("b", 1001, SOON);
    request.namespace = Some("others".into());
    rig.publish(&workers, request).unwrap();
    let theirs = |name: &str| filer.at("b", name);
    assert_eq!(fs::read(theirs("hello")).unwrap(), b"hello, world");
    assert_eq!(errno(fs::read(theirs("other/moved"))), Errno::EACCES);
    assert_eq!(errno(fs::write(theirs("mine"), "x")), Errno::EACCES);
    for target in ["a", "b"] {
        rig.unpublish(&workers, target).unwrap();
    }
    rig.assert_clean(&[]);
}

/// Of what the kernel would decide by owner and mode, for root, nothing is refused: all of this is the server's.
#[test]
fn what_one_may_is_the_servers_to_say() {
    let Some(filer) = Filer::new() else { return };
    let (rig, workers) = (&filer.rig, filer.rig.workers());
    for (name, owner, mode) in [("own", UID, 0o600), ("open", 1001, 0o644), ("closed", 1001, 0o600)] {
        filer.put(name, b"content");
        chown(filer.disk(name), Some(owner), Some(owner)).unwrap();
        fs::set_permissions(filer.disk(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    fs::create_dir(filer.disk("theirs")).unwrap();
    fs::set_permissions(filer.disk("theirs"), PermissionsExt::from_mode(0o700)).unwrap();
    rig.publish(&workers, filer.request("a", UID, PATIENCE)).unwrap();
    let may = |name: &str, how: AccessFlags| access(&filer.at("a", name), how).err();
    let (read, write, execute) = (AccessFlags::R_OK, AccessFlags::W_OK, AccessFlags::X_OK);
    for (name, how, refused) in [
        ("own", read | write, None),
        ("own", execute, Some(Errno::EACCES)),
        ("open", read, None),
        ("open", write, Some(Errno::EACCES)),
        ("open", read | write, Some(Errno::EACCES)),
        ("closed", AccessFlags::F_OK, None),
        ("closed", read, Some(Errno::EACCES)),
        ("theirs", execute, Some(Errno::EACCES)),
        ("", read | write | execute, None),
        ("none", AccessFlags::F_OK, Some(Errno::ENOENT)),
    ] {
        assert_eq!(may(name, how), refused, "{name} {how:?}");
    }
    let test = |what: &str, name: &str| {
        let status = Command::new("test").arg(what).arg(filer.at("a", name)).status();
        status.unwrap().success()
    };
    assert!(test("-w", "own") && test("-r", "open") && !test("-w", "open") && !test("-r", "closed"));
    // What is changed here is known at once, and what is changed elsewhere soon.
    fs::set_permissions(filer.at("a", "own"), PermissionsExt::from_mode(0o400)).unwrap();
    assert_eq!((may("own", read), may("own", write)), (None, Some(Errno::EACCES)));
    let other = backend::connect(
        &filer.request("a", UID, SOON).spec.backend,
        &Credential::Sys { uid: 1001, gid: 1001, groups: vec![] },
        &backend::Path::parse("data").unwrap(),
        Limits::alone(1 << 20, SOON),
    );
    let set = SetAttributes { mode: Some(0o666), ..SetAttributes::default() };
    let closed = backend::Path::parse("closed").unwrap();
    rig.runtime.block_on(other.unwrap().set_attributes(&closed, &set)).unwrap();
    eventually("the other's change is seen", || may("closed", read | write).is_none());

    // A server that is silent keeps nobody from the root, and others no longer than the volume says.
    filer.server.freeze().unwrap();
    let late = std::thread::spawn({
        let (path, begun) = (filer.at("a", "open"), Instant::now());
        move || (access(&path, execute).err(), begun.elapsed())
    });
    let asked = Instant::now();
    assert_eq!(may("", read | execute), None);
    nix::sys::statvfs::statvfs(&rig.target("a")).unwrap();
    assert!(asked.elapsed() < 2 * ANSWERED, "{:?}", asked.elapsed());
    let (refused, after) = late.join().unwrap();
    assert!(refused == Some(Errno::EIO) && after < PATIENCE + Duration::from_secs(10), "{refused:?} {after:?}");
    filer.server.thaw().unwrap();
    assert_eq!(may("open", read), None);
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[]);
}

#[test]
fn an_open_file_outlives_its_name_and_leaves_nothing() {
    let Some(filer) = Filer::new() else { return };
    let (rig, workers) = (&filer.rig, filer.rig.workers());
    rig.publish(&workers, filer.request("a", UID, SOON)).unwrap();
    let shown = || fs::read_dir(rig.target("a")).unwrap().count();
    let there = || fs::read_dir(filer.disk("")).unwrap().count();
    an_open_file_outlives_its_name(
        &rig.target("a"),
        || assert_eq!(there(), shown() + 1, "it is hidden"),
        || eventually("it is gone", || there() == shown()),
    );
    rig.unpublish(&workers, "a").unwrap();
}

/// Killed while files that were removed, and one that was replaced, are open.
#[test]
fn what_a_killed_worker_hid_on_nfs_is_removed_by_the_next() {
    let Some(filer) = Filer::new() else { return };
    let (rig, workers) = (&filer.rig, filer.rig.workers());
    let of_others = Name::hidden().to_string();
    filer.put(&of_others, b"theirs");
    let request = filer.request("a", UID, SOON);
    rig.publish(&workers, request.clone()).unwrap();
    let open: Vec<File> = ["removed", "replaced", "reused"]
        .into_iter()
        .map(|name| {
            let mut file = OpenOptions::new().write(true).create_new(true).open(filer.at("a", name)).unwrap();
            file.write_all(name.as_bytes()).unwrap();
            file
        })
        .collect();
    fs::write(filer.at("a", "new"), "another").unwrap();
    fs::rename(filer.at("a", "new"), filer.at("a", "replaced")).unwrap();
    for name in ["removed", "reused"] {
        fs::remove_file(filer.at("a", name)).unwrap();
    }
    kill(rig.worker(), Signal::SIGKILL).unwrap();
    eventually("the mount is dead", || fs::metadata(filer.at("a", "hello")).is_err());
    drop(open);

    let journals: Vec<_> =
        fs::read_dir(rig.state().join("journals")).unwrap().map(|file| file.unwrap().path()).collect();
    let [journal] = &journals[..] else { panic!("{journals:?}") };
    assert_eq!(fs::metadata(journal).unwrap().mode() & 0o777, 0o600);
    let noted = Journal::default();
    noted.keep_in(File::open(journal).unwrap(), Vec::new()).unwrap();
    let hidden: Vec<_> = noted
        .left()
        .into_iter()
        .map(|note| if let Note::Hidden { path, .. } = note { path } else { panic!("{note:?}") })
        .collect();
    let content = |path: &backend::Path| fs::read(filer.disk(&path.to_string()));
    let mut contents: Vec<_> = hidden.iter().map(|path| content(path).unwrap()).collect();
    contents.sort();
    assert_eq!(contents, [&b"removed"[..], b"replaced", b"reused"]);
    // By somebody else, for whom no name is forbidden.
    let reused = hidden.iter().find(|path| content(path).unwrap() == b"reused").unwrap();
    rig.runtime.block_on(async {
        let root = backend::Path::parse(&request.spec.path).unwrap();
        let limits = Limits::alone(1 << 20, SOON);
        let other = backend::connect(&request.spec.backend, &request.credential, &root, limits).unwrap();
        other.remove(reused, Kind::File).await.unwrap();
        other.make_file(reused, 0o600).await.unwrap();
    });

    rig.publish(&workers, request).unwrap();
    assert_eq!(fs::read(filer.at("a", "replaced")).unwrap(), b"another");
    let mut stay = [of_others, reused.to_string(), "hello".into(), "replaced".into()];
    stay.sort();
    eventually("what was hidden is removed", || {
        let mut there: Vec<_> = fs::read_dir(filer.disk(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        there == stay
    });
    rig.unpublish(&workers, "a").unwrap();
    rig.runtime.block_on(workers.tidy()).unwrap();
    assert_eq!(fs::read_dir(rig.state().join("journals")).unwrap().count(), 0);
    rig.assert_clean(&[]);
}

/// Shows the export at `a` and at `b`, each by a worker of its own.
fn publish_apart(filer: &Filer, workers: &Workers) {
    for (target, namespace) in [("a", "team"), ("b", "others")] {
        let request = Publish { namespace: Some(namespace.into()), ..filer.request(target, UID, SOON) };
        filer.rig.publish(workers, request).unwrap();
    }
}

#[test]
fn what_another_client_changes_is_seen() {
    let Some(filer) = Filer::new() else { return };
    let (rig, workers) = (&filer.rig, filer.rig.workers());
    publish_apart(&filer, &workers);
    let mut log = OpenOptions::new().append(true).create(true).open(filer.at("a", "log")).unwrap();
    log.write_all(&noise(5_000)).unwrap();
    let mut tail = File::open(filer.at("b", "log")).unwrap();
    let mut seen = Vec::new();
    tail.read_to_end(&mut seen).unwrap();
    for step in 2..5 {
        log.write_all(&noise(5_000)).unwrap();
        eventually("the reader follows", || {
            tail.read_to_end(&mut seen).unwrap();
            seen.len() == step * 5_000
        });
    }
    assert!(seen.chunks(5_000).all(|piece| piece == noise(5_000)));
    // Written over in place, under an open file whose pages are in memory.
    let file = OpenOptions::new().write(true).open(filer.at("a", "log")).unwrap();
    file.write_all_at(b"others", 0).unwrap();
    drop(file);
    let mut first = [0; 6];
    eventually("the change is seen", || {
        tail.read_exact_at(&mut first, 0).unwrap();
        first == *b"others"
    });
    drop((log, tail));
    for target in ["a", "b"] {
        rig.unpublish(&workers, target).unwrap();
    }
}

#[test]
fn what_was_closed_is_read_by_who_opens_and_appended_to() {
    let Some(filer) = Filer::new() else { return };
    let (rig, workers) = (&filer.rig, filer.rig.workers());
    publish_apart(&filer, &workers);
    let mut written = Vec::new();
    for step in 0..40 {
        let (writer, reader) = if step % 2 == 0 { ("a", "b") } else { ("b", "a") };
        let line = format!("{step} by {writer}\n");
        let mut log = OpenOptions::new().append(true).create(true).open(filer.at(writer, "log")).unwrap();
        log.write_all(line.as_bytes()).unwrap();
        drop(log);
        written.extend(line.into_bytes());
        // Nobody has asked for its length since.
        assert_eq!(fs::read(filer.at(reader, "log")).unwrap(), written, "{step}");
    }
    for target in ["a", "b"] {
        rig.unpublish(&workers, target).unwrap();
    }
}

#[test]
fn a_frozen_server_holds_nobody() {
    let Some(filer) = Filer::new() else { return };
    let (rig, workers) = (&filer.rig, filer.rig.workers());
    filer.put("large", &noise(LARGE));
    for target in ["a", "b"] {
        rig.publish(&workers, filer.request(target, UID, PATIENCE)).unwrap();
    }
    let written = OpenOptions::new().write(true).create_new(true).open(filer.at("a", "written")).unwrap();
    written.write_all_at(b"before", 0).unwrap();
    holds_nobody_while_frozen(rig, &workers, || filer.server.freeze().unwrap());
    assert_eq!(errno(written.write_all_at(b" lost?", 6)), Errno::EIO);

    filer.server.thaw().unwrap();
    assert!(fs::read(filer.at("a", "large")).unwrap() == noise(LARGE));
    written.write_all_at(b" after", 6).unwrap();
    written.sync_all().unwrap();
    drop(written);
    assert_eq!(fs::read(filer.disk("written")).unwrap(), b"before after");
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[]);
}

#[test]
fn a_server_that_restarts_loses_nothing_that_was_written() {
    let Some(mut filer) = Filer::new() else { return };
    let workers = filer.rig.workers();
    filer.put("large", &noise(4 << 20));
    filer.rig.publish(&workers, filer.request("a", UID, SOON)).unwrap();
    let data = noise(3 << 20);
    let file = OpenOptions::new().write(true).create_new(true).open(filer.at("a", "written")).unwrap();
    file.write_all_at(&data[..1 << 20], 0).unwrap();
    filer.server.kill();
    let writing = std::thread::spawn({
        let (file, data) = (file.try_clone().unwrap(), data.clone());
        move || file.write_all_at(&data[1 << 20..], 1 << 20)
    });
    let reading = std::thread::spawn({
        let path = filer.at("a", "large");
        move || fs::read(path)
    });
    std::thread::sleep(Duration::from_millis(500));
    let Filer { server, rig } = &mut filer;
    rig.runtime.block_on(server.restart()).unwrap();
    writing.join().unwrap().unwrap();
    assert!(reading.join().unwrap().unwrap() == noise(4 << 20));
    file.sync_all().unwrap();
    drop(file);
    assert!(fs::read(filer.disk("written")).unwrap() == data);
    filer.rig.unpublish(&workers, "a").unwrap();
}

#[test]
fn a_server_that_is_gone_is_unpublished() {
    let Some(mut filer) = Filer::new() else { return };
    let workers = filer.rig.workers();
    filer.rig.publish(&workers, filer.request("a", UID, SOON)).unwrap();
    let worker = filer.rig.worker();
    filer.server.kill();
    let refused = filer.rig.publish(&workers, filer.request("c", 1001, Duration::from_secs(1)));
    assert!(
        matches!(&refused, Err(Error::Store { kind: ErrorKind::Unavailable, message }) if message.contains("refused")),
        "{refused:?}"
    );
    let begun = Instant::now();
    filer.rig.unpublish(&workers, "a").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    filer.rig.assert_clean(&[worker]);
}

#[test]
fn what_is_large_long_or_odd_is_shown_as_it_is() {
    let Some(filer) = Filer::new() else { return };
    let (rig, workers) = (&filer.rig, filer.rig.workers());
    // Before the server has looked.
    const MANY: usize = 100_000;
    fs::create_dir(filer.disk("many")).unwrap();
    (0..MANY).for_each(|number| drop(File::create(filer.disk(&format!("many/{number:06}"))).unwrap()));
    chown(filer.disk("many"), Some(UID), Some(UID)).unwrap();
    let (long, odd) = ("n".repeat(255), OsStr::from_bytes(b"not \xff\xfe text"));
    fs::create_dir(filer.disk("names")).unwrap();
    chown(filer.disk("names"), Some(UID), Some(UID)).unwrap();
    fs::write(filer.disk("names").join(odd), "odd").unwrap();
    // As a server whose clock is wrong by a day would have it.
    for (name, away) in [("ahead", 24 * 3600), ("behind", -24 * 3600)] {
        filer.put(name, name.as_bytes());
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed() + away;
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.cast_unsigned());
        File::options().write(true).open(filer.disk(name)).unwrap().set_modified(then).unwrap();
    }
    rig.publish(&workers, filer.request("a", UID, SOON)).unwrap();
    let at = |name: &str| filer.at("a", name);

    let listed = || fs::read_dir(at("many")).unwrap().map(|entry| entry.unwrap().file_name());
    let names: BTreeSet<_> = listed().collect();
    assert!(names.len() == MANY && listed().count() == MANY);
    fs::remove_file(at("many/050000")).unwrap();
    assert_eq!(listed().count(), MANY - 1);

    fs::write(at("names").join(&long), "long").unwrap();
    assert_eq!(fs::read(at("names").join(odd)).unwrap(), b"odd");
    fs::rename(at("names").join(odd), at("names").join(OsStr::from_bytes(b"\xff"))).unwrap();
    let mut names: Vec<_> = fs::read_dir(at("names")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [OsString::from(&long), OsString::from(OsStr::from_bytes(b"\xff"))]);
    assert_eq!(errno(fs::write(at("names").join("n".repeat(256)), "")), Errno::ENAMETOOLONG);

    // A hole of 5 GiB, and a byte behind it.
    let far = (5 << 30) + 7;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(at("sparse")).unwrap();
    file.write_all_at(b"far", far).unwrap();
    file.sync_all().unwrap();
    let shown = fs::metadata(at("sparse")).unwrap();
    assert_eq!(shown.len(), far + 3);
    assert!(fs::metadata(filer.disk("sparse")).unwrap().blocks() * 512 < 1 << 20, "the hole is none on the server");
    let mut read = [1; 6];
    file.read_exact_at(&mut read, far - 3).unwrap();
    assert_eq!(&read, b"\0\0\0far");
    file.read_exact_at(&mut read, (4 << 30) - 3).unwrap();
    assert_eq!(read, [0; 6]);
    file.set_len((4 << 30) + 1).unwrap();
    assert_eq!(fs::metadata(filer.disk("sparse")).unwrap().len(), (4 << 30) + 1);
    drop(file);

    for name in ["ahead", "behind"] {
        assert_eq!(fs::read(at(name)).unwrap(), name.as_bytes());
        let mut log = OpenOptions::new().append(true).open(at(name)).unwrap();
        log.write_all(b", later").unwrap();
        drop(log);
        assert_eq!(fs::read(at(name)).unwrap(), format!("{name}, later").as_bytes());
    }
    rig.unpublish(&workers, "a").unwrap();
}

#[test]
fn df_is_the_servers_and_comes_though_it_is_frozen() {
    let Some(filer) = Filer::new() else { return };
    let (rig, workers) = (&filer.rig, filer.rig.workers());
    rig.publish(&workers, filer.request("a", UID, SOON)).unwrap();
    let df = |path: &Path| {
        let told = nix::sys::statvfs::statvfs(path).unwrap();
        told.blocks() * told.fragment_size()
    };
    let servers = df(&filer.server.root());
    assert_eq!(df(&rig.target("a")), servers);
    assert_eq!(rig.usage(&workers, "a").unwrap().space.unwrap().total, servers);
    filer.server.freeze().unwrap();
    // Nothing that the kernel was told is believed any more.
    std::thread::sleep(Duration::from_millis(1100));
    for _ in 0..3 {
        // As df(1) does first.
        let asked = Instant::now();
        assert!(fs::metadata(rig.target("a")).unwrap().is_dir());
        assert!(asked.elapsed() < ANSWERED, "it took {:?}", asked.elapsed());
        let asked = Instant::now();
        assert_eq!(df(&rig.target("a")), servers);
        assert_eq!(rig.usage(&workers, "a").unwrap().space.unwrap().total, servers);
        assert!(asked.elapsed() < ANSWERED, "they took {:?}", asked.elapsed());
    }
    filer.server.thaw().unwrap();
    rig.unpublish(&workers, "a").unwrap();
}

#[test]
fn names_of_one_file_are_one_inode() {
    let Some(filer) = Filer::new() else { return };
    let (rig, workers) = (&filer.rig, filer.rig.workers());
    fs::create_dir(filer.disk("dir")).unwrap();
    chown(filer.disk("dir"), Some(UID), Some(UID)).unwrap();
    fs::hard_link(filer.disk("hello"), filer.disk("dir/again")).unwrap();
    rig.publish(&workers, filer.request("a", UID, SOON)).unwrap();
    let at = |name: &str| filer.at("a", name);
    let shown = |name: &str| {
        let meta = fs::metadata(at(name)).unwrap();
        (meta.ino(), meta.nlink())
    };
    assert_eq!(shown("hello"), shown("dir/again"));
    assert_eq!(shown("hello").1, 2);
    fs::hard_link(at("dir/again"), at("third")).unwrap();
    assert_eq!((shown("third"), shown("hello")), (shown("dir/again"), shown("dir/again")));
    assert_eq!(shown("hello").1, 3);
    // By the other names it is seen at once what one is written by, pages in memory included.
    let reader = File::open(at("hello")).unwrap();
    let mut read = [0; 5];
    reader.read_exact_at(&mut read, 0).unwrap();
    let writer = OpenOptions::new().write(true).open(at("third")).unwrap();
    writer.write_all_at(b"HELLO", 0).unwrap();
    reader.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"HELLO");
    assert_eq!(fs::read(at("dir/again")).unwrap(), b"HELLO, world");
    // The name that it is open by goes, and then the last one.
    fs::remove_file(at("third")).unwrap();
    assert_eq!(shown("hello").1, 2);
    writer.write_all_at(b"Hello", 0).unwrap();
    fs::remove_file(at("hello")).unwrap();
    assert_eq!(fs::read(at("dir/again")).unwrap(), b"Hello, world");
    fs::rename(at("dir/again"), at("hello")).unwrap();
    fs::remove_file(at("hello")).unwrap();
    writer.write_all_at(b"Still", 0).unwrap();
    reader.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"Still");
    assert_eq!(writer.metadata().unwrap().nlink(), 0);
    drop((reader, writer));
    eventually("nothing is left", || fs::read_dir(filer.disk("")).unwrap().count() == 1);

    // Programs keep them together.
    fs::create_dir(at("from")).unwrap();
    fs::write(at("from/one"), noise(100_000)).unwrap();
    fs::hard_link(at("from/one"), at("from/two")).unwrap();
    fs::write(at("from/other"), "other").unwrap();
    let run = |line: &str| {
        let ran = Command::new("sh").args(["-ec", line]).current_dir(rig.target("a")).status().unwrap();
        assert!(ran.success(), "{line}");
    };
    run("cp -a from copied; mkdir untarred; tar -C from -cf - . | tar -C untarred -xf -");
    for dir in ["copied", "untarred"] {
        let on_disk = |name: &str| fs::metadata(filer.disk(dir).join(name)).unwrap();
        let [one, two] = [on_disk("one"), on_disk("two")];
        assert_eq!((one.ino(), one.nlink()), (two.ino(), 2), "{dir}");
        assert!(fs::read(at(dir).join("two")).unwrap() == noise(100_000));
    }
    rig.unpublish(&workers, "a").unwrap();
    rig.assert_clean(&[]);
}
