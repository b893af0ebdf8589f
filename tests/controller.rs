//! Controllers as processes, on the embedded S3 server: killed between any two writes, side by side, and their memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "controller/kerberos.rs"]
mod kerberos;
#[path = "controller/killed.rs"]
mod killed;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use millrace::csi::v1::controller_client::ControllerClient;
use millrace::csi::v1::volume_capability::access_mode::Mode;
use millrace::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use millrace::csi::v1::*;
use millrace::sandbox::requirement;
use millrace::sandbox::s3::{Fault, Kind, Options, Rule, Server, User};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const OWN_KEY: &str = "the-controllers-own-secret-key";
/// Long enough for a machine that builds something else meanwhile.
const SOON: Duration = Duration::from_secs(30);

/// A store and a directory for sockets.
struct Rig {
    server: Server,
    dir: tempfile::TempDir,
}

/// A controller; killed when dropped.
struct Process {
    child: Child,
    client: ControllerClient<Channel>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Rig {
    async fn new() -> Rig {
        let users = vec![User::new("controller", OWN_KEY)];
        let options = Options { users, buckets: vec!["data".into()], ..Options::default() };
        let server = Server::start(options).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let stores = format!(
            "stores: [{{name: lake, backend: s3, endpoint: '{}', bucket: data, controllerCredential: key.yaml}}]",
            server.endpoint()
        );
        std::fs::write(dir.path().join("stores.yaml"), stores).unwrap();
        std::fs::write(dir.path().join("key.yaml"), format!("{{key_id: controller, access_key: {OWN_KEY}}}")).unwrap();
        Rig { server, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn start(&self, name: &str) -> Process {
        Process::start(self.dir.path(), name).await
    }
}

fn capability() -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::MultiNodeMultiWriter.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

fn volume(name: &str, secrets: HashMap<String, String>) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(CapacityRange { required_bytes: 1 << 30, limit_bytes: 0 }),
        volume_capabilities: vec![capability()],
        parameters: [("store".to_owned(), "lake".to_owned())].into(),
        secrets,
        ..Default::default()
    }
}

impl Process {
    /// With the stores file in `dir`, on the socket `name` there.
    async fn start(dir: &Path, name: &str) -> Process {
        let socket = dir.join(name);
        let _ = std::fs::remove_file(&socket);
        let mut child = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["controller", "--cluster-id", "one", "--endpoint"])
            .arg(format!("unix://{}", socket.display()))
            .arg("--stores")
            .arg(dir.join("stores.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        let until = Instant::now() + SOON;
        loop {
            if let Ok(channel) = endpoint.connect().await {
                return Process { child, client: ControllerClient::new(channel) };
            }
            assert!(child.try_wait().unwrap().is_none() && Instant::now() < until, "the controller does not serve");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn list(&mut self) -> Vec<Volume> {
        let answer = self.client.list_volumes(ListVolumesRequest::default()).await.unwrap().into_inner();
        answer.entries.into_iter().map(|entry| entry.volume.unwrap()).collect()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_killed_between_any_two_writes_leaves_a_list_that_all_others_agree_on() {
    let mut steps = 0;
    for write in 0.. {
        let rig = Rig::new().await;
        let faults = rig.server.faults();
        // The n-th write is never answered, and never done.
        faults.add(Rule::on(Kind::PutObject, Fault::Silence).skip(write));
        let first = rig.start("first.sock").await;
        let mut client = first.client.clone();
        let mut create = tokio::spawn(async move { client.create_volume(volume("pvc-1", HashMap::new())).await });
        let until = Instant::now() + SOON;
        let made = loop {
            if create.is_finished() {
                break Some((&mut create).await.unwrap().unwrap().into_inner().volume.unwrap());
            }
            if faults.pending() == 0 {
                break None;
            }
            assert!(Instant::now() < until, "write {write} does not come");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        first.kill();
        faults.clear();

        let (mut second, mut third) = tokio::join!(rig.start("second.sock"), rig.start("third.sock"));
        let before = second.list().await;
        assert_eq!(before, third.list().await);
        // Without an answer it may be there already, whole, or not yet.
        assert!(before.len() <= 1 && made.iter().all(|made| before == [made.clone()]), "killed at write {write}");
        let again = second.client.create_volume(volume("pvc-1", HashMap::new())).await.unwrap();
        let again = again.into_inner().volume.unwrap();
        assert!(made.iter().chain(&before).all(|there| *there == again));
        assert_eq!(second.list().await, std::slice::from_ref(&again));
        assert_eq!(third.list().await, [again]);
        steps = write;
        if !before.is_empty() {
            break;
        }
    }
    assert!(steps >= 4, "a record, an owner, a directory and a state are {steps} writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_about_a_long_text_arrives() {
    let rig = Rig::new().await;
    let mut controller = rig.start("one.sock").await;
    for part in ["a ", "\n", "\u{1F30A}", "../"] {
        let text = part.repeat(4096 / part.len());
        let client = &mut controller.client;
        let named = client.create_volume(volume(&text, HashMap::new())).await.unwrap_err();
        let mut request = volume("pvc-1", HashMap::new());
        request.parameters.insert("path".to_owned(), text.clone());
        let placed = client.create_volume(request.clone()).await.unwrap_err();
        request.parameters.insert(text.clone(), "x".to_owned());
        let worded = client.create_volume(request).await.unwrap_err();
        for error in [named, placed, worded] {
            assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
        }
        let get = client.controller_get_volume(ControllerGetVolumeRequest { volume_id: text.clone() });
        assert_eq!(get.await.unwrap_err().code(), Code::NotFound);
        let list = ListVolumesRequest { starting_token: text, ..Default::default() };
        assert_eq!(client.list_volumes(list).await.unwrap_err().code(), Code::Aborted);
    }
}

/// How often any of `needles` stands in the memory of a process.
fn found(pid: u32, needles: &[&[u8]]) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut count = 0;
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let (begin, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (begin, end) = (u64::from_str_radix(begin, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; (end - begin) as usize];
        // Some pages of the kernel's own cannot be read.
        if memory.read_exact_at(&mut bytes, begin).is_err() {
            continue;
        }
        for needle in needles {
            let first = needle[0];
            let mut rest = bytes.as_slice();
            while let Some(at) = rest.iter().position(|byte| *byte == first) {
                count += usize::from(rest[at..].starts_with(needle));
                rest = &rest[at + 1..];
            }
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_a_request_stays_in_the_memory_of_a_controller() {
    let rig = Rig::new().await;
    let mut controller = rig.start("one.sock").await;
    let pid = controller.child.id();
    // A Secret has up to 1 MiB, and one that is long comes in many frames.
    for (round, padding) in [0, 10, 1000, 7000, 9000, 20_000, 300_000].into_iter().enumerate() {
        let secrets: HashMap<String, String> = [
            ("access_key".to_owned(), format!("canary-of-a-user-{}", "x".repeat(padding))),
            ("canary-of-a-word".to_owned(), "short".to_owned()),
        ]
        .into();
        let client = &mut controller.client;
        let made = client.create_volume(volume(&format!("pvc-{round}"), secrets.clone())).await.unwrap();
        let volume_id = made.into_inner().volume.unwrap().volume_id;
        let capacity_range = Some(CapacityRange { required_bytes: 2 << 30, limit_bytes: 0 });
        let expand = ControllerExpandVolumeRequest {
            volume_id: volume_id.clone(),
            capacity_range,
            secrets: secrets.clone(),
            volume_capability: None,
        };
        client.controller_expand_volume(expand).await.unwrap();
        let mutable_parameters = [("ttl".to_owned(), "5s".to_owned())].into();
        let modify = ControllerModifyVolumeRequest {
            volume_id: volume_id.clone(),
            secrets: secrets.clone(),
            mutable_parameters,
        };
        client.controller_modify_volume(modify).await.unwrap();
        let health = ControllerGetVolumeHealthRequest { volume_id: volume_id.clone(), secrets: secrets.clone() };
        client.controller_get_volume_health(health).await.unwrap();
        let list = ControllerListVolumeHealthRequest { secrets: secrets.clone(), ..Default::default() };
        client.controller_list_volume_health(list).await.unwrap();
        let validate = ValidateVolumeCapabilitiesRequest {
            volume_id: volume_id.clone(),
            volume_capabilities: vec![capability()],
            secrets: secrets.clone(),
            ..Default::default()
        };
        client.validate_volume_capabilities(validate).await.unwrap();
        // A call that is refused, and one that does not exist here.
        client.create_volume(volume("", secrets.clone())).await.unwrap_err();
        let snapshot = CreateSnapshotRequest { secrets: secrets.clone(), ..Default::default() };
        client.create_snapshot(snapshot).await.unwrap_err();
        client.delete_volume(DeleteVolumeRequest { volume_id, secrets }).await.unwrap();

        // The connection lives on, and nothing else is asked on it. The last task may be on its way out.
        let until = Instant::now() + SOON;
        loop {
            let left = found(pid, &[b"canary-of-a-user", b"canary-of-a-word"]);
            if left == 0 {
                break;
            }
            assert!(Instant::now() < until, "{left} copies with {padding} bytes of padding");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert!(found(pid, &[OWN_KEY.as_bytes()]) > 0, "the search finds what is there");
    let log = std::fs::read_to_string(rig.path("log")).unwrap();
    assert!(log.contains("CreateVolume") && !log.contains("canary"), "{log}");
}
