//! What is asked of the Kubernetes API: the labels of this machine's own Node object, and Events on pods.
//!
//! The rights it takes are `get` on `nodes`, of which only the object's metadata travels, and `create` on `events`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Client, Config};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often it is tried to make an Event: a pod is told of a trouble once, so that one that went lost on its way would
/// never be made.
const ATTEMPTS: u32 = 4;

/// Between two of these.
const PAUSE: Duration = Duration::from_secs(1);

/// The API server, and who asks.
#[derive(Clone)]
pub struct Api(Client);

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

/// Why the API gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Api {
    /// As every container of a cluster finds it: the environment names the server, and a service account is mounted.
    /// The token is read again as it is renewed. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Where this is no container of a cluster, or its service account is not mounted.
    pub fn in_cluster() -> Result<Api, Error> {
        let config = Config::incluster()
            .map_err(|error| Error(format!("this does not run as a pod with a service account: {}", chain(&error))))?;
        Api::new(config)
    }

    /// At `url`, as the service account whose `token` and `ca.crt` lie in `account`. Must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// Where the address is none, or one of the files cannot be used.
    pub fn at(url: &str, account: &Path) -> Result<Api, Error> {
        let uri = url.parse().map_err(|error| Error(format!("{url:?} is no address of an API server: {error}")))?;
        let mut config = Config::new(uri);
        config.root_cert_file = Some(account.join("ca.crt"));
        config.auth_info.token_file = Some(account.join("token").to_string_lossy().into_owned());
        Api::new(config)
    }

    fn new(config: Config) -> Result<Api, Error> {
        // No read_timeout: it would end idle connections, too, and now and then one that was just taken for a request.
        let client = Client::try_from(config);
        client
            .map(Api)
            .map_err(|error| Error(format!("no client of the Kubernetes API can be built: {}", chain(&error))))
    }

    /// The labels of the Node object called `node`.
    ///
    /// # Errors
    /// Where there is none, it may not be read, or the API does not answer in time.
    pub async fn node_labels(&self, node: &str) -> Result<BTreeMap<String, String>, Error> {
        let nodes: kube::Api<Node> = kube::Api::all(self.0.clone());
        match tokio::time::timeout(PATIENCE, nodes.get_metadata(node)).await {
            Ok(Ok(found)) => Ok(found.metadata.labels.unwrap_or_default()),
            Ok(Err(kube::Error::Api(refusal))) => Err(refused(node, &refusal)),
            Ok(Err(error)) => Err(Error(format!("the Kubernetes API does not answer: {}", chain(&error)))),
            Err(_) => Err(late()),
        }
    }
}

/// Something that befell a pod.
#[derive(Debug, Clone, Copy)]
pub struct PodEvent<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// Its name.
    pub pod: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// One word, for programs.
    pub reason: &'a str,
    /// For the pod's owner.
    pub message: &'a str,
    /// The driver's name.
    pub driver: &'a str,
    /// The node's name.
    pub node: &'a str,
}

impl Api {
    /// Makes an Event of the type Warning on a pod.
    ///
    /// # Errors
    /// Where it may not be made, or the API does not take it, several times.
    pub async fn report(&self, event: &PodEvent<'_>) -> Result<(), Error> {
        let object = warning(event);
        let events: kube::Api<Event> = kube::Api::namespaced(self.0.clone(), event.namespace);
        let mut attempt = 1;
        loop {
            let error = match tokio::time::timeout(PATIENCE, events.create(&PostParams::default(), &object)).await {
                Ok(Ok(_)) => return Ok(()),
                // Made by an attempt whose answer was lost: nobody else gives this name.
                Ok(Err(kube::Error::Api(refusal))) if refusal.code == 409 => return Ok(()),
                Ok(Err(kube::Error::Api(refusal))) if refusal.code == 403 => {
                    return Err(Error(format!(
                        "this service account may not make Events: give it a ClusterRole with the verb create on \
                         events ({})",
                        refusal.message
                    )));
                }
                Ok(Err(error)) => Error(format!("the Kubernetes API does not take it: {}", chain(&error))),
                Err(_) => late(),
            };
            if attempt == ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn warning(event: &PodEvent<'_>) -> Event {
    let now = Timestamp::now();
    let word = |word: &str| Some(word.to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", event.pod, now.as_nanosecond())),
            namespace: word(event.namespace),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: word("v1"),
            kind: word("Pod"),
            name: word(event.pod),
            namespace: word(event.namespace),
            uid: word(event.uid),
            ..ObjectReference::default()
        },
        type_: word("Warning"),
        reason: word(event.reason),
        message: word(event.message),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: word(event.driver), host: word(event.node) }),
        reporting_component: word(event.driver),
        reporting_instance: word(event.node),
        ..Event::default()
    }
}

fn late() -> Error {
    Error(format!("the Kubernetes API did not answer within {} s", PATIENCE.as_secs()))
}

fn refused(node: &str, refusal: &kube::core::Status) -> Error {
    let said = &refusal.message;
    Error(match refusal.code {
        401 => format!("the Kubernetes API does not know this service account ({said})"),
        403 => format!(
            "this service account may not read Node {node:?}: give it a ClusterRole with the verb get on nodes ({said})"
        ),
        404 => format!("the cluster has no Node {node:?}: --node-id must be the Node's name, spec.nodeName ({said})"),
        _ => format!("the Kubernetes API refused to show Node {node:?} ({said})"),
    })
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
