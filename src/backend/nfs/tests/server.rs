//! What the server allows, refuses, forgets, and how it goes away.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::*;

/// Limits of a mount that gives up soon.
fn hasty() -> Limits {
    Limits::alone(64 << 20, Duration::from_secs(4))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_user_sees_what_he_may() {
    let Some((alice, server)) = stand().await else { return };
    let bob = connect(&config(&server), 1001, limits());
    put(&*alice, "open", "open").await;
    let mut upload = begin(&*alice, "closed", Base::Absent).await;
    upload.write("closed".into()).await.unwrap();
    let closed = upload.publish(&Attributes { mode: Some(0o600), ..Attributes::default() }).await.unwrap();
    let kept = closed.permissions.unwrap();
    assert_eq!((kept.uid, kept.gid, kept.mode), (UID, UID, 0o600));

    let open = version(&*bob, "open").await;
    assert_eq!(content(&*bob, &open).await.unwrap(), b"open");
    assert_eq!(error_of(content(&*bob, closed.version().unwrap())).await, ErrorKind::Denied);
    let mut upload = begin(&*bob, "new", Base::Absent).await;
    upload.write("x".into()).await.unwrap();
    assert_eq!(error_of(upload.publish(&Attributes::default())).await, ErrorKind::Denied);
    assert_eq!(error_of(bob.remove(&path("open"), Kind::File)).await, ErrorKind::Denied);
    assert_eq!(error_of(bob.make_dir(&path("dir"))).await, ErrorKind::Denied);
    let may = async |at: &str| bob.access(&path(at), Rights::ALL).await.unwrap().mode();
    assert_eq!((may("").await, may("open").await, may("closed").await), (5, 4, 0));
    // A group that stands behind the first in the credential counts.
    let group = Attributes { mode: Some(0o640), gid: Some(2000), ..Attributes::default() };
    let mut upload = begin(&*alice, "group", Base::Absent).await;
    upload.write("group".into()).await.unwrap();
    upload.publish(&group).await.unwrap();
    let shared = version(&*bob, "group").await;
    assert_eq!(content(&*bob, &shared).await.unwrap(), b"group");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mounted_says_why() {
    let Some(server) = ganesha().await else { return };
    let good = config(&server);
    let why = async |config: Config| {
        let store = connect(&config, UID, hasty());
        let error = store.stat(&Path::root()).await.unwrap_err();
        (error.kind, error.message)
    };
    for (bad, kind, word) in [
        (Config { export: "/no/such/export".into(), ..good.clone() }, ErrorKind::Misconfigured, "no such export"),
        (Config { prefix: "none".into(), ..good.clone() }, ErrorKind::NotFound, "no directory"),
        (Config { mount_port: Some(server.port()), ..good.clone() }, ErrorKind::Misconfigured, "NFSv4"),
        (Config { mount_port: Some(1), ..good.clone() }, ErrorKind::Unavailable, "127.0.0.1:1"),
        (Config { port: Some(1), ..good.clone() }, ErrorKind::Unavailable, "127.0.0.1:1"),
        (Config { server: "no-such-host.invalid".into(), ..good.clone() }, ErrorKind::Unavailable, "no-such-host"),
    ] {
        let (found, message) = why(bad.clone()).await;
        // MNT3ERR_NOENT and MNT3ERR_ACCES are both given for an export that there is not.
        let said = message.contains(word) || (word == "no such export" && message.contains("export"));
        assert!((found == kind || word == "no such export") && said, "{bad:?}: {found:?} {message}");
    }
    let store = connect(&good, UID, hasty());
    assert!(store.stat(&Path::root()).await.is_ok());
    let address = backend::Config::Nfs(good.clone());
    backend::reach(&address, Duration::from_secs(5)).await.unwrap();
    let nowhere = backend::Config::Nfs(Config { port: Some(1), ..good });
    assert_eq!(error_of(backend::reach(&nowhere, Duration::from_secs(1))).await, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_given_up_in_time_and_read_on_when_it_goes_on() {
    let Some(server) = ganesha().await else { return };
    let patient = connect(&config(&server), UID, limits());
    let data = noise(4 * MIB);
    let file = put(&*patient, "file", data.clone()).await;
    let store = connect(&config(&server), UID, hasty());
    while store.stat(&path("file")).await.is_err() {}
    server.freeze().unwrap();
    let begun = Instant::now();
    assert_eq!(error_of(content(&*store, &file)).await, ErrorKind::Unavailable);
    assert_eq!(error_of(store.stat(&path("other"))).await, ErrorKind::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let waiting = tokio::spawn(async move { patient.stat(&path("file")).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.thaw().unwrap();
    let patient = connect(&config(&server), UID, limits());
    assert!(content(&*patient, &file).await.unwrap() == data);
    assert!(timeout(Duration::from_secs(40), waiting).await.unwrap().unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_died_is_found_again() {
    let Some((store, mut server)) = stand().await else { return };
    let data = noise(5 * MIB);
    let file = put(&*store, "file", data.clone()).await;
    let mut upload = begin(&*store, "new", Base::Absent).await;
    // More than is gathered: some of it lies in the server's memory, uncommitted.
    upload.write(Bytes::from(data[..3 * MIB].to_vec())).await.unwrap();
    server.kill();
    let reading = {
        let (store, file) = (store.clone(), file.clone());
        tokio::spawn(async move { content(&*store, &file).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.restart().await.unwrap();
    assert!(reading.await.unwrap().unwrap() == data);
    upload.write(Bytes::from(data[3 * MIB..].to_vec())).await.unwrap();
    let new = publish(&mut upload).await;
    assert!(content(&*store, &new).await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_is_nobody_on_the_server_is_refused() {
    let Some(server) = Ganesha::start().await.unwrap() else { return };
    let volume = server.squash().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::set_permissions(&volume, PermissionsExt::from_mode(0o755)).unwrap();
    let squash = Config { export: server.squash().to_str().unwrap().into(), ..config(&server) };
    let root = connect(&squash, 0, limits());
    assert_eq!(error_of(root.make_dir(&path("dir"))).await, ErrorKind::Denied);
    assert_eq!(root.access(&Path::root(), Rights::ALL).await.unwrap().mode(), 5);
    chown(&volume, Some(UID), Some(UID)).unwrap();
    let own = connect(&squash, UID, limits());
    own.make_dir(&path("dir")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_export_says_so() {
    let more = |home: &std::path::Path| {
        std::fs::create_dir_all(home.join("fixed/volume")).unwrap();
        format!(
            "EXPORT {{ Export_Id = 3; Path = \"{}/fixed\"; Pseudo = /fixed; Access_Type = RO; FSAL {{ Name = VFS; }} }}",
            home.display()
        )
    };
    let Some(server) = Ganesha::start_with(more).await.unwrap() else { return };
    let fixed = server.root().with_file_name("fixed");
    std::fs::write(fixed.join("volume/file"), "fixed").unwrap();
    chown(fixed.join("volume"), Some(UID), Some(UID)).unwrap();
    let store = connect(&Config { export: fixed.to_str().unwrap().into(), ..config(&server) }, UID, limits());
    let file = version(&*store, "file").await;
    assert_eq!(content(&*store, &file).await.unwrap(), b"fixed");
    assert_eq!(error_of(store.make_dir(&path("dir"))).await, ErrorKind::ReadOnly);
    assert_eq!(error_of(store.remove(&path("file"), Kind::File)).await, ErrorKind::ReadOnly);
    let mut upload = begin(&*store, "new", Base::Absent).await;
    upload.write("x".into()).await.unwrap();
    assert_eq!(error_of(upload.publish(&Attributes::default())).await, ErrorKind::ReadOnly);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_dropped_leaves_nothing_on_the_disk() {
    let Some((store, server)) = stand().await else { return };
    let on_disk = || std::fs::read_dir(server.root().join("volume")).unwrap().count();
    for aborted in [true, false] {
        let mut upload = begin(&*store, "file", Base::Absent).await;
        upload.write(noise(3 * MIB).into()).await.unwrap();
        assert_eq!(on_disk(), 1);
        let hidden: Vec<_> = store.list(&Path::root()).try_collect().await.unwrap();
        assert_eq!(hidden, []);
        if aborted {
            upload.abort().await;
        } else {
            drop(upload);
        }
        let begun = Instant::now();
        while on_disk() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_have_their_room_and_a_credential_its_kind() {
    let config = Config::at("127.0.0.1", "/", 1, 1);
    let many = Credential::Sys { uid: 1, gid: 1, groups: (0..17).collect() };
    let connect = |config: &Config, credential: &Credential| {
        let store = backend::connect(&backend::Config::Nfs(config.clone()), credential, &Path::root(), limits());
        store.map(drop).map_err(|error| error.kind)
    };
    assert_eq!(connect(&config, &many), Err(ErrorKind::Misconfigured));
    assert_eq!(connect(&Config { server_groups: true, ..config.clone() }, &many), Ok(()));
    assert_eq!(connect(&config, &Credential::Anonymous), Err(ErrorKind::Unauthenticated));
}

/// A server that speaks NFSv4 and no other version.
async fn newer_only() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(mark) = stream.read_u32().await {
                    let mut call = vec![0; (mark & !(1 << 31)) as usize];
                    stream.read_exact(&mut call).await.unwrap();
                    let xid = u32::from_be_bytes(call[..4].try_into().unwrap());
                    // Accepted, and PROG_MISMATCH: 4 to 4.
                    for word in [(1 << 31) | 32, xid, 1, 0, 0, 0, 2, 4, 4] {
                        stream.write_u32(word).await.unwrap();
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_version_or_security_is_named() {
    let port = newer_only().await;
    let why = async |config: Config| {
        let error = connect(&config, UID, hasty()).stat(&Path::root()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured, "{error}");
        error.message
    };
    // With a MOUNT service of another version, and without one.
    for mount_port in [port, 1] {
        let message = why(Config::at("127.0.0.1", "/export", port, mount_port)).await;
        assert!(message.contains("only NFSv4") && message.contains("NFSv3"), "{message}");
    }
    let more = |home: &std::path::Path| {
        std::fs::create_dir_all(home.join("secure/volume")).unwrap();
        format!(
            "EXPORT {{ Export_Id = 3; Path = \"{}/secure\"; Pseudo = /secure; SecType = krb5; FSAL {{ Name = VFS; }} }}",
            home.display()
        )
    };
    let Some(server) = Ganesha::start_with(more).await.unwrap() else { return };
    let secure = server.root().with_file_name("secure");
    let message = why(Config { export: secure.to_str().unwrap().into(), ..config(&server) }).await;
    assert!(message.contains("sec=krb5"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_privileged_ports_is_named_and_gets_them() {
    let more = |home: &std::path::Path| {
        std::fs::create_dir_all(home.join("guarded/volume")).unwrap();
        format!(
            "EXPORT {{ Export_Id = 3; Path = \"{}/guarded\"; Pseudo = /guarded; PrivilegedPort = true; FSAL {{ Name = VFS; }} }}",
            home.display()
        )
    };
    let Some(mut server) = Ganesha::start_with(more).await.unwrap() else { return };
    let guarded = server.root().with_file_name("guarded");
    chown(guarded.join("volume"), Some(UID), Some(UID)).unwrap();
    let config = Config { export: guarded.to_str().unwrap().into(), ..config(&server) };
    let error = connect(&config, UID, hasty()).stat(&Path::root()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Misconfigured && error.message.contains("privilegedPorts: true"), "{error}");

    let store = connect(&Config { privileged_ports: true, ..config }, UID, limits());
    let data = noise(3 * MIB);
    let file = put(&*store, "file", data.clone()).await;
    server.restart().await.unwrap();
    assert!(content(&*store, &file).await.unwrap() == data);
    store.make_dir(&path("dir")).await.unwrap();
}
