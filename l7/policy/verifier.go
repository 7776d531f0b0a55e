package policy

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// rememberPassword is how long the outcome of a check is believed.
	rememberPassword = time.Minute
	// maxWaiting is how many requests may wait for their password to be checked, and verifyWait how long.
	maxWaiting = 64
	verifyWait = 5 * time.Second
)

// A verifier checks passwords, which bcrypt makes costly on purpose. It remembers what came out, under a keyed hash so that memory
// holds no passwords; wrong ones apart from right ones, so that nobody can push out the latter by
// guessing. It runs few checks at a time. It is safe for concurrent use.
type verifier struct {
	key     [32]byte // of this process
	right   *lru.Cache[[sha256.Size]byte, time.Time]
	wrong   *lru.Cache[[sha256.Size]byte, time.Time]
	slots   chan struct{}
	waiting atomic.Int64
}

// A verdict is what a verifier says.
type verdict uint8

const (
	isWrong verdict = iota
	isRight
	isBusy // nobody has looked
)

func newVerifier(entries, slots int) *verifier {
	v := &verifier{slots: make(chan struct{}, slots)}
	// crypto/rand does not fail. The caches fail for sizes below one alone.
	_, _ = rand.Read(v.key[:])
	v.right, _ = lru.New[[sha256.Size]byte, time.Time](entries)
	v.wrong, _ = lru.New[[sha256.Size]byte, time.Time](entries)
	return v
}

// check asks users, whose file has that digest, unless the answer is remembered. It waits for a free slot until ctx ends.
func (v *verifier) check(ctx context.Context, users Htpasswd, digest [sha256.Size]byte, user, password string) verdict {
	if len(user) > maxUser || len(password) > maxPassword {
		return isWrong
	}
	k := v.hash(digest, user, password)
	if out, known := v.remembered(k); known {
		return out
	}
	if !v.enter(ctx) {
		return isBusy
	}
	defer func() { <-v.slots }()
	// Browsers ask for many things at once: somebody else may have looked meanwhile.
	if out, known := v.remembered(k); known {
		return out
	}
	if users.Check(user, password) {
		v.right.Add(k, time.Now().Add(rememberPassword))
		return isRight
	}
	v.wrong.Add(k, time.Now().Add(rememberPassword))
	return isWrong
}

// enter takes a slot, and gives up when too many wait or it takes too long.
func (v *verifier) enter(ctx context.Context) bool {
	select {
	case v.slots <- struct{}{}:
		return true
	default:
	}
	if v.waiting.Add(1) > maxWaiting {
		v.waiting.Add(-1)
		return false
	}
	defer v.waiting.Add(-1)
	timer := time.NewTimer(verifyWait)
	defer timer.Stop()
	select {
	case v.slots <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func (v *verifier) remembered(k [sha256.Size]byte) (out verdict, known bool) {
	now := time.Now()
	if until, ok := v.right.Get(k); ok && now.Before(until) {
		return isRight, true
	}
	until, ok := v.wrong.Get(k)
	return isWrong, ok && now.Before(until)
}

func (v *verifier) hash(digest [sha256.Size]byte, user, password string) (k [sha256.Size]byte) {
	h := hmac.New(sha256.New, v.key[:])
	h.Write(digest[:])
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(user))))
	h.Write([]byte(user))
	h.Write([]byte(password))
	h.Sum(k[:0])
	return k
}
