//! Which volume is at which target, which targets share a mount, and as which uid its worker runs: decided in one step
//! each, so that two calls at once agree.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::parts::PartId;
use super::shared::Shared;
use super::sharing::Sharing;
use super::state::{MountId, MountRecord, TargetRecord};
use super::{Consumer, Error, Publish};

/// A target that has not been published again for so long does not count where a credential changes: the kubelet
/// republishes each running pod's volumes about every minute, and not those of a pod that is being ended.
pub(super) const SILENCE: Duration = Duration::from_secs(5 * 60);

/// All publications of this node, begun or done, and the mounts behind them.
#[derive(Debug)]
pub(super) struct Claims {
    /// First uid of the range and how many; `None` where workers keep the node plugin's.
    range: Option<(u32, u32)>,
    targets: HashMap<PathBuf, Claim>,
    mounts: HashMap<MountId, Arc<Shared>>,
    /// The mounts that another target may join.
    open: HashMap<Sharing, MountId>,
    uids: HashMap<u32, MountId>,
    /// Uids of parts of the cache: whoever is to use the part has it, and nobody else.
    kept: HashMap<u32, PartId>,
}

#[derive(Debug)]
struct Claim {
    volume_id: String,
    single_writer: bool,
    mount: MountId,
    /// The hash of the credential that the last publish brought, and when it came.
    brought: String,
    heard: Instant,
    /// Why the store refused it.
    refused: Option<String>,
    /// Whom the volume is shown to there.
    consumer: Consumer,
}

/// A target, for whoever asks how it is.
#[derive(Debug, Clone)]
pub(super) struct Claimed {
    pub(super) target: PathBuf,
    /// What it shows.
    pub(super) mount: Option<Arc<Shared>>,
    /// The hash of the credential that it last brought.
    pub(super) brought: String,
    /// Why the store refused that.
    pub(super) refused: Option<String>,
}

impl Claims {
    pub(super) fn new(range: Option<(u32, u32)>) -> Claims {
        Claims {
            range,
            targets: HashMap::new(),
            mounts: HashMap::new(),
            open: HashMap::new(),
            uids: HashMap::new(),
            kept: HashMap::new(),
        }
    }

    /// Claims `target` and makes it one of those of the mount that `sharing` leads to: one that is there, or a new one,
    /// which nobody has begun to make.
    pub(super) fn join(&mut self, target: &Path, request: &Publish, sharing: Sharing) -> Result<Arc<Shared>, Error> {
        let volume_id = &request.spec.volume_id;
        let other = self.targets.iter().find(|(at, claim)| {
            *at != target && claim.volume_id == *volume_id && (claim.single_writer || request.single_writer)
        });
        if let Some((at, _)) = other {
            return Err(Error::SecondWriter(format!(
                "volume {volume_id} has access mode SINGLE_NODE_SINGLE_WRITER (ReadWriteOncePod) and is published at \
                 {} already",
                at.display()
            )));
        }
        let there = self.open.get(&sharing).and_then(|id| self.mounts.get(id)).cloned();
        let mount = match there {
            Some(mount) => mount,
            None => {
                let part = PartId::of(request, &sharing);
                let uid = self.free_uid(sharing.uid_seed(request), part.as_ref())?;
                let record = MountRecord::begin(volume_id.clone(), sharing.clone(), uid)
                    .shown(&request.consumer, &request.spec.store);
                let mount = Arc::new(Shared::new(MountId::random(), record));
                self.adopt_mount(&mount);
                self.open.insert(sharing, mount.id.clone());
                mount
            }
        };
        let claim = Claim {
            volume_id: volume_id.clone(),
            single_writer: request.single_writer,
            mount: mount.id.clone(),
            brought: mount.record().sharing.credential.clone(),
            heard: Instant::now(),
            refused: None,
            consumer: request.consumer.clone(),
        };
        self.targets.insert(target.to_owned(), claim);
        Ok(mount)
    }

    /// Takes over a mount that was made before a restart; nobody joins it until [`Claims::open`].
    pub(super) fn adopt_mount(&mut self, mount: &Arc<Shared>) {
        if let Some(uid) = mount.record().uid {
            self.uids.insert(uid, mount.id.clone());
        }
        self.mounts.insert(mount.id.clone(), mount.clone());
    }

    /// Takes over a claim to `mount` that was made before a restart, and with it that its credential is in force.
    pub(super) fn adopt_target(&mut self, record: &TargetRecord, mount: &Shared) {
        let claim = Claim {
            volume_id: record.volume_id.clone(),
            single_writer: record.single_writer,
            mount: record.mount.clone(),
            brought: mount.record().sharing.credential.clone(),
            heard: Instant::now(),
            refused: None,
            consumer: record.consumer.clone(),
        };
        self.targets.insert(record.target.clone(), claim);
    }

    /// Lets others join `mount`, where no other mount has its place.
    pub(super) fn open(&mut self, mount: &Shared) {
        self.open.entry(mount.record().sharing.clone()).or_insert_with(|| mount.id.clone());
    }

    /// Lets nobody join `mount` any more.
    pub(super) fn close(&mut self, mount: &Shared) {
        self.open.retain(|_, id| *id != mount.id);
    }

    /// Notes the credential that a repeated publish of `target` brings.
    pub(super) fn bring(&mut self, target: &Path, credential: &str) {
        if let Some(claim) = self.targets.get_mut(target) {
            if claim.brought != credential {
                credential.clone_into(&mut claim.brought);
                claim.refused = None;
            }
            claim.heard = Instant::now();
        }
    }

    /// Notes that the store refused what `target` brought.
    pub(super) fn refuse(&mut self, target: &Path, why: &str) {
        if let Some(claim) = self.targets.get_mut(target) {
            claim.refused = Some(why.to_owned());
        }
    }

    /// Lets nobody join `mount` any more, as all its targets have brought this credential, or are silent: one that joined
    /// between the count and that would have another's. Else how many there are, and how many are still to bring it.
    pub(super) fn close_if_all_brought(&mut self, mount: &Shared, credential: &str) -> Result<(), (usize, usize)> {
        match self.count_without(mount, credential) {
            (_, 0) => {
                self.close(mount);
                Ok(())
            }
            counts => Err(counts),
        }
    }

    /// How many targets `mount` has, and how many of them have brought another credential than this one and are not
    /// silent.
    fn count_without(&self, mount: &Shared, credential: &str) -> (usize, usize) {
        let all = || self.targets.values().filter(|claim| claim.mount == mount.id);
        let without = all().filter(|claim| claim.brought != credential && claim.heard.elapsed() < SILENCE);
        (all().count(), without.count())
    }

    /// The targets of a volume, in order.
    pub(super) fn of_volume(&self, volume_id: &str) -> Vec<Claimed> {
        let claims = self.targets.iter().filter(|(_, claim)| claim.volume_id == volume_id);
        let claimed = |(target, claim): (&PathBuf, &Claim)| Claimed {
            target: target.clone(),
            mount: self.mounts.get(&claim.mount).cloned(),
            brought: claim.brought.clone(),
            refused: claim.refused.clone(),
        };
        let mut found: Vec<_> = claims.map(claimed).collect();
        found.sort_by(|a, b| a.target.cmp(&b.target));
        found
    }

    /// Gives the claim of `target` to `mount` back. True where nobody shows the mount any more, and so nobody will.
    pub(super) fn leave(&mut self, target: &Path, mount: &Shared) -> bool {
        if self.targets.get(target).is_some_and(|claim| claim.mount == mount.id) {
            self.targets.remove(target);
        }
        let unused = !self.targets.values().any(|claim| claim.mount == mount.id);
        if unused {
            self.close(mount);
        }
        unused
    }

    /// Gives the uid of a worker that has ended back.
    pub(super) fn release_uid(&mut self, mount: &Shared) {
        self.uids.retain(|_, id| *id != mount.id);
    }

    /// Gives this uid to nobody but who is to use the part.
    pub(super) fn keep_uid(&mut self, uid: u32, part: PartId) {
        self.kept.insert(uid, part);
    }

    /// The parts are no more.
    pub(super) fn forget_parts(&mut self, gone: &[PartId]) {
        self.kept.retain(|_, part| !gone.contains(part));
    }

    /// Forgets a mount that is no more.
    pub(super) fn forget(&mut self, mount: &Shared) {
        self.close(mount);
        self.release_uid(mount);
        self.mounts.remove(&mount.id);
    }

    /// Whether anything is known of this mount.
    pub(super) fn knows(&self, mount: &MountId) -> bool {
        self.mounts.contains_key(mount)
    }

    /// Whom volumes are shown to, each with its mount.
    pub(super) fn targets(&self) -> Vec<(Consumer, Arc<Shared>)> {
        let claims = self.targets.values();
        claims.filter_map(|claim| Some((claim.consumer.clone(), self.mounts.get(&claim.mount)?.clone()))).collect()
    }

    /// Whom `mount` is shown to.
    pub(super) fn consumers_of(&self, mount: &Shared) -> Vec<Consumer> {
        self.targets.values().filter(|claim| claim.mount == mount.id).map(|claim| claim.consumer.clone()).collect()
    }

    /// Every mount, with how many targets claim it.
    pub(super) fn mounts(&self) -> Vec<(Arc<Shared>, usize)> {
        let count = |mount: &Shared| self.targets.values().filter(|claim| claim.mount == mount.id).count();
        self.mounts.values().map(|mount| (mount.clone(), count(mount))).collect()
    }

    /// The mounts that no target claims. Nobody joins one of them any more.
    pub(super) fn unused(&mut self) -> Vec<Arc<Shared>> {
        let is_used = |mount: &Shared| self.targets.values().any(|claim| claim.mount == mount.id);
        let unused: Vec<_> = self.mounts.values().filter(|mount| !is_used(mount)).cloned().collect();
        for mount in &unused {
            self.close(mount);
        }
        unused
    }

    /// The uid of `part` where there is one that nobody has, else one that neither a worker nor a part has.
    fn free_uid(&self, seed: u32, part: Option<&PartId>) -> Result<Option<u32>, Error> {
        let Some((base, count)) = self.range else { return Ok(None) };
        let kept = self.kept.iter().find(|(_, of)| Some(*of) == part).map(|(uid, _)| *uid);
        kept.into_iter()
            .filter(|uid| !self.uids.contains_key(uid))
            .chain(
                (0..count).map(|step| base + (seed % count + step) % count).filter(|uid| !self.kept.contains_key(uid)),
            )
            .find(|uid| !self.uids.contains_key(uid))
            .map(Some)
            .ok_or_else(|| {
                Error::System(format!("all {count} worker uids from {base} on are in use; give the node a wider range"))
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::config::CacheMode;
    use crate::mount::sharing::tests::request;

    const KEY: [u8; 64] = [7; 64];

    fn join(claims: &mut Claims, target: &str, namespace: &str) -> Result<Arc<Shared>, Error> {
        join_as(claims, target, &Publish { namespace: Some(namespace.into()), ..request() })
    }

    fn join_as(claims: &mut Claims, target: &str, request: &Publish) -> Result<Arc<Shared>, Error> {
        let request = Publish { target: target.into(), ..request.clone() };
        claims.join(Path::new(target), &request, Sharing::of(&request, &KEY))
    }

    fn uid(mount: &Shared) -> u32 {
        mount.record().uid.unwrap()
    }

    #[test]
    fn equals_share_a_mount_until_the_last_has_left() {
        let mut claims = Claims::new(None);
        let first = join(&mut claims, "/1", "a").unwrap();
        let second = join(&mut claims, "/2", "a").unwrap();
        let other = join(&mut claims, "/3", "b").unwrap();
        assert!(first.id == second.id && first.id != other.id);
        assert!(!claims.leave(Path::new("/1"), &first) && !claims.leave(Path::new("/1"), &first));
        assert_eq!(join(&mut claims, "/4", "a").unwrap().id, first.id);
        assert!(!claims.leave(Path::new("/2"), &first) && claims.leave(Path::new("/4"), &first));
        assert!(claims.leave(Path::new("/4"), &first), "as often as it is asked");
        assert_eq!(claims.unused().len(), 1);
        let next = join(&mut claims, "/4", "a").unwrap();
        assert_ne!(next.id, first.id, "nobody joins what is being taken down");
        assert!(claims.leave(Path::new("/4"), &first), "another mount's claim is no claim to this one");
        claims.forget(&first);
        assert!(claims.unused().is_empty() && !claims.knows(&first.id) && claims.knows(&next.id));
    }

    #[test]
    fn nobody_joins_what_is_closed_and_of_two_the_first_is_joined() {
        let mut claims = Claims::new(None);
        let first = join(&mut claims, "/1", "a").unwrap();
        claims.close(&first);
        let second = join(&mut claims, "/2", "a").unwrap();
        assert_ne!(first.id, second.id);
        claims.open(&first);
        assert_eq!(join(&mut claims, "/3", "a").unwrap().id, second.id);
    }

    #[tokio::test(start_paused = true)]
    async fn a_credential_waits_for_all_who_are_not_silent() {
        let mut claims = Claims::new(None);
        let mount = join(&mut claims, "/1", "a").unwrap();
        for target in ["/2", "/3"] {
            join(&mut claims, target, "a").unwrap();
        }
        let old = mount.record().sharing.credential.clone();
        assert_eq!(claims.count_without(&mount, &old), (3, 0));
        assert_eq!(claims.count_without(&mount, "new"), (3, 3));
        claims.bring(Path::new("/1"), "new");
        assert_eq!((claims.count_without(&mount, "new"), claims.count_without(&mount, &old)), ((3, 2), (3, 1)));
        tokio::time::advance(SILENCE).await;
        claims.bring(Path::new("/2"), &old);
        assert_eq!(claims.count_without(&mount, "new"), (3, 1), "one of them is not heard of any more");
        assert_eq!(claims.close_if_all_brought(&mount, "new"), Err((3, 1)));
        assert_eq!(join(&mut claims, "/4", "a").unwrap().id, mount.id, "still in force");
        claims.leave(Path::new("/4"), &mount);
        claims.bring(Path::new("/2"), "new");
        assert_eq!(claims.count_without(&mount, "new"), (3, 0));
        assert_eq!(claims.close_if_all_brought(&mount, "new"), Ok(()));
        assert_ne!(join(&mut claims, "/4", "a").unwrap().id, mount.id, "it has the one before");

        claims.refuse(Path::new("/2"), "no such key");
        let refused = |claims: &Claims| claims.of_volume("v")[1].refused.clone();
        assert_eq!(refused(&claims).as_deref(), Some("no such key"));
        claims.bring(Path::new("/2"), "new");
        assert!(refused(&claims).is_some());
        claims.bring(Path::new("/2"), &old);
        assert_eq!((refused(&claims), claims.of_volume("w").len()), (None, 0));
    }

    #[test]
    fn a_uid_is_stable_and_no_two_live_workers_share_one() {
        let mut claims = Claims::new(Some((1000, 3)));
        let first = join(&mut claims, "/1", "a").unwrap();
        claims.close(&first);
        let second = join(&mut claims, "/2", "a").unwrap();
        let third = join(&mut claims, "/3", "b").unwrap();
        assert_eq!(HashSet::from([uid(&first), uid(&second), uid(&third)]), HashSet::from([1000, 1001, 1002]));
        let error = join(&mut claims, "/4", "c").unwrap_err();
        assert!(matches!(error, Error::System(_)));
        claims.release_uid(&first);
        claims.close(&second);
        assert_eq!(uid(&join(&mut claims, "/5", "a").unwrap()), uid(&first), "stable");

        let mut restarted = Claims::new(Some((1000, 3)));
        restarted.adopt_mount(&first);
        assert_ne!(uid(&join(&mut restarted, "/6", "a").unwrap()), uid(&first), "recorded uids stay taken");
    }

    #[test]
    fn the_uid_of_a_part_is_its_owners_alone() {
        let mut claims = Claims::new(Some((1000, 3)));
        let cached = |namespace: &str| {
            let mut request = Publish { namespace: Some(namespace.into()), ..request() };
            request.spec.options.cache = CacheMode::Disk;
            request
        };
        let part = |request: &Publish| PartId::of(request, &Sharing::of(request, &KEY)).unwrap();
        // Wherever its owner's own seed leads, and also where the range is another by now.
        claims.keep_uid(1001, part(&cached("a")));
        claims.keep_uid(7, part(&cached("b")));
        for target in ["/1", "/2"] {
            let mount = join(&mut claims, target, "c").unwrap();
            assert!([1000, 1002].contains(&uid(&mount)));
            claims.close(&mount);
        }
        assert!(join(&mut claims, "/3", "c").is_err());
        let first = join_as(&mut claims, "/4", &cached("a")).unwrap();
        assert_eq!((uid(&first), uid(&join_as(&mut claims, "/5", &cached("b")).unwrap())), (1001, 7));
        claims.close(&first);
        assert!(join_as(&mut claims, "/6", &cached("a")).is_err(), "one worker has it");
        claims.release_uid(&first);
        claims.forget_parts(&[part(&cached("a"))]);
        assert_eq!(uid(&join(&mut claims, "/7", "d").unwrap()), 1001);
    }

    #[test]
    fn a_single_writer_stays_alone() {
        let mut claims = Claims::new(None);
        let of = |volume_id: &str, single_writer| {
            let mut request = Publish { single_writer, ..request() };
            request.spec.volume_id = volume_id.into();
            request
        };
        let mount = join_as(&mut claims, "/1", &of("v", true)).unwrap();
        join_as(&mut claims, "/2", &of("w", false)).unwrap();
        for single_writer in [true, false] {
            let error = join_as(&mut claims, "/3", &of("v", single_writer)).unwrap_err();
            assert!(matches!(&error, Error::SecondWriter(why) if why.contains("/1")), "{error}");
        }
        assert!(join_as(&mut claims, "/3", &of("w", true)).is_err());
        join_as(&mut claims, "/1", &of("v", true)).unwrap();
        claims.leave(Path::new("/1"), &mount);
        join_as(&mut claims, "/3", &of("v", true)).unwrap();
    }
}
