package viz

import (
	"fmt"
	"image/color"
	"math"
)

// tone is a named colour. A PNG uses the colour; an SVG in a report uses the
// name, as a CSS variable, so that one picture serves the light and the dark
// theme.
type tone struct {
	name  string // "" for a colour that is the same in both themes
	c     color.NRGBA
	alpha float64 // 0..1
}

// RGBA implements color.Color.
func (t tone) RGBA() (r, g, b, a uint32) {
	c := t.c
	c.A = uint8(math.Round(255 * t.alpha))
	return c.RGBA()
}

// fade returns the tone with its opacity multiplied by alpha.
func (t tone) fade(alpha float64) tone {
	t.alpha *= alpha
	return t
}

func (t tone) hex() string { return hexString(t.c) }

func hexString(c color.NRGBA) string {
	if c.R%17 == 0 && c.G%17 == 0 && c.B%17 == 0 {
		return fmt.Sprintf("#%x%x%x", c.R/17, c.G/17, c.B/17)
	}
	return fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B)
}

func plain(c color.NRGBA) tone { return tone{c: c, alpha: 1} }

func rgb(hex uint32) color.NRGBA {
	return color.NRGBA{R: uint8(hex >> 16), G: uint8(hex >> 8), B: uint8(hex), A: 255}
}

// tones are the named colours of the light and the dark theme. On their theme's
// background, text has a contrast of at least 4.5 and lines of at least 3 (WCAG
// 2.2, 1.4.3 and 1.4.11; tested).
var tones = []struct {
	name        string
	light, dark uint32
}{
	{"ground", 0xffffff, 0x171a21},
	{"ink", 0x1b1f27, 0xe9ebf0},
	{"soft", 0x565e6c, 0xa9b1bf},
	{"axis", 0x7d8594, 0x79828f},
	{"grid", 0xe3e6eb, 0x2d323c},
	{"missing", 0xd5d8de, 0x3b414d},
	// Series, after Okabe and Ito (2008), with lightness adjusted to that contrast.
	{"s0", 0x0072b2, 0x56b4e9},
	{"s1", 0xc84e00, 0xff8f4a},
	{"s2", 0x00815d, 0x2fc79a},
	{"s3", 0xa8488a, 0xe28fc6},
	{"s4", 0x8a6a00, 0xe6c02e},
	{"s5", 0x4b3fa6, 0xa9a3ff},
	{"s6", 0x555b66, 0xb9bec8},
	{"s7", 0x8c2d2d, 0xf59a9a},
}

const seriesColours = 8

func (s Style) tone(name string) tone {
	for _, t := range tones {
		if t.name == name {
			c := t.light
			if s.Dark {
				c = t.dark
			}
			return tone{name: name, c: rgb(c), alpha: 1}
		}
	}
	return tone{name: name, c: rgb(0xff00ff), alpha: 1} // a missing name is conspicuous
}

func (s Style) series(i int) tone { return s.tone(fmt.Sprintf("s%d", i%seriesColours)) }

// dashes tell curves apart in a grey print and where colours repeat.
var dashes = [][]float64{nil, {7, 3}, {2, 2.5}, {8, 3, 2, 3}, {12, 3}, {4, 2}, {1, 2}, {10, 2, 2, 2, 2, 2}}

// viridis (Smith, van der Walt, Firing; CC0) is perceptually uniform, increases
// in lightness and suits colour-blind readers.
var viridis = []uint32{
	0x440154, 0x481a6c, 0x472f7d, 0x414487, 0x39568c, 0x31688e, 0x2a788e, 0x23888e,
	0x1f988b, 0x22a884, 0x35b779, 0x54c568, 0x7ad151, 0xa5db36, 0xd2e21b, 0xfde725,
}

// blueOrange diverges from a neutral middle, for differences around zero.
var blueOrange = []uint32{
	0x0b3c6f, 0x1f5d9b, 0x4f8bc4, 0x86b2d8, 0xc0d7ea, 0xececec, 0xf3d3b0, 0xe8a970, 0xd07c36, 0xa85413, 0x743303,
}

// ramp interpolates a list of colours at x, 0 to 1.
func ramp(stops []uint32, x float64) color.NRGBA {
	x = math.Min(1, math.Max(0, x)) * float64(len(stops)-1)
	i := int(x)
	if i >= len(stops)-1 {
		return rgb(stops[len(stops)-1])
	}
	f := x - float64(i)
	a, b := rgb(stops[i]), rgb(stops[i+1])
	mix := func(p, q uint8) uint8 { return uint8(math.Round(float64(p) + f*(float64(q)-float64(p)))) }
	return color.NRGBA{R: mix(a.R, b.R), G: mix(a.G, b.G), B: mix(a.B, b.B), A: 255}
}

// luminance returns the relative luminance of WCAG 2.2.
func luminance(c color.NRGBA) float64 {
	lin := func(v uint8) float64 {
		x := float64(v) / 255
		if x <= 0.04045 {
			return x / 12.92
		}
		return math.Pow((x+0.055)/1.055, 2.4)
	}
	return 0.2126*lin(c.R) + 0.7152*lin(c.G) + 0.0722*lin(c.B)
}

// contrast returns the contrast ratio of WCAG 2.2, 1 to 21.
func contrast(a, b color.NRGBA) float64 {
	x, y := luminance(a), luminance(b)
	if x < y {
		x, y = y, x
	}
	return (x + 0.05) / (y + 0.05)
}

// textOn returns black or white, whichever has more contrast on c.
func textOn(c color.NRGBA) tone {
	black, white := rgb(0x000000), rgb(0xffffff)
	if contrast(c, black) >= contrast(c, white) {
		return plain(black)
	}
	return plain(white)
}

// oklch converts OKLCH (Ottosson 2020: lightness 0 to 1, chroma, hue in turns)
// to sRGB, reducing chroma until the colour is representable.
func oklch(l, c, turns float64) color.NRGBA {
	for ; ; c *= 0.96 {
		a, b := c*math.Cos(2*math.Pi*turns), c*math.Sin(2*math.Pi*turns)
		l1 := l + 0.3963377774*a + 0.2158037573*b
		m1 := l - 0.1055613458*a - 0.0638541728*b
		s1 := l - 0.0894841775*a - 1.2914855480*b
		l3, m3, s3 := l1*l1*l1, m1*m1*m1, s1*s1*s1
		v := [3]float64{
			4.0767416621*l3 - 3.3077115913*m3 + 0.2309699292*s3,
			-1.2684380046*l3 + 2.6097574011*m3 - 0.3413193965*s3,
			-0.0041960863*l3 - 0.7034186147*m3 + 1.7076147010*s3,
		}
		fits := true
		var out [3]uint8
		for i, x := range v {
			if x < -1e-4 || x > 1+1e-4 {
				fits = false
			}
			x = math.Min(1, math.Max(0, x))
			if x <= 0.0031308 {
				x *= 12.92
			} else {
				x = 1.055*math.Pow(x, 1/2.4) - 0.055
			}
			out[i] = uint8(math.Round(255 * x))
		}
		if fits || c < 1e-3 {
			return color.NRGBA{R: out[0], G: out[1], B: out[2], A: 255}
		}
	}
}

// expertGround returns the background of a token of expert e of n. The hue
// identifies the expert; lightness alternates, so that neighbours differ without
// hue. The tone "ink" has a contrast of at least 4.5 on each.
func expertGround(e, n int, dark bool) color.NRGBA {
	if n < 1 {
		n = 1
	}
	hue := float64(e)/float64(n) + 0.06
	step := float64(e % 2)
	if dark {
		return oklch(0.36+0.10*step, 0.085, hue)
	}
	return oklch(0.93-0.11*step, 0.09, hue)
}

// expertLine returns the colour of expert e of n for areas and lines.
func expertLine(e, n int, dark bool) color.NRGBA {
	if n < 1 {
		n = 1
	}
	hue, step := float64(e)/float64(n)+0.06, float64(e%2)
	if dark {
		return oklch(0.72+0.1*step, 0.12, hue)
	}
	return oklch(0.62-0.12*step, 0.13, hue)
}
