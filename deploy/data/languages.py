"""Makes languages.csv.gz: short sentences in many languages, from the wheel of PyPI's chatterbot-corpus 1.3.3.

    pip download --no-deps chatterbot-corpus==1.3.3
    python deploy/data/languages.py chatterbot_corpus-1.3.3-py2.py3-none-any.whl deploy/data/languages.csv.gz

A sentence counts once, whatever its case and punctuation; one that is in two languages counts in none, nor does one
without a letter of its language's script. Of a language with many, those with the least hashes are kept.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import sys
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator

import yaml

LEAST, MOST = 50, 250
"""Sentences of a language: one with fewer is left out, of one with more so many are kept."""
_SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}


def sentences(wheel: str) -> Iterator[tuple[str, str]]:
    """(language, sentence) of every line of every dialogue."""
    with zipfile.ZipFile(wheel) as files:
        for name in sorted(files.namelist()):
            if name.endswith(".yml"):
                language = name.split("/")[-2]
                for dialogue in yaml.safe_load(files.read(name))["conversations"]:
                    lines = dialogue if isinstance(dialogue, list) else [dialogue]
                    yield from ((language, " ".join(line.split())) for line in lines if isinstance(line, str))


def scripts(text: str) -> Counter[str]:
    """How many letters of each script a text has."""
    names = (unicodedata.name(letter, "?").split(" ")[0] for letter in text if letter.isalpha())
    return Counter(_SCRIPTS.get(name, name) for name in names)


def main(wheel: str, output: str) -> None:
    """Writes the file."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    languages = defaultdict(set)
    letters: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for language, sentence in sentences(wheel):
        same = "".join(filter(str.isalnum, sentence.casefold()))
        found[language].setdefault(same, sentence)
        languages[same].add(language)
        letters[language] += scripts(sentence)
    rows = []
    for language, by_same in found.items():
        [(script, _)] = letters[language].most_common(1)
        own = [text for same, text in by_same.items() if len(languages[same]) == 1 and script in scripts(text)]
        own.sort(key=lambda text: hashlib.sha256(text.encode()).digest())
        if len(own) >= LEAST:
            rows += [(language, text) for text in own[:MOST]]
    rows.sort(key=lambda row: hashlib.sha256(row[1].encode()).digest())
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("language", "sentence"), *rows])
    with open(output, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(buffer.getvalue().encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
