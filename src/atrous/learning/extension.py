"""Additions to a recipe's training run, made by the program that calls `fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from atrous.checked_arguments import as_dict, checked_field_names
from atrous.errors import AtrousError, shown
from atrous.learning.checkpoint import OF_RECIPE, check_names
from atrous.learning.checkpoint_parts import Stateful
from atrous.learning.losses.terms import Term
from atrous.learning.trainer import SUPERVISION, Progress
from atrous.learning.training_step import Disturb

#: Terms of the loss that a recipe's training run has.
OWN_TERMS = (*SUPERVISION, "soft_labels", "channels")


@checked_field_names
@dataclass(frozen=True)
class Extension:
    """Additions to a recipe's training run, made by the program that calls `fit`.

    Args:
        terms: further terms of the loss, by name. Parameters of terms that are modules are trained with learning rate
            optim.lr. Checkpoints contain the state of terms that have `state_dict` and `load_state_dict`.
        state: further objects whose state checkpoints contain, by name.
        after_step: functions that are called in order after each optimiser step, with the `Progress`.
        disturb: function called with the raw images and the targets of each batch; it returns the images for the
            network, of the same shape. Checkpoints contain the function's state if it has `state_dict` and
            `load_state_dict`. The optimiser does not change the parameters of `disturb`.
    """

    terms: Mapping[str, Term] = field(default_factory=dict)
    state: Mapping[str, Stateful] = field(default_factory=dict)
    after_step: Sequence[Callable[[Progress], object]] = ()
    disturb: Disturb | None = None

    def __post_init__(self) -> None:
        for name, what in (("terms", "functions of (outputs, batch)"), ("state", "objects with a state_dict")):
            if (given := as_dict(getattr(self, name), name)) is None:
                raise AtrousError(
                    f"{name} of an Extension must be a dict of {what} by name, got {shown(getattr(self, name))}."
                )
            object.__setattr__(self, name, given)
        for name, term in self.terms.items():
            if not isinstance(name, str) or not name.isidentifier() or name in OWN_TERMS or not callable(term):
                raise AtrousError(
                    "terms of an Extension must be functions of (outputs, batch), with names of letters, digits and "
                    f"underscores other than {', '.join(OWN_TERMS)}; got {shown(name)}: {shown(term)}."
                )
        calls = self.after_step
        if not isinstance(calls, list | tuple) or not all(callable(call) for call in calls):
            raise AtrousError(
                f"after_step of an Extension must be a list of functions of the progress, got {shown(calls)}."
            )
        if self.disturb is not None and not callable(self.disturb):
            raise AtrousError(
                f"disturb of an Extension must be a function of (images, targets), got {shown(self.disturb)}."
            )
        kept = [name for name, term in self.terms.items() if isinstance(term, Stateful)]
        if taken := sorted(OF_RECIPE.keys() & set(kept)):
            raise AtrousError(
                f"a term of an Extension has the name '{taken[0]}', which atrous uses in checkpoints: rename the term."
            )
        if twice := sorted({*kept, *OF_RECIPE, "disturb"} & self.state.keys()):
            raise AtrousError(
                f"a state of an Extension has the name '{twice[0]}', which a term or atrous uses: rename the state."
            )
        check_names(self.parts())

    def parts(self) -> dict[str, Stateful]:
        """Returns all objects whose state checkpoints contain, by name."""
        of_terms = {name: term for name, term in self.terms.items() if isinstance(term, Stateful)}
        disturb = {"disturb": self.disturb} if isinstance(self.disturb, Stateful) else {}
        return {**of_terms, **disturb, **self.state}
