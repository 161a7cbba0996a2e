package pickle

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// nothing is an environment without names.
type nothing struct{}

func (nothing) Global(module, name string) (any, error) { return nil, NotAllowed(module, name) }
func (nothing) Build(any, any) error                    { return errors.New("no state") }
func (nothing) Persistent(any) (any, error)             { return nil, errors.New("no ids") }

func decoder(text string) *Decoder {
	budget := NewBudget(len(text))
	return NewDecoder([]byte(text), &budget, nothing{})
}

// Each value is as Python's pickle.dumps writes it.
func TestValues(t *testing.T) {
	for text, want := range map[string]any{
		"\x80\x02N.":                            nil,
		"\x80\x02\x88.":                         true,
		"\x80\x02\x89.":                         false,
		"\x80\x02K\xff.":                        int64(255),
		"\x80\x02M\x00\x01.":                    int64(256),
		"\x80\x02J\xfe\xff\xff\xff.":            int64(-2),
		"\x80\x02\x8a\x00.":                     int64(0),
		"\x80\x02\x8a\x05\x00\x00\x00\x00\x80.": int64(-1 << 39),
		"\x80\x02\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f.":           int64(math.MaxInt64),
		"\x80\x02\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00.":       []byte("\x00\x00\x00\x00\x00\x00\x00\x80\x00"),
		"\x80\x02G\xbf\xf8\x00\x00\x00\x00\x00\x00.":                  -1.5,
		"\x80\x02X\x02\x00\x00\x00\xc3\xa9q\x00.":                     "é",
		"\x80\x04\x95\x06\x00\x00\x00\x00\x00\x00\x00\x8c\x02ab\x94.": "ab",
		"\x80\x03C\x01xq\x00.":                                        []byte("x"),
		"\x80\x02K\x01K\x02\x86q\x00.":                                []any{int64(1), int64(2)},
		"\x80\x02]q\x00(K\x01K\x02e.":                                 &List{[]any{int64(1), int64(2)}},
		"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01h\x00s.":                nil, // a dict in itself
	} {
		d := decoder(text + "rest")
		v, err := d.Load()
		require.NoError(t, err, "%q", text)
		if m, ok := v.(Dict); ok {
			assert.Contains(t, m, "a")
		} else {
			assert.Equal(t, want, v, "%q", text)
		}
		assert.Equal(t, "rest", string(d.Rest()))
		for n := range text {
			_, err := decoder(text[:n]).Load()
			assert.ErrorIs(t, err, ErrEnd, "%q", text[:n])
		}
	}
}

// A name that the input's end cuts is distinguished from one that is too long.
func TestNameCut(t *testing.T) {
	_, err := decoder("\x80\x02cos\nsys").Load()
	assert.ErrorIs(t, err, ErrEnd)
	_, err = decoder("\x80\x02cos\nsystem\n.").Load()
	assert.ErrorContains(t, err, "os.system is not allowed")
}

func TestNewView(t *testing.T) {
	tuple := func(v ...int) []any {
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = int64(x)
		}
		return out
	}
	for _, c := range []struct {
		offset         int
		shape, strides []any
		storage        int64
		err            string // empty: fine
	}{
		{0, tuple(2, 3), tuple(3, 1), 6, ""},
		{1, tuple(2, 3), tuple(3, 1), 6, "at 1 is outside"},
		{1, tuple(3, 2), tuple(1, 3), 7, ""},
		{0, tuple(2, 3), tuple(4, 1), 7, ""},
		{0, tuple(2, 3), tuple(4, 1), 6, "outside"},
		{6, tuple(), tuple(), 7, ""},
		{7, tuple(), tuple(), 7, "outside"},
		{7, tuple(0, 1<<40), tuple(1, 1), 7, ""},
		{8, tuple(0), tuple(1), 7, "outside"},
		{0, tuple(0, -1), tuple(1, 1), 7, "outside"},
		{0, tuple(2, 2), tuple(0, 0), 4, ""},
		{0, tuple(2, 2), tuple(0, 1), 3, "more elements than its storage of 3"},
		{0, tuple(1<<32, 1<<32), tuple(0, 0), 1 << 33, "more elements"},
		{1 << 61, tuple(2, 2, 2, 2), tuple(1<<62, 1<<62, 1<<62, 1<<62), 1<<62 + 1, "outside"},
		{0, tuple(3, 1), tuple(1<<62, -9), 1 << 33, "outside"},
		{0, tuple(1, 3), tuple(-9, 1), 3, ""},
		{0, tuple(2), tuple(1, 1), 3, "unknown arguments"},
		{0, tuple(1, 1, 1, 1, 1, 1, 1, 1, 1), tuple(1, 1, 1, 1, 1, 1, 1, 1, 1), 3, "more than 8 axes"},
	} {
		_, err := NewView([]any{int64(c.offset), c.shape, c.strides}, c.storage)
		if c.err == "" {
			assert.NoError(t, err)
		} else {
			assert.ErrorContains(t, err, c.err)
		}
	}
}
