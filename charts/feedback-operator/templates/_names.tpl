{{/* Names and labels, and the images. */}}

{{/*
A name of at most `max` characters; call with (dict "name" NAME "max" 63). Of one that is longer a digest of all of it
stands for what is cut, so that names that differ stay different.
*/}}
{{- define "feedback.fitted" -}}
{{- if le (len .name) .max -}}
{{- .name | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.name | trunc (sub .max 9 | int) | trimSuffix "-") (.name | sha256sum | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- define "feedback.name" -}}
{{- include "feedback.fitted" (dict "name" (default .Chart.Name .Values.nameOverride) "max" 63) -}}
{{- end -}}

{{/* Short enough for the suffixes that objects of the release's own namespace have, such as -workloads. */}}
{{- define "feedback.fullname" -}}
{{- $name := include "feedback.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- include "feedback.fitted" (dict "name" (default $full .Values.fullnameOverride) "max" 52) -}}
{{- end -}}

{{/* The name of an object that has no namespace; call with (dict "root" $ "suffix" "-what"). */}}
{{- define "feedback.clusterName" -}}
{{- $name := printf "%s-%s%s" .root.Release.Namespace (include "feedback.fullname" .root) .suffix -}}
{{- include "feedback.fitted" (dict "name" $name "max" 63) -}}
{{- end -}}

{{- define "feedback.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "feedback.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "feedback.selector" -}}
app.kubernetes.io/name: {{ include "feedback.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "feedback.labels" -}}
app.kubernetes.io/name: {{ include "feedback.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: feedback-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Metadata but for the name; call with (dict "root" $ "annotations" {…}). */}}
{{- define "feedback.metadata" -}}
labels:
  {{- include "feedback.labels" .root | nindent 2 }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* One image; call with (dict "root" $ "image" .Values.image). */}}
{{- define "feedback.image" -}}
{{- with .image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ default .root.Chart.AppVersion .image.tag }}{{ end -}}
{{- end -}}

{{/* The namespaces that are served, as a JSON list; empty for all of them. */}}
{{- define "feedback.namespaces" -}}
{{- if eq .Values.scope "Cluster" -}}[]
{{- else -}}{{ default (list .Release.Namespace) .Values.namespaces | uniq | toJson }}
{{- end -}}
{{- end -}}
