package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/offload"
)

// Bytes is a size that a flag gives in bytes or with a unit: 24GB, 22.5GiB.
type Bytes int64

var units = []struct {
	name  string
	bytes float64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}, {"", 1}}

// String returns the size in the largest decimal unit, of four digits.
func (b Bytes) String() string {
	for _, u := range units[4:8] {
		if x := float64(b) / u.bytes; x >= 1 {
			return strconv.FormatFloat(x, 'f', max(0, 3-int(math.Log10(x))), 64) + " " + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + " B"
}

// MarshalText returns the bytes, so that a size can be a flag (flag.TextVar).
func (b Bytes) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(b), 10), nil }

// UnmarshalText reads a size.
func (b *Bytes) UnmarshalText(text []byte) error {
	for _, u := range units {
		number, ok := strings.CutSuffix(strings.ToUpper(string(text)), strings.ToUpper(u.name))
		if !ok {
			continue
		}
		x, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err == nil && x >= 0 && x*u.bytes < math.MaxInt64 {
			*b = Bytes(math.Round(x * u.bytes))
			return nil
		}
		break
	}
	return fmt.Errorf("size %q: must be a number of bytes, or one with KB, MB, GB, TB (1000) or KiB, MiB, GiB, TiB (1024), for example 24GB", text)
}

// Limits bound the memory of a model's experts, chosen by flags.
type Limits struct {
	Device, Host Bytes
	Slots        int
	Bandwidth    Bytes
}

// Flags defines -device-memory, -host-memory, -slots and -bandwidth.
func (l *Limits) Flags(f *flag.FlagSet) {
	f.TextVar(&l.Device, "device-memory", Bytes(0), "`size` of all weights from which the model computes, in bytes or as 24GB or 22.5GiB: those that are\nnot experts' and as many experts as fit; the others are read when they are needed, or before")
	f.TextVar(&l.Host, "host-memory", Bytes(0), "`size` of experts kept in host memory besides, which are not read from the checkpoint again (default none)")
	f.IntVar(&l.Slots, "slots", 0, "`experts` that device memory holds, instead of -device-memory")
	f.TextVar(&l.Bandwidth, "bandwidth", Bytes(0), "for experiments, `size` that is read of the checkpoint in a second, at most (default no limit)")
}

// Check reports flags that cannot be used.
func (l *Limits) Check() error {
	switch {
	case l.Slots < 0:
		return fmt.Errorf("-slots is %d", l.Slots)
	case l.Slots > 0 && l.Device > 0:
		return errors.New("-device-memory and -slots exclude each other")
	case l.Host > 0 && !l.Given():
		return errors.New("-host-memory requires -device-memory")
	}
	return nil
}

// Given reports whether device memory is limited.
func (l *Limits) Given() bool { return l.Device > 0 || l.Slots > 0 }

// Options returns the limits as those of a store for a model of these sizes. If no
// device memory is given, the error says how much the model needs.
func (l *Limits) Options(src mixtral.ExpertSource) (offload.Options, error) {
	if l.Given() {
		return offload.Options{DeviceMemory: int64(l.Device), Slots: l.Slots, HostMemory: int64(l.Host), Bandwidth: int64(l.Bandwidth)}, nil
	}
	n := src.Layers * src.Experts
	size := func(experts int) string {
		b := src.Resident + int64(experts)*int64(src.Bytes)
		return fmt.Sprintf("%d bytes (%s)", b, Bytes(b))
	}
	least := min(max(src.TopK, 2), src.Experts)
	return offload.Options{}, fmt.Errorf("-device-memory is required: the model needs at least %s, for %d experts of %d bytes and %d bytes of other weights; all of its %d experts need %s",
		size(least), least, src.Bytes, src.Resident, n, size(n))
}

// LoadStore is Load of a model whose experts are in a store, with the options that
// choose returns for the model's sizes.
func (m *Model) LoadStore(ctx context.Context, choose func(mixtral.ExpertSource) (offload.Options, error)) (*offload.Store, *mixtral.Model, func(), error) {
	experts := &chosenStore{choose: choose}
	model, free, err := m.load(ctx, experts)
	if experts.err != nil {
		err = experts.err
	}
	return experts.Store, model, free, err
}

// Sizes returns the sizes of a model's weights. It reads none.
func (m *Model) Sizes(ctx context.Context) (src mixtral.ExpertSource, err error) {
	known := errors.New("known")
	_, _, _, err = m.LoadStore(ctx, func(s mixtral.ExpertSource) (offload.Options, error) {
		src = s
		return offload.Options{}, known
	})
	if errors.Is(err, known) {
		err = nil
	}
	return src, err
}

// chosenStore is a store whose options are chosen when the model's sizes are known.
type chosenStore struct {
	*offload.Store
	choose func(mixtral.ExpertSource) (offload.Options, error)
	err    error // of Plan
}

// Plan implements mixtral.ExpertStore.
func (c *chosenStore) Plan(src mixtral.ExpertSource) (slots, copies int, err error) {
	if c.Store == nil {
		if c.err = c.make(src); c.err != nil {
			return 0, 0, c.err
		}
	}
	return c.Store.Plan(src)
}

func (c *chosenStore) make(src mixtral.ExpertSource) error {
	o, err := c.choose(src)
	if err != nil {
		return err
	}
	if c.Store, err = offload.New(o); err != nil {
		return err
	}
	if _, _, err = c.Store.Plan(src); err != nil && o.DeviceMemory > 0 {
		err = fmt.Errorf("-device-memory %d: %w", o.DeviceMemory, err)
	}
	return err
}
