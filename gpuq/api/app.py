"""The routes of the controller, as an index, and the application made of them.

A row says method, path below /api/v1, the least role that may call it ('open': no token; 'node': agents;
'join': machines that become nodes), and what answers. There is no way to register a route without a role.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from gpuq.api import (
    agents,
    changes,
    cluster,
    docs,
    jobs,
    join,
    lists,
    log_ranges,
    nodes,
    settings,
    snapshot,
    stream,
    streams,
    tokens,
    users,
)
from gpuq.api.calls import CALL_KEY, Site
from gpuq.api.failures import invalid, refusal, unexpected
from gpuq.api.gate import Gate, Route, refused
from gpuq.api.schemas import (
    FORMS,
    Emptied,
    JobChanges,
    Leaving,
    NewNode,
    NewSettings,
    NewStream,
    NewToken,
    NewUser,
    Nothing,
    Removal,
    Role,
    Selected,
    Submission,
    Whole,
    Why,
)
from gpuq.errors import GpuqError
from gpuq.protocol import API_PREFIX, MAX_LOG_POST_BYTES, MAX_SYNC_BYTES, STREAM_WINDOW
from gpuq.version import VERSION

_LOGS = MAX_LOG_POST_BYTES + agents.LOG_HEADER_BYTES

ROUTES: tuple[Route, ...] = (
    Route("GET", "/version", "open", cluster.version),
    Route("GET", "/ca", "open", cluster.ca),
    Route("GET", "/openapi.json", "open", docs.openapi_json),
    Route("GET", "/docs", "open", docs.page),
    Route("GET", "/whoami", "viewer", cluster.whoami),
    Route("GET", "/cluster", "viewer", cluster.cluster),
    # jobs
    Route("POST", "/jobs", "user", jobs.submit, mutates=True, body=Submission, status=201),
    Route("GET", "/jobs", "viewer", lists.list_jobs),
    Route("GET", "/history", "viewer", lists.history),
    Route("GET", "/jobs/{id}", "viewer", jobs.show_job),
    Route("GET", "/jobs/{id}/script", "viewer", jobs.script),
    Route("GET", "/jobs/{id}/environment", "user", jobs.environment),
    Route("GET", "/jobs/{id}/why", "viewer", jobs.why),
    Route("GET", "/jobs/{id}/log", "viewer", stream.log),
    Route("GET", "/jobs/{id}/log/range", "viewer", log_ranges.log_range),
    Route("GET", "/jobs/{id}/log/search", "viewer", log_ranges.log_search),
    Route("POST", "/jobs/cancel", "user", jobs.cancel, mutates=True, body=Selected),
    Route("POST", "/jobs/hold", "user", jobs.hold, mutates=True, body=Selected),
    Route("POST", "/jobs/release", "user", jobs.release, mutates=True, body=Selected),
    Route("POST", "/jobs/requeue", "user", jobs.requeue, mutates=True, body=Selected),
    Route("PATCH", "/jobs/{id}", "user", jobs.update, mutates=True, body=JobChanges),
    # streams to running jobs
    Route("POST", "/jobs/{id}/streams", "user", streams.open_stream, mutates=True, body=NewStream, status=201),
    Route("GET", "/streams/{id}", "user", streams.from_job),
    Route("POST", "/streams/{id}", "user", streams.to_job, max_body=STREAM_WINDOW),
    Route("DELETE", "/streams/{id}", "user", streams.leave),
    # nodes
    Route("GET", "/nodes", "viewer", nodes.list_nodes),
    Route("GET", "/nodes/{name}", "viewer", nodes.one_node),
    Route("POST", "/nodes", "admin", nodes.enrol, mutates=True, body=NewNode, status=201),
    Route("POST", "/nodes/{name}/remove", "admin", nodes.remove, mutates=True, body=Removal),
    Route("POST", "/join", "join", join.join, mutates=True, body=NewNode, status=201),
    Route("POST", "/nodes/{name}/cordon", "admin", nodes.cordon, mutates=True, body=Why),
    Route("POST", "/nodes/{name}/uncordon", "admin", nodes.uncordon, mutates=True, body=Whole),
    Route("POST", "/nodes/{name}/drain", "admin", nodes.drain, mutates=True, body=Emptied),
    # people
    Route("GET", "/tokens", "viewer", tokens.list_tokens),
    Route("POST", "/tokens", "admin", tokens.create_token, mutates=True, body=NewToken, status=201),
    Route("POST", "/tokens/{id}/revoke", "viewer", tokens.revoke_token, mutates=True, body=Nothing),
    Route("GET", "/users", "admin", users.list_users),
    Route("POST", "/users", "admin", users.add_user, mutates=True, body=NewUser, status=201),
    Route("POST", "/users/{name}/role", "admin", users.set_role, mutates=True, body=Role),
    Route("POST", "/users/{name}/disable", "admin", users.disable_user, mutates=True, body=Leaving),
    Route("POST", "/users/{name}/enable", "admin", users.enable_user, mutates=True, body=Nothing),
    # settings
    Route("GET", "/settings", "viewer", settings.show_settings),
    Route("POST", "/settings", "admin", settings.change_settings, mutates=True, body=NewSettings),
    # what happens
    Route("GET", "/snapshot", "viewer", snapshot.snapshot),
    Route("GET", "/snapshot/jobs", "viewer", snapshot.snapshot_jobs),
    Route("GET", "/changes", "viewer", changes.changes),
    Route("GET", "/events", "viewer", stream.events),
    Route("GET", "/events/stream", "viewer", stream.events_stream),
    # agents
    Route("POST", "/agent/sync", "node", agents.sync, max_body=MAX_SYNC_BYTES),
    Route("POST", "/agent/logs", "node", agents.logs, max_body=_LOGS),
    Route("GET", "/agent/streams/{id}", "node", streams.from_client),
    Route("POST", "/agent/streams/{id}", "node", streams.to_client, max_body=STREAM_WINDOW),
    Route("DELETE", "/agent/streams/{id}", "node", streams.fail),
)


def make_app(site: Site) -> Gate:
    """The ASGI application that serves this site."""
    return Gate(ROUTES, site, _parser())


@cache
def describe() -> dict[str, Any]:
    """The OpenAPI document of all routes."""
    return docs.openapi(_parser(), ROUTES)


@cache
def _parser() -> FastAPI:
    """FastAPI behind the gate: parses paths and queries, and describes itself. It knows no site, so one will do."""
    app = FastAPI(title="gpuq", version=VERSION, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_exception_handler(GpuqError, _on_gpuq_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_unexpected)
    for route in ROUTES:
        app.add_api_route(
            API_PREFIX + route.path,
            route.handler,
            methods=[route.method],
            response_model=None,
            status_code=route.status,
            operation_id=route.handler.__name__,
        )
    return app


async def _on_gpuq_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GpuqError)
    return await refused(request.scope[CALL_KEY], error)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return refusal(invalid(error, FORMS))


async def _on_unexpected(_: Request, __: Exception) -> Response:
    return unexpected()
