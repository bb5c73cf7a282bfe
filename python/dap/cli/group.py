"""Groups of commands, and what is printed for a command line that cannot be read."""

from __future__ import annotations

import ast
import re
import shlex

import click

from dap.cli.command import Command
from dap.registry import nearest, unknown_name_error

__all__ = ["Group", "in_flags", "usage_message"]

KEYWORDS = (  # arguments of Python's functions that messages name, and that are options here
    "address", "batch_size", "card", "channels", "classes", "device", "dtype", "eta", "executor", "features",
    "guidance_scale", "index", "ipc", "judge", "label_column", "label_map", "prior", "real", "sampling", "scheduler",
    "soft_labels", "teacher", "workers",
)  # fmt: skip
QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
KEYWORD = re.compile(  # not inside a path, such as runs/ipc=10
    rf"(?<![\w/\\,=.-])({'|'.join(KEYWORDS)})=({QUOTED}|\d+(?:\.\d+)?(?:e-?\d+)?|False)?(?=[ ),;.:]|\Z)"
)
LABEL = re.compile(rf"\blabel_map=\{{({QUOTED}): (\d+)\}}")
PROTOCOL_SETTING = re.compile(r"\bprotocol_options=\{'(\w+)': (\d+)\}")
SETTING = re.compile(rf"\b(features|teacher)_options=\{{'(\w+)': ({QUOTED}|False)\}}")
COMMANDS = {"adapt_prior": "prior adapt", "distill": "distill", "train_prior": "prior train"}
CALL = re.compile(rf"\bdap\.({'|'.join(COMMANDS)})(\((?:{QUOTED}|[^'\"()])*\))")


class Group(click.Group):
    """A group that shows its help without a command, and names the nearest command for an unknown one."""

    command_class = Command

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **{"no_args_is_help": False, **options})  # type: ignore[arg-type]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help and end with exit code 0 if there are no arguments."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, or raise OptionError."""
        command = super().get_command(ctx, cmd_name)
        if command is None and not ctx.resilient_parsing:
            raise unknown_name_error("command", cmd_name, self.commands)
        return command


def in_flags(text: str) -> str:
    """The text of an error with options and commands of the command line in place of Python's keywords and calls.

    Example:
        >>> in_flags("choose one with label_column=, or leave classes= out")
        'choose one with --label-column, or leave --classes out'
        >>> in_flags("convert them (channels='grey'), or use guidance_scale=1")
        'convert them (--channels grey), or use --guidance-scale 1'
        >>> in_flags("runs/ipc=10: choose scheduler='ddim', or judge=False")
        'runs/ipc=10: choose --scheduler ddim, or --no-judge'
        >>> in_flags("say which it is, with label_map={'crane bird': 134}")
        "say which it is, with --label 'crane bird=134'"
        >>> in_flags("give protocol_options={'size': 32}, its own size")
        'give --protocol-set size=32, its own size'
        >>> in_flags("take random weights (features_options={'pretrained': False})")
        'take random weights (--features-set pretrained=false)'
        >>> in_flags("try dap.distill('my photos', method='k_medoids', out='own')")
        "try dap distill 'my photos' --method k_medoids --out own"
        >>> in_flags("train a prior on the images, dap.train_prior(source, out='prior')")
        'train a prior on the images, dap prior train SOURCE --out prior'
    """
    text = CALL.sub(lambda match: _command(match[1], match[2]), text)
    text = PROTOCOL_SETTING.sub(r"--protocol-set \1=\2", text)
    text = LABEL.sub(lambda match: shlex.join(["--label", f"{ast.literal_eval(match[1])}={match[2]}"]), text)
    text = SETTING.sub(lambda match: f"--{match[1]}-set {match[2]}={_setting(match[3])}", text)
    return KEYWORD.sub(lambda match: _option(match[1], match[2]), text)


def _setting(value: str) -> str:
    return "false" if value == "False" else shlex.quote(str(ast.literal_eval(value)))


def _option(keyword: str, value: str | None) -> str:
    name = "label" if keyword == "label_map" else keyword.replace("_", "-")
    if value == "False":
        return f"--no-{name}"
    return f"--{name}" if value is None else f"--{name} {shlex.quote(str(ast.literal_eval(value)))}"


def _command(function: str, arguments: str) -> str:
    call = ast.parse(f"{function}{arguments}", mode="eval").body
    assert isinstance(call, ast.Call)
    words = ["dap", *COMMANDS[function].split(), *map(_word, call.args)]
    for keyword in call.keywords:
        words += [f"--{keyword.arg}".replace("_", "-"), _word(keyword.value)]
    return shlex.join(words)


def _word(value: ast.expr) -> str:
    """Return the value of a literal; of a name, such as source, the name in capitals, as in the help."""
    return value.id.upper() if isinstance(value, ast.Name) else str(ast.literal_eval(value))


def usage_message(error: click.ClickException) -> str:
    """The text of click's error in one line, with the option that was meant and where the help is."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    text = " ".join(error.format_message().split())
    if context is None:
        return text
    if isinstance(error, click.NoSuchOption):
        names = [name for option in context.command.params for name in option.opts if name.startswith("--")]
        near = nearest(error.option_name, names)
        text = f"no option {error.option_name!r}{f'; did you mean {near!r}?' if near else '.'}"
        if context.command.name == "distill" and near is None:
            text += " Options of the method go by --set NAME=VALUE."
    return f"{text} See {context.command_path} --help"
