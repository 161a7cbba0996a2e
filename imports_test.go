// Package expertspec_test checks the module's house rules: which package may
// import which, what stays free of GoMLX, and that the library neither reads the
// environment nor reaches for the network.
package expertspec_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/expertspec/expertspec"

// house lists the packages and, of ours, what each may import. A package below
// one of these (trace/internal/pq) belongs to it and follows its rule.
var house = map[string][]string{
	"trace":                                {"trace/internal/floats"},
	"trace/convert":                        {"trace", "trace/internal/floats", "trace/internal/pickle", "trace/safetensors"},
	"trace/internal/floats":                {},
	"trace/internal/pickle":                {},
	"trace/safetensors":                    {"trace/internal/floats", "trace/internal/pickle"},
	"trace/tracetest":                      {"trace"},
	"mixtral":                              {"mixtral/internal/calls", "mixtral/internal/checkpoint", "mixtral/internal/generate", "mixtral/internal/host", "mixtral/internal/kernel", "mixtral/internal/xla", "trace", "trace/safetensors"},
	"mixtral/internal/calls":               {},
	"mixtral/internal/checkpoint":          {"trace/safetensors"},
	"mixtral/internal/generate":            {},
	"mixtral/internal/host":                {"mixtral/internal/kernel"},
	"mixtral/internal/kernel":              {},
	"mixtral/internal/xla":                 {},
	"mixtral/tokenizer":                    {},
	"mixtral/mini":                         {},
	"mixtral/mixtraltest":                  {"trace/safetensors"},
	"mixtral/switchtransformer/switchtest": {"trace/safetensors"},
	"mixtral/switchtransformer":            {"mixtral", "mixtral/internal/calls", "mixtral/internal/checkpoint", "mixtral/internal/generate", "mixtral/internal/host", "mixtral/internal/kernel", "mixtral/internal/xla", "trace", "trace/safetensors"},
	"mixtral/collect":                      {"mixtral", "mixtral/switchtransformer", "mixtral/tokenizer", "trace"},
	"mixtral/collect/hub":                  {"mixtral/collect"},
	"speculate":                            {"trace", "trace/safetensors"},
	"speculate/neural":                     {"speculate", "trace", "trace/safetensors"},
	"speculate/prefetch":                   {"speculate", "trace"},
	"speculate/comparison":                 {"speculate", "speculate/prefetch", "trace", "trace/safetensors"},
	"mixtral/mini/predictors":              {"speculate", "speculate/neural"},
	"mixtral/offload":                      {"mixtral", "speculate", "speculate/prefetch", "trace", "trace/safetensors"},
	"viz":                                  {"speculate", "speculate/comparison", "speculate/prefetch", "trace"},
	"examples":                             nil, // anything
	"testdata":                             {},
}

// withoutGoMLX build without GoMLX, so that a program that only reads traces
// builds in seconds.
var withoutGoMLX = []string{
	"trace", "trace/convert", "trace/safetensors", "trace/tracetest", "mixtral/tokenizer", "mixtral/mini", "mixtral/mixtraltest",
	"speculate", "speculate/prefetch", "speculate/comparison", "viz",
}

// topLevel are the names at the module's top: these and no more.
var topLevel = []string{
	"mixtral", "trace", "speculate", "viz", "examples", "testdata",
	"go.mod", "go.sum", "README.md", "BENCHMARKS.md", "LICENSE", "NOTICE", "NOTICE.md", "CHANGELOG.md", "CONTRIBUTING.md", "staticcheck.conf",
	"imports_test.go", ".ci", ".github", ".gitignore", ".gitattributes",
}

// networkAllowed is the only package of the library that may import net/http.
const networkAllowed = "mixtral/collect/hub"

// environment are the functions that read environment variables.
var environment = map[string][]string{
	"os":      {"Getenv", "LookupEnv", "Environ", "ExpandEnv", "UserHomeDir", "UserCacheDir", "UserConfigDir"},
	"syscall": {"Getenv", "Environ"},
}

// owner is the member of the house that a directory belongs to.
func owner(dir string) (string, bool) {
	for ; dir != "."; dir = path.Dir(dir) {
		if _, ok := house[dir]; ok {
			return dir, true
		}
	}
	return "", false
}

// checkImport reports what forbids a file of directory dir importing path.
func checkImport(dir, imported string) error {
	from, ok := owner(dir)
	if !ok {
		return fmt.Errorf("%s is not part of the house", dir)
	}
	if imported == "net/http" && from != "examples" && from != networkAllowed {
		return fmt.Errorf("%s imports %s: the library downloads nothing", dir, imported)
	}
	if imported == module {
		return fmt.Errorf("%s imports the top level", dir)
	}
	ours, ok := strings.CutPrefix(imported, module+"/")
	if !ok {
		if strings.HasPrefix(imported, "github.com/gomlx/") && slices.Contains(withoutGoMLX, from) {
			return fmt.Errorf("%s imports %s: it stays free of GoMLX", dir, imported)
		}
		return nil
	}
	to, ok := owner(ours)
	switch {
	case !ok:
		return fmt.Errorf("%s imports %s, which is not part of the house", dir, ours)
	case to == from, from == "examples" && to != "testdata", slices.Contains(house[from], to):
		return nil
	}
	return fmt.Errorf("%s imports %s: of ours it may import %v", dir, ours, house[from])
}

// The rules refuse what they should.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		dir, imported string
		fine          bool
	}{
		{"trace", "fmt", true},
		{"trace", module + "/trace/internal/pq", true},
		{"trace/internal/pq", module + "/trace", true},
		{"trace", module + "/mixtral", false},
		{"trace/internal/pq", module + "/speculate", false},
		{"trace", module + "/trace/convert", false},
		{"trace/safetensors", module + "/trace", false},
		{"trace", "github.com/gomlx/gomlx/graph", false},
		{"trace", "net/http", false},
		{"mixtral/collect", "net/http", false},
		{"mixtral/collect/hub", "net/http", true},
		{"mixtral/collect/hub", module + "/mixtral", false},
		{"mixtral/collect", module + "/mixtral", true},
		{"mixtral", module + "/trace/safetensors", true},
		{"mixtral", module + "/speculate", false},
		{"mixtral", module + "/mixtral/mini", false},
		{"mixtral", "github.com/gomlx/gomlx/graph", true},
		{"speculate", module + "/mixtral", false},
		{"speculate", module + "/speculate/prefetch", false},
		{"speculate/prefetch", module + "/speculate", true},
		{"speculate/neural", "github.com/gomlx/gomlx/graph", true},
		{"viz", module + "/mixtral", false},
		{"viz", "github.com/gomlx/compute", false},
		{"mixtral/offload", module + "/speculate/prefetch", true},
		{"mixtral/mini/predictors", module + "/speculate/neural", true},
		{"mixtral/mini", module + "/mixtral/mini/predictors", false},
		{"examples/quickstart", module + "/mixtral/mini", true},
		{"examples/quickstart", "net/http", true},
		{"other", "fmt", false},
		{"trace", module, false},
	} {
		assert.Equal(t, c.fine, checkImport(c.dir, c.imported) == nil, "%s importing %s", c.dir, c.imported)
	}
}

// goFiles calls f for each Go file of the module, tests included, regardless of its
// build constraints.
func goFiles(t *testing.T, f func(file string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); file != "." && (strings.HasPrefix(name, ".") || name == "testdata" || isModule(file)) {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(file, ".go") {
			f(filepath.ToSlash(file))
		}
		return nil
	})
	require.NoError(t, err)
}

func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// TestImports checks each file's imports. A test may import what its package may
// not, except that mixtral and speculate stay apart even there.
func TestImports(t *testing.T) {
	files := 0
	goFiles(t, func(file string) {
		files++
		dir := path.Dir(file)
		if dir == "." {
			assert.Equal(t, "imports_test.go", file)
			return
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		require.NoError(t, err)
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if !assert.NoError(t, err) {
				continue
			}
			if strings.HasSuffix(file, "_test.go") && !apart(dir, imported) {
				continue
			}
			assert.NoError(t, checkImport(dir, imported), "%s", file)
		}
	})
	assert.GreaterOrEqual(t, files, 20)
}

// apart reports whether an import would join mixtral and speculate.
func apart(dir, imported string) bool {
	from, _ := owner(dir)
	to, _ := owner(strings.TrimPrefix(imported, module+"/"))
	return from == "mixtral" && to == "speculate" || from == "speculate" && to == "mixtral"
}

// TestEnvironment looks for functions that read the environment, anywhere in the
// library. Examples have flags instead; tests may.
func TestEnvironment(t *testing.T) {
	goFiles(t, func(file string) {
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "examples/") {
			return
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		require.NoError(t, err)
		for _, use := range environmentUses(parsed) {
			t.Errorf("%s: %s reads the environment", set.Position(use.Pos()), use.Sel.Name)
		}
	})
}

// environmentUses finds the selectors in a file that read the environment, under
// whatever name the package is imported.
func environmentUses(file *ast.File) []*ast.SelectorExpr {
	names := map[string][]string{}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if functions, ok := environment[imported]; ok && err == nil {
			name := path.Base(imported)
			if spec.Name != nil {
				name = spec.Name.Name
			}
			names[name] = functions
		}
	}
	var uses []*ast.SelectorExpr
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && slices.Contains(names[x.Name], s.Sel.Name) {
				uses = append(uses, s)
			}
		}
		return true
	})
	return uses
}

func TestEnvironmentUses(t *testing.T) {
	const text = `package p
import sys "os"
import "fmt"
var a = sys.Getenv("HOME")
var b, _ = sys.LookupEnv("HOME")
var c, _ = sys.Open("HOME")
func init() { fmt.Println(sys.Environ()) }`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", text, 0)
	require.NoError(t, err)
	assert.Len(t, environmentUses(file), 3)
}

// TestWithoutGoMLX asks the go command for everything that the light packages
// build on, other modules' packages included.
func TestWithoutGoMLX(t *testing.T) {
	for _, dir := range withoutGoMLX {
		if _, err := os.Stat(dir); err != nil {
			continue // does not exist yet
		}
		deps := goCommand(t, "list", "-deps", "-f", "{{.ImportPath}}", "./"+dir)
		assert.Greater(t, len(deps), 10, dir)
		for _, dep := range deps {
			assert.NotContains(t, dep, "github.com/gomlx/", dir)
		}
	}
}

// goCommand returns the words that a go command prints.
func goCommand(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go %s: %s", strings.Join(args, " "), &stderr)
	return strings.Fields(string(out))
}

// TestTopLevel checks the names at the top: those in the repository where this is
// one, else those of folders that hold Go files. What a program wrote here and
// git does not know is ignored.
func TestTopLevel(t *testing.T) {
	names := map[string]bool{}
	goFiles(t, func(file string) {
		name, _, _ := strings.Cut(file, "/")
		names[name] = true
	})
	if out, err := exec.Command("git", "ls-files", "-z").Output(); err == nil {
		for file := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
			name, _, _ := strings.Cut(file, "/")
			names[name] = true
		}
	} else {
		t.Logf("no list of files from git (%v): folders with Go files alone are checked", err)
	}
	delete(names, "") // the split of no output
	for name := range names {
		assert.Contains(t, topLevel, name)
	}
}
