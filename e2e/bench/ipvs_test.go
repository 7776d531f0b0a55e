//go:build linux

package main

import (
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseContents(t *testing.T) {
	const text = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A60000A:0050 rr
  -> 0AF40202:1F90      Masq    1      0          3
  -> 0AF40203:1F90      Masq    0      0          0
TCP  [fdfa:0000:0000:0000:0000:0000:0000:000a]:0050 rr
  -> [fd00:0010:0244:0002:0000:0000:0000:0002]:1F90      Masq    1      0          0
TCP  F060000A:0050 rr
  -> 0AF40202:1F90      Masq    1      0          0
UDP  0A60000A:0035 rr
  -> 0AF40202:1F90      Masq    1      0          0
TCP  0A60000B:0050 rr
  -> 0AF40204:1F90      Masq    1      0          0
`
	got, err := parseContents(strings.NewReader(text))
	if want := (contents{servers: 2, dests: 2, draining: 1}); err != nil || got != want {
		t.Errorf("parseContents = %v, %v, want %v", got, err, want)
	}
	s := spec{Services: 3, Probes: 2, Endpoints: 10}
	if got, want := s.contents(), (contents{servers: 5, dests: 32}); got != want {
		t.Errorf("contents of a spec = %v, want %v", got, want)
	}
	if (contents{servers: 5, dests: 31}).covers(s.contents()) || !(contents{servers: 6, dests: 32}).covers(s.contents()) {
		t.Error("covers is wrong")
	}
}

// netlinkRequest makes a netlink message; its length is not padded.
func netlinkRequest(kind, flags uint16, body ...byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	return append(append(b, make([]byte, 8)...), body...)
}

// netlinkAttr makes an attribute, padded.
func netlinkAttr(number uint16, payload ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(payload)))
	b = append(binary.NativeEndian.AppendUint16(b, number), payload...)
	return append(b, make([]byte, -len(b)&3)...)
}

func TestCountWrites(t *testing.T) {
	const ipvs, ask, nested = 35, unix.NLM_F_REQUEST, 0x8000
	about := func(cmd byte, addr ...byte) []byte {
		server := append(netlinkAttr(1, 2, 0), append(netlinkAttr(2, 6, 0), netlinkAttr(3, addr...)...)...)
		return netlinkRequest(ipvs, ask, append([]byte{cmd, 1, 0, 0}, netlinkAttr(nested|1, server...)...)...)
	}
	ipset := func(cmd uint16, name string) []byte {
		body := append([]byte{2, 0, 0, 0, 5, 0, 1, 0, 7, 0, 0, 0}, netlinkAttr(2, append([]byte(name), 0)...)...)
		return netlinkRequest(unix.NFNL_SUBSYS_IPSET<<8|cmd, ask, body...)
	}
	odd := append(netlinkRequest(ipvs, ask, 17, 1, 0, 0, 9), 0, 0, 0) // flush, and a length to be padded
	service, other := []byte{10, 96, 0, 10}, []byte{198, 51, 100, 0}
	tests := []struct {
		name     string
		protocol uint16
		buf      []byte
		want     writes
	}{
		{"a batch to IPVS", unix.NETLINK_GENERIC, append(about(1, service...), about(5, service...)...), writes{ipvs: 2}},
		{"padded", unix.NETLINK_GENERIC, append(odd, about(3, service...)...), writes{ipvs: 2}},
		{"trying a scheduler", unix.NETLINK_GENERIC, append(about(1, other...), about(3, other...)...), writes{trials: 2}},
		{"reading IPVS", unix.NETLINK_GENERIC, append(about(4, service...), about(8, service...)...), writes{}},
		{"timeouts of IPVS", unix.NETLINK_GENERIC, netlinkRequest(ipvs, ask, 12, 1, 0, 0), writes{}},
		{"another family", unix.NETLINK_GENERIC, netlinkRequest(16, ask, 1, 1, 0, 0), writes{}},
		{"an answer", unix.NETLINK_GENERIC, netlinkRequest(ipvs, unix.NLM_F_MULTI, 1, 1, 0, 0), writes{}},
		{"sets", unix.NETLINK_NETFILTER, append(ipset(9, "FL4-VIP"), ipset(7, "FL4-VIP")...), writes{ipset: 1}},
		{"trying a set", unix.NETLINK_NETFILTER, append(ipset(2, "FL4-VI"), ipset(3, "FL4-VI")...), writes{trials: 2}},
		{"the connection tracker", unix.NETLINK_NETFILTER, netlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|2, ask, 2, 0, 0, 0), writes{}},
		{"nftables", unix.NETLINK_NETFILTER, netlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|6, ask, 2, 0, 0, 0), writes{nft: 1}},
		{"a route", unix.NETLINK_ROUTE, netlinkRequest(unix.RTM_NEWROUTE, ask), writes{routing: 1}},
		{"a dump of links", unix.NETLINK_ROUTE, netlinkRequest(unix.RTM_GETLINK, ask|unix.NLM_F_DUMP), writes{}},
		{"cut off", unix.NETLINK_ROUTE, netlinkRequest(unix.RTM_NEWROUTE, ask, 1, 2, 3)[:17], writes{}},
	}
	for _, tt := range tests {
		var got writes
		got.count(tt.protocol, known{ipvs, func(name string) bool { return name == "FL4-VIP" }}, tt.buf)
		noted := 0
		for _, n := range got.what {
			noted += n
		}
		if all := got.ipvs + got.ipset + got.routing + got.nft + got.trials; noted != all {
			t.Errorf("%s: %d requests, %v of them noted", tt.name, all, got.what)
		}
		got.what = nil
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(writes{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestChainWritten(t *testing.T) {
	for line, want := range map[string]string{
		"":                               "",
		"iptables --version":             "",
		"iptables -w 5 -C X -t nat -j Y": "",
		"iptables -w 5 -N X -t nat":      "X",
		"iptables-legacy -A X -j Y":      "X",
		"iptables-save -t nat":           "",
		":FL-A - [0:0]":                  "FL-A",
		"-A FL-B -m comment -j FL-A":     "FL-B",
		"-X FL-C":                        "FL-C",
		"*nat":                           "",
		"COMMIT":                         "",
	} {
		if got, ok := chainWritten(strings.Fields(line)); got != want || ok != (want != "") {
			t.Errorf("chainWritten(%q) = %q, %v, want %q", line, got, ok, want)
		}
	}
	l := lines{}
	l.add("x iptables-save: ", ":FL-A -\n")
	l.add("ipset save: ", "create FL4-VIP hash:ip,port\n")
	if !l.hasChain("FL-A") || l.hasChain("FL") || !l.hasSet("FL4-VIP") || l.hasSet("FL4") {
		t.Error("hasChain or hasSet is wrong")
	}
}

func TestDifference(t *testing.T) {
	before, after := lines{}, lines{}
	before.add("t ", "# Generated on Monday\n:FL-A - [0:0]\n-A FL-A -j B\n-A FL-A -j B\n")
	after.add("t ", ":FL-A - [0:0]\n-A FL-A -j B\n-A FL-A -j C\n")
	want := []string{"t # Generated on Monday", "t -A FL-A -j B", "t -A FL-A -j C"}
	if diff := cmp.Diff(want, before.difference(after)); diff != "" {
		t.Errorf("difference (-want +got):\n%s", diff)
	}
	got := withoutCounters("# Generated\n:FL-A - [12:34]\n-A FL-A -j B\n")
	if want := ":FL-A -\n-A FL-A -j B\n"; got != want {
		t.Errorf("withoutCounters = %q, want %q", got, want)
	}
}

func TestReportIPVS(t *testing.T) {
	b := &bench{
		options:  options{mode: modeIPVS, endpoints: 10, rounds: 1},
		subjects: []subject{{name: kubeProxyName}, {name: fairleadName}},
	}
	k := &outcome{Proxy: kubeProxyName, Variant: legacy, Services: 10_000, Round: 1}
	k.atLeast(coldAll, 900)
	k.add(restartIPVS, 1234)
	f := &outcome{Proxy: fairleadName, Variant: legacy, Services: 10_000, Round: 1}
	f.add(coldAll, 4.5)
	f.add(restartIPVS, 0)
	b.outcomes = append(b.outcomes, k, f)
	var out strings.Builder
	if err := writeMarkdown(&out, b, environment{Iptables: map[variant]string{legacy: "v1"}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"### 10,000 Services × 10 endpoints, IPVS (v1)\n",
		"| **cold start, all of these, s** | > 900 | 4.50 | < 0.005 |\n",
		"| restart without a change: requests to write, to virtual servers | 1234 | 0 | 0.00 |\n",
		"| CPU until then, s | – | – | – |\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, &out)
		}
	}
}

func TestParseFlagsIPVS(t *testing.T) {
	o, err := parseFlags([]string{"-mode", "ipvs", "-quick", "-flips", "7"})
	if err != nil {
		t.Fatal(err)
	}
	got := []any{o.mode, o.services, o.endpoints, o.flips, o.churn, o.flipTimeout, o.kernel}
	want := []any{modeIPVS, []int{100}, 10, 7, time.Duration(0), 2 * time.Minute, kernelAuto}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	for _, args := range [][]string{
		{"-mode", "nftables"}, {"-kernel", "amiga"}, {"-endpoints", "0"}, {"-churn", "0s"}, {"-mode", "ipvs", "-churn", "1s"},
	} {
		if _, err := parseFlags(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

// TestGuestOutput gives the output of a guest in pieces that are no lines.
func TestGuestOutput(t *testing.T) {
	b := &bench{outcomes: []*outcome{{Proxy: fairleadName, Services: 3}}, remarks: []string{"r"}}
	var text strings.Builder
	text.WriteString("one\r\n")
	if err := writeMarked(&text, b, environment{Kernel: "6.1"}); err != nil {
		t.Fatal(err)
	}
	text.WriteString("two\n")
	var log strings.Builder
	g := &guestOutput{log: &log}
	for chunk := []byte(text.String()); len(chunk) > 0; {
		n := min(7, len(chunk))
		if _, err := g.Write(chunk[:n]); err != nil {
			t.Fatal(err)
		}
		chunk = chunk[n:]
	}
	if got, want := log.String(), "one\ntwo\n"; got != want {
		t.Errorf("logged %q, want %q", got, want)
	}
	want := &results{Environment: environment{Kernel: "6.1"}, Remarks: b.remarks, Outcomes: b.outcomes}
	if diff := cmp.Diff(asJSON(t, want), asJSON(t, g.results)); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if _, err := g.Write([]byte(resultMark + "{\n")); err == nil || g.results != nil {
		t.Errorf("broken results: error %v, results %v", err, g.results)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestKubeProxySets(t *testing.T) {
	got := kubeProxySets(spec{Services: 1, Probes: 1, Endpoints: 1})
	want := `add KUBE-CLUSTER-IP 10.96.0.10,tcp:80
add KUBE-IPVS-IPS 10.96.0.10
add KUBE-CLUSTER-IP 10.96.0.11,tcp:80
add KUBE-IPVS-IPS 10.96.0.11
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kubeProxySets (-want +got):\n%s", diff)
	}
}
