// Package std is the HTTP engine on top of net/http: it accepts clients, checks what they send, makes an
// Exchange of each request, and writes the answer that a Handler has put into it.
//
//	listener ─▶ PROXY protocol ─▶ ┌ plain text ─────────────────▶ h1.Gate ─┐
//	                              └ TLS: SNI passthrough? ─▶ handshake ─┬─▶ h1.Gate ─┤─▶ net/http ─▶ Handler
//	                                                                    └─▶ h2 ──────┘
//
// HTTP/1.1 is parsed strictly by package h1 before net/http sees it, and HTTP/2 by net/http alone.
// Everything above an Exchange is the Handler's: another engine beside this one needs nothing new from policies.
package std
