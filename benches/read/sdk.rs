//! The yardstick of a client's processor time: small files whole, by the SDK and nothing above it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use millrace::auth::{Credential, Secret};
use millrace::backend::s3::Config as S3;
use millrace::backend::{self, Fetched, Limits, Path};
use millrace::sandbox::computed;

use super::origin::{ACCESS_KEY, BUCKET, KEY_ID, Origin};
use super::process::thread_cpu;
use super::reader::Outcome;
use super::workload::Workload;

/// What the client may hold, in bytes: it is never what is short.
const MEMORY: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(60);

/// Fetches the workload's files, as many at once as it has connections.
pub(crate) async fn run(origin: &Origin, folder: &str, workload: &Arc<Workload>, cut: Duration) -> Result<Outcome> {
    let store = backend::Config::S3(S3 {
        max_connections: workload.connections,
        ca_bundle: origin.ca_pem.clone(),
        ..S3::at(&origin.endpoint, BUCKET)
    });
    let credential =
        Credential::S3 { key_id: KEY_ID.into(), secret_key: Secret::new(ACCESS_KEY.into()), session_token: None };
    let client = backend::connect(&store, &credential, &Path::parse(folder)?, Limits::alone(MEMORY, PATIENCE))?;
    let (files, next) = (Arc::new(workload.readers.concat()), Arc::new(AtomicUsize::new(0)));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..workload.connections)
        .map(|_| {
            let (client, files, next, workload) = (client.clone(), files.clone(), next.clone(), workload.clone());
            tokio::spawn(async move {
                let mut outcome = Outcome::default();
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if begun.elapsed() > cut {
                        break;
                    }
                    let object = &workload.objects[file.object];
                    let at = Instant::now();
                    let path = Path::parse(&object.name)?;
                    let Fetched::New { bytes, .. } = client.fetch(&path, object.size, None).await? else {
                        bail!("{path} was known before it was fetched");
                    };
                    let before = thread_cpu()?;
                    ensure!(bytes.len() as u64 == object.size, "{path} has {} bytes", bytes.len());
                    ensure!(computed::matches(object.seed, 0, &bytes), "{path} has wrong bytes");
                    outcome.checking += thread_cpu()? - before;
                    outcome.times.push(at.elapsed().as_secs_f64() * 1000.0);
                    outcome.bytes += object.size;
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
