// Package ingresstest is the corpus of Ingress behaviour: cases that a Kubernetes person can
// read, a loader, and a harness that asks a Model instead of a running proxy. What plays the cases
// against a real process uses the same loader, and expects the same.
//
// A case is one txtar file in corpus/. Its comment lines say what it shows; its directives say
// what must be true; its sections hold Kubernetes YAML.
//
//	# One sentence: what this case shows.
//	covers 2.2/exact
//	config nginx without-class
//	service default/web 80 metrics:9090
//	secret default/tls foo.com *.foo.com
//	objects web.yaml
//	request http://foo.com/a       200 default/web:80
//	request POST http://foo.com/b X-Canary=always  200 default/canary:80 path=/c
//	request https://foo.com/c?d    308 https://foo.com/d
//	request http://other.com/      404
//	cert foo.com default/tls
//	problem Ingress default/web Conflict
//	step the other Ingress goes
//	delete Ingress default/old
//	request …
//	-- web.yaml --
//	…
//
// The directives:
//
//	covers   rows of corpus/COVERAGE.md this case is evidence for
//	config   options of the process, see Config; optional, at most once, first
//	globals  KEY=VALUE of the ConfigMap with defaults; optional, first
//	service  NAMESPACE/NAME [NAME:]PORT[/udp]… [external=HOST] [headless] [empty]: a Service, with one
//	         endpoint for each port unless it is empty; in force from this step on
//	secret   NAMESPACE/NAME HOST… [rsa] [type=TYPE] [broken]: a certificate, by default ECDSA
//	objects  sections to put in force, in order; one of the same kind and name replaces
//	delete   KIND NAMESPACE/NAME: an object of an earlier step goes away
//	step     ends the current step; what follows holds after its objects and deletes
//	request  [METHOD] URL [FIELD=VALUE…] STATUS [SERVICE:PORT] [path=PATH]: who answers, by the number of the
//	         Service's port, and which path it sees if that is not the one asked for
//	request  [METHOD] URL [FIELD=VALUE…] STATUS LOCATION: a redirect
//	cert     HOST SECRET… or HOST default: the certificates for this name
//	passthrough  HOST SERVICE:PORT: connections that go on undecrypted
//	problem  KIND NAMESPACE/NAME REASON
//	served   NAMESPACE/NAME…: all Ingresses that get a status
//
// Problems and passthroughs of a step are listed completely: what is not written must not be there. So are the served
// Ingresses if there is the directive. Problems that only show when backends are asked
// (BackendNotFound and the like) are listed too, with the directive asked, which the
// harness of this package does not read.
//
// IngressClasses "fairlead" and, with config nginx, "nginx" exist unless a case has classes of its own.
package ingresstest
