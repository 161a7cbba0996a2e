package cli

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/offload"
	"github.com/gomlx/compute/dtypes"
)

// Plan is what a program says of its model's memory instead of running it, chosen by
// flags.
type Plan struct {
	form          string // "table", "json"; "": the program runs
	tokens, batch int
}

// Flags defines -plan, -tokens and -batch.
func (p *Plan) Flags(f *flag.FlagSet) {
	f.BoolFunc("plan", "print how much memory the model needs, what for and where, and do nothing else, which reads no weights; -plan=json prints JSON", func(form string) error {
		switch form {
		case "true":
			form = "table"
		case "false":
			form = ""
		case "table", "json":
		default:
			return errors.New("must be table or json")
		}
		p.form = form
		return nil
	})
	f.IntVar(&p.tokens, "tokens", 512, "with -plan, `tokens` of a document, which -greedy continues")
	f.IntVar(&p.batch, "batch", 1, "with -plan, `documents` that are computed together (this program computes one after the other)")
}

// Asked reports whether -plan is given.
func (p *Plan) Asked() bool { return p.form != "" }

// Check reports flags that cannot be used.
func (p *Plan) Check() error {
	switch {
	case p.form == "" && (p.tokens != 512 || p.batch != 1):
		return errors.New("-tokens and -batch require -plan")
	case p.tokens < 1:
		return fmt.Errorf("-tokens is %d; must be at least 1", p.tokens)
	case p.batch < 1:
		return fmt.Errorf("-batch is %d documents; must be at least 1", p.batch)
	}
	return nil
}

// planned is a plan as JSON.
type planned struct {
	Model     string         `json:"model"`
	Backend   string         `json:"backend"`
	DType     string         `json:"dtype"`
	Quantize  string         `json:"quantize"`
	Documents int            `json:"documents"`
	Tokens    int            `json:"tokens"`
	Generated int            `json:"generated"`
	Plan      *mixtral.Plan  `json:"plan"`
	Total     mixtral.Memory `json:"total"`

	layers, experts int
}

// Print prints the plan of a model that generates tokens. choose, if not nil, returns
// the options of the store of its experts (see Model.LoadStore).
func (p *Plan) Print(w io.Writer, m *Model, generated int, choose func(mixtral.ExpertSource) (offload.Options, error)) error {
	var store mixtral.ExpertStore
	if choose != nil {
		store = &chosenStore{choose: choose}
	}
	x, err := m.plan(mixtral.PlanOptions{Options: mixtral.Options{Experts: store}, Documents: p.batch, Tokens: p.tokens, Generated: generated})
	if err != nil {
		return err
	}
	if p.form == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(x)
	}
	return x.table(w)
}

// Fit returns an error unless the model's weights fit into so many bytes.
func (m *Model) Fit(memory Bytes) error {
	x, err := m.plan(mixtral.PlanOptions{})
	if err != nil {
		return err
	}
	if err := x.Plan.Check(int64(memory)); err != nil {
		return fmt.Errorf("-device-memory %d: %w; the program offload runs the model in less", memory, err)
	}
	return nil
}

// plan returns the model's plan for the work of o.
func (m *Model) plan(o mixtral.PlanOptions) (*planned, error) {
	files, err := Files(m.Folder)
	if err != nil {
		return nil, err
	}
	ck, err := mixtral.OpenCheckpoint(files)
	if err != nil {
		return nil, fmt.Errorf("-model %s: %w", m.Folder, err)
	}
	defer ck.Close()
	o.Executor, o.DType, o.Quantize, o.Mesh = m.Executor, m.dtype, m.quantize, m.mesh
	// A GPU's plan does not need one; a plugin's path does not say what it is.
	switch o.Kind, _, _ = strings.Cut(m.Backend, ","); {
	case m.Backend == "go" || strings.HasPrefix(m.Backend, "go:"):
		o.Kind = "go"
	case o.Kind != "xla:cpu" && o.Kind != "xla:cuda":
		if o.Backend, err = mixtral.OpenBackend(m.Backend); err != nil {
			return nil, err
		}
		defer o.Backend.Finalize()
	}
	plan, err := ck.Plan(o)
	if err != nil {
		return nil, err
	}
	if o.DType == dtypes.InvalidDType {
		o.DType = dtypes.Float32
	}
	c := ck.Config()
	return &planned{Model: m.Name(), Backend: m.Backend, DType: strings.ToLower(o.DType.String()), Quantize: o.Quantize.String(),
		Documents: o.Documents, Tokens: o.Tokens, Generated: o.Generated, Plan: plan, Total: plan.Total(), layers: c.Layers, experts: c.Experts}, nil
}

func (x *planned) table(w io.Writer) error {
	p, all := x.Plan, x.layers*x.experts
	fmt.Fprintf(w, "%s on %s, %s", x.Model, x.Backend, x.DType)
	if p.Devices > 1 {
		fmt.Fprintf(w, ", %d devices", p.Devices)
	}
	if x.Quantize != "none" {
		fmt.Fprintf(w, ", attention and experts %s", x.Quantize)
	}
	fmt.Fprintf(w, ": %d layers of %d experts of %s\n\n", x.layers, x.experts, Bytes(p.ExpertBytes))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	device := "device"
	if p.Devices > 1 {
		device = "each device"
	}
	fmt.Fprintf(tw, "\tparameters\t%s\thost\tcheckpoint\t\n", device)
	size := func(n int64) string {
		if n == 0 {
			return "-"
		}
		return Bytes(n).String()
	}
	row := func(name string, m mixtral.Memory) {
		parameters := "-"
		if m.Parameters > 0 {
			parameters = fmt.Sprint(m.Parameters)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t\n", name, parameters, size(m.Device), size(m.Host), size(m.Checkpoint))
	}
	row("embedding and head", p.Embedding)
	row("attention", p.Attention)
	row("routers and norms", p.Router)
	row("experts", p.Experts)
	row(fmt.Sprintf("cache of %d x %d tokens", x.Documents, x.Tokens+x.Generated), p.Cache)
	row("temporary, about", p.Temporary)
	row("total", x.Total)
	if err := tw.Flush(); err != nil {
		return err
	}
	if p.Slots > 0 {
		fmt.Fprintf(w, "\n%d of %d experts are in slots of the device and copies of up to %d in host memory\n", p.Slots, all, p.Copies)
	}
	return nil
}
