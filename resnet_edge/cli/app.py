"""The Typer application and the one place where errors become exit codes."""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Annotated, Any

import typer

from resnet_edge._version import __version__
from resnet_edge.cli import (
    bench,
    build,
    calibrate,
    demo,
    doctor,
    experiment,
    export,
    inspect,
    lint,
    quantize,
    targets,
    train,
    verify,
)
from resnet_edge.cli.output import show_error
from resnet_edge.cli.trtexec_flags import translate_build
from resnet_edge.errors import ResnetEdgeError

__all__ = ["app", "main", "run"]

_INTERRUPTED = 130

app = typer.Typer(
    name="resnet-edge",
    help="Take a trained ResNet to a proven FP16/INT8 engine for Jetson and desktop NVIDIA GPUs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    demo.demo,
    train.train,
    export.export,
    calibrate.calibrate,
    quantize.quantize,
    quantize.sensitivity,
    lint.lint,
    build.build,
    verify.verify,
    bench.bench,
    inspect.inspect,
    calibrate.recipes,
    doctor.doctor,
):
    app.command()(_command)
app.add_typer(experiment.app, name="experiment")
app.add_typer(targets.app, name="targets")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"resnet-edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def run(arguments: list[str]) -> int:
    """Run one command line.

    Returns:
        0 ok, 1 an error of ours, 2 usage, 3 a gate was not met, 130 interrupted.
    """
    json, debug = "--json" in arguments, "--debug" in arguments
    try:
        code = app(_translated(arguments), standalone_mode=False)
    except ResnetEdgeError as error:
        if debug:
            traceback.print_exc()
        show_error(type(error).__name__, error.message, error.hint, json=json)
        return 1
    except OSError as error:
        if debug:
            traceback.print_exc()
        show_error(
            type(error).__name__, str(error), "check the path and its permissions", json=json
        )
        return 1
    except Exception as error:
        return _usage_error(error, json=json)
    if code == _INTERRUPTED:  # Typer turns KeyboardInterrupt into this code, without a word
        show_error("Interrupted", "interrupted", "run the same command again to go on", json=json)
    return code if isinstance(code, int) else 0


def _translated(arguments: list[str]) -> list[str]:
    """Return the arguments with trtexec's words in ours, where a build is asked for."""
    if arguments[:1] != ["build"]:
        return arguments
    translation = translate_build(arguments[1:])
    if not {"--quiet", "-q"} & set(arguments):
        sys.stderr.writelines(f"note: {note}\n" for note in translation.notes)
    return ["build", *translation.arguments]


def _usage_error(error: Any, *, json: bool) -> int:
    """Show what the argument parser raises; anything else is a bug and keeps its traceback."""
    if not hasattr(error, "format_message"):
        raise error
    if json:
        show_error("UsageError", error.format_message(), "see --help", json=True)
    else:
        error.show()
    return int(error.exit_code)


def _terminate(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of ``resnet-edge``."""
    signal.signal(signal.SIGTERM, _terminate)  # so that temporary files are removed
    sys.exit(run(sys.argv[1:]))
