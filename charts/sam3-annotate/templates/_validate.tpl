{{/* Checks that a schema cannot express. Each message: what was found, what to do. */}}

{{- define "sam3-annotate.validate" -}}
{{- include "sam3-annotate.checkSecrets" . }}
{{- range $side := ternary list (list "input" "output") .Values.export.enabled }}
{{- $location := index $.Values $side }}
{{- if not (or $location.url $location.pvc.claimName) }}
{{- fail (printf "%s: give %s.url or %s.pvc.claimName" $side $side $side) }}
{{- end }}
{{- if and $location.url $location.pvc.claimName }}
{{- fail (printf "%s: has a url and a pvc; give only one" $side) }}
{{- end }}
{{- end }}
{{- $pools := include "sam3-annotate.enabledPools" . | fromJsonArray }}
{{- range $pool := $pools }}
{{- $values := index $.Values.pools $pool }}
{{- $pods := int64 $values.parallelism }}
{{- $indexes := int64 $values.completions }}
{{- if gt $pods $indexes }}
{{- $message := "pools.%s: %d pods at a time for %d indexes; completions must be at least parallelism" }}
{{- fail (printf $message $pool $pods $indexes) }}
{{- end }}
{{- $claims := list }}
{{- range $values.resourceClaims }}
{{- $claims = append $claims .name }}
{{- end }}
{{- range default list (get $values.resources "claims") }}
{{- if not (has .name $claims) }}
{{- fail (printf "pools.%s.resources.claims: names %s, which is not among resourceClaims (%s)" $pool .name (join ", " $claims)) }}
{{- end }}
{{- end }}
{{- if and $values.suspend $.Values.kueue.queueName }}
{{- fail (printf "pools.%s.suspend with kueue.queueName: Kueue owns that field; stop the workload in Kueue" $pool) }}
{{- end }}
{{- end }}
{{- if and (eq .Values.janitor.mode "always") .Values.kueue.queueName }}
{{- fail "janitor.mode: always with kueue.queueName: Kueue owns the field that a janitor sets; leave it at auto" }}
{{- end }}
{{- range $pool := list "gpu" "cpu" }}
{{- $model := (index $.Values.pools $pool).model }}
{{- if gt (len (compact (list $model.uri $model.pvc.claimName $model.image.reference))) 1 }}
{{- fail (printf "pools.%s.model: has more than one of uri, pvc.claimName and image.reference; give only one" $pool) }}
{{- end }}
{{- end }}
{{- if and $.Values.selection.inputList.column (not $.Values.selection.inputList.url) }}
{{- fail "selection.inputList: has a column and no url; give the list too" }}
{{- end }}
{{- if and $.Values.cache.hostPath $.Values.cache.pvc.claimName }}
{{- fail "cache: has a hostPath and a pvc; give only one" }}
{{- end }}
{{- if and $.Values.s3.ca.configMap $.Values.s3.ca.secret }}
{{- fail "s3.ca: has a configMap and a secret; give only one" }}
{{- end }}
{{- $gpu := .Values.pools.gpu }}
{{- if and (has "gpu" $pools) (not (or (int64 $gpu.count) $gpu.resourceClaims)) }}
{{- fail "pools.gpu: count is 0 and resourceClaims is empty, so its pods would have no accelerator; give one of them" }}
{{- end }}
{{- $egress := .Values.networkPolicy.egress }}
{{- if and .Values.networkPolicy.enabled $egress.restricted }}
{{- if not $egress.storage }}
{{- fail "networkPolicy.egress: restricted without storage, so no pod could reach its objects; give rules for the storage" }}
{{- end }}
{{- if and (include "sam3-annotate.hasJanitor" .) (not $egress.apiServer) }}
{{- fail "networkPolicy.egress: restricted without apiServer, which the janitor calls; give rules, or janitor.mode: never" }}
{{- end }}
{{- end }}
{{- if .Values.export.enabled }}
{{- if $pools }}
{{- fail "export.enabled with pools: the pools would start before the model exists; use a release without pools" }}
{{- end }}
{{- $model := (index .Values.pools .Values.export.pool).model }}
{{- if $model.image.reference }}
{{- fail (printf "export: pools.%s.model.image is read-only; give uri or pvc of the model" .Values.export.pool) }}
{{- end }}
{{- if not (or $model.uri $model.pvc.claimName) }}
{{- fail (printf "export: no location for the model; give uri or pvc of pools.%s.model" .Values.export.pool) }}
{{- end }}
{{- else if not $pools }}
{{- fail "pools: both are disabled; enable one" }}
{{- end }}
{{- end }}
