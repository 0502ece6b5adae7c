"""The one place where an error becomes a line on standard error and an exit status."""

import sys
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from sensorlog_cli.errors import CliError, ExitStatus, translate
from sensorlog_cli.options import DEBUG_KEY
from sensorlog_cli.output import messages


class Boundary(TyperGroup):
    """The program's group of commands, which lets no foreign error out of any of them."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; typer.Exit carries the exit status of whatever went wrong."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(ExitStatus.INTERRUPTED) from None
        except BrokenPipeError:  # whoever read our output has read enough: typer ends the program quietly
            raise
        except Exception as error:
            known = translate(error)
            if known is None and _is_typers_own(error):
                raise
            if ctx.meta.get(DEBUG_KEY):
                messages().print_exception()
            _say(known or CliError(f"a bug in sensorlog: {error!r}; run again with --debug and report what it shows"))
            raise typer.Exit(known.status if known else ExitStatus.FAILED) from error


def _is_typers_own(error: Exception) -> bool:
    """Return whether typer handles `error` itself: a usage error, or an exit that was asked for."""
    return isinstance(error, (typer.Exit, typer.Abort)) or type(error).__module__.startswith("typer.")


def _say(error: CliError) -> None:
    messages().print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
    sys.stderr.flush()
