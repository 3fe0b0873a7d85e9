{{/* The Job that exports a model on the kind of node that will run it. */}}

{{- define "sam3-annotate.exportArgs" -}}
{{- $values := .Values.export }}
{{- $pool := index .Values.pools $values.pool }}
{{- $device := and (eq $values.pool "gpu") (not .Values.pools.gpu.allowCpu) | ternary "cuda" "cpu" }}
{{- $checkpoint := include "sam3-annotate.location" $values.checkpoint -}}
- export
- {{ include "sam3-annotate.arg" (list "checkpoint" $checkpoint) }}
- {{ include "sam3-annotate.arg" (list "out" (include "sam3-annotate.location" $pool.model)) }}
- --format={{ $values.format }}
- --precision={{ $values.precision | default (eq $device "cuda" | ternary "fp16" "fp32") }}
- --device={{ $device }}
{{- with int64 $values.imageCount }}
- --image_count={{ . }}
{{- end }}
{{- end }}

{{- define "sam3-annotate.exportSpec" -}}
{{- $values := .Values.export }}
{{- $pool := index .Values.pools $values.pool }}
{{- $claims := list (list $values.checkpoint.pvc true) (list $pool.model.pvc false) }}
{{- $env := list (dict "name" "HF_HOME" "value" "/cache/hub") (dict "name" "TMPDIR" "value" "/cache") }}
{{- $hubToken := ternary $values.hubToken dict (ne $values.hubToken.existingSecret "") }}
{{- if $hubToken }}
{{- $env = append $env (dict "name" "HF_TOKEN_PATH" "value" "/secrets/hub/token") }}
{{- end -}}
backoffLimit: {{ int64 $values.backoffLimit }}
{{- with int64 .Values.job.ttlSecondsAfterFinished }}
ttlSecondsAfterFinished: {{ . }}
{{- end }}
podFailurePolicy:
  rules:
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    - action: FailJob
      onExitCodes:
        containerName: export
        operator: In
        values: [2, 78]
template:
  {{- include "sam3-annotate.podTemplate" (dict
      "root" . "component" "export" "name" "export"
      "image" (include "sam3-annotate.image" (list . $values.image "export"))
      "args" (include "sam3-annotate.exportArgs" .) "env" $env "hubToken" $hubToken
      "resources" (include "sam3-annotate.poolResources" (list . $values.pool $values.resources) | fromJson)
      "scheduling" (include "sam3-annotate.poolScheduling" (list . $values.pool "export") | fromJson)
      "claims" (include "sam3-annotate.claims" $claims | fromJson)
      "cache" (include "sam3-annotate.emptyCache" $values.cacheSizeLimit | fromJson)
      "serviceAccountName" (include "sam3-annotate.serviceAccountName" .)) | nindent 2 }}
{{- end }}
