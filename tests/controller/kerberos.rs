//! A controller on a real HDFS that demands Kerberos, beside one that does not: each has a process of its own.

use std::path::Path;

use data_encoding::BASE64;
use millrace::sandbox::hadoop::{Hadoop, Kdc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::all_processes;

use super::*;

/// What the name node's own principal is called, who is the superuser.
const SUPERUSER: &str = "nn/localhost";

struct Site {
    secured: &'static Hadoop,
    kdc: &'static Kdc,
    /// The roots of both stores.
    roots: [String; 2],
    dir: tempfile::TempDir,
}

impl Site {
    async fn new() -> Option<Site> {
        let (Some(secured), Some(open)) = (Hadoop::secured().await.unwrap(), Hadoop::shared().await.unwrap()) else {
            return None;
        };
        let kdc = secured.kdc().unwrap();
        let roots = [secured.fresh(secured.superuser()).await.unwrap(), open.fresh(open.superuser()).await.unwrap()];
        let dir = tempfile::tempdir().unwrap();
        let table = "identities: [{namespace: '*', users: [{name: alice, uid: 1000, gid: 100}]}]";
        let store = |name: &str, of: &Hadoop, root: &str, more: &str| {
            let (rpc, web) = (of.namenode(), of.webhdfs());
            format!(
                "  - {{name: {name}, backend: hdfs, nameNodes: ['{rpc}'], webHdfs: ['{web}'], prefix: {root}, {more}, {table}}}\n"
            )
        };
        let (realm, address) = (&kdc.realm, &kdc.address);
        let login = format!("authentication: kerberos, realm: {realm}, kdcs: ['{address}'], controllerCredential: key");
        let claim = format!("controllerUser: {{name: {}}}", open.superuser());
        let stores = [store("lake", secured, &roots[0], &login), store("open", open, &roots[1], &claim)].concat();
        std::fs::write(dir.path().join("stores.yaml"), format!("stores:\n{stores}")).unwrap();
        let site = Site { secured, kdc, roots, dir };
        std::fs::create_dir(site.dir.path().join("key")).unwrap();
        site.write_key(SUPERUSER, &kdc.keytab("nn").unwrap());
        Some(site)
    }

    /// As Kubernetes mounts a Secret.
    fn write_key(&self, principal: &str, keytab: &[u8]) {
        let key = self.dir.path().join("key");
        std::fs::write(key.join("principal"), principal).unwrap();
        std::fs::write(key.join("keytab"), BASE64.encode(keytab)).unwrap();
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// The processes that a controller keeps, by their age.
fn clerks(controller: &Process) -> Vec<Pid> {
    let parent = i32::try_from(controller.child.id()).unwrap();
    let stats = all_processes().unwrap().filter_map(|one| one.ok()?.stat().ok());
    let mut found: Vec<_> = stats.filter(|stat| stat.ppid == parent && stat.state != 'Z').collect();
    found.sort_by_key(|stat| stat.starttime);
    found.iter().map(|stat| Pid::from_raw(stat.pid)).collect()
}

fn wanted(name: &str, store: &str) -> CreateVolumeRequest {
    // Whose it is says the table.
    let parameters = [("store", store), ("dirMode", "0750")];
    let parameters = parameters.map(|(word, value)| (word.to_owned(), value.to_owned())).into();
    CreateVolumeRequest { parameters, ..volume(name, HashMap::new()) }
}

async fn create(controller: &Process, name: &str, store: &str) -> Result<String, tonic::Status> {
    let made = controller.client.clone().create_volume(wanted(name, store)).await?;
    Ok(made.into_inner().volume.unwrap().volume_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_makes_volumes_as_whom_the_kdc_knows_and_each_store_has_its_process() {
    let Some(site) = Site::new().await else { return };
    let mut controller = Process::start(site.path(), "one.sock").await;
    assert_eq!(clerks(&controller), [], "nothing was asked");
    let first = create(&controller, "pvc-1", "lake").await.unwrap();
    let [lake] = clerks(&controller)[..] else { panic!("{:?}", clerks(&controller)) };
    let other = create(&controller, "pvc-2", "open").await.unwrap();
    let both = clerks(&controller);
    assert!(both.len() == 2 && both[0] == lake, "{both:?}");

    // It is alice's, and nobody else's.
    let at = |name: &str| format!("/{}/pvc-1/{name}", site.roots[0]);
    site.secured.put(&at("hers"), "alice", "data").await.unwrap();
    site.secured.put(&at("his"), "bob", "data").await.unwrap_err();
    site.secured.put(&format!("/{}/.millrace/forged", site.roots[0]), "alice", "data").await.unwrap_err();
    let key = BASE64.encode(&site.kdc.keytab("nn").unwrap());
    for pid in both.iter().map(|pid| pid.as_raw()).chain([i32::try_from(controller.child.id()).unwrap()]) {
        for file in ["environ", "cmdline", "status"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!bytes.windows(key.len()).any(|part| part == key.as_bytes()), "{file} of {pid}");
        }
    }
    assert!(!std::fs::read_to_string(site.path().join("log")).unwrap().contains(&key));

    // One that dies, and one that hangs: the other store does not notice.
    kill(lake, Signal::SIGKILL).unwrap();
    let until = Instant::now() + SOON;
    while let Err(error) = create(&controller, "pvc-3", "lake").await {
        assert!(error.code() == Code::Unavailable && Instant::now() < until, "{error:?}");
    }
    let lake = *clerks(&controller).last().unwrap();
    kill(lake, Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    let hung = create(&controller, "pvc-4", "lake");
    let meanwhile = create(&controller, "pvc-5", "open");
    let (hung, meanwhile) = tokio::join!(hung, async { (meanwhile.await, begun.elapsed()) });
    let error = hung.unwrap_err();
    assert!(error.code() == Code::Unavailable && begun.elapsed() < SOON, "{error:?}");
    assert!(meanwhile.0.is_ok() && meanwhile.1 < Duration::from_secs(5), "{meanwhile:?}");
    let fourth = create(&controller, "pvc-4", "lake").await.unwrap();
    assert!(!clerks(&controller).contains(&lake), "it was ended");

    let mut found: Vec<_> = controller.list().await.into_iter().map(|volume| volume.volume_id).collect();
    found.sort();
    assert!(found.len() == 5 && [&first, &other, &fourth].iter().all(|id| found.contains(id)), "{found:?}");
    for volume_id in found {
        let request = DeleteVolumeRequest { volume_id, ..Default::default() };
        controller.client.delete_volume(request).await.unwrap();
    }
    assert_eq!(controller.list().await, []);
    site.secured.get(&at("hers")).await.unwrap_err();

    let kept = clerks(&controller);
    controller.kill();
    let until = Instant::now() + SOON;
    while kept.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
        assert!(Instant::now() < until, "they do not end with their controller");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_may_not_says_why_until_it_has_another_key() {
    let Some(site) = Site::new().await else { return };
    let controller = Process::start(site.path(), "one.sock").await;
    let good = site.kdc.keytab("nn").unwrap();
    let bob = site.kdc.keytab("bob").unwrap();
    for (principal, keytab, code, why) in [
        ("nobody", &good, Code::FailedPrecondition, "no key of its principal"),
        ("bob", &bob, Code::PermissionDenied, "bob"),
    ] {
        site.write_key(principal, keytab);
        let error = create(&controller, "pvc-1", "lake").await.unwrap_err();
        assert!(error.code() == code && error.message().contains(why), "{principal}: {error:?}");
    }
    std::fs::remove_file(site.path().join("key/keytab")).unwrap();
    let error = create(&controller, "pvc-1", "lake").await.unwrap_err();
    assert!(error.code() == Code::FailedPrecondition && error.message().contains("no keytab"), "{error:?}");
    site.write_key(SUPERUSER, &good);
    create(&controller, "pvc-1", "lake").await.unwrap();
}
