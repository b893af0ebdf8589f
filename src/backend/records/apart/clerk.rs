//! The side that has the store's client, and does what it is asked.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use futures::TryStreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::words::{Ask, Body, Failed, FromClerk, Line, Opening, ToClerk, Told, VERSION, path, text};
use crate::auth::Credential;
use crate::backend::records::{Records, Tag};
use crate::backend::snapshots::Snapshots;
use crate::backend::{self, Error, ErrorKind, Op, Path, Result};

/// Paths in one frame: a page of them.
const PAGE: usize = 1000;

/// Receives what is to be kept, and for whom.
///
/// # Errors
/// Where the socket is not that of a process of this version that says so.
pub async fn open(socket: UnixStream) -> io::Result<(UnixStream, Opening)> {
    socket.set_nonblocking(true)?;
    let mut line = Line::new(tokio::net::UnixStream::from_std(socket)?);
    let opening: Opening = line.receive().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if opening.version != VERSION {
        return Err(io::Error::other(format!("started by version {}, and this is {VERSION}", opening.version)));
    }
    Ok((line.into_socket().into_std()?, opening))
}

/// Does what is asked over `socket` until the other side has ended.
///
/// # Errors
/// The socket's.
pub async fn serve(socket: UnixStream, opening: Opening) -> io::Result<()> {
    let mut line = Line::new(tokio::net::UnixStream::from_std(socket)?);
    let Opening { store, credential, .. } = opening;
    match Kept::open(&store, &credential) {
        Ok(kept) => {
            line.send(&FromClerk::Ready(Ok(()))).await?;
            keep(line, kept).await
        }
        Err(error) => line.send(&FromClerk::Ready(Err(Failed::of(error)))).await,
    }
}

/// A store.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) records: Arc<dyn Records>,
    pub(super) snapshots: Option<Arc<dyn Snapshots>>,
}

impl Kept {
    fn open(store: &backend::Config, credential: &Credential) -> Result<Kept> {
        let (records, snapshots) = (backend::records(store, credential)?, backend::snapshots(store, credential)?);
        Ok(Kept { records, snapshots })
    }

    fn snapshots(&self) -> Result<&dyn Snapshots> {
        let none = || Error::new(ErrorKind::Unsupported, Op::Record, &Path::root(), "the store has no snapshots");
        self.snapshots.as_deref().ok_or_else(none)
    }
}

/// Does what is asked of `kept`.
pub(super) async fn keep(mut line: Line, kept: Kept) -> io::Result<()> {
    let (tell, mut told) = mpsc::channel::<FromClerk>(16);
    let mut doing: HashMap<u64, AbortOnDropHandle<()>> = HashMap::new();
    loop {
        tokio::select! {
            asked = line.receive::<ToClerk>() => match asked? {
                Some(ToClerk::Ask { number, what }) => {
                    doing.retain(|_, one| !one.is_finished());
                    let task = tokio::spawn(answer(kept.clone(), number, what, tell.clone()));
                    doing.insert(number, AbortOnDropHandle::new(task));
                }
                Some(ToClerk::GiveUp { number }) => drop(doing.remove(&number)),
                Some(ToClerk::Ping) => line.send(&FromClerk::Pong).await?,
                None => return Ok(()),
            },
            Some(frame) = told.recv() => line.send(&frame).await?,
        }
    }
}

/// Does one thing, and tells what it came to.
async fn answer(kept: Kept, number: u64, ask: Ask, tell: mpsc::Sender<FromClerk>) {
    let what = match ask {
        Ask::List { dir, after } => list(&*kept.records, number, &dir, after.as_deref(), &tell).await,
        Ask::Restore { dir, name, to } => restore(&kept, number, [&dir, &name, &to], &tell).await,
        ask => single(&kept, ask).await,
    };
    // Whoever asked may be gone.
    let _ = tell.send(FromClerk::Told { number, what: what.map_err(Failed::of) }).await;
}

async fn list(
    records: &dyn Records,
    number: u64,
    dir: &str,
    after: Option<&str>,
    tell: &mpsc::Sender<FromClerk>,
) -> Result<Told> {
    let after = after.map(path).transpose()?;
    let mut pages = records.list(&path(dir)?, after.as_ref()).try_chunks(PAGE);
    loop {
        let (page, failed) = match pages.try_next().await {
            Ok(Some(page)) => (page, None),
            Ok(None) => return Ok(Told::Done),
            Err(error) => (error.0, Some(error.1)),
        };
        let page = page.iter().map(text).collect::<Result<_>>()?;
        let _ = tell.send(FromClerk::Told { number, what: Ok(Told::Paths(page)) }).await;
        if let Some(error) = failed {
            return Err(error);
        }
    }
}

async fn restore(kept: &Kept, number: u64, of: [&str; 3], tell: &mpsc::Sender<FromClerk>) -> Result<Told> {
    let [dir, name, to] = of;
    let mut copying = kept.snapshots()?.restore(&path(dir)?, name, &path(to)?);
    while let Some(bytes) = copying.try_next().await? {
        let _ = tell.send(FromClerk::Told { number, what: Ok(Told::Copied(bytes)) }).await;
    }
    Ok(Told::Done)
}

async fn single(kept: &Kept, ask: Ask) -> Result<Told> {
    let records = &*kept.records;
    Ok(match ask {
        Ask::Excludes => Told::Is(records.excludes().await?),
        Ask::Create { at, body } => Told::Tag(records.create(&path(&at)?, body.0).await?.0),
        Ask::Get { at } => {
            let (body, Tag(tag)) = records.get(&path(&at)?).await?;
            Told::Record { body: Body(body), tag }
        }
        Ask::Replace { at, tag, body } => Told::Tag(records.replace(&path(&at)?, &Tag(tag), body.0).await?.0),
        Ask::Remove { at } => {
            records.remove(&path(&at)?).await?;
            Told::Done
        }
        // By themselves.
        Ask::List { .. } | Ask::Restore { .. } => Told::Done,
        Ask::Permitted => Told::Is(kept.snapshots()?.permitted().await?),
        Ask::Take { dir, name } => {
            kept.snapshots()?.take(&path(&dir)?, &name).await?;
            Told::Done
        }
        Ask::Discard { dir, name } => {
            kept.snapshots()?.discard(&path(&dir)?, &name).await?;
            Told::Done
        }
        Ask::Names { dir } => Told::Names(kept.snapshots()?.names(&path(&dir)?).await?),
        Ask::Measure { dir, from } => Told::Measured(records.measure(&path(&dir)?, from).await?),
        Ask::IsVacant { path: at } => Told::Is(records.is_vacant(&path(&at)?).await?),
        Ask::RemovePage { dir, extent } => Told::Removed(records.remove_page(&path(&dir)?, extent).await?),
        Ask::MakeDirectory { at, how } => Told::Text(records.make_directory(&path(&at)?, &how).await?),
        Ask::Directory { at } => Told::Text(records.directory(&path(&at)?).await?),
        Ask::SetQuota { at, bytes } => Told::Is(records.set_quota(&path(&at)?, bytes).await?),
        Ask::Exposure => Told::Text(records.exposure().await?),
        Ask::Halted => Told::Text(records.halted().await?),
        Ask::Clear => Told::Count(records.clear().await?),
    })
}
