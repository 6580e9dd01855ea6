"""Starting from a trained model: every weight that fits."""

from __future__ import annotations

from dataclasses import replace

from atrous.errors import AtrousError
from atrous.models import SegmentationModel


def start_from(model: SegmentationModel, source: SegmentationModel) -> str:
    """Copies every weight that fits, by name and shape, and the input scaling it was trained with.

    Args:
        model: changed in place.
        source: a trained model, of the same architecture or a like one.

    Returns:
        A sentence that says what was kept and what is fresh.

    Raises:
        AtrousError: nothing fits.
    """
    state, given = model.state_dict(), source.state_dict()
    fitting = {name: tensor for name, tensor in given.items() if name in state and state[name].shape == tensor.shape}
    if not any(tensor.ndim > 1 for tensor in fitting.values()):  # a bias of the same length is no likeness
        raise AtrousError(
            f"nothing of the given model fits: it is {source.info.architecture} over "
            f"{source.info.arguments.get('backbone')}, the recipe asks for {model.info.architecture} over "
            f"{model.info.arguments.get('backbone')}."
        )
    model.load_state_dict(fitting, strict=False)
    ours, theirs = model.info.preprocessing, source.info.preprocessing
    if len(ours.mean) == len(theirs.mean) and ours.dtype == theirs.dtype:
        model.info = replace(model.info, preprocessing=replace(ours, mean=theirs.mean, std=theirs.std))
    fresh = sorted({name.rpartition(".")[0] for name in state if name not in fitting})
    kept = f"{len(fitting)} of {len(state)} weights start from the given model"
    return f"{kept}; fresh: {', '.join(fresh[:6])}{' …' if len(fresh) > 6 else ''}." if fresh else f"{kept}."
