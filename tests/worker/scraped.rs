//! What an operator sees of a node: a real node plugin, asked as Prometheus and the kubelet ask it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use millrace::csi::v1::node_client::NodeClient;
use millrace::csi::v1::volume_capability::access_mode::Mode;
use millrace::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use millrace::csi::v1::{
    NodeExpandVolumeRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
};
use millrace::sandbox::kubernetes;
use tonic::transport::{Channel, Endpoint};

use super::*;

const MADE: &str = "lake/data@abcdefghij";
const POD: &str = "6f0c7a4e-1111-2222-3333-444455556666";

/// A node plugin as a process of its own; it is killed, and its mounts go, when the rig does.
pub(super) struct Plugin {
    child: Child,
    client: NodeClient<Channel>,
    address: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Rig {
    /// A stores file of the rig's store, which has these words more.
    fn stores(&self, more: &str) -> String {
        let endpoint = self.server.endpoint();
        format!("stores: [{{name: lake, backend: s3, endpoint: '{endpoint}', bucket: bucket, zone: b{more}}}]")
    }

    fn volume_file(&self, limit: u64, memory: &str) {
        let text =
            format!(r#"{{"format":1,"generation":"abcdefghij","limit":{limit},"parameters":{{"memory":"{memory}"}}}}"#);
        self.server.put("bucket", "data/.millrace/volume.json", text);
    }

    /// Starts a node plugin that knows the rig's store, with `words` more.
    fn plugin(&self, words: &[&str]) -> Plugin {
        self.plugin_of(&self.stores(""), words)
    }

    /// Starts a node plugin with this stores file, with `words` more.
    pub(super) fn plugin_of(&self, stores: &str, words: &[&str]) -> Plugin {
        fs::write(self.dir.join("stores.yaml"), stores).unwrap();
        let socket = format!("unix://{}", self.dir.join("csi.sock").display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["node", "--node-id", "node-1", "--topology", "zone=a", "--metrics-address", "127.0.0.1:0"])
            .args(["--worker-uid-count", "1000", "--endpoint", &socket, "--stores"])
            .arg(self.dir.join("stores.yaml"))
            .arg("--state-dir")
            .arg(self.state())
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line)));
        let mut address = None;
        eventually("the node plugin shows its metrics", || {
            let log = log.lock().unwrap();
            let shown = log.iter().find(|line| line.contains("shows /metrics"));
            let port = shown.and_then(|line| line.split_once("127.0.0.1:")).map(|(_, rest)| rest);
            address =
                port.map(|rest| format!("127.0.0.1:{}", rest.split(|c: char| !c.is_ascii_digit()).next().unwrap()));
            address.is_some()
        });
        let endpoint = Endpoint::from_shared(socket).unwrap();
        let mut channel = None;
        eventually("the node plugin serves", || {
            channel = self.runtime.block_on(endpoint.connect()).ok();
            channel.is_some()
        });
        Plugin { child, client: NodeClient::new(channel.unwrap()), address: address.unwrap(), log }
    }

    /// Where the kubelet would publish the PersistentVolume called `name` for the pod.
    fn published_at(&self, name: &str) -> PathBuf {
        self.dir.join(format!("targets/pods/{POD}/volumes/kubernetes.io~csi/{name}/mount"))
    }

    fn publish_made(&self, plugin: &Plugin, name: &str) {
        self.publish_to_pod(plugin, MADE, name, &[]);
    }

    /// Publishes the volume `id`, whose PersistentVolume is called `name`, for the pod.
    fn publish_to_pod(&self, plugin: &Plugin, id: &str, name: &str, attributes: &[(&str, &str)]) {
        let target = self.published_at(name);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let pod = [
            ("csi.storage.k8s.io/pod.name", "train-0"),
            ("csi.storage.k8s.io/pod.namespace", "team-a"),
            ("csi.storage.k8s.io/pod.uid", POD),
        ];
        let words = [&pod[..], attributes].concat();
        let request = NodePublishVolumeRequest { volume_id: id.into(), ..static_volume(&target, &words, KEY, SECRET) };
        self.runtime.block_on(plugin.node().node_publish_volume(request)).unwrap();
    }

    /// Has the worker read the volume's own file. False where it may not.
    fn expand_made(&self, plugin: &Plugin, name: &str) -> bool {
        let volume_path = self.published_at(name).to_str().unwrap().to_owned();
        let request = NodeExpandVolumeRequest { volume_id: MADE.into(), volume_path, ..Default::default() };
        self.runtime.block_on(plugin.node().node_expand_volume(request)).is_ok()
    }

    fn unpublish_made(&self, plugin: &Plugin, name: &str) {
        self.unpublish_from_pod(plugin, MADE, name);
    }

    fn unpublish_from_pod(&self, plugin: &Plugin, id: &str, name: &str) {
        let target_path = self.published_at(name).to_str().unwrap().to_owned();
        let request = NodeUnpublishVolumeRequest { volume_id: id.into(), target_path };
        self.runtime.block_on(plugin.node().node_unpublish_volume(request)).unwrap();
    }
}

impl Plugin {
    /// A client of its Node service.
    pub(super) fn node(&self) -> NodeClient<Channel> {
        self.client.clone()
    }

    /// Status line and body.
    fn get(&self, path: &str) -> (String, String) {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// Every line of a scrape: series and value. Waits out the second for which a scrape is kept.
    fn scrape(&self) -> BTreeMap<String, f64> {
        std::thread::sleep(Duration::from_millis(1100));
        let (status, text) = self.get("/metrics");
        assert!(status.contains("200"), "{status}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| line.rsplit_once(' ').unwrap());
        series.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
    }
}

/// A Kubernetes API with a service account, in the rig's directory.
struct Cluster {
    server: kubernetes::Server,
    account: String,
}

impl Cluster {
    fn of(rig: &Rig) -> Cluster {
        let server = rig.runtime.block_on(kubernetes::Server::start("token", Default::default())).unwrap();
        let account = rig.dir.join("account");
        fs::create_dir(&account).unwrap();
        server.write_account(&account).unwrap();
        Cluster { server, account: account.to_str().unwrap().into() }
    }

    fn words(&self) -> [&str; 5] {
        ["--pod-events", "--kubernetes-api", self.server.url(), "--service-account", &self.account]
    }

    /// The Events so far, as reason, message and the pod's uid.
    fn events(&self) -> Vec<[String; 3]> {
        let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let told = |event: &serde_json::Value| {
            [&event["reason"], &event["message"], &event["involvedObject"]["uid"]].map(word)
        };
        self.server.events().iter().map(told).collect()
    }
}

/// Runs the binary with words for a person.
fn millrace(words: &[&str]) -> (bool, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_millrace")).args(words).output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8(text).unwrap())
}

/// The sum of a metric's series; `None` where it has none.
fn sum(scrape: &BTreeMap<String, f64>, metric: &str) -> Option<f64> {
    let of = |series: &str| {
        let name = series.split('{').next().unwrap();
        name == metric || name.strip_prefix(metric) == Some("_count")
    };
    let mut values = scrape.iter().filter(|(series, _)| of(series)).map(|(_, value)| *value).peekable();
    values.peek()?;
    Some(values.sum())
}

/// The names in the table of docs/metrics.md.
fn documented() -> Vec<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let names: Vec<_> = rows.map(str::to_owned).collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

fn assert_move<'a>(scrapes: &[BTreeMap<String, f64>], names: impl Iterator<Item = &'a String>) {
    for name in names {
        let values: BTreeSet<String> = scrapes.iter().map(|scrape| format!("{:?}", sum(scrape, name))).collect();
        assert!(values.len() > 1, "{name} is always {values:?}");
    }
}

#[test]
fn every_documented_metric_moves_in_a_real_mount() {
    let Some(rig) = Rig::new() else { return };
    rig.volume_file(64 << 20, "64Mi");
    rig.server.put("bucket", "data/large", vec![7; 16 << 20]);
    let cluster = Cluster::of(&rig);
    let audit = rig.dir.join("audit");
    let plugin = rig.plugin(&[&cluster.words()[..], &["--audit-log", audit.to_str().unwrap()]].concat());
    // Nothing can be appended to a directory.
    fs::remove_file(&audit).unwrap();
    fs::create_dir(&audit).unwrap();
    let mut scrapes = vec![plugin.scrape()];
    rig.publish_made(&plugin, "pv-1");
    let at = rig.published_at("pv-1");
    scrapes.push(plugin.scrape());

    fs::write(at.join("new"), vec![1; 1 << 20]).unwrap();
    let mut large = fs::File::open(at.join("large")).unwrap();
    let mut first = vec![0; 3 << 20];
    large.read_exact(&mut first).unwrap();
    scrapes.push(plugin.scrape());
    drop(large);
    fs::read(at.join("hello")).unwrap();
    assert!(fs::read(at.join("absent")).is_err());
    scrapes.push(plugin.scrape());

    rig.publish_made(&plugin, "pv-1-again");
    rig.volume_file(128 << 20, "96Mi");
    assert!(rig.expand_made(&plugin, "pv-1"));
    fs::write(rig.dir.join("stores.yaml"), rig.stores(", nonsense: 1")).unwrap();
    scrapes.push(plugin.scrape());

    kill(rig.worker(), Signal::SIGKILL).unwrap();
    eventually("its mount is gone", || fs::read_dir(&at).is_err());
    rig.publish_made(&plugin, "pv-1");
    rig.publish_made(&plugin, "pv-1-again");
    fs::read(at.join("hello")).unwrap();
    scrapes.push(plugin.scrape());
    eventually("the stores file is refused and an Event made", || {
        scrapes.push(plugin.scrape());
        let last = scrapes.last().unwrap();
        sum(last, "millrace_stores_file_refused") == Some(1.0) && sum(last, "millrace_events_total") == Some(1.0)
    });

    // Those of the disk cache move in the test below: here there is none.
    let of_cache = |name: &str| name.starts_with("millrace_cache_");
    assert_move(&scrapes, documented().iter().filter(|name| !of_cache(name)));

    let last = scrapes.last().unwrap();
    let of_volume: Vec<_> = last.keys().filter(|series| series.contains("persistentvolume=")).collect();
    let known = r#"namespace="team-a",persistentvolume="pv-1",store="lake""#;
    assert!(of_volume.iter().all(|series| series.contains(known)), "{of_volume:?}");
    let crossed = format!("millrace_store_crossed_bytes_total{{{known},zone=\"a\"}}");
    assert!(last[&crossed] > 3e6, "{crossed}");
    let text = plugin.get("/metrics").1;
    for never in [MADE, "hello", "large", KEY, SECRET, POD, "train-0"] {
        assert!(!text.contains(never), "{never}\n{text}");
    }

    for name in ["pv-1", "pv-1-again"] {
        rig.unpublish_made(&plugin, name);
    }
    let after = plugin.scrape();
    assert!(!after.keys().any(|series| series.contains("persistentvolume=")), "{after:?}");
    assert_eq!(sum(&after, "millrace_mounts"), Some(0.0));
    assert_eq!(sum(&after, "millrace_worker_deaths_total"), Some(1.0));
    assert!(plugin.log.lock().unwrap().iter().any(|line| line.contains("is gone")));
}

#[test]
fn every_metric_of_the_disk_cache_moves_in_a_real_mount() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.cache()).unwrap();
    nix::mount::mount(Some("small"), &rig.cache(), Some("tmpfs"), MsFlags::empty(), Some("size=6m")).unwrap();
    let plugin = rig.plugin(&["--cache-dir", rig.cache().to_str().unwrap()]);
    let mut scrapes = vec![plugin.scrape()];
    let names: Vec<_> = (0..8).map(|number| format!("f-{number}")).collect();
    let contents: Vec<_> = names.iter().map(|name| rig.put_random(name, 1 << 20)).collect();
    let at = rig.published_at("pv-1");
    let read = |number: usize| {
        let mut file = fs::File::open(at.join(&names[number])).unwrap();
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found == contents[number], "{number}");
        // Else the kernel would give it again without asking.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    };
    let publish = || rig.publish_to_pod(&plugin, MADE, "pv-1", &[("cache", "disk")]);
    publish();
    (0..3).for_each(read);
    scrapes.push(plugin.scrape());
    (0..3).for_each(read);
    // What is read again and again displaces what was read once or twice.
    (0..6).for_each(|_| (3..8).for_each(read));
    scrapes.push(plugin.scrape());
    // And where somebody else takes the disk, also what is given up meanwhile, there is no room at all.
    let mut foreign = fs::File::create(rig.cache().join("foreign.bin")).unwrap();
    eventually("the disk is full", || {
        while foreign.write_all(&[0; 4096]).is_ok() {}
        (0..8).for_each(read);
        scrapes.push(plugin.scrape());
        sum(scrapes.last().unwrap(), "millrace_cache_failures_total").is_some_and(|count| count > 0.0)
    });
    // That a disk falls behind a store cannot be staged with a real one: `what_the_disk_does_not_take_in_time_is_not_kept`.
    let names = documented();
    let of_cache = |name: &&String| name.starts_with("millrace_cache_") && !name.contains("_skipped_");
    assert_eq!(names.iter().filter(of_cache).count(), 5);
    assert_move(&scrapes, names.iter().filter(of_cache));
    rig.unpublish_made(&plugin, "pv-1");
    drop(plugin);
    nix::mount::umount2(&rig.cache(), MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn a_volumes_counters_do_not_go_back_when_one_of_its_workers_ends() {
    let Some(rig) = Rig::new() else { return };
    rig.server.put("bucket", "data/large", vec![7; 4 << 20]);
    let plugin = rig.plugin(&[]);
    assert!(plugin.get("/readyz").0.contains("200") && plugin.get("/healthz").0.contains("200"));
    // Two pods without pod information share nothing.
    let publish = |name: &str| rig.publish_alone(&plugin, name);
    for name in ["a", "b"] {
        publish(name);
        fs::read(rig.target(name).join("large")).unwrap();
    }
    let read = |scrape: &BTreeMap<String, f64>| sum(scrape, "millrace_volume_read_bytes_total");
    assert_eq!(read(&plugin.scrape()), Some(f64::from(8 << 20)));
    rig.unpublish_alone(&plugin, "a");
    assert_eq!(read(&plugin.scrape()), Some(f64::from(8 << 20)));
    rig.unpublish_alone(&plugin, "b");
    assert_eq!(read(&plugin.scrape()), None);
}

fn map(words: &[(&str, &str)]) -> HashMap<String, String> {
    words.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn capability() -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::MultiNodeMultiWriter.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

/// A publish of a static volume at a target of which nothing is known.
pub(super) fn static_volume(
    target: &Path,
    attributes: &[(&str, &str)],
    key: &str,
    secret: &str,
) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: VOLUME.into(),
        target_path: target.to_str().unwrap().into(),
        volume_capability: Some(capability()),
        volume_context: map(attributes),
        secrets: map(&[("key_id", key), ("access_key", secret)]),
        ..Default::default()
    }
}

impl Rig {
    fn publish_alone(&self, plugin: &Plugin, name: &str) {
        let request = static_volume(&self.target(name), &[("store", "lake"), ("path", "data")], KEY, SECRET);
        self.runtime.block_on(plugin.node().node_publish_volume(request)).unwrap();
    }

    fn unpublish_alone(&self, plugin: &Plugin, name: &str) {
        let target_path = self.target(name).to_str().unwrap().to_owned();
        let request = NodeUnpublishVolumeRequest { volume_id: VOLUME.into(), target_path };
        self.runtime.block_on(plugin.node().node_unpublish_volume(request)).unwrap();
    }
}

#[test]
fn what_befalls_a_mount_is_told_on_its_pod() {
    let Some(rig) = Rig::new() else { return };
    rig.volume_file(1 << 20, "64Mi");
    let cluster = Cluster::of(&rig);
    let plugin = rig.plugin(&cluster.words());
    rig.publish_made(&plugin, "pv-1");
    let at = rig.published_at("pv-1");
    assert_eq!(errno(fs::write(at.join("large"), vec![1; 2 << 20])), Errno::ENOSPC);
    rig.server.users().add(User::new(KEY, "another"));
    assert!(!rig.expand_made(&plugin, "pv-1"));
    eventually("two Events", || cluster.events().len() == 2);
    kill(rig.worker(), Signal::SIGKILL).unwrap();
    eventually("a third Event", || cluster.events().len() == 3);
    let events = cluster.events();
    let reasons: BTreeSet<_> = events.iter().map(|[reason, ..]| reason.as_str()).collect();
    assert_eq!(reasons, BTreeSet::from(["VolumeCredentialRefused", "VolumeOverLimit", "VolumeWorkerDied"]));
    for [_, message, uid] in &events {
        assert!(uid == POD && message.contains("pv-1") && message.contains("\"lake\""), "{message}");
        assert!(![KEY, SECRET, "127.0.0.1", "data"].iter().any(|never| message.contains(never)), "{message}");
    }
    assert!(cluster.server.asked().iter().all(|asked| asked == "POST /api/v1/namespaces/team-a/events"));
    rig.unpublish_made(&plugin, "pv-1");
}

#[test]
fn the_revoked_key_of_a_static_volume_is_told_on_its_pod() {
    let Some(rig) = Rig::new() else { return };
    let cluster = Cluster::of(&rig);
    let plugin = rig.plugin(&cluster.words());
    rig.publish_to_pod(&plugin, VOLUME, "pv-1", &[("store", "lake"), ("path", "data"), ("authTtl", "1s")]);
    let hello = rig.published_at("pv-1").join("hello");
    fs::read(&hello).unwrap();
    rig.server.users().remove(KEY);
    eventually("an Event", || !cluster.events().is_empty());
    let [[reason, message, uid]] = &cluster.events()[..] else { panic!("{:?}", cluster.events()) };
    assert_eq!((reason.as_str(), uid.as_str()), ("VolumeCredentialRefused", POD));
    assert!(message.starts_with("volume pv-1: store \"lake\" does not accept"), "{message}");
    assert_eq!(errno(fs::read(&hello)), Errno::EACCES);
    rig.server.users().add(User::new(KEY, SECRET));
    eventually("it is accepted again", || fs::read(&hello).is_ok());
    rig.unpublish_from_pod(&plugin, VOLUME, "pv-1");
}

#[test]
fn a_person_sees_the_mounts_and_changes_the_log() {
    let Some(rig) = Rig::new() else { return };
    let plugin = rig.plugin(&["--log-format", "json"]);
    rig.publish_made(&plugin, "pv-1");
    let at = rig.published_at("pv-1");
    fs::read(at.join("hello")).unwrap();
    let socket = rig.state().join("control.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let socket = socket.to_str().unwrap();

    let (ok, text) = millrace(&["status", "--json", "--socket", socket]);
    assert!(ok, "{text}");
    let mounts: serde_json::Value = serde_json::from_str(&text).unwrap();
    let [mount] = &mounts.as_array().unwrap()[..] else { panic!("{text}") };
    for (field, expected) in [
        ("namespace", "team-a"),
        ("pod", "train-0"),
        ("persistentVolume", "pv-1"),
        ("store", "lake"),
        ("volumeId", MADE),
    ] {
        assert_eq!(mount[field], expected, "{text}");
    }
    assert_eq!(mount["worker"], rig.worker().as_raw());
    assert!(mount["memory"].as_u64().unwrap() > 1 << 20 && mount["age"].as_u64().unwrap() < 300, "{text}");
    assert!(!text.contains(KEY) && !text.contains(SECRET), "{text}");
    let (ok, table) = millrace(&["status", "--socket", socket]);
    assert!(ok && table.starts_with("NAMESPACE") && table.contains("train-0"), "{table}");

    let of_worker = |level: &str| {
        let lines = plugin.log.lock().unwrap();
        let (level, volume) = (format!("\"level\":\"{level}\""), format!("\"volume\":\"{MADE}\""));
        lines.iter().filter(|line| line.contains(&level) && line.contains(&volume)).count()
    };
    assert!(fs::read(at.join("absent")).is_err());
    assert_eq!(of_worker("DEBUG"), 0);
    let (ok, text) = millrace(&["log-level", "millrace=debug", "--socket", socket]);
    assert!(ok, "{text}");
    let mut number = 0;
    eventually("a debug line of the worker", || {
        number += 1;
        assert!(fs::read(at.join(format!("absent-{number}"))).is_err());
        of_worker("DEBUG") > 0
    });
    let (ok, text) = millrace(&["log-level", "=;=", "--socket", socket]);
    assert!(!ok && text.contains("log filter"), "{text}");
    let (ok, text) = millrace(&["status", "--socket", "/nowhere/control.sock"]);
    assert!(!ok && text.contains("no plugin answers"), "{text}");
    rig.unpublish_made(&plugin, "pv-1");
}
