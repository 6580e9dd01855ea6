"""`atrous merge`: write a model file from a base and its adapter.

Examples:
    atrous merge base.safetensors adapter.safetensors --out new.safetensors
"""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from atrous import model_file
from atrous.adapter_file import load_adapted
from atrous.checked_arguments import checked
from atrous.console import console
from atrous.model_file import check_name
from atrous.overwrite_checks import check_outputs, model_output


@checked
def merge(base: Path, adapter: Path, *, out: Path, overwrite: bool = False) -> None:
    """Write the fine-tuned model of an adapter as one model file, which needs neither base nor adapter.

    Args:
        base: model file from which the training of the adapter started.
        adapter: adapter.safetensors of a training with train.learn lora.
        out: model file to write, NAME.safetensors.
        overwrite: also replace a file that atrous did not write; inputs are never replaced.

    Raises:
        AtrousError: a file is missing or damaged, the base is not that of the adapter, or the output may not be
            written.
    """
    check_name(Path(out), "out")
    inputs = [("the base", base), ("the adapter", adapter)]
    check_outputs("merge", [model_output("out", out)], inputs, overwrite=overwrite)
    model_file.save(load_adapted(base, adapter), out, overwrite=overwrite)
    console.print(f"written: {escape(str(out))}")
