{{/* Names, labels and what every pod of the chart has in common. */}}

{{- define "sallyport.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters, so that the longest ending still fits into a name of 63. */}}
{{- define "sallyport.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "sallyport.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Names of objects that belong to no namespace hold the release's, so that two releases cannot meet in one. */}}
{{- define "sallyport.clusterName" -}}
{{- printf "%s-%s" (include "sallyport.fullname" .) .Release.Namespace | trunc 120 | trimSuffix "-" -}}
{{- end -}}

{{/* dict root, component (may be empty) */}}
{{- define "sallyport.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sallyport.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* dict root, component, extra (labels that give way to the chart's own) */}}
{{- define "sallyport.labels" -}}
{{- $own := fromYaml (include "sallyport.selectorLabels" .) -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "sallyport" -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- toYaml (mustMerge $own (default dict .extra) .root.Values.commonLabels) -}}
{{- end -}}

{{/* dict root, component, name, namespace (default: the release's; "none" of cluster-wide objects), labels, annotations */}}
{{- define "sallyport.metadata" -}}
{{- $annotations := mustMerge (deepCopy (default dict .annotations)) .root.Values.commonAnnotations -}}
name: {{ .name | quote }}
{{- if ne (default "" .namespace) "none" }}
namespace: {{ default .root.Release.Namespace .namespace | quote }}
{{- end }}
labels:
  {{- include "sallyport.labels" (dict "root" .root "component" .component "extra" .labels) | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "sallyport.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* dict root, component, values (of the component) */}}
{{- define "sallyport.serviceAccountName" -}}
{{- if .values.serviceAccount.create -}}
{{- default (printf "%s-%s" (include "sallyport.fullname" .root) .component) .values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The Restricted Pod Security Standard, and a root file system that nobody writes to. */}}
{{- define "sallyport.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.podSecurity }}
{{- if .runAsUser }}
runAsUser: {{ int64 .runAsUser }}
{{- end }}
{{- if .runAsGroup }}
runAsGroup: {{ int64 .runAsGroup }}
{{- end }}
{{- if .fsGroup }}
fsGroup: {{ int64 .fsGroup }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "sallyport.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Mode of mounted Secrets: the group's, where a group is given to volumes. */}}
{{- define "sallyport.secretMode" -}}
{{- ternary "0440" "0444" (not (empty .Values.podSecurity.fsGroup)) -}}
{{- end -}}

{{/* Placement: dict root, component, values. Spread and kept apart by default, never so that a small cluster cannot run it. */}}
{{- define "sallyport.placement" -}}
{{- $selector := include "sallyport.selectorLabels" . -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
{{- if .values.affinity }}
  {{- toYaml .values.affinity | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- $selector | nindent 14 }}
{{- end }}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - topologyKey: topology.kubernetes.io/zone
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
{{- end }}
terminationGracePeriodSeconds: {{ .values.terminationGracePeriodSeconds }}
{{- end -}}

{{/* A PodDisruptionBudget's rule; `null` of the other is how Helm takes a default away. */}}
{{- define "sallyport.disruptions" -}}
{{- if not (kindIs "invalid" .minAvailable) }}
minAvailable: {{ .minAvailable }}
{{- else if not (kindIs "invalid" .maxUnavailable) }}
maxUnavailable: {{ .maxUnavailable }}
{{- end }}
{{- end -}}

{{/* Where policy comes from: shipped, inline, configMap, secret or control. */}}
{{- define "sallyport.policyKind" -}}
{{- with .Values.policy -}}
{{- if .inline -}}inline
{{- else if .existingConfigMap -}}configMap
{{- else if .existingSecret -}}secret
{{- else if .control -}}control
{{- else -}}shipped
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sallyport.policyText" -}}
{{- if kindIs "string" .Values.policy.inline -}}
{{- .Values.policy.inline -}}
{{- else -}}
{{- toYaml .Values.policy.inline -}}
{{- end -}}
{{- end -}}

{{/* Address of this chart's control plane, as a pod of any namespace calls it. */}}
{{- define "sallyport.controlHost" -}}
{{- printf "%s-control.%s.svc" (include "sallyport.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "sallyport.bundleKeysName" -}}
{{- if .Values.control.bundleKeys.inline -}}
{{- printf "%s-bundle-keys" (include "sallyport.fullname" .) -}}
{{- else -}}
{{- .Values.control.bundleKeys.configMapRef.name -}}
{{- end -}}
{{- end -}}

{{/* Whether anything in the chart calls the API server. */}}
{{- define "sallyport.webhookAsksVersion" -}}
{{- if eq .Values.injector.nativeSidecars "auto" -}}true{{- end -}}
{{- end -}}
