// Package status is a page on which operators see what L7 has in force: hosts with their routes, backends with the
// health of their endpoints, certificates with their ends, and what is wrong.
//
// The Handler answers two paths: / is HTML that needs neither scripts nor anything from elsewhere, /status.json is the
// same as JSON; see Document. Only clients in a list of addresses get an answer. The page tells names, addresses
// and paths of all tenants and nothing secret: no keys, no header values, no passwords.
//
// # HTML
//
// ?q=WORD shows the rows that have the word in them, ?page=N the N-th part of long lists; both are worked out here. With scripts, rows
// go while one types. Cells with a state have it in the attribute data-state.
package status
