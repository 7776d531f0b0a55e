// Package h1 is the grammar of HTTP/1.1 on the wire, read strictly.
//
// Two programs that read the same bytes differently are how requests get smuggled. So
// this package has one reading of everything and refuses what has two: a bare line feed, a folded
// field, a space before a colon, a length said twice, a length beside a
// transfer coding. What is accepted never travels on as it came; it is written anew.
//
// A Gate stands between a client's connection and net/http's server, which is more
// tolerant:
//
//	client ──bytes──▶ Gate ──"GET /17 HTTP/1.1"──▶ net/http ──▶ handler
//	                   │                                          │
//	                   └── request 17: fields as they came ◀──Of──┘
//
// The Gate parses each head and each body's framing itself and hands net/http a
// head of its own making, in which nothing but a checked method and the framing comes from the
// client. The handler asks with Of for the head that the client sent, by the number in that
// path. A request that breaks a rule gets a number, too: requests before it on
// the connection are answered first, its handler finds Refused set and answers with
// that status, and the connection ends.
//
// A server of our own takes requests from a Gate as they are parsed, by Next; see package wire.
//
// The rules are those of RFC 9110 and RFC 9112, on the strict side wherever there is a choice.
package h1
