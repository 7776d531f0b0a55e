#!/usr/bin/env bash
# Changes the image of a DaemonSet of kube-proxy to fairlead's, node by node, and back.
#
#   deploy/swap.sh IMAGE      swap; if a node does not become healthy, swap back
#   deploy/swap.sh --back     back to the image from before the swap; then a pod on each node removes
#                             what fairlead has left there
#   deploy/swap.sh --status   which image is wanted, where it runs, and what the nodes say
#
# Nothing but the image changes: command line, ConfigMap, rights and the rest stay as they are. A
# node is healthy if fairlead or kube-proxy answers at HEALTH_PORT of it with 200, which is asked
# through the API server (nodes/proxy).
#
# NAMESPACE (kube-system), DAEMONSET and CONTAINER (kube-proxy), HEALTH_PORT (10256; 0: do not ask),
# TIMEOUT (5m for each step) and KUBECTL (kubectl) can be set.
set -euo pipefail

namespace=${NAMESPACE:-kube-system}
name=${DAEMONSET:-kube-proxy}
container=${CONTAINER:-kube-proxy}
port=${HEALTH_PORT:-10256}
timeout=${TIMEOUT:-5m}
kubectl=${KUBECTL:-kubectl}
note=fairlead.io/image-before-swap

k() { "$kubectl" -n "$namespace" "$@"; }
say() { echo "swap: $*" >&2; }

image() { k get daemonset "$name" -o "jsonpath={.spec.template.spec.containers[?(@.name==\"$container\")].image}"; }
before() { k get daemonset "$name" -o "jsonpath={.metadata.annotations.${note//./\\.}}"; }

# nodes lists those on which the DaemonSet has a pod, by its selector.
nodes() {
  local selector
  selector=$(k get daemonset "$name" -o go-template='{{range $k, $v := .spec.selector.matchLabels}}{{$k}}={{$v}},{{end}}')
  k get pods -l "${selector%,}" -o 'jsonpath={range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort -u
}

# healthy asks every node on which the DaemonSet has a pod, and names those that are not.
healthy() {
  local node bad=0
  [ "$port" != 0 ] || return 0
  for node in $(nodes); do
    if ! "$kubectl" get --raw "/api/v1/nodes/$node:$port/proxy/healthz" >/dev/null 2>&1; then
      say "$node: no answer 200 at port $port"
      bad=1
    fi
  done
  return $bad
}

# settle waits until every node has what is wanted and is healthy.
settle() {
  k rollout status daemonset "$name" --timeout="$timeout" || return 1
  local _
  for _ in {1..12}; do
    ! healthy || return 0
    sleep "${PAUSE:-5}"
  done
  return 1
}

# clean runs fairlead cleanup of an image on every node. kube-proxy does not know our rules, and
# would leave them as they are for good.
clean() {
  local node bad=0
  for node in $(nodes); do
    k apply -f - >&2 <<EOF
apiVersion: v1
kind: Pod
metadata: {name: "fairlead-cleanup-$node", labels: {app.kubernetes.io/name: fairlead-cleanup}}
spec:
  nodeName: "$node"
  hostNetwork: true
  restartPolicy: Never
  priorityClassName: system-node-critical
  tolerations: [{operator: Exists}]
  containers:
  - name: cleanup
    image: "$1"
    command: [/usr/local/bin/fairlead, cleanup]
    securityContext: {privileged: true}
    volumeMounts:
    - {name: xtables-lock, mountPath: /run/xtables.lock}
    - {name: lib-modules, mountPath: /lib/modules, readOnly: true}
  volumes:
  - {name: xtables-lock, hostPath: {path: /run/xtables.lock, type: FileOrCreate}}
  - {name: lib-modules, hostPath: {path: /lib/modules}}
EOF
  done
  for node in $(nodes); do
    if k wait --for=jsonpath='{.status.phase}'=Succeeded --timeout="$timeout" "pod/fairlead-cleanup-$node" >&2; then
      k delete pod "fairlead-cleanup-$node" --wait=false >&2
    else
      say "$node: what fairlead has left is still there: kubectl -n $namespace logs fairlead-cleanup-$node"
      bad=1
    fi
  done
  return $bad
}

# revert asks for an image that was there before.
revert() {
  say "back to $1"
  k set image daemonset "$name" "$container=$1" >&2
  settle || { say "not every node has come back: look at the pods of $name"; return 1; }
  [ "$1" != "$(before)" ] || k annotate daemonset "$name" "$note-" >&2
  say "back to $1 on every node"
}

back() {
  local old now
  old=$(before)
  now=$(image)
  if [ -z "$old" ]; then
    say "there is no note of an image from before (annotation $note)"
    return 1
  fi
  revert "$old"
  clean "$now"
}

swap() {
  local new=$1 old
  old=$(image)
  if [ -z "$old" ]; then
    say "daemonset $namespace/$name has no container $container"
    return 1
  fi
  if [ "$old" = "$new" ]; then
    say "$new is wanted already"
    settle
    return
  fi
  # The first swap notes where --back goes to; one to a newer fairlead leaves that as it is.
  [ -n "$(before)" ] || k annotate daemonset "$name" "$note=$old" >&2
  say "$old -> $new"
  k set image daemonset "$name" "$container=$new" >&2
  if settle; then
    say "$new on every node; back with: $0 --back"
    return
  fi
  say "not every node became healthy"
  if [ "$old" = "$(before)" ]; then # what the first nodes got may be in force there
    if revert "$old"; then clean "$new" || true; fi
  else
    revert "$old" || true
  fi
  return 1
}

case ${1:-} in
--back) back ;;
--status)
  echo "wanted: $(image)"
  echo "before: $(before)"
  k get daemonset "$name" -o 'jsonpath=nodes: {.status.desiredNumberScheduled}, updated: {.status.updatedNumberScheduled}, available: {.status.numberAvailable}{"\n"}'
  healthy
  ;;
"" | -*)
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2
  exit 2
  ;;
*) swap "$1" ;;
esac
