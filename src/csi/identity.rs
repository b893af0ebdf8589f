//! The Identity service: who the plugin is, and whether a restart would help it. The same answers from both plugins.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::{Request, Response, Status, async_trait};

use super::status;
use super::v1::plugin_capability::service::Type;
use super::v1::plugin_capability::{self, Service, VolumeExpansion, volume_expansion};
use super::v1::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    PluginCapability, ProbeRequest, ProbeResponse, identity_server,
};
use crate::observability::pages::Standing;

/// What Probe tells. Begins not ready.
///
/// A failing Probe restarts the container and with it whatever it serves, so only what a restart mends is a failure.
/// A store that does not answer is none.
#[derive(Debug, Default)]
pub struct Health {
    ready: AtomicBool,
    broken: Mutex<Option<String>>,
}

impl Health {
    /// The plugin has what it needs to serve.
    pub fn ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// How the plugin is, for whoever probes it otherwise.
    pub fn standing(&self) -> Standing {
        match &*self.why() {
            Some(reason) => Standing::Broken(reason.clone()),
            None if self.ready.load(Ordering::Acquire) => Standing::Ready,
            None => Standing::Starting,
        }
    }

    /// Something is wrong that a restart mends.
    pub fn broken(&self, reason: impl Into<String>) {
        *self.why() = Some(reason.into());
    }

    /// It is right again by itself.
    pub fn mended(&self) {
        *self.why() = None;
    }

    fn why(&self) -> MutexGuard<'_, Option<String>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The Identity service.
#[derive(Debug, Clone)]
pub struct Identity {
    name: String,
    health: Arc<Health>,
}

/// A driver name that Kubernetes would not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be a driver's name: it has 1 to 63 letters, digits, '-' and '.', and begins and ends with a letter or \
     digit"
)]
pub struct BadDriverName(String);

impl Identity {
    /// For the driver called `name`.
    ///
    /// # Errors
    /// [`BadDriverName`].
    pub fn new(name: &str, health: Arc<Health>) -> Result<Identity, BadDriverName> {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        let ends = [name.bytes().next(), name.bytes().last()];
        let fits = name.len() <= 63
            && name.bytes().all(inside)
            && ends.iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()));
        if fits { Ok(Identity { name: name.to_owned(), health }) } else { Err(BadDriverName(name.to_owned())) }
    }
}

#[async_trait]
impl identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        _request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: Default::default(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let service = |kind: Type| plugin_capability::Type::Service(Service { r#type: kind.into() });
        let expansion = VolumeExpansion { r#type: volume_expansion::Type::Online.into() };
        let capabilities = [
            service(Type::ControllerService),
            service(Type::VolumeAccessibilityConstraints),
            plugin_capability::Type::VolumeExpansion(expansion),
        ];
        let capabilities = capabilities.map(|kind| PluginCapability { r#type: Some(kind) }).to_vec();
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        match self.health.standing() {
            Standing::Broken(reason) => Err(status::failed_precondition(reason)),
            standing => Ok(Response::new(ProbeResponse { ready: Some(standing == Standing::Ready) })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::identity_server::Identity as _;
    use super::*;

    #[tokio::test]
    async fn probe_tells_waiting_from_broken() {
        let health = Arc::new(Health::default());
        let identity = Identity::new("csi.example.org", Arc::clone(&health)).unwrap();
        let probe =
            async || identity.probe(Request::new(ProbeRequest {})).await.map(|answer| answer.into_inner().ready);
        assert_eq!(probe().await.unwrap(), Some(false));
        health.ready();
        assert_eq!(probe().await.unwrap(), Some(true));
        health.broken("the watcher ended");
        assert_eq!(probe().await.unwrap_err().message(), "the watcher ended");
        health.mended();
        assert_eq!(probe().await.unwrap(), Some(true));
    }

    #[test]
    fn a_driver_name_is_a_domain_name() {
        let fits = |name: &str| Identity::new(name, Arc::default()).is_ok();
        assert!(fits("csi.millrace.dev") && fits("a") && fits(&"x".repeat(63)));
        for bad in ["", ".csi", "csi-", "a_b", "a/b", &"x".repeat(64)] {
            assert!(!fits(bad), "{bad}");
        }
    }
}
