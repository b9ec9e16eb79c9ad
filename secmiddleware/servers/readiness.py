"""Whether settings that are good by themselves can be served with: asked once, before anything listens."""

from __future__ import annotations

from secmiddleware.errors import ConfigError, Finding
from secmiddleware.parts import certificates_of
from secmiddleware.server_kinds_wsgi import ServerKind, twins_of
from secmiddleware.settings import Settings


def check_serveable(settings: Settings, workers: int) -> None:
    """Raises ConfigError or CertificateError where so many processes cannot serve with these settings."""
    source = None if settings.source is None else str(settings.source)
    findings = []
    if settings.mtls.certificate is None and settings.mtls.source == "server":
        message = "is missing: the server has to show a certificate of its own"
        hint = "`secmiddleware init DIR` makes one for development"
        findings.append(Finding("mtls.certificate", message, source, hint=hint))
    if workers > 1 and settings.keys is not None and settings.keys.store == "memory:":
        message = f'"memory:" is for one process, but {workers} workers would each have keys of their own'
        findings.append(Finding("keys.store", message, source, hint='use "file:PATH"'))
    if workers > 1 and settings.rotation.broker.get_secret_value() == "memory://":
        message = f'"memory://" is for one process: {workers} workers would not hear each other'
        findings.append(Finding("rotation.broker", message, source, hint="use RabbitMQ or Redis, or none"))
    if findings:
        raise ConfigError(findings)
    if settings.mtls.certificate is not None:
        certificates_of(settings.mtls).server_context()


def check_source(settings: Settings, kind: ServerKind) -> None:
    """Raises ConfigError where a proxy's header is worth nothing on this server."""
    reason = twins_of(kind, settings.mtls.source)
    if reason is not None:
        source = None if settings.source is None else str(settings.source)
        raise ConfigError([Finding("mtls.source", f'"{settings.mtls.source}": {reason}', source)])
