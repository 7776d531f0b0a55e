package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

const completionUsage = `fairlead completion prints a script that makes a shell complete subcommands, flags and
their values. For the session: source <(fairlead completion bash). For good, write it to
/usr/share/bash-completion/completions/fairlead, to a file _fairlead in a folder of zsh's
$fpath, or to ~/.config/fish/completions/fairlead.fish.

Usage:
  fairlead completion bash|zsh|fish`

// shells are those that completion knows.
func shells() []string { return []string{"bash", "zsh", "fish"} }

// completion is the subcommand.
func (c command) completion(args []string) error {
	shell := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		shell, args = args[0], args[1:]
	}
	if _, err := c.parse(completionUsage, args, func(*pflag.FlagSet) {}); err != nil {
		return err
	}
	if !slices.Contains(shells(), shell) {
		return fmt.Errorf("completion: which shell? There are %s (%w)", strings.Join(shells(), ", "), errUsage)
	}
	root := tree()
	write := root.GenZshCompletion
	switch shell {
	case "bash":
		write = func(w io.Writer) error { return root.GenBashCompletionV2(w, true) }
	case "fish":
		write = func(w io.Writer) error { return root.GenFishCompletion(w, true) }
	}
	if err := write(c.out); err != nil {
		return fmt.Errorf("print the script: %w", err)
	}
	return nil
}
