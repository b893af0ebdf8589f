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
  - name: vault
    backend: hdfs
    nameNodes: ['nn2.example:8020']
    webHdfs: ['http://nn2.example:9870']
    authentication: kerberos
    realm: REALM
    kdcs: ['kdc.example:88']
    identities: [{namespace: team-a, users: [{name: alice, uid: 1000, gid: 100}]}]
  - name: open-vault
    backend: hdfs
    nameNodes: ['nn3.example:8020']
    webHdfs: ['http://nn3.example:9870']
    authentication: kerberos
    realm: REALM
    kdcs: ['kdc.example:88']
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

/// base64 text of a keytab with a key of `principal` of a realm REALM.
fn keytab(principal: &str) -> String {
    let counted = |text: &[u8]| [&(text.len() as u16).to_be_bytes(), text].concat();
    let mut entry = vec![0, 1];
    [&b"REALM"[..], principal.as_bytes()].iter().for_each(|text| entry.extend(counted(text)));
    entry.extend([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 17]);
    entry.extend(counted(b"canary-key-bytes"));
    let size = (entry.len() as u32).to_be_bytes();
    data_encoding::BASE64.encode(&[&[5, 2][..], &size, &entry].concat())
}

#[tokio::test]
async fn a_store_with_kerberos_takes_a_principal_with_its_keytab_and_no_claim() {
    let plugin = plugin_of(STORES);
    let (alice, bob) = (keytab("alice"), keytab("bob"));
    let (vault, open) = (&[("store", "vault")], &[("store", "open-vault")]);
    for (attributes, principal, keytab, uid) in [
        (vault, "alice", &alice, 1000),
        (vault, "alice@REALM", &alice, 1000),
        (open, "bob", &bob, crate::backend::hdfs::NOBODY),
    ] {
        let request = of("team-a", attributes, &[("principal", principal), ("keytab", keytab)]);
        let publish = plugin.publish(request).await.unwrap();
        let Credential::Kerberos { principal: proved, .. } = &publish.credential else { panic!("{publish:?}") };
        assert_eq!((proved.split('@').next(), publish.spec.options.uid), (principal.split('@').next(), uid));
        assert!(!format!("{publish:?}").contains(keytab.as_str()));
    }
    let named: &[(&str, &str)] = &[("store", "vault"), ("user", "alice")];
    let proved: &[(&str, &str)] = &[("principal", "alice"), ("keytab", &alice)];
    let both: &[(&str, &str)] = &[("principal", "alice"), ("keytab", &alice), ("user", "alice")];
    for (request, code, why) in [
        (of("team-a", vault, &[]), Code::InvalidArgument, "neither principal nor keytab"),
        (of("team-a", vault, &[("user", "alice")]), Code::InvalidArgument, "take user out"),
        (of("team-a", vault, &[("principal", "alice")]), Code::InvalidArgument, "no keytab"),
        (of("team-a", vault, &[("keytab", &alice)]), Code::InvalidArgument, "no principal"),
        (of("team-a", vault, &[("principal", "alice"), ("keytab", &bob)]), Code::InvalidArgument, "no key of its"),
        (of("team-a", vault, both), Code::InvalidArgument, "take user out"),
        (of("team-a", named, proved), Code::InvalidArgument, "leave user out"),
        (of("team-a", vault, &[("principal", "bob"), ("keytab", &bob)]), Code::PermissionDenied, "may not act"),
        (of("team-b", vault, proved), Code::PermissionDenied, "\"team-b\""),
        (of("team-a", LAKE, proved), Code::InvalidArgument, "authentication: simple"),
    ] {
        let (got, message) = plugin.refused(request).await;
        assert!(got == code && message.contains(why), "{got:?}: {message}");
        assert!(!message.contains(&alice) && !message.contains(&bob), "{message}");
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
