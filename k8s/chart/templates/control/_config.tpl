{{/* The file of `sallyport control`. */}}
{{- define "sallyport.controlConfig" -}}
{{- $control := .Values.control -}}
{{- $file := deepCopy $control.settings -}}
{{- $_ := set $file "address" "0.0.0.0:9292" -}}
{{- $_ := set $file "health-address" "0.0.0.0:9293" -}}
{{- if $control.insecureUnsignedBundles -}}
{{- $_ := set $file "insecure-unsigned-bundles" true -}}
{{- else -}}
{{- $key := ternary "shop.keys" $control.bundleKeys.configMapRef.key (ne $control.bundleKeys.inline "") -}}
{{- $_ := set $file "bundle-keys" (printf "/etc/sallyport/bundle-keys/%s" $key) -}}
{{- end -}}
{{- if eq $control.tls.kind "insecurePlaintext" -}}
{{- $_ := set $file "insecure-plaintext" true -}}
{{- else -}}
{{- $_ := set $file "tls-cert" "/etc/sallyport/tls/tls.crt" -}}
{{- $_ := set $file "tls-key" "/etc/sallyport/tls/tls.key" -}}
{{- end -}}
{{- with $control.tls.clientCaSecretRef -}}
{{- if .name }}{{ $_ := set $file "client-ca" (printf "/etc/sallyport/client-ca/%s" .key) }}{{ end -}}
{{- end -}}
{{- with $control.tokensSecretRef -}}
{{- if .name }}{{ $_ := set $file "tokens" (printf "/etc/sallyport/tokens/%s" .key) }}{{ end -}}
{{- end -}}
{{- with $control.grants }}{{ $_ := set $file "grants" . }}{{ end -}}
{{- $nats := eq $control.storage.kind "nats" -}}
{{- if $nats -}}
{{- $_ := set $file "nats-servers" (join "," $control.nats.servers) -}}
{{- with $control.nats.credentialsSecretRef -}}
{{- if .name }}{{ $_ := set $file "nats-credentials" (printf "/etc/sallyport/nats-credentials/%s" .key) }}{{ end -}}
{{- end -}}
{{- with $control.nats.caSecretRef -}}
{{- if .name }}{{ $_ := set $file "nats-ca" (printf "/etc/sallyport/nats-ca/%s" .key) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with $control.sharedSignalsSecretRef -}}
{{- if .name }}{{ $_ := set $file "shared-signals" (printf "/etc/sallyport/shared-signals/%s" .key) }}{{ end -}}
{{- end -}}
{{- if include "sallyport.controlFolder" . -}}
{{- $_ := set $file "state-dir" "/var/lib/sallyport-control" -}}
{{- end -}}
{{- if $control.posture.enabled -}}
{{- $_ := set $file "kubernetes" true -}}
{{- $_ := set $file "trust-domain" $control.posture.trustDomain -}}
{{- with $control.posture.namespaces }}{{ $_ := set $file "kubernetes-namespaces" (join "," .) }}{{ end -}}
{{- end -}}
{{- toYaml $file -}}
{{- end -}}

{{/* Whether the control plane has a folder: always but with NATS; there only for shared signals. */}}
{{- define "sallyport.controlFolder" -}}
{{- if or (ne .Values.control.storage.kind "nats") .Values.control.sharedSignalsSecretRef.name -}}true{{- end -}}
{{- end -}}

{{- define "sallyport.controlClaim" -}}
{{- default (printf "%s-control" (include "sallyport.fullname" .)) .Values.control.storage.existingClaim -}}
{{- end -}}

{{/* Secrets that are mounted by reference, each as a folder of its own: name of the volume → reference. */}}
{{- define "sallyport.controlSecrets" -}}
{{- with .Values.control -}}
{{- $all := dict "tokens" .tokensSecretRef "client-ca" .tls.clientCaSecretRef "shared-signals" .sharedSignalsSecretRef -}}
{{- if eq .storage.kind "nats" -}}
{{- $_ := set $all "nats-credentials" .nats.credentialsSecretRef -}}
{{- $_ := set $all "nats-ca" .nats.caSecretRef -}}
{{- end -}}
{{- $named := dict -}}
{{- range $volume, $reference := $all -}}
{{- if $reference.name }}{{ $_ := set $named $volume $reference.name }}{{ end -}}
{{- end -}}
{{- toJson $named -}}
{{- end -}}
{{- end -}}
