package accesslog

import (
	"net/netip"
	"strconv"
	"time"
	"unsafe"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// scratch is tmp as a string, which nobody keeps.
func (ln *line) scratch() string { return unsafe.String(unsafe.SliceData(ln.tmp), len(ln.tmp)) }

// A plainVariable is a variable whose values are made here, and have nothing in them that needs escaping.
type plainVariable struct {
	name   string
	append func(dst []byte, ln *line) []byte
}

func plainVariables() []plainVariable {
	client := func(b []byte, ln *line) []byte { return addr(b, ln.x.Request.Client.Addr()) }
	number := func(get func(ln *line) int64) func([]byte, *line) []byte {
		return func(b []byte, ln *line) []byte { return strconv.AppendInt(b, get(ln), 10) }
	}
	return append([]plainVariable{
		{"body_bytes_sent", number(func(ln *line) int64 { return ln.done.BytesOut })},
		{"bytes_sent", number(func(ln *line) int64 { return ln.done.HeadOut + ln.done.BytesOut })},
		{"https", func(b []byte, ln *line) []byte {
			if ln.x.Request.Secure {
				return append(b, "on"...)
			}
			return b
		}},
		{"is_args", func(b []byte, ln *line) []byte {
			if ln.x.Request.Query != "" {
				return append(b, '?')
			}
			return b
		}},
		{"msec", msec},
		{"realip_remote_addr", func(b []byte, ln *line) []byte { return addr(b, ln.x.Request.Peer.Addr()) }},
		{"realip_remote_port", func(b []byte, ln *line) []byte { return port(b, ln.x.Request.Peer) }},
		{"remote_addr", client},
		{"remote_port", func(b []byte, ln *line) []byte { return port(b, ln.x.Request.Client) }},
		{"request_length", number(func(ln *line) int64 { return ln.done.HeadIn + ln.done.BytesIn })},
		{"request_time", func(b []byte, ln *line) []byte { return seconds(b, ln.done.Duration) }},
		{"scheme", scheme},
		{"pass_access_scheme", scheme},
		{"server_addr", func(b []byte, ln *line) []byte { return addr(b, ln.x.Request.Local.Addr()) }},
		{"server_port", func(b []byte, ln *line) []byte { return port(b, ln.x.Request.Local) }},
		{"server_protocol", func(b []byte, ln *line) []byte { return append(b, ln.x.Request.Protocol.String()...) }},
		{"ssl_session_reused", func(b []byte, ln *line) []byte {
			switch s := ln.x.Request.TLS; {
			case s == nil:
				return b
			case s.DidResume:
				return append(b, 'r')
			}
			return append(b, '.')
		}},
		{"status", func(b []byte, ln *line) []byte { return pad(b, int64(ln.status()), 3) }},
		{"the_real_ip", client},
		{"time_iso8601", func(b []byte, ln *line) []byte { return ln.iso.append(b, ln.done.Now, "2006-01-02T15:04:05-07:00") }},
		{"time_local", func(b []byte, ln *line) []byte { return ln.here.append(b, ln.done.Now, "02/Jan/2006:15:04:05 -0700") }},
	}, tryVariables()...)
}

func scheme(b []byte, ln *line) []byte {
	if ln.x.Request.Secure {
		return append(b, "https"...)
	}
	return append(b, "http"...)
}

// msec is the time in seconds since 1970, with milliseconds.
func msec(b []byte, ln *line) []byte {
	ms := ln.done.Now.UnixMilli()
	b = append(strconv.AppendInt(b, ms/1000, 10), '.')
	return pad(b, ms%1000, 3)
}

func port(b []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return b
	}
	return strconv.AppendUint(b, uint64(a.Port()), 10)
}

// tryVariables are the lists with an element for each try.
func tryVariables() []plainVariable {
	list := func(add func(b []byte, ln *line, i int) []byte) func([]byte, *line) []byte {
		return func(b []byte, ln *line) []byte {
			for i := range min(len(ln.x.Tries), maxTries) {
				if i > 0 {
					b = append(b, ", "...)
				}
				n := len(b)
				if b = add(b, ln, i); len(b) == n {
					b = append(b, '-')
				}
			}
			return b
		}
	}
	return []plainVariable{
		{"upstream_addr", list(func(b []byte, ln *line, i int) []byte { return ln.x.Tries[i].Endpoint.AppendTo(b) })},
		{"upstream_connect_time", list(func(b []byte, ln *line, i int) []byte {
			if t := &ln.x.Tries[i]; t.Status == 0 && t.Connect == 0 {
				return b
			}
			return seconds(b, ln.x.Tries[i].Connect)
		})},
		{"upstream_header_time", list(func(b []byte, ln *line, i int) []byte {
			if ln.x.Tries[i].Status == 0 {
				return b
			}
			return seconds(b, ln.x.Tries[i].Header)
		})},
		// How long the answers of endpoints were is not known: the last counts as what the client got of it.
		{"upstream_response_length", list(func(b []byte, ln *line, i int) []byte {
			if i == len(ln.x.Tries)-1 && ln.x.Tries[i].Status != 0 {
				return strconv.AppendInt(b, ln.done.BytesOut, 10)
			}
			return append(b, '0')
		})},
		{"upstream_response_time", list(func(b []byte, ln *line, i int) []byte {
			return seconds(b, tryTime(&ln.x.Tries[i]))
		})},
		{"upstream_status", list(func(b []byte, ln *line, i int) []byte {
			if ln.x.Tries[i].Status == 0 {
				return b
			}
			return strconv.AppendInt(b, int64(ln.x.Tries[i].Status), 10)
		})},
	}
}

// tryTime returns how long a try took: as far as it came.
func tryTime(t *exchange.Try) time.Duration {
	for _, d := range [...]time.Duration{t.Total, t.Header, t.Connect} {
		if d > 0 {
			return d
		}
	}
	return 0
}
