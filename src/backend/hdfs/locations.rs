//! On which DataNodes the bytes of files lie, and in which racks.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{StreamExt, TryStreamExt, iter};

use super::error::Outcome;
use super::list::Pages;
use super::webhdfs::Status;
use super::{Tree, space};
use crate::backend::{ErrorKind, Host, Located, Path};

/// Files that are asked for at once.
const AT_ONCE: usize = 16;

/// Bytes by host and rack.
type Sums = BTreeMap<(String, String), u64>;

/// See [`crate::backend::locate`].
pub(super) async fn locate(tree: &Arc<Tree>, path: &Path) -> Outcome<Located> {
    let at = tree.status(path).await?;
    let (mut files, mut unlisted) = (Vec::new(), Vec::new());
    match at.kind.as_str() {
        "DIRECTORY" => unlisted.push(path.clone()),
        _ => files.push((path.clone(), at)),
    }
    let (mut located, mut sums) = (Located::default(), Sums::new());
    loop {
        let found = iter(files.drain(..).map(|(path, status)| of_file(tree, path, status)));
        let found: Vec<(u64, Sums)> = found.buffer_unordered(AT_ONCE).try_collect().await?;
        for (bytes, of_file) in found {
            located.files += 1;
            located.bytes += bytes;
            of_file.into_iter().for_each(|(place, bytes)| *sums.entry(place).or_default() += bytes);
        }
        let Some(dir) = unlisted.pop() else { break };
        list(tree, &dir, &mut files, &mut unlisted).await?;
    }
    let host = |((name, rack), bytes)| Host { name, rack, bytes };
    located.hosts = sums.into_iter().map(host).collect();
    located.hosts.sort_by(|one, other| other.bytes.cmp(&one.bytes).then_with(|| one.name.cmp(&other.name)));
    Ok(located)
}

/// Adds what a directory shows.
async fn list(tree: &Tree, dir: &Path, files: &mut Vec<(Path, Status)>, dirs: &mut Vec<Path>) -> Outcome<()> {
    let mut pages = Pages::default();
    loop {
        let page = match pages.next(tree, dir).await {
            Ok(Some(page)) => page,
            Ok(None) => return Ok(()),
            // It went meanwhile.
            Err(failure) if matches!(failure.kind, ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        for (name, status) in page {
            match status.kind.as_str() {
                _ if name.is_hidden() || name.is_reserved() => {}
                "DIRECTORY" => dirs.push(dir.join(&name)),
                "FILE" => files.push((dir.join(&name), status)),
                _ => {}
            }
        }
    }
}

async fn of_file(tree: &Arc<Tree>, path: Path, status: Status) -> Outcome<(u64, Sums)> {
    let mut sums = Sums::new();
    if status.length == 0 {
        return Ok((0, sums));
    }
    let blocks = match tree.web.blocks(&tree.at(&path)?, status.length).await {
        // It went meanwhile.
        Err(failure) if failure.kind == ErrorKind::NotFound => return Ok((0, sums)),
        blocks => blocks?,
    };
    // Of a group of blocks each DataNode has as much as one of those that hold data.
    let held = status.ec_policy.as_deref().and_then(space::striped).map_or(1, |(_, held)| held);
    for block in blocks {
        let bytes = block.block.num_bytes.div_ceil(held);
        for node in block.locations {
            *sums.entry((node.host_name, node.network_location)).or_default() += bytes;
        }
    }
    Ok((status.length, sums))
}
