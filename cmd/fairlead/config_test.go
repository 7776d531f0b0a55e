package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace"
)

// parseFlags parses a command line of fairlead without a subcommand.
func parseFlags(t *testing.T, args ...string) (*flags, *pflag.FlagSet) {
	t.Helper()
	var f flags
	fs, err := command{out: t.Output(), err: t.Output()}.parse("", args, f.addRun)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := load(&f, fs); err != nil {
		t.Fatal(err)
	}
	return &f, fs
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// comparable lets cmp look into addresses.
func comparable() cmp.Option {
	return cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

func TestConfigDefaults(t *testing.T) {
	f, _ := parseFlags(t)
	got, err := f.config()
	if err != nil {
		t.Fatal(err)
	}
	want := config{
		Mode: "iptables", Healthz: "0.0.0.0:10256", Metrics: "127.0.0.1:10249",
		Node:       nodeConfig{Detect: detectClusterCIDR, PortAddrs: everywhere(), LocalhostPorts: true},
		SyncPeriod: 30 * time.Second, MinSyncPeriod: time.Second,
	}
	if d := cmp.Diff(got, want, comparable()); d != "" {
		t.Errorf("config without flags (-got +want):\n%s", d)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want func(*config)
	}{
		{"node name", []string{"--hostname-override= Node-1 "}, func(c *config) { c.Node.Name = "node-1" }},
		{"bind address", []string{"--bind-address=172.18.0.11"}, func(c *config) { c.Node.Bind = addrs("172.18.0.11")[0] }},
		{"mapped bind address", []string{"--bind-address=::ffff:172.18.0.11"}, func(c *config) { c.Node.Bind = addrs("172.18.0.11")[0] }},
		{"IPv6 bind address", []string{"--bind-address=::"}, func(c *config) {
			c.Healthz, c.Metrics = "[::]:10256", "[::1]:10249"
		}},
		{"IPv6 bind address, own metrics address", []string{"--bind-address=::", "--metrics-bind-address=127.0.0.1:1"}, func(c *config) {
			c.Healthz, c.Metrics = "[::]:10256", "127.0.0.1:1"
		}},
		{"addresses without ports", []string{"--healthz-bind-address=127.0.0.1", "--metrics-bind-address=::1"}, func(c *config) {
			c.Healthz, c.Metrics = "127.0.0.1:10256", "[::1]:10249"
		}},
		{"no servers", []string{"--healthz-bind-address=", "--metrics-bind-address=0.0.0.0:0"}, func(c *config) { c.Healthz, c.Metrics = "", "" }},
		{"both cluster CIDRs", []string{"--cluster-cidr=10.244.0.0/16,fd00:10:244::/48"}, func(c *config) {
			c.Node.ClusterCIDRs = [2]netip.Prefix(prefixes("10.244.0.0/16", "fd00:10:244::/48"))
		}},
		{"cluster CIDR with host bits", []string{"--cluster-cidr=10.244.3.4/16"}, func(c *config) { c.Node.ClusterCIDRs[0] = prefixes("10.244.0.0/16")[0] }},
		{"bad cluster CIDR of another mode", []string{"--cluster-cidr=x", "--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"}, func(c *config) {
			c.Node.Detect, c.Node.Interface = detectBridge, "cni0"
		}},
		{"interface prefix", []string{"--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"}, func(c *config) {
			c.Node.Detect, c.Node.Interface = detectPrefix, "veth"
		}},
		{"primary", []string{"--nodeport-addresses=primary"}, func(c *config) { c.Node.PortPrimary, c.Node.PortAddrs = true, [2][]netip.Prefix{} }},
		{"one family", []string{"--nodeport-addresses=172.18.0.0/16,127.0.0.0/8"}, func(c *config) {
			c.Node.PortAddrs = [2][]netip.Prefix{prefixes("127.0.0.0/8", "172.18.0.0/16"), nil}
		}},
		{"repeated flag", []string{"--nodeport-addresses=172.18.0.0/16", "--nodeport-addresses=fd00::/8"}, func(c *config) {
			c.Node.PortAddrs = [2][]netip.Prefix{prefixes("172.18.0.0/16"), prefixes("fd00::/8")}
		}},
		{"sync periods", []string{"--iptables-sync-period=10s", "--iptables-min-sync-period=0s", "--ipvs-sync-period=7s"}, func(c *config) {
			c.SyncPeriod, c.MinSyncPeriod = 10*time.Second, 0
		}},
		{"bad IPVS flags of another mode", []string{"--ipvs-scheduler=x", "--ipvs-exclude-cidrs=x", "--ipvs-sync-period=0s", "--ipvs-vip-mode=x"}, func(*config) {}},
		{"other switches", []string{"--masquerade-all", "--iptables-localhost-nodeports=false", "--proxy-mode=iptables", "-v", "4"}, func(c *config) {
			c.Node.MasqueradeAll, c.Node.LocalhostPorts = true, false
		}},
		{"proxy for localhost", []string{"--localhost-nodeports-proxy", "--userspace-scheduler=lc"}, func(c *config) {
			c.LocalhostProxy, c.Node.LocalhostPorts, c.Userspace = true, false, proxyConfig("lc")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, _ := parseFlags(t, c.args...)
			got, err := f.config()
			if err != nil {
				t.Fatal(err)
			}
			none, _ := parseFlags(t)
			want, err := none.config()
			if err != nil {
				t.Fatal(err)
			}
			c.want(&want)
			if d := cmp.Diff(got, want, comparable()); d != "" {
				t.Errorf("config (-got +want):\n%s", d)
			}
		})
	}
}

// TestConfigIPVS is about ipvs mode, and what it makes of flags of all modes.
func TestConfigIPVS(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want func(*config)
	}{
		{"defaults", nil, func(*config) {}},
		{"localhost node ports", []string{"--iptables-localhost-nodeports"}, func(*config) {}},
		{"proxy for localhost", []string{"--localhost-nodeports-proxy"}, func(c *config) {
			c.LocalhostProxy, c.Userspace = true, proxyConfig("rr")
		}},
		{"periods", []string{"--ipvs-sync-period=10s", "--ipvs-min-sync-period=0s", "--iptables-sync-period=0s"}, func(c *config) {
			c.SyncPeriod, c.MinSyncPeriod = 10*time.Second, 0
		}},
		{"scheduler", []string{"--ipvs-scheduler=mh"}, func(c *config) { c.IPVS.Scheduler = "mh" }},
		{"no scheduler", []string{"--ipvs-scheduler="}, func(*config) {}},
		{"VIP mode", []string{"--ipvs-vip-mode=device"}, func(c *config) { c.IPVS.VIPMode = ipvs.Device }},
		{"drain timeout", []string{"--ipvs-drain-timeout=5m"}, func(c *config) { c.IPVS.DrainTimeout = 5 * time.Minute }},
		{"exclude", []string{"--ipvs-exclude-cidrs=198.51.100.7/24,fd00::/8", "--ipvs-exclude-cidrs=192.0.2.1/32"}, func(c *config) {
			c.IPVS.Exclude = prefixes("198.51.100.0/24", "fd00::/8", "192.0.2.1/32")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, _ := parseFlags(t, append([]string{"--proxy-mode=ipvs"}, c.args...)...)
			got, err := f.config()
			if err != nil {
				t.Fatal(err)
			}
			want := config{
				Mode: "ipvs", Healthz: "0.0.0.0:10256", Metrics: "127.0.0.1:10249",
				Node:       nodeConfig{Detect: detectClusterCIDR, PortAddrs: everywhere()},
				IPVS:       ipvsConfig{Scheduler: "rr"},
				SyncPeriod: 30 * time.Second, MinSyncPeriod: time.Second,
			}
			c.want(&want)
			if d := cmp.Diff(got, want, comparable()); d != "" {
				t.Errorf("config (-got +want):\n%s", d)
			}
		})
	}
}

// proxyConfig is the proxy as it is unless told otherwise, but for its scheduler.
func proxyConfig(scheduler string) userspace.ProxyConfig {
	c := userspace.ProxyConfig{
		Config: userspace.DefaultConfig(), ConnectTimeout: 2 * time.Second, UDPTimeout: 2 * time.Minute, MaxSessions: 65536,
	}
	c.Balance.Default.Algorithm = scheduler
	return c
}

// TestConfigLocalhostProxy: userspace mode has no use for another proxy, and says so.
func TestConfigLocalhostProxy(t *testing.T) {
	for _, mode := range []string{"userspace", "iptables"} {
		p := testProcess(t, t.TempDir(), "--proxy-mode="+mode, "--localhost-nodeports-proxy")
		var said bytes.Buffer
		p.log = slog.New(slog.NewTextHandler(&said, nil))
		local, err := p.openLocalhost([]service.Family{service.IPv4})
		if err != nil {
			t.Fatal(err)
		}
		another := mode != "userspace"
		if (local != nil) != another || len(local.planes()) > 0 != another || p.cfg.Node.LocalhostPorts == another {
			t.Errorf("%s: another proxy: %t, node ports at localhost by the mode itself: %t", mode, local != nil, p.cfg.Node.LocalhostPorts)
		}
		if strings.Contains(said.String(), "--localhost-nodeports-proxy does nothing") == another {
			t.Errorf("%s: it says %q", mode, said.String())
		}
		if err := local.close(); err != nil {
			t.Error(err)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string // what the error must say, each on a line of its own
	}{
		{[]string{"--proxy-mode=nftables"}, []string{"--proxy-mode: nftables is a proxy mode of kube-proxy only; here there are: iptables, ipvs, userspace"}},
		{[]string{"--proxy-mode=userspace", "--userspace-scheduler=twos"}, []string{`--userspace-scheduler: unknown scheduler "twos"; valid: dh, fo, lc, `}},
		{[]string{"--localhost-nodeports-proxy", "--userspace-scheduler=twos"}, []string{`--userspace-scheduler: unknown scheduler "twos"`}},
		{[]string{"--proxy-mode=userspace", "--userspace-port=65534"}, []string{"--userspace-port: 65534 is not between 1 and 65533"}},
		{
			[]string{"--proxy-mode=userspace", "--userspace-connect-timeout=0s", "--userspace-udp-timeout=-1s", "--userspace-max-udp-sessions=0"},
			[]string{"--userspace-connect-timeout: must be above 0", "--userspace-udp-timeout: must be above 0", "--userspace-max-udp-sessions: must be above 0"},
		},
		{[]string{"--proxy-mode=ebpf"}, []string{`--proxy-mode: unknown proxy mode "ebpf"; valid: iptables, ipvs, userspace`}},
		{[]string{"--proxy-mode=ipvs", "--ipvs-scheduler=random"}, []string{`--ipvs-scheduler: unknown scheduler "random"; valid: dh, fo, `}},
		{[]string{"--proxy-mode=ipvs", "--ipvs-exclude-cidrs=10.0.0.1,10.0.0.0/8,x/8"}, []string{`--ipvs-exclude-cidrs: "10.0.0.1" is not a CIDR`, `--ipvs-exclude-cidrs: "x/8"`}},
		{[]string{"--proxy-mode=ipvs", "--ipvs-sync-period=0s"}, []string{"--ipvs-sync-period: must be above 0", "--ipvs-min-sync-period: must be between 0 and --ipvs-sync-period"}},
		{[]string{"--proxy-mode=ipvs", "--ipvs-min-sync-period=31s"}, []string{"--ipvs-min-sync-period: "}},
		{[]string{"--proxy-mode=ipvs", "--ipvs-tcp-timeout=-1s", "--ipvs-udp-timeout=1000h"}, []string{"--ipvs-tcp-timeout: must be between 0 and 596h31m23s, is -1s", "--ipvs-udp-timeout: "}},
		{[]string{"--proxy-mode=ipvs", "--ipvs-tcpfin-timeout=-1s", "--ipvs-drain-timeout=-1s"}, []string{"--ipvs-tcpfin-timeout: ", "--ipvs-drain-timeout: "}},
		{[]string{"--proxy-mode=ipvs", "--ipvs-vip-mode=fwmark"}, []string{`--ipvs-vip-mode: unknown VIP mode "fwmark"; valid: routed, device`}},
		{[]string{"--proxy-mode=ipvs", "--ipvs-vip-mode=device", "--iptables-masquerade-bit=32"}, []string{"--iptables-masquerade-bit: 32"}},
		{[]string{"--bind-address=eth0"}, []string{`--bind-address: "eth0" is not an IP address`}},
		{[]string{"--bind-address=fe80::1%eth0"}, []string{"--bind-address: "}},
		{[]string{"--healthz-bind-address=:10256"}, []string{`--healthz-bind-address: ":10256"`}},
		{[]string{"--metrics-bind-address=127.0.0.1:http"}, []string{"--metrics-bind-address: "}},
		{[]string{"--cluster-cidr=10.244.0.0/16,10.245.0.0/16"}, []string{"--cluster-cidr: 10.245.0.0/16 is a second CIDR of family IPv4"}},
		{[]string{"--cluster-cidr=10.244.0.0"}, []string{`--cluster-cidr: "10.244.0.0" is not a CIDR`}},
		{[]string{"--cluster-cidr=10.244.0.0/16,"}, []string{`--cluster-cidr: "" is not a CIDR`}},
		{[]string{"--detect-local-mode=Magic"}, []string{`--detect-local-mode: unknown mode "Magic"; valid: ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix`}},
		{[]string{"--detect-local-mode=BridgeInterface"}, []string{"--pod-bridge-interface: is required"}},
		{[]string{"--detect-local-mode=BridgeInterface", "--pod-bridge-interface=a b"}, []string{`--pod-bridge-interface: "a b" is not an interface name`}},
		{[]string{"--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth+"}, []string{"--pod-interface-name-prefix: "}},
		{[]string{"--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=a-very-long-name"}, []string{"--pod-interface-name-prefix: "}},
		{[]string{"--nodeport-addresses=primary,10.0.0.0/8"}, []string{`--nodeport-addresses: "primary" must be alone`}},
		{[]string{"--nodeport-addresses=10.0.0.1"}, []string{`--nodeport-addresses: "10.0.0.1" is not a CIDR`}},
		{[]string{"--iptables-masquerade-bit=32"}, []string{"--iptables-masquerade-bit: 32 is not between 0 and 31"}},
		{[]string{"--iptables-sync-period=0s"}, []string{"--iptables-sync-period: must be above 0", "--iptables-min-sync-period: "}},
		{[]string{"--iptables-min-sync-period=31s"}, []string{"--iptables-min-sync-period: "}},
		{[]string{"--iptables-variant=bpf"}, []string{`--iptables-variant: unknown variant "bpf"; valid: auto, nft, legacy`}},
		{[]string{"--config-sync-period=-1s"}, []string{"--config-sync-period: "}},
		{[]string{"--conntrack-min=-1", "--conntrack-udp-timeout=-1s"}, []string{"--conntrack-min: ", "--conntrack-udp-timeout: "}},
		{[]string{"--manifests=d", "--kubeconfig=f"}, []string{"--manifests: cannot be combined"}},
		{
			[]string{"--proxy-mode=x", "--bind-address=y", "--cluster-cidr=z", "--v=-1"},
			[]string{"--proxy-mode: ", "--bind-address: ", "--cluster-cidr: ", "--v: "},
		},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			f, _ := parseFlags(t, c.args...)
			err := f.Validate()
			if err == nil {
				t.Fatal("no error")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(c.want) {
				t.Fatalf("got %d errors, want %d:\n%v", len(lines), len(c.want), err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %q, want something with %q", err, w)
				}
			}
		})
	}
}

// TestCommandLine is about what a shell sees.
func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args     []string
		code     int
		out, err string // what the outputs must contain
	}{
		{[]string{"--nosuch"}, 2, "", "fairlead: unknown flag: --nosuch (see --help)\n"},
		{[]string{"--nosuch=1"}, 2, "", "unknown flag: --nosuch"},
		{[]string{"--proxy-mode=nftables"}, 2, "", "nftables is a proxy mode of kube-proxy only"},
		{[]string{"--proxy-mode=ipvs", "--ipvs-scheduler=x"}, 2, "", "--ipvs-scheduler: unknown scheduler"},
		{[]string{"--iptables-masquerade-bit=x"}, 2, "", "--iptables-masquerade-bit"},
		{[]string{"--cluster-cidr=x", "stray"}, 2, "", `unexpected argument "stray"`},
		{[]string{"frobnicate"}, 2, "", `unknown subcommand "frobnicate"`},
		{[]string{"plan"}, 2, "", "--file: is required"},
		{[]string{"plan", "-f", "x.yaml", "--dataplane=nftables", "--family=ipx"}, 2, "", "--dataplane: nftables is a proxy mode of kube-proxy only"},
		{[]string{"plan", "-f", "x.yaml", "--dataplane=ipvs", "--ipvs-exclude-cidrs=x"}, 2, "", "--ipvs-exclude-cidrs: "},
		{[]string{"trace", "-f", "x.yaml"}, 2, "", "--to: "},
		{[]string{"--kubeconfig=/does/not/exist"}, 1, "", "/does/not/exist"},
		{[]string{"--help"}, 0, "--nodeport-addresses", ""},
		{[]string{"plan", "--help"}, 0, "--family", ""},
		{[]string{"--version"}, 0, "fairlead ", ""},
		{[]string{"--version=raw"}, 0, "kubernetes=v1.36.3 go=go1.", ""},
		{[]string{"--version=x"}, 2, "", `--version: "x" is not true, false or raw`},
		{[]string{"--proxy_mode=x"}, 2, "", `--proxy-mode: unknown proxy mode "x"`},
		{[]string{"--proxy-mode=ipvs,x"}, 2, "", `--proxy-mode: unknown proxy mode "x"`},
		{[]string{"--feature-gates=NoSuchGate=true"}, 2, "", "--feature-gates: unrecognized feature gate: NoSuchGate"},
		{[]string{"--feature-gates=AllAlpha"}, 2, "", `--feature-gates: "AllAlpha" is not NAME=true or NAME=false`},
		{[]string{"--hostname-override= "}, 2, "", "--hostname-override: is blank"},
		{[]string{"--logging-format=json", "--vmodule=x=4"}, 2, "", "--vmodule: goes with --logging-format=text only"},
		{[]string{"--vmodule=x"}, 2, "", `--vmodule: "x" is not FILE=N`},
		{[]string{"--log-json-info-buffer-size=x", "--log-flush-frequency=0"}, 2, "", `--log-flush-frequency: must be above 0`},
		{[]string{"--kube-api-content-type=text/html"}, 2, "", `--kube-api-content-type: "text/html" is neither`},
		{[]string{"--healthz-port=70000"}, 2, "", "--healthz-port: 70000 is not between"},
		{[]string{"--show-hidden-metrics-for-version=1"}, 2, "", `--show-hidden-metrics-for-version: "1" is not of the form 1.35`},
		{[]string{"--config=/does/not/exist"}, 1, "", "read configuration: open /does/not/exist"},
		{[]string{"--write-config-to=/does/not/exist"}, 1, "", "--write-config-to: open /does/not/exist"},
		{[]string{"--write-config-to=/dev/null", "--proxy-mode=x"}, 2, "", "unknown proxy mode"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			var out, errs bytes.Buffer
			code := command{out: &out, err: &errs}.main(context.Background(), c.args)
			if code != c.code {
				t.Errorf("exit status %d, want %d", code, c.code)
			}
			if !strings.Contains(out.String(), c.out) {
				t.Errorf("output %q, want something with %q", out.String(), c.out)
			}
			if !strings.Contains(errs.String(), c.err) {
				t.Errorf("error output %q, want something with %q", errs.String(), c.err)
			}
		})
	}
}

func TestChooseFamilies(t *testing.T) {
	broken := bytes.ErrTooLarge
	for _, c := range []struct {
		name     string
		primary  service.Family
		unusable [2]error
		want     []service.Family
	}{
		{"both", service.IPv4, [2]error{}, []service.Family{service.IPv4, service.IPv6}},
		{"both, IPv6 first", service.IPv6, [2]error{}, []service.Family{service.IPv6, service.IPv4}},
		{"no IPv6", service.IPv4, [2]error{nil, broken}, []service.Family{service.IPv4}},
		{"no IPv4", service.IPv6, [2]error{broken, nil}, []service.Family{service.IPv6}},
		{"primary is missing", service.IPv4, [2]error{broken, nil}, nil},
		{"neither", service.IPv6, [2]error{broken, broken}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := chooseFamilies(c.primary, c.unusable)
			if d := cmp.Diff(got, c.want); d != "" {
				t.Errorf("families (-got +want):\n%s", d)
			}
			if (err == nil) != (c.want != nil) {
				t.Errorf("error %v", err)
			}
		})
	}
}
