"""A command whose arguments are texts, which may begin with "-"."""

import click
from typer.core import TyperCommand

from fibecfed.commands import command_line


class TextsCommand(TyperCommand):
    """Where a text that begins with "-" is taken for an option, the error says how to give it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does. Raises UsageError."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            options = {name for parameter in self.get_params(ctx) for name in parameter.opts}
            text = next((a for a in given if a.startswith("-") and a.partition("=")[0] not in options), None)
            if text is None:
                raise
            raise click.UsageError(
                f"{error.format_message()} A text that begins with '-' goes behind '--': "
                + command_line("predict", "DIR", "--", text),
                ctx,
            ) from None
