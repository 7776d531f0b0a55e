package upstream

import (
	"context"
	"net"
	"time"
)

// Join joins two connections of which neither is ours to read, as Tunnel does: for TLS that is passed through. Both are closed
// on return.
func (c *Client) Join(ctx context.Context, client, endpoint net.Conn, idle time.Duration) (Traffic, error) {
	defer client.Close()
	defer endpoint.Close()
	c.Stats.Tunnels.Add(1)
	defer c.Stats.Tunnels.Add(-1)
	j := joint{idle: idle, ends: [2]side{sideOf(client), sideOf(endpoint)}}
	defer context.AfterFunc(ctx, j.cut)()
	return j.run(ctx, nil, nil)
}
