"""Command line of medhybrid: parses arguments, loads the config, runs a step and returns an exit code.

Exit codes: 0 success; 1 some cases failed, the others are done; 2 nothing could be done; 130 interrupted, state saved.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from medhybrid.addresses import hide_password
from medhybrid.cli import data, learning, review, study
from medhybrid.cli import predict as prediction
from medhybrid.cli.context import Call, call_of
from medhybrid.cli.overview import overview
from medhybrid.errors import MedHybridError, SafeFormatter, explain_os_error, printable
from medhybrid.version import __version__

COMMANDS: dict[str, Callable[..., int | None]] = {
    "config": data.show_config,
    "inspect": data.inspect,
    "convert": data.convert,
    "init": study.init,
    "plan": study.plan,
    "preprocess": data.preprocess,
    "train": learning.train,
    "cross-validate": learning.cross_validate,
    "pretrain": learning.pretrain,
    "tune": learning.tune,
    "reproduce": learning.reproduce,
    "evaluate": review.evaluate,
    "predict": prediction.predict,
    "listen": prediction.listen,
    "serve": prediction.serve,
    "export": prediction.export,
    "import": prediction.import_model,
    "models": prediction.models,
    "report": review.report,
    "review": review.review,
    "compare": review.compare,
    "promote": review.promote,
    "demo": data.demo,
}
"""Commands by name, in the order of the help."""

app = typer.Typer(
    name="medhybrid",
    help="Train, apply and review 3D segmentation models for MR and CT scans.\n\n"
    "Usual order: inspect, init, preprocess, train, predict, report.",
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"medhybrid {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print debug messages, and the traceback of an error.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print progress, tables and errors as JSON lines on stdout.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(overview(COMMANDS))
        raise typer.Exit
    call = call_of(context)
    call.is_debug = debug
    call.as_json = as_json
    level = logging.DEBUG if debug else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("medhybrid").setLevel(level)
    logging.getLogger("pydicom").addFilter(_is_error)  # its warnings quote values, such as the patient's name


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    call = Call(tuple(sys.argv[1:] if arguments is None else arguments))
    try:
        result = app(args=list(call.arguments), standalone_mode=False, obj=call)
    except MedHybridError as error:
        if call.is_debug:
            print(printable(hide_password(traceback.format_exc())), file=sys.stderr)
        if call.as_json:
            print(json.dumps({"event": "error", "kind": type(error).__name__, "text": str(error)}), flush=True)
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a usage error, such as an unknown option
            context = getattr(error, "ctx", None)
            if context is not None:
                print(context.get_usage(), file=sys.stderr)
            print(f"error: {printable(hide_password(error.format_message()))}", file=sys.stderr)
            return 2
        if call.is_debug:
            print(printable(hide_password(traceback.format_exc())), file=sys.stderr)
        if isinstance(error, OSError):  # of the system: a full disk, a removed folder
            print(f"error: {explain_os_error(error)}", file=sys.stderr)
            return 2
        logging.getLogger(__name__).debug("unexpected", exc_info=error)
        print(f"error: unexpected {type(error).__name__}: {printable(hide_password(str(error)))}", file=sys.stderr)
        print("This is a bug in medhybrid. Run with --debug for the traceback.", file=sys.stderr)
        return 2
    return result if isinstance(result, int) else 0
