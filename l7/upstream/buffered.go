package upstream

// Buffered returns how many bytes have come from the endpoint that nobody has taken yet. The end of a chunk does not
// count: it comes with the chunk, and says nothing about whether another one is there. With none, the next Read may wait,
// so what was read before had better be passed on.
func (b *body) Buffered() int {
	if b.over {
		return 0
	}
	n := b.c.w - b.c.r
	if b.kind == chunked && b.chunks.Left() == 0 {
		n = max(0, n-len("\r\n"))
	}
	return n
}
