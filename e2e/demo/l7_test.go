//go:build linux

package main

import "testing"

func TestVisitRight(t *testing.T) {
	app := visit{src: "198.51.100.1", want: "web", status: "200"}
	own := visit{src: "198.51.100.1", status: "308", to: "https://a/"}
	for _, c := range []struct {
		name  string
		visit visit
		reply reply
		want  bool
	}{
		{"as it should be", app, reply{status: "200", by: "web@10.244.1.2", saw: "198.51.100.1"}, true},
		{"another app", app, reply{status: "200", by: "webby@10.244.1.2", saw: "198.51.100.1"}, false},
		{"another client", app, reply{status: "200", by: "web@10.244.1.2", saw: "172.18.0.11"}, false},
		{"another status", app, reply{status: "502"}, false},
		{"a redirect", own, reply{status: "308", to: "https://a/"}, true},
		{"elsewhere", own, reply{status: "308", to: "https://b/"}, false},
		{"an app in place of a redirect", own, reply{status: "308", to: "https://a/", by: "web@10.244.1.2"}, false},
	} {
		if got := c.visit.right(c.reply); got != c.want {
			t.Errorf("%s: got %t, want %t", c.name, got, c.want)
		}
	}
}
