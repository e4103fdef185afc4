"""A step computes what it must and nothing else: operations are counted inside the loop, and not timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pcs_core.assembly import load_recipe
from pcs_core.backbone import Attachment, Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Phase, Recipe
from pcs_engine import Progress, fit
from pcs_engine import progress as progress_module
from pcs_testing import build_fusion, evaluate_attached, make_recipe, make_subject

CROSS = ("attn2.to_k", "attn2.to_v")
EVERY, STEPS = 2, 4


def lora(**settings: Any) -> Recipe:
    technique = catalogue().get("techniques", "weights.lora").from_settings({"rank": 1, **settings})
    return make_recipe([technique], Phase("p", STEPS, lr={"*": 1e-3}, clip=1.0, ema=0.9))


def released(system: str, *only: str) -> Recipe:
    recipe = load_recipe(system)
    phases = tuple(replace(p, steps=STEPS, batch={"subject": 1}) for p in recipe.phases)
    uses = tuple(use for use in recipe.uses if use.name in only)
    losses = tuple(replace(p, losses=("core.denoise",)) for p in phases)
    return replace(recipe, uses=uses, phases=losses)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "adapters": lora,
    "words": lambda: released("textual-inversion", "tokens.learnable"),
    "full": lambda: released("dreambooth", "tokens.rare", "weights.full"),
}


def between_reports(
    recipe: Recipe, backbone: Backbone, count: Callable[[], int], *, subjects: int = 1
) -> int:
    """Return what ``count`` rose by between the first report of a fit and the second."""
    seen: list[int] = []

    def watch(_: Progress) -> None:
        seen.append(count())

    group = [make_subject(n, token=f"<{n}>", seed=i) for i, n in enumerate("abc"[:subjects])]
    fit(recipe, group, backbone, watch=[watch])
    assert len(seen) == STEPS // EVERY
    return seen[1] - seen[0]


@pytest.fixture(autouse=True)
def reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "REPORT_EVERY", EVERY)


@contextmanager
def patched(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, put: Any) -> Iterator[None]:
    with monkeypatch.context() as here:
        here.setattr(owner, name, put)
        yield


def layers(backbone: Backbone, part: str) -> dict[nn.Module, str]:
    return {m: name for name, m in backbone.parts[part].named_modules()}


# the least that a step can take, from shapes alone


def own_work(layer: nn.Module, answer: Tensor) -> int:
    """Return the FLOP of one call of a layer, or 0 where it has no product."""
    if isinstance(layer, nn.Linear):
        return 2 * answer.numel() * layer.in_features
    if isinstance(layer, nn.Conv2d):
        inputs = layer.in_channels // layer.groups
        return 2 * answer.numel() * inputs * layer.kernel_size[0] * layer.kernel_size[1]
    return 0


def attention_work(query: Tensor, key: Tensor) -> int:
    """Return the FLOP of both products of attention over [b h n d] and [b h m d]."""
    b, h, n, d = query.shape
    return 4 * b * h * n * key.shape[2] * d


def least(recipe: Recipe, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the FLOP of one row's step: each product once, and one for each gradient that somebody needs.

    The text counts where it trains, and keys and values of a text only where it or their layers do.
    """
    subject = make_subject("a", token="<a>")
    fusion = build_fusion(recipe, [subject], backbone)
    text_trains = any(edit.touches_text() for edit in fusion.edits)
    parts = ("denoiser", "text") if text_trains else ("denoiser",)
    total = 0

    def note(layer: nn.Module, inputs: Any, answer: Any) -> None:
        nonlocal total
        work = own_work(layer, answer)
        trains = layer.weight.requires_grad
        constant = not (text_trains or trains) and names[layer].endswith(CROSS)
        if not constant:
            total += work * (1 + bool(inputs[0].requires_grad) + bool(trains))

    def attend(query: Tensor, key: Tensor, value: Tensor, *more: Any, **options: Any) -> Tensor:
        nonlocal total
        needed = [t.requires_grad for t in (query, key, value)]
        # of the maps and of the values; of the queries; of the keys
        backward = any(needed) + needed[2] + needed[0] + needed[1]
        total += attention_work(query, key) * (2 + backward) // 2
        return attention(query, key, value, *more, **options)

    attention = nn.functional.scaled_dot_product_attention
    names = {m: n for part in parts for m, n in layers(backbone, part).items()}
    hooks = [m.register_forward_hook(note) for m in names if isinstance(m, nn.Linear | nn.Conv2d)]
    with (
        Attachment(backbone, fusion, fitting=True) as net,
        patched(monkeypatch, nn.functional, "scaled_dot_product_attention", attend),
    ):
        evaluate_attached(net, ["a photo of <a> dog"])
    for hook in hooks:
        hook.remove()
    return total + sum(low_rank(edit, backbone) for edit in fusion.edits)


def low_rank(edit: Any, backbone: Backbone) -> int:
    """Return the FLOP of a low-rank update of one layer: x A, then B, with their gradients; else 0."""
    if not hasattr(edit, "A"):
        return 0
    cross = edit.site.name.endswith(CROSS)
    side = backbone.latent_shape[-1] // edit.site.scale
    tokens = backbone.tokenizer.length if cross else side * side
    first, second = (2 * tokens * factor.numel() for factor in (edit.A, edit.B))
    return (
        first * (2 if cross else 3) + second * 3
    )  # nobody asks for the gradient of a constant text


@pytest.mark.parametrize("kind", RECIPES)
def test_flops_of_a_step_are_the_least(
    backbone: Backbone, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES[kind]()
    floor = least(recipe, backbone, monkeypatch)
    counter = FlopCounterMode(display=False)

    class Whole:  # the tracker of modules sets hooks of its own
        parents = ("Global",)

        def __enter__(self) -> Whole:
            return self

        def __exit__(self, *_: object) -> None:
            return None

    counter.mod_tracker = Whole()  # type: ignore[assignment]
    with counter, sdpa_kernel(SDPBackend.MATH):  # the fused kernels of a CPU are not counted
        steps = between_reports(recipe, backbone, lambda: int(counter.get_total_flops()))
    assert steps / EVERY == pytest.approx(floor, rel=0.02)


def test_constant_texts_are_projected_before_the_loop(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    names, linear = layers(backbone, "denoiser"), nn.Linear.forward

    def counted(layer: nn.Linear, x: Tensor) -> Tensor:
        if names.get(layer, "").endswith(CROSS):
            calls.append(names[layer])
        return linear(layer, x)

    def count(recipe: Recipe) -> int:
        with patched(monkeypatch, nn.Linear, "forward", counted):
            return between_reports(recipe, backbone, lambda: len(calls), subjects=2)

    assert count(lora()) == 0
    assert len(calls) == len([n for n in names.values() if n.endswith(CROSS)])
    # what trains the text, or what makes keys of it, reads it anew in every step
    assert count(released("textual-inversion", "tokens.learnable")) == EVERY * 2 * len(
        [s for s in backbone.sites if s.kind == "cross" and s.part == "denoiser"]
    )


def test_what_is_looked_up_is_what_the_layers_make(backbone: Backbone) -> None:
    group = [make_subject(n, token=f"<{n}>", seed=i) for i, n in enumerate("ab")]
    from pcs_core.backbone import known_texts

    ours = fit(lora(), group, backbone)
    with pytest.MonkeyPatch.context() as here:
        here.setattr(known_texts, "BYTES", 0)
        plain = fit(lora(), group, backbone)
    for one, other in zip(ours, plain, strict=True):
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(tensor, other.tensors[name], rtol=1e-5, atol=1e-6)


class Tables(TorchDispatchMode):
    """Counts results as large as the token table: a copy, a gradient or a step of it as a whole."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.shape, self.count = table.shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        large = [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.shape == self.shape]
        self.count += bool(large) and not str(func).startswith(("aten.detach", "aten.alias"))
        return result


def test_a_word_is_learned_without_the_table(backbone: Backbone) -> None:
    table: Any = backbone.embedding.weight
    before, tables = table._version, Tables(table)
    with tables:
        risen = between_reports(RECIPES["words"](), backbone, lambda: tables.count)
    assert (risen, table._version, table.grad, table.requires_grad) == (0, before, None, False)
    with tables:
        table.detach() * 2
    assert tables.count  # it does count


DEVICE = torch.device("cpu:0")
"""Another name of the CPU, which stands in for a device beside it."""
WAITS = frozenset(
    "item tolist cpu numpy nonzero argwhere unique unique_consecutive masked_select equal allclose "
    "is_nonzero bincount __bool__ __int__ __float__ __index__".split()
)


class Waits(TorchFunctionMode):
    """Counts calls for which the host would have to wait, were the tensors of :data:`DEVICE` beside the CPU.

    What was made on it, moved to it or computed from that is known by its storage.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.count, self.calls = 0, list[str]()
        self.known: dict[int, Any] = {}
        for module in backbone.parts.values():
            for tensor in (*module.parameters(), *module.buffers()):
                self.note(tensor)

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.known[storage._cdata] = storage

    def knows(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata in self.known

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given: Mapping[str, Any] = kwargs or {}
        leaves = tree_leaves((args, given))
        ours = any(self.knows(leaf) for leaf in leaves)
        name = getattr(func, "__name__", "")
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return DEVICE if ours else torch.device("cpu")
        result = func(*args, **given)
        mask = name == "__getitem__" and any(
            isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in leaves[1:]
        )
        back = name == "to" and torch.device("cpu") in [
            d for d in leaves if isinstance(d, torch.device)
        ]
        if ours and (name in WAITS or mask or back or (name == "to" and "cpu" in leaves)):
            self.count += 1
            self.calls.append(name)
        elif ours or DEVICE in [d for d in leaves if isinstance(d, torch.device)]:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.note(leaf)
        return result


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_device(
    backbone: Backbone, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = catalogue()
    token = known.get("techniques", "tokens.learnable").from_settings({})
    update = known.get("techniques", "weights.lora").from_settings({"rank": 2})
    phase = Phase("p", STEPS, lr={"*": 1e-3}, clip=1.0, ema=0.9, accumulate=2, warmup=2)
    monkeypatch.setattr(backbone, "device", DEVICE)
    waits = Waits(backbone)
    seen: list[int] = []

    def watch(_: Progress) -> None:
        seen.append(waits.count)

    group = [make_subject(n, token=f"<{n}>", seed=i) for i, n in enumerate("ab")]
    with waits:
        fit(
            make_recipe([token, update], phase), group, backbone, precision=precision, watch=[watch]
        )
    # the report's own: all numbers of all subjects in one reading
    assert seen[1] - seen[0] == 1, waits.calls


def test_the_counter_of_waits_counts(backbone: Backbone) -> None:
    waits = Waits(backbone)
    with waits:
        made = torch.arange(4, device=DEVICE)
        moved = torch.ones(4).to(DEVICE) * 2
        (made + moved).sum().item()
        made.unique()
        moved[made > 1]
        moved.to("cpu")
        torch.zeros(4, device=moved.device).tolist()
        torch.ones(4).sum().item()  # on the host
    assert waits.calls == ["item", "unique", "__getitem__", "to", "tolist"]
