// Command descriptors compares a compiled csi.proto with the published one: every name, number, type and option of
// every message, field, enum, value, service and method. It prints each difference and fails if there is one.
//
// Usage: descriptors FILE, where FILE holds an encoded google.protobuf.FileDescriptorSet.
package main

import (
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "descriptors:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: descriptors FILE")
	}
	ours, err := read(args[0])
	if err != nil {
		return err
	}
	published := facts(csi.File_csi_proto)
	differences := compare(facts(ours), published)
	for _, difference := range differences {
		fmt.Println(difference)
	}
	if len(differences) > 0 {
		return fmt.Errorf("%d differences from the published descriptors", len(differences))
	}
	fmt.Printf("%d facts agree with the published descriptors, %d of them secrets\n", len(published), secrets(published))
	return nil
}

// read finds csi.proto in a descriptor set.
func read(path string) (protoreflect.FileDescriptor, error) {
	wire, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(wire, &set); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return files.FindFileByPath("csi.proto")
}

// facts says everything about a file as a map from a name to what is true of it. Comments are no facts, and neither
// is the order in which things stand.
func facts(file protoreflect.FileDescriptor) map[string]string {
	found := map[string]string{
		"file": fmt.Sprintf("syntax %v, package %s, options %s", file.Syntax(), file.Package(), options(file)),
	}
	for i := range file.Imports().Len() {
		found["import "+file.Imports().Get(i).Path()] = "imported"
	}
	enums(found, file.Enums())
	messages(found, file.Messages())
	extensions := file.Extensions()
	for i := range extensions.Len() {
		found["extension "+string(extensions.Get(i).FullName())] =
			fmt.Sprintf("of %s: %s", extensions.Get(i).ContainingMessage().FullName(), field(extensions.Get(i)))
	}
	for i := range file.Services().Len() {
		service := file.Services().Get(i)
		found["service "+string(service.FullName())] = "options " + options(service)
		for j := range service.Methods().Len() {
			method := service.Methods().Get(j)
			found["method "+string(method.FullName())] = fmt.Sprintf("%s (stream %v) to %s (stream %v), options %s",
				method.Input().FullName(), method.IsStreamingClient(),
				method.Output().FullName(), method.IsStreamingServer(), options(method))
		}
	}
	return found
}

func messages(found map[string]string, list protoreflect.MessageDescriptors) {
	for i := range list.Len() {
		message := list.Get(i)
		found["message "+string(message.FullName())] = fmt.Sprintf("options %s, reserved %v %v",
			options(message), ranges(message.ReservedRanges()), message.ReservedNames())
		for j := range message.Fields().Len() {
			found["field "+string(message.Fields().Get(j).FullName())] = field(message.Fields().Get(j))
		}
		enums(found, message.Enums())
		messages(found, message.Messages())
	}
}

func field(field protoreflect.FieldDescriptor) string {
	kind := field.Kind().String()
	switch {
	case field.Message() != nil:
		kind += " " + string(field.Message().FullName())
	case field.Enum() != nil:
		kind += " " + string(field.Enum().FullName())
	}
	oneof := "none"
	if field.ContainingOneof() != nil {
		oneof = string(field.ContainingOneof().Name())
	}
	return fmt.Sprintf("= %d, %v %s, json %s, oneof %s, presence %v, options %s",
		field.Number(), field.Cardinality(), kind, field.JSONName(), oneof, field.HasPresence(), options(field))
}

func enums(found map[string]string, list protoreflect.EnumDescriptors) {
	for i := range list.Len() {
		enum := list.Get(i)
		reserved := make([][2]protoreflect.EnumNumber, enum.ReservedRanges().Len())
		for j := range reserved {
			reserved[j] = enum.ReservedRanges().Get(j)
		}
		found["enum "+string(enum.FullName())] = fmt.Sprintf("options %s, reserved %v", options(enum), reserved)
		for j := range enum.Values().Len() {
			value := enum.Values().Get(j)
			// Values are named in the scope around their enum.
			found[fmt.Sprintf("value %s.%s", enum.FullName(), value.Name())] =
				fmt.Sprintf("= %d, options %s", value.Number(), options(value))
		}
	}
}

func ranges(fields protoreflect.FieldRanges) [][2]protoreflect.FieldNumber {
	all := make([][2]protoreflect.FieldNumber, fields.Len())
	for i := range all {
		all[i] = fields.Get(i)
	}
	return all
}

// options writes a descriptor's options, extensions such as csi_secret included, always in the same way. Both sides
// go through the published extension types, so that the same wire bytes read the same.
func options(descriptor protoreflect.Descriptor) string {
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(descriptor.Options())
	if err != nil {
		return err.Error()
	}
	fresh := descriptor.Options().ProtoReflect().New().Interface()
	if err := proto.Unmarshal(wire, fresh); err != nil {
		return err.Error()
	}
	var parts []string
	fresh.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		parts = append(parts, fmt.Sprintf("%s=%v", field.FullName(), value.Interface()))
		return true
	})
	if unknown := fresh.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		parts = append(parts, fmt.Sprintf("unknown %x", unknown))
	}
	sort.Strings(parts)
	return fmt.Sprint(parts)
}

func compare(ours, published map[string]string) []string {
	var differences []string
	for name, said := range published {
		switch got, known := ours[name]; {
		case !known:
			differences = append(differences, fmt.Sprintf("missing: %s %s", name, said))
		case got != said:
			differences = append(differences, fmt.Sprintf("differs: %s\n  ours      %s\n  published %s", name, got, said))
		}
	}
	for name, said := range ours {
		if _, known := published[name]; !known {
			differences = append(differences, fmt.Sprintf("not published: %s %s", name, said))
		}
	}
	slices.Sort(differences)
	return differences
}

func secrets(facts map[string]string) int {
	count := 0
	for _, said := range facts {
		if strings.Contains(said, "csi_secret=true") {
			count++
		}
	}
	return count
}
