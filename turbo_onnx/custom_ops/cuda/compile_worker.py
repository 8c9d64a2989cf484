"""The process that runs Triton: reads jobs from stdin, a JSON object a line, and answers each with one on stdout.

It is a process of its own because some of LLVM's errors end the process, and so that nothing of the caller's
environment has a part in what is made. `compiler.py` starts it.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from turbo_onnx.custom_ops.cuda.targets import OLDEST

_ALIGNED = [["tt.divisibility", 16]]
_FALLBACK_PTX = 80  # the version of PTX for the code that later devices translate: drivers since CUDA 12.0 read it


_MOST_WARPS = 16


def compile_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Compile one kernel; where its threads lack registers, with twice as many threads, which need fewer each.

    Args:
        job: a variant's fields, `capability` and `aligned`.

    Returns:
        symbol, num_warps, shared (bytes), registers, stack (bytes of local memory), spills (bytes written and read),
        cubin and ptx (base64).

    Raises:
        ValueError: the job does not fit the function, or the kernel needs what the launcher does not give.
    """
    answers = [_compile(job)]
    while answers[-1]["spills"] and 2 * answers[-1]["num_warps"] <= _MOST_WARPS:
        answers.append(_compile({**job, "num_warps": 2 * answers[-1]["num_warps"]}))
    return min(answers, key=lambda answer: int(answer["spills"]))


def _compile(job: Mapping[str, Any]) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(job["module"]), job["function"])
    arguments, constants = job["arguments"], job["constants"]
    signature = {name: arguments.get(name, "constexpr") for name in function.arg_names}
    if [name for name in signature if name not in constants] != list(arguments) or constants.keys() & arguments.keys():
        raise ValueError(f"its arguments are {list(arguments)}, and the function's are {function.arg_names}")
    pointers = [index for index, kind in enumerate(signature.values()) if kind.startswith("*")]
    options = {
        "num_warps": job["num_warps"],
        "num_stages": job["num_stages"],
        "num_ctas": 1,
        "enable_fp_fusion": True,
    }
    if job["capability"] // 10 == OLDEST // 10:
        options["ptx_version"] = _FALLBACK_PTX
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        kernel = triton.compile(
            ASTSource(function, signature, constants, {(i,): _ALIGNED for i in pointers} if job["aligned"] else {}),
            target=GPUTarget("cuda", job["capability"], 32),
            options=options,
        )
    _require_launchable(kernel.metadata, options)
    return {
        "symbol": kernel.metadata.name,
        "num_warps": kernel.metadata.num_warps,
        "shared": kernel.metadata.shared,
        **_resources(log.getvalue()),
        "cubin": base64.b64encode(kernel.asm["cubin"]).decode(),
        "ptx": base64.b64encode(kernel.asm["ptx"].encode()).decode(),
    }


def _require_launchable(metadata: Any, options: Mapping[str, Any]) -> None:
    """The launcher gives null for scratch memory, and launches no clusters."""
    expected = {"global_scratch_size": 0, "profile_scratch_size": 0, "num_ctas": 1, "warp_size": 32}
    expected |= {name: value for name, value in options.items() if name != "num_warps"}  # a kernel may get more warps
    for name, value in expected.items():
        found = getattr(metadata, name)
        if found != value:
            raise ValueError(f"{name} is {found}, and must be {value}")


def _resources(log: str) -> dict[str, int]:
    """What the assembler says of the kernel."""
    registers = re.search(r"Used (\d+) registers", log)
    memory = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if registers is None or memory is None:
        raise ValueError(f"the assembler did not say what the kernel uses: {log!r}")
    stack, *spills = map(int, memory.groups())
    return {"registers": int(registers[1]), "stack": stack, "spills": sum(spills)}


def main() -> None:
    """Answer jobs until there are no more. Whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = compile_job(json.loads(line))
        except Exception as error:
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
