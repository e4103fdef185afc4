"""What a technique promises without saying so: what trains is saved, what is given stays as it was.

Each check raises an ``AssertionError`` that names the edit, the attribute or the row, and the mend.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from pcs_core.backbone import Attachment, tokenise
from pcs_core.data import (
    Box,
    Concept,
    Conditioning,
    Features,
    Fusion,
    HeadEdit,
    Layout,
    Phase,
    StreamEdit,
    Subject,
    TokenEdit,
    Use,
)
from pcs_core.data.words import meet
from pcs_core.errors import PcsError, PluginError
from pcs_core.merge import merge_fusions
from pcs_engine import fit, sample
from pcs_engine.prepare import extract, references, subject_masks
from pcs_engine.processes import Processes, given
from pcs_engine.restoring import restore
from pcs_engine.run import EngineRun
from pcs_testing.case import Case
from pcs_testing.edit_tensors import edits_of, everything_is_registered, nothing_is_hidden
from pcs_testing.fixtures import (
    build,
    evaluate,
    make_picture,
    make_recipe,
    make_subject,
    perturb,
)
from pcs_testing.moments import other_moments_are_left_alone
from pcs_testing.probe import Probe
from pcs_testing.stage_shapes import stages_keep_shapes
from pcs_testing.watchers import FitEnd, StepWatch, glance, prompt_latents

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Loss, Recipe
    from pcs_core.technique import Technique

JOINT = "tiny-sd3"
"""The small backbone whose text and picture share their attention."""
PLAIN = ("a photo of a dog", "")
"""Prompts without the subject's word, as negative prompts are."""
CLOSE = 1e-4
"""Largest difference of an output that sums in another order."""


def state_is_saved(case: Case) -> None:
    """The network at the end of a fit is the one that is put together from the artifact.

    Drawn with another seed than that of the fit, so that nothing hangs on it.
    """
    backbone, end = case.open(), FitEnd()
    uses = [Use(t.id, t) for t in (*case.others(), case.make())]
    # a probe moves whatever does not train
    recipe = make_recipe({u.name: u.technique for u in uses} | {"testing.probe": Probe()})
    watched = replace(
        recipe, uses=(*recipe.uses, Use(end.id, end)), phases=(_phase(case, steps=2),)
    )
    (artifact,) = fit(watched, case.subject(), backbone, seed=3)
    at_the_end = end.taken()
    try:
        run, fusion = restore(replace(artifact, recipe=recipe), backbone, 8)
    except PcsError as error:
        raise AssertionError(
            f"what a fit made cannot be put together again: {error}. Features that `fuse` reads must be "
            "in `Features.keep`"
        ) from error
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        again = glance(net, run.features)
    moved = float((at_the_end - again).abs().max())
    assert moved <= CLOSE, (
        f"the network at the end of the fit and the loaded one differ by {moved:.3g}: something that "
        "changes the output is neither a parameter, nor a persistent buffer, nor a kept feature, nor made "
        "again from the settings and `run.init_rng`"
    )


def _phase(case: Case, steps: int = 1, **changes: Any) -> Phase:
    return Phase("p", steps, batch=case.roles, lr={"*": 1e-2}, **changes)


def starts_at_the_base(case: Case) -> None:
    """Before training, the network says what the base says, unless the class says why not."""
    if case.technique.starts_away:
        return
    backbone = case.open()
    fusion = case.fusion()
    plain, seen = evaluate(backbone), evaluate(backbone, fusion, features=case.features)
    moved = float((plain - seen).abs().max())
    assert moved <= 1e-5, (
        f"before any training the output is {moved:.3g} away from the base's: start at no effect (a zero "
        "matrix behind a random one), or say why not in `starts_away`"
    )


@contextmanager
def _global_generators(seed: int) -> Iterator[None]:
    """Seed the generators that a process shares, and refuse that any of them is drawn from."""
    numpy = sys.modules.get("numpy")
    torch.manual_seed(seed)
    random.seed(seed)
    if numpy is not None:
        numpy.random.seed(seed)
    before = _states()
    yield
    drawn = [name for name, state in _states().items() if state != before[name]]
    assert not drawn, (
        f"it draws from the global generator of {' and '.join(drawn)}: draw from `run.init_rng`, "
        "`run.subject_rng` or `step.rng`, or make modules under `run.seeded`"
    )


def _states() -> dict[str, Any]:
    numpy = sys.modules.get("numpy")
    states: dict[str, Any] = {
        "torch": torch.get_rng_state().tolist(),
        "Python's random": random.getstate(),
    }
    if numpy is not None:
        kind, keys, *rest = numpy.random.get_state()
        states["numpy"] = (kind, keys.tolist(), *rest)
    return states


def no_global_randomness(case: Case) -> None:
    """Nothing is drawn from a generator that all share, and nothing depends on one."""
    backbone = case.open()
    recipe = make_recipe(
        [*case.others(), case.make(), Probe()],
        _phase(case, steps=1),
    )
    tensors, pictures = [], []
    for seed in (1, 2):
        with _global_generators(seed):
            (artifact,) = fit(recipe, case.subject(), backbone)
            pictures.append(sample(artifact, backbone, case.prompt(), steps=1, seed=4))
        tensors.append(artifact.tensors)
    assert set(tensors[0]) == set(tensors[1])
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name]), (
            f"{name} differs between two fits of one seed: something is drawn elsewhere than from "
            "`run.init_rng`, `run.subject_rng` or `run.seeded`"
        )
    assert torch.equal(*pictures), "two drawings of one seed differ"


def losses_are_per_row(case: Case) -> None:
    """Each loss has a value per row of the batch, and what trains can learn from it.

    Two rows of each role: of one row, a mean over the batch has the shape of a value per row.
    """
    watch = StepWatch()
    phase = replace(_phase(case), batch={role: 2 * count for role, count in case.roles.items()})
    recipe = make_recipe([watch, *case.others(), case.make(), Probe()], phase)
    fit(recipe, case.subject(), case.open())
    for loss in watch.losses:
        if loss.weight and loss.name != "core.denoise":
            assert loss.value.requires_grad, (
                f"the loss {loss.name!r} has no gradient: what it is made of was detached, or computed "
                "under no_grad or with `.item()`; nothing learns from it"
            )
    _no_mean_in_each_row(case, phase, watch.losses)


def _no_mean_in_each_row(case: Case, phase: Phase, together: Sequence[Loss]) -> None:
    """Refuse a mean over the batch that was expanded to its rows: alone, a row would have another value.

    A value that all rows have for another reason, as the norm of a parameter, is the same in a row alone.
    """
    alike = {loss.name: _of_rows(loss) for loss in together if loss.name != "core.denoise"}
    alike = {name: v for name, v in alike.items() if len(v) > 1 and float(v.max() - v.min()) == 0}
    if not alike:
        return
    uses = [_sharing(technique) for technique in (*case.others(), case.make(), Probe())]
    for index in range(2):
        watch: Any = _sharing(StepWatch())
        with given(_Apart(index, 2)):
            fit(make_recipe([watch, *uses], phase), case.subject(), case.open())
        for loss in watch.losses:
            if loss.name not in alike or not len(rows := _of_rows(loss)):
                continue
            whole, alone = float(alike[loss.name][0]), float(rows[0])
            assert abs(whole - alone) <= 1e-5 * max(abs(whole), abs(alone)), (
                f"the loss {loss.name!r} is {whole:.4g} in every row of a batch, and {alone:.4g} where half of "
                "the rows stand alone: it is a mean over the batch, expanded. Give each row its own value, "
                "`.flatten(1).mean(1)`: rows have weights, and the mean over them is taken after that"
            )


def _of_rows(loss: Loss) -> Tensor:
    value = loss.value.detach()
    return value if loss.rows is None else value[loss.rows]


def _sharing(technique: Technique) -> Technique:
    """Return the technique as one that says `rowwise`: processes may share out its rows for a look."""
    kind = type(technique)
    if kind.rowwise:
        return technique
    names = {"rowwise": True, "__doc__": kind.__doc__, "__module__": kind.__module__}
    made: Any = type(kind.__name__, (kind,), names)
    shared: Technique = made.from_settings(technique.settings())
    return shared


class _Apart(Processes):
    """One of several processes that hears nothing of the others: its gradients are its own rows' alone."""

    def share_gradients(self, phase: Phase, params: Iterable[torch.nn.Parameter]) -> None:
        """Nothing."""

    def agree(self, facts: Mapping[str, object]) -> None:
        """Nothing."""

    def equalise(self, tensors: Iterable[Tensor]) -> None:
        """Nothing."""


def rows_share_out(case: Case) -> None:
    """Where the class says `rowwise`, processes that share out the rows have the gradient of one process."""
    if not case.technique.rowwise:
        return
    roles = {role: 2 * count for role, count in case.roles.items()}
    phase = Phase("p", 1, batch=roles, lr={"*": 1.0}, optimizer="sgd")
    recipe = make_recipe([*case.others(), case.make(), Probe()], phase)
    subject, tensors = _masked(case.subject()), []
    for processes in (Processes(), _Apart(0, 2), _Apart(1, 2)):
        with given(processes):
            (artifact,) = fit(recipe, subject, case.open())
        tensors.append(artifact.tensors)
    for name, whole in tensors[0].items():
        first, second = tensors[1][name], tensors[2][name]
        # one step of SGD is linear in the gradient
        moved = float(((first + second) / 2 - whole).abs().max())
        assert moved <= 1e-5 * max(1.0, float(whole.abs().max())), (
            f"{name} differs by {moved:.3g} where two processes share out the rows: a row depends on the "
            "other rows, or a loss speaks about some rows of a role only; leave `rowwise` out"
        )


def joint_sites_are_met(case: Case) -> None:
    """Where text and picture share their attention (SD 3), it acts too, or says by name that it cannot."""
    if case.backbone != "tiny":
        return
    here = edits_of(case, case.fusion())
    there = Case(case.technique, case.settings, JOINT, case.roles, beside=case.beside)
    try:
        fusion = there.fusion()
        with torch.no_grad(), Attachment(there.open(), fusion) as net:
            there.look(net, [there.prompt()])
    except PluginError:
        raise
    except PcsError:
        return
    assert not here or edits_of(there, fusion), (
        f"it plugs {len(here)} edits into a U-Net and none into SD 3, whose text and picture share their "
        "attention (sites of kind 'joint'), without a word: ask for sites by a role that every family has "
        '("attention.*.k"), or by a kind that is refused where there is none ("cross")'
    )


def has_an_effect(case: Case) -> None:
    """With the settings of the test, something is different for the technique being there.

    Tried on a subject of one concept, then on one of two.
    """
    if case.technique.tiny_unseen:
        return
    for subject in (_masked(case.subject()), two_concepts(case)):
        without, with_it = (_traces(case, subject, there=there) for there in (False, True))
        if any(not _same(without[key], with_it[key]) for key in without):
            return
    raise AssertionError(
        "it has no effect with the settings of the test: the same tensors, losses, batches, outputs and "
        "pictures with and without it; give `tiny` (or the Case) settings under which it acts, or say in "
        "`tiny_unseen` why none of this shows it"
    )


def _traces(case: Case, subject: Subject, *, there: bool) -> dict[str, Any]:
    """Return what a short fit and a drawing leave to compare, with the technique or without it."""
    backbone, watch = case.open(), StepWatch()
    uses = [*case.others(), *([case.make()] if there else [])]
    phase = replace(_phase(case), batch=case.roles if there else {"subject": 1})
    recipe = make_recipe([watch, *uses, Probe()], phase)
    box = Box("beach", (0.0, 0.0, 0.5, 0.5), "a red toy")
    layout = Layout((box,)) if there and case.technique.reads_layout else None
    if there and case.technique.reads_picture:
        drawn = torch.rand(3, *backbone.card.size, generator=torch.Generator().manual_seed(3))
        layout = Layout(() if layout is None else (box,), picture=drawn)
    (artifact,) = fit(recipe, subject, backbone)
    run = EngineRun(recipe, backbone, names=[subject.name], concepts=[subject.concepts])
    run.features, per_subject = extract(run, [subject])
    fusion = merge_fusions(run.call("fuse", features=run.features))
    perturb(fusion)
    prompt = f"a photo of {subject.concept.token} on the beach"
    picture = sample(artifact, backbone, prompt, steps=4, scale=3.0, layout=layout)
    return {
        "tensors": sorted(artifact.tensors),
        "trained": artifact.tensors,
        "features": sorted(run.features.tensors),
        "examples": [
            (e.role, e.captions, e.weight, sorted(e.regions)) for e in per_subject[0].examples
        ],
        "losses": sorted(loss.name for loss in watch.losses),
        "rows": watch.rows,
        "dropout": sorted(fusion.dropout.items()),
        "output": evaluate(backbone, fusion, (*PLAIN, prompt), features=run.features),
        "picture": picture,
    }


def _masked(subject: Subject) -> Subject:
    left = torch.zeros(1, *subject.images[0].shape[-2:])
    left[..., : left.shape[-1] // 2] = 1.0
    return replace(subject, masks={c.name: (left,) * len(subject.images) for c in subject.concepts})


def two_concepts(case: Case) -> Subject:
    """Return a subject of two concepts: a picture of each, and one where both are, with masks."""
    size = case.open().card.size
    left = torch.zeros(1, *size)
    left[..., : size[1] // 2] = 1.0
    return Subject(
        name="pair",
        concepts=(Concept("fido", "<fido>", "dog"), Concept("tom", "<tom>", "cat")),
        images=tuple(make_picture(i, size) for i in range(3)),
        captions=("a photo of <fido>", "a photo of <tom>", "a photo of <fido> and <tom>"),
        masks={"fido": (left, None, left), "tom": (None, left, 1 - left)},
        files=("one.png", "two.png", "both.png"),
    )


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.shape == second.shape and torch.equal(first, second)
    if isinstance(first, Mapping):
        shared = set(first) & set(second)
        return all(_same(first[key], second[key]) for key in shared)
    return bool(first == second)


def what_is_given_stays(case: Case) -> None:
    """Hooks and edits change nothing that they are given: subject, settings, step, conditioning, latents."""
    backbone, watch, subject = case.open(), StepWatch(), case.subject()
    before = [image.clone() for image in subject.images]
    recipe = make_recipe([*case.others(), case.make(), watch, Probe()], _phase(case))
    fit(recipe, subject, backbone)
    for index, (image, copy) in enumerate(zip(subject.images, before, strict=True)):
        assert torch.equal(image, copy), (
            f"picture {index} of the subject was changed in place: clone it"
        )
    assert not watch.changed, (
        f"`regularize` changed {', '.join(watch.changed)} of its step in place: others read it after"
    )
    fusion, features = _left_alone(case, recipe, subject)
    perturb(fusion)
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        latents = prompt_latents(backbone, 2)
        shown = latents.clone()
        cond, level = _encoded(net, [case.prompt(), PLAIN[0]], features)
        copies = [t.clone() for t in pytree.tree_leaves(cond)]
        keys = pytree.tree_flatten(cond)[1]
        net.evaluate(latents, level, cond)
    assert torch.equal(latents, shown), "an edit changed the latents in place: clone them"
    assert pytree.tree_flatten(cond)[1] == keys, "an edit put or removed something in `cond`"
    for tensor, copy in zip(pytree.tree_leaves(cond), copies, strict=True):
        assert torch.equal(tensor, copy), (
            "an edit changed a tensor of `cond` in place: every edit and every step reads the same one; "
            "compute a new one"
        )


def _left_alone(case: Case, recipe: Recipe, subject: Subject) -> tuple[Fusion, Features]:
    """Return fusion and features, made by hooks that must leave the run as it was."""
    run = EngineRun(recipe, case.open(), names=[subject.name], concepts=[subject.concepts])
    attributes = ("seed", "start_seed", "names", "layout", "strengths", "recipe", "backbone")
    before = {name: _copied(getattr(run, name)) for name in attributes}
    run.features, _ = extract(run, [subject])
    tensors = dict(run.features.tensors)
    copies = {key: value.clone() for key, value in tensors.items()}
    fusion = merge_fusions(run.call("fuse", features=run.features))
    changed = [name for name, value in before.items() if getattr(run, name) != value]
    assert not changed, f"a hook set run.{' and run.'.join(changed)}: a run is read, not changed"
    for key, copy in copies.items():
        assert torch.equal(tensors[key], copy), (
            f"`fuse` changed the feature {key!r} in place: clone it"
        )
    return fusion, run.features


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def _encoded(net: Attachment, prompts: list[str], features: Features) -> tuple[Conditioning, Any]:
    backbone = net.backbone
    index = torch.zeros(len(prompts), dtype=torch.long)
    level = backbone.process.level(torch.full((len(prompts),), 400))
    tokens = tokenise(
        prompts,
        backbone.tokenizer,
        words=net.fusion.words,
        tokens=net.fusion.of(TokenEdit),
        concepts=[[c.token for c in concepts] for concepts in features.concepts],
    )
    cond = net.encode_text(
        tokens,
        index,
        time=backbone.process.fraction(level),
        streams=net.streams(net.read_features(features.tensors, index)),
        extra=net.strengths(len(prompts)),
    )
    return cond, level


def rows_are_apart(case: Case) -> None:
    """What a row says does not depend on the other rows of its batch, of which negatives are some."""
    backbone = case.open()
    recipe = make_recipe([*case.others(), case.make()])
    fusion, features = build(recipe, [case.subject()], backbone)
    perturb(fusion)
    latents = prompt_latents(backbone, 2)
    prompts = [case.prompt(), ""]
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        cond, level = _encoded(net, prompts, features)
        together = net.evaluate(latents, level, cond).output
        for row in range(2):
            single, its_level = _encoded(net, [prompts[row]], features)
            alone = net.evaluate(latents[row : row + 1], its_level, single).output
            moved = float((alone - together[row : row + 1]).abs().max())
            assert moved <= CLOSE * max(1.0, float(alone.abs().max())), (
                f"the row of prompt {prompts[row]!r} differs by {moved:.3g} when another row stands beside "
                "it: work along the batch dimension, and pick what is a row's own by `cond`"
            )


def other_texts_stay(case: Case) -> None:
    """A prompt that does not name the subject, as a negative one, reads as the base reads it."""
    backbone, fusion = case.open(), case.fusion()
    others = [edit for edit in fusion.edits if not isinstance(edit, TokenEdit)]
    if len(others) == len(fusion.edits) or any(edit.touches_text() for edit in others):
        return
    perturb(fusion)
    texts = []
    for shown in (Fusion(), fusion):
        with torch.no_grad(), Attachment(backbone, shown) as net:
            cond, _ = _encoded(net, list(PLAIN), case.features)
            text = cond.text if cond.layered is None else cond.layered.flatten(1, 2)
            pooled = cond.pooled if cond.pooled is not None else cond.text
            texts.append((cond.text, text, pooled))
    (base, _, base_pooled), (text, layered, pooled) = texts
    times = layered.shape[1] // text.shape[1]
    for seen, right in ((layered, base.repeat(1, times, 1)), (pooled, base_pooled)):
        moved = float((seen - right).abs().max())
        assert moved <= CLOSE, (
            f"a text without the token, as a negative prompt, is changed by {moved:.3g}: a span of -1 "
            "means that the token is absent, and not the last position"
        )


def later_windows_are_read(case: Case) -> None:
    """A prompt that stands in the second window of a longer text means there what it means alone."""
    backbone = case.open()
    if not getattr(backbone.tokenizer, "windows", False):
        return
    recipe = make_recipe([*case.others(), case.make()])
    fusion, features = build(recipe, [case.subject()], backbone)
    perturb(fusion)
    length: int = backbone.tokenizer.length
    filled = "a " * (length - 2)
    latents = prompt_latents(backbone, 2)
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        alone, _ = _encoded(net, [case.prompt(), ""], features)
        longer, level = _encoded(net, [filled + case.prompt(), ""], features)
        said = net.evaluate(latents, level, longer).output
    pairs = [(alone.text, longer.text[:, length:])]
    if alone.layered is not None and longer.layered is not None:
        pairs.append((alone.layered, longer.layered[:, :, length:]))
    for short, second in pairs:
        moved = float((short[0] - second[0]).abs().max())
        assert moved <= CLOSE, (
            f"the second window of a longer text says other things than its words alone (by {moved:.3g}): "
            "take positions from the spans, and lengths from the text"
        )
    for name, span in alone.spans.items():
        moved_span = torch.where(span[:1] < 0, -1, span[:1] + length)
        assert torch.equal(longer.spans[name][:1], moved_span), f"{name} is lost in a longer text"
    assert bool(said.isfinite().all()), "the network says NaN of a longer text"


def pictures_of_any_size(case: Case) -> None:
    """Masks, features and examples are made of pictures of any size and number."""
    backbone = case.open()
    if len(backbone.latent_shape) == 4:
        return
    high, wide = make_picture(0, (48, 32)), make_picture(1, (32, 56))
    first = replace(case.subject(), images=(high, wide))
    build(make_recipe([*case.others(), case.make()]), [first], backbone)
    if not case.technique.stacks_subjects:
        return
    three = make_subject("other", token="<other>", noun="cat", images=3, seed=1)
    try:
        build(make_recipe([*case.others(), case.make()]), [first, three], backbone)
    except PcsError as error:
        if "features" in str(error):
            raise AssertionError(
                f"subjects of 2 and of 3 pictures do not stack: {error}. Give each feature the same shape "
                "for every subject, or set stacks_subjects = False"
            ) from error
        raise


def subjects_leave_no_trace(case: Case) -> None:
    """A fit is the same after a fit of another subject: nothing is kept in the class or its module."""
    backbone = case.open()
    recipe = make_recipe([*case.others(), case.make(), Probe()], _phase(case))
    (first,) = fit(recipe, case.subject(), backbone)
    fit(recipe, make_subject("other", token="<other>", noun="cat", seed=1), backbone)
    (again,) = fit(recipe, case.subject(), backbone)
    for kind in ("tensors", "features"):
        for name, tensor in getattr(first, kind).items():
            assert torch.equal(tensor, getattr(again, kind)[name]), (
                f"{name} differs after a fit of another subject: a hook keeps something between runs; use "
                "`run.cached`, `run.scratch` or the features"
            )


def constants_follow_the_device(case: Case) -> None:
    """A tensor that an edit makes while it runs is made on the device of what it meets."""
    backbone, fusion = case.open(), case.fusion()
    perturb(fusion)
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        cond, level = _encoded(net, [case.prompt()], case.features)
        latents = prompt_latents(backbone, 1)
        try:
            with torch.device("meta"):  # whatever is made without a device lands elsewhere
                net.evaluate(latents, level, cond)
        except (RuntimeError, NotImplementedError, PcsError) as error:
            text = str(error)
            assert "meta" not in text.lower(), (
                f"an edit makes a tensor without saying on which device ({text}): write "
                "`device=x.device`, or `x.new_zeros(...)`"
            )
            raise


def works_in_half_precision(case: Case) -> None:
    """Under autocast to bfloat16 the network runs through, and answers in the type the base answers in."""
    backbone, fusion = case.open(), case.fusion()
    perturb(fusion)
    types = []
    for shown in (Fusion(), fusion):
        with torch.no_grad(), Attachment(backbone, shown) as net:
            latents = prompt_latents(backbone, 1)
            try:
                with torch.autocast(backbone.device.type, torch.bfloat16):
                    cond, level = _encoded(net, [case.prompt()], case.features)
                    output = net.evaluate(latents, level, cond).output
            except RuntimeError as error:
                raise AssertionError(
                    f"in half precision the network stops ({' '.join(str(error).split())}): what an edit "
                    "returns must have the type of what it got, `y.to(x.dtype)`"
                ) from error
        types.append(output.dtype)
        assert torch.isfinite(output).all(), "the output is not finite in half precision"
    assert types[0] == types[1], (
        f"in half precision the output is {types[1]}, the base's {types[0]}"
    )


class _Noticed(dict[str, Any]):
    """A mapping that keeps which keys were asked for."""

    def __init__(self, values: Mapping[str, Any], asked: set[str]) -> None:
        super().__init__(values)
        self.asked = asked

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, noticed too."""
        self.asked.add(key)
        return super().get(key, default)


def words_are_declared(case: Case) -> None:
    """What it gives under a name, and what it reads by name, stands in its `reads` and `writes`."""
    technique, subject = case.make(), _masked(case.subject())
    recipe = make_recipe([*case.others(), technique])
    run = EngineRun(recipe, case.open(), names=[subject.name], concepts=[subject.concepts])
    run.features, _ = extract(run, [subject])
    asked: set[str] = set()
    given = _given_by_extract(run, technique, subject)
    noticed = replace(run.features, tensors=_Noticed(run.features.tensors, asked))
    run.features = noticed
    for _, fusion in run.call_at("fuse", lambda one, _: one is technique, features=noticed):
        given |= {f"stream:{e.name}" for e in fusion.of(StreamEdit)} | {
            f"row:{r.role}" for r in fusion.rows
        }
        given |= {f"head:{e.name}" for e in fusion.of(HeadEdit)}
        given |= {f"strength:{name}" for name in fusion.strengths}
        asked |= {name for e in fusion.of(StreamEdit) for name in e.reads}
    words = technique.words()
    unsaid = [w for w in sorted(given) if not any(meet(w, written) for written in words.writes)]
    assert not unsaid, (
        f"it gives {', '.join(unsaid)} without saying so: add it to `writes`, or return it from `words()`"
    )
    known = (*words.reads, *words.may_read, *words.writes)
    unread = [key for key in sorted(asked) if not any(meet(f"feature:{key}", w) for w in known)]
    assert not unread, (
        f"it reads the feature {', '.join(map(repr, unread))} without saying so: add 'feature:<name>' to "
        "`reads` (a recipe that lacks it is then refused when it loads)"
    )


def _given_by_extract(run: EngineRun, technique: Technique, subject: Subject) -> set[str]:
    base = references(subject, 0, run.image_size, subject_masks(run, subject), run.frames)
    before, run.features = run.features, replace(run.features, examples=base)
    masks = subject_masks(run, subject)
    given: set[str] = set()
    for _, features in run.call_at(
        "extract",
        lambda one, _: one is technique,
        subject=subject,
        masks=masks,
        moment="start",
    ):
        given |= {f"feature:{key}" for key in features.tensors}
        given |= {f"role:{example.role}" for example in features.examples}
    run.features = before
    return given


PROMISES = (
    everything_is_registered,
    nothing_is_hidden,
    state_is_saved,
    starts_at_the_base,
    no_global_randomness,
    losses_are_per_row,
    rows_share_out,
    joint_sites_are_met,
    has_an_effect,
    what_is_given_stays,
    rows_are_apart,
    other_texts_stay,
    later_windows_are_read,
    pictures_of_any_size,
    subjects_leave_no_trace,
    other_moments_are_left_alone,
    constants_follow_the_device,
    works_in_half_precision,
    stages_keep_shapes,
    words_are_declared,
)
