//! Who may be whom in a store that believes whatever it is told.

use super::inline::{POD, inline};
use super::*;

const STORES: &str = "
stores:
  - name: homes
    backend: nfs
    server: filer.example
    export: /srv
    inline: [{namespace: '*', paths: ['']}]
    identities:
      - {namespace: team-a, users: [{name: alice, uid: 1000, gid: 100, groups: [7, 8]}]}
      - {namespace: team-b, users: [{name: bob, uid: 1001, gid: 100}, {name: carol, uid: 1002, gid: 100}]}
  - name: scratch
    backend: nfs
    server: filer.example
    export: /scratch
    identities: [{namespace: '*', users: [{name: guest, uid: 3000, gid: 3000}]}]
  - name: lake
    backend: hdfs
    nameNodes: ['nn.example:8020']
    webHdfs: ['http://nn.example:9870']
    inline: [{namespace: '*', paths: ['']}]
    identities:
      - {namespace: team-a, users: [{name: alice, uid: 1000, gid: 100}]}
      - {namespace: team-b, users: [{name: bob, uid: 1001, gid: 100}, {name: carol, uid: 1002, gid: 100}]}
";

/// A publish of a static volume for a pod in `namespace`, with these attributes and this Secret.
fn of(namespace: &str, attributes: &[(&str, &str)], secrets: &[(&str, &str)]) -> NodePublishVolumeRequest {
    let vouched = inline(namespace, attributes);
    let mut context = vouched.volume_context.clone();
    context.insert("csi.storage.k8s.io/ephemeral".into(), "false".into());
    NodePublishVolumeRequest {
        volume_id: "pv-1".into(),
        volume_context: context,
        secrets: map(secrets),
        target_path: format!("/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/data/mount"),
        ..vouched
    }
}

const HOMES: &[(&str, &str)] = &[("store", "homes")];
const BOB: &[(&str, &str)] = &[("store", "homes"), ("user", "bob")];

#[tokio::test]
async fn a_volume_acts_as_who_its_namespace_may() {
    let plugin = plugin_of(STORES);
    let alice = Credential::Sys { uid: 1000, gid: 100, groups: vec![7, 8] };
    let carol = Credential::Sys { uid: 1002, gid: 100, groups: vec![] };
    for (request, expected) in [
        (of("team-a", HOMES, &[]), &alice),
        // Keys of another kind of store choose nobody.
        (of("team-a", HOMES, &[("key_id", "x"), ("access_key", "y")]), &alice),
        (of("team-a", HOMES, &[("user", "alice\n")]), &alice),
        (of("team-b", HOMES, &[("user", "carol")]), &carol),
        (of("team-b", &[("store", "homes"), ("user", "carol")], &[]), &carol),
        (NodePublishVolumeRequest { secrets: map(&[("user", "carol")]), ..inline("team-b", HOMES) }, &carol),
    ] {
        let publish = plugin.publish(request).await.unwrap();
        assert_eq!(publish.credential, *expected);
        let Credential::Sys { uid, gid, .. } = expected else { unreachable!() };
        assert_eq!((publish.spec.options.uid, publish.spec.options.gid), (*uid, *gid));
    }
    // csi-sanity, and whoever else says nothing of the pod: what everybody may.
    let publish = plugin.publish(request("pv-2", &[("store", "scratch")])).await.unwrap();
    assert_eq!(publish.credential, Credential::Sys { uid: 3000, gid: 3000, groups: vec![] });
}

const LAKE: &[(&str, &str)] = &[("store", "lake")];

#[tokio::test]
async fn a_volume_of_hdfs_acts_by_the_name_that_its_namespace_may_use() {
    let plugin = plugin_of(STORES);
    let hadoop = |user: &str| Credential::Hadoop { user: user.into() };
    for (request, user, uid) in [
        (of("team-a", LAKE, &[]), "alice", 1000),
        (of("team-b", LAKE, &[("user", "carol")]), "carol", 1002),
        (of("team-b", &[("store", "lake"), ("user", "bob")], &[]), "bob", 1001),
        (inline("team-a", LAKE), "alice", 1000),
    ] {
        let publish = plugin.publish(request).await.unwrap();
        assert_eq!((publish.credential, publish.spec.options.uid, publish.spec.options.gid), (hadoop(user), uid, 100));
    }
    for (request, code, why) in [
        (of("team-a", LAKE, &[("user", "bob")]), Code::PermissionDenied, "may not act as the user"),
        (of("team-a", LAKE, &[("user", "hdfs")]), Code::PermissionDenied, "superusers"),
        (of("team-a", LAKE, &[("user", "yarn")]), Code::PermissionDenied, "superusers"),
        (of("team-b", LAKE, &[]), Code::InvalidArgument, "bob, carol"),
        (of("team-c", LAKE, &[("user", "alice")]), Code::PermissionDenied, "\"team-c\""),
        (inline("team-b", &[("store", "lake"), ("user", "bob")]), Code::PermissionDenied, "author"),
        (request("pv-1", LAKE), Code::PermissionDenied, "podInfoOnMount"),
    ] {
        let (got, message) = plugin.refused(request).await;
        assert!(got == code && message.contains(why), "{got:?}: {message}");
    }
}

#[tokio::test]
async fn a_forged_secret_makes_nobody_of_another() {
    let plugin = plugin_of(STORES);
    let forged_pod = |mut request: NodePublishVolumeRequest| {
        request.target_path = "/pod".into();
        request
    };
    for (request, code, why) in [
        (of("team-a", HOMES, &[("user", "bob")]), Code::PermissionDenied, "may not act as the user"),
        (of("team-a", BOB, &[]), Code::PermissionDenied, "may not act as the user"),
        (of("team-a", HOMES, &[("user", "root")]), Code::PermissionDenied, "superusers"),
        (of("team-a", HOMES, &[("user", "hdfs")]), Code::PermissionDenied, "superusers"),
        (of("team-a", HOMES, &[("user", "0")]), Code::PermissionDenied, "may not act as the user"),
        (of("team-a", HOMES, &[("user", "1001")]), Code::PermissionDenied, "may not act as the user"),
        (of("team-c", HOMES, &[]), Code::PermissionDenied, "\"team-c\""),
        (of("team-c", HOMES, &[("user", "alice")]), Code::PermissionDenied, "\"team-c\""),
        (of("team-b", HOMES, &[]), Code::InvalidArgument, "bob, carol"),
        (of("team-b", BOB, &[("user", "carol")]), Code::InvalidArgument, "different users"),
        (inline("team-b", BOB), Code::PermissionDenied, "author"),
        (inline("team-a", &[("store", "homes"), ("user", "alice")]), Code::PermissionDenied, "author"),
        // A namespace that the kubelet does not vouch for is nobody's.
        (forged_pod(of("team-a", HOMES, &[])), Code::PermissionDenied, "podInfoOnMount"),
        (request("pv-1", HOMES), Code::PermissionDenied, "podInfoOnMount"),
        (of("team-a", &[("store", "homes"), ("uid", "0"), ("groups", "0")], &[]), Code::InvalidArgument, "groups"),
    ] {
        let (got, message) = plugin.refused(request).await;
        assert!(got == code && message.contains(why), "{got:?}: {message}");
    }
    // Numbers in a Secret or an attribute are no identity, and neither is a pod's fsGroup.
    let mut request = of("team-a", &[("store", "homes"), ("uid", "0"), ("gid", "0")], &[("uid", "0"), ("gid", "0")]);
    request.volume_capability = Some(mounted(Mode::MultiNodeMultiWriter, &[]));
    if let Some(AccessType::Mount(mount)) =
        request.volume_capability.as_mut().and_then(|capability| capability.access_type.as_mut())
    {
        mount.volume_mount_group = "0".into();
    }
    let publish = plugin.publish(request).await.unwrap();
    assert_eq!(publish.credential, Credential::Sys { uid: 1000, gid: 100, groups: vec![7, 8] });
    assert_eq!((publish.spec.options.uid, publish.spec.options.gid), (1000, 100));
}
