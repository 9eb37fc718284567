"""`jaxrecon fit` with a bad cameras.json; and with any mutation of the JSON files."""

import json
import os

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tests.cli.bad_input import (
    NAN,
    SOME,
    as_folder,
    loads_or_is_refused,
    put,
    refuses_folder,
    replace,
)
from tests.pipelines.views_folder import K, R, edit


def pipe(folder):
    (folder / "cameras.json").unlink()
    os.mkfifo(folder / "cameras.json")


def view(**changes):
    """Changes the second view of cameras.json; `...` deletes."""

    def change(document):
        entry = document["views"][1] | changes
        document["views"][1] = {n: value for n, value in entry.items() if value is not ...}

    return lambda folder: edit(folder / "cameras.json", change)


def top(**changes):
    return lambda folder: edit(folder / "cameras.json", lambda d: d.update(changes))


def text_of_view(before, after):
    """Puts text into cameras.json that json.dumps would not write."""
    return replace("cameras.json", lambda d: d.replace(before, after, 1))


MIRROR = (np.diag([1.0, 1.0, -1.0]) @ np.array(R)).tolist()
DEEP = ("[" * 100_000).encode()

CASES = {
    "cameras no JSON": (put("cameras.json", b"{'views': []}"), "cameras.json"),
    "cameras empty": (put("cameras.json", b""), "cameras.json"),
    "cameras an array": (put("cameras.json", b"[]"), "cameras.json", "no object"),
    "cameras deep": (put("cameras.json", DEEP), "cameras.json cannot be read"),
    "cameras a deep value": (
        text_of_view(b'"t": [', b'"t": ' + b"[" * 400 + b"]" * 400 + b', "u": ['),
        "cameras.json",
    ),
    "cameras not UTF-8": (put("cameras.json", b'{"units": "\xff"}'), "cameras.json", "UTF-8"),
    "cameras a folder": (as_folder("cameras.json"), "cameras.json", "not a file"),
    "cameras a pipe": (pipe, "cameras.json", "not a file"),
    "cameras over-size": (put("cameras.json", b" " * 33_000_000), "over 32 MB"),
    "cameras list no views": (top(views=[]), "lists no views"),
    "cameras name absent files": (view(file="view_009.png"), "no image at", "view_009.png"),
    "cameras name another folder": (view(file="../anna/../x.png"), "outside the folder"),
    "cameras name an absolute path": (view(file="/etc/passwd"), "outside the folder"),
    "cameras name what no file can be called": (view(file="a" * 5000), "cameras.json"),
    "cameras name half a character": (view(file="\ud800.png"), "cameras.json"),
    "cameras name the folder": (view(file=""), "not a file"),
    "K holds NaN": (view(K=[[NAN, 0, 8], K[1], K[2]]), "view 1", "K is", "NaN"),
    "t holds Infinity": (view(t=[0, 0, float("inf")]), "view 1", "t is", "Infinity"),
    "t beyond numbers": (text_of_view(b"101]", b"1" + b"0" * 400 + b"]"), "t is"),
    "t beyond parsing": (text_of_view(b"101]", b"1" * 5000 + b"]"), "cameras.json"),
    "t too large": (view(t=[0, 0, 1e200]), "t is"),
    "K singular": (view(K=[[0, 0, 8], K[1], K[2]]), "view 1", "not a pinhole"),
    "K of zeros": (view(K=[[0, 0, 0]] * 3), "not a pinhole"),
    "K normalised": (view(K=[[0.9, 0, 0.5], [0, 0.9, 0.5], K[2]]), "not in pixels"),
    "K of another shape": (view(K=[[50, 0, 8], [0, 50, 6]]), "K is", "3 x 3 finite numbers"),
    "K of strings": (view(K=[["50", "0", "8"], K[1], K[2]]), "K is", "finite numbers"),
    "K of booleans": (view(K=[[True, 0, 8], K[1], K[2]]), "K is"),
    "R mirrors": (view(R=MIRROR), "a reflection", "OpenCV"),
    "R scaled": (view(R=(3 * np.array(R)).tolist()), "R is not a rotation"),
    "R huge": (view(R=[[1e200, 0, 0], R[1], R[2]]), "R is not a rotation"),
    "R missing in one view": (view(R=...), "view 1", "has no R"),
    "K missing in one view": (view(K=None), "view 1", "has no K"),
    "unit missing": (top(units=None), "units is null", "metres"),
    "unit wrong": (top(units="inches"), 'units is "inches"'),
    "width of other pictures": (top(width=4000), "view_000.png", "says width 4000"),
    "height of text": (top(height="12"), 'says height "12"'),
    "expression negative": (view(expression=-1), "expression of view 1 is -1"),
    "expression huge": (view(expression=10**30), "expression of view 1"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_folder_is_refused_in_one_message(capsys, subject, name):
    refuses_folder(capsys, subject, *CASES[name])


# ---------------------------------------------------------------- made by hypothesis

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def places(value, path=()):
    """The path of everything inside a JSON value, but of few members of long lists."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 3)):
            yield from places(value[i], (*path, i))


def mutate(draw, document):
    """Deletes, replaces or repeats one place of a JSON document."""
    where = draw(st.sampled_from(sorted(places(document), key=str)))
    if not where:
        return draw(JSON)
    parent = document
    for key in where[:-1]:
        parent = parent[key]
    what = draw(st.sampled_from(["delete", "replace", "replace", "repeat"]))
    if what == "delete":
        del parent[where[-1]]
    elif what == "replace":
        parent[where[-1]] = draw(JSON)
    elif isinstance(parent, list):
        parent.append(parent[where[-1]])
    else:
        parent[draw(st.text(max_size=4))] = parent[where[-1]]
    return document


@pytest.mark.parametrize("name", ["cameras.json", "landmarks.json"])
@SOME
@hypothesis.given(data=st.data())
def test_any_mutation_of_json_loads_or_is_refused(subject, name, data):
    file = subject / name
    original = file.read_text()
    try:
        file.write_text(json.dumps(mutate(data.draw, json.loads(original))))
        loads_or_is_refused(subject)
    finally:
        file.write_text(original)
