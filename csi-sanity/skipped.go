package main

import "slices"

// group is a reason, and the specs that are skipped for it.
type group struct {
	reason string
	specs  []string
}

func reasonToSkip(skipped []group, name string) (string, bool) {
	for _, group := range skipped {
		for _, spec := range group.specs {
			if spec == name {
				return group.reason, true
			}
		}
	}
	return "", false
}

// skippedOn is every spec that may be skipped on a backend, and must be; nil for a backend that is not known.
func skippedOn(backend string) []group {
	switch backend {
	case "s3":
		return append(slices.Clone(everywhere),
			group{"S3 has no snapshots of a prefix.", snapshots},
			group{"S3 has no snapshots of several prefixes at one moment.", groupSnapshots})
	case "hdfs":
		return append(slices.Clone(everywhere),
			group{"A snapshot of HDFS lies where its volume does: SNAPSHOT_ACCESSIBILITY_CONSTRAINTS is not declared.", snapshotTopology},
			group{"HDFS has no snapshots of several directories at one moment.", groupSnapshots})
	case "nfs":
		return append(slices.Clone(everywhere),
			group{"NFSv3 has no snapshots: what a server may have of its own cannot be asked for.", snapshots},
			group{"NFSv3 has no snapshots of several directories at one moment.", groupSnapshots})
	}
	return nil
}

// everywhere is what is skipped whatever the backend.
var everywhere = []group{
	{
		reason: "CLONE_VOLUME is not declared: a copy of a data set takes longer than a call may.",
		specs: []string{
			"Controller Service [Controller Server] CreateVolume should create volume from an existing source volume",
			"Controller Service [Controller Server] CreateVolume should fail when the volume source volume is not found",
		},
	},
	{
		reason: "Identity arrives with a publish, so nothing is staged: STAGE_UNSTAGE_VOLUME is not declared.",
		specs: []string{
			"Node Service NodeStageVolume should fail when no staging target path is provided",
			"Node Service NodeStageVolume should fail when no volume capability is provided",
			"Node Service NodeStageVolume should fail when no volume id is provided",
			"Node Service NodeUnstageVolume should fail when no staging target path is provided",
			"Node Service NodeUnstageVolume should fail when no volume id is provided",
		},
	},
	{
		reason: "Nothing is attached to a node: PUBLISH_UNPUBLISH_VOLUME is not declared.",
		specs: []string{
			"Controller Service [Controller Server] ControllerPublishVolume should fail when no node id is provided",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when no volume capability is provided",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when no volume id is provided",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when publishing more volumes than the node max attach limit",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when the node does not exist",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when the volume does not exist",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when the volume is already published but is incompatible",
			"Controller Service [Controller Server] ControllerUnpublishVolume should fail when no volume id is provided",
			"Controller Service [Controller Server] volume lifecycle should be idempotent",
			"Controller Service [Controller Server] volume lifecycle should work",
		},
	},
	{
		reason: "Pending in the suite itself.",
		specs: []string{
			"Controller Service [Controller Server] ListVolumes pagination should detect volumes added between pages and accept tokens when the last volume from a page is deleted",
		},
	},
}

// snapshotTopology is what a driver without SNAPSHOT_ACCESSIBILITY_CONSTRAINTS skips.
var snapshotTopology = []string{
	"CreateSnapshot [Controller Server] should succeed when creating a snapshot with accessibility requirements",
}

// snapshots is what a driver without CREATE_DELETE_SNAPSHOT skips.
var snapshots = []string{
	"Controller Service [Controller Server] CreateVolume should create volume from an existing source snapshot",
	"Controller Service [Controller Server] CreateVolume should fail when the volume source snapshot is not found",
	"CreateSnapshot [Controller Server] should fail when no name is provided",
	"CreateSnapshot [Controller Server] should fail when no source volume id is provided",
	"CreateSnapshot [Controller Server] should fail when requesting to create a snapshot with already existing name and different source volume ID",
	snapshotTopology[0],
	"CreateSnapshot [Controller Server] should succeed when creating snapshot with maximum-length name",
	"CreateSnapshot [Controller Server] should succeed when requesting to create a snapshot with already existing name and same source volume ID",
	"DeleteSnapshot [Controller Server] should fail when no snapshot id is provided",
	"DeleteSnapshot [Controller Server] should return appropriate values (no optional values added)",
	"DeleteSnapshot [Controller Server] should succeed when an invalid snapshot id is used",
	"GetSnapshot [Controller Server] should return an error",
	"GetSnapshot [Controller Server] should return an error when the specified snapshot id does not exist",
	"GetSnapshot [Controller Server] should return snapshot that match the specified snapshot id",
	"ListSnapshots [Controller Server] check the presence of new snapshots in the snapshot list",
	"ListSnapshots [Controller Server] should return appropriate values (no optional values added)",
	"ListSnapshots [Controller Server] should return empty when the specified snapshot id does not exist",
	"ListSnapshots [Controller Server] should return empty when the specified source volume id does not exist",
	"ListSnapshots [Controller Server] should return next token when a limited number of entries are requested",
	"ListSnapshots [Controller Server] should return snapshots that match the specified snapshot id",
	"ListSnapshots [Controller Server] should return snapshots that match the specified source volume id",
}

// groupSnapshots is what a driver without a GroupController service skips.
var groupSnapshots = []string{
	"GroupController Service [GroupController Server] GroupControllerGetCapabilities should return appropriate capabilities",
	"GroupController Service [GroupController VolumeGroupSnapshots] CreateVolumeGroupSnapshot should fail when no name is provided",
	"GroupController Service [GroupController VolumeGroupSnapshots] DeleteVolumeGroupSnapshot should fail when no volume id is provided",
	"GroupController Service [GroupController VolumeGroupSnapshots] DeleteVolumeGroupSnapshot should succeed when an invalid volume id is used",
	"GroupController Service [GroupController VolumeGroupSnapshots] GetVolumeGroupSnapshot should fail when an invalid volume id is used",
	"GroupController Service [GroupController VolumeGroupSnapshots] GetVolumeGroupSnapshot should fail when no volume id is provided",
}
