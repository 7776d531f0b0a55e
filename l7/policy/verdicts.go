package policy

import (
	"crypto/sha256"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// An answer is what another server says about access. It is immutable.
type answer struct {
	status  int
	header  exchange.Header // without connection and framing
	body    []byte
	cookies []string
}

// maxRemembered is how many bytes of an answer's body may be remembered. Answers with more are not.
const maxRemembered = 4 << 10

// A verdictKey names a remembered answer. It is a hash, so that memory holds no credentials.
type verdictKey [sha256.Size]byte

// A verdictEntry is a remembered answer.
type verdictEntry struct {
	answer *answer
	until  time.Time
}

// recall returns what the asker remembers under k, or nil.
func (a *asker) recall(k verdictKey) *answer {
	e, ok := a.verdicts.Get(k)
	if !ok || !time.Now().Before(e.until) {
		return nil
	}
	return e.answer
}

// remember keeps an answer as long as times say, unless it is for one request alone.
func (a *asker) remember(k verdictKey, got *answer, times []CacheTime) {
	if len(got.cookies) != 0 || len(got.body) > maxRemembered {
		return
	}
	for _, v := range got.header.Values("Cache-Control") {
		v = strings.ToLower(v)
		if strings.Contains(v, "no-store") || strings.Contains(v, "no-cache") || strings.Contains(v, "private") {
			return
		}
	}
	for _, t := range times {
		if t.Status == 0 || t.Status == got.status {
			if t.For > 0 {
				a.verdicts.Add(k, &verdictEntry{answer: got, until: time.Now().Add(t.For)})
			}
			return
		}
	}
}

// defaultCacheTimes is what ingress-nginx remembers where nothing is said.
func defaultCacheTimes() []CacheTime {
	return []CacheTime{{200, 5 * time.Minute}, {202, 5 * time.Minute}, {401, 5 * time.Minute}}
}
