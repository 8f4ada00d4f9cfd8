"""The commands: where each lives and which distribution brings it."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    help: str
    module: str
    attribute: str
    distribution: str


COMMANDS: dict[str, Row] = {
    "generate": Row("Answer one prompt about text and pictures.", "vlm_cli.generate", "generate", "vlm-cli"),
    "chat": Row("Chat about text and pictures in the terminal.", "vlm_cli.chat", "chat", "vlm-cli"),
    "video": Row("Answer about videos.", "vlm_cli.generate", "video", "vlm-cli"),
    "serve": Row("Serve models over HTTP.", "vlm_server.cli", "serve", "vlm-server"),
    "convert": Row("Convert, quantize, dequantize, publish a checkpoint.", "vlm_convert.cli", "convert", "vlm-convert"),
    "verify": Row("Compare what two checkpoints predict.", "vlm_convert.cli", "verify", "vlm-convert"),
    "bench": Row("Measure prompt TPS, generation TPS and memory.", "vlm_benchmarks.cli", "bench", "vlm-benchmarks"),
    "models": Row("What is supported and what is cached.", "vlm_cli.models", "models", "vlm-cli"),
    "doctor": Row("Backend, devices, memory, active kernels.", "vlm_cli.doctor", "doctor", "vlm-cli"),
    "completion": Row("Print a shell completion script.", "vlm_cli.completion", "completion", "vlm-cli"),
}
