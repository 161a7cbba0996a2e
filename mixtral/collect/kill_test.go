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
	"testing"
	"time"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/require"
)

// The kill test runs this test binary as a child, with these environment
// variables, and kills it.
const (
	killDir   = "COLLECT_TEST_DIR"
	killCount = "COLLECT_TEST_KILLS" // number of kills; 4 if not set
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		o := killOptions()
		o.Progress = func(p collect.Progress) { fmt.Println(p.Stage, p.Documents) }
		_, err := tryRun(context.Background(), miniModel(), dir, o, collect.Slice("mini", documents(8, 4)))
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
	kills := 4
	if s := os.Getenv(killCount); s != "" {
		kills = must(strconv.Atoi(s))
	}
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

// checkPartial checks what a killed run has left and returns its number of shards.
func checkPartial(t *testing.T, dir string) int {
	t.Helper()
	shards := must(filepath.Glob(filepath.Join(dir, "*.parquet")))
	if len(shards) == 0 {
		return 0
	}
	rep, err := trace.Validate(dir, trace.ValidateOptions{SumToOne: true})
	require.NoError(t, err)
	require.NoError(t, rep.Err())
	return len(shards)
}
