"""A conversation with a model, in the words of its own chat template."""

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from harness.console import Messages, pieces, say
from harness.errors import UserError
from harness.tokenizer_files import chat_template, special_tokens
from lm.data.chat import Template
from lm.data.tokenizer import end_of_text
from lm.inference.generate import sample
from lm.inference.load import Trained


class Talk:
    """Answers in at most `max_tokens`, as `sample` does. Raises UserError for a run without a chat template."""

    def __init__(self, trained: Trained, *, max_tokens: int, **how: Any) -> None:
        folder = trained.checkpoint.path
        template = chat_template(folder)
        if template is None:
            raise UserError(
                f"{trained.folder} has no chat template: it was not trained on conversations (data=chat).",
                cure="Without --chat, --prompt continues a text.",
            )
        self.trained, self.how = trained, how
        self.template = Template(template, special_tokens(folder), trained.tokenizer)
        self.max_tokens = min(max_tokens, trained.context // 2)
        self.ends = {self.template.end, end_of_text(trained.tokenizer, trained.model)}  # of a turn, of a text

    def reply(self, messages: Messages) -> Iterator[str]:
        """Yield the answer in pieces. What does not fit into the context is forgotten: removed from `messages`, a turn
        and its answer at a time, and said."""
        tokenizer, context, forgotten = self.trained.tokenizer, self.trained.context, 0
        while True:
            ids = tokenizer.encode(self.template.render(messages, asks=True), add_special_tokens=False).ids
            if len(ids) + self.max_tokens <= context or len(messages) < 3:
                break
            del messages[:2]
            forgotten += 1
        if forgotten:
            say(f"  forgotten: the first {forgotten} of what was said, beyond the context of {context:,} tokens")
        if len(ids) + self.max_tokens > context:
            say(f"  cut: of this message only the end fits into the context of {context:,} tokens")
            ids = ids[-(context - self.max_tokens) :]
        tokens = sample(self.trained.model, ids, max_tokens=self.max_tokens, context=context, **self.how)
        yield from pieces(tokenizer.decode, takewhile(lambda token: token not in self.ends, tokens))
