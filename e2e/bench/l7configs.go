//go:build linux

package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// fairleadL7 writes a folder of manifests: a Service, and an Ingress for each ten hosts.
func fairleadL7(a *l7Arena, p *l7Process) ([]string, error) {
	var b strings.Builder
	b.WriteString(`apiVersion: v1
kind: Service
metadata: {name: web, namespace: bench}
spec: {type: ClusterIP, clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ipFamilies: [IPv4], ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, namespace: bench, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
`)
	fmt.Fprintf(&b, "ports: [{name: http, port: %d}]\nendpoints:\n", l7BackendPort)
	for _, addr := range a.pods {
		fmt.Fprintf(&b, "- {addresses: [%s], nodeName: n1, conditions: {ready: true, serving: true, terminating: false}}\n", addr)
	}
	// Nobody may resume a session, as with the others.
	fmt.Fprintf(&b, `---
apiVersion: v1
kind: ConfigMap
metadata: {name: config, namespace: bench}
data: {ssl-session-tickets: "false"}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: fairlead}
spec: {controller: fairlead.io/ingress}
---
apiVersion: v1
kind: Secret
metadata: {name: tls, namespace: bench}
type: kubernetes.io/tls
data: {tls.crt: %s, tls.key: %s}
`, base64.StdEncoding.EncodeToString(a.cert.cert), base64.StdEncoding.EncodeToString(a.cert.key))
	for i, host := range p.hosts {
		if i%10 == 0 {
			fmt.Fprintf(&b, "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i%05d, namespace: bench}\n", i)
			b.WriteString("spec:\n  ingressClassName: fairlead\n  rules:\n")
		}
		fmt.Fprintf(&b, "  - {host: %s, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}\n", host)
	}
	args := []string{
		"l7", "--manifests=" + p.dir, "--hostname-override=n1", "--configmap=bench/config", "--default-ssl-certificate=bench/tls",
		fmt.Sprintf("--http-bind-address=:%d", p.http), fmt.Sprintf("--https-bind-address=:%d", p.tls),
		fmt.Sprintf("--metrics-bind-address=127.0.0.1:%d", p.metrics), "--healthz-bind-address=", "--status-bind-address=",
		fmt.Sprintf("--access-log=%t", p.accessLog), fmt.Sprintf("--profiling=%t", p.profiled),
	}
	return args, os.WriteFile(filepath.Join(p.dir, "all.yaml"), []byte(b.String()), 0o644)
}

// fairleadStd is fairleadL7 with net/http as its server of HTTP/1.1.
func fairleadStd(a *l7Arena, p *l7Process) ([]string, error) {
	args, err := fairleadL7(a, p)
	return append(args, "--http-engine=std"), err
}

// nginxDirectives are those that ingress-nginx 1.x writes for a location whose Ingress has no annotations.
const nginxDirectives = `proxy_http_version 1.1;
proxy_set_header Host $http_host;
proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection $connection_upgrade;
proxy_set_header X-Request-ID $request_id;
proxy_set_header X-Real-IP $remote_addr;
proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Forwarded-Host $http_host;
proxy_set_header X-Forwarded-Port $server_port;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Forwarded-Scheme $scheme;
proxy_set_header X-Scheme $scheme;
proxy_set_header X-Original-Forwarded-For $http_x_forwarded_for;
proxy_set_header Proxy "";
proxy_connect_timeout 5s; proxy_send_timeout 60s; proxy_read_timeout 60s;
proxy_request_buffering on; proxy_max_temp_file_size 1024m;
proxy_cookie_domain off; proxy_cookie_path off;
proxy_next_upstream error timeout; proxy_next_upstream_timeout 0; proxy_next_upstream_tries 3;
client_max_body_size 1m;
`

// nginxPlain has the buffers of ingress-nginx.
func nginxPlain(a *l7Arena, p *l7Process) ([]string, error) {
	return nginxWith(a, p, "proxy_buffering off; proxy_buffer_size 4k; proxy_buffers 4 4k;\n")
}

// nginxTuned has buffers for large answers.
func nginxTuned(a *l7Arena, p *l7Process) ([]string, error) {
	return nginxWith(a, p, "proxy_buffering on; proxy_buffer_size 64k; proxy_buffers 16 64k; proxy_busy_buffers_size 256k;\n")
}

func nginxWith(a *l7Arena, p *l7Process, buffers string) ([]string, error) {
	logged := "access_log off;"
	if p.accessLog {
		logged = "access_log /dev/null upstreaminfo;"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `daemon off; worker_processes 2; pid %[1]s/pid; error_log stderr; worker_rlimit_nofile 65536;
events { multi_accept on; worker_connections 16384; use epoll; }
http {
  sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_timeout 75s; keepalive_requests 1000000;
  server_names_hash_max_size 65536; server_names_hash_bucket_size 128; server_tokens off; reset_timedout_connection on;
  proxy_temp_path %[1]s/temp; client_body_temp_path %[1]s/body;
  log_format upstreaminfo '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $request_length $request_time [$server_name] [] $upstream_addr $upstream_response_length $upstream_response_time $upstream_status $request_id';
  %[2]s
  ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off; ssl_session_tickets off; ssl_buffer_size 4k;
  ssl_certificate %[3]s; ssl_certificate_key %[4]s;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  upstream web {
`, p.dir, logged, a.cert.certFile, a.cert.keyFile)
	for _, addr := range a.pods {
		fmt.Fprintf(&b, "    server %s:%d max_fails=0;\n", addr, l7BackendPort)
	}
	b.WriteString("    keepalive 320; keepalive_time 1h; keepalive_timeout 60s; keepalive_requests 10000;\n  }\n")
	location := filepath.Join(p.dir, "location.conf")
	for _, host := range p.hosts {
		fmt.Fprintf(&b, "  server { listen %d; listen %d ssl; server_name %s; location / { include %s; proxy_pass http://web; } }\n",
			p.http, p.tls, host, location)
	}
	b.WriteString("}\n")
	if err := os.WriteFile(location, []byte(nginxDirectives+buffers), 0o644); err != nil {
		return nil, err
	}
	file := filepath.Join(p.dir, "nginx.conf")
	return []string{"-c", file, "-p", p.dir}, os.WriteFile(file, []byte(b.String()), 0o644)
}

// haproxyL7 is HAProxy with a thread for each CPU, splicing answers, and a map from host to backend.
func haproxyL7(a *l7Arena, p *l7Process) ([]string, error) {
	logged := ""
	if p.accessLog {
		logged = "  " + haproxyLogged + "\n"
	}
	var b, hosts strings.Builder
	for _, host := range p.hosts {
		fmt.Fprintf(&hosts, "%s web\n", host)
	}
	list := filepath.Join(p.dir, "hosts.map")
	fmt.Fprintf(&b, `global
  maxconn 4000
  nbthread 2
  tune.pipesize 1048576
  tune.ssl.cachesize 0
  log stdout format raw daemon
  ssl-default-bind-options no-tls-tickets ssl-min-ver TLSv1.2
defaults
  mode http
%s  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 75s
  option splice-response
  option forwardfor
  http-reuse always
frontend in
  bind :%d
  bind :%d ssl crt %s alpn h2,http/1.1
  http-request set-header X-Forwarded-Proto %%[ssl_fc,iif(https,http)]
  http-request set-header X-Forwarded-Host %%[req.hdr(host)]
  http-request set-header X-Forwarded-Port %%[dst_port]
  http-request set-header X-Real-IP %%[src]
  unique-id-format %%[uuid()]
  http-request set-header X-Request-ID %%[unique-id]
  use_backend %%[req.hdr(host),field(1,:),lower,map(%s)]
backend web
`, logged, p.http, p.tls, a.cert.bothFile, list)
	for i, addr := range a.pods {
		fmt.Fprintf(&b, "  server s%d %s:%d\n", i, addr, l7BackendPort)
	}
	file := filepath.Join(p.dir, "haproxy.cfg")
	if err := os.WriteFile(list, []byte(hosts.String()), 0o644); err != nil {
		return nil, err
	}
	return []string{"-db", "-f", file}, os.WriteFile(file, []byte(b.String()), 0o644)
}
