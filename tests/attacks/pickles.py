"""Hostile pickles: each entry makes the bytes of one, given a command that must never run."""

import pickle
import struct

from tests.interop.foreign_files import (
    END,
    FALSE,
    NDARRAY,
    NONE,
    RECONSTRUCT,
    START,
    TRUE,
    array,
    build,
    call,
    dtype,
    listing,
    mapping,
    name,
    number,
    raw,
    row,
    text,
)


class Canary:
    """Runs a command when pickle reads it."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


def plain(body: bytes):
    """A pickle that needs no command."""
    return lambda command: START + body + END


def code(body):
    """A pickle whose body takes the command's opcodes."""
    return lambda command: START + body(text(command)) + END


SYSTEM = name("os", "system")
POSIX = name("posix", "system")
CH = name("chumpy.ch", "Ch") + b")\x81"
CSC = name("scipy.sparse.csc", "csc_matrix") + b")\x81"
COO = name("scipy.sparse.coo", "coo_matrix") + b")\x81"
SELECT = name("chumpy.reordering", "Select") + b")\x81"


def stacked(module: str, attribute: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(attribute) + b"\x93"


def floats(*values: float) -> bytes:
    return array((len(values),), "f8", raw(struct.pack(f"<{len(values)}d", *values)))


def ints(*values: int) -> bytes:
    return array((len(values),), "i4", raw(struct.pack(f"<{len(values)}i", *values)))


def sparse(of=CSC, **changes) -> bytes:
    """A 3 x 2 matrix with two entries, or something that is nearly one."""
    parts = {
        "_shape": row(number(3), number(2)),
        "indptr": ints(0, 1, 2),
        "indices": ints(2, 0),
        "data": floats(4.0, 5.0),
    }
    return mapping(m=build(of, mapping(**(parts | changes))))


def select(index: bytes, shape: bytes = NONE) -> bytes:
    parts = {"a": build(CH, mapping(x=floats(1, 2))), "idxs": index, "preferred_shape": shape}
    return mapping(s=build(SELECT, mapping(**parts)))


def laughs(levels: int) -> bytes:
    """Lists of ten times the list before: 10^levels entries in a few bytes."""
    first = b"]q\x00(" + NONE * 10 + b"e"
    rest = b"".join(
        b"]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 10 + b"e" for i in range(1, levels)
    )
    return b"(" + first + rest + b"t"


def beside_laughs(*parts: bytes, levels: int = 8) -> bytes:
    """`parts` beside such lists; the last of them, which is 10^levels entries, is memo 7."""
    return b"(" + laughs(levels)[1:-1] + b"".join(parts) + b"l"


LAST = b"h\x07"
COLLIDING = number((1 << 61) - 1), number(2 * ((1 << 61) - 1))
ENCODE = name("_codecs", "encode")
MANY_COPIES = (
    b"(" + ENCODE + b"q\x00" + text("a" * 4_000_000) + b"q\x01" + text("latin1") + b"q\x02"
    + b"h\x00h\x01h\x02\x86R0" * 600 + b"t"
)  # fmt: skip

PICKLES = {
    # what runs code in pickle
    **{
        f"reduce, protocol {protocol}": lambda command, p=protocol: pickle.dumps(
            {"v_template": Canary(command)}, p
        )
        for protocol in range(6)
    },
    "os.system": code(lambda c: call(SYSTEM, c)),
    "posix.system": code(lambda c: call(POSIX, c)),
    "eval": code(lambda c: call(name("builtins", "eval"), text("__import__('os').system('id')"))),
    "exec": code(lambda c: call(name("__builtin__", "exec"), c)),
    "execfile": code(lambda c: call(name("__builtin__", "execfile"), c)),
    "getattr": code(lambda c: call(name("builtins", "getattr"), NDARRAY, text("tofile"))),
    "__import__": code(lambda c: call(name("builtins", "__import__"), text("os"))),
    "open": code(lambda c: call(name("io", "open"), c, text("w"))),
    "subprocess": code(lambda c: call(name("subprocess", "check_output"), c)),
    "runpy": code(lambda c: call(name("runpy", "run_path"), c)),
    "nested in a list of a dict": code(lambda c: mapping(a=listing(mapping(b=call(SYSTEM, c))))),
    "in an array of objects": code(lambda c: array((1,), "O8", listing(call(SYSTEM, c)))),
    "in a chumpy array": code(lambda c: mapping(a=build(CH, mapping(x=call(SYSTEM, c))))),
    "as a key": code(lambda c: b"}" + call(SYSTEM, c) + NONE + b"s"),
    "after a valid dict": code(lambda c: mapping(a=NONE) + b"0" + call(SYSTEM, c)),
    "INST": lambda command: b"(S'" + command.encode() + b"'\nios\nsystem\n.",
    "OBJ": code(lambda c: b"(" + SYSTEM + c + b"o"),
    "NEWOBJ": code(lambda c: SYSTEM + c + b"\x85\x81"),
    "NEWOBJ_EX": code(lambda c: SYSTEM + c + b"\x85}\x92"),
    "STACK_GLOBAL": code(lambda c: call(stacked("os", "system"), c)),
    "EXT1": plain(b"\x82\x01"),
    "copyreg of a foreign class": code(
        lambda c: call(
            name("copy_reg", "_reconstructor"),
            name("subprocess", "Popen"),
            name("builtins", "object"),
            NONE,
        )
    ),
    "copyreg on a foreign base": code(
        lambda c: call(
            name("copyreg", "_reconstructor"), name("chumpy.ch", "Ch"), name("builtins", "int"), c
        )
    ),
    "copyreg.__newobj__": plain(call(name("copyreg", "__newobj__"), NDARRAY)),
    # names near those allowed
    "a dotted name": code(lambda c: call(stacked("numpy", "ndarray.tofile"), c)),
    "a dotted module": code(lambda c: call(stacked("builtins", "object.__subclasses__"))),
    "a name through a module": code(lambda c: call(stacked("collections", "_sys.modules"))),
    "another name of NumPy": code(lambda c: call(name("numpy", "fromfile"), c)),
    "NumPy's runstring": code(
        lambda c: call(name("numpy.testing._private.utils", "runstring"), c, mapping())
    ),
    "another name of SciPy": code(lambda c: call(name("scipy.sparse", "load_npz"), c)),
    "another name of torch": code(lambda c: call(name("torch", "load"), c)),
    "a name in other case": code(lambda c: call(name("Numpy", "ndarray"))),
    "a name with a space": plain(name("numpy ", "ndarray")),
    "a name that is a number": plain(number(1) + number(2) + b"\x93"),
    # states and calls of what is allowed
    "a state for a class": plain(build(NDARRAY, mapping(__reduce__=NONE))),
    "a state for a list": plain(build(listing(), mapping(append=NONE))),
    "a state for text": plain(build(text("a"), mapping(upper=NONE))),
    "__class__ through slots": plain(
        mapping(a=build(CH, row(NONE, mapping(__class__=NDARRAY))))
    ),
    "__setstate__ in the state": plain(mapping(a=build(CH, mapping(__setstate__=SYSTEM)))),
    "a state twice": plain(
        mapping(a=build(build(CH, mapping(x=floats(1))), mapping(x=floats(2))))
    ),
    "an array filled twice": plain(
        build(floats(1), row(number(1), row(number(1)), dtype("f8"), FALSE, raw(b"\0" * 8)))
    ),
    "a state for a dict that is none": plain(build(mapping(), listing())),
    "a call of what may not be called": plain(call(name("builtins", "list"), listing())),
    "a call of a list": plain(listing() + row() + b"R"),
    "a call without a tuple": plain(name("collections", "OrderedDict") + listing() + b"R"),
    "a call with too many arguments": plain(call(name("numpy", "dtype"), *[text("f8")] * 9)),
    "a call with keywords": plain(name("chumpy.ch", "Ch") + row() + mapping(x=NONE) + b"\x92"),
    "an array of a foreign class": plain(
        call(RECONSTRUCT, name("builtins", "object"), row(number(0)), raw(b"b"))
    ),
    "an encoding that unpacks": plain(call(ENCODE, text("a"), text("zip"))),
    "a dict made of text": plain(call(name("collections", "OrderedDict"), text("ab"))),
    "a default that is called": code(
        lambda c: call(name("collections", "defaultdict"), SYSTEM, listing())
    ),
    "a persistent id": plain(text("../../etc/passwd") + b"Q"),
    "a persistent id in text": lambda command: b"P../../etc/passwd\n.",
    "an out-of-band buffer": plain(b"\x97"),
    # size bombs
    "4 EiB of bytes": plain(b"\x8e" + struct.pack("<Q", 1 << 62)),
    "16 EiB of text": plain(b"\x8d" + b"\xff" * 8),
    "2 GiB of digits": plain(b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "a negative length": plain(b"T" + struct.pack("<i", -1)),
    "a million digits": lambda command: b"L" + b"9" * 1_000_000 + b"L\n.",
    "an array of 8 EiB": plain(array((1 << 30, 1 << 30), "f8", raw(b""))),
    "an empty array of 2^62 rows": plain(array((1 << 62, 0), "f8", raw(b""))),
    "an array larger than its bytes": plain(array((1000,), "f8", raw(b"\0" * 8))),
    "an array smaller than its bytes": plain(array((1,), "f4", raw(b"\0" * 8))),
    "a negative shape": plain(array((-1,), "f8", raw(b""))),
    "a shape of a thousand axes": plain(array((1,) * 1000, "f8", raw(b"\0" * 8))),
    "a shape of text": plain(
        build(
            call(RECONSTRUCT, NDARRAY, row(number(0)), raw(b"b")),
            row(number(1), row(text("9")), dtype("f8"), FALSE, raw(b"")),
        )
    ),
    "text of 2 GB": plain(array((1,), "S2000000000", raw(b""))),
    "elements of no size": plain(array((1 << 40,), "S0", raw(b""))),
    "a dtype that is evaluated": plain(
        call(name("numpy", "dtype"), text("(2,3)f8,i4"), FALSE, TRUE)
    ),
    "a record dtype": plain(call(name("numpy", "dtype"), text("V8"), FALSE, TRUE)),
    "objects as bytes": plain(array((1,), "O8", raw(b"\x10\0\0\0\0\0\0\0"))),
    "objects of another number": plain(array((1 << 60,), "O8", listing())),
    "copies of one text": plain(MANY_COPIES),
    "a billion laughs": plain(laughs(12)),
    "too many opcodes": plain(b"N0" * 6_000 + NONE),  # the test lowers the limit
    # shapes of the object graph
    "a deep list": plain(b"(" + b"]" * 3_000 + b"a" * 2_999 + b"t"),
    "a deep tuple": plain(NONE + b"\x85" * 3_000),
    "a deep tuple as a key": plain(b"}" + NONE + b"\x85" * 3_000 + NONE + b"s"),
    "a list that holds itself": plain(b"]q\x00h\x00a"),
    "a dict that holds itself": plain(b"}q\x00" + text("a") + b"h\x00s"),
    "a tuple that holds itself": plain(b"]q\x00(h\x00tq\x01a"),
    "an array that holds itself": plain(
        call(RECONSTRUCT, NDARRAY, row(number(0)), raw(b"b")) + b"q\x00"
        + row(number(1), row(number(1)), dtype("O8"), FALSE, listing(b"h\x00")) + b"b"
    ),
    "a chumpy array of itself": plain(mapping(a=CH + b"q\x00" + mapping(x=b"h\x00") + b"b")),
    "a list as a key": plain(b"}" + listing() + NONE + b"s"),
    # messages that would write out a billion entries
    "laughs as a shape": plain(
        beside_laughs(
            call(RECONSTRUCT, NDARRAY, row(number(0)), raw(b"b")),
            row(number(1), row(LAST), dtype("f8"), FALSE, raw(b"")) + b"b",
        )
    ),
    "laughs as a dtype": plain(beside_laughs(call(name("numpy", "dtype"), LAST))),
    # what takes n^2 steps
    "keys of one hash": plain(b"}(" + COLLIDING[0] + NONE + COLLIDING[1] + NONE + b"u"),
    "tuples of numbers as keys": plain(b"}" + number(1) + number(2) + b"\x86" + NONE + b"s"),
    "memos of one hash": plain(b"}p" + str((1 << 61) - 1).encode() + b"\n"),
    "many arguments": plain(call(name("chumpy.ch", "Ch"), *[NONE] * 40)),
    "a number that NumPy keeps as an object": plain(
        mapping(a=build(CH, mapping(x=number(1 << 80))))
    ),
    "line ends in a name": plain(stacked("os\nerror: \x1b[2J", "system")),
    "NaN as a key": plain(b"}G" + struct.pack(">d", float("nan")) + NONE + b"s"),
    # sparse matrices and selections
    "a column index out of range": plain(sparse(indices=ints(3, 0))),
    "a negative index": plain(sparse(indices=ints(-1, 0))),
    "pointers that fall": plain(sparse(indptr=ints(0, 2, 1))),
    "pointers beyond the values": plain(sparse(indptr=ints(0, 1, 900))),
    "too few pointers": plain(sparse(indptr=ints(0, 2))),
    "pointers of floats": plain(sparse(indptr=floats(0, 1, 2))),
    "a sparse matrix of 2^40 rows": plain(sparse(_shape=row(number(1 << 40), number(2)))),
    "a sparse matrix of text": plain(sparse(data=listing(text("a"), text("b")))),
    "a sparse matrix of objects": plain(sparse(data=array((1,), "O8", listing(NONE)))),
    "a sparse matrix without values": plain(sparse(data=NONE)),
    "triplets of 2^62 columns": plain(
        sparse(COO, _shape=row(number(3), number(1 << 62)), row=ints(0, 1), col=ints(0, 1))
    ),
    "triplets out of range": plain(sparse(COO, row=ints(0, 1), col=ints(0, 2))),
    "a selection out of range": plain(select(ints(0, 2))),
    "a negative selection": plain(select(ints(0, -1))),
    "a selection in another shape": plain(select(ints(0, 1), row(number(3)))),
    "a selection in a huge shape": plain(select(ints(), row(number(1 << 62), number(0)))),
    "a chumpy array without content": plain(mapping(a=CH)),
    "an array without content": plain(
        mapping(a=call(RECONSTRUCT, NDARRAY, row(number(0)), raw(b"b")))
    ),
    # damage
    "nothing": lambda command: b"",
    "no STOP": lambda command: START + mapping(a=NONE),
    "two values": plain(NONE + NONE),
    "an empty stack": plain(b"a"),
    "a value below a mark": plain(listing() + b"(a"),
    "a mark that is not there": plain(b"t"),
    "an odd number of items": plain(b"}(" + text("a") + b"u"),
    "a memo that is not there": plain(b"h\x07"),
    "an unknown opcode": plain(b"\xff"),
    "protocol 9": lambda command: b"\x80\x09N.",
    "text that is no UTF-8": plain(b"X" + struct.pack("<I", 2) + b"\xff\xfe"),
    "a truncated line": lambda command: b"cos\nsystem",
    "not a pickle": lambda command: b"<html>404</html>",
}  # fmt: skip

HARMLESS = {
    "a memo of index 2^32 - 1": START + b"}r\xff\xff\xff\xff" + END,
    "a frame of 2^63": START + b"\x95" + b"\xff" * 8 + b"}" + END,
    "five thousand memos": START + b"}" + b"\x94" * 5_000 + END,
}
"""What exhausts other readers and is nothing to ours."""
