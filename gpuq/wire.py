"""The names both ends of a connection use.

Apart from `gpuq.protocol`, whose dataclasses take 25 ms to build at import: a short verb needs only these.
"""

from __future__ import annotations

PROTOCOL = 1
API_PREFIX = "/api/v1"
TLS_NAME = "controller.gpuq"  # the one server name in every certificate, always verified: addresses may move
PROTOCOL_HEADER = "gpuq-protocol"
REQUEST_ID_HEADER = "gpuq-request-id"  # on every mutation, 8-64 characters of [A-Za-z0-9_-]
POLL_SECONDS = 5.0  # longest a sync or a long-polled read is held; also the heartbeat of an idle agent
