// Package exchangetest is what the tests of servers of HTTP/1.1 have in common: a handler made
// of functions, the client's side of a conversation, and conversations with slow clients that
// every such server has to bear, with net/http behind a Gate or without.
package exchangetest
