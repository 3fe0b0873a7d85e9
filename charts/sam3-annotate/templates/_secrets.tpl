{{/* Refuses secrets in values: every user who can read a Job, or the values of the release, could read them. */}}

{{- define "sam3-annotate.checkSecrets" -}}
{{- $urls := dict
    "input.url" .Values.input.url
    "output.url" .Values.output.url
    "s3.endpoint" .Values.s3.endpoint
    "selection.inputList.url" .Values.selection.inputList.url
    "annotation.classes" .Values.annotation.classes
    "pools.gpu.model.uri" .Values.pools.gpu.model.uri
    "pools.cpu.model.uri" .Values.pools.cpu.model.uri
    "export.checkpoint.uri" .Values.export.checkpoint.uri }}
{{- range $name, $url := $urls }}
{{- if include "sam3-annotate.hasSecret" $url }}
{{- fail (printf "%s: holds a password or a signed query, which Jobs would show; give a URL without it, and keys by a Secret (s3.existingSecret, input.existingSecret, output.existingSecret)" $name) }}
{{- end }}
{{- end }}
{{- range $name, $url := dict "proxy.http" .Values.proxy.http "proxy.https" .Values.proxy.https }}
{{- if include "sam3-annotate.hasSecret" $url }}
{{- fail (printf "%s: holds a password, which Jobs would show; leave it empty, and name a Secret with HTTP_PROXY and HTTPS_PROXY in extraEnvFrom" $name) }}
{{- end }}
{{- end }}
{{- $lists := dict
    "extraEnv" .Values.extraEnv
    "pools.gpu.env" .Values.pools.gpu.env
    "pools.cpu.env" .Values.pools.cpu.env }}
{{- range $containers := list "initContainers" "sidecars" }}
{{- range index $.Values $containers }}
{{- $_ := set $lists (printf "%s.%s.env" $containers (toString .name)) (default list (get . "env")) }}
{{- end }}
{{- end }}
{{- range $list, $variables := $lists }}
{{- range $variables }}
{{- $value := toString (default "" (get . "value")) }}
{{- if and $value (or (include "sam3-annotate.hasSecret" $value) (include "sam3-annotate.isSecretName" (toString .name))) }}
{{- fail (printf "%s: the value of %s is a secret, which Jobs would show; put it into a Secret and give valueFrom.secretKeyRef, or name the Secret in extraEnvFrom" $list .name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Not empty for a URL with a password, a token or a signed query, as job/redaction.py finds them. Takes a text. */}}
{{- define "sam3-annotate.hasSecret" -}}
{{- $hasPassword := regexMatch "://[^/\\s@:\\[]*:[^\\s]*@" . | and (not (regexMatch "://[^/\\s@:\\[]*:[0-9]+[/?#]" .)) }}
{{- $hasToken := regexMatch "(?i)https?://[^/\\s@:\\[]+@" . }}
{{- $isSigned := regexMatch "(?i)[?&]([^=&?\\s]*(signature|credential|token|secret|passw|api.?key|access.?key)[^=&?\\s]*|sig|key|auth|authorization|code|policy|key-pair-id)=" . }}
{{- if or $hasPassword $hasToken $isSigned }}true{{ end }}
{{- end }}

{{/* Not empty for the name of a variable that holds a secret. Takes a text. */}}
{{- define "sam3-annotate.isSecretName" -}}
{{- if regexMatch "(?i)(SECRET|PASSWORD|PASSWD|TOKEN|SAS|CONNECTION_STRING|API_?KEY|(ACCESS|ACCOUNT|STORAGE|PRIVATE|SECRET)_KEY)$" . }}true{{ end }}
{{- end }}
