//! A plugin on a real socket, as its callers meet it.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, async_trait};

use super::calls::Subject;
use super::identity::{Health, Identity};
use super::v1::node_client::NodeClient;
use super::v1::*;
use super::{Services, bind, serve, status};
use crate::observability::audit::Audit;

/// A node whose calls do what a test wants.
#[derive(Debug)]
struct Scripted {
    slow_call_done: CancellationToken,
}

#[async_trait]
impl node_server::Node for Scripted {
    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let NodeUnpublishVolumeRequest { volume_id, target_path } = request.get_ref();
        Subject::note(&request, volume_id, target_path);
        match volume_id.as_str() {
            "panic" => panic!("a bug"),
            "slow" => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                self.slow_call_done.cancel();
                Ok(Response::new(NodeUnpublishVolumeResponse {}))
            }
            other => Err(status::not_found(format!("no {other}"))),
        }
    }
}

async fn client(socket: &Path) -> NodeClient<Channel> {
    NodeClient::new(Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().connect().await.unwrap())
}

fn unpublish(volume_id: &str) -> NodeUnpublishVolumeRequest {
    NodeUnpublishVolumeRequest { volume_id: volume_id.into(), target_path: "/pod".into() }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.0.lock().unwrap()).lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_call_is_one_line() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(move || writer.clone()).finish();
    // The runtime of this test has one thread, which the server shares.
    let _here = tracing::subscriber::set_default(subscriber);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("csi.sock");
    let stop = CancellationToken::new();
    let node = Scripted { slow_call_done: CancellationToken::new() };
    let services =
        Services::new(Identity::new("csi.example.org", Arc::new(Health::default())).unwrap()).with_node(node);
    let server = tokio::spawn(serve(bind(&socket).unwrap(), services, stop.clone()));
    let mut client = client(&socket).await;
    client.node_unpublish_volume(unpublish("vol\nume")).await.unwrap_err();
    let staged = NodeStageVolumeRequest { secrets: [("k".into(), "canary".into())].into(), ..Default::default() };
    client.node_stage_volume(staged).await.unwrap_err();
    stop.cancel();
    server.await.unwrap().unwrap();

    let lines = log.lines();
    let [unpublished, staged] = lines.as_slice() else { panic!("{lines:?}") };
    for part in ["NodeUnpublishVolume", r#"volume="vol\nume""#, r#"target="/pod""#, "NotFound", "ms=", "no vol"] {
        assert!(unpublished.contains(part), "{part}: {unpublished}");
    }
    assert!(staged.contains("NodeStageVolume") && staged.contains("Unimplemented"), "{staged}");
    assert!(!lines.concat().contains("canary"));
}

#[tokio::test]
async fn a_call_outlives_its_caller_and_a_panic_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("csi.sock");
    let (stop, slow_call_done) = (CancellationToken::new(), CancellationToken::new());
    let node = Scripted { slow_call_done: slow_call_done.clone() };
    let services =
        Services::new(Identity::new("csi.example.org", Arc::new(Health::default())).unwrap()).with_node(node);
    let server = tokio::spawn(serve(bind(&socket).unwrap(), services, stop.clone()));
    let mut client = client(&socket).await;

    let mut impatient = Request::new(unpublish("slow"));
    impatient.set_timeout(Duration::from_millis(20));
    client.node_unpublish_volume(impatient).await.unwrap_err();
    tokio::time::timeout(Duration::from_secs(10), slow_call_done.cancelled()).await.expect("the call was dropped");

    let answer = client.node_unpublish_volume(unpublish("panic")).await.unwrap_err();
    assert_eq!(answer.code(), Code::Internal);
    let answer = client.node_unpublish_volume(unpublish("x")).await.unwrap_err();
    assert_eq!((answer.code(), answer.message()), (Code::NotFound, "no x"));
    let answer = client.node_stage_volume(NodeStageVolumeRequest::default()).await.unwrap_err();
    assert_eq!(answer.code(), Code::Unimplemented);

    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap().unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn what_was_asked_of_a_volume_stands_in_the_audit_trail() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (dir.path().join("csi.sock"), dir.path().join("audit.log"));
    let stop = CancellationToken::new();
    let audit = Audit::to_log("node", "node-1").to_file(&file).unwrap();
    let node = Scripted { slow_call_done: CancellationToken::new() };
    let services = Services::new(Identity::new("csi.example.org", Arc::new(Health::default())).unwrap())
        .with_node(node)
        .with_audit(audit);
    let server = tokio::spawn(serve(bind(&socket).unwrap(), services, stop.clone()));
    let mut client = client(&socket).await;
    client.node_unpublish_volume(unpublish("slow")).await.unwrap();
    client.node_unpublish_volume(unpublish("x")).await.unwrap_err();
    client.node_unpublish_volume(unpublish("panic")).await.unwrap_err();
    // Refused before any handler sees it.
    let secrets = [("access_key".to_owned(), "canary".to_owned())].into();
    let publish = NodePublishVolumeRequest { volume_id: "v".into(), secrets, ..Default::default() };
    client.node_publish_volume(publish).await.unwrap_err();
    client.node_get_info(NodeGetInfoRequest {}).await.unwrap_err();
    stop.cancel();
    server.await.unwrap().unwrap();

    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(|line| ["event", "volume", "code"].map(|field| line[field].as_str())).collect();
    assert_eq!(
        told,
        [
            [Some("unpublish"), Some("slow"), Some("Ok")],
            [Some("unpublish"), Some("x"), Some("NotFound")],
            [Some("unpublish"), Some("panic"), Some("Internal")],
            [Some("publish"), None, Some("Unimplemented")],
        ]
    );
    assert_eq!((&lines[0]["target"], &lines[1]["reason"]), (&"/pod".into(), &"no x".into()));
    assert!(!text.contains("canary"));
}
