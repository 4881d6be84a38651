"""How a machine becomes a node: a join token is exchanged for an identity of its own."""

from __future__ import annotations

from starlette.responses import Response

from gpuq.api.calls import By
from gpuq.api.nodes import enrolled


async def join(call: By) -> Response:
    """Become a node of this name; the answer holds its token, which is shown only here."""
    return await enrolled(call)
