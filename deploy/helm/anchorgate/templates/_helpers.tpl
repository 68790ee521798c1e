{{- define "anchorgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "anchorgate.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "anchorgate.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "anchorgate.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "anchorgate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "anchorgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "anchorgate.labels" -}}
{{ include "anchorgate.selectorLabels" . }}
app.kubernetes.io/component: {{ .Values.mode }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "anchorgate.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "anchorgate.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "anchorgate.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "anchorgate.tlsSecret" -}}
{{- if .Values.tls.existingSecret }}
{{- .Values.tls.existingSecret }}
{{- else if .Values.tls.certManager.enabled }}
{{- printf "%s-tls" (include "anchorgate.fullname" .) }}
{{- else }}
{{- fail "set tls.existingSecret, or tls.certManager.enabled" }}
{{- end }}
{{- end }}

{{- /* The configuration: that of the values, and the directory of a hub. */}}
{{- define "anchorgate.configuration" -}}
{{ tpl .Values.configuration . | trim }}
{{- if eq .Values.mode "hub" }}

[directory]
listen = "0.0.0.0:8445"
public_url = {{ required "hub.publicUrl is required" .Values.hub.publicUrl | quote }}
database_url_file = "/etc/anchorgate/database/url"

{{ required "hub.access is required: without tokens or issuers every request would be denied" .Values.hub.access | trim }}
{{- end }}
{{- end }}

{{- define "anchorgate.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "anchorgate.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "anchorgate.container" -}}
name: anchorgate
image: {{ include "anchorgate.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [run, --config, /etc/anchorgate/config/config.toml]
{{- with .Values.env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  {{- if ne .Values.mode "hub" }}
  - {name: token, containerPort: 8443, protocol: TCP}
  - {name: public, containerPort: 8444, protocol: TCP}
  {{- else }}
  - {name: directory, containerPort: 8445, protocol: TCP}
  {{- end }}
  - {name: health, containerPort: {{ .Values.health.port }}, protocol: TCP}
startupProbe:
  # /startupz waits for the first trust, from the directory or from the disk.  An application that the
  # sidecar guards waits for the revocation lists too.
  httpGet: {path: {{ eq .Values.mode "sidecar" | ternary "/readyz" "/startupz" }}, port: health}
  periodSeconds: 1
  failureThreshold: 600
readinessProbe:
  httpGet: {path: /readyz, port: health}
  periodSeconds: 5
  timeoutSeconds: 2
livenessProbe:
  httpGet: {path: /livez, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
securityContext:
  {{- include "anchorgate.securityContext" . | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/anchorgate/config, readOnly: true}
  - {name: tls, mountPath: /etc/anchorgate/tls, readOnly: true}
  - {name: state, mountPath: /var/lib/anchorgate}
  {{- if .Values.signingKeys.existingSecret }}
  - {name: signing, mountPath: /etc/anchorgate/signing, readOnly: true}
  {{- else }}
  - {name: signing, mountPath: /var/lib/anchorgate-keys}
  {{- end }}
  {{- if .Values.ticketKeys.existingSecret }}
  - {name: tickets, mountPath: /etc/anchorgate/tickets, readOnly: true}
  {{- end }}
  {{- if eq .Values.mode "hub" }}
  - {name: database, mountPath: /etc/anchorgate/database, readOnly: true}
  {{- end }}
  {{- range .Values.secrets }}
  - {name: secret-{{ . }}, mountPath: /etc/anchorgate/secrets/{{ . }}, readOnly: true}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "anchorgate.pod" -}}
metadata:
  labels:
    {{- include "anchorgate.selectorLabels" . | nindent 4 }}
    app.kubernetes.io/component: {{ .Values.mode }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- if .Values.rolloutOnConfigurationChange }}
    checksum/config: {{ include "anchorgate.configuration" . | sha256sum }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "anchorgate.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- include "anchorgate.podSecurityContext" . | nindent 4 }}
  {{- if eq .Values.mode "sidecar" }}
  # A native sidecar: it starts before the application, stops after it, and does not keep a job from ending.
  initContainers:
    - restartPolicy: Always
      {{- include "anchorgate.container" . | nindent 6 }}
  containers:
    {{- required "sidecar.containers is required" .Values.sidecar.containers | toYaml | nindent 4 }}
  {{- else }}
  containers:
    - {{- include "anchorgate.container" . | nindent 6 }}
  {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "anchorgate.fullname" . }}}
    - name: tls
      secret: {secretName: {{ include "anchorgate.tlsSecret" . }}, defaultMode: 0440}
    - name: state
      emptyDir: {}
    - name: signing
      {{- if .Values.signingKeys.existingSecret }}
      secret: {secretName: {{ .Values.signingKeys.existingSecret }}, defaultMode: 0440}
      {{- else }}
      persistentVolumeClaim:
        claimName: {{ default (printf "%s-keys" (include "anchorgate.fullname" .)) .Values.signingKeys.persistentVolumeClaim.existingClaim }}
      {{- end }}
    {{- with .Values.ticketKeys.existingSecret }}
    - name: tickets
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- if eq .Values.mode "hub" }}
    - name: database
      secret: {secretName: {{ required "hub.databaseSecret is required" .Values.hub.databaseSecret }}, defaultMode: 0440}
    {{- end }}
    {{- range .Values.secrets }}
    - name: secret-{{ . }}
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- if eq .Values.mode "sidecar" }}
    {{- with .Values.sidecar.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if .Values.topologySpread.enabled }}
  topologySpreadConstraints:
    - maxSkew: {{ .Values.topologySpread.maxSkew }}
      topologyKey: {{ .Values.topologySpread.topologyKey }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "anchorgate.selectorLabels" . | nindent 10 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
