//! What a NodePublishVolume request means: which volume, how shown, to whom. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::super::capability::Access;
use super::super::redact::SECRET_CONTEXT;
use super::super::v1::volume_capability::AccessType;
use super::super::v1::{NodePublishVolumeRequest, VolumeCapability};
use super::super::volume_id::{LONGEST_STATIC_PATH, Shown, VolumeId, check_opaque, parse_path};
use super::super::{CONTEXT_FORMAT, status};
use super::pod::Pod;
use super::{inline, pod, target_of};
use crate::auth::{Credential, keys};
use crate::backend;
use crate::config::parameters::{Parameters, Place};
use crate::config::stores::{Credentials, Identities, Store, Stores, Unlisted, User};
use crate::config::{SnapshotSpec, VolumeOptions, VolumeSpec, quoted};
use crate::mount::{Consumer, Publish};
use crate::observability::audit::Entry;

/// Where a volume lies.
struct Whereabouts<'a> {
    store: &'a Store,
    path: backend::Path,
    generation: Option<String>,
    snapshot: Option<SnapshotSpec>,
    /// It is a snapshot that is shown.
    is_frozen: bool,
}

/// Reads `request`; what lies in the store is not looked at.
///
/// # Errors
/// INVALID_ARGUMENT for what no retry mends, NOT_FOUND for an id that is none of ours, FAILED_PRECONDITION where the
/// store is not what the volume was made in, PERMISSION_DENIED where an inline volume may not name what it names.
pub(super) fn understand(request: &NodePublishVolumeRequest, stores: &Stores) -> Result<Publish, Status> {
    check_opaque(&request.volume_id)?;
    let target = target_of(&request.target_path)?;
    let access = Access::of(request.volume_capability.as_ref())?;
    let parameters = Parameters::parse(&request.volume_context, Place::VolumeContext)?;
    if let Some(format) = request.volume_context.get("format").filter(|format| *format != CONTEXT_FORMAT) {
        return Err(status::failed_precondition(format!(
            "the volume's context has format {}, and this version of the driver knows {CONTEXT_FORMAT}: update the driver on \
             this node",
            quoted(format)
        )));
    }
    let pod = Pod::of(&request.volume_context, &target);
    let is_inline = inline::is_inline(&request.volume_id, &request.volume_context, pod.as_ref());
    if is_inline && parameters.store.is_none() {
        return Err(status::invalid(
            "an inline volume names its store, and its directory as path, in volumeAttributes",
        ));
    }
    let Whereabouts { store, path, generation, snapshot, is_frozen } =
        whereabouts(&request.volume_id, &parameters, stores)?;
    if is_inline {
        inline::allow(store, &path, pod.as_ref())?;
        if parameters.quota {
            return Err(status::permission_denied(
                "an inline volume's attributes are its pod's author's, and whether a directory has a quota is the \
                 administrator's to say: leave quota out",
            ));
        }
    }
    if request.volume_context.get("location").is_some_and(|location| *location != store.location_hash()) {
        return Err(status::failed_precondition(format!(
            "the volume was made when store {:?} lay elsewhere (another backend, endpoint, bucket or prefix): the \
             stores file of this node is not that of the controller, or was changed",
            store.name
        )));
    }
    if parameters.options.memory > store.memory {
        return Err(status::invalid(format!(
            "the volume's memory of {} bytes is more than the {} that store {:?} allows (limits.memory)",
            parameters.options.memory, store.memory, store.name
        )));
    }
    let mut options = parameters.options;
    let read_only = request.readonly || access.read_only || options.immutable || is_frozen;
    let (credential, owner) = credential(request, store, pod.as_ref(), parameters.user.as_deref(), is_inline)?;
    match (owner, access.group) {
        // What the server keeps is shown. The pod's author chooses its group, so that it has no say here.
        (Some(owner), _) => (options.uid, options.gid) = owner,
        (_, Some(group)) => belong_to(group, read_only, &mut options),
        (_, None) => {}
    }
    let consumer = consumer(pod.as_ref(), &target, is_inline);
    let (namespace, pod, service_account) = match pod {
        Some(pod) => (Some(pod.namespace), pod.name, pod.service_account),
        None => (None, None, None),
    };
    Ok(Publish {
        credential,
        arguments: arguments(request),
        single_writer: access.single_writer,
        consumer,
        namespace,
        pod,
        service_account,
        fs_group: access.group,
        target,
        spec: VolumeSpec {
            volume_id: request.volume_id.clone(),
            store: store.name.clone(),
            backend: store.backend.clone(),
            path: path.to_string(),
            generation,
            snapshot,
            quota: parameters.quota,
            read_only,
            most_memory: store.memory,
            options,
        },
    })
}

/// Whom the volume is shown to.
fn consumer(pod: Option<&Pod>, target: &Path, is_inline: bool) -> Consumer {
    let persistent_volume = match is_inline {
        true => "inline",
        false => pod::persistent_volume_in(target).unwrap_or_default(),
    };
    let of = |word: Option<&String>| word.cloned().unwrap_or_default();
    Consumer {
        namespace: of(pod.map(|pod| &pod.namespace)),
        pod: of(pod.and_then(|pod| pod.name.as_ref())),
        pod_uid: of(pod.map(|pod| &pod.uid)),
        persistent_volume: persistent_volume.to_owned(),
    }
}

/// What the kubelet does to a volume of a pod with an fsGroup (pkg/volume/volume_linux.go): everything belongs to the
/// group, which may do what its owner may, and directories hand the group on.
fn belong_to(group: u32, read_only: bool, options: &mut VolumeOptions) {
    let may = if read_only { 0o440 } else { 0o660 };
    options.gid = group;
    options.file_mode |= may;
    options.dir_mode |= may | 0o2110;
}

/// With a `store` attribute the volume is static and its attributes decide; without one the id does.
fn whereabouts<'a>(volume_id: &str, given: &Parameters, stores: &'a Stores) -> Result<Whereabouts<'a>, Status> {
    if let Some(name) = &given.store {
        let store = stores.get(name).ok_or_else(|| {
            status::invalid(format!(
                "unknown store {} in the volume's attributes; known are {}",
                quoted(name),
                stores.names()
            ))
        })?;
        if given.snapshot.is_some() {
            return Err(status::invalid(
                "the volume's attributes have a snapshot, which is the driver's own word: name the store, its path, and the \
                 snapshot's name as version",
            ));
        }
        let path = static_path(given)?;
        let path = match &given.version {
            None => path,
            Some(name) => backend::snapshot_of(&store.backend, &path, name)
                .map_err(|error| status::invalid(format!("the volume's attribute version: {}", error.message)))?,
        };
        let is_frozen = given.version.is_some();
        return Ok(Whereabouts { store, path, generation: None, snapshot: None, is_frozen });
    }
    if let Some(word) = [("path", &given.path), ("version", &given.version)]
        .into_iter()
        .find_map(|(word, given)| given.as_ref().map(|_| word))
    {
        return Err(status::invalid(format!(
            "the volume's attributes have a {word} and no store: name the store, too"
        )));
    }
    let id = VolumeId::parse(volume_id)?;
    let store = stores.get(id.store()).ok_or_else(|| {
        status::failed_precondition(format!(
            "the volume lies in store {}, which this node does not know; known are {}",
            quoted(id.store()),
            stores.names()
        ))
    })?;
    let generation = Some(id.generation().to_string());
    let snapshot = given.snapshot.as_deref().map(shown).transpose()?;
    let is_frozen = snapshot.is_some();
    Ok(Whereabouts { store, path: id.path().clone(), generation, snapshot, is_frozen })
}

/// The snapshot that a volume shows, in the controller's words.
fn shown(text: &str) -> Result<SnapshotSpec, Status> {
    let shown = Shown::parse(text)
        .map_err(|why| status::invalid(format!("the volume's context has the snapshot {}: {why}", quoted(text))))?;
    Ok(SnapshotSpec {
        path: shown.path.to_string(),
        generation: shown.volume.to_string(),
        name: shown.snapshot.to_string(),
    })
}

/// The directory that attributes name; the store's root where they name none.
fn static_path(given: &Parameters) -> Result<backend::Path, Status> {
    let path = given.path.as_deref().unwrap_or_default();
    parse_path(path, LONGEST_STATIC_PATH)
        .map_err(|why| status::invalid(format!("the volume's attribute path {}: {why}", quoted(path))))
}

/// Notes for the audit trail what `request` asks for, whether or not it may be had. Of the pod only what is known to be
/// the kubelet's word.
pub(super) fn describe(request: &NodePublishVolumeRequest, entry: &mut Entry) {
    let context = &request.volume_context;
    (entry.store, entry.path) = match (context.get("store"), VolumeId::parse(&request.volume_id)) {
        (Some(store), _) => (Some(store.clone()), Some(context.get("path").cloned().unwrap_or_default())),
        (None, Ok(id)) => (Some(id.store().to_owned()), Some(id.path().to_string())),
        (None, Err(_)) => (None, None),
    };
    let pod = target_of(&request.target_path).ok().and_then(|target| Pod::of(context, &target));
    if let Some(Pod { namespace, uid, name, service_account }) = pod {
        (entry.namespace, entry.pod_uid) = (Some(namespace), Some(uid));
        (entry.pod, entry.service_account) = (name, service_account);
    }
}

/// Whose credential the mount uses, and the uid and gid of its user where the store's table has them. `chosen` is the
/// volume's attribute `user`.
fn credential(
    request: &NodePublishVolumeRequest,
    store: &Store,
    pod: Option<&Pod>,
    chosen: Option<&str>,
    is_inline: bool,
) -> Result<(Credential, Option<(u32, u32)>), Status> {
    match &store.credentials {
        Credentials::Listed(identities) => {
            if matches!(store.backend, backend::Config::Hdfs(_)) && keys::is_for_kerberos(&request.secrets) {
                return Err(status::invalid(format!(
                    "the Secret has a principal, a keytab or a token, and store {:?} has authentication: simple, which proves nothing: \
                     leave them out, or have the store's administrator set authentication: kerberos",
                    store.name
                )));
            }
            let user = listed(request, identities, pod, chosen, is_inline)?;
            let credential = match &store.backend {
                backend::Config::Hdfs(_) => Credential::Hadoop { user: user.name.clone() },
                backend::Config::Nfs(_) | backend::Config::S3(_) => {
                    Credential::Sys { uid: user.uid, gid: user.gid, groups: user.groups.clone() }
                }
            };
            Ok((credential, Some((user.uid, user.gid))))
        }
        Credentials::Principal(identities) => {
            let realm = store.backend.realm().map(|realm| realm.name.as_str()).unwrap_or_default();
            principal(request, realm, identities.as_ref(), pod, chosen)
        }
        _ if chosen.is_some() => Err(status::invalid(format!(
            "the volume's attributes have a user, and store {:?} has no table of users (identities): leave user out",
            store.name
        ))),
        Credentials::None => Ok((Credential::Anonymous, None)),
        Credentials::Secret if request.secrets.is_empty() => Err(status::invalid(format!(
            "store {:?} needs a credential and the request has none: name a Secret with S3 keys, such as key_id and \
             access_key, in nodePublishSecretRef of the PersistentVolume or in the StorageClass's parameters \
             csi.storage.k8s.io/node-publish-secret-name and -namespace",
            store.name
        ))),
        Credentials::Secret => Ok((keys::s3(&request.secrets)?, None)),
    }
}

/// The principal of the request's Secret, or whom its token is of, which the store's table has to list for the pod's namespace, if there is one.
fn principal(
    request: &NodePublishVolumeRequest,
    realm: &str,
    identities: Option<&Identities>,
    pod: Option<&Pod>,
    chosen: Option<&str>,
) -> Result<(Credential, Option<(u32, u32)>), Status> {
    if chosen.is_some() {
        return Err(status::invalid(
            "the volume's attributes have a user, and the store demands Kerberos, where the principal in the Secret says who \
             it is: leave user out",
        ));
    }
    let credential = keys::kerberos(&request.secrets, realm)?;
    let Some(principal) = credential.principal() else { return Ok((credential, None)) };
    let Some(identities) = identities else {
        return Ok((credential, Some((backend::hdfs::NOBODY, backend::hdfs::NOBODY))));
    };
    let name = principal.split(['/', '@']).next().unwrap_or_default();
    let user = identities.user(pod.map(|pod| pod.namespace.as_str()), Some(name)).map_err(unlisted)?;
    let owner = (user.uid, user.gid);
    Ok((credential, Some(owner)))
}

/// The user that the store's table gives to the pod's namespace, or the one of them that was chosen.
fn listed<'a>(
    request: &NodePublishVolumeRequest,
    identities: &'a Identities,
    pod: Option<&Pod>,
    attribute: Option<&str>,
    is_inline: bool,
) -> Result<&'a User, Status> {
    if is_inline && attribute.is_some() {
        return Err(status::permission_denied(
            "an inline volume's attributes are its pod's author's, and choose no user: name the user in the Secret of \
             nodePublishSecretRef, or leave user out",
        ));
    }
    let secret = request.secrets.get("user").map(|user| user.trim());
    if let (Some(one), Some(other)) = (secret, attribute)
        && one != other
    {
        return Err(status::invalid(
            "the Secret and the volume's attributes name different users: leave one of them out",
        ));
    }
    identities.user(pod.map(|pod| pod.namespace.as_str()), secret.or(attribute)).map_err(unlisted)
}

fn unlisted(why: Unlisted) -> Status {
    match why {
        Unlisted::Nobody(why) => status::permission_denied(why),
        Unlisted::Several(why) => status::invalid(why),
    }
}

/// A hash of all that makes two publishes at one target the same: neither secrets nor tokens, which are renewed under
/// a running pod.
fn arguments(request: &NodePublishVolumeRequest) -> String {
    let sorted = |map: &std::collections::HashMap<String, String>| -> BTreeMap<String, String> {
        let public = map.iter().filter(|(word, _)| !SECRET_CONTEXT.contains(&word.as_str()));
        public.map(|(word, value)| (word.clone(), value.clone())).collect()
    };
    let VolumeCapability { access_mode, access_type } = request.volume_capability.clone().unwrap_or_default();
    let mount = match access_type {
        Some(AccessType::Mount(mount)) => json!([mount.fs_type, mount.mount_flags, mount.volume_mount_group]),
        Some(AccessType::Block(_)) | None => json!(null),
    };
    let all = json!([
        request.volume_id,
        sorted(&request.publish_context),
        access_mode.map(|access| access.mode),
        mount,
        request.readonly,
        sorted(&request.volume_context),
    ]);
    HEXLOWER.encode(&Sha256::digest(all.to_string()))
}
