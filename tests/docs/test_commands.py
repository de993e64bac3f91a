"""Every command in README and docs is one that the programs take: verbs, options, values, make targets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.commands import VERBS, check_command

PAGES = [Path(name) for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(Path("docs").glob("*.md"))
TARGETS = set(re.findall(r"^([a-z-]+):", Path("Makefile").read_text(), re.MULTILINE))
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    \S.*\n)+", re.MULTILINE)


def blocks(text: str) -> Iterator[str]:
    """The lines of fenced and of indented code; one that ends with a backslash goes on with the next."""
    for block in (*FENCED.findall(text), *INDENTED.findall(FENCED.sub("", text))):
        yield from (line.strip() for line in re.sub(r"\\\n\s*", "", block).splitlines())


def commands() -> Iterator[tuple[Path, str]]:
    """Whole commands: they can be pasted, once names in them have been filled in."""
    for page in PAGES:
        for line in blocks(page.read_text()):
            command = line.replace("docker compose run --rm batch ", "tidegauge ")
            command = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command)
            if re.match(r"tidegauge(-model-server)? ", command):
                yield page, command


def mentions() -> Iterator[tuple[Path, str]]:
    """Commands within sentences, of which parts may be left out."""
    for page in PAGES:
        for command in re.findall(r"`(tidegauge [a-z][^`]*)`", re.sub(r"\s*\n\s*", " ", page.read_text())):
            yield page, command


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_a_command_can_be_pasted(page: Path, command: str) -> None:
    words = shlex.split(re.sub(r"\[(--[^]]*)\]", r"\1", command), comments=True)  # [--what may be left out]
    check_command([word for word in words if word not in ("…", "...")])


@pytest.mark.parametrize(("page", "command"), list(mentions()))
def test_a_command_that_is_told_of_has_its_options(page: Path, command: str) -> None:
    verb, *options = re.findall(r"(?<=tidegauge )[a-z-]+|(?<=\s)--[a-z-]+", command)
    assert verb in VERBS.commands
    known = {name for parameter in VERBS.commands[verb].params for name in parameter.opts}
    assert set(options) <= known | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_make_target_is_there(page: Path) -> None:
    text = page.read_text()
    told = {target for line in blocks(text) for target in re.findall(r"^make ([a-z][a-z-]*)", line)}
    told |= set(re.findall(r"`make ([a-z][a-z-]*)", text))
    assert told <= TARGETS


def test_commands_are_found() -> None:
    assert len(list(commands())) > 40
    assert len(list(mentions())) > 60
