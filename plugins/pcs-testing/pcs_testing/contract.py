"""What must hold for every technique. Run it on your own class::

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_contract(check):
        check(Case(MyTechnique, settings={"rank": 2}))

Each check raises an ``AssertionError`` that says what does not hold.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, trainable
from pcs_core.catalogue import catalogue
from pcs_core.data import BranchEdit, Phase, SampleSettings, StreamEdit
from pcs_core.errors import ConflictError, PcsError, RecipeError, distribution_of
from pcs_core.hookspecs import RUN_HOOKS
from pcs_engine import fit, sample
from pcs_testing.case import Case
from pcs_testing.fixtures import (
    Snapshot,
    build_fusion,
    evaluate,
    make_picture,
    make_recipe,
    make_subject,
    perturb,
)
from pcs_testing.probe import Probe
from pcs_testing.promises import PROMISES

if TYPE_CHECKING:
    from pcs_core.technique import Technique

OTHER_TYPES: Mapping[str, tuple[Any, ...]] = {
    "integer": ("7", 7.5, True, []),
    "number": ("7", True, []),
    "boolean": (1, "true", []),
    "string": (7, True, []),
    "array": (7, "k", {}),
    "null": (),
}
"""JSON values that a setting of a JSON type must refuse."""


def settings_round_trip(case: Case) -> None:
    """Settings as data build an equal instance, in JSON too; instances are frozen."""
    first = case.make()
    data = first.settings()
    again = case.technique.from_settings(json.loads(json.dumps(data)))
    assert again.settings() == data
    assert tuple(data) == case.technique.setting_names()
    case.technique.from_settings({})  # every setting has a default
    assert first != again, "two instances must differ: a hook manager refuses an equal second one"
    for name in case.technique.setting_names()[:1]:
        try:
            setattr(first, name, data[name])
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError("an instance can be changed: settings must be frozen")


def unknown_setting_refused(case: Case) -> None:
    """A misspelt setting is refused, with the nearest valid one."""
    names = case.technique.setting_names()
    for name in names:
        message = _refused(case, {name + "x": 1})
        assert f"{name}x" in message
        assert "did you mean" in message
    assert "no_such_thing_at_all" in _refused(case, {"no_such_thing_at_all": 1})


def wrong_types_refused(case: Case) -> None:
    """A value of another JSON type is refused, and the message names the setting."""
    properties = case.technique.schema().get("properties", {})
    for name, schema in properties.items():
        kinds = {s.get("type") for s in schema.get("anyOf", [schema])}
        if None in kinds:  # a reference to another schema
            continue
        accepted = [repr(v) for k in kinds for v in _valid(str(k))]
        for kind in kinds:
            for value in OTHER_TYPES.get(str(kind), ()):
                if repr(value) not in accepted and not _fits(value, kinds):
                    assert repr(name) in _refused(case, {name: value})


def settings_documented(case: Case) -> None:
    """The class, its id and every setting say what they are."""
    cls = case.technique
    assert cls.__doc__, "the class has no docstring"
    group, _, name = cls.id.partition(".")
    assert group, "the id must be 'group.name'"
    assert name, "the id must be 'group.name'"
    missing = [s for s in cls.setting_names() if not cls.setting_help().get(s, "").strip()]
    assert not missing, f"settings without a docstring under them: {', '.join(missing)}"


def hooks_marked(case: Case) -> None:
    """Every method with the name of a hook is an implementation of it."""
    for name in RUN_HOOKS:
        method = getattr(case.technique, name, None)
        if method is not None:
            assert hasattr(method, "pcs.run_impl"), f"{name} lacks @hookimpl"


def detaching_restores(case: Case) -> None:
    """After attach, use and detach, the network is as it was: outputs, keys, order, tensors, flags."""
    backbone = case.open()
    before, plain = Snapshot(backbone), evaluate(backbone)
    fusion = case.fusion()
    before.assert_unchanged()
    perturb(fusion)
    for prompts in (("a photo of a dog", "a red toy on the beach"), (case.prompt(),)):
        with Attachment(backbone, fusion) as net:
            case.look(net, prompts)
        before.assert_unchanged()
    try:
        with Attachment(backbone, fusion):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        before.assert_unchanged()
    assert torch.equal(plain, evaluate(backbone)), "the output changed"


def neutral_changes_nothing(case: Case) -> None:
    """The neutral setting, whatever was trained, or else the start value, gives the base exactly."""
    backbone, neutral = case.open(), case.technique.neutral
    plain = evaluate(backbone)
    fusion = case.fusion(case.make(**(neutral or {})))
    if neutral is not None:
        perturb(fusion)
    seen = evaluate(backbone, fusion, features=case.features)
    moved = (plain - seen).abs().max().item()
    assert moved == 0.0, f"the output moves by {moved:.3g}"
    if neutral is None:
        return
    alone = {"testing.probe": Probe(), **case.named_others()}
    beside = {**alone, "under.test": case.make(**neutral)}
    phase = Phase("p", 2, batch={"subject": 1}, lr={"*": 1e-2}, train=("testing.probe/*",))
    settings = SampleSettings(steps=2, scale=2.0)
    artifacts = [
        fit(make_recipe(uses, phase, sample=settings), case.subject(), backbone)[0]
        for uses in (alone, beside)
    ]
    tensors = [artifact.tensors for artifact in artifacts]
    for name, tensor in tensors[0].items():
        # residuals of zero leave every value as it is, but autograd sums the gradients of a skip
        # connection in another order: equal to rounding there, to the bit everywhere else
        within = 1e-6 if fusion.of(BranchEdit) else 0.0
        torch.testing.assert_close(
            tensors[1][name],
            tensor,
            rtol=within,
            atol=within,
            msg=lambda text: f"a neutral technique changes others' training: {text}",
        )
    pictures = [sample(artifact, backbone, "a photo of <fido>") for artifact in artifacts]
    torch.testing.assert_close(
        pictures[1],
        pictures[0],
        rtol=0.0,
        atol=1e-5,
        msg=lambda text: f"a neutral technique changes what is drawn: {text}",
    )


def gradients_stay_inside(case: Case) -> None:
    """Every owned parameter gets a gradient, and no parameter of the base does."""
    backbone, fusion = case.open(), case.fusion()
    before = Snapshot(backbone)
    perturb(fusion)
    owned = trainable(fusion)
    with Attachment(backbone, fusion, fitting=True) as net:
        seen = [
            case.look(net, [case.prompt(), case.prompt()]).output,
            *beside_the_network(net, case),
        ]
        base = {
            f"{part}:{name}": p
            for part, module in backbone.parts.items()
            for name, p in module.named_parameters()
            if not any(p is q for q in owned.values())
        }
        touched = [n for n, p in base.items() if p.requires_grad]
        assert not touched, f"parameters of the base would train: {touched[:3]}"
        assert any(t.requires_grad for t in seen) == bool(owned)
        if owned:
            torch.stack([t.square().mean() for t in seen]).sum().backward()
        assert all(p.grad is None for p in base.values())
    for name, param in case.own_parameters(fusion).items():
        if any(fnmatchcase(name, glob) for glob in case.unreached):
            continue
        assert param.grad is not None, f"no gradient reaches {name}"
        assert param.grad.abs().max() > 0, f"the gradient of {name} is zero"
        assert torch.isfinite(param.grad).all(), f"the gradient of {name} is not finite"
    before.assert_unchanged()


def beside_the_network(net: Attachment, case: Case) -> list[torch.Tensor]:
    """Return what a fusion gives beside the network's answer: changed references, rendered pictures, tokens.

    Streams of the fit alone are the losses' to read: no drawing has them.
    """
    outputs = []
    if net.encodes_each_step:
        pictures = torch.stack([make_picture(i, net.backbone.card.size) for i in range(2)])
        outputs.append(net.latents(pictures, (0, 1)))
    if net.fusion.source is not None:
        rng = torch.Generator().manual_seed(0)
        outputs.append(net.fusion.source.render(2, rng, 0.0).images)
    if of_the_fit := [e.name for e in net.fusion.of(StreamEdit) if e.mode == "fit"]:
        rows = net.read_features(case.features.tensors, torch.zeros(2, dtype=torch.long))
        streams = net.streams(rows)
        outputs.extend(streams[name] for name in of_the_fit)
    return outputs


def base_is_reachable(case: Case) -> None:
    """``model="base"`` gives the untuned network exactly while the technique is attached."""
    backbone, fusion = case.open(), case.fusion()
    perturb(fusion)
    prompts = ("a photo of a dog", "a red toy on the beach")
    plain = evaluate(backbone)
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        tuned = case.look(net, prompts).output
        base = case.look(net, prompts, model="base").output
        again = case.look(net, prompts).output
    assert torch.equal(base, plain)
    assert torch.equal(tuned, again), "going to the base and back changes the output"


def save_and_load(case: Case) -> None:
    """A saved and loaded personalization draws the same pictures."""
    from pcs_core.storage import load, save

    _installed(case)
    backbone, artifact = case.open(), case.fit()
    if case.trains():
        assert artifact.tensors, "nothing was exported"
    with tempfile.TemporaryDirectory() as folder:
        save(artifact, Path(folder) / "artifact")
        loaded = load(Path(folder) / "artifact")
    assert list(loaded.tensors) == sorted(artifact.tensors) or set(loaded.tensors) == set(
        artifact.tensors
    )
    for name, tensor in artifact.tensors.items():
        assert torch.equal(tensor, loaded.tensors[name]), f"{name} changed on its way"
    first, second = (sample(p, backbone, case.prompt(), seed=1) for p in (artifact, loaded))
    assert torch.equal(first, second)


def _installed(case: Case) -> None:
    """Refuse a technique that no installed plugin holds: what is stored is loaded by its id."""
    assert case.technique.id in catalogue().ids("techniques"), (
        f"{case.technique.id!r} is in no installed plugin, and what is stored names techniques by their ids: "
        "install the distribution that holds it, `pip install -e .`"
    )


def two_instances(case: Case) -> None:
    """Two uses work side by side, or a conflict names both."""
    uses = {"first": case.make(), "second": case.make()}
    subject, backbone = case.subject(), case.open()
    before = Snapshot(backbone)
    beside = {"testing.probe": Probe(), **case.named_others(), **uses}
    try:
        artifact = fit(make_recipe(beside, case.phase()), subject, backbone)[0]
    except ConflictError as error:
        assert "first" in str(error), f"the conflict does not name the first use: {error}"
        assert "second" in str(error), f"the conflict does not name the second use: {error}"
        before.assert_unchanged()
        return
    before.assert_unchanged()
    if not case.trains():
        return
    start = {
        f"{e.owner}/{e.key(0)}/{k}": t.detach()
        for e in build_fusion(
            make_recipe({**case.named_others(), **uses}), [subject], backbone
        ).edits
        for k, t in e.owned().items()
    }
    for use in uses:
        names = [n for n in artifact.tensors if n.startswith(f"{use}/")]
        assert names, f"{use!r} exports nothing"
        moved = [
            not torch.equal(artifact.tensors[n], start[n].reshape(artifact.tensors[n].shape))
            for n in names
        ]
        assert any(moved), f"{use!r} was silenced: none of its parameters trained"


def deterministic(case: Case) -> None:
    """The same seed gives the same tensors, whatever torch's global generator holds."""
    _installed(case)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = case.fit()
    assert torch.equal(state, torch.get_rng_state()), "it draws from torch's global generator"
    torch.manual_seed(2)
    second = case.fit()
    assert set(first.tensors) == set(second.tensors)
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), f"{name} differs under the same seed"
    if case.trains():
        other = case.fit(seed=1)
        assert any(not torch.equal(t, other.tensors[n]) for n, t in first.tensors.items()), (
            "the seed changes nothing"
        )


def holds_settings_only(case: Case) -> None:
    """A run leaves nothing in the instance: one instance may serve many runs."""
    technique = case.make()
    before = dict(vars(technique))
    phase = case.phase(1, train=("testing.probe/*",))
    uses = {"testing.probe": Probe(), **case.named_others(), "under.test": technique}
    recipe = make_recipe(uses, phase)
    artifact = fit(recipe, case.subject(), case.open())[0]
    sample(artifact, case.open(), case.prompt(), steps=1)
    assert vars(technique) == before


def subjects_train_as_if_alone(case: Case) -> None:
    """Two subjects that train in one forward end where each ends alone."""
    if not (case.technique.stacks_subjects and case.trains()):
        return
    backbone = case.open()
    phase = Phase("p", 3, batch=case.roles, lr={"*": 0.1}, optimizer="sgd")
    recipe = make_recipe([*case.others(), case.make()], phase)
    other = make_subject("other", token="<other>", noun="cat", seed=1)
    subjects = [case.subject(), other]
    for subject, together in zip(subjects, fit(recipe, subjects, backbone), strict=True):
        (alone,) = fit(recipe, subject, backbone)
        assert set(together.tensors) == set(alone.tensors)
        for name, tensor in alone.tensors.items():
            error = (tensor - together.tensors[name]).abs().max().item()
            largest = max(1.0, tensor.abs().max().item())
            assert error <= 1e-5 * largest, (
                f"{name} of {subject.name!r} differs by {error:.3g} when another subject trains beside "
                "it: pick each row's parameters by cond.subject, or set stacks_subjects = False"
            )


HOOKS: Mapping[str, str] = {
    **dict.fromkeys(("losses_are_per_row", "rows_share_out"), "regularize"),
    **dict.fromkeys(
        (
            "detaching_restores",
            "gradients_stay_inside",
            "base_is_reachable",
            "everything_is_registered",
            "nothing_is_hidden",
            "starts_at_the_base",
            "rows_are_apart",
            "other_texts_stay",
            "later_windows_are_read",
            "constants_follow_the_device",
            "works_in_half_precision",
            "stages_keep_shapes",
            "joint_sites_are_met",
        ),
        "fuse",
    ),
}
"""Check -> the hook whose results it is about; of others, any hook may be the cause."""


def named(check: Callable[[Case], None]) -> Callable[[Case], None]:
    """Return ``check`` with plugin, use and hook in front of what it says does not hold."""

    @functools.wraps(check)
    def run(case: Case) -> None:
        try:
            check(case)
        except PcsError:  # says by itself whose it is
            raise
        except Exception as error:
            cls = case.technique
            mine = [hook for hook in RUN_HOOKS if hasattr(cls, hook)]
            hooks = [h for h in mine if h == HOOKS.get(check.__name__, h)] or mine
            where = " or ".join(f"`{hook}`" for hook in hooks) or "(none)"
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            raise AssertionError(
                f"{distribution_of(cls.__module__)}: the use {cls.id!r}, in its hook {where}: {kind}{error}"
            ) from error

    return run


CHECKS: Mapping[str, Callable[[Case], None]] = {
    check.__name__: named(check)
    for check in (
        settings_round_trip,
        unknown_setting_refused,
        wrong_types_refused,
        settings_documented,
        hooks_marked,
        detaching_restores,
        neutral_changes_nothing,
        gradients_stay_inside,
        base_is_reachable,
        save_and_load,
        two_instances,
        deterministic,
        subjects_train_as_if_alone,
        holds_settings_only,
        *PROMISES,
    )
}
"""Every check by name. ``save_and_load`` and ``deterministic`` need the class in the catalogue."""


def check_technique(technique: type[Technique], **options: Any) -> None:
    """Run every check on ``technique``; ``options`` are those of :class:`Case`."""
    case = Case(technique, **options)
    for check in CHECKS.values():
        check(case)


def _refused(case: Case, changes: Mapping[str, Any]) -> str:
    try:
        case.technique.from_settings({**case.settings, **changes})
    except RecipeError as error:
        return str(error)
    raise AssertionError(f"the settings {changes} were accepted")


def _valid(kind: str) -> tuple[Any, ...]:
    return {"boolean": (True, False), "null": (None,)}.get(kind, ())


def _fits(value: Any, kinds: set[Any]) -> bool:
    """True when a JSON value is of one of the JSON types."""
    if isinstance(value, bool):
        return "boolean" in kinds
    if isinstance(value, int):
        return bool({"integer", "number"} & kinds)
    types = {float: "number", str: "string", list: "array", dict: "object"}
    return types[type(value)] in kinds
