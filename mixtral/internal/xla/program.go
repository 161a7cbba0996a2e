package xla

import (
	"fmt"
	"sync"

	"github.com/gomlx/compute"
	. "github.com/gomlx/gomlx/core/graph" //nolint:revive // graph code reads as mathematics
)

// Key identifies a program: its kind, and the sizes that its shapes depend on.
type Key interface {
	comparable
	fmt.Stringer
}

// Programs are compiled on demand and kept: sizes are bucketed, so that there are
// few. The zero value is ready for use.
type Programs[K Key] struct {
	mu   sync.Mutex
	made map[K]*program
}

type program struct {
	once sync.Once
	exec compute.Executable
	err  error
}

// Run computes the graph that build makes of parameters like in, and returns its
// outputs, which the caller frees. The graph is compiled at the first use of the
// key, which determines all shapes.
func (ps *Programs[K]) Run(d *Device, key K, build func(in []*Node) []*Node, in ...compute.Buffer) (out []compute.Buffer, err error) {
	exec, err := ps.get(d, key, build, in)
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", key, err)
	}
	err = Catch(func() error {
		out, err = d.execute(exec, in)
		ClearUpper()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("running %s: %w", key, err)
	}
	return out, nil
}

// One returns the only output of a run.
func One(out []compute.Buffer, err error) (compute.Buffer, error) {
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func (ps *Programs[K]) get(d *Device, key K, build func(in []*Node) []*Node, in []compute.Buffer) (compute.Executable, error) {
	ps.mu.Lock()
	if ps.made == nil {
		ps.made = make(map[K]*program)
	}
	p := ps.made[key]
	if p == nil {
		p = new(program)
		ps.made[key] = p
	}
	ps.mu.Unlock()
	p.once.Do(func() {
		p.err = Catch(func() (err error) {
			p.exec, err = compile(d, key.String(), build, in)
			return err
		})
	})
	return p.exec, p.err
}

func compile(d *Device, name string, build func(in []*Node) []*Node, in []compute.Buffer) (compute.Executable, error) {
	g := NewGraph(d.Backend, name)
	if err := d.distribute(g); err != nil {
		return nil, err
	}
	params := make([]*Node, len(in))
	for i, b := range in {
		shape, err := b.Shape()
		if err != nil {
			return nil, err
		}
		params[i] = Parameter(g, fmt.Sprint("in", i), shape)
	}
	if err := g.Compile(build(params)...); err != nil {
		return nil, err
	}
	return g.Executable(), nil
}

// Close frees all programs.
func (ps *Programs[K]) Close() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.made {
		if p.exec != nil {
			p.exec.Finalize()
		}
	}
	ps.made = nil
}
