//! What the author of a pod may name, and what he cannot forge.

use proptest::collection::hash_map;
use proptest::prelude::*;

use super::*;

pub(super) const POD: &str = "6f0c7a4e-1111-2222-3333-444455556666";

/// A publish of an inline volume for a pod in `namespace`, as the kubelet asks for it.
pub(super) fn inline(namespace: &str, attributes: &[(&str, &str)]) -> NodePublishVolumeRequest {
    let kubelets = [
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.name", "train-0"),
        ("csi.storage.k8s.io/pod.namespace", namespace),
        ("csi.storage.k8s.io/pod.uid", POD),
        ("csi.storage.k8s.io/serviceAccount.name", "trainer"),
    ];
    NodePublishVolumeRequest {
        target_path: format!("/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/data/mount"),
        ..request(&format!("csi-{}", "0a".repeat(32)), &[attributes, &kubelets].concat())
    }
}

#[tokio::test]
async fn an_inline_volume_names_what_its_namespace_may() {
    let plugin = plugin();
    let at = |path: &str| inline("ml-1", &[("store", "shelf"), ("path", path)]);
    for path in ["teams/ml-1", "teams/ml-1/a b", "sets/imagenet"] {
        let publish = plugin.publish(at(path)).await.unwrap();
        assert_eq!((publish.spec.path.as_str(), publish.namespace.as_deref()), (path, Some("ml-1")));
    }
    let context = |mut request: NodePublishVolumeRequest, word: &str, value: Option<&str>| {
        let word = format!("csi.storage.k8s.io/{word}");
        match value {
            Some(value) => drop(request.volume_context.insert(word, value.into())),
            None => drop(request.volume_context.remove(&word)),
        }
        request
    };
    let mut unknown_pod = at("sets");
    unknown_pod.target_path = "/pod".into();
    for (request, code, why) in [
        (at(""), Code::PermissionDenied, "\"ml-1\" may not name"),
        (at("teams/ml-2"), Code::PermissionDenied, "\"teams/ml-2\""),
        (at("teams"), Code::PermissionDenied, "may not name"),
        (at("teams/ml-1/../ml-2"), Code::InvalidArgument, "'..'"),
        (at("teams/${pod.namespace}"), Code::PermissionDenied, "may not name"),
        (inline("web", &[("store", "shelf"), ("path", "sets")]), Code::PermissionDenied, "\"web\""),
        (inline("ml-1", &[("store", "lake"), ("path", "sets")]), Code::PermissionDenied, "no inline volumes"),
        (inline("ml-1", &[("store", "pond"), ("path", "sets")]), Code::InvalidArgument, "\"pond\""),
        (inline("ml-1", &[("path", "sets")]), Code::InvalidArgument, "names its store"),
        // What the kubelet did not say is forged: another pod's uid, none, or another kind of volume.
        (unknown_pod, Code::FailedPrecondition, "podInfoOnMount"),
        (context(at("sets"), "pod.uid", Some("another")), Code::FailedPrecondition, "podInfoOnMount"),
        (context(at("sets"), "pod.uid", None), Code::FailedPrecondition, "podInfoOnMount"),
        (context(at("sets"), "pod.namespace", Some("../ml-2")), Code::FailedPrecondition, "podInfoOnMount"),
        (
            context(context(at("teams/ml-2"), "ephemeral", Some("false")), "pod.uid", None),
            Code::FailedPrecondition,
            "pod",
        ),
        (context(at("teams/ml-2"), "ephemeral", None), Code::PermissionDenied, "may not name"),
    ] {
        let (got, message) = plugin.refused(request).await;
        assert!(got == code && message.contains(why), "{got:?}: {message}");
    }
}

#[tokio::test]
async fn no_attribute_makes_an_identity() {
    let plugin = plugin();
    for word in
        ["identity", "key_id", "access_key", "user", "credential", "serviceAccount", "csi.storage.k8s.io.pod.uid"]
    {
        let (code, why) = plugin.refused(request("x", &[("store", "lake"), (word, "canary")])).await;
        assert!(code == Code::InvalidArgument && why.contains(word), "{why}");
    }
    // A forged namespace is nobody's.
    let forged =
        [("store", "lake"), ("csi.storage.k8s.io/pod.namespace", "kube-system"), ("csi.storage.k8s.io/pod.uid", POD)];
    assert_eq!(plugin.publish(request("x", &forged)).await.unwrap().namespace, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..Default::default() })]

    /// Whatever an author writes into attributes and whatever the kubelet does not say, an inline volume reaches nothing
    /// but what its own namespace's rules name.
    #[test]
    fn no_forged_word_reaches_another_directory(
        path in "(teams|sets|\\.\\.|\\.millrace|ml-1|ml-2|a|/|\\$\\{pod.namespace\\}){1,3}(/(ml-1|ml-2|\\.\\.|x)){0,2}",
        forged in hash_map(
            "csi\\.storage\\.k8s\\.io/(ephemeral|pod\\.namespace|pod\\.uid|pod\\.name|serviceAccount\\.name|serviceAccount\\.tokens|x)",
            "(true|false|ml-2|ml-1|kube-system|\\*|\\PC{0,8})",
            0..5,
        ),
        vouched in any::<bool>(),
    ) {
        let plugin = plugin();
        let mut request = inline("ml-1", &[("store", "shelf"), ("path", &path)]);
        match vouched {
            // The kubelet overwrites all of its words but those that it does not know.
            true => request.volume_context = forged.into_iter().chain(request.volume_context).collect(),
            // It is not asked to say anything: every word is the author's.
            false => {
                request.volume_context.retain(|word, _| !word.starts_with("csi."));
                request.volume_context.extend(forged);
            }
        }
        match publish::understand(&request, &plugin.node.stores.current()) {
            Ok(publish) => {
                prop_assert!(vouched);
                let below = |dir: &str| publish.spec.path == dir || publish.spec.path.starts_with(&format!("{dir}/"));
                prop_assert!(below("teams/ml-1") || below("sets"), "{}", publish.spec.path);
            }
            Err(status) => prop_assert!(
                [Code::InvalidArgument, Code::PermissionDenied, Code::FailedPrecondition].contains(&status.code()),
                "{status:?}"
            ),
        }
    }
}
