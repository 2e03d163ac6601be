"""ALGPT2 in its own small form, for Hugging Face's transformers: one shared block, and narrow tables.

``pipeline.export --format=huggingface_algpt2`` puts a copy of this file next to the weights, and
``AutoModelForCausalLM.from_pretrained(DIRECTORY, trust_remote_code=True)`` runs it. It needs only torch and
transformers.

Shapes: B batch, T tokens, S tokens with those of the cache, D width, E table width, H heads, K head width,
V vocabulary.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast


class ALGPT2Config(PretrainedConfig):
    """The settings, by transformers' GPT-2 names, and ``embedding_size``: E; None: tables as wide as the block."""

    model_type = "algpt2"
    keys_to_ignore_at_inference = ("past_key_values",)
    attribute_map = {  # noqa: RUF012  transformers declares it so
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    def __init__(
        self,
        vocab_size: int = 50257,
        n_positions: int = 1024,
        n_embd: int = 768,
        n_layer: int = 12,
        n_head: int = 12,
        embedding_size: int | None = 128,
        layer_norm_epsilon: float = 1e-5,
        attn_pdrop: float = 0.0,
        embd_pdrop: float = 0.0,
        resid_pdrop: float = 0.0,
        **others: Any,
    ):
        self.vocab_size, self.n_positions = vocab_size, n_positions
        self.n_embd, self.n_layer, self.n_head = n_embd, n_layer, n_head
        self.embedding_size, self.layer_norm_epsilon = embedding_size, layer_norm_epsilon
        self.attn_pdrop, self.embd_pdrop, self.resid_pdrop = attn_pdrop, embd_pdrop, resid_pdrop
        super().__init__(**others)


class Dense(nn.Module):
    """A linear layer whose kernel is [inputs, outputs], as in GPT-2's files."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x · weight + bias."""
        return torch.matmul(x, self.weight) + self.bias


class Attention(nn.Module):
    """Masked self-attention; the application's number selects its layer of the cache."""

    def __init__(self, config: ALGPT2Config):
        super().__init__()
        self.heads, self.dropout = config.n_head, config.attn_pdrop
        self.c_attn = Dense(config.n_embd, 3 * config.n_embd)
        self.c_proj = Dense(config.n_embd, config.n_embd)

    def forward(self, x_BTD: torch.Tensor, visible: torch.Tensor, cache: Cache | None, layer: int) -> torch.Tensor:
        """Returns [B, T, D]; ``visible`` [B or 1, 1, T, S] is true where a token sees another."""
        batch, length, width = x_BTD.shape
        parts = self.c_attn(x_BTD).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # 3 x [B, H, T, K]
        query, key, value = parts[0], parts[1], parts[2]
        if cache is not None:
            key, value = cache.update(key, value, layer)
        dropout = self.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        return self.c_proj(y.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Two linear layers around GELU in its tanh form."""

    def __init__(self, config: ALGPT2Config):
        super().__init__()
        self.c_fc = Dense(config.n_embd, 4 * config.n_embd)
        self.c_proj = Dense(4 * config.n_embd, config.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the second layer's output."""
        return self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """GPT-2's block."""

    def __init__(self, config: ALGPT2Config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: torch.Tensor, visible: torch.Tensor, cache: Cache | None, layer: int) -> torch.Tensor:
        """Returns the output of the block's application number ``layer``."""
        x = x + self.dropout(self.attn(self.ln_1(x), visible, cache, layer))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class Decoder(nn.Module):
    """The tables, the linear layers at both ends, and the block that is applied ``n_layer`` times."""

    def __init__(self, config: ALGPT2Config):
        super().__init__()
        factorized = config.embedding_size is not None
        table = config.n_embd if config.embedding_size is None else config.embedding_size
        self.layers, self.dropout = config.n_layer, nn.Dropout(config.embd_pdrop)
        self.wte = nn.Embedding(config.vocab_size, table)
        self.wpe = nn.Embedding(config.n_positions, table)
        self.enter = Dense(table, config.n_embd) if factorized else nn.Identity()
        self.h = nn.ModuleList([Block(config)])
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.leave = Dense(config.n_embd, table) if factorized else nn.Identity()

    def forward(
        self, tokens_BT: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor, cache: Cache | None
    ) -> torch.Tensor:
        """Returns the features that multiply the token table, [B, T, E]."""
        x = self.dropout(self.enter(self.wte(tokens_BT) + self.wpe(positions)))
        for layer in range(self.layers):
            x = self.h[0](x, visible, cache, layer)
        return self.leave(self.ln_f(x))


class ALGPT2ForCausalLM(PreTrainedModel, GenerationMixin):
    """ALGPT2 with the next token's logits; the output layer is the token table."""

    config_class = ALGPT2Config
    base_model_prefix = "transformer"
    _supports_sdpa = True

    def __init__(self, config: ALGPT2Config):
        super().__init__(config)
        self.transformer = Decoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding | Dense):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, Dense):
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Embedding:
        """Returns the token table."""
        return self.transformer.wte

    def set_input_embeddings(self, table: nn.Embedding) -> None:
        """Replaces the token table, which is the output layer too."""
        self.transformer.wte = table

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Returns logits [B, T, V], the cache and, with ``labels``, the mean loss of the tokens after the first.

        Args:
            input_ids: [B, T], those after the cache's.
            attention_mask: [B, S], 0 for padding on the left; None for none.
            position_ids: [B, T]; by default counted from the first token that is not padding.
            past_key_values: keys and values of earlier tokens.
            labels: [B, T], usually ``input_ids``; -100 is not scored.
            use_cache: whether to return the cache; by default not while training.
            others: what transformers' loss takes.
        """
        cache = past_key_values
        if cache is None and (not self.training if use_cache is None else use_cache):
            cache = DynamicCache()
        before = 0 if cache is None else int(cache.get_seq_length())
        total = before + input_ids.shape[1]
        places = torch.arange(total, device=input_ids.device)
        visible = places[None, None, None] <= places[None, None, before:, None]
        if attention_mask is not None:
            # A padding token sees itself: otherwise it would be NaN, also for tokens that do not see it.
            itself = places[None, None, None] == places[None, None, before:, None]
            visible = (visible & attention_mask[:, None, None, :].bool()) | itself
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, before:]
        elif position_ids is None:
            position_ids = places[None, before:]
        if not torch.compiler.is_compiling() and (last := int(position_ids.max())) >= self.config.n_positions:
            raise ValueError(f"{last + 1} tokens; expected at most {self.config.n_positions}, the model's context")
        features = self.transformer(input_ids, position_ids, visible, cache)
        logits = features @ self.transformer.wte.weight.T
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **others)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)
