//! Inline ephemeral volumes, which the author of a pod writes: a store's own rules say what may be named. Pure.

use std::collections::HashMap;

use tonic::Status;

use super::super::status;
use super::pod::Pod;
use crate::backend::Path;
use crate::config::quoted;
use crate::config::stores::Store;

/// Whether a volume is inline: the kubelet's word, where the CSIDriver object asks for pod information.
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";

/// Whether the volume is inline. Without a pod that is known to be the kubelet's word, the attributes are perhaps the
/// author's, who may write what he likes into them, but not choose the id: the kubelet makes it (`makeVolumeHandle`).
pub(super) fn is_inline(volume_id: &str, context: &HashMap<String, String>, pod: Option<&Pod>) -> bool {
    match (context.get(EPHEMERAL).map(String::as_str), pod) {
        (Some("true"), _) => true,
        (Some("false"), Some(_)) => false,
        _ => is_kubelets_id(volume_id),
    }
}

/// `csi-` and 64 hexadecimal digits.
fn is_kubelets_id(id: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    id.strip_prefix("csi-").is_some_and(|digest| digest.len() == 64 && digest.bytes().all(hex))
}

/// Lets an inline volume of `pod` name the directory `path` of `store`, or says why not.
///
/// # Errors
/// PERMISSION_DENIED where the store has no inline volumes or none of this namespace there, FAILED_PRECONDITION where
/// nothing is known of the pod.
pub(super) fn allow(store: &Store, path: &Path, pod: Option<&Pod>) -> Result<(), Status> {
    let name = &store.name;
    let Some(rules) = &store.inline else {
        return Err(status::permission_denied(format!(
            "store {name:?} has no inline volumes; use a PersistentVolumeClaim, or have the store's administrator add the \
             word inline to the stores file"
        )));
    };
    let pod = pod.ok_or_else(|| {
        status::failed_precondition(
            "an inline volume is allowed by its pod's namespace, and the kubelet says nothing of the pod: the CSIDriver \
             object needs podInfoOnMount: true",
        )
    })?;
    match rules.allows(&pod.namespace, path) {
        true => Ok(()),
        false => Err(status::permission_denied(format!(
            "pods in namespace {} may not name the directory {} of store {name:?} in an inline volume: its word inline in the \
             stores file says which they may",
            quoted(&pod.namespace),
            quoted(&path.to_string())
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        Pod { namespace: "team-a".into(), uid: "u".into(), name: None, service_account: None }
    }

    #[test]
    fn who_wrote_a_volume_is_told_by_the_kubelet_or_by_the_id() {
        let kubelets = format!("csi-{}", "0123456789abcdef".repeat(4));
        let pod = pod();
        for (id, said, pod, inline) in [
            ("pv-1", None, Some(&pod), false),
            ("pv-1", None, None, false),
            ("pv-1", Some("false"), None, false),
            ("pv-1", Some("true"), Some(&pod), true),
            // Whoever says so himself is believed, since it only takes rights away.
            ("pv-1", Some("true"), None, true),
            (&kubelets, Some("true"), Some(&pod), true),
            (&kubelets, None, None, true),
            (&kubelets, None, Some(&pod), true),
            // Only the kubelet is believed that it is none.
            (&kubelets, Some("false"), None, true),
            (&kubelets, Some("no"), Some(&pod), true),
            (&kubelets, Some("false"), Some(&pod), false),
            (&kubelets.to_uppercase(), None, None, false),
            (&kubelets[1..], None, None, false),
            (&kubelets[..67], None, None, false),
        ] {
            let context = said.map(|said| (EPHEMERAL.to_owned(), said.to_owned())).into_iter().collect();
            assert_eq!(is_inline(id, &context, pod), inline, "{id} {said:?} {pod:?}");
        }
    }
}
