package ingresstest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// service reads a service directive. One of the same name replaces.
func (l *loader) service(args []string) error {
	if len(args) < 2 {
		return errors.New("want NAMESPACE/NAME PORT…")
	}
	name, err := parseName(args[0])
	if err != nil {
		return err
	}
	s := Service{Name: name}
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		switch {
		case key == "external":
			s.External = value
		case arg == "headless":
			s.Headless = true
		case arg == "empty":
			s.Empty = true
		default:
			port, err := parseServicePort(arg)
			if err != nil {
				return err
			}
			s.Ports = append(s.Ports, port)
		}
	}
	l.dropService(name)
	l.services = append(l.services, s)
	return nil
}

func (l *loader) dropService(name service.Name) bool {
	for i, s := range l.services {
		if s.Name == name {
			l.services = append(l.services[:i:i], l.services[i+1:]...)
			return true
		}
	}
	return false
}

// parseServicePort reads [NAME:]PORT[/udp].
func parseServicePort(s string) (ingress.ServicePort, error) {
	var p ingress.ServicePort
	number, udp := strings.CutSuffix(s, "/udp")
	if udp {
		p.Protocol = service.UDP
	}
	if name, rest, ok := strings.Cut(number, ":"); ok {
		p.Name, number = name, rest
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return p, fmt.Errorf("%q is not a port", s)
	}
	p.Number = uint16(n)
	return p, nil
}

// request reads a request directive.
func (l *loader) request(text string, args []string) error {
	r := Request{Line: l.line, Text: text, Method: "GET"}
	if len(args) > 0 && !strings.Contains(args[0], "://") {
		r.Method, args = args[0], args[1:]
	}
	if len(args) < 2 {
		return errors.New("want [METHOD] URL [FIELD=VALUE…] STATUS …")
	}
	if err := r.setURL(args[0]); err != nil {
		return err
	}
	for args = args[1:]; len(args) > 0; args = args[1:] {
		name, value, ok := strings.Cut(args[0], "=")
		if !ok {
			break
		}
		r.Fields = append(r.Fields, Field{Name: name, Value: value})
	}
	if err := r.setWant(args); err != nil {
		return err
	}
	l.step.Requests = append(l.step.Requests, r)
	return nil
}

// setURL takes an URL apart, without judging what is in it.
func (r *Request) setURL(url string) error {
	scheme, rest, _ := strings.Cut(url, "://")
	if scheme != "http" && scheme != "https" {
		return fmt.Errorf("%q is not an URL of http or https", url)
	}
	r.Secure = scheme == "https"
	i := strings.IndexAny(rest, "/?")
	if i < 0 {
		i = len(rest)
	}
	if r.Host, r.Target = rest[:i], rest[i:]; !strings.HasPrefix(r.Target, "/") {
		r.Target = "/" + r.Target
	}
	return nil
}

// setWant reads what the answer must be.
func (r *Request) setWant(args []string) error {
	if len(args) == 0 {
		return errors.New("no status")
	}
	status, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("%q is not a status", args[0])
	}
	r.Want.Status = status
	for _, arg := range args[1:] {
		path, isPath := strings.CutPrefix(arg, "path=")
		switch {
		case isPath:
			r.Want.Path = path
		case status >= 300 && status < 400:
			r.Want.Location = arg
		default:
			name, port, _ := strings.Cut(arg, ":")
			if r.Want.Backend, err = parseName(name); err != nil {
				return err
			}
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return fmt.Errorf("%q has no port", arg)
			}
			r.Want.Port = uint16(n)
		}
	}
	if (status == 200) != (r.Want.Port != 0) {
		return errors.New("only an answer with 200 comes from a backend")
	}
	if status == 200 && r.Want.Path == "" {
		r.Want.Path, _, _ = strings.Cut(r.Target, "?")
	}
	return nil
}

// expect reads the other directives about what must hold.
func (l *loader) expect(verb string, args []string) error {
	s := l.step
	switch {
	case verb == "cert" && len(args) >= 2:
		e := CertExpect{Line: l.line, Host: args[0]}
		for _, arg := range args[1:] {
			if arg == "default" {
				continue
			}
			name, err := parseName(arg)
			if err != nil {
				return err
			}
			e.Secrets = append(e.Secrets, name)
		}
		s.Certs = append(s.Certs, e)
	case verb == "passthrough" && len(args) == 2:
		backend, port, _ := strings.Cut(args[1], ":")
		name, err := parseName(backend)
		if err != nil {
			return err
		}
		s.Passthrough = append(s.Passthrough, PassthroughExpect{Line: l.line, Host: args[0], Service: name, Port: port})
	case (verb == "problem" || verb == "asked") && len(args) == 3:
		name, err := parseName(args[1])
		if err != nil {
			return err
		}
		e := ProblemExpect{Line: l.line, Kind: args[0], Object: name, Reason: args[2]}
		if verb == "problem" {
			s.Problems = append(s.Problems, e)
		} else {
			s.Asked = append(s.Asked, e)
		}
	case verb == "served":
		s.Served = []service.Name{}
		for _, arg := range args {
			name, err := parseName(arg)
			if err != nil {
				return err
			}
			s.Served = append(s.Served, name)
		}
	default:
		return fmt.Errorf("directive %q is not known, or has too few or too many words", verb)
	}
	return nil
}
