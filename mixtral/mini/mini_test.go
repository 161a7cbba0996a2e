package mini_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/expertspec/expertspec/mixtral"
	"github.com/expertspec/expertspec/mixtral/mini"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDocuments(t *testing.T) {
	docs, err := mini.Documents()
	require.NoError(t, err)
	assert.Len(t, docs, 836)
	seen := map[string]bool{}
	var domains []string
	for _, d := range docs {
		assert.False(t, seen[d.ID], "%s occurs twice", d.ID)
		seen[d.ID] = true
		assert.True(t, strings.HasPrefix(d.ID, d.Domain+"/"), "%s is of domain %s", d.ID, d.Domain)
		assert.NotEmpty(t, d.Text, d.ID)
		assert.True(t, utf8.ValidString(d.Text), d.ID)
		if len(domains) == 0 || domains[len(domains)-1] != d.Domain {
			domains = append(domains, d.Domain)
		}
	}
	assert.Equal(t, []string{"fiction", "drama", "speeches", "reference", "math", "code",
		"reasoning", "technical", "legal-de", "poetry-zh"}, domains)
}

// A caller's change of the slice is not visible to others.
func TestDocumentsAreACopy(t *testing.T) {
	docs, err := mini.Documents()
	require.NoError(t, err)
	docs[0].ID = "changed"
	again, err := mini.Documents()
	require.NoError(t, err)
	assert.NotEqual(t, "changed", again[0].ID)
}

func Example() {
	model, err := mixtral.OpenCheckpoint(mini.FS())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer model.Close()
	c := model.Config()
	fmt.Printf("%d layers of %d experts, %d per token\n", c.Layers, c.Experts, c.TopK)

	docs, err := mini.Documents()
	if err != nil {
		fmt.Println(err)
		return
	}
	d := docs[len(docs)-1]
	first, _, _ := strings.Cut(d.Text, "\n")
	fmt.Printf("%s: %s\n", d.ID, first)
	// Output:
	// 16 layers of 8 experts, 2 per token
	// poetry-zh/00815: 公無渡河
}
