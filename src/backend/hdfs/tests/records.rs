//! The control plane's records and volumes on Hadoop's own daemons, of a controller that is a superuser, or nobody.

use super::*;
use crate::backend::Meta;
use crate::backend::records::contract::{self, Users};
use crate::backend::records::{Directory, Records};

/// A store's root that belongs to `user`.
pub(super) async fn root_of(cluster: &Hadoop, user: &str) -> Config {
    let prefix = cluster.fresh(user).await.unwrap();
    Config { prefix, ..config(cluster) }
}

/// The records of a store and its files, both as `user`.
pub(super) fn opened(config: &Config, user: &str) -> (Arc<dyn Records>, Users) {
    let credential = Credential::Hadoop { user: user.into() };
    let records = backend::records(&backend::Config::Hdfs(config.clone()), &credential).unwrap();
    (records, Users(connect(config, user, "", limits())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superusers_store_keeps_the_contract_of_records() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let (records, users) = opened(&root_of(cluster, cluster.superuser()).await, cluster.superuser());
    contract::records(&*records, &users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_store_keeps_the_contract_of_records() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let (records, users) = opened(&root_of(cluster, "carol").await, "carol");
    contract::records(&*records, &users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_has_its_owner_and_is_known_by_its_file_id() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let (records, users) = opened(&root_of(cluster, cluster.superuser()).await, cluster.superuser());
    let how = Directory { uid: 1000, gid: 2001, mode: 0o750 };
    let at = path("teams/a/volume");
    let first = records.make_directory(&at, &how).await.unwrap().unwrap();
    assert_eq!(records.make_directory(&at, &how).await.unwrap().unwrap(), first);
    let shown = async |text: &str| {
        let Meta { permissions, .. } = users.0.stat(&path(text)).await.unwrap();
        permissions.map(|of| (of.uid, of.gid, of.mode)).unwrap()
    };
    assert_eq!(shown("teams/a/volume").await, (1000, 2001, 0o750));
    // The superuser has no number.
    let (above, own) = (shown("teams/a").await, shown(".millrace").await);
    assert_eq!(((above.0, above.2), (own.0, own.2)), ((65_534, 0o755), (65_534, 0o700)));
    assert_eq!(records.directory(&at).await.unwrap(), Some(first.clone()));
    users.0.remove(&at, Kind::Directory).await.unwrap();
    assert_eq!(records.directory(&at).await.unwrap(), None);
    assert_ne!(records.make_directory(&at, &how).await.unwrap().unwrap(), first);
    // A group without a name stays that of the directory above, and a user without one is nobody.
    let unknown = Directory { gid: 7, ..how };
    records.make_directory(&path("teams/b"), &unknown).await.unwrap();
    assert_eq!(shown("teams/b").await.0, 1000);
    let error = records.make_directory(&path("teams/c"), &Directory { uid: 7, ..how }).await.unwrap_err();
    assert!(error.kind == ErrorKind::Misconfigured && error.message.contains("number 7"), "{error}");
    assert_eq!(error_of(users.0.stat(&path("teams/c"))).await, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_read_with_the_mounts_own_credential() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let config = root_of(cluster, cluster.superuser()).await;
    let (records, _) = opened(&config, cluster.superuser());
    records.make_directory(&path("volume"), &Directory { uid: 1000, gid: 2000, mode: 0o700 }).await.unwrap();
    let [mount, whole] = ["volume", ""].map(|dir| connect(&config, "alice", dir, limits()));
    contract::mounts_read_their_own(&*records, &*mount, &*whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_without_rights_is_told_what_it_cannot_do() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let config = root_of(cluster, "carol").await;
    let (records, users) = opened(&config, "carol");
    let how = |uid, gid| Directory { uid, gid, mode: 0o770 };
    records.make_directory(&path("own"), &how(1002, 2001)).await.unwrap();
    for others in [how(1000, 2001), how(1002, 2000)] {
        let error = records.make_directory(&path("volume"), &others).await.unwrap_err();
        assert!(error.kind == ErrorKind::Misconfigured && error.message.contains("superuser"), "{error}");
        assert_eq!(
            error_of(users.0.stat(&path("volume"))).await,
            ErrorKind::NotFound,
            "what was made is removed again"
        );
    }
    let (strange, _) = opened(&config, "bob");
    let error = strange.create(&path(".millrace/volumes/x"), "x".into()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Denied && error.message.contains("\"bob\""), "{error}");
    let nowhere = Config { prefix: format!("{}/nowhere", config.prefix), ..config };
    let error = opened(&nowhere, "carol").0.create(&path(".millrace/volumes/x"), "x".into()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Misconfigured && error.message.contains("prefix"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_could_write_is_told() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let config = root_of(cluster, "alice").await;
    let (records, users) = opened(&config, "alice");
    for (bits, word) in [(0o755, None), (0o775, Some("0775")), (0o1777, Some("1777"))] {
        let mode = SetAttributes { mode: Some(bits), ..SetAttributes::default() };
        users.0.set_attributes(&Path::root(), &mode).await.unwrap();
        let told = records.exposure().await.unwrap();
        assert_eq!(told.is_some(), word.is_some());
        assert!(word.is_none_or(|word| told.is_some_and(|told| told.contains(word))));
    }
    let (others, _) = opened(&config, cluster.superuser());
    assert!(others.exposure().await.unwrap().unwrap().contains("alice"));
    // Somebody made the control plane's directory first.
    users.0.make_dir(&path(".millrace")).await.unwrap();
    let error = others.create(&path(".millrace/volumes/x"), "x".into()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Misconfigured && error.message.contains("alice"), "{error}");
    let error = records.create(&path(".millrace/volumes/x"), "x".into()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Misconfigured && error.message.contains("0755"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_follows_no_link_and_takes_what_no_mount_shows() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let config = root_of(cluster, cluster.superuser()).await;
    let (records, users) = opened(&config, cluster.superuser());
    let victim = format!("/{}/victim", config.prefix);
    let link = async |at: &str| {
        let at = format!("/{}/{at}", config.prefix);
        cluster.control("symlink", &[("path", &at), ("target", &victim)], Bytes::new()).await.unwrap();
    };
    contract::removals_follow_no_link(&*records, &users, link, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_never_both_win() {
    let Some(cluster) = Hadoop::shared().await.unwrap() else { return };
    let config = root_of(cluster, cluster.superuser()).await;
    let clients: Vec<_> = (0..4).map(|_| opened(&config, cluster.superuser()).0).collect();
    contract::two_clients_never_both_win(&clients).await;
}
