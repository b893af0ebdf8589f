//! Asks the plugin on its own socket, as its callers do: one that nobody reaches there only a restart mends.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Endpoint;

use super::identity::Health;
use super::v1::ProbeRequest;
use super::v1::identity_client::IdentityClient;

/// Between two questions.
const PULSE: Duration = Duration::from_secs(10);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many questions without an answer are no chance: a restart ends the mounts of a node.
const MOST_MISSED: u32 = 6;

/// Has `health` tell whether the plugin answers on `socket`, for as long as it is polled.
pub async fn watch(socket: PathBuf, health: Arc<Health>) -> Infallible {
    let mut missed = 0;
    loop {
        sleep(PULSE).await;
        let why = match timeout(PATIENCE, probe(&socket)).await {
            Ok(Ok(())) => {
                missed = 0;
                health.mended();
                continue;
            }
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        missed += 1;
        tracing::warn!(missed, "the plugin does not answer on {}: {why}", socket.display());
        if missed >= MOST_MISSED {
            health.broken(format!("it does not answer on {}: {why}", socket.display()));
        }
    }
}

async fn probe(socket: &Path) -> Result<(), String> {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
    match IdentityClient::new(channel).probe(ProbeRequest {}).await {
        Ok(_) => Ok(()),
        // What Probe says of a plugin that is broken, such as one that did not answer before.
        Err(status) if status.code() == Code::FailedPrecondition => Ok(()),
        Err(status) => Err(status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::csi::identity::Identity;
    use crate::csi::{Services, bind, serve};
    use crate::observability::pages::Standing;

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_nobody_answers_on_is_told_until_somebody_does() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("csi.sock");
        let health = Arc::new(Health::default());
        health.ready();
        tokio::spawn(watch(socket.clone(), Arc::clone(&health)));
        let listener = bind(&socket).unwrap();
        sleep((PULSE + PATIENCE) * (MOST_MISSED - 1)).await;
        assert_eq!(health.standing(), Standing::Ready, "a plugin that is slow is not restarted");
        sleep((PULSE + PATIENCE) * 2).await;
        assert!(matches!(health.standing(), Standing::Broken(why) if why.contains("csi.sock")));

        let services = Services::new(Identity::new("csi.example.org", Arc::clone(&health)).unwrap());
        tokio::spawn(serve(listener, services, CancellationToken::new()));
        sleep((PULSE + PATIENCE) * 2).await;
        assert_eq!(health.standing(), Standing::Ready);
        std::fs::remove_file(&socket).unwrap();
        sleep((PULSE + PATIENCE) * (MOST_MISSED + 1)).await;
        assert!(matches!(health.standing(), Standing::Broken(_)), "nobody finds it any more");
    }
}
