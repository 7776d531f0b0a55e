package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	l7watch "github.com/fairlead-project/fairlead/l7/kube/watch"
	"github.com/fairlead-project/fairlead/service"
)

// lastWrites is how long a process that has drained goes on to take the addresses out of the status of Ingresses, if nobody will
// serve them any more.
const lastWrites = 15 * time.Second

// lead starts what only one of several processes does: status and Events.
func (p *l7Process) lead(ctx context.Context) {
	if p.client == nil || !p.flags.UpdateStatus {
		return
	}
	writer := &l7watch.StatusWriter{Kind: p.statuses, Log: p.log}
	leadership := &l7watch.Leadership{
		Client: p.elect, Lease: p.cfg.lease, Identity: p.identity(), Log: p.log,
		Tasks: []func(context.Context){writer.Lead, p.announce.Lead, p.greeter.Lead},
	}
	siblings := p.siblings()
	switch {
	case p.cfg.publish.Name != "":
		publisher := &l7watch.Publisher{Client: p.client, Service: p.cfg.publish, Log: p.log, Publish: p.statuses.Publish}
		p.start(ctx, func(ctx context.Context) error { publisher.Run(ctx); return nil })
	case len(p.cfg.addresses) > 0:
		p.statuses.Publish(p.cfg.addresses)
	case siblings != nil:
		siblings.Publish = p.statuses.Publish
	default:
		p.log.Info("no addresses are written into the status of Ingresses: there is neither --publish-service nor --publish-status-address, " +
			"and POD_NAMESPACE and POD_NAME do not say whose nodes' they would be")
	}
	if siblings != nil {
		leadership.Tasks = append(leadership.Tasks, siblings.Lead)
	}
	p.start(ctx, leadership.Run)
}

// siblings returns what knows the pods that run L7, or nil where that is not to be known or not wanted.
func (p *l7Process) siblings() *l7watch.Siblings {
	pod := service.Name{Namespace: os.Getenv("POD_NAMESPACE"), Name: os.Getenv("POD_NAME")}
	published := p.cfg.publish.Name != "" || len(p.cfg.addresses) > 0
	if pod.Namespace == "" || pod.Name == "" || published && !p.flags.ClearStatus {
		return nil
	}
	s := &l7watch.Siblings{Client: p.client, Pod: pod, Log: p.log, Internal: p.flags.InternalAddress}
	if p.flags.ClearStatus {
		s.Alone = p.statuses.Alone
	}
	return s
}

// leave says that the process has been told to stop.
func (p *l7Process) leave() {
	if p.statuses != nil {
		p.statuses.Leave()
	}
}

// left waits for what there is to be written because of that.
func (p *l7Process) left(ctx context.Context) {
	if p.statuses == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastWrites)
	defer cancel()
	p.statuses.Settle(ctx)
}

// identity is a name that no other process has, not even one after the other.
func (p *l7Process) identity() string {
	return fmt.Sprintf("%s_%d_%d", cmp.Or(os.Getenv("POD_NAME"), p.node), os.Getpid(), time.Now().UnixNano())
}
