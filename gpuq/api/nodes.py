"""Nodes: look, add, remove, cordon, drain."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Path
from starlette.responses import Response

from gpuq.api.answers import answer
from gpuq.api.auth import derived_secret, new_token
from gpuq.api.calls import By, Call
from gpuq.api.schemas import Emptied, NewNode, Removal, Whole, Why, parse
from gpuq.api.show import show_node_in_detail
from gpuq.errors import NotFound
from gpuq.model import NodeName
from gpuq.service.commands import Cordon, Drain, EnrolNode, RemoveNode, Uncordon, UserCommand

Name = Annotated[str, Path(description="the node's name")]


async def list_nodes(call: By) -> Response:
    """All nodes, by name."""
    nodes = sorted(call.controller.view.nodes.values(), key=lambda node: node.name)
    body = {"items": [show_node_in_detail(call, node) for node in nodes], "next": None}
    await call.controller.settled()
    return answer(body)


async def one_node(call: By, name: Name) -> Response:
    """One node."""
    return await _shown(call, name)


async def _shown(call: Call, name: str) -> Response:
    node = call.controller.view.nodes.get(NodeName(name))
    if node is None:
        raise NotFound(f"there is no node {name[:60]}")
    body = show_node_in_detail(call, node)
    await call.controller.settled()
    return answer(body)


async def enrol(call: By) -> Response:
    """Add a node; the answer holds the token its agent needs, which is shown only here."""
    return await enrolled(call)


async def remove(call: By, name: Name) -> Response:
    """Take a node out of the cluster; its token is revoked. With force, what runs there counts as dead."""
    asked = parse(Removal, call.body)
    return answer(await call.execute(RemoveNode(call.actor, NodeName(name), asked.force)))


async def enrolled(call: Call) -> Response:
    """The answer to who adds a node, by whatever right.

    Its token follows from the name and the request id: an agent that was interrupted asks again with both, if need be
    days later with another join token, and gets the same.
    """
    asked = parse(NewNode, call.body)
    name, site = NodeName(asked.name), call.site
    secret = derived_secret(site.ca_key, f"node {name}", call.request_id)
    text, record = new_token("node", call.actor.user, site.ca_sha256, time.time(), node=name, secret=secret)
    reply = await call.execute(EnrolNode(call.actor, name, record))
    return answer({"name": reply["name"], "token": text}, 201)


async def cordon(call: By, name: Name) -> Response:
    """Give a node no new work."""
    return await _change(call, name, Cordon(call.actor, NodeName(name), parse(Why, call.body).text))


async def uncordon(call: By, name: Name) -> Response:
    """Give a node work again; with gpu, one of its GPUs that is quarantined for a fault."""
    return await _change(call, name, Uncordon(call.actor, NodeName(name), parse(Whole, call.body).gpu))


async def drain(call: By, name: Name) -> Response:
    """Give a node no new work; what runs there comes to its end, or is queued again to run elsewhere."""
    asked = parse(Emptied, call.body)
    return await _change(call, name, Drain(call.actor, NodeName(name), asked.text, asked.requeue))


async def _change(call: Call, name: str, command: UserCommand) -> Response:
    await call.execute(command)
    return await _shown(call, name)
