package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/service"
)

// A subcommand is what there is to know of one from outside: for completion and
// manual pages, which are made from it. What it does is in dispatch.
type subcommand struct {
	name, short, usage string
	flags              func(*pflag.FlagSet)
	args               []string // that may follow, one of them; nil for none
}

// subcommands returns all of them, but for fairlead without one.
func subcommands() []subcommand {
	return []subcommand{
		{"l7", "serve the Ingresses of the cluster", l7Usage, new(l7Flags).add, nil},
		{"check", "say what becomes of Ingresses made for ingress-nginx", checkUsage, new(checkFlags).add, nil},
		{"plan", "print what would be put in force", planUsage, new(worldFlags).addPlan, nil},
		{"trace", "explain what happens to a packet", traceUsage, new(traceFlags).addTrace, nil},
		{"status", "ask the running fairlead how it is", statusUsage, new(askFlags).add, nil},
		{"ipvs", "show virtual servers and the Services they are for", ipvsUsage, new(ipvsShowFlags).addShow, nil},
		{"cleanup", "remove everything fairlead has put in the kernel", cleanupUsage, new(flags).addLog, nil},
		{"completion", "print a script that makes a shell complete our command line", completionUsage, func(*pflag.FlagSet) {}, shells()},
	}
}

// tree returns the command line as cobra sees it. Cobra has the machinery of
// completion, and of manual pages; the command line itself is not parsed with it,
// for fairlead without a subcommand has to take what kube-proxy takes, and nothing
// else.
func tree() *cobra.Command {
	root := describe(subcommand{name: "fairlead", short: "put the Services of a Kubernetes cluster in force on this node", usage: runUsage, flags: new(flags).addRun})
	root.Use = "fairlead"
	root.SetHelpCommand(&cobra.Command{Use: "help", Short: "print the flags of fairlead without a subcommand"})
	root.CompletionOptions.DisableDefaultCmd = true
	for _, s := range subcommands() {
		root.AddCommand(describe(s))
	}
	return root
}

// describe turns a subcommand into cobra's idea of one. It is never run.
func describe(s subcommand) *cobra.Command {
	long, example := splitUsage(s.usage)
	c := &cobra.Command{
		Use: s.name + " [flags]", Short: s.short, Long: long, Example: example, ValidArgs: s.args,
		Args: cobra.NoArgs, DisableAutoGenTag: true, DisableFlagsInUseLine: true,
		Run: func(*cobra.Command, []string) {},
	}
	if s.args != nil {
		c.Use = s.name + " " + strings.Join(s.args, "|")
		c.Args = cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)
	}
	c.Flags().SortFlags = false
	s.flags(c.Flags())
	choices := flagChoices()
	c.Flags().VisitAll(func(f *pflag.Flag) {
		complete, ok := choices[f.Name]
		switch {
		case f.Name == "output": // each has formats of its own
			complete = outputs(f.Usage)
		case !ok && takesFile(f):
			return // which is what shells complete by themselves
		}
		fixed := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return complete, cobra.ShellCompDirectiveNoFileComp
		}
		_ = c.RegisterFlagCompletionFunc(f.Name, fixed) // fails for flags that are not there
	})
	return c
}

// splitUsage returns the text of a usage and its lines of examples.
func splitUsage(usage string) (text, example string) {
	before, after, ok := strings.Cut("\n\n"+usage, "\n\nUsage:\n")
	if !ok {
		return usage, ""
	}
	example, rest, _ := strings.Cut(after, "\n\n")
	return strings.TrimSpace(before + "\n\n" + rest), example
}

// flagChoices returns what flags can be, by name.
func flagChoices() map[string][]string {
	modes := []string{modeIptables, modeIPVS, modeUserspace}
	return map[string][]string{
		"proxy-mode":         modes,
		"dataplane":          modes,
		"iptables-variant":   {variantAuto, variantNFT, variantLegacy},
		"iptables-writer":    {writerAuto, writerTool, writerNetlink},
		"detect-local-mode":  {detectClusterCIDR, detectNodeCIDR, detectBridge, detectPrefix},
		"nodeport-addresses": {"primary"},
		"ipvs-scheduler":     service.Schedulers(),
		"ipvs-vip-mode":      {"routed", "device"},
		"family":             {"both", "ipv4", "ipv6"},
		"from":               {"pod", "host", "outside"},
		"proto":              {"tcp", "udp", "sctp", "icmp"},
	}
}

// outputs returns the formats that the help of --output names.
func outputs(usage string) []string {
	var out []string
	for _, format := range []string{"text", "wide", "json"} {
		if strings.Contains(usage, format) {
			out = append(out, format)
		}
	}
	return out
}

// takesFile reports whether f is about a file or a folder.
func takesFile(f *pflag.Flag) bool {
	return slices.ContainsFunc([]string{"file", "config", "socket", "folder", "manifests"}, func(word string) bool {
		return strings.Contains(f.Name, word) || strings.Contains(f.Usage, " "+word) || strings.HasPrefix(f.Usage, word)
	})
}

// complete answers a completion script.
func (c command) complete(ctx context.Context, args []string) error {
	root := tree()
	root.SetArgs(args)
	root.SetOut(c.out)
	root.SetErr(c.err)
	return root.ExecuteContext(ctx)
}
