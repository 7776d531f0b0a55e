package upstream

// Buffered returns how many bytes have come from the endpoint that nobody has taken yet, framing counted. With
// none, the next Read may have to wait.
func (b *body) Buffered() int {
	if b.over {
		return 0
	}
	return b.c.w - b.c.r
}
