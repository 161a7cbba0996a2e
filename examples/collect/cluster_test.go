package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/trace"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// asProgram, set in the environment, makes this test binary the program collect.
const asProgram = "COLLECT_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// manifest has the fields of a Job that must agree with each other.
type manifest struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		AccessModes          []string `yaml:"accessModes"`
		CompletionMode       string   `yaml:"completionMode"`
		Completions          int
		Parallelism          int
		BackoffLimitPerIndex int `yaml:"backoffLimitPerIndex"`
		PodFailurePolicy     struct {
			Rules []struct {
				Action      string
				OnExitCodes struct {
					ContainerName string `yaml:"containerName"`
					Values        []int
				} `yaml:"onExitCodes"`
			}
		} `yaml:"podFailurePolicy"`
		Template struct {
			Spec struct {
				RestartPolicy string `yaml:"restartPolicy"`
				Containers    []struct {
					Name, Image   string
					Command, Args []string
					VolumeMounts  []struct {
						Name      string
						MountPath string `yaml:"mountPath"`
						ReadOnly  bool   `yaml:"readOnly"`
					} `yaml:"volumeMounts"`
				}
				Volumes []struct {
					Name  string
					Claim struct {
						Name string `yaml:"claimName"`
					} `yaml:"persistentVolumeClaim"`
				}
			}
		}
	}
}

// manifests reads a file of Kubernetes objects, by their kind and name.
func manifests(t *testing.T, file string) map[string]*manifest {
	f, err := os.Open(filepath.Join("cluster", file))
	require.NoError(t, err)
	defer f.Close()
	all := map[string]*manifest{}
	for d := yaml.NewDecoder(f); ; {
		m := new(manifest)
		err := d.Decode(m)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all[m.Kind+" "+m.Metadata.Name] = m
	}
}

// parse parses and checks a command line as main does.
func parse(t *testing.T, args []string) *options {
	o := new(options)
	fs := flag.NewFlagSet("collect", flag.ContinueOnError)
	o.flags(fs)
	require.NoError(t, fs.Parse(args))
	require.Empty(t, fs.Args())
	require.NoError(t, o.check(fs))
	return o
}

// TestKubernetes checks the manifests' command lines with the programs' flags, and that
// what they name is mounted.
func TestKubernetes(t *testing.T) {
	all := manifests(t, "kubernetes.yaml")
	job := all["Job collect"]
	require.NotNil(t, job)
	n := job.Spec.Completions
	assert.Equal(t, "Indexed", job.Spec.CompletionMode)
	assert.Equal(t, n, job.Spec.Parallelism)
	assert.Positive(t, job.Spec.BackoffLimitPerIndex)
	pod := job.Spec.Template.Spec
	assert.Equal(t, "Never", pod.RestartPolicy) // which podFailurePolicy requires
	rule := job.Spec.PodFailurePolicy.Rules[1]
	assert.Equal(t, "FailIndex", rule.Action)
	assert.Equal(t, []int{2, 3}, rule.OnExitCodes.Values)
	c := pod.Containers[0]
	assert.Equal(t, c.Name, rule.OnExitCodes.ContainerName)

	seen := map[int]bool{}
	var out string
	for i := range n {
		var args []string
		for _, a := range c.Args { // as the kubelet replaces it
			args = append(args, strings.ReplaceAll(a, "$(JOB_COMPLETION_INDEX)", fmt.Sprint(i)))
		}
		o := parse(t, args)
		assert.Equal(t, n, o.Parts)
		seen[o.Part] = true
		out = o.out
		for _, p := range append([]string{o.model.Folder, o.out}, o.data...) {
			assert.True(t, mounted(job, p, p == o.out), "%s is not mounted", p)
		}
	}
	assert.Len(t, seen, n, "two pods have the same part")

	validate := manifests(t, "kubernetes-validate.yaml")["Job validate"]
	require.NotNil(t, validate)
	v := validate.Spec.Template.Spec.Containers[0]
	assert.Equal(t, []string{"-validate=" + out}, v.Args)
	assert.Equal(t, c.Image, v.Image)
	assert.True(t, mounted(validate, out, false))

	claim := all["PersistentVolumeClaim trace"]
	require.NotNil(t, claim)
	assert.Equal(t, []string{"ReadWriteMany"}, claim.Spec.AccessModes)

	docker := string(read(t, "Dockerfile"))
	for _, command := range append(c.Command, v.Command...) {
		assert.Contains(t, docker, " ./examples"+command)
	}
}

// mounted reports whether a path is below a volume of a claim that a container mounts.
func mounted(m *manifest, file string, writable bool) bool {
	pod := m.Spec.Template.Spec
	for _, mount := range pod.Containers[0].VolumeMounts {
		for _, v := range pod.Volumes {
			if v.Name == mount.Name && v.Claim.Name != "" && strings.HasPrefix(path.Clean(file), mount.MountPath+"/") {
				return !writable || !mount.ReadOnly
			}
		}
	}
	return false
}

func read(t *testing.T, file string) []byte {
	b, err := os.ReadFile(filepath.Join("cluster", file))
	require.NoError(t, err)
	return b
}

// TestSlurm runs the tasks of the array with a fake srun, all but two, and then those
// that the folder lacks. The trace must be that of one process.
func TestSlurm(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil || testing.Short() {
		t.Skip("runs the program in bash")
	}
	script, err := filepath.Abs("cluster/slurm.sh")
	require.NoError(t, err)
	array := regexp.MustCompile(`(?m)^#SBATCH --array=0-(\d+)$`).FindStringSubmatch(string(read(t, "slurm.sh")))
	require.NotNil(t, array)
	dir := t.TempDir()
	exe, err := os.Executable()
	require.NoError(t, err)
	for name, text := range map[string]string{"collect": asProgram + `=1 exec "` + exe + `" "$@"`,
		"bin/srun": `[ "$1" = --cpus-per-task=3 ] && shift && exec "$@"`} {
		p := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o777))
		require.NoError(t, os.WriteFile(p, []byte("#!/bin/bash\n"+text+"\n"), 0o777))
	}
	flags := []string{"-model", "mini", "-docs", "3", "-tokens", "3", "-shard", "2", "-out"}
	task := func(id int) (status int, said string) {
		cmd := exec.Command(bash, append([]string{script}, append(flags, "trace")...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"),
			fmt.Sprint("SLURM_ARRAY_TASK_ID=", id), "SLURM_ARRAY_TASK_COUNT=77", "SLURM_CPUS_PER_TASK=3")
		b, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(b)
	}
	n := 0
	_, err = fmt.Sscan(array[1], &n)
	require.NoError(t, err)
	out := filepath.Join(dir, "trace")
	for id := range n + 1 {
		if id != 2 && id != 5 {
			status, said := task(id)
			require.Zero(t, status, said)
		}
	}
	state, err := collect.Inspect(out)
	require.NoError(t, err)
	assert.Equal(t, n+1, state.Parts)
	require.Equal(t, []int{2, 5}, state.MissingParts)
	for _, id := range state.MissingParts {
		status, said := task(id)
		require.Zero(t, status, said)
		assert.Contains(t, said, fmt.Sprintf("2 documents, 6 tokens in 1 shards written; part %d of %d", id, n+1))
	}
	status, said := task(n + 2) // n + 1 is part 0: parts may be counted from 1
	assert.NotZero(t, status, said)

	want := t.TempDir()
	o := parse(t, append(flags, want))
	o.quiet = true
	_, err = o.collect(t.Context(), io.Discard)
	require.NoError(t, err)
	shards, err := filepath.Glob(filepath.Join(want, "*.parquet"))
	require.NoError(t, err)
	require.Len(t, shards, 15)
	for _, p := range shards {
		a, err := os.ReadFile(p)
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(out, filepath.Base(p)))
		require.NoError(t, err)
		assert.True(t, string(a) == string(b), "%s differs", filepath.Base(p))
	}
	report, err := trace.Validate(out, trace.ValidateOptions{})
	require.NoError(t, err)
	require.NoError(t, report.Err())
	assert.Empty(t, report.Missing)
}
