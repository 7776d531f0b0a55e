// Package world plays cases of the corpus with real packets: it builds the world
// that package servicetest describes out of network namespaces, runs a proxy in
// its node n1, brings it the objects of a case, and sends the flows.
//
//	w, err := world.New(world.Config{})
//	defer w.Close()
//	src, err := world.NewManifests(dir)
//	r := world.Runner{World: w, Source: src, Program: world.Fairlead(binary, "nft")}
//	report, err := r.Run(ctx, case)
//
// # Paths
//
// On top of package netns, everything between two places passes n1, in both
// directions, so that what n1 does to a packet can be told from the answer, and
// an answer of an endpoint elsewhere finds its way back through the translation:
//
//	client, n2, n3 and their pods  ◄──►  n1  ◄──►  its own pods
//	                                      │
//	                                      └──►  elsewhere (n4)
//
// What leaves n1 for a virtual address is a packet no rule of the proxy caught.
// It comes to a node that stands for the rest of the world and answers there, so
// that "untouched" is an answer, with a source to look at, and not a silence.
//
// # Decoys
//
// At the destination of every flow a server listens, wherever the packet would go
// if nobody touched it: on n1 for addresses of n1, elsewhere for virtual ones. A
// flow to be dropped, rejected or forwarded must not be answered by it; one to be
// left alone must be.
//
// # Barrier
//
// An applied state is told by a [Marker]: two Services of the runner's own whose
// ports change with every step and are written last. When one is forwarded and
// the other rejected at the new ports, in both families, everything written before
// is in force.
package world
