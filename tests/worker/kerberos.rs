//! A real HDFS that demands Kerberos, through CSI: who brings a principal with its keytab is who the KDC says, for as long
//! as it says so.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use aho_corasick::AhoCorasick;
use bytes::Bytes;
use data_encoding::BASE64;
use millrace::sandbox::hadoop::{Hadoop, Kdc};
use tokio::task::block_in_place;
use tonic::Code;

use super::identities::{Node, in_memory};
use super::*;

/// What a KDC is reached through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Connections end at once.
    Shut,
    /// Connections are taken, and nobody answers.
    Silent,
}

/// A way to a KDC that can be shut.
struct Door {
    address: String,
    inner: Arc<Inner>,
}

struct Inner {
    way: Mutex<Way>,
    passed: AtomicUsize,
    over: AtomicBool,
}

impl Door {
    fn to(kdc: &Kdc) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let inner =
            Arc::new(Inner { way: Mutex::new(Way::Open), passed: AtomicUsize::new(0), over: AtomicBool::new(false) });
        let (door, kdc) = (inner.clone(), kdc.address.clone());
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                if door.over.load(Ordering::SeqCst) {
                    return;
                }
                match *door.way.lock().unwrap_or_else(PoisonError::into_inner) {
                    Way::Open => {
                        door.passed.fetch_add(1, Ordering::SeqCst);
                        let kdc = TcpStream::connect(&kdc).unwrap();
                        pass(stream.try_clone().unwrap(), kdc.try_clone().unwrap());
                        pass(kdc, stream);
                    }
                    Way::Shut => {}
                    Way::Silent => held.push(stream),
                }
            }
        });
        Door { address, inner }
    }

    fn set(&self, way: Way) {
        *self.inner.way.lock().unwrap() = way;
    }

    fn passed(&self) -> usize {
        self.inner.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.inner.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(1..) = from.read(&mut buffer).and_then(|count| to.write_all(&buffer[..count]).map(|()| count)) {}
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// A store of `hadoop` as a stores file has it; `more` are words of its own.
fn store(name: &str, hadoop: &Hadoop, more: &str) -> String {
    let (namenode, webhdfs) = (hadoop.namenode(), hadoop.webhdfs());
    format!("  - {{name: {name}, backend: hdfs, nameNodes: ['{namenode}'], webHdfs: ['{webhdfs}'], {more}}}\n")
}

fn login(kdc: &Kdc, door: &Door) -> String {
    format!("authentication: kerberos, realm: {}, kdcs: ['{}']", kdc.realm, door.address)
}

/// A cluster that demands Kerberos, its KDC, and a place for a node.
async fn secured() -> Option<(&'static Hadoop, &'static Kdc, tempfile::TempDir)> {
    if !requirement::met(&[Requirement::Root, Requirement::Fuse]) {
        return None;
    }
    let hadoop = Hadoop::secured().await.unwrap()?;
    Some((hadoop, hadoop.kdc().unwrap(), tempfile::tempdir().unwrap()))
}

async fn node(dir: &tempfile::TempDir, stores: &[String]) -> Node {
    Node::start(&dir.path().canonicalize().unwrap(), &format!("stores:\n{}", stores.concat())).await
}

fn text(kdc: &Kdc, user: &str) -> String {
    BASE64.encode(&kdc.keytab(user).unwrap())
}

/// Looks for a name that is not there, which the name node has to be asked for.
fn asked(node: &Node, number: usize) -> Errno {
    errno(fs::metadata(node.target(number).join(format!("missing-{:x}", rand::random::<u64>()))))
}

fn code(outcome: Result<(), tonic::Status>) -> (Code, String) {
    outcome.map_or_else(|status| (status.code(), status.message().to_owned()), |()| (Code::Ok, String::new()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_principal_sees_what_is_its_own_and_shows_no_key() {
    let Some((hadoop, kdc, dir)) = secured().await else { return };
    let door = Door::to(kdc);
    let node = node(&dir, &[store("lake", hadoop, &format!("prefix: user, {}", login(kdc, &door)))]).await;
    let keytabs = [text(kdc, "alice"), text(kdc, "bob")];
    let lake = |path: &'static str| [("store", "lake"), ("path", path)];
    let home = hadoop.fresh("alice").await.unwrap();
    let home = home.strip_prefix("user/").unwrap();
    let secret = |user: &'static str, at: usize| [("principal", user), ("keytab", keytabs[at].as_str())];
    node.publish_with(0, &[("store", "lake"), ("path", home)], &secret("alice", 0)).await.unwrap();
    node.publish_with(1, &lake("bob"), &secret("bob", 1)).await.unwrap();
    node.publish_with(2, &[("store", "lake"), ("path", home)], &secret("bob", 1)).await.unwrap();

    let at = |number: usize, name: &str| node.target(number).join(name);
    let data = noise(2_500_000);
    block_in_place(|| {
        fs::write(at(0, "mine"), &data).unwrap();
        assert!(fs::read(at(0, "mine")).unwrap() == data);
        fs::set_permissions(at(0, "mine"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::create_dir(at(0, "private")).unwrap();
        fs::set_permissions(at(0, "private"), PermissionsExt::from_mode(0o700)).unwrap();
        fs::write(at(1, "his"), "bob's").unwrap();
        assert_eq!(errno(fs::read(at(2, "mine"))), Errno::EACCES);
        assert_eq!(errno(fs::read_dir(at(2, "private")).unwrap().next().unwrap()), Errno::EACCES);
        assert_eq!(errno(fs::write(at(2, "new"), "x")), Errno::EACCES);
    });
    assert!(hadoop.get(&format!("/user/{home}/mine")).await.unwrap() == data);
    assert_eq!(hadoop.get("/user/bob/his").await.unwrap(), "bob's");
    let workers = workers(&node);
    assert_eq!(workers.len(), 3);
    block_in_place(|| shows_no_key(&node, &workers, kdc, &keytabs));
    for number in 0..3 {
        node.unpublish(number).await.unwrap();
    }
    block_in_place(|| eventually("no worker is left", || !workers.iter().copied().any(is_running)));
}

/// The workers of what is mounted.
fn workers(node: &Node) -> Vec<Pid> {
    let entries = fs::read_dir(node.dir.join("state/mounts")).unwrap().map(|entry| entry.unwrap().path());
    let records = entries.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let pid = |path: PathBuf| {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        Pid::from_raw(record["worker"]["pid"].as_i64().unwrap() as i32)
    };
    records.map(pid).collect()
}

/// Looks for the keys of keytabs where others may look.
fn shows_no_key(node: &Node, workers: &[Pid], kdc: &Kdc, keytabs: &[String]) {
    let raw = |user: &str| {
        let keytab = kdc.keytab(user).unwrap();
        // The end of the last key, and its version.
        keytab[keytab.len() - 16..].to_vec()
    };
    let texts = keytabs.iter().map(|text| text.as_bytes().to_vec());
    shows_none(node, workers, texts.chain([raw("alice"), raw("bob")]));
}

/// Looks for secrets where others may look.
fn shows_none(node: &Node, workers: &[Pid], secrets: impl IntoIterator<Item = Vec<u8>>) {
    let keys = AhoCorasick::new(secrets).unwrap();
    let plugin = Pid::from_raw(node.child.id() as i32);
    for pid in workers {
        assert!(!in_memory(*pid, &keys).is_empty(), "what is looked for is nowhere");
        for file in ["environ", "cmdline", "status", "maps"] {
            assert!(!keys.is_match(&fs::read(format!("/proc/{pid}/{file}")).unwrap()), "{file} of {pid}");
        }
    }
    eventually("the node plugin has forgotten every key", || in_memory(plugin, &keys).is_empty());
    let logs = ["log", "audit", "stores.yaml"].map(|name| node.dir.join(name));
    for path in walk(&node.dir.join("state")).into_iter().chain(logs) {
        assert!(!keys.is_match(&fs::read(&path).unwrap()), "{}", path.display());
    }
}

/// A keytab of the same names with other keys.
fn forged(keytab: &[u8]) -> Vec<u8> {
    let mut forged = keytab.to_vec();
    let mut at = 2;
    while at + 4 <= forged.len() {
        let size = u32::from_be_bytes(forged[at..at + 4].try_into().unwrap()) as usize;
        at += 4 + size;
        // In every key, and in no length or version.
        forged[at - 12] ^= 0x55;
    }
    forged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_proves_nothing_is_refused_with_the_reason() {
    let Some((hadoop, kdc, dir)) = secured().await else { return };
    let Some(open) = Hadoop::shared().await.unwrap() else { return };
    let door = Door::to(kdc);
    let login = login(kdc, &door);
    let mixed = format!(
        "  - {{name: mixed, backend: hdfs, nameNodes: ['{}'], webHdfs: ['{}'], prefix: tmp, {login}}}\n",
        open.namenode(),
        hadoop.webhdfs()
    );
    let claimed = "prefix: tmp/claimed, identities: [{namespace: '*', users: [{name: alice, uid: 7, gid: 7}]}]";
    let stores = [
        store("lake", hadoop, &format!("prefix: user, {login}")),
        store("open", open, &format!("prefix: user, {login}")),
        store("claimed", hadoop, claimed),
        mixed,
    ];
    let node = node(&dir, &stores).await;
    let good = text(kdc, "alice");
    let wrong = BASE64.encode(&forged(&kdc.keytab("alice").unwrap()));
    // Of a principal that the KDC does not have.
    let mut renamed = kdc.keytab("alice").unwrap();
    while let Some(at) = renamed.windows(5).position(|name| name == b"alice") {
        renamed[at..at + 5].copy_from_slice(b"mallo");
    }
    let renamed = BASE64.encode(&renamed);
    let alice = [("principal", "alice"), ("keytab", good.as_str())];
    let short = |store: &'static str| [("store", store), ("path", "alice"), ("timeout", "5s")];
    for (store, secret, expected, why) in [
        ("lake", vec![], Code::InvalidArgument, "neither principal nor keytab"),
        ("lake", vec![("principal", "alice")], Code::InvalidArgument, "no keytab"),
        ("lake", vec![("keytab", good.as_str())], Code::InvalidArgument, "no principal"),
        ("lake", vec![("user", "alice"), alice[0], alice[1]], Code::InvalidArgument, "user"),
        ("lake", vec![("token", good.as_str())], Code::InvalidArgument, "something else than a file of Hadoop's"),
        ("lake", vec![("token", "SERU"), alice[0]], Code::InvalidArgument, "leave one"),
        ("lake", vec![("principal", "bob"), alice[1]], Code::InvalidArgument, "no key of its principal"),
        ("lake", vec![alice[0], ("keytab", &wrong)], Code::Unauthenticated, "does not take the key"),
        ("lake", vec![("principal", "mallo"), ("keytab", &renamed)], Code::Unauthenticated, "does not know"),
        ("open", alice.to_vec(), Code::FailedPrecondition, "does not demand Kerberos"),
        ("claimed", alice.to_vec(), Code::InvalidArgument, "authentication: simple"),
        ("claimed", vec![], Code::Unauthenticated, "authentication: kerberos"),
    ] {
        let (got, message) = code(node.publish_with(0, &short(store), &secret).await);
        assert!(got == expected && message.contains(why), "{store} {got:?}: {message}");
        assert!(!message.contains(&good) && !message.contains(&wrong), "{message}");
    }
    for (way, why) in [(Way::Shut, "KDC cannot be reached"), (Way::Silent, "KDC or the name node")] {
        door.set(way);
        let (got, message) = code(node.publish_with(0, &short("lake"), &alice).await);
        assert!(got == Code::Unavailable && message.contains(why), "{way:?} {got:?}: {message}");
    }
    door.set(Way::Open);
    assert_eq!(code(node.publish_with(0, &short("lake"), &alice).await), (Code::Ok, String::new()));

    // A name node that would believe any name is told none, where everybody may write.
    let root = [("store", "mixed"), ("timeout", "5s")];
    node.publish_with(1, &root, &alice).await.unwrap();
    block_in_place(|| {
        fs::read_dir(node.target(1)).unwrap();
        assert_eq!(errno(fs::create_dir(node.target(1).join("made"))), Errno::EIO);
    });
    for number in 0..2 {
        node.unpublish(number).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_outlives_its_tickets_and_not_its_keys() {
    let Some((hadoop, kdc, dir)) = secured().await else { return };
    let door = Door::to(kdc);
    let words = format!("prefix: user, ticketLifetime: 10s, {}", login(kdc, &door));
    let node = node(&dir, &[store("lake", hadoop, &words)]).await;
    let dirs = [hadoop.fresh("alice").await.unwrap(), hadoop.fresh("carol").await.unwrap()];
    let of = |at: usize| [("store", "lake"), ("path", dirs[at].strip_prefix("user/").unwrap()), ("timeout", "5s")];
    let (alice, carol) = (text(kdc, "alice"), text(kdc, "carol"));
    let secret = |user: &'static str, keytab: &'static str| [("principal", user), ("keytab", keytab)];
    let (alice, carol): (&str, &str) = (alice.leak(), carol.leak());
    node.publish_with(0, &of(0), &secret("alice", alice)).await.unwrap();
    node.publish_with(1, &of(1), &secret("carol", carol)).await.unwrap();
    let data = noise(300_000);
    hadoop.put(&format!("/{}/data", dirs[0]), "alice", data.clone()).await.unwrap();
    hadoop.control("rotate", &[("user", "carol")], Default::default()).await.unwrap();
    let (first, begun) = (door.passed(), Instant::now());
    block_in_place(|| {
        let mut refused = false;
        while begun.elapsed() < Duration::from_secs(14) || (!refused && begun.elapsed() < SOON) {
            assert_eq!(asked(&node, 0), Errno::ENOENT);
            assert!(fs::read(node.target(0).join("data")).unwrap() == data);
            fs::write(node.target(0).join("new"), "written").unwrap();
            match asked(&node, 1) {
                Errno::ENOENT => assert!(!refused),
                other => {
                    assert_eq!(other, Errno::EACCES);
                    refused = true;
                }
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        assert!(refused && door.passed() > first, "{refused} {first} {}", door.passed());
    });

    // The later keys, under the running mount.
    let (got, message) = code(node.publish_with(1, &of(1), &secret("carol", carol)).await);
    assert_eq!(got, Code::Ok, "what is in force is asked for again: {message}");
    let later = text(kdc, "carol").leak();
    node.publish_with(1, &of(1), &secret("carol", later)).await.unwrap();
    block_in_place(|| eventually("the later keys are used", || asked(&node, 1) == Errno::ENOENT));
    let (got, message) = code(node.publish_with(1, &of(1), &secret("carol", carol)).await);
    assert!(got == Code::Unauthenticated && message.contains("does not take the key"), "{got:?}: {message}");

    door.set(Way::Shut);
    block_in_place(|| {
        let mut last = Errno::ENOENT;
        let shut = Instant::now();
        while last == Errno::ENOENT && shut.elapsed() < SOON {
            last = asked(&node, 0);
        }
        assert_eq!(last, Errno::EIO);
        door.set(Way::Open);
        eventually("it goes on", || asked(&node, 0) == Errno::ENOENT);
        assert_eq!(asked(&node, 1), Errno::ENOENT);
    });
    for number in 0..2 {
        node.unpublish(number).await.unwrap();
    }
}

/// Nobody can ask the KDC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delegation_token_is_a_login_until_the_name_node_forgets_it() {
    let Some((hadoop, kdc, dir)) = secured().await else { return };
    let door = Door::to(kdc);
    door.set(Way::Shut);
    let identities = "identities: [{namespace: '*', users: [{name: alice, uid: 1000, gid: 2000}]}]";
    let words = format!("prefix: user, {identities}, {}", login(kdc, &door));
    let node = node(&dir, &[store("lake", hadoop, &words)]).await;
    let home = hadoop.fresh("alice").await.unwrap();
    let of = [("store", "lake"), ("path", home.strip_prefix("user/").unwrap()), ("timeout", "5s")];
    let fetched = [hadoop.token("alice").await.unwrap(), hadoop.token("alice").await.unwrap()];
    let tokens = fetched.clone().map(|token| BASE64.encode(&token));
    node.publish_with(0, &of, &[("token", tokens[0].as_str())]).await.unwrap();
    let data = noise(2_500_000);
    let at = |name: &str| node.target(0).join(name);
    block_in_place(|| {
        fs::write(at("file"), &data).unwrap();
        assert!(fs::read(at("file")).unwrap() == data);
        assert_eq!((fs::metadata(at("file")).unwrap().uid(), asked(&node, 0)), (1000, Errno::ENOENT));
    });
    assert!(hadoop.get(&format!("/{home}/file")).await.unwrap() == data);
    // Bob's is as good, and he is not listed; what is his alone alice does not see.
    let bobs = BASE64.encode(&hadoop.token("bob").await.unwrap());
    let (got, message) = code(node.publish_with(1, &of, &[("token", &bobs)]).await);
    assert!(got == Code::PermissionDenied, "{got:?}: {message}");
    hadoop.put("/user/bob/private/dir/file", "bob", "bob's").await.unwrap();
    hadoop
        .control("chmod", &[("path", "/user/bob/private"), ("user", "bob"), ("mode", "700")], Bytes::new())
        .await
        .unwrap();
    let his = [("store", "lake"), ("path", "bob/private/dir"), ("timeout", "5s")];
    let (got, message) = code(node.publish_with(1, &his, &[("token", &tokens[0])]).await);
    assert!(got == Code::PermissionDenied, "{got:?}: {message}");
    let workers = workers(&node);
    // The text, and the end of the file, which is the token's.
    let secrets = tokens[..1].iter().map(|text| text.as_bytes().to_vec());
    block_in_place(|| shows_none(&node, &workers, secrets.chain([password(&fetched[0])])));

    hadoop.cancel("alice", fetched[0].clone()).await.unwrap();
    block_in_place(|| eventually("the token is of no use", || asked(&node, 0) == Errno::EACCES));
    let (got, message) = code(node.publish_with(1, &of, &[("token", &tokens[0])]).await);
    assert!(got == Code::Unauthenticated && message.contains("token"), "{got:?}: {message}");
    node.publish_with(0, &of, &[("token", &tokens[1])]).await.unwrap();
    block_in_place(|| {
        eventually("the later token is used", || asked(&node, 0) == Errno::ENOENT);
        fs::write(at("later"), "written").unwrap();
        assert!(fs::read(at("file")).unwrap() == data);
    });
    assert_eq!(door.passed(), 0);
    node.unpublish(0).await.unwrap();
}

/// The proof in a token file with one token, which its kind follows.
fn password(file: &[u8]) -> Vec<u8> {
    let kind = b"HDFS_DELEGATION_TOKEN";
    let at = file.windows(kind.len()).position(|part| part == kind).unwrap();
    // Before the length of the kind.
    file[at - 1 - 16..at - 1].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_encrypts_everything_is_read_and_written() {
    if !requirement::met(&[Requirement::Root, Requirement::Fuse]) {
        return;
    }
    let words = [("datanodes", "1"), ("kerberos", "true"), ("protection", "privacy")];
    let Some(hadoop) = Hadoop::start(&words).await.unwrap() else { return };
    let (kdc, dir) = (hadoop.kdc().unwrap(), tempfile::tempdir().unwrap());
    let door = Door::to(kdc);
    let node = node(&dir, &[store("lake", &hadoop, &login(kdc, &door))]).await;
    let keytab = text(kdc, "alice");
    let secret = [("principal", "alice"), ("keytab", keytab.as_str())];
    node.publish_with(0, &[("store", "lake"), ("path", "user/alice")], &secret).await.unwrap();
    let data = noise(1_300_000);
    block_in_place(|| {
        fs::write(node.target(0).join("file"), &data).unwrap();
        assert!(fs::read(node.target(0).join("file")).unwrap() == data);
    });
    assert!(hadoop.get("/user/alice/file").await.unwrap() == data);
    hadoop.put("/user/alice/other", "alice", data.clone()).await.unwrap();
    block_in_place(|| assert!(fs::read(node.target(0).join("other")).unwrap() == data));
    node.unpublish(0).await.unwrap();
}
