package control

// NodeEligible reports what was last said with SetNodeEligible.
func (h *Health) NodeEligible() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.ineligible
}
