package annotation

// nearest returns the annotation whose name is at most two slips away from name, or nothing. Of several, one that is closed
// when it is bad is returned, then the first by name.
func (ix index) nearest(name string) string {
	if len(name) < 6 || len(name) > 64 {
		return ""
	}
	best, bestAt := "", 3
	for other, a := range ix.annotations {
		d := slips(name, other, 2)
		if d > 2 {
			continue
		}
		better := d < bestAt
		if best != "" && a.Closed != ix.annotations[best].Closed {
			better = a.Closed
		} else if d == bestAt {
			better = other < best
		}
		if better {
			best, bestAt = other, d
		}
	}
	return best
}

// slips counts the letters that have to be put in, taken out or changed to make b of a. It gives up above most.
func slips(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		least := row[0]
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
			least = min(least, cost)
		}
		if least > most {
			return most + 1
		}
	}
	return row[len(b)]
}
