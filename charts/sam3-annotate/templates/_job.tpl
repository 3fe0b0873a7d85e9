{{/* The Job of a pool. */}}

{{/* Its spec without the mutable fields, parallelism and suspend. Takes (list root pool). */}}
{{- define "sam3-annotate.jobSpec" -}}
{{- $root := index . 0 }}
{{- $pool := index . 1 }}
{{- $completions := int64 (index $root.Values.pools $pool).completions }}
{{- $failures := dict "fieldPath" "metadata.annotations['batch.kubernetes.io/job-index-failure-count']" }}
{{- $env := list
    (dict "name" "SAM3_NUM_INDEXES" "value" (toString $completions))
    (dict "name" "SAM3_INDEX_FAILURES" "valueFrom" (dict "fieldRef" $failures)) -}}
completionMode: Indexed
completions: {{ $completions }}
backoffLimitPerIndex: {{ int64 $root.Values.job.backoffLimitPerIndex }}
# One failed index does not end the others.
maxFailedIndexes: {{ sub $completions 1 }}
podReplacementPolicy: Failed
{{- with int64 $root.Values.job.activeDeadlineSeconds }}
activeDeadlineSeconds: {{ . }}
{{- end }}
{{- with int64 $root.Values.job.ttlSecondsAfterFinished }}
ttlSecondsAfterFinished: {{ . }}
{{- end }}
podFailurePolicy:
  rules:
    # Evictions and drains do not count as failures.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    # Usage and configuration errors: every pod would fail the same way.
    - action: FailJob
      onExitCodes:
        containerName: annotate
        operator: In
        values: [2, 78]
    # The run has ended with too many failed inputs, or the input is empty.
    - action: FailIndex
      onExitCodes:
        containerName: annotate
        operator: In
        values: [65]
template:
  {{- include "sam3-annotate.poolPod" (dict
      "root" $root "pool" $pool "component" "worker" "name" "annotate" "isProbed" true "env" $env
      "args" (include "sam3-annotate.annotateArgs" .)) | nindent 2 }}
{{- end }}

{{/* Jobs are immutable, so another spec gets another name. Takes (list root middle spec). */}}
{{- define "sam3-annotate.hashedName" -}}
{{- $hash := index . 2 | fromYaml | toJson | sha256sum | trunc 8 }}
{{- include "sam3-annotate.cutName" (list (index . 0) (index . 1) $hash) }}
{{- end }}

{{/* Takes (list root pool). */}}
{{- define "sam3-annotate.jobName" -}}
{{- include "sam3-annotate.hashedName" (list (index . 0) (index . 1) (include "sam3-annotate.jobSpec" .)) }}
{{- end }}
