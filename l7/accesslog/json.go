package accesslog

import (
	"crypto/tls"
	"net/netip"
	"strconv"
	"time"
)

// The lengths at which values are cut in JSON, in bytes.
const (
	limitHost  = 255
	limitPath  = 2048
	limitAgent = 512
	limitOther = 256
	maxTries   = 32 // that are listed
)

// json fills buf with an object.
func (ln *line) json() {
	x, d := ln.x, &ln.done
	r := &x.Request
	b := append(ln.buf, `{"ts":"`...)
	now := d.Now.UTC()
	b = ln.utc.append(b, now, "2006-01-02T15:04:05")
	b = append(b, '.')
	b = pad(b, int64(now.Nanosecond()/int(time.Millisecond)), 3)
	b = append(b, `Z","client":"`...)
	b = addr(b, r.Client.Addr())
	b = append(b, '"')
	b = always(b, `,"method":"`, r.Method, limitOther)
	b = always(b, `,"host":"`, r.Host, limitHost)
	b = always(b, `,"path":"`, r.RawPath, limitPath)
	b = field(b, `,"query":"`, r.Query, limitPath)
	b = append(b, `,"proto":"`...)
	b = append(b, r.Protocol.String()...)
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(ln.status()), 10)
	b = append(b, `,"bytes_in":`...)
	b = strconv.AppendInt(b, d.BytesIn, 10)
	b = append(b, `,"bytes_out":`...)
	b = strconv.AppendInt(b, d.BytesOut, 10)
	b = append(b, `,"duration":`...)
	b = fixed(b, d.Duration, time.Microsecond, 6)
	ln.buf = b
	ln.jsonTarget()
	ln.jsonTries()
	b = field(ln.buf, `,"user":"`, x.User, limitOther)
	b = field(b, `,"request_id":"`, r.ID, limitOther)
	b = field(b, `,"trace_id":"`, traceID(r.Header), limitOther)
	b = ln.jsonTLS(b, r.TLS)
	b = field(b, `,"reason":"`, ln.reason(), limitOther)
	b = field(b, `,"user_agent":"`, r.Header.Get("User-Agent"), limitAgent)
	b = field(b, `,"referer":"`, r.Header.Get("Referer"), limitAgent)
	ln.buf = append(b, '}')
}

func (ln *line) jsonTarget() {
	t := ln.x.Target
	if t == nil {
		return
	}
	b := ln.buf
	if t.Ingress != "" {
		b = append(b, `,"ingress":"`...)
		b = value(b, t.Namespace, limitOther)
		b = append(b, '/')
		b = value(b, t.Ingress, limitOther)
		b = append(b, '"')
	}
	if t.Service != "" {
		b = append(b, `,"service":"`...)
		b = value(b, t.Namespace, limitOther)
		b = append(b, '/')
		b = value(b, t.Service, limitOther)
		if t.Port != "" {
			b = append(b, ':')
			b = value(b, t.Port, limitOther)
		}
		b = append(b, '"')
	}
	ln.buf = b
}

func (ln *line) jsonTries() {
	tries := ln.x.Tries
	if len(tries) == 0 {
		return
	}
	shown := tries[:min(len(tries), maxTries)]
	b := append(ln.buf, `,"upstream_addr":[`...)
	for i := range shown {
		b = separate(b, i)
		b = append(b, '"')
		b = shown[i].Endpoint.AppendTo(b)
		b = append(b, '"')
	}
	b = append(b, `],"upstream_status":[`...)
	for i := range shown {
		b = separate(b, i)
		b = strconv.AppendInt(b, int64(shown[i].Status), 10)
	}
	b = append(b, `],"upstream_time":[`...)
	for i := range shown {
		b = separate(b, i)
		b = fixed(b, tryTime(&shown[i]), time.Microsecond, 6)
	}
	b = append(b, ']')
	if len(tries) > 1 {
		b = append(b, `,"tries":`...)
		b = strconv.AppendInt(b, int64(len(tries)), 10)
	}
	ln.buf = b
}

func separate(b []byte, i int) []byte {
	if i > 0 {
		return append(b, ',')
	}
	return b
}

func (ln *line) jsonTLS(b []byte, s *tls.ConnectionState) []byte {
	if s == nil {
		return b
	}
	b = field(b, `,"tls_version":"`, tlsVersion(s.Version), limitOther)
	b = field(b, `,"tls_sni":"`, s.ServerName, limitHost)
	return field(b, `,"tls_cipher":"`, ln.cipherName(s.CipherSuite), limitOther)
}

// field appends a string unless it is empty. The key comes with all that stands in front of the value.
func field(b []byte, key, s string, limit int) []byte {
	if s == "" {
		return b
	}
	return always(b, key, s, limit)
}

func always(b []byte, key, s string, limit int) []byte {
	return append(value(append(b, key...), s, limit), '"')
}

func value(b []byte, s string, limit int) []byte {
	s, cut := shorten(s, limit)
	b = appendJSON(b, s)
	if cut {
		b = append(b, "…"...)
	}
	return b
}

func addr(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return b
	}
	return a.Unmap().AppendTo(b)
}
