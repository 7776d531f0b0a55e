//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-project/fairlead/e2e/lab"
	"github.com/fairlead-project/fairlead/e2e/netns"
	"golang.org/x/sys/unix"
)

// options are the flags.
type options struct {
	mode        mode
	services    []int
	endpoints   int
	variants    []variant
	proxies     []string
	rounds      int
	flips       int
	rate        int // changes per second during churn
	churn       time.Duration
	idle        time.Duration
	connects    int
	nftMax      int
	coldTimeout time.Duration
	flipTimeout time.Duration
	kernel      string // to run on
	memory      int    // of it, MiB
	fairlead    string // path; empty: build it
	kubeProxy   string // path; empty: build it
	output      string // of JSON; empty: none
	userspaceOptions
	l7Options
	suiteOptions
}

func parseFlags(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	chosen := flags.String("mode", string(modeIptables), "mode of the proxies: iptables or ipvs; or suite, userspace or l7, see there")
	services := flags.String("n", "1000,2000,10000", "numbers of Services")
	variants := flags.String("variants", "legacy,nft", "kinds of iptables")
	proxies := flags.String("proxies", "kube-proxy,fairlead", "what to measure, also kube-proxy-100ms, in the order of their turns")
	quick := flags.Bool("quick", false, "other defaults: one short round, to see that everything works")
	o.define(flags)
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.mode = mode(*chosen)
	if err := apply(flags, o.mode.defaults(*quick)); err != nil {
		return o, err
	}
	for v := range strings.SplitSeq(*variants, ",") {
		o.variants = append(o.variants, variant(v))
	}
	o.proxies = strings.Split(*proxies, ",")
	var err error
	for n := range strings.SplitSeq(*services, ",") {
		number, nerr := strconv.Atoi(n)
		o.services, err = append(o.services, number), errors.Join(err, nerr)
	}
	return o, errors.Join(err, o.validate())
}

// define makes the flags that are kept as they are given.
func (o *options) define(flags *flag.FlagSet) {
	flags.IntVar(&o.endpoints, "endpoints", 5, "endpoints of each Service")
	flags.IntVar(&o.rounds, "rounds", 1, "turns of each proxy")
	flags.IntVar(&o.flips, "flips", 12, "isolated changes per round")
	flags.IntVar(&o.rate, "rate", 20, "changes per second during churn")
	flags.DurationVar(&o.churn, "churn", 30*time.Second, "time of churn per round")
	flags.DurationVar(&o.idle, "idle", 35*time.Second, "time over which a proxy at rest is watched; both look after their rules every 30s")
	flags.IntVar(&o.connects, "connects", 2000, "connections per destination and round")
	flags.IntVar(&o.nftMax, "nft-max", 2000, "number of Services above which the nft variant is skipped")
	flags.DurationVar(&o.coldTimeout, "cold-timeout", 5*time.Minute, "time given to a proxy to start")
	flags.DurationVar(&o.flipTimeout, "flip-timeout", time.Minute, "time given to a proxy for one change")
	flags.StringVar(&o.kernel, "kernel", kernelAuto, "kernel to run on: "+strings.Join(kernelNames(), ", ")+"; auto is the host, or "+kernelIPVS+" for -mode ipvs if the host has no IPVS")
	flags.IntVar(&o.memory, "memory", 6144, "memory of a kernel that is not the host, in MiB")
	flags.StringVar(&o.fairlead, "fairlead", "", "path of fairlead; empty builds it")
	flags.StringVar(&o.kubeProxy, "kube-proxy", "", "path of kube-proxy; empty builds it")
	flags.StringVar(&o.output, "o", "", "file to write everything to, as JSON")
	o.defineUserspace(flags)
	o.defineL7(flags)
	o.defineSuite(flags)
}

func (o options) validate() error {
	var errs []error
	for _, n := range o.services {
		if n < 1 || n > maxServices {
			errs = append(errs, fmt.Errorf("-n: %d is not between 1 and %d", n, maxServices))
		}
	}
	for _, v := range o.variants {
		if !v.usesIptables() && (o.mode != modeSuite || v != nftables && v != userspace) {
			errs = append(errs, fmt.Errorf("-variants: %q is neither legacy nor nft, nor, in the suite, nftables or userspace", v))
		}
	}
	if o.rounds < 1 || o.flips < 1 || o.rate < 1 || o.connects < 1 {
		errs = append(errs, errors.New("-rounds, -flips, -rate and -connects must be at least 1"))
	}
	if o.endpoints < 1 || o.endpoints > maxEndpoints {
		errs = append(errs, fmt.Errorf("-endpoints: %d is not between 1 and %d", o.endpoints, maxEndpoints))
	}
	return errors.Join(append(errs, o.validateMode(), o.validateKernel(), o.validateUserspace(), o.validateL7(), o.validateSuite())...)
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "report" {
		if err := document(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	o, err := parseFlags(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = run(ctx, o, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures, and reports what there is even if it was cut short.
func run(ctx context.Context, o options, log *slog.Logger) error {
	if o.mode == modeUserspace {
		return runUserspace(ctx, o, log)
	}
	if o.mode == modeL7 {
		return runL7(ctx, o, log)
	}
	if o.mode == modeSuite {
		return runSuite(ctx, o, log)
	}
	k, err := o.elsewhere(ctx)
	if err != nil {
		return err
	}
	b := &bench{options: o, log: log, guest: os.Getenv(guestEnv) != ""}
	var e environment
	if k != nil {
		e, err = b.elsewhere(ctx, k)
	} else {
		e, err = b.here(ctx)
	}
	if len(b.outcomes) == 0 || b.guest {
		return err
	}
	err = errors.Join(err, writeMarkdown(os.Stdout, b, e))
	if o.output == "" {
		return err
	}
	f, ferr := os.Create(o.output)
	if ferr != nil {
		return errors.Join(err, ferr)
	}
	return errors.Join(err, writeJSON(f, b, e), f.Close())
}

// here measures on the running kernel.
func (b *bench) here(ctx context.Context) (environment, error) {
	if b.guest {
		if err := prepareGuest(); err != nil {
			return environment{}, err
		}
	}
	if err := netns.Usable(); err != nil {
		return environment{}, err
	}
	if b.options.mode == modeIPVS {
		if err := haveIPVS(); err != nil {
			return environment{}, err
		}
	}
	dir, err := os.MkdirTemp("", "fairlead-bench")
	if err != nil {
		return environment{}, err
	}
	defer os.RemoveAll(dir)
	b.shims = map[variant]string{}
	if b.subjects, err = subjects(ctx, b.options, dir); err != nil {
		return environment{}, err
	}
	for _, v := range b.options.variants {
		if b.shims[v], err = v.shim(dir); err != nil {
			return environment{}, err
		}
	}
	e := describe(ctx, b)
	if b.guest {
		b.tell = func() error { return writeMarked(os.Stdout, b, e) }
	}
	return e, b.all(ctx)
}

// elsewhere has a bench in a guest measure.
func (b *bench) elsewhere(ctx context.Context, k *lab.Kernel) (environment, error) {
	for _, name := range b.options.proxies { // their names are all that the report needs
		b.subjects = append(b.subjects, subject{name: subjectNames()[name]})
	}
	r, err := runElsewhere(ctx, b.options, k, b.log)
	if r == nil {
		return environment{}, err
	}
	b.outcomes, b.remarks = r.Outcomes, r.Remarks
	r.Environment.Command = strings.Join(append([]string{"bench"}, os.Args[1:]...), " ")
	return r.Environment, err
}

// describe collects what it can; what it cannot stays empty.
func describe(ctx context.Context, b *bench) environment {
	e := environment{
		Mode: b.options.mode, CPUs: runtime.NumCPU(), Started: time.Now().UTC().Format(time.RFC3339),
		Command:  strings.Join(append([]string{"bench"}, os.Args[1:]...), " "),
		Iptables: map[variant]string{}, Proxies: map[string]string{},
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		e.Kernel, _, _ = strings.Cut(unix.ByteSliceToString(uts.Release[:]), "-") // what follows is the builder's
	}
	e.CPU = lineOf("/proc/cpuinfo", "model name")
	e.Memory = lineOf("/proc/meminfo", "MemTotal")
	for _, s := range b.subjects {
		e.Proxies[s.name] = s.version(ctx)
	}
	for _, v := range b.options.variants {
		out, err := exec.CommandContext(ctx, v.multi(), "iptables", "--version").Output()
		if err == nil {
			e.Iptables[v] = strings.TrimSpace(string(out))
		}
	}
	return e
}

// lineOf returns the value of the first "name : value" line of a file.
func lineOf(path, name string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(before) == name {
			return strings.TrimSpace(after)
		}
	}
	return ""
}
