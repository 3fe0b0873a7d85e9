{{/* Locations, the run's name, and arguments of the commands. */}}

{{/* URL of a folder, or its path in a volume: under the claim's name, or in the model's image. Takes {url|uri, pvc}. */}}
{{- define "sam3-annotate.location" -}}
{{- if dig "image" "reference" "" . }}
{{- printf "/model/%s" (trimAll "/" .image.path) | trimSuffix "/" }}
{{- else if .pvc.claimName }}
{{- printf "/volumes/%s/%s" .pvc.claimName (trimAll "/" .pvc.path) | trimSuffix "/" }}
{{- else }}
{{- default (get . "url") (get . "uri") | trimSuffix "/" }}
{{- end }}
{{- end }}

{{/* Exactly the values that run.json pins: only a change of these starts a new run. Numbers are cast, because files
     give floats, and --set gives integers, and floats as strings. */}}
{{- define "sam3-annotate.pinned" -}}
{{- $selection := .Values.selection }}
{{- $annotation := .Values.annotation }}
{{- $pinned := dict
    "input" (include "sam3-annotate.location" .Values.input)
    "output" (include "sam3-annotate.location" .Values.output)
    "inputList" (list $selection.inputList.url $selection.inputList.column)
    "include" $selection.include
    "exclude" $selection.exclude
    "limit" (int64 $selection.limit)
    "override" $selection.override
    "overrideReviewed" $selection.overrideReviewed
    "prompts" $annotation.prompts
    "confidenceThreshold" (float64 $annotation.confidenceThreshold)
    "date" $annotation.date
    "imageMode" $annotation.imageMode
    "maxImagePixels" (int64 $annotation.maxImagePixels)
    "checkpoint" .Values.checkpointDigest }}
{{- /* Values of later versions are added only if they are set: an upgrade of the chart does not rename a run. */}}
{{- if ne $selection.missingJson "skip" }}
{{- $_ := set $pinned "missingJson" $selection.missingJson }}
{{- end }}
{{- if ne $annotation.instances "table" }}
{{- $_ := set $pinned "instances" $annotation.instances }}
{{- end }}
{{- with $annotation.classes }}
{{- $_ := set $pinned "classes" . }}
{{- end }}
{{- if ne (toString $annotation.candidatesThreshold) "" }}
{{- $candidates := list (float64 $annotation.candidatesThreshold) (int64 $annotation.maxCandidates) }}
{{- $_ := set $pinned "candidates" $candidates }}
{{- end }}
{{- toJson $pinned }}
{{- end }}

{{- define "sam3-annotate.runName" -}}
{{- printf "%s-%s" (default .Release.Name .Values.run.name) (include "sam3-annotate.pinned" . | sha256sum | trunc 8) }}
{{- end }}

{{/* One argument. `$$(` is escaped, because Kubernetes expands `$(NAME)`. Takes (list flag value). */}}
{{- define "sam3-annotate.arg" -}}
{{- printf "--%s=%v" (index . 0) (index . 1) | replace "$(" "$$(" | quote }}
{{- end }}

{{/* Input and output. */}}
{{- define "sam3-annotate.folderArgs" -}}
- {{ include "sam3-annotate.arg" (list "input_top_dir" (include "sam3-annotate.location" .Values.input)) }}
- {{ include "sam3-annotate.arg" (list "out_top_dir" (include "sam3-annotate.location" .Values.output)) }}
{{- if .Values.input.existingSecret }}
- --input_storage_options=/secrets/input/storage_options.json
{{- end }}
{{- if .Values.output.existingSecret }}
- --output_storage_options=/secrets/output/storage_options.json
{{- end }}
{{- end }}

{{/* Takes (list root pool). */}}
{{- define "sam3-annotate.modelArgs" -}}
{{- $root := index . 0 }}
{{- $pool := index . 1 }}
{{- $values := index $root.Values.pools $pool -}}
- --device={{ and (eq $pool "gpu") (not $values.allowCpu) | ternary "cuda" "cpu" }}
{{- with include "sam3-annotate.location" $values.model }}
- {{ include "sam3-annotate.arg" (list "model" .) }}
{{- end }}
{{- with $values.model.digest }}
- --model_digest={{ . }}
{{- end }}
{{- with $root.Values.checkpointDigest }}
- --checkpoint_digest={{ . }}
{{- end }}
- --model_cache=/cache/models
{{- end }}

{{- define "sam3-annotate.logArgs" -}}
- --log_level={{ .Values.worker.logLevel }}
- --log_format={{ .Values.worker.logFormat }}
{{- end }}

{{/* Arguments that change outputs or selection. */}}
{{- define "sam3-annotate.pinnedArgs" -}}
{{- $selection := .Values.selection }}
{{- $annotation := .Values.annotation -}}
- --run={{ include "sam3-annotate.runName" . }}
- --supersede
{{- if $annotation.classes }}
- {{ include "sam3-annotate.arg" (list "classes" $annotation.classes) }}
{{- else }}
- {{ include "sam3-annotate.arg" (list "prompts" (join "," $annotation.prompts)) }}
{{- end }}
- --confidence_threshold={{ float64 $annotation.confidenceThreshold }}
{{- if ne (toString $annotation.candidatesThreshold) "" }}
- --candidates_threshold={{ float64 $annotation.candidatesThreshold }}
- --max_candidates={{ int64 $annotation.maxCandidates }}
{{- end }}
- --image_mode={{ $annotation.imageMode }}
- --instances={{ $annotation.instances }}
- --max_image_pixels={{ int64 $annotation.maxImagePixels }}
{{- with $annotation.date }}
- --annotation_date={{ . }}
{{- end }}
{{- range $selection.include }}
- {{ include "sam3-annotate.arg" (list "include" .) }}
{{- end }}
{{- range $selection.exclude }}
- {{ include "sam3-annotate.arg" (list "exclude" .) }}
{{- end }}
{{- with int64 $selection.limit }}
- --limit={{ . }}
{{- end }}
{{- if ne $selection.missingJson "skip" }}
- --missing_json={{ $selection.missingJson }}
{{- end }}
{{- with $selection.inputList.url }}
- {{ include "sam3-annotate.arg" (list "input_list" .) }}
{{- end }}
{{- with $selection.inputList.column }}
- {{ include "sam3-annotate.arg" (list "input_list_column" .) }}
{{- end }}
{{- if $selection.override }}
- --override_previous_annotations
{{- end }}
{{- if $selection.overrideReviewed }}
- --override_reviewed
{{- end }}
{{- end }}

{{/* All of `sam3-annotate annotate` for a pool. Takes (list root pool). */}}
{{- define "sam3-annotate.annotateArgs" -}}
{{- $root := index . 0 }}
{{- $pool := index . 1 }}
{{- $values := index $root.Values.pools $pool }}
{{- $worker := $root.Values.worker -}}
- annotate
{{ include "sam3-annotate.folderArgs" $root }}
{{ include "sam3-annotate.pinnedArgs" $root }}
- --pool={{ $pool }}
- --order={{ eq $pool "cpu" | ternary "backward" "forward" }}
{{ include "sam3-annotate.modelArgs" . }}
{{- if eq $pool "gpu" }}
- --device_retry_s={{ int64 $values.deviceRetrySeconds }}
{{- if gt (int64 $values.count) 1 }}
- --workers={{ int64 $values.count }}
{{- end }}
{{- end }}
{{- if ne ($values.runtime | default "auto") "auto" }}
- --runtime={{ $values.runtime }}
{{- end }}
{{- with int64 $values.batchSize }}
- --batch_size={{ . }}
{{- end }}
{{- with $values.memoryBudget }}
- --memory_budget={{ . }}
{{- end }}
{{- with int64 $worker.shardSize }}
- --shard_size={{ . }}
{{- end }}
- --journal_interval_s={{ float64 $worker.journalIntervalSeconds }}
- --image_timeout_s={{ float64 $worker.imageTimeoutSeconds }}
- --max_failed_fraction={{ float64 $worker.maxFailedFraction }}
{{- if $worker.failIfEmpty }}
- --fail_if_empty
{{- end }}
- --self_check={{ default "off" $worker.selfCheck }}
{{- if $worker.visualize }}
- --visualize
{{- end }}
- --metrics_port={{ int64 $root.Values.metrics.port }}
{{ include "sam3-annotate.logArgs" $root }}
{{- end }}

{{/* Takes (list root pool). */}}
{{- define "sam3-annotate.doctorArgs" -}}
- doctor
{{ include "sam3-annotate.folderArgs" (index . 0) }}
{{ include "sam3-annotate.modelArgs" . }}
{{- end }}
