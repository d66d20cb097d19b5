"""Language models that learn responses to prompts: conversations, templates, tokens, objective."""

from fibecfed.tasks.causal_lm.conversation import Conversation, Turn, of_messages, of_prompt
from fibecfed.tasks.causal_lm.encoding import end_tokens
from fibecfed.tasks.causal_lm.objective import CausalLanguageModel
from fibecfed.tasks.causal_lm.scoring import SCORES
from fibecfed.tasks.causal_lm.template import PLAIN_TEMPLATE, prompt_text, with_template

__all__ = [
    "PLAIN_TEMPLATE",
    "SCORES",
    "CausalLanguageModel",
    "Conversation",
    "Turn",
    "end_tokens",
    "of_messages",
    "of_prompt",
    "prompt_text",
    "with_template",
]
