"""Where things are on this machine, and which controller a command talks to.

Homes: GPUQ_HOME holds everything when set; otherwise state is in $XDG_STATE_HOME/gpuq (~/.local/state/gpuq) and
config.toml in $XDG_CONFIG_HOME/gpuq (~/.config/gpuq). Daemons keep theirs apart for each machine, in
hosts/MACHINE-ID/controller and .../agent, because home directories are shared over NFS.

config.toml, which `gpuq login` writes and a person may:

    context = "lab"                     # which one is used; may be left out if there is one only
    [contexts.lab]
    url = "https://gpu-head:7443"
    token_file = "lab.token"            # relative to config.toml
    ca_file = "lab-ca.pem"              # may be left out: the token says which CA it is, and it is fetched

Nothing here talks to the network: a Context without ca_pem says that the CA has to be fetched and kept (`keep_ca`).
os.path instead of pathlib: this is on the way of every command, and importing pathlib takes 3 ms of its 50.
"""

# ruff: noqa: PTH100, PTH102, PTH105, PTH108, PTH110, PTH111, PTH112, PTH117, PTH118, PTH120

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from gpuq.errors import Conflict, InvalidRequest, NotAuthenticated, Unreachable

_HOME_POINTER = "home"  # beside controller/ and agent/: the --home that `gpuq up` was last given here


class Context(NamedTuple):
    """One controller and who to be there. ca_pem None: not known here yet."""

    url: str
    token: str
    ca_pem: str | None
    origin: str  # for people: where this was found


def state_home(environ: Mapping[str, str] = os.environ) -> str:
    return _home(environ, "XDG_STATE_HOME", os.path.join(".local", "state"))


def config_home(environ: Mapping[str, str] = os.environ) -> str:
    return _home(environ, "XDG_CONFIG_HOME", ".config")


def _home(environ: Mapping[str, str], variable: str, default: str) -> str:
    chosen = environ.get("GPUQ_HOME")
    if chosen:
        return os.path.abspath(chosen)
    xdg = environ.get(variable, "")
    if os.path.isabs(xdg):  # the XDG specification: a relative one is to be ignored
        return os.path.join(xdg, "gpuq")
    return os.path.join(os.path.expanduser("~"), default, "gpuq")


def machine_id(home: str) -> str:
    """The name of this machine's directory: the system's machine id, else one made up and kept under `home`.

    The made-up one is filed under the host's name, since `home` may be shared by several machines.
    """
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        found = read_text(path)
        if found and found.strip().isalnum():
            return found.strip()
    path = os.path.join(home, "machine-ids", socket.gethostname().replace("/", "_"))
    found = read_text(path)
    if not found:
        found = os.urandom(16).hex()
        write_private(path, found)
    return found.strip()


def host_home(home: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """The directory of this machine's daemons: `home` if given, else that of the last `gpuq up --home`, else ours."""
    if home:
        return os.path.abspath(home)
    own = own_host_home(environ)
    return read_text(os.path.join(own, _HOME_POINTER)) or own


def own_host_home(environ: Mapping[str, str] = os.environ) -> str:
    home = state_home(environ)
    return os.path.join(home, "hosts", machine_id(home))


def running_as() -> str:
    """The account that this process, and what it starts, runs as; raises Conflict if its uid is no account's.

    Root is root also after `su` without `-`, which leaves LOGNAME to who typed it.
    """
    import getpass
    import pwd

    try:
        account = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        raise Conflict(
            f"uid {os.geteuid()} is no account's on this machine, and gpuq goes by their names",
            "give it one, in /etc/passwd or where accounts are kept",
        ) from error
    return account if os.geteuid() == 0 else getpass.getuser()


def remember_home(home: str, environ: Mapping[str, str] = os.environ) -> None:
    """Makes `home` what host_home() gives from now on."""
    own = own_host_home(environ)
    pointer = os.path.join(own, _HOME_POINTER)
    if home != own:
        write_private(pointer, home)
    elif os.path.exists(pointer):
        os.unlink(pointer)


def resolve(
    url: str | None = None,
    token: str | None = None,
    environ: Mapping[str, str] = os.environ,
    context: str | None = None,
) -> Context:
    """The controller to talk to: the arguments, else GPUQ_URL and GPUQ_TOKEN, else config.toml, else the local one.

    A token alone goes with the address of the next source. An address alone takes the token of a later source that
    names the same address. (Mixing is safe: a token names its CA, and is only ever sent to a controller of that CA.)
    context names one of config.toml's, which then goes before all but the arguments.
    """
    if context is not None and url is None:
        named = _named(settings(environ), context, environ)
        return named if token is None else Context(named.url, token.strip(), kept_ca(token, environ), named.origin)
    origin = "--controller" if url else "GPUQ_URL"
    url = url or environ.get("GPUQ_URL") or None
    token = token or environ.get("GPUQ_TOKEN") or None
    if url and token:
        return Context(url, token.strip(), kept_ca(token, environ), origin)
    for source in (_chosen, _local):
        found = source(environ)
        if found and token:
            return Context(found.url, token.strip(), kept_ca(token, environ), found.origin)
        if found and (url is None or url.rstrip("/") == found.url.rstrip("/")):
            return found
    if url:
        raise NotAuthenticated(f"no token for {url}", "give --token or set GPUQ_TOKEN")
    raise Unreachable("no controller known", "start one with `gpuq up`, or log in to one: gpuq login URL")


def keep_ca(ca_pem: str, sha256_hex: str, environ: Mapping[str, str] = os.environ) -> None:
    """Keeps a CA that was compared with the fingerprint; a home that cannot be written to only costs time."""
    try:
        write_private(_ca_path(sha256_hex, environ), ca_pem)
    except OSError:
        return


def kept_ca(token: str, environ: Mapping[str, str] = os.environ) -> str | None:
    return read_text(_ca_path(token.strip().rpartition("_")[2], environ))


def _ca_path(sha256_hex: str, environ: Mapping[str, str]) -> str:
    return os.path.join(state_home(environ), "ca", f"{sha256_hex.replace('/', '')}.pem")


class Settings(NamedTuple):
    """What config.toml says. context is the name of the one to use, as far as that is clear."""

    path: str
    text: str
    context: str | None
    contexts: Mapping[str, Any]


def settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Raises InvalidRequest if there is a config.toml and it cannot be used."""
    path = os.path.join(config_home(environ), "config.toml")
    text = read_text(path)
    if text is None and os.path.exists(path):  # taken for none, it would be written anew by the next login
        raise InvalidRequest(f"{path} cannot be read", "is it yours, and text in UTF-8?")
    return parse_settings(text or "", path)


def parse_settings(text: str, path: str) -> Settings:
    if not text:
        return Settings(path, text, None, {})  # without a parser, which takes 4 ms to import
    found = parse_toml(text, path)
    contexts = found.get("contexts", {})
    if not isinstance(contexts, dict) or not all(isinstance(each, dict) for each in contexts.values()):
        raise InvalidRequest(f"{path}: contexts must be tables", "such as [contexts.lab]")
    name = found.get("context")
    if name is None and len(contexts) == 1:
        (name,) = contexts
    return Settings(path, text, name if isinstance(name, str) else None, contexts)


def _chosen(environ: Mapping[str, str]) -> Context | None:
    """The context that GPUQ_CONTEXT names, else config.toml, if there is any."""
    found, name = settings(environ), environ.get("GPUQ_CONTEXT") or None
    return _named(found, name, environ) if name or found.contexts else None


def _named(found: Settings, name: str | None, environ: Mapping[str, str]) -> Context:
    """The context of this name; without one, that which is to be used."""
    path, names = found.path, ", ".join(sorted(found.contexts))
    if name is not None and name not in found.contexts:
        raise InvalidRequest(
            f"there is no context {name} in {path}", f"known: {names or 'none'}; gpuq login URL adds one"
        )
    name = name or found.context
    chosen = found.contexts.get(name or "", {})
    if name is None or not isinstance(chosen.get("url"), str):
        raise InvalidRequest(
            f"{path} does not say which context to use", f'write context = "NAME" on top (one of: {names})'
        )
    token = _beside(os.path.dirname(path), chosen.get("token_file"), f"the token of context {name}")
    if not token:
        raise NotAuthenticated(f"context {name} in {path} has no token_file", "give --token or set GPUQ_TOKEN")
    ca_pem = _beside(os.path.dirname(path), chosen.get("ca_file"), f"the CA of context {name}")
    return Context(chosen["url"], token.strip(), ca_pem or kept_ca(token, environ), f"context {name} of {path}")


def _beside(directory: str, name: object, what: str) -> str | None:
    if not isinstance(name, str):
        return None
    path = os.path.join(directory, os.path.expanduser(name))
    text = read_text(path)
    if not text:
        raise NotAuthenticated(f"{what} cannot be read from {path}", "is the file there and yours?")
    return text


def parse_toml(text: str, path: str) -> dict[str, Any]:
    """The tables and values of a text; path is for the message. Raises InvalidRequest if it is not TOML."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path} is not valid TOML: {error}") from error


def _local(environ: Mapping[str, str]) -> Context | None:
    """The controller that `gpuq up` started on this machine, by the files it wrote."""
    controller = os.path.join(host_home(environ=environ), "controller")
    description, token, ca_pem = (
        read_text(os.path.join(controller, name)) for name in ("controller.json", "admin.token", "ca.pem")
    )
    if not (description and token and ca_pem):
        return None
    try:
        url = str(json.loads(description)["url"])
    except (ValueError, LookupError, TypeError):
        return None
    return Context(url, token.strip(), ca_pem, f"the local controller in {controller}")


def read_text(path: str) -> str | None:
    """The text of a small file, or None if there is none, it is unreadable, or no text."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None


def make_private(directory: str) -> None:
    """Makes a directory, if it is not there, and all that are missing above it, for their owner only.

    os.makedirs leaves those above to the umask; whoever may write there could put another in its place.
    """
    if directory and not os.path.isdir(directory):
        make_private(os.path.dirname(directory))
        with suppress(FileExistsError):  # another command may have been quicker
            os.mkdir(directory, 0o700)


def write_private(path: str, text: str) -> None:
    """Replaces a file, readable by its owner only, so that a reader sees the old text or the new and never a part."""
    make_private(os.path.dirname(path))
    fresh = f"{path}.{os.getpid()}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    os.replace(fresh, path)
