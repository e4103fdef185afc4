"""Which files of other tools are read and written, and what is refused: the table of docs/formats.md."""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """A layout of files. ``importer`` and ``exporter`` are ids of the catalogue, "" where there is none."""

    name: str
    marks: str
    importer: str
    exporter: str
    becomes: str
    refused: str = ""


FORMATS = (
    Format(
        "LoRA of diffusers and peft",
        "`unet....lora_A.weight`, `...lora.down.weight`, `...processor.to_q_lora.down.weight`, "
        "`base_model.model....`; ranks and alphas by pattern from `lora_adapter_metadata` or "
        "`adapter_config.json`",
        "layers",
        "diffusers",
        "`weights.lora`, a use for each network, rank and alpha; DoRA: `weights.imported_weight`",
        "biases of `lora_B`",
    ),
    Format(
        "LoRA and LoCon of kohya",
        "`lora_unet_...`, `lora_te_...`, `lora_te1_...`, `lora_te2_...` with `.alpha`; layers "
        "of SDXL, SD 3 and FLUX by the original release's names",
        "layers",
        "kohya",
        "`weights.lora`; a core (`.lora_mid`), or a rank above the layer's: `weights.imported`",
        "of SD 3's and FLUX's joined projections all but low-rank updates",
    ),
    Format(
        "LyCORIS",
        "`hada_...` (LoHa), `lokr_...` (LoKr), `oft_blocks` (OFT), `diff`, `w_norm`, each with `dora_scale` "
        "where it has one; kohya's prefixes or `lycoris_`",
        "layers",
        "kohya",
        "`weights.imported`; with magnitudes, of OFT and norms: `weights.imported_weight`",
        "(IA)3, GLoRA, BOFT",
    ),
    Format(
        "Native names of ComfyUI and OneTrainer",
        "`diffusion_model....`, `text_encoders.clip_l.transformer....`; bundled words: `bundle_emb....`",
        "layers",
        "",
        "as above; each bundled word: `tokens.learnable`",
        "words of several lengths in one bundle",
    ),
    Format(
        "ai-toolkit",
        "`lora_unet_...`, `lora_transformer_...`, `transformer....`",
        "layers",
        "",
        "as above",
        "layers of families that are not opened here",
    ),
    Format(
        "Learned words",
        "diffusers' `<token>`, kohya's `emb_params`, A1111's `string_to_param`, and where "
        "several encoders read them `clip_l`, `clip_g`, `t5xxl`",
        "word",
        "diffusers",
        "`tokens.learnable`",
        "more than 64 rows; words of other encoders",
    ),
    Format(
        "Custom Diffusion",
        "`....processor.to_k_custom_diffusion.weight`; words in files beside, called `<word>.safetensors`",
        "custom",
        "",
        "`weights.kv` (differences, so that they merge), `tokens.learnable`",
        "projections of other attention",
    ),
    Format(
        "IP-Adapter",
        "`image_proj....` and `ip_adapter....`: plain, Plus, full-face, FaceID, FaceID Plus and PlusV2 with "
        "their low-rank updates, SD and SDXL; plain ones of FLUX, also `ip_adapter_proj_model....` and "
        "`double_blocks....` (XLabs)",
        "adapter",
        "ip-adapter",
        "an adapter that `pcs fit DIR/recipe.toml PICTURES --adapter DIR` shows pictures",
        "adapters of SD 3, InstantX' of FLUX",
    ),
    Format(
        "ControlNet",
        "`controlnet_cond_embedding....`, or `control_model....` of the original release; `config.json` beside",
        "control",
        "controlnet",
        "`fusion.control_picture`, which reads `--layout PICTURE`",
        "control networks of SD 3 and FLUX, union and XS ones, channels in the order BGR",
    ),
    Format(
        "T2I-Adapter",
        "`adapter.body....`, or `body....` of its authors; the full form, SDXL's and the light one",
        "control",
        "controlnet",
        "as above",
    ),
    Format(
        "Motion LoRA of AnimateDiff",
        "`....motion_modules....temporal_transformer....processor.to_q_lora.down.weight`, and what diffusers "
        "made of it",
        "layers",
        "diffusers",
        "`weights.lora` on an AnimateDiff backbone",
        "kohya's names, written",
    ),
    Format(
        "Motion modules of AnimateDiff",
        "`....motion_modules....proj_in.weight` of the authors (`mm_sd_v15_v2.ckpt`) or of diffusers' "
        "`MotionAdapter`",
        "motion",
        "",
        "with `--backbone` a folder of SD 1.5: a model folder that `--backbone` takes",
        "those of SDXL, PIA, SparseCtrl",
    ),
    Format(
        "InstantID",
        "`ip-adapter.bin`, whose perceiver reads 512 channels, and the folder `ControlNetModel` beside it",
        "adapter",
        "ip-adapter",
        "such an adapter with `fusion.control_branch`",
        "a control network narrower than the denoiser's first half, written",
    ),
)
