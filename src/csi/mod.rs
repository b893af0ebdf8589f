//! The CSI edge: gRPC on a Unix socket, and what the orchestrator's words mean here.
//!
//! [`bind`] takes the socket, [`serve`] answers on it until told to stop. What may be asked is in [`identity`],
//! [`node`] and the controller; what is not declared there answers UNIMPLEMENTED. Errors become statuses in [`status`]
//! and nowhere else.

pub mod calls;
pub mod capability;
pub mod controller;
#[cfg(test)]
mod golden;
pub mod identity;
pub mod inflight;
pub mod node;
mod redact;
mod secrets;
pub mod socket;
pub mod status;
pub mod v1;
pub mod volume_id;
pub mod volumes;
pub mod watchdog;
mod wire;

use std::time::Duration;

use futures::TryStreamExt;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;

pub use socket::{RemoveAtEnd, bind};

use v1::controller_server::{Controller, ControllerServer};
use v1::identity_server::{Identity, IdentityServer};
use v1::node_server::{Node, NodeServer};

use crate::observability::audit::Audit;

/// The `format` that this version writes into a `volume_context`, and the only one it reads.
pub const CONTEXT_FORMAT: &str = "1";

/// How long calls may still run after [`serve`] was told to stop: less than the 30 seconds that Kubernetes gives a pod.
pub const GRACE: Duration = Duration::from_secs(20);

/// The services of one plugin.
#[derive(Debug, Clone)]
pub struct Services {
    routes: Routes,
    audit: Option<Audit>,
}

impl Services {
    /// A plugin with the Identity service alone.
    pub fn new(identity: impl Identity) -> Services {
        Services { routes: Routes::new(IdentityServer::new(identity)), audit: None }
    }

    /// And the Controller service.
    pub fn with_controller(self, controller: impl Controller) -> Services {
        Services { routes: self.routes.add_service(ControllerServer::new(controller)), ..self }
    }

    /// And the Node service.
    pub fn with_node(self, node: impl Node) -> Services {
        Services { routes: self.routes.add_service(NodeServer::new(node)), ..self }
    }

    /// And what they do to volumes stands in `audit`.
    pub fn with_audit(self, audit: Audit) -> Services {
        Services { audit: Some(audit), ..self }
    }
}

/// Answers calls on `listener` until `shutdown` is cancelled, then takes no new ones and waits up to [`GRACE`] for those
/// that run. The socket's file is removed at the end, where it is still this listener's.
///
/// # Errors
/// What tonic says of a listener that breaks.
pub async fn serve(
    listener: UnixListener,
    services: Services,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let _file = socket::RemoveAtEnd::of(&listener);
    let running = TaskTracker::new();
    let calls = calls::Calls::around(services.routes.prepare(), running.clone(), services.audit);
    let incoming = UnixListenerStream::new(listener).map_ok(wire::Wire::new);
    let server = Server::builder().serve_with_incoming_shutdown(calls, incoming, shutdown.clone().cancelled_owned());
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = async {
            let ended = server.await;
            running.close();
            running.wait().await;
            ended
        } => ended,
        () = late => {
            tracing::warn!(running = running.len(), "calls were still running when the time to stop was over");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
