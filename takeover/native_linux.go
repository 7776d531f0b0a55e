package takeover

import "encoding/binary"

// native returns v as the kernel keeps it in a register.
func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
