package xt

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// Locate finds the tools of f in PATH: "nft" and "legacy" look for
// iptables-nft, iptables-nft-save and so on, an empty variant for the plain
// names. The error names every tool that is missing.
func Locate(f Family, variant string) (Paths, error) {
	name := "iptables"
	if f == IPv6 {
		name = "ip6tables"
	}
	if variant != "" {
		name += "-" + variant
	}
	var missing []string
	find := func(tool string) string {
		path, err := exec.LookPath(tool)
		if err != nil {
			missing = append(missing, tool)
		}
		return path
	}
	p := Paths{Iptables: find(name), Save: find(name + "-save"), Restore: find(name + "-restore")}
	if len(missing) > 0 {
		return p, fmt.Errorf("not found in PATH: %s", strings.Join(missing, ", "))
	}
	return p, nil
}

// Version returns what the iptables tool of f says it is, such as
// "iptables v1.8.9 (nf_tables)".
func (e *Exec) Version(ctx context.Context, f Family) (string, error) {
	var out []byte
	c := command{
		path: e.paths(f).Iptables,
		args: []string{"--version"},
		read: func(r io.Reader) (err error) {
			out, err = io.ReadAll(r)
			return err
		},
	}
	if stderr, err := c.run(ctx); err != nil {
		return "", fmt.Errorf("%s --version: %w", c.path, withStderr(err, stderr))
	}
	return strings.TrimSpace(string(out)), nil
}

// A Survey is an overview of the rules of all owners.
type Survey struct {
	Rules  int        // in all tables
	Own    int        // chains of ours
	Chains []ChainRef // those of the chains asked for that exist, in the order asked
}

// Survey looks at all tables of f that exist. Unlike Save it has no kernel
// module loaded and no table made: it is safe for a variant that is not in use.
func (e *Exec) Survey(ctx context.Context, f Family, chains ...ChainRef) (Survey, error) {
	var s Survey
	found := map[ChainRef]bool{}
	c := command{path: e.paths(f).Save, read: func(r io.Reader) error {
		var table Table
		return eachLine(r, func(line []byte) error {
			switch {
			case len(line) == 0:
			case line[0] == '*':
				table = Table(line[1:])
			case line[0] == '-':
				s.Rules++
			case line[0] == ':':
				name, _, _ := strings.Cut(string(line[1:]), " ")
				if strings.HasPrefix(name, Prefix) {
					s.Own++
				}
				found[ChainRef{table, name}] = slices.Contains(chains, ChainRef{table, name})
			}
			return nil
		})
	}}
	if stderr, err := c.run(ctx); err != nil {
		return Survey{}, fmt.Errorf("survey %v: %w", f, withStderr(err, stderr))
	}
	for _, ref := range chains {
		if found[ref] {
			s.Chains = append(s.Chains, ref)
		}
	}
	return s, nil
}
