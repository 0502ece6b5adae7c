{{/* What the operator does in a namespace that it watches. tests/integration/test_operator_process.py sees that
each verb is used, and that no other is. */}}
{{- define "sensorlog.rules" -}}
# The resource itself: watched, its finalizer set, its status written.
- apiGroups: [sensorlog.dev]
  resources: [sensorlogpipelines]
  verbs: [get, list, watch, patch]
- apiGroups: [sensorlog.dev]
  resources: [sensorlogpipelines/status]
  verbs: [patch]
# Its children: applied server-side (create and patch), watched for drift. Their owner's deletion takes them away.
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch]
# Deployments are deleted before topics and schema are.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch, delete]
# Children that a resource may cease to ask for.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [keda.sh]
  resources: [scaledobjects, triggerauthentications]
  verbs: [list, watch, create, patch, delete]
# What the pods of a Deployment that is not ready complain about.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
# The Secrets that resources name, and two per pipeline that the operator makes; RBAC cannot say "only those".
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* What the account for canaries may do: there is nothing behind it in Kubernetes, only query services ask for it. */}}
{{- define "sensorlog.canaryRules" -}}
- apiGroups: [sensorlog.dev]
  resources: [sensorlogpipelines/canary]
  verbs: [get]
{{- end }}
