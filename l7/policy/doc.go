// Package policy holds what may stand between a client and a backend: redirects, access lists, limits, authentication, header
// fields, compression, custom errors. Each is a small value of Config, compiled by
// Compile into stages and filters of package exchange, in one documented order. A rule without policies has an
// empty Pipeline and costs nothing.
//
// # What an engine does
//
// The calls stand at Pipeline. Besides, an engine
//
//   - closes the connection or drains the body when a request is refused before its body was read;
//   - answers with TooLarge when reading the body fails with ErrBodyTooLarge and no answer has begun;
//   - may rewind a Body that is a *bytes.Reader, to ask another endpoint;
//   - sends Request.RawHost as the Host, which policies may have changed; Request.Host stays what was asked for;
//   - writes its own Server field unless Pipeline.Server says otherwise;
//   - calls CleanTrailer on trailers of answers;
//   - breaks the client's connection off when reading an answer's Body fails: a compressed one has no end then.
//
// # Whose word counts
//
// Nothing that a user writes is ever pasted into anything: names and values of fields are checked against the grammar of HTTP when
// they are compiled, places to go to are templates of literal text and known variables, and what comes of those is escaped
// and looked at again. What clients say about themselves (X-Forwarded-For and its kin, in any spelling, in front of the body
// or behind it) counts if a trusted proxy says it, see Forwarder, and is removed if not.
//
// Verdicts of authentication are final. Whatever a policy cannot find out, it refuses: an address that is not known is in no
// list, a Secret that is missing lets nobody in, and a server that does not answer has not said yes.
//
// # Where this is not ingress-nginx
//
//   - OPTIONS is answered as a preflight if it is one (Origin and Access-Control-Request-Method), else the backend answers it.
//   - A backend's own Access-Control fields are replaced where CORS is on.
//   - With satisfy: any and both kinds of authentication, both are asked; an allowed address still needs none.
//   - The server of external authentication is verified if it speaks TLS, may not be on this machine or on link-local
//     addresses unless that is allowed, gets no conditional or range fields, and its 401 and 403 keep their body.
//   - A custom error page cannot change the status, nor anything that authentication has said.
//   - X-Forwarded-Port is the port that the client spoke to by its own word, not the listener's, which a Service in front changes.
package policy
