//! What a CreateVolume means, and what it answers. Pure.

use std::collections::{BTreeMap, HashMap};

use tonic::Status;

use super::super::capability::{Access, is_readers};
use super::super::v1::{
    CapacityRange, CreateVolumeRequest, Topology, TopologyRequirement, Volume, VolumeContentSource,
    volume_content_source,
};
use super::super::volume_id::{Generation, LONGEST_ID, VolumeId, parse_path};
use super::super::volumes::placement::{DEFAULT_TEMPLATE, Names, place};
use super::super::volumes::{Claim, Record, Source, Wanted};
use super::super::{CONTEXT_FORMAT, status};
use super::snapshots;
use crate::backend::{self, hdfs, records::Directory};
use crate::config::parameters::{OPTION_WORDS, Parameters, Place, QUOTA_WORD, SNAPSHOT_WORD, is_kubernetes, modify};
use crate::config::stores::{Credentials, Deletion, Store, Stores};
use crate::config::{VolumeOptions, quoted};
use crate::topology::choose;

/// What the provisioner adds with `--extra-create-metadata`.
const CLAIM_NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";
const CLAIM_NAME: &str = "csi.storage.k8s.io/pvc/name";

/// The longest name in bytes: the size limit of CSI for a string.
const LONGEST_NAME: usize = 128;

/// Reads `request`; what lies in the store is not looked at.
///
/// # Errors
/// INVALID_ARGUMENT for what no retry mends.
pub(super) fn understand<'a>(request: &CreateVolumeRequest, stores: &'a Stores) -> Result<(&'a Store, Wanted), Status> {
    let name = checked_name(&request.name)?;
    if request.volume_capabilities.is_empty() {
        return Err(status::invalid("the request has no volume capabilities"));
    }
    for capability in &request.volume_capabilities {
        Access::of(Some(capability))?;
    }
    let (required, limit) = size(request.capacity_range.as_ref())?;
    let parameters = Parameters::parse(&request.parameters, Place::StorageClass)?;
    let store = store(parameters.store.as_deref(), stores)?;
    within(store, &parameters.options)?;
    let source = source(request, store)?;
    let mut modified = parameters.options.clone();
    modify(&mut modified, &request.mutable_parameters)?;
    within(store, &modified)?;
    let claim = claim(&request.parameters);
    let template = parameters.path.as_deref().unwrap_or(DEFAULT_TEMPLATE);
    let path = place(template, Names { volume: name, claim: claim.as_ref() }, &store.name)?;
    let wanted = Wanted {
        name: name.to_owned(),
        path: parse_path(&path, LONGEST_ID)?,
        required,
        limit,
        parameters: own_parameters(&request.parameters),
        mutable: own_parameters(&request.mutable_parameters),
        deletion: deletion(parameters.deletion, store)?,
        directory: directory(request, &parameters.options, store, claim.as_ref())?,
        location: store.location_hash(),
        claim,
        capacity: store.capacity,
        source,
    };
    Ok((store, wanted))
}

/// The topologies from which the volumes of `store` are reachable; none where that is from everywhere.
///
/// # Errors
/// RESOURCE_EXHAUSTED where none that is required lies within the store's residency.
pub(super) fn reachable(
    store: &Store,
    driver: &str,
    required: Option<&TopologyRequirement>,
) -> Result<Vec<Topology>, Status> {
    let requisite = required.into_iter().flat_map(|required| &required.requisite).map(|term| &term.segments);
    match choose(store.residency.as_ref(), driver, requisite) {
        Ok(terms) => Ok(terms.into_iter().map(|segments| Topology { segments }).collect()),
        Err(unmet) => Err(status::resource_exhausted(format!(
            "store {:?} has a residency: its {unmet}; run the pod on a node there, or use a StorageClass of another store",
            store.name
        ))),
    }
}

/// The volume of `record`, as the driver called `driver` tells of it. Its context has what a node needs to show it: where it lies
/// stands in its id, and in no attribute.
///
/// # Errors
/// INTERNAL for a record whose path or generation is none.
pub(super) fn volume(store: &Store, record: &Record, driver: &str) -> Result<Volume, Status> {
    let id = id_of(store, record)?;
    let options = record.parameters.iter().filter(|(word, _)| OPTION_WORDS.contains(&word.as_str()));
    let mut volume_context: HashMap<_, _> = options.map(|(word, value)| (word.clone(), value.clone())).collect();
    volume_context.insert("format".to_owned(), CONTEXT_FORMAT.to_owned());
    volume_context.insert("location".to_owned(), record.location.clone());
    if record.quota {
        volume_context.insert(QUOTA_WORD.to_owned(), true.to_string());
    }
    if let Some(source) = record.source.as_ref().filter(|source| source.view) {
        let shown = format!("{}@{}/{}", source.path, source.volume, source.snapshot);
        volume_context.insert(SNAPSHOT_WORD.to_owned(), shown);
    }
    let content_source = record.source.as_ref().map(|source| {
        let snapshot_id = format!("{}/{}@{}", store.name, source.path, source.snapshot);
        let snapshot = volume_content_source::SnapshotSource { snapshot_id };
        VolumeContentSource { r#type: Some(volume_content_source::Type::Snapshot(snapshot)) }
    });
    Ok(Volume {
        content_source,
        capacity_bytes: i64::try_from(record.size).unwrap_or(i64::MAX),
        volume_id: id.to_string(),
        volume_context,
        accessible_topology: reachable(store, driver, None)?,
    })
}

/// The id of the volume of `record`.
///
/// # Errors
/// INTERNAL for a record whose path or generation is none.
pub(super) fn id_of(store: &Store, record: &Record) -> Result<VolumeId, Status> {
    let bad = |why: &dyn std::fmt::Display| status::internal(format!("the record of {:?}: {why}", record.name));
    let generation = Generation::parse(&record.generation).map_err(|why| bad(&why))?;
    VolumeId::new(&store.name, &record.path, generation).map_err(|why| bad(&why))
}

/// The snapshot that the volume is to be made from, if any. Its generation alone is known here; whose it is, is looked up.
fn source(request: &CreateVolumeRequest, store: &Store) -> Result<Option<Source>, Status> {
    let Some(content) = &request.volume_content_source else { return Ok(None) };
    let id = match &content.r#type {
        Some(volume_content_source::Type::Snapshot(snapshot)) => snapshot.snapshot_id.as_str(),
        Some(volume_content_source::Type::Volume(_)) | None => {
            return Err(status::invalid("volumes here are made empty or from a snapshot: this driver has no clones"));
        }
    };
    snapshots::of_store_with(store)?;
    let id = snapshots::known(id)?;
    if id.store() != store.name {
        return Err(status::invalid(format!(
            "the snapshot lies in store {:?}, and the StorageClass names {:?}: a volume is made where its snapshot is",
            id.store(),
            store.name
        )));
    }
    Ok(Some(Source {
        path: id.path().to_string(),
        volume: String::new(),
        snapshot: id.generation().to_string(),
        view: request.volume_capabilities.iter().all(is_readers),
    }))
}

/// What DeleteVolume will do.
fn deletion(asked: Option<Deletion>, store: &Store) -> Result<Deletion, Status> {
    match (asked, &store.backend) {
        (Some(Deletion::All), backend::Config::Nfs(_) | backend::Config::Hdfs(_)) => Err(status::invalid(format!(
            "deletion: all means nothing to store {:?}, whose backend keeps no old versions: use current or keep",
            store.name
        ))),
        (asked, _) => Ok(asked.unwrap_or(store.deletion)),
    }
}

/// Whose the volume's directory is, where the store keeps owners: the StorageClass's uid, gid and dirMode, else the only
/// user that the store lists for the claim's namespace.
fn directory(
    request: &CreateVolumeRequest,
    options: &VolumeOptions,
    store: &Store,
    claim: Option<&Claim>,
) -> Result<Option<Directory>, Status> {
    let identities = match &store.credentials {
        Credentials::Listed(identities) => Some(identities),
        Credentials::Principal(identities) => identities.as_ref(),
        Credentials::Secret | Credentials::None => return Ok(None),
    };
    let is_given = |word: &str| request.parameters.contains_key(word);
    let namespace = claim.map(|claim| claim.namespace.as_str());
    let listed = match identities {
        Some(identities) => identities.user(namespace, None).map_err(|why| why.to_string()),
        None => Err("the store has no identities".to_owned()),
    };
    let owner = match (is_given("uid"), is_given("gid"), listed) {
        (true, true, _) => (options.uid, options.gid),
        (true, false, Ok(user)) if user.uid == options.uid => (user.uid, user.gid),
        (true, false, _) => return Err(status::invalid("the StorageClass gives a uid and no gid: give both")),
        (false, true, Ok(user)) => (user.uid, options.gid),
        (false, false, Ok(user)) => (user.uid, user.gid),
        (false, _, Err(why)) => {
            return Err(status::invalid(format!(
                "whose the volume's directory is to be is not known, since the StorageClass gives no uid and gid: {why}"
            )));
        }
    };
    if let backend::Config::Hdfs(config) = &store.backend {
        named(config, store, owner, is_given("gid"))?;
    }
    Ok(Some(Directory { uid: owner.0, gid: owner.1, mode: options.dir_mode }))
}

/// HDFS keeps names: the table has to have them. Where the StorageClass gives no group, one without a name stays that of
/// the directory above.
fn named(config: &hdfs::Config, store: &Store, (uid, gid): (u32, u32), is_group_given: bool) -> Result<(), Status> {
    let has = |names: &BTreeMap<String, u32>, number: u32| names.values().any(|known| *known == number);
    let missing = |what: &str, number: u32, word: &str| {
        Err(status::invalid(format!(
            "HDFS keeps names of owners, and store {:?} has no {what} of number {number} (its word {word} in the stores file)",
            store.name
        )))
    };
    if !has(&config.owners.users, uid) {
        return missing("user", uid, "identities");
    }
    if is_group_given && !has(&config.owners.groups, gid) {
        return missing("group", gid, "groups");
    }
    Ok(())
}

/// Holds `options` to what the store allows.
pub(super) fn within(store: &Store, options: &VolumeOptions) -> Result<(), Status> {
    if options.memory > store.memory {
        return Err(status::invalid(format!(
            "memory of {} bytes is more than the {} that store {:?} allows (limits.memory)",
            options.memory, store.memory, store.name
        )));
    }
    Ok(())
}

/// The words of a StorageClass or a VolumeAttributesClass without those that Kubernetes adds.
pub(super) fn own_parameters(parameters: &HashMap<String, String>) -> BTreeMap<String, String> {
    let own = parameters.iter().filter(|(word, _)| !is_kubernetes(word));
    own.map(|(word, value)| (word.clone(), value.clone())).collect()
}

pub(super) fn checked_name(name: &str) -> Result<&str, Status> {
    match name {
        "" => Err(status::invalid("the request has no name")),
        _ if name.len() > LONGEST_NAME => Err(status::invalid(format!("a name has at most {LONGEST_NAME} bytes"))),
        _ if name.chars().any(char::is_control) => Err(status::invalid("a name holds no control characters")),
        _ => Ok(name),
    }
}

pub(super) fn store<'a>(name: Option<&str>, stores: &'a Stores) -> Result<&'a Store, Status> {
    let name = name.ok_or_else(|| {
        status::invalid(format!("the StorageClass has no parameter store; known stores are {}", stores.names()))
    })?;
    stores.get(name).ok_or_else(|| {
        let known = stores.names();
        status::invalid(format!("the StorageClass names an unknown store {}; known are {known}", quoted(name)))
    })
}

fn claim(parameters: &HashMap<String, String>) -> Option<Claim> {
    let word = |key: &str| parameters.get(key).cloned();
    Some(Claim { namespace: word(CLAIM_NAMESPACE)?, name: word(CLAIM_NAME)? })
}

/// The least and the largest size; 0 is none.
pub(super) fn size(range: Option<&CapacityRange>) -> Result<(u64, u64), Status> {
    let CapacityRange { required_bytes, limit_bytes } = range.copied().unwrap_or_default();
    match (u64::try_from(required_bytes), u64::try_from(limit_bytes)) {
        (Ok(required), Ok(limit)) if limit == 0 || required <= limit => Ok((required, limit)),
        (Ok(required), Ok(limit)) => {
            Err(status::invalid(format!("required_bytes {required} is more than limit_bytes {limit}")))
        }
        _ => Err(status::invalid("a size cannot be negative")),
    }
}
