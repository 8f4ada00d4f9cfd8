"""The demo architecture in plain torch on packed batches, for training where MLX is too slow.

Written from the description of Qwen2-VL (arXiv:2409.12191) and the shapes of its checkpoints. Parameters carry the
checkpoint's names. Two departures, both undone by `checkpoint`: the patch embedding has one kernel for both frames of a
pair, and heads used in training alone (`patch_head`) are left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def segment_attention(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, *, causal: bool) -> Tensor:
    """Attention within segments laid end to end. q, k, v: `[length, heads, 64]`; ends: `[segments + 1]` from 0."""
    if q.is_cuda:
        return torch.ops.aten._flash_attention_forward(
            q, k, v, ends, ends, longest, longest, 0.0, causal, return_debug_mask=False
        )[0]
    pieces = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist()):
        if start < end:
            part = [x[start:end].transpose(0, 1) for x in (q, k, v)]
            pieces.append(F.scaled_dot_product_attention(*part, is_causal=causal).transpose(0, 1))
    return torch.cat(pieces)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, halves paired. x: `[length, heads, 64]`; cos, sin: `[length, 1, 64]`."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x.float() * cos + turned * sin).to(x.dtype)


class VisionBlock(nn.Module):
    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, ends: Tensor, longest: int) -> Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x)).view(len(x), 3, self.heads, -1).unbind(1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = segment_attention(q, k, v.contiguous(), ends, longest, causal=False)
        x = x + self.attn["proj"](mixed.reshape(len(x), -1))
        hidden = self.mlp["fc1"](self.norm2(x))
        return x + self.mlp["fc2"](hidden * torch.sigmoid(1.702 * hidden))


class Vision(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        dim, heads, merged = (
            config["embed_dim"],
            config["num_heads"],
            config["embed_dim"] * config["spatial_merge_size"] ** 2,
        )
        self.patch_embed = nn.Linear(3 * config["patch_size"] ** 2, dim, bias=False)
        self.blocks = nn.ModuleList(VisionBlock(dim, dim * config["mlp_ratio"], heads) for _ in range(config["depth"]))
        self.merger = nn.ModuleDict(
            {
                "ln_q": nn.LayerNorm(dim, eps=1e-6),
                "mlp": nn.Sequential(nn.Linear(merged, merged), nn.GELU(), nn.Linear(merged, config["hidden_size"])),
            }
        )
        self.merged = merged
        quarter = dim // heads // 4
        self.register_buffer("frequencies", 10000.0 ** (-torch.arange(quarter) / quarter), persistent=False)

    def forward(self, patches: Tensor, positions: Tensor, ends: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Merged features `[num_patches / 4, hidden]` and the patches' own before merging, normalised."""
        angles = (positions[:, :, None].float() * self.frequencies).flatten(1)
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        cos, sin = angles.cos(), angles.sin()
        x = self.patch_embed(patches)
        for block in self.blocks:
            x = block(x, cos, sin, ends, longest)
        x = self.merger["ln_q"](x)
        return self.merger["mlp"](x.view(-1, self.merged)), x


class RmsNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight.to(x.dtype)


class TextBlock(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        dim, hidden = config["hidden_size"], config["intermediate_size"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = dim // self.heads
        kv = self.kv_heads * self.head_dim
        self.input_layernorm, self.post_attention_layernorm = RmsNorm(dim), RmsNorm(dim)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(dim, dim),
                "k_proj": nn.Linear(dim, kv),
                "v_proj": nn.Linear(dim, kv),
                "o_proj": nn.Linear(dim, dim, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(dim, hidden, bias=False),
                "up_proj": nn.Linear(dim, hidden, bias=False),
                "down_proj": nn.Linear(hidden, dim, bias=False),
            }
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, ends: Tensor, longest: int) -> Tensor:
        normed, length = self.input_layernorm(x), len(x)
        q = rotate(self.self_attn["q_proj"](normed).view(length, self.heads, -1), cos, sin)
        k = rotate(self.self_attn["k_proj"](normed).view(length, self.kv_heads, -1), cos, sin)
        v = self.self_attn["v_proj"](normed).view(length, self.kv_heads, -1)
        times = self.heads // self.kv_heads
        k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
        mixed = segment_attention(q, k, v, ends, longest, causal=True)
        x = x + self.self_attn["o_proj"](mixed.reshape(length, -1))
        normed = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed))


class Text(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(TextBlock(config) for _ in range(config["num_hidden_layers"]))
        self.norm = RmsNorm(config["hidden_size"])
        half = config["hidden_size"] // config["num_attention_heads"] // 2
        self.sections = config["rope_scaling"]["mrope_section"]
        self.register_buffer("frequencies", config["rope_theta"] ** (-torch.arange(half) / half), persistent=False)

    def forward(self, x: Tensor, positions: Tensor, ends: Tensor, longest: int) -> Tensor:
        angles = (positions[:, :, None].float() * self.frequencies).split(self.sections, dim=-1)
        angles = torch.cat([part[axis] for axis, part in enumerate(angles)], dim=-1)
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        cos, sin = angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin, ends, longest)
        return self.norm(x)


class Demo(nn.Module):
    """Qwen2-VL at the demo's size on a packed batch (`vlm_train.recipes.demo.packing`).

    Args:
        config: `config.json` of the checkpoint.
        num_patch_classes: what a patch may show, for the training-only head.
    """

    LONGEST_IMAGE = 1024
    LONGEST_TEXT = 1024

    def __init__(self, config: dict, num_patch_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.visual = Vision(config["vision_config"])
        self.model = Text(config)
        self.patch_head = nn.Linear(config["vision_config"]["embed_dim"], 4 * num_patch_classes)
        area = config["vision_config"]["patch_size"] ** 2
        self.register_buffer("mean", torch.tensor(mean).repeat_interleave(area), persistent=False)
        self.register_buffer("std", torch.tensor(std).repeat_interleave(area), persistent=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5 if "embed_tokens" not in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        for name, weight in self.named_parameters():
            if (
                name.endswith(("proj.weight", "fc2.weight", "down_proj.weight")) and "blocks" in name
            ) or "o_proj" in name:
                weight.data *= 0.4
        self.patch_head.weight.data.zero_()

    def hidden(self, batch: dict[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Final text states `[tokens, hidden]` and patch features `[patches, dim]`."""
        pixels = ((batch["pixels"].float() / 255 - self.mean) / self.std).to(dtype)
        features, patches = self.visual(pixels, batch["patch_positions"], batch["image_ends"], self.LONGEST_IMAGE)
        embedded = self.model.embed_tokens(batch["tokens"]).to(dtype)
        embedded = embedded.index_copy(0, batch["image_index"].long(), features.to(dtype))
        return self.model(embedded, batch["positions"], batch["sequence_ends"], self.LONGEST_TEXT), patches

    def forward(self, batch: dict[str, Tensor], dtype: torch.dtype, patch_share: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits at the targets `[targets, vocabulary]`, patch logits `[patches / patch_share, 4, classes]`, zero if 0."""
        states, patches = self.hidden(batch, dtype)
        logits = F.linear(states[batch["target_index"].long()], self.model.embed_tokens.weight.to(dtype)).float()
        count = len(patches) // patch_share
        return logits, self.patch_head(patches[:count]).view(count, 4, -1), states


def checkpoint(model: Demo, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights under the names and in the shapes of the Hugging Face checkpoint."""
    weights = {}
    for name, weight in model.state_dict().items():
        if name.startswith("patch_head"):
            continue
        if name == "visual.patch_embed.weight":
            kernel = weight.view(len(weight), 3, 1, 14, 14) / 2  # half for each frame of a pair of equal frames
            name, weight = "visual.patch_embed.proj.weight", kernel.expand(-1, -1, 2, -1, -1)
        weights[name] = weight.to(dtype).contiguous()
    return weights


def restore(model: Demo, weights: dict[str, Tensor]) -> None:
    """Load what `checkpoint` gave; the training-only head keeps its state unless `weights` holds it."""
    state = dict(weights)
    kernel = state.pop("visual.patch_embed.proj.weight")
    state["visual.patch_embed.weight"] = kernel.sum(2).reshape(len(kernel), -1)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or any(not name.startswith("patch_head") for name in missing):
        raise ValueError(f"expected the demo's weights, got {unexpected or 'too few'}, missing {missing}")
