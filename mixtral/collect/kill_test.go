package collect_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// The kill test runs this test binary as a child, with these environment
// variables, and kills it.
const (
	killDir   = "COLLECT_TEST_DIR"
	killPart  = "COLLECT_TEST_PART"  // of killParts; all if not set
	killCount = "COLLECT_TEST_KILLS" // number of kills; 4 if not set, 24 for parts
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		o, docs := killOptions(), documents(8, 4)
		if s := os.Getenv(killPart); s != "" {
			o, docs = killPartOptions(must(strconv.Atoi(s)), killParts)
		}
		o.Progress = func(p collect.Progress) { fmt.Println(p.Stage, p.Documents) }
		o.Problem = func(p collect.Problem) { panic(p) }
		_, err := tryRun(context.Background(), miniModel(), dir, o, collect.Slice("mini", docs))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func killOptions() collect.Options {
	return collect.Options{DocumentsPerDataset: 6, MaxTokens: 24, Seed: 2, Logits: true, DocumentsPerShard: 3}
}

// TestKill kills a run with SIGKILL at random moments and runs it again, a number
// of times. When a run finishes, the folder must have the files of an
// uninterrupted one, and the next run begins in a new folder. After each kill
// there may be only complete shards, with each document once.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	kills := countKills(4)
	want := t.TempDir()
	o := killOptions()
	start := time.Now()
	run(t, documents(8, 4), want, o)
	wantFiles := files(t, want)
	exe := must(os.Executable())
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	dir := filepath.Join(t.TempDir(), "0")
	longest := time.Since(start) + time.Second
	finished, resumed, shards := 0, 0, 0
	for killed := 0; killed < kills; {
		child := exec.Command(exe)
		child.Env = append(os.Environ(), killDir+"="+dir)
		var said strings.Builder
		child.Stderr = &said
		require.NoError(t, child.Start())
		timer := time.AfterFunc(time.Duration(rng.Int64N(int64(longest))), func() { child.Process.Kill() })
		err := child.Wait()
		timer.Stop()
		if err == nil {
			same(t, files(t, dir), wantFiles)
			finished++
			dir += "x"
			continue
		}
		require.LessOrEqual(t, said.Len(), 0, "child: %s", said.String())
		killed++
		if n := checkPartial(t, dir); n > 0 {
			resumed++
			shards += n
		}
	}
	run(t, documents(8, 4), dir, o)
	same(t, files(t, dir), wantFiles)
	t.Logf("%d kills, %d of them after a shard (%.1f shards on average); %d runs finished", kills, resumed, float64(shards)/float64(max(1, resumed)), finished)
}

func countKills(count int) int {
	if s := os.Getenv(killCount); s != "" {
		return must(strconv.Atoi(s))
	}
	return count
}

// killParts processes share the work in TestKillParts.
const killParts = 8

// killPartOptions are of five shards a part, except the last, which has four.
func killPartOptions(part, parts int) (collect.Options, []collect.Document) {
	o := killOptions()
	o.MaxTokens, o.DocumentsPerDataset, o.Part, o.Parts = 96, 0, part, parts
	return o, documents(29, 4)
}

// TestKillParts has processes share a folder, kills each with SIGKILL at random moments,
// and starts it again, sometimes while the killed one still runs, as a scheduler does
// that believes a node dead. When all have finished, the folder must have the files of
// one uninterrupted process, and the next round begins in a new one. At any time there
// may be only complete shards, with each document once.
func TestKillParts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	kills := int64(countKills(24))
	want := t.TempDir()
	whole, docs := killPartOptions(0, 0)
	run(t, docs, want, whole)
	wantFiles := divided(files(t, want), killParts)
	start := time.Now()
	require.NoError(t, startPart(t, filepath.Join(t.TempDir(), "alone"), 0).Wait())
	longest := 3 * time.Since(start) // beside 7 others
	var killed, twice atomic.Int64
	rounds := 0
	for ; killed.Load() < kills; rounds++ {
		dir := filepath.Join(t.TempDir(), "trace")
		var parts errgroup.Group
		for part := range killParts {
			parts.Go(func() error {
				for {
					again, err := killOnePart(t, dir, part, longest, &twice)
					if err != nil || !again {
						return err
					}
					killed.Add(1)
					checkPartial(t, dir)
				}
			})
		}
		require.NoError(t, parts.Wait())
		for part := range killParts { // removes what a killed process left when another had finished the part
			require.NoError(t, startPart(t, dir, part).Wait())
		}
		same(t, files(t, dir), wantFiles)
	}
	t.Logf("%d processes killed in %d rounds; %d times two processes of one part", killed.Load(), rounds, twice.Load())
}

// killOnePart starts a process and kills it unless it has finished before, and
// reports whether it did so.
func killOnePart(t *testing.T, dir string, part int, longest time.Duration, twice *atomic.Int64) (killed bool, err error) {
	child := startPart(t, dir, part)
	if rand.N(4) == 0 {
		twice.Add(1)
		other := startPart(t, dir, part)
		defer func() {
			if e := other.Wait(); e != nil {
				err = fmt.Errorf("a second process of part %d: %w", part, e)
			}
		}()
	}
	time.Sleep(rand.N(longest))
	child.Process.Kill()
	if err := child.Wait(); err != nil && child.ProcessState.Exited() {
		return false, fmt.Errorf("part %d: %w", part, err)
	}
	return !child.ProcessState.Exited(), nil
}

// startPart starts a process of a part. What it writes to standard error is of the
// test.
func startPart(t *testing.T, dir string, part int) *exec.Cmd {
	child := exec.Command(must(os.Executable()))
	child.Env = append(os.Environ(), killDir+"="+dir, fmt.Sprint(killPart, "=", part))
	child.Stderr = os.Stderr
	assert.NoError(t, child.Start())
	return child
}

// checkPartial checks what a killed run has left and returns its number of shards.
func checkPartial(t *testing.T, dir string) int {
	t.Helper()
	shards := must(filepath.Glob(filepath.Join(dir, "*.parquet")))
	if len(shards) == 0 {
		return 0
	}
	rep, err := trace.Validate(dir, trace.ValidateOptions{SumToOne: true})
	if assert.NoError(t, err) {
		assert.NoError(t, rep.Err())
	}
	return len(shards)
}
