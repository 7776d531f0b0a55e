// Package certs is the TLS that clients speak to us: certificates from Secrets,
// which of them a ClientHello gets, session tickets, and what a handshake may cost.
//
//	pair, err := certs.Parse(secret["tls.crt"], secret["tls.key"])
//	table := certs.NewTable()
//	table.Set(map[string][]*certs.Pair{"shop.example.com": {pair}}, certs.Default{Pairs: …})
//	config, warnings := certs.ServerConfig(settings, table)
//	listener → limiter.Wrap(conn) → tls.Server(conn, config)
//
// A certificate is chosen by server name: the exact one, then the wildcard of one
// label, then the default. Of several for one name that counts which the client
// understands, ECDSA before RSA. A new [Table] content is in force for the next
// handshake; connections that stand go on.
//
// # Session tickets
//
// [Tickets] makes the keys of one trust domain: hosts that ask for no client
// certificates are one, those that trust the same client CAs are another. A
// session must not be resumed in another domain than it was made in, since resuming
// skips the client's certificate; domains therefore never share keys, not even when all are derived from
// one Secret; and hosts with client certificates had better have no tickets at all. With such a Secret a session made on one node is resumed by any other.
//
// # TLS that is not ours
//
// [PeekSNI] reads the server name from a connection whose TLS ends at a backend.
package certs
