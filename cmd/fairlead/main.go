package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills, as by default
	code := command{out: os.Stdout, err: os.Stderr}.main(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// A command is where a subcommand writes to.
type command struct {
	out io.Writer // results
	err io.Writer // logs and complaints
}

// errUsage marks what is wrong with the command line, as opposed to the world.
var errUsage = errors.New("see --help")

// errReported marks an error whose reasons have been printed already.
var errReported = errors.New("some input could not be used")

// main runs the subcommand that args name and returns the exit status. It
// returns soon after ctx is done.
func (c command) main(ctx context.Context, args []string) int {
	err := c.dispatch(ctx, args)
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return 0
	case errors.Is(err, errReported):
		return 1
	}
	if errors.Is(err, errUsage) {
		fmt.Fprintln(c.err, "fairlead:", err)
		return 2
	}
	// One line: what collects logs takes each line for a message of its own.
	fmt.Fprintln(c.err, "fairlead:", strings.ReplaceAll(err.Error(), "\n", "; "))
	return 1
}

func (c command) dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return c.run(ctx, args)
	}
	switch verb, rest := args[0], args[1:]; verb {
	case "plan":
		return c.plan(rest)
	case "trace":
		return c.trace(ctx, rest)
	case "status":
		return c.status(ctx, rest)
	case "ipvs":
		return c.ipvs(ctx, rest)
	case "cleanup":
		return c.cleanup(ctx, rest)
	case "check":
		return c.check(ctx, rest)
	case "l7":
		return c.l7(ctx, rest)
	case "completion":
		return c.completion(rest)
	case cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd:
		return c.complete(ctx, args)
	case "help":
		return c.run(ctx, []string{"--help"})
	default:
		return fmt.Errorf("unknown subcommand %q; there are l7, check, plan, trace, status, ipvs, cleanup and completion (%w)", verb, errUsage)
	}
}

// parse parses args into the flags that add has added to a set, and refuses
// arguments that are no flags. The usage is printed when asked for.
func (c command) parse(usage string, args []string, add func(*pflag.FlagSet)) (*pflag.FlagSet, error) {
	fs := pflag.NewFlagSet("fairlead", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetNormalizeFunc(hyphens)
	fs.Usage = func() { fmt.Fprintf(c.out, "%s\n\nFlags:\n%s", usage, fs.FlagUsages()) }
	add(fs)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil, err
		}
		return nil, fmt.Errorf("%w (%w)", err, errUsage)
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q (%w)", fs.Arg(0), errUsage)
	}
	return fs, nil
}

// hyphens makes --cluster_cidr mean --cluster-cidr, as it does to kube-proxy.
func hyphens(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
}

// usageError marks err as the fault of the command line. A list of errors is
// put on lines of its own.
func usageError(err error) error {
	if err == nil {
		return nil
	}
	text := strings.ReplaceAll(err.Error(), "\n", "\n  ")
	return fmt.Errorf("%s (%w)", text, errUsage)
}

// logger returns a logger for --v=verbosity. kube-proxy's level 4 is where
// single syncs begin to show.
func (c command) logger(verbosity int) *slog.Logger {
	level := slog.LevelInfo
	if verbosity >= 4 {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: level}))
}

// version is set by the linker, -X main.version=v1.2.3, and never changes.
var version string

// buildVersion returns the version of this program: what the linker was told,
// else that of the module.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
