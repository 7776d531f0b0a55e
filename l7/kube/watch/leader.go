package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/fairlead-project/fairlead/service"
	servicewatch "github.com/fairlead-project/fairlead/service/kube/watch"
)

// The times of the election are those of the Kubernetes control plane.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// A Leadership makes one of several processes the leader, by a Lease, and has it do what
// only one may do.
type Leadership struct {
	// Client, required, should have a limit of requests of its own: a leader that
	// waits behind its own writes loses the Lease.
	Client   kubernetes.Interface
	Lease    service.Name // required
	Identity string       // required; no two processes have the same, not even one after the other
	Log      *slog.Logger // required

	// Tasks are run while this process leads. They return soon after ctx is done,
	// and before that only if there is nothing left to do.
	Tasks []func(ctx context.Context)

	// Changed, if not nil, hears whether this process leads.
	Changed func(leading bool)
}

// Validate returns what is missing.
func (l *Leadership) Validate() error {
	var errs []error
	if l.Client == nil || l.Log == nil {
		errs = append(errs, errors.New("the Client and Log are required"))
	}
	if l.Lease.Namespace == "" || l.Lease.Name == "" {
		errs = append(errs, fmt.Errorf("the Lease %q has no namespace or no name", l.Lease))
	}
	if l.Identity == "" {
		errs = append(errs, errors.New("the Identity is empty"))
	}
	return errors.Join(errs...)
}

// Run takes part in elections until ctx is done, and then returns nil. It gives the
// Lease back only when the tasks have ended, so that no two processes ever lead.
func (l *Leadership) Run(ctx context.Context) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	for ctx.Err() == nil {
		if err := l.term(ctx); err != nil {
			return fmt.Errorf("leader election: %w", err)
		}
	}
	return nil
}

// term is one candidacy, and the leadership that may come of it.
func (l *Leadership) term(ctx context.Context) error {
	elected := make(chan context.Context, 1)
	elector, err := l.elector(elected)
	if err != nil {
		return err
	}
	campaign, end := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(over)
		elector.Run(servicewatch.QuietContext(campaign, l.Log))
	})
	select {
	case <-ctx.Done():
	case <-over:
	case leading := <-elected:
		l.lead(ctx, leading)
	}
	end()
	wg.Wait()
	return nil
}

func (l *Leadership) elector(elected chan<- context.Context) (*leaderelection.LeaderElector, error) {
	return leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &lock{log: l.Log, Interface: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: l.Lease.Namespace, Name: l.Lease.Name},
			Client:     l.Client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: l.Identity},
		}},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Name:            l.Lease.String(),
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) { elected <- leading },
			OnStoppedLeading: func() {},
			OnNewLeader: func(id string) {
				if id != l.Identity {
					l.Log.Info("another process leads, and writes status and Events", "leader", id)
				}
			},
		},
	})
}

// lead runs the tasks until the Lease is lost or ctx is done.
func (l *Leadership) lead(ctx, leading context.Context) {
	l.Log.Info("this process leads, and writes status and Events", "lease", l.Lease.String())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(leading, cancel)()
	if l.Changed != nil {
		l.Changed(true)
		defer l.Changed(false)
	}
	var wg sync.WaitGroup
	for _, task := range l.Tasks {
		wg.Go(func() { task(ctx) })
	}
	<-ctx.Done()
	wg.Wait()
	if leading.Err() != nil {
		l.Log.Warn("this process has lost the lease, and leads no more", "lease", l.Lease.String())
	}
}

// A lock is a resource lock that says when it begins to fail and when it works again,
// which the election itself keeps for level 4.
type lock struct {
	resourcelock.Interface
	log     *slog.Logger
	failing atomic.Bool
}

// Get reads the record.
func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	r, raw, err := l.Interface.Get(ctx)
	if !apierrors.IsNotFound(err) {
		l.note(ctx, err)
	}
	return r, raw, err
}

// Create writes the first record.
func (l *lock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Create(ctx, r)
	l.note(ctx, err)
	return err
}

// Update writes another record.
func (l *lock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Update(ctx, r)
	l.note(ctx, err)
	return err
}

// note logs a change. A conflict is a lost race, not a failure.
func (l *lock) note(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
	case err == nil:
		if l.failing.CompareAndSwap(true, false) {
			l.log.Info("leader election works again", "lease", l.Describe())
		}
	case l.failing.CompareAndSwap(false, true):
		l.log.Warn("leader election fails; status and Events are not written by this process", "lease", l.Describe(), "err", err)
	}
}
