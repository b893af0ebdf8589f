package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// changed is the published file after a change of ours.
func changed(t *testing.T, change func(*descriptorpb.FileDescriptorProto)) []string {
	t.Helper()
	file := protodesc.ToFileDescriptorProto(csi.File_csi_proto)
	change(file)
	descriptor, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return compare(facts(descriptor), facts(csi.File_csi_proto))
}

func message(file *descriptorpb.FileDescriptorProto, name string) *descriptorpb.DescriptorProto {
	at := slices.IndexFunc(file.MessageType, func(m *descriptorpb.DescriptorProto) bool { return m.GetName() == name })
	return file.MessageType[at]
}

func TestTheSameFileHasNoDifferences(t *testing.T) {
	if found := changed(t, func(*descriptorpb.FileDescriptorProto) {}); len(found) > 0 {
		t.Fatal(found)
	}
	if secrets(facts(csi.File_csi_proto)) == 0 {
		t.Fatal("no secrets found")
	}
}

func TestEveryKindOfDifferenceIsFound(t *testing.T) {
	for name, change := range map[string]func(*descriptorpb.FileDescriptorProto){
		"DeleteVolumeRequest.secrets": func(file *descriptorpb.FileDescriptorProto) {
			message(file, "DeleteVolumeRequest").Field[1].Options = nil
		},
		"DeleteVolumeRequest.volume_id": func(file *descriptorpb.FileDescriptorProto) {
			message(file, "DeleteVolumeRequest").Field[0].Number = proto.Int32(9)
		},
		"CapacityRange.limit_bytes": func(file *descriptorpb.FileDescriptorProto) {
			message(file, "CapacityRange").Field[1].Type = descriptorpb.FieldDescriptorProto_TYPE_UINT64.Enum()
		},
		"csi.v1.Topology": func(file *descriptorpb.FileDescriptorProto) {
			message(file, "Topology").ReservedName = []string{"zone"}
		},
		"VolumeUsage.Unit.BYTES": func(file *descriptorpb.FileDescriptorProto) {
			message(file, "VolumeUsage").EnumType[0].Value[1].Number = proto.Int32(9)
		},
		"csi.v1.Identity.Probe": func(file *descriptorpb.FileDescriptorProto) {
			file.Service[0].Method[2].ServerStreaming = proto.Bool(true)
		},
		"csi.v1.SnapshotMetadata": func(file *descriptorpb.FileDescriptorProto) {
			for _, service := range file.Service {
				service.Options = nil
			}
		},
	} {
		if found := changed(t, change); len(found) != 1 || !strings.Contains(found[0], name) {
			t.Errorf("%s: %v", name, found)
		}
	}
}
