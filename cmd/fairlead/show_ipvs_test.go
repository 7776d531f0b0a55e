package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
	"github.com/fairlead-project/fairlead/service/servicetest/golden"
)

func serverKey(p service.Protocol, addr string) kernel.ServerKey {
	return kernel.ServerKey{Protocol: p, Addr: netip.MustParseAddrPort(addr)}
}

// shownKernel has a virtual server in every state for the example Services.
func shownKernel(t *testing.T) *kernel.Fake {
	t.Helper()
	k := kernel.NewFake("rr", "mh", "wlc")
	own := map[service.Family]kernel.Set{
		service.IPv4: {Name: "FL4-OWN", Type: kernel.HashIPPort, MaxElem: 1 << 20},
		service.IPv6: {Name: "FL6-OWN", Type: kernel.HashIPPort, MaxElem: 1 << 20, Family: service.IPv6},
	}
	ops := []kernel.Op{kernel.NewSet{Set: own[service.IPv4]}, kernel.NewSet{Set: own[service.IPv6]}}
	server := func(key kernel.ServerKey, foreign bool, s kernel.Server, dests ...kernel.NewDest) {
		if !foreign {
			ops = append(ops, kernel.AddElem{
				Set: own[service.FamilyOf(key.Addr.Addr())].Name, Type: kernel.HashIPPort,
				Elem: kernel.Element{Addr: key.Addr.Addr(), Port: key.Addr.Port(), Protocol: key.Protocol},
			})
		}
		ops = append(ops, kernel.NewServer{Key: key, Server: s})
		for _, d := range dests {
			d.Key = key
			ops = append(ops, d)
		}
	}
	to := func(addr string, weight uint32) kernel.NewDest {
		return kernel.NewDest{Addr: netip.MustParseAddrPort(addr), Weight: weight}
	}
	web := serverKey(service.TCP, "10.96.0.10:80")
	rr := kernel.Server{Scheduler: "rr"}
	server(web, false, rr, to("10.244.1.2:8080", 1), to("10.244.2.2:8080", 0))
	server(serverKey(service.TCP, "[fd00:10:96::10]:80"), false,
		kernel.Server{Scheduler: "mh", Flags: kernel.Sched2 | kernel.Persistent, Timeout: 3 * time.Hour}, to("[fd00:10:244:1::2]:8080", 100))
	cart := serverKey(service.TCP, "172.18.0.11:30080")
	server(cart, false, rr, to("10.244.1.3:8081", 0))
	server(serverKey(service.TCP, "252.18.0.11:30080"), false, rr, to("10.244.1.3:8081", 1))
	server(serverKey(service.UDP, "10.96.0.99:53"), false, rr, to("10.244.1.9:53", 0))
	server(serverKey(service.TCP, "10.96.0.10:8443"), true, kernel.Server{Scheduler: "wlc"})
	server(serverKey(service.TCP, "192.0.2.80:80"), true, kernel.Server{Scheduler: "wlc"}, to("192.0.2.81:80", 10))
	if err := k.Tamper(ops...); err != nil {
		t.Fatal(err)
	}
	k.SetConns(web, netip.MustParseAddrPort("10.244.1.2:8080"), kernel.Conns{Active: 3, Inactive: 1})
	k.SetConns(web, netip.MustParseAddrPort("10.244.2.2:8080"), kernel.Conns{Active: 2})
	k.SetConns(cart, netip.MustParseAddrPort("10.244.1.3:8081"), kernel.Conns{Inactive: 7})
	return k
}

// examplePlan is what the example Services ask of node n1.
func examplePlan(t *testing.T) *ipvs.State {
	t.Helper()
	w := worldFlags{Dataplane: modeIPVS}
	if _, err := (command{out: t.Output(), err: t.Output()}).parse("", nodeArgs(), w.addPlan); err != nil {
		t.Fatal(err)
	}
	w.Dataplane = modeIPVS
	req, err := w.request()
	if err != nil {
		t.Fatal(err)
	}
	known := command{out: t.Output(), err: t.Output()}.load([]string{examples})
	plan, _ := ipvs.Plan(req.snapshot(known.store, kube.NodeInfo{}), req.ipvs.plan(14))
	return plan
}

func TestShowIPVS(t *testing.T) {
	for _, c := range []struct {
		format, golden string
		plan           *ipvs.State
	}{
		{"", "ipvs.txt", examplePlan(t)},
		{"wide", "ipvs-wide.txt", examplePlan(t)},
		{"", "ipvs-nameless.txt", nil},
		{"json", "ipvs.json", examplePlan(t)},
	} {
		t.Run(c.golden, func(t *testing.T) {
			var out bytes.Buffer
			if err := (command{out: &out}).showIPVS(t.Context(), shownKernel(t), c.plan, c.format); err != nil {
				t.Fatal(err)
			}
			golden.File(t, filepath.Join("testdata", c.golden), out.String())
			if c.format == "json" && !json.Valid(out.Bytes()) {
				t.Error("the output is no JSON")
			}
		})
	}
}

func TestShowIPVSErrors(t *testing.T) {
	k := shownKernel(t)
	k.Fail(1, 1)
	err := (command{out: t.Output()}).showIPVS(t.Context(), k, nil, "")
	if !errors.Is(err, kernel.ErrInjected) || !strings.Contains(err.Error(), "virtual servers") {
		t.Errorf("a kernel that cannot be read: %v", err)
	}
	if _, help, _ := invoke("ipvs", "--help"); strings.Contains(help, "--dataplane") || !strings.Contains(help, "tombstone") {
		t.Errorf("the help of ipvs:\n%s", help)
	}
	for args, want := range map[string]string{
		"-o yaml":         `--output: "yaml" is not wide or json`,
		"--ipvs-vip-mode": "needs an argument",
	} {
		if code, _, errs := invoke(append([]string{"ipvs"}, strings.Fields(args)...)...); code != 2 || !strings.Contains(errs, want) {
			t.Errorf("ipvs %s: exit status %d, errors %q, want 2 and %q", args, code, errs, want)
		}
	}
}
