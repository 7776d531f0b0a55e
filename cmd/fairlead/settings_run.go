package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/cmd/fairlead/gates"
	"github.com/fairlead-project/fairlead/service/kube"
)

// understand loads every setting and understands it, in each of the modes.
func understand(f *flags, fs *pflag.FlagSet) (*loader, []config, error) {
	l, err := load(f, fs)
	if err != nil {
		return nil, nil, err
	}
	cfgs, err := f.configs()
	err = errors.Join(err, f.checkRun())
	if err != nil && !f.fromFile() {
		err = usageError(err)
	}
	return l, cfgs, err
}

// tell logs what there is to say about settings.
func (l *loader) tell(log *slog.Logger) {
	for _, r := range l.remarks {
		log.Log(context.Background(), r.level, r.text, r.attrs...)
	}
}

// again loads the settings of a command line once more.
func (c command) again(args []string) (*loader, error) {
	var f flags
	fs, err := c.parse("", args, f.addRun)
	if err != nil {
		return nil, err
	}
	l, _, err := understand(&f, fs)
	return l, err
}

// instead does what was asked for in place of running, if anything was, and reports whether.
func (c command) instead(ctx context.Context, l *loader) (bool, error) {
	switch f := l.flags; {
	case f.Files.WriteConfigTo != "":
		set, err := l.effective()
		if err != nil {
			return true, err
		}
		text, err := set.YAML()
		if err != nil {
			return true, err
		}
		if err := os.WriteFile(f.Files.WriteConfigTo, text, 0o644); err != nil { //nolint:gosec // no secrets
			return true, fmt.Errorf("--write-config-to: %w", err)
		}
		return true, nil
	case f.Files.Cleanup:
		return true, c.cleanup(ctx, []string{"--v=" + strconv.Itoa(f.Verbosity)})
	default:
		return false, nil
	}
}

// printVersion does what --version asks for, and reports whether it asks for anything.
func (c command) printVersion(flag string) (bool, error) {
	var err error
	switch flag {
	case "raw":
		_, err = fmt.Fprintln(c.out, rawVersion())
		return true, err
	case "", "false", "0":
		return false, nil
	case "true", "1":
		_, err = fmt.Fprintln(c.out, "fairlead", buildVersion())
		return true, err
	default:
		return false, usageError(fmt.Errorf("--version: %q is not true, false or raw", flag))
	}
}

// rawVersion is what this program was built from and with, on one line.
func rawVersion() string {
	out := []string{"version=" + buildVersion(), "kubernetes=v" + kubernetesVersion, "go=" + runtime.Version(),
		"compiler=" + runtime.Compiler, "platform=" + runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if name, ok := strings.CutPrefix(s.Key, "vcs."); ok {
				out = append(out, name+"="+s.Value)
			}
		}
	}
	return strings.Join(out, " ")
}

// errInitialized ends a process that was to set kernel parameters only.
var errInitialized = errors.New("kernel parameters are set")

// settled is what a process knows of where its settings are from.
type settled struct {
	loader *loader
	cfgs   []config                // one for each mode, in the order in which they are tried
	finds  map[string]findFunc     // by mode
	again  func() (*loader, error) // loads them anew

	// The node, for Events, once it is known.
	node string
	info kube.NodeInfo
}

// settle tells p where its settings are from.
func (p *process) settle(l *loader, cfgs []config, again func() (*loader, error)) {
	p.settled = &settled{loader: l, cfgs: cfgs, finds: engines(), again: again}
	p.featureGates, _ = gates.Parse(strings.Join(p.flags.Compat.FeatureGates, ",")) // checked before
}

// configz answers /configz as kube-proxy does, and adds what is fairlead's own.
func (p *process) configz(w http.ResponseWriter, _ *http.Request) {
	set, err := p.settled.loader.effective()
	if err == nil && p.cfg.Mode != modeUserspace {
		set.Proxy.Mode = mode(p.cfg.Mode)
	}
	var body []byte
	if err == nil {
		body, err = json.Marshal(map[string]any{"kubeproxy.config.k8s.io": set.Proxy, "fairlead.io": set.Own})
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(body) // whoever asked has gone
}
