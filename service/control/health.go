package control

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A Health is what the loop leaves behind for those who ask how it is. It is
// unhealthy when the oldest change not yet in force, or the sync or audit that is
// running, is older than its timeout; a loop that has nothing to do is healthy
// for ever. Both families are in force or neither is. It is safe for concurrent
// use.
type Health struct {
	timeout  time.Duration
	families []service.Family

	mu         sync.Mutex
	pending    time.Time // when the oldest change not in force was queued, or zero
	running    time.Time // when the sync or audit that is running began, or zero
	last       time.Time // when the last successful sync ended, or zero
	ineligible bool
	stopping   bool
	answers    map[answer]float64
}

// NewHealth returns the Health of a loop that has just started. The timeout
// should be twice the sync period, as kube-proxy's. Families are those to report
// on; none means both.
func NewHealth(timeout time.Duration, families []service.Family) *Health {
	if len(families) == 0 {
		families = bothFamilies()
	}
	return &Health{timeout: timeout, families: families}
}

// SetNodeEligible says whether load balancers should send new connections to
// this node: false while its Node object is absent, being deleted, or tainted for
// removal. It is true to begin with, and counts for /healthz only.
func (h *Health) SetNodeEligible(eligible bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ineligible = !eligible
}

// Stopping says that the program is about to end. From now on load balancers are
// told to look elsewhere, at /healthz and at health-check node ports, and /readyz
// fails; /livez does not, for there is nothing to be restarted. What is in force
// goes on serving whoever comes all the same.
func (h *Health) Stopping() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// Healthy reports whether the node keeps up with the changes it is told of.
func (h *Health) Healthy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.healthy(time.Now())
}

// serving reports what health-check node ports say: whether the node keeps up, and
// will for a while.
func (h *Health) serving() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.stopping && h.healthy(time.Now())
}

func (h *Health) healthy(now time.Time) bool {
	late := func(since time.Time) bool { return !since.IsZero() && now.Sub(since) >= h.timeout }
	return !late(h.pending) && !late(h.running)
}

func (h *Health) queued(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending.IsZero() {
		h.pending = now
	}
}

func (h *Health) begin(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running = now
}

func (h *Health) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running = time.Time{}
}

func (h *Health) updated(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending = time.Time{}
	h.last = now
}

// A healthBody is the answer of /healthz and /livez, field by field that of
// kube-proxy.
type healthBody struct {
	LastUpdated  time.Time               `json:"lastUpdated"`
	CurrentTime  time.Time               `json:"currentTime"`
	NodeEligible *bool                   `json:"nodeEligible,omitempty"` // /healthz only
	Healthy      bool                    `json:"healthy"`
	Status       map[string]familyStatus `json:"status,omitempty"` // by name of the family; none before the first sync
}

type familyStatus struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// A verdict is what each of the pages comes down to.
type verdict struct{ keepsUp, eligible, prepared, stays bool }

// of returns whether a page is answered with 200.
func (v verdict) of(page string) bool {
	switch page {
	case "healthz":
		return v.keepsUp && v.eligible && v.stays
	case "readyz":
		return v.keepsUp && v.prepared && v.stays
	default:
		return v.keepsUp
	}
}

// look returns what to answer now. While all is well the time of the last update
// is now, as it was when rules were rewritten periodically: load balancers look at
// its age.
func (h *Health) look() (healthBody, verdict) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	b := healthBody{LastUpdated: h.last, CurrentTime: now, Healthy: h.healthy(now)}
	if !h.last.IsZero() {
		b.Status = make(map[string]familyStatus, len(h.families))
		for _, f := range h.families {
			b.Status[f.String()] = familyStatus{LastUpdated: h.last, Healthy: b.Healthy}
		}
	}
	return b, verdict{keepsUp: b.Healthy, eligible: !h.ineligible, prepared: !h.last.IsZero(), stays: !h.stopping}
}

// Handler returns the handler of /healthz, /livez and /readyz. They answer 200 or
// 503; the first two count that in m, as kube-proxy does. A load balancer asks
// /healthz, which also fails when the node or the program is about to leave; a
// supervisor asks /livez; whoever replaces one fairlead by another asks /readyz,
// which fails until everything is in force for the first time.
func (h *Health) Handler(m *Metrics) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		b, v := h.look()
		eligible := v.eligible && v.stays
		b.NodeEligible = &eligible
		countCode(m.healthz, b.write(w, h.said("healthz", v)))
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		b, v := h.look()
		countCode(m.livez, b.write(w, h.said("livez", v)))
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		b, v := h.look()
		b.write(w, h.said("readyz", v))
	})
	return mux
}

// write answers and returns the status code.
func (b healthBody) write(w http.ResponseWriter, ok bool) int {
	code := http.StatusServiceUnavailable
	if ok {
		code = http.StatusOK
		b.LastUpdated = b.CurrentTime
	}
	text, err := json.Marshal(b)
	if err != nil { // a year of five digits
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return http.StatusInternalServerError
	}
	writeJSON(w, code, text)
	return code
}

// writeJSON answers with text. A client that goes away meanwhile is nobody's
// problem.
func writeJSON(w http.ResponseWriter, code int, text []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(text)
}
