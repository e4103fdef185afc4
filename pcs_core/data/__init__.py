"""The types that travel between hooks, engine and backbones. All frozen but ``SampleStep``."""

from __future__ import annotations

from pcs_core.data.check import CheckReport, CheckRow
from pcs_core.data.conditioning import REFERENCE, SEED, Conditioning, concatenate
from pcs_core.data.features import Features
from pcs_core.data.fusion import (
    Branch,
    FitRow,
    Fusion,
    GuidanceTerm,
    PromptReader,
    Renderable,
    Rendered,
    Row,
    TimestepSampler,
    Word,
)
from pcs_core.data.layout import Box, Layout
from pcs_core.data.masks import LOSS, VALID, MaskQuery, Masks, mask_at, region_name, valid_cells
from pcs_core.data.personalization import BackboneCard, Personalization
from pcs_core.data.preset import Preset
from pcs_core.data.profile import Profile
from pcs_core.data.recipe import ALL, RENDERED, Phase, Recipe, SampleSettings, Use
from pcs_core.data.run import Run
from pcs_core.data.steps import Batch, Evaluation, FitStep, Level, Loss, Prediction, SampleStep
from pcs_core.data.subject import Concept, Example, Record, Records, Subject
from pcs_core.data.words import Words
from pcs_core.edits import (
    AttnEdit,
    AttnState,
    BlockEdit,
    BranchEdit,
    Edit,
    HeadEdit,
    InjectEdit,
    LayerEdit,
    PixelEdit,
    ReplaceEdit,
    Site,
    StreamEdit,
    TokenEdit,
    WeightEdit,
)

__all__ = [
    "ALL",
    "LOSS",
    "REFERENCE",
    "RENDERED",
    "SEED",
    "VALID",
    "AttnEdit",
    "AttnState",
    "BackboneCard",
    "Batch",
    "BlockEdit",
    "Box",
    "Branch",
    "BranchEdit",
    "CheckReport",
    "CheckRow",
    "Concept",
    "Conditioning",
    "Edit",
    "Evaluation",
    "Example",
    "Features",
    "FitRow",
    "FitStep",
    "Fusion",
    "GuidanceTerm",
    "HeadEdit",
    "InjectEdit",
    "LayerEdit",
    "Layout",
    "Level",
    "Loss",
    "MaskQuery",
    "Masks",
    "Personalization",
    "Phase",
    "PixelEdit",
    "Prediction",
    "Preset",
    "Profile",
    "PromptReader",
    "Recipe",
    "Record",
    "Records",
    "Renderable",
    "Rendered",
    "ReplaceEdit",
    "Row",
    "Run",
    "SampleSettings",
    "SampleStep",
    "Site",
    "StreamEdit",
    "Subject",
    "TimestepSampler",
    "TokenEdit",
    "Use",
    "WeightEdit",
    "Word",
    "Words",
    "concatenate",
    "mask_at",
    "region_name",
    "valid_cells",
]
