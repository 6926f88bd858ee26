"""The `piropiro` command: its subcommands and their options.

Each subcommand imports its module when it is called: a worker then carries no web framework, the parent of
the stack neither, and `--help` answers at once.
"""

import importlib.metadata
import sys
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from cli.failure import StartFailed

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

app = typer.Typer(
    help="Stream LLM answers through a queue. Start with: piropiro up",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every address of this machine.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")]
Inherited = Annotated[list[int] | None, typer.Option("--fd", hidden=True)]  # `up` binds the sockets for its processes
Simulator = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Upstream to use when neither OPENAI_API_KEY nor OPENAI_BASE_URL is set."),
]


def main() -> None:
    """Run the command line; a failed start is one line on standard error and a non-zero exit status."""
    try:
        app(prog_name="piropiro")
    except StartFailed as error:
        typer.echo(f"piropiro: {error}", err=True)
        sys.exit(error.exit_status)


@app.command()
def up(
    *,
    api: Annotated[int, typer.Option("--api", min=1, max=64, help="Number of API processes.")] = 1,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Number of workers.")] = 1,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Run the whole stack: Redis, API, workers, and a simulated upstream when there is no key.

    It starts an embedded Redis-compatible server, which keeps everything in memory, unless REDIS_URL is set.
    It starts the upstream simulator when neither OPENAI_API_KEY nor OPENAI_BASE_URL is set.

    With --api N above 1 the N processes share the port; to address one of them, process i also listens on
    port + i (8001, 8002, ...). A process that dies is restarted.

    Ctrl-C stops everything; a second Ctrl-C does so at once.
    """
    from cli.up import Options, run  # noqa: PLC0415 - see the module's docstring

    run(Options(api=api, workers=workers, host=host, port=port, with_parent=with_parent))


@app.command()
def api(*, host: Host = "127.0.0.1", port: Port = 8000, fd: Inherited = None, simulator: Simulator = None) -> None:
    """Run one API replica against REDIS_URL; it asks the upstream for nothing but /v1/models."""
    from cli.api import run  # noqa: PLC0415 - see the module's docstring

    run(host, port, fd or [], simulator)


@app.command()
def worker(
    *,
    simulator: Simulator = None,
    alive_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to touch every second while the worker is well, for a healthcheck."),
    ] = None,
) -> None:
    """Run one worker against REDIS_URL; when told to stop it hands its chats over within PIROPIRO_DRAIN seconds."""
    from cli.worker import run  # noqa: PLC0415 - see the module's docstring

    run(simulator, alive_file)


@app.command()
def simulator(*, host: Host = "127.0.0.1", port: Port = 9000, fd: Inherited = None) -> None:
    """Run the OpenAI-compatible upstream simulator, for demos, tests and benchmarks.

    Point workers to it with OPENAI_BASE_URL=http://127.0.0.1:9000/v1 and any OPENAI_API_KEY.
    """
    from cli.simulator import run  # noqa: PLC0415 - see the module's docstring

    run(host, port, fd or [])


def _version() -> str:
    """What is installed, or what the checkout says, which `make` runs as it is."""
    try:
        return importlib.metadata.version("piropiro")
    except importlib.metadata.PackageNotFoundError:
        project: dict[str, str] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
        return project["version"]


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback signature
    if wanted:
        typer.echo(f"piropiro {_version()}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
