//! The limit: a plain client with foresight, on as many connections as the mount has.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use millrace::sandbox::computed;
use millrace::sandbox::raw::{Access, Raw};

use super::dataset::Object;
use super::process::thread_cpu;
use super::reader::Outcome;
use super::workload::{By, MIB, Step, Unit, Workload};

/// Ranges that the raw client asks for.
pub(crate) const PART: u64 = 8 * MIB;

/// Who asks for ranges, and for nothing that is not asked of it.
#[async_trait]
pub(crate) trait Client: Send + Sync {
    /// The bytes of a range of an object of the workload's.
    async fn get(&self, name: &str, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>>;
}

/// Plain HTTP, in a folder of a bucket.
pub(crate) struct Http {
    raw: Raw,
    folder: String,
}

impl Http {
    pub(crate) fn new(access: Access, folder: &str) -> Result<Http> {
        Ok(Http { raw: Raw::new(access)?, folder: folder.to_owned() })
    }
}

#[async_trait]
impl Client for Http {
    async fn get(&self, name: &str, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let body = self.raw.get(&format!("{}/{name}", self.folder), Some(range)).await?;
        Ok(body.map(|chunk| Ok(chunk?)).boxed())
    }
}

/// The requests that show what the wire gives for a workload: small files whole, random reads as they are, and
/// everything else by parts in the order of the objects.
fn requests(workload: &Workload) -> Vec<Step> {
    match (workload.by, workload.unit) {
        (By::WholeFile, _) | (_, Unit::Milliseconds) => workload.readers.concat(),
        _ => {
            let parts = |(object, Object { size, .. }): (usize, &Object)| {
                let size = *size;
                (0..size).step_by(PART as usize).map(move |at| Step { object, at, length: PART.min(size - at) })
            };
            workload.objects.iter().enumerate().flat_map(parts).collect()
        }
    }
}

/// Runs the workload's bytes by so many requests `at_once`.
pub(crate) async fn run(client: Arc<dyn Client>, workload: &Workload, at_once: u32, cut: Duration) -> Result<Outcome> {
    let (steps, next) = (Arc::new(requests(workload)), Arc::new(AtomicUsize::new(0)));
    let objects: Arc<Vec<_>> = Arc::new(workload.objects.iter().map(|one| (one.name.clone(), one.seed)).collect());
    let begun = Instant::now();
    let tasks: Vec<_> = (0..at_once)
        .map(|_| {
            let (client, steps, next, objects) = (client.clone(), steps.clone(), next.clone(), objects.clone());
            tokio::spawn(async move {
                let mut outcome = Outcome::default();
                while let Some(step) = steps.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if begun.elapsed() > cut {
                        break;
                    }
                    let (name, seed) = &objects[step.object];
                    let at = Instant::now();
                    let mut position = step.at;
                    let mut body = client.get(name, step.at..step.at + step.length).await?;
                    while let Some(chunk) = body.next().await {
                        let chunk = chunk?;
                        let before = thread_cpu()?;
                        ensure!(computed::matches(*seed, position, &chunk), "{name} has wrong bytes at {position}");
                        outcome.checking += thread_cpu()? - before;
                        position += chunk.len() as u64;
                    }
                    ensure!(position == step.at + step.length, "{name} ends at {position}");
                    outcome.times.push(at.elapsed().as_secs_f64() * 1000.0);
                    outcome.bytes += step.length;
                    outcome.steps += 1;
                }
                outcome.seconds = begun.elapsed().as_secs_f64();
                Ok(outcome)
            })
        })
        .collect();
    let mut sum = Outcome::default();
    for task in tasks {
        sum = sum.with(task.await??);
    }
    Ok(sum)
}
