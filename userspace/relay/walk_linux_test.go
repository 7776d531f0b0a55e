package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// TestWalk lets both ends of many connections do what they like: write and read in
// pieces of any size, pause, end their stream early or late, reset. What arrives
// must be what was sent, all of it unless somebody reset.
func TestWalk(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 8
	}
	const each = 16
	far := make(map[uint64]chan error)
	var mu sync.Mutex
	target := serve(t, func(c *net.TCPConn) {
		var head [8]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return // reset before it began
		}
		seed := binary.BigEndian.Uint64(head[:])
		err := newWalker(seed, 1).walk(c)
		mu.Lock()
		defer mu.Unlock()
		far[seed] <- err
	})
	e, at := start(t, Config{Handler: &silentBook{Target{Addr: target}}, MaxPipes: 8})
	base := rand.Uint64()
	t.Logf("seed %d", base)
	for r := range rounds {
		var wg sync.WaitGroup
		for i := range each {
			seed := base + uint64(r*each+i)
			result := make(chan error, 1)
			mu.Lock()
			far[seed] = result
			mu.Unlock()
			wg.Go(func() {
				c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				if _, err := c.Write(binary.BigEndian.AppendUint64(nil, seed)); err != nil {
					t.Error(err)
					return
				}
				near := newWalker(seed, 0)
				if err := near.walk(c); err != nil {
					t.Errorf("seed %d, client: %v", seed, err)
				}
				if near.resets() { // the endpoint may not even have seen it
					return
				}
				if err := <-result; err != nil {
					t.Errorf("seed %d, endpoint: %v", seed, err)
				}
			})
		}
		wg.Wait()
		eventually(t, "all are closed", func() bool { return e.Counters().Active == 0 })
		if t.Failed() {
			return
		}
	}
	t.Logf("%+v", e.Counters())
}

// A walker is one end of a connection. Both ends know what the other does.
type walker struct {
	sends, hears stream
	rnd          [2]*rand.Rand // for writing and reading
}

// A stream is what one end says.
type stream struct {
	size    int
	source  *rand.ChaCha8
	breaks  bool // it ends with a reset
	patient bool // it ends only after the other has ended
}

func newWalker(seed uint64, end int) *walker {
	streams := [2]stream{newStream(seed, 0), newStream(seed, 1)}
	if streams[0].patient && streams[1].patient {
		streams[1].patient = false
	}
	return &walker{
		sends: streams[end], hears: streams[1-end],
		rnd: [2]*rand.Rand{rand.New(rand.NewPCG(seed, uint64(end))), rand.New(rand.NewPCG(seed, uint64(2+end)))},
	}
}

func newStream(seed uint64, end int) stream {
	rnd := rand.New(rand.NewPCG(seed, uint64(4+end)))
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	key[31] = byte(end)
	s := stream{source: rand.NewChaCha8(key), breaks: rnd.IntN(8) == 0, patient: rnd.IntN(3) == 0}
	switch rnd.IntN(4) {
	case 0:
		s.size = rnd.IntN(100)
	case 1, 2:
		s.size = rnd.IntN(200_000)
	default:
		s.size = rnd.IntN(3_000_000)
	}
	return s
}

// resets reports whether one of the ends resets.
func (w *walker) resets() bool { return w.sends.breaks || w.hears.breaks }

func (w *walker) walk(c *net.TCPConn) error {
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	heard := make(chan struct{})
	var readErr, writeErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(heard)
		readErr = w.read(c)
	})
	wg.Go(func() { writeErr = w.write(c, heard) })
	wg.Wait()
	return errors.Join(readErr, writeErr)
}

func (w *walker) write(c *net.TCPConn, heard chan struct{}) error {
	rnd := w.rnd[0]
	for left := w.sends.size; left > 0; {
		p := make([]byte, 1+rnd.IntN(min(left, 1<<rnd.IntN(19))))
		_, _ = w.sends.source.Read(p)
		if _, err := c.Write(p); err != nil {
			if w.resets() {
				return nil
			}
			return err
		}
		left -= len(p)
		dawdle(rnd)
	}
	if w.sends.breaks {
		return errors.Join(c.SetLinger(0), c.Close())
	}
	if w.sends.patient {
		<-heard
	}
	if err := c.CloseWrite(); err != nil && !w.resets() {
		return err
	}
	return nil
}

func (w *walker) read(c *net.TCPConn) error {
	rnd := w.rnd[1]
	total := 0
	for {
		p := make([]byte, 1+rnd.IntN(1<<rnd.IntN(19)))
		n, err := c.Read(p)
		want := make([]byte, n)
		_, _ = w.hears.source.Read(want)
		if !bytes.Equal(p[:n], want) {
			return fmt.Errorf("what came after %d bytes is not what was sent", total)
		}
		total += n
		switch {
		case total > w.hears.size:
			return fmt.Errorf("got %d bytes, %d were sent", total, w.hears.size)
		case err != nil && w.resets():
			return nil
		case err == io.EOF && total == w.hears.size:
			return nil
		case err != nil:
			return fmt.Errorf("after %d of %d bytes: %w", total, w.hears.size, err)
		}
		dawdle(rnd)
	}
}

// dawdle sometimes waits, so that the other end gets ahead.
func dawdle(rnd *rand.Rand) {
	if rnd.IntN(20) == 0 {
		time.Sleep(time.Duration(rnd.IntN(3)) * time.Millisecond)
	}
}
