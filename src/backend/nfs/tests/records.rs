//! The control plane's records and volumes on a real server, whose root is root, or nobody.

use super::*;
use crate::backend::records::contract::{self, Users};
use crate::backend::records::{Directory, Records};

const CONTROLLER: u32 = 900;

fn squash(server: &Ganesha) -> Config {
    Config { export: server.squash().to_str().unwrap().into(), ..config(server) }
}

/// The records of an export, and its files, both as user `uid`, to whom its root belongs.
fn opened(config: &Config, uid: u32) -> (Arc<dyn Records>, Users) {
    let backend = backend::Config::Nfs(config.clone());
    let credential = Credential::Sys { uid, gid: uid, groups: vec![] };
    let files = backend::connect(&backend, &credential, &Path::root(), limits()).unwrap();
    (backend::records(&backend, &credential).unwrap(), Users(files))
}

async fn exports() -> Option<(Ganesha, [(Config, u32); 2])> {
    let server = Ganesha::start().await.unwrap()?;
    chown(server.squash(), Some(CONTROLLER), Some(CONTROLLER)).unwrap();
    let exports = [(config(&server), 0), (squash(&server), CONTROLLER)];
    Some((server, exports))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_keeps_the_contract_of_records() {
    let Some((_server, exports)) = exports().await else { return };
    for (config, uid) in exports {
        let (records, users) = opened(&config, uid);
        contract::records(&*records, &users).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_has_its_owner_and_is_known_by_its_handle() {
    let Some((server, _)) = exports().await else { return };
    let (records, users) = opened(&config(&server), 0);
    let how = Directory { uid: 1234, gid: 77, mode: 0o750 };
    let at = path("teams/a/volume");
    let first = records.make_directory(&at, &how).await.unwrap().unwrap();
    assert_eq!(records.make_directory(&at, &how).await.unwrap().unwrap(), first);
    let shown = async |text: &str| users.0.stat(&path(text)).await.unwrap().permissions.unwrap();
    let made = shown("teams/a/volume").await;
    assert_eq!((made.uid, made.gid, made.mode), (1234, 77, 0o750));
    let (above, own) = (shown("teams/a").await, shown(".millrace").await);
    assert_eq!(((above.uid, above.mode), (own.uid, own.mode)), ((0, 0o755), (0, 0o700)));
    assert_eq!(records.directory(&at).await.unwrap(), Some(first.clone()));
    // A new one in its place may get the same fileid, and never the same handle.
    users.0.remove(&at, Kind::Directory).await.unwrap();
    assert_eq!(records.directory(&at).await.unwrap(), None);
    assert_ne!(records.make_directory(&at, &how).await.unwrap().unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_read_with_the_mounts_own_credential() {
    let Some((server, _)) = exports().await else { return };
    let (records, _) = opened(&config(&server), 0);
    std::fs::set_permissions(server.root(), PermissionsExt::from_mode(0o755)).unwrap();
    let how = Directory { uid: UID, gid: UID, mode: 0o700 };
    records.make_directory(&path("volume"), &how).await.unwrap();
    let mount = connect(&config(&server), UID, limits());
    let whole = backend::connect(&backend::Config::Nfs(config(&server)), &user(UID), &Path::root(), limits()).unwrap();
    contract::mounts_read_their_own(&*records, &*mount, &*whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_squashed_root_is_told_by_its_name() {
    let Some((server, exports)) = exports().await else { return };
    let how = Directory { uid: UID, gid: UID, mode: 0o755 };
    let why = async |config: &Config, uid| {
        let error = opened(config, uid).0.make_directory(&path("volume"), &how).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured, "{error}");
        assert!(error.message.contains("root_squash"), "{error}");
        error.message
    };
    let (squash, own) = &exports[1];
    assert!(why(squash, 0).await.contains("controllerUser"));
    assert!(why(squash, *own).await.contains("cannot give"));
    assert!(!server.squash().join("volume").exists(), "what was made is removed again");
    // Where nobody may write the root, what root makes is nobody's.
    std::fs::set_permissions(server.squash(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::remove_dir(server.squash().join(".millrace")).unwrap();
    assert!(why(squash, 0).await.contains("controllerUser"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_could_write_is_told() {
    let Some((mut server, exports)) = exports().await else { return };
    let (squash, own) = &exports[1];
    for (bits, word) in [(0o755, None), (0o775, Some("0775")), (0o1777, Some("1777"))] {
        std::fs::set_permissions(server.squash(), PermissionsExt::from_mode(bits)).unwrap();
        // It keeps attributes of what was changed behind it.
        server.restart().await.unwrap();
        let told = opened(squash, *own).0.exposure().await.unwrap();
        assert_eq!(told.is_some(), word.is_some());
        assert!(word.is_none_or(|word| told.is_some_and(|told| told.contains(word))));
    }
    // Somebody made the control plane's directory first.
    let (_, others) = opened(squash, 1001);
    others.0.make_dir(&path(".millrace")).await.unwrap();
    let error = opened(squash, *own).0.create(&path(".millrace/volumes/x"), "x".into()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Misconfigured && error.message.contains("uid 1001"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_follows_no_link_and_takes_what_no_mount_shows() {
    let Some((server, _)) = exports().await else { return };
    // Before the server has looked.
    let volume = server.root().join("volume");
    std::fs::create_dir_all(volume.join("d/e")).unwrap();
    (0..1100).for_each(|number| std::fs::write(volume.join(format!("d/{number}")), "x").unwrap());
    for (at, to) in [("d/root", "/"), ("d/e/up", "..")] {
        std::os::unix::fs::symlink(to, volume.join(at)).unwrap();
    }
    let (records, users) = opened(&config(&server), 0);
    let link = async |at: &str| {
        let victim = "../".repeat(at.matches('/').count()) + "victim";
        users.0.make_symlink(&path(at), victim.as_bytes()).await.unwrap();
    };
    let pages = contract::removals_follow_no_link(&*records, &users, link, 1100 + 2).await;
    assert!(pages.len() > 1 && !volume.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_never_both_win() {
    let Some((server, _)) = exports().await else { return };
    let clients: Vec<_> = (0..4).map(|_| opened(&config(&server), 0).0).collect();
    contract::two_clients_never_both_win(&clients).await;
}
