//! Whatever anybody sends: no panic, no path outside, the right code.

use proptest::collection::hash_map;
use proptest::prelude::*;

use super::*;
use crate::backend::Path as StorePath;
use crate::csi::v1::volume_capability::MountVolume;

/// Texts that mean something, nearly mean something, climb, are long, or hold what no name does.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec![
            ID, "lake", "open", "pond", "a/b", "", "..", "../..", "/", "/pod", "/pod/../etc", "//pod/", "a/../../b",
            ".millrace", "a/.millrace/volume.json", "lake/../up@abcdefg234", "lake/.millrace@abcdefg234", "0644",
            "1", "1Gi", "true", "/k/pods/uid-1/volumes/kubernetes.io~csi/pv/mount", "uid-1", "team-a", "\u{0}", "a\nb",
        ])
        .prop_map(str::to_owned),
        1 => "[\\x00-\\x1f\\x7f]{1,4}",
        1 => "(\\.\\./){1,8}[a-z]{0,8}",
        1 => "/(\\PC|/){0,24}",
        1 => "\\PC{0,24}",
        1 => Just("x".repeat(4096)),
        1 => Just(format!("/{}", "y/".repeat(2048))),
    ]
}

fn word() -> impl Strategy<Value = String> {
    let known = vec![
        "store",
        "path",
        "format",
        "location",
        "uid",
        "gid",
        "fileMode",
        "dirMode",
        "memory",
        "timeout",
        "ttl",
        "csi.storage.k8s.io/pod.namespace",
        "csi.storage.k8s.io/pod.uid",
        "csi.storage.k8s.io/pod.name",
        "csi.storage.k8s.io/ephemeral",
        "csi.storage.k8s.io/serviceAccount.tokens",
        "key_id",
        "access_key",
    ];
    prop_oneof![6 => prop::sample::select(known).prop_map(str::to_owned), 1 => text()]
}

fn words() -> impl Strategy<Value = HashMap<String, String>> {
    hash_map(word(), text(), 0..5)
}

fn capability() -> impl Strategy<Value = Option<VolumeCapability>> {
    let group = prop_oneof![3 => Just(String::new()), 1 => text()];
    let mount = (group, prop::collection::vec(text(), 0..2)).prop_map(|(volume_mount_group, mount_flags)| {
        AccessType::Mount(MountVolume { volume_mount_group, mount_flags, ..Default::default() })
    });
    let capability = (prop::option::weighted(0.9, mount), -1..9)
        .prop_map(|(access_type, mode)| VolumeCapability { access_mode: Some(AccessMode { mode }), access_type });
    prop::option::weighted(0.9, capability)
}

fn publish() -> impl Strategy<Value = NodePublishVolumeRequest> {
    let plain = (text(), text(), text(), words(), words(), any::<bool>(), capability());
    plain.prop_map(|(volume_id, target_path, staging_target_path, volume_context, secrets, readonly, capability)| {
        NodePublishVolumeRequest {
            volume_id,
            target_path,
            staging_target_path,
            volume_context,
            secrets,
            readonly,
            volume_capability: capability,
            ..Default::default()
        }
    })
}

/// A request that is right but for one thing, which is anything.
fn nearly() -> impl Strategy<Value = NodePublishVolumeRequest> {
    (publish(), 0..6).prop_map(|(garbage, field)| {
        let mut request = request(ID, &[]);
        match field {
            0 => request.volume_id = garbage.volume_id,
            1 => request.target_path = garbage.target_path,
            2 => request.volume_context = garbage.volume_context,
            3 => request.secrets = garbage.secrets,
            4 => request.volume_capability = garbage.volume_capability,
            _ => (request.volume_id, request.volume_context) = ("static".into(), garbage.volume_context),
        }
        request
    })
}

fn run<T>(call: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(call)
}

fn is_inside(target: &Path) -> bool {
    target.is_absolute() && !target.components().any(|part| part == Component::ParentDir)
}

proptest! {
    #[test]
    fn a_publish_is_refused_or_stays_inside(request in prop_oneof![publish(), nearly()]) {
        let plugin = plugin();
        let asked = request.clone();
        match run(plugin.publish(request)) {
            Err(status) => {
                let right = [Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition, Code::PermissionDenied];
                prop_assert!(right.contains(&status.code()), "{status:?}");
                prop_assert!(!status.message().is_empty() && status.message().len() < 16 << 10);
            }
            Ok(publish) => {
                prop_assert!(is_inside(&publish.target), "{:?}", publish.target);
                let path = StorePath::parse(&publish.spec.path).unwrap();
                let odd = |name: crate::backend::Name| [".", "..", ".millrace"].contains(&name.as_str().unwrap_or(".."));
                prop_assert!(!path.names().any(odd), "{path:?}");
                prop_assert!(["lake", "open"].contains(&publish.spec.store.as_str()));
                prop_assert!(publish.spec.options.memory <= 1 << 30);
                let uid = asked.volume_context.get("csi.storage.k8s.io/pod.uid");
                let vouched = uid.is_some_and(|uid| publish.target.iter().any(|part| part == uid.as_str()));
                prop_assert!(vouched || publish.namespace.is_none(), "{:?}", publish.namespace);
            }
        }
    }

    #[test]
    fn the_other_calls_answer_with_the_right_code(id in text(), path in text()) {
        let plugin = plugin();
        let node = &plugin.node;
        let code = |outcome: Result<(), Status>| outcome.map_or_else(|status| status.code(), |()| Code::Ok);
        let (volume_id, target_path) = (id.clone(), path.clone());
        let unpublish = NodeUnpublishVolumeRequest { volume_id, target_path };
        let unpublished = code(run(node.node_unpublish_volume(Request::new(unpublish))).map(drop));
        let at = Path::new(&path);
        let fits = path.len() < 4096 && at.iter().all(|name| name.len() < 256) && at.file_name().is_some();
        let means = !id.is_empty() && is_inside(at) && fits && !path.contains('\0');
        prop_assert_eq!(unpublished, if means { Code::Ok } else { Code::InvalidArgument });

        let (volume_id, volume_path) = (id.clone(), path.clone());
        let stats = NodeGetVolumeStatsRequest { volume_id, volume_path, ..Default::default() };
        let (volume_id, volume_path) = (id.clone(), path.clone());
        let expand = NodeExpandVolumeRequest { volume_id, volume_path, ..Default::default() };
        let (volume_id, volume_publish_path) = (id.clone(), path.clone());
        let health = NodeGetVolumeHealthRequest { volume_id, volume_publish_path, ..Default::default() };
        for (what, got) in [
            ("stats", code(run(node.node_get_volume_stats(Request::new(stats))).map(drop))),
            ("expand", code(run(node.node_expand_volume(Request::new(expand))).map(drop))),
            ("health", code(run(node.node_get_volume_health(Request::new(health))).map(drop))),
        ] {
            let expected = match () {
                () if id.is_empty() || (path.is_empty() && what != "health") => Code::InvalidArgument,
                () if path.is_empty() => Code::Ok,
                () if means && Path::new(&path).components().eq(Path::new("/pod").components()) => Code::Ok,
                () => Code::NotFound,
            };
            prop_assert_eq!(got, expected, "{}", what);
        }
    }
}
