"""What a running controller looks after: a good token in its home, a certificate that never runs out, room for logs."""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Callable
from pathlib import Path

from gpuq.api.auth import new_token
from gpuq.api.calls import Site
from gpuq.api.certificates import Certificates, ensure_certificates, renewal_is_due, write_file
from gpuq.api.retention import Retention
from gpuq.config import running_as
from gpuq.errors import GpuqError, NotAuthenticated
from gpuq.model import Now
from gpuq.service.commands import StoreOwnersToken

logger = logging.getLogger(__name__)

TOKEN_SECONDS = 10.0  # whoever deletes or revokes a token that leaked can wait so long for the next one
CERTIFICATE_SECONDS = 3600.0  # it is renewed 30 days ahead: there are 720 tries


class Upkeep:
    """Of one controller. context is what its server answers new connections with."""

    def __init__(
        self, home: Path, site: Site, certificates: Certificates, context: ssl.SSLContext, clock: Callable[[], Now]
    ) -> None:
        self._home, self._site, self._certificates = home, site, certificates
        self._context, self._clock = context, clock
        self._certificate_at = 0.0  # monotonic; when to look at it next
        self._retention = Retention(home, site)

    async def run(self) -> None:
        """Never returns. What cannot be done now is logged, and tried again."""
        while True:
            await asyncio.sleep(TOKEN_SECONDS)
            try:
                await self.look()
            except GpuqError as error:
                logger.warning("upkeep.failed text=%s", error.one_line())
            except OSError as error:
                logger.warning("upkeep.failed file=%s text=%s", error.filename, error.strerror)
            except Exception:
                logger.exception("upkeep.failed")

    async def look(self) -> None:
        now = self._clock()
        await ensure_admin(self._home, self._site, now.wall)
        if now.monotonic >= self._certificate_at:
            self._certificate_at = now.monotonic + CERTIFICATE_SECONDS
            self._renew(now.wall)
        await self._retention.look(now)

    def _renew(self, wall: float) -> None:
        """Connections there are go on as they are; new ones are shown the new certificate."""
        if not renewal_is_due(self._certificates, wall):
            return
        ensure_certificates(self._home, wall)
        self._context.load_cert_chain(self._certificates.certificate, self._certificates.key)
        logger.info("certificate.renewed")


async def ensure_admin(home: Path, site: Site, wall: float) -> None:
    """Leaves a token that works in admin.token, for whoever may read this home: the account that runs it.

    Lost, revoked, expired, or its user disabled: whoever owns the home is an administrator all the same.
    """
    path = home / "admin.token"
    try:
        if site.tokens.actor(f"Bearer {path.read_text('ascii', 'replace').strip()}").admin:
            return
    except (FileNotFoundError, NotAuthenticated):
        pass
    text, record = new_token("admin", running_as(), site.ca_sha256, wall)
    await site.controller.execute(StoreOwnersToken(record), f"admin-{secrets.token_hex(8)}")
    write_file(path, f"{text}\n".encode(), 0o600)
