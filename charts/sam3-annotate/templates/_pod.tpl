{{/* The pod template of workers, doctor, janitor and export. */}}

{{/* Each claim once, writable if any use of it is. Takes a list of (list pvc readOnly), returns JSON. */}}
{{- define "sam3-annotate.claims" -}}
{{- $claims := dict }}
{{- range . }}
{{- $name := (index . 0).claimName }}
{{- if $name }}
{{- $readOnly := and (index . 1) (default true (get $claims $name)) }}
{{- if and (hasKey $claims $name) (not (get $claims $name)) }}
{{- $readOnly = false }}
{{- end }}
{{- $_ := set $claims $name $readOnly }}
{{- end }}
{{- end }}
{{- toJson $claims }}
{{- end }}

{{- define "sam3-annotate.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ quote .root.Values.tmp.sizeLimit }}
- name: cache
  {{- toYaml .cache.source | nindent 2 }}
{{- range $name, $readOnly := .claims }}
- name: claim-{{ sha256sum $name | trunc 8 }}
  persistentVolumeClaim:
    claimName: {{ quote $name }}
    {{- if $readOnly }}
    readOnly: true
    {{- end }}
{{- end }}
{{- with .modelImage }}
- name: model
  image:
    reference: {{ quote .reference }}
    pullPolicy: {{ quote .pullPolicy }}
{{- end }}
{{- range $side := list "input" "output" }}
{{- with (index $.root.Values $side).existingSecret }}
- name: {{ $side }}-options
  secret:
    secretName: {{ quote . }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- with .root.Values.s3.existingSecret }}
- name: s3-keys
  secret:
    secretName: {{ quote . }}
    defaultMode: 0440
{{- end }}
{{- with get . "hubToken" }}
- name: hub-token
  secret:
    secretName: {{ quote .existingSecret }}
    items: [{key: {{ quote .key }}, path: token}]
    defaultMode: 0440
{{- end }}
{{- with .root.Values.s3.ca.configMap }}
- name: s3-ca
  configMap:
    name: {{ quote . }}
{{- end }}
{{- with .root.Values.s3.ca.secret }}
- name: s3-ca
  secret:
    secretName: {{ quote . }}
    defaultMode: 0440
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "sam3-annotate.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
- name: cache
  mountPath: /cache
  {{- with .cache.subPath }}
  subPath: {{ quote . }}
  {{- end }}
{{- range $name, $readOnly := .claims }}
- name: claim-{{ sha256sum $name | trunc 8 }}
  mountPath: /volumes/{{ $name }}
  {{- if $readOnly }}
  readOnly: true
  {{- end }}
{{- end }}
{{- if .modelImage }}
- name: model
  mountPath: /model
  readOnly: true
{{- end }}
{{- range $side := list "input" "output" }}
{{- if (index $.root.Values $side).existingSecret }}
- name: {{ $side }}-options
  mountPath: /secrets/{{ $side }}
  readOnly: true
{{- end }}
{{- end }}
{{- if .root.Values.s3.existingSecret }}
- name: s3-keys
  mountPath: /secrets/s3
  readOnly: true
{{- end }}
{{- if get . "hubToken" }}
- name: hub-token
  mountPath: /secrets/hub
  readOnly: true
{{- end }}
{{- if or .root.Values.s3.ca.configMap .root.Values.s3.ca.secret }}
- name: s3-ca
  mountPath: /secrets/s3-ca
  readOnly: true
{{- end }}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "sam3-annotate.env" -}}
- name: SAM3_TERMINATION_LOG
  value: /dev/termination-log
{{- if .root.Values.s3.existingSecret }}
# Files follow a changed Secret, variables would not, and no child process inherits them.
- name: SAM3_S3_CREDENTIALS
  value: /secrets/s3
{{- end }}
{{- with .root.Values.s3.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ quote . }}
{{- end }}
{{- with .root.Values.s3.region }}
- name: AWS_DEFAULT_REGION
  value: {{ quote . }}
{{- end }}
{{- if or .root.Values.s3.ca.configMap .root.Values.s3.ca.secret }}
- name: AWS_CA_BUNDLE
  value: /secrets/s3-ca/{{ .root.Values.s3.ca.key }}
{{- end }}
{{- $proxy := .root.Values.proxy }}
{{- range $name, $value := dict "HTTP_PROXY" $proxy.http "HTTPS_PROXY" $proxy.https "NO_PROXY" $proxy.noProxy }}
{{- if $value }}
- name: {{ $name }}
  value: {{ quote $value }}
{{- end }}
{{- end }}
{{- with .env }}
{{ toYaml . }}
{{- end }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "sam3-annotate.envFrom" -}}
{{- with .Values.extraEnvFrom }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Scheduling fields. Takes {nodeSelector affinity tolerations priorityClassName}, and of a pool {runtimeClassName
     schedulerName topologySpreadConstraints resourceClaims}. */}}
{{- define "sam3-annotate.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ quote . }}
{{- end }}
{{- with get . "runtimeClassName" }}
runtimeClassName: {{ quote . }}
{{- end }}
{{- with get . "schedulerName" }}
schedulerName: {{ quote . }}
{{- end }}
{{- with get . "topologySpreadConstraints" }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with get . "resourceClaims" }}
resourceClaims:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Scheduling of a pool, as JSON: gpu on nodes with accelerators, cpu on nodes without.
     Takes (list root pool component). */}}
{{- define "sam3-annotate.poolScheduling" -}}
{{- $root := index . 0 }}
{{- $pool := index . 1 }}
{{- $values := index $root.Values.pools $pool }}
{{- $rules := pick $values "nodeSelector" "affinity" "tolerations" "priorityClassName" "runtimeClassName"
    "schedulerName" "resourceClaims" }}
{{- if eq (index . 2) "worker" }}
{{- $pods := merge (dict "app.kubernetes.io/component" "worker" "sam3-annotate/pool" $pool)
    (include "sam3-annotate.selectorLabels" $root | fromYaml) }}
{{- $spread := list }}
{{- range $values.topologySpreadConstraints }}
{{- $selector := dict "labelSelector" (dict "matchLabels" $pods) }}
{{- $spread = append $spread (hasKey . "labelSelector" | ternary . (merge (omit . "labelSelector") $selector)) }}
{{- end }}
{{- $_ := set $rules "topologySpreadConstraints" $spread }}
{{- end }}
{{- if eq $pool "gpu" }}
{{- $rules = merge (dict "tolerations" (concat $root.Values.gpu.tolerations $values.tolerations)) $rules }}
{{- else if not $values.affinity }}
{{- $rules = merge (dict "affinity" (include "sam3-annotate.cpuAffinity" $root | fromYaml)) $rules }}
{{- end }}
{{- toJson $rules }}
{{- end }}

{{/* Resources with the accelerators and device claims of the pool, as JSON. Takes (list root pool resources). */}}
{{- define "sam3-annotate.poolResources" -}}
{{- $root := index . 0 }}
{{- $resources := deepCopy (index . 2) }}
{{- $values := index $root.Values.pools (index . 1) }}
{{- with get $values.resources "claims" }}
{{- $_ := set $resources "claims" . }}
{{- end }}
{{- if and (eq (index . 1) "gpu") (int64 $values.count) }}
{{- $limits := merge (dict $root.Values.gpu.resourceName (int64 $values.count)) (default dict $resources.limits) }}
{{- $_ := set $resources "limits" $limits }}
{{- end }}
{{- toJson $resources }}
{{- end }}

{{/* The volume behind /cache in the pods of the pools, as JSON {source subPath}. Takes the chart's root. */}}
{{- define "sam3-annotate.poolCache" -}}
{{- $cache := .Values.cache }}
{{- if $cache.hostPath }}
{{- dict "source" (dict "hostPath" (dict "path" $cache.hostPath "type" "Directory")) | toJson }}
{{- else if $cache.pvc.claimName }}
{{- $source := dict "persistentVolumeClaim" (dict "claimName" $cache.pvc.claimName) }}
{{- dict "source" $source "subPath" (trimAll "/" $cache.pvc.path) | toJson }}
{{- else }}
{{- include "sam3-annotate.emptyCache" $cache.sizeLimit }}
{{- end }}
{{- end }}

{{/* An emptyDir behind /cache, as JSON. Takes its size limit. */}}
{{- define "sam3-annotate.emptyCache" -}}
{{- dict "source" (dict "emptyDir" (dict "sizeLimit" .)) | toJson }}
{{- end }}

{{/* Containers beside the worker, as a list: init containers, and sidecars as native ones. Takes the chart's root. */}}
{{- define "sam3-annotate.initContainers" -}}
{{- $containers := .Values.initContainers }}
{{- range .Values.sidecars }}
{{- $containers = append $containers (merge (dict "restartPolicy" "Always") .) }}
{{- end }}
{{- with $containers }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* Takes {root component name image args env resources scheduling claims cache serviceAccountName isProbed hasToken
     labels annotations modelImage hasCompanions hubToken}, and the pool of a worker. */}}
{{- define "sam3-annotate.podTemplate" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "sam3-annotate.selectorLabels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ quote .component }}
    {{- if eq .component "worker" }}
    sam3-annotate/pool: {{ quote .pool }}
    sam3-annotate/run: {{ include "sam3-annotate.runName" $root | quote }}
    {{- end }}
    {{- with merge (dict) (default dict .labels) $root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with merge (dict) (default dict .annotations) $root.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ quote .serviceAccountName }}
  automountServiceAccountToken: {{ default false .hasToken }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int64 $root.Values.job.terminationGracePeriodSeconds }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.dnsPolicy }}
  dnsPolicy: {{ quote . }}
  {{- end }}
  {{- with $root.Values.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "sam3-annotate.scheduling" .scheduling | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if .hasCompanions }}
  {{- with include "sam3-annotate.initContainers" $root }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  {{- end }}
  containers:
    - name: {{ quote .name }}
      image: {{ quote .image }}
      imagePullPolicy: {{ quote $root.Values.image.pullPolicy }}
      args:
        {{- .args | nindent 8 }}
      {{- with include "sam3-annotate.env" . | trim }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      {{- with include "sam3-annotate.envFrom" $root | trim }}
      envFrom:
        {{- . | nindent 8 }}
      {{- end }}
      {{- if .isProbed }}
      ports:
        - name: metrics
          containerPort: {{ int64 $root.Values.metrics.port }}
      {{- if $root.Values.livenessProbe.enabled }}
      livenessProbe:
        httpGet:
          path: /livez
          port: metrics
        {{- omit $root.Values.livenessProbe "enabled" | toYaml | nindent 8 }}
      {{- end }}
      {{- end }}
      terminationMessagePolicy: FallbackToLogsOnError
      resources:
        {{- toYaml .resources | nindent 8 }}
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      volumeMounts:
        {{- include "sam3-annotate.volumeMounts" . | nindent 8 }}
  volumes:
    {{- include "sam3-annotate.volumes" . | nindent 4 }}
{{- end }}

{{/* A pod of a pool: of its Job, and of the doctor, which is scheduled like the pool.
     Takes {root pool component name args env isProbed}. */}}
{{- define "sam3-annotate.poolPod" -}}
{{- $root := .root }}
{{- $values := index $root.Values.pools .pool }}
{{- $folders := list (list $root.Values.input.pvc true) (list $root.Values.output.pvc false) }}
{{- $claims := append $folders (list $values.model.pvc true) }}
{{- $pod := dict
    "image" (include "sam3-annotate.image" (list $root $values.image .pool))
    "env" (concat (default list .env) $values.env)
    "labels" $values.podLabels
    "annotations" $values.podAnnotations
    "modelImage" (ternary $values.model.image dict (ne $values.model.image.reference ""))
    "hasCompanions" true
    "hasToken" $root.Values.serviceAccount.automountToken
    "resources" (include "sam3-annotate.poolResources" (list $root .pool $values.resources) | fromJson)
    "scheduling" (include "sam3-annotate.poolScheduling" (list $root .pool .component) | fromJson)
    "claims" (include "sam3-annotate.claims" $claims | fromJson)
    "cache" (include "sam3-annotate.poolCache" $root | fromJson)
    "serviceAccountName" (include "sam3-annotate.serviceAccountName" $root) }}
{{- include "sam3-annotate.podTemplate" (merge $pod .) }}
{{- end }}
