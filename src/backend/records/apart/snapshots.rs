//! Snapshots, by the process that keeps the store's records.

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::words::{Ask, Told, text};
use super::{Apart, strange};
use crate::backend::snapshots::Snapshots;
use crate::backend::{Error, Path, Result};

#[async_trait]
impl Snapshots for Apart {
    async fn permitted(&self) -> Result<bool> {
        let at = Path::root();
        match self.ask(&at, Ask::Permitted).await? {
            Told::Is(is) => Ok(is),
            _ => strange(&at),
        }
    }

    async fn take(&self, dir: &Path, name: &str) -> Result<()> {
        match self.ask(dir, Ask::Take { dir: text(dir)?, name: name.to_owned() }).await? {
            Told::Done => Ok(()),
            _ => strange(dir),
        }
    }

    async fn discard(&self, dir: &Path, name: &str) -> Result<()> {
        match self.ask(dir, Ask::Discard { dir: text(dir)?, name: name.to_owned() }).await? {
            Told::Done => Ok(()),
            _ => strange(dir),
        }
    }

    async fn names(&self, dir: &Path) -> Result<Vec<String>> {
        match self.ask(dir, Ask::Names { dir: text(dir)? }).await? {
            Told::Names(names) => Ok(names),
            _ => strange(dir),
        }
    }

    fn restore(&self, dir: &Path, name: &str, to: &Path) -> BoxStream<'static, Result<u64>> {
        let (apart, dir, name, to) = (self.clone(), dir.clone(), name.to_owned(), to.clone());
        let begin = async move {
            let answers = apart.ask_many(&dir, Ask::Restore { dir: text(&dir)?, name, to: text(&to)? }).await?;
            Ok::<_, Error>(stream::try_unfold(answers, async |mut answers| match answers.next().await? {
                Told::Copied(bytes) => Ok(Some((bytes, answers))),
                Told::Done => Ok(None),
                _ => strange(&answers.at),
            }))
        };
        stream::once(begin).try_flatten().boxed()
    }
}
