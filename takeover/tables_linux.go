package takeover

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the table of kube-proxy in nftables mode, in each family.
const tableName = "kube-proxy"

// Tables are the tables of nftables, in the network namespace of the calling thread.
// The zero value is ready for use.
type Tables struct{}

// open returns the tables of kube-proxy that exist. A kernel without nf_tables has
// none.
func (Tables) open() (*nftables.Conn, []*nftables.Table, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, nil, fmt.Errorf("reach nf_tables: %w", err)
	}
	var out []*nftables.Table
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		all, err := c.ListTablesOfFamily(f)
		if lacking(err) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("list tables of nf_tables: %w", err)
		}
		for _, t := range all {
			if t.Name == tableName && t.Family == f {
				out = append(out, t)
			}
		}
	}
	return c, out, nil
}

// lacking reports whether an error says that the kernel has no nf_tables.
func lacking(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOENT)
}

// Remove deletes kube-proxy's tables, each with all it holds at once, and returns how
// many there were.
func (t Tables) Remove() (int, error) {
	c, tables, err := t.open()
	if err != nil || len(tables) == 0 {
		return 0, err
	}
	for _, table := range tables {
		c.DelTable(table)
	}
	if err := c.Flush(); err != nil {
		return 0, fmt.Errorf("delete the table %s of nf_tables: %w", tableName, err)
	}
	return len(tables), nil
}

// Shield excepts packets with a mark from what kube-proxy's tables do before a packet
// leaves: they translate, and refuse what goes to a cluster IP and has not been
// translated.
func (t Tables) Shield(mark uint32) error {
	c, tables, err := t.open()
	if err != nil || len(tables) == 0 {
		return err
	}
	for _, table := range tables {
		chains, err := c.ListChainsOfTableFamily(table.Family)
		if err != nil {
			return fmt.Errorf("list chains of nf_tables: %w", err)
		}
		for _, chain := range chains {
			if chain.Table.Name != tableName || chain.Hooknum == nil || *chain.Hooknum == *nftables.ChainHookPostrouting {
				continue
			}
			c.InsertRule(&nftables.Rule{
				Table: table, Chain: chain,
				Exprs: []expr.Any{
					&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
					&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(mark), Xor: native(0)},
					&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)},
					&expr.Verdict{Kind: expr.VerdictAccept},
				},
			})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("except marked packets from the table %s of nf_tables: %w", tableName, err)
	}
	return nil
}
