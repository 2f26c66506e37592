"""The VQ-VAE of LLM-AR section 3.2: skeletons to action sentences and back.

B clips, T frames, M persons, V joints, F channels, L tokens a clip, N codes, D width of a token.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from skeleton_llm.networks.features import SkeletonFeatures
from skeleton_llm.networks.quantizer import Geometry, Quantizer, straight_through
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
        geometry: ``hyperbolic`` or ``euclidean`` codebook.
        curvature: c of the Poincare ball.
        token_norms: bounds of the tokens' norms in tangent space.
        sharpness: agreement of the drawn usage with the nearest token, see Quantizer.
        temperature: of the usage's gradient.
        noise: Gumbel noise in the usage counts.
        motion: give the network first differences in time beside positions.
        root_weight: weight of the root's track against the pose.
    """

    width: int = 512
    depth: int = 3
    downsamples: int = 2
    num_codes: int = 512
    tokens_per_step: int = 1
    geometry: Geometry = "hyperbolic"
    curvature: float = 1.0
    token_norms: tuple[float, float] = (0.97, 1.03)
    sharpness: float = 20.0
    temperature: float = 0.5
    noise: bool = True
    motion: bool = True
    root_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse sizes that build nothing."""
        for name in ("width", "depth", "tokens_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"network.{name} must be at least 1, got {getattr(self, name)}")
        if self.num_codes < 2 or self.num_codes % 2:
            raise ValueError(f"network.num_codes must be even (the context loss pairs codes), got {self.num_codes}")
        self.token_norms = (float(self.token_norms[0]), float(self.token_norms[1]))


class Autoencoded(NamedTuple):
    """What one pass gives: channels in and out are standardised, ``latents`` and ``tokens`` tangent vectors."""

    reconstruction: Float[Tensor, "B T F"]
    latents: Float[Tensor, "B L D"]
    tokens: Float[Tensor, "B L D"]
    indices: Int[Tensor, "B L"]
    counts: Float[Tensor, "B N"]
    agreement: Float[Tensor, ""]
    gap: Float[Tensor, ""]


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
        self.config, self.dim = config, dim
        self.features = SkeletonFeatures(layout, num_persons, motion=config.motion, root_weight=config.root_weight)
        shape = {"width": config.width, "depth": config.depth, "downsamples": config.downsamples}
        self.encoder = Encoder(self.features.num_channels, dim * config.tokens_per_step, **shape)
        self.quantizer = Quantizer(
            config.num_codes,
            dim,
            geometry=config.geometry,
            curvature=config.curvature,
            token_norms=config.token_norms,
            sharpness=config.sharpness,
            temperature=config.temperature,
            noise=config.noise,
        )
        self.decoder = Decoder(dim * config.tokens_per_step, self.features.num_channels, **shape)

    @property
    def frames_per_step(self) -> int:
        """Frames that one step of the encoder covers."""
        return 2**self.config.downsamples

    def latents(self, channels: Float[Tensor, "B T F"]) -> Float[Tensor, "B L D"]:
        """The encoder's raw output, ``tokens_per_step`` vectors a step, one after the other."""
        if channels.shape[1] % self.frames_per_step:
            raise ValueError(
                f"clips of {channels.shape[1]} frames do not part into steps of {self.frames_per_step};"
                " set preprocess.frames to a multiple"
            )
        steps = self.encoder(channels)
        return steps.unflatten(-1, (self.config.tokens_per_step, self.dim)).flatten(1, 2)

    def encode(self, joints: Float[Tensor, "B T M V 3"], persons: Bool[Tensor, "B M"]) -> Int[Tensor, "B L"]:
        """Action sentences of preprocessed clips."""
        return self.quantizer.search(self.quantizer.normalise(self.latents(self.features(joints, persons))))

    def decode_tokens(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B T F"]:
        """Standardised channels; the gain of sqrt(D) gives the decoder inputs of deviation 1 (worth 4 cm, measured)."""
        steps = (tokens * math.sqrt(self.dim)).unflatten(1, (-1, self.config.tokens_per_step)).flatten(2)
        return self.decoder(steps)

    def decode(self, indices: Int[Tensor, "B L"]) -> tuple[Float[Tensor, "B T M V 3"], Bool[Tensor, "B M"]]:
        """Joints in metres, in the body's frame, and who is there."""
        return self.features.joints(self.decode_tokens(self.quantizer.codebook()[indices]))

    def forward(self, channels: Float[Tensor, "B T F"], *, quantize: bool = True) -> Autoencoded:
        """Encode, quantise, decode; without ``quantize`` the decoder sees the latents (a warm-up)."""
        found = self.quantizer(self.latents(channels))
        tokens = straight_through(found.latents, found.tokens) if quantize else found.latents
        return Autoencoded(self.decode_tokens(tokens).float(), *found)
