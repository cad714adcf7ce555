"""Writes retromae/_abi.py: what include/retromae.h declares, for ctypes.

    python python/tools/abi.py          # write
    python python/tools/abi.py --check  # or fail where the file differs from the header

Needs libclang's Python bindings (PyPI: libclang).
"""

import sys
from pathlib import Path

from clang.cindex import CursorKind, Index, TranslationUnit, TypeKind

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "include" / "retromae.h"
OUTPUT = ROOT / "python" / "retromae" / "_abi.py"

# Types of the standard headers, which a translation unit without them does not know.
STANDARD = """
typedef signed int int32_t; typedef unsigned char uint8_t; typedef unsigned short uint16_t;
typedef unsigned int uint32_t; typedef long int64_t; typedef unsigned long uint64_t; typedef unsigned long size_t;
"""
# By name, not by width: a platform says what they are.
NAMED = {
    "int32_t": "c_int32",
    "uint8_t": "c_uint8",
    "uint16_t": "c_uint16",
    "uint32_t": "c_uint32",
    "int64_t": "c_int64",
    "uint64_t": "c_uint64",
    "size_t": "c_size_t",
}
BUILT_IN = {TypeKind.FLOAT: "c_float", TypeKind.DOUBLE: "c_double", TypeKind.VOID: "None"}


def parse():
    """Returns the cursor of the header."""
    files = [("standard.h", STANDARD), ("stdint.h", "#include <standard.h>"), ("stddef.h", "")]
    files = [(f"/standard/{name}", "#pragma once\n" + text) for name, text in files]
    unit = Index.create().parse(
        str(HEADER),
        args=["-std=c11", "-nostdinc", "-isystem", "/standard"],
        unsaved_files=files,
        options=TranslationUnit.PARSE_DETAILED_PROCESSING_RECORD,
    )
    problems = [str(problem) for problem in unit.diagnostics]
    if problems:
        raise SystemExit("\n".join(problems))
    return unit.cursor


def ctype(kind, result=False):
    """Returns the ctypes expression of a type."""
    if kind.kind == TypeKind.CONSTANTARRAY:
        return f"{ctype(kind.element_type)} * {kind.element_count}"
    if kind.kind in (TypeKind.POINTER, TypeKind.INCOMPLETEARRAY):
        pointee = kind.get_pointee()
        # Text that the library returns.
        is_text = pointee.get_canonical().kind == TypeKind.CHAR_S and pointee.is_const_qualified()
        return "c_char_p" if is_text else "c_void_p"
    name = kind.get_declaration().spelling
    if name in NAMED:
        return NAMED[name]
    canonical = kind.get_canonical()
    if canonical.kind in (TypeKind.POINTER,):
        return "c_void_p"
    if canonical.kind == TypeKind.RECORD:
        return name
    if kind.kind in BUILT_IN:
        return BUILT_IN[kind.kind]
    return ctype(kind.get_declaration().underlying_typedef_type)


def parameter(kind):
    """Returns the ctypes expression of a parameter: an array is a pointer."""
    return "c_void_p" if kind.kind == TypeKind.CONSTANTARRAY else ctype(kind)


def macros(root):
    """Returns the header's numbers, and the macro with the version of each descriptor."""
    constants, versions = {}, {}
    for cursor in root.get_children():
        if cursor.kind != CursorKind.MACRO_DEFINITION or not cursor.spelling.startswith("RMAE_"):
            continue
        name, *tokens = [token.spelling for token in cursor.get_tokens()]
        if len(tokens) == 1 and tokens[0].rstrip("uU").isdigit():
            constants[name] = int(tokens[0].rstrip("uU"))
        elif tokens[:2] == ["RMAE_INIT", "("] and len(tokens) == 6:
            versions[tokens[2]] = tokens[4]
    return constants, versions


def text():
    root = parse()
    constants, versions = macros(root)
    structs, functions = [], []
    for cursor in root.get_children():
        if cursor.location.file is None or Path(cursor.location.file.name) != HEADER:
            continue
        if cursor.kind == CursorKind.ENUM_DECL:
            constants |= {value.spelling: value.enum_value for value in cursor.get_children()}
        elif cursor.kind == CursorKind.STRUCT_DECL and cursor.is_definition():
            fields = [(field.spelling, ctype(field.type)) for field in cursor.type.get_fields()]
            structs.append((cursor.spelling, fields))
        elif cursor.kind == CursorKind.FUNCTION_DECL:
            arguments = [parameter(argument.type) for argument in cursor.get_arguments()]
            functions.append((cursor.spelling, ctype(cursor.result_type), arguments))
    lines = ['"""What include/retromae.h declares. Written by tools/abi.py; not to be edited."""', ""]
    used = sorted(set(NAMED.values()) | {"Structure", "c_char_p", "c_double", "c_float", "c_void_p"})
    lines += ["from ctypes import (", *(f"    {name}," for name in used), ")", ""]
    lines += [f"{name} = {value}" for name, value in constants.items()]
    for name, fields in structs:
        lines += ["", "", f"class {name}(Structure):"]
        if name in versions:
            lines += [f"    VERSION = {versions[name]}"]
        lines += ["    _fields_ = ["]
        lines += [f'        ("{field}", {kind}),' for field, kind in fields]
        lines += ["    ]"]
    lines += ["", "", "# Result and arguments of each function.", "FUNCTIONS = {"]
    for name, result, arguments in functions:
        lines += [f'    "{name}": ({result}, [{", ".join(arguments)}]),']
    lines += ["}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if OUTPUT.read_text() != text():
            sys.exit(
                f"{OUTPUT.relative_to(ROOT)} differs from {HEADER.relative_to(ROOT)}: run python/tools/abi.py"
            )
    elif not sys.argv[1:]:
        OUTPUT.write_text(text())
    else:
        sys.exit(__doc__)
