//! The calls for one volume that is there: get, expand, modify, delete.

use tonic::Status;

use super::super::calls::Subject;
use super::super::capability::Access;
use super::super::status;
use super::super::v1::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerGetVolumeResponse,
    ControllerModifyVolumeRequest, controller_get_volume_response,
};
use super::super::volume_id::VolumeId;
use super::super::volumes::{Record, Room, State};
use super::{Controller, create, key};
use crate::config::VolumeOptions;
use crate::config::parameters::modify;

/// Reads the id of a volume that must be one.
///
/// # Errors
/// INVALID_ARGUMENT where there is none or it could be nobody's, NOT_FOUND where no CreateVolume made it.
pub(super) fn known(text: &str) -> Result<VolumeId, Status> {
    if text.is_empty() {
        return Err(status::invalid("the request has no volume id"));
    }
    let shown = status::clipped(text, 256);
    VolumeId::parse(text).map_err(|why| status::not_found(format!("CreateVolume made no volume {shown:?}: {why}")))
}

/// Tells the audit trail where a volume lies.
pub(super) fn tell_place(subject: &Subject, id: &VolumeId) {
    subject.tell(|entry| {
        entry.store = Some(id.store().to_owned());
        entry.path = Some(id.path().to_string());
    });
}

/// And for whom it was made.
pub(super) fn tell_claim(subject: &Subject, record: &Record) {
    if let Some(claim) = record.claim.clone() {
        subject.tell(|entry| (entry.namespace, entry.claim) = (Some(claim.namespace), Some(claim.name)));
    }
}

impl Controller {
    /// ControllerGetVolume. Where a volume is published is known to the nodes alone.
    pub(super) async fn get(&self, text: &str) -> Result<ControllerGetVolumeResponse, Status> {
        let id = known(text)?;
        let (store, volumes) = self.volumes_of(&id)?;
        let found = volumes.find(id.path(), id.generation().as_str()).await?;
        let record = found.filter(|record| record.state == State::Ready && record.cluster == self.0.cluster);
        let record = record.ok_or_else(|| status::not_found(format!("there is no volume {text:?} (any more)")))?;
        Ok(ControllerGetVolumeResponse {
            volume: Some(create::volume(&store, &record, &self.0.driver)?),
            status: Some(controller_get_volume_response::VolumeStatus::default()),
        })
    }

    /// DeleteVolume. An id that CreateVolume does not make names nothing that could be deleted; a static volume is never
    /// deleted.
    pub(super) async fn delete(&self, text: &str, subject: &Subject) -> Result<(), Status> {
        if text.is_empty() {
            return Err(status::invalid("the request has no volume id"));
        }
        let Ok(id) = VolumeId::parse(text) else { return Ok(()) };
        tell_place(subject, &id);
        let (_, volumes) = self.volumes_of(&id)?;
        let _guard = self.0.inflight.enter(&key(id.store(), id.path()))?;
        if let Some(deleted) = volumes.delete(id.path(), id.generation().as_str()).await? {
            tell_claim(subject, &deleted.record);
            subject.tell(|entry| entry.removed = Some(deleted.removed));
        }
        Ok(())
    }

    /// ControllerExpandVolume. The node is always told, since the call that did it may have died before its answer.
    pub(super) async fn expand(
        &self,
        request: &ControllerExpandVolumeRequest,
        subject: &Subject,
    ) -> Result<ControllerExpandVolumeResponse, Status> {
        let id = known(&request.volume_id)?;
        tell_place(subject, &id);
        if let Some(capability) = &request.volume_capability {
            Access::of(Some(capability))?;
        }
        let (required, limit) = create::size(request.capacity_range.as_ref())?;
        if required == 0 && limit == 0 {
            return Err(status::invalid("the request has no capacity range"));
        }
        subject.tell(|entry| entry.size = Some(if required > 0 { required } else { limit }));
        let (store, volumes) = self.volumes_of(&id)?;
        let _guard = self.0.inflight.enter(&key(id.store(), id.path()))?;
        let room = Room { required, limit, capacity: store.capacity };
        let record = volumes.expand(id.path(), id.generation().as_str(), room).await?;
        // One without a limit has what was asked for.
        let size = if record.size > 0 { record.size } else { required };
        tell_claim(subject, &record);
        subject.tell(|entry| entry.size = Some(size));
        Ok(ControllerExpandVolumeResponse {
            capacity_bytes: i64::try_from(size).unwrap_or(i64::MAX),
            node_expansion_required: true,
        })
    }

    /// ControllerModifyVolume: all words or none.
    pub(super) async fn modify(
        &self,
        request: &ControllerModifyVolumeRequest,
        subject: &Subject,
    ) -> Result<(), Status> {
        let id = known(&request.volume_id)?;
        tell_place(subject, &id);
        // Of the options only what the words set is looked at.
        let mut options = VolumeOptions { memory: 0, ..VolumeOptions::default() };
        modify(&mut options, &request.mutable_parameters)?;
        let (store, volumes) = self.volumes_of(&id)?;
        create::within(&store, &options)?;
        let _guard = self.0.inflight.enter(&key(id.store(), id.path()))?;
        let words = create::own_parameters(&request.mutable_parameters);
        subject.tell(|entry| entry.changed = words.clone());
        let record = volumes.modify(id.path(), id.generation().as_str(), &words).await?;
        tell_claim(subject, &record);
        Ok(())
    }
}
