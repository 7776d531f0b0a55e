package l7

import (
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// A Config is what the operator has chosen.
type Config struct {
	Log     *slog.Logger // required
	Ingress ingress.Config
	Version string

	// The names of objects, each of which may be zero: defaults of annotations, what is served where no host
	// matches, the certificate for hosts without one, and the key that session tickets and sticky sessions are made with on
	// every node alike.
	Globals            service.Name // ConfigMap
	DefaultBackend     service.Name // Service, by its first port
	DefaultCertificate service.Name // Secret
	Keys               service.Name // Secret, with "key"

	// Passthrough lets the TLS of hosts that ask for it through to their backends.
	Passthrough bool

	AccessLog io.Writer // nil: there is none

	// Problems hears all that is wrong with objects whenever that changes, and Served
	// which Ingresses are served. Nil: nobody does. They must not block.
	Problems func([]service.Problem)
	Served   func([]service.Name)

	// InForce, if not nil, hears which Ingresses are in force as they are now written, whenever they have changed or
	// become ours, and which are ours no more. It must not block.
	InForce func(changed []*ingress.Ingress, gone []service.Name)

	// Resolve asks DNS for the addresses of a name, for Services of type ExternalName; nil: the system's resolver.
	Resolve Resolver

	MaxConns, MaxPerClient int64 // 0 means what package std says

	NetHTTP bool // net/http serves HTTP/1.1 in place of package wire
}

// The pace of changes to objects: the first is in force at once, those that follow are put together. Changes
// take at most a tenth of one CPU's time, but on a machine so busy that none would be in force for seconds.
const (
	minPace  = 10 * time.Millisecond
	maxPace  = 3 * time.Second
	paceCost = 10
)

func (c *Config) validate() error {
	var errs []error
	if c.Log == nil {
		errs = append(errs, errors.New("the Log is nil"))
	}
	if len(c.Ingress.Classes) == 0 {
		errs = append(errs, errors.New("no Ingress.Classes, so nothing would be served"))
	}
	return errors.Join(errs...)
}
