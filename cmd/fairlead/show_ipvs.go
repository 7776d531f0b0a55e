package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
)

const ipvsUsage = `fairlead ipvs shows the virtual servers of this machine, as ipvsadm does, and
which Service each is for. Names of Services come from manifests or an API server;
without --file, --kubeconfig and --master they are left out, and so is the state
"tombstone". It needs CAP_NET_ADMIN and changes nothing.

States: active; empty, without endpoints; draining, so that connections last but no
new one is taken; tombstone, draining for a Service that is gone; foreign, which
somebody else has made and fairlead leaves alone.

Usage:
  fairlead ipvs [-f FILE-OR-FOLDER | --kubeconfig FILE] [-o wide|json] [flags]`

// ipvsShowFlags are the flags of the subcommand.
type ipvsShowFlags struct {
	worldFlags
	Output string
}

func (s *ipvsShowFlags) addShow(fs *pflag.FlagSet) {
	fs.StringVarP(&s.Output, "output", "o", "", "wide, which lists endpoints too, or json; empty means one line for each virtual server")
	s.add(fs)
	fs.Lookup("dataplane").Hidden = true // there is only one that has them
	s.addSource(fs)
	s.addLog(fs)
}

// ipvs is the subcommand.
func (c command) ipvs(ctx context.Context, args []string) error {
	var s ipvsShowFlags
	if _, err := c.parse(ipvsUsage, args, s.addShow); err != nil {
		return err
	}
	s.Dataplane = modeIPVS
	req, err := s.request()
	if !slices.Contains([]string{"", "wide", "json"}, s.Output) {
		err = errors.Join(err, fmt.Errorf("--output: %q is not wide or json", s.Output))
	}
	if err != nil {
		return usageError(err)
	}
	plan, bad, err := c.knownServices(ctx, &s, req)
	if err != nil {
		return err
	}
	k, err := kernel.Open()
	if err != nil {
		return fmt.Errorf("open IPVS: %w", err)
	}
	loaded := &loadedKernel{Kernel: k, root: "/"} // looking must not load modules
	err = errors.Join(c.showIPVS(ctx, loaded, plan, s.Output), k.Close())
	if err == nil && bad {
		return errReported
	}
	return err
}

// knownServices returns what would be in force here according to files or an API
// server, nil without either.
func (c command) knownServices(ctx context.Context, s *ipvsShowFlags, req request) (plan *ipvs.State, bad bool, err error) {
	if len(s.Files) == 0 && s.Kubeconfig == "" && s.Master == "" {
		return nil, false, nil
	}
	if req.node.Name == "" {
		req.node.Name = hostname()
	}
	if len(req.addrs) == 0 {
		local, err := readAddrs()
		if err != nil {
			return nil, false, err
		}
		req.addrs = local.All
	}
	snap, bad, err := c.observe(ctx, &s.worldFlags, req)
	if err != nil {
		return nil, false, err
	}
	plan, _ = ipvs.Plan(snap, req.ipvs.plan(s.MasqueradeBit))
	return plan, bad, nil
}

// showIPVS prints what k has, with the names that plan knows; plan may be nil.
func (c command) showIPVS(ctx context.Context, k kernel.Kernel, plan *ipvs.State, format string) error {
	servers, err := k.Servers(ctx)
	if err != nil {
		return fmt.Errorf("read virtual servers: %w", err)
	}
	ours, err := ipvs.Owned(ctx, k)
	if err != nil {
		return err
	}
	rows := showServers(servers, ours, plan)
	if format == "json" {
		err = printServersJSON(c.out, rows)
	} else {
		err = printServers(c.out, rows, format == "wide")
	}
	if err != nil {
		return fmt.Errorf("print virtual servers: %w", err)
	}
	return nil
}

// The states of a virtual server or of one of its destinations.
const (
	stateActive    = "active"    // takes new connections
	stateEmpty     = "empty"     // has no destinations
	stateDraining  = "draining"  // only keeps those it has
	stateTombstone = "tombstone" // ours, draining, and no Service wants it any more
	stateForeign   = "foreign"   // somebody else's
)

// A shownServer is a virtual server as `fairlead ipvs` shows it.
type shownServer struct {
	Protocol    string         `json:"protocol"`
	Address     netip.AddrPort `json:"address"`
	Scheduler   string         `json:"scheduler"` // with its flags
	Persistence float64        `json:"persistenceSeconds,omitempty"`
	State       string         `json:"state"`
	Service     string         `json:"service,omitempty"` // namespace/name:port
	Kind        string         `json:"kind,omitempty"`
	Active      uint64         `json:"activeConnections"`
	Inactive    uint64         `json:"inactiveConnections"`
	Dests       []shownDest    `json:"destinations"`
}

// A shownDest is a destination of a shownServer.
type shownDest struct {
	Address  netip.AddrPort `json:"address"`
	Weight   uint32         `json:"weight"`
	State    string         `json:"state"`
	Active   uint32         `json:"activeConnections"`
	Inactive uint32         `json:"inactiveConnections"`
}

// showServers joins the virtual servers of the kernel with what is known of them.
// Ours holds those that fairlead made. A nil plan means that no Services are known;
// then none is missing either.
func showServers(servers map[kernel.ServerKey]*kernel.ServerState, ours map[kernel.ServerKey]bool, plan *ipvs.State) []shownServer {
	out := make([]shownServer, 0, len(servers))
	for _, key := range slices.SortedFunc(maps.Keys(servers), kernel.ServerKey.Compare) {
		row := showServer(key, servers[key])
		if !ours[key] {
			row.State = stateForeign
		} else if plan != nil {
			owner, wanted := plan.Owner(key)
			if wanted {
				row.Service, row.Kind = describeOwner(owner)
			} else {
				row.State = stateTombstone
			}
		}
		out = append(out, row)
	}
	return out
}

// showServer says what can be told from the virtual server itself.
func showServer(key kernel.ServerKey, s *kernel.ServerState) shownServer {
	row := shownServer{
		Protocol: key.Protocol.String(), Address: key.Addr,
		Scheduler: kernel.Server{Scheduler: s.Scheduler, Flags: s.Flags &^ kernel.Persistent}.String(),
		State:     stateEmpty,
		Dests:     make([]shownDest, 0, len(s.Dests)),
	}
	if s.Flags&kernel.Persistent != 0 {
		row.Persistence = s.Timeout.Seconds()
	}
	for _, d := range s.Dests {
		state := stateActive
		if d.Weight == 0 {
			state = stateDraining
		}
		if row.State != stateActive {
			row.State = state
		}
		row.Active += uint64(d.Conns.Active)
		row.Inactive += uint64(d.Conns.Inactive)
		row.Dests = append(row.Dests, shownDest{d.Addr, d.Weight, state, d.Conns.Active, d.Conns.Inactive})
	}
	return row
}

func describeOwner(o ipvs.Owner) (name, kind string) {
	name = o.Port.Service.String()
	if o.Port.Port != "" {
		name += ":" + o.Port.Port
	}
	kind = o.Kind.String()
	if o.Alias {
		kind += ", callers on this node"
	}
	return name, kind
}

// printServers writes rows as a table, like that of ipvsadm; wide lists the
// destinations too.
func printServers(out io.Writer, rows []shownServer, wide bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(cells ...any) {
		text := make([]string, len(cells))
		for i, c := range cells {
			text[i] = cmp.Or(fmt.Sprint(c), "-")
		}
		fmt.Fprintln(w, strings.Join(text, "\t")) // Flush has the error
	}
	line("PROTO", "ADDRESS", "SCHEDULER", "DESTS", "ACTIVE", "INACTIVE", "STATE", "KIND", "SERVICE")
	for _, s := range rows {
		scheduler := s.Scheduler
		if s.Persistence > 0 {
			scheduler += " persistent " + (time.Duration(s.Persistence) * time.Second).String()
		}
		line(s.Protocol, s.Address, scheduler, len(s.Dests), s.Active, s.Inactive, s.State, s.Kind, s.Service)
		if !wide {
			continue
		}
		for _, d := range s.Dests {
			line(" ->", d.Address, fmt.Sprintf("weight %d", d.Weight), "", d.Active, d.Inactive, d.State, "", "")
		}
	}
	return w.Flush()
}

// printServersJSON writes rows as one JSON array.
func printServersJSON(out io.Writer, rows []shownServer) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(rows)
}
