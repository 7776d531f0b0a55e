# The targets are what CI runs; there is nothing else to know.
GO      ?= $(shell .ci/go 2>/dev/null || echo go)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X main.version=$(VERSION)
BIN      = bin/fairlead
DOCKER  ?= docker
IMAGE   ?= fairlead:$(VERSION)
KERNEL  ?= uml
SOAK    ?= 10m
BENCH    = bin/fairlead-bench
RESULTS ?= bin/results
VERSIONS ?= 1.28.15 1.29.6 1.30.4 1.31.0 1.32.2 1.33.13 1.34.2 1.35.4
# A test that fails is run once more, whole, without the others: what fails then fails the target. A data race fails it at once.
AGAIN    = $(GO) run gotest.tools/gotestsum@v1.13.0 --format pkgname --rerun-fails=1 --rerun-fails-max-failures=4 \
             --rerun-fails-run-root-test --rerun-fails-abort-on-data-race

.DEFAULT_GOAL := help

help: ## print this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what is missing, on Debian or Ubuntu as root
	@.ci/deps

build: deps ## build bin/fairlead
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/fairlead

demo: build ## a small cluster of network namespaces, with Services that answer (root)
	$(GO) run ./e2e/demo -fairlead $(BIN)

demo-l7: build ## the same for Ingresses, behind an address of L4 (root, curl)
	$(GO) run ./e2e/demo -l7 -fairlead $(BIN)

check: deps ## vet, staticcheck and the house rules; no root
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -run 'House' ./cmd/fairlead

unit: deps ## unit, golden, oracle and walk tests under the race detector; no root
	$(AGAIN) --packages "$$($(GO) list ./... | grep -v /e2e | tr '\n' ' ')" -- -race -short -timeout 20m

e2e: build ## real packets, real API server, IPVS in kernels that have it (root; builds etcd and kube-apiserver once)
	@.ci/deps e2e
	FAIRLEAD_E2E_REQUIRE=1 FAIRLEAD=$(abspath $(BIN)) $(AGAIN) --packages "./e2e/... ./iptables/xt/abi ./iptables/xt/nft" -- -p 1 -timeout 65m -count=1

lab: ## a shell in a kernel with IPVS, or CMD='...' in it; KERNEL=uml, qemu or qemu-newest (root)
	@.ci/deps e2e
	@$(GO) run ./e2e/lab/shell -kernel $(KERNEL) $(LABFLAGS) -- $(if $(CMD),'$(subst ','\'',$(CMD))')

e2e-kind: build ## in clusters of kind, which needs docker: docs/kind.md (KINDFLAGS='-node local' where no registry is)
	cd e2e/kind && $(GO) run . -go $(GO) -fairlead $(abspath $(BIN)) $(KINDFLAGS)

e2e-versions: build ## take over from kube-proxy of older releases, VERSIONS='1.28.15 ...', built from their modules (root; minutes each, the first time many)
	@.ci/deps e2e
	FAIRLEAD_E2E_VERSIONS='$(VERSIONS)' FAIRLEAD_LAB_RUN='^TestIPVSVersions' FAIRLEAD_E2E_REQUIRE=1 FAIRLEAD=$(abspath $(BIN)) \
	  $(GO) test ./e2e -run '^Test(IPVS)?Versions|^TestIPVSLab$$/^uml$$/^e2e$$' -v -count=1 -timeout 6h

test: check unit e2e ## everything that proves it (root)

golden: ## rewrite the golden plans, and documents made from code; read the difference before you commit it
	$(GO) test ./cmd/fairlead ./iptables ./ipvs ./userspace ./l7/annotation ./l7/stats ./deploy/monitoring -run 'Golden|Document' -update

$(BENCH): build
	@mkdir -p $(RESULTS)
	$(GO) build -o $(BENCH) ./e2e/bench

bench: $(BENCH) ## against kube-proxy of the same Kubernetes version in all its modes, in one run (root; 25 minutes; BENCHFLAGS=-full: hours)
	$(BENCH) -fairlead $(BIN) -mode suite -o $(RESULTS)/suite.json $(BENCHFLAGS)

bench-real: $(BENCH) ## some of it with etcd and kube-apiserver, to see that the replay of bench flatters nobody (root; 5 minutes)
	$(BENCH) -fairlead $(BIN) -mode suite -only V1 -variants legacy,nft -o $(RESULTS)/real.json $(BENCHFLAGS)

bench-ipvs: $(BENCH) ## the same in the mode ipvs, on a kernel that has it (root; BENCHFLAGS='-n 1000': 15 minutes)
	$(BENCH) -fairlead $(BIN) -mode ipvs -o $(RESULTS)/ipvs.json $(BENCHFLAGS)

bench-report: $(BENCH) ## docs/performance.md and its plots, from what these three have written; FILES= names others
	$(BENCH) report $(or $(FILES),$(wildcard $(RESULTS)/*.json))

bench-userspace: build ## the data path of the mode userspace, against HAProxy and the mode iptables (root; 6 minutes)
	$(GO) run ./e2e/bench -fairlead $(BIN) -mode userspace $(BENCHFLAGS)

bench-l7: build ## fairlead l7 against nginx and HAProxy (root; nginx-light, haproxy, wrk and curl; 6 minutes)
	$(GO) run ./e2e/bench -fairlead $(BIN) -mode l7 $(BENCHFLAGS)

soak: build ## does anything grow in the mode userspace, under load, while endpoints come and go? SOAK=10m (root)
	$(GO) run ./e2e/bench -fairlead $(BIN) -mode userspace -soak $(SOAK) $(BENCHFLAGS)

image: ## the container image IMAGE; DOCKER=podman works too, BASE= and BUILDER= say what it is made from
	DOCKER_BUILDKIT=1 $(DOCKER) build -f deploy/Containerfile -t $(IMAGE) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD) --build-arg SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
	  $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(BUILDER),--build-arg BUILDER=$(BUILDER)) $(IMAGEFLAGS) .

chart: ## lint the Helm chart, and render it; VALUES= are files of values
	cd e2e/tools/deploy && $(GO) build -o $(abspath bin)/chart ./chart
	bin/chart lint deploy/helm/fairlead $(VALUES)
	bin/chart template -notes deploy/helm/fairlead $(VALUES)

fuzz: ## a minute of each fuzz target
	@for p in $$(grep -rl 'func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho 'func Fuzz[A-Za-z0-9]*' $$p/*_test.go | sed 's/func //'); do \
	    $(GO) test $$p -run '^$$' -fuzz "^$$f$$" -fuzztime 60s || exit 1; done; done

.PHONY: help deps build demo demo-l7 check unit e2e e2e-kind e2e-versions lab test golden $(BENCH) bench bench-real bench-ipvs bench-report bench-userspace bench-l7 soak image chart fuzz
