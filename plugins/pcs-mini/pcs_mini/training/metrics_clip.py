"""Stage ``clip``: pictures against captions, and two pictures of the same things against others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from pcs_mini.architecture import build_tokenizer
from pcs_mini.generate import tokenise
from pcs_mini.metrics import stored
from pcs_mini.metrics.clip import CONFIG, Clip, build_clip
from pcs_mini.training.loop import Report, Settings
from pcs_mini.training.metrics_loop import Run
from pcs_mini.training.metrics_pictures import Replay, degrade, stack
from pcs_mini.training.metrics_views import check as retrieve
from pcs_mini.training.metrics_views import pair_of
from pcs_mini.world import grammar, scene
from pcs_mini.world.assets import Assets
from pcs_mini.world.backdrops import known
from pcs_mini.world.population import PERSON, Population, core, open_population

TEMPERATURE = 0.1
"""Of the term between pictures; that between pictures and captions is learned."""
SAME_THINGS = 0.5
"""Weight of the term between pictures."""
USES = 3
SILENT = frozenset(
    "a an and the with wearing in style there is are picture drawing image of photo on at".split()
)
"""Words of captions that say nothing of what is seen."""
CHECK_SEED = 987_656


def truths(captions: Sequence[str], sayable: Sequence[frozenset[str]], known: set[str]) -> Tensor:
    """Whether caption j is true of picture i, ``[n, n]``: all that it says holds there.

    `known` are the words of the grammar: made-up words say nothing.
    """
    said = [{w.strip(",") for w in text.split()} & known - SILENT for text in captions]
    words = {word: i for i, word in enumerate(sorted(set().union(*said)))}

    def rows(bags: Iterable[Iterable[str]]) -> Tensor:
        table = torch.zeros(len(captions), len(words))
        for i, bag in enumerate(bags):
            for word in bag:
                if word in words:
                    table[i, words[word]] = 1
        return table

    claims = rows(said)
    true = rows(sayable) @ claims.T >= claims.sum(1)
    return true | torch.eye(len(captions), dtype=torch.bool)


def positives(logits: Tensor, match: Tensor) -> Tensor:
    """Mean negative log-probability of the matching columns; rows without a match are left out."""
    some = match.any(1)
    logits, weight = logits[some], match[some].float()
    return -((logits.log_softmax(1) * weight).sum(1) / weight.sum(1)).mean()


def check(clip: Clip, assets: Assets, population: Population, n: int = 300) -> dict[str, float]:
    """Zero-shot shares of fresh renders of one subject: concept among all, core, place, style."""
    rng = np.random.default_rng(CHECK_SEED)
    concepts = sorted({grammar.noun_of(c) for c in population.concepts if c != PERSON})
    places, styles = sorted(set(known(assets))), sorted({m.style for m in population.members})
    scenes = [scene.draw(rng, assets, population, count=1) for _ in range(n)]
    scenes = [s for s in scenes if s.figures[0].kind != PERSON]
    pixels = torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2).float() / 255
    right: dict[str, list[bool]] = {}

    def ask(what: str, prompts: list[str], labels: list[int], chosen: list[int]) -> None:
        if chosen:
            predicted = clip.classify(pixels[chosen], prompts)
            right[what] = [predicted[i] == labels[j] for i, j in enumerate(chosen)]

    named = [concepts.index(grammar.noun_of(s.figures[0].concept)) for s in scenes]
    everything = list(range(len(scenes)))
    prompts = [grammar.prompt([grammar.Mention(c)]) for c in concepts]
    ask("concept", prompts, named, everything)
    first = [i for i, s in enumerate(scenes) if s.figures[0].concept in core()]
    ask("core", prompts, named, first)
    where = [grammar.prompt([grammar.Mention("picture")], place) for place in places]
    ask("place", where, [places.index(s.place) for s in scenes], everything)
    how = [grammar.prompt([grammar.Mention("picture", style=style)]) for style in styles]
    ask("style", how, [styles.index(s.figures[0].style) for s in scenes], everything)
    return {key: round(sum(v) / len(v), 4) for key, v in right.items()}


def train(settings: Settings, assets: Assets, report: Report) -> Path:
    """Train and return the folder ``out/clip``, with its tokenizer."""
    population = open_population(assets)
    vocabulary = grammar.vocabulary(assets)
    tokenizer: CLIPTokenizer = build_tokenizer(vocabulary)
    config = json.loads(json.dumps(CONFIG))
    config["text_cfg"]["vocab_size"] = len(tokenizer)
    torch.manual_seed(settings.seed)
    net = build_clip(config)
    clip = Clip(net, tokenizer)
    heads = ("embedding", "visual.conv1", "projection")
    run = Run("clip", settings, {"clip": net}, heads, report)
    replay = Replay(
        lambda rng: pair_of(rng, assets, population, None if rng.random() < 0.4 else 1),
        settings.batch // 2,
        uses=USES,
        seed=settings.seed,
        first=run.first,
        capacity=settings.pool // 2,
    )
    words = set(vocabulary)

    def loss_of() -> tuple[Tensor, dict[str, float]]:
        views = [view for pair in replay.next() for view in pair]
        x = degrade(stack(views), run.draws).to(run.device, memory_format=torch.channels_last)
        captions = [v.caption for v in views]
        true = truths(captions, [v.words for v in views], words).to(run.device)
        ids = tokenise(tokenizer, captions).to(run.device)
        image = net.encode_image(x * 2 - 1, normalize=True).float()
        text = net.encode_text(ids, normalize=True).float()
        logits = net.logit_scale.exp().clamp(max=100) * image @ text.T
        names = [v.instance for v in views]
        same = torch.tensor([[a == b for b in names] for a in names], device=run.device)
        same.fill_diagonal_(False)
        apart = (image @ image.T / TEMPERATURE).fill_diagonal_(-1e4)
        loss = positives(logits, true) + positives(logits.T, true.T)
        first = float(
            (logits.argmax(1) == torch.arange(len(views), device=run.device)).float().mean()
        )
        return loss + SAME_THINGS * positives(apart, same), {"matched": first}

    run.train(loss_of, lambda: check(clip, assets, population, 150))
    scores = check(clip, assets, population, 600) | retrieve(clip.image_features, assets)
    report(f"clip: {scores}")
    folder = stored.write(
        settings.out / "clip",
        net,
        {"model_cfg": config, "scores": scores, "world_sha256": assets.sha256},
    )
    tokenizer.save_pretrained(folder / stored.TOKENIZER)
    return folder
