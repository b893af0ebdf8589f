//! What the kubelet says of the pod that a volume is published for.

use std::collections::HashMap;
use std::path::Path;

/// A pod, as far as the kubelet vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) name: Option<String>,
    pub(super) service_account: Option<String>,
}

const NAME: &str = "csi.storage.k8s.io/pod.name";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const UID: &str = "csi.storage.k8s.io/pod.uid";

impl Pod {
    /// Reads the kubelet's words in a `volume_context`; `None` where they are not there or not the kubelet's.
    ///
    /// The kubelet overwrites what a volume's own attributes say under these names, but only where the CSIDriver object
    /// asks for pod information. So they count only where the pod's uid is that in the target path, which nobody can
    /// know who writes the attributes: `<root>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount`.
    pub(super) fn of(context: &HashMap<String, String>, target: &Path) -> Option<Pod> {
        let (namespace, uid) = (context.get(NAMESPACE)?, context.get(UID)?);
        (uid_in(target)? == uid && is_label(namespace)).then(|| Pod {
            namespace: namespace.clone(),
            uid: uid.clone(),
            name: context.get(NAME).cloned(),
            service_account: context.get(SERVICE_ACCOUNT).cloned(),
        })
    }
}

/// The uid of the pod whose directory `target` is in, by the kubelet's own layout.
pub(super) fn uid_in(target: &Path) -> Option<&str> {
    parts_of(target).map(|(uid, _)| uid)
}

/// The name of the PersistentVolume that the kubelet publishes at `target`, by its own layout. Of an inline volume it is
/// the pod's own name for it.
pub(super) fn persistent_volume_in(target: &Path) -> Option<&str> {
    let (_, name) = parts_of(target)?;
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    // As Kubernetes names objects (RFC 1123 subdomain).
    (name.len() <= 253 && name.bytes().all(inside)).then_some(name)
}

/// The uid and the volume's name in `<root>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount`.
fn parts_of(target: &Path) -> Option<(&str, &str)> {
    let mut parts = target.iter().rev().map(|part| part.to_str());
    let is_mount = parts.next()? == Some("mount");
    let volume = parts.next()??;
    let inside = is_mount && parts.next()? == Some("kubernetes.io~csi") && parts.next()? == Some("volumes");
    let uid = parts.next()??;
    (inside && parts.next()? == Some("pods")).then_some((uid, volume))
}

/// A name as Kubernetes gives namespaces (RFC 1123 label).
fn is_label(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "6f0c7a4e-1111-2222-3333-444455556666";

    fn of(namespace: &str, uid: &str, target: &str) -> Option<String> {
        let context = [(NAMESPACE.to_owned(), namespace.to_owned()), (UID.to_owned(), uid.to_owned())];
        Pod::of(&HashMap::from(context), Path::new(target)).map(|pod| pod.namespace)
    }

    #[test]
    fn a_pod_is_the_one_whose_directory_the_target_is_in() {
        let target = format!("/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/pv-1/mount");
        assert_eq!(of("team-a", POD, &target).as_deref(), Some("team-a"));
        for (namespace, uid, target) in [
            ("team-a", "6f0c7a4e-1111-2222-3333-444455556667", target.as_str()),
            ("team-a", "", target.as_str()),
            ("", POD, target.as_str()),
            ("team/a", POD, target.as_str()),
            ("Team", POD, target.as_str()),
            (&"a".repeat(64), POD, target.as_str()),
            ("team-a", POD, "/mount"),
            ("team-a", POD, &format!("/pods/{POD}/volumes/kubernetes.io~csi/pv-1")),
            ("team-a", POD, &format!("/other/{POD}/volumes/kubernetes.io~csi/pv-1/mount")),
            ("team-a", POD, &format!("/pods/other/volumes/kubernetes.io~csi/{POD}/mount")),
            ("team-a", "..", "/pods/../volumes/kubernetes.io~csi/pv-1/mount/x"),
        ] {
            assert_eq!(of(namespace, uid, target), None, "{namespace} {uid} {target}");
        }
        assert_eq!(Pod::of(&HashMap::new(), Path::new(&target)), None);
    }

    #[test]
    fn a_target_tells_the_name_of_its_persistent_volume() {
        let at = |name: &str| format!("/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/{name}/mount");
        for (name, expected) in [("pvc-1.a", Some("pvc-1.a")), ("Data", None), ("a b", None), ("a\n", None)] {
            assert_eq!(persistent_volume_in(Path::new(&at(name))), expected);
        }
        assert_eq!(persistent_volume_in(Path::new("/mount")), None);
        assert_eq!(persistent_volume_in(Path::new(&at(&"a".repeat(254)))), None);
    }
}
