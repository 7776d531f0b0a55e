package userspace

import (
	"testing"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

func TestGolden(t *testing.T) {
	servicetest.Golden(t, "testdata", func(snap *service.Snapshot) ([]byte, error) {
		st, _ := Plan(snap, DefaultConfig())
		return st.AppendText(nil), nil
	})
}

func TestDeviations(t *testing.T) {
	servicetest.Deviations(t, "testdata", func(snap *service.Snapshot) ([]service.Deviation, error) {
		_, deviations := Plan(snap, DefaultConfig())
		return deviations, nil
	})
}
