package xt

import "strings"

// exactPrint begins the fingerprints that tell every change.
const exactPrint = "generation "

// Exact reports whether a fingerprint is another one after every change of the tables,
// whoever made it, as that of the nft variant is. That of the legacy variant stays the
// same when a rule takes the place of another of its size.
func Exact(fingerprint string) bool { return strings.HasPrefix(fingerprint, exactPrint) }
