//go:build linux

package main

import "io"

func summarize(w io.Writer, r results) error { return nil }

