package policy

// The reasons that stand in Response.Reason when a policy has answered. They are words for
// logs and metrics, and stand on the proxy's own pages. Those of authentication are verdicts, and no other policy touches them.
const (
	ReasonRefused        = "refused"         // the rule is closed until its Ingress is mended
	ReasonHTTPSRedirect  = "https-redirect"  //
	ReasonRedirect       = "redirect"        // temporal or permanent
	ReasonWWWRedirect    = "www-redirect"    //
	ReasonAppRoot        = "app-root"        //
	ReasonSlashRedirect  = "slash-redirect"  //
	ReasonBadRedirect    = "bad-redirect"    // the request has nothing to make a Location of
	ReasonBadRewrite     = "bad-rewrite"     // the rewritten path is none
	ReasonDenied         = "denied"          // by source address
	ReasonPreflight      = "cors-preflight"  //
	ReasonRateLimit      = "rate-limited"    //
	ReasonConnLimit      = "too-many-open"   // concurrent requests
	ReasonAuthMissing    = "auth-missing"    // no credentials, or none that can be read
	ReasonAuthFailed     = "auth-failed"     // wrong credentials
	ReasonAuthBusy       = "auth-busy"       // too many passwords are being checked
	ReasonAuthBroken     = "auth-broken"     // the Secret is missing or bad
	ReasonAuthExternal   = "auth-external"   // what the other server said
	ReasonAuthSignIn     = "auth-sign-in"    // on the way to the sign-in page
	ReasonAuthUnanswered = "auth-unanswered" // the other server said nothing that counts
	ReasonBodyTooLarge   = "body-too-large"  //
	ReasonBodyTimeout    = "body-timeout"    //
	ReasonBodyBroken     = "body-broken"     // the client sent less than it had said
)
