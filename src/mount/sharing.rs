//! Which targets may share a worker. Pure.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Publish;
use crate::auth::identity;

/// Two targets share a worker where these are equal, but for the principal, which the credential implies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Sharing {
    /// A hash of the volume with its options, the pods' namespace and their fsGroup.
    pub(super) with: String,
    /// A keyed hash of the whole credential: a key id alone is only a claim.
    pub(super) credential: String,
    /// A keyed hash of whom the credential is of.
    pub(super) principal: String,
}

impl Sharing {
    /// What `request` may share a worker with. A pod of which nothing is known shares with none, so that its own target
    /// is part of it.
    pub(super) fn of(request: &Publish, key: &[u8; 64]) -> Sharing {
        let alone = request.namespace.is_none().then_some(&request.target);
        let with = json!([request.spec, request.namespace, request.fs_group, alone]);
        Sharing {
            with: HEXLOWER.encode(&Sha256::digest(with.to_string())),
            credential: identity::fingerprint(&request.credential, key),
            principal: identity::hash(&request.credential, key),
        }
    }

    /// What decides the uid of the worker: the same for one owner.
    pub(super) fn uid_seed(&self, request: &Publish) -> u32 {
        let digest = owner(self, request);
        u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
    }

    /// A hash of whose a uid and a part of the cache are: the same for one volume, principal, namespace, fsGroup and
    /// options, whatever becomes of the credential and of the store's addresses.
    pub(super) fn owner(&self, request: &Publish) -> String {
        HEXLOWER.encode(&owner(self, request)[..16])
    }
}

fn owner(sharing: &Sharing, request: &Publish) -> [u8; 32] {
    let spec = &request.spec;
    let words =
        json!([spec.volume_id, spec.read_only, spec.options, request.namespace, request.fs_group, sharing.principal]);
    Sha256::digest(words.to_string()).into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::auth::{Credential, Secret};
    use crate::backend;
    use crate::config::{VolumeOptions, VolumeSpec};
    use crate::mount::Consumer;

    const KEY: [u8; 64] = [7; 64];

    /// What a pod of the namespace `team-a` asks for.
    pub(in super::super) fn request() -> Publish {
        Publish {
            target: "/pods/1".into(),
            spec: VolumeSpec {
                volume_id: "v".into(),
                store: "lake".into(),
                backend: backend::Config::S3(backend::s3::Config::at("http://127.0.0.1:1", "bucket")),
                path: "data".into(),
                generation: None,
                snapshot: None,
                quota: false,
                read_only: false,
                most_memory: 1 << 30,
                options: VolumeOptions::default(),
            },
            credential: credential("id", "key", None),
            arguments: "a".into(),
            single_writer: false,
            namespace: Some("team-a".into()),
            pod: None,
            service_account: None,
            fs_group: None,
            consumer: Consumer::default(),
        }
    }

    fn credential(key_id: &str, secret: &str, token: Option<&str>) -> Credential {
        Credential::S3 {
            key_id: key_id.into(),
            secret_key: Secret::new(secret.into()),
            session_token: token.map(|token| Secret::new(token.into())),
        }
    }

    type Change = fn(&mut Publish);

    #[test]
    fn everything_but_the_target_keeps_two_apart() {
        let other = Publish { target: "/pods/2".into(), arguments: "b".into(), ..request() };
        assert_eq!(Sharing::of(&request(), &KEY), Sharing::of(&other, &KEY));
        let changes: [(&str, Change); 10] = [
            ("volume", |r| r.spec.volume_id = "w".into()),
            ("path", |r| r.spec.path = "other".into()),
            ("options", |r| r.spec.options.uid = 7),
            ("read-only", |r| r.spec.read_only = true),
            ("namespace", |r| r.namespace = Some("team-b".into())),
            ("fsGroup", |r| r.fs_group = Some(0)),
            ("secret", |r| r.credential = credential("id", "other", None)),
            ("token", |r| r.credential = credential("id", "key", Some("t"))),
            ("key id", |r| r.credential = credential("other", "key", None)),
            ("anonymous", |r| r.credential = Credential::Anonymous),
        ];
        for (what, change) in changes {
            let mut changed = request();
            change(&mut changed);
            assert_ne!(Sharing::of(&request(), &KEY), Sharing::of(&changed, &KEY), "{what}");
        }
    }

    #[test]
    fn a_pod_of_which_nothing_is_known_is_alone() {
        let unknown = |target: &str| Publish { target: target.into(), namespace: None, ..request() };
        let of = |request: &Publish| Sharing::of(request, &KEY);
        assert_ne!(of(&unknown("/pods/1")), of(&unknown("/pods/2")));
        assert_ne!(of(&unknown("/pods/1")), of(&request()));
        assert_eq!(of(&unknown("/pods/1")), of(&unknown("/pods/1")));
    }

    #[test]
    fn a_uid_stays_when_the_secret_is_renewed() {
        let seed = |request: &Publish| Sharing::of(request, &KEY).uid_seed(request);
        let mut renewed = request();
        renewed.credential = credential("id", "renewed", None);
        renewed.target = "/pods/2".into();
        assert_eq!(seed(&renewed), seed(&request()));
        renewed.credential = Credential::Anonymous;
        assert_ne!(seed(&renewed), seed(&request()));
        let other = Publish { namespace: Some("team-b".into()), ..request() };
        assert_ne!(seed(&other), seed(&request()));
    }
}
