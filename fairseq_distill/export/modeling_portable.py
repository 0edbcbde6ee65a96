"""`PortableEncoder` as a model of Hugging Face transformers, shipped beside exported weights.

model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True)
"""

from typing import Any, Dict, Optional, Tuple, Union

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from .portable_model import PortableEncoder


class PortableConfig(PretrainedConfig):
    """Settings: `encoder` is the argument of `PortableEncoder`; the others say the same by transformers' names."""

    model_type = "portable_speech_encoder"

    def __init__(self, encoder: Optional[Dict[str, Any]] = None, **others: Any):
        self.encoder = encoder or {}
        super().__init__(**others)


class PortableModel(PreTrainedModel):
    """A speech encoder of any shape; waves are given as the folder's feature extractor makes them."""

    config_class = PortableConfig
    main_input_name = "input_values"

    def __init__(self, config: PortableConfig):
        super().__init__(config)
        self.model = PortableEncoder(config.encoder)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Optional[Tensor] = None,
        output_hidden_states: Optional[bool] = None,
        return_dict: Optional[bool] = None,
    ) -> Union[BaseModelOutput, Tuple]:
        """As `HubertModel.forward`: waves (batch, samples), and a mask of that shape, 0 = padding.

        `hidden_states` are what enters the first layer and each layer's output, before the final LayerNorm if there is
        one.
        """
        output = self.model(input_values, None if attention_mask is None else attention_mask == 0)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden = output.hidden if output_hidden_states else None
        result = BaseModelOutput(last_hidden_state=output.x, hidden_states=hidden)
        return result if return_dict in (None, True) else result.to_tuple()


class PortableForCTC(PreTrainedModel):
    """A recogniser: a speech encoder of any shape, and scores of tokens at each frame."""

    config_class = PortableConfig
    main_input_name = "input_values"

    def __init__(self, config: PortableConfig):
        super().__init__(config)
        self.model = PortableEncoder(config.encoder)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Optional[Tensor] = None,
        output_hidden_states: Optional[bool] = None,
        return_dict: Optional[bool] = None,
    ) -> Union[CausalLMOutput, Tuple]:
        """As `PortableModel.forward`; `logits` are (batch, frames, tokens), before any softmax."""
        output = self.model(input_values, None if attention_mask is None else attention_mask == 0)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden = output.hidden if output_hidden_states else None
        result = CausalLMOutput(logits=self.lm_head(output.x), hidden_states=hidden)
        return result if return_dict in (None, True) else result.to_tuple()
