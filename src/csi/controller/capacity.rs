//! GetCapacity: what a store's declared `capacity` leaves for new volumes.

use tonic::Status;

use super::super::capability::{Access, BadCapability};
use super::super::v1::{GetCapacityRequest, GetCapacityResponse};
use super::{Controller, create};
use crate::config::parameters::{Parameters, Place};
use crate::config::stores::Store;

/// What is told of a store that declares no capacity.
const BOUNDLESS: u64 = i64::MAX as u64;

impl Controller {
    /// Without a store among the parameters it is what all stores have together, of which one volume may have what the
    /// roomiest has. A store that makes no volumes has none to give, and one whose residency leaves out the topology that is
    /// asked for has nothing there.
    pub(super) async fn capacity(&self, request: &GetCapacityRequest) -> Result<GetCapacityResponse, Status> {
        for capability in &request.volume_capabilities {
            match Access::of(Some(capability)) {
                Ok(_) => {}
                // Nothing is left for volumes that this driver cannot make.
                Err(BadCapability::Unsupported(_)) => return Ok(answer(0, 0)),
                Err(malformed @ BadCapability::Malformed(_)) => return Err(malformed.into()),
            }
        }
        let stores = self.0.stores.current();
        let parameters = Parameters::parse(&request.parameters, Place::StorageClass)?;
        let named = match parameters.store.as_deref() {
            Some(name) => Some(create::store(Some(name), &stores)?),
            None => None,
        };
        let (mut sum, mut largest) = (0u64, 0u64);
        let topology = request.accessible_topology.as_ref();
        let reached = |store: &&Store| match (&store.residency, topology) {
            (Some(residency), Some(topology)) => residency.meets(&self.0.driver, &topology.segments),
            _ => true,
        };
        let meant = stores.iter().filter(|store| named.is_none_or(|named| named.name == store.name));
        let meant: Vec<&Store> = meant.filter(reached).filter(|store| store.controller_credential.is_some()).collect();
        // Then no other store need be asked.
        if meant.iter().any(|store| store.capacity.is_none()) {
            return Ok(answer(BOUNDLESS, BOUNDLESS));
        }
        for store in meant {
            let left = store.capacity.unwrap_or(BOUNDLESS).saturating_sub(self.volumes(store)?.provisioned().await?);
            sum = sum.saturating_add(left);
            largest = largest.max(left);
        }
        Ok(answer(sum, largest))
    }
}

fn answer(available: u64, largest: u64) -> GetCapacityResponse {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    GetCapacityResponse {
        available_capacity: bytes(available),
        maximum_volume_size: Some(bytes(largest)),
        minimum_volume_size: None,
    }
}
