package trace_test

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/expertspec/expertspec/trace"
)

// A trace is written document by document and read back the same way.
func Example() {
	dir, err := os.MkdirTemp("", "trace")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	header := trace.Header{Model: trace.Model{Name: "toy", Layers: 2, Experts: 4, TopK: 2}}
	w, err := trace.Create(dir, header, trace.WriterOptions{})
	if err != nil {
		log.Fatal(err)
	}
	err = w.Write(&trace.Document{
		Dataset: "poems", ID: "one",
		Tokens:  []int32{17, 5, 17},
		Experts: []int32{0, 3, 1, 2, 3, 0, 2, 1, 0, 3, 1, 0}, // [T,L,K]
		Weights: []float32{.7, .3, .6, .4, .9, .1, .5, .5, .8, .2, .6, .4},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}

	r, err := trace.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	model := r.Header().Model
	for doc, err := range r.Select(trace.Filter{Datasets: []string{"poems"}}).Documents() {
		if err != nil {
			log.Fatal(err)
		}
		for t := range doc.Tokens {
			fmt.Println(doc.ID, doc.Position(t), doc.Tokens[t], doc.ExpertsAt(&model, t, 1))
		}
	}
	// Output:
	// one 0 17 [1 2]
	// one 1 5 [2 1]
	// one 2 17 [1 0]
}

func ExampleEntropy() {
	fmt.Println(trace.Entropy([]int{5, 5, 5, 5}), trace.Entropy([]int{1, 1, 2}), trace.Entropy([]float32{.5, 0}))
	// Output: 2 1.5 0
}

func ExampleStatistics() {
	header := trace.Header{Model: trace.Model{Layers: 1, Experts: 4, TopK: 1}, NoWeights: true}
	s, err := trace.NewStatistics(header, trace.StatisticsOptions{Segments: []int{2}})
	if err != nil {
		log.Fatal(err)
	}
	err = s.Add(&trace.Document{
		Dataset: "poems", ID: "one",
		Tokens:  []int32{1, 2, 3, 4, 5, 6, 7, 8},
		Experts: []int32{0, 0, 1, 1, 0, 0, 1, 1}, // two experts of four, in pairs
	})
	if err != nil {
		log.Fatal(err)
	}
	layer := s.Summary().Overall.Layers[0]
	fmt.Println(layer.Counts, layer.Usage.Active, "active")
	fmt.Printf("entropy %.1f of the maximum\n", layer.Usage.Normalized)
	fmt.Printf("repeated %.0f %%, at random %.0f %%\n", 100*layer.RepeatedFirst, 100*layer.RandomRepeatedFirst)
	// Output:
	// [4 4 0 0] 2 active
	// entropy 0.5 of the maximum
	// repeated 57 %, at random 25 %
}

// Processes that each read a part of a trace store their sums, which are merged.
func ExampleStatistics_Merge() {
	r, err := trace.Open("../testdata/traces/rewritten")
	if err != nil {
		log.Fatal(err)
	}
	all, err := trace.NewStatistics(r.Header(), trace.StatisticsOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for i := range 3 {
		part, err := trace.NewStatistics(r.Header(), trace.StatisticsOptions{})
		if err != nil {
			log.Fatal(err)
		}
		if err := part.AddAll(r.Part(i, 3).Documents()); err != nil {
			log.Fatal(err)
		}
		stored, err := json.Marshal(part)
		if err != nil {
			log.Fatal(err)
		}
		read := new(trace.Statistics)
		if err := json.Unmarshal(stored, read); err != nil {
			log.Fatal(err)
		}
		if err := all.Merge(read); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(all.Summary().Documents, "documents,", all.Summary().Tokens, "tokens")
	// Output: 92 documents, 2132 tokens
}

// A trace can be read from any file system, for example one that is embedded in
// the program or in a zip archive.
func ExampleOpenFS() {
	r, err := trace.OpenFS(os.DirFS("../testdata/traces/rewritten"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(r.Paths()), "shards,", r.Header().Model.Layers, "layers")
	// Output: 4 shards, 5 layers
}

func ExampleValidate() {
	report, err := trace.Validate("../testdata/traces/rewritten/pyarrow.parquet", trace.ValidateOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Documents, report.Tokens, report.Count)
	// Output: 23 533 0
}
