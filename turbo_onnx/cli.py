"""The command line: options in, sentences and tables out; everything else is done by the package.

Exit codes are those of `turbo_onnx.errors`. Results go to stdout, everything about the run to stderr; progress is shown
only on a terminal.
"""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from turbo_onnx import __version__
from turbo_onnx.errors import InputError, OutputError, TurboOnnxError
from turbo_onnx.parameters import MODEL, NAMES, TOLERANCE, WRITTEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from turbo_onnx.optimizer import Result

INTERNAL_ERROR = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="turbo-onnx")
def cli() -> None:
    """Make exported transformer models run faster in ONNX Runtime, with the same outputs."""


@cli.command()
@click.argument("model", metavar="IN", type=MODEL)
@click.option(
    "-o", "--output", type=WRITTEN, metavar="OUT", help="Where to write; by default NAME.turbo.onnx beside IN."
)
@click.option(
    "--packing",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Remove padding where it pays, wherever it can be done, or never.",
)
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    metavar="TARGET",
    help="What it will run on: cpu, cuda, or cuda with architectures, such as cuda:sm_80,sm_90.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    show_default="what the model computes in for cuda, fp32 for the CPU",
    help="What to compute in, as far as the result allows it: fp16 and bf16 for cuda, int8 for the CPU.",
)
@click.option("--tuning", type=MODEL, metavar="FILE", help="What `turbo-onnx autotune` measured, for --target cuda.")
@click.option("--passes", type=NAMES, help="Run only these passes.")
@click.option("--skip-pass", "skip_passes", multiple=True, metavar="PASS", help="Leave a pass out; may be repeated.")
@click.option("--no-verify", is_flag=True, help="Do not compare the result with the original.")
@click.option(
    "--inputs", multiple=True, type=MODEL, metavar="F.npz", help="Compare on these inputs, too, and calibrate on them."
)
@click.option("--require-fusion", is_flag=True, help="Exit with 4 unless there is attention and all of it was fused.")
@click.option(
    "--report", "report_file", type=WRITTEN, metavar="FILE", help="Write the report: .json, .html, .md, .txt."
)
@click.option("--plan", "plan_file", type=WRITTEN, metavar="FILE", help="Write the memory plan there, too, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--save-as-external-data", is_flag=True, help="Keep the weights in OUT.data.")
@click.option("--dry-run", is_flag=True, help="Do everything but write.")
def optimize(
    model: Path,
    output: Path | None,
    packing: Any,
    target: str,
    precision: Any,
    tuning: Path | None,
    passes: Sequence[str] | None,
    skip_passes: Sequence[str],
    no_verify: bool,
    inputs: Sequence[Path],
    require_fusion: bool,
    report_file: Path | None,
    plan_file: Path | None,
    as_json: bool,
    save_as_external_data: bool,
    dry_run: bool,
) -> None:
    """Optimize a model and write the result."""
    from turbo_onnx import optimizer, report_text
    from turbo_onnx.serialization.writing import write_text

    written = None if dry_run else output or optimizer.default_output(model)
    files = {"report": report_file, "plan": plan_file}
    data = None if written is None else written.with_name(f"{written.name}.data")
    _check_beside(files, [model], {"model": written, "weights": data})
    with _progress() as progress:
        result: Result = optimizer.optimize(
            model,
            output=written,
            packing=packing,
            target=target,
            precision=precision,
            tuning=tuning,
            passes=passes,
            skip_passes=skip_passes,
            verify=not no_verify,
            inputs=list(inputs) or None,
            require_fusion=require_fusion,
            external=True if save_as_external_data else None,
            progress=progress,
        )
    if report_file is not None:
        write_text(report_file, report_text.for_file(result.report, report_file))
    if plan_file is not None:
        write_text(plan_file, result.require_plan().to_json(indent=2) + "\n")
    if as_json:
        click.echo(result.report.to_json(), nl=False)
    else:
        _print(report_text.render(result.report))


def _check_beside(
    files: Mapping[str, Path | None], models: Sequence[Path], outputs: Mapping[str, Path | None] | None = None
) -> None:
    """Refuse files that cannot be written, or that would overwrite a model that is read, or each other.

    Args:
        files: to write beside the outputs, by what they are.
        models: that are read.
        outputs: what else is written, by what it is.
    """
    from turbo_onnx.serialization.writing import require_place

    taken = {path.resolve(): what for what, path in (outputs or {}).items() if path is not None}
    for what, path in files.items():
        if path is None:
            continue
        require_place(path, what)
        is_read = path.exists() and any(_is_of(model, path) for model in models)
        other = "model" if is_read else taken.get(path.resolve())
        if other is not None:
            raise OutputError(f"{path}: the {what} would overwrite the {other}; choose another file.")
        taken[path.resolve()] = what


def _is_of(model: Path, path: Path) -> bool:
    """Whether the path is one of the model's files; those with its weights are, too."""
    from turbo_onnx.serialization.reading import read

    origin = read(model, artifacts=True).origin
    return origin is not None and origin.file_at(path) is not None


@cli.command()
@click.argument("model", type=MODEL)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def inspect(model: Path, as_json: bool) -> None:
    """Say what is in a model."""
    from turbo_onnx import inspection

    found = inspection.inspect(model)
    if as_json:
        click.echo(found.to_json(), nl=False)
    else:
        _print(found.render())


@cli.command()
@click.argument("model", type=MODEL)
@click.option("--pass", "only", metavar="PASS", help="Only what this pass has to say.")
@click.option("--packing", type=click.Choice(["auto", "on", "off"]), default="auto", show_default=True)
@click.option("--target", default="cpu", show_default=True, metavar="TARGET")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16", "int8"]))
def explain(model: Path, only: str | None, packing: Any, target: str, precision: Any) -> None:
    """Say what would be done to a model, what would not, and why."""
    from turbo_onnx import optimizer, pipeline, report_text

    if only is not None:
        pipeline.require_known([only])
    with _progress() as progress:
        result = optimizer.optimize(
            model, packing=packing, target=target, precision=precision, verify=False, progress=progress
        )
    _print(report_text.explain(result.report, only))


@cli.command()
@click.argument("before", type=MODEL)
@click.argument("after", type=MODEL)
@click.option("--atol", type=TOLERANCE, help="Absolute difference allowed in floating-point outputs.")
@click.option("--rtol", type=TOLERANCE, help="Difference allowed in proportion to each value.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For the inputs that are made.")
@click.option("--inputs", multiple=True, type=MODEL, metavar="F.npz", help="Compare on these inputs, too.")
@click.option("--gpu", is_flag=True, help="Run AFTER on this machine's GPU, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(
    before: Path,
    after: Path,
    atol: float | None,
    rtol: float | None,
    seed: int,
    inputs: Sequence[Path],
    gpu: bool,
    as_json: bool,
) -> None:
    """Compare two models on ragged inputs; exit with 3 if they differ."""
    from turbo_onnx import comparison

    with _progress() as progress:
        progress("verify")
        result = comparison.compare_files(before, after, atol=atol, rtol=rtol, seed=seed, inputs=inputs, gpu=gpu)
    if as_json:
        click.echo(comparison.to_json(result), nl=False)
    else:
        for line in comparison.sentences(result):
            click.echo(line)
    comparison.require_equal(result, before, after)


@cli.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=MODEL)
@click.option("-o", "--output", type=WRITTEN, default=Path("tuning.json"), show_default=True, metavar="FILE")
@click.option("--target", metavar="cuda:sm_NN", help="As a check: the GPU of this machine must be this one.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), default="fp16", show_default=True)
def autotune(models: Sequence[Path], output: Path, target: str | None, precision: Any) -> None:
    """Measure on this machine's GPU how the models' kernels run fastest, for optimize --tuning."""
    from turbo_onnx import autotune as tuner
    from turbo_onnx.serialization.writing import write_text

    _check_beside({"tuning": output}, models)
    with _progress() as progress:
        tuning, found = tuner.autotune(models, target=target, precision=precision, progress=progress)
    write_text(output, tuning.to_json())
    for line in tuner.table(found):
        click.echo(line)
    click.echo(f"Written to {output}.")


@cli.command()
@click.argument("model", type=MODEL)
@click.option(
    "--shapes",
    multiple=True,
    metavar="SIZES",
    help="Sizes such as batch=8,length=128,tokens=700, or ranges such as batch=1..64; may be repeated.",
)
@click.option("--budget", metavar="BYTES", help="Find the largest batch that fits, such as 2GiB.")
@click.option("--json", "json_file", metavar="FILE", help="Write the numbers; - for stdout, and nothing else there.")
@click.option("--html", "html_file", type=WRITTEN, metavar="FILE", help="Draw where each buffer lies, and when.")
@click.option("--exact", is_flag=True, help="Make the plan anew with an exact solver, which may take minutes.")
def plan(
    model: Path,
    shapes: Sequence[str],
    budget: str | None,
    json_file: str | None,
    html_file: Path | None,
    exact: bool,
) -> None:
    """Say how much memory runs need, and how large a batch may be."""
    from turbo_onnx import plan_report
    from turbo_onnx.memory.capacity import parse_bytes
    from turbo_onnx.serialization.writing import write_text

    limit = None if budget is None else parse_bytes(budget)
    numbers = None if json_file in (None, "-") else Path(str(json_file))
    _check_beside({"numbers": numbers, "picture": html_file}, [model])
    with _progress() as progress:
        progress("plan")
        made = plan_report.plan_of(model, exact=exact)
    report = plan_report.report(str(model), made, shapes, limit)
    if html_file is not None:
        write_text(html_file, report.to_html())
    if numbers is not None:
        write_text(numbers, report.to_json())
    if json_file == "-":
        click.echo(report.to_json(), nl=False)
    else:
        _print(report.render())


@cli.command()
@click.argument("model", type=MODEL)
@click.option("-o", "--output", type=WRITTEN, metavar="FILE", help="Write the prices there, as JSON.")
@click.option("--threads", type=int, metavar="N", help="To compute with; by default ONNX Runtime's.")
def cost(model: Path, output: Path | None, threads: int | None) -> None:
    """Measure what runs take on this machine's CPU, by the lengths of their sequences."""
    from turbo_onnx import run_costs
    from turbo_onnx.serialization.writing import write_text

    _check_beside({"cost model": output}, [model])
    with _progress() as progress:
        measured = run_costs.measure_cost(model, threads=threads, progress=progress)
    if output is not None:
        write_text(output, measured.cost.to_json())
    _print(measured.render())


@cli.command()
def ops() -> None:
    """List the operators that optimized models may use."""
    from turbo_onnx import inspection

    _print(inspection.operators())


@cli.command()
def doctor() -> None:
    """Say what is installed, and whether it works together."""
    from turbo_onnx import inspection

    table, problems = inspection.doctor()
    _print(table)
    if problems:
        raise InputError(problems[0])


def _print(content: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(content)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Something to call with what is being done; shown on stderr while it is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("…") as status:
        yield lambda what: status.update(what)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # leaves through the `finally` clauses, which remove temporary files


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, and exit with its code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        cli.main(args=None if arguments is None else list(arguments), standalone_mode=True, prog_name="turbo-onnx")
    except TurboOnnxError as error:
        if error.__cause__ is not None and error.exit_code == INTERNAL_ERROR:
            traceback.print_exception(error.__cause__)
        click.echo(f"turbo-onnx: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            click.echo("turbo-onnx: the output cannot be printed: there is no space left for it.", err=True)
            sys.exit(OutputError.exit_code)
        traceback.print_exc()
        click.echo("turbo-onnx: this is a bug; please report it with the lines above.", err=True)
        sys.exit(INTERNAL_ERROR)
    sys.exit(0)


if __name__ == "__main__":
    main()
