"""Stable-Diffusion-family folders (SD 1.x and 2.x layout) as a backbone.

A folder, or a hub id where a hub can be reached, with ``text_encoder``, ``tokenizer``, ``vae``,
``unet`` and ``scheduler``. Safetensors only: pickled weights and remote code are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pcs_core.backbone import VariancePreserving
from pcs_core.data import BackboneCard, Site
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.attention import bind
from pcs_diffusers.samplers import DiffusersSampler
from pcs_diffusers.sites import layer_sites, unet_sites

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pcs_core.backbone import AttentionChain
    from pcs_core.data import Conditioning

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


class ClipTokenizer:
    """A transformers CLIP tokenizer with what the core asks of one."""

    def __init__(self, tokenizer: Any) -> None:
        self.inner = tokenizer
        self.length = int(tokenizer.model_max_length)
        self.start = int(tokenizer.bos_token_id)
        self.end = int(tokenizer.eos_token_id)
        self.pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end)

    def encode(self, text: str) -> list[int]:
        """Return ids without start, end and padding."""
        ids = self.inner(text, add_special_tokens=False, truncation=False, verbose=False)[
            "input_ids"
        ]
        return list(ids)

    def is_entry(self, text: str) -> bool:
        """True when ``text`` is one existing entry of the vocabulary."""
        return len(self.encode(text)) == 1


class StableDiffusion:
    """A frozen Stable Diffusion network with named sites."""

    family: ClassVar[str] = "sd"

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler_config: Mapping[str, Any],
        id: str,
        location: str = "",
        device: str | torch.device = "cpu",
        digest: str = "",
    ) -> None:
        check_parts(id, unet, vae, text_encoder, tokenizer)
        self.device = torch.device(device)
        self.unet, self.vae, self.text_encoder = (
            m.to(self.device).eval().requires_grad_(False) for m in (unet, vae, text_encoder)
        )
        self.dtype: torch.dtype = next(self.unet.parameters()).dtype
        self.tokenizer = ClipTokenizer(tokenizer)
        self.scheduler_config = dict(scheduler_config)
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        side = int(unet.config.sample_size)
        self.latent_shape = (int(unet.config.in_channels), side, side)
        scheduler = DiffusersSampler("ddim", self.scheduler_config, 1, self.device).scheduler
        self.process = VariancePreserving(
            scheduler.alphas_cumprod.to(self.device), scheduler.config.prediction_type
        )
        self.card = BackboneCard(
            id=id,
            hash=digest or self.weights_digest(),
            family=self.family,
            size=(side * factor, side * factor),
            prediction=scheduler.config.prediction_type,
            location=location,
        )

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules by part."""
        return {"denoiser": self.unet, "text": self.text_encoder, "vae": self.vae}

    @cached_property
    def sites(self) -> Sequence[Site]:
        """Every site, named on the bare network."""
        return (
            *unet_sites(self.unet),
            *layer_sites(self.text_encoder, "text"),
            *layer_sites(self.vae, "vae"),
        )

    @property
    def embedding(self) -> nn.Module:
        """The text encoder's token table."""
        table: nn.Module = self.text_encoder.get_input_embeddings()
        return table

    def bind_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Put one chain on each named attention site; return what undoes it."""
        return bind(self.unet, chains)

    def projection(self, site: Site, part: str) -> nn.Module:
        """Return the layer that makes the "q", "k", "v" or "out" of an attention site."""
        name = "to_out.0" if part == "out" else f"to_{part}"
        return self.unet.get_submodule(f"{site.name}.{name}")  # type: ignore[no-any-return]

    def control_network(self, channels: int, width: float) -> nn.Module:
        """Return a trainable ControlNet for this UNet."""
        from pcs_diffusers.control import ControlNetwork

        return ControlNetwork(self.unet, self.vae, channels, width)

    def light_decoder(self, location: str = "") -> Callable[[Tensor], Tensor]:
        """Return the decoder of the TAESD class in ``location``, or in this backbone's own folder."""
        from pcs_diffusers.light_decoder import open_light_decoder

        return open_light_decoder(self, location)

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the last hidden state [b l d] and the pooled state [b d]."""
        output = self.text_encoder(input_ids=ids)
        return output.last_hidden_state, output.pooler_output

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std of the scaled latents of images [n 3 h w] in [0, 1]."""
        images = images.to(self.device, next(self.vae.parameters()).dtype)
        posterior = self.vae.encode(images * 2 - 1).latent_dist
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        scale = self.vae.config.scaling_factor
        return (posterior.mean - shift) * scale, posterior.std * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images [n 3 h w] in [0, 1]."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        latents = latents.to(next(self.vae.parameters()).dtype)
        images = self.vae.decode(latents / self.vae.config.scaling_factor + shift).sample
        decoded: Tensor = (images / 2 + 0.5).clamp(0, 1).float()
        return decoded

    def denoise(
        self,
        latents: Tensor,
        time: Tensor,
        cond: Conditioning,
        *,
        residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the UNet's native output [b c h w]."""
        control: dict[str, Any] = {}
        if residuals is not None:
            control = {
                "down_block_additional_residuals": tuple(residuals[0]),
                "mid_block_additional_residual": residuals[1],
            }
        output: Tensor = self.unet(
            latents.to(self.dtype),
            time,
            encoder_hidden_states=cond.text.to(self.dtype),
            return_dict=False,
            **control,
        )[0]
        return output

    def sampler(self, scheduler: str, steps: int) -> DiffusersSampler:
        """Return a fresh sampler."""
        return DiffusersSampler(scheduler, self.scheduler_config, steps, self.device)

    def checkpointing(self, function: Callable[..., Any] | None) -> None:
        """Recompute activations in backward through ``function``; None stops it."""
        if function is None:
            self.unet.disable_gradient_checkpointing()
            self.unet.eval()
        else:
            self.unet.enable_gradient_checkpointing(function)
            self.unet.train()  # diffusers recomputes only in training mode

    def weights_digest(self) -> str:
        """Return sha256 over all weights, by name, and the noise schedule."""
        digest = schedule_digest(self.scheduler_config)
        for part in ("denoiser", "text", "vae"):
            for name, tensor in sorted(self.parts[part].state_dict().items()):
                digest.update(f"{part}/{name}".encode())
                digest.update(
                    tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
                )
        return digest.hexdigest()


def load(
    location: str | Path,
    *,
    id: str = "",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> StableDiffusion | None:
    """Open a folder or hub id in Stable Diffusion layout, or return None if it is another layout.

    Raises
    ------
    InputError
        The folder has the layout, but a part is missing or damaged; or the hub cannot be reached.
    """
    folder = Path(location)
    if folder.is_dir():
        missing = [p for p in PARTS if not (folder / p).is_dir()]
        if "unet" in missing and (len(missing) > 1 or (folder / "transformer").is_dir()):
            return None
        if missing:
            raise InputError(f"backbone {str(folder)!r}: folder {missing[0]!r} is missing")
    elif str(location).count("/") == 1:
        folder = from_hub(str(location))
    else:
        return None
    if denoiser_class(folder) not in ("", "UNet2DConditionModel"):
        return None
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    kind = dtype or torch.float32
    try:
        file = folder / "model_index.json"
        index = json.loads(file.read_text()) if file.exists() else {}
        if str(index.get("_class_name", "StableDiffusionPipeline")).startswith("StableDiffusionXL"):
            raise CapabilityError(
                f"backbone {str(location)!r} is SDXL: only SD 1.x and 2.x are supported"
            )
        return StableDiffusion(
            unet=whole(UNet2DConditionModel, folder / "unet", torch_dtype=kind),
            vae=whole(AutoencoderKL, folder / "vae", torch_dtype=kind),
            text_encoder=whole(CLIPTextModel, folder / "text_encoder", dtype=kind),
            tokenizer=read_tokenizer(folder / "tokenizer"),
            scheduler_config=json.loads(
                (folder / "scheduler" / "scheduler_config.json").read_text()
            ),
            id=id or str(location),
            location=str(location),
            device=device,
            digest=folder_digest(folder),
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise damaged(location, error) from error


def denoiser_class(folder: Path) -> str:
    """Return the class that the denoiser's configuration in ``folder`` names, or "" if none does.

    The layouts of pictures, clips and tokens are told apart by it.
    """
    for part in ("unet", "transformer"):
        try:
            config = json.loads((folder / part / "config.json").read_text())
        except (OSError, ValueError):  # the loader that opens it says what is wrong
            continue
        return str(config.get("_class_name", "")) if isinstance(config, dict) else ""
    return ""


def damaged(location: str | Path, error: Exception) -> InputError:
    """Return the error of a folder that has the layout and does not load."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(f"backbone {str(location)!r} does not load: {reason}")


def whole(cls: Any, folder: Path, **options: Any) -> Any:
    """Load a model class from a folder; a tensor that the file lacks is an error, not a random one."""
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the caller has a progress display of its own
    try:
        model, found = cls.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise OSError(f"{folder.name}: {str(error).splitlines()[0]}") from error
    if missing := sorted(found["missing_keys"]):
        raise OSError(
            f"the weights in {str(folder)!r} lack {missing[0]!r}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        )
    return model


def read_tokenizer(folder: Path) -> Any:
    """Load the CLIP tokenizer of a folder."""
    from transformers import CLIPTokenizer

    # without a vocabulary file an empty tokenizer would come out, and no error
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise OSError(f"{str(folder)!r} has no tokenizer.json or vocab.json")
    return CLIPTokenizer.from_pretrained(folder)


def check_parts(id: str, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any) -> None:
    """Refuse parts that are not of one model."""
    gives, reads = text_encoder.config.hidden_size, unet.config.cross_attention_dim
    mixed = f"backbone {id!r}: the folder mixes two models: "
    if gives != reads:
        raise InputError(f"{mixed}the text encoder gives {gives} channels, the unet reads {reads}")
    words, rows = len(tokenizer), text_encoder.config.vocab_size
    if words > rows:
        raise InputError(f"{mixed}the tokenizer has {words} entries, the text encoder {rows} rows")
    latent, channels = vae.config.latent_channels, unet.config.in_channels
    if latent != channels:
        raise InputError(
            f"{mixed}the vae has {latent} latent channels, the unet reads {channels} "
            "(inpainting and depth networks are not supported)"
        )


def schedule_digest(config: Mapping[str, Any]) -> Any:
    """Begin a digest with what the network predicts and under which noise: it is part of what it is."""
    keys = ("prediction_type", "num_train_timesteps", "trained_betas", "rescale_betas_zero_snr")
    kept = {k: v for k, v in sorted(config.items()) if k in keys or k.startswith("beta_")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode())


def folder_digest(folder: Path, parts: Sequence[str] = ("text_encoder", "unet", "vae")) -> str:
    """Return sha256 over the weight files of ``parts``, by relative name, and the noise schedule."""
    file = folder / "scheduler" / "scheduler_config.json"
    digest = schedule_digest(json.loads(file.read_text()))
    for part in parts:
        for file in sorted((folder / part).glob("*.safetensors")):
            digest.update(f"{part}/{file.name}".encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()


def from_hub(name: str) -> Path:
    """Fetch a hub id's folder, in any layout of this plugin.

    Raises
    ------
    InputError
        The hub cannot be reached, or has no such id.
    """
    from huggingface_hub import snapshot_download

    parts = (*PARTS, "transformer", "vqvae")
    patterns = [f"{part}/*" for part in parts] + ["model_index.json"]
    try:
        return Path(
            snapshot_download(
                name, allow_patterns=patterns, ignore_patterns=["*.bin", "*.ckpt", "*.msgpack"]
            )
        )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"backbone {name!r} is neither an installed backbone nor a folder, and could not be "
            f"fetched from the hub ({reason})"
        ) from error
