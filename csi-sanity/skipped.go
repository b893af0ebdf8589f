package main

// group is a reason, and the specs that are skipped for it.
type group struct {
	reason string
	specs  []string
}

func reasonToSkip(name string) (string, bool) {
	for _, group := range skipped {
		for _, spec := range group.specs {
			if spec == name {
				return group.reason, true
			}
		}
	}
	return "", false
}

var skipped = []group{}
