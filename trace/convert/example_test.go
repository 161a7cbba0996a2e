package convert_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/expertspec/expertspec/trace"
	"github.com/expertspec/expertspec/trace/convert"
)

// The routing that a phone recorded becomes a trace.
func ExampleRead() {
	dir, err := os.MkdirTemp("", "trace")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "gptoss")
	report, err := convert.Read(context.Background(), "bigmoe", "../../testdata/traces/bigmoeonedge/gptoss-cut.route.csv",
		out, convert.Options{}, trace.WriterOptions{})
	if err != nil {
		log.Fatal(err)
	}
	m := report.Header.Model
	fmt.Println(m.Name, m.Layers, m.Experts, m.TopK)
	fmt.Println(report.Documents, "document of", report.Tokens, "tokens")
	for _, n := range report.Notes {
		fmt.Println(n)
	}
	// Output:
	// gpt-oss-120b-Q4_K_M.gguf 36 128 2
	// 1 document of 6 tokens
	// token ids are not in this format
	// not kept: residency, expert_bytes of each row
}
