package servicetest

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A World is a random node with random Services and slices: few addresses and
// names, so that they collide, and every policy, condition and hint. Equal
// seeds give equal Worlds. A World is not safe for concurrent use.
type World struct {
	Seed     uint64
	Node     service.Node
	Services map[service.Name]*service.Service
	Slices   map[SliceKey]*service.Slice

	rng *rand.Rand
}

// A SliceKey identifies a slice the way a Store does.
type SliceKey struct {
	Service service.Name
	Slice   string
}

func (k SliceKey) compare(o SliceKey) int {
	return cmp.Or(k.Service.Compare(o.Service), cmp.Compare(k.Slice, o.Slice))
}

// A Change is one event of a World, to be told to any number of Stores.
type Change struct {
	What  string // one line, for logs
	Apply func(*service.Store) bool
}

// NewWorld returns the World of seed.
func NewWorld(seed uint64) *World {
	w := &World{
		Seed:     seed,
		Services: make(map[service.Name]*service.Service),
		Slices:   make(map[SliceKey]*service.Slice),
		rng:      rand.New(rand.NewPCG(seed, 0x6661_6972_6c65_6164)),
	}
	w.Node = w.randomNode()
	for range w.rng.IntN(9) {
		v := w.randomService()
		w.Services[v.Name] = v
		for range 1 + w.rng.IntN(5) {
			s := w.randomSlice(v.Name)
			w.Slices[SliceKey{s.Service, s.Name}] = s
		}
	}
	return w
}

// Store returns a new Store that holds w, told in order of name.
func (w *World) Store() *service.Store {
	s := service.NewStore()
	s.SetNode(w.Node)
	for _, n := range slices.SortedFunc(maps.Keys(w.Services), service.Name.Compare) {
		s.SetService(w.Services[n])
	}
	for _, k := range slices.SortedFunc(maps.Keys(w.Slices), SliceKey.compare) {
		s.SetSlice(w.Slices[k])
	}
	return s
}

// Snapshot returns the Snapshot of w, built from nothing.
func (w *World) Snapshot() *service.Snapshot { return w.Store().Snapshot() }

// Mutate changes w a little and returns the change.
func (w *World) Mutate() Change {
	switch n := w.rng.IntN(100); {
	case n < 4:
		return w.setNode(w.randomNode())
	case n < 20:
		return w.setService(w.randomService())
	case n < 35 && len(w.Services) > 0:
		return w.setService(w.editedService(w.pickService()))
	case n < 42 && len(w.Services) > 0:
		return w.deleteService(w.pickService().Name)
	case n < 50 && len(w.Slices) > 0:
		return w.deleteSlice(w.pickSlice())
	case n < 75 && len(w.Slices) > 0:
		return w.setSlice(w.editedSlice(w.Slices[w.pickSlice()]))
	case len(w.Services) > 0:
		return w.setSlice(w.randomSlice(w.pickService().Name))
	default:
		return w.setService(w.randomService())
	}
}

func (w *World) setNode(n service.Node) Change {
	w.Node = n
	return Change{"set node", func(s *service.Store) bool { return s.SetNode(n) }}
}

func (w *World) setService(v *service.Service) Change {
	w.Services[v.Name] = v
	return Change{"set service " + v.Name.String(), func(s *service.Store) bool { return s.SetService(v) }}
}

func (w *World) deleteService(n service.Name) Change {
	delete(w.Services, n)
	return Change{"delete service " + n.String(), func(s *service.Store) bool { return s.DeleteService(n) }}
}

func (w *World) setSlice(v *service.Slice) Change {
	w.Slices[SliceKey{v.Service, v.Name}] = v
	return Change{"set slice " + v.Service.String() + " " + v.Name, func(s *service.Store) bool { return s.SetSlice(v) }}
}

func (w *World) deleteSlice(k SliceKey) Change {
	delete(w.Slices, k)
	return Change{"delete slice " + k.Service.String() + " " + k.Slice, func(s *service.Store) bool { return s.DeleteSlice(k.Service, k.Slice) }}
}

func (w *World) pickService() *service.Service {
	return w.Services[pick(w.rng, slices.SortedFunc(maps.Keys(w.Services), service.Name.Compare))]
}

func (w *World) pickSlice() SliceKey {
	return pick(w.rng, slices.SortedFunc(maps.Keys(w.Slices), SliceKey.compare))
}

func (w *World) randomNode() service.Node {
	r := w.rng
	cfg := Config{
		Zone:           pick(r, []string{"", "a", "a", "b"}),
		Addrs:          pick(r, []string{"", "", "192.0.2.11", "203.0.113.1,2001:db8:113::1", "127.0.0.1"}),
		NodePorts:      pick(r, []string{"", "", "", "", "primary", "none", "0.0.0.0/0", "fd00:172:18::/64", "172.18.0.0/16,fd00:172:18::/64", "10.244.0.0/16,192.0.2.0/24,::/0", "127.0.0.0/8,172.18.0.11/32"}),
		Detector:       pick(r, []string{"", "", "", "none", "bridge:cni0", "prefix:veth", "prefix:cali", "cidr:10.244.0.0/16", "node:10.244.1.0/24,fd00:10:244:1::/64"}),
		LocalhostPorts: r.IntN(2) == 0,
		MasqueradeAll:  r.IntN(4) == 0,
	}
	if cfg.Addrs == "127.0.0.1" {
		cfg.Addrs = "" // loopback is never among Node.Addrs; keeps the odds of the others
	}
	n, err := cfg.node()
	if err != nil {
		panic(err) // the lists above are constants
	}
	return n
}

func (w *World) randomService() *service.Service {
	r := w.rng
	i := r.IntN(10)
	v := &service.Service{
		Name:     service.Name{Namespace: pick(r, []string{"default", "default", "default", "other"}), Name: fmt.Sprintf("s%d", i)},
		UID:      fmt.Sprintf("uid-%d", i),
		Created:  time.Unix(1767225600+int64(r.IntN(4)), 0).UTC(),
		Internal: pick(r, []service.Policy{service.Cluster, service.Cluster, service.Local}),
		External: pick(r, []service.Policy{service.Cluster, service.Local}),
		Families: pick(r, [][]service.Family{{service.IPv4, service.IPv6}, {service.IPv4, service.IPv6}, {service.IPv4}, {service.IPv6}}),
		Ports:    w.randomPorts(i),
	}
	if r.IntN(4) == 0 {
		v.Affinity = pick(r, []time.Duration{time.Second, 90 * time.Second, 3 * time.Hour})
	}
	if v.Headless = r.IntN(10) == 0; v.Headless {
		for i := range v.Ports {
			v.Ports[i].NodePort = 0
		}
		v.External = service.Cluster
		return v
	}
	for _, f := range v.Families {
		v.ClusterIPs = append(v.ClusterIPs, clusterIP(f, 10+i+10*(r.IntN(20)/19)))
	}
	if r.IntN(3) == 0 {
		v.Scheduling = randomScheduling(r)
	}
	w.randomExternals(v)
	return v
}

// randomScheduling returns one that a Service can ask for, flags alone among them.
func randomScheduling(r *rand.Rand) service.Scheduling {
	s := service.Scheduling{Algorithm: pick(r, append(service.Schedulers(), "", "sh", "mh"))}
	var flags []string
	for _, flag := range service.SchedulerFlags() {
		owner, _, _ := strings.Cut(flag, "-")
		if (owner == "flag" || owner == s.Algorithm) && r.IntN(3) == 0 {
			flags = append(flags, flag)
		}
	}
	s.Flags = strings.Join(flags, ",")
	return s
}

// randomPorts returns ports with distinct names and numbers. Node ports come
// from few numbers, so that Services claim each other's now and then.
func (w *World) randomPorts(i int) []service.ServicePort {
	r := w.rng
	all := []service.ServicePort{
		{Name: "http", Protocol: service.TCP, Port: 80},
		{Name: "https", Protocol: service.TCP, Port: 443},
		{Name: "dns", Protocol: service.UDP, Port: 53},
		{Name: "dns-tcp", Protocol: service.TCP, Port: 53},
		{Name: "quic", Protocol: service.UDP, Port: 443},
		{Name: "sctp", Protocol: service.SCTP, Port: 80},
	}
	r.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
	ports := all[:1+r.IntN(3)]
	if len(ports) == 1 && r.IntN(3) == 0 {
		ports[0].Name = ""
	}
	for j := range ports {
		if r.IntN(2) == 0 {
			ports[j].NodePort = uint16(30000 + 10*(i%5) + r.IntN(4))
		}
	}
	return ports
}

// randomExternals adds the addresses that are not cluster IPs, in the families
// of v.
func (w *World) randomExternals(v *service.Service) {
	r := w.rng
	for _, f := range v.Families {
		for range r.IntN(3) / 2 * (1 + r.IntN(2)) {
			v.ExternalIPs = append(v.ExternalIPs, pick(r, []netip.Addr{vip(f, 1), vip(f, 2), vip(f, 3), vip(f, 10+int(v.Name.Name[1]-'0')), w.Node.Primary[f]}))
		}
		for range r.IntN(3) / 2 * (1 + r.IntN(2)) {
			v.LoadBalancerIPs = append(v.LoadBalancerIPs, pick(r, []netip.Addr{vip(f, 1), vip(f, 2), vip(f, 30+int(v.Name.Name[1]-'0'))}))
		}
	}
	v.ExternalIPs, v.LoadBalancerIPs = uniq(v.ExternalIPs), uniq(v.LoadBalancerIPs)
	if r.IntN(3) == 0 {
		v.Restricted = true
		ranges, err := parsePrefixes("198.51.100.0/30,198.51.100.2/32,10.244.1.0/24,10.244.0.0/16,172.18.0.11/32,172.18.0.0/16," +
			"2001:db8:51::/64,2001:db8:51::2/128,fd00:10:244:1::/64,fd00:172:18::11/128,0.0.0.0/0,::/0,0.0.0.0/1")
		if err != nil {
			panic(err) // a constant
		}
		for range r.IntN(4) {
			v.SourceRanges = append(v.SourceRanges, pick(r, ranges))
		}
	}
	if v.External == service.Local && len(v.LoadBalancerIPs) > 0 && r.IntN(2) == 0 {
		v.HealthCheckNodePort = uint16(30900 + r.IntN(3))
	}
}

// editedService returns a copy of v with one thing changed.
func (w *World) editedService(v *service.Service) *service.Service {
	r, c := w.rng, *v
	switch r.IntN(7) {
	case 0:
		c.Internal = 1 - c.Internal
	case 1:
		c.Affinity = pick(r, []time.Duration{0, time.Second, time.Minute})
	case 2:
		c.Ports = w.randomPorts(r.IntN(10))
		if c.Headless {
			for i := range c.Ports {
				c.Ports[i].NodePort = 0
			}
		}
	case 3:
		if !c.Headless {
			c.External = 1 - c.External
			c.HealthCheckNodePort = 0
		}
	case 4:
		if !c.Headless {
			c.ExternalIPs, c.LoadBalancerIPs, c.SourceRanges, c.Restricted, c.HealthCheckNodePort = nil, nil, nil, false, 0
			w.randomExternals(&c)
		}
	case 5:
		if !c.Headless {
			c.Scheduling = randomScheduling(r)
		}
	default: // the same once more
	}
	return &c
}

func clusterIP(f service.Family, i int) netip.Addr {
	return netip.MustParseAddr([...]string{"10.96.0.", "fd00:10:96::"}[f] + fmt.Sprint(i))
}

func vip(f service.Family, i int) netip.Addr {
	return netip.MustParseAddr([...]string{"203.0.113.", "2001:db8:113::"}[f] + fmt.Sprint(i))
}

func client(f service.Family, i int) netip.Addr {
	return netip.MustParseAddr([...]string{"198.51.100.", "2001:db8:51::"}[f] + fmt.Sprint(i))
}

func nodeAddr(f service.Family, k int) netip.Addr {
	return netip.MustParseAddr([...]string{"172.18.0.1", "fd00:172:18::1"}[f] + fmt.Sprint(k))
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func uniq(list []netip.Addr) []netip.Addr {
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}
