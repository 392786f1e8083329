"""assay board: serves the leaderboard on this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from assay.harness.errors import AssayError
from assay.leaderboard.charts.theme import environment
from assay.leaderboard.data.shown import ITEMS

APP = Path(__file__).parent / "pages" / "app.py"


def board(
    port: Annotated[int, typer.Option(help="Port to serve on; the next free one is taken where it is in use.")] = 8501,
    results: Annotated[Path | None, typer.Option(help="The store of runs. \\[default: $ASSAY_RESULTS or results]")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    expose: Annotated[
        bool, typer.Option("--expose", help="Allow an address that other machines reach: anyone there can read all scores.")
    ] = False,
    show_items: Annotated[
        bool, typer.Option("--show-items", help="With --expose, also show what items say: prompts, gold and answers.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the board in a browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as one JSON object before serving.")] = False,
) -> None:
    """Browse the leaderboard: ranks with their uncertainty, down to the deciding item.

    [dim]assay board[/dim]
    """
    root = (results or Path(os.environ.get("ASSAY_RESULTS") or "results")).expanduser().resolve()
    if not root.is_dir():
        raise AssayError("there is no such results folder", where=str(root), do="make a first run with: assay demo")
    if find_spec("streamlit") is None:
        raise AssayError("Streamlit is not installed", do='pip install "assay[board]"')
    if not loopback(host) and not expose:
        raise AssayError(
            f"{host} can be reached by other machines, and the board asks for no password",
            where="--host",
            do="add --expose if that is wanted",
        )
    chosen = free_port(host, port)
    if chosen != port:
        print(f"port {port} is in use: the board takes {chosen}", file=sys.stderr)
    address = f"http://{f'[{host}]' if ':' in host else host}:{chosen}"
    print(
        f'{{"address": "{address}", "pid": {os.getpid()}}}' if as_json else f"The board of {root} is at {address} (Ctrl-C ends it)",
        flush=True,
    )
    line = command(host, chosen, not open_browser)
    os.execve(line[0], line, variables(root, hidden=expose and not show_items))  # not a child: a signal that ends the board ends its server


def loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port(host: str, port: int) -> int:
    """The first free port from `port` on. Raises AssayError for no such address or twenty taken ports."""
    if not 0 < port < 65536:
        raise AssayError(f"there is no port {port}", where="--port", do="name one from 1024 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + 20, 65536)):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return candidate
            except PermissionError as error:
                raise AssayError(f"cannot listen on port {candidate}: {error.strerror}", where="--port", do="take one above 1023") from None
            except OSError as error:
                if error.errno != 98:  # in use
                    raise AssayError(
                        f"cannot listen on {host}: {error.strerror}", where="--host", do="choose another --host or --port"
                    ) from None
    raise AssayError(f"ports {port} to {min(port + 19, 65535)} are in use", where="--port", do="name another")


def command(host: str, port: int, headless: bool) -> list[str]:
    """Streamlit with everything off that a board does not need."""
    hosts = ["localhost", "127.0.0.1", "[::1]"] if loopback(host) else [host]
    settings = {
        "server.address": host,
        "server.port": port,
        "server.headless": str(headless).lower(),
        "server.allowedHosts": hosts,
        "server.enableStaticServing": "false",
        "server.fileWatcherType": "none",
        "server.runOnSave": "false",
        "server.enableXsrfProtection": "true",
        "server.enableCORS": "true",
        "server.maxUploadSize": 1,
        "server.showEmailPrompt": "false",
        "browser.gatherUsageStats": "false",
        "browser.serverAddress": "localhost" if loopback(host) else host,
        "client.showErrorDetails": "none",
        "client.showErrorLinks": "false",
        "client.toolbarMode": "minimal",
        "global.developmentMode": "false",
        "runner.magicEnabled": "false",
        "logger.level": "error",
        "logger.hideWelcomeMessage": "true",
    }
    flags = [f"--{name}={each}" for name, value in settings.items() for each in (value if isinstance(value, list) else [value])]
    return [sys.executable, "-m", "streamlit", "run", str(APP), *flags]


def variables(root: Path, hidden: bool = False) -> dict[str, str]:
    """The surroundings of the server: its store, its theme, and our package in reach; nothing of a reader's own Streamlit settings.

    `hidden`: it does not show what items say.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}
    path = os.pathsep.join(filter(None, [str(APP.parent.parent), kept.get("PYTHONPATH", "")]))
    own = {"ASSAY_RESULTS": str(root), ITEMS: "hidden" if hidden else "shown", "PYTHONPATH": path}
    return {**kept, **environment(), **own}
