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

# A stream, between a command and a job's supervisor: a row of bytes each way, counted from 0 (docs/api.md). An end
# keeps what it sent until the other end has it, and sends no more than a window beyond that. A shell or a connection
# whose client was cut off is kept for RESUME_SECONDS.
STREAM_WINDOW = 512 << 10
STREAM_PIECE = 256 << 10  # bytes of one request: half a window, so that one is on its way while another is read
RESUME_SECONDS = 600.0
# What the rows are made of: kind and length, then the payload. agent/channel.py has the same.
STREAM_FRAME = ">cI"
STREAM_PAYLOAD = 16 << 10  # the most of one frame
DATA = b"d"
SIZE = b"s"  # to the job: rows and columns of the window, two unsigned shorts
END = b"e"  # no more data this way
EXIT = b"x"  # from the job, the last: JSON with exit_code or signal, or error, a line
