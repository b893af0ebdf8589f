//! `millrace locate`: on which machines the bytes of a path lie, as far as its store tells.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Context;
use serde_json::json;

use super::columns::columns;
use super::{block_on, log_in_to};
use crate::backend::{self, Located, Path};
use crate::cli::Locate;
use crate::config::stores::Stores;
use crate::csi::volumes::controller_credential;

/// Does what `words` say.
///
/// # Errors
/// What went wrong, for the person at the terminal.
pub(super) fn run(words: &Locate) -> anyhow::Result<()> {
    let stores = Stores::load(&words.stores)?;
    let name = &words.store;
    let store = stores.get(name).with_context(|| format!("unknown store {name:?}; known are {}", stores.names()))?;
    let path = Path::parse(&words.path).with_context(|| format!("path {:?}", words.path))?;
    let credential = controller_credential(store)?;
    log_in_to(&store.backend)?;
    let located = block_on(async { Ok(backend::locate(&store.backend, &credential, &path).await?) })?;
    let text = if words.json { as_json(&located) } else { as_table(&located) };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn as_json(located: &Located) -> String {
    let hosts = located.hosts.iter().map(|host| json!({"host": host.name, "rack": host.rack, "bytes": host.bytes}));
    let hosts: Vec<_> = hosts.collect();
    format!("{}\n", json!({"files": located.files, "bytes": located.bytes, "hosts": hosts}))
}

fn as_table(located: &Located) -> String {
    let Located { files, bytes, hosts } = located;
    let share = |of: u64| match bytes {
        0 => "-".to_owned(),
        bytes => format!("{}%", u128::from(of) * 100 / u128::from(*bytes)),
    };
    let mut racks: BTreeMap<&str, u64> = BTreeMap::new();
    for host in hosts {
        *racks.entry(&host.rack).or_default() += host.bytes;
    }
    let head = ["HOST", "RACK", "BYTES", "OF ALL"].map(str::to_owned);
    let of_host =
        hosts.iter().map(|host| [host.name.clone(), host.rack.clone(), host.bytes.to_string(), share(host.bytes)]);
    let of_rack =
        racks.iter().map(|(rack, bytes)| ["all of".into(), (*rack).to_owned(), bytes.to_string(), share(*bytes)]);
    let rows: Vec<_> = std::iter::once(head).chain(of_host).chain(of_rack).collect();
    format!("{}{files} files of {bytes} bytes\n", columns(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Host;

    #[test]
    fn hosts_and_racks_are_shown_with_their_shares() {
        let host = |name: &str, rack: &str, bytes| Host { name: name.into(), rack: rack.into(), bytes };
        let hosts = vec![host("a", "/r1", 100), host("b", "/r1", 50), host("c", "/r2", 50)];
        let located = Located { files: 2, bytes: 100, hosts };
        let text = as_table(&located);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["a", "/r1", "100", "100%"]);
        assert_eq!(words[4], ["all", "of", "/r1", "150", "150%"]);
        assert_eq!(words[6], ["2", "files", "of", "100", "bytes"]);
        let object: serde_json::Value = serde_json::from_str(&as_json(&located)).unwrap();
        assert_eq!((&object["bytes"], &object["hosts"][2]["rack"]), (&json!(100), &json!("/r2")));
        assert!(as_table(&Located::default()).ends_with("0 files of 0 bytes\n"));
    }
}
