//! Workers that the test itself talks with, as a node plugin does: what happens inside one that serves.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use millrace::mount::handover::{Begin, Channel, FromWorker, Log, ToWorker, VERSION, Volume};

use super::*;

const FILE: &str = "data/.millrace/volume.json";

/// A worker, its mount, and our end of its socket. Gone when dropped.
struct Spoken<'a> {
    rig: &'a Rig,
    channel: Channel,
    child: Child,
    dir: PathBuf,
}

impl<'a> Spoken<'a> {
    /// Starts a worker for `spec` and mounts.
    fn serve(rig: &'a Rig, spec: VolumeSpec) -> Spoken<'a> {
        Spoken::serve_as(rig, spec, keys(SECRET))
    }

    fn serve_as(rig: &'a Rig, spec: VolumeSpec, credential: Credential) -> Spoken<'a> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .arg("worker")
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let dir = rig.dir.join(format!("spoken-{}", child.id()));
        fs::create_dir(&dir).unwrap();
        let channel = rig.runtime.block_on(async { Channel::new(ours) }).unwrap();
        let mut spoken = Spoken { rig, channel, child, dir };
        let log = Log { filter: "warn".into(), json: false };
        spoken.say(&ToWorker::Begin(Begin { version: VERSION.into(), uid: Some(1_900_000_777), kerberos: false, log }));
        assert_eq!(spoken.hear(), FromWorker::Ready { version: VERSION.into() });
        spoken.say(&ToWorker::Volume(Box::new(Volume { spec, credential })));
        assert_eq!(spoken.hear(), FromWorker::Accepted { own_permissions: false });
        let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&device);
        let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        nix::mount::mount(Some("by-hand"), &spoken.dir, Some("fuse"), flags, Some(options.as_str())).unwrap();
        rig.runtime.block_on(spoken.channel.send_with(&ToWorker::Device, device.as_fd())).unwrap();
        drop(device);
        assert_eq!(spoken.hear(), FromWorker::Serving);
        spoken
    }

    fn say(&self, word: &ToWorker) {
        self.rig.runtime.block_on(self.channel.send(word)).unwrap();
    }

    fn hear(&mut self) -> FromWorker {
        let Spoken { rig, channel, .. } = self;
        loop {
            let heard = rig.runtime.block_on(async { tokio::time::timeout(SOON, channel.receive()).await });
            match heard.unwrap().unwrap().0 {
                // On a busy machine a request may be old enough to be told of; of its use it tells unasked.
                FromWorker::Waiting { .. } | FromWorker::Tally(_) => {}
                word => return word,
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn become_one(&mut self, credential: Credential, same_principal: bool) -> FromWorker {
        self.say(&ToWorker::Credential { credential, same_principal });
        self.hear()
    }
}

impl Drop for Spoken<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.dir, MntFlags::MNT_DETACH);
        // Its end closes the socket; the worker ends with its mount.
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The volume that CreateVolume made.
fn created(rig: &Rig) -> VolumeSpec {
    VolumeSpec { generation: Some("abcdefghij".into()), ..request(&rig.server.endpoint(), &rig.dir).spec }
}

#[test]
fn a_created_volume_costs_one_get_to_enter() {
    let Some(rig) = Rig::new() else { return };
    rig.server.reset_counters();
    let _spoken = Spoken::serve(&rig, created(&rig));
    let counters = rig.server.counters();
    assert_eq!((counters.of(Kind::GetObject), counters.total()), (1, 1));
    rig.server.reset_counters();
    let _spoken = Spoken::serve(&rig, VolumeSpec { generation: None, ..created(&rig) });
    let counters = rig.server.counters();
    assert_eq!((counters.of(Kind::ListObjectsV2), counters.total()), (1, 1));
}

#[test]
fn renewed_keys_are_proved_and_serve_on() {
    let Some(rig) = Rig::new() else { return };
    let mut spoken = Spoken::serve(&rig, created(&rig));
    assert_eq!(fs::read_to_string(spoken.path("hello")).unwrap(), "hello, world");
    let refused = spoken.become_one(keys("wrong"), true);
    assert!(
        matches!(
            &refused,
            FromWorker::CredentialRefused(Refusal::Store { kind: ErrorKind::Unauthenticated, message })
                if !message.contains("wrong")
        ),
        "{refused:?}"
    );
    rig.server.put("bucket", "data/more", "with the old keys");
    assert_eq!(fs::read_to_string(spoken.path("more")).unwrap(), "with the old keys");

    let mut half = fs::File::create(spoken.path("half")).unwrap();
    std::io::Write::write_all(&mut half, b"before, ").unwrap();
    rig.server.users().add(User::new(KEY, "second"));
    rig.server.reset_counters();
    assert_eq!(spoken.become_one(keys("second"), true), FromWorker::CredentialAccepted);
    assert_eq!(rig.server.counters().of(Kind::GetObject), 1);
    std::io::Write::write_all(&mut half, b"after").unwrap();
    drop(half);
    assert_eq!(rig.server.get("bucket", "data/half").unwrap().bytes, "before, after");
    rig.server.put("bucket", "data/later", "with the new keys");
    assert_eq!(fs::read_to_string(spoken.path("later")).unwrap(), "with the new keys");
}

#[test]
fn a_ping_is_answered_while_the_store_is_silent() {
    let Some(rig) = Rig::new() else { return };
    let mut spec = created(&rig);
    spec.options.timeout = Duration::from_secs(3);
    let mut spoken = Spoken::serve(&rig, spec);
    rig.server.faults().set_conditions(Conditions { silent: true, ..Conditions::default() });
    spoken.say(&ToWorker::Credential { credential: keys(SECRET), same_principal: true });
    spoken.say(&ToWorker::Ping);
    spoken.say(&ToWorker::Usage);
    assert_eq!(spoken.hear(), FromWorker::Pong);
    assert!(matches!(spoken.hear(), FromWorker::Usage(_)));
    assert!(matches!(
        spoken.hear(),
        FromWorker::CredentialRefused(Refusal::Store { kind: ErrorKind::Unavailable, .. })
    ));
    rig.server.faults().set_conditions(Conditions::default());
    assert_eq!(fs::read_to_string(spoken.path("hello")).unwrap(), "hello, world");
}

#[test]
fn the_volumes_own_file_is_read_when_asked() {
    let Some(rig) = Rig::new() else { return };
    let mut spoken = Spoken::serve(&rig, created(&rig));
    spoken.say(&ToWorker::Reload);
    assert_eq!(spoken.hear(), FromWorker::Reloaded(None));
    rig.server.put("bucket", FILE, "{");
    spoken.say(&ToWorker::Reload);
    assert!(matches!(spoken.hear(), FromWorker::Reloaded(Some(_))));
}

/// The volume's own file with more in it.
fn volume_file(more: &str) -> String {
    format!(r#"{{"format":1,"generation":"abcdefghij",{more}}}"#)
}

fn usage(spoken: &mut Spoken<'_>) -> Usage {
    spoken.say(&ToWorker::Usage);
    match spoken.hear() {
        FromWorker::Usage(usage) => usage,
        other => panic!("{other:?}"),
    }
}

fn reload(spoken: &mut Spoken<'_>) {
    spoken.say(&ToWorker::Reload);
    assert_eq!(spoken.hear(), FromWorker::Reloaded(None));
}

#[test]
fn a_limit_is_counted_kept_and_raised() {
    let Some(rig) = Rig::new() else { return };
    rig.server.put("bucket", "data/deep/down/file", vec![0; 1_000_000]);
    rig.server.put("bucket", FILE, volume_file(r#""limit":2000000"#));
    let mut spoken = Spoken::serve(&rig, created(&rig));
    eventually("it was counted", || usage(&mut spoken).counted_s.is_some());
    let known = usage(&mut spoken);
    assert_eq!((known.used_bytes, known.limit, known.health), (1_000_012, Some(2_000_000), Health::default()));
    fs::write(spoken.path("f"), vec![1; 900_000]).unwrap();
    assert_eq!(errno(fs::write(spoken.path("g"), vec![1; 100_000])), Errno::ENOSPC);
    // NodeExpandVolume.
    rig.server.put("bucket", FILE, volume_file(r#""limit":2100000"#));
    reload(&mut spoken);
    fs::write(spoken.path("g"), vec![1; 100_000]).unwrap();

    // Nothing is asked of the store for it.
    rig.server.faults().set_conditions(Conditions { silent: true, ..Conditions::default() });
    let begun = Instant::now();
    let stat = nix::sys::statvfs::statvfs(&spoken.dir).unwrap();
    assert_eq!(usage(&mut spoken).used_bytes, 2_000_012);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(stat.blocks() * stat.fragment_size(), 2_100_000 / 4096 * 4096);
    rig.server.faults().set_conditions(Conditions::default());
}

#[test]
fn mutable_parameters_reach_a_mount_that_is_served() {
    let Some(rig) = Rig::new() else { return };
    let mut spec = created(&rig);
    spec.options.ttl = Duration::from_secs(3600);
    spec.most_memory = 128 << 20;
    let mut spoken = Spoken::serve(&rig, spec);
    let absent = spoken.path("absent");
    assert_eq!(errno(fs::metadata(&absent)), Errno::ENOENT);

    let parameters = r#""parameters":{"ttl":"0s","timeout":"2s","memory":"64Mi","readAheadKb":"512","uid":"0"}"#;
    rig.server.put("bucket", FILE, volume_file(parameters));
    spoken.say(&ToWorker::Reload);
    assert_eq!(spoken.hear(), FromWorker::Memory { bytes: 64 << 20 });
    assert_eq!(spoken.hear(), FromWorker::ReadAhead { kib: 512 });
    assert_eq!(spoken.hear(), FromWorker::Reloaded(None));
    let health = usage(&mut spoken).health;
    assert!(health.volume_file.as_ref().is_some_and(|why| why.contains("uid")), "{health:?}");
    // Told from now on, and so not believed.
    assert_eq!(errno(fs::metadata(spoken.path("later"))), Errno::ENOENT);
    rig.server.put("bucket", "data/later", "x");
    assert_eq!(fs::read_to_string(spoken.path("later")).unwrap(), "x");
    rig.server.faults().set_conditions(Conditions { silent: true, ..Conditions::default() });
    let begun = Instant::now();
    assert_eq!(errno(fs::metadata(spoken.path("silent"))), Errno::EIO);
    assert!(begun.elapsed() < SOON, "the timeout was a minute");
    rig.server.faults().set_conditions(Conditions::default());

    // More than the store allows is as much as it allows; what is gone from the file is as it was.
    rig.server.put("bucket", FILE, volume_file(r#""parameters":{"memory":"1Gi"}"#));
    spoken.say(&ToWorker::Reload);
    assert_eq!(spoken.hear(), FromWorker::Memory { bytes: 128 << 20 });
    assert_eq!(spoken.hear(), FromWorker::ReadAhead { kib: 2048 });
    assert_eq!(spoken.hear(), FromWorker::Reloaded(None));
    let health = usage(&mut spoken).health;
    assert!(health.volume_file.as_ref().is_some_and(|why| why.contains("limits.memory")), "{health:?}");
    rig.server.remove("bucket", FILE);
    spoken.say(&ToWorker::Reload);
    assert!(matches!(spoken.hear(), FromWorker::Reloaded(Some(_))));
    assert!(usage(&mut spoken).health.volume_file.is_some());
}

#[test]
fn another_principal_reads_with_its_own_rights_alone() {
    let Some(rig) = Rig::new() else { return };
    rig.server.put("bucket", "data/open/f", "for both");
    rig.server.put("bucket", "data/closed/f", "for one");
    let other = |rights: &str| {
        let under = ["data/open", "data/.millrace"].map(|prefix| format!("bucket/{prefix}")).to_vec();
        let rights = if rights.is_empty() { Rights::default() } else { Rights { under, ..Rights::default() } };
        User::new("other-key-id", "other-secret").with(rights)
    };
    let credential = || Credential::S3 {
        key_id: "other-key-id".into(),
        secret_key: Secret::new("other-secret".into()),
        session_token: None,
    };
    let mut spoken = Spoken::serve(&rig, created(&rig));
    let refused = spoken.become_one(credential(), false);
    assert!(matches!(refused, FromWorker::CredentialRefused(Refusal::Store { .. })), "{refused:?}");

    let [open, closed] = ["open", "closed"].map(|dir| fs::File::open(spoken.path(dir).join("f")).unwrap());
    let read = |file: &fs::File| {
        let mut bytes = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).map(|()| bytes)
    };
    assert_eq!((read(&open).unwrap(), read(&closed).unwrap()), (*b"for ", *b"for "));
    let mut half = fs::File::create(spoken.path("closed/half")).unwrap();
    std::io::Write::write_all(&mut half, b"begun as the first").unwrap();
    rig.server.users().add(other("some"));
    assert_eq!(spoken.become_one(credential(), false), FromWorker::CredentialAccepted);
    // The page that the first principal had read is gone.
    assert_eq!(errno(read(&closed)), Errno::EACCES);
    assert_eq!(read(&open).unwrap(), *b"for ");
    assert_eq!(errno(fs::File::open(spoken.path("closed/f")).and_then(|file| read(&file))), Errno::EACCES);
    drop(half);
    assert_eq!(rig.server.get("bucket", "data/closed/half").unwrap().bytes, "begun as the first");
    // And back.
    assert_eq!(spoken.become_one(keys(SECRET), false), FromWorker::CredentialAccepted);
    assert_eq!(read(&closed).unwrap(), *b"for ");
}

#[test]
fn a_path_too_long_for_a_key_is_a_name_too_long() {
    let Some(rig) = Rig::new() else { return };
    let spoken = Spoken::serve(&rig, created(&rig));
    let long = "x".repeat(250);
    let deep = (0..4).fold(spoken.path(""), |path, _| path.join(&long));
    fs::create_dir_all(&deep).unwrap();
    assert_eq!(errno(fs::write(deep.join(&long), "x")), Errno::ENAMETOOLONG);
    assert_eq!(errno(fs::create_dir(deep.join(&long))), Errno::ENAMETOOLONG);
    fs::write(deep.join("short"), "x").unwrap();
}
