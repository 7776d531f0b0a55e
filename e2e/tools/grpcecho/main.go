// Command grpcecho is a gRPC server, and a client that checks that it gets from it what a gRPC client must get through a proxy.
//
//	grpcecho serve ADDRESS              in plain text (h2c)
//	grpcecho check ADDRESS AUTHORITY    over TLS, whose certificate may be any
//
// The client ends with status 1 and says what is wrong, if anything is.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// raw is a codec for messages that are bytes already.
type raw struct{}

func (raw) Name() string                    { return "raw" }
func (raw) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { *v.(*[]byte) = append([]byte(nil), b...); return nil }

// A server is grpcecho serve.
type server struct {
	canceled atomic.Int64 // calls of Hang whose clients have gone
}

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "serve":
		err = serve(os.Args[2])
	case len(os.Args) == 4 && os.Args[1] == "check":
		err = check(os.Args[2], os.Args[3])
	default:
		err = errors.New("usage: grpcecho serve ADDRESS | grpcecho check ADDRESS AUTHORITY")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "grpcecho:", err)
		os.Exit(1)
	}
}

func serve(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(new(server).handle))
	fmt.Println("serving")
	return s.Serve(l)
}

// handle serves every method.
func (s *server) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	md, _ := metadata.FromIncomingContext(stream.Context())
	switch method {
	case "/echo.Echo/Unary":
		var in []byte
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		if err := stream.SetHeader(metadata.Pairs("x-seen", strings.Join(md.Get("x-sent"), ","), "x-authority", strings.Join(md.Get(":authority"), ","))); err != nil {
			return err
		}
		stream.SetTrailer(metadata.Pairs("x-length", strconv.Itoa(len(in)), "x-canceled", strconv.FormatInt(s.canceled.Load(), 10)))
		return stream.SendMsg(&in)
	case "/echo.Echo/Both":
		for {
			var in []byte
			if err := stream.RecvMsg(&in); errors.Is(err, io.EOF) {
				stream.SetTrailer(metadata.Pairs("x-end", "yes"))
				return nil
			} else if err != nil {
				return err
			}
			if err := stream.SendMsg(&in); err != nil {
				return err
			}
		}
	case "/echo.Echo/Fail":
		return status.Error(codes.FailedPrecondition, "as was asked: 100% ü")
	case "/echo.Echo/Hang":
		<-stream.Context().Done()
		s.canceled.Add(1)
		return stream.Context().Err()
	}
	return status.Error(codes.Unimplemented, method)
}

func check(addr, authority string) error {
	creds := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, ServerName: authority})
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds), grpc.WithAuthority(authority),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(8<<20)))
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, f := range []struct {
		name string
		do   func(context.Context, *grpc.ClientConn, string) error
	}{{"unary", unary}, {"large", large}, {"both ways", both}, {"failure", failure}, {"unimplemented", unimplemented}, {"cancel", hang}} {
		if err := f.do(ctx, c, authority); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		fmt.Println(f.name, "is right")
	}
	return nil
}

func call(ctx context.Context, c *grpc.ClientConn, in []byte) (head, trailer metadata.MD, out []byte, err error) {
	err = c.Invoke(metadata.AppendToOutgoingContext(ctx, "x-sent", "one", "x-sent", "two"), "/echo.Echo/Unary", &in, &out,
		grpc.Header(&head), grpc.Trailer(&trailer))
	return head, trailer, out, err
}

func unary(ctx context.Context, c *grpc.ClientConn, authority string) error {
	head, trailer, out, err := call(ctx, c, []byte("hello"))
	if err != nil || string(out) != "hello" {
		return fmt.Errorf("got %q, %w", out, err)
	}
	if got := strings.Join(head.Get("x-seen"), ";"); got != "one,two" {
		return fmt.Errorf("metadata: the server has seen %q", got)
	}
	if got := strings.Join(head.Get("x-authority"), ";"); got != authority {
		return fmt.Errorf("authority: the server has seen %q", got)
	}
	if got := strings.Join(trailer.Get("x-length"), ";"); got != "5" {
		return fmt.Errorf("trailer: %q", got)
	}
	return nil
}

func large(ctx context.Context, c *grpc.ClientConn, _ string) error {
	in := make([]byte, 3<<20)
	for i := range in {
		in[i] = byte(i * 7 >> 3)
	}
	_, _, out, err := call(ctx, c, in)
	if err == nil && string(out) != string(in) {
		err = fmt.Errorf("%d bytes came back, not those that were sent", len(out))
	}
	return err
}

// both sends a message only after the one before has come back.
func both(ctx context.Context, c *grpc.ClientConn, _ string) error {
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/echo.Echo/Both")
	if err != nil {
		return err
	}
	for i := range 50 {
		in, out := []byte(fmt.Sprint("message ", i)), []byte(nil)
		if err := errors.Join(s.SendMsg(&in), s.RecvMsg(&out)); err != nil {
			return err
		}
		if string(in) != string(out) {
			return fmt.Errorf("got %q, want %q", out, in)
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	var out []byte
	if err := s.RecvMsg(&out); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the end: %w", err)
	}
	if got := strings.Join(s.Trailer().Get("x-end"), ";"); got != "yes" {
		return fmt.Errorf("trailer: %q", got)
	}
	return nil
}

func wantStatus(err error, code codes.Code, text string) error {
	if s := status.Convert(err); s.Code() != code || s.Message() != text {
		return fmt.Errorf("got %v %q, want %v %q", s.Code(), s.Message(), code, text)
	}
	return nil
}

func failure(ctx context.Context, c *grpc.ClientConn, _ string) error {
	in, out := []byte{}, []byte{}
	return wantStatus(c.Invoke(ctx, "/echo.Echo/Fail", &in, &out), codes.FailedPrecondition, "as was asked: 100% ü")
}

func unimplemented(ctx context.Context, c *grpc.ClientConn, _ string) error {
	in, out := []byte{}, []byte{}
	return wantStatus(c.Invoke(ctx, "/echo.Echo/None", &in, &out), codes.Unimplemented, "/echo.Echo/None")
}

// hang gives up a call and waits until the server knows.
func hang(ctx context.Context, c *grpc.ClientConn, _ string) error {
	short, cancel := context.WithCancel(ctx)
	time.AfterFunc(200*time.Millisecond, cancel)
	in, out := []byte{}, []byte{}
	if err := c.Invoke(short, "/echo.Echo/Hang", &in, &out); status.Code(err) != codes.Canceled {
		return fmt.Errorf("got %w, want that it is canceled", err)
	}
	for ctx.Err() == nil {
		_, trailer, _, err := call(ctx, c, nil)
		if err != nil {
			return err
		}
		if strings.Join(trailer.Get("x-canceled"), "") != "0" {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the server never hears of it")
}
