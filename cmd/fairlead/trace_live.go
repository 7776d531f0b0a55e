package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control/status"
)

// A question is what one asks about a packet, in the words of the flags.
type question struct {
	From  string `json:"from"`
	In    string `json:"in"`
	To    string `json:"to"`
	Proto string `json:"proto"`
	All   bool   `json:"all"`
}

// check reports everything that is wrong with q by itself.
func (q *question) check() error {
	_, _, err := parseTarget(q.To, q.Proto)
	if q.From == "" {
		err = errors.Join(err, errors.New("--from: is required"))
	}
	return err
}

// flow returns the packet that q is about on a node.
func (q *question) flow(node *service.Node) (service.Flow, error) {
	dst, protocol, err := parseTarget(q.To, q.Proto)
	if err != nil {
		return service.Flow{}, err
	}
	flow, err := caller(q.From, q.In, dst.Addr(), node)
	flow.Protocol, flow.Dst = protocol, dst
	return flow, err
}

// A traceAnswer is what a running fairlead says to a question.
type traceAnswer struct {
	Text string `json:"text"`
	Bad  bool   `json:"bad"` // the rules do not do what was decided
}

// live reports whether nothing says where objects are: then the fairlead that runs
// here knows.
func (t *traceFlags) live() bool {
	return len(t.Files) == 0 && t.Kubeconfig == "" && t.Master == ""
}

// traceLive asks the fairlead that runs here. It knows its node and its settings
// itself, so flags that would say otherwise are refused.
func (c command) traceLive(ctx context.Context, fs *pflag.FlagSet, t *traceFlags) error {
	err := t.check()
	fs.Visit(func(fl *pflag.Flag) {
		if !slices.Contains([]string{"from", "in", "to", "proto", "all", "status-socket", "v"}, fl.Name) {
			err = errors.Join(err, fmt.Errorf("--%s: is for --file, --kubeconfig or --master; without one of them the running fairlead is asked, which knows", fl.Name))
		}
	})
	if path := status.CheckPath(t.Status.Socket); path != nil {
		err = errors.Join(err, fmt.Errorf("--status-socket: %w", path))
	}
	if err != nil {
		return usageError(err)
	}
	var a traceAnswer
	err = status.NewClient(t.Status.Socket).Ask(ctx, "trace", t.question, &a)
	if _, ok := errors.AsType[status.RefusedError](err); ok {
		return usageError(err)
	}
	if err != nil {
		return fmt.Errorf("%w; --file or --kubeconfig say where else objects are", err)
	}
	if _, err := fmt.Fprint(c.out, a.Text); err != nil {
		return fmt.Errorf("print the trace: %w", err)
	}
	if a.Bad {
		return errReported
	}
	return nil
}
