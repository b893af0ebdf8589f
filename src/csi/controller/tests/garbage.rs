//! Whatever a caller makes up: every call answers with a code that fits, panics never, and touches nothing outside.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::calls::{list, list_health};
use super::*;
use crate::backend::Path;
use crate::csi::volume_id::parse_path;

/// A text that no honest caller sends, or the beginning of one that it does.
fn text() -> impl Strategy<Value = String> {
    let traversal = [
        "",
        ".",
        "..",
        "../..",
        "/",
        "//",
        "lake",
        "lake/",
        "lake/@",
        "lake/..@aaaaaaaaaa",
        "lake/../safe@aaaaaaaaaa",
        "lake/.millrace/volumes@aaaaaaaaaa",
        "lake/safe/.millrace@aaaaaaaaaa",
        "lake/%2e%2e/safe@aaaaaaaaaa",
        "lake\\safe@aaaaaaaaaa",
        "lake/safe\0@aaaaaaaaaa",
        "static-only/x@aaaaaaaaaa",
        "lake/safe@AAAAAAAAAA",
        "${pv.name}",
        "${pvc.namespace}/${pvc.name}",
        "../${pv.name}",
        "${x}",
        "1Gi",
        "-1",
        "0",
        "5s",
        "true",
        "lake",
    ];
    prop_oneof![
        4 => prop::sample::select(traversal.to_vec()).prop_map(str::to_owned),
        1 => "\\PC{0,40}",
        1 => "[\\x00-\\x1f\\x7f]{1,8}",
        1 => "[a-z/.@-]{1,24}",
        1 => prop::sample::select(vec!["a", "/", "../", "é", "\n"]).prop_map(|part| part.repeat(4096 / part.len())),
    ]
}

fn words() -> impl Strategy<Value = HashMap<String, String>> {
    let known = [
        "store",
        "path",
        "deletion",
        "uid",
        "fileMode",
        "memory",
        "ttl",
        "timeout",
        "readAheadKb",
        "location",
        "format",
        "csi.storage.k8s.io/pvc/namespace",
        "csi.storage.k8s.io/pvc/name",
        "csi.storage.k8s.io/pv/name",
        "csi.storage.k8s.io/serviceAccount.tokens",
        "csi.storage.k8s.io/ephemeral",
        "csi.storage.k8s.io/",
        "storage.kubernetes.io/csiProvisionerIdentity",
    ];
    let word = prop_oneof![3 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => text()];
    let value = prop_oneof![2 => text(), 2 => Just("lake".to_owned()), 1 => Just("5s".to_owned())];
    prop::collection::hash_map(word, value, 0..5)
}

#[derive(Debug)]
struct Garbage {
    text: String,
    words: HashMap<String, String>,
    sane: bool,
    required: i64,
    limit: i64,
    mode: i32,
}

fn garbage() -> impl Strategy<Value = Garbage> {
    let size = || prop_oneof![Just(0), Just(i64::MIN), Just(i64::MAX), -2..3i64];
    (text(), words(), any::<bool>(), size(), size(), prop_oneof![0..9i32, any::<i32>()]).prop_map(
        |(text, mut words, sane, required, limit, mode)| {
            if sane {
                words.insert("store".into(), "lake".into());
            }
            Garbage { text, words, sane, required, limit, mode }
        },
    )
}

async fn throw(plugin: &Plugin, garbage: &Garbage, safe: &Volume) -> Vec<(&'static str, Code)> {
    let Garbage { text, words, sane, required, limit, mode } = garbage;
    // Now and then an id that is right, so that the rest is looked at.
    let volume_id = if *sane { safe.volume_id.clone() } else { text.clone() };
    let capacity_range = Some(CapacityRange { required_bytes: *required, limit_bytes: *limit });
    let mut capability = mounted(Mode::MultiNodeMultiWriter, &[]);
    capability.access_mode.as_mut().unwrap().mode = *mode;
    let secrets = words.clone();
    let mut codes = Vec::new();
    let mut note = |call, code: Result<(), Status>| codes.push((call, code.map_or_else(|s| s.code(), |()| Code::Ok)));
    let controller = &plugin.controller;

    let create = CreateVolumeRequest {
        name: text.clone(),
        capacity_range,
        volume_capabilities: vec![if *sane { mounted(Mode::SingleNodeWriter, &[]) } else { capability.clone() }],
        parameters: words.clone(),
        secrets: secrets.clone(),
        mutable_parameters: if *required == 1 { words.clone() } else { HashMap::new() },
        ..Default::default()
    };
    note("create", controller.create_volume(Request::new(create)).await.map(drop));
    let validate = ValidateVolumeCapabilitiesRequest {
        volume_id: volume_id.clone(),
        volume_context: words.clone(),
        volume_capabilities: vec![capability.clone()],
        parameters: words.clone(),
        secrets: secrets.clone(),
        mutable_parameters: words.clone(),
    };
    note("validate", controller.validate_volume_capabilities(Request::new(validate)).await.map(drop));
    let expand = ControllerExpandVolumeRequest {
        volume_id: volume_id.clone(),
        capacity_range,
        secrets: secrets.clone(),
        volume_capability: Some(capability.clone()),
    };
    note("expand", controller.controller_expand_volume(Request::new(expand)).await.map(drop));
    let mut mutable_parameters = words.clone();
    mutable_parameters.retain(|word, _| !sane || word != "store");
    let modify =
        ControllerModifyVolumeRequest { volume_id: volume_id.clone(), secrets: secrets.clone(), mutable_parameters };
    note("modify", controller.controller_modify_volume(Request::new(modify)).await.map(drop));
    let get = ControllerGetVolumeRequest { volume_id: volume_id.clone() };
    note("get", controller.controller_get_volume(Request::new(get)).await.map(drop));
    let health = ControllerGetVolumeHealthRequest { volume_id, secrets: secrets.clone() };
    note("health", controller.controller_get_volume_health(Request::new(health)).await.map(drop));
    let capacity = GetCapacityRequest {
        volume_capabilities: vec![capability],
        parameters: words.clone(),
        accessible_topology: Some(crate::csi::v1::Topology { segments: words.clone() }),
    };
    note("capacity", controller.get_capacity(Request::new(capacity)).await.map(drop));
    let delete = DeleteVolumeRequest { volume_id: text.clone(), secrets };
    note("delete", controller.delete_volume(Request::new(delete)).await.map(drop));
    for (call, code) in [
        ("list", list(controller, *mode, text).await.map(drop)),
        ("list health", list_health(controller, *mode, text).await.map(drop)),
    ] {
        codes.push((call, code.err().unwrap_or(Code::Ok)));
    }
    codes
}

/// What a call may answer to garbage.
fn fits(call: &str, code: Code) -> bool {
    use Code::*;
    match call {
        "create" => matches!(code, Ok | InvalidArgument | FailedPrecondition | AlreadyExists),
        "expand" => matches!(code, Ok | InvalidArgument | NotFound | FailedPrecondition | OutOfRange),
        "list" | "list health" => matches!(code, Ok | InvalidArgument | Aborted),
        "capacity" => matches!(code, Ok | InvalidArgument),
        "delete" => matches!(code, Ok | InvalidArgument | FailedPrecondition),
        _ => matches!(code, Ok | InvalidArgument | NotFound | FailedPrecondition),
    }
}

/// Whether a key is one that the driver may write.
fn is_inside(key: &str) -> bool {
    let volume = key.strip_suffix("/.millrace/volume.json");
    let hash = key.strip_prefix(".millrace/volumes/");
    let owner = key.strip_prefix(".millrace/paths/").and_then(|rest| rest.strip_suffix("/@"));
    match (hash, owner.or(volume)) {
        (Some(hash), _) => hash.len() == 64 && !hash.contains('/'),
        (None, Some(path)) => !path.is_empty() && parse_path(path, 128).is_ok(),
        (None, None) => false,
    }
}

#[test]
fn garbage_gets_the_right_code_and_reaches_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let plugin = plugin().mended();
    let safe = runtime.block_on(plugin.create(request("safe"))).unwrap();
    plugin.records.put("safe/data");
    plugin.records.put("beside");
    let id = VolumeId::parse(&safe.volume_id).unwrap();
    let generation = id.generation().as_str();
    let seen = std::cell::RefCell::new(BTreeMap::<&str, BTreeSet<i32>>::new());
    // Not left to chance: each call is made once as it should be.
    for text in ["", "made"] {
        let words = map(&[("store", "lake")]);
        let right = Garbage { text: text.into(), words, sane: true, required: 0, limit: 0, mode: 1 };
        for (call, code) in runtime.block_on(throw(&plugin, &right, &safe)) {
            assert!(fits(call, code), "{call}: {code:?}");
            seen.borrow_mut().entry(call).or_default().insert(code.into());
        }
    }
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }, |(garbage in garbage())| {
        for (call, code) in runtime.block_on(throw(&plugin, &garbage, &safe)) {
            prop_assert!(fits(call, code), "{}: {:?}", call, code);
            seen.borrow_mut().entry(call).or_default().insert(code.into());
        }
        for key in plugin.records.keys() {
            let own = ["safe/data", "beside"].contains(&key.as_str());
            prop_assert!(own || is_inside(&key), "{}", key);
        }
        let volumes = Volumes::new(plugin.records.clone(), "one");
        let record = runtime.block_on(volumes.find(&Path::parse("safe").unwrap(), generation)).unwrap().unwrap();
        prop_assert_eq!(record.state, State::Ready);
        prop_assert_eq!(record.parameters, create::own_parameters(&request("safe").parameters));
        let mut options = crate::config::VolumeOptions::default();
        prop_assert!(crate::config::parameters::modify(&mut options, &record.mutable).is_ok());
        prop_assert!(plugin.records.keys().contains(&"safe/data".to_owned()));
    });
    // Or else nothing of it got past the door.
    for (call, codes) in seen.into_inner() {
        assert!(codes.contains(&Code::Ok.into()) && codes.len() > 1, "{call}: {codes:?}");
    }
}
