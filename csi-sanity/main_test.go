package main

import (
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/types"
)

// suite is a report with every listed spec skipped, and one that ran.
func suite() types.SpecReports {
	specs := types.SpecReports{{LeafNodeText: "works", State: types.SpecStatePassed}}
	for _, group := range skipped {
		for _, name := range group.specs {
			specs = append(specs, types.SpecReport{LeafNodeText: name, State: types.SpecStateSkipped})
		}
	}
	return specs
}

func TestTheListAsItIsPasses(t *testing.T) {
	if ran, complaints := judge(suite()); ran != 1 || len(complaints) > 0 {
		t.Fatal(ran, complaints)
	}
}

func TestAListThatIsWrongFails(t *testing.T) {
	unlisted, runs, gone := suite(), suite(), suite()
	unlisted[0].State = types.SpecStateSkipped
	runs[1].State = types.SpecStateFailed
	gone = gone[:len(gone)-1]
	for want, specs := range map[string]types.SpecReports{
		"not in the list":   unlisted,
		"and ran":           runs,
		"not in the suite:": gone,
	} {
		if _, complaints := judge(specs); len(complaints) != 1 || !strings.Contains(complaints[0], want) {
			t.Errorf("%s: %v", want, complaints)
		}
	}
}

func TestEverySkipHasAReasonAndStandsOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, group := range skipped {
		if group.reason == "" {
			t.Errorf("no reason for %v", group.specs)
		}
		for _, name := range group.specs {
			if seen[name] {
				t.Errorf("twice in the list: %q", name)
			}
			seen[name] = true
		}
	}
}
