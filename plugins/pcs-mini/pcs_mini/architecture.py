"""The networks of Mini, as diffusers and transformers classes of small size.

Pictures of 128 px, latents of 16x16x8, captions of at most 40 tokens. The layout is that of Stable
Diffusion: a KL autoencoder that shrinks by eight, a CLIP text model and a UNet with cross attention
in its down, middle and up blocks. Most of the UNet's weights sit at its two lower resolutions,
where a weight costs little time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PICTURE_SIZE = 128
"""Side of a picture in pixels."""
LATENT_SIZE = 16
LATENT_CHANNELS = 8
TEXT_WIDTH = 192
TEXT_LENGTH = 40
START, END = "<|startoftext|>", "<|endoftext|>"


def build_autoencoder(
    channels: tuple[int, int, int, int] = (16, 32, 64, 128),
) -> AutoencoderKL:
    """128 px pictures to 16x16x8 latents and back; convolutions only, so crops work as well."""
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=PICTURE_SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def build_text_encoder(
    tokenizer: CLIPTokenizer, width: int = TEXT_WIDTH, layers: int = 4
) -> CLIPTextModel:
    """A CLIP text model; it pools at the tokenizer's end-of-text token."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            hidden_act="gelu",
        )
    )


def build_unet(
    channels: tuple[int, int, int] = (80, 160, 320), text_width: int = TEXT_WIDTH
) -> UNet2DConditionModel:
    """Stable Diffusion's block layout on 16x16x8 latents: cross attention at 16, 8 and 4."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """SD's schedule, noisier at its end (these latents carry more per element), on velocity."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.02,
        prediction_type="v_prediction",
        set_alpha_to_one=False,
        steps_offset=1,
        clip_sample=False,
        timestep_spacing="trailing",
    )


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges until each word is one piece; ties go to the alphabetically first pair.

    Counts are kept up to date instead of counted anew, which matters for thousands of words.
    """
    split = [[*word[:-1], word[-1] + "</w>"] for word in words]
    counts: Counter[tuple[str, str]] = Counter()
    holders: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def count(i: int, by: int) -> None:
        for pair in zip(split[i], split[i][1:], strict=False):
            counts[pair] += by
            if by > 0:
                holders[pair].add(i)

    for i in range(len(split)):
        count(i, 1)
    merges: list[tuple[str, str]] = []
    while counts := +counts:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for i in sorted(holders.pop(best)):
            count(i, -1)
            pieces, at = split[i], 0
            while at < len(pieces) - 1:
                if (pieces[at], pieces[at + 1]) == best:
                    pieces[at : at + 2] = ["".join(best)]
                at += 1
            count(i, 1)
    return merges


def build_tokenizer(words: Sequence[str], length: int = TEXT_LENGTH) -> CLIPTokenizer:
    """A CLIP tokenizer in which each of `words` is one token; any other word falls apart.

    Captions are cut at `length` tokens and padded with end-of-text.
    """
    pieces = sorted(ByteLevel.alphabet())
    merges = learn_merges(sorted({word for word in words if len(word) > 1}))
    vocab = {piece: i for i, piece in enumerate([*pieces, *(p + "</w>" for p in pieces)])}
    for first, second in merges:
        vocab.setdefault(first + second, len(vocab))
    for special in (START, END):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)
