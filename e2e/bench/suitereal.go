//go:build linux

package main

import "context"

func (b *bench) validation(ctx context.Context, w world, round int) error { return nil }
