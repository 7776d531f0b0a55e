// Package lab runs programs on Linux kernels other than the running one, for
// tests of what the running one does not have: IPVS, above all. It needs Linux
// on amd64, root, and packages that Debian and Ubuntu have; it installs nothing
// and needs no disk image.
//
//	host                                 guest
//	┌──────────────────────┐             ┌────────────────────────────────┐
//	│ Kernel.Run(Job)      │  console    │ kernel messages                │
//	│   Job.Output    ◄────┼── output ───┼─ /dev/ttyS?   Job.Path Args... │
//	│   exit code     ◄────┼── result ───┼─ /dev/ttyS?   "exit 3"         │
//	│   / (read only) ─────┼─────────────┼► / = overlay(host's /, memory) │
//	│   Job.Share     ─────┼─────────────┼► the same path, over /tmp      │
//	└──────────────────────┘             └────────────────────────────────┘
//
// The guest's root is the host's own file system under an overlay in the
// guest's memory: programs, libraries and caches are all there, anything may be
// written, and nothing of it reaches the disk. The folders /tmp, /var/tmp and
// /run begin empty, so what a job needs from there has to be named in
// [Job.Share]. Processes and the network are not the host's: a guest has a
// loopback interface and no other.
//
// There are two kinds of guests. User-mode Linux (Debian's user-mode-linux) is
// a kernel that runs as an ordinary process, on one CPU: up in two seconds,
// code runs at the speed of the host, system calls do not. It knows
// iptables-legacy only. QEMU runs a kernel that Debian ships, on as many CPUs
// as there are, but translates every instruction unless the machine can do
// better: expect a tenth of the speed.
package lab
