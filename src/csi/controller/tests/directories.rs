//! Volumes that are directories with owners, on whichever server: one course for all.

use std::path::PathBuf;

use super::*;
use crate::csi::v1::VolumeHealthErrorType;

/// A server, and a stores file with two stores on it: `lake`, whose controller gives directories to anybody, and `pool`,
/// whose controller gives none away.
pub(super) trait Site {
    /// The stores file.
    fn stores(&self) -> PathBuf;

    /// Writes it, with these words of `lake`'s controller.
    fn write(&self, words: &str);

    /// Owner, group and mode of what lies in `lake`; `None` where nothing does.
    async fn shown(&self, at: &str) -> Option<(u32, u32, u32)>;

    /// How much lies in a directory of `lake`.
    async fn count(&self, dir: &str) -> usize;

    /// Renames directories of `lake`, and makes one, behind the controller's back.
    async fn rearrange(&mut self, renamed: &[(&str, &str)], made: &str);

    /// A controller that has just started.
    fn controller(&self) -> Controller {
        Controller::new(LiveStores::load(&self.stores()).unwrap(), "one", "csi.example.org", None).unwrap()
    }

    /// Whether anything lies there in `lake`.
    async fn has(&self, at: &str) -> bool {
        self.shown(at).await.is_some()
    }
}

/// What ails a volume.
pub(super) async fn troubles(controller: &Controller, id: &str) -> Vec<(VolumeHealthErrorType, String, String)> {
    let request = ControllerGetVolumeHealthRequest { volume_id: id.into(), ..Default::default() };
    let answer = controller.controller_get_volume_health(Request::new(request)).await.unwrap().into_inner();
    let statuses = answer.volume_health.unwrap_or_default().health_statuses;
    statuses.into_iter().map(|one| (one.status(), one.reason, one.message)).collect()
}

/// A directory of `uid` and `gid` lives, by controllers of which most have just started. `controller` is the owner of the
/// control plane's own directory.
pub(super) async fn lives(site: &impl Site, [uid, gid]: [u32; 2], controller: u32) {
    let first = site.controller();
    let (user, group) = (uid.to_string(), gid.to_string());
    let words = [("uid", user.as_str()), ("gid", group.as_str()), ("dirMode", "0750"), ("path", "teams/${pv.name}")];
    let id = create(&first, wanted("pvc-1", "lake", &words)).await.unwrap();
    assert_eq!(create(&site.controller(), wanted("pvc-1", "lake", &words)).await.unwrap(), id);
    assert_eq!(site.shown("teams/pvc-1").await, Some((uid, gid, 0o750)));
    let own = site.shown(".millrace").await.unwrap();
    assert_eq!((own.0, own.2), (controller, 0o700));
    let second = create(&first, of_claim("pvc-2", "team-a", &[])).await.unwrap();
    assert_eq!(site.shown("pvc-2").await.unwrap().0, 1000, "the one whom the namespace may act as");
    let mut all = vec![id.clone(), second.clone()];
    all.sort();
    let mut found = listed(&site.controller()).await;
    found.sort();
    assert_eq!(found, all);
    assert_eq!(expand(&site.controller(), &id).await.unwrap(), 2 << 30);
    let modify = ControllerModifyVolumeRequest {
        volume_id: id.clone(),
        mutable_parameters: map(&[("ttl", "9s")]),
        ..Default::default()
    };
    first.controller_modify_volume(Request::new(modify)).await.unwrap();
    for id in [&id, &id, &second] {
        delete(&site.controller(), id).await.unwrap();
    }
    assert!(!site.has("teams/pvc-1").await && !site.has("pvc-2").await);
    assert_eq!(listed(&first).await, Vec::<String>::new());
}

/// What cannot be had is `refused` with a code and a word. Whose controller gives nothing away may keep what is its `own`,
/// and a store without a controller's user has no volumes.
pub(super) async fn refuses(site: &impl Site, refused: &[(CreateVolumeRequest, Code, &str)], own: &[(&str, &str)]) {
    for (request, code, word) in refused {
        let error = create(&site.controller(), request.clone()).await.unwrap_err();
        assert!(error.code() == *code && error.message().contains(word), "{word}: {error:?}");
    }
    let id = create(&site.controller(), wanted("w", "pool", own)).await.unwrap();
    delete(&site.controller(), &id).await.unwrap();
    site.write("");
    let error = create(&site.controller(), of_claim("v", "team-a", &[])).await.unwrap_err();
    assert!(error.code() == Code::FailedPrecondition && error.message().contains("controllerUser"), "{error:?}");
}

/// Another directory in a volume's place is left alone, and told. `words` are an owner.
pub(super) async fn spares_what_took_its_place(site: &mut impl Site, words: &[(&str, &str)]) {
    let (controller, mut ids) = (site.controller(), Vec::new());
    for name in ["kept", "replaced", "gone"] {
        ids.push(create(&controller, wanted(name, "lake", words)).await.unwrap());
    }
    site.rearrange(&[("replaced", "aside"), ("gone", "away")], "replaced").await;
    for error in [expand(&controller, &ids[1]).await.map(drop), delete(&controller, &ids[1]).await] {
        let error = error.unwrap_err();
        assert!(error.code() == Code::FailedPrecondition && error.message().contains("replaced"), "{error:?}");
    }
    let (status, reason, _) = &troubles(&controller, &ids[1]).await[0];
    assert_eq!((*status, reason.as_str()), (VolumeHealthErrorType::Inaccessible, "DirectoryReplaced"));
    assert!(site.has("replaced").await && site.has("aside/.millrace").await);
    delete(&controller, &ids[2]).await.unwrap();
    delete(&controller, &ids[0]).await.unwrap();
    assert!(site.has("away").await && !site.has("kept").await);
}

/// Two controllers that are asked at once make one volume, with one record.
pub(super) async fn is_made_once_by_two(site: &impl Site, rounds: usize) {
    for round in 0..rounds {
        let name = format!("pvc-{round}");
        let (one, two) = (site.controller(), site.controller());
        let request = || of_claim(&name, "team-a", &[]);
        let (one, two) = tokio::join!(create(&one, request()), create(&two, request()));
        assert_eq!(one.unwrap(), two.unwrap());
        assert_eq!(site.count(&format!("{name}/.millrace/volume.json")).await, 1);
    }
}
