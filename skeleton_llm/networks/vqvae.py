"""The VQ-VAE of LLM-AR section 3.2: skeletons to action sentences and back.

B clips, T frames, M persons, V joints, L tokens a clip. Inside, a row is what one sentence is written for, a clip or
one person of it: R rows, P persons a row, F channels, K tokens a row, N codes, D width of a token.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from skeleton_llm.networks.features import SkeletonFeatures, Stream, hold_last
from skeleton_llm.networks.quantizer import Geometry, Latents, Learning, Quantizer, straight_through
from skeleton_llm.networks.temporal import Decoder, Encoder


@dataclass
class VQVAEConfig:
    """Sizes and choices; the defaults are the paper's, or T2M-GPT's (whose numbers it shares) where it is silent.

    Args:
        width: channels of the convolutions.
        depth: residual blocks a resolution.
        downsamples: halvings of the time; 2 gives a step for every 4 frames.
        num_codes: N, tokens in the codebook.
        tokens_per_step: tokens written for each step of the encoder; more of them keep more of the motion.
        persons: all of a clip's persons as ``channels`` of one sentence, or ``sentences``, one for each.
        streams: what the encoder sees: ``joint``, ``bone``, ``motion``, ``bone_motion``; joints are always
            reconstructed.
        root_weight: weight of the root's track against the pose.
        geometry: ``hyperbolic`` or ``euclidean`` codebook.
        curvature: c of the Poincare ball.
        token_norms: bounds of the tokens' learned norms in tangent space.
        latents: how latents are normalised, ``layer_norm``, ``unit`` or ``clip``, see Quantizer.
        latent_norm: their norm, or its bound for ``clip``.
        sharpness: agreement of the drawn usage with the nearest token, see Quantizer.
        scale: of the usage's logits, fixed; null follows the distances by ``sharpness``.
        temperature: of the usage's gradient.
        noise: Gumbel noise in the usage counts.
        codebook: tokens learn by ``gradient`` or as moving averages, ``ema``.
        ema_decay: of those averages.
    """

    width: int = 512
    depth: int = 3
    downsamples: int = 2
    num_codes: int = 512
    tokens_per_step: int = 1
    persons: Literal["channels", "sentences"] = "channels"
    streams: tuple[Stream, ...] = ("joint", "motion")
    root_weight: float = 1.0
    geometry: Geometry = "hyperbolic"
    curvature: float = 1.0
    token_norms: tuple[float, float] = (0.97, 1.03)
    latents: Latents = "layer_norm"
    latent_norm: float = 1.0
    sharpness: float = 20.0
    scale: float | None = None
    temperature: float = 0.5
    noise: bool = True
    codebook: Learning = "gradient"
    ema_decay: float = 0.99

    def __post_init__(self) -> None:
        """Refuse sizes that build nothing."""
        for name in ("width", "depth", "tokens_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"network.{name} must be at least 1, got {getattr(self, name)}")
        if self.downsamples < 0:
            raise ValueError(f"network.downsamples must not be negative, got {self.downsamples}")
        if self.num_codes < 2 or self.num_codes % 2:
            raise ValueError(f"network.num_codes must be even (the context loss pairs codes), got {self.num_codes}")
        self.token_norms = (float(self.token_norms[0]), float(self.token_norms[1]))
        self.streams = tuple(self.streams)
        if not self.streams or len(set(self.streams)) < len(self.streams):
            raise ValueError(
                f"network.streams must name joint, bone, motion or bone_motion, each once, got {list(self.streams)}"
            )


class Rows(NamedTuple):
    """What the network reads; ``mask`` tells a row's frames, None where every row has all of them."""

    joints: Float[Tensor, "R T P V 3"]
    persons: Bool[Tensor, "R P"]
    mask: Bool[Tensor, "R T"] | None


class Autoencoded(NamedTuple):
    """What one pass gives: channels in and out are standardised; the rest is ``Quantized``."""

    reconstruction: Float[Tensor, "R T F"]
    latents: Float[Tensor, "R K D"]
    codebook: Float[Tensor, "N D"]
    tokens: Float[Tensor, "R K D"]
    indices: Int[Tensor, "R K"]
    counts: Float[Tensor, "R N"]
    agreement: Bool[Tensor, "R K"]
    gap: Float[Tensor, "R K"]


class VQVAE(nn.Module):
    """Encoder, codebook, decoder.

    Args:
        config: sizes and choices.
        layout: skeleton layout of the clips.
        num_persons: M.
        dim: D, the width of a token.
    """

    def __init__(self, config: VQVAEConfig, *, layout: str, num_persons: int, dim: int) -> None:
        """Build the networks; the features' statistics are fitted later."""
        super().__init__()
        self.config, self.dim, self.num_persons = config, dim, num_persons
        self.apart = config.persons == "sentences"
        self.features = SkeletonFeatures(
            layout, 1 if self.apart else num_persons, streams=config.streams, root_weight=config.root_weight
        )
        shape = {"width": config.width, "depth": config.depth, "downsamples": config.downsamples}
        self.encoder = Encoder(self.features.num_inputs, dim * config.tokens_per_step, **shape)
        self.quantizer = Quantizer(
            config.num_codes,
            dim,
            geometry=config.geometry,
            curvature=config.curvature,
            token_norms=config.token_norms,
            latents=config.latents,
            latent_norm=config.latent_norm,
            sharpness=config.sharpness,
            scale=config.scale,
            temperature=config.temperature,
            noise=config.noise,
            codebook=config.codebook,
            ema_decay=config.ema_decay,
        )
        self.decoder = Decoder(dim * config.tokens_per_step, self.features.num_channels, **shape)

    @property
    def frames_per_step(self) -> int:
        """Frames that one step of the encoder covers."""
        return 2**self.config.downsamples

    def rows(
        self,
        joints: Float[Tensor, "B T M V 3"],
        persons: Bool[Tensor, "B M"],
        lengths: Int[Tensor, " B"] | None = None,
    ) -> Rows:
        """Clips as rows; with ``lengths`` each row's last frame is held until its length is a whole number of steps."""
        frames = joints.shape[1]
        if self.apart:
            if lengths is None:
                lengths = torch.full((len(joints),), frames, device=joints.device)
            lengths = (lengths[:, None] * persons).flatten()  # someone absent has no frames, so writes no tokens
            joints = joints.transpose(1, 2).flatten(0, 1)[:, :, None]
            persons = persons.reshape(-1, 1)
        if lengths is None:
            return Rows(joints, persons, None)
        joints, mask = hold_last(joints, lengths, self.frames_per_step)
        return Rows(joints, persons, mask)

    def token_mask(self, mask: Bool[Tensor, "R T"]) -> Bool[Tensor, "R K"]:
        """Which tokens stand for frames of ``mask``."""
        return mask[:, :: self.frames_per_step].repeat_interleave(self.config.tokens_per_step, dim=1)

    def latents(
        self, channels: Float[Tensor, "R T F"], mask: Bool[Tensor, "R T"] | None = None
    ) -> Float[Tensor, "R K D"]:
        """The encoder's raw output, ``tokens_per_step`` vectors a step, one after the other."""
        if channels.shape[1] % self.frames_per_step:
            raise ValueError(
                f"clips of {channels.shape[1]} frames do not part into steps of {self.frames_per_step};"
                " set preprocess.frames to a multiple"
            )
        steps = self.encoder(self.features.seen(channels), mask)
        return steps.unflatten(-1, (self.config.tokens_per_step, self.dim)).flatten(1, 2)

    def normalised_latents(
        self,
        joints: Float[Tensor, "B T M V 3"],
        persons: Bool[Tensor, "B M"],
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """The latents of preprocessed clips as tangent vectors, and which of them count."""
        rows = self.rows(joints, persons, lengths)
        latents = self.quantizer.normalise(self.latents(self.features(rows.joints, rows.persons), rows.mask))
        mask = latents.new_ones(latents.shape[:2], dtype=torch.bool)
        if rows.mask is not None:
            mask = self.token_mask(rows.mask)
        whole = len(joints), latents.shape[1] * (self.num_persons if self.apart else 1)
        return latents.reshape(*whole, self.dim), mask.reshape(whole)

    def encode(
        self,
        joints: Float[Tensor, "B T M V 3"],
        persons: Bool[Tensor, "B M"],
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Action sentences of preprocessed clips, and which of their tokens count (0 where none does)."""
        latents, mask = self.normalised_latents(joints, persons, lengths)
        return self.quantizer.search(latents) * mask, mask

    def decode_tokens(
        self, tokens: Float[Tensor, "R K D"], mask: Bool[Tensor, "R K"] | None = None
    ) -> Float[Tensor, "R T F"]:
        """Standardised channels; the gain of sqrt(D) gives the decoder inputs of deviation 1 (worth 4 cm, measured)."""
        steps = (tokens * math.sqrt(self.dim)).unflatten(1, (-1, self.config.tokens_per_step)).flatten(2)
        return self.decoder(steps, None if mask is None else mask[:, :: self.config.tokens_per_step])

    def decode(
        self, indices: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"] | None = None
    ) -> tuple[Float[Tensor, "B T M V 3"], Bool[Tensor, "B M"]]:
        """Joints in metres, in the body's frame, and who is there; what ``mask`` leaves out is 0."""
        clips = len(indices)
        rows = clips * (self.num_persons if self.apart else 1)
        indices = indices.reshape(rows, -1)
        mask = None if mask is None else mask.reshape(rows, -1)
        tokens = F.embedding(indices, self.quantizer.codebook())
        joints, persons = self.features.joints(self.decode_tokens(tokens, mask).float())
        if mask is not None:
            frames = mask[:, :: self.config.tokens_per_step].repeat_interleave(self.frames_per_step, dim=1)
            joints = joints * frames[..., None, None, None]
        if self.apart:
            joints = joints.reshape(clips, self.num_persons, *joints.shape[1:]).transpose(1, 2).squeeze(3)
            persons = persons if mask is None else mask.any(1)
            persons = persons.reshape(clips, self.num_persons)
        return joints, persons

    def forward(
        self, channels: Float[Tensor, "R T F"], mask: Bool[Tensor, "R T"] | None = None, *, quantize: bool = True
    ) -> Autoencoded:
        """Encode, quantise, decode; without ``quantize`` the decoder sees the latents (a warm-up)."""
        there = None if mask is None else self.token_mask(mask)
        found = self.quantizer(self.latents(channels, mask), there)
        tokens = straight_through(found.latents, found.tokens) if quantize else found.latents
        reconstruction = self.decode_tokens(tokens, there)
        return Autoencoded(reconstruction.to(found.latents.dtype), *found)
