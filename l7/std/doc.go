// Package std accepts clients, sees to TLS, PROXY protocol and passthrough, and hands each connection to who speaks its
// protocol: HTTP/2 to net/http, and HTTP/1.1 to package wire or, if that is wanted, to net/http as well.
//
//	listener ─▶ PROXY protocol ─▶ ┌ plain text ─────────────────────────────▶ h1.Gate ─┐
//	                              └ TLS: SNI passthrough? ─▶ handshake ─┬────▶ h1.Gate ─┴─▶ wire ─────▶ Handler
//	                                                                    └─▶ h2 ───────────▶ net/http ─▶ Handler
//
// HTTP/1.1 is parsed strictly by package h1 either way: with Config.NetHTTP, net/http sees requests in the Gate's words only.
// Everything above an Exchange is the Handler's: another server beside these needs nothing new from policies.
package std
