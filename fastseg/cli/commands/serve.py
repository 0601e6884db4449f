"""Exports behind an HTTP interface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .. import console
from ..arguments import Device, Json, Precision, Runtime
from ..group import app


@app.command(epilog="Example: fastseg serve exports/eye --port 8000")
def serve(
    exports: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPORT...",
            help="Folders of exports, or tasks for exports/TASK; NAME=EXPORT gives a name for the "
            "address.",
        ),
    ],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 0.0.0.0 for every one.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0: any free one.")
    ] = 8000,
    key_file: Annotated[
        Optional[Path],
        typer.Option(
            "--key-file",
            help="File of the keys that requests must show, one a line [default: "
            "FASTSEG_SERVE_KEYS, separated by commas].",
        ),
    ] = None,
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Let other machines ask without a key.")
    ] = False,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", help="Most pixels of an image.")
    ] = 60_000_000,
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", help="Most bytes of a body.")
    ] = 52_428_800,
    max_queue: Annotated[
        int, typer.Option("--max-queue", help="Most images that wait; above it: 429.")
    ] = 128,
    batch: Annotated[
        Optional[int],
        typer.Option(
            "--batch", help="Most images computed at once [default: 4 with ONNX, 8 with torch]."
        ),
    ] = None,
    latency: Annotated[
        Optional[float],
        typer.Option(
            "--latency",
            help="Most ms that an image waits for others to fill a batch [default: 0 with ONNX, 5 "
            "with torch].",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", help="Most seconds for a body to arrive, and for its result."),
    ] = 30.0,
    drain: Annotated[
        float,
        typer.Option(
            "--drain",
            help="Seconds of serving after SIGTERM, with /readyz at 503, so that a load balancer "
            "sees it.",
        ),
    ] = 0.0,
    error_rate: Annotated[
        float,
        typer.Option("--error-rate", help="As in predict: decides on needs_review, 0.01 to 0.5."),
    ] = 0.1,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch images whose addresses are sent.")
    ] = False,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Let --allow-urls reach private addresses.")
    ] = False,
    device: Device = None,
    runtime: Runtime = "auto",
    precision: Precision = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Write the log as lines of JSON.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Answer requests with predictions: POST an image to /v1/EXPORT/predict.

    An export that is replaced is loaded again. SIGTERM or Ctrl-C ends the server when open
    requests are answered. /docs describes the interface.
    """
    from ...serving.logs import logging_to
    from ...serving.options import ServeOptions
    from ...serving.server import Server

    server = Server(
        exports,
        host,
        port,
        key_file,
        no_keys,
        ServeOptions(
            max_pixels=max_pixels,
            max_bytes=max_bytes,
            max_queue=max_queue,
            batch=batch,
            latency=latency,
            timeout=timeout,
            drain=drain,
            error_rate=error_rate,
            allow_urls=allow_urls,
            allow_private=allow_private,
            device=device,
            runtime=runtime,
            precision=precision,
        ),
    )

    def started() -> None:
        if as_json:
            console.as_json({"url": server.address, "port": server.port}, indent=None)
        else:
            typer.echo(f"serving {server.address}  (Ctrl-C ends it; {server.address}docs)")

    with logging_to(as_json=log_json):
        server.run(started)
