{{- define "heddle.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "heddle.labels" -}}
app.kubernetes.io/name: heddle
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The configuration file. toYaml sorts the keys; null stays null. */ -}}
{{- define "heddle.config" -}}
{{ toYaml .Values.config }}
{{- end }}
