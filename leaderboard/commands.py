"""`assay board`: serves the leaderboard from this machine."""

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
from assay.leaderboard.data.safe_text import EXPOSED, ITEMS
from assay.leaderboard.demo.cached import demo_store

APP = Path(__file__).parent / "pages" / "app.py"


def board(
    port: Annotated[int, typer.Option(help="Port to serve on; if it is in use, the next free one.")] = 8501,
    results: Annotated[Path | None, typer.Option(help="Folder of runs and index. \\[default: $ASSAY_RESULTS or results]")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    expose: Annotated[
        bool,
        typer.Option(
            "--expose", help="Allow an address that other machines can reach. There is no password: anyone there can read all scores."
        ),
    ] = False,
    show_items: Annotated[
        bool, typer.Option("--show-items", help="With --expose, also show the texts of items: prompts, gold and responses.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the leaderboard in a browser.")] = False,
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Show a generated store of invented models, kept in the cache."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address and process id as one JSON object before serving.")] = False,
) -> None:
    """Open the leaderboard in a browser.

    [dim]assay board[/dim]
    """
    root = (results or Path(os.environ.get("ASSAY_RESULTS") or "results")).expanduser().resolve()
    if demo and results is not None:
        raise AssayError("--demo shows a generated store", where="--results", do="leave out one of the two options")
    if not root.is_dir() and not demo:
        raise AssayError("results folder not found", where=str(root), do="run assay demo, or look around first: assay board --demo")
    if find_spec("streamlit") is None:
        raise AssayError("Streamlit is not installed", do='install it: pip install "assay[board]"')
    root = demo_store(cache_folder()) if demo else root
    if not loopback(host) and not expose:
        raise AssayError(
            f"other machines can reach {host}, and the leaderboard has no password",
            where="--host",
            do="add --expose to allow this",
        )
    chosen = free_port(host, port)
    if chosen != port:
        print(f"port {port} is in use: using {chosen}", file=sys.stderr)
    address = f"http://{f'[{host}]' if ':' in host else host}:{chosen}"
    print(
        f'{{"address": "{address}", "pid": {os.getpid()}}}'
        if as_json
        else f"Serving the leaderboard of {root} at {address} (stop with Ctrl-C)",
        flush=True,
    )
    line = command(host, chosen, not open_browser)
    # Streamlit replaces this process, so that a signal to it stops the server.
    os.execve(line[0], line, variables(root, hide_items=expose and not show_items, exposed=expose))


def cache_folder() -> Path:
    return Path(os.environ.get("ASSAY_CACHE") or Path.home() / ".cache" / "assay")


def loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port(host: str, port: int) -> int:
    """Returns the first free port from `port` on. Raises AssayError if the address is not ours or twenty ports are in use."""
    if not 0 < port < 65536:
        raise AssayError(f"invalid port {port}", where="--port", do="choose a port from 1024 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + 20, 65536)):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return candidate
            except PermissionError as error:
                raise AssayError(
                    f"cannot listen on port {candidate}: {error.strerror}", where="--port", do="choose a port above 1023"
                ) from None
            except OSError as error:
                if error.errno != 98:  # in use
                    raise AssayError(
                        f"cannot listen on {host}: {error.strerror}", where="--host", do="choose another --host or --port"
                    ) from None
    raise AssayError(f"ports {port} to {min(port + 19, 65535)} are in use", where="--port", do="choose another port")


def command(host: str, port: int, headless: bool) -> list[str]:
    """Returns the command line that starts Streamlit, with all features off that the leaderboard does not need."""
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
    return [sys.executable, "-m", "assay.leaderboard.serve", "run", str(APP), *flags]


def variables(root: Path, hide_items: bool = False, exposed: bool = False) -> dict[str, str]:
    """Returns the server's environment: the store, the theme, and none of the user's Streamlit settings.

    `hide_items`: prompts, gold and responses are not shown. `exposed`: other machines can reach the server, which then writes nothing.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}
    own = {"ASSAY_RESULTS": str(root), ITEMS: "hidden" if hide_items else "shown", EXPOSED: "1" if exposed else "0"}
    return {**kept, **environment(), **own}
