//go:build linux

package main

import (
	"fmt"
	"math"
	"strings"
)

// plot is a drawing of figures against a number, both axes logarithmic.
type plot struct {
	title, x, y string
	lines       []curve
}

// curve is one series of a plot. Points are in order of x.
type curve struct {
	name   string
	colour string
	dashed bool
	at     []plotted
}

// plotted is a point of a curve. Both numbers are above 0.
type plotted struct {
	x, y  float64
	bound bool // only a lower bound is known
}

// The drawing, in pixels.
const (
	plotWidth, plotHeight           = 720.0, 420.0
	plotLeft, plotRight             = 70.0, 230.0 // the names are on the right
	plotTop, plotBottom             = 40.0, 50.0
	innerWidth, innerHeight         = plotWidth - plotLeft - plotRight, plotHeight - plotTop - plotBottom
	labelStep               float64 = 18
)

// colours by variant; kube-proxy's lines are dashed.
func (s series) colour() string {
	switch s.variant {
	case legacy:
		return "#d9480f"
	case nft:
		return "#1c7ed6"
	case nftables:
		return "#5f3dc4"
	}
	return "#2b8a3e"
}

// axis maps values to pixels.
type axis struct{ low, high, from, to float64 }

func newAxis(low, high, from, to float64) axis {
	a := axis{math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high))), from, to}
	if a.low == a.high {
		a.high *= 10
	}
	return a
}

func (a axis) pixel(v float64) float64 {
	return a.from + (a.to-a.from)*(math.Log10(v)-math.Log10(a.low))/(math.Log10(a.high)-math.Log10(a.low))
}

// decades are the powers of ten on the axis.
func (a axis) decades() []float64 {
	var list []float64
	for v := a.low; v <= a.high*1.001; v *= 10 {
		list = append(list, v)
	}
	return list
}

// svg draws it; empty if there is nothing to draw.
func (p plot) svg() string {
	lowX, highX, lowY, highY := math.Inf(1), 0.0, math.Inf(1), 0.0
	for _, c := range p.lines {
		for _, v := range c.at {
			lowX, highX = min(lowX, v.x), max(highX, v.x)
			lowY, highY = min(lowY, v.y), max(highY, v.y)
		}
	}
	if highX == 0 || highY == 0 {
		return ""
	}
	x := newAxis(lowX, highX, plotLeft, plotLeft+innerWidth)
	y := newAxis(lowY, highY, plotTop+innerHeight, plotTop)
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n",
		plotWidth, plotHeight, plotWidth, plotHeight)
	fmt.Fprintf(&out, `<rect width="100%%" height="100%%" fill="#ffffff"/><text x="%g" y="24" font-size="15" fill="#212529">%s</text>`+"\n", plotLeft, escape(p.title))
	p.grid(&out, x, y)
	for i, c := range p.lines {
		c.draw(&out, x, y, plotTop+labelStep*float64(i))
	}
	out.WriteString("</svg>\n")
	return out.String()
}

func (p plot) grid(out *strings.Builder, x, y axis) {
	for _, v := range x.decades() {
		at := x.pixel(v)
		fmt.Fprintf(out, `<path d="M%.1f %.1fV%.1f" stroke="#dee2e6"/><text x="%.1f" y="%.1f" text-anchor="middle" fill="#495057">%s</text>`+"\n",
			at, plotTop, plotTop+innerHeight, at, plotTop+innerHeight+18, tick(v))
	}
	for _, v := range y.decades() {
		at := y.pixel(v)
		fmt.Fprintf(out, `<path d="M%.1f %.1fH%.1f" stroke="#dee2e6"/><text x="%.1f" y="%.1f" text-anchor="end" fill="#495057">%s</text>`+"\n",
			plotLeft, at, plotLeft+innerWidth, plotLeft-8, at+4, tick(v))
	}
	fmt.Fprintf(out, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="#212529">%s</text>`+"\n", plotLeft+innerWidth/2, plotHeight-12, escape(p.x))
	fmt.Fprintf(out, `<text transform="translate(16 %.1f) rotate(-90)" text-anchor="middle" fill="#212529">%s</text>`+"\n", plotTop+innerHeight/2, escape(p.y))
}

// draw draws the line, its points, hollow where they are bounds, and its name.
func (c curve) draw(out *strings.Builder, x, y axis, label float64) {
	dash := ""
	if c.dashed {
		dash = ` stroke-dasharray="6 4"`
	}
	var path strings.Builder
	for i, v := range c.at {
		fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[i == 0], x.pixel(v.x), y.pixel(v.y))
	}
	fmt.Fprintf(out, `<path d="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", path.String(), c.colour, dash)
	for _, v := range c.at {
		fill, title := c.colour, ""
		if v.bound {
			fill, title = "#ffffff", "more than "
		}
		fmt.Fprintf(out, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s" stroke="%s"><title>%s: %s%s</title></circle>`+"\n",
			x.pixel(v.x), y.pixel(v.y), fill, c.colour, escape(c.name), title, figure(v.y))
	}
	at := plotLeft + innerWidth + 14
	fmt.Fprintf(out, `<path d="M%.1f %.1fh22" stroke="%s" stroke-width="2"%s/><text x="%.1f" y="%.1f" fill="#212529">%s</text>`+"\n",
		at, label, c.colour, dash, at+28, label+4, escape(c.name))
}

// tick prints a power of ten.
func tick(v float64) string {
	if v >= 1 {
		return thousands(int(math.Round(v)))
	}
	return fmt.Sprintf("%.*f", int(math.Round(-math.Log10(v))), v)
}

func escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}
