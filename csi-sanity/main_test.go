package main

import (
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/types"
)

var backends = []string{"s3", "hdfs", "nfs"}

// suite is a report with every listed spec skipped, and one that ran.
func suite(list []group) types.SpecReports {
	specs := types.SpecReports{{LeafNodeText: "works", State: types.SpecStatePassed}}
	for _, group := range list {
		for _, name := range group.specs {
			specs = append(specs, types.SpecReport{LeafNodeText: name, State: types.SpecStateSkipped})
		}
	}
	return specs
}

func TestTheListAsItIsPasses(t *testing.T) {
	for _, backend := range backends {
		list := skippedOn(backend)
		if ran, complaints := judge(suite(list), list); ran != 1 || len(complaints) > 0 {
			t.Fatal(backend, ran, complaints)
		}
	}
}

func TestAListThatIsWrongFails(t *testing.T) {
	list := skippedOn("nfs")
	unlisted, runs, gone := suite(list), suite(list), suite(list)
	unlisted[0].State = types.SpecStateSkipped
	runs[1].State = types.SpecStateFailed
	gone = gone[:len(gone)-1]
	for want, specs := range map[string]types.SpecReports{
		"not in the list":   unlisted,
		"and ran":           runs,
		"not in the suite:": gone,
	} {
		if _, complaints := judge(specs, list); len(complaints) != 1 || !strings.Contains(complaints[0], want) {
			t.Errorf("%s: %v", want, complaints)
		}
	}
}

func TestEverySkipHasAReasonAndStandsOnce(t *testing.T) {
	for _, backend := range backends {
		seen := map[string]bool{}
		for _, group := range skippedOn(backend) {
			if group.reason == "" {
				t.Errorf("%s: no reason for %v", backend, group.specs)
			}
			for _, name := range group.specs {
				if seen[name] {
					t.Errorf("%s: twice in the list: %q", backend, name)
				}
				seen[name] = true
			}
		}
	}
	if skippedOn("nothing") != nil {
		t.Error("a backend that nobody knows")
	}
}
