// Package wire serves HTTP/1.1 from connections that an h1.Gate reads: it makes an Exchange of each request as the Gate has
// parsed it, and writes the answer that a Handler has put into it.
//
//	h1.Gate ──request──▶ conn ──Exchange──▶ Handler
//	   ▲                  │                    │
//	   └──one write for head and small body────┘
//
// There is one goroutine for each connection. A request that takes a moment gets a second one, which waits for the client to go;
// see watchman. Nothing is parsed twice, and fields go out in the order and the case in which they came.
//
// The same Handler is served by net/http in package std, which makes the connections for this package, too.
package wire
