"""The claims of the 2020 study and what our rows say to each; the claims are typed, the verdicts computed."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from tools.study.cells import CORPORA
from tools.study.results import Row, difference

Parts = Mapping[str, Mapping[str, Row | None]]


@dataclass(frozen=True)
class Claim:
    """A claim that of two rows, named by their labels, one has the higher loss, or that it has not."""

    text: str  # the study's claim with its figures, in our words
    part: str  # of the study, which has the two rows
    higher: str
    lower: str
    equal: bool = False  # the claim is that there is no difference

    def verdict(self, parts: Parts, seeds: int) -> tuple[str, str]:
        """Returns the verdict, which waits for all ``seeds`` of both rows, and what was measured."""
        rows = parts[self.part]
        measured = difference(rows.get(self.higher), rows.get(self.lower))
        measurement = f"{self.higher} minus {self.lower}: {measured or '—'}"
        if measured is None:
            return "not run yet", measurement
        if len(measured.by_seed) < seeds:
            return f"not decided yet: {len(measured.by_seed)} of {seeds} seeds", measurement
        if self.equal:
            return ("not confirmed: a clear difference" if measured.is_clear else "nothing against it"), measurement
        if not measured.is_clear:
            return "not confirmed: no clear difference", measurement
        return ("confirmed" if measured.mean > 0 else "not confirmed: the opposite"), measurement


OF_EACH_CORPUS = {  # (part, row of the higher loss, row of the lower): claim
    ("optimizers", "frozen", "adamw"): (
        "Adafactor, as the study ran it (its decay frozen), ends about 5 perplexity above AdamW"
    ),
    ("optimizers", "frozen", "adafactor"): (
        "(ours) the gap is the bug's: with the decay repaired, Adafactor is better than it was"
    ),
    ("optimizers", "adafactor", "adamw"): "(ours) AdamW stays better than a right Adafactor",
    ("optimizers", "scaled", "adafactor"): "(ours) an absolute rate suits better than parameter scaling",
    ("embeddings", "ALGPT2, E = none", "GPT-2"): (
        "GPT-2 (21.5) is better than ALGPT2 of its width (31 to 38), which has a ninth of its weights or less"
    ),
    ("embeddings", "ALGPT2, E = 32", "ALGPT2, E = none"): (
        "a narrow table costs perplexity: 38 at E = 128, a sixth of the width, against 31 without factorization"
    ),
    ("embeddings", "ALGPT2, E = 128", "ALGPT2, E = none"): (
        "a table of two thirds of the width costs nothing: 31 at E = 512 and 31 without factorization"
    ),
}
EQUAL = ("embeddings", "ALGPT2, E = 128", "ALGPT2, E = none")


def testable(contexts: list[int]) -> list[Claim]:
    """Returns the claims that this scale can test."""
    claims = [
        Claim(text, row[0], f"{corpus}: {row[1]}", f"{corpus}: {row[2]}", equal=row == EQUAL)
        for row, text in OF_EACH_CORPUS.items()
        for corpus in CORPORA
    ]
    claims += [
        Claim("longer contexts help, at equal tokens", "contexts", str(higher), str(lower))
        for higher, lower in itertools.pairwise(contexts)
    ]
    return claims + [
        Claim("without dropout, perplexity is about 3 lower", "dropout", f"{model}, dropout 0.1", f"{model}, dropout 0")
        for model in ("GPT-2", "ALGPT2, E = 64")
    ]


UNTESTABLE = {
    "GPT-2 takes about 20 h and ALGPT2 about 9 h for 90,000 steps on a v3-128": (
        "no TPU here; [preflight.md](preflight.md) has the TPU compiler's bounds of both steps"
    ),
    "GPT-2 xl with AdamW runs out of a v3 core's memory": (
        "not a matter of this study; the TPU compiler answers it in [preflight.md](preflight.md)"
    ),
    "ALGPT2 medium without factorization reaches 26, against base's 31": (
        "a cell of the larger model would need several times the tokens to be trained as far"
    ),
    "finetuned on WikiText-2, larger GPT-2s are better (29.2, 20.9, 19.6, 18.4 at a context of 256)": (
        "needs OpenAI's weights, which are not part of this project; `finetune.gin` is the run"
    ),
    "zero-shot perplexity on WikiText-2 falls from 23.15 to 14.78 with size": (
        "needs OpenAI's weights too; `python -m pipeline.evaluate --benchmark=wikitext` is the measurement"
    ),
}
