//! The manifests say what this binary understands, and Kubernetes what they say.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::Parser;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass, VolumeAttributesClass};
use millrace::cli::{Cli, Command};
use millrace::config::parameters::{Parameters, Place};
use millrace::config::stores::Stores;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const DRIVER: &str = "csi.millrace.dev";

/// Every document of every manifest below a folder of `deploy/`, but kustomize's own, with its file's name.
fn manifests(folder: &str) -> Vec<(String, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ext| ext == "yaml") && !file.ends_with("kustomization.yaml"));
    files.sort();
    assert!(!files.is_empty(), "{root:?}");
    let documents = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let parts: Vec<_> = text.split("\n---\n").map(str::to_owned).collect();
        parts.into_iter().map(move |part| (name.clone(), serde_saphyr::from_str(&part).unwrap()))
    };
    files.iter().flat_map(documents).collect()
}

fn base() -> Vec<(String, Value)> {
    manifests("kustomize/base")
}

fn all() -> Vec<(String, Value)> {
    let overlays = ["kustomize/overlays/e2e", "kustomize/overlays/e2e-hdfs", "kustomize/overlays/e2e-nfs"];
    let folders = ["kustomize/base", "kustomize/components/snapshots", "examples", "e2e/servers"];
    folders.into_iter().chain(overlays).flat_map(manifests).collect()
}

/// The words of `manifest` that `T` does not know: what it forgets when it is written again.
fn unknown<T: DeserializeOwned + Serialize>(manifest: &Value) -> Vec<String> {
    let known: T = serde_json::from_value(manifest.clone()).unwrap();
    let mut lost = Vec::new();
    missing(manifest, &serde_json::to_value(known).unwrap(), "", &mut lost);
    lost
}

/// The words of `manifest` that are not among these.
fn beyond(manifest: &Value, known: &[&str]) -> Vec<String> {
    let words = manifest.as_object().unwrap().keys();
    words.filter(|word| !known.contains(&word.as_str())).cloned().collect()
}

fn missing(given: &Value, kept: &Value, at: &str, lost: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (word, value) in given {
                match kept.get(word) {
                    Some(there) => missing(value, there, &format!("{at}.{word}"), lost),
                    // What is empty may be left out.
                    None if *value == serde_json::json!({}) || value.is_null() => {}
                    None => lost.push(format!("{at}.{word}")),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            for (index, (one, other)) in given.iter().zip(kept).enumerate() {
                missing(one, other, &format!("{at}[{index}]"), lost);
            }
        }
        (given, kept) => {
            if given != kept {
                lost.push(format!("{at}: {given} became {kept}"));
            }
        }
    }
}

#[test]
fn every_manifest_is_what_kubernetes_calls_by_that_name() {
    for (file, manifest) in all() {
        let Some(kind) = manifest["kind"].as_str() else { continue };
        let lost = match kind {
            "ClusterRole" => unknown::<ClusterRole>(&manifest),
            "ClusterRoleBinding" => unknown::<ClusterRoleBinding>(&manifest),
            "ConfigMap" => unknown::<ConfigMap>(&manifest),
            "CSIDriver" => unknown::<CSIDriver>(&manifest),
            "DaemonSet" => unknown::<DaemonSet>(&manifest),
            "Deployment" => unknown::<Deployment>(&manifest),
            "Namespace" => unknown::<Namespace>(&manifest),
            "PersistentVolume" => unknown::<PersistentVolume>(&manifest),
            "PersistentVolumeClaim" => unknown::<PersistentVolumeClaim>(&manifest),
            "Pod" => unknown::<Pod>(&manifest),
            "Role" => unknown::<Role>(&manifest),
            "RoleBinding" => unknown::<RoleBinding>(&manifest),
            "Secret" => unknown::<Secret>(&manifest),
            "ServiceAccount" => unknown::<ServiceAccount>(&manifest),
            "StorageClass" => unknown::<StorageClass>(&manifest),
            "VolumeAttributesClass" => unknown::<VolumeAttributesClass>(&manifest),
            // Custom resources, of which there are no types here.
            "VolumeSnapshot" => beyond(&manifest["spec"], &["volumeSnapshotClassName", "source"]),
            "VolumeSnapshotClass" => {
                assert_eq!(manifest["driver"], DRIVER, "{file}");
                beyond(&manifest, &["apiVersion", "kind", "metadata", "driver", "deletionPolicy"])
            }
            other => panic!("{file}: no type for {other}"),
        };
        assert!(lost.is_empty(), "{file}: {kind} knows no {lost:?}");
    }
}

/// The container of that name in the DaemonSet or Deployment.
fn container(kind: &str, name: &str) -> Value {
    let (_, workload) = base().into_iter().find(|(_, manifest)| manifest["kind"] == kind).unwrap();
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array().unwrap().clone();
    containers.into_iter().find(|container| container["name"] == name).unwrap()
}

fn arguments(container: &Value) -> Vec<String> {
    let words = container["args"].as_array().unwrap().iter();
    words.map(|word| word.as_str().unwrap().replace("$(NODE_NAME)", "node-1")).collect()
}

fn mounts(container: &Value) -> HashMap<String, Value> {
    let mounts = container["volumeMounts"].as_array().unwrap().iter();
    mounts.map(|mount| (mount["name"].as_str().unwrap().to_owned(), mount.clone())).collect()
}

/// The folders of the node that a container of the DaemonSet sees.
fn folders_of_the_node(container: &Value) -> Vec<PathBuf> {
    let (_, workload) = base().into_iter().find(|(_, manifest)| manifest["kind"] == "DaemonSet").unwrap();
    let volumes = workload["spec"]["template"]["spec"]["volumes"].as_array().unwrap().clone();
    let mounted = mounts(container);
    let seen = volumes.iter().filter(|volume| mounted.contains_key(volume["name"].as_str().unwrap()));
    seen.filter_map(|volume| Some(PathBuf::from(volume["hostPath"]["path"].as_str()?))).collect()
}

fn understood(container: &Value) -> Command {
    Cli::try_parse_from(std::iter::once("millrace".to_owned()).chain(arguments(container))).unwrap().command
}

#[test]
fn the_plugins_are_started_with_words_that_this_binary_knows() {
    let (_, driver) = base().into_iter().find(|(_, manifest)| manifest["kind"] == "CSIDriver").unwrap();
    assert_eq!(driver["metadata"]["name"], DRIVER);

    let (plugin, registrar) = (container("DaemonSet", "millrace"), container("DaemonSet", "registrar"));
    let Command::Node(node) = understood(&plugin) else { panic!("no node plugin") };
    assert_eq!(node.plugin.driver_name, DRIVER);
    // The kubelet, the registrar and the plugin speak of one socket, below the folder that all of them see.
    let path = format!("--kubelet-registration-path={}", node.plugin.endpoint.display());
    assert!(arguments(&registrar).contains(&path), "{path}");
    let kubelet = &mounts(&plugin)["kubelet"];
    assert_eq!(kubelet["mountPropagation"], "Bidirectional");
    let seen = Path::new(kubelet["mountPath"].as_str().unwrap());
    assert!(node.state_dir.starts_with(seen) && node.plugin.endpoint.starts_with(seen));
    assert_eq!(node.plugin.endpoint.file_name(), Some("csi.sock".as_ref()));
    // What a sidecar mounts of the node it keeps mounted, and may read.
    for folder in folders_of_the_node(&registrar) {
        assert!(!node.state_dir.starts_with(&folder) && !folder.starts_with(&node.state_dir), "{folder:?}");
    }
    // A read-only root has no place for a cache.
    assert_eq!(mounts(&plugin)["cache"]["mountPath"], node.cache_dir.unwrap().to_str().unwrap());

    let Command::Controller(controller) = understood(&container("Deployment", "millrace")) else {
        panic!("no controller")
    };
    assert_eq!(controller.plugin.driver_name, DRIVER);
    for name in ["millrace", "provisioner", "resizer", "liveness"] {
        let socket = mounts(&container("Deployment", name))["socket"]["mountPath"].as_str().unwrap().to_owned();
        assert_eq!(Path::new(&socket).join("csi.sock"), controller.plugin.endpoint, "{name}");
    }
    // A file mounted by subPath is never renewed.
    for stores in [&mounts(&plugin)["stores"], &mounts(&container("Deployment", "millrace"))["stores"]] {
        assert!(stores.get("subPath").is_none());
        assert!(node.plugin.stores.starts_with(stores["mountPath"].as_str().unwrap()));
    }
}

#[test]
fn what_is_scraped_and_probed_is_where_the_plugins_show_it() {
    for kind in ["DaemonSet", "Deployment"] {
        let (_, workload) = base().into_iter().find(|(_, manifest)| manifest["kind"] == kind).unwrap();
        let container = container(kind, "millrace");
        let (plugin, socket) = match understood(&container) {
            Command::Node(words) => (words.plugin, words.state_dir.join("control.sock")),
            Command::Controller(words) => {
                let socket = words.plugin.endpoint.with_extension("control.sock");
                (words.plugin, socket)
            }
            other => panic!("{other:?}"),
        };
        let port = plugin.metrics_address.unwrap().port();
        let ports = container["ports"].as_array().unwrap();
        let named = |name: &str| ports.iter().find(|one| one["name"] == name).map(|one| one["containerPort"].clone());
        assert_eq!(named("metrics"), Some(port.into()), "{kind}");
        assert_eq!(container["readinessProbe"]["httpGet"], serde_json::json!({"path": "/readyz", "port": "metrics"}));
        // A restart of the node plugin ends mounts: it is the plugin's own word, and a patient question. The controller's
        // is Probe's, which the sidecar passes on.
        let asked = if kind == "DaemonSet" { "metrics" } else { "health" };
        let probe = &container["livenessProbe"];
        assert_eq!(probe["httpGet"], serde_json::json!({"path": "/healthz", "port": asked}));
        let patience = probe["periodSeconds"].as_u64().unwrap() * probe["failureThreshold"].as_u64().unwrap();
        assert!(kind == "Deployment" || patience >= 120, "{patience} s");
        let annotations = &workload["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/port"], port.to_string(), "{kind}");
        let of_status = Cli::try_parse_from(["millrace", "status", "--socket", socket.to_str().unwrap()]).unwrap();
        assert!(matches!(of_status.command, Command::Status(_)));
        let env = container["env"].as_array().unwrap().iter();
        let mut told = env.filter(|one| one["name"] == "MILLRACE_CONTROL_SOCKET");
        assert_eq!(told.next().unwrap()["value"], socket.to_str().unwrap(), "{kind}");
    }
}

#[test]
fn no_role_of_the_driver_reads_a_secret_or_changes_a_node() {
    for (_, role) in base() {
        for rule in role["rules"].as_array().into_iter().flatten() {
            let words = |key: &str| rule[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned());
            assert!(!words("resources").any(|resource| resource == "secrets" || resource == "*"), "{rule}");
            let writes = words("verbs").any(|verb| !["get", "list", "watch"].contains(&verb.as_str()));
            assert!(!(writes && words("resources").any(|resource| resource == "nodes")), "{rule}");
        }
    }
}

#[test]
fn the_stores_files_are_understood() {
    for (file, manifest) in all().into_iter().filter(|(_, manifest)| manifest["kind"] == "ConfigMap") {
        let text = manifest["data"]["stores.yaml"].as_str().unwrap();
        Stores::parse(text, Path::new("/")).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

#[test]
fn classes_and_volumes_name_parameters_that_are_known() {
    let mut seen = 0;
    for (file, manifest) in all() {
        let words: Vec<(Place, &Value)> = match manifest["kind"].as_str() {
            Some("StorageClass") => vec![(Place::StorageClass, &manifest["parameters"])],
            Some("PersistentVolume") => vec![(Place::VolumeContext, &manifest["spec"]["csi"]["volumeAttributes"])],
            Some("Pod") => {
                let volumes = manifest["spec"]["volumes"].as_array().unwrap().iter();
                let inline = volumes.filter_map(|volume| volume.get("csi"));
                inline.map(|csi| (Place::VolumeContext, &csi["volumeAttributes"])).collect()
            }
            _ => continue,
        };
        for (place, words) in words {
            let words: HashMap<String, String> = serde_json::from_value(words.clone()).unwrap();
            let parsed = Parameters::parse(&words, place).unwrap_or_else(|error| panic!("{file}: {error}"));
            let store = if file.starts_with("nfs-") { "homes" } else { "lake" };
            assert_eq!(parsed.store.as_deref(), Some(store), "{file}");
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen}");
}
