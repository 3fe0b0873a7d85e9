{{/* Names, labels and images. */}}

{{- define "sam3-annotate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* A name of at most `room` characters without dots: a release name may hold dots, the name of an Indexed Job may not.
     If the name must change, it ends in a hash of its identity, so that two releases never share a name.
     Takes (list name room identity), the identity being the name or, if the name is ambiguous, another text. */}}
{{- define "sam3-annotate.fit" -}}
{{- $name := index . 0 }}
{{- $room := index . 1 | int }}
{{- $plain := $name | replace "." "-" }}
{{- $identity := index . 2 }}
{{- if or (ne $plain $identity) (gt (len $name) $room) }}
{{- printf "%s-%s" ($plain | trunc (sub $room 9 | int) | trimSuffix "-") ($identity | sha256sum | trunc 8) }}
{{- else }}
{{- $name }}
{{- end }}
{{- end }}

{{/* Names of all objects begin with it. A release may be named like the chart, or like another release with the chart's
     name behind it: only the latter is ambiguous. Takes (list root room). */}}
{{- define "sam3-annotate.prefix" -}}
{{- $root := index . 0 }}
{{- $room := index . 1 }}
{{- $name := default $root.Chart.Name $root.Values.nameOverride }}
{{- $release := $root.Release.Name }}
{{- if $root.Values.fullnameOverride }}
{{- include "sam3-annotate.fit" (list $root.Values.fullnameOverride $room $root.Values.fullnameOverride) }}
{{- else if contains $name $release }}
{{- $isAmbiguous := hasSuffix (printf "-%s" $name) $release }}
{{- include "sam3-annotate.fit" (list $release $room (ternary (printf "%s/" $release) $release $isAmbiguous)) }}
{{- else }}
{{- $full := printf "%s-%s" $release $name }}
{{- include "sam3-annotate.fit" (list $full $room $full) }}
{{- end }}
{{- end }}

{{- define "sam3-annotate.fullname" -}}
{{- include "sam3-annotate.prefix" (list . 63) }}
{{- end }}

{{/* A name of at most 45 characters, so that Kubernetes does not cut it in pod names.
     Takes (list root middle end); only the release's part is cut. */}}
{{- define "sam3-annotate.cutName" -}}
{{- $tail := printf "-%s" (join "-" (rest .)) }}
{{- printf "%s%s" (include "sam3-annotate.prefix" (list (index . 0) (sub 45 (len $tail)))) $tail }}
{{- end }}

{{- define "sam3-annotate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sam3-annotate.name" . | quote }}
app.kubernetes.io/instance: {{ quote .Release.Name }}
{{- end }}

{{/* Labels of objects, not of pods: the pod template of a Job is immutable, and the chart's version changes. */}}
{{- define "sam3-annotate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ quote .Release.Service }}
{{ include "sam3-annotate.selectorLabels" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The annotations of an object, if it has any; the former take precedence. Takes (list root mapping...). */}}
{{- define "sam3-annotate.annotations" -}}
{{- $all := dict }}
{{- range append (rest .) (index . 0).Values.commonAnnotations }}
{{- $all = merge $all . }}
{{- end }}
{{- with $all -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "sam3-annotate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "sam3-annotate.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "sam3-annotate.janitorServiceAccountName" -}}
{{- if .Values.janitor.serviceAccount.create }}
{{- default (include "sam3-annotate.cutName" (list . "janitor")) .Values.janitor.serviceAccount.name }}
{{- else }}
{{- default (include "sam3-annotate.serviceAccountName" .) .Values.janitor.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Takes (list root image kind). */}}
{{- define "sam3-annotate.image" -}}
{{- $root := index . 0 }}
{{- $image := index . 1 }}
{{- $kind := index . 2 }}
{{- $repository := default $root.Values.image.repository $image.repository }}
{{- $tag := default (printf "%s-%s" (default $root.Chart.AppVersion $root.Values.image.tag) $kind) $image.tag }}
{{- if $image.digest }}
{{- printf "%s@%s" $repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $repository $tag }}
{{- end }}
{{- end }}

{{/* Enabled pools, as a JSON list. */}}
{{- define "sam3-annotate.enabledPools" -}}
{{- $pools := list }}
{{- range list "gpu" "cpu" }}
{{- if (index $.Values.pools .).enabled }}
{{- $pools = append $pools . }}
{{- end }}
{{- end }}
{{- toJson $pools }}
{{- end }}

{{/* Not with Kueue, which owns `suspend`: a Job that is admitted after the end of the run finishes within a minute. */}}
{{- define "sam3-annotate.hasJanitor" -}}
{{- $pools := include "sam3-annotate.enabledPools" . | fromJsonArray }}
{{- if or (and (eq .Values.janitor.mode "auto") (eq (len $pools) 2) (not .Values.kueue.queueName)) (and (eq .Values.janitor.mode "always") $pools) -}}
true
{{- end }}
{{- end }}

{{- define "sam3-annotate.doctorPool" -}}
{{- if .Values.doctor.pool }}
{{- .Values.doctor.pool }}
{{- else if .Values.pools.cpu.enabled -}}
cpu
{{- else -}}
gpu
{{- end }}
{{- end }}

{{/* Anti-affinity to nodes with accelerators. */}}
{{- define "sam3-annotate.cpuAffinity" -}}
{{- with .Values.gpu.nodeLabels }}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          {{- range . }}
          - key: {{ quote . }}
            operator: DoesNotExist
          {{- end }}
{{- end }}
{{- end }}
