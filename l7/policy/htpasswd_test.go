package policy

import (
	"strings"
	"testing"
)

// knownHashes are lines made by openssl passwd, crypt(3) of glibc and Python's hashlib; the password is "fairlead".
func knownHashes() []string {
	return []string{
		"apr1:$apr1$abcdefgh$XHg8XLWMiNCwugRfUxfjD/",
		"md5:$1$abcdefgh$5rhe76gabvRlK8mCSDqIq/",
		"sha:{SHA}HqmqU97MzLE1RoDB/3Pp9PCQHPs=",
		"ssha:{SSHA}EfPDDZbaU+w+jp9rE+OdAAF/v8ZzYWx0c2FsdA==",
		"bcrypt:$2b$04$abcdefghijklmnopqrstuufxey9BC8pEYSSTJ5Q.lrfAraH2.WGQu",
	}
}

func TestParseHtpasswd(t *testing.T) {
	const good = "good"
	b := bcryptOf(t, good)
	for _, c := range []struct {
		name, file string
		errors     []string // in the error; nil for none
		good, bad  []string // users whose password is "good", and who are not let in with it
	}{
		{"bcrypt", "a:" + b, nil, []string{"a"}, []string{"b", ""}},
		{"the prefix of Apache", "a:$2y$" + b[4:], nil, []string{"a"}, nil},
		{"the prefix of OpenBSD", "a:$2b$" + b[4:], nil, []string{"a"}, nil},
		{"SHA-1", "a:{SHA}" + shaOf(good), nil, []string{"a"}, nil},
		{"comments and empty lines", "# users\n\n  a:{SHA}" + shaOf(good) + "  \r\n\n", nil, []string{"a"}, []string{"# users"}},
		{"more fields", "a:{SHA}" + shaOf(good) + ":A. User:", nil, []string{"a"}, nil},
		{"the first counts", "a:{SHA}" + shaOf(good) + "\na:{SHA}" + shaOf("other"), []string{"line 2", "there already"}, []string{"a"}, nil},
		{"one bad line", "a:{SHA}" + shaOf(good) + "\nb:nonsense\n", []string{"line 2"}, []string{"a"}, []string{"b"}},
		{"no colon", "a\nb:{SHA}" + shaOf(good), []string{"line 1: no colon"}, []string{"b"}, []string{"a"}},
		{"crypt", "a:abJnggxhB/yWI", []string{"crypt and plain text are not taken", "no user can log in"}, nil, nil},
		{"SHA-256 crypt", "a:$5$rounds=999999999$salt$x", []string{"not taken"}, nil, nil},
		{"plain text", "a:good", []string{"not taken"}, nil, nil},
		{"plain text in braces", "a:{PLAIN}good", []string{"not taken"}, nil, nil},
		{"a cost that stops the process", "a:$2y$31$" + b[7:], []string{"the cost of the bcrypt hash is 31"}, nil, nil},
		{"half of bcrypt", "a:" + b[:40], []string{"malformed"}, nil, nil},
		{"no base64 of bcrypt", "a:" + b[:59] + "!", []string{"malformed"}, nil, nil},
		{"half of SHA-1", "a:{SHA}abcd", []string{"malformed"}, nil, nil},
		{"half of MD5", "a:$apr1$salt", []string{"malformed"}, nil, nil},
		{"a long salt", "a:$apr1$" + strings.Repeat("s", 1000) + "$" + strings.Repeat("x", 22), []string{"malformed"}, nil, nil},
		{"no name", ":{SHA}" + shaOf(good), []string{"name"}, nil, []string{""}},
		{"nothing", "", []string{"no user can log in"}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			users, err := ParseHtpasswd([]byte(c.file))
			if (err != nil) != (c.errors != nil) {
				t.Fatalf("error %v, want one: %v", err, c.errors != nil)
			}
			for _, want := range c.errors {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want one with %q", err, want)
				}
			}
			if err != nil && (strings.Contains(err.Error(), b[7:40]) || strings.Contains(err.Error(), "abJnggxhB") || strings.Contains(err.Error(), "nonsense")) {
				t.Errorf("the error %q tells a hash", err)
			}
			if (users == nil) != (len(c.good) == 0) {
				t.Fatalf("users %v, want some: %v", users, len(c.good) != 0)
			}
			for _, u := range c.good {
				if !users.Check(u, good) || users.Check(u, good+"x") || users.Check(u, "") {
					t.Errorf("user %q is not let in with the right password, or is with a wrong one", u)
				}
			}
			for _, u := range c.bad {
				if users != nil && users.Check(u, good) {
					t.Errorf("user %q is let in", u)
				}
			}
		})
	}
}

// TestHtpasswdKnownHashes checks hashes that other programs have made.
func TestHtpasswdKnownHashes(t *testing.T) {
	users, err := ParseHtpasswd([]byte(strings.Join(knownHashes(), "\n")))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range knownHashes() {
		name, _, _ := strings.Cut(line, ":")
		if !users.Check(name, "fairlead") || users.Check(name, "Fairlead") {
			t.Errorf("%s: the right password is wrong, or a wrong one right", name)
		}
	}
}

func TestParseHtpasswdMap(t *testing.T) {
	users, err := ParseHtpasswdMap(map[string][]byte{
		"ann": []byte("{SHA}" + shaOf("a") + "\n"), "bob": []byte("sesame"), "x:y": []byte("{SHA}" + shaOf("a")),
	})
	if err == nil || !strings.Contains(err.Error(), `user "bob"`) || !strings.Contains(err.Error(), `user "x:y"`) || strings.Contains(err.Error(), "sesame") {
		t.Errorf("error %v", err)
	}
	diff(t, "users", users.Len(), 1)
	if !users.Check("ann", "a") || users.Check("bob", "sesame") {
		t.Error("ann is not let in, or bob is")
	}
	other, _ := ParseHtpasswdMap(map[string][]byte{"ann": []byte("{SHA}" + shaOf("b"))})
	if other.Digest() == users.Digest() {
		t.Error("another password has the same digest")
	}
	if none, err := ParseHtpasswdMap(nil); none != nil || err == nil {
		t.Errorf("an empty Secret: %v, %v", none, err)
	}
}

func FuzzHtpasswd(f *testing.F) {
	f.Add([]byte("a:{SHA}"+shaOf("x")), "a", "x")
	f.Add([]byte("a:$apr1$salt$"+strings.Repeat("x", 22)), "a", "")
	f.Add([]byte("a:$2y$04$"+strings.Repeat("a", 53)+"\nb:c"), "b", "c")
	f.Add([]byte("a:{SSHA}"+shaOf("x")), "a", "x")
	f.Fuzz(func(t *testing.T, file []byte, user, password string) {
		users, err := ParseHtpasswd(file)
		if users == nil {
			if err == nil {
				t.Error("neither users nor an error")
			}
			return
		}
		if strings.Contains(string(file), "$2") {
			return // costs too much here
		}
		if users.Check(user, password) && users.byName[user] == nil {
			t.Errorf("user %q of %q is let in without a line", user, file)
		}
	})
}
