"""Starting from a trained model: every weight that fits."""

from __future__ import annotations

from atrous.errors import AtrousError
from atrous.models import SegmentationModel


def start_from(model: SegmentationModel, source: SegmentationModel) -> str:
    """Copies every weight that fits, by name and shape, and says what did not.

    Args:
        model: changed in place.
        source: a trained model, of the same architecture or a like one.

    Raises:
        AtrousError: nothing fits.
    """
    state, given = model.state_dict(), source.state_dict()
    fitting = {name: tensor for name, tensor in given.items() if name in state and state[name].shape == tensor.shape}
    weights = [name for name in fitting if not name.endswith("num_batches_tracked")]
    if not weights:
        raise AtrousError(
            f"nothing of the given model fits: it is {source.info.architecture} over "
            f"{source.info.arguments.get('backbone')}, the recipe asks for {model.info.architecture} over "
            f"{model.info.arguments.get('backbone')}."
        )
    model.load_state_dict(fitting, strict=False)
    fresh = sorted({name.rpartition(".")[0] for name in state if name not in fitting})
    kept = f"{len(fitting)} of {len(state)} weights start from the given model"
    return f"{kept}; fresh: {', '.join(fresh[:6])}{' …' if len(fresh) > 6 else ''}." if fresh else f"{kept}."
