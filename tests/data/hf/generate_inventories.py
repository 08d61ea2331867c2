"""Names and shapes of the published PaliGemmas' tensors, as transformers has them, into inventories.json.

    pip install torch transformers==VERSION && python generate_inventories.py [inventories.json]

The models are made on torch's meta device, so that nothing is downloaded and no memory is needed. Each run adds the
names of the installed version to the file. "{}" stands for the number of a layer; a tensor's entry is its shape and,
where there is one of it in each layer, the number of layers.
"""

import json
import re
import sys
from pathlib import Path

import torch
import transformers
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

# hidden_size, layers, intermediate_size, heads, key heads, head_dim, query_pre_attn_scalar (0: Gemma 1).
DECODERS = {
    "paligemma_3b": (2048, 18, 16384, 8, 1, 256, 0),
    "paligemma2_3b": (2304, 26, 9216, 8, 4, 256, 256),
    "paligemma2_10b": (3584, 42, 14336, 16, 8, 256, 256),
    "paligemma2_28b": (4608, 46, 36864, 32, 16, 128, 144),
}


def config(width, depth, mlp_dim, heads, kv_heads, head_dim, query_scale):
    text = {
        "model_type": "gemma2" if query_scale else "gemma",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "intermediate_size": mlp_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": 257216,
    }
    if query_scale:
        text["query_pre_attn_scalar"] = query_scale
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "num_hidden_layers": 27,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
        "projection_dim": width,
        "vision_use_head": False,
    }
    return PaliGemmaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=257152,
        projection_dim=width,
        hidden_size=width,
        torch_dtype="bfloat16",
    )


def inventory(model):
    tensors = {}
    for name, tensor in model.state_dict().items():
        template, layers = re.subn(r"\.layers\.\d+\.", ".layers.{}.", name)
        entry = tensors.setdefault(template, {"shape": list(tensor.shape)})
        assert entry["shape"] == list(tensor.shape), name
        if layers:
            entry["layers"] = entry.get("layers", 0) + 1
    return tensors


path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("inventories.json"))
inventories = json.loads(path.read_text()) if path.exists() else {}
inventories[transformers.__version__] = {}
for name, sizes in DECODERS.items():
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(config(*sizes))
    inventories[transformers.__version__][name] = inventory(model)
lines = []
for version, models in sorted(inventories.items()):
    rows = [f"  {json.dumps(name)}: {json.dumps(tensors)}" for name, tensors in models.items()]
    lines.append(f" {json.dumps(version)}: {{\n" + ",\n".join(rows) + "\n }")
path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
