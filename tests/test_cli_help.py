"""What `--help` shows at 100 columns: whole sentences, nothing beyond the edge."""

import typer

from cxrbench.cli import main


def commands(command, words=()):
    """Every command and group of the program with the words that call it; lm-eval's help is its own."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        if (*words, name) != ("lm-eval",):
            yield from commands(inner, (*words, name))


def test_every_help_is_whole_at_100_columns():
    found = {}
    for words, command in commands(typer.main.get_command(main.app)):
        context = command.context_class(command, info_name=" ".join(("cxrbench", *words)), terminal_width=100)
        found[words] = command.get_help(context)
        assert not [each.name for each in command.params if not each.hidden and not each.help], words
    assert len(found) > 40
    for words, text in found.items():
        lines = text.splitlines()
        assert max(map(len, lines)) <= 100, words
        told = text.partition("Commands:")[2].splitlines()
        assert not [line for line in told if line.endswith(("...", "…"))], words
