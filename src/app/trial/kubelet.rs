//! Plays external-provisioner and kubelet: the same calls, over the same sockets, in the same order.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use tonic::transport::{Channel, Endpoint};

use crate::csi::v1::controller_client::ControllerClient;
use crate::csi::v1::node_client::NodeClient;
use crate::csi::v1::volume_capability::access_mode::Mode;
use crate::csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use crate::csi::v1::{
    CreateVolumeRequest, DeleteVolumeRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest,
    NodeUnpublishVolumeRequest, ValidateVolumeCapabilitiesRequest, Volume, VolumeCapability, VolumeUsage,
};

/// Clients of both plugins.
#[derive(Debug)]
pub(super) struct Kubelet {
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
}

impl Kubelet {
    /// Connects to the plugins' sockets.
    pub(super) async fn connect(controller: &Path, node: &Path) -> Result<Kubelet> {
        let channel = async |socket: &Path| {
            Endpoint::try_from(format!("unix://{}", socket.display()))?
                .connect()
                .await
                .with_context(|| format!("cannot connect to {}", socket.display()))
        };
        Ok(Kubelet {
            controller: ControllerClient::new(channel(controller).await?),
            node: NodeClient::new(channel(node).await?),
        })
    }

    /// CreateVolume, then ValidateVolumeCapabilities of what it made.
    pub(super) async fn create(&mut self, name: &str, parameters: HashMap<String, String>) -> Result<Volume> {
        let request = CreateVolumeRequest {
            name: name.to_owned(),
            volume_capabilities: vec![capability()],
            parameters,
            ..Default::default()
        };
        let reply = self.controller.create_volume(request).await.context("CreateVolume")?;
        let volume = reply.into_inner().volume.context("CreateVolume answered without a volume")?;
        let request = ValidateVolumeCapabilitiesRequest {
            volume_id: volume.volume_id.clone(),
            volume_context: volume.volume_context.clone(),
            volume_capabilities: vec![capability()],
            ..Default::default()
        };
        let reply =
            self.controller.validate_volume_capabilities(request).await.context("ValidateVolumeCapabilities")?;
        let reply = reply.into_inner();
        reply.confirmed.with_context(|| format!("the capabilities were not confirmed: {}", reply.message))?;
        Ok(volume)
    }

    /// DeleteVolume.
    pub(super) async fn delete(&mut self, volume_id: &str) -> Result<()> {
        let request = DeleteVolumeRequest { volume_id: volume_id.to_owned(), ..Default::default() };
        self.controller.delete_volume(request).await.context("DeleteVolume")?;
        Ok(())
    }

    /// NodePublishVolume with the user's secret in the request.
    pub(super) async fn publish(
        &mut self,
        volume: &Volume,
        target: &Path,
        secrets: HashMap<String, String>,
    ) -> Result<()> {
        let request = NodePublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            target_path: target.to_string_lossy().into_owned(),
            volume_capability: Some(capability()),
            volume_context: volume.volume_context.clone(),
            secrets,
            ..Default::default()
        };
        self.node.node_publish_volume(request).await.context("NodePublishVolume")?;
        Ok(())
    }

    /// NodeGetVolumeStats.
    pub(super) async fn stats(&mut self, volume_id: &str, path: &Path) -> Result<Vec<VolumeUsage>> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: volume_id.to_owned(),
            volume_path: path.to_string_lossy().into_owned(),
            ..Default::default()
        };
        Ok(self.node.node_get_volume_stats(request).await.context("NodeGetVolumeStats")?.into_inner().usage)
    }

    /// NodeUnpublishVolume.
    pub(super) async fn unpublish(&mut self, volume_id: &str, target: &Path) -> Result<()> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: volume_id.to_owned(),
            target_path: target.to_string_lossy().into_owned(),
        };
        self.node.node_unpublish_volume(request).await.context("NodeUnpublishVolume")?;
        Ok(())
    }
}

fn capability() -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode: Mode::MultiNodeMultiWriter.into() }),
    }
}
