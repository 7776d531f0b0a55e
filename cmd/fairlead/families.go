package main

import (
	"fmt"

	"github.com/fairlead-project/fairlead/service"
)

// chooseFamilies returns the families to serve, the primary one first. Unusable
// says for each family what stands in its way, nil if nothing does. A node can
// do without its second family, but not without that of its own address.
func chooseFamilies(primary service.Family, unusable [service.NumFamilies]error) ([]service.Family, error) {
	if err := unusable[primary]; err != nil {
		return nil, fmt.Errorf("this node's address is %s, which cannot be served: %w", primary, err)
	}
	other := 1 - primary
	if unusable[other] != nil {
		return []service.Family{primary}, nil
	}
	return []service.Family{primary, other}, nil
}
