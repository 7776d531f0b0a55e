{{/* The name of everything of L4; that of L7 ends in -l7. */}}
{{- define "fairlead.name" -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "fairlead.l7" -}}
{{ include "fairlead.name" . }}-l7
{{- end }}

{{/* What pods are chosen by. */}}
{{- define "fairlead.selector" -}}
app.kubernetes.io/name: fairlead
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "fairlead.l7.selector" -}}
app.kubernetes.io/name: fairlead-l7
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "fairlead.labels" -}}
{{ include "fairlead.selector" . }}
{{ include "fairlead.release" . }}
{{- end }}

{{- define "fairlead.l7.labels" -}}
{{ include "fairlead.l7.selector" . }}
{{ include "fairlead.release" . }}
{{- end }}

{{- define "fairlead.release" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "fairlead.image" -}}
{{ .Values.image.repository }}{{ if hasPrefix "sha256:" .Values.image.tag }}@{{ else }}:{{ end }}{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* KubeProxyConfiguration. What values say wins. */}}
{{- define "fairlead.config" -}}
{{- $c := dict "apiVersion" "kubeproxy.config.k8s.io/v1alpha1" "kind" "KubeProxyConfiguration" "healthzBindAddress" "0.0.0.0:10256" "metricsBindAddress" "127.0.0.1:10249" -}}
{{- with .Values.l4.clusterCIDR }}{{ $_ := set $c "clusterCIDR" . }}{{ end -}}
{{- toYaml (mergeOverwrite $c (deepCopy .Values.l4.config)) -}}
{{- end }}

{{/* FairleadConfiguration. What values say wins. */}}
{{- define "fairlead.own" -}}
{{- $c := dict "apiVersion" "fairlead.io/v1alpha1" "kind" "FairleadConfiguration" "modes" .Values.l4.modes -}}
{{- if eq (join "," .Values.l4.modes) "userspace" }}{{ $_ := set $c "shutdownGrace" "20s" }}{{ end -}}
{{- toYaml (mergeOverwrite $c (deepCopy .Values.l4.fairleadConfig)) -}}
{{- end }}

{{/* Environment of a container of L4. */}}
{{- define "fairlead.env" -}}
env:
- {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
{{- with .Values.apiServer.host }}
- {name: KUBERNETES_SERVICE_HOST, value: {{ . | quote }}}
- {name: KUBERNETES_SERVICE_PORT, value: {{ $.Values.apiServer.port | quote }}}
{{- end }}
{{- end }}

{{/* Arguments of both containers of L4. */}}
{{- define "fairlead.args" -}}
- --config=/etc/fairlead/config.conf
- --fairlead-config=/etc/fairlead/fairlead.conf
- --hostname-override=$(NODE_NAME)
{{- range .Values.l4.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}
