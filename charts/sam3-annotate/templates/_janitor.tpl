{{/* The janitor's Job: it reads end.json, and may get and patch the Jobs of the pools only. */}}

{{- define "sam3-annotate.janitorArgs" -}}
- janitor
- --namespace={{ .Release.Namespace }}
{{- range $pool := include "sam3-annotate.enabledPools" . | fromJsonArray }}
- --job={{ include "sam3-annotate.jobName" (list $ $pool) }}
{{- end }}
- {{ include "sam3-annotate.arg" (list "out_top_dir" (include "sam3-annotate.location" .Values.output)) }}
{{- if .Values.output.existingSecret }}
- --output_storage_options=/secrets/output/storage_options.json
{{- end }}
- --run={{ include "sam3-annotate.runName" . }}
{{ include "sam3-annotate.logArgs" . }}
{{- end }}

{{- define "sam3-annotate.janitorSpec" -}}
{{- $values := .Values.janitor }}
{{- $rules := pick $values "nodeSelector" "affinity" "tolerations" "priorityClassName" }}
{{- if not $values.affinity }}
{{- $rules = merge (dict "affinity" (include "sam3-annotate.cpuAffinity" . | fromYaml)) $rules }}
{{- end -}}
# It waits for the end of the run whatever happens; the Job controller waits up to ten minutes between its pods.
backoffLimit: 1000000
{{- with int64 .Values.job.ttlSecondsAfterFinished }}
ttlSecondsAfterFinished: {{ . }}
{{- end }}
podFailurePolicy:
  rules:
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
template:
  {{- include "sam3-annotate.podTemplate" (dict
      "root" . "component" "janitor" "name" "janitor" "hasToken" true
      "image" (include "sam3-annotate.image" (list . $values.image "cpu"))
      "args" (include "sam3-annotate.janitorArgs" .)
      "resources" $values.resources "scheduling" $rules
      "claims" (include "sam3-annotate.claims" (list (list .Values.output.pvc true)) | fromJson)
      "cache" (include "sam3-annotate.emptyCache" .Values.tmp.sizeLimit | fromJson)
      "serviceAccountName" (include "sam3-annotate.janitorServiceAccountName" .)) | nindent 2 }}
{{- end }}
