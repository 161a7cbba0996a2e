package trace_test

import (
	"flag"
	"testing"

	"github.com/expertspec/expertspec/trace"
)

var plantedDir = flag.String("planted", "", "folder into which TestWritePlanted writes planted traces")

// TestWritePlanted writes planted traces for testdata/read_trace.py to check
// with other readers:
//
//	go test ./trace -run TestWritePlanted -planted DIR && python testdata/read_trace.py DIR
func TestWritePlanted(t *testing.T) {
	if *plantedDir == "" {
		t.Skip("no -planted")
	}
	h := plantedHeader()
	writePlanted(t, *plantedDir+"/float32", 23, h, trace.WriterOptions{GroupTokens: 100, ShardBytes: 5000})
	writePlanted(t, *plantedDir+"/float16", 23, h, trace.WriterOptions{GroupTokens: 100, Float: trace.Float16})
	writePlanted(t, *plantedDir+"/split", 23, h, trace.WriterOptions{Split: true})
	writeStacks(t, *plantedDir+"/stacks", trace.WriterOptions{GroupTokens: 40})
}
