"""The catalogue's metrics: each says its paper, model, preprocessing, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pcs_bench.metrics import measures
from pcs_bench.metrics.metric import Metric

PROMPT, REFERENCES, MASKS, UNTUNED = "prompt", "references", "masks", "untuned"
CLIP_PICTURE = (
    "shortest side to 224 (bicubic, antialiased, 8 bit), centre crop, CLIP mean and deviation"
)
DINO_PICTURE = (
    "shortest side to 256 (bicubic, antialiased, 8 bit), centre crop 224, ImageNet statistics"
)
LITE_PICTURE = (
    "shortest side to 256 (bicubic, antialiased, 8 bit), centre crop 224, (byte - 127) / 128"
)
SALIENT_PICTURE = "masks: 320 x 320 (Lanczos, 8 bit), by the brightest value, ImageNet statistics"
MINI_PICTURE = "bilinear, antialiased, to 64 x 64; -1..1"
DREAMBOOTH = "arXiv:2208.12242, section 4.1"
SURVEY = "arXiv:2405.05538, section 8.1"
MINI_CLIP = "mini.clip"
MINI_BACKDROP = "mini.backdrop"


def _lazy(name: str) -> Callable[[], Any]:
    """Return a function that opens a model of ``models`` when it is first called."""

    def opened() -> Any:
        from pcs_bench.metrics import models

        return getattr(models, name)()

    return opened


def _feature_model(id: str) -> Callable[[], Any]:
    """Return a function that opens a feature model of the catalogue."""

    def opened() -> Any:
        from pcs_core import installed

        return installed().get("feature_models", id)()

    return opened


def _segment(pictures: Any) -> Any:
    from pcs_bench.metrics.segment import border_contrast

    return border_contrast(pictures)


def _salient(pictures: Any) -> Any:
    from pcs_bench.metrics.u2net import u2net

    return u2net()(pictures)


def _clip(id: str, title: str, needs: tuple[str, ...], measure: Any, **more: Any) -> Metric:
    given: dict[str, Any] = {
        "paper": DREAMBOOTH,
        "better": "higher",
        "model": "openai/clip-vit-base-patch32",
        "preprocessing": CLIP_PICTURE,
        "licence": "MIT",
    }
    return Metric(id, title, needs=needs, measure=measure(_lazy("clip")), **(given | more))


def _dino(id: str, title: str, model: str, name: str, measure: Any, **more: Any) -> Metric:
    given: dict[str, Any] = {"paper": DREAMBOOTH, "better": "higher", "licence": "Apache-2.0"}
    return Metric(
        id,
        title,
        needs=(REFERENCES,),
        measure=measure(_lazy(name)),
        model=model,
        preprocessing=DINO_PICTURE,
        **(given | more),
    )


def _mini(id: str, title: str, needs: tuple[str, ...], measure: Any, **more: Any) -> Metric:
    given: dict[str, Any] = {
        "paper": "",
        "better": "higher",
        "model": MINI_CLIP,
        "preprocessing": MINI_PICTURE,
        "licence": "Apache-2.0",
    }
    return Metric(f"mini.{id}", title, needs=needs, measure=measure, **(given | more))


mini = _feature_model(MINI_CLIP)

clip_t = partial(_clip, "clip-t", "CLIP-T", (PROMPT,), measures.text_alignment)
clip_i = partial(_clip, "clip-i", "CLIP-I", (REFERENCES,), measures.subject_similarity)
dino_i = partial(
    _dino,
    "dino-i",
    "DINO-I (ViT-S/16)",
    "facebook/dino-vits16",
    "dino",
    measures.subject_similarity,
)
dinov2_i = partial(
    _dino,
    "dinov2-i",
    "DINOv2-I (ViT-S/14)",
    "facebook/dinov2-small",
    "dinov2",
    measures.subject_similarity,
    paper="arXiv:2304.07193",
)
copy = partial(
    _dino,
    "copy",
    "Copy score (DINO)",
    "facebook/dino-vits16",
    "dino",
    measures.copy_score,
    paper=SURVEY,
    better="lower",
)
pair_subjects = partial(
    _dino,
    "pair-subjects",
    "Worse subject of a pair (DINO)",
    "facebook/dino-vits16",
    "dino",
    measures.pair_subjects,
    paper="",
)
identity_mixing = partial(
    _dino,
    "identity-mixing",
    "Identity mixing of a pair (DINO)",
    "facebook/dino-vits16",
    "dino",
    measures.identity_mixing,
    paper="",
    better="lower",
)
prompt_drop = partial(
    _clip,
    "prompt-drop",
    "Prompt-drop rate (CLIP)",
    (PROMPT, REFERENCES, UNTUNED),
    measures.prompt_drop,
    paper=SURVEY,
    better="lower",
)


masked_dino_i = partial(
    _dino,
    "masked-dino-i",
    "Masked subject similarity (U2-Net, DINO)",
    "facebook/dino-vits16",
    "dino",
    lambda eye: measures.masked_similarity(eye, _salient),
    paper="",
)


def _lite(id: str, title: str, measure: Any, **more: Any) -> Metric:
    """An eye with real weights that stands in for DINO, and says so."""
    from pcs_bench.metrics import efficientnet

    given: dict[str, Any] = {
        "paper": "",
        "better": "higher",
        "model": efficientnet.MODEL,
        "preprocessing": LITE_PICTURE,
        "licence": "Apache-2.0",
    }
    return Metric(id, title, needs=(REFERENCES,), measure=measure(_efficientnet), **(given | more))


def _efficientnet() -> Any:
    from pcs_bench.metrics.efficientnet import efficientnet

    return efficientnet()


lite_i = partial(
    _lite,
    "effnet-lite-i",
    "Subject similarity (EfficientNet-lite0, an ImageNet classifier; not DINO)",
    measures.subject_similarity,
)
masked_lite_i = partial(
    _lite,
    "masked-effnet-lite-i",
    "Masked subject similarity (U2-Net, EfficientNet-lite0)",
    lambda eye: measures.masked_similarity(eye, _salient),
    preprocessing=f"{SALIENT_PICTURE}; then {LITE_PICTURE}",
)
lite_copy = partial(
    _lite,
    "copy.effnet-lite",
    "Copy score (EfficientNet-lite0)",
    measures.copy_score,
    paper=SURVEY,
    better="lower",
)
lite_background_leak = partial(
    _lite,
    "background-leak.effnet-lite",
    "Background leak (U2-Net, EfficientNet-lite0)",
    lambda eye: measures.background_leak(eye, _salient),
    paper=SURVEY,
    better="lower",
    preprocessing=f"{SALIENT_PICTURE}; then {LITE_PICTURE}",
)


def _preference(id: str, title: str, paper: str, model: str, name: str, licence: str) -> Metric:
    measure = measures.preference(_lazy(name))
    return Metric(id, title, paper, "higher", (PROMPT,), measure, model, CLIP_PICTURE, licence)


image_reward = partial(
    _preference,
    "image-reward",
    "ImageReward",
    "arXiv:2304.05977",
    "THUDM/ImageReward",
    "image_reward",
    "Apache-2.0",
)
hps_v2 = partial(
    _preference, "hps-v2", "HPS v2.1", "arXiv:2306.09341", "xswu/HPSv2", "hps", "Apache-2.0"
)
pick_score = partial(
    _preference,
    "pick-score",
    "PickScore",
    "arXiv:2305.01569",
    "yuvalkirstain/PickScore_v1",
    "pickscore",
    "MIT",
)


def identity() -> Metric:
    """Identity through dlib's encoder."""
    from pcs_bench.metrics import faces

    return Metric(
        "identity.dlib",
        "Identity similarity (dlib ResNet)",
        "arXiv:2405.05538, section 7.3 (there: MTCNN and FaceNet)",
        "higher",
        (REFERENCES,),
        faces.identity_similarity(faces.dlib),
        "dlib_face_recognition_resnet_model_v1",
        "HOG detector, largest face, five-point alignment to 150 x 150",
        faces.LICENCE,
    )


def identity_facenet() -> Metric:
    """Identity through MTCNN and FaceNet, as the survey measures it."""
    from pcs_bench.metrics import facenet, faces, mtcnn

    return Metric(
        "identity.facenet",
        "Identity similarity (FaceNet)",
        "arXiv:2405.05538, section 7.3",
        "higher",
        (REFERENCES,),
        faces.identity_similarity(facenet.facenet),
        f"{facenet.MODEL}; {mtcnn.MODEL}",
        "surest face of probability 0.95 or more, margin 32 of 160, bilinear (8 bit), (byte - 127.5) / 128",
        facenet.LICENCE,
    )


def fid() -> Metric:
    """FID through torchmetrics and torch-fidelity's Inception."""
    from pcs_bench.metrics import distributions

    return Metric(
        "fid",
        "FID",
        "arXiv:1706.08500",
        "lower",
        (REFERENCES,),
        distributions.fid(lambda: 2048),
        "pt_inception-2015-12-05 (torch-fidelity)",
        "torch-fidelity's: bilinear to 299 x 299 as in TensorFlow 1",
        "Apache-2.0",
        per="suite",
    )


def inception_score() -> Metric:
    """Inception Score through torchmetrics and torch-fidelity's Inception."""
    from pcs_bench.metrics import distributions

    return Metric(
        "inception-score",
        "Inception Score",
        "arXiv:1606.03498",
        "higher",
        (),
        distributions.inception_score(lambda: "logits_unbiased"),
        "pt_inception-2015-12-05 (torch-fidelity)",
        "torch-fidelity's: bilinear to 299 x 299 as in TensorFlow 1",
        "Apache-2.0",
        per="suite",
    )


def lpips_diversity() -> Metric:
    """LPIPS diversity through torchmetrics."""
    from pcs_bench.metrics import distributions

    return Metric(
        "lpips-diversity",
        "LPIPS diversity",
        "arXiv:1801.03924",
        "higher",
        (PROMPT,),
        distributions.lpips_diversity(distributions.alexnet),
        "AlexNet (torchvision) with LPIPS 0.1 heads",
        "-1..1 at the pictures' own size",
        "BSD-2-Clause",
        per="set",
    )


mini_clip_t = partial(
    _mini, "clip-t", "Mini-CLIP text alignment", (PROMPT,), measures.text_alignment(mini)
)
mini_clip_i = partial(
    _mini,
    "clip-i",
    "Mini-CLIP subject similarity",
    (REFERENCES,),
    measures.subject_similarity(mini),
)
mini_masked_i = partial(
    _mini,
    "masked-i",
    "Masked subject similarity (Mini-CLIP)",
    (REFERENCES, MASKS),
    measures.masked_similarity(mini, _segment),
)
mini_copy = partial(
    _mini,
    "copy",
    "Copy score (Mini-CLIP)",
    (REFERENCES,),
    measures.copy_score(mini),
    paper=SURVEY,
    better="lower",
)
mini_background_leak = partial(
    _mini,
    "background-leak",
    "Background leak (Mini judge of places)",
    (REFERENCES, MASKS),
    measures.background_leak(_feature_model(MINI_BACKDROP), _segment),
    model=MINI_BACKDROP,
    paper=SURVEY,
    better="lower",
)
mini_prompt_drop = partial(
    _mini,
    "prompt-drop",
    "Prompt-drop rate (Mini-CLIP)",
    (PROMPT, REFERENCES, UNTUNED),
    measures.prompt_drop(mini),
    paper=SURVEY,
    better="lower",
)
mini_diversity = partial(
    _mini,
    "diversity",
    "Diversity (Mini-CLIP)",
    (PROMPT,),
    measures.feature_diversity(mini),
    per="set",
)
mini_pair_subjects = partial(
    _mini,
    "pair-subjects",
    "Worse subject of a pair (Mini-CLIP)",
    (REFERENCES,),
    measures.pair_subjects(mini),
)
mini_identity_mixing = partial(
    _mini,
    "identity-mixing",
    "Identity mixing of a pair (Mini-CLIP)",
    (REFERENCES,),
    measures.identity_mixing(mini),
    better="lower",
)


def mini_fid() -> Metric:
    """Frechet distance of Mini-CLIP's features."""
    from pcs_bench.metrics import distributions

    def extractor() -> Any:
        return distributions.Features(mini(), 128)

    return _mini(
        "fid",
        "Frechet distance (Mini-CLIP)",
        (REFERENCES,),
        distributions.fid(extractor),
        better="lower",
        per="suite",
    )
