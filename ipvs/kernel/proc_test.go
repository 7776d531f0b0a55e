package kernel

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
)

const procHeader = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
`

// procText is what Linux 6.1 and 7.x write, with all there is.
const procText = procHeader + `UDP  0A600001:0035 rr ops  
  -> 0AF40102:0035      Masq    1      0          0         
UDP  [fd00:0010:0096:0000:0000:0000:0000:0003]:0051 rr persistent 7700 80000000
TCP  [fd00:0010:0096:0000:0000:0000:0000:0001]:0050 sh persistent 10000 80000000
  -> [fd00:0010:0244:0001:0000:0000:0000:0002]:1F90      Masq    3      12         4294967295
  -> [fd00:0010:0244:0001:0000:0000:0000:0003]:1F90      Masq    0      -1         7         
TCP  0A600001:01BB rr  persistent 10000 FFFFFFFF
  -> 0AF40103:01BB      Tunnel  1      0          0         
  -> 0AF40102:01BB      Masq    70000  2          3         
SCTP  0A600001:0051 mh  
FWM  00000007 rr persistent 1000 FFFFFFFF
  -> 01020304:0000      Masq    1      0          0         
FWM  00000008 rr ops 
AH  0A600002:0000 rr  
  -> 0AF40109:0000      Route   1      0          0         
TCP  0A600003:0050 rr  
  -> 0AF40104:0050      Local   1      0          0         
`

func TestParseProc(t *testing.T) {
	got, err := parseProc(strings.NewReader(procText))
	if err != nil {
		t.Fatal(err)
	}
	tcp := func(s string) ServerKey { return ServerKey{netip.MustParseAddrPort(s), service.TCP} }
	at := netip.MustParseAddrPort
	want := map[ServerKey][]Dest{
		{at("10.96.0.1:53"), service.UDP}:       {{Addr: at("10.244.1.2:53"), Weight: 1}},
		{at("[fd00:10:96::3]:81"), service.UDP}: nil,
		{at("10.96.0.1:81"), service.SCTP}:      nil,
		tcp("10.96.0.3:80"):                     {{Addr: at("10.244.1.4:80"), Weight: 1, Other: true}},
		tcp("[fd00:10:96::1]:80"): {
			{Addr: at("[fd00:10:244:1::2]:8080"), Weight: 3, Conns: Conns{12, 1<<32 - 1}},
			{Addr: at("[fd00:10:244:1::3]:8080"), Conns: Conns{0, 7}},
		},
		tcp("10.96.0.1:443"): {
			{Addr: at("10.244.1.3:443"), Weight: 1, Other: true},
			{Addr: at("10.244.1.2:443"), Weight: 70000, Conns: Conns{2, 3}},
		},
	}
	same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if d := cmp.Diff(got, want, same); d != "" {
		t.Errorf("got-want+\n%s", d)
	}
}

// TestParseProcTwice has a server show again, as it does when others before it
// were removed between two reads of the file.
func TestParseProcTwice(t *testing.T) {
	server := "TCP  0A600001:0050 rr  \n  -> 0AF40102:0050      Masq    1      0          0\n"
	got, err := parseProc(strings.NewReader(procHeader + server + server))
	if err != nil || len(got) != 1 {
		t.Fatalf("got %v, %v", got, err)
	}
	for key, dests := range got {
		if len(dests) != 1 {
			t.Errorf("%v: got %v, want one destination", key, dests)
		}
	}
}

func TestParseProcRefuses(t *testing.T) {
	dest := "TCP  0A600001:0050 rr  \n  -> "
	for _, text := range []string{
		"TCP\n",
		"TCP  0A600001 rr\n",
		"TCP  0A6000:0050 rr\n",
		"TCP  0A60000G:0050 rr\n",
		"TCP  0A600001:050 rr\n",
		"TCP  0A600001:00050 rr\n",
		"TCP  0A600001:005G rr\n",
		"TCP  [fd00::1:0050 rr\n",
		"TCP  [10.96.0.1]:0050 rr\n",
		"TCP  [fd00::1%lo]:0050 rr\n",
		dest + "0AF40102      Masq    1      0          0\n",
		dest + "0AF40102:0050      Masq    x      0          0\n",
		dest + "0AF40102:0050      Masq    1      9999999999 0\n",
		dest + "0AF40102:0050      Masq    1      0          -9999999999\n",
	} {
		if got, err := parseProc(strings.NewReader(procHeader + text)); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func FuzzParseProc(f *testing.F) {
	f.Add([]byte(procText))
	f.Add([]byte("TCP [::ffff:1.2.3.4]:0050 rr\n-> [::]:0000 Masq 1 0 0\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		servers, err := parseProc(bytes.NewReader(text))
		if err != nil && servers != nil {
			t.Errorf("both servers and the error %v", err)
		}
		for key, dests := range servers {
			if !key.Addr.IsValid() || key.Protocol > service.SCTP {
				t.Errorf("server %+v", key)
			}
			for _, d := range dests {
				if !d.Addr.IsValid() {
					t.Errorf("%v: destination %+v", key, d)
				}
			}
		}
	})
}
