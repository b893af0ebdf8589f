//! What the audit trail tells of a node's calls, read from the file that a real server wrote.

use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::inline::{POD, inline};
use super::*;
use crate::csi::identity::Identity;
use crate::csi::v1::node_client::NodeClient;
use crate::csi::{Services, bind, serve};
use crate::observability::audit::Audit;

#[tokio::test]
async fn the_audit_trail_tells_who_and_no_secret() {
    let plugin = plugin();
    let node = Node::new("node-1", here("zone", "a"), plugin.node.stores.clone(), Arc::clone(&plugin.node.mounter));
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (dir.path().join("csi.sock"), dir.path().join("audit.log"));
    let audit = Audit::to_log("node", "node-1").to_file(&file).unwrap();
    let identity = Identity::new("csi.example.org", Arc::default()).unwrap();
    let services = Services::new(identity).with_node(node.unwrap()).with_audit(audit);
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(bind(&socket).unwrap(), services, stop.clone()));
    let channel = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    let mut client = NodeClient::new(channel.connect().await.unwrap());

    const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
    let secret = map(&[("key_id", "canary-id"), ("access_key", "canary-key"), ("session_token", "canary-token")]);
    let pod = inline("ml-1", &[("store", "lake"), ("path", "sets"), (TOKENS, "canary-tokens")]);
    let pod = NodePublishVolumeRequest { volume_id: "pv-1".into(), secrets: secret.clone(), ..pod };
    let ours = [("csi.storage.k8s.io/ephemeral".to_owned(), "false".to_owned())];
    let volume_context = pod.volume_context.clone().into_iter().chain(ours).collect();
    let accepted = NodePublishVolumeRequest { volume_context, ..pod.clone() };
    client.node_publish_volume(accepted.clone()).await.unwrap();
    client.node_publish_volume(accepted.clone()).await.unwrap();
    let secrets = map(&[("key_id", "canary-other"), ("access_key", "canary-key")]);
    client.node_publish_volume(NodePublishVolumeRequest { secrets, ..accepted.clone() }).await.unwrap();
    client.node_publish_volume(pod.clone()).await.unwrap_err();
    let double = secret.into_iter().chain(map(&[("accesskey", "canary-2"), ("secretkey", "canary-3")])).collect();
    client.node_publish_volume(NodePublishVolumeRequest { secrets: double, ..accepted.clone() }).await.unwrap_err();
    let made = request(ID, &[("uid", "canary-is-no-number")]);
    let message = client.node_publish_volume(made).await.unwrap_err();
    assert!(message.message().contains("uid"));
    *plugin.mounter.answer.lock().unwrap() =
        Err(Error::Store { kind: ErrorKind::Unauthenticated, message: "the store knows no such key".into() });
    client.node_publish_volume(accepted.clone()).await.unwrap_err();
    *plugin.mounter.answer.lock().unwrap() =
        Err(Error::ChangeRefused { kind: ErrorKind::Denied, message: "the store refuses the new key".into() });
    client.node_publish_volume(accepted.clone()).await.unwrap_err();
    *plugin.mounter.answer.lock().unwrap() = Ok(());
    let NodePublishVolumeRequest { volume_id, target_path, .. } = accepted;
    client.node_unpublish_volume(NodeUnpublishVolumeRequest { volume_id, target_path }).await.unwrap();
    stop.cancel();
    server.await.unwrap().unwrap();

    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let codes: Vec<_> = lines.iter().map(|line| line["code"].as_str().unwrap()).collect();
    let refused = ["PermissionDenied", "InvalidArgument", "InvalidArgument", "Unauthenticated", "PermissionDenied"];
    assert_eq!(codes, ["Ok", "Ok"].iter().chain(&refused).chain(&["Ok"]).copied().collect::<Vec<_>>());
    // The publish that only came again has no line; the one that brought another identity tells it.
    let events: Vec<_> = lines[..3].iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["publish", "credential-change", "publish"]);
    assert_ne!(lines[0]["identity"], lines[1]["identity"]);
    let who = ["namespace", "pod", "podUid", "serviceAccount", "store", "path"].map(|field| lines[0][field].as_str());
    assert_eq!(who, ["ml-1", "train-0", POD, "trainer", "lake", "sets"].map(Some));
    assert_eq!((lines[0]["identity"].as_str().unwrap().len(), &lines[0]["readOnly"]), (16, &false.into()));
    assert_eq!(lines[5]["identity"], lines[0]["identity"]);
    assert!(lines[5]["reason"].as_str().unwrap().contains("the store knows no such key"));
    assert_eq!((&lines[4]["store"], &lines[4]["path"]), (&"lake".into(), &"team-a/pvc-1".into()));
    assert_eq!((&lines[5]["event"], &lines[6]["event"]), (&"publish".into(), &"credential-change".into()));
    assert_eq!((&lines[7]["event"], &lines[7]["podUid"]), (&"unpublish".into(), &POD.into()));
    // The one who left is the one who came.
    for field in ["namespace", "pod", "podUid", "serviceAccount", "store", "path", "identity", "readOnly", "volume"] {
        assert!(!lines[7][field].is_null() && lines[7][field] == lines[0][field], "{field}: {}", lines[7][field]);
    }
    for (line, name) in lines.iter().flat_map(|line| line.as_object().unwrap().keys().map(move |name| (line, name))) {
        assert!(!line[name].to_string().contains("canary"), "{name}: {}", line[name]);
    }
}
