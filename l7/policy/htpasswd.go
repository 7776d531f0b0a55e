package policy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tg123/go-htpasswd"
	"golang.org/x/crypto/bcrypt"
)

// Bounds of names, passwords and hashes: each check has to be cheap enough to be done for strangers.
const (
	maxUsers    = 100_000
	maxUser     = 256
	maxPassword = 1024
	maxSalt     = 64
	maxCost     = 14 // of bcrypt, some second of one core
)

// Users is the users of one htpasswd Secret. It is immutable.
type Users struct {
	byName map[string]htpasswd.EncodedPasswd
	// stranger is what the password of somebody unknown is held against, so that the answer takes as long
	// as for the users that are most costly.
	stranger htpasswd.EncodedPasswd
	digest   [sha256.Size]byte
}

// ParseHtpasswd reads a file as htpasswd(1) writes it, which a Secret of type auth-file has under "auth".
// Passwords may be hashed by bcrypt ($2y$, $2a$, $2b$), Apache's MD5 ($apr1$, $1$), SHA-1 ({SHA}) or salted SHA-1 ({SSHA}).
// crypt(3) in its other forms and plain text are refused.
//
// A bad line keeps one user out, and no other: the error says which lines are bad, never what they hold, and the Users are in
// force nevertheless. They are nil if there is no good line. Of lines for the same user, the
// first counts.
func ParseHtpasswd(file []byte) (*Users, error) {
	u := &Users{byName: map[string]htpasswd.EncodedPasswd{}, digest: sha256.Sum256(file)}
	var errs []error
	n, cost := 0, -1
	for line := range strings.Lines(string(file)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		if !ok {
			errs = append(errs, fmt.Errorf("line %d: no colon after the name", n))
			continue
		}
		// Some tools write more fields; nginx reads up to the next colon too.
		hash, _, _ = strings.Cut(hash, ":")
		if err := u.add(name, hash, &cost); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
		}
	}
	return u.checked(errs)
}

// ParseHtpasswdMap reads a Secret of type auth-map: its keys are the users, and its values their hashed passwords. The
// errors name the users. Otherwise it is like ParseHtpasswd.
func ParseHtpasswdMap(data map[string][]byte) (*Users, error) {
	u := &Users{byName: map[string]htpasswd.EncodedPasswd{}}
	digest := sha256.New()
	var errs []error
	cost := -1
	for _, name := range slices.Sorted(maps.Keys(data)) {
		hash := strings.TrimSpace(string(data[name]))
		fmt.Fprintf(digest, "%d:%s%d:%s", len(name), name, len(hash), hash)
		if err := u.add(name, hash, &cost); err != nil {
			errs = append(errs, fmt.Errorf("user %q: %w", name, err))
		}
	}
	digest.Sum(u.digest[:0])
	return u.checked(errs)
}

func (u *Users) checked(errs []error) (*Users, error) {
	err := errors.Join(errs...)
	if len(u.byName) == 0 {
		return nil, errors.Join(errors.New("no user can log in"), err)
	}
	return u, err
}

// add takes one user, and makes the hash the stranger's if it is the most costly so far.
func (u *Users) add(name, hash string, most *int) error {
	switch {
	case name == "" || len(name) > maxUser || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == ':' }):
		return errors.New("the name is empty, too long, or has bytes that names cannot have")
	case len(u.byName) >= maxUsers:
		return fmt.Errorf("more than %d users", maxUsers)
	case u.byName[name] != nil:
		return errors.New("the user is there already; the first counts")
	}
	password, cost, err := parseHash(hash)
	if err != nil {
		return err
	}
	u.byName[name] = password
	if cost > *most {
		*most, u.stranger = cost, password
	}
	return nil
}

// parseHash reads a hashed password and says what checking it costs, in no unit. Errors do not hold
// the hash, since they get into logs and Events.
func parseHash(hash string) (htpasswd.EncodedPasswd, int, error) {
	switch {
	case strings.HasPrefix(hash, "$2y$"), strings.HasPrefix(hash, "$2a$"), strings.HasPrefix(hash, "$2b$"):
		return parseBcrypt(hash)
	case strings.HasPrefix(hash, htpasswd.PrefixCryptApr1), strings.HasPrefix(hash, htpasswd.PrefixCryptMd5):
		password, err := htpasswd.AcceptMd5(hash)
		parts := strings.Split(hash, "$")
		if err != nil || len(parts) != 4 || parts[2] == "" || len(parts[2]) > maxSalt || len(parts[3]) != 22 {
			return nil, 0, errors.New("the MD5 hash is malformed")
		}
		return password, 1, nil
	case strings.HasPrefix(hash, "{SHA}"):
		password, err := htpasswd.AcceptSha(hash)
		if err != nil {
			return nil, 0, errors.New("the SHA-1 hash is malformed")
		}
		return password, 0, nil
	case strings.HasPrefix(hash, "{SSHA}"):
		password, err := htpasswd.AcceptSsha(hash)
		if err != nil || len(hash) > 256 {
			return nil, 0, errors.New("the salted SHA-1 hash is malformed")
		}
		return password, 0, nil
	}
	return nil, 0, errors.New("the password is not hashed by bcrypt, Apache's MD5 or SHA-1; crypt and plain text are not taken")
}

func parseBcrypt(hash string) (htpasswd.EncodedPasswd, int, error) {
	cost, err := bcrypt.Cost([]byte(hash))
	switch {
	case err != nil || len(hash) != 60 || !bcryptBytes(hash[7:]):
		return nil, 0, errors.New("the bcrypt hash is malformed")
	case cost > maxCost:
		return nil, 0, fmt.Errorf("the cost of the bcrypt hash is %d, more than %d", cost, maxCost)
	}
	password, err := htpasswd.AcceptBcrypt(hash)
	if err != nil {
		return nil, 0, errors.New("the bcrypt hash is malformed")
	}
	return password, cost, nil
}

// bcryptBytes reports whether s is in the alphabet of bcrypt's own base64.
func bcryptBytes(s string) bool {
	for i := range len(s) {
		if c := s[i]; !unreserved(c) && c != '/' || c == '-' || c == '_' || c == '~' {
			return false
		}
	}
	return true
}

// Check reports whether that is the user's password. For users that are not there it takes as long as for the most costly of those
// that are, which with bcrypt may be a second: the pipeline remembers what it said and bounds how many run.
func (u *Users) Check(user, password string) bool {
	if len(user) > maxUser || len(password) > maxPassword {
		return false
	}
	encoded, known := u.byName[user]
	if !known {
		encoded = u.stranger
	}
	return encoded.MatchesPassword(password) && known
}

// Len returns how many users there are.
func (u *Users) Len() int { return len(u.byName) }

// Digest tells files apart: two Users with the same digest were read from the same bytes.
func (u *Users) Digest() [sha256.Size]byte { return u.digest }
