package collect_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/collect"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/expertspec/expertspec/mixtral/tokenizer"
	"github.com/expertspec/expertspec/trace"
)

// Two documents are collected with the embedded model; a second call finds the
// work done.
func ExampleRun() {
	ctx := context.Background()
	backend, err := mixtral.OpenBackend("go")
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Finalize()
	model, err := mixtral.Load(ctx, mini.FS(), mixtral.Options{Backend: backend})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	tokenizer, err := tokenizer.Load(mini.FS(), "tokenizer.json")
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "trace")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	source := collect.Slice("proverbs", []collect.Document{
		{ID: "mice", Text: "When the cat is away the mice will play."},
		{ID: "cooks", Text: "Too many cooks spoil the broth."},
	})
	for range 2 {
		report, err := collect.Run(ctx, collect.Mixtral(model), tokenizer, []collect.Source{source}, dir, collect.Options{MaxTokens: 8})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(report.Documents, "documents,", report.Tokens, "tokens")
	}
	t, err := trace.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	h := t.Header()
	for d, err := range t.Documents() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.ID, "token 3, layer 5: experts", d.ExpertsAt(&h.Model, 3, 5))
	}
	// Output:
	// 2 documents, 16 tokens
	// 0 documents, 0 tokens
	// cooks token 3, layer 5: experts [2 7]
	// mice token 3, layer 5: experts [6 5]
}
