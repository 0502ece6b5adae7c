{{- define "sensorlog.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}-operator
{{- end }}

{{- define "sensorlog.selector" -}}
app.kubernetes.io/name: sensorlog-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sensorlog.labels" -}}
{{ include "sensorlog.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: sensorlog
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Takes the chart's context and an image's values. */}}
{{- define "sensorlog.image" -}}
{{- $context := index . 0 }}{{ $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $context.Chart.AppVersion }}
{{- end }}
{{- end }}
