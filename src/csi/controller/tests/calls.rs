//! The calls beyond creating and deleting.

use super::*;
use crate::csi::v1::list_volumes_response::Entry;
use crate::csi::v1::{Topology, VolumeHealth, VolumeHealthErrorType};

const GIB: i64 = 1 << 30;

fn range(required_bytes: i64, limit_bytes: i64) -> Option<CapacityRange> {
    Some(CapacityRange { required_bytes, limit_bytes })
}

impl Plugin {
    /// A second controller of the same cluster on the same store.
    fn another(&self) -> Controller {
        let stores = self.controller.0.stores.clone();
        let another = Controller::new(stores, "one", "csi.example.org", None).unwrap();
        let store = another.0.stores.current().get("lake").unwrap().clone();
        let volumes = Arc::new(Volumes::new(self.records.clone(), "one"));
        let opened = Opened { credential: controller_credential(&store).unwrap(), store, volumes };
        another.0.opened.lock().unwrap().insert("lake".into(), opened);
        another
    }

    /// Without the store whose credential is not there, which fails every list.
    pub(super) fn mended(self) -> Plugin {
        std::fs::write(self.dir.path().join("none.yaml"), KEYS).unwrap();
        let store = self.controller.0.stores.current().get("unmounted").unwrap().clone();
        let volumes = Arc::new(Volumes::new(Arc::new(MemoryRecords::default()), "one"));
        let opened = Opened { credential: controller_credential(&store).unwrap(), store, volumes };
        self.controller.0.opened.lock().unwrap().insert("unmounted".into(), opened);
        self
    }

    async fn expand(&self, id: &str, capacity_range: Option<CapacityRange>) -> Result<i64, (Code, String)> {
        let request = ControllerExpandVolumeRequest {
            volume_id: id.into(),
            capacity_range,
            secrets: map(&[("access_key", "canary-secret")]),
            volume_capability: None,
        };
        let answer = self.controller.controller_expand_volume(Request::new(request)).await;
        let answer = answer.map_err(|status| (status.code(), status.message().to_owned()))?.into_inner();
        assert!(answer.node_expansion_required);
        Ok(answer.capacity_bytes)
    }

    async fn modify(&self, id: &str, words: &[(&str, &str)]) -> Result<(), (Code, String)> {
        let request = ControllerModifyVolumeRequest {
            volume_id: id.into(),
            mutable_parameters: map(words),
            secrets: map(&[("access_key", "canary-secret")]),
        };
        let answer = self.controller.controller_modify_volume(Request::new(request)).await;
        answer.map(drop).map_err(|status| (status.code(), status.message().to_owned()))
    }

    async fn capacity(&self, change: impl FnOnce(&mut GetCapacityRequest)) -> Result<(i64, i64), Code> {
        let mut request = GetCapacityRequest::default();
        change(&mut request);
        let answer = self.controller.get_capacity(Request::new(request)).await.map_err(|status| status.code())?;
        let answer = answer.into_inner();
        Ok((answer.available_capacity, answer.maximum_volume_size.unwrap()))
    }

    async fn health(&self, id: &str) -> Result<VolumeHealth, Code> {
        let request = ControllerGetVolumeHealthRequest { volume_id: id.into(), ..Default::default() };
        let answer = self.controller.controller_get_volume_health(Request::new(request)).await;
        answer.map(|answer| answer.into_inner().volume_health.unwrap()).map_err(|status| status.code())
    }
}

pub(super) async fn list(controller: &Controller, max_entries: i32, token: &str) -> Result<ListVolumesResponse, Code> {
    let request = ListVolumesRequest { max_entries, starting_token: token.into() };
    controller.list_volumes(Request::new(request)).await.map(Response::into_inner).map_err(|status| status.code())
}

/// All volumes, by pages.
async fn listed(controller: &Controller, max_entries: i32) -> Vec<Entry> {
    let (mut entries, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(controller, max_entries, &token).await.unwrap();
        assert!(page.entries.len() <= max_entries as usize);
        entries.extend(page.entries);
        token = page.next_token;
        if token.is_empty() {
            return entries;
        }
    }
}

pub(super) async fn list_health(
    controller: &Controller,
    max_entries: i32,
    token: &str,
) -> Result<ControllerListVolumeHealthResponse, Code> {
    let starting_token = token.to_owned();
    let request = ControllerListVolumeHealthRequest { max_entries, starting_token, ..Default::default() };
    let answer = controller.controller_list_volume_health(Request::new(request)).await;
    answer.map(Response::into_inner).map_err(|status| status.code())
}

#[tokio::test(start_paused = true)]
async fn two_controllers_list_the_same_volumes_in_pages() {
    let plugin = plugin().mended();
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(plugin.create(request(&format!("pvc-{n}"))).await.unwrap());
    }
    let all = listed(&plugin.controller, 100).await;
    let mut volumes: Vec<_> = all.iter().map(|entry| entry.volume.clone().unwrap()).collect();
    volumes.sort_by(|one, two| one.volume_id.cmp(&two.volume_id));
    assert_eq!(volumes, made, "each as CreateVolume gave it");
    assert!(all.iter().all(|entry| entry.status.is_none()), "where a volume is published is not known here");
    let another = plugin.another();
    let unmounted = plugin.controller.0.opened.lock().unwrap().remove("unmounted").unwrap();
    another.0.opened.lock().unwrap().insert("unmounted".into(), unmounted);
    for most in 1..6 {
        assert_eq!(listed(&another, most).await, all, "{most} a page");
    }
    for (max_entries, token, code) in [
        (0, "x", Code::Aborted),
        (0, "lake/..", Code::Aborted),
        (0, &format!("sea/{}", "0".repeat(64)), Code::Aborted),
        (-1, "", Code::InvalidArgument),
    ] {
        assert_eq!(list(&another, max_entries, token).await.unwrap_err(), code, "{token}");
        assert_eq!(list_health(&another, max_entries, token).await.unwrap_err(), code, "{token}");
    }
    let id = &made[0].volume_id;
    let got = another.controller_get_volume(Request::new(ControllerGetVolumeRequest { volume_id: id.clone() })).await;
    let got = got.unwrap().into_inner();
    assert_eq!((got.volume, got.status.unwrap().published_node_ids), (Some(made[0].clone()), vec![]));
    plugin.delete(id).await.unwrap();
    assert_eq!(listed(&another, 100).await.len(), 4);
    for (id, code) in [(id.as_str(), Code::NotFound), ("", Code::InvalidArgument), ("x", Code::NotFound)] {
        let get = another.controller_get_volume(Request::new(ControllerGetVolumeRequest { volume_id: id.into() }));
        assert_eq!(get.await.unwrap_err().code(), code, "{id}");
    }
}

#[tokio::test]
async fn a_store_whose_credential_is_missing_fails_the_list_and_nothing_else() {
    let plugin = plugin();
    assert_eq!(list(&plugin.controller, 0, "").await.unwrap_err(), Code::FailedPrecondition);
    assert_eq!(list_health(&plugin.controller, 0, "").await.unwrap_err(), Code::FailedPrecondition);
    // Nothing listens where these stores are said to be.
    for store in ["static-only", "unmounted"] {
        let health = plugin.health(&format!("{store}/pvc-1@aaaaaaaaaa")).await.unwrap();
        let [entry] = health.health_statuses.as_slice() else { panic!("{health:?}") };
        assert_eq!(entry.status(), VolumeHealthErrorType::Inaccessible);
        assert_eq!(entry.reason, "StoreUnreachable");
    }
    assert_eq!(plugin.health("sea/pvc-1@aaaaaaaaaa").await.unwrap_err(), Code::FailedPrecondition);
}

#[tokio::test(start_paused = true)]
async fn a_capacity_is_what_is_declared_less_what_was_given() {
    let plugin = plugin_with("capacity: 4Gi").mended();
    let with = |words: &[(&str, &str)]| map(words);
    let lake = || with(&[("store", "lake"), ("uid", "7")]);
    let in_lake = async || plugin.capacity(|request| request.parameters = lake()).await;
    assert_eq!(in_lake().await, Ok((4 * GIB, 4 * GIB)));
    let made = plugin.create(request("pvc-1")).await.unwrap();
    assert_eq!(in_lake().await, Ok((3 * GIB, 3 * GIB)));
    plugin.expand(&made.volume_id, range(2 * GIB, 0)).await.unwrap();
    assert_eq!(in_lake().await, Ok((2 * GIB, 2 * GIB)));
    let (code, why) = plugin.expand(&made.volume_id, range(5 * GIB, 0)).await.unwrap_err();
    assert!(code == Code::OutOfRange && why.contains("left"), "{code:?} {why}");
    let large = CreateVolumeRequest { capacity_range: range(3 * GIB, 0), ..request("pvc-2") };
    assert_eq!(plugin.refused(large).await.0, Code::OutOfRange);
    // Another store declares none.
    assert_eq!(plugin.capacity(|_| {}).await, Ok((i64::MAX, i64::MAX)));
    let none = plugin.capacity(|request| request.parameters = with(&[("store", "static-only")])).await;
    assert_eq!(none, Ok((0, 0)));
    let block = plugin.capacity(|request| request.volume_capabilities = vec![block()]).await;
    assert_eq!(block, Ok((0, 0)));
    let topology = Topology { segments: map(&[("csi.example.org/zone", "a")]) };
    let anywhere = plugin.capacity(|request| request.accessible_topology = Some(topology)).await;
    assert_eq!(anywhere, Ok((i64::MAX, i64::MAX)));
    for words in [&[("store", "sea")][..], &[("store", "lake"), ("colour", "red")]] {
        let refused = plugin.capacity(|request| request.parameters = with(words)).await;
        assert_eq!(refused, Err(Code::InvalidArgument));
    }
    let malformed = plugin.capacity(|request| request.volume_capabilities = vec![VolumeCapability::default()]).await;
    assert_eq!(malformed, Err(Code::InvalidArgument));
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_expanded_and_modified_by_its_id() {
    let plugin = plugin();
    let made = plugin.create(request("pvc-1")).await.unwrap();
    let id = made.volume_id.as_str();
    assert_eq!(plugin.expand(id, range(2 * GIB, 0)).await, Ok(2 * GIB));
    assert_eq!(plugin.expand(id, range(GIB, 0)).await, Ok(2 * GIB));
    plugin.modify(id, &[("ttl", "9s"), ("memory", "64Mi"), ("csi.storage.k8s.io/pvc/name", "x")]).await.unwrap();
    let got =
        plugin.controller.controller_get_volume(Request::new(ControllerGetVolumeRequest { volume_id: id.into() }));
    let got = got.await.unwrap().into_inner().volume.unwrap();
    assert_eq!((got.capacity_bytes, &got.volume_context), (2 * GIB, &made.volume_context));
    let of = |words: &[(&str, &str)]| map(words);
    for (words, confirmed) in [(of(&[("ttl", "9s")]), true), (of(&[("ttl", "8s")]), false), (of(&[("x", "y")]), false)]
    {
        let answer = plugin.validate(id, |request| request.mutable_parameters = words.clone()).await.unwrap();
        assert_eq!(answer.confirmed.is_some(), confirmed, "{words:?}");
    }
    for (words, why) in [
        (&[("ttl", "1s"), ("uid", "7")][..], "fixed when a volume is made; what may change is memory"),
        (&[("ttl", "1s"), ("XXX_FakeKey", "x")], "known are memory"),
        (&[("ttl", "1s"), ("memory", "2Gi")], "limits.memory"),
        (&[("ttl", "1s"), ("timeout", "0s")], "from 1s"),
    ] {
        let (code, message) = plugin.modify(id, words).await.unwrap_err();
        assert!(code == Code::InvalidArgument && message.contains(why), "{why}: {code:?} {message}");
    }
    let unchanged = plugin.validate(id, |request| request.mutable_parameters = of(&[("ttl", "9s")])).await.unwrap();
    assert!(unchanged.confirmed.is_some(), "all words or none");

    for (id, sizes, code) in [
        ("", range(GIB, 0), Code::InvalidArgument),
        ("fake", range(GIB, 0), Code::NotFound),
        ("lake/pvc-1@aaaaaaaaaa", range(GIB, 0), Code::NotFound),
        ("sea/pvc-1@aaaaaaaaaa", range(GIB, 0), Code::FailedPrecondition),
        (id, None, Code::InvalidArgument),
        (id, range(-1, 0), Code::InvalidArgument),
        (id, range(0, GIB), Code::OutOfRange),
    ] {
        assert_eq!(plugin.expand(id, sizes).await.unwrap_err().0, code, "{id} {sizes:?}");
    }
    for (id, code) in [("", Code::InvalidArgument), ("fake", Code::NotFound), ("lake/x@aaaaaaaaaa", Code::NotFound)] {
        assert_eq!(plugin.modify(id, &[("ttl", "1s")]).await.unwrap_err().0, code, "{id}");
    }
    let guard = plugin.controller.0.inflight.enter("lake/pvc-1").unwrap();
    assert_eq!(plugin.modify(id, &[]).await.unwrap_err().0, Code::Aborted);
    assert_eq!(plugin.expand(id, range(GIB, 0)).await.unwrap_err().0, Code::Aborted);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn only_unhealthy_volumes_are_in_the_list_of_health() {
    use crate::backend::records::Records as _;
    let plugin = plugin().mended();
    let mut made = Vec::new();
    for n in 0..40 {
        made.push(plugin.create(request(&format!("pvc-{n}"))).await.unwrap());
    }
    assert_eq!(list_health(&plugin.controller, 0, "").await.unwrap().entries, vec![]);
    let mut sick: Vec<&str> = made.iter().step_by(4).map(|volume| volume.volume_id.as_str()).collect();
    for id in &sick {
        let id = VolumeId::parse(id).unwrap();
        plugin.records.remove(&volumes::record::volume_file_at(id.path())).await.unwrap();
    }
    sick.sort_unstable();
    for most in [0, 1, 3, 10] {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let page = list_health(&plugin.controller, most, &token).await.unwrap();
            assert!(most == 0 || page.entries.len() <= most as usize);
            found.extend(page.entries);
            token = page.next_token;
            if token.is_empty() {
                break;
            }
        }
        let mut ids: Vec<_> = found.iter().map(|health| health.volume_id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, sick, "{most} a page");
        assert!(found.iter().all(|health| health.health_statuses[0].status() == VolumeHealthErrorType::DataLoss));
    }
    assert_eq!(plugin.health(sick[0]).await.unwrap().health_statuses[0].reason, "DirectoryGone");
    assert_eq!(plugin.health(&made[1].volume_id).await.unwrap().health_statuses, vec![]);
    for (id, code) in [("", Code::InvalidArgument), ("x", Code::NotFound), ("lake/x@aaaaaaaaaa", Code::NotFound)] {
        assert_eq!(plugin.health(id).await.unwrap_err(), code);
    }
}

#[tokio::test(start_paused = true)]
async fn the_audit_trail_is_told_who_what_and_where() {
    let plugin = plugin();
    let audited = |subject: &Subject| {
        let mut seen = None;
        subject.tell(|entry| seen = Some(entry.clone()));
        seen.unwrap()
    };
    let mut create = request("pvc-1");
    create.parameters.extend(map(&[
        ("csi.storage.k8s.io/pvc/namespace", "team-a"),
        ("csi.storage.k8s.io/pvc/name", "data"),
        ("path", "${pvc.namespace}/${pvc.name}"),
    ]));
    let subject = Subject::default();
    let mut create = Request::new(create);
    create.extensions_mut().insert(subject.clone());
    let made = plugin.controller.create_volume(create).await.unwrap().into_inner().volume.unwrap();
    let entry = audited(&subject);
    let id = Some(made.volume_id.clone());
    assert_eq!((&entry.volume, entry.size), (&id, Some(1 << 30)));
    assert_eq!((entry.store.as_deref(), entry.path.as_deref()), (Some("lake"), Some("team-a/data")));
    assert_eq!((entry.namespace.as_deref(), entry.claim.as_deref()), (Some("team-a"), Some("data")));

    let subject = Subject::default();
    let mut delete = Request::new(DeleteVolumeRequest { volume_id: made.volume_id, ..Default::default() });
    delete.extensions_mut().insert(subject.clone());
    plugin.records.put("team-a/data/x");
    plugin.controller.delete_volume(delete).await.unwrap();
    let entry = audited(&subject);
    assert_eq!((entry.volume, entry.removed), (id, Some(2)));
    assert_eq!((entry.path.as_deref(), entry.claim.as_deref()), (Some("team-a/data"), Some("data")));
}
