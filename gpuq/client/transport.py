"""Requests to one controller over httpx: pinned TLS, connections kept alive, failures as gpuq's own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from gpuq.client.connection import CONNECT_SECONDS, parse_url
from gpuq.client.tls import pinned
from gpuq.errors import Unavailable, Unreachable, from_json
from gpuq.wire import PROTOCOL, PROTOCOL_HEADER, TLS_NAME

# This is how Python itself notes that there is no such module. httpcore asks for sniffio, which is not packed, several
# times a request, and each time Python searches the disk for it: a quarter of a request's processor time. httpx asks
# for its own command line, with rich and Pygments: a third of the time that it takes to import.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

import httpx  # noqa: E402  (after the above)

IDLE_SECONDS = 60.0  # several polls: whoever has nothing to say then never sets up TLS again


class Transport:
    """The connections of one user, or one node, to one controller. Nothing is repeated here.

    kept: how many connections stay open between requests: as many as are used at once.
    """

    def __init__(self, url: str, token: str, ca_pem: str, kept: int) -> None:
        address = parse_url(url)
        self.url = address.url
        self._base = httpx.URL(address.url)
        self._headers = {
            "host": self._base.netloc.decode(),
            "authorization": f"Bearer {token}",
            PROTOCOL_HEADER: str(PROTOCOL),
        }
        # The transport, not AsyncClient: without redirects, cookies and authentication flows, of which there are none
        # here, a request takes 0.15 ms less processor time, and an agent with short jobs makes 200 a second. Nor does
        # it know of proxies, whatever a shell profile says.
        self._http = httpx.AsyncHTTPTransport(
            verify=pinned(ca_pem),
            limits=httpx.Limits(max_keepalive_connections=kept, keepalive_expiry=IDLE_SECONDS),
        )

    async def ask(
        self, method: str, target: str, timeout: float, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Any:
        """The answer: JSON, or text where that is what it is. target: path and query, escaped.

        Raises Unreachable when the controller was not reached, Unavailable when the answer was lost or is unusable,
        and otherwise the error that the controller's answer stands for.
        """
        answer = await self._send(method, target, timeout, content, headers)
        body = _checked(answer)
        return answer.text if answer.headers.get("content-type", "").startswith("text/plain") else body

    async def octets(self, target: str, timeout: float) -> bytes:
        """What a GET answers, as bytes; raises as `ask` does."""
        answer = await self._send("GET", target, timeout, b"", None)
        if answer.status_code >= 400:
            _checked(answer)
        return answer.content

    async def _send(
        self, method: str, target: str, timeout: float, content: bytes, headers: Mapping[str, str] | None
    ) -> httpx.Response:
        timeouts = httpx.Timeout(timeout, connect=CONNECT_SECONDS)
        request = httpx.Request(
            method,
            self._base.copy_with(raw_path=target.encode()),
            headers={**self._headers, **(headers or {})},
            content=content,
            extensions={"sni_hostname": TLS_NAME, "timeout": timeouts.as_dict()},  # also the name that is verified
        )
        try:
            answer = await self._http.handle_async_request(request)
            await answer.aread()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(f"cannot reach the controller at {self.url}: {str(error) or 'no answer'}") from error
        except httpx.RequestError as error:
            raise Unavailable(f"lost the controller at {self.url}: {str(error) or type(error).__name__}") from error
        return answer

    async def close(self) -> None:
        await self._http.aclose()


def _checked(answer: httpx.Response) -> Any:
    """The JSON of an answer, None if it is none; raises the error that it stands for."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if answer.status_code >= 400:
        raise from_json(answer.status_code, body)
    return body
