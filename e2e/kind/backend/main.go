// Command backend is both ends of the conversations that the kind tests look at:
// the server in a pod, and the client in a pod, on a node or outside.
//
//	backend serve                       TCP and UDP on port 8080: answers each line or datagram with "POD CLIENT";
//	                                    HTTP on port 8081: "POD CLIENT HOST PATH"
//	backend call  tcp|udp ADDR N        N conversations; prints each answer, or "error: …"
//	backend hold  tcp ADDR              one conversation, a line every 100 ms, until it breaks or the input ends
//	backend again tcp ADDR              a new conversation every 100 ms until the input ends; prints failures
//	backend resolve NAME                prints the addresses of NAME
//
// A conversation is one line there and one line back.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long one answer may take.
const patience = 2 * time.Second

// beat is the time between two lines, or two conversations.
const beat = 100 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "backend:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	what := strings.Join(args[:min(1, len(args))], "")
	switch {
	case what == "serve" && len(args) == 1:
		return serve(ctx)
	case what == "call" && len(args) == 4:
		return call(args[1], args[2], args[3])
	case what == "hold" && len(args) == 3:
		return hold(untilInputEnds(ctx), args[1], args[2])
	case what == "again" && len(args) == 3:
		again(untilInputEnds(ctx), args[1], args[2])
		return nil
	case what == "resolve" && len(args) == 2:
		addrs, err := net.DefaultResolver.LookupHost(ctx, args[1])
		fmt.Println(strings.Join(addrs, "\n"))
		return err
	}
	return fmt.Errorf("cannot make sense of the arguments %q", args)
}

// untilInputEnds is for programs in containers, which get no signals.
func untilInputEnds(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		io.Copy(io.Discard, os.Stdin)
	}()
	return ctx
}

// serve answers until ctx ends. A pod that is being removed goes on answering
// for a while, as well-behaved servers do, so that nothing is lost to it.
func serve(ctx context.Context) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", ":8080")
	if err != nil {
		return err
	}
	web, err := net.Listen("tcp", ":8081")
	if err != nil {
		return err
	}
	go http.Serve(web, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, name, r.Header.Get("X-Forwarded-For"), r.Host, r.URL.Path)
	}))
	go datagrams(packets, name)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go lines(conn, name)
		}
	}()
	<-ctx.Done()
	time.Sleep(5 * time.Second)
	return nil
}

func lines(conn net.Conn, name string) {
	defer conn.Close()
	host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
	for in := bufio.NewScanner(conn); in.Scan(); {
		if _, err := fmt.Fprintf(conn, "%s %s\n", name, host); err != nil {
			return
		}
	}
}

func datagrams(conn net.PacketConn, name string) {
	buf := make([]byte, 1500)
	for {
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		host, _, _ := net.SplitHostPort(from.String())
		fmt.Fprintf(writerTo{conn, from}, "%s %s\n", name, host)
	}
}

// A writerTo sends what is written to one address.
type writerTo struct {
	conn net.PacketConn
	to   net.Addr
}

func (w writerTo) Write(p []byte) (int, error) { return w.conn.WriteTo(p, w.to) }

func call(network, addr, times string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	for range n {
		answer, err := once(network, addr)
		if err != nil {
			answer = "error: " + brief(err)
		}
		fmt.Println(answer)
	}
	return nil
}

// once has one conversation.
func once(network, addr string) (string, error) {
	conn, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return ask(conn, bufio.NewReader(conn))
}

func ask(conn net.Conn, in *bufio.Reader) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, "who"); err != nil {
		return "", err
	}
	answer, err := in.ReadString('\n')
	return strings.TrimSpace(answer), err
}

// brief is the reason without addresses and ports, which change.
func brief(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return err.Error()
}

// hold keeps one conversation going. It fails when an answer is late, when
// another server than before gives it, or when the connection ends.
func hold(ctx context.Context, network, addr string) error {
	conn, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	var first string
	count := 0
	for tick := time.NewTicker(beat); ; count++ {
		answer, err := ask(conn, in)
		if err != nil {
			return fmt.Errorf("after %d answers: %w", count, err)
		}
		if first == "" {
			first = answer
			fmt.Println(answer)
		}
		if answer != first {
			return fmt.Errorf("after %d answers: got %q, want %q", count, answer, first)
		}
		select {
		case <-ctx.Done():
			fmt.Println(count+1, "answers")
			return nil
		case <-tick.C:
		}
	}
}

func again(ctx context.Context, network, addr string) {
	good, bad := 0, 0
	for tick := time.NewTicker(beat); ; {
		if _, err := once(network, addr); err != nil {
			bad++
			fmt.Println("error:", time.Now().UTC().Format(time.TimeOnly), brief(err))
		} else {
			good++
		}
		select {
		case <-ctx.Done():
			fmt.Println(good, "good", bad, "bad")
			return
		case <-tick.C:
		}
	}
}
