//! Where this node is: from flags, and where they say so from the labels of its Node object.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;

use crate::cli;
use crate::cluster::{self, Api};
use crate::topology::{Domain, Located, Place, UNKNOWN};

/// Between two questions to an API that does not answer, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Tells at once what flags say. What labels say is asked for until there is an answer, and is the same from then on: a
/// segment that changed under a registered driver would be refused by the kubelet.
///
/// # Errors
/// Flags that cannot be; labels that are wanted where there is no Kubernetes API to ask.
pub(super) fn of(words: &cli::Node) -> anyhow::Result<Located> {
    if !words.topology_from_node {
        return Ok(Located::at(Place::new(words.topology.iter().cloned())?));
    }
    let api = api(words).context("--topology-from-node")?;
    let located = Located::unknown("the labels of its Node object were not read yet");
    let (told, node, given) = (located.clone(), words.node_id.clone(), words.topology.clone());
    let names = label_names(&words.topology_label);
    tokio::spawn(async move {
        let [mut pause, most] = PAUSES;
        loop {
            let found = api.node_labels(&node).await.map_err(|error| error.to_string());
            let place = found.and_then(|labels| from_labels(&given, &names, &labels));
            match &place {
                Ok(place) => tracing::info!(%place, "this node is located by its labels"),
                Err(why) => tracing::error!("it is not known where this node is: {why}"),
            }
            let done = place.is_ok();
            told.set(place);
            if done {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(most);
        }
    });
    Ok(located)
}

/// The Kubernetes API that `words` name, or this pod's own.
///
/// # Errors
/// Where there is none.
pub(super) fn api(words: &cli::Node) -> Result<Api, cluster::Error> {
    match &words.kubernetes_api {
        Some(url) => Api::at(url, &words.service_account),
        None => Api::in_cluster(),
    }
}

/// The label of each domain.
fn label_names(given: &[(Domain, String)]) -> BTreeMap<Domain, String> {
    let usual = |domain| match domain {
        Domain::Region | Domain::Zone => format!("topology.kubernetes.io/{domain}"),
        Domain::Jurisdiction | Domain::Rack => format!("topology.millrace.dev/{domain}"),
    };
    Domain::ALL.into_iter().map(|domain| (domain, usual(domain))).chain(given.iter().cloned()).collect()
}

/// What was given, and for the rest what the labels say.
fn from_labels(
    given: &[(Domain, String)],
    names: &BTreeMap<Domain, String>,
    labels: &BTreeMap<String, String>,
) -> Result<Place, String> {
    // A label without a value says nothing.
    let said = |(domain, name): (&Domain, &String)| {
        let value = labels.get(name).filter(|value| !value.is_empty());
        (*domain, value.map_or_else(|| UNKNOWN.to_owned(), String::clone))
    };
    Place::new(given.iter().cloned().chain(names.iter().map(said))).map_err(|why| format!("its labels: {why}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::sandbox::kubernetes::{Nodes, Server};

    #[test]
    fn flags_go_before_labels_and_labels_have_names() {
        let labels = [
            ("topology.kubernetes.io/region", "eu-1"),
            ("topology.kubernetes.io/zone", "a"),
            ("topology.millrace.dev/jurisdiction", ""),
            ("example.org/rack", "r7"),
        ];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let names = label_names(&[(Domain::Rack, "example.org/rack".into())]);
        let place = from_labels(&[(Domain::Zone, "flag".into())], &names, &labels).unwrap();
        assert_eq!(place.to_string(), "jurisdiction none, region eu-1, zone flag, rack r7");
        let place = from_labels(&[], &label_names(&[]), &labels).unwrap();
        assert_eq!(place.to_string(), "jurisdiction none, region eu-1, zone a, rack none");
    }

    #[tokio::test]
    async fn labels_are_asked_for_until_they_are_told() {
        let labels = [("topology.kubernetes.io/zone".to_owned(), "a".to_owned())].into();
        let server = Server::start("old", Nodes::from([("node-1".into(), labels)])).await.unwrap();
        let account = tempfile::tempdir().unwrap();
        server.write_account(account.path()).unwrap();
        server.set_token("new");
        let account = account.path().to_str().unwrap();
        let words = ["millrace", "node", "--node-id", "node-1", "--topology-from-node", "--topology", "rack=r1"];
        let more = ["--kubernetes-api", server.url(), "--service-account", account];
        let Command::Node(words) = Cli::parse_from(words.into_iter().chain(more)).command else { panic!("not a node") };
        let located = of(&words).unwrap();
        let until = async |holds: &dyn Fn(&Result<Place, String>) -> bool| {
            while !holds(&located.get()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        until(&|place| place.as_ref().is_err_and(|why| why.contains("service account"))).await;
        server.set_token("old");
        until(&|place| place.is_ok()).await;
        let expected = "jurisdiction none, region none, zone a, rack r1";
        assert_eq!(located.get().unwrap().to_string(), expected);
        // What was told stays, whatever becomes of the labels.
        server.set_nodes(Nodes::new());
        assert_eq!(located.get().unwrap().to_string(), expected);
    }

    #[test]
    fn flags_alone_ask_nobody() {
        let words = ["millrace", "node", "--node-id", "n", "--topology", "jurisdiction=eu", "--topology", "zone=none"];
        let Command::Node(words) = Cli::parse_from(words).command else { panic!("not a node") };
        assert_eq!(
            of(&words).unwrap().get().unwrap().to_string(),
            "jurisdiction eu, region none, zone none, rack none"
        );
    }
}
