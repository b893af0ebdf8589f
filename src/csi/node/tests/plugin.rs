//! A node plugin whose mounter remembers what it is asked, and requests to it.

use super::*;

pub(super) const ID: &str = "lake/team-a/pvc-1@abcdefg234";

/// Remembers what it is asked, and answers once there is a permit.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) published: Mutex<Vec<Publish>>,
    pub(super) permits: Semaphore,
    pub(super) answer: Mutex<Result<(), Error>>,
    pub(super) limit: Mutex<Option<u64>>,
    /// The stores of which caches may stay, as it was last told.
    pub(super) kept: Mutex<Option<Vec<&'static str>>>,
}

#[async_trait]
impl Mounter for Recorder {
    async fn publish(&self, request: Publish) -> Result<Done, Error> {
        self.permits.acquire().await.unwrap().forget();
        let mut published = self.published.lock().unwrap();
        let done = match published.iter().rfind(|before| before.arguments == request.arguments) {
            None => Done::Mounted,
            Some(before) if before.credential == request.credential => Done::Nothing,
            Some(_) => Done::Renewed,
        };
        published.push(request);
        self.answer.lock().unwrap().clone().map(|()| done)
    }

    async fn unpublish(&self, _volume_id: &str, _target: &Path) -> Result<(), Error> {
        self.answer.lock().unwrap().clone()
    }

    async fn usage(&self, volume_id: &str, target: &Path) -> Result<Usage, Error> {
        match target == Path::new("/pod") {
            true => Ok(Usage { used_bytes: 7, used_inodes: 2, limit: *self.limit.lock().unwrap(), ..Usage::default() }),
            false => Err(Error::NotMounted(format!("{volume_id} is not mounted there"))),
        }
    }

    async fn reload(&self, volume_id: &str, target: &Path) -> Result<Usage, Error> {
        *self.limit.lock().unwrap() = Some(100);
        self.usage(volume_id, target).await
    }

    async fn health(&self, volume_id: &str, target: Option<&Path>) -> Result<Vec<Ailment>, Error> {
        match target.is_none_or(|target| target == Path::new("/pod")) {
            true => Ok(vec![Ailment::WorkerGone("it was killed".into())]),
            false => Err(Error::NotMounted(format!("{volume_id} is not mounted there"))),
        }
    }

    async fn whose(&self, target: &Path) -> Whose {
        let published = self.published.lock().unwrap();
        let Some(there) = published.iter().rfind(|there| there.target == target) else { return Whose::default() };
        Whose {
            namespace: there.namespace.clone(),
            pod: there.pod.clone(),
            service_account: there.service_account.clone(),
            store: Some(there.spec.store.clone()),
            path: Some(there.spec.path.clone()),
            read_only: Some(there.spec.read_only),
            identity: Some(self.identity(&there.credential)),
        }
    }

    async fn collect_caches(&self, may_stay: Arc<MayStay>) {
        let stores = ["lake", "walled", "unknown"].into_iter();
        *self.kept.lock().unwrap() = Some(stores.filter(|store| may_stay(store)).collect());
    }

    fn identity(&self, credential: &Credential) -> String {
        crate::auth::identity::hash(credential, &[7; 64])
    }
}

pub(super) struct Plugin {
    pub(super) node: Arc<Node>,
    pub(super) mounter: Arc<Recorder>,
    _dir: tempfile::TempDir,
}

pub(super) fn plugin() -> Plugin {
    plugin_of(
        "
stores:
  - {name: lake, backend: s3, endpoint: 'http://127.0.0.1:9000', bucket: data, limits: {memory: 1Gi}}
  - {name: open, backend: s3, endpoint: 'http://127.0.0.1:9000', bucket: public, credentials: none}
  - {name: shelf, backend: s3, endpoint: 'http://127.0.0.1:9000', bucket: shelf, credentials: none, inline: [{namespace: 'ml-*', paths: ['teams/${pod.namespace}', sets]}]}
  - {name: walled, backend: s3, endpoint: 'http://127.0.0.1:9000', bucket: eu-data, residency: {jurisdiction: [eu]}}
",
    )
}

/// With these stores.
pub(super) fn plugin_of(text: &str) -> Plugin {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stores.yaml");
    std::fs::write(&file, text).unwrap();
    let mounter = Arc::new(Recorder {
        published: Mutex::default(),
        permits: Semaphore::new(1000),
        answer: Mutex::new(Ok(())),
        limit: Mutex::default(),
        kept: Mutex::default(),
    });
    let stores = LiveStores::load(&file).unwrap();
    let node = Node::new("node-1", here("jurisdiction", "us"), stores, Arc::clone(&mounter) as Arc<dyn Mounter>);
    Plugin { node: Arc::new(node.unwrap()), mounter, _dir: dir }
}

pub(super) fn here(domain: &str, value: &str) -> Here {
    let place = Place::new([(Domain::named(domain).unwrap(), value.to_owned())]).unwrap();
    Here { driver: "csi.example.org".into(), place: Located::at(place) }
}

pub(super) fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A publish of the volume `id` with these words of context, right in everything else.
pub(super) fn request(id: &str, context: &[(&str, &str)]) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: id.into(),
        target_path: "/pod".into(),
        volume_capability: Some(mounted(Mode::SingleNodeWriter, &[])),
        volume_context: map(context),
        secrets: map(&[("key_id", "id"), ("access_key", "canary-key")]),
        ..Default::default()
    }
}

impl Plugin {
    pub(super) async fn publish(&self, request: NodePublishVolumeRequest) -> Result<Publish, Status> {
        self.node.node_publish_volume(Request::new(request)).await?;
        Ok(self.mounter.published.lock().unwrap().last().cloned().unwrap())
    }

    pub(super) async fn refused(&self, request: NodePublishVolumeRequest) -> (Code, String) {
        let before = self.mounter.published.lock().unwrap().len();
        let status = self.publish(request).await.unwrap_err();
        assert_eq!(self.mounter.published.lock().unwrap().len(), before, "{status:?}");
        assert!(!format!("{status:?}").contains("canary"), "{status:?}");
        (status.code(), status.message().to_owned())
    }

    pub(super) fn location(&self) -> String {
        self.node.stores.current().get("lake").unwrap().location_hash()
    }
}
