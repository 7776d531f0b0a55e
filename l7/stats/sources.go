package stats

import (
	"iter"
	"time"

	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/h1"
	"github.com/fairlead-project/fairlead/l7/upstream"
)

// Sources is where the numbers are that others count. Each may be nil: then there are no metrics of it. The funcs are called
// when somebody asks for the metrics, several at a time if several ask.
type Sources struct {
	H1        *h1.Stats       // of requests in HTTP/1
	Upstream  *upstream.Stats // of the client for endpoints
	Listeners func() []Listener
	Endpoints func() iter.Seq[balance.EndpointStatus] // of all pools
	Ejections func() uint64                           // of all pools that ever were
	Config    func() Config
	// Certificates are those in force; see certs.Table.Snapshot.
	Certificates func() []certs.HostStatus
	// MaxCertificates is how many hosts' certificates have a metric of their own, those that end first; 0: 20; negative: none.
	MaxCertificates int
	HandshakesBusy  func() uint64                    // certs.Limiter.Refused
	AccessLog       func() (written, dropped uint64) // accesslog.Log.Lines
	// Refused are requests that an engine other than h1 has refused, by reason.
	Refused func() iter.Seq2[string, uint64]
}

// A Listener is the connections of one port.
type Listener struct {
	Name     string // such as "http" or "https"
	Accepted uint64
	Refused  map[string]uint64 // closed at once, by reason
	Cut      map[string]uint64 // ended because there were too many or nearly, by reason
	Open     int64
	// Protocols is how many connections there were by what is spoken on them, such as "http/1.1", "h2" or "passthrough".
	Protocols map[string]uint64
}

// Config is what is in force.
type Config struct {
	Generation                         uint64 // counts changes from 1
	Applied                            time.Time
	Compile                            time.Duration // that the last change took
	Hosts, Routes, Ingresses, Backends int
	Problems                           int
}

// EndpointState returns the one word for how an endpoint is: "used", "slow-start", "trial", "ejected", "unhealthy" (active checks fail),
// "leaving" or "unused".
func EndpointState(e *balance.EndpointStatus) string {
	switch {
	case e.Leaving:
		return "leaving"
	case e.CheckErr != nil:
		return "unhealthy"
	case e.Trial:
		return "trial"
	case e.Ejected > 0:
		return "ejected"
	case !e.Used:
		return "unused"
	case e.SlowStart > 0 && e.SlowStart < 1:
		return "slow-start"
	}
	return "used"
}

func endpointStates() [7]string {
	return [...]string{"used", "slow-start", "trial", "ejected", "unhealthy", "leaving", "unused"}
}
