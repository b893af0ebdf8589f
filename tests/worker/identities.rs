//! Many identities on one node, kept apart by the policies of a real S3 server: each reads what is its own, and nothing
//! that is the node's holds another's secret.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt;

use aho_corasick::AhoCorasick;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use millrace::csi::v1::node_client::NodeClient;
use millrace::csi::v1::volume_capability::access_mode::Mode;
use millrace::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use millrace::csi::v1::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use millrace::sandbox::versitygw::{ROOT, Versitygw};
use tonic::transport::{Channel, Endpoint};

use super::*;

/// How many at once; `make faults` asks for more.
const COUNT: &str = "MILLRACE_TEST_IDENTITIES";
/// How many read at the same time.
const AT_ONCE: usize = 8;

#[derive(Debug)]
struct User {
    key_id: String,
    secret: String,
    /// What lies in its file, and nowhere else.
    canary: String,
}

/// `millrace node`; ended when dropped.
pub(super) struct Node {
    pub(super) child: Child,
    pub(super) dir: PathBuf,
    client: NodeClient<Channel>,
}

impl Node {
    pub(super) async fn start(dir: &Path, stores: &str) -> Node {
        fs::write(dir.join("stores.yaml"), stores).unwrap();
        fs::create_dir(dir.join("targets")).unwrap();
        let socket = format!("unix://{}", dir.join("csi.sock").display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["node", "--node-id", "here", "--log-level", "debug", "--worker-uid-base"])
            .arg(uids_of(&dir.join("state")).to_string())
            .args(["--endpoint", &socket, "--ping-deadline", "60s"])
            .args(["--stores".as_ref(), dir.join("stores.yaml").as_os_str()])
            .args(["--state-dir".as_ref(), dir.join("state").as_os_str()])
            .args(["--audit-log".as_ref(), dir.join("audit").as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap();
        let endpoint = Endpoint::from_shared(socket).unwrap();
        let until = Instant::now() + SOON;
        loop {
            if let Ok(channel) = endpoint.connect().await {
                return Node { child, dir: dir.to_owned(), client: NodeClient::new(channel) };
            }
            assert!(child.try_wait().unwrap().is_none() && Instant::now() < until, "the node plugin does not serve");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) fn target(&self, number: usize) -> PathBuf {
        self.dir.join("targets").join(number.to_string())
    }

    /// All show the same directory of the same volume.
    async fn publish(&self, number: usize, user: &User) -> Result<(), tonic::Status> {
        let attributes = [("store", "lake"), ("path", "all"), ("memory", "32Mi")];
        self.publish_with(number, &attributes, &[("key_id", &user.key_id), ("access_key", &user.secret)]).await
    }

    /// Publishes with these attributes of the volume and this Secret.
    pub(super) async fn publish_with(
        &self,
        number: usize,
        attributes: &[(&str, &str)],
        secret: &[(&str, &str)],
    ) -> Result<(), tonic::Status> {
        let capability = VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::MultiNodeMultiWriter.into() }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        };
        let words = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let request = NodePublishVolumeRequest {
            volume_id: "everybodys".into(),
            target_path: self.target(number).display().to_string(),
            volume_capability: Some(capability),
            volume_context: words(attributes),
            secrets: words(secret),
            ..Default::default()
        };
        self.client.clone().node_publish_volume(request).await.map(drop)
    }

    pub(super) async fn unpublish(&self, number: usize) -> Result<(), tonic::Status> {
        let target_path = self.target(number).display().to_string();
        let request = NodeUnpublishVolumeRequest { volume_id: "everybodys".into(), target_path };
        self.client.clone().node_unpublish_volume(request).await.map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in workers_of(&self.dir.join("state")) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
        for point in points.filter(|point| point.starts_with(&self.dir)) {
            let _ = nix::mount::umount2(point, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        }
        memory::remove_cgroups(&self.dir.join("state"));
    }
}

async fn users(server: &Versitygw, count: usize) -> Vec<User> {
    server.create_bucket("data").await.unwrap();
    let root = server.client("data", ROOT).unwrap();
    let mut users = Vec::new();
    for number in 0..count {
        let canary = format!("canary-{number}-{}", HEXLOWER.encode(&rand::random::<[u8; 16]>()));
        root.put(&format!("all/file-{number}"), Bytes::from(canary.clone())).await.unwrap();
        let policy = format!(
            r#"{{"Version": "2012-10-17", "Statement": [
            {{"Effect": "Allow", "Resource": ["arn:aws:s3:::data/all/file-{number}"], "Action": ["s3:GetObject"]}},
            {{"Effect": "Allow", "Resource": ["arn:aws:s3:::data"], "Action": ["s3:ListBucket"],
              "Condition": {{"StringLike": {{"s3:prefix": ["all/*"]}}}}}}]}}"#
        );
        let (key_id, secret) = server.user(&format!("user-{number}"), &policy).await.unwrap();
        users.push(User { key_id, secret, canary });
    }
    users
}

/// Which of the patterns are in a process's memory.
pub(super) fn in_memory(pid: Pid, patterns: &AhoCorasick) -> Vec<usize> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let (begin, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (begin, end) = (u64::from_str_radix(begin, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; (end - begin) as usize];
        // Some pages of the kernel's own cannot be read.
        if memory.read_exact_at(&mut bytes, begin).is_ok() {
            found.extend(patterns.find_overlapping_iter(&bytes).map(|found| found.pattern().as_usize()));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn descriptors(pid: Pid) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_at_once_see_and_hold_only_their_own() {
    if !requirement::met(&[Requirement::Root, Requirement::Fuse]) {
        return;
    }
    let Some(server) = Versitygw::start().await.unwrap() else { return };
    let count = requirement::size(COUNT, 10);
    let users = users(&server, count).await;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let endpoint = server.endpoint();
    let stores = format!("stores: [{{name: lake, backend: s3, endpoint: '{endpoint}', bucket: data}}]");
    let node = Node::start(&dir, &stores).await;

    let publishes = users.iter().enumerate().map(|(number, user)| node.publish(number, user));
    for (number, outcome) in futures::future::join_all(publishes).await.into_iter().enumerate() {
        outcome.unwrap_or_else(|error| panic!("publish {number}: {error}"));
    }
    let wrong =
        User { secret: format!("{}x", users[0].secret), key_id: users[0].key_id.clone(), canary: String::new() };
    let refused = node.publish(count, &wrong).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");

    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            for first in 0..AT_ONCE {
                let (node, users) = (&node, &users);
                scope.spawn(move || {
                    for number in (first..count).step_by(AT_ONCE) {
                        sees_its_own(node, users, number);
                    }
                });
            }
        });
        search(&node, &users, &refused.to_string());
    });

    let unpublishes = (0..count).map(|number| node.unpublish(number));
    for outcome in futures::future::join_all(unpublishes).await {
        outcome.unwrap();
    }
    tokio::task::block_in_place(|| {
        eventually("no worker is left", || workers_of(&dir.join("state")).is_empty());
        assert_eq!(memory::cgroups_of(&dir.join("state")), Vec::<PathBuf>::new());
        for left in ["targets", "state/mounts", "state/targets"] {
            assert_eq!(fs::read_dir(dir.join(left)).unwrap().count(), 0, "{left}");
        }
    });
}

/// Reads its own file, and tries everybody else's.
fn sees_its_own(node: &Node, users: &[User], number: usize) {
    let file = |of: usize| node.target(number).join(format!("file-{of}"));
    assert_eq!(fs::read_to_string(file(number)).unwrap(), users[number].canary);
    // Names are for all to see.
    assert_eq!(fs::read_dir(node.target(number)).unwrap().count(), users.len());
    for other in (0..users.len()).filter(|other| *other != number) {
        assert_eq!(errno(fs::read(file(other))), Errno::EACCES, "{number} at {other}");
    }
}

/// Looks for everybody's secret in everything that is the node's.
fn search(node: &Node, users: &[User], message: &str) {
    let secrets = AhoCorasick::new(users.iter().map(|user| &user.secret)).unwrap();
    let canaries = AhoCorasick::new(users.iter().map(|user| &user.canary)).unwrap();
    let mut workers = HashMap::new();
    for entry in fs::read_dir(node.dir.join("state/mounts")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let record: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            workers.insert(Pid::from_raw(record["worker"]["pid"].as_i64().unwrap() as i32), record["uid"].clone());
        }
    }
    assert_eq!(workers.len(), users.len());
    let mut owners = Vec::new();
    let mut sockets = Vec::new();
    for pid in workers.keys() {
        let held = in_memory(*pid, &secrets);
        assert_eq!(held.len(), 1, "worker {pid} holds the secrets of {held:?}");
        let read = in_memory(*pid, &canaries);
        assert!(read.iter().all(|canary| *canary == held[0]), "worker {pid} of {held:?} has what {read:?} may read");
        owners.push(held[0]);
        for file in ["environ", "cmdline", "status", "maps"] {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!secrets.is_match(&text), "{file} of {pid}");
        }
        let open = descriptors(*pid);
        assert!(!open.iter().any(|path| path.starts_with(&node.dir) && !path.ends_with("log")), "{open:?}");
        let own: HashSet<_> = open.into_iter().filter(|path| path.to_string_lossy().starts_with("socket:")).collect();
        sockets.extend(own);
    }
    owners.sort_unstable();
    assert!(owners.iter().copied().eq(0..users.len()), "{owners:?}");
    let all = sockets.len();
    sockets.sort_unstable();
    sockets.dedup();
    assert_eq!(sockets.len(), all, "two workers have one socket");

    let plugin = Pid::from_raw(node.child.id() as i32);
    eventually("the node plugin has forgotten every secret", || in_memory(plugin, &secrets).is_empty());
    assert!(!secrets.is_match(message), "{message}");
    let logs = ["log", "audit", "stores.yaml"].map(|name| node.dir.join(name));
    for path in walk(&node.dir.join("state")).into_iter().chain(logs) {
        assert!(!secrets.is_match(&fs::read(&path).unwrap()), "{}", path.display());
    }
    let log = fs::read_to_string(node.dir.join("log")).unwrap();
    assert!(log.contains("published"), "{log}");
}
