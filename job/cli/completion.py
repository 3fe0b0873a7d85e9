"""Shell completion: click's, extended to flags in both spellings and to command lines without a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from job.cli.commands import DEFAULT_COMMAND, underscored

if TYPE_CHECKING:
    _Base = ShellComplete
else:
    _Base = object


class _Completion(_Base):
    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Complete as click does; without a command, the flags are those of `annotate`."""
        end = args.index("--") if "--" in args else len(args)
        args = [underscored(arg) for arg in args[:end]] + args[end:]
        incomplete = incomplete if "--" in args else underscored(incomplete)
        is_flag_first = (args[0] if args else incomplete).startswith("-")
        try:
            items = [] if args and is_flag_first else super().get_completions(args, incomplete)
            if is_flag_first:
                items += super().get_completions([DEFAULT_COMMAND, *args], incomplete)
        except ModuleNotFoundError:  # the extra of this command is not installed
            return []
        return list({item.value: item for item in items}.values())


class _Bash(_Completion, BashComplete):
    pass


class _Zsh(_Completion, ZshComplete):
    pass


class _Fish(_Completion, FishComplete):
    pass


def install_completion() -> None:
    """Replace click's completion classes for bash, zsh and fish."""
    for kind in (_Bash, _Zsh, _Fish):
        add_completion_class(kind)
