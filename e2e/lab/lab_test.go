//go:build linux

package lab_test

import (
	"os"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/lab"
)

func TestTry(t *testing.T) {
	k, err := lab.UML(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	code, err := k.Run(t.Context(), lab.Job{Path: "/bin/sh", Args: []string{"-c", os.Getenv("TRY")}, Output: t.Output(), Timeout: time.Minute})
	t.Log(code, err)
}
