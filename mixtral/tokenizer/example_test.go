package tokenizer_test

import (
	"fmt"
	"log"
	"os"

	"github.com/expertspec/expertspec/mixtral/tokenizer"
	sugarme "github.com/sugarme/tokenizer"
	"github.com/sugarme/tokenizer/normalizer"
)

func ExampleTokenizer_Encode() {
	t, err := tokenizer.Load(os.DirFS("../../testdata/tokenizer"), "tokenizer.json")
	if err != nil {
		log.Fatal(err)
	}
	ids := t.Encode("Hello world!\n", true)
	fmt.Println(ids)
	fmt.Printf("%q\n", t.Pieces(ids))
	text, err := t.Decode(ids, true)
	fmt.Printf("%q %v\n", text, err)
	// Output:
	// [1 22557 1526 28808 13]
	// ["<s>" " Hello" " world" "!" "\n"]
	// "Hello world!\n" <nil>
}

// A T5 tokenizer: Unigram, with </s> behind the text and sentinels for spans of it.
func ExampleTokenizer_Encode_unigram() {
	t, err := tokenizer.Load(os.DirFS("../../testdata/tokenizer"), "unigram.json")
	if err != nil {
		log.Fatal(err)
	}
	ids := t.Encode("The <extra_id_0> of the ﬁrst\tmorning.", true)
	fmt.Println(ids)
	fmt.Printf("%q\n", t.Pieces(ids))
	text, err := t.Decode(ids, true)
	fmt.Printf("%q %v\n", text, err)
	// Output:
	// [61 1009 10 6 382 946 7 1]
	// [" The" "<extra_id_0>" " of" " the" " first" " morning" "." "</s>"]
	// "The of the first morning." <nil>
}

func ExampleTokenizer_EncodeSpans() {
	t, err := tokenizer.Load(os.DirFS("../../testdata/tokenizer"), "tokenizer.json")
	if err != nil {
		log.Fatal(err)
	}
	text := "two words"
	for _, s := range t.EncodeSpans(text, true) {
		fmt.Printf("%d %s %q\n", s.ID, s.Token, text[s.Start:s.End])
	}
	// Output:
	// 1 <s> ""
	// 989 ▁two "two"
	// 3085 ▁words " words"
}

func ExampleStream() {
	t, err := tokenizer.Load(os.DirFS("../../testdata/tokenizer"), "tokenizer.json")
	if err != nil {
		log.Fatal(err)
	}
	s := t.NewStream(true)
	for _, id := range t.Encode("A 🦙!", true) {
		part, err := s.Push(id)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q ", part)
	}
	fmt.Printf("%q\n", s.Flush())
	// Output:
	// "" "A" " " "" "" "" "" "🦙!" ""
}

func ExampleTokenizer_ID() {
	t, err := tokenizer.Load(os.DirFS("../../testdata/tokenizer"), "tokenizer.json")
	if err != nil {
		log.Fatal(err)
	}
	id, ok := t.ID("</s>")
	fmt.Println(id, ok)
	token, ok := t.Token(272)
	fmt.Println(token, ok, t.VocabSize())
	// Output:
	// 2 true
	// ▁the true 32000
}

// The model in a pipeline of github.com/sugarme/tokenizer.
func ExampleTokenizer_Model() {
	t, err := tokenizer.Load(os.DirFS("../../testdata/tokenizer"), "tokenizer.json")
	if err != nil {
		log.Fatal(err)
	}
	pipeline := sugarme.NewTokenizer(t.Model())
	pipeline.WithNormalizer(normalizer.NewSequence([]normalizer.Normalizer{
		normalizer.NewPrepend("▁"), normalizer.NewReplace(normalizer.String, " ", "▁")}))
	encoded, err := pipeline.EncodeSingle("Hello world!")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(encoded.Ids, encoded.Tokens)
	// Output: [22557 1526 28808] [▁Hello ▁world !]
}
