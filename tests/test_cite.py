"""Every system can be cited, in BibTeX that parses."""

import pathlib
import re

import pytest

import jaxrecon
from jaxrecon.cite import SYSTEMS, cite
from jaxrecon.errors import InputError


def _parse(text: str) -> list[tuple[str, dict[str, str]]]:
    """(key, fields) of each entry; fails on what is left over."""
    entry = re.compile(r"@(?:article|inproceedings|misc)\{(\w+),\n(.*?)\n\}", re.S)
    assert not entry.sub("", text).strip()
    field = re.compile(r"\s*(\w+)\s*= \{([^{}]+)\}(?:,\n|$)")
    entries = []
    for key, body in entry.findall(text):
        assert not field.sub("", body).strip(), key
        entries.append((key, dict(field.findall(body))))
    return entries


@pytest.mark.parametrize("system", SYSTEMS)
def test_entries_are_complete(system):
    entries = _parse(cite(system))
    assert entries and len({key for key, _ in entries}) == len(entries)
    for key, fields in entries:
        assert {"title", "author", "year"} <= set(fields)
        assert {"journal", "booktitle", "eprint"} & set(fields), key
        assert key.endswith(fields["year"]) or fields["year"] in key
        assert fields["author"].split(",")[0].lower() in key  # keys are family name + year + word


def test_every_system_of_the_package_is_known():
    folder = pathlib.Path(jaxrecon.__file__).parent / "systems"
    systems = {p.stem for p in folder.iterdir() if not p.name.startswith(("_", "."))}
    assert systems and systems <= set(SYSTEMS)


def test_names_are_forgiving_and_strangers_are_told_the_list():
    assert cite("Implicit-Deformation") == cite("implicit_deformation")
    with pytest.raises(InputError, match="pamir"):
        cite("nerf")
