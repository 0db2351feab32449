{{- define "polyrank.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "polyrank.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "polyrank.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "polyrank.selector" -}}
app.kubernetes.io/name: {{ include "polyrank.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "polyrank.labels" -}}
{{ include "polyrank.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "polyrank.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "polyrank.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "polyrank.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* Arguments of `polyrank`, one a line of a YAML list. */}}
{{- define "polyrank.args" -}}
- serve
- --host
- 0.0.0.0
- --port
- {{ .Values.containerPort | quote }}
- --log-format
- json
- --drain-delay
- {{ .Values.shutdown.drainDelaySeconds | quote }}
- --drain
- {{ .Values.shutdown.drainSeconds | quote }}
{{- range .Values.models }}
- --model
- {{ . | quote }}
{{- end }}
{{- range $name, $value := .Values.options }}
{{- if not (kindIs "bool" $value) }}
- --{{ $name }}
- {{ kindIs "float64" $value | ternary ($value | toJson) (toString $value) | quote }}
{{- else if $value }}
- --{{ $name }}
{{- end }}
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A variable out of a Secret: list NAME SECRET KEY. */}}
{{- define "polyrank.secretVariable" -}}
{{- $name := index . 0 }}{{ $secret := index . 1 }}{{ $key := index . 2 -}}
{{- if $secret -}}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ $key }}
{{- end -}}
{{- end -}}
