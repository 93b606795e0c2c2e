{{/* The InjectorConfig: what `sallyport webhook` injects, and `sallyport inject` with the same file. */}}
{{- define "sallyport.injectorConfig" -}}
{{- $image := deepCopy .Values.image -}}
{{- range $key, $value := .Values.injector.image -}}
{{- if $value }}{{ $_ := set $image $key $value }}{{ end -}}
{{- end -}}
{{- /* A tag or digest of the image elsewhere says nothing of this one. */ -}}
{{- with .Values.injector.image -}}
{{- if and .repository (not .digest) }}{{ $_ := set $image "digest" "" }}{{ end -}}
{{- if and .tag (not .digest) }}{{ $_ := set $image "digest" "" }}{{ end -}}
{{- end -}}
{{- $_ := set $image "tag" (default .Chart.AppVersion $image.tag) -}}
apiVersion: sallyport.dev/v1
kind: InjectorConfig
image:
  {{- toYaml $image | nindent 2 }}
imagePullSecrets:
  {{- range .Values.injector.imagePullSecrets }}
  - {{ .name }}
  {{- else }} []
  {{- end }}
{{- with .Values.injector }}
nativeSidecars: {{ .nativeSidecars }}
runAsUser: {{ int64 .runAsUser }}
listenAddress: {{ quote .listenAddress }}
healthPort: {{ int .healthPort }}
mode: {{ .mode }}
{{- if kindIs "slice" .overrides }}
overrides: {{ toJson .overrides }}
{{- end }}
logLevel: {{ .logLevel }}
decisionLog: {{ ternary "off" .decisionLog (kindIs "bool" .decisionLog) | quote }}
resources:
  {{- toYaml .resources | nindent 2 }}
extraEnv:
  {{- toYaml .extraEnv | nindent 2 }}
settings:
  {{- toYaml .settings | nindent 2 }}
state:
  kind: {{ .state.kind }}
  {{- if eq .state.kind "emptyDir" }}
  sizeLimit: {{ .state.sizeLimit }}
  {{- end }}
{{- end }}
policy:
  {{- $kind := include "sallyport.policyKind" . }}
  {{- if eq $kind "inline" }}
  configMap:
    name: {{ include "sallyport.fullname" . }}-policy
    key: {{ .Values.policy.key | quote }}
  {{- else if eq $kind "configMap" }}
  configMap:
    name: {{ .Values.policy.existingConfigMap | quote }}
    key: {{ .Values.policy.key | quote }}
  {{- else if eq $kind "secret" }}
  secret:
    name: {{ .Values.policy.existingSecret | quote }}
    key: {{ .Values.policy.key | quote }}
  {{- else }}
  {{ $kind }}: true
  {{- end }}
{{- if eq $kind "control" }}
{{- $own := not .Values.injector.control.address }}
control:
  {{- with .Values.injector.control }}
  address: {{ default (printf "https://%s:%d" (include "sallyport.controlHost" $) (int $.Values.control.service.port)) .address | quote }}
  {{- $authority := .ca }}
  {{- if and $own (not .ca) (not .caConfigMap) }}{{ $authority = include "sallyport.controlAuthority" $ }}{{ end }}
  {{- with $authority }}
  ca: {{ quote . }}
  {{- end }}
  {{- with .caConfigMap }}
  caConfigMap: {{ . }}
  {{- end }}
  tokenAudience: {{ quote .tokenAudience }}
  {{- with default (ternary $.Values.control.bundleKeys.inline "" $own) .bundleKeys }}
  bundleKeys: {{ quote . }}
  {{- end }}
  {{- end }}
{{- end }}
envoy:
  {{- with .Values.injector.envoy }}
  mode: {{ .mode }}
  {{- if eq .mode "join" }}
  container: {{ .container }}
  {{- end }}
  {{- if eq .mode "sidecar" }}
  image: {{ .image }}
  pullPolicy: {{ .pullPolicy }}
  inboundPort: {{ int .inboundPort }}
  {{- with .appPort }}
  appPort: {{ int . }}
  {{- end }}
  appProtocol: {{ .appProtocol }}
  redirect: {{ .redirect }}
  adminPort: {{ int .adminPort }}
  healthPort: {{ int .healthPort }}
  checkTimeoutMs: {{ int .checkTimeoutMs }}
  failureMode: {{ .failureMode }}
  concurrency: {{ int .concurrency }}
  logLevel: {{ ternary "off" .logLevel (kindIs "bool" .logLevel) | quote }}
  drain: {{ .drain }}
  drainSeconds: {{ int .drainSeconds }}
  {{- with .tls }}
  tls:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  resources:
    {{- toYaml .resources | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end -}}
