package relay

import "time"

// deadlines is a heap of the connections that wait for an answer to their attempt
// to connect, the one with the nearest deadline first. Times are since the Engine
// was made.
type deadlines []*conn

func (d deadlines) less(i, j int) bool { return d[i].deadline < d[j].deadline }

func (d deadlines) swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].place, d[j].place = int32(i), int32(j)
}

func (d *deadlines) add(c *conn, at time.Duration) {
	c.deadline, c.place = at, int32(len(*d))
	*d = append(*d, c)
	d.up(len(*d) - 1)
}

// remove takes c out, if it is in.
func (d *deadlines) remove(c *conn) {
	i, last := int(c.place), len(*d)-1
	if i < 0 {
		return
	}
	if i != last {
		d.swap(i, last)
	}
	(*d)[last] = nil
	*d = (*d)[:last]
	c.place = -1
	if i != last {
		d.down(i)
		d.up(i)
	}
}

func (d deadlines) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !d.less(i, parent) {
			return
		}
		d.swap(i, parent)
		i = parent
	}
}

func (d deadlines) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(d) {
			return
		}
		if child+1 < len(d) && d.less(child+1, child) {
			child++
		}
		if !d.less(child, i) {
			return
		}
		d.swap(i, child)
		i = child
	}
}
