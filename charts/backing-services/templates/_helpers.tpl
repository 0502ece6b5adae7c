{{/* Labels of every object; call with (dict "root" $ "component" "kafka"). */}}
{{- define "backing.labels" -}}
{{ include "backing.selector" . }}
app.kubernetes.io/part-of: sensorlog
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "backing.selector" -}}
app.kubernetes.io/name: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* Hardening of a pod and of a container: what the restricted Pod Security Standard asks for. */}}
{{- define "backing.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "backing.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The Secret with the database's credentials. */}}
{{- define "backing.secretName" -}}
{{ .Values.timescaledb.existingSecret | default .Values.timescaledb.secretName }}
{{- end }}

{{/* Name of the variable that sets a broker property: both images read it backwards. */}}
{{- define "backing.kafkaVariable" -}}
KAFKA_{{ . | replace "_" "__" | replace "-" "___" | replace "." "_" | upper }}
{{- end }}
