"""Names of a model's weights: ours, Hugging Face's and OpenAI's."""

# Ours to Hugging Face's names, in the order of BlockWeights.
BLOCK_NAMES = {
    "attention_norm_scale": "ln_1.weight",
    "attention_norm_bias": "ln_1.bias",
    "query_key_value_kernel": "attn.c_attn.weight",
    "query_key_value_bias": "attn.c_attn.bias",
    "attention_output_kernel": "attn.c_proj.weight",
    "attention_output_bias": "attn.c_proj.bias",
    "mlp_norm_scale": "ln_2.weight",
    "mlp_norm_bias": "ln_2.bias",
    "mlp_input_kernel": "mlp.c_fc.weight",
    "mlp_input_bias": "mlp.c_fc.bias",
    "mlp_output_kernel": "mlp.c_proj.weight",
    "mlp_output_bias": "mlp.c_proj.bias",
}
OUTER_NAMES = {
    "token_table": "wte.weight",
    "position_table": "wpe.weight",
    "final_norm_scale": "ln_f.weight",
    "final_norm_bias": "ln_f.bias",
    # ALGPT2's own
    "enter_kernel": "enter.weight",
    "enter_bias": "enter.bias",
    "leave_kernel": "leave.weight",
    "leave_bias": "leave.bias",
}


def huggingface_name(name: str) -> str:
    """Returns Hugging Face's name of a weight of GPT-2, or of ALGPT2 in its own form."""
    if name in OUTER_NAMES:
        return f"transformer.{OUTER_NAMES[name]}"
    block, field = name.split("/")
    return f"transformer.h.{int(block.removeprefix('block_'))}.{BLOCK_NAMES[field]}"


def openai_name(name: str) -> str:
    """Returns OpenAI's name of one of GPT-2's weights: ``model/h0/attn/c_attn/w``."""
    parts = huggingface_name(name).removeprefix("transformer.").replace("h.", "h", 1).split(".")
    if parts[0] in ("wte", "wpe"):
        return f"model/{parts[0]}"
    norm = parts[-2].startswith("ln_")
    parts[-1] = {"weight": "g" if norm else "w", "bias": "b"}[parts[-1]]
    return "/".join(["model", *parts])
