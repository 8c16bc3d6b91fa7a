"""The picture of `imp bench --plot`: how near each kernel of the decode step comes to the read bandwidth."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from imp_runtime.errors import ImpError
from imp_server.commands.bench_kernels import StepSpeed
from imp_server.console.tables import quantity

_SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """ImpError, before anything is measured, when no picture could be written to `path`."""
    if find_spec("matplotlib") is None:
        raise ImpError("--plot needs matplotlib: pip install matplotlib")
    if path.suffix not in _SUFFIXES:
        raise ImpError(f"--plot {path}: the name must end with {', '.join(_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise ImpError(f"--plot {path}: the folder {path.absolute().parent} does not exist; make it first")


def draw(step: StepSpeed, title: str, path: Path) -> None:
    """Bytes of a launch against GB/s, a point for each entry, its area the share of time; the roof is a plain read."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.add_subplot()
    for number, kernel in enumerate(step.kernels, 1):
        at = (max(kernel.nbytes, 1), max(kernel.bandwidth, 1e-6))  # a logarithm has no place for nothing
        label = f"{number}  {kernel.entry}: {kernel.share:.1%}, {kernel.launches} x {kernel.us:.1f} µs"
        color = f"C{(number - 1) % 10}"
        axes.scatter(*at, s=60 + 3000 * kernel.share, alpha=0.6, color=color)
        axes.scatter([], [], s=40, color=color, label=label)
        axes.annotate(f"{number}", at, fontsize=8, ha="center", va="center")
    figure.legend(loc="outside right upper", fontsize=8, title="share of time, launches")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.15)
    if step.read_bandwidth is not None:
        axes.axhline(step.read_bandwidth, color="black", linewidth=1)
        roof = f"plain read, {step.read_bandwidth:.0f} GB/s"
        axes.annotate(roof, (0.01, step.read_bandwidth), xycoords=axes.get_yaxis_transform(), va="bottom", fontsize=8)
    axes.xaxis.set_major_formatter(lambda nbytes, _: quantity(nbytes, "B"))
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axes.set_xlabel("bytes a launch moves")
    axes.set_ylabel("GB/s")
    axes.set_title(f"{title}\ndecode step at position {step.position}: {step.us:.1f} µs", fontsize=10)
    figure.savefig(path, dpi=150)
