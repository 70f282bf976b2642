"""As the module `cupy.cuda.nvrtc`: what it compiles is the names of a file's kernels, for `kernels.py` to run.

It finds no errors: NVRTC itself compiles the same sources in other tests.
"""

import json
from collections.abc import Sequence

KNOWN_ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
compiled: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []  # file, expressions, options of each compilation


class NVRTCError(RuntimeError):
    """As `cupy.cuda.nvrtc.NVRTCError`."""


class Program:
    """A source file, and the kernels that are wanted of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.expressions: list[str] = []


def getVersion() -> tuple[int, int]:
    return 12, 9


def getSupportedArchs() -> tuple[int, ...]:
    return KNOWN_ARCHITECTURES


def createProgram(source: str, name: str, headers: Sequence[str], include_names: Sequence[str]) -> Program:
    assert not headers
    assert not include_names
    return Program(name)


def addNameExpression(program: Program, expression: str) -> None:
    program.expressions.append(expression)


def compileProgram(program: Program, options: tuple[str, ...]) -> None:
    compiled.append((program.name, tuple(program.expressions), options))


def getLoweredName(program: Program, expression: str) -> str:
    return "_Z" + expression


def getCUBIN(program: Program) -> bytes:
    return json.dumps([program.name, program.expressions]).encode()


getPTX = getCUBIN


def getProgramLog(program: Program) -> str:
    return ""


def destroyProgram(program: Program) -> None:
    program.expressions.clear()
