package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/service/control/status"
)

const statusUsage = `fairlead status asks the fairlead that runs on this node how it is: its mode and why
it is that one, what is in force and since when, what it cannot do, what is wrong with
objects, its last errors. It needs the right to use the socket: that of root or of the
user fairlead runs as. In a cluster: kubectl exec POD -- fairlead status.

Exit status 1 means that nothing could be asked, that nothing is in force yet, that a
dataplane is failing, or that changes have been waiting for too long.

Usage:
  fairlead status [-o json]`

// statusFlags are the flags of those who listen at the status socket, and of those
// who ask.
type statusFlags struct{ Socket string }

func (f *statusFlags) addListen(fs *pflag.FlagSet) {
	fs.StringVar(&f.Socket, "status-socket", status.DefaultSocket,
		"socket at which fairlead status and fairlead trace ask, for root and our own user; empty disables it (not in kube-proxy)")
}

func (f *statusFlags) addAsk(fs *pflag.FlagSet) {
	fs.StringVar(&f.Socket, "status-socket", status.DefaultSocket, "socket of the running fairlead")
}

// check reports what is wrong with f.
func (f *statusFlags) check(fail failFunc) {
	if f.Socket == "" {
		return
	}
	if err := status.CheckPath(f.Socket); err != nil {
		fail("status-socket", "%w", err)
	}
}

// askFlags are the flags of the subcommand.
type askFlags struct {
	statusFlags
	Output string
}

func (f *askFlags) add(fs *pflag.FlagSet) {
	fs.StringVarP(&f.Output, "output", "o", "text", "text or json")
	f.addAsk(fs)
}

// status is the subcommand.
func (c command) status(ctx context.Context, args []string) error {
	var f askFlags
	if _, err := c.parse(statusUsage, args, f.add); err != nil {
		return err
	}
	var err error
	if f.Output != "text" && f.Output != "json" {
		err = fmt.Errorf("--output: %q is not text or json", f.Output)
	}
	if path := status.CheckPath(f.Socket); path != nil {
		err = errors.Join(err, fmt.Errorf("--status-socket: %w", path))
	}
	if err != nil {
		return usageError(err)
	}
	var doc status.Document
	if err := status.NewClient(f.Socket).Ask(ctx, "status", nil, &doc); err != nil {
		return err
	}
	if f.Output == "json" {
		enc := json.NewEncoder(c.out)
		enc.SetIndent("", "  ")
		err = enc.Encode(doc)
	} else {
		err = status.WriteText(c.out, &doc)
	}
	if err != nil {
		return fmt.Errorf("print the status: %w", err)
	}
	if !doc.Well() {
		return errReported
	}
	return nil
}
