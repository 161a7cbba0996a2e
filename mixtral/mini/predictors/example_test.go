package predictors_test

import (
	"fmt"

	"github.com/expertspec/expertspec/mixtral/mini/predictors"
	"github.com/expertspec/expertspec/speculate"
)

func ExampleLoad() {
	set, err := predictors.Load()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range set.Predictors {
		r := p.Requires()
		fmt.Printf("%s: router logits %v, router inputs %v, next token %v, %d parameters\n",
			p.Name(), r.Logits, r.Inputs, p.Supports(speculate.Horizon{}), set.Costs[p.Name()].Parameters)
	}
	// Output:
	// routing transformer: router logits false, router inputs false, next token true, 1968360 parameters
	// router-logit transformer: router logits true, router inputs false, next token false, 1056008 parameters
	// hidden transformer: router logits false, router inputs true, next token false, 2523400 parameters
}
