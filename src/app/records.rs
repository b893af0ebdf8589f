//! `millrace records`: an administrator's view of what the controller keeps in the stores.

use std::io::Write;

use anyhow::{Context, bail};
use futures::TryStreamExt;
use serde_json::json;

use super::columns::columns;
use crate::backend::records::apart::Clerks;
use crate::cli::{Records, RecordsCommand};
use crate::config::stores::Stores;
use crate::csi::volumes::{Listed, Record, Volumes};

/// A store's name and its volumes.
type Open = (String, Volumes);

/// Does what `words` say.
///
/// # Errors
/// What went wrong, for the person at the terminal.
pub(super) async fn run(words: &Records, clerks: &Clerks) -> anyhow::Result<()> {
    let stores = Stores::load(&words.stores)?;
    let volumes = open(&stores, words, clerks)?;
    let mut out = std::io::stdout().lock();
    match &words.command {
        RecordsCommand::List { all_clusters, ended, json } => {
            let cluster = (!all_clusters).then_some(words.cluster_id.as_str());
            let rows = select(&volumes, cluster, *ended).await?;
            if *json { write_json(&mut out, &rows)? } else { write_table(&mut out, &rows)? }
        }
        RecordsCommand::Release { name } => release(&mut out, &volumes, name).await?,
        RecordsCommand::Adopt { from } => {
            if *from == words.cluster_id {
                bail!("cluster {from:?} is the one that would adopt: --from names the other");
            }
            adopt(&mut out, &volumes, from).await?;
        }
    }
    Ok(out.flush()?)
}

fn open(stores: &Stores, words: &Records, clerks: &Clerks) -> anyhow::Result<Vec<Open>> {
    let open = |store| Volumes::open(store, &words.cluster_id, Some(clerks));
    if let Some(name) = &words.store {
        let store =
            stores.get(name).with_context(|| format!("unknown store {name:?}; known are {}", stores.names()))?;
        return Ok(vec![(name.clone(), open(store)?)]);
    }
    let with_records = stores.iter().filter(|store| store.controller_credential.is_some());
    let opened = with_records.map(|store| Ok((store.name.clone(), open(store)?)));
    let opened = opened.collect::<anyhow::Result<Vec<Open>>>()?;
    if opened.is_empty() {
        bail!("no store in {} has a controllerCredential, so there are no records", words.stores.display());
    }
    Ok(opened)
}

/// The records of `cluster`, or of all; those that cannot be read always.
async fn select<'a>(volumes: &'a [Open], cluster: Option<&str>, ended: bool) -> anyhow::Result<Vec<(&'a str, Listed)>> {
    let mut rows = Vec::new();
    for (store, volumes) in volumes {
        let wanted = |listed: &Listed| match &listed.record {
            Ok(record) => {
                cluster.is_none_or(|cluster| record.cluster == cluster) && (ended || !record.state.is_tombstone())
            }
            Err(_) => true,
        };
        let listed: Vec<Listed> = volumes.list().try_collect().await.with_context(|| format!("store {store:?}"))?;
        rows.extend(listed.into_iter().filter(wanted).map(|listed| (store.as_str(), listed)));
    }
    let name = |listed: &Listed| listed.record.as_ref().map(|record| record.name.clone()).ok();
    rows.sort_by_key(|(store, listed)| ((*store).to_owned(), name(listed)));
    Ok(rows)
}

fn write_json(out: &mut dyn Write, rows: &[(&str, Listed)]) -> anyhow::Result<()> {
    for (store, listed) in rows {
        let line = match &listed.record {
            Ok(record) => json!({"store": store, "record": record}),
            Err(error) => json!({"store": store, "at": listed.at.to_string(), "error": error.to_string()}),
        };
        writeln!(out, "{line}")?;
    }
    Ok(())
}

const HEAD: [&str; 7] = ["STORE", "NAME", "STATE", "PATH", "CLAIM", "CLUSTER", "CREATED"];

fn write_table(out: &mut dyn Write, rows: &[(&str, Listed)]) -> anyhow::Result<()> {
    let readable = rows.iter().filter_map(|(store, listed)| Some(cells(store, listed.record.as_ref().ok()?)));
    let table: Vec<[String; 7]> = std::iter::once(HEAD.map(str::to_owned)).chain(readable).collect();
    write!(out, "{}", columns(&table))?;
    for (store, listed) in rows {
        if let Err(error) = &listed.record {
            writeln!(out, "store {store}: {error}")?;
        }
    }
    Ok(())
}

fn cells(store: &str, record: &Record) -> [String; 7] {
    let claim = record.claim.as_ref().map(|claim| format!("{}/{}", claim.namespace, claim.name));
    let plain = |text: &str| text.escape_debug().to_string();
    [
        store.to_owned(),
        plain(&record.name),
        record.state.as_str().to_owned(),
        plain(&record.path),
        claim.map_or_else(|| "-".to_owned(), |claim| plain(&claim)),
        plain(&record.cluster),
        plain(&record.created),
    ]
}

async fn release(out: &mut dyn Write, volumes: &[Open], name: &str) -> anyhow::Result<()> {
    let [(store, volumes)] = volumes else {
        bail!("several stores have records: say which by --store");
    };
    let record = volumes.release(name).await?;
    writeln!(out, "released volume {name:?} of store {store:?}: what lies at {:?} is nobody's now", record.path)?;
    Ok(())
}

async fn adopt(out: &mut dyn Write, volumes: &[Open], from: &str) -> anyhow::Result<()> {
    let mut count = 0;
    for (store, volumes) in volumes {
        for name in volumes.adopt(from).await.with_context(|| format!("store {store:?}"))? {
            writeln!(out, "adopted volume {name:?} of store {store:?}")?;
            count += 1;
        }
    }
    if count == 0 {
        bail!("no record belongs to cluster {from:?}; `millrace records list --all-clusters` shows whose there are");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::Path;
    use crate::backend::records::Records as _;
    use crate::backend::records::memory::MemoryRecords;
    use crate::config::stores::Deletion;
    use crate::csi::volumes::{Claim, Wanted};

    async fn make(records: &Arc<MemoryRecords>, cluster: &str, name: &str, deletion: Deletion) -> Record {
        let claim = Some(Claim { namespace: "team".into(), name: name.into() });
        let wanted = Wanted {
            name: name.into(),
            path: Path::parse(name).unwrap(),
            required: 0,
            limit: 0,
            parameters: Default::default(),
            mutable: Default::default(),
            deletion,
            directory: None,
            location: String::new(),
            claim,
            capacity: None,
            source: None,
        };
        Volumes::new(records.clone(), cluster).create(&wanted).await.unwrap()
    }

    async fn delete(records: &Arc<MemoryRecords>, record: &Record) {
        let path = Path::parse(&record.path).unwrap();
        Volumes::new(records.clone(), "one").delete(&path, &record.generation).await.unwrap();
    }

    async fn listed(volumes: &[Open], cluster: Option<&str>, ended: bool) -> String {
        let mut out = Vec::new();
        write_table(&mut out, &select(volumes, cluster, ended).await.unwrap()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_listed_released_and_adopted() {
        let records = Arc::new(MemoryRecords::default());
        make(&records, "one", "mine", Deletion::Current).await;
        make(&records, "two", "theirs", Deletion::Current).await;
        let kept = make(&records, "one", "kept", Deletion::Keep).await;
        let gone = make(&records, "one", "gone", Deletion::Current).await;
        delete(&records, &kept).await;
        delete(&records, &gone).await;
        records.create(&Path::parse(".millrace/volumes/odd").unwrap(), r#"{"format":9}"#.into()).await.unwrap();
        let volumes = [("lake".to_owned(), Volumes::new(records.clone(), "one"))];

        let table = listed(&volumes, Some("one"), false).await;
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(lines[0].starts_with("STORE  NAME  STATE  PATH"), "{table}");
        assert!(lines[1].starts_with("lake   kept  kept   kept  team/kept  one"), "{table}");
        assert!(lines[2].starts_with("lake   mine  ready  mine  team/mine  one"), "{table}");
        assert!(lines[3].contains("format 9"), "{table}");
        assert!(listed(&volumes, Some("one"), true).await.contains("gone  deleted"));
        assert!(listed(&volumes, None, false).await.contains("theirs"));

        let mut out = Vec::new();
        write_json(&mut out, &select(&volumes, Some("one"), false).await.unwrap()).unwrap();
        let first: serde_json::Value =
            serde_json::from_slice(out.split(|byte| *byte == b'\n').nth(1).unwrap()).unwrap();
        assert_eq!((&first["store"], &first["record"]["state"]), (&json!("lake"), &json!("kept")));

        let mut out = Vec::new();
        release(&mut out, &volumes, "kept").await.unwrap();
        adopt(&mut out, &volumes, "two").await.unwrap();
        let said = String::from_utf8(out).unwrap();
        assert!(said.contains("released volume \"kept\"") && said.contains("adopted volume \"theirs\""), "{said}");
        assert!(adopt(&mut Vec::new(), &volumes, "two").await.is_err());
        assert!(release(&mut Vec::new(), &volumes, "mine").await.is_err());
        let table = listed(&volumes, Some("one"), false).await;
        assert!(table.contains("theirs") && !table.contains("kept"), "{table}");
    }
}
