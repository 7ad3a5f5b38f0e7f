{{- define "egress-tracer.labels" -}}
app.kubernetes.io/name: egress-tracer
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "egress-tracer.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* The directory of the runtime's socket: its volume's name, its path, the path's type. */ -}}
{{- define "egress-tracer.runtime" -}}
{{- $profiles := dict
  "containerd" (dict "name" "containerd" "path" "/run/containerd" "type" "Directory")
  "talos" (dict "name" "containerd" "path" "/run/containerd" "type" "Directory")
  "bottlerocket" (dict "name" "containerd" "path" "/run/containerd" "type" "Directory")
  "crio" (dict "name" "crio" "path" "/run/crio" "type" "Directory")
  "k3s" (dict "name" "containerd" "path" "/run/k3s/containerd" "type" "Directory")
  "rke2" (dict "name" "containerd" "path" "/run/k3s/containerd" "type" "Directory")
  "microk8s" (dict "name" "containerd" "path" "/var/snap/microk8s/common/run" "type" "Directory")
  "k0s" (dict "name" "containerd" "path" "/run/k0s" "type" "Directory")
  "cri-dockerd" (dict "name" "cri-dockerd" "path" "/run/cri-dockerd.sock" "type" "Socket")
  "custom" (dict "name" "runtime" "path" .Values.runtime.directory "type" "Directory")
-}}
{{- if eq .Values.runtime.profile "custom" }}{{ if not (and .Values.runtime.directory .Values.runtime.endpoint) }}{{ fail "runtime.profile custom needs runtime.directory and runtime.endpoint" }}{{ end }}{{ end -}}
{{- get $profiles .Values.runtime.profile | toYaml }}
{{- end }}

{{- define "egress-tracer.args" -}}
{{- $args := list "agent" -}}
{{- if not .Values.explain }}{{ $args = append $args "--no-explain" }}{{ end -}}
{{- range .Values.namespaces }}{{ $args = concat $args (list "-n" .) }}{{ end -}}
{{- if .Values.podSelector }}{{ $args = concat $args (list "-l" .Values.podSelector) }}{{ end -}}
{{- range $flag, $value := .Values.args }}
{{- if kindIs "slice" $value }}{{ range $value }}{{ $args = append $args (printf "--%s=%v" $flag .) }}{{ end }}
{{- else if kindIs "bool" $value }}{{ if $value }}{{ $args = append $args (printf "--%s" $flag) }}{{ end }}
{{- else if kindIs "float64" $value }}{{ $args = append $args (printf "--%s=%v" $flag (ternary ($value | int64) $value (eq $value (floor $value)))) }}
{{- else }}{{ $args = append $args (printf "--%s=%v" $flag $value) }}{{ end }}
{{- end -}}
{{- $args | toJson }}
{{- end }}
