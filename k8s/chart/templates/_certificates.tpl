{{/*
Certificates that Helm makes: an authority whose key is thrown away at once, and a server's certificate by it.

What a release made is found again in its Secret (`lookup`) and kept, until it is near its end, its names have changed or
`renew` has. Of a renewed one the authority before stays in the bundle, so that callers that know both are served by
pods that have not seen the new certificate yet, and the other way round.

dict root, component, values (kind, validDays, renewBeforeDays, renew), hosts (list). Sets root.Values.certificates.COMPONENT
once per rendering, for all templates: crt, key, ca (PEM, all that are believed), annotations.
*/}}
{{- define "sallyport.makeCertificate" -}}
{{- $memory := default dict (index .root.Values "certificates") -}}
{{- if not (hasKey $memory .component) -}}
{{- $name := printf "%s-%s-tls" (include "sallyport.fullname" .root) .component -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace $name -}}
{{- $noted := default dict (dig "metadata" "annotations" dict (default dict $found)) -}}
{{- $data := default dict (dig "data" dict (default dict $found)) -}}
{{- $names := join "," .hosts -}}
{{- $now := now | unixEpoch | int64 -}}
{{- $notAfter := int64 (default "0" (index $noted "sallyport.dev/not-after")) -}}
{{- $renewFrom := sub $notAfter (mul 86400 (int64 .values.renewBeforeDays)) -}}
{{- $whole := and (index $data "tls.crt") (index $data "tls.key") (index $data "ca.crt") -}}
{{- $same := and (eq (default "" (index $noted "sallyport.dev/names")) $names) (eq (default "" (index $noted "sallyport.dev/renew")) .values.renew) -}}
{{- $certificate := dict -}}
{{- if and $whole $same (lt $now $renewFrom) -}}
{{- $_ := set $certificate "crt" (index $data "tls.crt" | b64dec) -}}
{{- $_ := set $certificate "key" (index $data "tls.key" | b64dec) -}}
{{- $_ := set $certificate "ca" (index $data "ca.crt" | b64dec) -}}
{{- $_ := set $certificate "notAfter" $notAfter -}}
{{- else -}}
{{- $days := int .values.validDays -}}
{{- $authority := genCAWithKey (printf "%s authority" $name | trunc 64) $days (genPrivateKey "ecdsa") -}}
{{- $made := genSignedCertWithKey (first .hosts | trunc 64) nil .hosts $days $authority (genPrivateKey "ecdsa") -}}
{{- $before := regexFind "-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?" (default "" (index $data "ca.crt") | b64dec) -}}
{{- $_ := set $certificate "crt" $made.Cert -}}
{{- $_ := set $certificate "key" $made.Key -}}
{{- $_ := set $certificate "ca" (printf "%s%s" $authority.Cert $before) -}}
{{- $_ := set $certificate "notAfter" (add $now (mul 86400 $days)) -}}
{{- end -}}
{{- $annotations := dict "sallyport.dev/not-after" (toString $certificate.notAfter) "sallyport.dev/names" $names "sallyport.dev/renew" .values.renew -}}
{{- $_ := set $certificate "annotations" $annotations -}}
{{- $_ := set $memory .component $certificate -}}
{{- $_ := set .root.Values "certificates" $memory -}}
{{- end -}}
{{- end -}}

{{- define "sallyport.webhookCertificate" -}}
{{- $service := printf "%s-webhook" (include "sallyport.fullname" .) -}}
{{- $hosts := list (printf "%s.%s.svc" $service .Release.Namespace) (printf "%s.%s.svc.%s" $service .Release.Namespace .Values.clusterDomain) -}}
{{- include "sallyport.makeCertificate" (dict "root" . "component" "webhook" "values" .Values.webhook.certificate "hosts" $hosts) -}}
{{- end -}}

{{/* `localhost` is where `kubectl port-forward` brings operators; an authority of somebody else's need not sign such a name. */}}
{{- define "sallyport.controlHosts" -}}
{{- $host := include "sallyport.controlHost" . -}}
{{- $own := ternary (list) (list "localhost") (gt (len .Values.control.tls.issuerRef) 0) -}}
{{- concat (list $host (printf "%s.%s" $host .Values.clusterDomain)) $own .Values.control.tls.extraDnsNames | uniq | toJson -}}
{{- end -}}

{{- define "sallyport.controlCertificate" -}}
{{- include "sallyport.makeCertificate" (dict "root" . "component" "control" "values" .Values.control.tls "hosts" (fromJsonArray (include "sallyport.controlHosts" .))) -}}
{{- end -}}

{{/* Names of the Secrets that the pods mount. */}}
{{- define "sallyport.webhookSecretName" -}}
{{- if eq .Values.webhook.certificate.kind "given" -}}
{{- .Values.webhook.certificate.existingSecret -}}
{{- else -}}
{{- printf "%s-webhook-tls" (include "sallyport.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "sallyport.controlSecretName" -}}
{{- if eq .Values.control.tls.kind "given" -}}
{{- .Values.control.tls.existingSecret -}}
{{- else -}}
{{- printf "%s-control-tls" (include "sallyport.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The authority by which sidecars believe this chart's control plane, PEM; empty while it is not known. */}}
{{- define "sallyport.controlAuthority" -}}
{{- with .Values.control.tls -}}
{{- if .caBundle -}}
{{- .caBundle -}}
{{- else if eq .kind "selfSigned" -}}
{{- include "sallyport.controlCertificate" $ -}}
{{- $.Values.certificates.control.ca -}}
{{- else if ne .kind "insecurePlaintext" -}}
{{- $secret := default dict (lookup "v1" "Secret" $.Release.Namespace (include "sallyport.controlSecretName" $)) -}}
{{- dig "data" "ca.crt" "" $secret | b64dec -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What cert-manager is asked for: dict root, component, values (issuerRef, validDays), hosts */}}
{{- define "sallyport.certManager" -}}
{{- $name := printf "%s-%s" (include "sallyport.fullname" .root) .component -}}
{{- $root := .root -}}
{{- if not .values.issuerRef }}
apiVersion: cert-manager.io/v1
kind: Issuer
metadata:
  {{- include "sallyport.metadata" (dict "root" $root "component" .component "name" (printf "%s-self-signed" $name)) | nindent 2 }}
spec:
  selfSigned: {}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  {{- include "sallyport.metadata" (dict "root" $root "component" .component "name" (printf "%s-ca" $name)) | nindent 2 }}
spec:
  isCA: true
  commonName: {{ printf "%s authority" $name | trunc 64 }}
  secretName: {{ $name }}-ca
  duration: 87600h
  privateKey:
    algorithm: ECDSA
    size: 256
    rotationPolicy: Never
  issuerRef:
    group: cert-manager.io
    kind: Issuer
    name: {{ $name }}-self-signed
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata:
  {{- include "sallyport.metadata" (dict "root" $root "component" .component "name" (printf "%s-ca" $name)) | nindent 2 }}
spec:
  ca:
    secretName: {{ $name }}-ca
---
{{- end }}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  {{- include "sallyport.metadata" (dict "root" $root "component" .component "name" (printf "%s-tls" $name)) | nindent 2 }}
spec:
  secretName: {{ $name }}-tls
  duration: {{ mul 24 (int .values.validDays) }}h
  renewBefore: {{ mul 24 (int .values.renewBeforeDays) }}h
  usages: [digital signature, server auth]
  privateKey:
    algorithm: ECDSA
    size: 256
    rotationPolicy: Always
  dnsNames:
    {{- toYaml .hosts | nindent 4 }}
  issuerRef:
    {{- if .values.issuerRef }}
    {{- toYaml .values.issuerRef | nindent 4 }}
    {{- else }}
    group: cert-manager.io
    kind: Issuer
    name: {{ $name }}-ca
    {{- end }}
{{- end -}}

{{/* The Secret of a certificate that Helm made: dict root, component */}}
{{- define "sallyport.tlsSecret" -}}
{{- $certificate := index .root.Values.certificates .component }}
apiVersion: v1
kind: Secret
metadata:
  {{- include "sallyport.metadata" (dict "root" .root "component" .component "name" (printf "%s-%s-tls" (include "sallyport.fullname" .root) .component) "annotations" $certificate.annotations) | nindent 2 }}
type: kubernetes.io/tls
data:
  tls.crt: {{ b64enc $certificate.crt }}
  tls.key: {{ b64enc $certificate.key }}
  # All that is believed: of a renewed certificate its own authority first, then the one before.
  ca.crt: {{ b64enc $certificate.ca }}
{{- end -}}
