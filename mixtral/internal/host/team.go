package host

// Team computes parts of products on up to Lanes goroutines, its caller's among them.
// The others start at the first use that has parts for them.
type Team struct {
	Lanes int
	crew  *crew
}

// Each calls f(lane, i) for i from 0 to n-1. Calls of one lane, from 0 to Lanes-1, are
// not concurrent.
func (t *Team) Each(n int, f func(lane, i int)) {
	if min(t.Lanes, n) <= 1 {
		for i := range n {
			f(0, i)
		}
		return
	}
	if t.crew == nil {
		t.crew = newCrew(t.Lanes - 1)
	}
	t.crew.run(n, f)
}

// Stop ends the goroutines of Each.
func (t *Team) Stop() {
	if t.crew != nil {
		t.crew.stop()
	}
}
