// Command csi-sanity runs the conformance suite of csi-test against a controller and a node plugin, and knows which
// specs may be skipped: one that skips and is not in the list, or is in the list and runs, fails the run.
//
// Its last line is "backend=NAME Ran N of M Specs".
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"k8s.io/klog/v2"
)

// outcome is what the suite tells of its end.
type outcome struct{ failed bool }

func (o *outcome) Fail() { o.failed = true }

func main() {
	config := sanity.NewTestConfig()
	flag.StringVar(&config.ControllerAddress, "controller", "", "socket of the controller plugin")
	flag.StringVar(&config.Address, "node", "", "socket of the node plugin")
	flag.StringVar(&config.SecretsFile, "secrets", "", "YAML file of the secrets of each call")
	flag.StringVar(&config.TestVolumeParametersFile, "parameters", "", "YAML file of StorageClass parameters")
	flag.StringVar(&config.TestVolumeMutableParametersFile, "mutable", "", "YAML file of mutable parameters")
	backend := flag.String("backend", "", "the backend, which decides what may be skipped")
	least := flag.Int("least", 55, "fail if fewer specs than this run")
	flag.Parse()
	if config.ControllerAddress == "" || config.Address == "" || skippedOn(*backend) == nil {
		fmt.Fprintln(os.Stderr, "csi-sanity: -controller, -node and -backend (s3, hdfs or nfs) are needed")
		os.Exit(2)
	}

	// The suite makes the two directories before each spec and removes them after it.
	work, err := os.MkdirTemp("", "csi-sanity-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "csi-sanity:", err)
		os.Exit(1)
	}
	config.TargetPath = filepath.Join(work, "mount")
	config.StagingPath = filepath.Join(work, "staging")

	klog.SetOutput(ginkgo.GinkgoWriter)
	var specs types.SpecReports
	ginkgo.ReportAfterSuite("which specs ran", func(report ginkgo.Report) {
		specs = report.SpecReports.WithLeafNodeType(types.NodeTypeIt)
	})
	var suite outcome
	sanity.Test(&suite, config)
	// Not RemoveAll: what is left may be a mount.
	leftover := os.Remove(work)

	list := skippedOn(*backend)
	ran, complaints := judge(specs, list)
	if leftover != nil {
		complaints = append(complaints, leftover.Error())
	}
	if ran < *least {
		complaints = append(complaints, fmt.Sprintf("only %d specs ran, %d are wanted", ran, *least))
	}
	for _, complaint := range complaints {
		fmt.Println(complaint)
	}
	for _, group := range list {
		fmt.Printf("backend=%s skips %d: %s\n", *backend, len(group.specs), group.reason)
		for _, name := range group.specs {
			fmt.Println("    " + name)
		}
	}
	fmt.Printf("backend=%s Ran %d of %d Specs\n", *backend, ran, len(specs))
	if suite.failed || len(complaints) > 0 {
		os.Exit(1)
	}
}

// judge counts the specs that ran, and says where the list of skipped ones is wrong.
func judge(specs types.SpecReports, list []group) (ran int, complaints []string) {
	var seen []string
	for _, spec := range specs {
		name := spec.FullText()
		seen = append(seen, name)
		reason, listed := reasonToSkip(list, name)
		skipped := spec.State.Is(types.SpecStateSkipped | types.SpecStatePending)
		if !skipped {
			ran++
		}
		switch {
		case skipped && !listed:
			complaints = append(complaints, fmt.Sprintf("skipped, and not in the list: %q (%s)", name, spec.Failure.Message))
		case !skipped && listed:
			complaints = append(complaints, fmt.Sprintf("listed as skipped (%s), and ran: %q", reason, name))
		}
	}
	for _, group := range list {
		for _, name := range group.specs {
			if !slices.Contains(seen, name) {
				complaints = append(complaints, fmt.Sprintf("listed as skipped, and not in the suite: %q", name))
			}
		}
	}
	return ran, complaints
}
