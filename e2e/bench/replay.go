//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
)

// replay is an API server with no more to it than a proxy needs: get, list and
// watch (with or without initial events), in protobuf and JSON, over HTTPS with
// HTTP/2. Events that proxies post are taken and forgotten. Everybody may do
// everything.
type replay struct {
	store  *store
	codecs [numCodecs]codec
	log    *slog.Logger
	server *http.Server
	cancel context.CancelFunc // ends watches
	served sync.WaitGroup

	mu      sync.Mutex
	dropped chan struct{} // closed to end the watches that there are

	wholes atomic.Int64 // how often all of a resource was sent
}

// newReplay makes a server of the objects of a spec. Close it after serve.
func newReplay(s spec, log *slog.Logger) (*replay, error) {
	codecs, err := newCodecs()
	if err != nil {
		return nil, err
	}
	rp := &replay{store: newStore(s.objects()), codecs: codecs, log: log, dropped: make(chan struct{})}
	// A real API server has its objects encoded too, in etcd and in its cache.
	for _, t := range rp.store.tables {
		for _, r := range t.rows {
			if _, err := r.bytes(codecs[0]); err != nil {
				return nil, err
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	rp.cancel = cancel
	rp.server = &http.Server{
		Handler:           rp,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return rp, nil
}

// serve answers on a listener until close, which closes the listener.
func (rp *replay) serve(l net.Listener) error {
	cert, err := selfSigned()
	if err != nil {
		return errors.Join(fmt.Errorf("make a certificate: %w", err), l.Close())
	}
	rp.server.TLSConfig = cert
	rp.served.Go(func() {
		if err := rp.server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			rp.log.Error("replay API server ended", "err", err)
		}
	})
	return nil
}

// disconnect ends all watches, and forgets what a client would need in order to
// take one up where it ended: everybody has to read everything again.
func (rp *replay) disconnect() {
	rp.store.compact()
	rp.mu.Lock()
	defer rp.mu.Unlock()
	close(rp.dropped)
	rp.dropped = make(chan struct{})
}

func (rp *replay) drop() <-chan struct{} {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	return rp.dropped
}

func (rp *replay) close() error {
	rp.cancel()
	err := rp.server.Close()
	rp.served.Wait()
	return err
}

// writeKubeconfig writes a file that leads to the server at a host:port.
func writeKubeconfig(path, hostPort string) error {
	return os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: replay
  cluster:
    server: https://%s
    insecure-skip-tls-verify: true
users:
- name: proxy
  user: {token: bench}
contexts:
- name: bench
  context: {cluster: replay, user: proxy}
current-context: bench
`, hostPort), 0o600)
}

// request is what a URL asks for.
type request struct {
	gvr             schema.GroupVersionResource
	namespace, name string
	labels          labels.Selector
	fields          fields.Selector
	options         metav1.ListOptions
	timeout         time.Duration // of a watch; 0 is none
}

// parsePath splits /api/v1/... and /apis/group/version/... paths.
func parsePath(path string) (request, bool) {
	var q request
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		q.gvr.Version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		q.gvr.Group, q.gvr.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return q, false
	}
	if len(parts) >= 3 && parts[0] == "namespaces" {
		q.namespace, parts = parts[1], parts[2:]
	}
	q.gvr.Resource = parts[0]
	if len(parts) > 1 {
		q.name = parts[1]
	}
	return q, len(parts) <= 2
}

func (q *request) parseOptions(r *http.Request) error {
	err := metav1.Convert_url_Values_To_v1_ListOptions(new(r.URL.Query()), &q.options, nil)
	if err != nil {
		return err
	}
	if q.labels, err = labels.Parse(q.options.LabelSelector); err != nil {
		return err
	}
	if q.options.TimeoutSeconds != nil {
		q.timeout = time.Duration(*q.options.TimeoutSeconds) * time.Second
	}
	q.fields, err = fields.ParseSelector(q.options.FieldSelector)
	return err
}

func (q *request) matches(o object) bool {
	if q.namespace != "" && q.namespace != o.GetNamespace() {
		return false
	}
	names := fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()}
	return q.labels.Matches(labels.Set(o.GetLabels())) && q.fields.Matches(names)
}

func (rp *replay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, ok := parsePath(r.URL.Path)
	switch {
	case ok && q.gvr.Resource == "events" && r.Method != http.MethodGet:
		acceptEvent(w, r)
		return
	case r.URL.Path == "/version":
		w.Header().Set("Content-Type", runtime.ContentTypeJSON)
		io.WriteString(w, `{"major":"1","minor":"36","gitVersion":"v1.36.3","platform":"linux/amd64"}`)
		return
	}
	c, acceptable := negotiate(rp.codecs, r.Header.Get("Accept"))
	kind, known := rp.store.kindOf(q.gvr)
	switch {
	case !ok || !known:
		rp.log.Info("not found", "method", r.Method, "url", r.URL.String())
		rp.fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "no such resource")
	case r.Method != http.MethodGet:
		rp.fail(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "read only")
	case !acceptable:
		rp.fail(w, http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only protobuf and JSON")
	default:
		if err := q.parseOptions(r); err != nil {
			rp.fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
			return
		}
		rp.read(w, r, answer{q, c, kind})
	}
}

// answer is how to answer a request.
type answer struct {
	request
	codec codec
	kind  schema.GroupVersionKind
}

func (rp *replay) read(w http.ResponseWriter, r *http.Request, a answer) {
	var err error
	switch {
	case a.name != "":
		err = rp.serveGet(w, a)
	case a.options.Watch:
		err = rp.serveWatch(w, r, a)
	default:
		err = rp.serveList(w, a)
	}
	if err != nil && r.Context().Err() == nil {
		rp.log.Info("request ended early", "url", r.URL.String(), "err", err)
	}
}

func (rp *replay) serveGet(w http.ResponseWriter, a answer) error {
	r := rp.store.get(a.gvr, a.namespace, a.name)
	if r == nil {
		rp.fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, a.name+" not found")
		return nil
	}
	data, err := r.bytes(a.codec)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", a.codec.contentType())
	_, err = w.Write(data)
	return err
}

// serveList answers with everything at once, whatever limit was asked for, as an
// API server does for resourceVersion=0.
func (rp *replay) serveList(w http.ResponseWriter, a answer) error {
	rows, number := rp.store.list(a.gvr)
	rp.wholes.Add(1)
	kind := a.kind.GroupVersion().WithKind(a.kind.Kind + "List")
	list, err := scheme.Scheme.New(kind)
	if err != nil {
		return err
	}
	list.GetObjectKind().SetGroupVersionKind(kind)
	items := make([]runtime.Object, 0, len(rows))
	for _, r := range rows {
		if a.matches(r.object) {
			items = append(items, r.object)
		}
	}
	if err := meta.SetList(list, items); err != nil {
		return err
	}
	m, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	m.SetResourceVersion(strconv.FormatInt(number, 10))
	data, err := a.codec.encode(list)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", a.codec.contentType())
	_, err = w.Write(data)
	return err
}

func (rp *replay) serveWatch(w http.ResponseWriter, r *http.Request, a answer) error {
	ctx := r.Context()
	if a.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
	}
	wants := a.options.SendInitialEvents != nil && *a.options.SendInitialEvents
	number, err := strconv.ParseInt(a.options.ResourceVersion, 10, 64)
	fresh := wants || a.options.ResourceVersion == "" || number == 0
	switch {
	case err != nil && a.options.ResourceVersion != "":
		rp.fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "resourceVersion: "+err.Error())
		return nil
	case !fresh && number < rp.store.oldest():
		rp.fail(w, http.StatusGone, metav1.StatusReasonExpired, "too old resource version")
		return nil
	}
	w.Header().Set("Content-Type", a.codec.streamType())
	w.WriteHeader(http.StatusOK)
	events := a.codec.newEventWriter(w)
	if fresh {
		if number, err = rp.sendInitial(events, a, wants); err != nil {
			return err
		}
	}
	return rp.follow(ctx, w, a, number)
}

// sendInitial writes the present state and returns the number it is current at.
func (rp *replay) sendInitial(w eventWriter, a answer, bookmark bool) (int64, error) {
	rows, number := rp.store.list(a.gvr)
	rp.wholes.Add(1)
	for _, r := range rows {
		if !a.matches(r.object) {
			continue
		}
		if err := w.writeRevision(watch.Added, r); err != nil {
			return 0, err
		}
	}
	if !bookmark {
		return number, nil
	}
	o, err := scheme.Scheme.New(a.kind)
	if err != nil {
		return 0, err
	}
	o.GetObjectKind().SetGroupVersionKind(a.kind)
	m, err := meta.Accessor(o)
	if err != nil {
		return 0, err
	}
	m.SetResourceVersion(strconv.FormatInt(number, 10))
	m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	data, err := a.codec.encode(o)
	if err != nil {
		return 0, err
	}
	return number, w.write(watch.Bookmark, data)
}

// follow writes changes until ctx ends or the client goes away.
func (rp *replay) follow(ctx context.Context, w http.ResponseWriter, a answer, number int64) error {
	flush := http.NewResponseController(w)
	events := a.codec.newEventWriter(w)
	dropped := rp.drop()
	for {
		if err := flush.Flush(); err != nil {
			return err
		}
		changes, changed := rp.store.since(a.gvr, number)
		if len(changes) == 0 {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil
			case <-dropped:
				return nil
			}
		}
		for _, r := range changes {
			number = r.number
			if !a.matches(r.object) {
				continue
			}
			r.markSent(time.Now())
			if err := events.writeRevision(r.event, r); err != nil {
				return err
			}
		}
	}
}

// acceptEvent says that an Event was stored. A POST gets its own body back; a
// PATCH, whose body is no Event, gets an empty one.
func acceptEvent(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if r.Method == http.MethodPost {
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.WriteHeader(http.StatusCreated)
		w.Write(body)
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	io.WriteString(w, `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"taken"}}`)
}

// fail answers with a Status.
func (rp *replay) fail(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	}
	data, err := rp.codecs[numCodecs-1].encode(&status)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(code)
	w.Write(data)
}
