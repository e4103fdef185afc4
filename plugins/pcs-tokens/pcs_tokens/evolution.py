"""CMA-ES as an optimizer (arXiv:1604.00772): candidates are drawn, their losses compared, no gradient is taken.

The evolution is the library `cma`. Gradient-free textual inversion (arXiv:2304.05818) finds words with it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

WORST = 1e30
"""What stands for a loss that is not finite."""


class Evolution(torch.optim.Optimizer):
    """Draw candidates around a mean, and move mean and covariance to the better half of them.

    ``lr`` of a group is the standard deviation of its elements in the first generation; the evolution adapts
    it from there, so that a schedule changes nothing. The mean begins at what the parameters are. A generation
    of N numbers has 4 + floor(3 ln N) candidates, 20 for 256 numbers, and leaves the best of them.
    ``weight_decay`` is refused: nothing pulls a candidate anywhere but its loss.

    The state is the losses of all candidates so far, from which the evolution is made again.

    Raises
    ------
    ValueError
        The deviation is not positive, or there is a weight decay.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1.0, *, weight_decay: float = 0.0
    ) -> None:
        if weight_decay:
            raise ValueError("cma-es takes no weight_decay: leave it out of the phase")
        super().__init__(params, {"lr": lr})
        for group in self.param_groups:
            group.setdefault("initial_lr", group["lr"])
            if group["initial_lr"] <= 0:
                raise ValueError(f"lr must be positive, got {group['initial_lr']}")
        self._evolutions: list[Any] = []

    @property
    def _first(self) -> torch.nn.Parameter:
        parameter: torch.nn.Parameter = self.param_groups[0]["params"][0]
        return parameter

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Refuse: there is no gradient to follow.

        Raises
        ------
        RuntimeError
            Always.
        """
        raise RuntimeError("cma-es follows no gradient: call search(fitness, seeds)")

    @torch.no_grad()
    def search(self, fitness: Callable[[], Tensor], seeds: Sequence[int]) -> None:
        """Try one generation; ``fitness()`` is the loss [S] of what stands in the parameters."""
        subjects = len(seeds)
        if not self._evolutions:
            self._begin(seeds)
        asked = [evolution.ask() for evolution in self._evolutions]
        losses = []
        for candidates in zip(*asked, strict=True):
            self._put(candidates)
            losses.append(fitness().detach().double().cpu())
        # [S population], of one number for all subjects where they are searched whole
        answers = torch.stack(losses, dim=1).reshape(subjects, -1)
        answers = torch.nan_to_num(answers, nan=WORST, posinf=WORST)
        self._tell(asked, answers)
        state = self.state[self._first]
        before = state.get("losses", answers.new_zeros(0, *answers.shape))
        state["losses"] = torch.cat([before.to(answers), answers[None]])
        best = answers.argmin(dim=1).tolist()
        self._put([asked[s][best[s]] for s in range(subjects)])

    def _begin(self, seeds: Sequence[int]) -> None:
        """Start an evolution for each subject, and take those generations that are in the state again."""
        state = self.state[self._first]
        if "start" not in state:
            state["start"] = torch.tensor(
                np.stack([self._of(s, len(seeds)) for s in range(len(seeds))])
            )
        starts = state["start"].double().cpu().numpy()
        self._evolutions = [
            evolution(start, seed) for start, seed in zip(starts, seeds, strict=True)
        ]
        for answers in state.get("losses", torch.zeros(0)):
            self._tell([one.ask() for one in self._evolutions], answers.double().cpu())

    def _tell(self, asked: Sequence[Sequence[Any]], answers: Tensor) -> None:
        for one, candidates, losses in zip(self._evolutions, asked, answers, strict=True):
            one.tell(candidates, losses.tolist())

    def _slices(self, subject: int, subjects: int) -> Iterable[tuple[Tensor, float]]:
        """Yield what is searched for a subject, and the unit of its numbers."""
        for group in self.param_groups:
            for parameter in group["params"]:
                whole = parameter.data
                yield (whole if subjects == 1 else whole[subject]), group["initial_lr"]

    def _of(self, subject: int, subjects: int) -> Any:
        """Return the numbers [N] of a subject, in units of their first deviation."""
        parts = [(p.double() / unit).flatten() for p, unit in self._slices(subject, subjects)]
        return torch.cat(parts).cpu().numpy()

    def _put(self, candidates: Sequence[Any]) -> None:
        """Write a candidate of each subject into the parameters."""
        for subject, candidate in enumerate(candidates):
            left = torch.from_numpy(np.asarray(candidate, dtype=np.float64))
            for part, unit in self._slices(subject, len(candidates)):
                numbers, left = left[: part.numel()], left[part.numel() :]
                part.copy_((numbers * unit).reshape(part.shape))


def evolution(start: Any, seed: int) -> Any:
    """Return the library's evolution around ``start`` [N] with deviation 1 and random numbers of its own."""
    with warnings.catch_warnings():  # it wants matplotlib, to draw with
        warnings.simplefilter("ignore", UserWarning)
        import cma

    count = len(start)
    options = {
        "popsize": 4 + math.floor(3 * math.log(count)),
        "seed": math.nan,  # numpy's global generator is nobody's
        "randn": np.random.RandomState(seed % 2**32).randn,
        "verbose": -9,
    }
    return cma.CMAEvolutionStrategy(start, 1.0, options)
