package l7

import (
	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/std"
)

// observe counts and logs a request that is over.
func (s *Server) observe(x *exchange.Exchange, f *flight, d std.Done) {
	_, _, _ = x, f, d
}
