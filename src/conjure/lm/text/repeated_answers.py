"""Which conversations give no answer that an earlier one of their group has not given.

Main entry: `AnswerComparison`. The conversations of a group (`conjure.lm.text.near_duplicates`) may share a
long instruction or a passage and nothing else, so a group says what must not be divided, not what is said
twice. An answer is given twice if all that is said up to its end is equal but for case, space and
punctuation; or if the answer, and the question where it is long enough to tell, are as near to those of
another of the group as texts are to each other. What a fifth of a group has in common, such as an
instruction or the names in a JSON object, is not counted; an answer of which too little is left, such as a
label, is given twice only in the first way. Invariant: what is to be learned from a record that repeats
others is said by those.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from conjure.lm.text.chat.formats import Conversation, is_answer
from conjure.lm.text.near_duplicates import GroupBuilder, Numbers, text_keys

_FACTOR = 0x9E3779B97F4A7C15  # odd, so that no part of what is said before is lost


class RepeatedAnswers(NamedTuple):
    """Which conversations give answers that others give.

    Attributes:
        numbers: A number for each conversation, equal where one repeats what the other says, (R,).
        givers: The first conversation that gives any answer of each; itself where no earlier one does, (R,).
    """

    numbers: Numbers
    givers: Numbers


class AnswerComparison:
    """Takes conversations in, and tells which repeat what others say."""

    def __init__(self) -> None:
        self._answers, self._questions = GroupBuilder(), GroupBuilder()
        self._keys: list[int] = []  # of all that is said up to the end of each answer
        self._counts: list[int] = []  # answers of each conversation

    def add(self, conversations: Sequence[Conversation]) -> None:
        """Take in the next conversations."""
        said = [[each for each in chat.messages if each.role != "system"] for chat in conversations]
        keys = iter(text_keys([message.content for messages in said for message in messages]).tolist())
        for messages in said:
            so_far, before, question = 0, len(self._keys), ""
            for message in messages:
                so_far = (so_far * _FACTOR + next(keys) + 1) % (1 << 64)
                if is_answer(message):
                    self._answers.add(message.content)
                    self._questions.add(question)
                    self._keys.append(so_far)
                question = message.content
            self._counts.append(len(self._keys) - before)

    def build(self, groups: Numbers) -> RepeatedAnswers:
        """Which of the conversations give answers that others give.

        Args:
            groups: The group of each conversation, (R,).
        """
        keys, families = np.array(self._keys, np.uint64), np.repeat(groups, self._counts)
        answers = self._answers.compare(keys=keys, families=families)
        questions = self._questions.compare(keys=keys, families=families)
        asked = np.where(questions.are_long, questions.labels, -1)
        given = zip(answers.labels.tolist(), asked.tolist(), strict=True)
        first: dict[tuple[int, int], int] = {}  # the conversation that gives an answer first
        numbers = np.arange(len(groups))
        earliest = np.arange(len(groups))
        for number, count in enumerate(self._counts):
            givers = [first.setdefault(next(given), number) for _ in range(count)]
            earliest[number] = min(givers, default=number)
            if givers and number not in givers:
                numbers[number] = givers[-1]
        return RepeatedAnswers(numbers, earliest)
