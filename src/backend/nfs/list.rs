//! A directory's entries, a page at a time: with READDIRPLUS, or, where the server has none, with READDIR and a look at
//! each entry.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use nfs3_types::nfs3::{READDIR3args, READDIRPLUS3args, cookieverf3, fattr3, nfs_fh3, nfsstat3};

use super::calls::{Outcome, option};
use super::error::Failure;
use super::mounting::Mounted;
use super::tree::{Found, Tree};
use super::{Nfs, version};
use crate::backend::{Entry, ErrorKind, Name, Op, Path, Result, beside, reading};

/// Bytes of names and cookies in one page, and of all of it.
const PAGE: (u32, u32) = (64 << 10, 512 << 10);

/// How often in a row a listing begins anew without giving a name that it had not given.
const RESTARTS: usize = 8;

/// Looks at entries that are made at once.
const LOOKS: usize = 16;

/// `Backend::list`.
pub(super) fn list(tree: Arc<Tree>, dir: &Path) -> BoxStream<'static, Result<Entry>> {
    listed(tree, dir, false)
}

/// As [`list`], with files of the driver's own that no mount shows.
pub(super) fn list_all(tree: Arc<Tree>, dir: &Path) -> BoxStream<'static, Result<Entry>> {
    listed(tree, dir, true)
}

fn listed(tree: Arc<Tree>, dir: &Path, all: bool) -> BoxStream<'static, Result<Entry>> {
    let listing = Listing {
        tree,
        dir: dir.clone(),
        all,
        place: Some(Place::default()),
        plus: true,
        given: HashSet::new(),
        restarts: 0,
    };
    reading::pages(listing, async |mut listing| {
        let page = listing.next().await.map_err(|failure| failure.at(Op::List, &listing.dir))?;
        Ok(page.map(|page| (page, listing)))
    })
}

struct Listing {
    tree: Arc<Tree>,
    dir: Path,
    /// What no mount shows is listed, too.
    all: bool,
    /// Where the next page begins; `None` behind the last.
    place: Option<Place>,
    /// The server has READDIRPLUS, as far as is known.
    plus: bool,
    /// The names that were given, for a listing that has to begin anew.
    given: HashSet<Name>,
    /// How often it began anew since it last gave one.
    restarts: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    cookie: u64,
    verifier: cookieverf3,
}

/// An entry as the server gives it.
struct Row {
    name: Vec<u8>,
    cookie: u64,
    known: Option<(nfs_fh3, fattr3)>,
}

impl Listing {
    /// The next page; `None` behind the last.
    async fn next(&mut self) -> Outcome<Option<Vec<Entry>>> {
        while let Some(place) = self.place.take() {
            match self.page(place).await {
                Ok(mut page) => {
                    page.retain(|entry| self.given.insert(entry.name.clone()));
                    if !page.is_empty() {
                        self.restarts = 0;
                    }
                    return Ok(Some(page));
                }
                Err(failure) if failure.status == Some(nfsstat3::NFS3ERR_BAD_COOKIE) && place.cookie != 0 => {
                    if self.restarts == RESTARTS {
                        let why = "the directory changes faster than the server lists it (NFS3ERR_BAD_COOKIE)";
                        return Err(Failure { message: why.into(), kind: ErrorKind::Unavailable, ..failure });
                    }
                    // The server no longer knows where the listing stood: what it gave before is left out.
                    self.restarts += 1;
                    self.place = Some(Place::default());
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(None)
    }

    async fn page(&mut self, place: Place) -> Outcome<Vec<Entry>> {
        let (rows, verifier, eof) = self.rows(place).await?;
        self.place = match rows.last() {
            _ if eof => None,
            Some(last) if last.cookie == place.cookie => {
                return Err(Failure::corrupt("the server's listing goes round in a circle"));
            }
            Some(last) => Some(Place { cookie: last.cookie, verifier }),
            None => return Err(Failure::corrupt("the server's listing ends in its middle")),
        };
        let (mut looks, mut hidden) = (Vec::new(), Vec::new());
        for row in rows {
            match Name::new(&row.name) {
                Ok(name) if name.is_hidden() && !self.all => hidden.push(name),
                Ok(name) => looks.push(entry(self.tree.clone(), self.dir.clone(), name, row.known)),
                Err(_) => {}
            }
        }
        beside::sweep(&Nfs { tree: self.tree.clone() }, &self.dir, hidden);
        let found: Vec<Option<Entry>> = stream::iter(looks).buffered(LOOKS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn rows(&mut self, place: Place) -> Outcome<(Vec<Row>, cookieverf3, bool)> {
        if self.plus {
            let rows = self.tree.in_directory(&self.dir, |mounted, dir| plus(mounted, dir, place)).await;
            match rows {
                Err(failure) if failure.kind == ErrorKind::Unsupported => self.plus = false,
                outcome => return outcome,
            }
        }
        self.tree.in_directory(&self.dir, |mounted, dir| plain(mounted, dir, place)).await
    }
}

async fn plus(mounted: Arc<Mounted>, dir: nfs_fh3, place: Place) -> Outcome<(Vec<Row>, cookieverf3, bool)> {
    let Place { cookie, verifier: cookieverf } = place;
    let asked = READDIRPLUS3args { dir, cookie, cookieverf, dircount: PAGE.0, maxcount: PAGE.1 };
    let page = mounted.server.readdirplus(&asked).await?;
    let rows = page.reply.entries.into_inner().into_iter().map(|entry| Row {
        name: entry.name.0.into_owned(),
        cookie: entry.cookie,
        known: option(entry.name_handle).zip(option(entry.name_attributes)),
    });
    Ok((rows.collect(), page.cookieverf, page.reply.eof))
}

async fn plain(mounted: Arc<Mounted>, dir: nfs_fh3, place: Place) -> Outcome<(Vec<Row>, cookieverf3, bool)> {
    let Place { cookie, verifier: cookieverf } = place;
    let asked = READDIR3args { dir, cookie, cookieverf, count: PAGE.0 };
    let page = mounted.server.readdir(&asked).await?;
    let rows = page.reply.entries.into_inner().into_iter();
    let rows = rows.map(|entry| Row { name: entry.name.0.into_owned(), cookie: entry.cookie, known: None });
    Ok((rows.collect(), page.cookieverf, page.reply.eof))
}

/// An entry with what is known of it, or is found out now; `None` where it was removed since it was listed.
async fn entry(tree: Arc<Tree>, dir: Path, name: Name, known: Option<(nfs_fh3, fattr3)>) -> Outcome<Option<Entry>> {
    let path = dir.join(&name);
    let Found { handle, attributes } = match known {
        Some((handle, attributes)) => Found { handle, attributes },
        None => match tree.lookup_any(&path).await? {
            Some(found) => found,
            None => return Ok(None),
        },
    };
    Ok(Some(Entry { name, meta: version::meta(&path, &handle, &attributes) }))
}
